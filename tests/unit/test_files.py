"""Files of environments on a host: which differ from what their packages say, and whose the others are."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.unit.test_modules import load

SITE = "lib/python3.11/site-packages"


@pytest.fixture(scope="module")
def files():
    names = ("llmprov_host", "llmprov_files")
    try:
        for name in names:
            sys.modules[f"ansible.module_utils.{name}"] = load(name, ROOT / f"roles/preflight/module_utils/{name}.py")
        yield sys.modules["ansible.module_utils.llmprov_files"]
    finally:
        for name in names:
            sys.modules.pop(f"ansible.module_utils.{name}", None)


def of_wheels(data):
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def wheel(prefix, name, content, installer="uv"):
    """A package as an installer leaves it: files, then the RECORD."""
    site = prefix / SITE
    lines = []
    for path, data in content.items():
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        shown = f'"{path}"' if "," in path else path
        lines.append(f"{shown},{of_wheels(data)},{len(data)}")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "INSTALLER").write_text(installer)
    (info / "METADATA").write_text("")
    lines += [f"{name}-1.0.dist-info/{file}," for file in ("RECORD", "INSTALLER", "METADATA")]
    (info / "RECORD").write_text("\n".join(line + ("," if line.endswith(",") else "") for line in lines) + "\n")
    later(info / "RECORD")


def later(path, by_s=10):
    """As if written after all else, and after what is written to a file now."""
    about = path.stat()
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns - by_s * 10**9))
    for file in path.parent.parent.rglob("*"):
        if file.is_file() and file != path:
            os.utime(file, ns=(0, about.st_mtime_ns - 2 * by_s * 10**9))


def conda(prefix, name, content):
    paths = []
    for path, data in content.items():
        target = prefix / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        paths.append({"_path": path, "path_type": "hardlink", "sha256": digest, "size_in_bytes": len(data)})
    meta = prefix / "conda-meta"
    meta.mkdir(exist_ok=True)
    (meta / f"{name}-1.0-0.json").write_text(json.dumps({"name": name, "paths_data": {"paths": paths}}))
    return paths


def test_what_is_as_it_was_brought_differs_in_nothing(files, tmp_path):
    wheel(tmp_path, "some_thing", {"some/a.py": b"a", "some/b,c.py": b"b"})
    conda(tmp_path, "other", {"bin/other": b"x"})
    assert files.altered(str(tmp_path)) == []
    assert files.altered(str(tmp_path), deep=True) == []


@given(change=st.binary(min_size=1, max_size=8))
def test_whatever_is_written_over_a_file_is_found(files, tmp_path_factory, change):
    prefix = tmp_path_factory.mktemp("env")
    wheel(prefix, "thing", {"thing.py": b"12345678"})
    (prefix / SITE / "thing.py").write_bytes(change)
    expected = [] if change == b"12345678" else [{"package": "thing", "path": f"{SITE}/thing.py", "how": "altered"}]
    assert files.altered(str(prefix)) == expected


def test_an_old_time_hides_nothing_from_a_deep_look(files, tmp_path):
    wheel(tmp_path, "thing", {"thing.py": b"12345678"})
    path = tmp_path / SITE / "thing.py"
    path.write_bytes(b"87654321")
    os.utime(path, (0, 0))
    assert files.altered(str(tmp_path)) == []
    assert [row["how"] for row in files.altered(str(tmp_path), deep=True)] == ["altered"]


def test_missing_files_and_conda_packages_are_told_compiled_ones_are_not(files, tmp_path):
    wheel(tmp_path, "thing", {"thing.py": b"1", "__pycache__/thing.cpython-311.pyc": b"2"})
    conda(tmp_path, "other", {"bin/other": b"x", "share/y": b"y"})
    (tmp_path / SITE / "__pycache__/thing.cpython-311.pyc").unlink()
    (tmp_path / "bin/other").unlink()
    (tmp_path / "share/y").write_bytes(b"z")
    assert [(row["package"], row["path"], row["how"]) for row in files.altered(str(tmp_path))] == [
        ("other", "bin/other", "missing"),
        ("other", "share/y", "altered"),
    ]


def test_a_file_with_the_prefix_in_it_is_held_against_what_was_written(files, tmp_path):
    (entry,) = conda(tmp_path, "other", {"bin/other": b"#!/opt/env/bin/python\n"})
    entry |= {
        "prefix_placeholder": "/placehold",
        "sha256_in_prefix": entry["sha256"],
        "sha256": "0" * 64,
        "size_in_bytes": 9,
    }
    (tmp_path / "conda-meta/other-1.0-0.json").write_text(
        json.dumps({"name": "other", "paths_data": {"paths": [entry]}})
    )
    assert files.altered(str(tmp_path), deep=True) == []


@pytest.mark.parametrize("text", ["", "[]", '{"name": 1, "paths_data": []}', '{"paths_data": {"paths": [1]}}', "\x00"])
def test_records_without_sense_are_nobodys(files, tmp_path, text):
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta/x-1-0.json").write_text(text)
    assert files.owned(str(tmp_path)) == {}


def test_what_users_put_there_is_told_from_what_tools_leave(files, tmp_path):
    wheel(tmp_path, "thing", {"thing.py": b"1"})
    (tmp_path / "pyvenv.cfg").write_text("")
    (tmp_path / files.OTHERS).write_text("\n".join([*files.others(str(tmp_path)), files.OTHERS]) + "\n")
    assert files.users_own(str(tmp_path)) == []
    wheel(tmp_path, "by_hand", {"by_hand.py": b"1"})
    (tmp_path / "notes.ipynb").write_text("{}")
    (tmp_path / "data").symlink_to("/nowhere")
    (tmp_path / SITE / "thing.pyc").write_text("")
    assert files.users_own(str(tmp_path)) == ["data", "notes.ipynb"]

"""From a declaration through the plan to the payload: a sound environment passes, any other does not.

One real environment, made by uv, has a distribution for each case. For each case the plan reads the declaration and what
is installed, and the payload runs in that environment with the plan's own requirements, as on a host. What is right was
written by hand, by the rules for versions, specifiers and markers (packaging.python.org, "Version specifiers" and
"Dependency specifiers").
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmprov.model import Kind, Verification
from llmprov.payload import torch_build
from llmprov.payload.__main__ import NOTHING_DECLARED
from llmprov.plan import decide
from llmprov.run.payload_run import declaration, zipapp
from tests.unit.builders import desired, environment, observed

UV = str(Path(sys.executable).parent / "uv")


@dataclass(frozen=True)
class Case:
    """A requirement of one distribution, what is installed of it, and what is right."""

    #: What the user declares among llm_packages.
    declared: str
    #: The version that is installed; none where it is absent.
    installed: str | None
    #: Whether the host is as declared.
    sound: bool
    #: What the plan makes of the requirement; empty where it stays as it was declared.
    planned: str = ""
    #: Why the payload judges it wrongly: a known fault of the product.
    wrong: str = ""
    #: Whether the payload leaves it to the plan.
    by_plan_alone: bool = False
    #: The distribution's name: a case has one of its own.
    name: str = ""


LETTER_BY_LETTER = "the payload compares the texts of versions, not versions"
LOCAL = "the payload ignores the local part of a version"

CASES = [
    Case("NAME", "1.2.3", True),
    Case("NAME", None, False),
    Case("NAME>=1", "1.2.3", True),
    # Ranges are the plan's to judge: the check `declared.venv` fails.
    Case("NAME>=2", "1.2.3", False, by_plan_alone=True),
    Case("NAME~=1.2", "1.9", True),
    Case("NAME==1.2.3", "1.2.3", True),
    Case("NAME == 1.2.3", "1.2.3", True),
    Case("NAME==1.2.3", "1.2.4", False),
    Case("NAME==1.2.3", None, False),
    Case("NAME>1,==1.2.3,!=1.2.4", "1.2.3", True),
    Case("NAME===1.2.3", "1.2.3", True, wrong=LETTER_BY_LETTER),
    # Trailing zeros do not count.
    Case("NAME==26.3.0", "26.3", True, wrong=LETTER_BY_LETTER),
    Case("NAME==26.3", "26.3.0", True, wrong=LETTER_BY_LETTER),
    # Any version that begins so.
    Case("NAME==1.2.*", "1.2.9", True, wrong="the payload does not know `==X.*`"),
    Case("NAME==1.2.*", "1.3.0", False),
    Case("torchvision", "0.28.0+cpu", True, "torchvision==0.28.*", "the payload does not know `==X.*`"),
    # Without a local part in the requirement any local part will do; with one only that.
    Case("NAME==1.2.3", "1.2.3+cpu", True),
    Case("NAME==1.2.3+cpu", "1.2.3+cpu", True),
    Case("NAME==1.2.3+cpu", "1.2.3+cu130", False, wrong=LOCAL),
    Case("NAME==1.2.3+cpu", "1.2.3", False, wrong=LOCAL),
    # Pre-releases: asked for by name; a final release is another version.
    Case("NAME==2.0rc1", "2.0rc1", True),
    Case("NAME==2.0.0RC1", "2.0rc1", True, wrong=LETTER_BY_LETTER),
    Case("NAME==2.0rc1", "2.0", False),
    Case("NAME==2.0", "2.0rc1", False),
    # Markers: one that excludes this host asks for nothing.
    Case('NAME==1.0; python_version < "3"', None, True, wrong="the payload reads no markers"),
    Case('NAME; sys_platform == "win32"', None, True, wrong="the payload reads no markers"),
    Case('NAME==1.0; python_version >= "3"', "1.0", True),
    Case('NAME==1.0; python_version >= "3"', None, False),
    # A name may be written in several ways, and an extra is no part of it.
    Case("Na.ME", "1.0", True),
    Case("NAME[extra]==1.0", "1.0", True),
]


def named(case, number):
    """The case with a distribution of its own."""
    if not case.declared.startswith(("NAME", "Na.ME")):
        return replace(case, name=case.declared, planned=case.planned or case.declared)
    name = f"case-{number}"
    text = case.declared.replace("NAME", name).replace("Na.ME", f"Case_{number}")
    return replace(case, name=name, declared=text, planned=text)


NAMED = [named(case, number) for number, case in enumerate(CASES)]


def uv(*argv, **how):
    done = subprocess.run([UV, *argv], capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wheel(folder, name, version):
    """A distribution of one empty module."""
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        f"{name.replace('-', '_')}/__init__.py": "",
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: extra\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{stem}.dist-info/RECORD"])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{stem}.dist-info/RECORD": record}.items():
            archive.writestr(path, text)


def wanted(case):
    torch = {"version": "2.13.0", "variant": "cpu"} if case.name == "torchvision" else {"state": "absent"}
    index = {} if "state" in torch else {"index_url": "https://download.pytorch.org/whl"}
    return desired(venv={"packages": [case.declared]}, pytorch=torch | index)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Name -> (what the plan does about the environment, what it tells the payload, the payload's status)."""
    folder = tmp_path_factory.mktemp("environment")
    wheels = folder / "wheels"
    wheels.mkdir()
    uv("venv", "--quiet", "--python", sys.executable, str(folder / "env"))
    python = str(folder / "env/bin/python")
    for case in NAMED:
        if case.installed:
            wheel(wheels, case.name, case.installed)
    offline = ["--quiet", "--python", python, "--no-index", "--offline", "--no-deps", "--find-links", str(wheels)]
    # uv itself says that what is called sound here is: it takes the requirement as the plan made it.
    asked = [c.planned if c.sound else f"{c.name}=={c.installed}" for c in NAMED if c.sound or c.installed]
    uv("pip", "install", *offline, *asked, cwd=folder)
    there = {p["name"]: p["version"] for p in json.loads(uv("pip", "list", "--python", python, "--format", "json"))}
    assert there == {case.name: case.installed for case in NAMED if case.installed}

    plans, packages = {}, []
    for case in NAMED:
        own = {case.name: case.installed} if case.installed else {}
        seen = observed(environments=[environment(torch="2.13.0+cpu", **own)])
        plan = decide(wanted(case), seen)
        assert not plan.refusals
        told = declaration(wanted(case), plan, seen)["packages"]
        plans[case.name] = ({a.component: a.kind for a in plan.actions}["venv"], told)
        packages += told
    statuses = payload(python, folder, packages)
    return {name: (*about, statuses.get(f"package.{name}")) for name, about in plans.items()}


def payload(python, folder, packages):
    """Id -> status of the payload's checks, run in the environment as on a host."""
    archive = folder / "payload.pyz"
    archive.write_bytes(zipapp())
    document = json.dumps(NOTHING_DECLARED | {"packages": packages})
    argv = [python, "-I", str(archive), "--level", "quick", "--declared", "-"]
    done = subprocess.run(argv, input=document, capture_output=True, text=True, timeout=120)
    return {check.id: check.status for check in Verification.model_validate_json(done.stdout).checks}


def marked(case):
    marks = [pytest.mark.xfail(strict=True, reason=case.wrong)] if case.wrong else []
    return pytest.param(case, id=f"{case.declared} with {case.installed}", marks=marks)


@pytest.mark.parametrize("case", [pytest.param(c, id=c.declared) for c in NAMED])
def test_the_plan_passes_the_requirement_on(judged, case):
    assert judged[case.name][1] == [case.planned]


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.declared} with {c.installed}") for c in NAMED])
def test_the_plan_changes_what_is_not_as_declared_and_nothing_else(judged, case):
    assert (judged[case.name][0] is Kind.NONE) is case.sound


@pytest.mark.parametrize("case", [marked(case) for case in NAMED if case.sound])
def test_the_payload_passes_a_sound_package(judged, case):
    assert judged[case.name][2] in ("pass", None)


@pytest.mark.parametrize("case", [marked(case) for case in NAMED if not case.sound and not case.by_plan_alone])
def test_the_payload_fails_a_package_that_is_not_as_declared(judged, case):
    assert judged[case.name][2] == "fail"


# -- PyTorch -------------------------------------------------------------------------------------------------------

#: What the user declares, what PyTorch says of itself, whether that is as declared.
TORCH = [
    ({"version": "2.13.0", "variant": "cpu"}, "2.13.0+cpu", True, ""),
    ({"version": "2.13.0"}, "2.13.0+cpu", True, ""),
    ({"version": "2.13.0", "variant": "any"}, "2.13.0+cpu", True, ""),
    ({"version": "2.12.0", "variant": "cpu"}, "2.13.0+cpu", False, ""),
    ({"version": "2.13.0", "variant": "cpu"}, "2.13.0+cu130", False, ""),
    ({"version": "2.13", "variant": "cpu"}, "2.13.0+cpu", True, "the payload does not know that 2.13 is 2.13.0"),
    ({"version": "2.13", "variant": "cpu"}, "2.13.1+cpu", False, ""),
]


@pytest.mark.parametrize(
    ("declared", "version", "sound"),
    [
        pytest.param(*values, marks=[pytest.mark.xfail(strict=True, reason=wrong)] if wrong else [])
        for *values, wrong in TORCH
    ],
)
def test_pytorch_is_the_one_that_was_declared(declared, version, sound):
    seen = observed(environments=[environment(torch=version)])
    wanted = desired(pytorch=declared)
    plan = decide(wanted, seen)
    assert ({a.component: a.kind for a in plan.actions}["pytorch"] is Kind.NONE) is sound
    cuda = {"cpu": None, "cu130": "13.0"}[version.partition("+")[2]]
    torch = SimpleNamespace(__version__=version, version=SimpleNamespace(cuda=cuda))
    (check,) = torch_build.check_torch(torch, declaration(wanted, plan, seen)["torch"])
    assert (check["status"] == "pass") is sound


def test_the_pytorch_that_is_installed_here_calls_itself_so():
    """The version that the cases above take from PyTorch's own wheels."""
    assert metadata.version("torch") == "2.13.0+cpu"

"""What llmprov's modules share on a host: reading environments and conda, and taking turns. Python 3.9 and later."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import pwd
import re
import subprocess
import time

#: What llmprov leaves in an environment that it built, and in a conda prefix that it installed.
ENVIRONMENT_RECORD = "llmprov.json"
PREFIX_RECORD = "etc/llmprov.json"
#: What is behind an environment's name where its users' files are kept, once their build has gone.
KEPT = ".kept"
PROFILE = "/etc/profile.d"
#: Where conda reads settings for all users of a host beside a prefix's own (its documentation of the search path).
CONDA_SETTINGS = ("/etc/conda/.condarc", "/etc/conda/condarc", "/etc/conda/condarc.d/*", "/var/lib/conda/.condarc")
#: The script that conda runs when the environment is activated.
ACTIVATION = "/etc/conda/activate.d/llmprov.sh"


def read(path, limit=65536):
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read(limit).strip()
    except OSError:
        return ""


def read_json(path):
    try:
        found = json.loads(read(path, 4000000))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def run(*argv, **options):
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False, **options
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def clean_variables(home="/nonexistent", **more):
    """An environment for conda and Python that nothing of the calling user's leaks into: no rc file, no user site."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("CONDA", "PYTHON", "VIRTUAL_ENV", "PIP_"))}
    return dict(kept, HOME=home, PYTHONNOUSERSITE="1", **more)


# -- environments ------------------------------------------------------------------------------------------------


def distributions(path):
    """Package -> version, from the metadata that installers leave, and the names of those that conda installed."""
    found, from_conda = {}, []
    for entry in glob.glob(glob.escape(path) + "/lib*/python3*/site-packages/*.dist-info"):
        name, _, version = os.path.basename(entry)[: -len(".dist-info")].partition("-")
        # A directory without METADATA is what an interrupted installation leaves.
        if version and os.path.exists(entry + "/METADATA"):
            found[canonical(name)] = version
            if read(entry + "/INSTALLER") == "conda":
                from_conda.append(canonical(name))
    return found, sorted(from_conda)


def conda_packages(path):
    """Package -> `version=build`, from the names of conda's records."""
    found = {}
    for entry in glob.glob(glob.escape(path) + "/conda-meta/*.json"):
        parts = os.path.basename(entry)[: -len(".json")].rsplit("-", 2)
        if len(parts) == 3:
            found[parts[0]] = "%s=%s" % (parts[1], parts[2])
    return found


def environment(path):
    """What is at `path`, with the fields of the controller's record `Environment`."""
    conda = os.path.isdir(path + "/conda-meta")
    config = read(path + "/pyvenv.cfg")
    if not conda and not config:
        # A link that points nowhere is what is left where the environment behind it was removed by hand.
        return {"path": path, "kind": "other" if os.path.isdir(path) and os.listdir(path) else "none"}
    packages, from_conda = distributions(path)
    linked = conda_packages(path) if conda else {}
    version = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+\.\d+)", config, re.M)
    return {
        "path": path,
        "kind": "conda" if conda else "venv",
        "python_version": linked.get("python", "").partition("=")[0] if conda else version and version.group(1),
        "python_works": runs(path + "/bin/python"),
        "readable": readable(path, ["bin", "bin/python", "lib", "conda-meta", "conda-meta/history", "pyvenv.cfg"]),
        "packages": packages,
        "from_conda": from_conda,
        "conda": linked,
        "record": read_json(path + "/" + ENVIRONMENT_RECORD),
        "builds": sorted(builds(path)),
        "kept": os.path.isdir(path + KEPT),
        "profile": text_of(profile_path(path)),
        "activation": text_of(path + ACTIVATION),
    }


def generations(path):
    """Where the builds of an environment lie: beside it, one level down, where `conda env list` does not look."""
    return os.path.join(os.path.dirname(path), ".llmprov")


def builds(path):
    """The names of an environment's builds, former and half-made ones too; those of `llm.x` are none of `llm`'s."""
    pattern = re.escape(os.path.basename(path)) + r"\.\d+(\.link|\.before)?"
    try:
        return [name for name in os.listdir(generations(path)) if re.fullmatch(pattern, name)]
    except OSError:
        return []


def profile_path(path):
    """The login script of an environment: named so that two environments never share one."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", path).strip("-")
    return "%s/llmprov-%s.sh" % (PROFILE, name)


def text_of(path):
    """A file's content as it is, or None where there is no file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read(20000)
    except OSError:
        return None


def runs(python):
    return os.access(python, os.X_OK) and run(python, "-I", "-S", "-c", "print(1)").strip() == "1"


def readable(path, names):
    """Whether users other than the owner may read `path` and what is named in it; nothing to ask of a user's own."""
    if os.geteuid() != 0:
        return True
    try:
        modes = [
            os.stat(path).st_mode,
            *(os.stat(p).st_mode for p in (path + "/" + n for n in names) if os.path.exists(p)),
        ]
    except OSError:
        return False
    return all(mode & 0o004 for mode in modes)


# -- conda -------------------------------------------------------------------------------------------------------


def conda_prefix(path):
    """What is at `path`, with the fields of the controller's record `CondaPrefix`."""
    if not os.path.isdir(path + "/conda-meta"):
        return {"path": path, "kind": "other" if os.path.isdir(path) and os.listdir(path) else "none"}
    record = read_json(path + "/" + PREFIX_RECORD) or {}
    said = run(path + "/bin/conda", "--version", env=clean_variables()).split()
    return {
        "path": path,
        "kind": "conda",
        "version": conda_packages(path).get("conda", "").partition("=")[0] or None,
        "installer": record.get("installer"),
        "terms": record.get("terms", []),
        "packages": conda_packages(path),
        "base": record.get("base"),
        "settings": [p for pattern in CONDA_SETTINGS for p in sorted(glob.glob(pattern))]
        + [p for p in (path + "/condarc", *sorted(glob.glob(path + "/condarc.d/*"))) if os.path.isfile(p)],
        "works": len(said) == 2 and said[0] == "conda" and runs(path + "/bin/python"),
        "readable": readable(path, ["bin", "bin/conda", "bin/python", "lib", "conda-meta", ".condarc", "pkgs"]),
        "owner": owner(path),
        "condarc": read(path + "/.condarc") if os.path.exists(path + "/.condarc") else None,
        "init": os.path.realpath(PROFILE + "/conda.sh") == os.path.realpath(path + "/etc/profile.d/conda.sh"),
    }


def owner(path):
    try:
        return pwd.getpwuid(os.stat(path).st_uid).pw_name
    except (OSError, KeyError):
        return None


# -- taking turns ------------------------------------------------------------------------------------------------


class Turn:
    """One at a time on this host: conda does not lock its package cache, and two at once damage it."""

    def __init__(self, path, timeout_s):
        self.path, self.timeout_s = path, timeout_s

    def __enter__(self):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.handle = open(self.path, "a+")
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = read(self.path) or "another run"
                    self.handle.close()
                    raise TimeoutError(
                        "%s holds %s since more than %d s" % (holder, self.path, self.timeout_s)
                    ) from None
                time.sleep(0.2)
        self.handle.truncate(0)
        self.handle.write("process %d" % os.getpid())
        self.handle.flush()
        return self

    def __exit__(self, *exception):
        self.handle.truncate(0)
        self.handle.close()


def write_whole(path, text, mode=0o644):
    """Write a file whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = path + ".llmprov-new"
    with open(partial, "w", encoding="utf-8") as handle:
        os.fchmod(handle.fileno(), mode)
        handle.write(text)
    os.replace(partial, path)

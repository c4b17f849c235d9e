#!/usr/bin/python
"""Build an environment beside the old one and switch to it, add wheels to one in place, or remove it."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llmprov_files import OTHERS, altered, digest, others, users_own
from ansible.module_utils.llmprov_host import (
    ACTIVATION,
    ENVIRONMENT_RECORD,
    KEPT,
    Turn,
    builds,
    clean_variables,
    conda_packages,
    distributions,
    environment,
    generations,
    profile_path,
    read,
    read_json,
    write_whole,
)

DOCUMENTATION = r"""
module: llmprov_environment
short_description: A Python environment, built by conda or uv and switched to in one step
description: Which work is needed is decided on the controller; the action plugin sets `work` and what it needs.
options:
  path: {type: path, required: true, description: Where the environment is found.}
  work: {type: str, choices: [look, build, packages, settings, remove, accept, revert], default: look, description: What to do.}
  keep: {type: bool, default: false, description: "Keep the build that was in use, until the new one is accepted or reverted."}
  manager: {type: str, choices: [conda, venv], default: venv, description: What builds it.}
  python: {type: str, default: "", description: Python version of a virtual environment.}
  conda_prefix: {type: path, description: The conda installation.}
  conda_packages: {type: list, elements: dict, default: [], description: "url, sha256 and filename of each."}
  wheels: {type: list, elements: dict, default: [], description: "name, version, sha256 and filename of each."}
  packages_absent: {type: list, elements: str, default: [], description: Distributions that must go.}
  folder: {type: path, description: Where artifacts lie.}
  uv: {type: path, description: Where uv lies.}
  declaration: {type: dict, default: {}, description: What is kept in the environment for later runs.}
  profile: {type: str, description: The login script.}
  activation: {type: str, description: The activation script.}
  lock_timeout_s: {type: int, default: 900, description: "How long to wait for another conda, in seconds."}
author: [llmprov]
"""


class FailedError(Exception):
    """One sentence for the report."""


# -- programs ----------------------------------------------------------------------------------------------------


def call(argv, variables, what):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables, check=False)
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        said = " ".join(text.replace("\u00d7", " ").replace("\u2570\u2500\u25b6", " ").split())[-1200:]
        raise FailedError("%s failed: %s" % (what, said or "it printed nothing"))
    return text


def uv(params, *words):
    with tempfile.TemporaryDirectory(prefix="llmprov-uv-") as own:
        return uv_within(params, own, *words)


def uv_within(params, temporary, *words):
    home = os.path.dirname(os.path.dirname(params["uv"]))
    variables = clean_variables(
        os.environ.get("HOME", "/"),
        # uv leaves lock files where temporary files go.
        TMPDIR=temporary,
        UV_SYSTEM_CERTS="1",
        UV_NO_PROGRESS="1",
        # Beside the environments, so that packages are linked and not copied; and readable by every user.
        UV_CACHE_DIR=home + "/cache/uv",
        UV_PYTHON_INSTALL_DIR=home + "/python",
    )
    return call([params["uv"], *words], variables, "`uv %s`" % " ".join(words[:2]))


def conda(params, *words):
    # A home of its own: a user's broken .condarc would end every call, and lists in it would be merged into ours.
    with tempfile.TemporaryDirectory(prefix="llmprov-home-") as home:
        argv = [params["conda_prefix"] + "/bin/conda", *words]
        return call(argv, clean_variables(home), "`conda %s`" % words[0])


# -- building ----------------------------------------------------------------------------------------------------


def build(params):
    """Build a successor, and switch to it only when all of it is there, and is what its packages say."""
    path = params["path"]
    folder = generations(path)
    os.makedirs(folder, exist_ok=True)
    taken = [int(name.split(".")[-1]) for name in builds(path) if name.split(".")[-1].isdigit()]
    new = "%s/%s.%d" % (folder, os.path.basename(path), max(taken, default=0) + 1)
    try:
        make(params, new)
        broken = altered(new, deep=True)
        if broken:
            # Builds share files with the caches: whoever wrote over a file of one, wrote over the cache's.
            purge(params, new, {row["package"] for row in broken})
            shutil.rmtree(new)
            make(params, new)
            broken = altered(new, deep=True)
        if broken:
            raise FailedError("%s of %s is not as its package says, twice" % (broken[0]["path"], broken[0]["package"]))
        finish(params, new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        tidy(folder)
        raise
    switch(path, new, params["keep"])


def make(params, new):
    if params["manager"] == "conda":
        create_conda(params, new)
    else:
        create_venv(params, new)
    install(params, new)


def purge(params, prefix, names):
    """Let the caches forget packages, so that they are unpacked anew."""
    by_conda = [name for name in conda_packages(prefix) if name in names]
    for name in by_conda:
        version, _, build_string = conda_packages(prefix)[name].partition("=")
        shutil.rmtree("%s/pkgs/%s-%s-%s" % (params["conda_prefix"], name, version, build_string), ignore_errors=True)
    by_uv = sorted(names - set(by_conda))
    if by_uv:
        uv(params, "cache", "clean", "--quiet", *by_uv)


def create_venv(params, new):
    python = params["python"]
    # A version that the host lacks may be downloaded only where one was declared.
    chosen = ["--python", python] if python else ["--python", "python3", "--no-python-downloads"]
    uv(params, "venv", "--quiet", *chosen, new)


def create_conda(params, new):
    with Turn(params["folder"] + "/.conda.lock", params["lock_timeout_s"]):
        stock(params)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
            lines = ["%s#%s" % (p["url"], p["sha256"]) for p in params["conda_packages"]]
            listing.write("\n".join(["@EXPLICIT", *lines, ""]))
            listing.flush()
            conda(params, "create", "-y", "-p", new, "--offline", "--file", listing.name)
    # conda prints nothing of use for an explicit list, whatever it did: look at what is there.
    missing = sorted(set(lines) - linked(conda(params, "list", "-p", new, "--explicit", "--sha256")))
    if missing:
        raise FailedError("conda did not link %s" % missing[0])


def linked(listing):
    """The packages, as `URL#sha256`, that an explicit listing names."""
    return set(listing.split("@EXPLICIT", 1)[-1].split())


def stock(params):
    """Put the packages into conda's own cache, where it finds them by URL: as the official installer does.

    conda looks at no digest of what its cache has: each file's was checked when it was brought, and is again here.
    """
    cache = params["conda_prefix"] + "/pkgs"
    os.makedirs(cache, exist_ok=True)
    listing = cache + "/urls.txt"
    known = set(read(listing, 10000000).split())
    for package in params["conda_packages"]:
        source, target = (os.path.join(place, package["filename"]) for place in (params["folder"], cache))
        if not (package["url"] in known and digest(target, package["sha256"]) == package["sha256"]):
            shutil.rmtree(re.sub(r"\.(conda|tar\.bz2)$", "", target), ignore_errors=True)
            link_or_copy(source, target)
            with open(listing, "a", encoding="utf-8") as handle:
                handle.write(package["url"] + "\n")


def link_or_copy(source, target):
    partial = target + ".llmprov-new"
    if os.path.lexists(partial):
        os.unlink(partial)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def install(params, prefix):
    """Bring wheels into a prefix; what conda brought stays as it is."""
    before = conda_owned(prefix)
    python = ["--python", prefix + "/bin/python"]
    if params["wheels"]:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
            listing.writelines("%(name)s==%(version)s --hash=sha256:%(sha256)s\n" % wheel for wheel in params["wheels"])
            listing.flush()
            flags = ["--offline", "--no-index", "--find-links", params["folder"], "--no-deps", "--require-hashes"]
            uv(params, "pip", "install", *python, *flags, "-r", listing.name)
    unwanted = [name for name in params["packages_absent"] if name in distributions(prefix)[0]]
    owned = [name for name in unwanted if name in before]
    if owned:
        raise FailedError("%s came by conda: take it out of the conda packages instead" % owned[0])
    if unwanted:
        uv(params, "pip", "uninstall", *python, *unwanted)
    lost = sorted(set(before.items()) - set(conda_owned(prefix).items()))
    if lost:
        raise FailedError("a wheel took the place of conda's %s %s: declare it as a wheel or a conda package, not both" % lost[0])


def conda_owned(prefix):
    found, from_conda = distributions(prefix)
    return {name: found[name] for name in from_conda}


def finish(params, prefix):
    """Leave the record, the settings for users, and which files are of no package."""
    settings(params, prefix)
    write_whole(prefix + "/" + OTHERS, "\n".join([*others(prefix), OTHERS, ENVIRONMENT_RECORD, ""]))
    record = {
        "declaration": params["declaration"],
        "conda": conda_packages(prefix),
        "packages": distributions(prefix)[0],
    }
    write_whole(prefix + "/" + ENVIRONMENT_RECORD, json.dumps(record, sort_keys=True) + "\n")


def settings(params, prefix):
    for path, text in ((profile_path(params["path"]), params["profile"]), (prefix + ACTIVATION, params["activation"])):
        if text:
            write_whole(path, text)
        elif os.path.exists(path):
            os.unlink(path)


def note(params, packages):
    """Write the record anew after a change in place; what users added by hand stays theirs."""
    path = params["path"]
    if not os.path.exists(path + "/" + ENVIRONMENT_RECORD):
        settings(params, path)
        return
    with open(path + "/" + ENVIRONMENT_RECORD, encoding="utf-8") as handle:
        record = json.load(handle)
    settings(params, path)
    there = distributions(path)[0]
    ours = set(record.get("packages", {})) | packages
    record["declaration"] = params["declaration"]
    record["packages"] = {name: version for name, version in there.items() if name in ours}
    write_whole(path + "/" + ENVIRONMENT_RECORD, json.dumps(record, sort_keys=True) + "\n")


def in_place(params):
    before = set(distributions(params["path"])[0].items())
    install(params, params["path"])
    note(params, {name for name, _ in set(distributions(params["path"])[0].items()) - before})


# -- switching and removing ----------------------------------------------------------------------------------------


def switch(path, new, keep=False):
    """Make `path` lead to the new build; where a link stood, in one step that no power cut falls into."""
    before = former(path)
    if os.path.lexists(path) and not os.path.islink(path):
        before = "%s.before" % new
        os.rename(path, before)
    if keep and before:
        note_former(new, os.path.basename(before))
    lead(path, new)
    retire(path)


def lead(path, build):
    link = "%s.link" % build
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(os.path.relpath(build, os.path.dirname(path)), link)
    os.replace(link, path)


def former(path):
    """The build to revert to: the previous one of a build that was not accepted yet, as that was never found good."""
    if not os.path.exists(path) or not os.path.islink(path):
        return None
    before = (read_json(path + "/" + ENVIRONMENT_RECORD) or {}).get("former")
    kept = os.path.join(generations(path), str(before))
    return kept if before in builds(path) and os.path.isdir(kept) else os.path.realpath(path)


def note_former(build, name):
    path = build + "/" + ENVIRONMENT_RECORD
    record = dict(read_json(path) or {}, former=name)
    record = {key: value for key, value in record.items() if value is not None}
    write_whole(path, json.dumps(record, sort_keys=True) + "\n")


def accept(params):
    """Remove the previous build: the one in use was found good."""
    if "former" in (read_json(params["path"] + "/" + ENVIRONMENT_RECORD) or {}):
        note_former(os.path.realpath(params["path"]), None)
    retire(params["path"])


def revert(params):
    """Use the previous build again: the one in use was not found good."""
    lead(params["path"], former(params["path"]))
    retire(params["path"])


def retire(path):
    """Remove former builds, but for those that a program still runs from: a later run takes them."""
    folder = generations(path)
    current = os.path.realpath(path) if os.path.islink(path) else None
    kept = {current, former(path)}
    switched = os.lstat(path).st_mtime if current else 0
    for old in (os.path.join(folder, name) for name in builds(path)):
        if os.path.realpath(old) not in kept and not in_use(old, path, switched):
            discard(old, path)
    tidy(folder)


def discard(old, path):
    """Remove a build; what users put into it is moved aside, since no package has it."""
    if os.path.islink(old):
        os.unlink(old)
        return
    aside = beside(old, path)
    if os.path.exists(old + "/" + OTHERS):
        for name in users_own(old):
            os.makedirs(os.path.dirname(os.path.join(aside, name)), exist_ok=True)
            os.rename(os.path.join(old, name), os.path.join(aside, name))
    elif old.endswith(".before") and others(old):
        # Somebody else made it, so that nobody knows whose is what in it.
        os.makedirs(os.path.dirname(aside), exist_ok=True)
        os.rename(old, aside)
    shutil.rmtree(old, ignore_errors=True)


def beside(old, path):
    """A folder that is not there yet, for what is kept of a build: numbers of builds come again."""
    place = "%s%s/%s" % (path, KEPT, os.path.basename(old)[len(os.path.basename(path)) + 1 :] or "whole")
    names = itertools.chain([place], ("%s-%d" % (place, number) for number in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(name))


def tidy(folder):
    try:
        os.rmdir(folder)
    except OSError:
        pass


def in_use(old, path, switched):
    """Whether a program has files of a former build mapped, or was started from the environment before the switch."""
    boot = re.search(r"^btime (\d+)", read("/proc/stat", 1000000), re.M)
    for folder in glob.glob("/proc/[0-9]*"):
        if old + "/" in read(folder + "/maps", 20000000):
            return True
        command = read(folder + "/cmdline").split("\0")[0]
        stat = read(folder + "/stat").rpartition(")")[2].split()
        if not boot or len(stat) < 20 or not command.startswith((path + "/", old + "/")):
            continue
        started = int(boot.group(1)) + int(stat[19]) / os.sysconf("SC_CLK_TCK")
        if started < switched:
            return True
    return False


def remove(params):
    path = params["path"]
    if environment(path)["kind"] == "other":
        raise FailedError("%s is there and is no environment, so it is not removed" % path)
    if os.path.islink(path):
        os.unlink(path)
    elif os.path.isdir(path):
        discard(path, path)
    retire(path)
    if os.path.exists(profile_path(path)):
        os.unlink(profile_path(path))


WORKS = {
    "build": build,
    "packages": in_place,
    "settings": lambda params: note(params, set()),
    "remove": remove,
    "accept": accept,
    "revert": revert,
}


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "work": {"type": "str", "choices": ["look", *WORKS], "default": "look"},
            "keep": {"type": "bool", "default": False},
            "manager": {"type": "str", "choices": ["conda", "venv"], "default": "venv"},
            "python": {"type": "str", "default": ""},
            "conda_prefix": {"type": "path"},
            "conda_packages": {"type": "list", "elements": "dict", "default": []},
            "wheels": {"type": "list", "elements": "dict", "default": []},
            "packages_absent": {"type": "list", "elements": "str", "default": []},
            "folder": {"type": "path"},
            "uv": {"type": "path"},
            "declaration": {"type": "dict", "default": {}},
            "profile": {"type": "str"},
            "activation": {"type": "str"},
            "lock_timeout_s": {"type": "int", "default": 900},
        },
        supports_check_mode=True,
    )
    params = module.params
    # What is built is for every user of the host, whatever the umask of whoever builds it.
    os.umask(0o022)
    before = describe(params["path"])
    if params["work"] in WORKS and not module.check_mode:
        try:
            WORKS[params["work"]](params)
        except (FailedError, OSError, TimeoutError) as error:
            module.fail_json(msg=str(error))
    changed = params["work"] in WORKS
    difference = {"before": before, "after": describe(params["path"])} if module._diff and changed else {}
    module.exit_json(changed=changed, seen=environment(params["path"]), diff=difference)


def describe(path):
    there = environment(path)
    if there["kind"] in ("none", "other"):
        return "absent\n"
    lines = ["Python %s" % there["python_version"]]
    lines += ["%s=%s" % item for item in sorted(there["conda"].items())]
    lines += ["%s==%s" % item for item in sorted(there["packages"].items()) if item[0] not in there["from_conda"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

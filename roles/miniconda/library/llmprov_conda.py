#!/usr/bin/python
"""Install conda, mend it, set it up for every user of the host, or remove it whole."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llmprov_files import altered
from ansible.module_utils.llmprov_host import (
    PREFIX_RECORD,
    PROFILE,
    Turn,
    clean_variables,
    conda_packages,
    conda_prefix,
    read_json,
    write_whole,
)

DOCUMENTATION = r"""
module: llmprov_conda
short_description: A conda installation for every user of the host
description: What has to be done is decided on the controller, which brings the installer where it is needed.
options:
  prefix: {type: path, required: true, description: Directory of the installation.}
  work: {type: str, choices: [look, ensure, remove], default: look, description: What to do.}
  script: {type: path, description: "The installer, where it has to run."}
  unwanted: {type: list, elements: str, default: [], description: Packages to take out of the base environment.}
  installer: {type: str, description: Its name.}
  owner: {type: str, default: root, description: Who owns the installation.}
  condarc: {type: str, description: The prefix's settings.}
  terms: {type: list, elements: str, default: [], description: Channels whose terms were accepted.}
  init: {type: bool, default: false, description: Whether users' shells have conda at login.}
  lock: {type: path, description: File that conda's users on this host take turns by.}
  lock_timeout_s: {type: int, default: 900, description: "How long to wait for them, in seconds."}
author: [llmprov]
"""

LOGIN_SCRIPT = PROFILE + "/conda.sh"


class FailedError(Exception):
    """One sentence for the report."""


def call(argv, what):
    with tempfile.TemporaryDirectory(prefix="llmprov-home-") as home:
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=clean_variables(home),
            check=False,
        )
    if done.returncode != 0:
        said = " ".join(done.stdout.decode("utf-8", "replace").split())[-800:]
        raise FailedError("%s failed: %s" % (what, said or "it printed nothing"))


def ensure(params):
    prefix = params["prefix"]
    with Turn(params["lock"], params["lock_timeout_s"]):
        by_hand = added_by_hand(prefix)
        if params["script"]:
            # -u goes over what is there, whole or half: environments and the package cache stay.
            call(["/bin/bash", params["script"], "-b", "-u", "-p", prefix], "the installer %s" % params["installer"])
        if params["unwanted"]:
            flags = ["-y", "-p", prefix, "--offline", "--force-remove"]
            call([prefix + "/bin/conda", "remove", *flags, *params["unwanted"]], "taking packages out of %s" % prefix)
        write_whole(prefix + "/.condarc", params["condarc"])
        there = conda_prefix(prefix)
        if not there["works"]:
            call([prefix + "/bin/conda", "--version"], "conda at %s was installed and" % prefix)
            raise FailedError("conda at %s was installed and does not run" % prefix)
        accepted = sorted(set(params["terms"]) | set(there["terms"]))
        for channel in sorted(set(params["terms"]) - set(there["terms"])):
            call(
                [prefix + "/bin/conda", "tos", "accept", "--override-channels", "--channel", channel, "--system"],
                "accepting the terms of %s" % channel,
            )
        name = params["installer"] if params["script"] or not there["installer"] else there["installer"]
        record = dict(read_json(prefix + "/" + PREFIX_RECORD) or {}, installer=name, terms=accepted)
        if params["script"]:
            record["base"] = {name: has for name, has in conda_packages(prefix).items() if name not in by_hand}
            # What an installer itself leaves otherwise than its packages say is nobody's doing.
            record["otherwise"] = [row["path"] for row in altered(prefix, deep=True)]
        write_whole(prefix + "/" + PREFIX_RECORD, json.dumps(record) + "\n")
        open_to_all(prefix, params["owner"])
        login(prefix, params["init"])


def added_by_hand(prefix):
    """The packages of the base environment that no installer of ours brought."""
    base = (read_json(prefix + "/" + PREFIX_RECORD) or {}).get("base")
    return set(conda_packages(prefix)) - set(base) if base else set()


def open_to_all(prefix, owner):
    """Make everything readable for all, whatever the umask of whoever installed it; and the owner's.

    Environments below the prefix are included: they are conda's too.
    """
    about = pwd.getpwnam(owner) if os.geteuid() == 0 else None
    for folder, names, files in os.walk(prefix):
        for path in [folder, *(os.path.join(folder, name) for name in [*names, *files])]:
            state = os.lstat(path)
            if about and (state.st_uid, state.st_gid) != (about.pw_uid, about.pw_gid):
                os.lchown(path, about.pw_uid, about.pw_gid)
            if stat.S_ISLNK(state.st_mode):
                continue
            wanted = state.st_mode | 0o444
            if stat.S_ISDIR(state.st_mode) or state.st_mode & 0o100:
                wanted |= 0o111
            if stat.S_IMODE(wanted) != stat.S_IMODE(state.st_mode):
                os.chmod(path, stat.S_IMODE(wanted))


def login(prefix, wanted):
    """Link conda's own script into the shells' login, as conda's documentation has it for all users of a machine."""
    script = prefix + "/etc/profile.d/conda.sh"
    ours = os.path.islink(LOGIN_SCRIPT) and os.readlink(LOGIN_SCRIPT) == script
    if wanted and not ours:
        if os.path.lexists(LOGIN_SCRIPT):
            raise FailedError(
                "%s is there and is not of this installation: remove it, or set miniconda_init to false" % LOGIN_SCRIPT
            )
        os.symlink(script, LOGIN_SCRIPT)
    if not wanted and ours:
        os.unlink(LOGIN_SCRIPT)


def remove(params):
    prefix = params["prefix"]
    if conda_prefix(prefix)["kind"] == "other":
        raise FailedError("%s is there and is no conda installation, so it is not removed" % prefix)
    login(prefix, False)
    shutil.rmtree(prefix)


def main():
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "work": {"type": "str", "choices": ["look", "ensure", "remove"], "default": "look"},
            "script": {"type": "path"},
            "unwanted": {"type": "list", "elements": "str", "default": []},
            "installer": {"type": "str"},
            "owner": {"type": "str", "default": "root"},
            "condarc": {"type": "str"},
            "terms": {"type": "list", "elements": "str", "default": []},
            "init": {"type": "bool", "default": False},
            "lock": {"type": "path"},
            "lock_timeout_s": {"type": "int", "default": 900},
        },
        supports_check_mode=True,
    )
    params = module.params
    os.umask(0o022)
    works = {"ensure": ensure, "remove": remove}
    changed = params["work"] in works
    if changed and not module.check_mode:
        try:
            works[params["work"]](params)
        except (FailedError, OSError, KeyError, TimeoutError) as error:
            module.fail_json(msg=str(error))
    module.exit_json(changed=changed, seen=conda_prefix(params["prefix"]))


if __name__ == "__main__":
    main()

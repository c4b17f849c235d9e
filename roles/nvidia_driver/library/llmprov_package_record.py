#!/usr/bin/python
"""Remember which packages an installation brought, and remove just those."""

from __future__ import annotations

import json
import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llmprov_host import read_json, run

DOCUMENTATION = r"""
module: llmprov_package_record
short_description: Remember which packages came, and remove just those
description: Debian's own records do not tell what was there before; a host should be as before when they go again.
options:
  path: {type: path, required: true, description: Where it is remembered.}
  state: {type: str, choices: [begun, complete, absent], required: true, description: Before, after, or gone again.}
  folders: {type: list, elements: str, default: [], description: "Folders that go again if they came."}
  lock_timeout_s: {type: int, default: 600, description: "How long to wait for another package manager, in seconds."}
author: [llmprov]
"""


def installed():
    if shutil.which("dpkg-query"):
        rows = run("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n").splitlines()
        return {row.split()[1] for row in rows if row[1:2] == "i" and len(row.split()) == 2}
    return set(run("rpm", "-qa", "--qf", "%{NAME}\n").split())


def write(path, record):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as handle:
        json.dump(record, handle)
    os.replace(path + ".new", path)


def remember(path, record, state, folders=()):
    """What is there before and after each installation: what users install in between is theirs."""
    if state == "begun":
        # One that was interrupted began with what is noted there.
        before = record.get("before") or sorted(installed())
        made = record.get("made") or [folder for folder in folders if not os.path.isdir(folder)]
        write(path, {"brought": record.get("brought", []), "before": before, "made": made})
    else:
        came = installed() - set(record.get("before") or installed())
        brought = sorted(came | set(record.get("brought", [])))
        write(path, {"brought": brought, "made": record.get("made", [])})


def forget(path, record):
    """Remove the record, its folder, and the folders that were made: those that are empty."""
    os.unlink(path)
    for folder in [*record.get("made", []), os.path.dirname(path)]:
        try:
            os.rmdir(folder)
        except OSError:
            continue


def purge(module, record):
    there = installed()
    brought = set(record.get("brought", [])) | (there - set(record["before"]) if record.get("before") else set())
    names = sorted(there & brought)
    if not names or module.check_mode:
        return bool(names)
    if shutil.which("apt-get"):
        run("apt-mark", "unhold", *names)
        wait = "DPkg::Lock::Timeout=%d" % module.params["lock_timeout_s"]
        argv = ["apt-get", "-q", "-y", "-o", wait, "purge"]
    else:
        run("dnf", "-q", "versionlock", "delete", *names)
        argv = ["dnf", "-q", "-y", "--noautoremove", "remove"]
    code, out, err = module.run_command(
        argv + names, environ_update={"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    )
    if code != 0:
        module.fail_json(msg="%s could not remove the driver: %s" % (argv[0], (err.strip() or out.strip())[-1500:]))
    return True


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["begun", "complete", "absent"], "required": True},
            "folders": {"type": "list", "elements": "str", "default": []},
            "lock_timeout_s": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    path, state = module.params["path"], module.params["state"]
    record = read_json(path)
    if state == "absent":
        changed = record is not None and purge(module, record)
        if record is not None and not module.check_mode:
            forget(path, record)
        module.exit_json(changed=changed or record is not None)
    if not module.check_mode:
        remember(path, record or {}, state, module.params["folders"])
    # Bookkeeping: what changes the host are the tasks between.
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()

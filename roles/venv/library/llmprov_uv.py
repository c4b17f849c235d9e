#!/usr/bin/python
"""Tell which uv lies on the host, put the one that the controller brought in its place, or remove it."""

from __future__ import annotations

import os
import platform
import shutil
import zipfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llmprov_host import run

DOCUMENTATION = r"""
module: llmprov_uv
short_description: Make sure that uv lies on the host
description: The controller fetches uv and brings it; the host needs no way to the internet for it.
options:
  path: {type: path, required: true, description: Where uv lies.}
  state: {type: str, choices: [present, absent], default: present, description: Whether it is there.}
  version: {type: str, required: true, description: Its version.}
  source: {type: path, description: The wheel that the controller brought; set by the action plugin.}
  folder: {type: path, description: "Where artifacts lie; removed with uv, as are its caches."}
author: [llmprov]
"""


def version_of(path):
    words = run(path, "--version").split()
    return words[1] if len(words) > 1 else None


def put(source, path):
    os.umask(0o022)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = path + ".new"
    with zipfile.ZipFile(source) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith("/scripts/uv"))
        with wheel.open(name) as program, open(partial, "wb") as handle:
            shutil.copyfileobj(program, handle)
    os.chmod(partial, 0o755)
    os.replace(partial, path)
    with open(marker(path), "w", encoding="utf-8") as handle:
        handle.write("put here by llmprov\n")


def marker(path):
    """What tells a uv of ours from one that was here before: only ours is ever removed."""
    return os.path.join(os.path.dirname(path), ".llmprov-" + os.path.basename(path))


def remove(path, folder):
    home = os.path.dirname(os.path.dirname(path))
    for gone in (path, marker(path)):
        os.unlink(gone)
    for gone in (folder, home + "/cache/uv", home + "/python"):
        shutil.rmtree(gone, ignore_errors=True)
    for empty in (os.path.dirname(path), home + "/cache", home + "/envs", home):
        if os.path.isdir(empty) and not os.listdir(empty):
            os.rmdir(empty)


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "version": {"type": "str", "required": True},
            "source": {"type": "path"},
            "folder": {"type": "path"},
        },
        supports_check_mode=True,
    )
    path, source = module.params["path"], module.params["source"]
    if module.params["state"] == "absent":
        ours = os.path.exists(path) and os.path.exists(marker(path))
        if ours and not module.check_mode:
            remove(path, module.params["folder"])
        module.exit_json(changed=ours)
    if source:
        put(source, path)
    found = version_of(path)
    if source and found != module.params["version"]:
        module.fail_json(msg="uv at %s says version %s after %s was put there" % (path, found, module.params["version"]))
    module.exit_json(changed=bool(source), found=found, architecture=platform.machine())


if __name__ == "__main__":
    main()

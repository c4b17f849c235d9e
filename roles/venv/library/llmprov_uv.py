#!/usr/bin/python
"""Tell which uv lies on the host, and put the one that the controller brought in its place."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: llmprov_uv
short_description: Make sure that uv lies on the host
description: The controller fetches uv and brings it; the host needs no way to the internet for it.
options:
  path: {type: path, required: true, description: Where uv lies.}
  version: {type: str, required: true, description: Its version.}
  source: {type: path, description: The file that the controller brought; set by the action plugin.}
author: [llmprov]
"""


def version_of(path):
    try:
        done = subprocess.run([path, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return None
    words = done.stdout.decode("utf-8", "replace").split()
    return words[1] if done.returncode == 0 and len(words) > 1 else None


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "source": {"type": "path"},
        },
        supports_check_mode=True,
    )
    path, source = module.params["path"], module.params["source"]
    if source:
        os.umask(0o022)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = path + ".new"
        shutil.copyfile(source, partial)
        os.chmod(partial, 0o755)
        os.replace(partial, path)
    found = version_of(path)
    if source and found != module.params["version"]:
        module.fail_json(msg="uv at %s says version %s after %s was put there" % (path, found, module.params["version"]))
    module.exit_json(changed=bool(source), found=found, architecture=platform.machine())


if __name__ == "__main__":
    main()

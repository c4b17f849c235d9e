#!/usr/bin/python
"""Pin packages that must be of one version to the newest that a few of them have in common."""

from __future__ import annotations

import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llmprov_host import read, run

DOCUMENTATION = r"""
module: llmprov_apt_pin
short_description: Pin what must be of one version
description:
  - Archives have modules and libraries of different versions at a time; Debian's security updates bring the libraries
    and leave the open modules behind. The newest version that all have is taken, and kept until it is chosen anew.
options:
  path: {type: path, required: true, description: "The file, in /etc/apt/preferences.d."}
  packages: {type: list, elements: str, required: true, description: Packages that must be of one upstream version.}
  pin: {type: str, required: true, description: "What is pinned, as apt_preferences(5) has it after `Package:`."}
  version: {type: str, required: true, description: "The version, or the parts that it must begin with."}
author: [llmprov]
"""


def upstream(version):
    return re.sub(r"^\d+:", "", version).partition("-")[0]


def versions(package):
    """Upstream versions that the archives have of a package."""
    rows = [row.split("|") for row in run("apt-cache", "madison", package).splitlines()]
    return {upstream(row[1].strip()) for row in rows if len(row) == 3}


def key(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "packages": {"type": "list", "elements": "str", "required": True},
            "pin": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    path, packages = module.params["path"], module.params["packages"]
    offered = {name: versions(name) for name in packages}
    common = set.intersection(*offered.values())
    wanted = module.params["version"]
    fitting = sorted((v for v in common if (v + ".").startswith(wanted + ".")), key=key)
    if not fitting:
        told = "; ".join("%s %s" % (name, ", ".join(sorted(found)) or "none") for name, found in offered.items())
        module.fail_json(
            msg="the archives have no version %s that all of the driver has in common: %s" % (wanted, told)
        )
    # Above 1000: a version that is installed and newer would split the driver, and goes back.
    text = "Package: %s\nPin: version %s-*\nPin-Priority: 1001" % (module.params["pin"], fitting[-1])
    changed = read(path) != text
    if changed and not module.check_mode:
        with open(path + ".new", "w", encoding="utf-8") as handle:
            handle.write(text + "\n")
        os.chmod(path + ".new", 0o644)
        os.replace(path + ".new", path)
    module.exit_json(changed=changed, version=fitting[-1])


if __name__ == "__main__":
    main()

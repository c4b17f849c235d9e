#!/usr/bin/python
"""Build the NVIDIA module for kernels that have none, and tell in the compiler's own words why it cannot be built."""

from __future__ import annotations

import glob
import os
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llmprov_host import read

DOCUMENTATION = r"""
module: llmprov_dkms
short_description: Build the NVIDIA module by DKMS
description: A package manager only says that a script failed; why stands in DKMS's own log, which is read here.
options:
  kernels: {type: list, elements: str, default: [], description: Kernels to build it for.}
  explain: {type: str, default: "", description: "What a package manager said: build nothing, fail with the reason."}
author: [llmprov]
"""

#: Where DKMS leaves what the compiler said: of a build that failed, and of one that did not.
LOGS = ("/var/lib/dkms/nvidia*/*/build/make.log", "/var/lib/dkms/nvidia*/*/*/*/log/make.log")
RECORD = "/var/lib/llmprov/nvidia_driver.json"
KERNEL = re.compile(r"for kernel:? (\S+)")
#: `nv.c:411:9: error: ...`, `ERROR: modpost: ...`, `make: *** ...`; no compiler's flag such as -Wno-error=format.
COMPLAINT = re.compile(r"(^|: )(fatal )?error: |\*\*\* ", re.I)


def reason(since):
    """The newest log's first complaint, as a sentence; empty where none that was written after `since` has one."""
    logs = sorted((path for pattern in LOGS for path in glob.glob(pattern)), key=os.path.getmtime)
    logs = [path for path in logs if os.path.getmtime(path) >= since]
    if not logs:
        return ""
    text = read(logs[-1])
    complaints = [line.strip() for line in text.splitlines() if COMPLAINT.search(line)]
    if not complaints:
        return ""
    kernel = KERNEL.search(text)
    told = "the module cannot be built for the kernel %s" % kernel.group(1) if kernel else "the module cannot be built"
    return "%s: %s; all of it: %s" % (told, complaints[0][:400], logs[-1])


def main():
    module = AnsibleModule(
        argument_spec={
            "kernels": {"type": "list", "elements": "str", "default": []},
            "explain": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if module.params["explain"]:
        said = module.params["explain"]
        # The role writes its record when it begins: an older log is of an older try.
        began = os.path.getmtime(RECORD) if os.path.exists(RECORD) else 0
        module.fail_json(msg=reason(began) or said)
    began = time.time() - 1
    for kernel in module.params["kernels"]:
        if module.check_mode:
            continue
        code, out, err = module.run_command(["/usr/sbin/dkms", "autoinstall", "-k", kernel])
        if code != 0:
            module.fail_json(
                msg=reason(began) or "dkms autoinstall -k %s: %s" % (kernel, (err.strip() or out.strip())[-800:])
            )
    module.exit_json(changed=bool(module.params["kernels"]))


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Start the guard of the run that this task belongs to."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llmprov_guard import begin

DOCUMENTATION = r"""
module: llmprov_guard
short_description: End what a run started on the host once its controller is gone
description: Called once the host is held for the run (llmprov_hold), whose end the guard waits for.
options: {}
author: [llmprov]
"""


def main():
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    begin()
    module.exit_json(changed=False, msg="guarded")


if __name__ == "__main__":
    main()

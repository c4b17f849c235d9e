#!/usr/bin/python
"""Run a program of llmprov's on a host.

The program needs the standard library only, so nothing of Ansible is packed, sent and unpacked for it. Ansible puts the
arguments in place as JSON: https://docs.ansible.com/ansible/latest/dev_guide/developing_program_flow_modules.html
"""

from __future__ import annotations

import base64
import json
import sys
import types
import zlib

DOCUMENTATION = r"""
module: llmprov_program
short_description: Run a program of llmprov's
description: The program is sent with its arguments, and is run from memory; it prints its result.
options:
  modules: {type: str, required: true, description: "Names and sources of its modules, the program last: zlib, base64."}
  arguments: {type: str, required: true, description: "The arguments of its function `main`: JSON, base64."}
author: [llmprov]
"""

ARGUMENTS = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""


def loaded(sources):
    """Each source as a module under its name; returns the last one."""
    for name, source in sources:
        parts = name.split(".")
        for i in range(1, len(parts)):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(parts[i - 1]))
        module = sys.modules[name] = types.ModuleType(name)
        exec(compile(source, name, "exec"), module.__dict__)
    return module


if __name__ == "__main__":
    given = json.loads(ARGUMENTS)
    program = loaded(json.loads(zlib.decompress(base64.b64decode(given["modules"]))))
    print(json.dumps(program.main(**json.loads(base64.b64decode(given["arguments"])))))

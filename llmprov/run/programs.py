"""Programs that hosts run without anything of Ansible's: the role preflight's module `llmprov_program` runs them."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from llmprov.run.content import roles_directory


def packed(program: str, *utilities: str) -> str:
    """A file of the role preflight as a program, with the module utilities that it imports."""
    role = roles_directory() / "preflight"
    sources = [
        (f"ansible.module_utils.{name}", (role / f"module_utils/{name}.py").read_text("utf-8")) for name in utilities
    ]
    sources.append((f"llmprov_{program}", (role / f"files/{program}.py").read_text("utf-8")))
    return base64.b64encode(zlib.compress(json.dumps(sources).encode())).decode()


def arguments_of(modules: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of `llmprov_program` for a packed program and its own arguments."""
    return {"modules": modules, "arguments": base64.b64encode(json.dumps(arguments).encode()).decode()}

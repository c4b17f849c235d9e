"""Where playbooks and roles lie: inside the installed package, or at the top of a checkout."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import llmprov
from llmprov.errors import LlmprovError

_PACKAGE = Path(llmprov.__file__).parent


@cache
def content_directory() -> Path:
    """The directory of the playbooks.

    Raises:
        LlmprovError: neither place has them; the installation is broken.
    """
    for place in (_PACKAGE / "content/playbooks", _PACKAGE.parent / "playbooks"):
        if (place / "site.yml").exists():
            return place
    raise LlmprovError(
        f"llmprov at {_PACKAGE} has no playbooks: install it anew with `pip install --force-reinstall llmprov`"
    )


@cache
def roles_directory() -> Path:
    """The directory of the roles: beside the playbooks, or in them."""
    inside = content_directory() / "roles"
    return inside if inside.is_dir() else content_directory().parent / "roles"


@cache
def content_digest() -> str:
    """sha256 over the names and bytes of every playbook and role file."""
    digest = hashlib.sha256()
    for top in (content_directory(), roles_directory()):
        for path in sorted(p for p in top.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            digest.update(f"{path.relative_to(top)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()

"""Versions that hosts tell, which may be none."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version


def older(has: str | None, wanted: str) -> bool:
    """Whether the version `has` is below `wanted`; one that is no version is."""
    try:
        return Version(has or "0") < Version(wanted)
    except InvalidVersion:
        return True

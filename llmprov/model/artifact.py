"""A file that hosts install from: where it comes from and what it must be."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Artifact(BaseModel):
    """An installer, a conda package or a wheel. The digest decides; the URL only says where to look."""

    model_config = ConfigDict(frozen=True)

    filename: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+!-]{0,250}$")]
    url: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: int | None = None
    #: The distribution's or package's name and version, where the file is one.
    name: str = ""
    version: str = ""

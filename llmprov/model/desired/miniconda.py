"""The role `miniconda`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmprov.model.desired.types import CONDA_PREFIX, SHA256, AbsolutePath, Channel, RoleVars, State


class MinicondaVars(RoleVars):
    """A conda installation: Miniconda, Miniforge or Anaconda."""

    role = "miniconda"
    summary = "Install conda for every user of the host, from the official installer, checked."

    state: State = Field(
        "present", description="Whether conda is there; `absent` removes it whole, its environments with it."
    )
    prefix: AbsolutePath = Field(CONDA_PREFIX, description="Directory of the installation.")
    installer: str = Field(
        "Miniconda3-py313_26.5.3-1",
        pattern=r"^(Miniconda3|Miniforge3|Anaconda3)-[A-Za-z0-9_.+-]+$",
        description="The installer, by the official name without platform and ending (`Miniconda3-py313_26.5.3-1`, "
        "`Miniforge3-26.5.3-0`, `Anaconda3-2026.06-1`), or the whole name without ending.",
    )
    url: str = Field(
        "",
        description="Where the installer comes from: its URL, a mirror's folder ending in `/`, or a file on the "
        "controller; empty takes the publisher's own place.",
    )
    sha256: str = Field(
        "", pattern=SHA256, description="The installer's sha256; needed where the tables do not know the installer."
    )
    owner: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*\$?$")] = Field(
        "root", description="User who owns the installation; the host's other users may read and run it."
    )
    channels: list[Channel] = Field(
        ["conda-forge"], description="Channels set for the installation, first one first.", min_length=1
    )
    channel_priority: Literal["strict", "flexible", "disabled"] = Field(
        "strict", description="How conda chooses between channels."
    )
    envs_dirs: list[AbsolutePath] = Field(
        ["/opt/llmprov/envs"],
        description="Directories whose environments every user can name: `conda activate llm` for the one at "
        "/opt/llmprov/envs/llm.",
    )
    accept_terms: bool = Field(
        False,
        description="Accept the terms of service of Anaconda's channels on behalf of the host's users; needed where "
        "one is among the channels. Organisations of 200 people and more need a paid licence for them.",
    )
    init: bool = Field(
        False, description="Give the `conda` command, activate included, to every user's shell at login."
    )

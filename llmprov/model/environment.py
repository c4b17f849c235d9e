"""One environment as it should be, with profiles and PyTorch worked in: what the plan decides on and roles build."""

from __future__ import annotations

import shlex
from typing import Any

from pydantic import BaseModel, ConfigDict

from llmprov.model.artifact import Artifact
from llmprov.model.desired import Manager, State


class Exact(BaseModel):
    """Every package of an environment, as a lock has it."""

    model_config = ConfigDict(frozen=True)

    conda: list[Artifact] = []
    wheels: list[Artifact] = []

    def conda_versions(self) -> dict[str, str]:
        """Conda package -> `version=build`, from the names of the archives."""
        found = {}
        for artifact in self.conda:
            stem = artifact.filename.removesuffix(".conda").removesuffix(".tar.bz2")
            name, version, build = stem.rsplit("-", 2)
            found[name] = f"{version}={build}"
        return found


class EnvironmentSpec(BaseModel):
    """One environment. Every requirement is spelled out: profiles are expanded, companions of PyTorch pinned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manager: Manager
    path: str
    state: State = "present"
    python: str = ""
    packages: list[str] = []
    packages_absent: list[str] = []
    conda_packages: list[str] = []
    channels: list[str] = []
    variables: dict[str, str] = {}
    on_path: bool = False
    #: PyTorch as one requirement, where it is installed with this environment; and the index it comes from.
    torch: list[str] = []
    torch_index: str = ""
    #: Every package, where there is a lock.
    exact: Exact | None = None
    #: Whether this is the environment that PyTorch and verification are about.
    main: bool = True

    @property
    def component(self) -> str:
        """Its name in the plan."""
        role = "conda_env" if self.manager == "conda" else "venv"
        return role if self.main else f"{role} {self.path}"

    def declaration(self) -> dict[str, Any]:
        """What is kept in the environment, so that a later run sees any change of it; PyTorch is told apart."""
        keys = ("manager", "python", "packages", "packages_absent", "conda_packages", "channels")
        return {key: value for key, value in self.model_dump(mode="json").items() if key in keys}

    def exports(self) -> str:
        """The environment variables, as lines for a shell."""
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.variables.items()))

    def profile(self) -> str | None:
        """The login script for the host's users; None where they are to get nothing."""
        path = f"PATH={shlex.quote(self.path + '/bin')}:$PATH\n" if self.on_path else ""
        body = self.exports() + path
        return f"# Written by llmprov for {self.path}; changes are overwritten.\n{body}" if body else None

    def activation(self) -> str | None:
        """What conda runs when the environment is activated."""
        return self.exports() or None if self.manager == "conda" else None

"""What a fleet gets, to the digest: the content of `llmprov.lock`."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from llmprov.model.artifact import Artifact
from llmprov.model.environment import Exact


class _Locked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HostClass(_Locked):
    """Hosts that packages are chosen for alike."""

    architecture: str
    glibc: str
    #: The newest CUDA that the driver runs, where conda packages are chosen by it.
    cuda: str | None = None
    #: The host's own Python as `3.11`, where a virtual environment is made from it.
    python: str | None = None

    def sentence(self) -> str:
        """The class in words: `x86_64, glibc 2.36, CUDA 12.8`."""
        words = [self.architecture, f"glibc {self.glibc}"]
        words += [f"CUDA {self.cuda}"] if self.cuda else []
        return ", ".join(words + ([f"Python {self.python}"] if self.python else []))


class LockedFile(_Locked):
    """One installer, conda package or wheel."""

    name: str
    version: str = ""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    #: Without users, passwords and tokens.
    url: str

    @property
    def filename(self) -> str:
        """The file's own name, as its URL has it."""
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])

    def artifact(self, url: str | None = None) -> Artifact:
        """What the depot fetches; `url` where it takes a secret to get there."""
        return Artifact(
            filename=self.filename, url=url or self.url, sha256=self.sha256, name=self.name, version=self.version
        )


class LockedTool(LockedFile):
    """What is brought beside environments: conda's installer, and uv."""

    architecture: str
    #: Empty for an installer, which brings its own.
    glibc: str = ""


class LockedDriver(_Locked):
    """A driver that was declared by its exact version."""

    system: str
    gpus: list[str]
    version: str
    packages: list[str]


class LockedEnvironment(_Locked):
    """One environment of one class of hosts, and the declaration that it was solved from."""

    path: str
    of: HostClass
    hosts: list[str]
    declaration: dict[str, Any]
    conda: list[LockedFile] = []
    wheels: list[LockedFile] = []

    def versions(self) -> dict[str, str]:
        """Package -> version, conda's with their build."""
        by_conda = Exact(conda=[file.artifact() for file in self.conda]).conda_versions()
        return by_conda | {file.name: file.version for file in self.wheels}


class Lock(_Locked):
    """The whole file. `version` is raised when an older llmprov could misread a newer file."""

    version: Literal[1] = 1
    tools: list[LockedTool] = []
    drivers: list[LockedDriver] = []
    environments: list[LockedEnvironment] = []

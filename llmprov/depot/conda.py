"""Conda specs in, conda packages out: solved by py-rattler on the controller, once for each kind of host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from llmprov.depot.store import cache_directory
from llmprov.errors import LlmprovError
from llmprov.knowledge.tables import channel_urls
from llmprov.model import Artifact

SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le"}


@dataclass(frozen=True)
class CondaTarget:
    """A kind of host: architecture (`x86_64`), glibc (`2.36`), kernel (`6.1`), newest CUDA its driver runs, or None."""

    architecture: str
    glibc: str
    kernel: str
    cuda: str | None = None

    def virtual_packages(self) -> list[tuple[str, str]]:
        """What conda calls virtual packages: what the host brings and no channel does."""
        found = [("__unix", "0"), ("__linux", self.kernel or "0"), ("__archspec", "1"), ("__glibc", self.glibc or "0")]
        return found + ([("__cuda", self.cuda)] if self.cuda else [])


@dataclass(frozen=True)
class Question:
    """One solve, as it is handed to the solver's process."""

    channels: list[str]
    specs: list[str]
    subdir: str
    priority: str
    virtual_packages: list[tuple[str, str]]
    kept: list[str] = field(default_factory=list)
    cache: str = ""


def solve(
    specs: Sequence[str],
    channels: Sequence[str],
    target: CondaTarget,
    priority: str = "strict",
    kept: Sequence[str] = (),
) -> list[Artifact]:
    """The conda packages that fulfil `specs`.

    Args:
        specs: as conda takes them.
        channels: names or URLs, the first one first.
        target: the kind of host.
        priority: `strict`, `flexible` or `disabled`.
        kept: `name=version=build` of what is there already, kept where it may be.

    Raises:
        LlmprovError: a channel cannot be read, or nothing fulfils the specs.
    """
    subdir = SUBDIRS.get(target.architecture)
    if subdir is None:
        raise LlmprovError(f"conda has no packages for the architecture {target.architecture}")
    question = Question(
        channels=[url for channel in channels for url in channel_urls(channel)],
        specs=list(specs),
        subdir=subdir,
        priority=priority,
        virtual_packages=target.virtual_packages(),
        kept=list(kept),
        cache=str(cache_directory() / "repodata"),
    )
    # A process of its own: the solver starts threads, which an Ansible that forks must not have.
    done = subprocess.run(
        [sys.executable, "-m", "llmprov.depot.rattler_solver"],
        input=json.dumps(asdict(question)),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise LlmprovError(f"the conda solver failed: {done.stderr.strip()[-500:] or 'it said nothing'}") from None
    if "error" in answer:
        raise LlmprovError(
            f"the conda packages {', '.join(specs)} cannot be had from {', '.join(channels)}: {answer['error']}"
        )
    return [Artifact.model_validate(record) for record in answer["records"]]

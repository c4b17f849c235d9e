"""Conda for labs on machines that no conda channel can be reached from: real packages, and a stand-in installer.

The packages are Debian's Python and wheels, repacked in conda's own format; the stand-in looks to a role like the
Miniconda installer and leaves a `conda` that answers the calls in tests/fixtures/conda as the real one did. It proves
what roles do, not that they work with the real conda; docs/conda.md says what was tried with which.

    package     one conda package: files in, archive out
    channel     the channel: which packages, and its index
    standin     the installer
    program     the stand-in's `conda`, which runs on hosts
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmprov.depot.pip_config import PipConfig
from llmprov.errors import LabError
from llmprov.knowledge import conda_installer
from llmprov.model import MinicondaVars

if TYPE_CHECKING:
    from llmprov.lab.conda.standin import CondaKit


def installer_is_reachable() -> bool:
    """Whether the real installer can be had from this machine; asked with one short request."""
    # Not at the top, where every llmprov command would pay for it.
    import requests

    url = conda_installer(MinicondaVars().installer, "x86_64").url
    try:
        answer = requests.head(url, timeout=5, allow_redirects=True, verify=PipConfig.of_this_machine().verify)
    except requests.RequestException:
        return False
    return answer.ok


def kit_where_needed(root: Path, say: Callable[[str], object]) -> CondaKit | None:
    """The lab's own channel and installer, built where the real ones cannot be reached; None where they can.

    Raises:
        LabError: it is needed, and what it is made of is missing.
    """
    if installer_is_reachable():
        return None
    try:
        from llmprov.lab.conda.standin import ensure_kit
    except ImportError as error:
        raise LabError(
            f"no conda installer can be reached from this machine, and the lab's stand-in needs {error.name}: "
            "`pip install 'llmprov[lab-conda]'`"
        ) from None
    return ensure_kit(root, say)


__all__ = ["installer_is_reachable", "kit_where_needed"]

"""Whether a host can be provisioned at all, and its Python."""

from __future__ import annotations

from packaging.version import Version

from llmprov.knowledge import SUPPORTED_OS
from llmprov.knowledge.tables import SUPPORTED_ARCHITECTURES
from llmprov.model import Action, Kind, Observation, PreflightVars, Refusal

#: The lowest Python on which the observe module and the payload run.
LOWEST_PYTHON = Version("3.9")

#: The RHEL family is supported by major version: 9.4 is 9.
BY_MAJOR = ("rhel", "rocky", "almalinux", "debian")


def refusals(wanted: PreflightVars, seen: Observation) -> list[Refusal]:
    """Why this host cannot be provisioned: system, architecture, Python, clock."""
    found = [] if wanted.allow_unsupported else [*_system(seen), *_architecture(seen)]
    return [*found, *_python(seen), *_clock(wanted, seen)]


def _system(seen: Observation) -> list[Refusal]:
    system = seen.os
    version = system.version_id.split(".")[0] if system.id in BY_MAJOR else system.version_id
    if version in SUPPORTED_OS.get(system.id, []):
        return []
    supported = "; ".join(f"{name} {', '.join(versions)}" for name, versions in SUPPORTED_OS.items())
    return [
        Refusal(
            component="preflight",
            this=f"the operating system {system.name or system.id or 'of unknown name'}",
            that=f"the supported ones ({supported})",
            remedy="set preflight_allow_unsupported to try all the same",
        )
    ]


def _architecture(seen: Observation) -> list[Refusal]:
    if seen.os.architecture in SUPPORTED_ARCHITECTURES:
        return []
    return [
        Refusal(
            component="preflight",
            this=f"the architecture {seen.os.architecture or 'of unknown name'}",
            that=f"the supported ones ({', '.join(SUPPORTED_ARCHITECTURES)})",
            remedy="set preflight_allow_unsupported to try all the same",
        )
    ]


def _python(seen: Observation) -> list[Refusal]:
    if seen.python is None and seen.os.package_manager == "none":
        return [
            Refusal(
                component="preflight",
                this="a host without Python",
                that="a host without apt or dnf to install it",
                remedy="install Python 3.9 or later by hand",
            )
        ]
    if seen.python_version and Version(seen.python_version) < LOWEST_PYTHON:
        return [
            Refusal(
                component="preflight",
                this=f"Python {seen.python_version} at {seen.python}",
                that=f"the lowest that is supported, {LOWEST_PYTHON}",
                remedy="install a newer Python and name it in ansible_python_interpreter",
            )
        ]
    return []


def _clock(wanted: PreflightVars, seen: Observation) -> list[Refusal]:
    if seen.clock_skew_s is None:
        return []
    # The round trip bounds what we know: only what is surely too far is refused.
    surely = abs(seen.clock_skew_s) - (seen.clock_uncertainty_s or 0.0)
    if surely <= wanted.max_clock_skew_s:
        return []
    direction = "ahead of" if seen.clock_skew_s > 0 else "behind"
    return [
        Refusal(
            component="preflight",
            this=f"a clock {abs(seen.clock_skew_s):.0f} s {direction} the controller's",
            that=f"the {wanted.max_clock_skew_s:g} s allowed",
            remedy="set the host's clock (`timedatectl set-ntp true`), or raise preflight_max_clock_skew_s",
        )
    ]


def plan_python(seen: Observation) -> Action:
    """Python for Ansible itself, installed by the system's package manager where there is none."""
    if seen.python is None:
        return Action(
            component="python",
            kind=Kind.INSTALL,
            after=f"python3 by {seen.os.package_manager}",
            why="the host has no Python, and everything else needs one",
        )
    return Action(component="python", kind=Kind.NONE, before=seen.python_version, after=seen.python_version)


def warnings(seen: Observation) -> list[str]:
    """What does not stop provisioning but should be known before it starts."""
    found = []
    if seen.package_lock_held:
        found.append("another package manager is at work on the host: installing will wait for it")
    if seen.reboot_pending:
        found.append("the host asks for a reboot")
    return found

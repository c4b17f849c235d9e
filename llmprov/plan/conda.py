"""The conda installation: what differs from its declaration, and what cannot be."""

from __future__ import annotations

import re
from typing import Any

import yaml

from llmprov.knowledge import conda_installer, is_anacondas
from llmprov.knowledge.tables import channel_urls
from llmprov.model import (
    Action,
    Artifact,
    CondaPrefix,
    EnvironmentSpec,
    Kind,
    MinicondaVars,
    Observation,
    Refusal,
)
from llmprov.plan import by_hand
from llmprov.plan.versions import older

CONDA_VERSION = re.compile(r"[-_](\d+\.\d+\.\d+)(?:-|$)")


def refusals(wanted: MinicondaVars, environments: list[EnvironmentSpec], seen: Observation) -> list[Refusal]:
    """Why conda cannot be installed or used as declared."""
    used = [spec for spec in environments if spec.manager == "conda" and spec.state == "present"]
    if wanted.state == "absent":
        return [
            _refuse(
                f"the conda environment {spec.path}",
                "`miniconda_state: absent`",
                "declare that environment absent too, or let llm_env_manager be venv",
            )
            for spec in used
        ]
    if not used:
        return []
    found = [*_terms(wanted, used), *_installer(wanted, seen)]
    if seen.conda is not None and seen.conda.kind == "other":
        found.append(
            _refuse(
                f"a conda installation at {wanted.prefix}",
                "the files that are there and are no conda installation",
                "move them away, or choose another miniconda_prefix",
            )
        )
    return found


def _terms(wanted: MinicondaVars, used: list[EnvironmentSpec]) -> list[Refusal]:
    named = {channel for spec in used for channel in spec.channels if is_anacondas(channel)}
    named |= {channel for channel in wanted.channels if is_anacondas(channel)}
    if not named or wanted.accept_terms:
        return []
    return [
        _refuse(
            f"Anaconda's channel {', '.join(sorted(named))}",
            "terms of service that nobody accepted",
            "read them (organisations of 200 people and more need a paid licence) and set miniconda_accept_terms, "
            "or take conda-forge",
        )
    ]


def _installer(wanted: MinicondaVars, seen: Observation) -> list[Refusal]:
    if action(wanted, seen.conda).kind in (Kind.NONE, Kind.REMOVE):
        return []
    known = conda_installer(wanted.installer, seen.os.architecture)
    if wanted.sha256 or known.sha256:
        return []
    return [
        _refuse(
            f"the installer {known.filename}",
            "the tables of this llmprov, which do not know its sha256",
            "set miniconda_sha256 to the digest that its publisher gives",
        )
    ]


def _refuse(this: str, that: str, remedy: str) -> Refusal:
    return Refusal(component="miniconda", this=this, that=that, remedy=remedy)


def installer(wanted: MinicondaVars, architecture: str) -> Artifact:
    """The installer for a host, from where it was declared to come from."""
    known = conda_installer(wanted.installer, architecture)
    url = wanted.url or known.url
    if url.startswith("/"):
        url = f"file://{url}"
    return Artifact(
        filename=known.filename,
        url=f"{url}{known.filename}" if url.endswith("/") else url,
        sha256=wanted.sha256 or known.sha256,
        name=wanted.installer,
    )


def plan_conda(
    wanted: MinicondaVars, environments: list[EnvironmentSpec], seen: Observation, rebuild: bool = False
) -> Action:
    """The conda installation of a host; a host whose environments do without needs none."""
    used = any(spec.manager == "conda" and spec.state == "present" for spec in environments)
    if wanted.state == "present" and not used:
        return Action(component="miniconda", kind=Kind.NONE)
    return action(wanted, seen.conda, rebuild)


def action(wanted: MinicondaVars, there: CondaPrefix | None, rebuild: bool = False) -> Action:
    """What is to be done about the prefix itself."""
    there = there or CondaPrefix(path=wanted.prefix)
    has = there.version and f"conda {there.version}"
    if wanted.state == "absent":
        gone = there.kind == "none"
        kind = Kind.NONE if gone else Kind.REMOVE
        return Action(component="miniconda", kind=kind, before=has, why="" if gone else "declared absent")
    after = wanted.installer
    if there.kind == "none":
        return Action(component="miniconda", kind=Kind.INSTALL, after=after, why=f"nothing is at {wanted.prefix}")
    problem = _damage(wanted, there) or ("; ".join(by_hand.reasons_of_base(there)) if rebuild else "")
    if problem:
        return Action(component="miniconda", kind=Kind.REPAIR, before=has, after=after, why=problem)
    if needs_installer(wanted, there):
        version = conda_version(wanted.installer)
        down = version is not None and older(version, there.version or "0")
        kind = Kind.DOWNGRADE if down else Kind.UPGRADE
        return Action(component="miniconda", kind=kind, before=has, after=after, why="another installer is declared")
    why = settings_differ(wanted, there)
    if why:
        return Action(component="miniconda", kind=Kind.UPGRADE, before=has, after=why, why="its settings differ")
    return Action(component="miniconda", kind=Kind.NONE, before=has, after=has)


def _damage(wanted: MinicondaVars, there: CondaPrefix) -> str:
    if not there.works:
        return "its conda does not run"
    if not there.readable:
        return "the host's other users cannot read it"
    if there.owner != wanted.owner:
        return f"it belongs to {there.owner}, and not to {wanted.owner}"
    return ""


def needs_installer(wanted: MinicondaVars, there: CondaPrefix) -> bool:
    """Whether the installer has to run: nothing there, conda does not run, or another version is declared.

    The version counts where the installer's name tells one (Miniconda, Miniforge); else the installer's own name, as
    llmprov left it in the prefix.
    """
    if there.kind == "none" or not there.works:
        return True
    version = conda_version(wanted.installer)
    if version is None:
        return there.installer != wanted.installer
    return there.version != version


def conda_version(installer_name: str) -> str | None:
    """The conda version that an installer brings: 26.5.3 for `Miniconda3-py313_26.5.3-1`; None if it does not say."""
    if installer_name.startswith("Anaconda3"):
        return None
    match = CONDA_VERSION.search(installer_name)
    return match[1] if match else None


def settings_differ(wanted: MinicondaVars, there: CondaPrefix) -> str:
    """Which settings of the prefix are not as declared; empty where all are."""
    found = []
    if _condarc(there.condarc) != condarc(wanted):
        found.append(f"channels {', '.join(wanted.channels)} ({wanted.channel_priority})")
    if set(terms(wanted)) - set(there.terms):
        found.append("terms of Anaconda's channels accepted")
    if wanted.init != there.init:
        found.append("conda in users' shells" if wanted.init else "no conda in users' shells")
    return "; ".join(found)


def condarc(wanted: MinicondaVars) -> dict[str, Any]:
    """The prefix's own .condarc.

    `default_channels` is empty so that nothing falls back to Anaconda's; notices are off because conda asks for them
    with every call, minutes long where there is no way out.
    """
    defaults = channel_urls("defaults") if "defaults" in wanted.channels else []
    return {
        "channels": list(wanted.channels),
        "channel_priority": wanted.channel_priority,
        "default_channels": defaults,
        "envs_dirs": list(wanted.envs_dirs),
        "number_channel_notices": 0,
    }


def terms(wanted: MinicondaVars) -> list[str]:
    """The channels whose terms are to be accepted on the host."""
    if not wanted.accept_terms:
        return []
    return [url for channel in wanted.channels if is_anacondas(channel) for url in channel_urls(channel)]


def _condarc(text: str | None) -> Any:
    try:
        return yaml.safe_load(text or "")
    except yaml.YAMLError:
        return None

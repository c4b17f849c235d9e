"""From what a fleet is declared to be to its lock: observed by one plan, resolved here, once a class of hosts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmprov.errors import UsageError
from llmprov.model import Artifact, Desired, EnvironmentSpec, FleetReport, Observation
from llmprov.model.lock import Lock, LockedDriver, LockedEnvironment, LockedFile, LockedTool
from llmprov.plan import conda, decide, locked, specs
from llmprov.plan.by_hand import some
from llmprov.plan.decide import planned_driver
from llmprov.run import environments, lock_file, session
from llmprov.run.options import Options
from llmprov.run.progress import ProgressFactory
from llmprov.text import without_secrets


@dataclass(frozen=True)
class Upgrade:
    """Which packages may move: all, or those named; none without an upgrade."""

    wanted: bool = False
    names: tuple[str, ...] = ()

    def keeps(self, name: str) -> bool:
        """Whether a package stays where it is as long as it may."""
        return not self.wanted or bool(self.names and name not in self.names)


@dataclass
class Locked:
    """A lock that was made, what moved in it, and who is not in it, and why."""

    lock: Lock
    before: Lock | None
    fleet: FleetReport
    left_out: list[str] = field(default_factory=list)

    def moves(self) -> dict[str, list[str]]:
        """What moved, a list of phrases for each environment of each class; and for what comes beside them.

        Hosts of a class for which other packages move than for the rest of it have a list of their own.
        """
        was, has = _by_host(self.before or Lock()), _by_host(self.lock)
        groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for title, host in sorted({*was, *has}):
            lines = tuple(moves(was.get((title, host), {}), has.get((title, host), {})))
            groups.setdefault((title, lines), []).append(host)
        found = {}
        for (title, lines), hosts in groups.items():
            several = sum(title == other for other, _ in groups) > 1
            if lines:
                found[f"{title} on {some(hosts)}" if several else title] = list(lines)
        beside = moves(_beside(self.before or Lock()), _beside(self.lock))
        return found | ({"beside environments": beside} if beside else {})


def _by_host(lock: Lock) -> dict[tuple[str, str], dict[str, str]]:
    """(environment and class, host) -> package -> version."""
    return {
        (f"{entry.path} ({entry.of.sentence()})", host): versions
        for entry in lock.environments
        for versions in [entry.versions()]
        for host in entry.hosts
    }


@dataclass(frozen=True)
class _Host:
    name: str
    desired: Desired
    seen: Observation
    variant: str | None


def moves(was: dict[str, str], has: dict[str, str]) -> list[str]:
    """What moved between two sets of packages, a line each."""
    lines = []
    for name in sorted({*was, *has}):
        if name not in was:
            lines.append(f"+ {name} {has[name]}")
        elif name not in has:
            lines.append(f"- {name} {was[name]}")
        elif was[name] != has[name]:
            lines.append(f"~ {name} {was[name]} -> {has[name]}")
    return lines


def _beside(lock: Lock) -> dict[str, str]:
    tools = {f"{tool.name} {tool.architecture}": tool.version or tool.sha256[:12] for tool in lock.tools}
    return tools | {f"driver {d.system} {', '.join(d.gpus)}": d.version for d in lock.drivers}


def make(options: Options, progress: ProgressFactory, path: Path, upgrade: Upgrade) -> Locked:
    """Observe the hosts and resolve what they get; nothing is written, and nothing is changed on any host.

    Raises:
        UsageError: a declaration is wrong, or the lock at `path` is none.
        LlmprovError: a declaration cannot be resolved.
    """
    before = lock_file.read(path) if path.exists() else None
    _require_known(upgrade, before, path)
    asked = session.Session(session.PLAN, options, progress, records=("desired",))
    fleet = asked.execute(None).fleet
    entries = asked.ledger.entries.values()
    hosts, left_out = [], []
    for entry in entries:
        if not entry.selected:
            continue
        if entry.desired is None or entry.observation is None or entry.plan is None:
            left_out.append(f"{entry.host}: it could not be asked")
            continue
        # Held against no lock, which is about to be another one.
        planned = decide(entry.desired, entry.observation)
        problem = planned.refusals[0].sentence() if planned.refusals else _unknown(entry.desired, entry.observation)
        if problem:
            left_out.append(f"{entry.host}: {problem}")
            continue
        hosts.append(_Host(entry.host, entry.desired, entry.observation, planned.pytorch_variant))
    lock = _resolved(hosts, left_out, before or Lock(), upgrade)
    others = {entry.host for entry in entries} - {host.name for host in hosts}
    return Locked(_with_others(lock, before or Lock(), others), before, fleet, left_out)


def _unknown(desired: Desired, seen: Observation) -> str:
    """Why a host without Python may not be locked yet; empty where enough is known."""
    if seen.python is None and desired.pytorch.state == "present" and desired.pytorch.variant == "auto":
        return "it has no Python, so its GPUs are unknown: install python3, or set pytorch_variant"
    return "" if seen.os.glibc else "it tells no glibc, and packages are chosen by that"


def _require_known(upgrade: Upgrade, before: Lock | None, path: Path) -> None:
    if not upgrade.wanted:
        return
    if before is None:
        raise UsageError(f"there is no lock at {path} to upgrade: write one first, without --upgrade")
    known = {name for entry in before.environments for name in entry.versions()}
    unknown = sorted(set(upgrade.names) - known)
    if unknown:
        raise UsageError(f"no package {unknown[0]} is in the lock {path}: name one that is there, or none for all")


class _Answers:
    """Answers to questions that several classes ask alike."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Artifact]] = {}

    def once(self, key: str, work: Callable[[], list[Artifact]]) -> list[Artifact]:
        if key not in self._kept:
            self._kept[key] = work()
        return self._kept[key]


def _resolved(hosts: Sequence[_Host], left_out: list[str], before: Lock, upgrade: Upgrade) -> Lock:
    answers = _Answers()
    tools: dict[tuple[str, ...], LockedTool] = {}
    drivers: dict[str, LockedDriver] = {}
    found: list[LockedEnvironment] = []
    for host in sorted(hosts, key=lambda host: host.seen.os.kernel):
        try:
            mine = [
                _environment(spec, host, before, upgrade, answers)
                for spec in specs.specs(host.desired, host.variant)[0]
                if spec.state == "present"
            ]
        except environments.UnknownPythonError as error:
            left_out.append(f"{host.name}: {error}")
            continue
        for entry in mine:
            alike = _alike(entry, found)
            (alike.hosts.append(host.name) if alike else found.append(entry))
        tools |= {(t.name, t.version, t.architecture, t.glibc): t for t in _tools(host, answers)} if mine else {}
        drivers |= {str(driver): driver for driver in _driver(host)}
    return _sorted(list(tools.values()), list(drivers.values()), found)


def _alike(entry: LockedEnvironment, found: Sequence[LockedEnvironment]) -> LockedEnvironment | None:
    """The one that is the same on other hosts."""
    return next((other for other in found if other.model_copy(update={"hosts": entry.hosts}) == entry), None)


def _sorted(tools: list[LockedTool], drivers: list[LockedDriver], found: list[LockedEnvironment]) -> Lock:
    return Lock(
        tools=sorted(tools, key=str),
        drivers=sorted(drivers, key=str),
        environments=sorted(
            (entry.model_copy(update={"hosts": sorted(entry.hosts)}) for entry in found),
            key=lambda entry: (entry.path, str(entry.of), entry.hosts),
        ),
    )


def _environment(
    spec: EnvironmentSpec, host: _Host, before: Lock, upgrade: Upgrade, answers: _Answers
) -> LockedEnvironment:
    of = locked.host_class(spec, host.seen)
    was = [entry for entry in before.environments if (entry.path, entry.of) == (spec.path, of)]
    # Of several the one that this host had.
    was = sorted(was, key=lambda entry: host.name not in entry.hosts)[:1]
    builds = {name: has for entry in was for name, has in entry.versions().items() if upgrade.keeps(name)}
    wheels = {file.name for entry in was for file in entry.wheels}
    kept = environments.PreferredVersions(
        conda={name: has for name, has in builds.items() if name not in wheels},
        packages={name: has for name, has in builds.items() if name in wheels},
    )
    linked, found = environments.resolve(spec, host.desired, host.seen, kept, answers.once)
    absent = {name.lower() for name in spec.packages_absent}
    return LockedEnvironment(
        path=spec.path,
        of=of,
        hosts=[host.name],
        declaration=locked.declaration(spec, host.desired),
        conda=[_file(artifact) for artifact in linked],
        wheels=[_file(artifact) for artifact in found if artifact.name not in absent],
    )


def _file(artifact: Artifact) -> LockedFile:
    url = without_secrets(artifact.url)
    return LockedFile(name=artifact.name, version=artifact.version, sha256=artifact.sha256, url=url)


def _tools(host: _Host, answers: _Answers) -> list[LockedTool]:
    architecture, glibc = host.seen.os.architecture, host.seen.os.glibc
    uv = _file(environments.uv_wheel(host.desired, host.seen, answers.once))
    found = [LockedTool(**uv.model_dump(), architecture=architecture, glibc=glibc)]
    if locked.needs_conda(host.desired):
        installer = _file(conda.installer(host.desired.miniconda, architecture))
        found.append(LockedTool(**installer.model_dump(), architecture=architecture))
    return found


def _driver(host: _Host) -> list[LockedDriver]:
    """The driver, where its exact version was declared; else the archive decides."""
    _, chosen, _ = planned_driver(host.desired, host.seen)
    if chosen is None or "." not in chosen.version:
        return []
    system = f"{host.seen.os.id} {host.seen.os.version_id} {host.seen.os.architecture}"
    gpus = sorted({gpu.device_id for gpu in host.seen.gpus})
    return [LockedDriver(system=system, gpus=gpus, version=chosen.version, packages=list(chosen.packages))]


def _with_others(lock: Lock, before: Lock, others: set[str]) -> Lock:
    """With what hosts have that were not asked, or could not be: their part of the lock stays as it was."""
    kept = []
    for entry in before.environments:
        left = [name for name in entry.hosts if name in others]
        alike = _alike(entry, lock.environments)
        if left and alike:
            alike.hosts.extend(left)
        elif left:
            kept.append(entry.model_copy(update={"hosts": left}))
    if not kept:
        return _sorted(list(lock.tools), list(lock.drivers), list(lock.environments))
    tools = {(t.name, t.architecture, t.glibc, t.sha256): t for t in (*before.tools, *lock.tools)}
    drivers = {str(driver): driver for driver in (*before.drivers, *lock.drivers)}
    return _sorted(list(tools.values()), list(drivers.values()), [*lock.environments, *kept])


def save(made: Locked, path: Path) -> bool:
    """Write the lock, unless the file says just that already or it would be empty; returns whether it did.

    Raises:
        LlmprovError: it cannot be written.
    """
    if made.before == made.lock or not made.lock.environments:
        return False
    lock_file.write(path, made.lock)
    return True

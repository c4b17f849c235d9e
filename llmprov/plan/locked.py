"""A declaration held against a lock: where both agree, hosts get exactly what the lock says; else they are refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmprov.knowledge import cuda_of_driver
from llmprov.knowledge.tables import channel_urls
from llmprov.model import Desired, EnvironmentSpec, Observation, Refusal
from llmprov.model.environment import Exact
from llmprov.model.lock import HostClass, Lock, LockedEnvironment, LockedFile
from llmprov.plan import conda
from llmprov.plan.by_hand import some
from llmprov.plan.driver_packages import Driver
from llmprov.plan.specs import declarations
from llmprov.text import without_secrets

LOCK_IT = "lock it anew (`llmprov lock -i INVENTORY` shows what moves), or take the change back"


def cuda_of(seen: Observation) -> str | None:
    """The newest CUDA that the host's driver runs; None without GPUs or driver."""
    driver = seen.driver.module_version or seen.driver.package_version
    return cuda_of_driver(driver) if driver and seen.gpus else None


def host_class(spec: EnvironmentSpec, seen: Observation) -> HostClass:
    """The class of a host, as far as it matters to an environment."""
    own = spec.manager == "venv" and not spec.python
    python = ".".join((seen.python_version or "").split(".")[:2]) if own else None
    cuda = cuda_of(seen) if spec.manager == "conda" else None
    return HostClass(architecture=seen.os.architecture, glibc=seen.os.glibc, cuda=cuda, python=python)


def declaration(spec: EnvironmentSpec, desired: Desired) -> dict[str, Any]:
    """What decides the packages of an environment, without secrets."""
    found = spec.declaration() | {"torch": spec.torch, "torch_index": without_secrets(spec.torch_index)}
    found["channels"] = [without_secrets(channel) for channel in spec.channels]
    if spec.manager == "conda":
        found["channel_priority"] = desired.miniconda.channel_priority
    return {key: value for key, value in found.items() if value}


def pin(
    spec: EnvironmentSpec, desired: Desired, seen: Observation, lock: Lock | None
) -> tuple[EnvironmentSpec, list[Refusal]]:
    """The environment as the lock has it, or why it has not. A host without Python cannot tell yet what it is."""
    if lock is None or spec.state == "absent" or seen.python is None:
        return spec, []
    of, wanted = host_class(spec, seen), declaration(spec, desired)
    here = [entry for entry in lock.environments if (entry.path, entry.of) == (spec.path, of)]
    found = next((entry for entry in here if entry.declaration == wanted), None)
    if found is not None:
        return spec.model_copy(update={"exact": exact(found, spec)}), []
    if here:
        this, that = f"the declaration of {spec.path} ({_differs(here[0], wanted)})", f"its lock for {of.sentence()}"
    else:
        this, that = f"the environment {spec.path} on a host with {of.sentence()}", "the lock, which has none for it"
    return spec, [Refusal(component=spec.component, this=this, that=that, remedy=LOCK_IT)]


def exact(entry: LockedEnvironment, spec: EnvironmentSpec) -> Exact:
    """A lock's entry as what hosts install."""
    return Exact(
        conda=[file.artifact(_with_secrets(file, spec.channels)) for file in entry.conda],
        wheels=[file.artifact() for file in entry.wheels],
    )


def _with_secrets(file: LockedFile, channels: Iterable[str]) -> str:
    """The URL by the declared channel, which may carry what it takes to be let in."""
    for url in (url for channel in channels for url in channel_urls(channel)):
        plain = without_secrets(url)
        if plain != url and file.url.startswith(f"{plain}/"):
            return url + file.url.removeprefix(plain)
    return file.url


def _differs(entry: LockedEnvironment, wanted: dict[str, Any]) -> str:
    """Where a declaration and a locked one part: `packages: with peft, without numpy>=2`."""
    told = []
    for key in sorted({*wanted, *entry.declaration}):
        has, was = wanted.get(key), entry.declaration.get(key)
        if has == was:
            continue
        if isinstance(has or [], list) and isinstance(was or [], list):
            more = [str(text) for text in has or [] if text not in (was or [])]
            less = [str(text) for text in was or [] if text not in (has or [])]
            words = [f"{word} {some(texts)}" for word, texts in (("with", more), ("without", less)) if texts]
            told.append(f"{key}: {', '.join(words) or 'in another order'}")
        else:
            told.append(f"{key}: {has or 'none'} where {was or 'none'} is locked")
    return "; ".join(told)


def refusals(desired: Desired, seen: Observation, lock: Lock | None, driver: Driver | None) -> list[Refusal]:
    """What else a lock has otherwise than the declaration: the installer, uv, a driver of an exact version."""
    if lock is None or seen.python is None:
        return []
    found = []
    if needs_conda(desired):
        artifact = conda.installer(desired.miniconda, seen.os.architecture)
        if not any(tool.sha256 == artifact.sha256 for tool in lock.tools):
            found.append(_tool("miniconda", f"the installer {artifact.filename}, sha256 {artifact.sha256[:12]}"))
    version = desired.venv.uv_version
    if locked_uv(lock, desired, seen) is None:
        found.append(_tool("uv", f"uv {version} for {seen.os.architecture}, glibc {seen.os.glibc}"))
    if driver is not None and "." in driver.version and not any(_is(locked, driver) for locked in lock.drivers):
        found.append(_tool("nvidia_driver", f"the driver {driver.version} ({', '.join(driver.packages)})"))
    return found


def needs_conda(desired: Desired) -> bool:
    """Whether an environment that is to be there is conda's."""
    return any((d.manager, d.state) == ("conda", "present") for d in declarations(desired))


def _is(locked: Any, driver: Driver) -> bool:
    return bool(locked.version == driver.version and locked.packages == list(driver.packages))


def _tool(component: str, this: str) -> Refusal:
    return Refusal(component=component, this=this, that="the lock, which has another or none", remedy=LOCK_IT)


def locked_uv(lock: Lock, desired: Desired, seen: Observation) -> LockedFile | None:
    """The wheel of uv for a host."""
    wanted = ("uv", desired.venv.uv_version, seen.os.architecture, seen.os.glibc)
    return next((t for t in lock.tools if (t.name, t.version, t.architecture, t.glibc) == wanted), None)

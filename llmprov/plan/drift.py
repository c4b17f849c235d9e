"""What hosts have beside or against what was declared: told by `plan` and `verify`, undone by `rebuild`.

What a declaration names and a host lacks is an action of the plan. Here is what no declaration names, a finding for
each kind and place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmprov.model import Desired, EnvironmentSpec, Finding, Observation
from llmprov.model.observation import CondaPrefix, FoundEnvironment
from llmprov.plan import by_hand
from llmprov.plan.by_hand import NAMED, some

REBUILD = "`llmprov rebuild -i INVENTORY` brings it back to exactly the declaration"
Found = Iterable[Finding]


def findings(
    desired: Desired, specs: Sequence[EnvironmentSpec], held: Sequence[str], seen: Observation
) -> list[Finding]:
    """Every drift of a host; `held` is what the driver's role holds against upgrades."""
    found = [*_environments(specs, seen)]
    if seen.conda is not None and desired.miniconda.state == "present":
        found += _conda(seen.conda)
    found += [*_held(desired, held, seen), *_kernel(seen), *_kernels_of_jupyter(desired, seen)]
    return [*found, *_undeclared(specs, seen)]


def undeclared(declared: Iterable[str], seen: Observation) -> list[FoundEnvironment]:
    """Environments that lie where environments do, and are at none of the declared paths."""
    known = set(declared)
    return [found for found in seen.environments_there if found.path not in known]


def warnings(specs: Iterable[EnvironmentSpec], seen: Observation) -> list[str]:
    """Where users' files are that lay in builds which have gone."""
    kept = [spec.path for spec in specs if seen.environment(spec.path).kept]
    return [f"files that users had put into {path} are kept in {path}.kept" for path in kept]


def _finding(kind: str, says: str, evidence: Sequence[str] = (), remedy: str = REBUILD) -> Finding:
    return Finding(id=f"drift.{kind}", says=says, evidence="\n".join(evidence)[:4000], remedy=remedy)


def _environments(specs: Sequence[EnvironmentSpec], seen: Observation) -> Found:
    for spec in specs:
        there, place = seen.environment(spec.path), "" if spec.main else f":{spec.path}"
        if spec.state == "absent":
            continue
        told = by_hand.packages(spec, there)
        if told:
            yield _finding(f"packages{place}", f"packages of {spec.path} by hand: {'; '.join(told)}", told)
        if there.altered:
            remedy = REBUILD if there.record else "install these packages anew there: llmprov did not make it"
            yield _finding(f"files{place}", by_hand.of_files(spec.path, there), by_hand.files(there), remedy)


def _conda(there: CondaPrefix) -> Found:
    told = by_hand.base(there)
    if told:
        yield _finding("conda", f"conda's base environment in {there.path} by hand: {'; '.join(told)}", told)
    if there.altered:
        yield _finding("conda_files", by_hand.of_files(there.path, there), by_hand.files(there))
    if there.settings:
        remedy = f"remove {there.settings[0]}, or declare what it says (miniconda_channels)"
        yield _finding("channels", f"conda takes settings from {some(there.settings)}, too", there.settings, remedy)


def _held(desired: Desired, held: Sequence[str], seen: Observation) -> Found:
    names = sorted(set(seen.held) - set(held))
    if desired.nvidia_driver.state == "unmanaged":
        # Whoever keeps a driver of their own does well to hold it.
        names = [name for name in names if name not in seen.driver.held]
    if names:
        undo = "apt-mark unhold" if seen.os.package_manager == "apt" else "dnf versionlock delete"
        remedy = f"let them go (`{undo} {' '.join(names[:NAMED])}`), or leave them if that was meant"
        yield _finding("held", f"held against upgrades by hand: {some(names)}", names, remedy)


def _kernel(seen: Observation) -> Found:
    running, after = next((k for k in seen.kernels if k.running), None), seen.next_kernel
    if running is None or after is None or after.running:
        return  # nothing else boots, or the kernel is not the host's own, as in a container
    if not seen.driver.package_name or after.nvidia_module:  # else driver.next_kernel tells it
        says = f"the next boot takes the kernel {after.release}, and {running.release} runs"
        yield _finding("kernel", says, [after.release], "reboot when it suits, then verify again")


def _kernels_of_jupyter(desired: Desired, seen: Observation) -> Found:
    names = [kernel.name for kernel in seen.jupyter.kernels if kernel.spec is None]
    if names and desired.jupyter.state == "present":
        remedy = "remove them with `jupyter kernelspec remove NAME`, or leave them if that was meant"
        yield _finding("jupyter", f"Jupyter kernels registered by hand: {some(names)}", names, remedy)


def _undeclared(specs: Sequence[EnvironmentSpec], seen: Observation) -> Found:
    paths = [found.path for found in undeclared((spec.path for spec in specs), seen)]
    if paths:
        remedy = "declare them (llm_environments), or show and remove them: `llmprov rebuild -i INVENTORY --prune`"
        yield _finding("environments", f"environments that nobody declared: {some(paths)}", paths, remedy)

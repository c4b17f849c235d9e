"""The plan of one host: every component's action, or the refusals."""

from __future__ import annotations

from llmprov.model import Action, Desired, Kind, Observation, Plan, Refusal
from llmprov.plan import environment, host, wheel


def decide(desired: Desired, seen: Observation) -> Plan:
    """What would be done to bring a host from what was `seen` to what is `desired`.

    The same input always gives the same plan. Where anything is refused, no action is planned: a refused host is
    changed in nothing.
    """
    refusals = host.refusals(desired.preflight, seen)
    variant, refused_wheel = wheel.choose(desired.pytorch, seen)
    refusals += refused_wheel
    refusals += environment.refusals(desired.venv, seen)
    actions = [
        host.plan_python(seen),
        environment.plan_uv(desired.venv, desired.pytorch, seen),
        environment.plan_venv(desired.venv, desired.pytorch, seen),
        environment.plan_pytorch(desired.pytorch, desired.venv, variant, seen),
    ]
    refusals += _disk(desired, seen, actions)
    return Plan(
        actions=[] if refusals else actions,
        refusals=refusals,
        warnings=host.warnings(seen),
        pytorch_variant=variant,
    )


def _disk(desired: Desired, seen: Observation, actions: list[Action]) -> list[Refusal]:
    installs = any(a.kind not in (Kind.NONE, Kind.REMOVE) for a in actions)
    if not installs or seen.disk is None:
        return []
    if seen.disk.read_only:
        return [
            Refusal(
                component="preflight",
                this=f"the environment {desired.venv.path}",
                that=f"the read-only file system at {seen.disk.path}",
                remedy="mount it for writing, or move the environment with llm_env_path",
            )
        ]
    if seen.disk.free_gb < desired.preflight.min_free_gb:
        return [
            Refusal(
                component="preflight",
                this=f"an installation that wants {desired.preflight.min_free_gb:g} GB free",
                that=f"the {seen.disk.free_gb:.1f} GB free at {seen.disk.path}",
                remedy="free some space, move the environment with llm_env_path, or lower preflight_min_free_gb",
            )
        ]
    return []

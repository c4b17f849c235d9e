"""The plan of one host: every component's action, or the refusals."""

from __future__ import annotations

from llmprov.knowledge import driver_floor
from llmprov.model import Action, Desired, EnvironmentSpec, Kind, Observation, Plan, Refusal
from llmprov.model.lock import Lock
from llmprov.plan import conda, drift, driver, driver_plan, environment, host, jupyter, locked, specs, wheel
from llmprov.plan.driver_choice import installed_version, source_of
from llmprov.plan.driver_packages import Driver
from llmprov.plan.environment import Change


def decide(desired: Desired, seen: Observation, lock: Lock | None = None, rebuild: bool = False) -> Plan:
    """What would be done to bring a host from what was `seen` to what is `desired`.

    The same input always gives the same plan. Where anything is refused, no action is planned: a refused host is
    changed in nothing.

    Args:
        desired: what is declared.
        seen: what is there.
        lock: what every package must be; None leaves it to what fits the declaration.
        rebuild: whether what came or changed by hand has to go, too.
    """
    variant, refused_wheel = wheel.choose(desired.pytorch, _as_planned(desired, seen))
    environments, refusals = specs.specs(desired, variant)
    for number, spec in enumerate(environments):
        environments[number], refused = locked.pin(spec, desired, seen, lock)
        refusals += refused
    refusals = [*host.refusals(desired.preflight, seen), *refused_wheel, *refusals]
    refusals += conda.refusals(desired.miniconda, environments, seen)
    for spec in environments:
        refusals += environment.refusals(spec, seen.environment(spec.path))
    refusals += jupyter.refusals(desired, environments)
    driver_action, chosen, refused_driver = planned_driver(desired, seen)
    refusals += [*refused_driver, *locked.refusals(desired, seen, lock, chosen)]
    actions = _actions(desired, environments, variant, seen, rebuild)
    if driver_action:
        # After Python and before all that runs on it.
        actions.insert(1, driver_action)
    refusals += _disk(desired, environments[0].path, seen, actions)
    return Plan(
        actions=[] if refusals else actions,
        refusals=refusals,
        warnings=[*host.warnings(seen), *driver.warnings(seen), *drift.warnings(environments, seen)],
        findings=[*driver.findings(seen), *drift.findings(desired, environments, chosen.held if chosen else (), seen)],
        pytorch_variant=variant,
    )


def planned_driver(desired: Desired, seen: Observation) -> tuple[Action | None, Driver | None, list[Refusal]]:
    """What is done about the driver, with what, and what is refused."""
    tag = desired.pytorch.variant
    named = desired.pytorch.state == "present" and tag.startswith("cu")
    return driver_plan.decide(desired.nvidia_driver, driver_floor(tag) if named else "", seen)


def _as_planned(desired: Desired, seen: Observation) -> Observation:
    """The host with the driver that it will have: the wheel is chosen for that one."""
    _, planned, _ = planned_driver(desired, seen)
    if planned is None:
        return seen
    there = installed_version(planned.choice, source_of(planned.choice, seen), seen)
    version = planned.version if "." in planned.version else there or f"{planned.choice.branch}.999"
    return seen.model_copy(update={"driver": seen.driver.model_copy(update={"module_version": version})})


def _actions(
    desired: Desired, environments: list[EnvironmentSpec], variant: str | None, seen: Observation, rebuild: bool
) -> list[Action]:
    return [
        host.plan_python(seen),
        conda.plan_conda(desired.miniconda, environments, seen, rebuild),
        environment.plan_uv(desired.venv.uv_version, desired.venv.uv_path, environments, seen),
        *(environment.plan_environment(spec, seen.environment(spec.path), rebuild) for spec in environments),
        _pytorch(desired, environments, variant, seen, rebuild),
        jupyter.plan_jupyter(desired, seen.jupyter),
    ]


def _pytorch(
    desired: Desired, environments: list[EnvironmentSpec], variant: str | None, seen: Observation, rebuild: bool
) -> Action:
    path = desired.pytorch.env_path
    spec = next((spec for spec in environments if spec.path == path), None)
    there = seen.environment(path)
    anew = spec is not None and environment.difference(spec, there, rebuild)[0] is Change.SUCCESSOR
    return wheel.plan_pytorch(desired.pytorch, spec, there, anew, variant)


def to_build(desired: Desired, planned: Plan) -> list[EnvironmentSpec]:
    """The environments that a plan changes, for its own sake or for PyTorch's."""
    environments, _ = specs.specs(desired, planned.pytorch_variant)
    changed = set(planned.components())
    for spec in environments:
        if spec.path == desired.pytorch.env_path and "pytorch" in changed:
            changed.add(spec.component)
    return [spec for spec in environments if spec.component in changed]


def _disk(desired: Desired, path: str, seen: Observation, actions: list[Action]) -> list[Refusal]:
    installs = any(a.kind not in (Kind.NONE, Kind.REMOVE) for a in actions)
    if not installs or seen.disk is None:
        return []
    if seen.disk.read_only:
        return [
            Refusal(
                component="preflight",
                this=f"the environment {path}",
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

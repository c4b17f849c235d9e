"""The reboot that loads a driver: whether a host may have it now, and whether the host came back whole."""

from __future__ import annotations

from llmprov.model import Desired, Kind, Observation
from llmprov.plan.decide import planned_driver


def due(desired: Desired, seen: Observation) -> bool:
    """Whether the host's driver waits for a reboot, and for nothing else."""
    action, _, _ = planned_driver(desired, seen)
    return action is not None and action.kind is Kind.REBOOT


def kept(desired: Desired, seen: Observation) -> str:
    """Why a host is not rebooted though its driver waits for it; empty where it may be."""
    users = seen.driver.users
    path = desired.verify.env_path
    if users is None and not desired.nvidia_driver.reboot_busy:
        return "it could not be told whether programs use its GPUs (that takes root)"
    if users and not desired.nvidia_driver.reboot_busy:
        named = ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")
        return f"programs use its GPUs: {named}"
    if "torch" not in seen.environment(path).packages:
        return f"{path} has no PyTorch, and nothing could show afterwards that its GPUs compute"
    return ""


def problems(desired: Desired, before: Observation, after: Observation) -> list[str]:
    """What did not come back: the module of the driver that was planned, or a GPU. Each a sentence."""
    found = []
    action, _, refused = planned_driver(desired, after)
    if action is None or action.kind is not Kind.NONE:
        why = action.why if action else "; ".join(refusal.conflict() for refusal in refused)
        found.append(f"the driver is not as planned: {why}")
    there = {device.address for device in after.gpus}
    gone = [device.address for device in before.gpus if device.address not in there]
    if gone:
        found.append(f"{len(gone)} of {len(before.gpus)} GPUs did not come back: {', '.join(gone)}")
    return found

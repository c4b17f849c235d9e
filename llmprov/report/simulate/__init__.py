"""Simulated fleets, with faults planted in them: for tests, documentation, demonstrations and measurements.

Hosts carry what `verify` at the level quick brings back from machines of their kind: the same checks, figures and
units. The same seed gives the same fleet. What was planted stands beside the rows, so that it can be compared with what
the report finds.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from llmprov import __version__
from llmprov.model import HostReport, RunInfo
from llmprov.report.simulate.faults import FAULTS
from llmprov.report.simulate.stand_ins import MODELS, Host, Model

__all__ = ["FAULTS", "Simulated", "fleet"]

#: When simulated runs happen: the day of the first, and one more day with each higher seed.
EPOCH = datetime(2026, 1, 1, 6, 0, tzinfo=UTC)

#: Hosts in a rack.
RACK = 20


@dataclass
class Simulated:
    """A fleet, and what was planted in it: host -> name of the fault."""

    run: RunInfo
    rows: list[HostReport]
    planted: dict[str, str] = field(default_factory=dict)


def fleet(count: int, seed: int = 0, faults: float = 0.04) -> Simulated:
    """`count` hosts in racks of twenty of one kind; a part of them, about `faults`, has a fault.

    Names, kinds of machine and the speed of each card are the same for every seed; readings differ. A seed is a day: a
    fault stays for some days, then goes.
    """
    started = EPOCH + timedelta(days=seed)
    run = RunInfo(
        id=f"{started:%Y%m%dT%H%M%SZ}-{hashlib.sha256(f'{count} {seed}'.encode()).hexdigest()[:6]}",
        command="verify",
        started=started,
        finished=started + timedelta(minutes=4, seconds=12),
        outcome="finished",
        inventory=["fleet.yml"],
        simulated=True,
        versions={"llmprov": __version__},
    )
    made = Simulated(run, [])
    weights = [model.weight for model in MODELS]
    for rack in range((count + RACK - 1) // RACK):
        # Small fleets are of one kind, so that there is something to compare.
        model = random.Random(f"rack {rack}").choices(MODELS, weights)[0] if count > 2 * RACK else MODELS[0]
        for place in range(min(RACK, count - rack * RACK)):
            name = f"{(model.gpu or 'cpu').split()[0].lower()}-r{rack:03d}-n{place:02d}"
            host = Host(name, f"rack{rack:03d}", model, seed)
            fault, dice = _fault(name, model, seed, faults)
            if fault:
                FAULTS[fault][0](host, dice)
                made.planted[name] = fault
            made.rows.append(host.finish())
    return made


def _fault(name: str, model: Model, day: int, part: float) -> tuple[str, random.Random]:
    """The fault of a host on a day, if it has one, and the dice that decide how bad it is: the same while it lasts."""
    dice = random.Random(f"faults {name}")
    days = dice.randint(1, 6)
    period = max(round(days / part), days) if part > 0 else 0
    since_epoch = day + dice.randrange(period) if period else 0
    if not period or since_epoch % period >= days:
        return "", dice
    again = random.Random(f"fault {name} {since_epoch // period}")
    return again.choice([fault for fault, (_, gpus) in FAULTS.items() if model.gpu or not gpus]), again

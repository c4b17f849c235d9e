"""How often the comparison is right: simulated cohorts with planted faults, beside the rule that most scripts use.

`make precision` prints the tables of docs/statistics.md. Everything is seeded: the same code prints the same figures.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llmprov.model import HostReport, Measurement, Status
from llmprov.report import compare

KEY = "train.tokens_per_s"
SOUND = 50_000.0

Noise = Callable[[random.Random], float]


def normal(scale: float) -> Noise:
    """Noise of a normal distribution, as a factor."""
    return lambda dice: dice.gauss(1, scale)


def heavy(scale: float) -> Noise:
    """Student's t with three degrees of freedom: now and then a reading is far off."""
    return lambda dice: 1 + scale * dice.gauss(0, 1) / math.sqrt(sum(dice.gauss(0, 1) ** 2 for _ in range(3)) / 3)


HOST_NOISE, CARD_NOISE = normal(0.007), normal(0.01)


@dataclass(frozen=True)
class Scenario:
    """A cohort and what is planted in it."""

    name: str
    hosts: int
    #: Part by which planted machines are slower.
    slow: float
    #: How many hosts have it.
    planted: int
    cards: int = 8
    #: Whether one card of a planted host is slow, or all of them.
    one_card: bool = False
    host_noise: Noise = HOST_NOISE
    card_noise: Noise = CARD_NOISE


@dataclass
class Score:
    """Hosts rightly and wrongly named, and missed."""

    right: int = 0
    wrong: int = 0
    missed: int = 0

    def add(self, named: set[str], planted: set[str]) -> None:
        self.right += len(named & planted)
        self.wrong += len(named - planted)
        self.missed += len(planted - named)

    def __str__(self) -> str:
        named, planted = self.right + self.wrong, self.right + self.missed
        precision = f"{self.right / named:.0%}" if named else "none named"
        return f"{precision}, {self.right / planted:.0%}" if planted else f"{self.wrong} named"


def cohort(scenario: Scenario, dice: random.Random) -> tuple[list[HostReport], set[str]]:
    """The rows of one cohort, and the names of those that are slow."""
    names = [f"h{n:04d}" for n in range(scenario.hosts)]
    planted = set(dice.sample(names, scenario.planted))
    rows = []
    for name in names:
        own = scenario.host_noise(dice)
        bad = set(range(scenario.cards)) if not scenario.one_card else {dice.randrange(scenario.cards)}
        measured = []
        for card in range(scenario.cards):
            factor = own * scenario.card_noise(dice) * (1 - scenario.slow * (name in planted and card in bad))
            value = SOUND * factor
            steps = [8192 / value * 1000 * dice.gauss(1, 0.005) for _ in range(20)]
            measured.append(Measurement(key=KEY, value=value, unit="tokens/s", device=f"gpu{card}"))
            measured.append(
                Measurement(key="train.step_time_ms", value=steps[0], unit="ms", samples=steps, device=f"gpu{card}")
            )
        rows.append(HostReport(host=name, status=Status.PASS, measurements=measured))
    return rows, planted


def ours(rows: list[HostReport]) -> set[str]:
    """Hosts that the comparison names."""
    return {host for host, checks in compare.within(rows).checks.items() if checks}


def fixed(rows: list[HostReport]) -> set[str]:
    """The usual rule: whatever has a card 5 % under the mean of all."""
    values = {row.host: [m.value for m in row.measurements if m.key == KEY] for row in rows}
    mean = statistics.fmean(value for found in values.values() for value in found)
    return {host for host, found in values.items() if min(found) < 0.95 * mean}


def scenarios() -> Iterable[Scenario]:
    """What is measured, in the order of the tables."""
    for hosts in (8, 20, 100, 1000):
        yield Scenario("nothing planted", hosts, 0, 0)
    for slow in (0.03, 0.05, 0.08, 0.1, 0.2, 0.3):
        yield Scenario(f"slow hosts, {slow:.0%}", 100, slow, 3)
    for hosts in (5, 8, 12, 20):
        yield Scenario("one slow host, 15%", hosts, 0.15, 1)
    for slow in (0.03, 0.05, 0.08, 0.1, 0.2, 0.3):
        yield Scenario(f"one slow card of 8, {slow:.0%}", 100, slow, 3, one_card=True)
    for hosts in (1, 2, 8):
        yield Scenario("one slow card of 8, 15%", hosts, 0.15, 1, one_card=True)
    yield Scenario("a slow rack, 10%", 100, 0.1, 20)
    yield Scenario("a slow rack, 10%, 40% of all", 100, 0.1, 40)
    yield Scenario("two kinds, half of all, 10%", 100, 0.1, 50)
    for slow in (0.1, 0.2, 0.3):
        yield Scenario(f"heavy-tailed hosts, {slow:.0%}", 100, slow, 3, host_noise=heavy(0.01))
    yield Scenario("heavy-tailed hosts, nothing", 1000, 0, 0, host_noise=heavy(0.01))
    yield Scenario("noisy hosts (3%), nothing", 100, 0, 0, host_noise=normal(0.03))
    yield Scenario("noisy hosts (3%), 20%", 100, 0.2, 3, host_noise=normal(0.03))
    yield Scenario("single cards, 10%", 100, 0.1, 3, cards=1)


def measure(scenario: Scenario, repeats: int) -> tuple[Score, Score]:
    """(ours, the fixed rule's) over so many cohorts."""
    dice = random.Random(f"{scenario.name} {scenario.hosts}")
    scores = Score(), Score()
    for _ in range(repeats):
        rows, planted = cohort(scenario, dice)
        scores[0].add(ours(rows), planted)
        scores[1].add(fixed(rows), planted)
    return scores


def main() -> None:
    """Print the table."""
    sys.stdout.write(
        "| planted | hosts | cohorts | llmprov: precision, recall | 5 % under the mean |\n|---|--:|--:|---|---|\n"
    )
    for scenario in scenarios():
        repeats = max(4000 // max(scenario.hosts, 20), 10)
        mine, usual = measure(scenario, repeats)
        sys.stdout.write(f"| {scenario.name} | {scenario.hosts} | {repeats} | {mine} | {usual} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

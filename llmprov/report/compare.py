"""Each figure of a host against its cohort, each card against the others of its host, each run against a baseline.

What is slower becomes a check of the host: evidence beside the other findings, told in the same words. Where too few
machines are there to judge, that is said, and nothing is guessed.
"""

from __future__ import annotations

import math
import statistics as std
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llmprov.knowledge import FIGURES, Figure
from llmprov.model import Check, CheckStatus, FleetReport, HostReport
from llmprov.model.report import CohortFigure
from llmprov.report import EFFECT, statistics
from llmprov.text import number

#: A scale below a thousandth of the median is nobody's concern: rounding and clocks.
FLOOR = 0.001

#: From so many cards on a host has a median of its own that one bad card does not move.
OWN_MEDIAN = 4

REMEDY = "see what holds it back; measure it alone; if it stays slow, take it out of jobs that wait for the slowest"


@dataclass(frozen=True)
class Reading:
    """One figure of one device, with its repeats."""

    device: str
    value: float
    samples: Sequence[float]

    @property
    def noise(self) -> float:
        """The standard error of its repeats, as a fraction; worked out only for what stands out."""
        return statistics.noise(self.samples)


#: What is taken from a row: the figures that are compared, and those that say what was measured.
_TAKEN = FIGURES.keys() | {figure.size for figure in FIGURES.values() if figure.size}

#: The repeats of a training are its single steps.
_STEPS = {key: key.replace("tokens_per_s", "step_time_ms") for key in FIGURES if key.endswith("tokens_per_s")}
_REPEATS = frozenset(_STEPS.values())

#: host -> its readings of one figure.
Readings = dict[str, list[Reading]]


@dataclass
class Baseline:
    """An earlier run's figures: key -> host -> readings, and the cohort that each host was in then."""

    run: str
    cohorts: dict[str, str] = field(default_factory=dict)
    readings: dict[str, Readings] = field(default_factory=dict)


@dataclass
class Findings:
    """What comparing found: checks by host, and what concerns the cohort."""

    checks: dict[str, list[Check]] = field(default_factory=lambda: defaultdict(list))
    figures: list[CohortFigure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def within(rows: Sequence[HostReport], effect: float = EFFECT) -> Findings:
    """Hold the hosts of one cohort against each other. `effect` is the least deviation that matters, as a fraction."""
    found = Findings()
    taken = _taken(rows)
    traits = {row.host: _traits(row) for row in rows}
    for key, figure in FIGURES.items():
        if key not in taken:
            continue
        found.notes += _drop_other_sizes(taken, figure)
        if taken[key]:
            _Comparison(figure, _unit(rows, key), taken[key], figure.effect or effect, traits).into(found)
    return found


def _taken(rows: Sequence[HostReport]) -> dict[str, Readings]:
    """Key -> host -> readings, of the figures that are compared and those that say what was measured."""
    taken: dict[str, Readings] = {}
    for row in rows:
        steps = {(m.key, m.device): m.samples for m in row.measurements if m.key in _REPEATS}
        for m in row.measurements:
            if m.key in _TAKEN and m.value > 0:
                reading = Reading(m.device, m.value, m.samples or steps.get((_STEPS.get(m.key, m.key), m.device), ()))
                taken.setdefault(m.key, {}).setdefault(row.host, []).append(reading)
    return taken


def _unit(rows: Iterable[HostReport], key: str) -> str:
    return next(m.unit for row in rows for m in row.measurements if m.key == key)


def _drop_other_sizes(taken: dict[str, Readings], figure: Figure) -> list[str]:
    """Keep the readings of what most hosts measured: a card that trained a smaller model is not faster for it."""
    sizes = {(host, r.device): r.value for host, found in taken.get(figure.size, {}).items() for r in found}
    if len(set(sizes.values())) < 2:
        return []
    usual = Counter(sizes.values()).most_common(1)[0][0]
    others = sorted({host for (host, _), size in sizes.items() if size != usual})
    readings = taken[figure.key]
    for host in others:
        readings[host] = [r for r in readings.get(host, []) if sizes.get((host, r.device), usual) == usual]
        if not readings[host]:
            del readings[host]
    return [f"{figure.name}: not compared, as they measured with another size of model: {names(others)}"]


def _traits(row: HostReport) -> frozenset[str]:
    """What a host may have in common with others, in words."""
    found = [f"group {group}" for group in row.groups if group not in ("all", "ungrouped")]
    if row.observation:
        seen = row.observation
        found += [f"kernel {seen.os.kernel}", f"{seen.os.id} {seen.os.version_id}", f"processor {seen.cpu_model}"]
        found += [f"driver {seen.driver.module_version}"]
    return frozenset(found)


def in_common(some: Iterable[str], all_hosts: Iterable[str], traits: Mapping[str, frozenset[str]]) -> str:
    """What nine in ten of `some` have, and at most one in ten of the others; empty where nothing parts them."""
    inside = set(some)
    outside = [host for host in all_hosts if host not in inside]
    if len(inside) < 3 or not outside:
        return ""
    counted = Counter(trait for host in inside for trait in traits.get(host, ()))
    others = Counter(trait for host in outside for trait in traits.get(host, ()))
    told = [t for t, n in counted.items() if n >= 0.9 * len(inside) and others[t] <= 0.1 * len(outside)]
    return ", ".join(sorted(told)[:3])


def names(hosts: Sequence[str], most: int = 5) -> str:
    """A few names in full, and how many more there are."""
    return ", ".join(hosts[:most]) + (f" and {len(hosts) - most} more" if len(hosts) > most else "")


class _Comparison:
    """One figure over one cohort."""

    def __init__(
        self, figure: Figure, unit: str, readings: Readings, effect: float, traits: Mapping[str, frozenset[str]]
    ) -> None:
        self.figure, self.unit, self.readings, self.effect, self.traits = figure, unit, readings, effect, traits
        self.hosts = {host: std.median(r.value for r in found) for host, found in readings.items()}
        self.notes: list[str] = []
        #: Host -> what parts it from the reference, in words; filled where it stands out.
        self.slow: dict[str, str] = {}

    def into(self, found: Findings) -> None:
        """Judge, and write down what was found."""
        enough = len(self.hosts) >= statistics.LEAST
        seen = statistics.spread(list(self.hosts.values()))
        limit = self._judge_hosts() if enough else None
        told = "" if enough else f"too few hosts to judge: {len(self.hosts)}, and {statistics.LEAST} are needed"
        values = self.hosts.values()
        figure = {"key": self.figure.key, "unit": self.unit, "count": seen.count, "median": seen.median}
        figure |= {"scale": seen.scale, "lowest": min(values), "highest": max(values), "limit": limit}
        found.figures.append(CohortFigure.model_validate({**figure, "unjudged": told}))
        cards = self._cards()
        for host, checks in cards.items():
            # Some cards, not all: they are the finding, and the host is slow because of them.
            found.checks[host] += checks
            if len(self.readings[host]) < OWN_MEDIAN:
                self.slow.pop(host, None)
        shared = in_common(self.slow, self.hosts, self.traits)
        if shared:
            self.notes.append(f"{self.figure.name}: {len(self.slow)} hosts are slow, and have in common: {shared}")
        for host, evidence in self.slow.items():
            common = f"; in common: {shared}" if shared else ""
            found.checks[host].append(self._slow_check(host, evidence + common))
        found.notes += self.notes

    # -- hosts ---------------------------------------------------------------------------------------------------

    def _judge_hosts(self) -> float | None:
        border = statistics.two_kinds(list(self.hosts.values()), self.effect)
        if border is None:
            return self._judge(self.hosts)
        low = {host: value for host, value in self.hosts.items() if value < border}
        high = {host: value for host, value in self.hosts.items() if value >= border}
        self._two_kinds(low, high)
        limits = [self._judge(kind) for kind in (low, high) if len(kind) >= statistics.LEAST]
        if len(low) > len(high):
            return min((limit for limit in limits if limit is not None), default=None)
        middle = std.median(high.values())
        for host in low:
            self.slow[host] = f"one of {len(low)} such hosts; the {len(high)} others have a median of {number(middle)}"
        return border

    def _two_kinds(self, low: Mapping[str, float], high: Mapping[str, float]) -> None:
        slow, fast = std.median(low.values()), std.median(high.values())
        words = f"{self.figure.name}: hosts are of two kinds: {len(high)} around {number(fast)} {self.unit}, "
        words += f"{len(low)} around {number(slow)} ({1 - slow / fast:.0%} less)"
        told = in_common(low, self.hosts, self.traits) or in_common(high, self.hosts, self.traits)
        self.notes.append(words + (f"; what parts them: {told}" if told else "; nothing that was observed parts them"))

    def _judge(self, hosts: Mapping[str, float]) -> float:
        """Mark the hosts that stand out among `hosts`; returns the value below which one does."""
        seen = statistics.spread(list(hosts.values()))
        scores = {
            host: (value - seen.median) / max(seen.scale, FLOOR * seen.median, self._noise(host) * value)
            for host, value in hosts.items()
            if abs(value / seen.median - 1) >= self.effect
        }
        most = self._final(scores, statistics.cutoff(seen.count))
        for host, score in scores.items():
            if score <= -most:
                self.slow[host] = f"modified z-score {score:.1f}, cutoff -{most:.1f}; scale {number(seen.scale)}"
        scale = max(seen.scale, FLOOR * seen.median)
        return min(seen.median - min(most, 1e6) * scale, (1 - self.effect) * seen.median)

    def _noise(self, host: str) -> float:
        return max(reading.noise for reading in self.readings[host])

    def _final(self, scores: Mapping[str, float], least: float) -> float:
        """The cutoff for these scores, of what deviates enough to matter; a note where it hides something."""
        most = statistics.scattered(list(scores.values()), least)
        hidden = sorted(name for name, score in scores.items() if -most < score <= -least)
        if hidden:
            words = f"{self.figure.name}: {len(hidden)} lie as far below the median as others above: it scatters"
            self.notes.append(f"{words}; measure again: {names(hidden)}")
        return most

    def _slow_check(self, host: str, evidence: str) -> Check:
        value = self.hosts[host]
        others = [other for name, other in self.hosts.items() if name not in self.slow] or list(self.hosts.values())
        middle = std.median(others)
        summary = f"{self.figure.name} is {1 - value / middle:.0%} slower than on the hosts of its cohort: "
        summary += f"{number(value)} {self.unit} where {number(middle)} is their median"
        return _check(f"cohort.{self.figure.key}", summary, value, middle, self.unit, evidence)

    # -- cards ---------------------------------------------------------------------------------------------------

    def _cards(self) -> dict[str, list[Check]]:
        """Checks of single cards that are slower than the others beside them."""
        beside = self._deviations()
        if len(beside) < statistics.LEAST:
            return {}
        seen = statistics.spread(list(beside.values()))
        scores = {
            card: (value - seen.median) / max(seen.scale, FLOOR, self._reading(card).noise)
            for card, value in beside.items()
            if abs(value) >= self.effect
        }
        named = {f"{host} {device}": score for (host, device), score in scores.items()}
        most = self._final(named, statistics.cutoff(seen.count))
        slow = [card for card, score in scores.items() if score <= -most]
        per_host = Counter(host for host, _ in slow)
        found: dict[str, list[Check]] = {}
        for host, device in slow:
            if per_host[host] < len(self.readings[host]):
                found.setdefault(host, []).append(self._card_check(host, device, scores[host, device], most))
        return found

    def _reading(self, card: tuple[str, str]) -> Reading:
        return next(reading for reading in self.readings[card[0]] if reading.device == card[1])

    def _deviations(self) -> dict[tuple[str, str], float]:
        """Each card's deviation, as a fraction, from the others of its host; on hosts with few, from its cohort."""
        every = [r.value for found in self.readings.values() for r in found]
        judged = len(self.hosts) >= statistics.LEAST
        beside: dict[tuple[str, str], float] = {}
        for host, found in self.readings.items():
            if len(found) >= OWN_MEDIAN:
                middle = std.median(r.value for r in found)
            elif len(found) > 1 and judged:
                middle = std.median(every)
            else:
                continue
            beside |= {(host, r.device): r.value / middle - 1 for r in found}
        return beside

    def _card_check(self, host: str, device: str, score: float, most: float) -> Check:
        value = self._reading((host, device)).value
        others = [r.value for r in self.readings[host] if r.device != device]
        middle = std.median(others)
        summary = f"{self.figure.name} is {1 - value / middle:.0%} slower on {device} than on the other devices of its "
        summary += f"host: {number(value)} {self.unit} where {number(middle)} is their median"
        evidence = f"modified z-score {score:.1f}, cutoff -{most:.1f}"
        return _check(f"cohort.{device}.{self.figure.key}", summary, value, middle, self.unit, evidence)


def _check(name: str, summary: str, value: float, middle: float, unit: str, evidence: str) -> Check:
    return Check(
        id=name,
        status=CheckStatus.WARN,
        summary=summary,
        measured=_short(value),
        expected=_short(middle),
        unit=unit,
        evidence=evidence,
        remedy=REMEDY,
    )


def _short(value: float) -> float:
    """Five digits: what is more is noise."""
    return float(f"{value:.5g}") if math.isfinite(value) else value


# -- baseline ----------------------------------------------------------------------------------------------------


def baseline_of(fleet: FleetReport) -> Baseline:
    """A run to hold later ones against."""
    return Baseline(fleet.run.id, {row.host: row.cohort or "" for row in fleet.hosts}, _taken(fleet.hosts))


def against(rows: Sequence[HostReport], cohort: str, before: Baseline, effect: float = EFFECT) -> Findings:
    """Hold the hosts of one cohort against themselves in an earlier run, where they were in the same cohort.

    Where all of them moved together, that is a note of the cohort; each host's check still says by how much it is under
    its own baseline.
    """
    found = Findings()
    now, then = _taken(rows), before.readings
    same = {row.host for row in rows if before.cohorts.get(row.host) == cohort}
    others = sorted({row.host for row in rows if row.host in before.cohorts} - same)
    if others:
        found.notes.append(f"not held against the baseline, as they were in another cohort then: {names(others)}")
    for key, figure in FIGURES.items():
        both = same & now.get(key, {}).keys() & then.get(key, {}).keys()
        if not both:
            continue
        least = figure.effect or effect
        moved = {host: _median(now[key][host]) / _median(then[key][host]) - 1 for host in sorted(both)}
        shift = statistics.spread(list(moved.values()))
        if shift.count >= statistics.LEAST and abs(shift.median) >= least:
            word = "slower" if shift.median < 0 else "faster"
            found.notes.append(
                f"{figure.name}: {shift.count} hosts are {abs(shift.median):.0%} {word} in the median than in baseline"
            )
        for host, change in moved.items():
            if change > -least:
                continue
            noise = math.hypot(*(max(r.noise for r in taken[key][host]) for taken in (now, then)))
            if change <= -statistics.LEAST_CUTOFF * max(noise, FLOOR):
                found.checks[host].append(_moved(figure, host, change, now[key][host], then[key][host], noise))
    return found


def _median(readings: Iterable[Reading]) -> float:
    return std.median(r.value for r in readings)


def _moved(
    figure: Figure, host: str, change: float, now: Sequence[Reading], then: Sequence[Reading], noise: float
) -> Check:
    summary = f"{figure.name} is {-change:.0%} slower than in the baseline: "
    summary += f"{number(_median(now))} now, {number(_median(then))} then"
    evidence = f"{host} against itself; noise of the repeats {noise:.2%}"
    return _check(f"baseline.{figure.key}", summary, _median(now), _median(then), "", evidence)

"""Statistics: known answers, properties, and the rates that they promise."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.report import statistics
from tests import precision

VALUES = st.lists(st.floats(1, 1e6), min_size=2, max_size=60)


def normal(count: int, seed: int, scale: float = 1.0) -> list[float]:
    dice = random.Random(seed)
    return [1000 + dice.gauss(0, scale) for _ in range(count)]


def test_the_spread_of_a_known_sample():
    # MAD of 1..9 is 2; the factors are those of the papers.
    seen = statistics.spread(range(1, 10))
    assert (seen.count, seen.median) == (9, 5)
    assert seen.scale == pytest.approx(1.4826 * 2 * 1.107)


def test_the_scale_is_a_standard_deviation():
    assert statistics.spread(normal(4001, 1, scale=3.0)).scale == pytest.approx(3.0, rel=0.05)


@given(VALUES, st.floats(0.1, 10), st.floats(0, 1000))
def test_the_spread_moves_and_stretches_with_its_values(values, factor, shift):
    plain, moved = statistics.spread(values), statistics.spread([factor * v + shift for v in values])
    assert moved.median == pytest.approx(factor * plain.median + shift, rel=1e-6, abs=1e-6)
    assert moved.scale == pytest.approx(factor * plain.scale, rel=1e-6, abs=1e-3)


@given(st.lists(st.floats(90, 110), min_size=21, max_size=21), st.lists(st.floats(-1e6, 1e6), max_size=9))
def test_a_minority_cannot_move_the_median_out_of_the_majority(sound, wild):
    assert 90 <= statistics.spread(sound + wild).median <= 110


def test_too_few_are_never_told_apart():
    assert statistics.cutoff(4) == math.inf
    assert statistics.cutoff(5) < math.inf


@given(st.integers(5, 100_000))
def test_a_cutoff_is_at_least_that_of_the_book(count):
    # Iglewicz and Hoaglin, 1993: outliers have a modified z-score of more than 3.5.
    assert 3.5 <= statistics.cutoff(count) < 12


@pytest.mark.parametrize("count", [5, 6, 8, 11, 14, 25, 60, 200, 1000])
def test_sound_machines_are_seldom_named(count):
    """The promise of `cutoff`: one cohort in a hundred. With 400 cohorts, 12 is far beyond chance."""
    alarms = 0
    for seed in range(400):
        values = normal(count, seed)
        seen = statistics.spread(values)
        alarms += min(values) < seen.median - statistics.cutoff(count) * seen.scale
    assert alarms <= 12


def test_noise_falls_with_the_root_of_the_repeats():
    few, many = (statistics.noise(normal(n, 3, scale=10)) for n in (25, 2500))
    assert many == pytest.approx(math.sqrt(math.pi / 2) * 10 / 1000 / 50, rel=0.1)
    assert few > 3 * many


@pytest.mark.parametrize("samples", [[], [1.0], [1.0] * 4, [0.0] * 9])
def test_no_noise_is_made_up(samples):
    assert statistics.noise(samples) == 0.0


def test_as_many_fast_as_slow_are_scatter():
    assert statistics.scattered([-5, -6, -7, 5, 6, 7], 4) == math.inf
    assert statistics.scattered([-5, -6, -30, 5, 6, 7], 4) == 30
    assert statistics.scattered([-5, -6, -7], 4) == 4
    assert statistics.scattered([9.0], 4) == 4


@given(st.lists(st.floats(-50, 50), max_size=50), st.floats(3.5, 12))
def test_the_cutoff_for_scatter_never_falls_below_the_least(scores, least):
    assert statistics.scattered(scores, least) >= least


@pytest.mark.parametrize("count", [10, 20, 50, 200])
def test_one_kind_is_seldom_taken_for_two(count):
    assert sum(statistics.two_kinds(normal(count, seed), 0) is not None for seed in range(200)) <= 4


def test_uniform_machines_are_of_one_kind():
    dice = random.Random(5)
    found = [statistics.two_kinds([dice.random() + 10 for _ in range(50)], 0) for _ in range(100)]
    assert found == [None] * 100


@pytest.mark.parametrize(("low", "high"), [(20, 80), (50, 50), (80, 20), (10, 10)])
def test_two_kinds_are_parted_between_them(low, high):
    values = [v - 100 for v in normal(low, 1, scale=5)] + normal(high, 2, scale=5)
    assert 920 < statistics.two_kinds(values, 0.05) < 980
    # What does not matter is not told.
    assert statistics.two_kinds(values, 0.2) is None


def test_identical_machines_are_of_one_kind_and_two_values_of_two():
    assert statistics.two_kinds([5.0] * 20, 0.05) is None
    assert statistics.two_kinds([5.0] * 10 + [10.0] * 10, 0.05) == 7.5


def score(name: str, hosts: int, repeats: int) -> tuple[precision.Score, precision.Score]:
    scenario = next(s for s in precision.scenarios() if s.name == name and s.hosts == hosts)
    return precision.measure(scenario, repeats)


def test_the_published_rates_hold():
    """A few of the scenarios of docs/statistics.md, on fewer cohorts."""
    for name in ("slow hosts, 10%", "one slow card of 8, 10%", "a slow rack, 10%", "two kinds, half of all, 10%"):
        mine, _ = score(name, 100, 5)
        assert (mine.wrong, mine.missed) == (0, 0), name
    mine, usual = score("noisy hosts (3%), nothing", 100, 10)
    assert mine.wrong == 0
    assert usual.wrong > 50

"""Robust statistics of one figure over machines that should be equal: pure functions of numbers, with their sources."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

#: MAD of a normal distribution -> its standard deviation: 1 / Phi^-1(3/4). Source: Rousseeuw and Croux, "Alternatives
#: to the median absolute deviation", 1993.
NORMAL = 1.4826

#: What the MAD of so few readings must be multiplied with to stay unbiased; above 9 it is n / (n - 0.8). Source: Croux
#: and Rousseeuw, "Time-efficient algorithms for two highly robust estimators of scale", 1992.
FEW = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}

#: Fewer than this say nothing about one of them.
LEAST = 5

#: A modified z-score below which nothing is an outlier. Source: Iglewicz and Hoaglin, "How to detect and handle
#: outliers", 1993, where z = 0.6745 (x - median) / MAD; 0.6745 is 1 / 1.4826.
LEAST_CUTOFF = 3.5

#: Number of machines -> modified z-score that the lowest of so many sound ones exceeds once in a hundred fleets: the
#: MAD of few is itself uncertain. Monte Carlo, 40,000 and more normal samples each; docs/statistics.md says how. Even
#: numbers need less than their odd neighbours; the larger of both stands here.
CUTOFFS = {5: 11.3, 7: 7.63, 9: 6.29, 10: 5.48, 12: 5.13, 15: 5.06, 20: 4.53, 30: 4.28, 50: 4.13, 100: 4.03, 300: 4.14}

#: Chance of one false alarm or more in a cohort that is sound, per figure.
FALSE_ALARM = 0.01

#: As many fast outliers as this, for each slow one, are the scatter of the noise and no faults.
MIRRORED = 0.1

#: Two groups are two when their medians are so many of their own spreads apart: normal and uniform samples split at
#: their best place stay below it (docs/statistics.md); further for few readings, whose spread is uncertain.
APART = 6.0


@dataclass(frozen=True)
class Spread:
    """Where readings lie and how far they scatter, in their unit; `scale` is a standard deviation made from the MAD."""

    count: int
    median: float
    scale: float


def spread(values: Sequence[float]) -> Spread:
    """Median and scaled, bias-corrected MAD.

    Raises:
        StatisticsError: there are no values.
    """
    middle = statistics.median(values)
    mad = statistics.median(abs(value - middle) for value in values)
    count = len(values)
    return Spread(count, middle, NORMAL * mad * (FEW.get(count) or count / max(count - 0.8, 0.2)))


def cutoff(count: int) -> float:
    """The modified z-score beyond which one of `count` machines is told from the others; infinite for too few."""
    if count < LEAST:
        return math.inf
    known = sorted(CUTOFFS)
    if count > known[-1]:
        # From here on the MAD is as good as known.
        return max(LEAST_CUTOFF, CUTOFFS[known[-1]], -statistics.NormalDist().inv_cdf(FALSE_ALARM / count))
    return CUTOFFS[known[max(bisect_left(known, count) - (count not in CUTOFFS), 0)]]


def noise(samples: Sequence[float]) -> float:
    """Standard error of the median of repeated readings, as a fraction of it; 0 where there are too few to say.

    1.2533 times that of the mean, for normal noise: sqrt(pi / 2). Source: Kenney and Keeping, "Mathematics of
    Statistics", 1962.
    """
    if len(samples) < LEAST:
        return 0.0
    seen = spread(samples)
    return math.sqrt(math.pi / 2) * seen.scale / (math.sqrt(seen.count) * abs(seen.median)) if seen.median else 0.0


def scattered(scores: Sequence[float], least: float) -> float:
    """The cutoff that heavy tails ask for: from `least` up, until fast outliers are few beside slow ones.

    Faults make machines slow, never fast; noise makes both. So what lies as far above as below is noise. The idea of a
    mirrored null: Barber and Candes, "Controlling the false discovery rate via knockoffs", 2015.
    """
    slow = sorted(-score for score in scores if score <= -least)
    fast = sorted(score for score in scores if score >= least)
    for score in (least, *slow):
        if len(fast) - bisect_left(fast, score) <= MIRRORED * (len(slow) - bisect_left(slow, score)):
            return score
    return math.inf if slow else least


def two_kinds(values: Sequence[float], least_effect: float) -> float | None:
    """A value between the two groups that `values` fall into, or None where they are of one kind.

    The split that leaves the least variance within both sides (Otsu, 1979), taken for real only where both sides have
    at least three and a tenth of all, and their medians are `APART` scales and `least_effect` (a fraction) apart.
    """
    ordered = sorted(values)
    count = len(ordered)
    least = max(3, math.ceil(count / 10))
    if count < 2 * LEAST or count < 2 * least:
        return None
    sums = list(accumulate(ordered))

    def between(place: int) -> float:
        low, high = sums[place - 1] / place, (sums[-1] - sums[place - 1]) / (count - place)
        return place * (count - place) * (high - low) ** 2

    place = max(range(least, count - least + 1), key=between)
    low, high = spread(ordered[:place]), spread(ordered[place:])
    distance = high.median - low.median
    if distance < least_effect * abs(high.median):
        return None
    # Groups of equal readings have no scale of their own: any distance is far for them.
    scale = math.sqrt((low.scale**2 + high.scale**2) / 2)
    if distance < APART * (1 + LEAST / count) * scale or ordered[place] - ordered[place - 1] < distance / 4:
        return None
    return (ordered[place - 1] + ordered[place]) / 2

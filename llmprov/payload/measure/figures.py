"""Statistics of repeated readings. A figure is a median with its spread, never the best reading."""

from __future__ import annotations

import statistics
from typing import List


def percentile(values: List[float], part: float) -> float:
    """The value below which `part` (0 to 1) of the readings lie, interpolated between neighbours."""
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: List[float]) -> float:
    """The middle reading."""
    return statistics.median(values)


def variation(values: List[float]) -> float:
    """Coefficient of variation: standard deviation over mean, as a fraction."""
    mean = statistics.fmean(values)
    return statistics.pstdev(values) / mean if mean else 0.0

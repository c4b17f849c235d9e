"""Desired and observed in, plan out. Pure: no file, no clock, no network."""

from llmprov.plan.decide import decide, to_build

__all__ = ["decide", "to_build"]

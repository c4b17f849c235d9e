"""Telling: rows into a fleet report, and one file a renderer."""

#: The least deviation that matters, as a fraction. A step of synchronous training waits for the slowest card, so that
#: the whole job loses what one card loses; a twentieth is what is seen on a bill.
EFFECT = 0.05

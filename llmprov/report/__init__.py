"""Telling: rows into a fleet report, and one file a renderer."""

"""Runs over time, in SQLite or PostgreSQL."""

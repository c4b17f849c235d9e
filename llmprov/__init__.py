"""From machines answering on SSH to machines that provably train large models."""

__version__ = "0.1.0"

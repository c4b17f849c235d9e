"""Text made safe to show or to keep. This package imports nothing of the rest, so every other one may use it."""

from llmprov.text.display import number, plain
from llmprov.text.urls import without_secrets

__all__ = ["number", "plain", "without_secrets"]

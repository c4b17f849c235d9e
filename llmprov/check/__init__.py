"""Whether hosts can be reached and worked on, and if not, at which step and why. Changes nothing on any host."""

from llmprov.check.fleet import check, pin

__all__ = ["check", "pin"]

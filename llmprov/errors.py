"""What can go wrong, one class for each exit code.

    LlmprovError            1   llmprov itself failed
    ├── UsageError          2   the command line, the inventory or a variable is wrong
    ├── LabError            1   the lab could not do what was asked
    │   └── LabUnsupported  1   this machine cannot host a lab at all
    └── Cancelled         130   ctrl-C

A message is one sentence for the person at the keyboard: what is wrong, where, and what to do next.
"""


class LlmprovError(Exception):
    """llmprov itself failed."""

    exit_code = 1


class UsageError(LlmprovError):
    """The command line, the inventory or a variable is wrong; nothing was changed anywhere."""

    exit_code = 2


class LabError(LlmprovError):
    """The lab could not do what was asked of it."""


class LabUnsupported(LabError):  # noqa: N818 - a state of the machine, not a fault
    """This machine cannot host a lab: a right or a program is missing."""


class Cancelled(LlmprovError):  # noqa: N818
    """The user pressed ctrl-C."""

    exit_code = 130

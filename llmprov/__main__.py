"""Where the program begins, as `llmprov` and as `python -m llmprov`; ctrl-C has an answer from here on."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ctrl-C ends in one word and exit code 130, even while modules are still being loaded."""
    try:
        from llmprov import cli

        cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("llmprov: cancelled\n")
        sys.exit(130)


if __name__ == "__main__":
    main()

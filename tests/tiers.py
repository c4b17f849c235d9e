"""The two tiers of tests: what `make test` left to `make test-all`, and how long that last took in this checkout.

`python -m tests.tiers TIER SECONDS CODE` is run at the end of a tier, with what it took and its exit code.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.table import clock

#: Seconds that the last `make test-all` took that passed.
TOOK = Path(".test-all-took")


def long_tests() -> list[str]:
    """The ids of the tests that are marked as long."""
    argv = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:warnings", "-m", "long", "tests"]
    listed = subprocess.run(argv, capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if "::" in line and not line.startswith(("ERROR", "SKIPPED"))]


def left_out(tests: list[str], took: str) -> str:
    """What the shorter tier says at its end."""
    counts = Counter(test.split("::")[0] for test in tests)
    lines = [f"  {module}: {count}" for module, count in sorted(counts.items())]
    return "\n".join([f"make: {len(tests)} long tests were left to `make test-all`, which {took}:", *lines])


def last_took() -> str:
    """How long the longer tier last took."""
    if not TOOK.exists():
        return "has not passed in this checkout yet"
    return f"last took {clock(float(TOOK.read_text('ascii')))} in this checkout"


def main(tier: str, seconds: str, code: str) -> None:
    """Print what belongs at the end of a tier."""
    said = [f"make: `make {tier}` took {clock(float(seconds))}" + ("" if code == "0" else ", and something failed")]
    if tier == "test":
        said.append(left_out(long_tests(), last_took()))
    elif code == "0":
        TOOK.write_text(seconds, "ascii")
    sys.stdout.write("\n".join(said) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

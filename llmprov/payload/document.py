"""The payload's document: checks and measurements as plain data, and a standard output kept clean for it."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from typing import Any, Dict, List, Optional, Union

Value = Union[bool, int, float, str, None]

PASS, WARN, FAIL, INCONCLUSIVE = "pass", "warn", "fail", "inconclusive"
#: Not an outcome: what a device does not tell of itself, listed apart from the checks.
NOT_REPORTED = "not_reported"

#: Longest text kept as evidence, in characters: enough for the end of a traceback.
EVIDENCE_LIMIT = 2000


def check(
    check_id: str,
    status: str,
    summary: str,
    measured: Value = None,
    expected: Value = None,
    unit: str = "",
    evidence: str = "",
    remedy: str = "",
) -> Dict[str, Value]:
    """One check. A figure that is no number is not a figure: NaN and infinities become text.

    Ids are made of what devices and paths are called, and are cut down to what an id may be.
    """
    return {
        "id": re.sub(r"[^a-z0-9_.:-]", "_", check_id.lower())[:120],
        "status": status,
        "summary": summary,
        "measured": _finite(measured),
        "expected": _finite(expected),
        "unit": unit,
        "evidence": evidence[-EVIDENCE_LIMIT:],
        "remedy": remedy,
    }


def not_reported(check_id: str, what: str, expected: bool = False) -> Dict[str, Value]:
    """Something that is not told here; inconclusive where it was `expected` to be."""
    summary = "%s is not reported" % what
    if expected:
        return check(check_id, INCONCLUSIVE, summary, remedy="update the driver, or look with the vendor's own tools")
    return check(check_id, NOT_REPORTED, summary)


def _finite(value: Value) -> Value:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


#: Most single readings kept of one figure: what statistics on the controller need, and no more.
SAMPLE_LIMIT = 200


def measurement(
    key: str, value: float, unit: str, samples: Optional[List[float]] = None, device: str = ""
) -> Dict[str, Any]:
    """One figure; its key carries the unit. `device` is what it was measured on: `cpu`, `gpu0`; empty for the host."""
    kept = (samples or [])[:SAMPLE_LIMIT]
    return {"key": key, "value": value, "unit": unit, "samples": kept, "device": device}


class CleanStdout:
    """Keeps standard output for the document: whatever libraries print meanwhile goes to standard error.

    Works on the file descriptor, so that C libraries and child processes are kept off it too.
    """

    def __enter__(self) -> "CleanStdout":
        sys.stdout.flush()
        self._kept = os.dup(1)
        os.dup2(2, 1)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.stdout.flush()
        os.dup2(self._kept, 1)
        os.close(self._kept)

    def write(self, document: Dict[str, Any]) -> None:
        """Print the document, the only thing that standard output ever sees."""
        data = (json.dumps(document, allow_nan=False, sort_keys=True) + "\n").encode()
        while data:
            data = data[os.write(self._kept, data) :]


def say(what: str) -> None:
    """Tell what comes next on standard error, so that a payload that is killed says where."""
    sys.stderr.write("llmprov payload: %s\n" % what)
    sys.stderr.flush()

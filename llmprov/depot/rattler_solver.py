"""The solver's process: a question as JSON on standard input, the packages or an error as JSON on standard output."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import rattler

PRIORITIES = {
    "strict": rattler.ChannelPriority.Strict,
    # conda's `flexible` falls back to lower channels; py-rattler knows strict and disabled.
    "flexible": rattler.ChannelPriority.Disabled,
    "disabled": rattler.ChannelPriority.Disabled,
}


async def answer(question: dict[str, Any]) -> list[dict[str, Any]]:
    """Solve; what is there already is kept where that works, and let go where it does not."""
    gateway = rattler.Gateway(cache_dir=question["cache"])

    async def solved(constraints: list[str]) -> list[rattler.RepoDataRecord]:
        return await rattler.solve(
            question["channels"],
            # As conda reads them; given as text they would be read more strictly.
            [rattler.MatchSpec(text) for text in question["specs"]],
            gateway=gateway,
            platforms=[question["subdir"], "noarch"],
            virtual_packages=[
                rattler.GenericVirtualPackage(
                    rattler.PackageName(name), rattler.Version(version), rattler.BuildString("0")
                )
                for name, version in question["virtual_packages"]
            ],
            channel_priority=PRIORITIES[question["priority"]],
            constraints=[rattler.MatchSpec(text) for text in constraints],
        )

    try:
        records = await solved(question["kept"])
    except Exception:
        if not question["kept"]:
            raise
        records = await solved([])
    return [described(record) for record in sorted(records, key=lambda record: record.file_name)]


def described(record: rattler.RepoDataRecord) -> dict[str, Any]:
    """A record as the fields of an `Artifact`."""
    if record.sha256 is None:
        raise ValueError(f"the channel gives no sha256 for {record.file_name}, so it cannot be checked")
    return {
        "filename": record.file_name,
        "url": str(record.url),
        "sha256": record.sha256.hex(),
        "size_bytes": record.size,
        "name": record.name.normalized,
        "version": str(record.version),
    }


def main() -> int:
    """Answer the question on standard input."""
    try:
        out: dict[str, Any] = {"records": asyncio.run(answer(json.load(sys.stdin)))}
    except Exception as error:  # the solver's errors have no common class
        out = {"error": " ".join(str(error).split())[:1500]}
    sys.stdout.write(json.dumps(out))
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # The solver's threads can abort a regular exit (seen with py-rattler 0.28).
    os._exit(code)

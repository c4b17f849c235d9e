"""Who computes differently: devices of one kind vote on the digests of a seeded computation, bit by bit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from llmprov.model import Check, CheckStatus, HostReport
from llmprov.report.compare import Findings, names

#: Two that differ only say that one of them is wrong.
LEAST_VOTES = 3

REMEDY = "take it out of service: its results cannot be trusted, and no error counter needs to show it"


def vote(rows: Sequence[HostReport]) -> Findings:
    """Checks of devices that a majority of more than half contradicts; notes where there is none.

    Votes are counted a figure (`gradients`), over devices of one name: a host may carry two kinds of them.
    """
    votes: dict[tuple[str, str], dict[tuple[str, str], str]] = defaultdict(dict)
    for row in rows:
        kinds = {device.label: device.name for device in row.devices}
        for key, digest in row.digests.items():
            label, _, figure = key.rpartition(".")
            votes[kinds.get(label, ""), figure][row.host, label] = digest
    found = Findings()
    for (kind, figure), given in sorted(votes.items()):
        _count(kind, figure, given, found)
    return found


def _count(kind: str, figure: str, given: dict[tuple[str, str], str], found: Findings) -> None:
    counted = Counter(given.values())
    winner, most = counted.most_common(1)[0]
    if len(counted) == 1:
        return
    if len(given) < LEAST_VOTES or 2 * most <= len(given):
        parties = "; ".join(
            f"{digest[:8]}: {names([f'{host} {label}' for (host, label), own in given.items() if own == digest], 3)}"
            for digest, _ in counted.most_common(3)
        )
        what = f" of {kind}" if kind else ""
        found.notes.append(
            f"{figure}{what}: devices compute differently, and no majority says which are right: {parties}"
        )
        return
    for (host, label), digest in given.items():
        if digest != winner:
            found.checks[host].append(_outvoted(label, figure, digest, winner, most, len(given)))


def _outvoted(label: str, figure: str, digest: str, winner: str, most: int, votes: int) -> Check:
    summary = f"{label} computes other {figure} than {most} of the {votes} devices of its kind"
    return Check(
        id=f"cohort.{label}.{figure}.digest",
        status=CheckStatus.FAIL,
        summary=summary,
        measured=digest,
        expected=winner,
        evidence=f"{most} of {votes} devices agree on {winner[:16]}…",
        remedy=REMEDY,
    )

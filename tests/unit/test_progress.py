"""What a run tells while it goes on."""

from __future__ import annotations

import io

from rich.console import Console

from llmprov.run.ledger import Ledger
from llmprov.run.progress import Lines


def test_a_task_that_waits_for_another_run_says_so_before_its_end():
    event = {"event": "waiting", "host": "gpu01", "by": "`llmprov verify` of ann@ctl1"}
    ledger, out = Ledger({"gpu01": []}, ["gpu01"]), io.StringIO()
    entry = ledger.fold("converge", event)
    assert entry.doing == "Wait for `llmprov verify` of ann@ctl1"
    Lines(Console(file=out)).event("converge", event, entry)
    assert out.getvalue().endswith("gpu01: waits for `llmprov verify` of ann@ctl1\n")

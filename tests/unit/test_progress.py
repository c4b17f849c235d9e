"""What a run tells while it goes on."""

from __future__ import annotations

import io
import json

from rich.console import Console

from llmprov.run import worker
from llmprov.run.ledger import Ledger
from llmprov.run.progress import Lines


def test_a_task_that_waits_for_another_run_says_so_before_its_end():
    waits = {"host": "gpu01", "by": "`llmprov verify` of ann@ctl1"}
    event = worker.slim({"event": "verbose", "stdout": worker.WAITING + json.dumps(waits)})
    assert event == {"event": "waiting", **waits}
    ledger, out = Ledger({"gpu01": []}, ["gpu01"]), io.StringIO()
    entry = ledger.fold("converge", event)
    assert entry.doing == "Wait for `llmprov verify` of ann@ctl1"
    Lines(Console(file=out)).event("converge", event, entry)
    assert out.getvalue().endswith("gpu01: waits for `llmprov verify` of ann@ctl1\n")


def test_other_words_of_ansible_are_told_only_where_they_are_errors():
    assert worker.slim({"event": "verbose", "stdout": "PLAY [all] ***"}) is None
    assert worker.slim({"event": "verbose", "stdout": "[ERROR]: no"}) == {"event": "error", "message": "[ERROR]: no"}

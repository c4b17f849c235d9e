"""What is committed is what the model says."""

from __future__ import annotations

import pytest

from llmprov.model.generate import everything
from tests.conftest import ROOT

FILES = everything(ROOT)


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda p: str(p.relative_to(ROOT)))
def test_committed_files_follow_from_the_model(path):
    assert path.read_text("utf-8") == FILES[path], "run `make generate` and commit what it writes"

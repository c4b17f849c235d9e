"""What unit tests share: torch, which takes seconds to load, only where a test asks for it."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch with its compiler.

    Ansible, which other tests bring into this process, replaces `sys.intern`, and torch refuses to load then: it loads with
    the real one.
    """
    real = getattr(sys.intern, "unpatched_implementation", sys.intern)
    with warnings.catch_warnings(action="ignore"), pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "intern", real)
        import torch
        import torch._dynamo
    return torch

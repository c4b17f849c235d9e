"""URLs as they may be shown and kept."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit


def without_secrets(url: str) -> str:
    """A URL without user, password, query, and the token that conda's servers take as `/t/TOKEN/` in the path."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    path = re.sub(r"/t/[^/]+(?=/)", "", parts.path)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, query="", fragment=""))

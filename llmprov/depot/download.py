"""Fetching one file: from a URL or this machine, taken up again where a former try broke off."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

from llmprov.depot.pip_config import PipConfig
from llmprov.errors import LlmprovError
from llmprov.model import Artifact
from llmprov.text import without_secrets

#: Tries that bring nothing new before a download is given up.
TRIES = 4
TIMEOUT_S = (15.0, 60.0)
#: What is lost at most where a connection breaks off: less than this was read and not yet written.
CHUNK = 1 << 16


def fetch(artifact: Artifact, partial: Path) -> int:
    """Bring an artifact's bytes to `partial`, going on from what lies there; returns the bytes that were moved.

    Raises:
        LlmprovError: no try succeeded; what came so far stays for the next one.
    """
    parts = urlsplit(artifact.url)
    if parts.scheme == "file":
        return _copy(Path(unquote(parts.path)), partial)
    before = partial.stat().st_size if partial.exists() else 0
    failed = 0
    while True:
        have = partial.stat().st_size if partial.exists() else 0
        try:
            _download(artifact, partial)
            return partial.stat().st_size - before
        except requests.RequestException as error:
            came = partial.exists() and partial.stat().st_size > have
            failed = 0 if came else failed + 1
            if failed == TRIES or _is_final(error):
                raise LlmprovError(
                    f"{artifact.filename} could not be fetched from {without_secrets(artifact.url)}: {_reason(error)}"
                ) from None
            time.sleep(2.0**failed)


def _copy(source: Path, partial: Path) -> int:
    try:
        shutil.copyfile(source, partial)
    except OSError as error:
        raise LlmprovError(f"{source} could not be read: {error.strerror}") from None
    return partial.stat().st_size


def _download(artifact: Artifact, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    url, auth = _credentials(artifact.url)
    with requests.get(
        url, headers=headers, auth=auth, stream=True, timeout=TIMEOUT_S, verify=PipConfig.of_this_machine().verify
    ) as answer:
        if have and answer.status_code == requests.codes.range_not_satisfiable:
            return  # all of it is here already, or it is another file: the digest will tell
        answer.raise_for_status()
        goes_on = answer.status_code == requests.codes.partial_content
        expected = answer.headers.get("Content-Length")
        written = 0
        with partial.open("ab" if goes_on else "wb") as handle:
            for chunk in answer.iter_content(CHUNK):
                handle.write(chunk)
                written += len(chunk)
        if expected is not None and written < int(expected):
            raise requests.ConnectionError(f"the connection broke off after {written} of {expected} bytes")


def _credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without a user in it, and who to be; an index's user holds for the files it names on the same host."""
    parts = urlsplit(url)
    for known in (url, *PipConfig.of_this_machine().index_urls()):
        about = urlsplit(known)
        if about.hostname == parts.hostname and about.username:
            return without_secrets(url), (unquote(about.username), unquote(about.password or ""))
    return url, None


def _is_final(error: requests.RequestException) -> bool:
    """Whether another try would only hear the same."""
    status = error.response.status_code if error.response is not None else None
    return status is not None and 400 <= status < 500 and status not in (408, 429)


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "it did not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted by this machine"
    return str(error).split(": ")[-1].strip("'\")(") or type(error).__name__

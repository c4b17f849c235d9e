"""A content-addressed store: each artifact is fetched once, checked against its digest, and kept under a size."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmprov.errors import LlmprovError
from llmprov.model import Artifact
from llmprov.text import without_secrets

CHUNK = 1 << 20

#: What was used within this time is never cleaned up, in seconds: a run that still needs it may be under way.
GRACE_S = 6 * 3600.0


def cache_directory() -> Path:
    """Where fetched files are kept: $XDG_CACHE_HOME/llmprov, else ~/.cache/llmprov."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmprov"


@dataclass(frozen=True)
class StoredFile:
    """An artifact in the store: where it lies, and how many bytes it took to fetch just now (0: it was there)."""

    path: Path
    fetched_bytes: int


class Store:
    """The store below `root`. Several processes may use it at once."""

    def __init__(self, root: Path | None = None, limit_gb: float = 50.0) -> None:
        self.root = root or cache_directory() / "depot"
        self.limit_bytes = int(limit_gb * 1e9)

    def path(self, sha256: str) -> Path:
        """Where the artifact with that digest lies, or would."""
        return self.root / "sha256" / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether something is kept under that digest; it is not read."""
        return self.path(sha256).exists()

    def ensure(self, artifact: Artifact) -> StoredFile:
        """The artifact's file, whose content is what its digest says; fetched where it is not there or was spoilt.

        Raises:
            LlmprovError: it cannot be fetched, or what comes has another digest.
        """
        target = self.path(artifact.sha256)
        with self._locked(artifact.sha256):
            if target.exists() and self._is_sound(target, artifact.sha256):
                self._vouch(target, artifact.sha256)
                return StoredFile(target, 0)
            target.unlink(missing_ok=True)
            partial = self.root / "partial" / artifact.sha256
            partial.parent.mkdir(parents=True, exist_ok=True)
            # Not at the top: it takes a quarter of a second, and most runs fetch nothing.
            from llmprov.depot import download

            fetched = download.fetch(artifact, partial)
            found = sha256_of(partial)
            if found != artifact.sha256:
                partial.unlink()
                raise LlmprovError(
                    f"{artifact.filename} has another content than declared: sha256 {found} where {artifact.sha256} "
                    f"was expected, from {without_secrets(artifact.url)}; nothing was installed from it"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.chmod(0o444)
            partial.rename(target)
            self._vouch(target, artifact.sha256)
        return StoredFile(target, fetched)

    # -- trust ---------------------------------------------------------------------------------------------------

    def _is_sound(self, path: Path, sha256: str) -> bool:
        """Whether a kept file still has its digest; a file unchanged since it was last read is not read again."""
        if self._stamp(path) == self._vouched(sha256):
            return True
        if sha256_of(path) != sha256:
            return False
        self._vouch(path, sha256)
        return True

    def _stamp(self, path: Path) -> str:
        about = path.stat()
        # The change time, unlike the modification time, cannot be set back.
        return f"{about.st_ino} {about.st_size} {about.st_ctime_ns}"

    def _vouched(self, sha256: str) -> str | None:
        note = self.root / "checked" / sha256
        return note.read_text("utf-8") if note.exists() else None

    def _vouch(self, path: Path, sha256: str) -> None:
        """Note that the file is sound, and used now; in this order, as the change time moves with the time of use."""
        note = self.root / "checked" / sha256
        note.parent.mkdir(parents=True, exist_ok=True)
        os.utime(path)
        note.write_text(self._stamp(path), encoding="utf-8")

    # -- size ----------------------------------------------------------------------------------------------------

    def clean(self) -> int:
        """Remove what was used longest ago until the store is under its limit; returns the bytes that were freed."""
        with self._locked("clean"):
            kept = sorted((self.root / "sha256").glob("*/*"), key=lambda path: path.stat().st_mtime)
            excess = sum(path.stat().st_size for path in kept) - self.limit_bytes
            freed, recent = 0, time.time() - GRACE_S
            for path in kept:
                about = path.stat()
                if freed >= excess or about.st_mtime > recent:
                    break
                path.unlink()
                (self.root / "checked" / path.name).unlink(missing_ok=True)
                freed += about.st_size
            for path in (self.root / "partial").glob("*"):
                if path.stat().st_mtime < recent:
                    path.unlink(missing_ok=True)
        return freed

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock = self.root / "locks" / name
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def sha256_of(path: Path) -> str:
    """The digest of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

"""This machine's pip configuration, read once and said again in uv's words.

uv ignores pip's configuration (its documentation says so), yet users have set theirs for good reasons: a mirror, a
folder of wheels. Without this translation uv takes a CUDA build of torch where pip takes the CPU build.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llmprov.errors import LlmprovError


@dataclass(frozen=True)
class PipConfig:
    """Where pip takes packages from: the index, further indexes, folders or pages of files."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    #: File of certificate authorities; None for those that requests brings along.
    cert: str | None = None

    @classmethod
    @cache
    def of_this_machine(cls) -> PipConfig:
        """What the pip of this Python is set to, by its files and its environment.

        Raises:
            LlmprovError: this Python has no working pip.
        """
        done = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise LlmprovError(
                f"`{sys.executable} -m pip config list` failed, so the package indexes of this machine are unknown: "
                f"{(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
            )
        return cls.parse(done.stdout)

    @classmethod
    def parse(cls, listing: str) -> PipConfig:
        """Read the lines of `pip config list`; later sections win, as in pip: files, a command's own, environment."""
        order = {"global": 0, "install": 1, ":env:": 2}
        values: dict[str, tuple[int, str]] = {}
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            section, _, key = name.rpartition(".")
            rank = order.get(section, -1)
            if value and rank >= values.get(key, (0, ""))[0] and rank >= 0:
                values[key] = (rank, str(ast.literal_eval(value)))
        text = {key: value for key, (_, value) in values.items()}
        return cls(
            index_url=text.get("index-url") or None,
            extra_index_urls=tuple(text.get("extra-index-url", "").split()),
            find_links=tuple(text.get("find-links", "").split()),
            no_index=text.get("no-index", "").lower() in ("1", "true", "yes", "on"),
            cert=text.get("cert") or None,
        )

    @property
    def verify(self) -> str | bool:
        """What certificates are checked against, in the words of requests; there is no way to leave the check out."""
        return self.cert or True

    def index_urls(self) -> list[str]:
        """Every index, by URL, with the user in it where there is one."""
        return [url for url in (self.index_url, *self.extra_index_urls) if url]

    @property
    def has_settings(self) -> bool:
        """Whether anything differs from a pip that was never configured."""
        return self != PipConfig(cert=self.cert)

    def as_uv_environment(self) -> dict[str, str]:
        """Environment variables that make uv look where pip looks; secrets in URLs stay off every command line."""
        found = {}
        if self.index_url:
            found["UV_DEFAULT_INDEX"] = self.index_url
        if self.extra_index_urls:
            found["UV_INDEX"] = " ".join(self.extra_index_urls)
            # pip takes the best version of all indexes; uv by default stops at the first that has the name.
            found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
        if self.find_links:
            found["UV_FIND_LINKS"] = ",".join(self.find_links)
        if self.no_index:
            found["UV_NO_INDEX"] = "1"
        return found

    def as_uv_toml(self) -> str:
        """The same as `as_uv_environment`, as a uv.toml for a host that shares this machine's folders."""
        lines = []
        if self.index_url:
            lines.append(f"index-url = {_toml(self.index_url)}")
        if self.extra_index_urls:
            lines.append(f"extra-index-url = [{', '.join(map(_toml, self.extra_index_urls))}]")
            lines.append('index-strategy = "unsafe-best-match"')
        if self.find_links:
            lines.append(f"find-links = [{', '.join(map(_toml, self.find_links))}]")
        if self.no_index:
            lines.append("no-index = true")
        return "".join(f"{line}\n" for line in lines)

    def local_directories(self) -> list[Path]:
        """The directories of this machine that the configuration names and that exist."""
        found = set()
        for place in (self.index_url, *self.extra_index_urls, *self.find_links):
            parts = urlsplit(place or "")
            path = Path(unquote(parts.path)) if parts.scheme in ("", "file") and parts.path else None
            if path and path.is_absolute() and path.is_dir():
                found.add(path)
        # A simple index of files points beside itself (`../../files/…`): its parent has both.
        return sorted({path.parent if path.name == "simple" else path for path in found})


def _toml(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

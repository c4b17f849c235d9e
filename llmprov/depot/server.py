"""Artifacts over HTTP: `/TOKEN/SHA256`, whole or from an offset, to whoever knows the token and to nobody else.

Runs as a process of its own, so that every fork of an Ansible finds the same one, and ends when that Ansible does.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import shutil
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from llmprov.depot.session import belongs_to_the_living, remove
from llmprov.depot.store import Store

CHUNK = 1 << 20

#: How often the server looks whether its Ansible still runs, in seconds.
WATCH_S = 0.5


class Handler(BaseHTTPRequestHandler):
    """Answers GET for digests; anything else is not found, whether the token or the path is wrong."""

    protocol_version = "HTTP/1.1"
    store: Store
    token: str

    def do_GET(self) -> None:
        """Send one artifact."""
        _, token, digest = [*self.path.split("/", 2), "", ""][:3]
        path = self.store.path(digest) if re.fullmatch(r"[0-9a-f]{64}", digest) else None
        if not hmac.compare_digest(token.encode(), self.token.encode()) or path is None or not path.is_file():
            self.send_response(HTTPStatus.NOT_FOUND)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with path.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            begin = self._offset(size)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if begin else HTTPStatus.OK)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - begin))
            self.end_headers()
            handle.seek(begin)
            shutil.copyfileobj(handle, self.wfile, CHUNK)

    def _offset(self, size: int) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match and int(match[1]) < size else 0

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a request's path has the token in it."""


class Server(ThreadingHTTPServer):
    """One thread a connection; a host that goes away mid-transfer is no error of ours."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[Handler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave it: the host asks again, from where it was."""


def main(store: str, limit_gb: str, note: str, address: str) -> int:
    """Serve `store` on `address` until the Ansible of the session ends in which `note` gets port and token.

    Returns once the note is written and the server is on its own.
    """
    target = Path(note)
    Handler.store, Handler.token = Store(Path(store), float(limit_gb)), secrets.token_urlsafe(24)
    try:
        server = Server((address, 0), Handler)
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return 1
    if child := os.fork():
        about = {"port": server.server_address[1], "token": Handler.token, "pid": child}
        partial = target.with_suffix(".new")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(about), encoding="utf-8")
        partial.rename(target)
        return 0
    _leave()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while target.parent.exists() and belongs_to_the_living(target.parent):
        time.sleep(WATCH_S)
    Handler.store.clean()
    remove(target.parent)
    return 0


def _leave() -> None:
    """Let go of the terminal and of every file of whoever started this."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

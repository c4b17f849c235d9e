"""What runs leave: on hosts, and on the machine that they were started from; and links that make them slow."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import tempfile
import time
from pathlib import Path

#: What lies on a host only while something runs there. The depot's folder keeps what a cut transfer brought, to go on.
TEMPORARY = (
    "ls -d /tmp/ansible* /tmp/llmprov* /var/tmp/llmprov* /var/tmp/ansible* /root/.ansible/tmp*/* "
    "/home/admin/.ansible/tmp*/* /opt/llmprov/envs/.llmprov/*.link 2>/dev/null || true"
)


def processes(lab, name):
    """What runs on the host for llmprov, by what it carries in its environment; and the connection that holds it."""
    script = """
    for p in $(grep -lz '^LLMPROV_RUN=.' /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); do
      tr '\\0' ' ' < /proc/$p/cmdline | cut -c-120; echo
    done; ps -ww -eo args= | grep -E '[l]lmprov-run|[p]ayload.pyz|[a]nsible' | cut -c-120; true"""
    return [line.strip() for line in lab.sh(name, script).splitlines() if line.strip()]


def listeners(lab, name):
    """Where the host listens, but for its sshd."""
    return [a for a in re.findall(r"\s(\S+:\d+)\s+0\.0\.0\.0", lab.sh(name, "ss -Htln4")) if not a.endswith(":22")]


def left_on_host(lab, name):
    return [*processes(lab, name), *lab.sh(name, TEMPORARY).split(), *listeners(lab, name)]


@contextlib.contextmanager
def place_of_runs():
    """A folder for temporary files of the runs begun meanwhile, by which their processes are known, too."""
    before, before_cached = os.environ.get("TMPDIR"), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="runs-", dir="/tmp") as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before_cached
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before


def left_here(place):
    """What is left on the controller of runs that had their temporary files in `place`: processes and files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"{place}".encode() in (process / "environ").read_bytes()
            zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if ours and not zombie and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")[:160])
    return [*found, *map(str, place.iterdir())]


def until(what, says, patience_s=60.0):
    deadline = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"it did not happen within {patience_s} s: {says}"
        select.select([], [], [], 0.1)
    return found


def gone(what, patience_s=60.0):
    """Wait until nothing is left; where something stays, the failure names it."""
    deadline = time.monotonic() + patience_s
    while left := what():
        assert time.monotonic() < deadline, f"left after {patience_s} s: {left}"
        select.select([], [], [], 0.1)


@contextlib.contextmanager
def slow_link(name, rate):
    """The link to a host with so many bits a second, such as `20mbit`, until `quick_link` or the end."""
    limit = ["tbf", "rate", rate, "burst", "64kb", "latency", "400ms"]
    subprocess.run(["tc", "qdisc", "add", "dev", f"vb-{name}", "root", *limit], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", f"vb-{name}", "root"], check=False, stderr=subprocess.DEVNULL)


def quick_link(name):
    subprocess.run(["tc", "qdisc", "del", "dev", f"vb-{name}", "root"], check=True)

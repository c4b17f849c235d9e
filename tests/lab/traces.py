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


def left_here(inventory):
    """What is left of runs of this inventory on the controller; what other test processes run is theirs."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,stat=,args="], capture_output=True, text=True).stdout
    rows = {
        int(row[0]): (int(row[1]), row[2], row[3]) for row in (x.split(None, 3) for x in listed.splitlines()) if row[3:]
    }
    theirs = {pid for pid, (_, _, args) in rows.items() if "pytest" in args and pid != os.getpid()}
    found = [
        f"{pid} {args[:160]}"
        for pid, (_, state, args) in rows.items()
        if (str(inventory) in args or "llmprov.run" in args or "llmprov-run" in args)
        and not state.startswith("Z")
        and not theirs & set(lineage(pid, rows))
    ]
    folders = Path(tempfile.gettempdir()).glob("llmprov-run-*")
    return found + [str(folder) for folder in folders if not theirs & set(lineage(owner_of(folder), rows))]


def lineage(pid, rows):
    """A process and those that it descends from."""
    while pid in rows:
        yield pid
        pid = rows[pid][0]


def owner_of(folder):
    """The process of a run's folder; 0 where it cannot be told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((folder / "owner").read_text().split()[0])
    return 0


def until(what, says, patience_s=60.0):
    deadline = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"it did not happen within {patience_s} s: {says}"
        select.select([], [], [], 0.1)
    return found


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

"""A process that ends what a run started on this host, once the run is gone. Python 3.9 and later.

Killing Ansible and ssh on the controller leaves commands on hosts running. Every task of a run carries the run's name
in its environment, and so does all that it starts: that is what is looked for. Who holds the host for the run
(files/hold.py) goes with the controller, and tells the guard by that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time

HOLDER = "\0llmprov-run"
VARIABLE = "LLMPROV_RUN"

#: How long programs have to end by themselves, in seconds: modules remove their temporary files meanwhile.
GRACE_S = 1.5


def begin():
    """Start the guard of this run, unless it runs or this is no run of llmprov's."""
    run = os.environ.get(VARIABLE, "")
    if not run:
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    # From here on in a child that never returns.
    try:
        os.setsid()
        if not os.fork():
            watch(run)
    finally:
        os._exit(0)


def watch(run):
    os.chdir("/")
    os.closerange(0, 4096)
    for _ in range(3):
        os.open(os.devnull, os.O_RDWR)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as own:
        try:
            own.bind("\0llmprov-guard-%s-%d" % (run, os.geteuid()))
        except OSError:
            return  # another task of this run was here before
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as holder:
            try:
                holder.connect(HOLDER)
                if run.encode() not in holder.recv(4096):
                    return
                holder.send(b"guard\n")
            except OSError:
                return  # nobody holds this host for the run, so that nothing would tell of its end
            with contextlib.suppress(OSError):
                while holder.recv(4096):
                    pass
            end(run)
            shutil.rmtree(os.path.expanduser("~/.ansible/tmp-" + run), ignore_errors=True)


def end(run):
    """End every program of the run: first as ctrl-C does, so that they tidy up, then for good."""
    found = marked(run)
    for number, patience in ((signal.SIGINT, GRACE_S), (signal.SIGKILL, GRACE_S)):
        for pid in found:
            kill(pid, number)
        deadline = time.monotonic() + patience
        while True:
            # What they started meanwhile is theirs, too.
            found = {**{pid: began for pid, began in found.items() if status(pid)[1] == began}, **marked(run)}
            if not found:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)


def marked(run):
    """Process id -> when it began, of the run's programs; without daemons, which were started to stay."""
    mark, found = ("%s=%s" % (VARIABLE, run)).encode(), {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open("/proc/%s/environ" % name, "rb") as handle:
                variables = handle.read().split(b"\0")
        except OSError:
            continue
        parent, began = status(int(name))
        if mark in variables and began and parent != 1:
            found[int(name)] = began
    return found


def status(pid):
    """(parent, when it began in ticks); nothing of a process that has ended."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as handle:
            words = handle.read().rpartition(")")[2].split()
    except OSError:
        return 0, ""
    return (0, "") if words[0] in "ZX" else (int(words[1]), words[19])


def kill(pid, number):
    try:
        os.kill(pid, number)
    except OSError:
        pass

"""Hold this host for one run, for as long as standard input lasts; or tell who holds it.

Handed to the host's Python as text, over a connection of its own that ends with the controller. What is held is a name
among the kernel's sockets: it goes with the process that has it, whatever becomes of that, and leaves no file. Who asks
there is told who holds it; the guard of the run (module_utils/llmprov_guard.py) listens there for its end. Python 3.9.

Arguments: what is told of the run, as JSON; seconds to wait for another run; the folder that goes with the run.
Prints one line of JSON: `held`; `waited`, whether for another run; `by`, what another holder tells, and `user`, who
that is on this host.
"""

import json
import os
import pwd
import select
import shutil
import socket
import struct
import sys
import time

NAME = "\0llmprov-run"

#: How long the guard may take to end what still runs, in seconds.
GUARD_S = 4.0


def ended(stream):
    """Whether standard input has ended: the controller is gone, or done."""
    return not os.read(stream, 4096)


def holder(patience_s):
    """What the holder tells and which user of this host it is; then wait for its end, or for that of the patience."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(2)
        try:
            asked.connect(NAME)
            _, uid, _ = struct.unpack("3i", asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            told = asked.makefile("rb").readline(4096)
        except OSError:
            return None
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = "uid %d" % uid
        try:
            by = json.loads(told)
        except ValueError:
            by = {}
        if patience_s > 0 and by.get("run") != json.loads(sys.argv[1])["run"]:
            ready, _, _ = select.select([asked, 0], [], [], patience_s)
            if 0 in ready and ended(0):
                sys.exit(0)
        return {"by": by if isinstance(by, dict) else {}, "user": user}


def take(server):
    """(who holds the host instead, or None once it is held; whether that was waited for)."""
    deadline, waited = time.monotonic() + float(sys.argv[2]), False
    while True:
        try:
            server.bind(NAME)
        except OSError:
            other = holder(deadline - time.monotonic())
            if other and (time.monotonic() > deadline or other["by"].get("run") == json.loads(sys.argv[1])["run"]):
                return other, waited
            waited = True
            # It ended between the two questions.
            time.sleep(0.05)
        else:
            server.listen(64)
            return None, waited


def serve(server):
    """Tell who asks, until standard input ends; then wait until the guards have ended what still runs."""
    asking, guards = [], []
    while True:
        ready, _, _ = select.select([0, server, *asking, *guards], [], [])
        if 0 in ready and ended(0):
            return part(guards)
        for one in ready:
            if one is server:
                welcome(one, asking)
            elif one != 0:
                hear(one, asking, guards)


def welcome(server, asking):
    new = server.accept()[0]
    new.setblocking(False)
    send(new, sys.argv[1].encode() + b"\n")
    asking.append(new)
    if len(asking) > 50:
        asking.pop(0).close()


def hear(one, asking, guards):
    said = receive(one)
    if one in asking and said == b"guard\n":
        asking.remove(one)
        guards.append(one)
    elif not said and one in asking + guards:
        (asking if one in asking else guards).remove(one)
        one.close()


def part(guards):
    for one in guards:
        one.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + GUARD_S
    while guards and time.monotonic() < deadline:
        for one in select.select(guards, [], [], max(deadline - time.monotonic(), 0))[0]:
            if not receive(one):
                guards.remove(one)


def send(one, text):
    try:
        one.send(text)
    except OSError:
        pass


def receive(one):
    try:
        return one.recv(100)
    except OSError:
        return b""


def main():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        other, waited = take(server)
        mine = other is None or other["by"].get("run") == json.loads(sys.argv[1])["run"]
        print(json.dumps({"held": mine, "waited": waited, **(other or {})}), flush=True)
        if other is None:
            serve(server)
            shutil.rmtree(os.path.expanduser(sys.argv[3]), ignore_errors=True)


main()

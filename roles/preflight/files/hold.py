"""Hold this host for one run, for as long as standard input lasts; or tell who holds it.

Handed to the host's Python as text, over a connection of its own that ends with the controller. What is held is a name
among the kernel's sockets: it goes with the process that has it, whatever becomes of that, and leaves no file. Who asks
there is told who holds it; the guard of the run (module_utils/llmprov_guard.py) listens there for its end. Python 3.9.

Two runs that each hold what the other waits for would wait in vain. So a run waits with what it has only for runs that
began after it; one that meets a run which began before says so at once, is to give back all that it holds, waits for
that run's end, and then asks again.

Arguments: what is told of the run, as JSON; seconds to wait for another run; the folder that goes with the run.
Prints a line of JSON: `held`; `waited`, whether for another run; `by`, what another holder tells, and `user`, who that
is on this host; `mine`, whether that is this run; `behind`, whether it began before this run and was waited for. Each
time that a wait begins, a line before tells the same of whom is waited for, without `held`.
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

OWN = json.loads(sys.argv[1])

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
        other = {"user": user, **known(told)}
        other["behind"] = other["behind"] and patience_s > 0
        if patience_s > 0 and not other["mine"]:
            print(json.dumps(other), flush=True)
            ready, _, _ = select.select([asked, 0], [], [], patience_s)
            if 0 in ready and ended(0):
                sys.exit(0)
        return other


def known(told):
    """What a holder said of its run, whether it is this one, and whether it began before this one."""
    try:
        by = json.loads(told)
    except ValueError:
        by = {}
    by = by if isinstance(by, dict) else {}
    same = by.get("run") == OWN["run"]
    # A holder of this run's that is to give the host back, and has not yet, is waited for as another's is.
    mine = same and by.get("round") == OWN["round"]
    return {"by": by, "mine": mine, "behind": "since" in by and not same and order(by) < order(OWN)}


def order(about):
    """Runs in one order, the same for all of them: that their clocks differ does no harm."""
    return str(about["since"]), str(about.get("run"))


def take(server):
    """(who holds the host instead, or None once it is held; whether that was waited for)."""
    deadline, waited = time.monotonic() + float(sys.argv[2]), False
    while True:
        try:
            server.bind(NAME)
        except OSError:
            other = holder(deadline - time.monotonic())
            if other and (other["mine"] or other["behind"] or time.monotonic() > deadline):
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
        held = other is None or other["mine"]
        print(json.dumps({"held": held, "waited": waited, **(other or {})}), flush=True)
        if other is None:
            serve(server)
            shutil.rmtree(os.path.expanduser(sys.argv[3]), ignore_errors=True)


main()

"""A long and lossy cable to a lab host: every frame waits, and some are lost; by a process, as not every kernel has netem.

The host's link is taken off the lab's bridge, and a TAP device set in its place; frames go between the two by hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
#: Kind of a frame that this machine sends itself, from linux/if_packet.h.
PACKET_OUTGOING = 4
LARGEST = 65_600


@contextlib.contextmanager
def bad_cable(host, bridge, delay_s, loss):
    """The link to a host with so much delay, in seconds each way, and such a share of frames lost each way."""
    link, tap = f"vb-{host.name}", f"tap-{host.name}"
    inside = ["nsenter", "--net", "--target", str(host.leader())]
    # A frame's checksum must be in it, and no frame larger than a real link takes.
    off = ["tx", "off", "rx", "off", "gso", "off", "tso", "off", "gro", "off", "sg", "off"]
    subprocess.run(["ethtool", "-K", link, *off], check=True, capture_output=True)
    subprocess.run([*inside, "ethtool", "-K", "host0", *off], check=True, capture_output=True)
    argv = [sys.executable, "-m", "tests.lab.cable", link, tap, str(delay_s), str(loss)]
    carrier = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert carrier.stdout is not None
        assert carrier.stdout.readline() == b"ready\n"
        for command in (["ip", "link", "set", link, "nomaster"], ["ip", "link", "set", tap, "master", bridge, "up"]):
            subprocess.run(command, check=True)
        yield
    finally:
        carrier.kill()
        carrier.communicate()
        subprocess.run(["ip", "link", "set", link, "master", bridge], check=True)


def carry(link: str, tap: str, delay_s: float, loss: float) -> None:
    """Carry frames both ways until killed; the TAP device goes with this process."""
    ends = [os.open("/dev/net/tun", os.O_RDWR), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))]
    fcntl.ioctl(ends[0], TUNSETIFF, struct.pack("16sH", tap.encode(), IFF_TAP | IFF_NO_PI))
    ends[1].bind((link, 0))
    print("ready", flush=True)
    chance = random.Random(7)
    waiting: deque[tuple[float, int, bytes]] = deque()
    while True:
        patience = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        ready, _, _ = select.select(ends, [], [], patience)
        for end in ready:
            frame = taken(end)
            if frame and chance.random() >= loss:
                # Every frame waits as long, so the order of arrival is that of their turns.
                waiting.append((time.monotonic() + delay_s, ends.index(end), frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, came_from, frame = waiting.popleft()
            with contextlib.suppress(OSError):
                os.write(ends[0], frame) if came_from else ends[1].send(frame)


def taken(end) -> bytes:
    if isinstance(end, int):
        return os.read(end, LARGEST)
    frame, about = end.recvfrom(LARGEST)
    return b"" if about[2] == PACKET_OUTGOING else frame


if __name__ == "__main__":
    carry(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))

"""A fleet of real Debian hosts on one Linux machine.

Each host is a booted systemd in its own namespaces, over an overlay of one shared base tree: its own sshd and host
key, its own apt, its own reboot. People try a playbook here before they aim it at a cluster; the tests' fleet is the
same thing.

    machine   what the machine under the lab offers: rights, programs, package sources, certificates
    base      the base tree, built once for each release
    network   the bridge, its addresses and the address translation
    host      one host: files, start, stop, removal
    fleet     up, down, status; the inventory
"""

from llmprov.lab.fleet import DEFAULT_NETWORK, DEFAULT_PREFIX, Fleet, HostStatus

__all__ = ["DEFAULT_NETWORK", "DEFAULT_PREFIX", "Fleet", "HostStatus"]

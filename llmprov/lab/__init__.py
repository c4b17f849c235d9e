"""A fleet of real Debian hosts on one Linux machine.

Each host is a booted systemd in its own namespaces, over an overlay of one shared base tree: its own sshd and host
key, its own apt, its own reboot. People try a playbook here before they aim it at a cluster; the tests' fleet is the
same thing.

    machine   what the machine under the lab offers: rights, programs, package sources, certificates
    base      the base tree, built once for each release
    network   the bridge, its addresses and the address translation
    kernel    settings of the machine that labs change
    host      one host: mounts, start, stop, removal
    identity  what makes a host itself: name, address, keys, devices
    snapshot  saved hosts, and the layers and base trees that labs and snapshots share
    records   what is kept on disk about labs and snapshots
    lock      lock files
    fleet     up, save, down, status; the inventory
"""

#: The lab that is meant where no other is named, and its addresses.
DEFAULT_PREFIX, DEFAULT_NETWORK = "lab", "10.77.0.0/24"

"""The lab's network: one bridge, one address range, address translation to the outside.

Everything made here carries the lab's name, and only what carries it is ever changed or removed.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from pathlib import Path
from typing import Any

from llmprov.errors import LabError
from llmprov.lab import kernel
from llmprov.lab.machine import run

Network = ipaddress.IPv4Network


def _links() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("ip", "-json", "-details", "address", "show"))
    return found


def bridge_name(prefix: str) -> str:
    """The bridge of the lab `prefix`; kernel interface names have 15 characters at most."""
    return f"br-{prefix}"


def _alias(prefix: str) -> str:
    return f"llmprov lab {prefix}"


def _table(prefix: str) -> str:
    return f"llmprov_lab_{prefix}"


def owns_bridge(prefix: str) -> bool:
    """Whether the bridge of that name exists and was made by this lab."""
    for link in _links():
        if link.get("ifname") == bridge_name(prefix):
            return link.get("ifalias") == _alias(prefix)
    return False


def ensure_network(prefix: str, network: Network, state: Path) -> None:
    """Make the bridge with its address, and let its hosts reach the outside.

    Raises:
        LabError: the range is in use on this machine, or the bridge's name belongs to somebody else.
    """
    bridge = bridge_name(prefix)
    if not owns_bridge(prefix):
        _refuse_overlap(prefix, network)
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "link", "set", bridge, "alias", _alias(prefix))
    gateway = f"{network[1]}/{network.prefixlen}"
    run("ip", "address", "replace", gateway, "dev", bridge)
    run("ip", "link", "set", bridge, "up")
    _ensure_translation(prefix, network)
    _ensure_forwarding(bridge, state)


def _refuse_overlap(prefix: str, network: Network) -> None:
    for link in _links():
        if link.get("ifname") == bridge_name(prefix):
            raise LabError(
                f"the interface {bridge_name(prefix)} is here and this lab did not make it: choose another --prefix"
            )
    for route in json.loads(run("ip", "-json", "route", "show")):
        if route.get("dst") in (None, "default"):
            continue
        used = ipaddress.IPv4Network(route["dst"], strict=False)
        if used.overlaps(network):
            raise LabError(
                f"the range {network} overlaps {used}, which this machine reaches by {route.get('dev')}: "
                "choose another one with --network"
            )


def _ensure_translation(prefix: str, network: Network) -> None:
    table, bridge = _table(prefix), bridge_name(prefix)
    run(
        "nft",
        "-f",
        "-",
        # Declared, deleted, declared: replaces the whole table in one transaction.
        stdin=f"""
table ip {table}
delete table ip {table}
table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {network} oifname != "{bridge}" masquerade
  }}
}}
""",
    )


def _forwarding_file(interface: str) -> Path:
    return Path(f"/proc/sys/net/ipv4/conf/{interface}/forwarding")


def _ensure_forwarding(bridge: str, state: Path) -> None:
    """Forward between the bridge, which goes with the lab, and the way out."""
    _forwarding_file(bridge).write_text("1")
    ways_out = {route["dev"] for route in json.loads(run("ip", "-json", "route", "show", "default"))}
    kernel.change(state, {_forwarding_file(interface): "1" for interface in ways_out})


def remove_network(prefix: str) -> None:
    """Remove this lab's bridge and rules; safe when they are gone already."""
    if owns_bridge(prefix):
        run("ip", "link", "del", bridge_name(prefix))
    tables = json.loads(run("nft", "-j", "list", "tables"))["nftables"]
    if any(entry.get("table", {}).get("name") == _table(prefix) for entry in tables):
        run("nft", "delete", "table", "ip", _table(prefix))


def remove_host_link(name: str) -> None:
    """Remove the machine's end of a host's network link; safe when it is gone.

    A killed host's network namespace goes in the background, and a host that boots meanwhile would find the name taken.
    """
    link = f"vb-{name}"[:15]
    if any(found.get("ifname") == link for found in _links()):
        subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)

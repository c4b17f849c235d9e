"""The inventory as Ansible holds it, in a form for other processes.

The callback plugin asks for it in the process that runs a playbook anyway. Where hosts must be known before anything
runs, this is a program of its own: it takes ansible-inventory's arguments and prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any

#: A variable that says how Ansible was called, and is not among those that Ansible names as such.
OF_THE_COMMAND = ("ansible_check_mode",)


def listing(inventory: Any, variables: Any) -> dict[str, Any]:
    """Every host with its groups, the names of those that are selected, and what the inventory declares of each.

    Values that a vault has are left as its ciphertext.

    Args:
        inventory: Ansible's InventoryManager.
        variables: Ansible's VariableManager.
    """
    from ansible import constants
    from ansible._internal._json._profiles._inventory_legacy import Encoder  # ansible-inventory's own

    everything = inventory.get_hosts("all", ignore_limits=True, ignore_restrictions=True)
    known = {host.name for host in everything}
    hosts: dict[str, list[str]] = {}
    for name in sorted(inventory.groups):
        for host in inventory.groups[name].hosts if name != "all" else []:
            if host.name in known:
                hosts.setdefault(host.name, []).extend([name] if name != "ungrouped" else [])
    declared = {
        host.name: {
            name: value
            for name, value in variables.get_vars(host=host, include_hostvars=False, stage="all").items()
            if name not in OF_THE_COMMAND and name not in constants.INTERNAL_STATIC_VARS
        }
        for host in everything
    }
    return {
        "hosts": hosts,
        "selected": [host.name for host in inventory.get_hosts("all", ignore_restrictions=True)],
        "variables": json.loads(json.dumps(declared, cls=Encoder)),
    }


def main() -> None:
    """Print the listing of the inventory that the arguments name."""
    # Its import is slow, and the callback plugin has no use for it.
    from ansible import context
    from ansible.cli.inventory import InventoryCLI

    class Listing(InventoryCLI):  # type: ignore[misc]
        """ansible-inventory, with everything that it reads and asks, and another answer."""

        def run(self) -> None:
            """Print the answer."""
            super(InventoryCLI, self).run()
            _, inventory, variables = self._play_prereqs()
            if context.CLIARGS["subset"]:
                inventory.subset(context.CLIARGS["subset"])
            json.dump(listing(inventory, variables), sys.stdout)

    Listing.cli_executor(["ansible-inventory", "--list", *sys.argv[1:]])


if __name__ == "__main__":
    main()

"""How Ansible would connect to each host: asked of Ansible itself, in a process of its own.

`python -m llmprov.check.variables` takes ansible-inventory's arguments and prints one JSON object, host -> settings, on
standard output, which is a pipe: passwords are among them, and no file, no log and no argument ever has them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ansible import constants, context
from ansible.cli.inventory import InventoryCLI
from ansible.errors import AnsibleError
from ansible.plugins.loader import become_loader, connection_loader
from ansible.template import Templar

#: What is asked of the connection plugin `ssh`, by the names of its own documentation.
CONNECTION = (
    "host",
    "port",
    "remote_user",
    "password",
    "private_key_file",
    "ssh_args",
    "ssh_common_args",
    "ssh_extra_args",
    "ssh_executable",
    "timeout",
)
#: And of the become plugin `sudo`.
BECOME = ("become_user", "become_pass", "become_exe", "become_flags")


class Settings(InventoryCLI):  # type: ignore[misc]
    """ansible-inventory, with everything that it reads and asks, and another answer."""

    def run(self) -> None:
        """Print the answer."""
        super(InventoryCLI, self).run()
        self.loader, self.inventory, self.vm = self._play_prereqs()
        connection_loader.get("ssh", class_only=True)
        become_loader.get("sudo", class_only=True)
        if context.CLIARGS["subset"]:
            self.inventory.subset(context.CLIARGS["subset"])
        answer = {host.name: self.settings(host) for host in self.inventory.get_hosts("all")}
        json.dump(answer, sys.stdout)

    def settings(self, host: Any) -> dict[str, Any]:
        """One host's settings, or the reason why its variables cannot be read."""
        variables = self.vm.get_vars(host=host, include_hostvars=False, stage="all")
        try:
            named = {name: value for name, value in variables.items() if name.startswith("ansible_")}
            filled = Templar(self.loader, variables=variables).template(named)
        except AnsibleError as error:
            return {"problem": str(error).splitlines()[0]}
        ask = constants.config.get_config_value
        found = {name: ask(name, plugin_type="connection", plugin_name="ssh", variables=filled) for name in CONNECTION}
        found |= {name: ask(name, plugin_type="become", plugin_name="sudo", variables=filled) for name in BECOME}
        found["host"] = filled.get("ansible_host") or filled.get("ansible_ssh_host") or host.name
        found["connection"] = filled.get("ansible_connection", "ssh")
        found["become"] = filled.get("ansible_become")
        found["become_method"] = filled.get("ansible_become_method", "sudo")
        found["python"] = filled.get("ansible_python_interpreter")
        return {
            name: value if isinstance(value, int | float | bool) or value is None else str(value)
            for name, value in found.items()
        }


if __name__ == "__main__":
    cli = Settings(["ansible-inventory", "--list", *sys.argv[1:]])
    cli.run()

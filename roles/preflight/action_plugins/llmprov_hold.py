"""The controller's half of llmprov_hold; the work is in llmprov.run.actions."""

from __future__ import annotations

import sys

from ansible.plugins.action import ActionBase

# Ansible loads a plugin once, before it forks for each host, and the import then serves them all. Where it fails, the
# plugin still loads, so that an Ansible without the package says so in one sentence.
try:
    from llmprov.run import actions
except ImportError as error:
    actions, missing = None, str(error)


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        if actions is None:
            sentence = (
                f"llmprov is not installed for the Python that runs Ansible ({sys.executable}): "
                f"`{sys.executable} -m pip install llmprov` ({missing})"
            )
            return {**result, "failed": True, "msg": sentence}
        return {**result, **actions.hold(self, task_vars or {})}

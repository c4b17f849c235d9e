"""The controller's half of each of llmprov's modules; the work is in llmprov.run.actions, under the module's own name.

All action plugins of llmprov's roles are links to this file: which one it is, its file name says.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ansible.plugins.action import ActionBase

# Ansible loads a plugin once, before it forks for each host, and the import then serves them all. Where it fails, the
# plugin still loads, so that an Ansible without the package says so in one sentence.
try:
    from llmprov.run.actions import action_named

    work, missing = action_named(Path(__file__).stem), ""
except ImportError as error:
    work, missing = None, str(error)


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        if work is None:
            sentence = (
                f"llmprov is not installed for the Python that runs Ansible ({sys.executable}): "
                f"`{sys.executable} -m pip install llmprov` ({missing})"
            )
            return {**result, "failed": True, "msg": sentence}
        return {**result, **work(self, task_vars or {})}

"""The controller's half of llmprov_venv; the work is in llmprov.run.actions."""

from __future__ import annotations

import sys

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        try:
            # Here, so that an Ansible without the package fails in one sentence and not while loading.
            from llmprov.run import actions
        except ImportError as error:
            sentence = (
                f"llmprov is not installed for the Python that runs Ansible ({sys.executable}): "
                f"`{sys.executable} -m pip install llmprov` ({error})"
            )
            return {**result, "failed": True, "msg": sentence}
        return {**result, **actions.venv(self, task_vars or {})}

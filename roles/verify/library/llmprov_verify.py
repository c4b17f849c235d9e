#!/usr/bin/python
"""Run the payload under the environment's own Python and bring back what it printed, whatever that is."""

from __future__ import annotations

import base64
import os
import selectors
import signal
import subprocess
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: llmprov_verify
short_description: Run the verification payload on the host
description: The payload comes as a module argument and its document goes back as the module's result.
options:
  python: {type: path, required: true, description: The environment's Python.}
  payload: {type: str, required: true, description: The payload as a base64 zipapp; set by the action plugin.}
  declared: {type: str, required: true, description: "What was declared, as JSON, for its standard input."}
  level: {type: str, default: quick, description: How much to measure.}
  timeout_s: {type: int, default: 600, description: "How long it may run, in seconds."}
  variables: {type: dict, default: {}, description: Environment variables of the environment's users.}
author: [llmprov]
"""

#: More than this is no document; reading on would only fill the controller's memory. In bytes.
LIMIT = 4_000_001


def collect(process, deadline):
    """What the process wrote to both streams, each up to the limit, and whether time ran out."""
    kept = {process.stdout: b"", process.stderr: b""}
    with selectors.DefaultSelector() as selector:
        for stream in kept:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(timeout=max(left, 0))
            if not ready and left <= 0:
                return kept, True
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    kept[process.stdout] = (kept[process.stdout] + chunk)[:LIMIT]
                else:
                    kept[process.stderr] = (kept[process.stderr] + chunk)[-20000:]
    return kept, False


def run(params, path):
    argv = [params["python"], "-I", path, "--level", params["level"], "--declared", "-"]
    with tempfile.TemporaryFile() as declared:
        declared.write(params["declared"].encode())
        declared.seek(0)
        process = subprocess.Popen(
            argv,
            stdin=declared,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env=dict(os.environ, **params["variables"]),
        )
    kept, timed_out = collect(process, time.monotonic() + params["timeout_s"])
    # The payload leads a process group of its own: nothing it started outlives it.
    try:
        if timed_out:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait(timeout=30)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        code = process.wait()
    text = kept[process.stdout]
    return {
        "exit_code": code,
        "timed_out": timed_out,
        "truncated": len(text) >= LIMIT,
        "document": text[: 20000 if len(text) >= LIMIT else LIMIT].decode("utf-8", "replace"),
        "stderr": kept[process.stderr].decode("utf-8", "replace"),
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "required": True},
            "payload": {"type": "str", "required": True, "no_log": True},
            "declared": {"type": "str", "required": True},
            "level": {"type": "str", "default": "quick"},
            "timeout_s": {"type": "int", "default": 600},
            "variables": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    # Python keeps compiled files beside the modules: for every user of the host, whatever root's umask is.
    os.umask(0o022)
    if not os.access(module.params["python"], os.X_OK):
        module.exit_json(changed=False, exit_code=None, document="", stderr="")
    with tempfile.TemporaryDirectory(prefix="llmprov-", dir=module.tmpdir) as folder:
        path = os.path.join(folder, "payload.pyz")
        with open(path, "wb") as handle:
            handle.write(base64.b64decode(module.params["payload"]))
        answer = run(module.params, path)
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()

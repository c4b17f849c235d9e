#!/usr/bin/python
"""Run the payload under the environment's own Python and bring back what it printed, whatever that is."""

from __future__ import annotations

import base64
import contextlib
import glob
import os
import selectors
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llmprov_guard import VARIABLE, begin

DOCUMENTATION = r"""
module: llmprov_verify
short_description: Run the verification payload on the host
description: The payload comes as a module argument and its document goes back as the module's result.
options:
  work:
    type: str
    choices: [run, start, take, stop]
    default: run
    description: Run the payload; or start a soak and return, take what it left, or stop it.
  python: {type: path, default: "", description: The environment's Python.}
  payload: {type: str, default: "", description: The payload as a base64 zipapp; set by the action plugin.}
  declared: {type: str, default: "{}", description: "What was declared, as JSON."}
  level: {type: str, default: quick, description: How much to measure.}
  minutes: {type: float, default: 0, description: "How long a soak trains."}
  timeout_s: {type: int, default: 600, description: "How long it may run, in seconds."}
  variables: {type: dict, default: {}, description: Environment variables of the environment's users.}
author: [llmprov]
"""

#: More than this is no document; reading on would only fill the controller's memory. In bytes.
LIMIT = 4_000_001

PLACE = "/var/tmp"

#: How long the results of a soak wait to be taken, in seconds, before another one may take its place.
KEPT_S = 86400

#: How long a soak that was told to stop has for it, in seconds.
STOP_S = 60


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


def command(params, path, declared):
    argv = [params["python"], "-I", path, "--level", params["level"], "--declared", declared]
    return [*argv, "--minutes", str(params["minutes"])]


def launch(argv, params, folder, output):
    """Start it with a process group of its own and the users' variables.

    Its temporary files, compiled code too, lie where they go when all is done.
    """
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        cwd="/",
        env=dict(os.environ, **dict(params["variables"], TMPDIR=folder)),
    )


def run(params, folder):
    """Run the payload and wait for it."""
    path = put(params, folder)
    process = launch(command(params, path, folder + "/declared.json"), params, folder, subprocess.PIPE)
    timed_out = True  # until it is known otherwise, and so when this is interrupted
    # The payload leads a process group of its own: nothing it started outlives it.
    try:
        kept, timed_out = collect(process, time.monotonic() + params["timeout_s"])
    finally:
        try:
            if timed_out:
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait(timeout=30)
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            code = process.wait()
    return answer(code, kept[process.stdout], kept[process.stderr], timed_out)


def answer(code, text, said, timed_out=False):
    return {
        "exit_code": code,
        "timed_out": timed_out,
        "truncated": len(text) >= LIMIT,
        "document": text[: 20000 if len(text) >= LIMIT else LIMIT].decode("utf-8", "replace"),
        "stderr": said[-20000:].decode("utf-8", "replace"),
    }


def put(params, folder):
    path = folder + "/payload.pyz"
    with open(path, "wb") as handle:
        handle.write(base64.b64decode(params["payload"]))
    with open(folder + "/declared.json", "w", encoding="utf-8") as handle:
        handle.write(params["declared"])
    return path


# -- a soak: it goes on when the connection that started it is lost ----------------------------------------------------


def job_folder():
    return "%s/llmprov-soak-%d" % (PLACE, os.geteuid())


def start(params, folder):
    """Start a soak that nobody waits for, unless one runs or the results of one wait to be taken; it ends by itself."""
    if running(folder) or age_s(folder + "/code") < KEPT_S:
        return {"running": True, "started": False}
    if ours(folder):
        shutil.rmtree(folder)
    os.mkdir(folder, 0o700)
    path = put(params, folder)
    words = " ".join(shlex.quote(word) for word in command(params, path, folder + "/declared.json"))
    script = "%s > %s/out 2> %s/err; echo $? > %s/code.new; mv %s/code.new %s/code" % ((words,) + (folder,) * 5)
    process = launch(["/bin/sh", "-c", script], params, folder, subprocess.DEVNULL)
    with open(folder + "/process", "w", encoding="utf-8") as handle:
        handle.write("%d %s" % (process.pid, began(process.pid)))
    return {"running": True, "started": True}


def ours(folder):
    """Whether the folder is there and nobody else made it: whoever owns it could change what runs, or what is ended."""
    try:
        about = os.lstat(folder)
    except OSError:
        return False
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise OSError("%s is there and is somebody else's: remove it" % folder)
    return True


def own_folder():
    """A folder for all that the payload writes; what runs of earlier boots left, which a power cut ended, goes.

    Not where Ansible keeps its files: sockets lie in it, and their paths may have 107 characters.
    """
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
        prefix = "llmprov-%s-" % handle.read(8)
    for left in glob.glob(PLACE + "/llmprov-????????-*"):
        with contextlib.suppress(OSError):
            if not os.path.basename(left).startswith(prefix) and ours(left):
                shutil.rmtree(left)
    return tempfile.TemporaryDirectory(prefix=prefix, dir=PLACE)


def age_s(path):
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return float("inf")


def began(pid):
    """When a process began, in the kernel's ticks: with its id it names the process for good."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as handle:
            words = handle.read().rpartition(")")[2].split()
        return "" if words[0] == "Z" else words[19]
    except (OSError, IndexError):
        return ""


def running(folder):
    """The id of the soak's first process, which leads its group; None where none runs."""
    if not ours(folder):
        return None
    try:
        with open(folder + "/process", encoding="utf-8") as handle:
            pid, _, ticks = handle.read().partition(" ")
    except OSError:
        return None
    return int(pid) if ticks and began(int(pid)) == ticks else None


def take(folder):
    """What the soak left, once it has ended; the folder goes."""
    if running(folder):
        return {"running": True}
    texts = []
    for name in ("code", "out", "err"):
        try:
            with open("%s/%s" % (folder, name), "rb") as handle:
                texts.append(handle.read(LIMIT))
        except OSError:
            texts.append(b"")
    gone = not ours(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if gone:
        return {"running": False, "gone": True}
    # Without a code the host lost its power, or somebody killed the whole group.
    code = int(texts[0]) if texts[0].strip().isdigit() else 128 + signal.SIGKILL
    # The shell tells of a signal as 128 and its number.
    code = 128 - code if code > 128 else code
    return dict(answer(code, texts[1], texts[2]), running=False)


def stop(folder):
    """Tell the soak to end with what it has, and wait for that; what does not listen is killed."""
    leader = running(folder)
    if leader:
        for pid in members(leader):
            if pid != leader:
                os.kill(pid, signal.SIGTERM)
                break
        deadline = time.monotonic() + STOP_S
        while running(folder) and time.monotonic() < deadline:
            time.sleep(0.2)
        while running(folder):
            try:
                os.killpg(leader, signal.SIGKILL)
            except ProcessLookupError:
                break
            time.sleep(0.05)
    return take(folder)


def members(leader):
    """Processes of the group, oldest first: the shell, then the payload."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getpgid(int(name)) == leader:
                found.append(int(name))
        except OSError:
            continue
    return sorted(found, key=lambda pid: (int(began(pid) or 0), pid))


def main():
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "default": ""},
            "payload": {"type": "str", "default": "", "no_log": True},
            "declared": {"type": "str", "default": "{}"},
            "work": {"type": "str", "choices": ["run", "start", "take", "stop"], "default": "run"},
            "level": {"type": "str", "default": "quick"},
            "minutes": {"type": "float", "default": 0},
            "timeout_s": {"type": "int", "default": 600},
            "variables": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    # Python keeps compiled files beside the modules: for every user of the host, whatever root's umask is.
    os.umask(0o022)
    work, folder = module.params["work"], job_folder()
    try:
        if work in ("take", "stop"):
            module.exit_json(changed=False, **(take(folder) if work == "take" else stop(folder)))
        if not os.access(module.params["python"], os.X_OK):
            module.exit_json(changed=False, exit_code=None, document="", stderr="")
        if work == "start":
            # A soak goes on without its controller, so it is no part of the run.
            os.environ.pop(VARIABLE, None)
            module.exit_json(changed=False, **start(module.params, folder))
    except OSError as error:
        module.fail_json(msg="the soak: %s" % error)
    begin()
    with own_folder() as own:
        done = run(module.params, own)
    module.exit_json(changed=False, **done)


if __name__ == "__main__":
    main()

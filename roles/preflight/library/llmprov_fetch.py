#!/usr/bin/python
"""Tell which artifacts this host lacks, and bring them: from the depot's server, from files that were copied here."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import shutil
import threading
import urllib.error
import urllib.request

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: llmprov_fetch
short_description: Bring artifacts to a host, each checked against its digest
description: A file counts as there only while its content has the digest. Transfers go on where they broke off.
options:
  artifacts: {type: list, elements: dict, required: true, description: "filename, sha256, perhaps url."}
  folder: {type: path, required: true, description: Where they are kept.}
  fetch: {type: bool, default: false, description: Bring them; else only tell which are missing.}
  base_url: {type: str, default: "", description: Where the depot's server answers; set by the action plugin.}
  source: {type: path, description: Folder that has them by digest; set by the action plugin.}
  limit_gb: {type: float, default: 20, description: "Size that the folder is kept under, in GB."}
author: [llmprov]
"""

CHUNK = 1 << 18
TRIES = 5
STOPPED = threading.Event()


def digest_of(path):
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            for chunk in iter(lambda: handle.read(CHUNK), b""):
                if STOPPED.is_set():
                    return None
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def download(url, partial, direct):
    """Fetch `url` to `partial`, going on from what is there; a connection that breaks off is tried again."""
    for number in range(TRIES):
        have = os.path.getsize(partial) if os.path.exists(partial) else 0
        request = urllib.request.Request(url, headers={"Range": "bytes=%d-" % have} if have else {})
        try:
            # To the depot no proxy of the host's own may come between.
            opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if direct else []))
            with opener.open(request, timeout=60) as answer:
                with open(partial, "ab" if answer.status == 206 else "wb") as handle:
                    copy(answer, handle)
                return
        except (OSError, urllib.error.URLError) as error:
            if number == TRIES - 1 or STOPPED.is_set():
                raise OSError(str(getattr(error, "reason", error))) from None
            STOPPED.wait(0.5 * 2**number)


def copy(answer, handle):
    """Copy until the end, or until all is stopped; a connection that closed before its end has broken off."""
    wanted, brought = answer.headers.get("Content-Length"), 0
    # What has come, however little: on a slow link a whole chunk takes longer than one that is stopped has.
    for chunk in iter(lambda: answer.read1(CHUNK), b""):
        handle.write(chunk)
        brought += len(chunk)
        if STOPPED.is_set():
            raise OSError("it was stopped")
        if brought == int(wanted or -1):
            return  # not every server closes the connection after it
    if wanted and brought != int(wanted):
        raise OSError("the connection closed after %d of %s bytes" % (brought, wanted))


def bring(artifact, params):
    """Bring one artifact; returns its bytes."""
    target = os.path.join(params["folder"], artifact["filename"])
    partial = "%s.%s.partial" % (target, artifact["sha256"][:16])
    if params["source"]:
        shutil.copyfile(os.path.join(params["source"], artifact["sha256"]), partial)
    else:
        own = artifact.get("url")
        download(own or params["base_url"] + artifact["sha256"], partial, direct=not own)
    found = digest_of(partial)
    if STOPPED.is_set():
        raise OSError("it was stopped")
    if found != artifact["sha256"]:
        os.unlink(partial)
        raise OSError(
            "%s came with sha256 %s where %s was expected" % (artifact["filename"], found, artifact["sha256"])
        )
    os.chmod(partial, 0o644)
    os.replace(partial, target)
    return os.path.getsize(target)


def clean(folder, keep, limit_gb):
    """Remove what was used longest ago, and not now, until the folder is under its limit."""
    names = [name for name in os.listdir(folder) if name not in keep and not name.startswith(".")]
    names.sort(key=lambda name: os.stat(os.path.join(folder, name)).st_mtime)
    total = sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
    for name in names:
        if total <= limit_gb * 1e9:
            return
        total -= os.path.getsize(os.path.join(folder, name))
        os.unlink(os.path.join(folder, name))


def main():
    module = AnsibleModule(
        argument_spec={
            "artifacts": {"type": "list", "elements": "dict", "required": True},
            "folder": {"type": "path", "required": True},
            "fetch": {"type": "bool", "default": False},
            # It carries the token.
            "base_url": {"type": "str", "default": "", "no_log": True},
            "source": {"type": "path"},
            "limit_gb": {"type": "float", "default": 20},
        },
        supports_check_mode=True,
    )
    params = module.params
    folder, wanted = params["folder"], params["artifacts"]
    missing = [a for a in wanted if digest_of(os.path.join(folder, a["filename"])) != a["sha256"]]
    if not params["fetch"] or module.check_mode:
        module.exit_json(changed=False, missing=[a["sha256"] for a in missing])
    os.umask(0o022)
    os.makedirs(folder, exist_ok=True)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            try:
                sizes = list(pool.map(lambda artifact: bring(artifact, params), missing))
            except BaseException:
                # The pool waits for its threads, and they for this.
                STOPPED.set()
                raise
    except OSError as error:
        module.fail_json(msg="an artifact could not be brought here: %s" % error)
    for artifact in wanted:
        os.utime(os.path.join(folder, artifact["filename"]))
    clean(folder, {a["filename"] for a in wanted}, params["limit_gb"])
    module.exit_json(changed=bool(missing), fetched=len(missing), fetched_bytes=sum(sizes))


if __name__ == "__main__":
    main()

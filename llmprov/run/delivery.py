"""From the depot to a host: through Ansible's own connection, by SFTP, by HTTP, or from the host's own internet."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmprov.depot.session import Session
from llmprov.depot.store import Store
from llmprov.errors import LlmprovError
from llmprov.model import Artifact
from llmprov.model.desired import DepotVars

Result = dict[str, Any]


def session(depot: DepotVars) -> Session:
    """What the forks of this Ansible share: they are children of one process."""
    return Session(Store(limit_gb=depot.limit_gb), os.getppid())


def deliver(action: Any, task_vars: Any, artifacts: Sequence[Artifact], depot: DepotVars) -> Result | None:
    """Bring artifacts to the host; those it has are not sent, nor fetched by the controller.

    Returns:
        None where all are there, else the failing result.

    Raises:
        LlmprovError: the controller cannot fetch one of them, or no transport works.
    """

    def module(**more: Any) -> Result:
        wanted = [
            {"filename": a.filename, "sha256": a.sha256} | more.pop("extra", {}).get(a.sha256, {}) for a in chosen
        ]
        args = {"artifacts": wanted, "folder": depot.host_path, "limit_gb": depot.host_limit_gb, **more}
        found: Result = action._execute_module(module_name="llmprov_fetch", module_args=args, task_vars=task_vars)
        return found

    chosen = list(artifacts)
    looked = module()
    if "missing" not in looked:
        return looked
    chosen = [artifact for artifact in artifacts if artifact.sha256 in set(looked["missing"])]
    if not chosen:
        return None
    if depot.transport == "internet":
        own = [artifact for artifact in chosen if artifact.url.startswith("http")]
        rest, chosen = [artifact for artifact in chosen if artifact not in own], own
        if own:
            answer = module(fetch=True, extra={a.sha256: {"url": a.url} for a in own})
            if answer.get("failed") or answer.get("unreachable"):
                return answer
        chosen = rest
        if not chosen:
            return None
    shared = session(depot)
    files = {artifact.sha256: shared.store.ensure(artifact).path for artifact in chosen}
    answer = _transport(action, depot, shared, files, module)
    return answer if answer.get("failed") or answer.get("unreachable") else None


def _transport(action: Any, depot: DepotVars, shared: Session, files: dict[str, Path], module: Any) -> Result:
    connection = action._connection
    answer: Result
    if connection.transport == "local":
        with _folder_of(files) as folder:
            answer = module(fetch=True, source=folder)
        return answer
    if depot.transport == "http":
        if not depot.address:
            raise LlmprovError("the transport `http` needs depot_address: set it to an address that hosts reach")
        server = shared.server(depot.address)
        host = f"[{depot.address}]" if ":" in depot.address else depot.address
        answer = module(fetch=True, base_url=f"http://{host}:{server.port}/{server.token}/")
        return answer
    if depot.transport != "sftp" and connection.transport in ("ssh", "ansible.builtin.ssh"):
        server = shared.server()
        with _forward(connection, shared, server.port) as port:
            if port:
                answer = module(fetch=True, base_url=f"http://127.0.0.1:{port}/{server.token}/")
                return answer
        if depot.transport == "forward":
            raise LlmprovError(
                "this host forbids forwarding (AllowTcpForwarding in its sshd_config), or Ansible's connections do not "
                "persist: let depot_transport be auto or sftp"
            )
    return _by_sftp(action, files, module)


def _by_sftp(action: Any, files: dict[str, Path], module: Any) -> Result:
    shell = action._connection._shell
    folder = action._make_tmp_path()
    try:
        for sha256, path in files.items():
            action._transfer_file(str(path), shell.join_path(folder, sha256))
        action._fixup_perms2((folder, *(shell.join_path(folder, sha256) for sha256 in files)))
        answer: Result = module(fetch=True, source=folder)
    finally:
        action._remove_tmp_path(folder, force=True)
    return answer


@contextmanager
def _folder_of(files: dict[str, Path]) -> Iterator[str]:
    """A folder on this machine with each file under its digest, by link where that works."""
    with tempfile.TemporaryDirectory(prefix="llmprov-deliver-") as folder:
        Path(folder).chmod(0o755)
        for sha256, path in files.items():
            target = Path(folder) / sha256
            try:
                target.hardlink_to(path)
            except OSError:
                shutil.copyfile(path, target)
        yield folder


@contextmanager
def _forward(connection: Any, shared: Session, port: int) -> Iterator[int | None]:
    """A port on the host's loopback that leads to `port` here, over the SSH connection that Ansible holds open.

    The host chooses the port: with a fixed one, a second run would silently get the first one's depot. Names for the
    same host share its connection, and so the forward: the last one to use it takes it down. None where the host
    forbids forwarding, or no connection persists.
    """
    spec = f"127.0.0.1:0:127.0.0.1:{port}"
    name = f"{connection.host}-{connection.get_option('port')}-{connection.get_option('remote_user')}"
    with shared.users(f"forward-{name}") as let_go:
        done = _control(connection, "forward", spec)
        given = done.stdout.strip().split()
        if done.returncode != 0 or not given or not given[-1].isdigit():
            yield None
            return
        try:
            yield int(given[-1])
        finally:
            # ssh knows a forward by what was asked for, port 0 and all.
            let_go(lambda: _control(connection, "cancel", spec))


def _control(connection: Any, order: str, forward: str) -> subprocess.CompletedProcess[str]:
    """Tell the connection's master to open or close a forward; it needs no login, so no password is handed on."""
    executable = connection.get_option("ssh_executable")
    command = connection._build_command(executable, "ssh", "-O", order, "-R", forward, connection.host)
    words = [word.decode() if isinstance(word, bytes) else word for word in command]
    pipe = getattr(connection, "sshpass_pipe", None)
    if words[0] == "sshpass":
        words = words[words.index(executable) :]
        for descriptor in pipe or ():
            os.close(descriptor)
        connection.sshpass_pipe = None
    return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

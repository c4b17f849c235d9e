"""From the depot to a host: through Ansible's own connection, by SFTP, by HTTP, or from the host's own internet."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmprov.depot.session import Session, run_quietly
from llmprov.depot.store import Store
from llmprov.errors import LlmprovError
from llmprov.model import Artifact
from llmprov.model.desired import DepotVars
from llmprov.run import hold

Result = dict[str, Any]

#: How often a tunnel that was lost is made anew.
TRIES = 3


def session(depot: DepotVars) -> Session:
    """What the forks of this Ansible share: they are children of one process."""
    return Session(Store(limit_gb=depot.limit_gb), os.getppid())


@dataclass(frozen=True)
class Delivery:
    """The way to one host, within one task of it."""

    action: Any
    task_vars: Any
    depot: DepotVars

    def bring(self, artifacts: Sequence[Artifact]) -> Result | None:
        """Bring artifacts to the host; those it has are not sent, nor fetched by the controller.

        Returns:
            None where all are there, else the failing result.

        Raises:
            LlmprovError: the controller cannot fetch one of them, or no transport works.
        """
        internet = self.depot.transport == "internet"
        by_host = [a for a in artifacts if internet and a.url.startswith("http")]
        by_us = [artifact for artifact in artifacts if artifact not in by_host]
        answers = []
        if by_host:
            rows = [{"filename": a.filename, "sha256": a.sha256, "url": a.url} for a in by_host]
            answers.append(self._module(rows, fetch=True))
        if by_us:
            answers.append(self._send(by_us))
        return next((answer for answer in answers if answer.get("failed") or answer.get("unreachable")), None)

    def _module(self, artifacts: list[dict[str, str]], **more: Any) -> Result:
        args = {"artifacts": artifacts, "folder": self.depot.host_path, "limit_gb": self.depot.host_limit_gb, **more}
        done: Result = self.action._execute_module(
            module_name="llmprov_fetch", module_args=args, task_vars=self.task_vars
        )
        return done

    def _send(self, artifacts: list[Artifact]) -> Result:
        shared = session(self.depot)
        if not all(shared.store.has(artifact.sha256) for artifact in artifacts):
            # Asked only where the answer saves a transfer: the module that fetches looks for itself.
            artifacts, looked = self._lacking(artifacts)
            if not artifacts:
                return looked
        files = {artifact.sha256: shared.store.ensure(artifact).path for artifact in artifacts}
        connection, wanted = self.action._connection, self.depot.transport
        if connection.transport == "local":
            with _folder_of(files) as folder:
                return self._module(_rows(artifacts), fetch=True, source=folder)
        if wanted == "http":
            return self._module(_rows(artifacts), fetch=True, base_url=self._address(shared))
        if wanted != "sftp" and connection.transport == "ssh":
            done = self._by_forward(artifacts, shared)
            if done is not None:
                return done
        if wanted == "forward":
            raise LlmprovError(
                "this host forbids forwarding (AllowTcpForwarding in its sshd_config), or Ansible's connections to it "
                "do not persist: let depot_transport be auto or sftp"
            )
        return self._by_sftp(artifacts, files)

    def _by_forward(self, artifacts: list[Artifact], shared: Session) -> Result | None:
        """Through the open connection; None where it cannot be.

        Where the way is gone on the host's side, it is made anew: the server was killed and starts again, or the host
        rebooted and its tunnel went with that.
        """
        for tries in range(TRIES, 0, -1):
            server = shared.server()
            with _forward(self.action._connection, shared, server.port) as port:
                if not port:
                    return None
                url = f"http://127.0.0.1:{port}/{server.token}/"
                done = self._module(_rows(artifacts), fetch=True, base_url=url)
            refused = "Connection refused" in str(done.get("msg", ""))
            if not done.get("failed") or tries == 1 or not (refused or shared.server() != server):
                return done
        return None

    def _lacking(self, artifacts: list[Artifact]) -> tuple[list[Artifact], Result]:
        """The artifacts that the host lacks, and what it answered."""
        looked = self._module(_rows(artifacts))
        missing = set(looked.get("missing", []))
        return [artifact for artifact in artifacts if artifact.sha256 in missing], looked

    def _address(self, shared: Session) -> str:
        address = self.depot.address
        if not address:
            raise LlmprovError("the transport `http` needs depot_address: set it to an address that hosts reach")
        server = shared.server(address)
        host = f"[{address}]" if ":" in address else address
        return f"http://{host}:{server.port}/{server.token}/"

    def _by_sftp(self, artifacts: list[Artifact], files: dict[str, Path]) -> Result:
        artifacts, looked = self._lacking(artifacts)
        if not artifacts:
            return looked
        shell = self.action._connection._shell
        folder = self.action._make_tmp_path()
        copies = [(str(files[a.sha256]), shell.join_path(folder, a.sha256)) for a in artifacts]
        try:
            for path, copy in copies:
                self.action._transfer_file(path, copy)
            self.action._fixup_perms2((folder, *(copy for _, copy in copies)))
            return self._module(_rows(artifacts), fetch=True, source=folder)
        finally:
            self.action._remove_tmp_path(folder, force=True)


def _rows(artifacts: Sequence[Artifact]) -> list[dict[str, str]]:
    return [{"filename": artifact.filename, "sha256": artifact.sha256} for artifact in artifacts]


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
        done = run_quietly(_control(connection, "forward", spec))
        given = done.stdout.strip().split()
        if done.returncode != 0 or not given or not given[-1].isdigit():
            yield None
            return
        # ssh knows a forward by what was asked for, port 0 and all.
        close = shared.to_be_closed(name, _control(connection, "cancel", spec))
        try:
            yield int(given[-1])
        finally:
            let_go(close)


def _control(connection: Any, order: str, forward: str) -> list[str]:
    """What tells the connection's master to open or close a forward; it needs no login, so no password is handed on."""
    executable = connection.get_option("ssh_executable")
    command = connection._build_command(executable, "ssh", "-O", order, "-R", forward, connection.host)
    return hold.without_password(connection, command)

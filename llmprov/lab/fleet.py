"""A whole lab: up, down, status, and the inventory that any Ansible command can use."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import ipaddress
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel

from llmprov.depot.pip_config import PipConfig
from llmprov.errors import UsageError
from llmprov.lab import base, machine, network
from llmprov.lab.conda import kit_where_needed
from llmprov.lab.host import USER, LabHost

if TYPE_CHECKING:
    from llmprov.lab.conda.standin import CondaKit

DEFAULT_PREFIX = "lab"
DEFAULT_NETWORK = "10.77.0.0/24"

#: Labs belong to the machine, not to a user: bridges and mounts are the machine's too.
STATE = Path("/var/lib/llmprov/lab")


class HostRecord(BaseModel):
    """What was asked for one host."""

    release: str
    gpus: list[str] = []
    packages: list[str] = []


class LabRecord(BaseModel):
    """What was asked for a lab; kept on disk from before the first host is made until after the last is gone."""

    network: str = DEFAULT_NETWORK
    hosts: dict[str, HostRecord] = {}


@dataclass(frozen=True)
class HostStatus:
    """One line of `llmprov lab status`."""

    name: str
    address: str
    release: str
    state: str
    gpus: tuple[str, ...]


class Fleet:
    """The lab of one prefix on this machine."""

    def __init__(self, prefix: str = DEFAULT_PREFIX, state: Path = STATE) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", prefix):
            raise UsageError(f"--prefix is a letter and up to 7 letters or digits, and {prefix!r} is not")
        self.prefix = prefix
        self.state = state
        self.directory = state / "labs" / prefix

    # -- files a user meets --------------------------------------------------------------------------------------

    @property
    def inventory(self) -> Path:
        """The inventory to hand to any Ansible command with -i."""
        return self.directory / "inventory.yml"

    @property
    def key(self) -> Path:
        """The private key that logs in to every host of the lab."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The pinned host keys."""
        return self.directory / "known_hosts"

    # -- up ------------------------------------------------------------------------------------------------------

    def up(
        self,
        count: int,
        release: str = "bookworm",
        gpus: tuple[str, ...] = (),
        address_range: str | None = None,
        packages: tuple[str, ...] = (),
        say: Callable[[str], object] = lambda _: None,
    ) -> list[HostStatus]:
        """Bring up `count` hosts; hosts that are there stay as they are, stopped ones start again.

        New ones have Debian's `packages` from the start, beside what makes a bare host.

        Raises:
            LabUnsupported: this machine cannot host a lab.
            LabError: a host, the network or the base tree failed; `down` cleans up.
        """
        wanted = [f"{self.prefix}{i}" for i in range(1, count + 1)]
        devices = parse_gpus(gpus, wanted)
        _check_range(address_range or DEFAULT_NETWORK, count)
        machine.require_lab_support()
        with self._locked():
            record = self._record()
            if not record.hosts:
                record.network = address_range or DEFAULT_NETWORK
            if address_range not in (None, record.network):
                raise UsageError(
                    f"lab {self.prefix} is up on {record.network}: take it down to move it to {address_range}"
                )
            for name in wanted:
                asked = HostRecord(release=release, gpus=devices[name], packages=sorted(packages))
                record.hosts.setdefault(name, asked)
            _check_range(record.network, len(record.hosts))
            with self._locked(""):
                self._save(record)  # first of all, so that `down` finds it even after a crash
            for kind in {(host.release, tuple(host.packages)) for host in record.hosts.values()}:
                base.ensure_base(self.state / "base", *kind)
            network.ensure_network(self.prefix, ipaddress.IPv4Network(record.network), self.state)
            kit = kit_where_needed(self.state / "conda", say)
            self._start(self.hosts())
            self._write_inventory(kit)
        return self.status()

    def _start(self, hosts: list[LabHost]) -> None:
        if not self.key.exists():
            machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {self.prefix}", "-f", str(self.key))
        authorized = self.key.with_suffix(".pub").read_text("utf-8")
        for host in hosts:
            host.create(authorized)
            host.start(network.bridge_name(self.prefix))
        with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(LabHost.wait_ready, hosts))

    def host(self, name: str) -> LabHost:
        """The host `name`, as `up` made it.

        Raises:
            UsageError: this lab has no such host; says which it has.
        """
        record = self._record()
        if name not in record.hosts:
            there = ", ".join(record.hosts) or "none: run `llmprov lab up`"
            raise UsageError(f"lab {self.prefix} has no host {name!r}; it has {there}")
        addresses = ipaddress.IPv4Network(record.network)
        pip = PipConfig.of_this_machine()
        asked = record.hosts[name]
        return LabHost(
            name=name,
            address=str(addresses[10 + list(record.hosts).index(name)]),
            gateway=str(addresses[1]),
            base=base.base_path(self.state / "base", asked.release, tuple(asked.packages)),
            directory=self.directory / "hosts" / name,
            cgroup=f"llmprov-lab-{self.prefix}/{name}",
            binds=(*pip.local_directories(), *([conda] if (conda := self.state / "conda").exists() else [])),
            gpus=tuple(asked.gpus),
            files={"etc/uv/uv.toml": pip.as_uv_toml()} if pip.has_settings else {},
        )

    def hosts(self) -> list[LabHost]:
        """Every host of the lab, in inventory order."""
        return [self.host(name) for name in self._record().hosts]

    def restart(self, name: str) -> None:
        """Boot a stopped host and wait until it answers."""
        host = self.host(name)
        host.start(network.bridge_name(self.prefix))
        host.wait_ready()

    # -- down, status --------------------------------------------------------------------------------------------

    def down(self, keep_base: bool = False) -> bool:
        """Remove the lab and all it made; False when there was none.

        Base trees go with the last lab of the machine, unless `keep_base`.
        """
        existed = self.directory.exists()
        with self._locked():
            with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
                list(pool.map(LabHost.remove, self.hosts()))
            network.remove_network(self.prefix)
            shutil.rmtree(self.directory, ignore_errors=True)
            # What labs share goes with the last; meanwhile no other lab may count on it.
            with self._locked(""):
                if not any((self.state / "labs").glob("*/lab.json")):
                    network.restore_forwarding(self.state)
                    if not keep_base:
                        base.remove_bases(self.state / "base")
                        shutil.rmtree(self.state / "conda", ignore_errors=True)
        self._tidy()
        return existed

    def _tidy(self) -> None:
        (self.state / "labs" / f".{self.prefix}.lock").unlink(missing_ok=True)
        if not any((self.state / "labs").glob("*/lab.json")):
            (self.state / "labs" / "..lock").unlink(missing_ok=True)
        for directory in (self.state / "labs", self.state, self.state.parent):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def status(self) -> list[HostStatus]:
        """Every host of the lab and whether it runs."""
        record = self._record()
        return [
            HostStatus(
                name=host.name,
                address=host.address,
                release=record.hosts[host.name].release,
                state="running" if host.leader() else "down",
                gpus=host.gpus,
            )
            for host in self.hosts()
        ]

    # -- the record ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, prefix: str | None = None) -> Iterator[None]:
        """Hold the lock of this lab, or with an empty prefix that of what all labs share."""
        (self.state / "labs").mkdir(parents=True, exist_ok=True)
        name = self.prefix if prefix is None else prefix
        with (self.state / "labs" / f".{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _record(self) -> LabRecord:
        path = self.directory / "lab.json"
        return LabRecord.model_validate_json(path.read_text("utf-8")) if path.exists() else LabRecord()

    def _save(self, record: LabRecord) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self.directory / ".lab.json"
        partial.write_text(record.model_dump_json(indent=2), encoding="utf-8")
        partial.rename(self.directory / "lab.json")

    def _write_inventory(self, kit: CondaKit | None) -> None:
        hosts = self.hosts()
        lines = [f"{h.address} {h.host_key.with_suffix('.pub').read_text('utf-8').strip()}" for h in hosts]
        self.known_hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        ssh = f"-o UserKnownHostsFile={self.known_hosts} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
        inventory = {
            "all": {
                "vars": {
                    "ansible_user": USER,
                    "ansible_become": True,
                    "ansible_ssh_private_key_file": str(self.key),
                    "ansible_ssh_common_args": ssh,
                    **(kit.variables() if kit else {}),
                },
                "children": {
                    "lab": {"hosts": {host.name: {"ansible_host": host.address} for host in hosts}},
                },
            }
        }
        text = "# Written by `llmprov lab up`; any Ansible command can use it with -i.\n"
        if kit:
            text += "# No conda installer can be reached from this machine: hosts get the lab's stand-in for it.\n"
        self.inventory.write_text(text + yaml.safe_dump(inventory, sort_keys=False), encoding="utf-8")

    def ssh_command(self, name: str, command: tuple[str, ...] = ()) -> list[str]:
        """The OpenSSH command line that logs in to `name`."""
        host = self.host(name)
        options = [
            f"UserKnownHostsFile={self.known_hosts}",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
        ]
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", "-i", str(self.key), *flags, f"{USER}@{host.address}", *command]


def _check_range(network_text: str, count: int) -> None:
    try:
        parsed = ipaddress.IPv4Network(network_text)
    except ValueError as error:
        raise UsageError(
            f"--network is an IPv4 range like {DEFAULT_NETWORK}, and {network_text!r} is not: {error}"
        ) from None
    if parsed.prefixlen > 24 or not parsed.is_private:
        raise UsageError(f"--network is a private range of /24 or larger, and {network_text} is not")
    if count > 200:
        raise UsageError(f"a lab has at most 200 hosts, and {count} were asked for")


def parse_gpus(options: tuple[str, ...], names: list[str]) -> dict[str, list[str]]:
    """`10de:2330` for every host, `lab2=10de:2330` for one, `10de:2330*8` for eight of them: PCI ids by host.

    Raises:
        UsageError: an option has another form, or names a host that is not asked for.
    """
    found: dict[str, list[str]] = {name: [] for name in names}
    for option in options:
        match = re.fullmatch(r"(?:([a-z0-9]+)=)?([0-9a-f]{4}:[0-9a-f]{4})(?:\*([1-9]|1[0-6]))?", option.lower())
        if match is None or (match[1] and match[1] not in found):
            raise UsageError(
                f"--gpu is [HOST=]VENDOR:DEVICE[*COUNT], like {names[-1]}=10de:2330*8, and {option!r} is not"
            )
        for name in [match[1]] if match[1] else names:
            found[name] += [match[2]] * int(match[3] or 1)
    return found

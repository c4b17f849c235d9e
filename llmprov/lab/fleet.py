"""A whole lab: up, down, status, and the inventory that any Ansible command can use."""

from __future__ import annotations

import concurrent.futures
import datetime
import ipaddress
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from llmprov.depot.pip_config import PipConfig
from llmprov.errors import LabError, UsageError
from llmprov.lab import DEFAULT_NETWORK, DEFAULT_PREFIX, base, kernel, machine, network
from llmprov.lab.conda import kit_where_needed
from llmprov.lab.host import LabHost
from llmprov.lab.identity import USER
from llmprov.lab.lock import held
from llmprov.lab.records import STATE, HostRecord, LabRecord, Snapshot, Tree, new_layer, write_record
from llmprov.lab.snapshot import MAX_LAYERS, Snapshots

if TYPE_CHECKING:
    from llmprov.lab.conda.standin import CondaKit


@dataclass(frozen=True)
class HostStatus:
    """One line of `llmprov lab status`."""

    name: str
    address: str
    release: str
    state: str
    gpus: tuple[str, ...]
    snapshot: str | None = None


class Fleet:
    """The lab of one prefix on this machine."""

    def __init__(self, prefix: str = DEFAULT_PREFIX, state: Path = STATE) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", prefix):
            raise UsageError(f"--prefix is a letter and up to 7 letters or digits, and {prefix!r} is not")
        self.prefix = prefix
        self.state = state
        self.directory = state / "labs" / prefix
        self.snapshots = Snapshots(state)

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
        release: str | None = None,
        gpus: tuple[str, ...] = (),
        address_range: str | None = None,
        packages: tuple[str, ...] = (),
        say: Callable[[str], object] = lambda _: None,
        from_snapshot: str | None = None,
    ) -> list[HostStatus]:
        """Bring up `count` hosts; hosts that are there stay as they are, stopped ones start again.

        New ones have Debian's `packages` from the start, beside what makes a bare host; or they have the files that
        `from_snapshot` names, as SNAPSHOT or SNAPSHOT/HOST.

        Raises:
            LabUnsupported: this machine cannot host a lab.
            LabError: a host, the network or the base tree failed; `down` cleans up.
        """
        if from_snapshot and (release or packages):
            raise UsageError("--from brings a release and packages with it: leave out --release and --package")
        wanted = [f"{self.prefix}{i}" for i in range(1, count + 1)]
        devices = parse_gpus(gpus, wanted)
        _check_range(address_range or DEFAULT_NETWORK, count)
        machine.require_lab_support()
        with self._locked():
            record = self._record_to_change(address_range)
            new = [number for number, name in enumerate(wanted, start=1) if name not in record.hosts]
            bare = None if from_snapshot else self._bare(release or base.RELEASES[0], packages)
            with self.snapshots.lock():
                trees = self._trees(new, bare, from_snapshot)
                for number, (origin, tree) in trees.items():
                    name = f"{self.prefix}{number}"
                    record.hosts[name] = HostRecord(
                        **tree.model_dump(), gpus=devices[name], upper=new_layer(), snapshot=origin
                    )
                _check_range(record.network, len(record.hosts))
                self._save(record)  # first of all, so that `down` finds it even after a crash
            # Each takes as long as the other where both have to be built.
            with concurrent.futures.ThreadPoolExecutor() as beside:
                building = beside.submit(kit_where_needed, self.state / "conda", say)
                for host in record.hosts.values():
                    base.ensure_base_of(self.state / "base", host)
                kernel.allow_many_hosts(self.state)
                network.ensure_network(self.prefix, ipaddress.IPv4Network(record.network), self.state)
                kit = building.result()
            self._start(self.hosts())
            self._write_inventory(kit)
        return self.status()

    def _record_to_change(self, address_range: str | None) -> LabRecord:
        record = self._record()
        if not record.hosts:
            record.network = address_range or DEFAULT_NETWORK
        if address_range not in (None, record.network):
            raise UsageError(f"lab {self.prefix} is up on {record.network}: take it down to move it to {address_range}")
        if not all(host.upper for host in record.hosts.values()):
            raise LabError(
                f"lab {self.prefix} was made by an earlier llmprov: `llmprov lab down --prefix {self.prefix}` first"
            )
        return record

    def _bare(self, release: str, packages: tuple[str, ...]) -> Tree:
        tree = base.base_path(self.state / "base", release, tuple(sorted(packages)))
        return Tree(release=release, packages=sorted(packages), base=tree.name)

    def _trees(self, new: list[int], bare: Tree | None, source: str | None) -> dict[int, tuple[str | None, Tree]]:
        if bare is not None:
            return dict.fromkeys(new, (None, bare))
        return {**self.snapshots.trees(source or "", new)}

    def _start(self, hosts: list[LabHost]) -> None:
        if not self.key.exists():
            machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {self.prefix}", "-f", str(self.key))
        authorized = self.key.with_suffix(".pub").read_text("utf-8")
        _each(lambda host: host.create(authorized), hosts)
        for host in hosts:
            host.start(network.bridge_name(self.prefix))
        _each(LabHost.wait_ready, hosts)

    # -- save ----------------------------------------------------------------------------------------------------

    def save(self, name: str) -> Snapshot:
        """Keep the files of all hosts as the snapshot `name`; hosts that run are restarted.

        Hosts are shut down, so that no service is in the middle of writing. Then the layers they wrote to become the
        snapshot, and they go on over them with new ones. Nothing is copied.

        Raises:
            UsageError: the lab has no hosts, or the name cannot be used.
            LabError: a host is not complete, or could not be stopped or started again.
        """
        self.snapshots.require_free(name)
        with self._locked():
            hosts = self.hosts()
            self._require_complete(hosts)
            running = [host.name for host in hosts if host.processes()]
            try:
                _each(LabHost.shut_down, hosts)
                _each(LabHost.unmount, hosts)
                machine.run("sync", "--file-system", str(self.state))  # a snapshot outlives the machine's power
                snapshot = self._freeze(name)
            finally:
                self._start([host for host in self.hosts() if host.name in running])
        return snapshot

    def _require_complete(self, hosts: list[LabHost]) -> None:
        if not hosts:
            raise UsageError(f"there is no lab {self.prefix} to save: run `llmprov lab up`")
        for host in hosts:
            if not host.host_key.exists():
                raise LabError(f"host {host.name} was never completed: run `llmprov lab up --prefix {self.prefix}`")
            if len(host.lower) > MAX_LAYERS:
                raise LabError(
                    f"host {host.name} stands on {MAX_LAYERS} layers of snapshots, and more are not possible: "
                    "provision a new host and save that one"
                )

    def _freeze(self, name: str) -> Snapshot:
        with self.snapshots.lock():
            self.snapshots.require_free(name)
            record = self._record()
            frozen = {host: asked.frozen() for host, asked in record.hosts.items()}
            for host, asked in record.hosts.items():
                asked.layers, asked.upper = frozen[host].layers, new_layer()
            # The lab first: killed between the two, its hosts have one more layer below them, and nothing is saved.
            self._save(record)
            now = datetime.datetime.now(datetime.UTC)
            snapshot = Snapshot(name=name, lab=self.prefix, saved_at=now, hosts=frozen)
            self.snapshots.add(snapshot)
        return snapshot

    # -- one host ------------------------------------------------------------------------------------------------

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
            lower=self.snapshots.lower(asked),
            upper=self.snapshots.layer(asked.upper),
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
        host.mount()
        host.start(network.bridge_name(self.prefix))
        host.wait_ready()

    # -- down, status --------------------------------------------------------------------------------------------

    def down(self, keep_base: bool = False) -> bool:
        """Remove the lab and all it made; False when there was none.

        Base trees go with the last lab of the machine, unless `keep_base` or a snapshot needs them.
        """
        existed = self.directory.exists()
        with self._locked():
            _each(LabHost.remove, self.hosts())
            network.remove_network(self.prefix)
            # What labs share goes with the last; meanwhile no other lab may count on it.
            with self.snapshots.lock():
                shutil.rmtree(self.directory, ignore_errors=True)
                if not any((self.state / "labs").glob("*/lab.json")):
                    kernel.restore(self.state)
                remove_layers = self.snapshots.remove_unused(keep_base)
            remove_layers()
            self._lock_file.unlink()
        self.snapshots.tidy()
        return existed

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
                snapshot=record.hosts[host.name].snapshot,
            )
            for host in self.hosts()
        ]

    # -- the record ----------------------------------------------------------------------------------------------

    @property
    def _lock_file(self) -> Path:
        return self.state / "labs" / f".{self.prefix}.lock"

    def _locked(self) -> AbstractContextManager[None]:
        """Hold the lock of this lab."""
        return held(self._lock_file)

    def _record(self) -> LabRecord:
        path = self.directory / "lab.json"
        return LabRecord.model_validate_json(path.read_text("utf-8")) if path.exists() else LabRecord()

    def _save(self, record: LabRecord) -> None:
        write_record(self.directory / "lab.json", record)

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


def _each(do: Callable[[LabHost], None], hosts: Iterable[LabHost]) -> None:
    """Do something to several hosts at a time; the first error is raised when all are done."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(do, hosts))


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

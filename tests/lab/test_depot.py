"""How artifacts come to hosts: each transport, what a host that has them fetches, and how often the controller does."""

from __future__ import annotations

import http.server
import os
import tempfile
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import yaml

SMALL = {
    "llm_env_manager": "venv",
    "llm_packages": ["idna", "six"],
    "pytorch_state": "absent",
    "depot_host_path": "/srv/depot",
    "venv_uv_path": "/srv/bin/uv",
}


@pytest.fixture
def hosts(lab, tmp_path):
    """The shared hosts, each with a small environment of this test's own, gone afterwards."""
    path = "/srv/depot-test/env"

    def of(*names, **variables):
        return lab.inventory(tmp_path / "hosts.yml", lab.of(*names), **{**SMALL, "llm_env_path": path, **variables})

    yield of
    for name in ("dep1", "dep2"):
        lab.sh(name, "rm -rf /srv/depot-test /srv/depot /srv/bin /srv/cache")


def modified(lab, name):
    return lab.sh(name, "ls /srv/depot | sort; find /srv/depot -name '*.whl' -printf '%f %C@\\n' | sort")


def test_a_host_that_has_an_artifact_fetches_nothing(provisioned, llmprov, hosts):
    inventory = hosts("dep1")
    assert llmprov("provision", inventory, "--no-verify").code == 0
    stamps = provisioned.sh("dep1", "stat -c '%n %W' /srv/depot/*.whl | sort")
    provisioned.sh("dep1", "rm -rf /srv/depot-test /srv/cache")
    assert llmprov("provision", inventory, "--no-verify").code == 0
    assert provisioned.sh("dep1", "stat -c '%n %W' /srv/depot/*.whl | sort") == stamps
    provisioned.sh("dep1", "rm -rf /srv/depot-test; for f in /srv/depot/six*; do rm $f; echo spoilt > $f; done")
    assert llmprov("provision", inventory, "--no-verify").code == 0
    assert "six" in provisioned.sh("dep1", "ls /srv/depot-test/env/lib/python3*/site-packages")


@pytest.mark.parametrize("transport", ["forward", "sftp", "http", "internet"])
def test_every_transport_brings_the_same(provisioned, llmprov, hosts, transport):
    gateway = provisioned.host("dep1").gateway
    inventory = hosts("dep1", depot_transport=transport, depot_address=gateway)
    ran = llmprov("provision", inventory, "--no-verify")
    assert ran.code == 0
    there = provisioned.sh("dep1", "sha256sum /srv/depot/*.whl | sed 's|/srv/depot/||' | sort")
    assert {line.split("  ")[1].split("-")[0] for line in there.splitlines()} == {"idna", "six", "uv"}
    assert provisioned.sh("dep1", "ss -Hltn | grep -v ':22 ' || true") == ""
    assert provisioned.sh("dep1", "ls -A /home/admin/.ansible/tmp 2>/dev/null || true") == ""


@pytest.fixture
def sockets():
    """A folder for ssh's control sockets: short, as their paths may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="cp-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def test_where_sshd_forbids_forwarding_sftp_is_taken_by_itself(provisioned, llmprov, hosts, sockets):
    provisioned.sh("dep1", "echo 'AllowTcpForwarding no' > /etc/ssh/sshd_config.d/no.conf; systemctl reload ssh")
    try:
        env_before = os.environ.get("ANSIBLE_SSH_CONTROL_PATH_DIR")
        inventory = hosts("dep1", ansible_control_path_dir=sockets)
        assert llmprov("provision", inventory, "--no-verify").code == 0
        assert os.environ.get("ANSIBLE_SSH_CONTROL_PATH_DIR") == env_before
        provisioned.sh("dep1", "rm -rf /srv/depot-test /srv/depot")
        ran = llmprov(
            "provision",
            hosts("dep1", ansible_control_path_dir=sockets, depot_transport="forward"),
            "--no-verify",
        )
        assert ran.code == 3
        assert "forbids forwarding" in ran.row("dep1")["summary"]
    finally:
        provisioned.sh("dep1", "rm /etc/ssh/sshd_config.d/no.conf; systemctl reload ssh")


class Counting(http.server.SimpleHTTPRequestHandler):
    hits: Counter[str] = Counter()

    def do_GET(self):
        type(self).hits[Path(self.path).name] += 1
        super().do_GET()

    def log_message(self, *_):
        pass


def test_two_hosts_cost_no_more_from_outside_than_one(provisioned, llmprov, hosts, tmp_path, monkeypatch):
    """A channel behind a server that counts; an empty store. Two releases of hosts would be two kinds; these are one."""
    kit = yaml.safe_load(provisioned.fleet.inventory.read_text("utf-8"))["all"]["vars"]
    channel = Path(kit["miniconda_channels"][0].removeprefix("file://"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(channel)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Counting.hits.clear()
    try:
        inventory = hosts(
            "dep1",
            "dep2",
            llm_env_manager="conda",
            miniconda_prefix="/srv/depot-test/conda",
            miniconda_channels=[f"http://127.0.0.1:{server.server_address[1]}"],
            conda_env_conda_packages=["python=3.11", "numpy"],
        )
        assert llmprov("provision", inventory, "--no-verify").code == 0
        packages = {name: count for name, count in Counting.hits.items() if name.endswith(".conda")}
        assert packages
        assert set(packages.values()) == {1}
        for name in ("dep1", "dep2"):
            assert provisioned.sh(name, "/srv/depot-test/env/bin/python -c 'import numpy, idna; print(1)'") == "1\n"
        provisioned.sh(
            "dep1",
            "rm -rf /srv/depot-test/env /srv/depot-test/.llmprov /srv/depot/numpy* /srv/depot-test/conda/pkgs/numpy*",
        )
        assert llmprov("provision", inventory, "--no-verify").code == 0
        assert {name: c for name, c in Counting.hits.items() if name.endswith(".conda")} == packages
    finally:
        server.shutdown()
        server.server_close()

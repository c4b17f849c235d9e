"""The driver's packages on real hosts, with a stand-in for NVIDIA's repository: which version, upgrades, and bad days."""

from __future__ import annotations

import subprocess

import pytest

from llmprov.lab.fleet import Fleet
from tests.conftest import LLMPROV, ROOT
from tests.lab import nvidia_repository
from tests.lab.conftest import PYTHON, Lab
from tests.lab.nvidia_repository import RELEASE

ADDRESSES = "10.77.37.0/24"
PACKAGES = "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' | sort"
VERSIONS = "dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n' 'nvidia-*' | grep ^.i || true"
#: What lies on the host, but for logs, caches, and what apt, dpkg and systemd write down for themselves.
FILES = "find / -xdev -regextype posix-extended -regex '/(proc|sys|run|tmp|srv|home|root|var/(lib/(dpkg|apt|systemd)|cache|log|tmp))' "
FILES += "-prune -o -name __pycache__ -prune -o -print | sort"
DECLARED = ("-t", "preflight,nvidia_driver", "--no-verify", "-e", "nvidia_driver_state=present")
MIRROR = ("-e", "nvidia_driver_mirror=http://127.0.0.1:8000")
FOUR = ("nvidia-driver-cuda", "nvidia-fabricmanager", "nvidia-kernel-open-dkms", "nvidia-persistenced")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """An H100 with a switch and the repository on itself; a V100; a B200."""
    fleet = Fleet("pkg")
    fleet.down(keep_base=True)
    try:
        gpus = ("pkg1=10de:2330", "pkg1=10de:22a3", "pkg2=10de:1db1", "pkg3=10de:2901")
        fleet.up(3, address_range=ADDRESSES, gpus=gpus, packages=PYTHON)
        made = Lab(fleet)
        nvidia_repository.build(made.host("pkg1").root / "srv/nvidia", tmp_path_factory.mktemp("repository"))
        made.sh("pkg1", "echo 0x068000 > /var/lib/llmprov-lab/pci/0000:02:00.0/class")
        made.sh("pkg1", f"mkdir -p /boot /lib/modules/{RELEASE}; touch /boot/vmlinuz-{RELEASE}")
        made.sh("pkg1", "systemd-run -q python3 -m http.server --directory /srv/nvidia --bind 127.0.0.1 8000")
        yield made
    finally:
        fleet.down(keep_base=True)


@pytest.fixture
def pkg1(lab, tmp_path):
    return lab.inventory(tmp_path / "hosts.yml", lab.of("pkg1"))


def versions(lab):
    rows = [row.split() for row in lab.sh("pkg1", VERSIONS).splitlines()]
    return {row[1]: row[2] for row in rows}


def held(lab):
    return sorted(lab.sh("pkg1", "apt-mark showhold").split())


ROCKY = 'printf \'ID="rocky"\\nVERSION_ID="9.4"\\nPRETTY_NAME="Rocky Linux 9.4"\\n\' > /etc/os-release'


def test_the_plan_of_a_mixed_fleet_reads_as_in_the_docs(lab, tmp_path):
    told = (ROOT / "docs/drivers.md").read_text().split("```")[1].strip()
    hosts = {
        "b200": lab.of("pkg3")["pkg3"],
        "h100": lab.of("pkg1")["pkg1"],
        "v100": {**lab.of("pkg2")["pkg2"], "nvidia_driver_branch": "595"},
    }
    lab.sh("pkg3", f"cp -L /etc/os-release /root/ && rm /etc/os-release && {ROCKY}")
    # Without the switch, and without the kernel whose headers are asked for by name.
    lab.sh("pkg1", f"echo 0 > /var/lib/llmprov-lab/pci/0000:02:00.0/class; rm /boot/vmlinuz-{RELEASE}")
    about = {"nvidia_driver_state": "present", "venv_state": "absent", "pytorch_state": "absent"}
    inventory = lab.inventory(tmp_path / "hosts.yml", hosts, **about)
    done = subprocess.run([LLMPROV, "plan", "-i", inventory], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    lab.sh("pkg3", "cp /root/os-release /etc/os-release")
    lab.sh("pkg1", f"echo 0x068000 > /var/lib/llmprov-lab/pci/0000:02:00.0/class; touch /boot/vmlinuz-{RELEASE}")
    assert done.stdout.strip() == told


def test_the_newest_version_that_all_have_is_taken_moved_and_gone_again(lab, llmprov, pkg1):
    before, files = lab.sh("pkg1", PACKAGES), lab.sh("pkg1", FILES)
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, "--check")
    assert (ran.row("pkg1")["failures"], lab.sh("pkg1", PACKAGES)) == ([], before)
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, "-e", "nvidia_driver_cuda_toolkit=12.8")
    assert ran.code == 0, ran.row("pkg1")["summary"]
    # The libraries of 580.126.09 are there already, and their modules are not.
    assert versions(lab) == dict.fromkeys(FOUR, "580.105.08-1")
    assert held(lab) == sorted(FOUR)
    assert "cuda-toolkit-12-8" in lab.sh("pkg1", PACKAGES)
    assert lab.sh("pkg1", f"ls /lib/modules/{RELEASE}/updates/dkms").split() == ["nvidia.ko"]
    for service in ("nvidia-persistenced", "nvidia-fabricmanager"):
        assert lab.sh("pkg1", f"systemctl is-enabled {service}").strip() == "enabled"
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, "-e", "nvidia_driver_cuda_toolkit=12.8")
    assert ran.row("pkg1")["converged"]["changed"] == []

    # What unattended upgrades would do: nothing, since the packages are held.
    lab.sh("pkg1", "apt-get -q -y upgrade >/dev/null")
    assert set(versions(lab).values()) == {"580.105.08-1"}

    # Back to an exact version, and on to another branch; what a user installs meanwhile is the user's.
    lab.sh("pkg1", "apt-get -q -y install --no-install-recommends hello >/dev/null")
    for asked, got in (("580.95.05", "580.95.05-1"), ("595", "595.45.04-1")):
        ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, "-e", f"nvidia_driver_branch={asked}")
        assert ran.code == 0, ran.row("pkg1")["summary"]
        assert versions(lab) == dict.fromkeys(FOUR, got)
        assert held(lab) == sorted(FOUR)

    ran = llmprov("provision", pkg1, "-t", "nvidia_driver", "--no-verify", "-e", "nvidia_driver_state=absent")
    assert ran.code == 0, ran.row("pkg1")["summary"]
    assert lab.sh("pkg1", PACKAGES).replace("ii  hello\n", "") == before
    assert held(lab) == []
    # But for what the stand-in for DKMS built, and what was the user's.
    lab.sh("pkg1", f"rm -rf /lib/modules/{RELEASE}/updates; apt-get -q -y purge hello >/dev/null")
    assert lab.sh("pkg1", FILES).splitlines() == files.splitlines()


def test_a_version_that_the_repository_does_not_have_is_told_with_those_it_has(lab, llmprov, pkg1):
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, "-e", "nvidia_driver_branch=580.11.11")
    assert ran.code == 3
    assert "the archives have no version 580.11.11" in ran.row("pkg1")["summary"]
    assert "580.105.08" in ran.row("pkg1")["summary"]
    assert versions(lab) == {}


@pytest.mark.long
def test_a_module_that_does_not_compile_is_told_in_the_compilers_words_and_mended(lab, llmprov, pkg1):
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, "-e", "nvidia_driver_branch=610")
    summary = ran.row("pkg1")["summary"]
    assert f"the module cannot be built for the kernel {RELEASE}" in summary
    assert "too many arguments to function 'pci_resize_resource'" in summary
    assert "/var/lib/dkms/nvidia/610.10.01/build/make.log" in summary
    assert ran.code == 3
    # Nothing to clean by hand: another branch takes its place.
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, "-e", "nvidia_driver_branch=580")
    assert ran.code == 0, ran.row("pkg1")["summary"]
    assert versions(lab) == dict.fromkeys(FOUR, "580.105.08-1")


@pytest.mark.long
def test_a_kernel_whose_headers_nobody_has_ends_it_before_anything_is_built(lab, llmprov, pkg1):
    newer = "6.99.0-1-amd64"
    lab.sh("pkg1", f"mkdir -p /lib/modules/{newer}; touch /boot/vmlinuz-{newer}")
    plan = llmprov("plan", pkg1, *DECLARED[3:], *MIRROR).row("pkg1")["plan"]
    (finding,) = plan["findings"]
    assert finding["id"] == "driver.next_kernel"
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR)
    assert ran.code == 3
    assert f"linux-headers-{newer}" in ran.row("pkg1")["summary"]
    # Another kernel boots next, which has all it needs: the old one is only told of.
    older = "6.0.0-1-amd64"
    lab.sh("pkg1", f"rm -r /boot/vmlinuz-{newer} /lib/modules/{newer}")
    lab.sh("pkg1", f"mkdir -p /lib/modules/{older}; touch /boot/vmlinuz-{older}")
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR)
    assert ran.code == 0, ran.row("pkg1")["summary"]
    assert any(older in warning for warning in ran.row("pkg1")["plan"]["warnings"])
    lab.sh("pkg1", f"rm -r /boot/vmlinuz-{older} /lib/modules/{older}")


@pytest.mark.long
def test_a_lock_that_is_held_for_ever_is_named(lab, llmprov, pkg1):
    hold = "import fcntl,time; f=open('/var/lib/dpkg/lock-frontend','w'); fcntl.lockf(f,fcntl.LOCK_EX); time.sleep(900)"
    lab.sh("pkg1", f'systemd-run -q --unit=holder python3 -c "{hold}"')
    locked = ("-e", "preflight_lock_timeout_s=2", "-e", "nvidia_driver_lock_timeout_s=2")
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, *locked, "-e", "nvidia_driver_branch=580.95.05")
    lab.sh("pkg1", "systemctl stop holder")
    assert ran.code == 3
    assert "lock" in ran.row("pkg1")["summary"]
    assert set(versions(lab).values()) == {"580.105.08-1"}
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, "-e", "nvidia_driver_branch=580.95.05")
    assert ran.code == 0, ran.row("pkg1")["summary"]


@pytest.mark.long
def test_a_power_cut_in_the_middle_of_an_installation_is_made_good(lab, llmprov, pkg1):
    build = "mkdir -p /tmp/slow/DEBIAN; cd /tmp/slow/DEBIAN; printf 'Package: slow\\nVersion: 1\\nArchitecture: all\\n"
    build += (
        "Maintainer: A <a@example.org>\\nDescription: none\\n' > control; printf '#!/bin/sh\\ntest -e /tmp/fast || "
    )
    build += "{ touch /tmp/here; sleep 600; }\\n' > postinst; chmod 755 postinst; dpkg-deb -b /tmp/slow /tmp/slow.deb >/dev/null"
    lab.sh("pkg1", build)
    lab.sh("pkg1", "systemd-run -q --unit=install dpkg -i /tmp/slow.deb")
    wait = "timeout 60 sh -c 'until test -e /tmp/here; do sleep 0.1; done'"  # a poll with a deadline
    lab.sh("pkg1", f"{wait}; systemctl kill -s KILL install; touch /tmp/fast")
    assert "was interrupted" in lab.sh("pkg1", "apt-get -q -y install hello 2>&1 || true")
    ran = llmprov("provision", pkg1, *DECLARED, *MIRROR, "-e", "nvidia_driver_branch=580.105.08")
    assert ran.code == 0, ran.row("pkg1")["summary"]
    assert set(versions(lab).values()) == {"580.105.08-1"}
    assert lab.sh("pkg1", "dpkg-query -W -f '${db:Status-Abbrev}' slow").strip() == "ii"


def test_what_no_gpu_can_have_is_refused_and_nothing_is_touched(lab, llmprov, tmp_path):
    inventory = lab.inventory(
        tmp_path / "hosts.yml",
        {
            "v100": {**lab.of("pkg2")["pkg2"], "nvidia_driver_branch": "595"},
            "b200": {**lab.of("pkg3")["pkg3"], "nvidia_driver_flavour": "proprietary"},
        },
    )
    before = [lab.sh(name, PACKAGES) for name in ("pkg2", "pkg3")]
    ran = llmprov("provision", inventory, *DECLARED)
    assert ran.statuses() == {"v100": "refused", "b200": "refused"}
    assert ran.row("v100")["summary"].startswith("the driver branch 595 does not fit the GPU V100 SXM2 16GB")
    assert ran.row("v100")["remedy"].startswith("take branch 580 with the proprietary kernel modules")
    assert ran.row("b200")["summary"].startswith("the proprietary kernel modules does not fit the GPU B200")
    assert ran.row("b200")["remedy"].startswith("take branch 580 with the open kernel modules")
    assert [lab.sh(name, PACKAGES) for name in ("pkg2", "pkg3")] == before

"""What role nvidia_driver does on each system, against a table of what vendors publish: tests/fixtures/driver/installs.yml."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import yaml

from tests.conftest import ROOT
from tests.rendered import rendered
from tests.unit.builders import gpu, observed

TABLE = yaml.safe_load((ROOT / "tests/fixtures/driver/installs.yml").read_text("utf-8"))

#: What every system gets beside its driver: nouveau must not hold the cards, and what came must be known when it is removed.
NOUVEAU = "blacklist nouveau\noptions nouveau modeset=0\n"
RECORD = "llmprov_package_record"


@pytest.fixture(scope="module", params=TABLE, ids=lambda case: case["name"])
def case(request):
    """A row of the table, and the role's tasks on its host."""
    about = request.param["host"]
    devices = [gpu(about["gpu"])]
    if about.get("nvswitch"):
        devices.append({"address": "0000:05:00.0", "device_id": "22a3", "kind": "nvswitch"})
    system = {"id": about["id"], "version_id": about["version_id"], "architecture": about.get("architecture", "x86_64")}
    seen = observed(
        devices=devices,
        os=system | {"package_manager": "apt" if about["id"] in ("debian", "ubuntu") else "dnf"},
        kernels=[{"release": about["kernel"], "running": True, "bootable": True}],
        driver={"secure_boot": True} if about.get("secure_boot") else {},
    )
    return request.param, rendered(seen, request.param.get("declared", {}))


def of(tasks, *modules):
    """The arguments of all tasks of these modules, in their order."""
    return [task[module] for task in tasks for module in modules if module in task]


def names(arguments):
    """The packages that a task of a package manager installs."""
    found = arguments.get("name", [])
    return [found] if isinstance(found, str) else found


PACKAGES = ("ansible.builtin.apt", "ansible.builtin.dnf")


def installed(tasks):
    return [name for arguments in of(tasks, *PACKAGES) for name in names(arguments)]


def sources(tasks):
    """Address and key of every repository that is added."""
    files = {f["dest"]: f["content"] for f in of(tasks, "ansible.builtin.copy") if f["dest"].endswith(".sources")}
    keys = {key["dest"]: key["url"] for key in of(tasks, "ansible.builtin.get_url")}
    found = []
    for text in files.values():
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        assert (fields["Types"], fields["Suites"]) == ("deb", "/")
        found.append({"url": fields["URIs"], "key": keys.pop(fields["Signed-By"])})
    assert not keys, "a key that no repository names"
    for repository in of(tasks, "ansible.builtin.yum_repository"):
        assert repository["gpgcheck"] is True
        found.append({"url": repository["baseurl"], "key": repository["gpgkey"]})
    return found


def commands(tasks):
    """The words of every command that is run."""
    return [c["argv"] if "argv" in c else c["cmd"].split() for c in of(tasks, "ansible.builtin.command")]


def held(tasks):
    found = [s["name"] for s in of(tasks, "ansible.builtin.dpkg_selections") if s["selection"] == "hold"]
    return found + [name for c in commands(tasks) if c[:4] == ["dnf", "-q", "versionlock", "add"] for name in c[4:]]


def test_the_driver_comes_from_where_its_maker_says(case):
    row, tasks = case
    assert sources(tasks) == row.get("repositories", [])
    components = [name for made in of(tasks, "llmprov_apt_components") for name in made["components"]]
    assert components == row.get("components", [])


def test_exactly_the_published_packages_are_installed(case):
    row, tasks = case
    found = installed(tasks)
    assert sorted(found) == sorted(row["packages"])
    assert not [name for name in found for pattern in row["not"] if fnmatchcase(name, pattern)]


def test_the_branch_is_followed_and_kept(case):
    row, tasks = case
    pins = of(tasks, "llmprov_apt_pin")
    assert [pin["version"] for pin in pins] == ([row["branch"]] if "branch" in row else [])
    # Whatever belongs to the driver's version is among the packages that must agree.
    assert all(set(pin["packages"]) <= set(row["packages"]) for pin in pins)
    streams = [words[-1] for words in commands(tasks) if words[:4] == ["dnf", "-y", "module", "switch-to"]]
    assert streams == ([row["stream"]] if "stream" in row else [])
    assert held(tasks) == row["held"]


def test_modules_are_built_and_services_start_at_boot(case):
    row, tasks = case
    assert [kernel for made in of(tasks, "llmprov_dkms") for kernel in made["kernels"]] == row["built_for"]
    services = of(tasks, "ansible.builtin.systemd_service")
    assert [service["name"] for service in services] == row["services"]
    assert all(service["enabled"] is True for service in services)


def test_a_package_manager_is_told_to_wait_and_to_add_nothing(case):
    _, tasks = case
    for arguments in of(tasks, *PACKAGES):
        assert arguments["lock_timeout"] == 600
    for arguments in of(tasks, "ansible.builtin.apt"):
        assert arguments.get("update_cache") or arguments["install_recommends"] is False
    (driver,) = [a for a in of(tasks, *PACKAGES) if any("nvidia" in n and "toolkit" not in n for n in names(a))]
    # Another branch may be older: the package manager must be willing to go down.
    assert driver["allow_downgrade"] is True
    # The distribution signs what comes by its name; only an address has no key beforehand.
    unsigned = [n for a in of(tasks, "ansible.builtin.dnf") if a.get("disable_gpg_check") for n in names(a)]
    assert all(name.startswith("https://") for name in unsigned)


def places(tasks, module, test=lambda _: True):
    """Where the tasks of a module stand."""
    return [number for number, task in enumerate(tasks) if module in task and test(task[module])]


def test_the_order_lets_a_host_reboot_at_any_time_and_be_cleaned_later(case):
    _, tasks = case
    assert [made["state"] for made in of(tasks[:1] + tasks[-1:], RECORD)] == ["begun", "complete"]
    manager = PACKAGES[0] if of(tasks, PACKAGES[0]) else PACKAGES[1]
    driver = places(tasks, manager, lambda a: any("nvidia" in name for name in names(a)))[0]
    (nouveau,) = places(tasks, "ansible.builtin.copy", lambda file: file["content"] == NOUVEAU)
    (initramfs,) = places(tasks, "ansible.builtin.shell", lambda shell: "initramfs" in str(shell))
    assert nouveau < driver < initramfs
    before = [
        n
        for m in ("ansible.builtin.get_url", "ansible.builtin.yum_repository", "llmprov_apt_pin")
        for n in places(tasks, m)
    ]
    after = [n for m in ("ansible.builtin.dpkg_selections", "llmprov_dkms") for n in places(tasks, m)]
    after += places(tasks, "ansible.builtin.command", lambda command: "versionlock" in command.get("argv", []))
    assert max(before, default=0) < driver < min(after)


#: Every module that the tests above look at: a task of any other would go unseen.
LOOKED_AT = {
    *PACKAGES,
    *("ansible.builtin.copy", "ansible.builtin.get_url", "ansible.builtin.yum_repository", "ansible.builtin.shell"),
    *("ansible.builtin.command", "ansible.builtin.dpkg_selections", "ansible.builtin.systemd_service"),
    *("llmprov_apt_components", "llmprov_apt_pin", "llmprov_dkms", RECORD),
}


def test_nothing_else_is_done(case):
    _, tasks = case
    others = [task for task in tasks if not set(task) & LOOKED_AT]
    assert [task.get("ansible.builtin.file") for task in others] == [
        {"path": "/etc/modprobe.d", "state": "directory", "mode": "0755"}
    ]
    known = (["dnf", "-y", "module"], ["dnf", "-q", "versionlock"])
    assert all(words[:3] in known for words in commands(tasks))
    folders = ("/etc/modprobe.d/", "/etc/apt/sources.list.d/")
    assert all(file["dest"].startswith(folders) for file in of(tasks, "ansible.builtin.copy"))
    assert len(of(tasks, "ansible.builtin.shell")) == 1

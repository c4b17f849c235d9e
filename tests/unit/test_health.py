"""Every health check, seen to fire and seen to be quiet; and what drivers print, of every kind we know."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.model import Check
from llmprov.payload import health
from llmprov.payload.health import cards as cards_module
from llmprov.payload.health import disk, nvlink, xid
from llmprov.payload.health.cards import read_cards
from llmprov.payload.measure.sampler import parse_smi
from tests.conftest import ROOT
from tests.unit.machines import ADDRESSES, CARD, DECLARED, DRIVER, H100, Made, old, smi_xml

FIRST, SECOND = ADDRESSES
CORPUS = ROOT.parent / "shared/corpus"


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path)


def look(made, **declared):
    """Id -> check, each held against the record that the controller reads it into."""
    wanted = {**DECLARED, **declared}
    machine = made.machine()
    found = health.look(machine, read_cards(machine, wanted), wanted)
    for check in found:
        if check["status"] != "not_reported":
            Check(**check)
            assert check["status"] == "pass" or check["remedy"], check
    assert len({check["id"] for check in found}) == len(found)
    return {check["id"]: check for check in found}


def statuses(found):
    return {name: check["status"] for name, check in found.items() if check["status"] != "pass"}


def test_a_sound_machine_passes_every_check(made):
    found = look(made)
    assert statuses(found) == {}
    subjects = {name.partition(".")[2] if name.startswith("gpu0") else name for name in found}
    assert subjects >= {
        *(
            "gpu.count",
            "gpu.model",
            "driver.versions",
            "xid",
            "fabric.manager",
            "memory.ecc",
            "cpu.governor",
            "cpu.heat",
        ),
        *("present", "recovery", "ecc_mode", "ecc_volatile", "ecc_aggregate", "row_remap", "nvlink", "nvlink_errors"),
        *("fabric", "pcie_width", "pcie_generation", "pcie_errors", "clocks", "temperature", "memory_temperature"),
        *("power_limit", "persistence", "mig", "compute_mode", "processes", "numa", "network.eth0", "network.mlx5_0.1"),
        *("memory.available", "cpu.quota"),
    }


#: Fields of the first card -> the check that fires, and how.
FIELDS = [
    ({"gpu_reset_status/reset_required": "Yes"}, "recovery", "fail"),
    ({"gpu_reset_status/drain_and_reset_recommended": "Yes"}, "recovery", "fail"),
    ({"gpu_recovery_action": "Reboot"}, "recovery", "fail"),
    ({"gpu_recovery_action": "Something New"}, "recovery", "warn"),
    ({"ecc_mode/current_ecc": "Disabled", "ecc_mode/pending_ecc": "Disabled"}, "ecc_mode", "warn"),
    ({"ecc_mode/pending_ecc": "Disabled"}, "ecc_mode", "warn"),
    ({"ecc_errors/volatile/dram_uncorrectable": "2"}, "ecc_volatile", "fail"),
    ({"ecc_errors/volatile/sram_uncorrectable_parity": "1"}, "ecc_volatile", "fail"),
    ({"ecc_errors/aggregate/sram_uncorrectable_secded": "1"}, "ecc_aggregate", "warn"),
    ({"ecc_errors/aggregate/sram_threshold_exceeded": "Yes"}, "ecc_aggregate", "fail"),
    ({"remapped_rows/remapped_row_failure": "Yes"}, "row_remap", "fail"),
    ({"remapped_rows/remapped_row_pending": "Yes"}, "row_remap", "warn"),
    ({"ecc_errors/unrepairable_memory": "Yes"}, "unrepairable_memory", "fail"),
    ({"ecc_errors/channel_repair_pending": "Yes"}, "channel_repair_pending", "warn"),
    ({"ecc_errors/tpc_repair_pending": "Yes"}, "tpc_repair_pending", "warn"),
    ({"fabric/state": "In Progress", "fabric/status": "N/A"}, "fabric", "fail"),
    ({"fabric/status": "Insufficient Resources"}, "fabric", "fail"),
    ({"fabric/health/bandwidth": "Degraded"}, "fabric", "fail"),
    ({"pci/pci_gpu_link_info/link_widths/current_link_width": "8x"}, "pcie_width", "fail"),
    ({"pci/pci_gpu_link_info/pcie_gen/current_link_gen": "3"}, "pcie_generation", "warn"),
    ({"pci/replay_counter": "5000"}, "pcie_errors", "warn"),
    ({"clocks_event_reasons/clocks_event_reason_hw_slowdown": "Active"}, "clocks", "fail"),
    ({"clocks_event_reasons/clocks_event_reason_hw_power_brake_slowdown": "Active"}, "clocks", "fail"),
    ({"clocks_event_reasons/clocks_event_reason_hw_thermal_slowdown": "Active"}, "clocks", "fail"),
    ({"clocks_event_reasons/clocks_event_reason_sw_thermal_slowdown": "Active"}, "clocks", "warn"),
    ({"temperature/gpu_temp_tlimit": "0 C"}, "temperature", "fail"),
    ({"temperature/gpu_temp_slow_threshold": "34 C"}, "temperature", "fail"),
    ({"temperature/gpu_temp_max_threshold": "30 C"}, "temperature", "warn"),
    ({"temperature/memory_temp": "97 C"}, "memory_temperature", "warn"),
    ({"gpu_power_readings/current_power_limit": "400.00 W"}, "power_limit", "warn"),
    ({"persistence_mode": "Disabled"}, "persistence", "warn"),
    ({"mig_mode/current_mig": "Enabled", "mig_mode/pending_mig": "Enabled"}, "mig", "fail"),
    ({"mig_mode/pending_mig": "Enabled"}, "mig", "warn"),
    ({"compute_mode": "Prohibited"}, "compute_mode", "fail"),
    ({"compute_mode": "Exclusive_Process"}, "compute_mode", "warn"),
    ({"fb_memory_usage/used": "40000 MiB"}, "processes", "warn"),
    # Not reported where the tables say that it should be: inconclusive, never a pass.
    ({"ecc_mode/current_ecc": "N/A"}, "ecc_mode", "inconclusive"),
    ({"temperature/gpu_temp": "[N/A]"}, "temperature", "inconclusive"),
]


@pytest.mark.parametrize(("change", "name", "status"), FIELDS)
def test_a_field_of_one_card_fires_its_check_on_that_card_alone(made, change, name, status):
    made.cards[FIRST].update(change)
    assert statuses(look(made)) == {f"gpu0.{name}": status}


def test_an_idle_card_may_slow_its_link_down(made):
    made.cards[FIRST] |= {"pci/pci_gpu_link_info/pcie_gen/current_link_gen": "1", "performance_state": "P8"}
    found = look(made)
    assert statuses(found) == {}
    assert "idle" in found["gpu0.pcie_generation"]["summary"]


def spoil_switch(made):
    made.program("nv-fabricmanager", "echo 'Fabric Manager version is : 570.1.1'")


def spoil_manager(made):
    made.program("systemctl", "echo failed; exit 3")


def remove_manager(made):
    (made.bin / "nv-fabricmanager").unlink()


def kernel_says(made, line):
    made.program("dmesg", f"cat <<'END'\n[    9.9] {line}\nEND")


FILES = [
    (f"/sys/bus/pci/devices/{FIRST}/aer_dev_fatal", "TOTAL_ERR_FATAL 1", "gpu0.pcie_errors", "fail"),
    (f"/sys/bus/pci/devices/{FIRST}/aer_dev_nonfatal", "TOTAL_ERR_NONFATAL 4", "gpu0.pcie_errors", "fail"),
    (f"/sys/bus/pci/devices/{FIRST}/aer_dev_correctable", "TOTAL_ERR_COR 5000", "gpu0.pcie_errors", "warn"),
    ("/sys/bus/pci/devices/max_link_width", "8", "gpu0.pcie_width", "fail"),
    (f"/sys/bus/pci/devices/{FIRST}/numa_node", "-1", "gpu0.numa", "warn"),
    ("/proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 50000 kB", "memory.available", "warn"),
    ("/proc/meminfo", "nothing", "memory.available", "inconclusive"),
    ("/sys/devices/system/edac/mc/mc0/ue_count", "1", "memory.ecc", "fail"),
    ("/sys/devices/system/edac/mc/mc0/ce_count", "7", "memory.ecc", "warn"),
    ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave", "cpu.governor", "warn"),
    ("/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "3", "cpu.heat", "warn"),
    ("/sys/fs/cgroup/cpu.max", "50000 100000", "cpu.quota", "warn"),
    ("/sys/class/net/eth0/duplex", "half", "network.eth0", "fail"),
    ("/sys/class/net/eth0/speed", "1000", "network.eth0", "fail"),
    ("/sys/class/infiniband/mlx5_0/ports/1/state", "1: DOWN", "network.mlx5_0.1", "fail"),
    ("/sys/class/infiniband/mlx5_0/ports/1/counters/link_downed", "2", "network.mlx5_0.1", "warn"),
    (
        "/proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.1.1  x",
        "driver.versions",
        "fail",
    ),
]


@pytest.mark.parametrize(("path", "text", "name", "status"), FILES)
def test_a_file_of_the_kernel_fires_its_check(made, path, text, name, status):
    if path.endswith("devices/max_link_width"):
        # The port above both cards has eight lanes only, and they run on four of them.
        made.cards[FIRST]["pci/pci_gpu_link_info/link_widths/current_link_width"] = "4x"
        made.cards[SECOND]["pci/pci_gpu_link_info/link_widths/max_link_width"] = "8x"
        made.cards[SECOND]["pci/pci_gpu_link_info/link_widths/current_link_width"] = "8x"
    made.file(path, text)
    assert statuses(look(made)) == {name: status}


def test_a_narrow_slot_is_a_warning(made):
    made.file("/sys/bus/pci/devices/max_link_width", "8")
    for address in ADDRESSES:
        made.cards[address]["pci/pci_gpu_link_info/link_widths/current_link_width"] = "8x"
    assert statuses(look(made)) == {"gpu0.pcie_width": "warn", "gpu1.pcie_width": "warn"}


@pytest.mark.parametrize(
    ("spoil", "name", "status"),
    [
        (spoil_switch, "fabric.manager", "fail"),
        (spoil_manager, "fabric.manager", "fail"),
        (remove_manager, "fabric.manager", "fail"),
        (lambda made: kernel_says(made, "NVRM: Xid (PCI:0000:1b:00): 79, pid=1, GPU has fallen off the bus."), "gpu0.xid.79", "fail"),
        (lambda made: kernel_says(made, "NVRM: Xid (0000:43:00): 31, Ch 0000001, MMU Fault"), "gpu1.xid.31", "warn"),
        (lambda made: kernel_says(made, "NVRM: Xid (PCI:0000:43:00): 9999, what is this"), "gpu1.xid.9999", "warn"),
        (lambda made: kernel_says(made, "NVRM: Xid (PCI:0000:99:00): 48, gone"), "xid.0000:99:00.48", "fail"),
        (lambda made: made.program("dmesg", "exit 1"), "xid", "inconclusive"),
        (lambda made: made.remove("/sys/class/infiniband/mlx5_0/ports/1/state"), "network.mlx5_0.1", "fail"),
    ],
)  # fmt: skip
def test_what_programs_print_fires_its_check(made, spoil, name, status):
    spoil(made)
    assert statuses(look(made)) == {name: status}


def test_a_driver_that_is_not_loaded_is_the_one_thing_told(made):
    made.remove("/proc/driver/nvidia/version")
    made.program("nvidia-smi", "exit 9")
    found = statuses(look(made))
    assert found.pop("driver.versions") == "fail"
    assert not [name for name in found if "nvidia_smi" in name]
    assert statuses(look(made, cuda="any"))["driver.versions"] == "inconclusive"


def test_a_driver_of_which_the_module_alone_tells_is_inconclusive(made):
    made.remove(f"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{DRIVER}")
    made.program("nvidia-smi", "exit 9")
    assert statuses(look(made))["driver.versions"] == "inconclusive"


def test_an_upgraded_library_under_a_running_module_is_named(made):
    made.file("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.590.1.1", "")
    found = look(made)
    assert statuses(found) == {"driver.versions": "fail"}
    assert "library 590.1.1" in found["driver.versions"]["summary"]


@pytest.mark.parametrize(("preference", "status"), [("balance_power", "warn"), ("performance", "pass")])
def test_the_energy_preference_counts_where_the_hardware_chooses(made, preference, status):
    base = "/sys/devices/system/cpu/cpu0/cpufreq"
    made.file(f"{base}/scaling_driver", "intel_pstate")
    made.file(f"{base}/scaling_governor", "powersave")
    made.file(f"{base}/energy_performance_preference", preference)
    assert look(made)["cpu.governor"]["status"] == status


def test_an_xid_that_asks_for_nothing_is_told_and_passes(made):
    kernel_says(made, "NVRM: Xid (PCI:0000:1b:00): 43, pid=77, Ch 0000000e")
    found = look(made)
    assert statuses(found) == {}
    assert "1 times" in found["gpu0.xid.43"]["summary"]


def test_links_that_are_down_and_errors_on_them(made):
    made.links = made.links.replace("Link 3: 26.562 GB/s", "Link 3: <inactive>", 1)
    made.link_errors = made.link_errors.replace("Link 5: Replay Errors: 0", "Link 5: Replay Errors: 12", 1)
    found = look(made)
    assert statuses(found) == {"gpu0.nvlink": "fail", "gpu0.nvlink_errors": "warn"}
    assert found["gpu0.nvlink"]["measured"] == 17


def test_links_that_are_not_told_of_at_all(made):
    made.links = made.link_errors = ""
    assert statuses(look(made)) == {"gpu0.nvlink": "fail", "gpu1.nvlink": "fail"}


def test_a_card_that_its_driver_lost_is_named(made):
    del made.cards[SECOND]
    found = statuses(look(made))
    assert found["gpu1.present"] == "fail"
    assert not [name for name in found if name.startswith("gpu0")]


def test_a_card_that_fell_off_the_bus_is_missed(made):
    del made.cards[SECOND]
    for path in sorted((made.root / "sys/bus/pci/devices" / SECOND).iterdir()):
        path.unlink()
    found = look(made)
    assert found["gpu.count"]["status"] == "fail"
    assert (found["gpu.count"]["measured"], found["gpu.count"]["expected"]) == (1, 2)


def test_another_model_than_declared_is_named(made):
    assert statuses(look(made, expected_gpu_model="H200 SXM")) == {"gpu.model": "fail"}


def test_programs_that_were_left_behind_are_named(made):
    made.raw = (
        "<processes><process_info><pid>4711</pid><type>C</type><process_name>python train.py</process_name>"
        "<used_memory>70000 MiB</used_memory></process_info></processes>"
    )
    del made.cards[FIRST]["processes"]
    found = look(made)
    assert statuses(found) == {"gpu0.processes": "warn"}
    assert "4711 python train.py" in found["gpu0.processes"]["evidence"]


@pytest.mark.parametrize(
    "script",
    [
        "exit 9",
        "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
        "echo '<nvidia_smi_log>'",
        "echo",
    ],
)
def test_a_driver_that_does_not_answer_fails_where_gpus_are_needed(made, script):
    made.program("nvidia-smi", script)
    found = statuses(look(made))
    assert found["gpu.nvidia_smi"] == "fail"
    assert statuses(look(made, cuda="any"))["gpu.nvidia_smi"] == "inconclusive"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_nvidia_smi_that_hangs_is_left_behind(made, monkeypatch):
    monkeypatch.setattr(cards_module, "TIMEOUT_S", 0.3)
    made.program("nvidia-smi", "exec sleep 20")
    found = look(made)
    assert "did not answer" in found["gpu.nvidia_smi"]["summary"]
    assert found["gpu.nvidia_smi"]["status"] == "fail"


def test_a_machine_without_gpus_has_no_checks_of_them(tmp_path):
    machine = Made(tmp_path)
    for address in (*ADDRESSES, "0000:05:00.0"):
        machine.file(f"/sys/bus/pci/devices/{address}/vendor", "0x8086")
    machine.remove("/proc/driver/nvidia/version")
    found = look(machine, expected_gpu_count=None, expected_gpu_model=None)
    assert not [name for name in found if name.startswith(("gpu", "driver", "xid", "fabric"))]
    assert look(machine, expected_gpu_count=8)["gpu.count"]["status"] == "fail"


def test_an_old_driver_is_understood(made):
    made.cards = {address: old(CARD) for address in ADDRESSES}
    # A T4: its row expects ECC and no links, and its driver knows no row remapping.
    row = {"name": "T4", "ecc": True, "nvlinks": 0}
    declared = {"gpu_rows": {H100: row}, "expected_gpu_model": "T4"}
    assert {k: v for k, v in statuses(look(made, **declared)).items() if v != "not_reported"} == {}
    card = made.cards[FIRST]
    card["ecc_errors/volatile/double_bit/total"] = "3"
    card["ecc_errors/volatile/double_bit/device_memory"] = "3"
    card["retired_pages/double_bit_retirement/retired_count"] = "61"
    card["power_readings/power_limit"] = "300 W"
    card["clocks_throttle_reasons/clocks_throttle_reason_hw_slowdown"] = "Active"
    card["temperature/gpu_temp"] = "94 C"
    found = look(made, **declared)
    assert {k: v for k, v in statuses(found).items() if v != "not_reported"} == {
        "gpu0.ecc_volatile": "fail",
        "gpu0.retired_pages": "fail",
        "gpu0.power_limit": "warn",
        "gpu0.clocks": "fail",
        "gpu0.temperature": "fail",
    }
    assert found["gpu0.ecc_volatile"]["measured"] == 3
    card["retired_pages/double_bit_retirement/retired_count"] = "2"
    card["retired_pages/pending_retirement"] = "Yes"
    assert look(made, **declared)["gpu0.retired_pages"]["status"] == "warn"


@given(data=st.data())
def test_what_is_missing_is_never_healthy_and_never_a_crash(tmp_path_factory, data):
    """Any field gone, or in any of the words for `nothing`: no check of that card passes that did not before."""
    made = Made(tmp_path_factory.mktemp("machine"))
    before = look(made)
    for path in data.draw(st.sets(st.sampled_from(sorted(CARD)), max_size=30)):
        word = data.draw(
            st.sampled_from([None, "N/A", "[Not Supported]", "", "Requested functionality has been deprecated"])
        )
        if word is None:
            del made.cards[FIRST][path]
        else:
            made.cards[FIRST][path] = word
    after = look(made)
    passed = {name for name, check in after.items() if check["status"] == "pass"}
    assert passed <= {name for name, check in before.items() if check["status"] == "pass"} | {"gpu0.retired_pages"}
    assert not [name for name in after if name.startswith("health.")]


@given(text=st.text(max_size=300))
def test_nonsense_in_a_field_is_no_crash(tmp_path_factory, text):
    made = Made(tmp_path_factory.mktemp("machine"))
    cleaned = "".join(c for c in text if c.isprintable() and c < "\ud800")
    made.cards[FIRST] = dict.fromkeys(CARD, cleaned)
    assert not [name for name in look(made) if name.startswith("health.")]


def test_a_subject_that_breaks_is_inconclusive_and_spoils_no_other(made, monkeypatch):
    monkeypatch.setattr(health.pcie, "checks", lambda *_: 1 / 0)
    found = look(made)
    assert statuses(found) == {"health.pcie": "inconclusive"}
    assert "ZeroDivisionError" in found["health.pcie"]["summary"]


@pytest.mark.parametrize(
    ("usage", "status"),
    [
        ({}, "pass"),
        ({"f_bavail": 4}, "warn"),
        ({"f_bavail": 0}, "fail"),
        ({"f_favail": 3}, "warn"),
        ({"f_files": 0, "f_favail": 0}, "pass"),
        ({"f_flag": os.ST_RDONLY}, "fail"),
    ],
)
def test_a_file_system_is_judged_by_room_names_and_rights(usage, status):
    sound = {"f_bavail": 50, "f_blocks": 100, "f_frsize": 4096, "f_files": 100, "f_favail": 50, "f_flag": 0}
    assert disk.judge("/opt/llmprov", SimpleNamespace(**{**sound, **usage}))["status"] == status


def test_what_nvidia_smi_says_while_a_card_works_is_understood():
    figures, reasons = parse_smi("1980, 2619, 512.30, 61, 0x0000000000000084\n")
    assert figures == {"sm_clock_mhz": 1980.0, "memory_clock_mhz": 2619.0, "power_w": 512.3, "temperature_c": 61.0}
    assert reasons == ["software power cap", "hardware power brake"]
    assert parse_smi("") == ({}, [])
    assert parse_smi("[N/A], [N/A], [N/A], 40, [N/A]")[0] == {"temperature_c": 40.0}


@pytest.mark.parametrize(("address", "normal"), [("00000000:9B:00.0", "0000:9b:00.0"), ("0000:9b:00", "0000:9b:00")])
def test_addresses_are_written_one_way(address, normal):
    assert cards_module.normal(address) == normal


# -- captures of real machines, read in place where they lie -----------------------------------------------------------

captures = pytest.mark.skipif(not CORPUS.is_dir(), reason="the captures of real machines are not beside this checkout")


WHOLE = {"gpu0.present", "gpu0.temperature", "gpu0.clocks", "gpu0.persistence", "gpu0.pcie_width", "gpu0.power_limit"}


@captures
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a100-sxm4-v12", WHOLE | {"gpu0.ecc_volatile", "gpu0.memory_temperature", "gpu0.recovery"}),
        ("a10g", WHOLE | {"gpu0.ecc_volatile"}),
        ("quadro-p400", WHOLE - {"gpu0.power_limit"}),
        ("rtx-3080-v13", WHOLE | {"gpu0.recovery"}),
        ("tesla-t4", WHOLE | {"gpu0.ecc_volatile", "gpu0.retired_pages"}),
        # Abridged by those who kept it.
        ("gtx-1070-ti", {"gpu0.present", "gpu0.compute_mode", "gpu0.processes"}),
    ],
)
def test_captures_of_real_machines_are_understood(made, name, expected):
    path = CORPUS / "nvidia-smi" / f"{name}.xml"
    made.program("nvidia-smi", f'case "$*" in "-q -x") cat {path};; esac')
    for address in ADDRESSES:
        made.file(f"/sys/bus/pci/devices/{address}/vendor", "0x8086")
    found = look(made, expected_gpu_count=None, expected_gpu_model=None)
    assert not [name for name in found if name.startswith("health.")]
    told = {name for name, check in found.items() if check["status"] != "not_reported"}
    assert told >= expected


@captures
def test_a_real_kernel_log_with_an_xid(made):
    text = (CORPUS / "dmesg/xid-119.log").read_text("utf-8")
    found = xid.events(text)
    assert set(found) == {("0000:9b:00", 119)}


@captures
def test_real_links(made):
    found = nvlink.by_card((CORPUS / "nvidia-smi/nvlink-status-a100.txt").read_text("utf-8"))
    assert len(found) == 8
    assert all(len(lines) == 12 for lines in found.values())


def test_the_fixture_is_what_the_parser_reads():
    root = cards_module.parse(smi_xml({FIRST: CARD}))
    assert root.findtext("driver_version") == DRIVER

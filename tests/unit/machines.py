"""Machines for the health checks: a tree of files and programs that print, sound until a test spoils something."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from llmprov.knowledge import XIDS
from llmprov.payload.health.machine import Machine

DRIVER = "580.95.05"
#: PCI ids of an H100 SXM5, as in the tables, and of its two cards here.
H100 = "2330"
ADDRESSES = ("0000:1b:00.0", "0000:43:00.0")
ROW = {
    "name": "H100 SXM5 80GB",
    "arch": "sm_90",
    "tflops": {"bf16": 989, "tf32": 494.5},
    "bandwidth_gb_s": 3350,
    "ecc": True,
    "nvlinks": 18,
}

#: One sound card in the words of a recent driver: path of a field -> text. Written down from the documented fields, not from
#: any machine's output.
CARD: dict[str, str] = {
    "product_name": "NVIDIA H100 80GB HBM3",
    "persistence_mode": "Enabled",
    "mig_mode/current_mig": "Disabled",
    "mig_mode/pending_mig": "Disabled",
    "mig_devices": "None",
    "serial": "1650000000001",
    "gpu_reset_status/reset_required": "No",
    "gpu_reset_status/drain_and_reset_recommended": "No",
    "gpu_recovery_action": "None",
    "pci/pci_device_id": "233010DE",
    "pci/pci_gpu_link_info/pcie_gen/max_link_gen": "5",
    "pci/pci_gpu_link_info/pcie_gen/current_link_gen": "5",
    "pci/pci_gpu_link_info/pcie_gen/max_device_link_gen": "5",
    "pci/pci_gpu_link_info/pcie_gen/max_host_link_gen": "5",
    "pci/pci_gpu_link_info/link_widths/max_link_width": "16x",
    "pci/pci_gpu_link_info/link_widths/current_link_width": "16x",
    "pci/replay_counter": "0",
    "performance_state": "P0",
    "clocks_event_reasons/clocks_event_reason_gpu_idle": "Active",
    "clocks_event_reasons/clocks_event_reason_sw_power_cap": "Not Active",
    "clocks_event_reasons/clocks_event_reason_hw_slowdown": "Not Active",
    "clocks_event_reasons/clocks_event_reason_hw_thermal_slowdown": "Not Active",
    "clocks_event_reasons/clocks_event_reason_hw_power_brake_slowdown": "Not Active",
    "clocks_event_reasons/clocks_event_reason_sw_thermal_slowdown": "Not Active",
    "fb_memory_usage/total": "81559 MiB",
    "fb_memory_usage/used": "1 MiB",
    "compute_mode": "Default",
    "ecc_mode/current_ecc": "Enabled",
    "ecc_mode/pending_ecc": "Enabled",
    "ecc_errors/volatile/sram_correctable": "0",
    "ecc_errors/volatile/sram_uncorrectable_parity": "0",
    "ecc_errors/volatile/sram_uncorrectable_secded": "0",
    "ecc_errors/volatile/dram_correctable": "0",
    "ecc_errors/volatile/dram_uncorrectable": "0",
    "ecc_errors/aggregate/sram_correctable": "0",
    "ecc_errors/aggregate/sram_uncorrectable_parity": "0",
    "ecc_errors/aggregate/sram_uncorrectable_secded": "0",
    "ecc_errors/aggregate/dram_correctable": "0",
    "ecc_errors/aggregate/dram_uncorrectable": "0",
    "ecc_errors/aggregate/sram_threshold_exceeded": "No",
    "ecc_errors/channel_repair_pending": "No",
    "ecc_errors/tpc_repair_pending": "No",
    "ecc_errors/unrepairable_memory": "No",
    "retired_pages/multiple_single_bit_retirement/retired_count": "N/A",
    "retired_pages/double_bit_retirement/retired_count": "N/A",
    "retired_pages/pending_retirement": "N/A",
    "remapped_rows/remapped_row_corr": "0",
    "remapped_rows/remapped_row_unc": "0",
    "remapped_rows/remapped_row_pending": "No",
    "remapped_rows/remapped_row_failure": "No",
    "temperature/gpu_temp": "34 C",
    "temperature/gpu_temp_tlimit": "50 C",
    "temperature/gpu_temp_max_threshold": "N/A",
    "temperature/gpu_temp_slow_threshold": "N/A",
    "temperature/memory_temp": "44 C",
    "temperature/gpu_temp_max_mem_threshold": "95 C",
    "gpu_power_readings/instant_power_draw": "71.20 W",
    "gpu_power_readings/current_power_limit": "700.00 W",
    "gpu_power_readings/default_power_limit": "700.00 W",
    "module_power_readings/current_power_limit": "N/A",
    "module_power_readings/default_power_limit": "N/A",
    "clocks/sm_clock": "345 MHz",
    "max_clocks/sm_clock": "1980 MHz",
    "fabric/state": "Completed",
    "fabric/status": "Success",
    "processes": "",
}

#: The same card as drivers up to about 470 told of it: other names for the same things.
OLD_NAMES = {
    "clocks_event_reasons/clocks_event_reason_": "clocks_throttle_reasons/clocks_throttle_reason_",
    "gpu_power_readings/current_power_limit": "power_readings/power_limit",
    "gpu_power_readings/": "power_readings/",
}
OLD_ECC = {
    f"ecc_errors/{kind}/{bits}/{place}": "0"
    for kind in ("volatile", "aggregate")
    for bits in ("single_bit", "double_bit")
    for place in ("device_memory", "register_file", "l2_cache", "total")
}
OLD_GONE = ("gpu_reset_status", "gpu_recovery_action", "fabric", "ecc_errors", "module_power", "remapped_rows", "mig_")
OLD_PAGES = {
    "retired_pages/multiple_single_bit_retirement/retired_count": "0",
    "retired_pages/double_bit_retirement/retired_count": "0",
    "retired_pages/pending_retirement": "No",
    "temperature/gpu_temp_slow_threshold": "93 C",
    "temperature/gpu_temp_max_gpu_threshold": "85 C",
    "temperature/gpu_temp_tlimit": "N/A",
}


def old(card: dict[str, str]) -> dict[str, str]:
    """A card in an old driver's words."""
    found = {}
    for path, text in card.items():
        if not path.startswith(OLD_GONE):
            for new, was in OLD_NAMES.items():
                path = path.replace(new, was, 1)
            found[path] = text
    return {**found, **OLD_ECC, **OLD_PAGES}


def smi_xml(cards: dict[str, dict[str, str]], driver: str = DRIVER, raw: str = "") -> str:
    """What `nvidia-smi -q -x` prints of cards by address; `raw` goes into the first card as it is."""
    text = f"<driver_version>{driver}</driver_version><cuda_version>13.0</cuda_version>"
    for index, (address, card) in enumerate(cards.items()):
        tree: dict[str, Any] = {}
        for path, value in {**card, "uuid": f"GPU-0000000{index}"}.items():
            *folders, leaf = path.split("/")
            here = tree
            for folder in folders:
                here = here.setdefault(folder, {})
            here[leaf] = value
        text += f'<gpu id="0000{address.upper()}">{_element(tree)}{raw if index == 0 else ""}</gpu>'
    head = '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">\n'
    return f"{head}<nvidia_smi_log>{text}</nvidia_smi_log>\n"


def _element(tree: dict[str, Any]) -> str:
    return "".join(
        f"<{name}>{_element(value) if isinstance(value, dict) else escape(value)}</{name}>"
        for name, value in tree.items()
    )


class Made:
    """A machine in a folder: two sound H100 with NVSwitches, to be spoilt and then looked at."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin = folder / "root", folder / "bin"
        self.bin.mkdir()
        self.cards = {address: dict(CARD) for address in ADDRESSES}
        self.raw = ""
        self.driver = DRIVER
        for address in ADDRESSES:
            self.device(address, f"0x{H100}", "0x030200", current_link_width="16", max_link_width="16")
        self.device("0000:05:00.0", "0x22a3", "0x068000")
        self.file(
            "/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {DRIVER}  Release"
        )
        self.file(f"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{DRIVER}", "")
        self.file("/proc/meminfo", "MemTotal:  1000000 kB\nMemAvailable:  900000 kB\n")
        self.file("/sys/devices/system/edac/mc/mc0/ue_count", "0")
        self.file("/sys/devices/system/edac/mc/mc0/ce_count", "0")
        for node in (0, 1):
            self.file(f"/sys/devices/system/node/node{node}/cpulist", "0-3")
        self.file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance")
        self.file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver", "acpi-cpufreq")
        self.file("/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "0")
        self.file("/sys/fs/cgroup/cpu.max", "max 100000")
        self.file("/sys/class/net/eth0/device/vendor", "0x15b3")
        self.file("/sys/class/net/eth0/operstate", "up")
        self.file("/sys/class/net/eth0/speed", "100000")
        self.file("/sys/class/net/eth0/duplex", "full")
        for name, text in (("state", "4: ACTIVE"), ("phys_state", "5: LinkUp"), ("rate", "400 Gb/sec (4X NDR)")):
            self.file(f"/sys/class/infiniband/mlx5_0/ports/1/{name}", text)
        self.file("/sys/class/infiniband/mlx5_0/ports/1/counters/link_downed", "0")
        self.file("/tmp/x", "")
        self.links = "".join(self.link_lines(index) for index in (0, 1))
        self.link_errors = "".join(
            self.link_lines(index, "Replay Errors: 0", "Recovery Errors: 0", "CRC Errors: 3") for index in (0, 1)
        )
        self.program("dmesg", "echo '[    1.0] Linux version 6.1'")
        self.program("nv-fabricmanager", f"echo 'Fabric Manager version is : {DRIVER}'")
        self.program("systemctl", "echo active")

    @staticmethod
    def link_lines(index: int, *what: str) -> str:
        head = f"GPU {index}: NVIDIA H100 80GB HBM3 (UUID: GPU-0000000{index})\n"
        rows = [f"{link}: {text}" for link in range(18) for text in (what or ["26.562 GB/s"])]
        return head + "".join(f"\t Link {row}\n" for row in rows)

    def file(self, path: str, text: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n", encoding="utf-8")

    def remove(self, path: str) -> None:
        (self.root / path.lstrip("/")).unlink()

    def device(self, address: str, device: str, kind: str, **files: str) -> None:
        about = {"vendor": "0x10de", "device": device, "class": kind, "numa_node": "0", **files}
        for name, text in about.items():
            self.file(f"/sys/bus/pci/devices/{address}/{name}", text)
        for name in ("correctable", "nonfatal", "fatal"):
            self.file(f"/sys/bus/pci/devices/{address}/aer_dev_{name}", "RxErr 0\nTOTAL_ERR 0")

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def machine(self) -> Machine:
        """The machine as it is now; its nvidia-smi prints what the cards are."""
        folder = self.bin.parent
        (folder / "smi.xml").write_text(smi_xml(self.cards, self.driver, self.raw), encoding="utf-8")
        (folder / "links").write_text(self.links, encoding="utf-8")
        (folder / "errors").write_text(self.link_errors, encoding="utf-8")
        if not (self.bin / "nvidia-smi").exists():
            cases = f"'-q -x') cat {folder}/smi.xml;; 'nvlink --status') cat {folder}/links;; *) cat {folder}/errors;;"
            self.program("nvidia-smi", f'case "$*" in {cases} esac')
        return Machine(str(self.root), f"{self.bin}:/bin:/usr/bin")


DECLARED: dict[str, Any] = {
    "cuda": "required",
    "expected_gpu_count": 2,
    "expected_gpu_model": "H100 SXM5 80GB",
    "gpu_rows": {H100: ROW},
    "xids": XIDS,
    "mig": False,
    "min_link_gbit_s": 100,
    "env_path": "/",
}

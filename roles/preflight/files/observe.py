"""Observe a host: one call, standard library only, Python 3.9 and later. Changes nothing, never imports torch."""

from __future__ import annotations

import fcntl
import glob
import os
import platform
import re
import shutil
import struct
import sys
import time

from ansible.module_utils.llmprov_files import MOST, altered
from ansible.module_utils.llmprov_host import PREFIX_RECORD, conda_prefix, environment, read, read_json, run

NVIDIA = "10de"
#: First digits of a PCI class: VGA and 3D controllers, and bridges of the kind NVSwitches are.
GPU_CLASSES = ("0x0300", "0x0302")
SWITCH_CLASS = "0x0680"
#: NVSwitch devices (V100, A100, H100 boards); old chipsets share their class.
SWITCH_IDS = ("1ac2", "1af1", "22a3")
LIBRARY_DIRS = (
    "/usr/lib/*-linux-gnu*",
    "/usr/lib64",
    "/usr/lib",
    "/lib/*-linux-gnu*",
    "/usr/local/nvidia/lib64",
)
UNIT_DIRS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system")
DPKG_LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock")


def operating_system():
    fields = dict(re.findall(r"^(\w+)=\"?([^\"\n]*)\"?$", read("/etc/os-release"), re.M))
    manager = next((m for m in ("apt", "dnf") if shutil.which(m + "-get") or shutil.which(m)), "none")
    return {
        "id": fields.get("ID", ""),
        "version_id": fields.get("VERSION_ID", ""),
        "codename": fields.get("VERSION_CODENAME", ""),
        "name": fields.get("PRETTY_NAME", ""),
        "architecture": platform.machine(),
        "hostname": platform.node(),
        "package_manager": manager,
        "glibc": glibc(),
        "kernel": re.match(r"[0-9.]*", platform.release()).group(0).strip("."),
    }


def kernels():
    running, dkms = platform.release(), dkms_states()
    found = []
    for path in sorted(glob.glob("/lib/modules/*")):
        release = os.path.basename(path)
        patterns = (
            # Debian calls it nvidia-current.
            "updates/**/nvidia*.ko*",
            "extra/**/nvidia*.ko*",
            "kernel/drivers/**/nvidia.ko*",
            "weak-updates/**/nvidia*.ko*",
        )
        found.append(
            {
                "release": release,
                "running": release == running,
                "bootable": any(os.path.exists(p) for p in ("/boot/vmlinuz-" + release, path + "/vmlinuz")),
                "dkms": dkms.get(release, ""),
                "nvidia_module": any(glob.glob(os.path.join(path, p), recursive=True) for p in patterns),
                "headers": os.path.isdir(os.path.join(path, "build")),
            }
        )
    return found


def dkms_states():
    """Kernel -> what DKMS made of an NVIDIA module for it: `nvidia/535.1, 6.1.0-40-amd64, x86_64: installed`."""
    states = {}
    if os.path.exists(DKMS):
        for line in run(DKMS, "status").splitlines():
            match = re.match(r"nvidia[^,/]*[/,] ?[^,]+, ([^,]+), [^:]+: (\w+)", line)
            if match:
                states[match.group(1)] = match.group(2)
    return states


def pci_devices():
    found = []
    for path in sorted(glob.glob("/sys/bus/pci/devices/*")):
        if read(path + "/vendor") != "0x" + NVIDIA:
            continue
        pci_class, device = read(path + "/class"), read(path + "/device").replace("0x", "").lower()
        is_gpu = pci_class.startswith(GPU_CLASSES)
        if not is_gpu and not (pci_class.startswith(SWITCH_CLASS) and device in SWITCH_IDS):
            continue
        subsystem = [read(path + "/subsystem_" + part).replace("0x", "").lower() for part in ("vendor", "device")]
        found.append(
            {
                "address": os.path.basename(path),
                "device_id": device,
                "subsystem_id": ":".join(subsystem) if all(subsystem) else "",
                "kind": "gpu" if is_gpu else "nvswitch",
            }
        )
    return found


def library_version():
    for directory in LIBRARY_DIRS:
        for path in glob.glob(directory + "/libcuda.so.*.*") + glob.glob(directory + "/nvidia/current/libcuda.so.*.*"):
            return os.path.basename(path)[len("libcuda.so.") :]
    return None


DKMS = "/usr/sbin/dkms"
#: What the role nvidia_driver leaves: the packages that it brought.
DRIVER_RECORD = "/var/lib/llmprov/nvidia_driver.json"
#: Packages by whose version a driver is told.
DRIVER_NAMES = (
    "nvidia-kernel-",
    "nvidia-open-kernel-",
    "nvidia-dkms-",
    "nvidia-driver",
    "nvidia-headless-",
    "libnvidia-compute",
    "kmod-nvidia",
)


#: Everything that a driver and its toolkits consist of, by name.
PACKAGE_NAMES = (
    "nvidia-*",
    "libnvidia-*",
    "libcuda1*",
    "linux-modules-nvidia-*",
    "kmod-nvidia*",
    "cuda-toolkit-*",
    "nvlsm",
)


def driver_packages():
    if shutil.which("dpkg-query"):
        shape = "${db:Status-Abbrev} ${Package} ${Version}\n"
        lines = run("dpkg-query", "-W", "-f", shape, *PACKAGE_NAMES).splitlines()
        rows = [line.split()[1:] for line in lines if line.startswith(("ii", "hi"))]
    elif shutil.which("rpm"):
        rows = [line.split() for line in run("rpm", "-qa", "--qf", "%{NAME} %{VERSION}\n", *PACKAGE_NAMES).splitlines()]
    else:
        rows = []
    return {row[0]: row[1] for row in rows if len(row) == 2}


def secure_boot():
    for path in glob.glob("/sys/firmware/efi/efivars/SecureBoot-*"):
        try:
            with open(path, "rb") as handle:
                return handle.read()[-1:] == b"\x01"
        except OSError:
            return None
    return None


def service(name):
    if not any(glob.glob("%s/%s.service" % (d, name)) for d in UNIT_DIRS):
        return "absent"
    return "running" if run("systemctl", "is-active", name).strip() == "active" else "stopped"


def fabric_manager_version():
    """`Fabric Manager version is : 580.95.05`; None where it is not there."""
    match = re.search(r"version is\s*:\s*(\S+)", run("nv-fabricmanager", "--version"))
    return match.group(1) if match else None


def module_key_enrolled():
    """Whether the firmware knows DKMS's key; None where there is none, or it cannot be asked."""
    keys = [p for p in ("/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der") if os.path.exists(p)]
    if not keys or not shutil.which("mokutil"):
        return None
    return "is already enrolled" in run("mokutil", "--test-key", keys[0])


def nouveau_blacklisted():
    files = glob.glob("/etc/modprobe.d/*.conf") + glob.glob("/usr/lib/modprobe.d/*.conf")
    return any(re.search(r"^\s*blacklist\s+nouveau\b", read(p), re.M) for p in files)


#: `nvidia-driver-cuda-3:580.95.05-1.el9.*`: dnf's own list of what it must leave alone.
VERSION_LOCKS = "/etc/dnf/plugins/versionlock.list"


def held_packages():
    """What the package manager keeps from being upgraded, read from where apt and dnf note it: their tools are slow."""
    if shutil.which("dpkg-query"):
        status = read("/var/lib/dpkg/status", 50000000)
        held = [stanza for stanza in status.split("\n\n") if "\nStatus: hold " in stanza]
        return sorted(re.findall(r"^Package: (\S+)$", "\n".join(held), re.M))
    return sorted(re.findall(r"^([A-Za-z][\w.+-]*?)-(?:\d+:)?\d", read(VERSION_LOCKS), re.M))


#: NVIDIA's own daemons, which keep devices open as long as they run, by the 15 letters that the kernel keeps of a name.
DAEMONS = ("nvidia-persiste", "nv-fabricmanage", "nv-hostengine", "dcgm-exporter", "nvidia-powerd", "nvidia-imex")


def gpu_users():
    """Programs that have an NVIDIA device open, as `NAME (PID)`; None where this account may not look into all."""
    if os.geteuid() != 0:
        return None
    users = {}
    for path in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(path).startswith("/dev/nvidia"):
                pid = path.split("/")[2]
                users[int(pid)] = read("/proc/%s/comm" % pid)
        except OSError:
            continue  # it ended meanwhile
    return ["%s (%d)" % (name, pid) for pid, name in sorted(users.items()) if name not in DAEMONS][:100]


def driver(gpus, held):
    text = read("/proc/driver/nvidia/version")
    packages = driver_packages()
    name = next((name for name in sorted(packages) if name.startswith(DRIVER_NAMES)), None)
    # What only a host with a GPU has to be asked: programs that take a while to answer.
    more = {
        "nouveau_blacklisted": nouveau_blacklisted(),
        "module_key_enrolled": module_key_enrolled(),
        "fabric_manager_version": fabric_manager_version(),
        "held": [name for name in held if "nvidia" in name],
        "users": gpu_users(),
    }
    return {
        **(more if gpus or name else {}),
        "persistence_daemon": service("nvidia-persistenced"),
        "module_version": read("/sys/module/nvidia/version") or None,
        "module_open": ("Open Kernel Module" in text) if text else None,
        "library_version": library_version(),
        "package_name": name,
        "package_version": packages.get(name),
        "packages": packages,
        "managed": os.path.exists(DRIVER_RECORD),
        "nouveau_loaded": os.path.isdir("/sys/module/nouveau"),
        "secure_boot": secure_boot(),
        "fabric_manager": service("nvidia-fabricmanager"),
    }


def glibc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION").split()[1]
    except (OSError, ValueError, AttributeError, IndexError):
        return ""


def kernelspecs(folders):
    found = []
    for folder in folders:
        for path in sorted(glob.glob(os.path.expanduser(folder) + "/*/kernel.json")):
            spec = read_json(path) or {}
            # Kernels that users registered themselves are theirs.
            ours = isinstance(spec.get("metadata"), dict) and "llmprov" in spec["metadata"] and spec.get("argv")
            name = os.path.basename(os.path.dirname(path))
            about = {"python": spec["argv"][0], "spec": spec} if ours else {}
            found.append({"path": os.path.dirname(path), "name": name, "python": None, **about})
    return found


def jupyter(folders):
    unit = "/etc/systemd/system/llmprov-jupyter.service"
    there = os.path.exists(unit)
    return {
        "kernels": kernelspecs(folders),
        "service": {
            "unit": read(unit) + "\n" if there else None,
            "token_there": os.path.exists("/etc/llmprov/jupyter.token"),
            "enabled": there and run("systemctl", "is-enabled", os.path.basename(unit)).strip() == "enabled",
            "active": there and run("systemctl", "is-active", os.path.basename(unit)).strip() == "active",
        },
    }


def disk(path):
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    stat = os.statvfs(path)
    # What is free to this account; root may use the reserve too.
    free = stat.f_bfree if os.geteuid() == 0 else stat.f_bavail
    return {
        "path": path,
        "free_gb": round(free * stat.f_frsize / 1e9, 3),
        "total_gb": round(stat.f_blocks * stat.f_frsize / 1e9, 3),
        "read_only": bool(stat.f_flag & os.ST_RDONLY),
    }


def lock_held():
    """Whether another program holds a package lock, asked without taking it; None where this account may not ask."""
    answer = None
    for path in DPKG_LOCKS:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            ask = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            told = fcntl.fcntl(descriptor, fcntl.F_GETLK, ask)
            answer = bool(answer) or struct.unpack("hhqqi4x", told)[0] != fcntl.F_UNLCK
        except OSError:
            pass
        finally:
            os.close(descriptor)
    return answer


def memory_gb():
    match = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo"), re.M)
    return round(int(match.group(1)) * 1024 / 1e9, 3) if match else None


def beside_uv(uv_path):
    folder = os.path.dirname(os.path.dirname(uv_path)) + "/envs"
    return sorted(glob.glob(glob.escape(folder) + "/*")) if uv_path else []


def environments_in(folders):
    """Every environment that lies in one of the folders: path and kind; a whole conda installation is none."""
    found = []
    for path in sorted(p for folder in folders for p in glob.glob(glob.escape(folder) + "/*")):
        if os.path.isdir(path + "/condabin"):
            continue
        if os.path.isdir(path + "/conda-meta"):
            found.append({"path": path, "kind": "conda"})
        elif os.path.exists(path + "/pyvenv.cfg"):
            found.append({"path": path, "kind": "venv"})
    return found


def with_files(place, files, otherwise=()):
    """What is at a place, with what of its packages' files is not as it was brought."""
    if files != "none" and place["kind"] in ("conda", "venv"):
        # Every file is read only where a quick look finds nothing: one is reason enough to build anew.
        for deep in (False, True)[: 2 if files == "all" else 1]:
            found = [row for row in altered(place["path"], deep) if row["path"] not in otherwise]
            if found:
                break
        place.update(altered=found[:MOST], altered_count=len(found))
    return place


def conda(path, files):
    """The conda installation; of one that llmprov did not make nobody knows how its files were."""
    record = read_json(path + "/" + PREFIX_RECORD) or {}
    return with_files(conda_prefix(path), files if "otherwise" in record else "none", record.get("otherwise"))


def cpu_model():
    """What the processors call themselves; nothing where the kernel does not name them, as on aarch64."""
    match = re.search(r"^model name\s*:\s*(.+)$", read("/proc/cpuinfo"), re.M)
    return match.group(1).strip()[:200] if match else ""


def observe(env_paths=(), conda_prefix_path="", uv_path="", kernel_folders=(), env_folders=(), files="none"):
    """What is on the host.

    env_paths: environments to look into. conda_prefix_path, uv_path: where conda and uv should lie.
    kernel_folders: where Jupyter kernels are registered. env_folders: where environments may lie that nobody declared.
    files: what packages' files are looked at: "none", "quick" (their sizes) or "all" (their content).
    """
    uv = run(uv_path, "--version").split() if uv_path else []
    devices, held = pci_devices(), held_packages()
    return {
        "python": sys.executable,
        "python_version": platform.python_version(),
        "os": operating_system(),
        "kernels": kernels(),
        "devices": devices,
        "driver": driver(devices, held),
        "held": held,
        "conda": conda(conda_prefix_path, files) if conda_prefix_path else None,
        "jupyter": jupyter(kernel_folders),
        "environments": [with_files(environment(p), files) for p in env_paths],
        "environments_there": environments_in(env_folders),
        "uv_version": uv[1] if len(uv) > 1 else None,
        "uv_ours": os.path.exists(os.path.join(os.path.dirname(uv_path), ".llmprov-" + os.path.basename(uv_path))),
        "beside_uv": beside_uv(uv_path),
        "disk": disk(env_paths[0] if env_paths else "/"),
        "memory_gb": memory_gb(),
        "cpu_count": os.cpu_count(),
        "cpu_model": cpu_model(),
        "package_lock_held": lock_held(),
        "packages_interrupted": bool(glob.glob("/var/lib/dpkg/updates/[0-9]*")),
        "reboot_pending": os.path.exists("/run/reboot-required"),
        "boot_id": read("/proc/sys/kernel/random/boot_id") or None,
        "clock_unix_s": time.time(),
    }


def main(**asked):
    return {"changed": False, "observation": observe(**asked)}

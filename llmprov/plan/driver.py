"""The NVIDIA driver: what is wrong with it now, and what will be after the next boot.

Findings have the ids of the payload's checks where both look at the same thing: of two such the worse is told.
"""

from __future__ import annotations

import re

from llmprov.model import Finding, Observation

HOLD = "hold the driver's packages, so that unattended upgrades cannot split module and libraries"


def findings(seen: Observation) -> list[Finding]:
    """What a host with an NVIDIA GPU or driver suffers from, or will when it boots; nothing for any other host."""
    if not seen.gpus and not seen.driver.package_name:
        return []
    found = [*_versions(seen), *_next_kernel(seen), *_fabric_manager(seen), *_nouveau(seen), *_secure_boot(seen)]
    return [finding for finding in found if finding is not None]


def warnings(seen: Observation) -> list[str]:
    """Kernels that nobody boots unless asked to, and that have no module: known beforehand, they do no harm."""
    after = seen.next_kernel
    if not seen.driver.package_name or after is None:
        return []
    others = [k for k in seen.kernels if k.bootable and not k.running and k.release != after.release]
    bare = [k.release for k in others if not k.nvidia_module]
    return [f"its older kernels have no NVIDIA module, and are better not booted: {', '.join(bare)}"] if bare else []


def upstream(version: str) -> str:
    """The driver's version in a package's: `2:535.261.03-1~deb12u1` is 535.261.03; empty where it has none."""
    match = re.search(r"(?:^|:)(\d{3}(?:\.\d+){1,2})", version)
    return match.group(1) if match else ""


def _versions(seen: Observation) -> list[Finding]:
    """The three that must agree: the loaded module, the libraries, the package."""
    driver = seen.driver
    versions = {"the loaded module": driver.module_version, "the libraries": driver.library_version}
    versions["the package"] = upstream(driver.package_version or "") or None
    told = {name: version for name, version in versions.items() if version}
    if len(set(told.values())) < 2:
        return []
    words = ", ".join(f"{name} {version}" for name, version in told.items())
    says = f"the NVIDIA driver is of several versions: {words}"
    remedy = f"reboot, so that the module of the installed driver is loaded; {HOLD}"
    return [Finding(id="driver.versions", says=says, evidence=words, remedy=remedy)]


def _next_kernel(seen: Observation) -> list[Finding]:
    kernel = seen.next_kernel
    if kernel is None or kernel.nvidia_module or not seen.driver.package_name:
        return []
    name = kernel.release
    state = f"DKMS says {kernel.dkms}" if kernel.dkms else "DKMS says nothing of it"
    evidence = f"{name}: no nvidia module, headers {'there' if kernel.headers else 'missing'}, {state}"
    when = "runs" if kernel.running else "boots next and"
    remedy = f"build the module: `dkms autoinstall -k {name}`"
    if not kernel.headers:
        remedy = f"install linux-headers-{name} (RHEL: kernel-devel-{name}), then {remedy}"
    says = f"the kernel {name} {when} has no NVIDIA module: its GPUs will be gone"
    return [Finding(id="driver.next_kernel", says=says, evidence=evidence, remedy=remedy)]


def _fabric_manager(seen: Observation) -> list[Finding]:
    driver = seen.driver
    if not any(device.kind == "nvswitch" for device in seen.devices) or not driver.module_version:
        return []
    if driver.fabric_manager != "running":
        says = f"the host has NVSwitches, and its fabric manager is {driver.fabric_manager}: CUDA ends with error 802"
        remedy = f"install nvidia-fabricmanager {driver.module_version} and enable it"
        return [Finding(id="fabric.manager", says=says, remedy=remedy)]
    told = driver.fabric_manager_version
    if told and told != driver.module_version:
        says = f"the fabric manager is {told} and the driver {driver.module_version}: they must be of one version"
        remedy = f"install nvidia-fabricmanager {driver.module_version}; {HOLD}"
        return [Finding(id="fabric.manager", says=says, remedy=remedy)]
    return []


def _nouveau(seen: Observation) -> list[Finding]:
    if not seen.driver.nouveau_loaded or not seen.gpus:
        return []
    says = "nouveau holds the GPUs: NVIDIA's module cannot be loaded beside it"
    remedy = "blacklist nouveau in /etc/modprobe.d, make the initramfs anew, reboot"
    evidence = "blacklisted, and still loaded" if seen.driver.nouveau_blacklisted else "not blacklisted"
    return [Finding(id="driver.nouveau", says=says, evidence=evidence, remedy=remedy)]


def _secure_boot(seen: Observation) -> list[Finding]:
    driver = seen.driver
    # A module that is loaded was accepted, whoever signed it.
    if not driver.secure_boot or driver.module_version or driver.module_key_enrolled is not False:
        return []
    says = "Secure Boot refuses the NVIDIA module: the firmware does not know the key that it is signed with"
    remedy = "enrol the key with `mokutil --import` and confirm it at the next boot, "
    remedy += "or use the distribution's signed modules"
    return [Finding(id="driver.secure_boot", says=says, remedy=remedy)]

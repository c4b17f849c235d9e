"""What the machine under the lab offers: rights, programs, package sources, certificates, package indexes."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmprov.errors import LabError, LabUnsupported

#: Program -> Debian package, for the sentence that says what to install.
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
}


def run(*argv: str, stdin: str | None = None, timeout_s: float = 600) -> str:
    """Run a program and return its standard output.

    Raises:
        LabError: the program failed; the sentence ends with the last line it wrote.
    """
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
        raise LabError(f"`{' '.join(argv[:4])}` failed with exit code {done.returncode}: {said}")
    return done.stdout


def require_lab_support() -> None:
    """Raise unless a lab can run here, found out by trying each thing a lab needs, not by the user id.

    Raises:
        LabUnsupported: names the first thing that is missing and how to get it.
    """
    if platform.system() != "Linux":
        raise LabUnsupported(f"a lab needs Linux, and this is {platform.system()}")
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        raise LabUnsupported(
            f"a lab needs Debian packages that are not installed: run `apt-get install {' '.join(missing)}`"
        )
    _try_mounts()
    _try_links()


def _try_mounts() -> None:
    with tempfile.TemporaryDirectory(prefix="llmprov-try-") as name:
        for part in ("lower", "upper", "work", "merged"):
            (Path(name) / part).mkdir()
        mount = (
            f"mount -t overlay overlay -o lowerdir={name}/lower,upperdir={name}/upper,workdir={name}/work {name}/merged"
        )
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-c", f"{mount} && mount -t proc proc /proc"],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        said = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise LabUnsupported(f"a lab needs the right to mount file systems, which this account lacks here ({said})")


def _try_links() -> None:
    name = f"llmtry{os.getpid() % 100000}"
    done = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise LabUnsupported(f"a lab needs the right to make network bridges, which this account lacks here ({said})")
    subprocess.run(["ip", "link", "del", name], check=True)


@dataclass(frozen=True)
class AptSource:
    """One line of the machine's Debian sources."""

    site: str
    suite: str
    component: str

    def for_release(self, machine_release: str, release: str) -> str:
        """The one-line form of this source for another Debian release."""
        return f"deb {self.site} {self.suite.replace(machine_release, release, 1)} {self.component}"


def machine_release() -> str:
    """This machine's Debian codename.

    Raises:
        LabUnsupported: this is no Debian, so its sources cannot build a Debian host.
    """
    fields = platform.freedesktop_os_release()
    if fields.get("ID") != "debian" or not fields.get("VERSION_CODENAME"):
        raise LabUnsupported(
            f"a lab is built from the machine's own Debian sources, and this is {fields.get('PRETTY_NAME', 'unknown')}"
        )
    return fields["VERSION_CODENAME"]


def apt_sources(release: str) -> list[str]:
    """The machine's Debian sources (main, updates, security) as one-line entries for `release`."""
    mine = machine_release()
    listing = run("apt-get", "indextargets", "--format", "$(SITE)|$(RELEASE)|$(COMPONENT)", "Created-By: Packages")
    found = {
        AptSource(*line.split("|"))
        for line in listing.splitlines()
        # Other vendors' repositories have suites of their own, and no place on a bare Debian host.
        if re.fullmatch(rf"{mine}(-updates|-security|/updates)?", line.split("|")[1])
    }
    if not found:
        raise LabUnsupported(f"apt knows no source for Debian {mine}: run `apt-get update` and look at its sources")
    return sorted(source.for_release(mine, release) for source in found)


def apt_proxy_settings() -> str:
    """The machine's own way to its Debian mirror (`Acquire::http::Proxy` and the like), as apt.conf text."""
    dump = run("apt-config", "dump")
    wanted = re.compile(r'Acquire::https?::(Proxy|CAInfo)\S* "[^"]+";')
    return "".join(f"{line}\n" for line in dump.splitlines() if wanted.match(line))


def certificates() -> list[Path]:
    """Certificate authorities this machine trusts beyond Debian's, so that hosts reach what it reaches."""
    return sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))


def resolv_conf() -> str:
    """A resolv.conf that works from another address (not the loopback stub of systemd-resolved)."""
    own = Path("/etc/resolv.conf").read_text(encoding="utf-8")
    upstream = Path("/run/systemd/resolve/resolv.conf")
    if re.search(r"^nameserver\s+127\.", own, re.M) and upstream.exists():
        return upstream.read_text(encoding="utf-8")
    return own

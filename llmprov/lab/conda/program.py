"""The `conda` of the stand-in: runs on lab hosts, inside the stand-in's prefix, on py-rattler.

It answers the calls in tests/fixtures/conda with the keys and exit codes recorded there, and falls into the same
traps: it deletes an existing environment before it solves, looks at no digest of a `file://` package, and reads every
configuration file it can find. Where a real conda would damage its package cache (two at once) it stops and says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import rattler
import yaml

VERSION = "@VERSION@"
ROOT = Path(sys.prefix)
PKGS = ROOT / "pkgs"
ANACONDA = "https://repo.anaconda.com/pkgs/main"
UMASK = os.umask(0)
os.umask(UMASK)
KEYS = {
    "channels",
    "default_channels",
    "channel_priority",
    "number_channel_notices",
    "auto_activate_base",
    "pkgs_dirs",
    "envs_dirs",
    "plugins",
}


class CondaError(Exception):
    """Ends the call with exit code 1, and says why as conda does: in JSON when asked for it."""

    def __init__(self, kind, message, **more):
        super().__init__(message)
        self.kind, self.more = kind, more

    def show(self, as_json):
        error = f"{self.kind}: {self}"
        if not as_json:
            sys.stderr.write(f"\n{error}\n\n")
            return
        shape = {
            "caused_by": "None",
            "error": error,
            "exception_name": self.kind,
            "exception_type": f"<class 'conda.exceptions.{self.kind}'>",
            "message": str(self),
        }
        print(json.dumps(shape | self.more, indent=2, sort_keys=True))


# -- configuration ---------------------------------------------------------------------------------------------------


def rc_files():
    home = Path.home()
    places = [Path("/etc/conda/.condarc"), ROOT / ".condarc", home / ".condarc"]
    places += [Path(os.environ["CONDARC"])] if os.environ.get("CONDARC") else []
    return [path for path in places if path.exists()]


def configuration():
    """Every file's settings, by file; lists of later files come first when they are merged."""
    found = {}
    for path in rc_files():
        try:
            found[str(path)] = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise CondaError(
                "ConfigurationLoadError", f"Unable to load configuration file.\n  path: {path}\n  reason: {error}"
            )
    return found


def setting_list(sources, key, default):
    merged = []
    for values in reversed(list(sources.values())):
        merged += [value for value in values.get(key, []) if value not in merged]
    return merged if any(key in values for values in sources.values()) else default


def channels_of(options, sources):
    asked = list(getattr(options, "channel", None) or [])
    if not getattr(options, "override_channels", False):
        asked += setting_list(sources, "channels", ["defaults"])
    found = []
    for name in asked:
        found += setting_list(sources, "default_channels", [ANACONDA]) if name == "defaults" else [name]
    return found


def require_terms(channels):
    for channel in channels:
        if "repo.anaconda.com" not in channel:
            continue
        kept = [Path.home() / ".conda/tos", Path("/etc/conda/tos"), ROOT / "conda-meta/tos"]
        name = hashlib.sha256(channel.encode()).hexdigest()[:16]
        if not any((place / name).exists() for place in kept):
            raise CondaError(
                "CondaToSNonInteractiveError",
                "Terms of Service have not been accepted for the following channels. Please accept or remove them "
                f"before proceeding:\n    - {channel}\n",
            )


# -- records ---------------------------------------------------------------------------------------------------------


def records(prefix):
    found = [json.loads(path.read_text()) for path in sorted(prefix.glob("conda-meta/*.json"))]
    return sorted(found, key=lambda record: record["name"])


def short(record):
    base = record["url"].rsplit("/", 2)[0]
    return {
        "base_url": base,
        "build_number": record["build_number"],
        "build_string": record["build"],
        "channel": base.rsplit("/", 1)[-1] if base.count("/") > 2 else "",
        "dist_name": f"{record['name']}-{record['version']}-{record['build']}",
        "name": record["name"],
        "platform": record["subdir"],
        "version": record["version"],
    }


def is_environment(prefix):
    return (prefix / "conda-meta").is_dir()


def prefix_of(options, must_exist):
    if getattr(options, "prefix", None):
        prefix = Path(os.path.abspath(options.prefix))
    elif getattr(options, "name", None):
        prefix = ROOT if options.name == "base" else ROOT / "envs" / options.name
    else:
        prefix = ROOT
    if must_exist and not is_environment(prefix):
        raise CondaError("EnvironmentLocationNotFound", f"Not a conda environment: {prefix}", location=str(prefix))
    return prefix


def environments():
    known = Path.home() / ".conda/environments.txt"
    listed = [Path(line) for line in known.read_text().split("\n") if line] if known.exists() else []
    found = {path for path in [ROOT, *ROOT.glob("envs/*"), *listed] if is_environment(path)}
    return sorted(map(str, found))


def register(prefix, there):
    known = Path.home() / ".conda/environments.txt"
    lines = set(known.read_text().split("\n")) - {""} if known.exists() else set()
    lines = lines | {str(prefix)} if there else lines - {str(prefix)}
    with contextlib.suppress(OSError):
        known.parent.mkdir(exist_ok=True)
        known.write_text("".join(f"{line}\n" for line in sorted(lines)))


# -- fetching and linking --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def package_cache():
    """The package cache; conda has no lock of its own, and two at once damage it."""
    PKGS.mkdir(exist_ok=True)
    with open(PKGS / ".standin", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CondaError(
                "CorruptedEnvironmentError",
                "stand-in: two condas at once; a real one would have damaged its package cache",
            )
        yield


def known_urls():
    listing = PKGS / "urls.txt"
    return set(listing.read_text().split()) if listing.exists() else set()


def fetch(url, digest, offline):
    """The archive of `url` in the package cache; what lies there under a known URL is taken as it is."""
    target = PKGS / urllib.parse.unquote(url.rsplit("/", 1)[-1])
    if target.exists() and url in known_urls():
        return target
    if offline:
        raise CondaError("OfflineError", f"EnforceUnusedAdapter called with url {url}")
    try:
        with urllib.request.urlopen(url) as answer:
            data = answer.read()
    except OSError as error:
        raise CondaError("CondaHTTPError", f"HTTP 000 CONNECTION FAILED for url <{url}>\n{error}")
    if url.startswith("http") and digest:
        found = hashlib.new("md5" if len(digest) == 32 else "sha256", data).hexdigest()
        if found != digest:
            raise CondaError(
                "ChecksumMismatchError",
                f"Conda detected a mismatch between the expected content and downloaded content for url '{url}'.",
            )
    target.write_bytes(data)
    with open(PKGS / "urls.txt", "a") as handle:
        handle.write(url + "\n")
    return target


async def read(archives):
    return {url: await rattler.RepoDataRecord.from_package_archive(str(path)) for url, path in archives.items()}


def link(prefix, wanted, offline, remove=()):
    """Link the packages (URL -> digest) into the prefix, beside or in place of what is there."""
    (prefix / "conda-meta").mkdir(parents=True, exist_ok=True)
    with package_cache():
        archives = {url: fetch(url, digest, offline) for url, digest in wanted.items()}
        new = asyncio.run(read(archives))
    there = rattler_records(prefix)
    names = {record.name.normalized for record in new.values()} | set(remove)
    kept = [record for record in there if record.name.normalized not in names]
    asyncio.run(
        rattler.install(
            [*new.values(), *kept],
            target_prefix=prefix,
            cache_dir=PKGS,
            installed_packages=there,
            reinstall_packages={r.name.normalized for r in new.values()},
            show_progress=False,
        )
    )
    finish(prefix, {path.name: url for url, path in archives.items()})


def rattler_records(prefix):
    return [rattler.PrefixRecord.from_path(path) for path in sorted(prefix.glob("conda-meta/*.json"))]


def finish(prefix, url_by_name):
    """What conda writes and the linker does not: where each package came from, and the history."""
    for path in prefix.glob("conda-meta/*.json"):
        record = json.loads(path.read_text())
        url = url_by_name.get(record["fn"])
        path.chmod(0o666 & ~UMASK)
        if url:
            record["url"], record["channel"] = url, url.rsplit("/", 2)[0]
            path.write_text(json.dumps(record, indent=2, sort_keys=True))
    with open(prefix / "conda-meta/history", "a") as handle:
        handle.write("==> stand-in <==\n# cmd: %s\n" % " ".join(sys.argv))


def solve(specs, channels, prefix):
    gateway = rattler.Gateway(cache_dir=ROOT / "pkgs/cache")
    try:
        solved = asyncio.run(
            rattler.solve(
                channels,
                specs,
                gateway=gateway,
                platforms=["linux-64", "noarch"],
                locked_packages=rattler_records(prefix) if is_environment(prefix) else [],
                virtual_packages=rattler.VirtualPackage.detect(),
            )
        )
    except Exception as error:
        text = str(error)
        if re.search(r"No candidates|no candidates", text):
            missing = "\n  - ".join(specs)
            urls = [f"{c}/{s}" for c in channels for s in ("linux-64", "noarch")]
            raise CondaError(
                "PackagesNotFoundInChannelsError",
                f"The following packages are not available from current channels:\n\n  - {missing}\n",
                channel_urls=urls,
                packages=list(specs),
            )
        if re.search(r"connect|dns|fetch|request|No such file", text, re.I):
            raise CondaError("CondaHTTPError", f"HTTP 000 CONNECTION FAILED for url <{channels[0]}>\n{text}")
        raise CondaError("UnsatisfiableError", text)
    return {record.url: (record.sha256 or b"").hex() for record in solved}, solved


# -- commands --------------------------------------------------------------------------------------------------------


def explicit_urls(path):
    found = {}
    for line in Path(path).read_text().splitlines():
        line = line.strip()
        if line and not line.startswith(("#", "@")):
            url, _, digest = line.partition("#")
            found[url] = digest.removeprefix("sha256:")
    return found


def create(options, sources, existing=False):
    prefix = prefix_of(options, must_exist=existing)
    channels = channels_of(options, sources)
    require_terms(channels)
    if not existing and is_environment(prefix) and not options.dry_run:
        shutil.rmtree(prefix)
    if options.file:
        wanted, solved = explicit_urls(options.file), []
    else:
        wanted, solved = solve(options.specs, channels, prefix)
    if existing and not options.file:
        there = {record["url"] for record in records(prefix)}
        wanted = {url: digest for url, digest in wanted.items() if url not in there}
        if not wanted:
            say(options, {"success": True, "message": "All requested packages already installed."})
            return
    if not options.dry_run:
        link(prefix, wanted, options.offline)
        register(prefix, True)
    if options.file and options.json:
        return
    fresh = [r for r in solved if r.url in wanted]
    fetched = [json.loads(r.to_json()) for r in fresh]
    linked = [short({**json.loads(r.to_json()), "url": r.url}) for r in fresh]
    answer = {
        "success": True,
        "actions": {"FETCH": fetched, "PREFIX": str(prefix), "LINK": linked},
        "prefix": str(prefix),
    }
    say(options, answer | ({"dry_run": True} if options.dry_run else {}))


def install(options, sources):
    create(options, sources, existing=True)


def remove(options, _sources):
    prefix = prefix_of(options, must_exist=True)
    there = records(prefix)
    gone = there if options.all else [r for r in there if r["name"] in options.specs]
    if options.all:
        shutil.rmtree(prefix)
        register(prefix, False)
    else:
        link(prefix, {}, True, [r["name"] for r in gone])
    actions = {"FETCH": [], "PREFIX": str(prefix), "UNLINK": [short(r) for r in gone]}
    say(options, {"success": True, "actions": actions, "prefix": str(prefix)})


def say(options, answer):
    if options.json:
        print(json.dumps(answer, indent=2))
    elif "message" in answer:
        print(f"# {answer['message']}")
    else:
        print("Preparing transaction: ...working... done\nExecuting transaction: ...working... done")


def show_list(options, _sources):
    there = records(prefix_of(options, must_exist=True))
    if options.explicit:
        print("# This file may be used to create an environment using:")
        print("# $ conda create --name <env> --file <this file>")
        print(f"# platform: linux-64\n# created-by: conda {VERSION}\n@EXPLICIT")
        for record in there:
            print(
                record["url"]
                + ("#" + record["sha256"] if options.sha256 else "#" + md5_of(record) if options.md5 else "")
            )
    elif options.json:
        print(json.dumps([short(record) for record in there], indent=2))
    else:
        for record in there:
            print(f"{record['name']:<24}{record['version']:<16}{record['build']}")


def md5_of(record):
    """The linker keeps the sha256 alone."""
    return record.get("md5") or hashlib.md5((PKGS / record["fn"]).read_bytes()).hexdigest()


def info(options, sources):
    channels = [f"{c}/{s}" for c in channels_of(options, sources) for s in ("linux-64", "noarch")]
    print(
        json.dumps(
            {
                "platform": "linux-64",
                "conda_version": VERSION,
                "root_prefix": str(ROOT),
                "root_writable": os.access(ROOT, os.W_OK),
                "pkgs_dirs": [str(PKGS), str(Path.home() / ".conda/pkgs")],
                "envs_dirs": [str(ROOT / "envs"), str(Path.home() / ".conda/envs")],
                "channels": channels,
                "config_files": list(sources),
                "envs": environments(),
                "offline": False,
                "user_agent": "llmprov's stand-in for conda, on py-rattler",
            },
            indent=2,
        )
    )


def env(options, sources):
    if options.action != "list":
        raise CondaError("CommandNotFoundError", f"stand-in: `conda env {options.action}` is not among its calls")
    found = environments()
    details = {
        path: {
            "name": "base" if path == str(ROOT) else (Path(path).name if Path(path).parent == ROOT / "envs" else ""),
            "active": False,
            "base": path == str(ROOT),
            "frozen": False,
            "writable": os.access(path, os.W_OK),
        }
        for path in found
    }
    print(json.dumps({"envs": found, "envs_details": details}, indent=2))


def config(options, sources):
    if options.set:
        if options.set[0] not in KEYS:
            sys.stderr.write(f"Unknown key: {options.set[0]!r}\n")
            raise CondaError("CondaKeyError", f"{options.set[0]!r}: unknown parameter")
        path = Path.home() / ".condarc"
        values = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(yaml.safe_dump({**values, options.set[0]: yaml.safe_load(options.set[1])}))
        return
    print(json.dumps(sources | {"cmd_line": {"json": True}}, indent=2))


def run(options, _sources):
    prefix = prefix_of(options, must_exist=True)
    variables = dict(os.environ, PATH=f"{prefix}/bin:{os.environ.get('PATH', '')}", CONDA_PREFIX=str(prefix))
    raise SystemExit(subprocess.run(options.specs, env=variables).returncode)


def tos(options, _sources):
    place = (
        Path("/etc/conda/tos")
        if options.site
        else ROOT / "conda-meta/tos"
        if options.system
        else Path.home() / ".conda/tos"
    )
    for channel in options.channel or []:
        place.mkdir(parents=True, exist_ok=True)
        (place / hashlib.sha256(channel.encode()).hexdigest()[:16]).write_text(channel + "\n")
        print(f"accepted Terms of Service for {channel}")


def parser():
    top = argparse.ArgumentParser(prog="conda", description=__doc__)
    top.add_argument("-V", "--version", action="version", version=f"conda {VERSION}")
    commands = top.add_subparsers(dest="command", required=True)

    def command(name, work, *flags):
        sub = commands.add_parser(name)
        sub.set_defaults(work=work)
        for flag in ("--json", *flags):
            sub.add_argument(flag, action="store_true")
        if name not in ("info", "config", "tos"):
            sub.add_argument("-p", "--prefix")
            sub.add_argument("-n", "--name")
        return sub

    for name, work in (("create", create), ("install", install)):
        sub = command(name, work, "--dry-run", "--offline", "--override-channels")
        sub.add_argument("-y", "--yes", action="store_true")
        sub.add_argument("-c", "--channel", action="append")
        sub.add_argument("--file")
        sub.add_argument("specs", nargs="*")
    sub = command("remove", remove, "--all", "--offline", "--force-remove")
    sub.add_argument("-y", "--yes", action="store_true")
    sub.add_argument("specs", nargs="*")
    command("list", show_list, "--explicit", "--sha256", "--md5")
    command("info", info)
    command("env", env).add_argument("action")
    command("config", config, "--show-sources").add_argument("--set", nargs=2)
    command("run", run, "--no-capture-output").add_argument("specs", nargs=argparse.REMAINDER)
    sub = command("tos", tos, "--override-channels", "--site", "--system")
    sub.add_argument("action")
    sub.add_argument("--channel", action="append")
    return top


def main():
    options = parser().parse_args()
    try:
        options.work(options, configuration())
    except CondaError as error:
        error.show(options.json)
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # py-rattler's threads can abort a regular exit.
    os._exit(code)

"""The files of an environment: whose they are, which differ from what their packages say. Python 3.9 and later.

Wheels say it in their RECORD (PyPA's specification of recorded projects: path, sha256 in base64, size), conda packages
in conda-meta (`paths_data`: sha256, or sha256_in_prefix where a prefix was written into the file).
"""

from __future__ import annotations

import base64
import concurrent.futures
import csv
import glob
import hashlib
import json
import os

from ansible.module_utils.llmprov_host import canonical, read

#: What llmprov leaves in an environment beside the record: the files of no package that were there when it was built.
OTHERS = "llmprov-others.txt"
#: Differences that are told; the rest is counted.
MOST = 200


class Owned:
    """One file that a package brought."""

    __slots__ = ("noted", "package", "sha256", "size")

    def __init__(self, package, sha256, size, noted):
        self.package, self.sha256, self.size, self.noted = package, sha256, size, noted


def owned(prefix):
    """Path below `prefix` -> Owned, for every file of every package; `noted` is when its package was put there."""
    found = {}
    for path in glob.glob(glob.escape(prefix) + "/conda-meta/*.json"):
        found.update(_of_conda(path))
    for path in glob.glob(glob.escape(prefix) + "/lib*/python3*/site-packages/*.dist-info"):
        if read(path + "/INSTALLER") != "conda":
            found.update(_of_wheel(prefix, path))
    return found


def _of_conda(path):
    try:
        record = json.loads(read(path, 100000000))
        name = str(record["name"])
    except (ValueError, TypeError, KeyError):
        return
    noted = _time(path)
    told = record.get("paths_data")
    for entry in told.get("paths", []) if isinstance(told, dict) else []:
        file = entry.get("_path")
        if isinstance(file, str):
            link = entry.get("path_type") == "softlink"
            digest = entry.get("sha256_in_prefix") or entry.get("sha256")
            # Of a file that a prefix was written into, the size is that of before.
            size = None if entry.get("prefix_placeholder") else entry.get("size_in_bytes")
            yield file, Owned(name, None if link else digest, None if link else size, noted)
    for file in record.get("files", []) if not isinstance(told, dict) else []:
        yield str(file), Owned(name, None, None, noted)


def _of_wheel(prefix, folder):
    name = canonical(os.path.basename(folder).split("-")[0])
    noted = _time(folder + "/RECORD")
    base = os.path.relpath(os.path.dirname(folder), prefix)
    try:
        with open(folder + "/RECORD", encoding="utf-8", errors="replace", newline="") as handle:
            text = handle.read()
    except OSError:
        return
    rows = csv.reader(text.splitlines()) if '"' in text else (line.split(",") for line in text.splitlines())
    for row in rows:
        if len(row) == 3:
            path = base + "/" + row[0]
            yield os.path.normpath(path) if ".." in path else path, Owned(name, row[1], _number(row[2]), noted)


def _number(text):
    return int(text) if text.isdecimal() else None


def _time(path):
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def altered(prefix, deep=False):
    """What differs: [{package, path, how}], how being `missing` or `altered`.

    A file is read where its size is another, or where it was written to after its package was put there; with `deep`
    every file is. What Python compiles is nobody's concern.
    """
    found, suspects = [], []
    for path, about in owned(prefix).items():
        if path.endswith(".pyc") or "/__pycache__/" in path:
            continue
        whole = prefix + "/" + path
        try:
            state = os.stat(whole)
        except OSError:
            if not os.path.islink(whole):
                found.append({"package": about.package, "path": path, "how": "missing"})
            continue
        if about.sha256 and about.size is not None and state.st_size != about.size:
            found.append({"package": about.package, "path": path, "how": "altered"})
        elif about.sha256 and (deep or about.noted is None or state.st_mtime_ns > about.noted):
            suspects.append((state.st_size, path, about))
    for path, about in _otherwise(prefix, suspects):
        found.append({"package": about.package, "path": path, "how": "altered"})
    return sorted(found, key=lambda row: (row["package"], row["path"]))


def _otherwise(prefix, suspects):
    """Those of the files, as (size, path, about), whose digest is another.

    By as many threads as there are processors, which compute digests side by side; a few large files are most of an
    environment with PyTorch, so that these come first.
    """
    left, found = sorted(suspects, key=lambda row: row[0]), []

    def read_next(_worker):
        while True:
            try:
                _, path, about = left.pop()
            except IndexError:
                return
            if digest(prefix + "/" + path, about.sha256) != about.sha256:
                found.append((path, about))

    count = min(os.cpu_count() or 1, 8)
    with concurrent.futures.ThreadPoolExecutor(count) as workers:
        list(workers.map(read_next, range(count)))
    return found


def digest(path, like):
    """The digest of a file, written as `like` is: hexadecimal as conda does, or as wheels do."""
    algorithm = like.partition("=")[0] if "=" in like else "sha256"
    try:
        hashed = hashlib.new(algorithm)
        with open(path, "rb") as handle:
            for chunk in iter(lambda: handle.read(1 << 20), b""):
                hashed.update(chunk)
    except (OSError, ValueError):
        return None
    if "=" not in like:
        return hashed.hexdigest()
    return algorithm + "=" + base64.urlsafe_b64encode(hashed.digest()).decode("ascii").rstrip("=")


def others(prefix):
    """The files in an environment that no package brought, as paths below it: what tools and users put there."""
    known, found = owned(prefix), []
    for folder, names, files in os.walk(prefix):
        if os.path.basename(folder) == "__pycache__":
            names[:] = []
            continue
        place = os.path.relpath(folder, prefix)
        for name in files + [n for n in names if os.path.islink(os.path.join(folder, n))]:
            path = name if place == "." else place + "/" + name
            if path not in known and not path.endswith(".pyc") and not path.startswith("conda-meta/"):
                found.append(path)
    return sorted(found)


def users_own(prefix):
    """The files that users put into an environment that llmprov built, as paths below it.

    What is of no package, and was not there when it was built, is somebody's: a notebook, a data set. The metadata of
    packages is not, whether or not it lists itself.
    """
    known = set(read(prefix + "/" + OTHERS, 20000000).splitlines())
    return [path for path in others(prefix) if path not in known and ".dist-info/" not in path]

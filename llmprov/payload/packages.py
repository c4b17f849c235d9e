"""Every declared package: is it there, of which version, does it import."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from importlib import metadata
from typing import Any, Dict, List

from llmprov.payload.document import FAIL, PASS, check, say

REINSTALL = "build the environment anew: `llmprov rebuild -i INVENTORY`"


def check_packages(declared: List[str]) -> List[Dict[str, Any]]:
    """One check a declared requirement. Whether its version range holds is the plan's to say; here `==` is held."""
    return [_check_package(text) for text in declared]


def _check_package(text: str) -> Dict[str, Any]:
    match = re.match(r"[A-Za-z0-9._-]+", text)
    name = match.group(0) if match else text
    check_id = "package." + re.sub(r"[^a-z0-9]+", "-", name.lower())
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return check(check_id, FAIL, "%s is not installed" % name, None, text, remedy="run `llmprov provision`")
    pinned = re.search(r"==\s*([^\s,;*]+)", text)
    if pinned and version.split("+")[0] != pinned.group(1).split("+")[0]:
        summary = "%s is of version %s" % (name, version)
        return check(check_id, FAIL, summary, version, text, remedy="run `llmprov provision`")
    for module in modules_of(name):
        found = check_import(module)
        if found["status"] == PASS and getattr(sys.modules.get(module), "__file__", None) is None:
            # A folder without its __init__.py still "imports", as an empty namespace.
            summary = "%s %s lacks files of its own: %s/__init__.py" % (name, version, module)
            found = check(check_id, FAIL, summary, None, text, remedy=REINSTALL)
        if found["status"] != PASS:
            return dict(found, id=check_id)
    return check(check_id, PASS, "%s %s imports" % (name, version), version, text)


def modules_of(distribution: str) -> List[str]:
    """The top-level modules that a distribution brings, by its own list of files."""
    found = set()
    for path in metadata.files(distribution) or []:
        first = path.parts[0]
        if len(path.parts) == 1 and first.endswith(".py"):
            found.add(first[:-3])
        elif len(path.parts) == 2 and path.parts[1] == "__init__.py":
            found.add(first)
    # Public ones first: what a private helper says of their absence would mislead.
    return sorted((name for name in found if name.isidentifier()), key=lambda name: (name.startswith("_"), name))


def check_imports(names: List[str]) -> List[Dict[str, Any]]:
    """One check a module that was declared to import."""
    return [check_import(name) for name in names]


def check_import(name: str) -> Dict[str, Any]:
    """Import one module, and keep the traceback where that fails."""
    say("importing %s" % name)
    check_id = "import.%s" % name.lower()
    try:
        importlib.import_module(name)
    except BaseException as error:  # a package may raise anything, SystemExit included
        summary = "%s does not import: %s: %s" % (name, type(error).__name__, str(error)[:200])
        return check(check_id, FAIL, summary, None, name, evidence=traceback.format_exc(), remedy=REINSTALL)
    return check(check_id, PASS, "%s imports" % name, True, True)

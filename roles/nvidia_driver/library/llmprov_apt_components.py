#!/usr/bin/python
"""Offer more components of the archives that a Debian host has already: a file of its own, beside the host's own."""

from __future__ import annotations

import glob
import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llmprov_host import read

DOCUMENTATION = r"""
module: llmprov_apt_components
short_description: Offer more components of the archives that a host has
description: The host's own mirrors and suites are taken; what they offer already is not offered twice.
options:
  path: {type: path, required: true, description: The file to write.}
  components: {type: list, elements: str, required: true, description: Components to offer.}
author: [llmprov]
"""


def archives(skip):
    """(URI, suite, options) -> components, of every binary archive with a component `main`."""
    found = {}
    for path in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*"))]:
        if path == skip:
            continue
        text = read(path)
        rows = deb822(text) if path.endswith(".sources") else one_line(text)
        for uri, suite, options, components in rows:
            found.setdefault((uri, suite, options), set()).update(components)
    return {key: components for key, components in found.items() if "main" in components}


def one_line(text):
    for match in re.finditer(r"^\s*deb\s+(\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)$", text, re.M):
        options, uri, suite, components = match.groups()
        signed = re.search(r"signed-by=([^\s\]]+)", options or "")
        yield uri, suite, signed.group(1) if signed else "", components.split("#")[0].split()


def deb822(text):
    for stanza in re.split(r"\n\s*\n", text):
        fields = {k.lower(): v for k, v in re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.M)}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                # A key that stands in the file itself cannot be named from another.
                if not ("signed-by" in fields and not signed.startswith("/")):
                    yield uri, suite, signed, fields.get("components", "").split()


def content(components, skip):
    stanzas = []
    for (uri, suite, signed), has in sorted(archives(skip).items()):
        missing = [name for name in components if name not in has]
        if missing:
            lines = ["Types: deb", "URIs: " + uri, "Suites: " + suite, "Components: " + " ".join(missing)]
            stanzas.append("\n".join(lines + (["Signed-By: " + signed] if signed else [])))
    return "\n\n".join(stanzas) + "\n" if stanzas else ""


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "components": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    wanted, there = content(module.params["components"], path), read(path) + "\n"
    if not archives(path):
        module.fail_json(msg="no archive with a component `main` is in /etc/apt: the host has no Debian archive to ask")
    changed = wanted != there if wanted else os.path.exists(path)
    if changed and not module.check_mode:
        if not wanted:
            os.unlink(path)
        else:
            with open(path + ".new", "w", encoding="utf-8") as handle:
                handle.write(wanted)
            os.chmod(path + ".new", 0o644)
            os.replace(path + ".new", path)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()

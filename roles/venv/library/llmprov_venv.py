#!/usr/bin/python
"""Make a virtual environment as declared: its Python, the packages in it, the packages not in it."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: llmprov_venv
short_description: Make a virtual environment as declared, by uv
description: Changes nothing where everything is as declared. Removes only what is an environment.
options:
  path: {type: path, required: true, description: Directory of the environment.}
  state: {type: str, choices: [present, absent], default: present, description: Whether it is there.}
  python: {type: str, default: "", description: Its Python version; empty takes the host's python3.}
  packages: {type: list, elements: str, default: [], description: Requirements that must hold.}
  packages_absent: {type: list, elements: str, default: [], description: Packages that must not be there.}
  uv: {type: path, required: true, description: Where uv lies.}
  index_url: {type: str, default: "", description: A further package index, looked at beside the host's own.}
  environment: {type: dict, default: {}, description: Variables for uv, set by the action plugin.}
author: [llmprov]
"""


class Uv:
    """uv, called with one environment; `check` makes every call a dry run."""

    def __init__(self, module):
        self.module = module
        self.path = module.params["path"]
        self.python = self.path + "/bin/python"
        home = os.path.dirname(os.path.dirname(module.params["uv"]))
        self.variables = dict(
            os.environ,
            UV_SYSTEM_CERTS="1",
            UV_NO_PROGRESS="1",
            # Beside the environments, so that packages are linked and not copied; and readable by every user.
            UV_CACHE_DIR=home + "/cache/uv",
            UV_PYTHON_INSTALL_DIR=home + "/python",
            PYTHONNOUSERSITE="1",
            **module.params["environment"],
        )
        self.variables.pop("VIRTUAL_ENV", None)
        self.variables.pop("PYTHONPATH", None)

    def run(self, *words):
        argv = [self.module.params["uv"], *words]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.variables, check=False)
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode != 0:
            said = " ".join(text.replace("\u00d7", " ").replace("\u2570\u2500\u25b6", " ").split())[-1200:]
            self.module.fail_json(msg="`uv %s` failed: %s" % (" ".join(words[:2]), said or "it printed nothing"))
        return text

    def create(self):
        python = self.module.params["python"]
        # A version that the host lacks may be downloaded only where one was declared.
        chosen = ["--python", python] if python else ["--python", "python3", "--no-python-downloads"]
        self.run("venv", "--quiet", "--clear", *chosen, self.path)

    def install(self, packages, *flags):
        index = self.module.params["index_url"]
        if index:
            flags += ("--index", index, "--index-strategy", "unsafe-best-match")
        return self.run("pip", "install", "--python", self.python, *flags, *packages)


def installed(path):
    """Package -> version, from the metadata that installers leave."""
    found = {}
    for entry in glob.glob(path + "/lib*/python3*/site-packages/*.dist-info"):
        name, _, version = os.path.basename(entry)[: -len(".dist-info")].partition("-")
        found[canonical(name)] = version
    return found


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def python_version(path):
    """The version of an environment's Python that runs, or None."""
    try:
        argv = [path + "/bin/python", "-I", "-S", "-c", "import platform; print(platform.python_version())"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return None
    return done.stdout.decode().strip() or None


def fits(wanted, has):
    return has is not None and (not wanted or has.split(".")[: len(wanted.split("."))] == wanted.split("."))


def describe(path):
    if not os.path.exists(path + "/pyvenv.cfg"):
        return "absent\n"
    lines = ["Python %s" % python_version(path), *("%s==%s" % item for item in sorted(installed(path).items()))]
    return "\n".join(lines) + "\n"


def remove(module, path):
    if not os.path.lexists(path):
        return False
    if not os.path.exists(path + "/pyvenv.cfg"):
        module.fail_json(msg="%s is there and is no virtual environment, so it is not removed" % path)
    if not module.check_mode:
        shutil.rmtree(path)
    return True


def ensure(module, uv):
    params, path = module.params, module.params["path"]
    if os.path.isdir(path) and os.listdir(path) and not os.path.exists(path + "/pyvenv.cfg"):
        module.fail_json(msg="%s is there and is no virtual environment: move it, or set another llm_env_path" % path)
    created = not fits(params["python"], python_version(path))
    if created and module.check_mode:
        return True
    if created:
        uv.create()
    before = installed(path)
    unwanted = [name for name in params["packages_absent"] if canonical(name) in before]
    if module.check_mode and not os.path.exists(params["uv"]):
        # Nothing to ask about versions before the tool is there: names are all that can be compared.
        names = [canonical(re.match(r"[A-Za-z0-9._-]+", text).group(0)) for text in params["packages"]]
        return bool(unwanted) or any(name not in before for name in names)
    if module.check_mode:
        told = uv.install(params["packages"], "--dry-run") if params["packages"] else "no changes"
        return bool(unwanted) or "no changes" not in told
    if params["packages"]:
        uv.install(params["packages"])
    if unwanted:
        uv.run("pip", "uninstall", "--python", uv.python, *unwanted)
    return created or installed(path) != before


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "python": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "str", "default": []},
            "packages_absent": {"type": "list", "elements": "str", "default": []},
            "uv": {"type": "path", "required": True},
            "index_url": {"type": "str", "default": ""},
            # An index URL may carry a password.
            "environment": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    path = module.params["path"]
    before = describe(path) if module._diff else ""
    changed = remove(module, path) if module.params["state"] == "absent" else ensure(module, Uv(module))
    difference = {"before": before, "after": describe(path)} if module._diff else {}
    module.exit_json(changed=changed, diff=difference)


if __name__ == "__main__":
    main()

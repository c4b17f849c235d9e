"""The worked inventories say what llmprov understands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llmprov.run.variables import desired_from, refuse_unknown
from tests.conftest import ROOT

ANSIBLE_INVENTORY = str(Path(sys.executable).parent / "ansible-inventory")


@pytest.mark.parametrize(
    ("name", "hosts"), [("cluster.yml", 16), ("lab.yml", 21), ("localhost.yml", 1), ("own_prefix.yml", 4)]
)
def test_every_variable_of_a_worked_inventory_is_a_known_one(name, hosts):
    argv = [ANSIBLE_INVENTORY, "-i", str(ROOT / "inventory" / name), "--list"]
    listing = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    found = listing["_meta"]["hostvars"]
    assert len(found) == hosts
    for variables in found.values():
        refuse_unknown(variables)
        if name not in ("localhost.yml", "own_prefix.yml"):  # whose values are templates
            desired_from(variables, variables)


def test_what_the_demo_declares_is_known():
    variables = yaml.safe_load((ROOT / "inventory/demo-vars.yml").read_text("utf-8"))
    assert (
        desired_from({"conda_env_packages": variables["llm_packages"]}, {}).conda_env.packages
        == variables["llm_packages"]
    )

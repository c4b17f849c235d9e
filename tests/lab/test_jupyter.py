"""Jupyter on a real host: kernels that run notebooks, a service behind a token that is nowhere to be read."""

from __future__ import annotations

import json

import pytest

ENV = "/opt/llmprov/envs/llm"
TOKEN = "planted-token-1f0c9d3e"

NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "a",
            "metadata": {},
            "outputs": [],
            "source": "import torch, sys\nprint(int(torch.ones(6).sum()) * 7, sys.prefix)",
        }
    ],
    "metadata": {"kernelspec": {"name": "llm", "display_name": "Python (llm)", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


#: All files but those of environments, caches and packages' own state.
EVERYTHING = (
    "find / -xdev \\( -path /proc -o -path /run -o -path /tmp -o -path /var -o -path /root -o -path /home -o -path /opt "
    "-o -name __pycache__ \\) -prune -o -printf '%p %y %m %l\\n' | sort; dpkg -l"
)


@pytest.fixture
def jupyter(conda_lab, llmprov, tmp_path):
    """conda1 with Jupyter; the environment is given back without it."""
    from tests.lab.conftest import LIGHT

    variables = {
        **LIGHT,
        "jupyter_state": "present",
        "jupyter_service": True,
        "jupyter_service_user": "admin",
        "jupyter_token": TOKEN,
        "llm_env_variables": {"COURSE": '100% "done"'},
    }
    inventory = conda_lab.inventory(tmp_path / "jupyter.yml", conda_lab.of("conda1"), **variables)
    before = conda_lab.sh("conda1", EVERYTHING)
    yield inventory
    plain = conda_lab.inventory(tmp_path / "plain.yml", conda_lab.of("conda1"), **LIGHT)
    assert llmprov("provision", plain, "--no-verify").code == 0
    assert conda_lab.sh("conda1", EVERYTHING) == before


def test_a_notebook_runs_through_a_kernel_and_the_service_answers_to_its_token_alone(
    conda_lab, llmprov, jupyter, tmp_path
):
    sh = lambda script: conda_lab.sh("conda1", script)  # noqa: E731
    checked = llmprov("provision", jupyter, "--check")
    assert checked.code == 0
    assert "jupyter" in {a["component"] for a in checked.row("conda1")["plan"]["actions"] if a["kind"] != "none"}
    ran = llmprov("provision", jupyter)
    assert ran.code == 0
    again = llmprov("provision", jupyter, "--no-verify")
    assert again.row("conda1")["converged"]["changed"] == []
    # Another user of the host runs a notebook through the registered kernel.
    leader = f"cat > /tmp/in.ipynb <<'END'\n{json.dumps(NOTEBOOK)}\nEND\n"
    run = f"cd /tmp && sudo -u nobody env HOME=/tmp/nb {ENV}/bin/jupyter nbconvert --to notebook --execute --stdout in.ipynb 2>/tmp/nb.err || cat /tmp/nb.err"
    said = sh(f"mkdir -p /tmp/nb && chown nobody /tmp/nb; {leader}{run}")
    outputs = json.loads(said)["cells"][0]["outputs"]
    assert outputs[0]["text"] in (f"42 {ENV}\n", [f"42 {ENV}\n"])
    ask = (
        "import sys, urllib.request as u, urllib.error as e, time\n"
        "for _ in range(200):\n"
        "    try: print(u.urlopen('http://127.0.0.1:8888/api/contents?token=' + sys.argv[1]).status); break\n"
        "    except e.HTTPError as x: print(x.code); break\n"
        "    except OSError: time.sleep(0.2)\n"
    )
    sh(f"cat > /tmp/ask.py <<'END'\n{ask}END")
    assert sh(f"python3 /tmp/ask.py {TOKEN}") == "200\n"
    assert sh("python3 /tmp/ask.py wrong") == "403\n"
    assert sh("ss -Hltn 'sport = :8888'").split()[3] == "127.0.0.1:8888"
    environ = sh("tr '\\0' '\\n' < /proc/$(systemctl show -p MainPID --value llmprov-jupyter)/environ")
    assert 'COURSE=100% "done"' in environ
    for place in ("journalctl --no-pager", "ps axww", "cat /etc/systemd/system/llmprov-jupyter.service"):
        assert TOKEN not in sh(place)
    assert sh("stat -c '%a %U' /etc/llmprov/jupyter.token") == "600 root\n"
    left = [p for p in (tmp_path / "runs").rglob("*") if p.is_file() and TOKEN in p.read_text("utf-8", "replace")]
    assert left == []
    assert TOKEN not in ran.out + ran.err
    # Somebody stops it, somebody registers a kernel of their own.
    sh(
        "systemctl stop llmprov-jupyter; mkdir -p /usr/local/share/jupyter/kernels/own; echo '{}' > /usr/local/share/jupyter/kernels/own/kernel.json"
    )
    sh("sed -i 's/Python (llm)/Mine/' /usr/local/share/jupyter/kernels/llm/kernel.json")
    planned = llmprov("plan", jupyter)
    (action,) = [a for a in planned.row("conda1")["plan"]["actions"] if a["kind"] != "none"]
    assert "the kernel llm is not as it was registered" in action["why"]
    drift = {finding["id"]: finding["says"] for finding in planned.row("conda1")["plan"]["findings"]}
    assert drift == {"drift.jupyter": "Jupyter kernels registered by hand: own"}
    assert [a["component"] for a in planned.row("conda1")["plan"]["actions"] if a["kind"] != "none"] == ["jupyter"]
    assert llmprov("provision", jupyter, "--no-verify").code == 0
    assert sh("systemctl is-active llmprov-jupyter; ls /usr/local/share/jupyter/kernels").split() == [
        "active",
        "llm",
        "own",
    ]
    sh("rm -r /usr/local/share/jupyter/kernels/own /tmp/nb /tmp/in.ipynb /tmp/ask.py /tmp/nb.err")

"""environment.yml as one of the ways to declare an environment."""

from __future__ import annotations

import pytest

from llmprov.errors import UsageError
from llmprov.run.environment_file import read_into
from tests.unit.builders import desired_conda

TEXT = """\
name: x
channels: [conda-forge, nodefaults]
dependencies: [python=3.11, 'numpy>=2', {pip: ['idna>=3']}]
variables: {A: 1}
"""


def test_its_parts_are_added_to_what_variables_say(tmp_path):
    path = tmp_path / "environment.yml"
    path.write_text(TEXT)
    further = [{"path": "/srv/x", "file": str(path)}]
    wanted = read_into(
        desired_conda(
            conda_env={"file": str(path), "packages": ["rich"], "variables": {"B": "2"}},
            llm={"env_manager": "conda", "environments": further},
        )
    )
    env = wanted.conda_env
    assert (env.channels, env.conda_packages) == (["conda-forge"], ["python=3.11", "numpy>=2"])
    assert (env.packages, env.variables) == (["rich", "idna>=3"], {"A": "1", "B": "2"})
    assert wanted.llm.environments[0].conda_packages == ["python=3.11", "numpy>=2"]


def test_a_changed_file_is_another_declaration(tmp_path):
    path = tmp_path / "environment.yml"
    path.write_text(TEXT)
    first = read_into(desired_conda(conda_env={"file": str(path)}))
    path.write_text(TEXT.replace("numpy>=2", "numpy>=3"))
    assert read_into(desired_conda(conda_env={"file": str(path)})) != first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no file"),
        ("a: [", "is no YAML"),
        ("- a\n", "no mapping"),
        ("dependecies: []\n", "dependecies"),
        ("dependencies: [{pip: ['-r other.txt']}]\n", "-r other.txt"),
        ("dependencies: [{pip: ['git+https://x/y']}]\n", "git"),
        ("dependencies: [3]\n", "neither a package"),
        ("dependencies: ['n umpy; x']\n", "is wrong"),
        ("variables: {'A B': x}\n", "is wrong"),
    ],
)
def test_what_is_no_environment_file_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "environment.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=str(path)) as caught:
        read_into(desired_conda(conda_env={"file": str(path)}))
    assert words in str(caught.value)

"""From Ansible variables to the desired state."""

from __future__ import annotations

import pytest

from llmprov.errors import UsageError
from llmprov.model import ROLES, SITE
from llmprov.model.desired import variable_names
from llmprov.run.variables import desired_from, refuse_unknown


def test_values_reach_their_role():
    wanted = desired_from({"venv_packages": ["numpy>=2"], "pytorch_version": "2.12.0"}, {})
    assert wanted.venv.packages == ["numpy>=2"]
    assert wanted.pytorch.version == "2.12.0"


def test_text_from_the_command_line_becomes_the_declared_type():
    wanted = desired_from({"preflight_min_free_gb": "7.5", "preflight_allow_unsupported": "yes"}, {})
    assert wanted.preflight.min_free_gb == 7.5
    assert wanted.preflight.allow_unsupported is True


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("venv_state", "maybe", "'present' or 'absent'"),
        ("venv_packages", ["num py"], "item 0"),
        ("venv_packages", "numpy", "list"),
        ("venv_packages", ["numpy @ file:///x"], "URL"),
        ("pytorch_version", "2.13.0+cpu", "pytorch_variant"),
        ("pytorch_variant", "gpu", "pytorch_variant"),
        ("venv_path", "relative/path", "absolute"),
        ("conda_env_conda_packages", ["numpy>="], "not a conda package"),
        ("conda_env_conda_packages", ["a|b"], "not a conda package"),
        ("venv_path", "/", "absolute"),
        ("preflight_min_free_gb", "lots", "number"),
        ("verify_min_accuracy", 0.1, "greater"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_should_be(name, value, words):
    with pytest.raises(UsageError, match=rf"variable `{name}`") as caught:
        desired_from({name: value}, {})
    assert words in str(caught.value)


def test_a_misspelt_variable_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean `pytorch_version`"):
        refuse_unknown({"pytorch_verison": "2.13.0", "my_own": 1})


def test_other_peoples_variables_are_left_alone():
    refuse_unknown({"my_own": 1, "ansible_user": "root", "__venv_path": "/x", "llm_env_path": "/x"})


def test_every_variable_has_a_sentence():
    for role in (*ROLES, *SITE):
        for field in role.model_fields.values():
            assert field.description
            assert field.description.endswith(".")
    assert len(variable_names()) == sum(len(role.model_fields) for role in (*ROLES, *SITE))

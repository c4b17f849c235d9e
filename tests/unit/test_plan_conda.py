"""Conda, its environments, profiles, PyTorch's companions, Jupyter: what is planned and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.knowledge.tables import channel_urls, conda_installer, is_anacondas
from llmprov.model import Environment, Kind
from llmprov.plan import conda, decide, to_build
from llmprov.plan.environment import Change, added_by_hand, conda_satisfied, difference
from tests.unit.builders import ENV, desired, desired_conda, main_spec, observed

PREFIX = {
    "path": "/opt/miniconda3",
    "kind": "conda",
    "version": "26.5.3",
    "installer": "Miniconda3-py313_26.5.3-1",
    "works": True,
    "owner": "root",
    "condarc": (
        "channels: [conda-forge]\nchannel_priority: strict\ndefault_channels: []\nenvs_dirs: [/opt/llmprov/envs]\n"
        "number_channel_notices: 0\n"
    ),
}


def built(wanted, **changes):
    """The main environment as llmprov would have built it."""
    spec = main_spec(wanted)
    plain = {
        "path": ENV,
        "kind": "conda",
        "python_version": "3.11.9",
        "python_works": True,
        "packages": {"torch": "2.13.0+cpu", "numpy": "2.1.0", "idna": "3.10"},
        "conda": {"python": "3.11.9=h1_cpython", "six": "1.16.0=py_0"},
        "record": {
            "declaration": spec.declaration(),
            "conda": {"python": "3.11.9=h1_cpython", "six": "1.16.0=py_0"},
            "packages": {"torch": "2.13.0+cpu", "numpy": "2.1.0", "idna": "3.10"},
        },
        "profile": spec.profile(),
        "activation": spec.activation(),
    }
    return plain | changes


def host(wanted, **changes):
    return observed(conda=PREFIX, environments=[built(wanted, **changes)])


def kinds(plan):
    return {action.component: action.kind.value for action in plan.actions if action.kind is not Kind.NONE}


WANTED = desired_conda(conda_env={"packages": ["numpy>=2"], "conda_packages": ["six"]})


def test_a_bare_host_gets_conda_first():
    plan = decide(desired_conda(), observed(uv_version=None))
    assert list(kinds(plan)) == ["miniconda", "uv", "conda_env", "pytorch"]


def test_a_host_as_declared_gets_nothing():
    assert kinds(decide(WANTED, host(WANTED))) == {}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"kind": "none", "version": None}, "install", "nothing"),
        ({"works": False}, "repair", "does not run"),
        ({"readable": False}, "repair", "cannot read"),
        ({"owner": "bob"}, "repair", "belongs to bob"),
        ({"version": "26.3.1"}, "upgrade", "another installer"),
        ({"version": "26.11.0"}, "downgrade", "another installer"),
        ({"condarc": None}, "upgrade", "settings"),
        ({"condarc": "channels: [defaults]"}, "upgrade", "settings"),
        ({"condarc": "channels: [unclosed"}, "upgrade", "settings"),
        ({"init": True}, "upgrade", "settings"),
    ],
)
def test_the_installation_is_held_against_the_declaration(changes, kind, words):
    seen = host(WANTED)
    seen.conda = seen.conda.model_copy(update=changes)
    action = next(a for a in decide(WANTED, seen).actions if a.component == "miniconda")
    assert action.kind.value == kind
    assert words in action.why


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ({"packages": ["numpy>=2", "pandas"]}, Change.PACKAGES),
        ({"packages": ["numpy>=3"]}, Change.PACKAGES),
        ({"packages_absent": ["idna"]}, Change.PACKAGES),
        ({"packages": []}, Change.SUCCESSOR),
        ({"python": "3.12"}, Change.SUCCESSOR),
        ({"conda_packages": ["six>=1.17"]}, Change.SUCCESSOR),
        ({"conda_packages": ["six", "zlib"]}, Change.SUCCESSOR),
        ({"conda_packages": []}, Change.SUCCESSOR),
        ({"channels": ["bioconda"]}, Change.SUCCESSOR),
        ({"variables": {"HF_HOME": "/data"}}, Change.SETTINGS),
        ({"on_path": True}, Change.SETTINGS),
        ({"packages": ["numpy>=2,<4"]}, Change.SETTINGS),
        ({"state": "absent"}, Change.REMOVE),
        ({}, Change.NONE),
    ],
)
def test_a_change_anywhere_in_the_declaration_is_seen_and_no_more_is_done_than_it_needs(change, after):
    there = Environment.model_validate(built(WANTED))
    wanted = desired_conda(conda_env={"packages": ["numpy>=2"], "conda_packages": ["six"], **change})
    assert difference(main_spec(wanted), there)[0] is after


def test_what_a_half_made_environment_leaves_is_repaired():
    left = {"path": ENV, "kind": "conda", "python_works": False}
    plan = decide(WANTED, observed(conda=PREFIX, environments=[left]))
    assert kinds(plan)["conda_env"] == "repair"


def test_an_environment_of_somebody_elses_is_used_where_it_fits_and_never_replaced():
    foreign = built(WANTED, record=None)
    assert kinds(decide(WANTED, observed(conda=PREFIX, environments=[foreign]))) == {}
    foreign["conda"] = {"python": "3.11.9=h1"}
    (refusal,) = decide(WANTED, observed(conda=PREFIX, environments=[foreign])).refusals
    assert "did not make" in refusal.sentence()


def test_the_manager_of_an_environment_of_ours_may_change():
    seen = host(WANTED)
    plan = decide(desired(venv={"packages": ["numpy>=2"]}), seen)
    assert kinds(plan)["venv"] == "upgrade"
    assert not plan.refusals


def test_what_users_added_is_told_from_what_was_built():
    there = Environment.model_validate(
        built(
            WANTED,
            packages={"torch": "2.13.0+cpu", "numpy": "2.1.0", "idna": "3.10", "rich": "14.0", "setuptools": "80.9"},
            conda={"python": "3.11.9=h1", "six": "1.16.0=py_0", "setuptools": "80.9=py_0"},
            from_conda=["setuptools"],
        )
    )
    assert added_by_hand(main_spec(WANTED), there) == (["setuptools=80.9"], ["rich==14.0"])


@pytest.mark.parametrize(
    ("spec", "has", "holds"),
    [
        ("six", "1.16.0=py_0", True),
        ("six=1.16", "1.16.0=py_0", True),
        ("six>=1.17", "1.16.0=py_0", False),
        ("conda-forge::six", "1.16.0=py_0", True),
        ("pytorch=2.13.0=cpu*", "2.13.0=cuda129_py311", False),
        ("pytorch=2.13.0=cpu*", "2.13.0=cpu_generic_py311", True),
        ("six", "no version at all!=x", False),
    ],
)
def test_conda_specs_are_held_as_conda_holds_them(spec, has, holds):
    name = "pytorch" if "pytorch" in spec else "six"
    assert conda_satisfied(spec, {name: has}) is holds
    assert conda_satisfied(spec, {}) is False


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "component", "words"),
    [
        ({"miniconda": {"channels": ["defaults"]}}, "miniconda", "terms of service"),
        ({"conda_env": {"channels": ["https://repo.anaconda.com/pkgs/main"]}}, "miniconda", "terms of service"),
        ({"miniconda": {"installer": "Miniconda3-py313_99.1.1-1"}}, "miniconda", "miniconda_sha256"),
        ({"miniconda": {"state": "absent"}}, "miniconda", "absent"),
        ({"conda_env": {"profiles": ["nosuch"]}}, "conda_env", "'nosuch'"),
        ({"conda_env": {"packages": ["torch"]}}, "conda_env", "pytorch_version"),
        ({"conda_env": {"packages": ["numpy"], "conda_packages": ["numpy"]}}, "conda_env", "as a wheel"),
        ({"conda_env": {"packages": ["numpy"], "packages_absent": ["NumPy"]}}, "conda_env", "packages_absent"),
        ({"conda_env": {"packages": ["torchaudio"]}}, "pytorch", "2.11"),
        ({"conda_env": {"packages": ["torchtext"]}}, "pytorch", "2.3"),
        ({"conda_env": {"packages": ["torchvision==0.20"]}}, "pytorch", "0.28"),
        (
            {"conda_env": {"packages": ["torchvision"]}, "pytorch": {"index_url": ""}},
            "pytorch",
            "the plain index's torchvision",
        ),
        ({"pytorch": {"env_path": "/elsewhere"}}, "pytorch", "/elsewhere"),
        ({"jupyter": {"state": "present", "env_path": "/elsewhere"}}, "jupyter", "/elsewhere"),
        ({"jupyter": {"state": "present", "service": True}}, "jupyter", "jupyter_service_user"),
        ({"jupyter": {"state": "present", "service": True, "service_user": "root"}}, "jupyter", "ordinary user"),
        ({"llm": {"env_manager": "venv"}, "pytorch": {"source": "conda"}}, "pytorch", "virtual environment"),
        ({"llm": {"environments": [{"path": ENV}]}}, "preflight", "same path"),
        (
            {"llm": {"environments": [{"path": "/x/y", "manager": "venv", "conda_packages": ["six"]}]}},
            "venv",
            "takes none",
        ),
    ],
)
def test_what_can_never_hold_is_refused_by_name(roles, component, words):
    plan = decide(desired_conda(**roles), observed())
    assert plan.refusals, kinds(plan)
    assert component in {refusal.component for refusal in plan.refusals}
    assert any(words in refusal.sentence() for refusal in plan.refusals)
    assert plan.actions == []


def test_accepted_terms_are_no_refusal_and_reach_the_host():
    wanted = desired_conda(miniconda={"channels": ["defaults"], "accept_terms": True})
    assert decide(wanted, observed()).refusals == []
    assert conda.terms(wanted.miniconda) == ["https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r"]
    channels = ["https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r"]
    assert conda.condarc(wanted.miniconda)["default_channels"] == channels
    assert conda.terms(desired_conda().miniconda) == []


@pytest.mark.parametrize("channel", ["conda-forge", "https://conda.example/mainline", "file:///srv/main", "bioconda"])
def test_other_peoples_channels_are_not_anacondas(channel):
    assert not is_anacondas(channel)


def test_channels_by_name_and_by_url():
    assert channel_urls("conda-forge") == ["https://conda.anaconda.org/conda-forge"]
    assert channel_urls("file:///srv/x") == ["file:///srv/x"]


@pytest.mark.parametrize(
    ("installer", "url", "place"),
    [
        (
            "Miniconda3-py313_26.5.3-1",
            "",
            "https://repo.anaconda.com/miniconda/Miniconda3-py313_26.5.3-1-Linux-x86_64.sh",
        ),
        (
            "Miniforge3-26.5.3-0",
            "",
            "https://github.com/conda-forge/miniforge/releases/download/26.5.3-0/Miniforge3-26.5.3-0-Linux-x86_64.sh",
        ),
        ("Anaconda3-2026.06-1", "", "https://repo.anaconda.com/archive/Anaconda3-2026.06-1-Linux-x86_64.sh"),
        ("Miniforge3-26.5.3-0", "https://mirror/x/", "https://mirror/x/Miniforge3-26.5.3-0-Linux-x86_64.sh"),
        ("Miniforge3-26.5.3-0", "https://mirror/any.sh", "https://mirror/any.sh"),
        ("Miniforge3-26.5.3-0", "/srv/any.sh", "file:///srv/any.sh"),
    ],
)
def test_the_installer_comes_from_its_publisher_a_mirror_or_a_file(installer, url, place):
    wanted = desired_conda(miniconda={"installer": installer, "url": url, "sha256": "0" * 64}).miniconda
    assert conda.installer(wanted, "x86_64").url == place


def test_digests_of_known_installers_are_the_published_ones():
    # As published with the installer, and repeated by pyenv's definitions.
    published = "4eaf1f2d83ede3ad010afa6ad19bef69893ca4667ba5996f51efb3080c08a70d"
    assert conda_installer("Miniconda3-py313_26.5.3-1", "aarch64").sha256 == published


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("Miniconda3-py313_26.5.3-1", "26.5.3"),
        ("Miniforge3-26.5.3-0", "26.5.3"),
        ("Anaconda3-2026.06-1", None),
        ("Miniconda3-standin-py311_26.7.1-1-Linux-x86_64", "26.7.1"),
    ],
)
def test_an_installers_name_tells_its_conda(name, version):
    assert conda.conda_version(name) == version


def test_the_full_anaconda_is_told_by_its_installers_name():
    wanted = desired_conda(miniconda={"installer": "Anaconda3-2026.06-1", "sha256": "0" * 64})
    seen = host(wanted)
    assert kinds(decide(wanted, seen))["miniconda"] == "upgrade"
    seen.conda = seen.conda.model_copy(update={"installer": "Anaconda3-2026.06-1"})
    assert kinds(decide(wanted, seen)) == {}


# -- profiles and companions ---------------------------------------------------------------------------------------


def test_profiles_are_spelled_out_and_what_is_declared_by_itself_wins():
    wanted = desired_conda(
        conda_env={"profiles": ["llm", "own"], "packages": ["numpy<2.3"]},
        llm={
            "env_manager": "conda",
            "profile_definitions": {"own": {"packages": ["rich"], "conda_packages": ["ffmpeg"]}},
        },
    )
    spec = main_spec(wanted)
    assert [p for p in spec.packages if p.startswith("numpy")] == ["numpy<2.3"]
    assert {"transformers", "datasets", "accelerate", "tokenizers", "sentencepiece", "pandas", "rich"} <= set(
        spec.packages
    )
    assert "ffmpeg" in spec.conda_packages


def test_companions_of_pytorch_come_from_the_same_index_and_of_the_release_that_pairs():
    spec = main_spec(desired_conda(conda_env={"packages": ["torchvision"]}))
    assert spec.packages == ["torchvision==0.28.*"]
    assert (spec.torch, spec.torch_index) == (["torch==2.13.0+cpu"], "https://download.pytorch.org/whl/cpu")
    spec = main_spec(desired_conda(conda_env={"packages": ["torchtext"]}, pytorch={"version": "2.3.1"}))
    assert spec.packages == ["torchtext==0.18.*"]


def test_a_companion_of_the_right_build_in_ones_own_index_is_taken_at_its_word():
    wanted = desired_conda(conda_env={"packages": ["torchvision==0.28.0+cpu"]}, pytorch={"index_url": ""})
    assert decide(wanted, observed()).refusals == []
    assert main_spec(wanted).packages == ["torchvision==0.28.0+cpu"]


def test_pytorch_by_conda_is_a_spec_with_its_build():
    wanted = desired_conda(pytorch={"source": "conda"}, conda_env={"packages": ["torchvision"]})
    assert main_spec(wanted).conda_packages == ["python", "torchvision=0.28", "pytorch=2.13.0=cpu*"]
    assert main_spec(wanted, "cu130").conda_packages[-1] == "pytorch=2.13.0=cuda*"
    assert main_spec(wanted).torch == []


def test_pytorch_changes_its_source_by_a_successor():
    wanted = desired_conda(pytorch={"source": "conda"})
    seen = host(desired_conda())
    plan = decide(wanted, seen)
    assert kinds(plan) == {"conda_env": "upgrade", "pytorch": "install"}
    assert [spec.path for spec in to_build(wanted, plan)] == [ENV]


# -- Jupyter -------------------------------------------------------------------------------------------------------


def test_jupyter_brings_its_packages_into_the_environments_it_is_about():
    wanted = desired_conda(
        jupyter={"state": "present", "interface": "notebook", "kernels": [ENV, "/srv/b"]},
        llm={"env_manager": "conda", "environments": [{"path": "/srv/b", "manager": "venv"}]},
    )
    plan = decide(wanted, observed())
    assert kinds(plan)["jupyter"] == "install"
    assert main_spec(wanted).packages == ["notebook", "ipykernel"]
    second = next(spec for spec in to_build(wanted, plan) if spec.path == "/srv/b")
    assert (second.packages, second.manager) == (["ipykernel"], "venv")


def test_kernels_of_users_are_left_alone():
    kernels = [{"path": "/usr/local/share/jupyter/kernels/r", "name": "ir", "python": None}]
    assert kinds(decide(desired_conda(), observed(jupyter={"kernels": kernels}))).get("jupyter") is None


# -- properties ----------------------------------------------------------------------------------------------------

PACKAGES = st.lists(
    st.sampled_from(["numpy>=2", "pandas", "rich", "idna>=3", "torchvision", "torchaudio"]), unique=True
)
CONDAS = st.lists(st.sampled_from(["six", "zlib", "cuda-nvcc=12.8", "pytorch=2.13"]), unique=True)


@given(PACKAGES, CONDAS, st.sampled_from(["", "3.11", "3.12"]), st.sampled_from(["wheel", "conda"]), st.booleans())
def test_the_same_input_gives_the_same_plan_and_a_refused_host_none(packages, condas, python, source, jupyter):
    wanted = desired_conda(
        conda_env={"packages": packages, "conda_packages": condas, "python": python},
        pytorch={"source": source},
        jupyter={"state": "present" if jupyter else "absent"},
    )
    first, second = decide(wanted, observed()), decide(wanted, observed())
    assert first == second
    assert bool(first.refusals) == ("torchaudio" in packages)
    assert not (first.refusals and first.actions)


@given(
    PACKAGES.filter(lambda p: "torchaudio" not in p),
    CONDAS,
    st.dictionaries(st.from_regex(r"\A[A-Z]{1,4}\Z"), st.text("ab '\"$")),
)
def test_an_environment_built_as_declared_needs_nothing(packages, condas, variables):
    wanted = desired_conda(conda_env={"packages": packages, "conda_packages": condas, "variables": variables})
    spec = main_spec(wanted)
    versions = {"numpy": "2.1", "pandas": "2.0", "rich": "14.0", "idna": "3.10", "torchvision": "0.28.0+cpu"}
    conda_versions = {
        "six": "1.16.0=0",
        "zlib": "1.3=0",
        "cuda-nvcc": "12.8.1=0",
        "pytorch": "2.13.0=cpu_0",
        "python": "3.13.1=0",
    }
    there = Environment.model_validate(
        {
            "path": ENV,
            "kind": "conda",
            "python_version": "3.13.1",
            "python_works": True,
            "packages": versions,
            "conda": conda_versions,
            "record": {"declaration": spec.declaration(), "conda": conda_versions, "packages": versions},
            "profile": spec.profile(),
            "activation": spec.activation(),
        }
    )
    assert difference(spec, there) == (Change.NONE, [])

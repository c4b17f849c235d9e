"""Drift: what hosts have beside what was declared, each kind; and what a rebuild makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.model import CondaPrefix, Kind
from llmprov.plan import decide, specs
from llmprov.plan.by_hand import moved
from llmprov.plan.environment import Change
from llmprov.run.environments import needed
from tests.unit.builders import ENV, desired, desired_conda, observed

RECORD = {"conda": {"python": "3.11.2=0", "six": "1.16.0=0"}, "packages": {"tqdm": "4.1", "six": "1.16.0"}}


def there(**changes):
    """A conda environment that nobody touched since it was built."""
    plain = {
        "path": ENV,
        "kind": "conda",
        "python_version": "3.11.2",
        "python_works": True,
        "packages": {"tqdm": "4.1", "six": "1.16.0", "torch": "2.13.0+cpu"},
        "from_conda": ["six"],
        "conda": dict(RECORD["conda"]),
        "record": {**RECORD, "packages": {**RECORD["packages"], "torch": "2.13.0+cpu"}, "declaration": DECLARATION},
        "altered": [],
    }
    return plain | changes


WANTED = desired_conda(
    conda_env={"python": "3.11", "packages": ["tqdm"], "conda_packages": ["six"]}, pytorch={"variant": "cpu"}
)
DECLARATION = {
    "manager": "conda", "python": "3.11", "packages": ["tqdm"], "packages_absent": [],
    "conda_packages": ["python=3.11", "six"], "channels": WANTED.miniconda.channels,
}  # fmt: skip


def prefix(**changes):
    import yaml

    from llmprov.plan.conda import condarc

    wanted = WANTED.miniconda
    plain = {"path": wanted.prefix, "kind": "conda", "version": "26.5.3", "works": True, "owner": "root",
             "installer": wanted.installer, "condarc": yaml.safe_dump(condarc(wanted)),
             "packages": {"conda": "26.5.3=0"}, "base": {"conda": "26.5.3=0"}, "altered": []}  # fmt: skip
    return CondaPrefix.model_validate(plain | changes).model_dump()


def seen(environment=None, **changes):
    return observed(**({"environments": [environment or there()], "conda": prefix()} | changes))


def drift(seen, wanted=WANTED):
    return {finding.id: finding.says for finding in decide(wanted, seen).findings}


def test_a_host_that_nobody_touched_has_none():
    plan = decide(WANTED, seen())
    assert (plan.pending, plan.findings) == ([], [])
    assert decide(WANTED, seen(), rebuild=True).pending == []


FILE = {"package": "tqdm", "path": "lib/x.py", "how": "altered"}
CAUSED = {
    "drift.packages": (seen(there(packages={"tqdm": "4.1", "torch": "2.13.0+cpu", "idna": "3"})), "added idna 3"),
    "drift.files": (seen(there(altered=[FILE], altered_count=3)), "files of tqdm in " + ENV),
    "drift.conda": (seen(conda=prefix(packages={"conda": "26.5.3=0", "x": "1=0"})), "added x 1=0"),
    "drift.conda_files": (seen(conda=prefix(altered=[FILE], altered_count=1)), "lib/x.py"),
    "drift.channels": (seen(conda=prefix(settings=["/etc/conda/.condarc"])), "/etc/conda/.condarc"),
    "drift.held": (seen(held=["bash"]), "bash"),
    "drift.kernel": (
        seen(kernels=[{"release": "6.1.0-9", "running": True}, {"release": "6.1.0-40", "bootable": True}]),
        "the next boot takes the kernel 6.1.0-40, and 6.1.0-9 runs",
    ),
    "drift.environments": (seen(environments_there=[{"path": "/opt/llmprov/envs/x", "kind": "venv"}]), "/opt/llmprov/envs/x"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CAUSED)
def test_each_kind_is_told_alone(kind):
    host, words = CAUSED[kind]
    told = drift(host)
    assert set(told) == {kind}
    assert words in told[kind]


@pytest.mark.parametrize("kind", CAUSED)
def test_a_rebuild_undoes_what_llmprov_installed_and_leaves_the_rest(kind):
    actions = {a.component: a.kind for a in decide(WANTED, CAUSED[kind][0], rebuild=True).pending}
    mends = {"drift.packages": {"conda_env", "pytorch"}, "drift.files": {"conda_env", "pytorch"}}
    mends |= {"drift.conda": {"miniconda"}, "drift.conda_files": {"miniconda"}}
    assert set(actions) == mends.get(kind, set())
    assert decide(WANTED, CAUSED[kind][0]).pending == [], "provision takes along what users added"
    if kind.startswith("drift.conda"):
        assert actions["miniconda"] is Kind.REPAIR


def test_kernels_of_jupyter_that_others_registered_are_told_where_jupyter_is_declared():
    kernels = {"kernels": [{"path": "/usr/local/share/jupyter/kernels/r", "name": "r"}]}
    wanted = WANTED.model_copy(update={"jupyter": WANTED.jupyter.model_copy(update={"state": "present"})})
    assert "drift.jupyter" in drift(seen(jupyter=kernels), wanted)
    assert "drift.jupyter" not in drift(seen(jupyter=kernels))


def test_a_driver_of_the_users_own_may_be_held():
    driver = {"held": ["nvidia-driver"]}
    assert drift(seen(held=["nvidia-driver"], driver=driver)) == {}
    absent = desired(nvidia_driver={"state": "absent"})
    assert "drift.held" in drift(observed(held=["nvidia-driver"], driver=driver), absent)


def test_an_environment_that_llmprov_did_not_build_is_never_built_anew():
    assert drift(seen(there(record=None))) == {}
    host = seen(there(record=None, altered=[FILE], altered_count=1))
    plan = decide(WANTED, host, rebuild=True)
    assert (plan.pending, plan.refusals) == ([], [])
    assert "llmprov did not make it" in plan.findings[0].remedy


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123")),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123")),
)
def test_what_moved_is_told_whole_and_only_that(was, has):
    told = moved(was, has)
    words = {name for phrase in told for part in phrase.split(" ", 1)[1].split(", ") for name in part.split(" ")[:1]}
    assert words == {name for name in {*was, *has} if was.get(name) != has.get(name)}
    assert moved(has, has) == []


def test_pytorch_that_goes_takes_what_came_with_it():
    """In place its dependencies would stay; an environment of somebody else's is not built anew for it."""
    wanted = WANTED.model_copy(update={"pytorch": WANTED.pytorch.model_copy(update={"state": "absent"})})
    spec, host = specs.specs(wanted, None)[0][0], seen()
    for about, change in ((host, Change.SUCCESSOR), (seen(there(record=None)), Change.PACKAGES)):
        assert needed(spec, about.environment(ENV), wanted, None)[0] is change

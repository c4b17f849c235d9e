"""The lock: what it says, how it is held against declarations, what moves in it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.errors import LlmprovError, UsageError
from llmprov.model import Desired
from llmprov.model.lock import HostClass, Lock, LockedEnvironment, LockedFile, LockedTool
from llmprov.plan import conda, decide, locked, specs
from llmprov.run import lock_file, locking
from llmprov.run.locking import Upgrade, _Answers, _Host, _resolved, _with_others, moves
from llmprov.text import without_secrets
from tests.unit.builders import ENV, desired, desired_conda, gpu, observed

WANTED = desired_conda(conda_env={"python": "3.11", "packages": ["idna"]}, pytorch={"state": "absent"})
DIGEST = "ab" * 32


def file(name, version, url=None):
    return LockedFile(
        name=name, version=version, sha256=DIGEST, url=url or f"https://x.invalid/{name}-{version}-py3-none-any.whl"
    )


def lock_of(wanted: Desired, seen, **changes) -> Lock:
    """A lock that fits a host and its declaration."""
    spec = specs.specs(wanted, None)[0][0]
    python = LockedFile(
        name="python", version="3.11.2", sha256=DIGEST, url="https://x.invalid/linux-64/python-3.11.2-0.conda"
    )
    entry = {
        "path": ENV,
        "of": locked.host_class(spec, seen),
        "hosts": ["a"],
        "declaration": locked.declaration(spec, wanted),
        "conda": [python] if spec.manager == "conda" else [],
        "wheels": [file("idna", "3.10")],
    }
    installer = conda.installer(wanted.miniconda, "x86_64")
    tools = [
        LockedTool(name="uv", version=wanted.venv.uv_version, sha256=DIGEST, url="https://x.invalid/uv.whl", architecture="x86_64", glibc=seen.os.glibc),
        LockedTool(name=installer.name, sha256=installer.sha256, url=installer.url, architecture="x86_64"),
    ]  # fmt: skip
    return Lock(tools=tools, environments=[LockedEnvironment(**(entry | changes))])


def test_where_lock_and_declaration_agree_an_environment_is_exactly_the_locks():
    seen = observed()
    spec, refused = locked.pin(specs.specs(WANTED, None)[0][0], WANTED, seen, lock_of(WANTED, seen))
    assert refused == []
    assert spec.exact.conda_versions() == {"python": "3.11.2=0"}
    assert [artifact.filename for artifact in spec.exact.wheels] == ["idna-3.10-py3-none-any.whl"]
    assert decide(WANTED, seen, lock_of(WANTED, seen)).refusals == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"conda_env": {"packages": ["idna", "peft"]}}, "packages: with peft"),
        ({"conda_env": {"packages": []}}, "packages: without idna"),
        ({"conda_env": {"python": "3.12"}}, "python: 3.12 where 3.11 is locked"),
        ({"miniconda": {"channels": ["bioconda"]}}, "channels: with bioconda, without conda-forge"),
        ({"miniconda": {"channel_priority": "disabled"}}, "channel_priority: disabled where strict is locked"),
        ({"venv": {"uv_version": "0.9.0"}}, "uv 0.9.0"),
        ({"miniconda": {"sha256": "cd" * 32}}, "sha256 cdcdcdcdcdcd"),
        ({"conda_env": {"path": "/opt/other"}}, "has none for it"),
    ],
)
def test_what_differs_is_refused_by_name(change, words):
    merged = {role: {**getattr(WANTED, role).model_dump(exclude_unset=True), **more} for role, more in change.items()}
    wanted = Desired.model_validate(WANTED.model_dump(exclude_unset=True) | merged)
    plan = decide(wanted, observed(), lock_of(WANTED, observed()))
    assert words in "; ".join(refusal.sentence() for refusal in plan.refusals)
    assert plan.actions == []


def test_another_class_of_hosts_is_refused_and_named():
    newer = observed(os={"id": "debian", "version_id": "13", "architecture": "x86_64", "glibc": "2.41"})
    (refusal, *_) = decide(WANTED, newer, lock_of(WANTED, observed())).refusals
    assert "glibc 2.41" in refusal.sentence()


def test_a_host_without_python_is_refused_nothing_before_it_can_tell():
    bare = observed(python=None, python_version=None)
    assert decide(WANTED, bare, Lock()).refusals == []


def test_any_other_package_makes_a_successor_under_a_lock():
    there = {
        "path": ENV, "kind": "conda", "python_version": "3.11.2", "python_works": True, "conda": {"python": "3.11.2=0"},
        "packages": {"idna": "3.10"}, "record": {"declaration": specs.specs(WANTED, None)[0][0].declaration()},
    }  # fmt: skip
    seen = observed(environments=[there])
    lock = lock_of(WANTED, seen)
    env = lambda plan: next(a for a in plan.actions if a.component == "conda_env")  # noqa: E731
    assert env(decide(WANTED, seen, lock)).kind == "none"
    for packages in ({"idna": "3.9"}, {"idna": "3.10", "by-hand": "1"}, {}):
        changed = observed(environments=[there | {"packages": packages}])
        assert "against the lock" in env(decide(WANTED, changed, lock)).after


# -- the file ----------------------------------------------------------------------------------------------------------

FILES = st.builds(
    LockedFile,
    name=st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True),
    version=st.from_regex(r"[0-9]\.[0-9]", fullmatch=True),
    sha256=st.just(DIGEST),
    url=st.just("https://x.invalid/a-1-0.conda"),
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=8)
ENVIRONMENTS = st.builds(
    LockedEnvironment,
    path=st.just(ENV),
    of=st.builds(HostClass, architecture=st.just("x86_64"), glibc=st.sampled_from(["2.36", "2.41"]), cuda=st.none() | st.just("12.8")),
    hosts=st.lists(TEXT, max_size=3),
    declaration=st.dictionaries(st.sampled_from(["manager", "packages"]), TEXT | st.lists(TEXT, max_size=3)),
    conda=st.lists(FILES, max_size=3),
    wheels=st.lists(FILES, max_size=3),
)  # fmt: skip


@given(st.builds(Lock, environments=st.lists(ENVIRONMENTS, max_size=3)))
def test_a_lock_reads_as_it_was_written(tmp_path_factory, lock):
    path = tmp_path_factory.mktemp("lock") / "llmprov.lock"
    lock_file.write(path, lock)
    assert lock_file.read(path) == lock
    assert lock_file.render(lock_file.read(path)) == path.read_text("utf-8")


def test_a_package_is_a_line(tmp_path):
    lock = lock_of(WANTED, observed())
    lines = lock_file.render(lock).splitlines()
    assert sum('"idna"' in line for line in lines) == 1
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "content", ["", "- 1", "version: 2", "version: 1\nmore: 1", "{", "\x00", "version: 1\ntools: [{name: x}]"]
)
def test_what_is_no_lock_is_one_sentence(tmp_path, content):
    path = tmp_path / "llmprov.lock"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"is no lock of this llmprov"):
        lock_file.read(path)


def test_a_lock_that_cannot_be_written_or_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(LlmprovError, match="cannot be written"):
        lock_file.write(tmp_path / "nowhere/llmprov.lock", Lock())
    with pytest.raises(UsageError, match="there is no lock"):
        lock_file.read(tmp_path / "llmprov.lock")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@x.invalid/simple/a.whl?token=1#f", "https://x.invalid/simple/a.whl"),
        ("https://x.invalid/t/ab-cd/main/linux-64/a.conda", "https://x.invalid/main/linux-64/a.conda"),
        ("file:///srv/channel", "file:///srv/channel"),
        ("conda-forge", "conda-forge"),
    ],
)
def test_no_secret_of_a_url_is_kept(url, shown):
    assert without_secrets(url) == shown


def test_a_channels_secret_is_out_of_the_lock_and_back_where_files_are_fetched():
    channel = "https://u:planted@x.invalid/t/planted/main"
    wanted = desired_conda(
        conda_env={"channels": [channel], "packages": ["idna"], "python": "3.11"}, pytorch={"state": "absent"}
    )
    url = "https://x.invalid/main/linux-64/python-3.11.2-0.conda"
    entry = [LockedFile(name="python", version="3.11.2", sha256=DIGEST, url=url)]
    lock = lock_of(wanted, observed(), conda=entry)
    assert "planted" not in lock_file.render(lock)
    spec, refused = locked.pin(specs.specs(wanted, None)[0][0], wanted, observed(), lock)
    assert refused == []
    assert spec.exact.conda[0].url == f"{channel}/linux-64/python-3.11.2-0.conda"
    assert spec.exact.conda[0].filename == "python-3.11.2-0.conda"


# -- making one --------------------------------------------------------------------------------------------------------


@pytest.fixture
def answered(monkeypatch):
    """What resolving gives: the newest there is, unless something is kept."""
    from llmprov.model import Artifact

    newest = {"idna": "3.11", "tqdm": "4.70"}
    asked = []

    def resolve(spec, desired, seen, kept, once, more=()):
        asked.append((seen.os.glibc, dict(kept.packages)))
        names = [text.split("<")[0] for text in spec.packages]
        rows = [(name, kept.packages.get(name, newest[name])) for name in names]
        return [], [Artifact(filename=f"{n}-{v}-py3-none-any.whl", url=f"https://u:pw@x.invalid/{n}-{v}-py3-none-any.whl", sha256=DIGEST, name=n, version=v) for n, v in rows]  # fmt: skip

    uv = Artifact(filename="uv-1-py3-none-any.whl", url="https://x.invalid/uv-1-py3-none-any.whl", sha256=DIGEST, name="uv", version="0.13.9")  # fmt: skip
    monkeypatch.setattr(locking.environments, "resolve", resolve)
    monkeypatch.setattr(locking.environments, "uv_wheel", lambda *_: uv)
    return asked


def hosts(*names, packages=("idna", "tqdm"), **changes):
    wanted = desired(venv={"packages": list(packages), "python": "3.11"}, pytorch={"state": "absent"})
    return [_Host(name, wanted, observed(**changes), None) for name in names]


TRIXIE = {"os": {"id": "debian", "version_id": "13", "architecture": "x86_64", "glibc": "2.41"}}


def test_an_entry_is_a_class_of_hosts_and_no_secret_is_in_it(answered):
    lock = _resolved([*hosts("b", "a"), *hosts("c", **TRIXIE)], [], Lock(), Upgrade())
    assert [(entry.of.glibc, entry.hosts) for entry in lock.environments] == [("2.36", ["a", "b"]), ("2.41", ["c"])]
    assert "pw" not in lock_file.render(lock)
    assert lock == _resolved([*hosts("c", **TRIXIE), *hosts("a", "b")], [], Lock(), Upgrade()), "order does not matter"


def older(lock, **versions):
    entries = [
        entry.model_copy(update={"wheels": [f.model_copy(update={"version": versions.get(f.name, f.version)}) for f in entry.wheels]})
        for entry in lock.environments
    ]  # fmt: skip
    return lock.model_copy(update={"environments": entries})


@pytest.mark.parametrize(
    ("upgrade", "expected"),
    [
        (Upgrade(), {"idna": "3.9", "tqdm": "4.1"}),
        (Upgrade(True), {"idna": "3.11", "tqdm": "4.70"}),
        (Upgrade(True, ("idna",)), {"idna": "3.11", "tqdm": "4.1"}),
    ],
)
def test_what_is_locked_stays_unless_it_is_upgraded(answered, upgrade, expected):
    before = older(_resolved(hosts("a"), [], Lock(), Upgrade()), idna="3.9", tqdm="4.1")
    assert _resolved(hosts("a"), [], before, upgrade).environments[0].versions() == expected


def test_hosts_that_were_not_asked_keep_their_part(answered):
    before = older(_resolved([*hosts("a", "b"), *hosts("c", **TRIXIE)], [], Lock(), Upgrade()), idna="3.9")
    fresh = _resolved(hosts("a"), [], before, Upgrade(True))
    both = _with_others(fresh, before, {"b", "c"})
    told = {(entry.of.glibc, tuple(entry.hosts)): entry.versions()["idna"] for entry in both.environments}
    assert told == {("2.36", ("a",)): "3.11", ("2.36", ("b",)): "3.9", ("2.41", ("c",)): "3.9"}
    # A host that left the inventory leaves the lock.
    assert {h for entry in _with_others(fresh, before, {"b"}).environments for h in entry.hosts} == {"a", "b"}


@given(*itertools.repeat(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12")), 2))
def test_moves_tell_each_difference_once(was, has):
    lines = moves(was, has)
    assert sorted(line.split(" ")[1] for line in lines) == sorted(n for n in {*was, *has} if was.get(n) != has.get(n))


def test_an_answer_is_asked_for_once():
    asked = []
    answers = _Answers()
    for _ in range(3):
        answers.once("key", lambda: asked.append(1) or [])
    assert asked == [1]


def test_hosts_of_one_class_that_move_apart_are_told_apart(answered):
    before = older(_resolved(hosts("a", "b"), [], Lock(), Upgrade()), idna="3.9")
    fresh = _resolved(hosts("a"), [], before, Upgrade(True))
    made = locking.Locked(_with_others(fresh, before, {"b"}), before, fleet=None)
    assert made.moves() == {f"{ENV} (x86_64, glibc 2.36) on a": ["~ idna 3.9 -> 3.11"]}
    assert locking.Locked(before, before, fleet=None).moves() == {}


@pytest.mark.parametrize(("branch", "locked_version"), [("580.95.05", "580.95.05"), ("580", None)])
def test_a_driver_of_an_exact_version_is_locked_and_another_is_refused(answered, branch, locked_version):
    """Only where its version was pinned: else the archive decides, and a lock could not hold it."""

    def wanted(branch):
        driver = {"state": "present", "repository": "nvidia", "branch": branch}
        return desired(venv={"python": "3.11"}, pytorch={"state": "absent"}, nvidia_driver=driver)

    seen = observed(devices=[gpu("2330")])
    lock = _resolved([_Host("a", wanted(branch), seen, None)], [], Lock(), Upgrade())
    assert [driver.version for driver in lock.drivers] == ([locked_version] if locked_version else [])
    assert decide(wanted(branch), seen, lock).refusals == []
    (refusal,) = decide(wanted("580.82.07"), seen, lock).refusals
    assert refusal.component == "nvidia_driver"
    assert "580.82.07" in refusal.sentence()

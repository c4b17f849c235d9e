"""Which saved host a new one starts from, names, what is removed with a snapshot; all without a host."""

from __future__ import annotations

import datetime
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest

from llmprov.errors import LabError, UsageError
from llmprov.lab.fleet import Fleet
from llmprov.lab.lock import held
from llmprov.lab.records import HostRecord, LabRecord, Snapshot, Tree, write_record
from llmprov.lab.snapshot import Snapshots


def snapshot(name: str, **layers: str) -> Snapshot:
    hosts = {host: Tree(release="bookworm", base="bookworm-1", layers=value.split()) for host, value in layers.items()}
    return Snapshot(name=name, lab="a", saved_at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), hosts=hosts)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A machine with two snapshots, `two` and `later`; `later` was saved from a lab that was started from `two`."""
    for layer in ("l1", "l2", "l3", "stray"):
        (tmp_path / "layers" / layer).mkdir(parents=True)
    for tree in ("bookworm-1", "trixie-1"):
        (tmp_path / "base" / tree).mkdir(parents=True)
    (tmp_path / "conda").mkdir()
    known = Snapshots(tmp_path)
    known.add(snapshot("two", a1="l1", a2="l2"))
    known.add(snapshot("later", b1="l3 l1"))
    return tmp_path


def test_host_number_i_starts_from_saved_host_number_i():
    assert snapshot("two", a1="l1", a2="l2").choose([1, 2]) == {1: "a1", 2: "a2"}
    assert snapshot("two", a1="l1", a2="l2").choose([2]) == {2: "a2"}


def test_one_saved_host_serves_any_number():
    assert snapshot("one", a1="l1").choose([1, 2, 3]) == {1: "a1", 2: "a1", 3: "a1"}
    assert snapshot("two", a1="l1", a2="l2").choose([1, 2, 3], "a2") == {1: "a2", 2: "a2", 3: "a2"}


def test_what_does_not_fit_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match=r"has 2 hosts, so there is none for host number 3.*--from two/a1"):
        snapshot("two", a1="l1", a2="l2").choose([1, 2, 3])
    with pytest.raises(UsageError, match="has no host 'a9'; it has a1, a2"):
        snapshot("two", a1="l1", a2="l2").choose([1], "a9")


def test_trees_come_with_the_name_of_their_source(state):
    assert Snapshots(state).trees("two", [2])[2][0] == "two/a2"
    origin, tree = Snapshots(state).trees("later/b1", [1])[1]
    assert (origin, tree.layers) == ("later/b1", ["l3", "l1"])
    assert Snapshots(state).lower(tree) == (state / "layers/l3", state / "layers/l1", state / "base/bookworm-1")


def test_a_snapshot_that_is_not_there_is_named(state):
    with pytest.raises(UsageError, match="there is no snapshot 'x'; this machine has"):
        Snapshots(state).trees("x", [1])


@pytest.mark.parametrize("gone", ["base/bookworm-1", "layers/l1"])
def test_a_snapshot_without_its_files_says_which_are_gone(state, gone):
    shutil.rmtree(state / gone)
    with pytest.raises(LabError, match=f"needs .*/{gone}, which is gone: remove it with"):
        Snapshots(state).trees("two/a1", [1])


@pytest.mark.parametrize("name", ["", "-x", "Big", "a/b", "../up", "x" * 41, "x y"])
def test_names_are_checked(state, name):
    with pytest.raises(UsageError, match="a snapshot's name has"):
        Snapshots(state).require_free(name)


def test_a_name_that_is_taken_is_refused(state):
    with pytest.raises(UsageError, match="there is a snapshot two already"):
        Snapshots(state).require_free("two")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*")}


def test_layers_of_a_removed_snapshot_stay_while_another_needs_them(state):
    Snapshots(state).remove("two")
    assert names(state / "layers") == {"l1", "l3"}
    assert names(state / "base") == {"bookworm-1"}
    assert (state / "conda").exists()
    Snapshots(state).remove("later")
    assert not state.exists() or not list(state.iterdir())


def test_base_trees_can_be_kept(state):
    Snapshots(state).remove("two", keep_base=True)
    assert names(state / "base") == {"bookworm-1", "trixie-1"}


def test_a_snapshot_in_use_is_not_removed_and_the_lab_is_named(state):
    host = HostRecord(release="bookworm", base="bookworm-1", layers=["l1"], upper="stray", snapshot="two/a1")
    write_record(state / "labs" / "b" / "lab.json", LabRecord(hosts={"b1": host}))
    with pytest.raises(LabError, match="hosts of lab b were started from it; `llmprov lab down --prefix b` first"):
        Snapshots(state).remove("two")
    assert names(state / "layers") == {"l1", "l2", "l3", "stray"}
    # Another one goes, and what the lab needs stays, its base tree and the one layer that it writes to included.
    Snapshots(state).remove("later")
    assert names(state / "layers") == {"l1", "l2", "stray"}
    assert names(state / "base") == {"bookworm-1", "trixie-1"}


def test_a_removed_lab_takes_its_layers_and_leaves_those_of_snapshots(state):
    host = HostRecord(release="bookworm", base="bookworm-1", layers=["l1"], upper="stray", snapshot="two/a1")
    write_record(state / "labs" / "b" / "lab.json", LabRecord(hosts={"b1": host}))
    (state / "labs" / "b" / "lab.json").unlink()
    known = Snapshots(state)
    with known.lock():
        known.remove_unused(keep_base=False)()
    assert names(state / "layers") == {"l1", "l2", "l3"}
    assert names(state / "base") == {"bookworm-1"}


def test_a_snapshot_brings_its_release_and_packages(tmp_path):
    with pytest.raises(UsageError, match="leave out --release and --package"):
        Fleet("x", tmp_path).up(1, release="trixie", from_snapshot="two")


def add_one(counter: Path, lock: Path) -> None:
    for _ in range(10):
        with held(lock):
            before = int(counter.read_text())
            time.sleep(0.001)  # long enough for another process to read the same number, were there no lock
            counter.write_text(str(before + 1))
            lock.unlink()


def test_a_lock_holds_even_where_each_holder_deletes_its_file(tmp_path):
    counter, lock = tmp_path / "counter", tmp_path / "locks" / "lock"
    counter.write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_one, args=(counter, lock)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert counter.read_text() == "40"

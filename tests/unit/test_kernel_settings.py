"""Settings of the machine that labs change: set for the time of the labs, and then as they were."""

from __future__ import annotations

from llmprov.lab import kernel


def test_a_setting_gets_the_value_back_that_it_had_before_the_first_lab(tmp_path):
    state, first, second = tmp_path / "state", tmp_path / "first", tmp_path / "second"
    state.mkdir()
    first.write_text("0\n")
    second.write_text("7\n")
    kernel.change(state, {first: "1"})
    kernel.change(state, {first: "2", second: "8"})
    assert (first.read_text(), second.read_text()) == ("2", "8")
    kernel.restore(state)
    assert (first.read_text(), second.read_text()) == ("0", "7")
    assert list(state.iterdir()) == []
    kernel.restore(state)


def test_a_setting_that_went_with_its_interface_is_no_error(tmp_path):
    setting = tmp_path / "gone"
    setting.write_text("0")
    kernel.change(tmp_path, {setting: "1"})
    setting.unlink()
    kernel.restore(tmp_path)
    assert not setting.exists()


def test_a_limit_that_is_high_enough_stays(tmp_path, monkeypatch):
    limit = tmp_path / "limit"
    monkeypatch.setattr(kernel, "INOTIFY", limit)
    for before, after in (("128\n", "4096"), ("9000\n", "9000\n")):
        limit.write_text(before)
        kernel.allow_many_hosts(tmp_path)
        assert limit.read_text() == after
        kernel.restore(tmp_path)
        assert limit.read_text().strip() == before.strip()

"""Hosts against their cohort, cards against their host, runs against a baseline; and who computes differently."""

from __future__ import annotations

import random

import pytest

from llmprov.model import Device, Measurement, Status
from llmprov.report import aggregate, compare, digests
from tests.unit.builders import gpu, observed, row, run_info

KEY = "train.tokens_per_s"


def measured(value: float, device: str = "gpu0", key: str = KEY, samples: list[float] | None = None) -> Measurement:
    return Measurement(key=key, value=value, unit="tokens/s", device=device, samples=samples or [])


def host(name: str, *values: float, groups: tuple[str, ...] = (), **more: object):
    figures = [measured(value, f"gpu{n}") for n, value in enumerate(values)]
    return row(
        name, Status.PASS, measurements=figures, groups=list(groups), torch="2.13.0", observation=observed(), **more
    )


def cohort(count: int, *, cards: int = 1, scale: float = 0.01, seed: int = 1) -> list:
    dice = random.Random(seed)
    return [host(f"h{n:02d}", *(1000 * dice.gauss(1, scale) for _ in range(cards))) for n in range(count)]


def test_a_slow_host_is_named_with_its_figures():
    rows = [*cohort(20), host("slow", 690)]
    found = compare.within(rows)
    (check,) = found.checks["slow"]
    assert set(found.checks) == {"slow"}
    assert check.id == "cohort.train.tokens_per_s"
    assert check.status == "warn"
    assert "31% slower" in check.summary
    assert check.measured == 690
    assert 990 < check.expected < 1010
    assert "modified z-score -" in check.evidence


def test_too_few_hosts_are_not_judged_and_that_is_said():
    found = compare.within([*cohort(3), host("slow", 500)])
    assert not found.checks
    (figure,) = found.figures
    assert (figure.limit, figure.unjudged) == (None, "too few hosts to judge: 4, and 5 are needed")


def test_what_does_not_matter_is_not_said():
    rows = [*cohort(20, scale=0.0001), host("four", 960), host("six", 940)]
    assert set(compare.within(rows).checks) == {"six"}
    assert set(compare.within(rows, effect=0.03).checks) == {"four", "six"}


def test_a_host_that_reads_unsteadily_is_not_called_slow():
    steady, wild = [1000 + n % 3 for n in range(30)], [100.0, 3000.0] * 5
    rows = cohort(20)
    assert compare.within([*rows, row("x", Status.PASS, measurements=[measured(900, samples=steady)])]).checks
    assert not compare.within([*rows, row("x", Status.PASS, measurements=[measured(900, samples=wild)])]).checks


def test_the_steps_are_the_repeats_of_a_training():
    step = Measurement(key="train.step_time_ms", value=8, unit="ms", device="gpu0", samples=[1.0, 90.0] * 5)
    wild = row("x", Status.PASS, measurements=[measured(900), step])
    assert not compare.within([*cohort(20), wild]).checks


def test_one_slow_card_of_eight_is_named_and_its_host_is_not():
    rows = cohort(6, cards=8)
    rows.append(host("slow", *[1000.0] * 3, 850, *[1000.0] * 4))
    found = compare.within(rows)
    (check,) = found.checks["slow"]
    assert check.id == "cohort.gpu3.train.tokens_per_s"
    assert "15% slower on gpu3" in check.summary


def test_one_host_is_enough_to_name_its_slow_card():
    found = compare.within([host("only", *[1000.0, 1001, 999, 1002, 998, 1000, 1001], 800)])
    assert [check.id for check in found.checks["only"]] == ["cohort.gpu7.train.tokens_per_s"]


def test_of_two_cards_the_slow_one_is_named():
    rows = [*cohort(10, cards=2), host("one", 1000, 800), host("both", 800, 805)]
    found = compare.within(rows)
    assert [check.id for check in found.checks["one"]] == ["cohort.gpu1.train.tokens_per_s"]
    assert [check.id for check in found.checks["both"]] == ["cohort.train.tokens_per_s"]


def test_a_slow_rack_is_told_by_what_it_has_in_common():
    fast = [host(f"a{n}", 1000 + n % 7, groups=("rack1",)) for n in range(30)]
    slow = [host(f"b{n}", 900 + n % 7, groups=("rack2",)) for n in range(10)]
    found = compare.within([*fast, *slow])
    assert set(found.checks) == {row.host for row in slow}
    assert all("in common: group rack2" in checks[0].evidence for checks in found.checks.values())
    assert any("hosts are of two kinds: 30 around" in note and "group rack2" in note for note in found.notes)


def test_where_most_are_slow_nobody_is_accused():
    rows = [host(f"a{n}", 1000 + n % 7) for n in range(10)] + [host(f"b{n}", 900 + n % 7) for n in range(30)]
    found = compare.within(rows)
    assert not found.checks
    assert any("nothing that was observed parts them" in note for note in found.notes)


def test_noise_on_both_sides_names_nobody():
    rows = [*cohort(40), *(host(f"low{n}", 850 + n) for n in range(3)), *(host(f"high{n}", 1170 + n) for n in range(3))]
    found = compare.within(rows)
    assert not found.checks
    assert any("it scatters" in note for note in found.notes)


def test_a_smaller_model_is_not_compared():
    def sized(name: str, value: float, parameters: float):
        figures = [measured(value), measured(parameters, key="train.parameters")]
        return row(name, Status.PASS, measurements=figures)

    rows = [sized(f"h{n}", 1000 + n, 355e6) for n in range(8)] + [sized("small", 300, 124e6)]
    found = compare.within(rows)
    assert not found.checks
    assert found.notes == ["training: not compared, as they measured with another size of model: small"]


def test_where_nobody_measured_with_the_usual_size_nothing_is_compared():
    sizes = [row(f"s{n}", Status.PASS, measurements=[measured(355e6, key="train.parameters")]) for n in range(6)]
    odd = [measured(300.0), measured(124e6, key="train.parameters")]
    found = compare.within([*sizes, row("odd", Status.PASS, measurements=odd)])
    assert not found.figures
    assert "another size of model: odd" in found.notes[0]


@pytest.mark.parametrize("scale", [0.0, 1e-9])
def test_equal_figures_make_no_division_by_nothing(scale):
    rows = [host(f"h{n}", 1000 + scale * n) for n in range(8)]
    assert not compare.within(rows).checks
    assert set(compare.within([*rows, host("slow", 900)]).checks) == {"slow"}


def test_a_figure_of_nothing_is_left_out():
    rows = [*cohort(8), host("zero", 0.0)]
    assert "zero" not in compare.within(rows).checks


# -- the report --------------------------------------------------------------------------------------------------


def told(rows, **more):
    return aggregate.fleet(run_info(), rows, lambda _: 0, [], **more)


def test_a_slow_host_that_passed_is_a_warning_and_comes_first():
    fleet = told([*cohort(20), host("slow", 690)])
    first = fleet.hosts[0]
    assert (first.host, first.status) == ("slow", Status.WARN)
    assert "31% slower" in first.summary
    assert fleet.counts == {Status.WARN: 1, Status.PASS: 20}


def test_a_failing_host_stays_failing_when_it_is_slow_too():
    bad = host("slow", 690).model_copy(update={"status": Status.FAIL, "summary": "a card is gone"})
    first = told([*cohort(20), bad]).hosts[0]
    assert first.status is Status.FAIL
    assert "a card is gone" in first.summary


def test_hosts_of_another_kind_are_another_cohort():
    slow = [
        host(
            f"p{n}",
            500,
        ).model_copy(update={"observation": observed(cpu_model="another")})
        for n in range(3)
    ]
    fleet = told([*cohort(20), *slow])
    assert len(fleet.cohorts) == 2
    assert not any(row.status is Status.WARN for row in fleet.hosts)


def test_an_unmeasured_host_is_in_no_cohort():
    fleet = told([row("dead", Status.UNREACHABLE, summary="no answer"), *cohort(5)])
    assert fleet.hosts[0].cohort is None
    assert fleet.cohorts[0].hosts == [f"h{n:02d}" for n in range(5)]


def test_the_effect_can_be_judged_anew():
    fleet = told([*cohort(20, scale=0.0001), host("six", 940)])
    assert fleet.counts[Status.WARN] == 1
    again = aggregate.again(fleet, lambda _: 7, 0.1, None)
    assert (again.counts, again.exit_code) == ({Status.PASS: 21}, 7)
    back = aggregate.again(again, lambda _: 0, 0.05, None)
    assert back.hosts[0].status is Status.WARN
    assert back.hosts[0].summary == fleet.hosts[0].summary


# -- baselines ---------------------------------------------------------------------------------------------------


def test_a_host_is_held_against_itself():
    before = told([host("a", 1000), host("b", 800)])
    after = told([host("a", 900), host("b", 800)], baseline=compare.baseline_of(before))
    assert {row.host: row.status for row in after.hosts} == {"a": Status.WARN, "b": Status.PASS}
    assert "10% slower than in the baseline" in after.hosts[0].summary
    assert after.baseline == before.run.id


def test_a_cohort_that_moved_as_a_whole_says_so():
    before = told(cohort(8))
    slower = [host(r.host, r.measurements[0].value * 0.9) for r in cohort(8)]
    after = told(slower, baseline=compare.baseline_of(before))
    assert any("8 hosts are 10% slower in the median than in baseline" in note for note in after.cohorts[0].notes)


def test_another_torch_is_not_held_against_the_old():
    before = told([host("a", 1000)])
    moved = host("a", 500).model_copy(update={"torch": "2.14.0"})
    after = told([moved], baseline=compare.baseline_of(before))
    assert after.hosts[0].status is Status.PASS
    assert any("another cohort then: a" in note for note in after.cohorts[0].notes)


# -- digests -----------------------------------------------------------------------------------------------------

RIGHT, WRONG, ODD = "a" * 64, "b" * 64, "c" * 64


def voter(name: str, *given: str):
    marks = {f"gpu{n}.gradients": digest for n, digest in enumerate(given)}
    devices = [Device(label=f"gpu{n}", name="H100") for n in range(len(given))]
    return host(name, 1000.0, digests=marks, devices=devices)


def test_who_computes_differently_fails():
    rows = [voter("a", RIGHT, RIGHT), voter("b", RIGHT, WRONG), voter("c", RIGHT)]
    (check,) = digests.vote(rows).checks["b"]
    assert (check.id, check.status) == ("cohort.gpu1.gradients.digest", "fail")
    assert "than 4 of the 5 devices" in check.summary
    fleet = told(rows)
    assert (fleet.hosts[0].host, fleet.hosts[0].status) == ("b", Status.FAIL)
    assert fleet.hosts[0].cause.step == "replace"


@pytest.mark.parametrize("given", [[RIGHT, WRONG], [RIGHT, RIGHT, WRONG, WRONG], [RIGHT, WRONG, ODD]])
def test_without_a_majority_nobody_is_accused(given):
    found = digests.vote([voter(f"h{n}", digest) for n, digest in enumerate(given)])
    assert not found.checks
    assert "no majority" in found.notes[0]


def test_two_kinds_of_cards_vote_apart():
    other = [voter(f"l{n}", WRONG) for n in range(3)]
    for one in other:
        one.devices[0].name = "L40S"
    found = digests.vote([voter("a", RIGHT), voter("b", RIGHT), voter("c", RIGHT), *other])
    assert not found.checks
    assert not found.notes


def test_a_driver_another_machine_has_is_no_trait_of_all():
    seen = [observed(driver={"module_version": "580.1"}, devices=[gpu("2330")])] * 2
    rows = [
        host(
            "a",
            1.0,
        ).model_copy(update={"observation": seen[0]})
    ]
    assert compare.in_common(["a"], ["a", "b"], {row.host: frozenset() for row in rows}) == ""

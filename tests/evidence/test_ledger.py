from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import studies.__main__ as listing
from studies.evidence import ledger
from studies.evidence.claims import Claim, ClaimPart
from studies.evidence.ledger import (
    Certainty,
    Evidence,
    ExactFound,
    make_ledger,
    make_part_row,
    make_row,
    read_ledger,
)
from studies.evidence.schema import (
    Arm,
    DataUsed,
    Measurement,
    MetricUsed,
    PartFound,
    Provenance,
    ResultsError,
    Summary,
    Tuning,
    write_summary,
)

OUTCOMES = {
    "yes": (0.003, "by more than m"),
    "no": (-0.003, "reversed"),
    "inconclusive": (0.0, "the interval reaches the margin"),
}


def found(outcome="yes", part="48", n=20, **changes):
    estimate, reason = OUTCOMES[outcome]
    fields = {
        "part": part, "says": "a beats b", "form": "superior", "metric": "rmse", "better": "lower",
        "weights": {"a": 1, "b": -1}, "margin": 0.002, "estimate": estimate, "low": estimate - 0.0005,
        "high": estimate + 0.0005, "n": n, "interval": "corrected t", "outcome": outcome, "reason": reason,
        "declared": "d",
    }  # fmt: skip
    return PartFound(**fields | changes)


def evidence(outcome="yes", part="48", data="movielens", n=20, source="study", **changes):
    of_found = {key: changes.pop(key) for key in ("reason", "changed") if key in changes}
    return Evidence(found(outcome, part, n, **of_found), source=source, data=data, title=data, **changes)


def part(part_id="1", kind="measured", **changes):
    return ClaimPart(id=part_id, kind=kind, says=f"Part {part_id} is so.", check="k", **changes)


def claim(*parts):
    return Claim(id=1, sections={}, topic="Loss", claim="c", part=parts)


def row(*parts, evidence=(), exact=()):
    """The row of a claim, evidence and exact checks given by part."""
    checks = {check.part: check for check in exact}
    return make_row(
        claim(*parts),
        [make_part_row(p, [e for e in evidence if e.found.part == p.id], checks.get(p.id)) for p in parts],
    )


def check(part_id, holds=True, expected=None):
    return ExactFound(
        part=part_id, holds=holds, expected=holds if expected is None else expected, figure="1e-9", check="m.f"
    )


SIX = part("1", conditions=("d1", "d2", "d3", "d4", "d5", "d6"))


class TestOverConditions:
    @pytest.mark.parametrize(
        ("outcomes", "verdict", "words"),
        [
            (["yes"] * 6, "holds", "holds"),
            (["yes"], "holds so far", "holds so far (1 of 6)"),
            (["yes"] + ["inconclusive"] * 5, "holds so far", "holds so far (1 of 6)"),
            (["yes", "no"], "depends", "depends on the data: yes on d1, no on d2"),
            (["no"], "fails", "fails so far (1 of 6)"),
            (["no"] * 6, "fails", "fails"),
            (["no", "inconclusive"], "fails", "fails so far (1 of 6)"),
            (["inconclusive"] * 6, "inconclusive", "inconclusive"),
            ([], "not run", "not run"),
        ],
    )
    def test_a_part_is_joined_over_the_data_its_check_asks_for(self, outcomes, verdict, words):
        given = [evidence(o, "1", data=f"d{i}") for i, o in enumerate(outcomes, start=1)]
        joined = make_part_row(SIX, given)
        assert (joined.verdict, joined.words) == (verdict, words)
        assert joined.missing == tuple(f"d{i}" for i in range(len(outcomes) + 1, 7))

    def test_another_declared_data_set_is_a_condition_too(self):
        one = part(conditions=("movielens",))
        assert make_part_row(one, [evidence("yes", "1"), evidence("no", "1", data="filmtrust")]).verdict == "depends"
        assert make_part_row(one, [evidence("yes", "1", data="filmtrust")]).words == "holds so far (1 of 2)"

    @pytest.mark.parametrize(
        ("outcome", "verdict"),
        [("yes", "holds on a stand-in"), ("no", "not seen on a stand-in"), ("inconclusive", "inconclusive")],
    )
    def test_a_stand_in_alone_never_holds_or_fails(self, outcome, verdict):
        one = part(conditions=("mnist",))
        assert make_part_row(one, [evidence(outcome, "1", data="digits", protocol="stand-in")]).verdict == verdict
        assert row(one, evidence=[evidence(outcome, "1", data="digits", protocol="stand-in")]).verdict == verdict

    def test_the_data_themselves_speak_before_their_stand_in(self):
        one = part(conditions=("mnist",))
        standing_in = evidence("yes", "1", data="digits", protocol="stand-in")
        assert make_part_row(one, [standing_in, evidence("no", "1", data="mnist")]).verdict == "fails"

    def test_the_users_own_data_have_a_column_and_no_say(self):
        joined = make_part_row(part(), [evidence("yes", "1"), evidence("no", "1", data="mine", own=True)])
        assert joined.verdict == "holds"
        assert [condition.data for condition in joined.own] == ["mine"]
        assert make_part_row(part(), [evidence("no", "1", own=True)]).verdict == "not run"


class TestStrength:
    @pytest.mark.parametrize(
        ("weaker", "stronger"),
        [
            ({"profile": "quick"}, {"profile": "regular"}),
            ({"profile": "regular"}, {"profile": "full"}),
            ({"profile": "full", "tuned": False}, {"profile": "quick", "tuned": True}),
            ({"n": 20}, {"n": 30}),
            ({"profile": "custom", "n": 400}, {"profile": "quick", "n": 10, "tuned": False}),
            ({"profile": "full", "n": 5, "reason": "too few seeds"}, {"profile": "quick", "n": 10}),
        ],
        ids=str,
    )
    def test_the_strongest_evidence_of_a_condition_decides(self, weaker, stronger):
        weak, strong = evidence("no", "1", **weaker), evidence("yes", "1", **stronger)
        for order in ([weak, strong], [strong, weak]):
            (condition,) = make_part_row(part(), order).conditions
            assert condition.used is strong
            assert condition.superseded == (weak,)

    def test_quick_and_regular_of_one_study_are_one_condition(self):
        joined = make_part_row(part(), [evidence("no", "1", profile="quick"), evidence("yes", "1", profile="regular")])
        assert joined.verdict == "holds"


class TestOverParts:
    def test_a_refuted_part_beside_an_open_one_refutes_the_claim(self):
        refuted = row(part("1a"), part("1b"), evidence=[evidence("no", "1a"), evidence("inconclusive", "1b")])
        assert refuted.verdict == "fails"
        assert row(part("1a"), part("1b"), evidence=[evidence("no", "1a")]).verdict == "fails"

    @pytest.mark.parametrize(
        ("outcomes", "words"),
        [
            (("yes", "yes", "yes", "yes"), "holds"),
            (("yes", "yes", "inconclusive", None), "inconclusive, 2 of 4 parts open"),
            (("yes", "yes", "yes", "no"), "fails"),
            ((None, None, None, None), "not run"),
        ],
    )
    def test_a_claim_is_joined_over_its_parts(self, outcomes, words):
        parts = [part(f"1{letter}") for letter in "abcd"]
        given = [evidence(o, p.id) for o, p in zip(outcomes, parts, strict=True) if o]
        assert row(*parts, evidence=given).words == words

    def test_one_part_that_depends_makes_the_claim_depend(self):
        given = [evidence("yes", "1a"), evidence("no", "1a", data="digits"), evidence("yes", "1b")]
        joined = row(part("1a"), part("1b"), evidence=given)
        assert (joined.verdict, joined.words) == ("depends", "depends on the data: yes on movielens, no on digits")

    def test_a_part_that_is_ours_never_changes_the_verdict(self):
        parts = part("1a"), part("1b", role="extra")
        assert row(*parts, evidence=[evidence("yes", "1a"), evidence("no", "1b")]).verdict == "holds"

    def test_so_far_in_one_part_is_so_far_in_the_claim(self):
        parts = part("1a"), part("1b", conditions=("movielens", "digits"))
        joined = row(*parts, evidence=[evidence("yes", "1a"), evidence("yes", "1b")])
        assert (joined.verdict, joined.words) == ("holds so far", "holds so far (1 of 2)")

    def test_a_stand_in_beside_what_holds_makes_the_claim_one_of_stand_ins(self):
        given = [evidence("yes", "1a"), evidence("yes", "1b", protocol="stand-in")]
        assert row(part("1a"), part("1b"), evidence=given).verdict == "holds on a stand-in"
        given = [evidence("yes", "1a"), evidence("no", "1b", protocol="stand-in")]
        assert row(part("1a"), part("1b"), evidence=given).verdict == "not seen on a stand-in"

    def test_a_claim_that_does_not_hold_is_shown_with_its_true_form(self):
        parts = part("1a", kind="exact", role="weaker"), part("1b")
        failed = row(*parts, evidence=[evidence("no", "1b")], exact=[check("1a")])
        assert (failed.verdict, failed.words) == ("fails", "false as stated; true that part 1a is so.")
        open_still = row(*parts, exact=[check("1a")])
        assert (open_still.verdict, open_still.words) == ("not run", "open as stated; true that part 1a is so.")
        holds = row(*parts, evidence=[evidence("yes", "1b")], exact=[check("1a")])
        assert (holds.words, holds.true_form) == ("holds", ())
        assert row(*parts, evidence=[evidence("no", "1b")], exact=[check("1a", holds=False)]).words == "fails"

    def test_an_exact_part_is_true_or_false(self):
        assert row(part("1", kind="exact"), exact=[check("1")]).words == "true"
        assert row(
            part("1a", kind="exact"), part("1b", kind="exact"), exact=[check("1a"), check("1b", False)]
        ).words == ("false")
        ours = part("1", kind="by construction", source="s")
        assert row(ours, exact=[check("1")]).words == "true by construction"
        cited = part("1a", kind="cited", source="s")
        assert row(part("1", kind="cited", source="s")).words == "cited"
        assert row(cited, part("1b")).words == "not run"
        assert row(cited, part("1b"), evidence=[evidence("yes", "1b")]).words == "holds"
        assert row(
            part("1a", kind="exact"), part("1b"), evidence=[evidence("yes", "1b")], exact=[check("1a")]
        ).verdict == ("holds")

    @given(st.lists(st.sampled_from(["yes", "no", "inconclusive", None]), min_size=1, max_size=6), st.randoms())
    def test_the_order_of_parts_and_evidence_changes_no_verdict(self, outcomes, random):
        letters = "abcdef"[: len(outcomes)] if len(outcomes) > 1 else [""]
        parts = [part(f"1{letter}") for letter in letters]
        given = [evidence(o, p.id, data=d) for o, p in zip(outcomes, parts, strict=True) if o for d in ("x", "y")]
        before = row(*parts, evidence=given).verdict
        random.shuffle(given)
        assert row(*parts, evidence=given).verdict == before
        assert ("no" in outcomes) == (before == "fails")


class TestCertainty:
    def test_a_level_is_lost_for_each_doubt(self):
        def of(*given, **changes):
            return row(part("1", conditions=("movielens",), **changes), evidence=given).certainty

        assert of(evidence("yes", "1"), general=False) == Certainty("high", ())
        assert of(evidence("yes", "1"), evidence("yes", "1", data="d")) == Certainty("high", ())
        assert of(evidence("yes", "1")) == Certainty("moderate", ("one data set for a general sentence",))
        assert of(evidence("yes", "1", preliminary=True, tuned=False), general=False) == Certainty(
            "low", ("not retuned", "preliminary")
        )
        assert of(evidence("yes", "1", protocol="stand-in", preliminary=True, tuned=False, changed=True)) == Certainty(
            "very low",
            ("one data set for a general sentence", "stand-in", "not retuned", "preliminary", "declared after looking"),
        )
        reaches = evidence("yes", "1", reason="by more than 0")
        assert of(reaches, general=False) == Certainty("moderate", ("the interval reaches the margin",))

    def test_a_doubt_of_two_parts_is_one(self):
        given = [evidence("yes", p, preliminary=True) for p in ("1a", "1b")]
        parts = part("1a", general=False), part("1b", general=False)
        assert row(*parts, evidence=given).certainty == Certainty("moderate", ("preliminary",))

    def test_only_deciding_evidence_causes_doubts(self):
        given = [evidence("yes", "1"), evidence("no", "1", profile="quick", preliminary=True)]
        assert row(part(general=False), evidence=given).certainty == Certainty("high", ())

    def test_what_is_open_exact_or_cited_has_none(self):
        assert row(part(), evidence=[evidence("inconclusive", "1")]).certainty is None
        assert row(part("1", kind="exact"), exact=[check("1")]).certainty is None
        assert row(part()).certainty is None


TRIALS = [{"lr": 0.01, "rmse": 0.9}, {"lr": 0.1, "rmse": 0.95}]


def summary(outcome="yes", data="movielens", profile="regular", tuned=("a", "b"), **changes):
    arm = Arm(settings={"wd": 0.1}, n=20, metrics={"rmse": Measurement(mean=0.9, sd=0.01, n=20)})
    fields = {
        "study": "wd_sweep",
        "title": "Weight decay",
        "question": "Does it?",
        "profile": profile,
        "metrics": {"rmse": MetricUsed(title="RMSE", better="lower", smallest=0.002)},
        "arms": {"a": arm, "b": arm},
        "parts": [found(outcome)],
        "tuning": [Tuning(arm=name, chosen={"lr": 0.01}, trials=TRIALS, best_of_k=[]) for name in tuned],
        "preliminary": profile == "quick",
        "data": DataUsed(key=data, name=data.title(), checksum="c", size={"ratings": 9}),
        "provenance": Provenance(
            command="c", commit=None, dirty=None, commits=[], spec_hash="s", recipe=1, threads=1, workers=1,
            seeds=list(range(20)), trials={}, seconds=1.0, started="t", finished="t", python="3", platform="p",
            cpu="c", cores=2, gpu=None, versions={},
        ),
    }  # fmt: skip
    return Summary(**fields | changes)


def leave(results: Path, left: Summary, *folders: str) -> Path:
    path = results.joinpath(*(folders or (left.study, left.data.key, left.profile)), "summary.json")
    write_summary(left, path)
    return path


class TestReadLedger:
    def test_every_claim_has_a_row_and_most_are_not_run(self, tmp_path):
        read = read_ledger(tmp_path)
        assert [row.claim.id for row in read.rows] == list(range(1, 86))
        assert read.rows[47].words == "not run"
        assert read.rows[47].parts[0].missing == ("movielens", "filmtrust", "digits", "adult", "flights")
        assert read.problems == []

    def test_quick_and_regular_and_other_data_are_joined(self, tmp_path):
        leave(tmp_path, summary("no", profile="quick", tuned=()))
        path = leave(tmp_path, summary("yes"))
        leave(tmp_path, summary("inconclusive", data="digits"))
        leave(tmp_path, summary("no", data="my-ratings", own=True))
        row = read_ledger(tmp_path).rows[47]
        assert row.words == "holds so far (1 of 5)"
        assert row.parts[0].missing == ("filmtrust", "adult", "flights")
        used = row.parts[0].conditions[1]
        assert (used.used.path, [e.profile for e in used.superseded]) == (path, ["quick"])
        assert [condition.data for condition in row.parts[0].own] == ["my-ratings"]
        assert len(row.evidence) == 4

    def test_two_files_of_ones_own_that_have_one_name_are_two_data_sets(self, tmp_path):
        used = summary().data
        for folder, outcome in (("one", "yes"), ("two", "no")):
            mine = used.model_copy(update={"key": "small", "checksum": folder})
            leave(tmp_path, summary(outcome, own=True).model_copy(update={"data": mine}), folder)
        own = read_ledger(tmp_path).rows[47].parts[0].own
        assert [(condition.outcome, condition.superseded) for condition in own] == [("yes", ()), ("no", ())]

    def test_exact_checks_speak_of_parts_and_slips(self, tmp_path):
        checks = [check("51a"), check("79a"), check("79b", holds=False), check("slip 15")]
        self.leave_exact(tmp_path, checks)
        read = read_ledger(tmp_path)
        assert read.rows[50].words.startswith("open as stated; true that for plain SGD")
        assert read.rows[78].words == "false as stated; true that the five are right in decimal logarithms."
        assert read.slips[15].figure == "1e-9"
        assert read.problems == []

    def test_a_check_that_surprises_or_that_no_part_asks_for_is_a_problem(self, tmp_path):
        self.leave_exact(
            tmp_path, [check("51a", holds=False, expected=True), check("48"), check("99"), check("slip 99")]
        )
        read = read_ledger(tmp_path)
        assert len(read.problems) == 4
        assert "51a comes out false, unexpectedly" in read.problems[0]
        assert read.rows[50].parts[0].verdict == "false"

    def leave_exact(self, results, checks):
        content = {"schema_version": 1, "checks": [c.model_dump() for c in checks], "provenance": {"commit": None}}
        (results / "exact.json").write_text(json.dumps(content), encoding="utf-8")

    def test_broken_files_are_problems_and_the_rest_is_read(self, tmp_path):
        leave(tmp_path, summary())
        (tmp_path / "exact.json").write_text("{", encoding="utf-8")
        (tmp_path / "benchmarks.json").write_text("[]", encoding="utf-8")
        broken = tmp_path / "wd_sweep" / "digits" / "quick" / "summary.json"
        broken.parent.mkdir(parents=True)
        broken.write_text('{"schema_version": 1}', encoding="utf-8")
        read = read_ledger(tmp_path)
        assert len(read.problems) == 3
        (tmp_path / "benchmarks.json").unlink()
        (tmp_path / "benchmarks.json").symlink_to("nowhere")
        assert len(read_ledger(tmp_path).problems) == 3
        assert all("\n" not in problem for problem in read.problems)
        assert read.rows[47].verdict == "holds so far"

    def test_a_part_with_an_unknown_id_is_a_problem_and_one_without_an_id_is_not(self, tmp_path):
        leave(tmp_path, summary(parts=[found(part="48b")]))
        leave(tmp_path, summary(data="digits", parts=[found(part="")]))
        (problem,) = read_ledger(tmp_path).problems
        assert "no part of a claim has the id 48b" in problem

    def test_a_part_is_tuned_where_all_its_arms_are(self):
        assert [e.tuned for e in ledger.evidence_of(summary())] == [True]
        assert [e.tuned for e in ledger.evidence_of(summary(tuned=("a",)))] == [False]
        only_default = [Tuning(arm=name, chosen={"lr": 0.01}, trials=TRIALS[:1], best_of_k=[]) for name in "ab"]
        assert [e.tuned for e in ledger.evidence_of(summary(tuning=only_default))] == [False]

    @pytest.mark.parametrize(("arm", "doubted"), [("a", True), ("b", True), ("c", False)])
    def test_an_arm_that_was_tuned_to_an_edge_is_a_doubt_about_its_parts(self, arm, doubted):
        tuning = [
            Tuning(arm=name, chosen={"lr": 0.01}, on_edge=["lr"] * (name == arm), trials=TRIALS, best_of_k=[])
            for name in "abc"
        ]
        arms = dict.fromkeys("abc", summary().arms["a"])
        given = ledger.evidence_of(summary(parts=[found(part="1")], arms=arms, tuning=tuning))
        certainty = row(part("1", general=False), evidence=given).certainty
        assert certainty.doubts == ("tuned to an edge of its range",) * doubted

    def test_a_part_of_few_seeds_is_preliminary_whatever_its_study_is(self):
        for n in (19, 20):
            (one,) = ledger.evidence_of(summary(parts=[found(n=n)]))
            assert one.preliminary == (n < 20)

    def test_seeds_without_a_run_of_an_arm_are_counted_and_a_doubt(self):
        whole = summary(parts=[found(n=17)])
        lost = whole.model_copy(update={"arms": whole.arms | {"b": whole.arms["b"].model_copy(update={"n": 17})}})
        for left, missing in ((whole, 0), (lost, 3)):
            (one,) = ledger.evidence_of(left)
            row = make_part_row(part(one.found.part), [one])
            assert one.missing == missing
            assert ("runs missing" in ledger.certainty([row]).doubts) == (missing > 0)
            assert (", at least 3 seeds missing" in listing._evidence(one)) == (missing > 0)

    def test_a_study_that_measures_times_speaks_of_one_machine(self):
        for timed in (True, False):
            (one,) = ledger.evidence_of(summary(timed=timed))
            row = make_part_row(part(one.found.part), [one])
            assert ("one machine for a general sentence" in ledger.certainty([row]).doubts) == timed

    def test_five_percent_of_all_tests_may_be_wrong_by_chance(self):
        given = [evidence("yes", "48"), evidence("no", "47a"), evidence("inconclusive", "47b")]
        assert make_ledger(given).expected_false == pytest.approx(0.15)
        assert make_ledger([*given, evidence("yes", "48", data="filmtrust")]).expected_false == pytest.approx(0.2)
        assert make_ledger([], [check("46")]).expected_false == 0

    def test_a_folder_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(ResultsError, match="nowhere"):
            read_ledger(tmp_path / "nowhere")


def test_benchmarks_hold_the_best_product_against_the_better_lookup(tmp_path):
    def timing(implementation, ratio, classes, memory=400):
        info = {
            "accurate": True, "op": "lookup", "implementation": implementation, "baseline": "embedding",
            "pass": "forward", "ratio": ratio, "ratio_low": ratio * 0.95, "ratio_high": ratio * 1.05,
            "ratio_pairs": 51, "classes": classes, "batch": 64, "width": 40, "memory_bytes": memory,
        }  # fmt: skip
        return {"name": f"{implementation}-{classes}", "group": "lookup", "stats": {"median": 1.0}, "extra_info": info}

    rows = [
        timing("embedding", 1.0, 10), timing("index_select", 0.5, 10), timing("one_hot_matmul", 0.8, 10, 800),
        timing("sparse_one_hot_matmul", 3.0, 10, 900),
        timing("embedding", 1.0, 2), timing("one_hot_matmul", 0.7, 2, 300),
    ]  # fmt: skip
    (tmp_path / "benchmarks.json").write_text(json.dumps({"benchmarks": rows}), encoding="utf-8")
    row = read_ledger(tmp_path).rows[25]
    time, memory = row.parts
    slow, fast = sorted(time.conditions, key=lambda c: c.used.found.estimate, reverse=True)
    assert slow.data == "forward, 10 classes, batch 64, width 40"
    assert slow.used.found.weights == {"one_hot_matmul": 1, "index_select": -1}
    assert slow.used.found.estimate == pytest.approx(0.2041, abs=1e-4)  # log10 of .8/.5
    assert (slow.outcome, fast.outcome) == ("yes", "no")
    assert [c.used.found.interval for c in memory.conditions] == ["counted", "counted"]
    assert row.verdict == time.verdict == memory.verdict == "depends"


@pytest.mark.parametrize(
    ("profile", "doubts"),
    [
        ("smoke", ("one machine for a general sentence", "preliminary")),
        (None, ("one machine for a general sentence", "preliminary")),  # of a file that does not say how it was run
        ("default", ("one machine for a general sentence",)),
    ],
)
def test_benchmarks_are_one_machine_and_a_smoke_run_is_preliminary(tmp_path, profile, doubts):
    info = {
        "accurate": True, "op": "lookup", "implementation": "one_hot_matmul", "baseline": "embedding",
        "pass": "forward", "ratio": 3.0, "ratio_low": 2.9, "ratio_high": 3.1, "ratio_pairs": 51, "classes": 10,
        "batch": 64, "width": 40, "memory_bytes": 800,
    }  # fmt: skip
    rows = [
        {"name": name, "group": "lookup", "stats": {"median": 1.0}, "extra_info": info | more}
        for name, more in {
            "product": {},
            "lookup": {"implementation": "embedding", "ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1},
        }.items()
    ]
    content = {"benchmarks": rows} | ({} if profile is None else {"bench_profile": profile})
    (tmp_path / "benchmarks.json").write_text(json.dumps(content), encoding="utf-8")
    certainty = read_ledger(tmp_path).rows[25].certainty
    assert certainty is not None
    assert set(doubts) <= set(certainty.doubts)
    assert ("preliminary" in certainty.doubts) == ("preliminary" in doubts)


class TestEqualEvidence:
    def test_of_equals_the_newer_recipe_decides_then_the_later_end(self):
        older, newer = evidence("no", "1"), evidence("yes", "1", recipe=2)
        later = evidence("no", "1", recipe=2, finished="2026-12-01")
        assert row(part(), evidence=[older, newer]).verdict == "holds"
        assert row(part(), evidence=[newer, later]).verdict == "fails"

    def test_that_the_study_makes_its_runs_in_another_way_now_is_a_doubt(self):
        regular = evidence("yes", "1", recipe=1)
        for others, doubted in (
            ([], False),
            ([evidence("no", "1", profile="quick", recipe=1)], False),
            ([evidence("no", "1", profile="quick", recipe=2, source="another")], False),
            ([evidence("no", "1", profile="quick", recipe=2)], True),
        ):
            joined = row(part(general=False), evidence=[regular, *others])
            assert joined.verdict == "holds"
            assert ("made by an earlier recipe" in joined.certainty.doubts) == doubted

    def test_undeclared_seeds_are_a_doubt(self):
        doubts = [
            row(part(), evidence=[evidence("yes", "1", profile=name)]).certainty.doubts for name in ("full", "custom")
        ]
        assert set(doubts[1]) - set(doubts[0]) == {"undeclared seeds or values"}

    def test_a_claim_fails_so_far_as_its_part_does(self):
        two = part("1a", conditions=("d1", "d2")), part("1b", conditions=("d1",))
        given = [evidence("no", "1a", data="d1"), evidence("yes", "1b", data="d1")]
        assert row(*two, evidence=given).words == "fails so far"
        given.append(evidence("no", "1a", data="d2"))
        assert row(*two, evidence=given).words == "fails"

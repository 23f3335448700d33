"""What was found, in words: answers, outcomes, certainty, limits."""

import math

import pytest

from reports import words
from reports.read import Study
from studies.evidence.ledger import Doubt, Verdict
from studies.evidence.schema import IntervalKind, Reason, Tuning
from tests.reports import made_up


def page(study, **changes):
    """The study as a page has it; keywords replace fields of its first part."""
    summary = study.summary
    if changes:
        first = summary.parts[0].model_copy(update=changes)
        summary = summary.model_copy(update={"parts": [first, *summary.parts[1:]]})
    return Study("page.html", None, summary, study.runs, study.curves)


@pytest.fixture(scope="module")
def sweep():
    return made_up.sweep()


@pytest.fixture(scope="module")
def optimizers():
    return made_up.factorial()


YES = {"outcome": "yes", "reason": "by more than 0"}
NO = {"outcome": "no", "reason": "worse by more than m", "estimate": -0.03, "low": -0.04, "high": -0.02}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            "Yes, by more than 0.002, on MovieLens 100k: validation RMSE 0.893 for wd=0.1 against 0.927 for wd=0.01, "
            "lower by 0.034 [0.032, 0.036], 10 seeds (preliminary).",
        ),
        (YES | {"low": 0.001}, "Yes, on MovieLens 100k: "),
        (YES | {"low": 0.001}, "the interval reaches the margin of 0.002"),
        (YES | {"reason": "by less than m", "estimate": 0.001, "low": 0.0005, "high": 0.0015}, "Yes, by less than 0.0"),
        (NO, "No, worse by more than 0.002, on MovieLens 100k: "),
        (NO, "higher by 0.030 [0.020, 0.040]"),
        (NO | {"reason": "less than m", "estimate": 0, "low": -0.001, "high": 0.001}, "No, by less than 0.002 if at"),
        ({"outcome": "inconclusive", "reason": "the interval reaches the margin"}, "Inconclusive on MovieLens 100k: "),
        ({"outcome": "inconclusive", "reason": "too few seeds", "n": 3}, "No verdict from 3 seeds on MovieLens 100k: "),
        ({"changed": True}, "(preliminary; declared or changed after results had been seen)."),
        ({"estimate": None, "low": None, "high": None, "diverged": 8}, "of 10 seeds 8 diverged"),
    ],
)
def test_the_answer_is_one_sentence_with_outcome_figures_interval_n_and_certainty(sweep, changes, said):
    answer = words.answer(page(sweep, **changes))
    assert said in answer
    assert answer.endswith(".")
    assert "\n" not in answer


def test_the_answer_counts_the_seeds_that_lack_a_run(sweep):
    first = next(iter(sweep.summary.parts[0].weights))
    lost = sweep.summary.arms[first].model_copy(update={"n": 7})
    summary = sweep.summary.model_copy(update={"arms": sweep.summary.arms | {first: lost}})
    assert "runs of at least 3 seeds missing" in words.answer(
        Study("page.html", None, summary, sweep.runs, sweep.curves)
    )
    assert "missing" not in words.answer(page(sweep))


def test_an_effect_smaller_than_the_noise_of_one_arm_is_shown_with_the_noise(sweep):
    small = NO | {"estimate": -0.0005, "low": -0.0009, "high": -0.0001, "reason": "reversed"}
    told = words.answer(page(sweep, **small))
    assert "No, the reverse is true" in told
    span = words.noise_span(page(sweep))
    assert f"two runs of one arm differ by up to {span:.4f}" in told
    assert "two runs of one arm" not in words.answer(page(sweep)), "the effect is larger than the noise"


@pytest.mark.parametrize(("arm", "doubted"), [("wd=0.1", True), ("wd=0.01", True), ("wd=0", False)])
def test_the_answer_says_if_an_arm_of_its_own_was_tuned_to_an_edge(sweep, arm, doubted):
    tuning = Tuning(arm=arm, chosen={"lr": 0.1}, on_edge=["lr"], trials=[], best_of_k=[])
    summary = sweep.summary.model_copy(update={"tuning": [tuning]})
    told = words.answer(Study("page.html", None, summary, sweep.runs, sweep.curves))
    assert ("tuned to an edge of its range" in told) == doubted


def test_the_noise_is_the_largest_pair_or_where_runs_are_lost_the_range_of_95_percent(sweep):
    whole = page(sweep)
    runs = whole.runs[whole.runs["arm"] == "wd=0.01"].pivot_table("metric.valid_rmse", "seed", "kind")
    assert words.noise_span(whole) == pytest.approx((runs["repeat"] - runs["run"]).abs().max())
    without = Study("", None, whole.summary, None, None)
    assert words.noise_span(without) == pytest.approx(2.262 * whole.summary.noise_floor.sd, rel=1e-3)


def test_of_the_best_the_answer_names_the_rival_that_is_closest(optimizers):
    told = words.answer(page(optimizers))
    assert told.startswith("Yes, no rival is better by 0.004, on 5,000 digits, a stand-in: validation accuracy ")
    assert " for adam against " in told
    assert " for momentum, lower by " in told


def test_a_logarithm_is_shown_as_a_ratio_and_its_margin_as_a_factor():
    told = words.answer(page(made_up.timed()))
    assert told.startswith(
        "Yes, by more than a factor of 1.05, on MovieLens 100k: time over the plain step’s 0.48× [0.4"
    )
    assert "for fused, 10 seeds" in told


def test_a_ratio_held_to_another_than_one_says_so(optimizers):
    part = next(part for part in optimizers.summary.parts if part.part == "77a")
    assert words.found_on(optimizers.summary, part).endswith("(asked: less than 0.10×)")


def test_what_is_held_to_a_value_falls_short_of_it(optimizers):
    part = next(part for part in optimizers.summary.parts if part.part == "77a")
    for reason, said in (
        ("reversed", "no, it falls short"),
        ("worse by more than m", "no, it falls short by more than"),
    ):
        short = part.model_copy(update={"outcome": "no", "reason": reason})
        assert words.outcome(optimizers.summary, short).startswith(said)
    two = part.model_copy(update={"weights": {"adam": 1, "sgd": -1}, "estimate": -0.7, "low": -0.9, "high": -0.6})
    told = words.comparison(optimizers.summary, two)
    assert " of adam, over those of sgd: 0.50× [0.40×, 0.79×] (asked: less than 0.10×)" in told


@pytest.mark.parametrize(("estimate", "better", "said"), [(0.1, "lower", "0.79×"), (0.1, "higher", "1.26×")])
def test_a_ratio_is_that_of_the_metric_whichever_way_is_better(optimizers, estimate, better, said):
    part = optimizers.summary.parts[0].model_copy(
        update={"estimate": estimate, "low": 0.05, "high": None, "better": better, "against": 0.0}
    )
    told = words.ratio(part, 10)
    assert told.startswith(said)
    assert ("(0×, 0.89×]" if better == "lower" else "[1.12×, ∞)") in told


@pytest.mark.parametrize(
    ("low", "said"),
    [
        (math.log10(1.0497), "2.000× [1.0497×, 3.000×]"),
        (math.log10(1.2), "2.0× [1.20×, 3.0×]"),
        (-400.0, "2.0× [0.00×, 3.0×]"),
        (400.0, "2.0× [∞×, 3.0×]"),
    ],
)
def test_a_ratio_has_digits_enough_to_tell_it_from_the_margin_and_any_size(optimizers, low, said):
    part = optimizers.summary.parts[0].model_copy(
        update={"estimate": math.log10(2), "low": low, "high": math.log10(3), "better": "higher", "against": 0.0}
    )
    part = part.model_copy(update={"margin": math.log10(1.05)})
    assert words.ratio(part, 10) == said


def test_an_interval_that_ends_before_the_margin_is_not_written_as_if_it_went_past(sweep):
    inside = {"outcome": "inconclusive", "reason": "the interval reaches the margin", "estimate": 0.003}
    told = words.answer(page(sweep, **inside, margin=0.0018, low=0.00151, high=0.0044))
    assert "lower by 0.0030 [0.0015, 0.0044]" in told


@pytest.mark.parametrize(("title", "base"), [("log10 of steps", 10), ("log2 of epochs", 2), ("logarithm of x", None)])
def test_the_title_says_of_which_base_a_logarithm_is(title, base):
    assert words.base_of(title) == base


def test_one_arm_is_shown_with_the_value_it_is_compared_with(optimizers):
    summary = optimizers.summary
    part = next(part for part in summary.parts if part.against == 0.9)
    told = words.comparison(summary, part)
    assert told.startswith("validation accuracy 0.912 for sgd, higher by 0.012 (")
    assert told.endswith(" than 0.9")


def test_a_weighted_sum_says_what_it_weighs(optimizers):
    part = optimizers.summary.parts[-1]
    assert words.arms_of(optimizers.summary, part) == "adam − rmsprop − momentum + sgd"
    halves = part.model_copy(update={"weights": {"adam": 0.5, "sgd": -0.5}, "against": -1.0})
    assert words.arms_of(optimizers.summary, halves) == "0.5 · adam − 0.5 · sgd + 1"
    assert words.comparison(optimizers.summary, halves).startswith(
        "validation accuracy of 0.5 · adam − 0.5 · sgd + 1, "
    )


def test_a_sum_of_many_arms_is_told_by_the_parts_own_words(optimizers):
    part = optimizers.summary.parts[-1]
    assert words.comparison(optimizers.summary, part).startswith(f"{part.says}; validation accuracy ")


def test_an_interval_of_an_arm_that_failed_in_most_seeds_is_infinite_at_both_ends(optimizers):
    lost = {"estimate": None, "low": None, "high": None, "interval": "median"}
    part = optimizers.summary.parts[0].model_copy(update=lost | {"outcome": "no"})
    assert words.interval(part, str) == "[−∞, −∞]"
    assert words.interval(part.model_copy(update={"reason": "by more than m"}), str) == "[∞, ∞]"
    apart = {"outcome": "yes", "reason": "differs by more than m"}
    assert words.interval(part.model_copy(update=apart), str) == "infinite"
    assert words.interval(part.model_copy(update={"outcome": "inconclusive"}), str) == "(−∞, ∞)"


def test_a_study_without_parts_describes(sweep):
    summary = sweep.summary.model_copy(update={"parts": []})
    assert "and judges nothing" in words.answer(Study("", None, summary, None, None))
    assert words.limits(summary)


def test_the_limits_say_what_the_interval_covers_and_what_more_seeds_would_give(sweep):
    told = " ".join(words.limits(sweep.summary))
    assert "The interval is for data like these" in told
    assert "Quick profile, 10 seeds per arm: preliminary." in told
    assert "The regular profile’s interval will reach about 0.001 to either side; the margin is 0.002." in told
    assert "a failure in up to 30 % of seeds could go unseen" in told
    assert "One learning rate (0.005) for all values." in told


def test_where_the_regular_profile_cannot_decide_an_effect_near_0_the_limits_say_so(sweep):
    part = sweep.summary.parts[0].model_copy(update={"expected_half_width": 0.003})
    assert "so an effect near 0 will stay inconclusive" in words.expectation(sweep.summary, part)
    assert words.expectation(sweep.summary, part.model_copy(update={"expected_half_width": None})) is None
    assert words.expectation(sweep.summary, part.model_copy(update={"expected_half_width": 1e-17})) is None


def test_own_data_and_stand_ins_are_said(sweep, optimizers):
    assert "stand in for those" in " ".join(words.limits(optimizers.summary))
    assert "your own data" in " ".join(words.limits(sweep.summary.model_copy(update={"own": True})))


def test_equal_is_refuted_in_either_direction(sweep):
    part = sweep.summary.parts[0].model_copy(update={"form": "equivalent", "outcome": "no"})
    better = part.model_copy(update={"reason": "by more than m"})
    assert words.outcome(sweep.summary, better) == "no, better by more than 0.002"
    worse = part.model_copy(update={"reason": "worse by more than m"})
    assert words.outcome(sweep.summary, worse) == "no, worse by more than 0.002"


def test_there_are_words_for_all_that_can_be_found():
    for literal, table in (
        (Reason, words.OUTCOMES),
        (IntervalKind, words.INTERVALS),
        (IntervalKind, words.METHODS),
        (Verdict, words.VERDICTS),
        (Verdict, words.SIDES),
        (Doubt, words.DOUBTS),
    ):
        assert set(table) == set(literal.__args__)


def test_where_a_run_failed_it_is_not_said_that_none_did(sweep):
    failed = {"COMPLETE": 39, "FAIL": 1}
    provenance = sweep.summary.provenance.model_copy(update={"trials": failed})
    told = " ".join(words.limits(sweep.summary.model_copy(update={"provenance": provenance})))
    assert "No run failed" not in told

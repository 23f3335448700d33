from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from studies.evidence.outcomes import (
    Numbers,
    decide,
    deciding_interval,
    expected_half_width,
    judge,
    judge_part,
    judge_ratio,
    need_of,
    numbers_of,
)
from studies.evidence.parts import Metric, Part, beats, best, differs, effect, equals, exceeds, not_worse
from studies.evidence.schema import PartFound
from studies.evidence.statistics import corrected_interval, t_interval

M = 0.01
METRICS = {
    "error": Metric("error", "lower", M),
    "accuracy": Metric("accuracy", "higher", M),
    "norm": Metric("norm", "higher", M, resplit=False),
    "loss": Metric("loss", "lower", "1 %"),
}
OVERLAP = dict.fromkeys("abcdef", 1 / 9)
NOISE = np.tile([-0.001, 0.001, 0.0, 0.0005, -0.0005], 4)
BASE = np.linspace(0.88, 0.92, 20)


def by_seed(values):
    return {seed: None if value is None else float(value) for seed, value in enumerate(values)}


def judged(part, metric="error", overlap=None, diverged=None, **arms):
    values = {metric: {arm: by_seed(values) for arm, values in arms.items()}}
    return judge_part(part, values, METRICS, overlap=overlap, diverged=diverged)


class TestForms:
    @pytest.mark.parametrize(
        ("form", "low", "high", "outcome", "reason"),
        [
            ("superior", 0.002, 0.02, "yes", "by more than 0"),
            ("superior", 0.002, 0.008, "yes", "by less than m"),
            ("superior", 0.02, 0.03, "yes", "by more than m"),
            ("superior", -0.03, -0.02, "no", "worse by more than m"),
            ("superior", -0.03, -0.002, "no", "reversed"),
            ("superior", -0.03, 0.002, "no", "less than m"),
            ("superior", 0.0, 0.0, "no", "less than m"),
            ("superior", -0.03, 0.03, "inconclusive", "the interval reaches the margin"),
            ("noninferior", -0.002, 0.03, "yes", "not worse by m"),
            ("noninferior", -0.03, -0.02, "no", "worse by more than m"),
            ("noninferior", -0.03, 0.03, "inconclusive", "the interval reaches the margin"),
            ("equivalent", -0.005, 0.005, "yes", "within m"),
            ("equivalent", 0.02, 0.03, "no", "by more than m"),
            ("equivalent", -0.03, -0.02, "no", "worse by more than m"),
            ("equivalent", 0.005, 0.02, "inconclusive", "the interval reaches the margin"),
            ("different", 0.002, 0.005, "yes", "differs by less than m"),
            ("different", -0.03, -0.02, "yes", "differs by more than m"),
            ("different", -0.03, -0.002, "yes", "differs"),
            ("different", -0.005, 0.005, "no", "no difference beyond m"),
            ("different", -0.03, 0.005, "inconclusive", "the interval reaches the margin"),
        ],
    )
    def test_an_interval_gives_the_outcome_of_its_form(self, form, low, high, outcome, reason):
        assert decide(form, low, high, M) == (outcome, reason)

    def test_superior_by_the_margin_needs_the_whole_interval_beyond_it(self):
        assert decide("superior", 0.02, 0.03, M, by=True) == ("yes", "by more than m")
        assert decide("superior", 0.002, 0.008, M, by=True) == ("no", "less than m")
        assert decide("superior", 0.002, 0.02, M, by=True)[0] == "inconclusive"

    def test_the_number_is_scored_so_that_more_is_good(self):
        for metric, sign in (("error", -1), ("accuracy", 1)):
            found = judged(beats("1", "a", "b", metric=metric), metric, a=BASE + sign * (0.05 + NOISE), b=BASE)
            assert (found.outcome, found.reason) == ("yes", "by more than m")
            assert found.estimate == pytest.approx(0.05)

    def test_a_threshold_is_an_arm_minus_a_value(self):
        found = judged(exceeds("64", "a", 0.85, metric="accuracy"), "accuracy", a=BASE)
        assert found.estimate == pytest.approx(0.05)
        assert (found.low, found.high) == pytest.approx(t_interval(BASE - 0.85))
        assert found.outcome == "yes"

    def test_what_is_exactly_at_a_threshold_in_every_seed_is_not_above_it(self):
        found = judged(exceeds("64", "a", 0.5, metric="accuracy"), "accuracy", a=[0.5] * 20)
        assert (found.estimate, found.outcome, found.reason) == (0, "no", "reversed")
        assert judged(beats("1", "a", "b"), a=BASE, b=BASE).reason == "less than m"

    def test_a_factorials_interaction_is_paired_by_seed(self):
        arms = {"n": {"a": 0, "b": 0}, "a": {"a": 1, "b": 0}, "b": {"a": 0, "b": 1}, "ab": {"a": 1, "b": 1}}
        rng = np.random.default_rng(0)
        seeds = rng.normal(0, 5, 20)
        values = {"n": seeds, "a": seeds - 0.1, "b": seeds - 0.1, "ab": seeds - 0.5}
        found = judged(effect("85", arms, "a", "b", says="together"), **values)
        assert found.estimate == pytest.approx(0.15)
        assert found.outcome == "yes"

    def test_a_share_is_one_of_the_reference_arms_mean(self):
        found = judged(beats("1", "a", "b", metric="loss"), "loss", a=BASE / 2, b=BASE)
        assert found.margin == pytest.approx(0.009)
        rival = judged(best("1", "a", "b", metric="loss"), "loss", a=BASE / 2, b=BASE)
        assert rival.margin == pytest.approx(0.0045)

    def test_a_share_of_0_decides_nothing_and_leaves_the_interval(self):
        found = judged(beats("1", "a", "b", metric="loss"), "loss", a=BASE + NOISE, b=[0.0] * 20)
        assert (found.outcome, found.reason, found.margin) == ("inconclusive", "no margin", None)
        assert (found.estimate, found.interval) == (pytest.approx(-0.9), "t")
        assert (found.low, found.high) == pytest.approx(t_interval(-BASE - NOISE))


class TestTheInterval:
    def test_where_seeds_re_split_one_data_set_it_is_the_corrected_t_with_the_largest_ratio(self):
        found = judged(beats("1", "a", "b"), overlap={"a": 0.1, "b": 0.25, "z": 9.0}, a=BASE + NOISE, b=BASE)
        assert (found.low, found.high) == pytest.approx(corrected_interval(-NOISE, 0.25))
        assert found.interval == "corrected t"

    def test_without_the_ratio_of_any_of_its_arms_it_is_refused_rather_than_too_narrow(self):
        with pytest.raises(ValueError, match="part 1: n_valid/n_train of a, b is not given"):
            judged(beats("1", "a", "b"), overlap={}, a=BASE, b=BASE)

    def test_where_they_do_not_it_is_the_t_interval(self):
        d = np.linspace(-1, 1, 20)
        found = judged(beats("1", "a", "b"), a=BASE - d, b=BASE)
        assert (found.low, found.high) == pytest.approx(t_interval(d))
        assert found.interval == "t"

    def test_norms_and_times_are_spared_the_correction(self):
        found = judged(differs("54", "a", "b", metric="norm"), "norm", OVERLAP, a=BASE + NOISE, b=BASE)
        assert (found.low, found.high) == pytest.approx(t_interval(NOISE))

    def test_skewed_numbers_get_an_interval_that_leans_their_way(self):
        d = np.random.default_rng(1).exponential(size=20)
        found = judged(beats("1", "a", "b"), a=BASE - d, b=BASE)
        mirrored = judged(beats("1", "b", "a"), a=BASE - d, b=BASE)
        assert found.interval == "bootstrap t"
        assert found.high - d.mean() > d.mean() - found.low
        assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))

    def test_it_moves_with_its_numbers_and_is_the_same_each_time(self):
        d = np.random.default_rng(1).lognormal(size=12)
        one, moved = deciding_interval(d, None), deciding_interval(d + 7, None)
        assert (moved.low - 7, moved.high - 7) == pytest.approx((one.low, one.high))
        assert deciding_interval(d, None) == one

    def test_what_is_only_rounding_is_no_difference(self):
        found = judged(beats("1", "a", "b"), a=np.full(20, 0.9 - 2.8e-8), b=np.full(20, 0.9))
        assert (found.estimate, found.low, found.high) == (0, 0, 0)
        assert (found.outcome, found.reason) == ("no", "less than m")
        assert judged(equals("1", "a", "b"), a=BASE, b=BASE).outcome == "yes"

    def test_a_constant_difference_beyond_rounding_is_certain(self):
        found = judged(beats("1", "a", "b"), a=np.arange(20) - 0.5, b=np.arange(20))
        assert (found.low, found.high) == pytest.approx((0.5, 0.5))
        assert found.outcome == "yes"

    def test_the_half_width_to_expect_is_that_of_the_regular_profile(self):
        assert expected_half_width(1, 10, 1 / 9) == pytest.approx(1.04, abs=0.005)
        assert expected_half_width(1, 20, 1 / 9) == pytest.approx(0.84, abs=0.005)
        assert expected_half_width(1, 10**9, 1 / 9) == pytest.approx(1.96 / 3, abs=0.005)
        values = {"error": {"a": by_seed(BASE[:10] + NOISE[:10]), "b": by_seed(BASE[:10])}}
        found = judge_part(beats("1", "a", "b"), values, METRICS, overlap=OVERLAP, regular=20)
        assert found.expected_half_width == pytest.approx(0.84 * NOISE[:10].std(ddof=1), rel=0.01)
        assert judge_part(beats("1", "a", "b"), values, METRICS).expected_half_width is None


class TestFewOrFailedRuns:
    def test_seven_seeds_decide_nothing_whatever_they_say(self):
        few = judged(beats("1", "a", "b"), a=BASE[:7] - 0.5 + NOISE[:7], b=BASE[:7])
        assert (few.outcome, few.reason, few.n) == ("inconclusive", "too few seeds", 7)
        assert few.low > 0
        assert judged(beats("1", "a", "b"), a=BASE[:8] - 0.5 + NOISE[:8], b=BASE[:8]).outcome == "yes"

    @pytest.mark.parametrize("make", [beats, not_worse, equals, differs, best])
    def test_without_shared_seeds_or_an_arm_nothing_was_measured(self, make):
        part = make("1", "a", "b")
        values = {"error": {"a": {1: 0.5, 2: 0.5}, "b": {3: 0.5}}}
        for found in (judge_part(part, values, METRICS), judge_part(part, {"error": {"a": {1: 0.5}}}, METRICS)):
            assert (found.outcome, found.reason, found.n, found.estimate) == (
                "inconclusive",
                "nothing measured",
                0,
                None,
            )
            assert found.interval == "none"

    def test_one_seed_has_an_estimate_and_no_interval(self):
        found = judged(beats("1", "a", "b"), a=[0.5], b=[0.75])
        assert (found.estimate, found.low, found.high, found.interval) == (0.25, None, None, "one run")

    def test_a_diverged_run_is_infinitely_bad_and_the_median_decides(self):
        d = 0.05 + NOISE
        a = [None, None, *(BASE - d)[2:]]
        found = judged(beats("1", "a", "b"), diverged={"a": [0]}, a=a, b=BASE)
        ordered = np.sort([-math.inf, -math.inf, *d[2:]])
        assert (found.low, found.high) == pytest.approx((ordered[5], ordered[14]))
        assert (found.interval, found.n, found.diverged, found.missed) == ("median", 20, 1, 1)
        assert found.outcome == "yes"

    @pytest.mark.parametrize("valid", [0.1, 0.2])
    def test_a_diverged_run_makes_no_interval_of_overlapping_splits_too_narrow(self, valid):
        rng, n, misses, repeats = np.random.default_rng(5), 20, 0, 2000
        for _ in range(repeats):
            # What the splits share is part of the error: the arms are equally good on such data.
            d = math.sqrt(valid) * rng.normal() + math.sqrt(1 - valid) * rng.normal(size=n)
            d[0] = -math.inf
            found = deciding_interval(d, valid / (1 - valid))
            assert found.kind == "corrected median"
            misses += not found.low <= 0 <= found.high
        assert 0.01 * repeats < misses < 0.08 * repeats  # .036 and .021 are expected; without overlap, .16 and .29

    def test_an_arm_that_mostly_fails_is_infinitely_worse(self):
        found = judged(beats("1", "a", "b"), a=[None] * 15 + list(BASE[15:]), b=BASE)
        assert (found.low, found.high, found.estimate) == (None, None, None)
        assert (found.outcome, found.reason, found.missed) == ("no", "worse by more than m", 15)
        half = judged(beats("1", "a", "b"), a=[None] * 10 + list(BASE[10:] - 0.5), b=BASE)
        assert (half.low, half.high, half.outcome) == (None, 0.5, "inconclusive")
        always = judged(not_worse("1", "b", "a"), a=[None] * 20, b=BASE)
        assert (always.outcome, always.missed) == ("yes", 20)

    @pytest.mark.parametrize("metric", ["error", "loss"])  # the margin of the second is a share of the rival's mean
    @pytest.mark.parametrize("make", [beats, differs, not_worse])
    def test_a_rival_that_always_fails_needs_no_margin_to_lose(self, make, metric):
        won, lost, chosen = (
            replace(part, metric=metric) for part in (make("1", "a", "b"), beats("1", "b", "a"), best("6", "b", "a"))
        )
        found = judged(won, metric, a=BASE, b=[None] * 20)
        assert (found.outcome, found.infinite) == ("yes", "infinite" if make is differs else "[∞, ∞]")
        found = judged(lost, metric, a=BASE, b=[None] * 20)
        assert (found.outcome, found.infinite) == ("no", "[−∞, −∞]")
        assert judged(chosen, metric, a=BASE, b=[None] * 20).outcome == "no"
        assert judged(won, metric, a=BASE[:7], b=[None] * 7).outcome == "inconclusive"

    def test_where_nothing_but_failures_is_known_of_the_splits_nothing_is_measured(self):
        found = judged(beats("1", "a", "b"), a=[None] * 20, b=[None] * 20, overlap={})
        assert (found.n, found.dropped, found.reason) == (0, 20, "nothing measured")

    def test_where_both_sides_fail_the_seed_is_dropped_and_counted(self):
        found = judged(beats("1", "a", "b"), a=[None, *(BASE[1:] - 0.05 + NOISE[1:])], b=[None, *BASE[1:]])
        assert (found.n, found.dropped, found.missed) == (19, 1, 0)
        assert found.interval != "median"

    def test_divergence_in_a_part_of_several_arms_leaves_counts(self):
        arms = {"n": {"a": 0, "b": 0}, "a": {"a": 1, "b": 0}, "b": {"a": 0, "b": 1}, "ab": {"a": 1, "b": 1}}
        values = {"n": BASE, "a": [None, *BASE[1:]], "b": BASE, "ab": BASE}
        found = judged(effect("85", arms, "a", says=""), diverged={"a": {0}}, **values)
        assert (found.outcome, found.reason) == ("inconclusive", "divergence in a part of several arms")
        assert (found.n, found.diverged) == (20, 1)
        both = judged(effect("85", arms, "a", says=""), **values | {"n": [None, *BASE[1:]]})
        assert (both.outcome, both.reason) == ("inconclusive", "divergence in a part of several arms")
        assert (both.n, both.dropped, both.estimate) == (19, 1, None)

    def test_a_missed_threshold_counts_against_the_arm(self):
        d = numbers_of({"a": 1.0}, 1.0, {"a": {0: None, 1: 0.5}}, METRICS["error"], {})
        assert d.d.tolist() == [-math.inf, 0.5]


def symmetric(n):
    """n numbers of mean 0 and standard deviation 1."""
    d = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return d / d.std(ddof=1)


class TestBest:
    def test_it_takes_not_being_worse_than_every_rival(self):
        found = judged(best("6", "a", "bc"), a=BASE, b=BASE + 0.05 + NOISE, c=BASE + NOISE)
        assert (found.outcome, found.reason) == ("yes", "no rival better by m")
        assert [(rival.arm, rival.outcome) for rival in found.rivals] == [("b", "yes"), ("c", "yes")]
        assert found.low == found.rivals[1].low

    def test_a_rival_that_always_fails_is_the_weakest(self):
        found = judged(best("6", "a", "bc"), a=BASE, b=[None] * 20, c=BASE + 0.05 + NOISE)
        assert (found.outcome, found.estimate) == ("yes", pytest.approx(0.05))
        assert found.low == found.rivals[1].low

    def test_one_better_rival_refutes_it(self):
        found = judged(best("6", "a", "bc"), a=BASE, b=BASE - 0.05 + NOISE, c=BASE + NOISE)
        assert (found.outcome, found.reason) == ("no", "a rival better by m")
        assert found.estimate == pytest.approx(-0.05)

    def test_an_open_rival_leaves_it_open(self):
        found = judged(best("6", "a", "bc"), a=BASE, b=BASE + np.tile([0.1, -0.1], 10), c=BASE)
        assert (found.outcome, found.reason) == ("inconclusive", "the interval reaches the margin")

    def test_a_rival_must_be_better_by_the_corrected_level(self):
        d = symmetric(20)
        d = -M - (stats.t.ppf(0.98, 19) / math.sqrt(20)) * 1.06 + d  # beyond m at .95, not at 1 − .05/5
        rivals = {name: BASE + d if name == "b" else BASE for name in "bcdef"}
        alone = judged(best("6", "a", "b"), a=BASE, b=rivals["b"])
        among = judged(best("6", "a", "bcdef"), a=BASE, **rivals)
        assert alone.outcome == "no"
        assert (among.outcome, among.reason) == ("inconclusive", "not after correction over the rivals")

    def test_holm_continues_with_the_remaining_rivals(self):
        d = symmetric(20)
        quantile = (stats.t.ppf(1 - 0.025 / 2, 19) + stats.t.ppf(0.975, 19)) / 2
        close = -M - quantile / math.sqrt(20) + d
        far = close - 10
        found = judged(best("6", "a", "bc"), a=BASE, b=BASE + close, c=BASE + far)
        assert [rival.outcome for rival in found.rivals] == ["no", "no"]


numbers = st.lists(st.integers(-400, 400), min_size=8, max_size=24).map(lambda n: np.array(n) / 64)
overlaps = st.sampled_from([None, 1 / 9, 1 / 4])
RANK = {"no": 0, "inconclusive": 1, "yes": 2}


def outcome(form, d, margin, overlap=None, by=False):
    return judge(form, Numbers(d=d, scale=1.0), margin, overlap, by=by, arms=2).outcome


class TestProperties:
    @settings(max_examples=50, deadline=None)
    @given(numbers, numbers, st.sampled_from([beats, not_worse, equals, differs]), overlaps)
    def test_a_part_is_judged_alike_alone_and_beside_idle_arms(self, d, idle, make, ratio):
        part, seeds = make("48", "a", "b"), np.zeros(len(d))
        overlap = dict.fromkeys("abxyz", ratio) if ratio else None
        alone = judged(part, overlap=overlap, a=d, b=seeds)
        assert judged(part, overlap=overlap, a=d, x=idle, y=idle[::-1], b=seeds, z=[None]) == alone

    @settings(max_examples=50, deadline=None)
    @given(numbers, st.integers(0, 300).map(lambda c: c / 64), st.integers(1, 200).map(lambda m: m / 64), overlaps)
    def test_what_is_better_for_every_seed_never_lowers_superior_or_noninferior(self, d, c, margin, overlap):
        for form in ("superior", "noninferior"):
            for by in (False, True) if form == "superior" else (False,):
                before, after = (outcome(form, x, margin, overlap, by) for x in (d, d + c + 1e-9))
                assert RANK[after] >= RANK[before]

    @settings(max_examples=50, deadline=None)
    @given(numbers, st.integers(1, 200).map(lambda m: m / 64), overlaps)
    @example(np.zeros(8), 0.1, None)
    def test_superior_is_never_inferior(self, d, margin, overlap):
        if outcome("superior", d, margin, overlap) == "yes":
            assert outcome("noninferior", d, margin, overlap) == "yes"
        if outcome("equivalent", d, margin, overlap) == "yes":
            assert outcome("noninferior", d, margin, overlap) == "yes"
            assert outcome("superior", d, margin, overlap, by=True) == "no"

    @settings(max_examples=50, deadline=None)
    @given(numbers, st.integers(1, 200).map(lambda m: m / 64), overlaps)
    def test_the_other_side_of_equivalent_and_different_is_the_same(self, d, margin, overlap):
        for form in ("equivalent", "different"):
            assert outcome(form, d, margin, overlap) == outcome(form, -d, margin, overlap)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.sampled_from([None, 0.5, 0.6, 0.7]), min_size=8, max_size=24))
    def test_whatever_fails_the_summary_takes_the_finding(self, values):
        for part in (beats("1", "a", "b"), equals("1", "a", "b"), exceeds("1", "a", 0.6), best("1", "a", "b")):
            found = judged(part, a=values, b=[0.6] * len(values))
            assert found.model_validate_json(found.model_dump_json()) == found
            assert found.missed == values.count(None)


def test_the_declaration_travels_with_the_finding():
    found = judged(Part("47a", "too much", {"a": 1.0, "b": -1.0}, "superior", by=True), a=BASE, b=BASE)
    assert (found.part, found.claim, found.says, found.metric, found.better) == (
        "47a",
        47,
        "too much",
        "error",
        "lower",
    )
    assert not found.changed
    assert len(found.declared) == 16


class TestRatios:
    def ratio(self, *ratio, missed=0):
        return judge_ratio("77a", "faster", "log10 of steps", ("slow", "fast"), ratio, 20, margin=1.1, missed=missed)

    def test_a_ratio_is_held_as_its_logarithm(self):
        ten = self.ratio(10.0, 8.0, 12.0)
        assert (ten.estimate, ten.outcome, ten.reason) == (1, "yes", "by more than m")
        assert self.ratio(1.0, 0.99, 1.01).outcome == "no"
        assert self.ratio(1.05, 0.99, 1.2).outcome == "inconclusive"

    def test_an_end_that_is_not_bounded_and_one_that_is_infinite_differ(self):
        assert self.ratio(2.0, None, 3.0).outcome == "inconclusive"
        always = self.ratio(math.inf, math.inf, math.inf, missed=20)
        assert (always.outcome, always.estimate, always.low, always.missed) == ("yes", None, None, 20)
        assert self.ratio(0.0, 0.0, 0.0).outcome == "no"

    def test_what_is_counted_has_no_width(self):
        assert self.ratio(2.0, 2.0, 2.0).interval == "counted"


class TestThresholds:
    """A part that is held to a value other than 0: the value holds the margin already."""

    @pytest.mark.parametrize(
        ("above", "outcome", "reason"),
        [
            (0.3 * M, "inconclusive", "the interval reaches the margin"),
            (-M / 2, "no", "reversed"),
            (-2 * M, "no", "worse"),
        ],
    )
    def test_a_little_above_it_is_not_a_no(self, above, outcome, reason):
        spread = np.linspace(-1, 1, 20) * M * (1.75 if above > 0 else 0.2)
        found = judged(exceeds("64", "a", 0.85, metric="norm"), "norm", a=0.85 + above + spread)
        assert found.outcome == outcome
        assert found.reason.startswith(reason)
        assert above < 0 or 0 < found.high < M

    def test_a_difference_above_nothing_by_less_than_the_margin_is_still_a_no(self):
        found = judged(
            beats("1", "a", "b", metric="norm"), "norm", a=np.linspace(-1, 1, 20) * 1.75 * M + 0.3 * M, b=np.zeros(20)
        )
        assert (found.outcome, found.reason) == ("no", "less than m")


class TestNeed:
    """What an inconclusive part needs."""

    @settings(max_examples=200, deadline=None)
    @given(
        form=st.sampled_from(["superior", "noninferior", "equivalent", "different"]),
        by=st.booleans(),
        estimate=st.floats(-3, 3),
        spread=st.floats(0.1, 20),
        overlap=st.sampled_from([None, 1 / 9, 1 / 4]),
        threshold=st.booleans(),
    )
    def test_with_so_many_seeds_it_is_decided_and_with_a_tenth_fewer_not(
        self, form, by, estimate, spread, overlap, threshold
    ):
        by, threshold = by and form == "superior", threshold and form == "superior"

        def outcome(n):
            d = np.linspace(-1, 1, 400)[np.linspace(0, 399, 20).astype(int)]
            sd = spread * np.std(d, ddof=1) * M
            half = stats.t.ppf(0.975, n - 1) * sd * math.sqrt(1 / n + (overlap or 0))
            return decide(form, estimate * M - half, estimate * M + half, M, by=by, threshold=threshold)[0]

        d = np.linspace(-1, 1, 400)[np.linspace(0, 399, 20).astype(int)] * spread * M + estimate * M
        numbers = Numbers(d, scale=1.0)
        found = judge(form, numbers, M, overlap, by=by, arms=2, threshold=threshold)
        part = PartFound(
            **found.model_dump(), part="1", says="", form=form, by=by, metric="error", better="lower",
            weights={"a": 1.0}, margin=M, declared="", against=0.5 * threshold,
        )  # fmt: skip
        need = need_of(part, overlap)
        assert (need is None) == (found.outcome != "inconclusive")
        if need is None:
            return
        assert need.margins == pytest.approx((found.high - found.low) / 2 / M)
        if math.isfinite(need.seeds):
            assert outcome(need.seeds) != "inconclusive"
            assert need.seeds == 20 or outcome(max(20, math.floor(need.seeds * 0.94) - 1)) == "inconclusive"
        else:
            assert outcome(900_000) == "inconclusive"

    def test_seeds_too_few_for_a_verdict_need_eight_at_least(self):
        part = judged(beats("1", "b", "a", metric="norm"), "norm", a=np.zeros(5), b=1 + np.arange(5) * 1e-3)
        assert part.reason == "too few seeds"
        assert need_of(part, None).seeds == 8

    def test_of_the_best_nothing_is_predicted(self):
        b = np.linspace(-0.02, 0.02, 20) - M
        part = judged(best("1", "a", ["b"]), overlap=OVERLAP, a=np.zeros(20), b=b)
        assert part.outcome == "inconclusive"
        assert need_of(part, 1 / 9) is None

    def test_splits_that_share_rows_set_a_limit(self):
        wide, b = np.zeros(20), np.linspace(-0.05, 0.05, 20) + M / 2
        part = judged(not_worse("1", "b", "a"), overlap=OVERLAP, a=wide, b=2 * b)
        assert "no number of seeds would decide it" in str(need_of(part, 1 / 9))
        part = judged(not_worse("1", "b", "a"), a=wide, b=b)
        assert re.search(r"half-width 1\.\d margins; about \d\d0 seeds", str(need_of(part, None)))

import gc
import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from studies.evidence.statistics import (
    bootstrap_t_intervals,
    corrected_interval,
    describe,
    expected_best_of_k,
    holm,
    median_intervals,
    noise_floor,
    probability_of_improvement,
    sign_flip_interval,
    sign_flip_p,
    t_interval,
)

# Darwin's maize: crossed minus self-fertilized plants, in eighths of an inch (Fisher 1935, The Design of Experiments).
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


@pytest.fixture
def rng():
    return np.random.default_rng(20)


# Values as metrics have them: a few decimals, so that ties and zeros occur.
metric_values = st.integers(-400, 400).map(lambda i: i / 64)
few_differences = st.lists(metric_values, min_size=0, max_size=11)


class TestIntervals:
    def test_the_t_interval_is_scipys(self, rng):
        d = rng.normal(0.3, 1, 17)
        scipys = stats.ttest_1samp(d, 0).confidence_interval(0.9)
        assert t_interval(d, 0.9) == pytest.approx((scipys.low, scipys.high))

    def test_the_t_interval_uses_the_tables_quantile(self):
        d = np.array([-1.0, 1.0] * 5)  # mean 0, variance 10/9; t(.975, 9) = 2.262 in any table
        assert t_interval(d)[1] == pytest.approx(2.262 * math.sqrt(10 / 9 / 10), rel=1e-3)

    def test_the_t_interval_covers_as_often_as_it_says(self, rng):
        repeats = 2000
        centered = rng.normal(0, 1, (repeats, 10))
        covered = sum(low <= 0 <= high for low, high in map(t_interval, centered))
        low, high = stats.binom.ppf([2.5e-5, 1 - 2.5e-5], repeats, 0.95)  # a false alarm in 20,000 other seeds
        assert low <= covered <= high

    def test_the_corrected_interval_is_wider_by_nadeau_and_bengios_factor(self, rng):
        d = rng.normal(0, 1, 20)
        plain, corrected = np.ptp(t_interval(d)), np.ptp(corrected_interval(d, 10 / 90))
        assert corrected / plain == pytest.approx(math.sqrt((1 / 20 + 1 / 9) / (1 / 20)))
        assert np.mean(corrected_interval(d, 10 / 90)) == pytest.approx(d.mean())

    @pytest.mark.parametrize("overlap", [0, -1, math.inf, math.nan])
    def test_a_split_without_rows_on_both_sides_is_refused(self, overlap):
        with pytest.raises(ValueError, match="rows on both sides"):
            corrected_interval([1.0, 2.0], overlap)

    def test_the_medians_interval_ends_at_order_statistics(self):
        d = np.arange(1.0, 21)
        assert median_intervals(d, None) == (6, 15)  # P(at most 5 of 20 heads) = .0207
        assert median_intervals(np.append(np.full(5, -np.inf), d[5:]), None) == (6, 15)
        assert median_intervals(np.append(np.full(6, -np.inf), d[6:]), None)[0] == -np.inf
        assert median_intervals(d[:5], None) == (-np.inf, np.inf)

    @pytest.mark.parametrize("n", [6, 8, 10, 13, 20, 40])
    def test_the_medians_interval_covers_as_binomial_tables_say(self, n):
        low, _ = median_intervals(np.arange(1.0, n + 1), None)
        assert stats.binom.cdf(low - 1, n, 0.5) <= 0.025 < stats.binom.cdf(low, n, 0.5)

    def test_bootstrap_t_intervals_lean_towards_the_long_tail_and_move_with_their_numbers(self):
        d = stats.expon.ppf((np.arange(12) + 0.5) / 12) * np.array([[1.0], [0.01]])
        low, high = bootstrap_t_intervals(d, 0.95)
        assert np.all(high - d.mean(1) > d.mean(1) - low)
        moved = bootstrap_t_intervals(5 - 2 * d, 0.95)
        assert moved[0] == pytest.approx(5 - 2 * high)
        assert moved[1] == pytest.approx(5 - 2 * low)

    def test_bootstrap_t_intervals_are_near_t_intervals_where_numbers_are_normal(self):
        d = stats.norm.ppf((np.arange(60) + 0.5) / 60)
        low, high = bootstrap_t_intervals(d[None], 0.95)
        assert (low[0], high[0]) == pytest.approx(t_interval(d), abs=0.03)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("noise", [0.0, 1e-8])
    def test_numbers_of_which_most_are_equal_are_not_bounded_on_the_side_of_the_others(self, noise):
        d = np.array([[0.0, 0, 0, 0, 0, 0, 0, 1], [0.0, 0, 0.005, 0.001, 0, 0, 0, 0]]) + noise * np.arange(8)
        low, high = bootstrap_t_intervals(d, 0.95)
        assert np.all(high == np.inf)  # many resamples draw only zeros
        assert np.all((low > -0.5) & (low <= d.mean(1)))
        mirrored = bootstrap_t_intervals(-d, 0.95)
        np.testing.assert_allclose(mirrored, (-high, -low), atol=1e-12)

    @pytest.mark.filterwarnings("error")
    def test_a_level_beyond_the_resamples_is_not_bounded(self):
        assert bootstrap_t_intervals(np.arange(8.0)[None], 0.9999) == (-np.inf, np.inf)

    @pytest.mark.parametrize("d", [[], [0.5]])
    def test_without_two_pairs_nothing_is_bounded(self, d):
        for interval in (t_interval(d), corrected_interval(d, 1 / 9), sign_flip_interval(d)):
            assert interval == (-math.inf, math.inf)


class TestSignFlips:
    def test_darwins_maize_gives_fishers_p(self):
        assert sign_flip_p(DARWIN) == 2 * 863 / 2**15

    def test_p_is_scipys(self, rng):
        d = rng.normal(0.4, 1, 9)
        theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=2**9)
        assert sign_flip_p(d) == pytest.approx(theirs.pvalue)

    def test_twenty_pairs_are_still_exact(self):
        assert sign_flip_p(np.linspace(0.1, 1, 20)) == 2 / 2**20

    def test_above_twenty_pairs_p_is_sampled_and_never_zero(self, rng):
        assert sign_flip_p(np.ones(21)) == pytest.approx(1 / 100_000, rel=2)
        d = rng.normal(0.35, 1, 40)
        assert sign_flip_p(d) == sign_flip_p(d)
        assert sign_flip_p(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=0.2)

    def test_five_pairs_never_reach_the_five_percent(self):
        assert sign_flip_p([1, 1, 1, 1, 1]) == 2 / 2**5 > 0.05
        assert sign_flip_interval([1, 2, 3, 4, 5]) == (-math.inf, math.inf)

    @settings(deadline=None)
    @given(few_differences)
    def test_p_is_the_share_of_all_flips_at_least_as_far_out(self, d):
        totals = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in product((1, -1), repeat=len(d))]
        assert sign_flip_p(d) == sum(t >= abs(sum(d)) for t in totals) / len(totals)

    @settings(deadline=None)
    @given(few_differences, st.floats(1e-6, 1e6))
    def test_p_knows_neither_sign_nor_unit(self, d, unit):
        p = sign_flip_p(d)
        assert p == sign_flip_p([-x for x in d]) == sign_flip_p([x * unit for x in d])
        assert min(1, 2 / 2 ** len(d)) <= p <= 1

    @settings(deadline=None)
    @given(st.lists(metric_values, min_size=6, max_size=10))
    def test_the_interval_holds_what_the_test_does_not_reject(self, d):
        low, high = sign_flip_interval(d)
        step = 1e-6
        for inside in np.linspace(low, high, 7):
            assert sign_flip_p(np.array(d) - inside) >= 0.05
        for outside in (low - step, high + step):
            assert sign_flip_p(np.array(d) - outside) < 0.05

    def test_the_sampled_interval_agrees_with_the_t_interval_on_normal_data(self, rng):
        d = rng.normal(0, 1, 40)
        assert sign_flip_interval(d) == pytest.approx(t_interval(d), abs=0.05)


class TestSummaries:
    def test_holm_gives_the_textbook_values(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([]) == []

    def test_a_tie_is_half_an_improvement(self):
        d = [-1.0, -math.inf, 0.0, 2.0]
        assert probability_of_improvement(d, "lower") == 2.5 / 4
        assert probability_of_improvement(d, "higher") == 1.5 / 4
        assert probability_of_improvement([], "lower") == 0.5

    @pytest.mark.parametrize(("better", "best"), [("lower", min), ("higher", max)])
    def test_best_of_k_is_the_mean_over_all_subsets(self, better, best, rng):
        values = rng.normal(0, 1, 7).round(1)
        expected = [np.mean([best(s) for s in combinations(values, k)]) for k in range(1, 8)]
        assert expected_best_of_k(values, better) == pytest.approx(expected)

    def test_best_of_k_survives_thousands_of_trials(self):
        curve = expected_best_of_k(np.arange(1500.0), "lower")
        assert curve[0] == pytest.approx(749.5)
        assert curve[-1] == 0
        assert np.all(np.diff(curve) < 0)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_diverged_run_is_refused_where_only_finite_values_make_sense(self, bad):
        for figure in (t_interval, sign_flip_p, sign_flip_interval, lambda d: expected_best_of_k(d, "lower")):
            with pytest.raises(ValueError, match="finite values only"):
                figure([0.9, bad])

    def test_the_noise_floor_pairs_by_seed_and_skips_diverged_runs(self):
        floor = noise_floor("base", {0: 1.0, 1: 2.0, 2: None, 3: 5.0}, {3: 5.5, 1: 2.1, 0: 1.3, 2: 1.0, 9: 4.0})
        assert floor is not None
        assert (floor.arm, floor.n) == ("base", 3)
        assert floor.difference == pytest.approx(0.3)
        assert floor.sd == pytest.approx(0.2)
        assert floor.interval == pytest.approx(t_interval([0.3, 0.1, 0.5]))

    def test_one_pair_has_no_noise_floor(self):
        assert noise_floor("base", {0: 1.0, 1: None}, {0: 1.1, 1: 1.0}) is None


def described(baseline, *arms, better="lower", overlap=1 / 9):
    """Contrasts of arms given as lists of values, seeds 0, 1, 2, …"""
    values = {name: dict(enumerate(v)) for name, v in zip("abcdef", (baseline, *arms), strict=False)}
    ratios = dict.fromkeys(values, overlap) if overlap else None
    return describe(values, baseline="a", metric="rmse", better=better, overlap=ratios)


BASE = np.linspace(0.88, 0.92, 20)
NOISE = np.tile([-0.001, 0.001, 0.0, 0.0005], 5)


@pytest.fixture(scope="module", autouse=True)
def _cheap_garbage_collection():
    # statsmodels collects garbage at each correction, 75 ms with all that a test session has imported.
    gc.freeze()
    yield
    gc.unfreeze()


class TestDescribe:
    def test_a_lower_error_and_a_higher_accuracy_improve(self):
        (error,) = described(BASE, BASE - 0.05 + NOISE)
        (accuracy,) = described(BASE, BASE - 0.05 + NOISE, better="higher")
        (norm,) = described(BASE, BASE - 0.05 + NOISE, better=None)
        improved = [c.probability_of_improvement for c in (error, accuracy, norm)]
        assert improved == [1, 0, None]
        assert error.p == accuracy.p == norm.p

    def test_the_figures_are_those_of_the_paired_differences(self, rng):
        d = rng.normal(-0.02, 0.02, 20)
        (contrast,) = described(BASE, BASE + d)
        assert contrast.difference == pytest.approx(d.mean())
        assert contrast.interval == pytest.approx(t_interval(d))
        assert contrast.interval_corrected == pytest.approx(corrected_interval(d, 1 / 9))
        assert contrast.p == sign_flip_p(d)
        assert contrast.probability_of_improvement == np.mean(d < 0)
        assert contrast.skewness == pytest.approx(stats.skew(d, bias=False))
        assert (contrast.n, contrast.diverged, contrast.metric) == (20, (0, 0), "rmse")

    def test_the_correction_takes_the_larger_ratio_of_the_two_arms_and_none_without_splits(self, rng):
        d = rng.normal(0, 1, 10)
        values = {"a": dict(enumerate(np.zeros(10))), "b": dict(enumerate(d))}
        overlap = {"a": 0.5, "b": 0.1}
        (contrast,) = describe(values, baseline="a", metric="m", better="lower", overlap=overlap)
        assert contrast.interval_corrected == pytest.approx(corrected_interval(d, 0.5))
        assert described(BASE, BASE + NOISE, overlap=None)[0].interval_corrected is None

    def test_only_seeds_that_both_arms_ran_are_paired(self):
        values = {"a": {3: 1.0, 1: 2.0, 7: 9.0}, "b": {1: 2.5, 2: 0.0, 3: 1.5}}
        (contrast,) = describe(values, baseline="a", metric="m", better="lower")
        assert (contrast.n, contrast.difference) == (2, 0.5)

    def test_p_is_corrected_over_the_arms(self, rng):
        arms = [BASE[:10] + rng.normal(-0.01, 0.015, 10) for _ in range(5)]
        contrasts = described(BASE[:10], *arms)
        assert [c.p_holm for c in contrasts] == holm([c.p for c in contrasts])
        assert [c.arm for c in contrasts] == list("bcdef")

    def test_skewed_differences_get_a_sign_flip_interval_beside(self):
        skewed = np.append(np.full(19, 0.01) + NOISE[:19], 0.9)
        assert described(BASE, BASE + skewed)[0].interval_sign_flip == pytest.approx(sign_flip_interval(skewed))
        assert described(BASE, BASE - skewed)[0].interval_sign_flip is not None
        assert described(BASE, BASE + NOISE)[0].interval_sign_flip is None

    def test_a_diverged_run_leaves_counts_and_ranks_but_no_mean(self):
        (contrast,) = described(BASE, [None, *(BASE[1:] - 0.05 + NOISE[1:])])
        assert contrast.diverged == (1, 0)
        assert contrast.difference is contrast.interval is contrast.interval_corrected is contrast.skewness is None
        assert contrast.probability_of_improvement == 19 / 20

    def test_the_rank_based_p_is_wilcoxons(self, rng):
        d = rng.normal(-0.01, 0.02, 12)
        worst = [None, *(BASE[1:12] + d[1:])]
        as_large_number = np.append(9.0, d[1:])
        wilcoxons = stats.wilcoxon(as_large_number, method="exact").pvalue
        assert described(BASE[:12], worst)[0].p == pytest.approx(wilcoxons)

    def test_divergence_of_the_baseline_improves_the_arm_even_where_more_is_better(self):
        (contrast,) = described([None] * 12 + list(BASE[12:]), BASE, better="higher")
        assert contrast.diverged == (0, 12)
        assert contrast.probability_of_improvement == (12 + 8 / 2) / 20

    def test_arms_that_diverge_together_are_tied(self):
        (contrast,) = described([None] * 20, [None] * 20)
        assert (contrast.p, contrast.probability_of_improvement) == (1.0, 0.5)

    def test_nan_and_infinity_count_as_diverged(self):
        assert described(BASE, [math.nan, math.inf, *BASE[2:]])[0].diverged == (2, 0)

    @pytest.mark.filterwarnings("error")
    def test_identical_arms_differ_by_zero_with_p_one(self):
        (contrast,) = described(BASE, BASE)
        assert (contrast.difference, contrast.interval, contrast.p) == (0, (0, 0), 1)
        assert contrast.skewness is None

    @pytest.mark.filterwarnings("error")
    def test_one_constant_difference_is_as_sure_as_its_seeds_allow(self):
        (contrast,) = described(np.arange(10.0), np.arange(10.0) - 0.5)
        assert (contrast.interval, contrast.p) == ((-0.5, -0.5), 2 / 2**10)

    @pytest.mark.parametrize("n", [0, 1])
    def test_without_pairs_to_compare_nothing_is_bounded(self, n):
        (contrast,) = described(BASE[:n], BASE[:n] + 0.1)
        assert (contrast.n, contrast.interval, contrast.p) == (n, None, 1)
        assert contrast.difference == (pytest.approx(0.1) if n else None)

    def test_without_arms_there_is_nothing_to_describe(self):
        assert described(BASE) == []

    def test_an_unknown_baseline_is_named(self):
        with pytest.raises(ValueError, match="'z' among a, b"):
            describe({"a": {}, "b": {}}, baseline="z", metric="m", better="lower")

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(*[st.none() | metric_values | st.sampled_from([1e30, -1e30, 1e-300, 0.1 + 0.2])] * 3),
            max_size=13,
        )
    )
    def test_no_figure_is_ever_nan_and_sides_mirror(self, rows):
        arms = [[row[i] for row in rows] for i in range(3)]
        contrasts = described(*arms)
        for contrast in contrasts:
            contrast.model_validate(contrast.model_dump())  # refuses NaN and infinity
            assert 0 < contrast.p <= contrast.p_holm <= 1
        mirrored = described(*[[None if x is None else -x for x in arm] for arm in arms], better="higher")
        improved = [[c.probability_of_improvement for c in found] for found in (contrasts, mirrored)]
        assert improved[0] == improved[1]

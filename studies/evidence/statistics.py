"""How arms are described: paired differences, intervals, sign flips, Holm. `outcomes` judges parts.

All differences are arm − baseline, one for each seed that both arms ran. An interval that the data does not
bound (one pair, or too few for sign flips) is (−inf, inf).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from studies.evidence.parts import Better
from studies.evidence.schema import Contrast, NoiseFloor

Interval = tuple[float, float]
Floats = NDArray[np.float64]

EXACT_PAIRS = 20  # up to this n all 2^n sign flips are counted
SAMPLED_FLIPS = 99_999
EQUAL = 1e-6  # a resample with this share of the numbers' variance has equal numbers, but for rounding
RESAMPLES = 999
SKEWED = 1.0  # 95 % t intervals cover .94 at this skewness and .90 at 2 (n = 10)


def t_interval(differences: ArrayLike, level: float = 0.95) -> Interval:
    """The t interval of the mean difference, for this data set re-split and re-seeded.

    Args:
        differences: float[n].
        level: the coverage.
    """
    d = _floats(differences)
    return _mean_interval(d, 1 / max(d.size, 1), level)


def corrected_interval(differences: ArrayLike, overlap: float, level: float = 0.95) -> Interval:
    """The t interval for similar data: wider, because re-splits of one data set overlap.

    The variance of the mean is s²·(1/n + n_valid/n_train) (Nadeau & Bengio 2003, Inference for the
    generalization error).

    Args:
        differences: float[n].
        overlap: n_valid/n_train, validation rows over training rows in each split.
        level: the coverage.
    """
    if not 0 < overlap < math.inf:
        raise ValueError(f"a split needs rows on both sides: n_valid/n_train is {overlap}")
    d = _floats(differences)
    return _mean_interval(d, 1 / max(d.size, 1) + overlap, level)


def sign_flip_p(differences: ArrayLike) -> float:
    """The two-sided p of the mean difference, under random signs of the differences.

    All 2^n flips are counted up to 20 pairs; above, 99,999 are drawn with a fixed seed and
    p = (1 + count)/(1 + draws). (scipy.stats.permutation_test gives the same p, in 3 s instead of 3 ms at n = 20.)

    Args:
        differences: float[n]; their scale does not matter. If empty, p is 1.
    """
    d = _floats(differences)
    total = d.sum()
    flipped_totals = total - 2 * _subset_sums(d)
    rounding = 1e-12 * np.abs(d).sum()  # flips with equal totals must count as ties
    return float(np.mean(np.abs(flipped_totals) >= abs(total) - rounding))


def sign_flip_interval(differences: ArrayLike, level: float = 0.95) -> Interval:
    """All mean differences that `sign_flip_p` does not reject: it assumes symmetry, but not normality.

    It is a second opinion, not a cure for skewness: with exponential differences, n = 10, it covers .90, like the
    t interval.

    Flipping the signs of a subset beats the observed total exactly if the subset's mean is on the other side of
    the value tested, so the interval's ends are order statistics of the subsets' means
    (Hartigan 1969, Using subsample values as typical values). At .95 it is infinite below 6 pairs.

    Args:
        differences: float[n].
        level: the coverage.
    """
    d = _floats(differences)
    sizes = _subset_sums(np.ones_like(d))
    outside = math.floor((1 - level) / 2 * sizes.size)
    if outside == 0:
        return -math.inf, math.inf
    means = np.sort(_subset_sums(d)[sizes > 0] / sizes[sizes > 0])
    return float(means[outside - 1]), float(means[-outside])


def probability_of_improvement(differences: ArrayLike, better: Better) -> float:
    """The share of pairs in which the arm is better, ties counting half; ½ without pairs.

    Args:
        differences: float[n]; infinite ones allowed.
        better: which direction of the metric is better.
    """
    d = np.asarray(differences, dtype=np.float64)
    improved = d < 0 if better == "lower" else d > 0
    return float(np.mean(improved + 0.5 * (d == 0))) if d.size else 0.5


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected over their family (Holm 1979)."""
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []


def expected_best_of_k(values: ArrayLike, better: Better) -> list[float]:
    """The expected best of k trials drawn without replacement, for k = 1 … n.

    The unbiased estimator; drawing with replacement (Dodge et al. 2019, Show your work) is biased toward worse
    (Tang et al. 2020, Showing your work doesn't always work).

    Args:
        values: float[n], finite: a diverged trial has the worst value of the search.
        better: which direction of the metric is better.
    """
    best_first = np.sort(_floats(values))
    if better == "higher":
        best_first = best_first[::-1]
    n = best_first.size
    rank = np.arange(n - 1)
    expected = []
    for k in range(1, n + 1):
        # P(the best of k is the j-th best of n) = C(n−j, k−1)/C(n, k), by its ratios: no overflow
        ratios = np.maximum(n - k - rank, 0) / (n - 1 - rank)
        weights = k / n * np.concatenate([[1.0], np.cumprod(ratios)])
        expected.append(float(weights @ best_first))
    return expected


def noise_floor(arm: str, runs: Mapping[int, float | None], repeats: Mapping[int, float | None]) -> NoiseFloor | None:
    """A/A: the same arm twice on the same splits with another initialization and batch order.

    Args:
        arm: its name.
        runs: metric by seed; None if the run diverged.
        repeats: the second runs, by the same seeds.

    Returns:
        Mean, interval and standard deviation of repeats − runs; None with fewer than two pairs that did not diverge.
    """
    d = _floats([b - a for a, b in zip(*_paired(runs, repeats), strict=True) if np.isfinite(b - a)])
    if d.size < 2:
        return None
    return NoiseFloor(arm=arm, n=d.size, difference=float(d.mean()), interval=t_interval(d), sd=float(d.std(ddof=1)))


def describe(
    values: Mapping[str, Mapping[int, float | None]],
    *,
    baseline: str,
    metric: str,
    better: Better | None,
    overlap: Mapping[str, float] | None = None,
) -> list[Contrast]:
    """Every arm beside the baseline, paired by seed. It judges nothing: `outcomes` does, part by part.

    p is corrected over the arms by Holm. If a run diverged there is no mean, and p is that of the Wilcoxon
    signed-rank statistic: a diverged run is worse than any other, and two diverged runs are a tie. It needs only an
    order, and unlike a plain sign test it still weighs the pairs that finished. It flips the signs of the ranks, which
    is exact under ties too.

    If the differences are skewed (|skewness| > 1), the result also has the sign-flip interval.

    Args:
        values: the metric by arm and seed; None, NaN or infinite if the run diverged. Seeds that only one of
            two arms ran are left out.
        baseline: the reference arm.
        metric: the metric's name.
        better: which direction of the metric is better, if either.
        overlap: n_valid/n_train by arm, if the seeds re-split one data set; None if their data does not overlap.

    Returns:
        A contrast for each arm but the baseline, in the order of `values`.
    """
    if baseline not in values:
        raise ValueError(f"no baseline arm {baseline!r} among {', '.join(values)}")
    arms = [arm for arm in values if arm != baseline]
    pairs = [_paired(values[arm], values[baseline]) for arm in arms]
    scores = [_score(ours, theirs, better) for ours, theirs in pairs]
    p_values = [sign_flip_p(score) for score in scores]
    contrasts = []
    for arm, (ours, theirs), score, p, p_holm in zip(arms, pairs, scores, p_values, holm(p_values), strict=True):
        diverged = int(np.isnan(ours).sum()), int(np.isnan(theirs).sum())
        d = np.empty(0) if any(diverged) else ours - theirs
        skewed = skewness(d)
        ratio = max(overlap[arm], overlap[baseline]) if overlap and d.size else None
        contrasts.append(
            Contrast(
                arm=arm,
                baseline=baseline,
                metric=metric,
                difference=float(d.mean()) if d.size else None,
                interval=_bounded(t_interval(d)),
                interval_corrected=None if ratio is None else _bounded(corrected_interval(d, ratio)),
                interval_sign_flip=_bounded(sign_flip_interval(d)) if skewed and abs(skewed) > SKEWED else None,
                n=ours.size,
                diverged=diverged,
                p=p,
                p_holm=p_holm,
                probability_of_improvement=probability_of_improvement(score, "lower") if better else None,
                skewness=skewed,
            )
        )
    return contrasts


def _score(ours: Floats, theirs: Floats, better: Better | None) -> Floats:
    """The numbers whose signs are flipped, negative if the arm is better: differences, or ranks if a run diverged."""
    d = theirs - ours if better == "higher" else ours - theirs
    if not np.isnan(d).any():
        return d
    d[np.isnan(ours)] = math.inf
    d[np.isnan(theirs)] = -math.inf
    d[np.isnan(ours) & np.isnan(theirs)] = 0.0
    return np.sign(d) * stats.rankdata(np.abs(d))


def _paired(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> tuple[Floats, Floats]:
    """Both arms' values over the seeds they share, in the seeds' order; NaN if a run diverged."""
    seeds = sorted(ours.keys() & theirs.keys())
    first, second = (
        np.array([math.nan if (value := run[seed]) is None else value for seed in seeds], dtype=np.float64)
        for run in (ours, theirs)
    )
    first[np.isinf(first)] = math.nan
    second[np.isinf(second)] = math.nan
    return first, second


def _subset_sums(values: Floats) -> Floats:
    """The sum over each subset of `values`, the empty one first: all 2^n, or a fixed sample above 20 values."""
    if values.size > EXACT_PAIRS:
        subsets = np.random.default_rng(0).random((SAMPLED_FLIPS, values.size)) < 0.5
        return np.concatenate([[0.0], subsets @ values])
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums, sums + value])
    return sums


def mean_intervals(d: Floats, variance_factor: float, level: float) -> tuple[Floats, Floats]:
    """The ends of t intervals whose mean has the variance s²·variance_factor.

    Args:
        d: float[..., n], n ≥ 2.
        variance_factor: 1/n for independent numbers.
        level: the coverage.

    Returns:
        Low and high, float[...] each.
    """
    mean = d.mean(-1)
    quantile = stats.t.ppf((1 + level) / 2, d.shape[-1] - 1)
    half = quantile * math.sqrt(variance_factor) * d.std(-1, ddof=1)
    return mean - half, mean + half


def bootstrap_t_intervals(d: Floats, level: float) -> tuple[Floats, Floats]:
    """The ends of bootstrap-t intervals of the mean, for skewed numbers (Efron & Tibshirani 1993, chapter 12).

    The resamples for each n are always the same, so an interval shifts with its numbers, and mirrored numbers have the
    mirrored interval.

    Args:
        d: float[..., n], no row of equal numbers.
        level: the coverage.

    Returns:
        Low and high, float[...] each; infinite if the resamples are too few for the level, or too many are of equal
        numbers.
    """
    n = d.shape[-1]
    mean, sd = d.mean(-1, keepdims=True), d.std(-1, ddof=1, keepdims=True)
    z = (d - mean) / sd
    counts = _resamples(n)
    means = z @ counts / n
    variances = (np.square(z) @ counts / n - means**2) * (n / (n - 1))
    t = means * np.sqrt(n / np.maximum(variances, EQUAL))
    equal = (variances <= EQUAL) & (means != 0)  # resamples of equal numbers count as infinitely far out
    np.copyto(t, np.copysign(np.inf, means), where=equal)
    rank = math.floor((1 - level) / 2 * (RESAMPLES + 1))
    if rank == 0:
        return np.full(d.shape[:-1], -np.inf), np.full(d.shape[:-1], np.inf)
    t.partition((rank - 1, RESAMPLES - rank), axis=-1)
    error = sd[..., 0] / math.sqrt(n)
    return mean[..., 0] - t[..., RESAMPLES - rank] * error, mean[..., 0] - t[..., rank - 1] * error


@cache
def _resamples(n: int) -> Floats:
    """How often each resample draws each of n: float[n, RESAMPLES]."""
    drawn = np.random.default_rng(0).multinomial(n, [1 / n] * n, RESAMPLES)
    return np.ascontiguousarray(drawn.T, dtype=np.float64)


def median_intervals(d: Floats, overlap: float | None, level: float = 0.95) -> tuple[Floats, Floats]:
    """The ends of the median's interval by order statistics: at n = 20 the 6th and the 15th.

    Of numbers from splits that overlap, more are on one side of the median together. As in the corrected t, each two
    have the correlation n_valid/(n_valid + n_train), here of the normal scores: then it is the 4th and the 17th of 20
    splits 90/10, the 2nd and the 19th of 20 splits 80/20.

    Args:
        d: float[..., n]; infinite numbers are allowed.
        overlap: n_valid/n_train if the numbers are from re-splits of one data set.
        level: the coverage.

    Returns:
        Low and high, float[...] each; infinite below 6 numbers at .95, or 8 of splits 90/10.
    """
    n = d.shape[-1]
    rank = _median_rank(n, overlap or 0.0, level)
    if rank == 0:
        return np.full(d.shape[:-1], -np.inf), np.full(d.shape[:-1], np.inf)
    ordered = np.sort(d, axis=-1)
    return ordered[..., rank - 1], ordered[..., n - rank]


@cache
def _median_rank(n: int, overlap: float, level: float) -> int:
    """The place, from 1, of the number that is the interval's lower end; 0 if there is none so low."""
    # What splits share moves the chance of being below the median, for all numbers at once: Φ(√overlap·z), z normal.
    z = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    below = stats.norm.cdf(math.sqrt(overlap) * z) if overlap else np.array([0.5])
    fewer = np.mean(stats.binom.cdf(np.arange(n // 2)[:, None], n, below), axis=1)  # at most so many are below
    return int((fewer < (1 - level) / 2).sum())


def _mean_interval(d: Floats, variance_factor: float, level: float) -> Interval:
    if d.size < 2:
        return -math.inf, math.inf
    low, high = mean_intervals(d, variance_factor, level)
    return float(low), float(high)


def skewness(d: Floats) -> float | None:
    """Adjusted Fisher–Pearson skewness; None below three values or if they are nearly equal."""
    if d.size < 3:
        return None
    found = float(skewnesses(d))
    return None if math.isnan(found) else found


def skewnesses(d: Floats) -> Floats:
    """Adjusted Fisher–Pearson skewness of float[..., n], n ≥ 3; NaN if the numbers are nearly equal."""
    largest = np.abs(d).max(-1, keepdims=True)
    told_apart = np.ptp(d, axis=-1) > 1e-9 * largest[..., 0]
    scaled = np.where(told_apart[..., None], d / np.where(largest > 0, largest, 1), np.arange(d.shape[-1]))
    return np.where(told_apart, stats.skew(scaled, axis=-1, bias=False), np.nan)


def _bounded(interval: Interval) -> Interval | None:
    return interval if math.isfinite(interval[1] - interval[0]) else None


def _floats(values: ArrayLike) -> Floats:
    floats = np.asarray(values, dtype=np.float64)
    if not np.isfinite(floats).all():  # a NaN among differences would give a p of zero
        raise ValueError(f"finite values only: leave diverged runs out or give them a worst value; got {floats}")
    return floats

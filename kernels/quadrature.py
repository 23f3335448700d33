"""Folds k steps of Adam without gradient into two to four terms, by Gauss quadrature, and bounds the error.

The steps j that a row misses after step z move its weights by −m·Σ W_j/(√v + eps·κ_j). This is a sum over a measure
that does not depend on the row, with κ_j = √(1 − β2^j)/√β2^(j−z), W_j = rate_j·Πβ1·(decay after j)·κ_j and rate_j =
lr_j/(1 − β1^j). Its n-point Gauss quadrature is computed from 2n moments and has n terms instead of k.

The quadrature is in x = 1/(κ + SHIFT) instead of κ, because κ grows without bound as steps are missed. x stays between
0 and 1/SHIFT, so the moments lose no digits, and n points are far more accurate.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from .native import inlined, llvm_inlined
from .steps import BETA1, BETA2, KEEP, RATE, SCALE

SHIFT = 2.0  # among 1, 2, 3 and ∞ the one with which .9/.95 folds; the other pairs fold with any of them
FEWEST_POINTS, MOST_POINTS = 2, 4
KEPT, LOG_FADE, BETA1_PRODUCT, ROOT_GROWTH, CENTER, TERM, OFFSET, MOMENTS = range(8)
ROWS = MOMENTS + 2 * MOST_POINTS  # of `folds`, see `add_step`
FACTORS = 3 + 4 * (MOST_POINTS // 2)
LOG2_FADED = -30.0  # a mean that has faded to 2^this of the root of its mean square counts as zero
LOG2_OF_NO_BETA1 = -1e5  # used as the logarithm of β1 = 0
FEWEST_STARTS = 8  # `first_foldable` computes one error for this many starts or fewer
STARTS = (25, 40, 60, 90, 130, 200, 300, 450, 700, 1_000, 1_500, 2_200, 3_300, 5_000, 10_000)  # `folding` tries these
TOLERANCE = 1e-4  # the largest distance between folding and replay, in steps at the highest rate


def clear(folds: np.ndarray) -> None:
    """Empty the record `folds`, float64[ROWS, steps + 1]; see `add_step`."""
    folds[:CENTER] = 1
    folds[LOG_FADE] = 0
    folds[CENTER:] = 0
    folds[MOMENTS : MOMENTS + 1] = 1e-200  # not 0: at rates of zero the measure is zero, and its mean would be 0/0


def rows(points: int) -> int:
    """How many rows of `folds` this number of Gauss points needs."""
    return MOMENTS + 2 * points


@llvm_inlined
def add_step(folds: Any, t: int, oldest: int, points: int, c: Any) -> int:
    """Add step t to every live start; returns the oldest start that is live after it.

    A start z is a step after which rows wait: they miss step t. It is live until the mean of its rows has faded to 2⁻³⁰
    of the root of their mean square. After that the mean counts as zero, and later steps move the rows no more. This
    depends on every β1 since z, not on the current one. Momentum (one point) has no mean square: there the start is
    live until the mean has faded to 2⁻⁶⁰ of itself.

    Column z of `folds` has these rows:

    - KEPT: the product of the decays from the start of the record up to z.
    - LOG_FADE: the sum of log2(β1/√β2) up to z.
    - BETA1_PRODUCT, ROOT_GROWTH: the products of β1 and of 1/√β2 since z, while z is live.
    - CENTER: x of the first step after z.
    - MOMENTS and after: the moments 0 … 2·points − 1 of the measure {(x_j − CENTER, W_j)}, divided by the decays since
      z, so that decay applies to old starts too, and they need no update.
    - TERM, OFFSET: scratch space of this function.

    Args:
        folds: float64[ROWS, steps + 1].
        t: ≥ 1; every step is added once, in order.
        oldest: what the previous call returned; 0 at first.
        points: of Gauss; 0 records only the decay.
        c: float64[9], the constants of step t; see `kernels.steps`.
    """
    folds[KEPT, t] = folds[KEPT, t - 1] * c[KEEP]
    if points == 0:
        return t
    up = 1 / math.sqrt(c[BETA2])
    root, rate_over_kept = 1 / c[SCALE], c[RATE] / folds[KEPT, t]
    folds[CENTER, t - 1] = 1 / (root * up + SHIFT)
    beta1 = c[BETA1]
    for z in range(oldest, t):
        folds[BETA1_PRODUCT, z] *= beta1
        folds[ROOT_GROWTH, z] *= up
        kappa = root * folds[ROOT_GROWTH, z]
        term = rate_over_kept * folds[KEPT, z] * folds[BETA1_PRODUCT, z] * kappa
        offset = 1 / (kappa + SHIFT) - folds[CENTER, z]
        if points == 2:  # the moments are updated here, so that each start is read once
            folds[MOMENTS, z] += term
            term *= offset
            folds[MOMENTS + 1, z] += term
            term *= offset
            folds[MOMENTS + 2, z] += term
            folds[MOMENTS + 3, z] += term * offset
        else:
            folds[TERM, z], folds[OFFSET, z] = term, offset
    if points != 2:
        for power in range(2 * points):
            for z in range(oldest, t):
                folds[MOMENTS + power, z] += folds[TERM, z]
                folds[TERM, z] *= folds[OFFSET, z]
    return fade(folds[LOG_FADE], t, oldest, points, c)


@inlined
def fade(fades: Any, t: int, oldest: int, points: int, c: Any) -> int:
    """Add step t to `fades`, the LOG_FADE of `add_step`; returns the oldest start that is live after it."""
    fades[t] = fades[t - 1] + (math.log2(c[BETA1] / math.sqrt(c[BETA2])) if c[BETA1] > 0 else LOG2_OF_NO_BETA1)
    return oldest_live(fades, t, oldest, points)


@inlined
def oldest_live(fades: Any, t: int, oldest: int, points: int) -> int:
    """The oldest start that is live after step t; `oldest` is a start that was live before, or 0."""
    faint = LOG2_FADED if points > 1 else 2 * LOG2_FADED
    while oldest < t and fades[t] - fades[oldest] < faint:
        oldest += 1
    return oldest


@llvm_inlined
def _jacobi_matrix(moments: Any, points: int, width: float, work: Any) -> int:
    """Write a measure's symmetric tridiagonal matrix to work[0], the diagonal, and work[1] (Chebyshev's algorithm).

    Returns its size, which is less than `points` if the measure lies on fewer places.
    """
    diagonal, beside, before, now = work[0], work[1], work[2], work[3]
    for i in range(2 * points):
        before[i], now[i] = 0.0, moments[i]
    a, square = now[1] / now[0], 0.0
    diagonal[0] = a
    for k in range(1, points):
        for i in range(k, 2 * points - k):
            before[i] = now[i + 1] - a * now[i] - square * before[i]
        before, now = now, before
        square = now[k] / before[k - 1]
        a = now[k + 1] / now[k] - before[k] / before[k - 1]
        if not (square > 1e-9 * moments[2] / moments[0] and -width < a < 0):
            return k
        diagonal[k] = a
        beside[k - 1] = math.sqrt(square)
    return points


@llvm_inlined
def _diagonalize(n: int, work: Any) -> None:
    """Replace work[0] by the eigenvalues, and write the eigenvectors' first components to work[2]: the QL algorithm."""
    diagonal, beside, first = work[0], work[1], work[2]
    for i in range(n):
        first[i] = 0.0
    first[0] = 1.0
    beside[n - 1] = 0.0
    for low in range(n):
        for _ in range(30):
            high = low
            while high < n - 1 and abs(beside[high]) > 1e-16 * (abs(diagonal[high]) + abs(diagonal[high + 1])):
                high += 1
            if high == low:
                break
            g = (diagonal[low + 1] - diagonal[low]) / (2 * beside[low])
            g = diagonal[high] - diagonal[low] + beside[low] / (g + math.copysign(math.sqrt(g * g + 1), g))
            sine, cosine, shift = 1.0, 1.0, 0.0
            for i in range(high - 1, low - 1, -1):
                f, h = sine * beside[i], cosine * beside[i]
                r = math.sqrt(f * f + g * g)
                beside[i + 1] = r
                sine, cosine = f / r, g / r
                g = diagonal[i + 1] - shift
                r = (diagonal[i] - g) * sine + 2 * cosine * h
                shift = sine * r
                diagonal[i + 1] = g + shift
                g = cosine * r - h
                first[i], first[i + 1] = (
                    cosine * first[i] - sine * first[i + 1],
                    sine * first[i] + cosine * first[i + 1],
                )
            diagonal[low] -= shift
            beside[low], beside[high] = g, 0.0


@inlined
def two_points(m0: float, m1: float, m2: float, m3: float, center: float) -> Any:
    """κ and weight of the lower Gauss point, then of the upper one, for a measure with these moments about `center`."""
    mean, second = m1 / m0, m2 / m0
    variance = max(second - mean * mean, 1e-15)
    skew = (m3 / m0 - 3 * mean * second + 2 * mean * mean * mean) / variance
    spread = math.sqrt(skew * skew + 4 * variance)
    weight = m0 * (skew + spread) / (2 * spread)
    middle = center + mean + skew / 2
    low, high = middle - spread / 2, middle + spread / 2
    inverse = 1 / (low * high)
    return high * inverse - SHIFT, weight, low * inverse - SHIFT, m0 - weight


@llvm_inlined
def gauss(folds: Any, z: int, points: int, work: Any) -> None:
    """Write κ and weight of each Gauss point of start z to work[0] and work[2]; see `new_work`.

    Points that the measure does not need get weight 0.
    """
    center = folds[CENTER, z]
    kappas, weights = work[0], work[2]
    if points == 2:
        m = MOMENTS
        kappas[0], weights[0], kappas[1], weights[1] = two_points(
            folds[m, z], folds[m + 1, z], folds[m + 2, z], folds[m + 3, z], center
        )
        return
    n = _jacobi_matrix(folds[MOMENTS:, z], points, center, work)
    _diagonalize(n, work)
    for q in range(n):
        kappas[q] = 1 / (center + kappas[q]) - SHIFT
        weights[q] *= weights[q] * folds[MOMENTS, z]
    for q in range(n, MOST_POINTS):
        kappas[q], weights[q] = kappas[0], 0.0


def new_work(threads: int) -> np.ndarray:
    """Scratch space of `gauss` and `fold` for each thread, float64[threads, 4, 2 · MOST_POINTS]."""
    return np.empty((threads, 4, 2 * MOST_POINTS))


@llvm_inlined
def fold(folds: Any, z: int, t: int, points: int, eps: float, work: Any, out: Any) -> None:
    """Fold Adam's steps z+1 … t into `points` Gauss points, two to a fraction.

    out[3 … 6] get a, b, c, d of (a·√v + b)/(v + c·√v + d). A weight moves by m times this fraction. With more than two
    points, out[7 … 10] get those of a second fraction.
    """
    gauss(folds, z, points, work)
    kappas, weights = work[0], work[2]
    keep = folds[KEPT, t] / folds[KEPT, z]
    for q in range(0, points, 2):
        at = 3 + 2 * q
        out[at], out[at + 1], out[at + 2], out[at + 3] = fraction(
            eps * kappas[q], weights[q] * keep, eps * kappas[q + 1], weights[q + 1] * keep
        )


@inlined
def fold_two(folds: Any, z: Any, t: Any, eps: Any, out: Any) -> None:
    """`fold` with two points."""
    m, keep = MOMENTS, folds[KEPT, t] / folds[KEPT, z]
    low, low_weight, high, high_weight = two_points(
        folds[m, z], folds[m + 1, z], folds[m + 2, z], folds[m + 3, z], folds[CENTER, z]
    )
    out[3], out[4], out[5], out[6] = fraction(eps * low, low_weight * keep, eps * high, high_weight * keep)


@inlined
def fraction(low: float, low_weight: float, high: float, high_weight: float) -> Any:
    """Two terms weight/(√v + place) as one fraction: a, b, c, d of (a·√v + b)/(v + c·√v + d)."""
    return low_weight + high_weight, low_weight * high + high_weight * low, low + high, low * high


@inlined
def folded(mean: Any, square: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """How far a fraction from `fold` moves a weight with this mean and mean square."""
    root = np.sqrt(square)
    # An infinite mean square moves nothing, as in a dense step. So the numerator must stay finite: ∞/∞ is NaN.
    finite = root if root < type(root)(np.inf) else type(root)(0)
    return mean * (a * finite + b) / (square + c * root + d)


class Folding(NamedTuple):
    """How many points Adam's missed steps fold into, and the first step after which a gap may be folded."""

    points: int
    start: float  # math.inf: gaps are never folded, but replayed


@lru_cache(1 << 12)
def folding(beta1: float, beta2: float, fewest: int = FEWEST_POINTS, most: int = MOST_POINTS) -> Folding:
    """The fewest points whose error is within TOLERANCE from some step on, and that step.

    >>> folding(0.9, 0.99)
    Folding(points=2, start=40)
    """
    for points in range(fewest, most + 1):
        accurate_from = math.inf
        for start in reversed(STARTS):
            if not fold_error(beta1, beta2, start, points) <= TOLERANCE:
                break
            accurate_from = start
        if accurate_from < math.inf:
            return Folding(points, accurate_from)
    return Folding(most, math.inf)


@lru_cache(1 << 12)
def fold_error(beta1: float, beta2: float, start: int, points: int) -> float:
    """A bound on the distance between a folded weight and a replayed one, in steps at the highest rate of the gap.

    It holds for a gap of any length after step `start`, any schedule of rates and of β1 up to `beta1`, any decay, any
    eps, and a mean |m| ≤ √v. The error grows with the measure, see `_error`, and the largest measure is that of an
    endless gap at the highest rate, with β1 = `beta1` and no decay.

    >>> round(fold_error(0.9, 0.99, start=40, points=2), 6)
    7.9e-05
    """
    length = _length(beta1, beta2)
    if length == math.inf:
        return math.inf
    gap = np.arange(1.0, length + 1)
    return _error(gap, np.full_like(gap, beta1), 1 / (1 - beta1 ** (start + gap)), beta2, start, points)


def _length(beta1: float, beta2: float) -> float:
    """After how many steps the terms of a gap are negligible; infinite if that takes too long or never happens."""
    fade = beta1 / math.sqrt(beta2) if beta2 > 0 else math.inf
    return math.inf if fade > 0.999 else math.ceil(30 / -math.log(max(fade, 1e-9))) + 1


def _error(gap: np.ndarray, beta1: np.ndarray, rate: np.ndarray, beta2: float, start: int, points: int) -> float:
    """The largest error of folding the steps start + gap, gap = 1, 2, …, for a mean |m| ≤ √v and any eps.

    With s = √v, 1/(s + eps·κ) is a constant plus a multiple of f = 1/(eps + (s − SHIFT·eps)·x). On f, the error of n
    Gauss points is the smallest ∫π²·f dμ over all polynomials π of degree n that are 1 at the pole of f, because f
    minus its Hermite interpolant is π²·f. So for each s the error grows with the measure. The result is the largest
    error over a grid of s, plus a twentieth for the values between.
    """
    with np.errstate(all="ignore"):
        kappa = np.sqrt((1 - beta2 ** (start + gap)) / beta2**gap)
        weight = rate * np.cumprod(beta1) * kappa
    if not (np.isfinite(kappa).all() and np.isfinite(weight).all()):  # √v fades beyond a float: such gaps are replayed
        return math.inf
    if not weight.any():
        return 0.0
    kappas, weights = _gauss_of(kappa, weight, points)
    lowest = min(-5.0, -2 - math.log10(kappa.max()))  # below it no term depends on eps any more
    eps = np.logspace(lowest, 3, math.ceil(4 * (3 - lowest)) + 1)[:, None]  # over s
    error = (weight / (1 + eps * kappa)).sum(1) - (weights / (1 + eps * kappas)).sum(1)
    return 1.05 * float(np.abs(error).max())


def _gauss_of(kappa: np.ndarray, weight: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """The Gauss points of a measure, from its orthogonal polynomials (Stieltjes) and their matrix (Golub & Welsch)."""
    center = 1 / (kappa[0] + SHIFT)
    offset = 1 / (kappa + SHIFT) - center
    before, now, link = np.zeros_like(offset), np.sqrt(weight / weight.sum()), 0.0
    matrix = np.zeros((points + 1, points + 1))
    for k in range(points):
        matrix[k, k] = (now**2 * offset).sum()
        before, now = now, (offset - matrix[k, k]) * now - link * before
        link = matrix[k, k + 1] = matrix[k + 1, k] = float(np.linalg.norm(now))
        if not link > 0:
            points = k + 1
            break
        now /= link
    nodes, vectors = np.linalg.eigh(matrix[:points, :points])
    return 1 / (center + nodes) - SHIFT, weight.sum() * vectors[0] ** 2


def first_foldable(lr: np.ndarray, beta1: np.ndarray, beta2: float, points: int) -> int:
    """The first step after which every gap of a schedule folds into `points` within TOLERANCE; len(lr) if none.

    TOLERANCE is in steps at the highest rate of the schedule: a gap with lower rates has a lower error. To check many
    gaps at once, take the largest rate and β1 of all their first steps, of all their second steps, and so on. This
    gives a measure larger than that of any of the gaps. If its error is too large, check each half of the gaps.

    Args:
        lr: [steps], the rate of each step.
        beta1: [steps], β1 of each step.
        beta2: β2 of all steps.
        points: of Gauss.
    """
    n = len(lr)
    length = _length(float(np.max(beta1)), beta2)
    if length == math.inf:
        return n
    rate = lr / (1 - beta1 ** np.arange(1, n + 1)) / max(float(np.max(lr)), 1e-300)

    def foldable_from(first: int, end: int) -> int:
        """The first start in first … end − 1 such that gaps fold after it and all later starts; `end` if none."""
        steps = min(int(length), n - first)
        betas, rates = (_largest(values[first : end + steps - 1], end - first, steps) for values in (beta1, rate))
        if _error(np.arange(1.0, steps + 1), betas, rates, beta2, first, points) <= TOLERANCE:
            return first
        if end - first <= FEWEST_STARTS:
            return end
        middle = (first + end) // 2
        later = foldable_from(middle, end)
        return later if later > middle else foldable_from(first, middle)

    return foldable_from(0, n)


def _largest(values: np.ndarray, width: int, steps: int) -> np.ndarray:
    """The largest of values[k : k + width] for each k < steps; for wide windows, the largest value of all."""
    if width > steps:
        return np.full(steps, values.max())
    padded = np.concatenate([values, np.zeros(width + steps - 1 - len(values))])
    return np.lib.stride_tricks.sliding_window_view(padded, width).max(1)


def foldable_eps(eps: float, dtype: torch.dtype) -> bool:
    """Whether the parts of a `fraction` are normal numbers of `dtype`. The smallest is d, about eps²."""
    return eps**2 >= 1e6 * torch.finfo(dtype).tiny

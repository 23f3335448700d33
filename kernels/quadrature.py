"""What k steps without gradient do to a row of Adam's, as two, three or four steps: Gauss's quadrature, and its bound.

The steps j after step z that a row misses move its weights by −m·Σ W_j/(√v + eps·κ_j): a sum over a measure that does
not depend on the row, with κ_j = √(1 − β2^j)/√β2^(j−z), W_j = rate_j·Πβ1·(decay after j)·κ_j and
rate_j = lr_j/(1 − β1^j). Its n-point Gauss quadrature, from 2n moments, needs n terms instead of k.

The quadrature is Gauss's in x = 1/(κ + SHIFT) rather than in κ, which may grow without end as steps are missed: x stays
between 0 and 1/SHIFT, so that moments lose no digits, and n points do better by far.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from .native import compiled, inlined
from .steps import BETA1, BETA2, KEEP, RATE, SCALE

SHIFT = 2.0  # of 1, 2, 3 and ∞, what lets .9/.95 fold; the others fold with any
FEWEST_POINTS, MOST_POINTS = 2, 4
KEPT, FADES, MEANS, UPS, CENTER, TERM, APART, MOMENTS = range(8)
ROWS = MOMENTS + 2 * MOST_POINTS  # of the folds
FACTORS = 3 + 4 * (MOST_POINTS // 2)
FAINT = -30.0  # log2 of what is left of a mean that counts as zero
NOTHING = -1e5  # log2 of a β1 of zero
FEWEST_STARTS = 8  # of which one error is found
STARTS = (25, 40, 60, 90, 130, 200, 300, 450, 700, 1_000, 1_500, 2_200, 3_300, 5_000, 10_000)  # where errors are known
TOLERANCE = 1e-4  # of a step at the highest rate: how far folding may leave a weight from where replay would


def clear(folds: np.ndarray) -> None:
    """Begin a record: no step is known. `folds` is float64[ROWS, steps + 1]; see `add_step`."""
    folds[:CENTER] = 1
    folds[FADES] = 0
    folds[CENTER:] = 0
    folds[MOMENTS : MOMENTS + 1] = 1e-200  # a measure of nothing at all, as rates of zero make it, has no mean


def rows(points: int) -> int:
    """Of the folds, what so many Gauss points take."""
    return MOMENTS + 2 * points


@compiled
def add_step(folds: Any, t: int, oldest: int, points: int, c: Any) -> int:
    """Let the live starts know step t, which rows there miss; returns the oldest start that is live after it.

    A start z is live until the mean of its rows has faded to 2⁻³⁰ of the root of their mean square: what comes later
    moves them no more, and their mean counts as zero. That depends on every β1 since z, not on today's. With one point,
    for a momentum that has no mean square, it is 2⁻⁶⁰ of itself.

    Of z, folds holds: KEPT, the product of the decays up to z (from the record's start); FADES, the sum of log2(β1/√β2)
    up to z; MEANS and UPS, the products of β1 and 1/√β2 since z, while it lives; CENTER, x of the first step after z;
    from MOMENTS on, the moments 0 … 2·points − 1 of the measure {(x_j − CENTER, W_j)}, each divided by the decays since
    z, so that old starts go on shrinking without being visited. TERM and APART are for this function to work in.

    Args:
        folds: float64[ROWS, steps + 1].
        t: ≥ 1; every step is added once, in order.
        oldest: what the call before returned; 0 at first.
        points: of Gauss; 0 where nothing but the decay is to be known.
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
        folds[MEANS, z] *= beta1
        folds[UPS, z] *= up
        kappa = root * folds[UPS, z]
        term = rate_over_kept * folds[KEPT, z] * folds[MEANS, z] * kappa
        apart = 1 / (kappa + SHIFT) - folds[CENTER, z]
        if points == 2:  # the moments here, so that a start is read once
            folds[MOMENTS, z] += term
            term *= apart
            folds[MOMENTS + 1, z] += term
            term *= apart
            folds[MOMENTS + 2, z] += term
            folds[MOMENTS + 3, z] += term * apart
        else:
            folds[TERM, z], folds[APART, z] = term, apart
    if points != 2:
        for power in range(2 * points):
            for z in range(oldest, t):
                folds[MOMENTS + power, z] += folds[TERM, z]
                folds[TERM, z] *= folds[APART, z]
    return fade(folds[FADES], t, oldest, points, c)


@inlined
def fade(fades: Any, t: int, oldest: int, points: int, c: Any) -> int:
    """Put step t's fading on record in `fades`, see `add_step`; returns the oldest start that is live after it."""
    fades[t] = fades[t - 1] + (math.log2(c[BETA1] / math.sqrt(c[BETA2])) if c[BETA1] > 0 else NOTHING)
    return oldest_live(fades, t, oldest, points)


@inlined
def oldest_live(fades: Any, t: int, oldest: int, points: int) -> int:
    """The oldest start that is live after step t; `oldest` is one that was live before, or 0."""
    faint = FAINT if points > 1 else 2 * FAINT
    while oldest < t and fades[t] - fades[oldest] < faint:
        oldest += 1
    return oldest


@compiled
def _jacobi_matrix(moments: Any, points: int, width: float, work: Any) -> int:
    """Leave the symmetric tridiagonal matrix of a measure in work[0] and, beside it, work[1] (Chebyshev's algorithm).

    Returns its size: less than `points` where the measure has no more places than that.
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


@compiled
def _diagonalize(n: int, work: Any) -> None:
    """Turn work[0] into the eigenvalues, and leave the eigenvectors' first components in work[2]: the QL algorithm."""
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
    """κ and weight of the lower Gauss point, and of the upper one, of a measure with these moments about `center`."""
    mean, second = m1 / m0, m2 / m0
    variance = max(second - mean * mean, 1e-15)
    skew = (m3 / m0 - 3 * mean * second + 2 * mean * mean * mean) / variance
    spread = math.sqrt(skew * skew + 4 * variance)
    weight = m0 * (skew + spread) / (2 * spread)
    middle = center + mean + skew / 2
    low, high = middle - spread / 2, middle + spread / 2
    inverse = 1 / (low * high)
    return high * inverse - SHIFT, weight, low * inverse - SHIFT, m0 - weight


@compiled
def gauss(folds: Any, z: int, points: int, work: Any) -> None:
    """Leave κ and weight of each Gauss point of start z's measure in work[0] and work[2]; see `new_work`.

    Points that the measure does not need have weight 0.
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
    """What `gauss` and `fold` work in, for each thread."""
    return np.empty((threads, 4, 2 * MOST_POINTS))


@compiled
def fold(folds: Any, z: int, t: int, points: int, eps: float, work: Any, out: Any) -> None:
    """The sum of Adam's steps z+1 … t as `points` Gauss points, two in a fraction.

    out[3 … 6] are a, b, c, d of (a·√v + b)/(v + c·√v + d), by which m is multiplied to move a weight; out[7 … 10]
    those of a second fraction, where there are more than two points.
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
    """`fold`, where there are two points."""
    m, keep = MOMENTS, folds[KEPT, t] / folds[KEPT, z]
    low, low_weight, high, high_weight = two_points(
        folds[m, z], folds[m + 1, z], folds[m + 2, z], folds[m + 3, z], folds[CENTER, z]
    )
    out[3], out[4], out[5], out[6] = fraction(eps * low, low_weight * keep, eps * high, high_weight * keep)


@inlined
def fraction(low: float, low_weight: float, high: float, high_weight: float) -> Any:
    """Two terms weight/(√v + place) as one: a, b, c, d of (a·√v + b)/(v + c·√v + d)."""
    return low_weight + high_weight, low_weight * high + high_weight * low, low + high, low * high


@inlined
def folded(mean: Any, square: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """What a fraction that `fold` leaves moves a weight by."""
    root = np.sqrt(square)
    # A square that has left the finite numbers moves nothing, as in the steps: so no infinity stands above the line.
    finite = root if root < type(root)(np.inf) else type(root)(0)
    return mean * (a * finite + b) / (square + c * root + d)


class Folding(NamedTuple):
    """How many points Adam's missed steps fold into, and the number of steps after which a gap may begin for that."""

    points: int
    start: float  # math.inf: never, they are replayed


@lru_cache(1 << 12)
def folding(beta1: float, beta2: float, fewest: int = FEWEST_POINTS, most: int = MOST_POINTS) -> Folding:
    """The fewest points whose error is within TOLERANCE from some step on, and that step."""
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
    """A bound on what folding moves a weight from where replay would, in steps of the highest rate in the gap.

    For a gap of any length after step `start`, any schedule of rates and of β1 up to `beta1`, any decay and any eps,
    and a mean |m| ≤ √v: the error grows with the measure, see `_error`, and the largest one is that of the highest
    rate, β1 = `beta1`, no decay and no end.
    """
    length = _length(beta1, beta2)
    if length == math.inf:
        return math.inf
    gap = np.arange(1.0, length + 1)
    return _error(gap, np.full_like(gap, beta1), 1 / (1 - beta1 ** (start + gap)), beta2, start, points)


def _length(beta1: float, beta2: float) -> float:
    """After how many steps the terms of a gap have died away; infinite where that takes too long, or never happens."""
    fade = beta1 / math.sqrt(beta2) if beta2 > 0 else math.inf
    return math.inf if fade > 0.999 else math.ceil(30 / -math.log(max(fade, 1e-9))) + 1


def _error(gap: np.ndarray, beta1: np.ndarray, rate: np.ndarray, beta2: float, start: int, points: int) -> float:
    """What folding the steps start + gap, gap = 1, 2, …, moves a weight by, at most, for a mean |m| ≤ √v and any eps.

    With s = √v, 1/(s + eps·κ) is a constant and a multiple of f = 1/(eps + (s − SHIFT·eps)·x). Gauss's n points err
    on f by the least ∫π²·f dμ of all polynomials π of degree n that are 1 at f's pole: f less Hermite's interpolant
    is π²·f. So the error, for each s, grows with the measure. What is returned is its own, over all s, and a twentieth
    for the s between.
    """
    kappa = np.sqrt((1 - beta2 ** (start + gap)) / beta2**gap)
    weight = rate * np.cumprod(beta1) * kappa
    if not weight.sum() > 0:
        return 0.0
    kappas, weights = _gauss_of(kappa, weight, points)
    eps = np.logspace(-5, 3, 33)[:, None]  # over s
    error = (weight / (1 + eps * kappa)).sum(1) - (weights / (1 + eps * kappas)).sum(1)
    return 1.05 * float(np.abs(error).max())


def _gauss_of(kappa: np.ndarray, weight: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss points of a measure, by its orthogonal polynomials (Stieltjes) and its matrix (Golub & Welsch)."""
    center = 1 / (kappa[0] + SHIFT)
    apart = 1 / (kappa + SHIFT) - center
    before, now, link = np.zeros_like(apart), np.sqrt(weight / weight.sum()), 0.0
    matrix = np.zeros((points + 1, points + 1))
    for k in range(points):
        matrix[k, k] = (now**2 * apart).sum()
        before, now = now, (apart - matrix[k, k]) * now - link * before
        link = matrix[k, k + 1] = matrix[k + 1, k] = float(np.linalg.norm(now))
        if not link > 0:
            points = k + 1
            break
        now /= link
    nodes, vectors = np.linalg.eigh(matrix[:points, :points])
    return 1 / (center + nodes) - SHIFT, weight.sum() * vectors[0] ** 2


def first_foldable(lr: np.ndarray, beta1: np.ndarray, beta2: float, points: int) -> int:
    """The first step of a schedule from which on every gap folds into `points` within TOLERANCE; its length if none is.

    Of steps at the schedule's highest rate, that is: where a gap's rates are lower, so is its error. Of many gaps the
    largest rates and β1 of their first steps, of their second ones and so on make a measure that is larger than each of
    theirs. If that is too large, there is one of each half of them.

    Args:
        lr: rate of the steps 1, 2, …
        beta1: theirs.
        beta2: of all.
        points: of Gauss.
    """
    n = len(lr)
    length = _length(float(np.max(beta1)), beta2)
    if length == math.inf:
        return n
    rate = lr / (1 - beta1 ** np.arange(1, n + 1)) / max(float(np.max(lr)), 1e-300)

    def foldable_from(first: int, end: int) -> int:
        """The first start in first … end − 1 such that it and all later ones are, `end` if none is."""
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
    """The largest of values[k : k + width] for each k < steps, or for many values more than that."""
    if width > steps:
        return np.full(steps, values.max())
    padded = np.concatenate([values, np.zeros(width + steps - 1 - len(values))])
    return np.lib.stride_tricks.sliding_window_view(padded, width).max(1)


def foldable_eps(eps: float, dtype: torch.dtype) -> bool:
    """Whether the parts of a `fraction` are normal numbers of `dtype`: d holds eps²."""
    return eps**2 >= 1e6 * torch.finfo(dtype).tiny

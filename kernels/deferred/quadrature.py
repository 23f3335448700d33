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

from ..trainer.native import compiled

SHIFT = 2.0  # of 1, 2, 3 and ∞, what lets .9/.95 fold; the others fold with any
FEWEST_POINTS, MOST_POINTS = 2, 4
KEPT, MEANS, UPS, CENTER, MOMENTS = range(5)
ROWS = MOMENTS + 2 * MOST_POINTS
FACTORS = 3 + 4 * (MOST_POINTS // 2)
TOLERANCE = 1e-4  # of a step at the highest rate: how far folding may leave a weight from where replay would


@compiled
def add_step(
    folds: Any, t: int, first: int, points: int, beta1: float, beta2: float, keep: float, rate: float, c2: float
) -> None:
    """Let every start z of first … t − 1 know step t, which its rows miss.

    Of z, folds holds: KEPT, the product of the decays up to z (from the record's start); MEANS and UPS, those of β1
    and 1/√β2 since z; CENTER, x of the first step after z; from MOMENTS on, the moments 0 … 2·points − 1 of the measure
    {(x_j − CENTER, W_j)}, each divided by the decays since z, so that old starts go on shrinking without being visited.
    """
    folds[KEPT, t] = folds[KEPT, t - 1] * keep
    n = t - first
    if n == 0:
        return
    up, root, rate_over_kept = 1 / math.sqrt(beta2), math.sqrt(c2), rate / folds[KEPT, t]
    folds[CENTER, t - 1] = 1 / (root * up + SHIFT)
    term, apart = np.empty(n), np.empty(n)
    for q in range(n):
        z = first + q
        folds[MEANS, z] *= beta1
        folds[UPS, z] *= up
        kappa = root * folds[UPS, z]
        term[q] = rate_over_kept * folds[KEPT, z] * folds[MEANS, z] * kappa
        apart[q] = 1 / (kappa + SHIFT) - folds[CENTER, z]
    for power in range(2 * points):
        for q in range(n):
            folds[MOMENTS + power, first + q] += term[q]
            term[q] *= apart[q]


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


@compiled
def _two_points(m0: float, m1: float, m2: float, m3: float) -> Any:
    mean, second = m1 / m0, m2 / m0
    variance = max(second - mean * mean, 1e-15)
    skew = (m3 / m0 - 3 * mean * second + 2 * mean * mean * mean) / variance
    spread = math.sqrt(skew * skew + 4 * variance)
    weight = m0 * (skew + spread) / (2 * spread)  # of the lower one
    return mean + (skew - spread) / 2, weight, mean + (skew + spread) / 2, m0 - weight


@compiled
def gauss(folds: Any, z: int, points: int, work: Any) -> None:
    """Leave κ and weight of each Gauss point of start z's measure in work[0] and work[2]; see `new_work`.

    Points that the measure does not need have weight 0.
    """
    center = folds[CENTER, z]
    x, weights = work[0], work[2]
    if points == 2:
        m = MOMENTS
        x[0], weights[0], x[1], weights[1] = _two_points(folds[m, z], folds[m + 1, z], folds[m + 2, z], folds[m + 3, z])
    else:
        n = _jacobi_matrix(folds[MOMENTS:, z], points, center, work)
        _diagonalize(n, work)
        for q in range(n):
            weights[q] *= weights[q] * folds[MOMENTS, z]
        for q in range(n, MOST_POINTS):
            x[q], weights[q] = x[0], 0.0
    for q in range(points + points % 2):
        x[q] = 1 / (center + x[q]) - SHIFT


@compiled
def new_work() -> Any:
    """What `gauss` and `fold` work in."""
    return np.empty((4, 2 * MOST_POINTS))


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
        low, high = eps * kappas[q], eps * kappas[q + 1]
        at = 3 + 2 * q
        out[at] = (weights[q] + weights[q + 1]) * keep
        out[at + 1] = (weights[q] * high + weights[q + 1] * low) * keep
        out[at + 2] = low + high
        out[at + 3] = low * high


class Folding(NamedTuple):
    """How many points Adam's missed steps fold into, and the number of steps after which a gap may begin for that."""

    points: int
    start: float  # math.inf: never, they are replayed


@lru_cache(1 << 12)
def folding(beta1: float, beta2: float, fewest: int = FEWEST_POINTS, most: int = MOST_POINTS) -> Folding:
    """The fewest points whose error is within TOLERANCE from some step on, and that step."""
    for points in range(fewest, most + 1):
        accurate_from = math.inf
        for start in (10_000, 5_000, 3_300, 2_200, 1_500, 1_000, 700, 450, 300, 200, 130, 90, 60, 40, 25):
            if not fold_error(beta1, beta2, start, points) <= TOLERANCE:
                break
            accurate_from = start
        if accurate_from < math.inf:
            return Folding(points, accurate_from)
    return Folding(most, math.inf)


def fold_error(beta1: float, beta2: float, start: int, points: int) -> float:
    """A bound on what folding moves a weight from where replay would, in steps of the highest rate in the gap.

    For a gap of any length after step `start`, any schedule of rates and of β1 up to `beta1`, any decay and any eps,
    and a mean |m| ≤ √v.

    With s = √v, 1/(s + eps·κ) is a constant and a multiple of f = 1/(eps + (s − SHIFT·eps)·x). Gauss's n points err
    on f by the least ∫π²·f dμ of all polynomials π of degree n that are 1 at f's pole: f less Hermite's interpolant
    is π²·f. So the error, for each s, grows with the measure; and the largest measure, of the highest rate, β1 =
    `beta1`, no decay and no end, has the largest error: what is returned is its own, over all s, and a twentieth for
    the s between.
    """
    fade = beta1 / math.sqrt(beta2) if beta2 > 0 else math.inf
    if fade > 0.999:  # too slow an end, or none
        return math.inf
    gap = np.arange(1.0, math.ceil(30 / -math.log(max(fade, 1e-9))) + 2)
    kappa = np.sqrt((1 - beta2 ** (start + gap)) / beta2**gap)
    weight = beta1**gap / (1 - beta1 ** (start + gap)) * kappa
    if not weight.sum() > 0:
        return 0.0
    kappas, weights = _gauss_of(kappa, weight, points)
    eps = np.logspace(-5, 3, 97)[:, None]  # over s
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

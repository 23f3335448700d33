"""The loops of deferred steps, compiled by Numba.

`planes` are three arrays [rows, width] of one dtype: weights w, running means m, mean squares v; where a kind of step
has no m or v, w stands in for it and is not touched. `last[r]` is the step up to which row r has been brought, counted
from the last flush; `touched[r]` says whether it ever had a gradient. Steps, kinds and constants are those of the fused
trainer, see `..trainer.native`; rows and offsets are int64, so that tables may have more than 2³¹ numbers.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ..instructions import flush_denormals, restore
from ..threads import in_threads, team
from ..trainer.native import (
    ADAM,
    BETA1,
    BETA2,
    EPS,
    KEEP,
    L2,
    MOMENTUM,
    RATE,
    REST1,
    REST2,
    RMSPROP,
    SCALE,
    SGD,
    compiled,
    rounded,
)  # fmt: skip
from .quadrature import FACTORS, KEPT, MEANS, fold, new_work

__all__ = [
    "ADAM", "BETA1", "BETA2", "DENSE", "EARLY", "EPS", "FOLD", "KEEP", "L2", "MOMENTUM", "RATE", "REPLAY", "REST1",
    "REST2", "RMSPROP", "SCALE", "SGD", "catch_up", "catch_up_all", "step_rows",
]  # fmt: skip

# How missed steps are made up for: DENSE runs them all; REPLAY too, but rows without a gradient ever only decay, to
# the same bits; EARLY replays, but folds the decay of such rows; FOLD folds all.
DENSE, REPLAY, EARLY, FOLD = range(4)


@numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _step_row(planes: Any, r: Any, grads: Any, q: Any, kind: Any, c: Any) -> None:
    w, m, v = planes
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    if kind == ADAM:
        for k in range(w.shape[1]):
            x = w[r, k]
            g = l2 * x if grads is None else grads[q, k] + l2 * x
            mean = beta1 * m[r, k] + rest1 * g
            square = beta2 * v[r, k] + rest2 * (g * g)
            m[r, k] = mean
            v[r, k] = square
            w[r, k] = x * keep - rate * mean / (np.sqrt(square) * scale + eps)
    elif kind == RMSPROP:
        for k in range(w.shape[1]):
            x = w[r, k]
            g = l2 * x if grads is None else grads[q, k] + l2 * x
            square = beta2 * v[r, k] + rest2 * (g * g)
            v[r, k] = square
            w[r, k] = x * keep - rate * g / (np.sqrt(square) * scale + eps)
    elif kind == MOMENTUM:
        for k in range(w.shape[1]):
            x = w[r, k]
            g = l2 * x if grads is None else grads[q, k] + l2 * x
            mean = beta1 * m[r, k] + rest1 * g
            m[r, k] = mean
            w[r, k] = x * keep - rate * mean
    else:
        for k in range(w.shape[1]):
            x = w[r, k]
            g = l2 * x if grads is None else grads[q, k] + l2 * x
            w[r, k] = x * keep - rate * g


@rounded
def step_rows(planes: Any, rows: Any, grads: Any, last: Any, touched: Any, t: int, kind: int, c: Any) -> None:
    """Step t of the distinct `rows`, which are at step t − 1, with gradients [rows, width]."""
    before = flush_denormals()
    for q in range(rows.shape[0]):
        r = rows[q]
        _step_row(planes, r, grads, q, kind, c)
        last[r] = t
        touched[r] = 1
    restore(before)


@rounded
def _replay_row(planes: Any, r: int, after: int, until: int, kind: int, steps: Any) -> None:
    for t in range(after + 1, until + 1):
        _step_row(planes, r, None, 0, kind, steps[t])


@rounded
def _decay_row(w: Any, r: int, after: int, until: int, steps: Any) -> None:
    """What `_replay_row` does to a row whose m and v are zero, without L2."""
    for t in range(after + 1, until + 1):
        keep = steps[t, KEEP]
        if keep != 1:
            for k in range(w.shape[1]):
                w[r, k] *= keep


@compiled
def _linear_maps(first: int, t: int, steps: Any, like: Any) -> Any:
    """What the steps z+1 … t of SGD do without gradient to (w, m), as a 2×2 matrix in row z − first."""
    maps = np.empty((t - first + 1, 4), like.dtype)
    a, b, c, d = 1.0, 0.0, 0.0, 1.0
    maps[t - first] = np.array([a, b, c, d])
    for z in range(t, first, -1):
        pull = steps[z, REST1] * steps[z, L2]
        beta, rate = steps[z, BETA1], steps[z, RATE]
        ww, wm = steps[z, KEEP] - rate * pull, -rate * beta
        a, b, c, d = a * ww + b * pull, a * wm + b * beta, c * ww + d * pull, c * wm + d * beta
        maps[z - 1 - first, 0], maps[z - 1 - first, 1] = a, b
        maps[z - 1 - first, 2], maps[z - 1 - first, 3] = c, d
    return maps


@compiled
def _apply_map(w: Any, m: Any, r: int, kind: int, a: Any, b: Any, c: Any, d: Any) -> None:
    if kind == MOMENTUM:
        for k in range(w.shape[1]):
            x, mean = w[r, k], m[r, k]
            w[r, k] = a * x + b * mean
            m[r, k] = c * x + d * mean
    elif a != 1:
        for k in range(w.shape[1]):
            w[r, k] *= a


@compiled
def _apply_fold(w: Any, m: Any, v: Any, r: int, f: Any, points: int) -> None:
    """See `quadrature.fold`."""
    keep, beta1, beta2 = f[0], f[1], f[2]
    if points > 2:
        a, b, c, d = f[7], f[8], f[9], f[10]
        for k in range(w.shape[1]):
            square = v[r, k]
            root = np.sqrt(square)
            w[r, k] = w[r, k] * keep - m[r, k] * (a * root + b) / (square + c * root + d)
        keep = type(keep)(1)
    a, b, c, d = f[3], f[4], f[5], f[6]
    for k in range(w.shape[1]):
        mean, square = m[r, k], v[r, k]
        root = np.sqrt(square)
        w[r, k] = w[r, k] * keep - mean * (a * root + b) / (square + c * root + d)
        m[r, k] = mean * beta1
        v[r, k] = square * beta2


@compiled
def _new_work(plan: Any, first: int, t: int, exact: Any, like: Any) -> Any:
    """For starts z ≥ first, in row z − first: the maps of SGD; the factors that fold, and whether they are known."""
    starts = t - first + 1
    maps = _linear_maps(first if plan[0] <= MOMENTUM else t, t, exact, like)
    return maps, np.empty((starts, FACTORS), like.dtype), np.zeros(starts, np.uint8), new_work()


@compiled
def _catch_up(
    planes: Any, rows: Any, n: int, last: Any, touched: Any, t: int, plan: Any, constants: Any, folds: Any,
    first: int, work: Any,
) -> None:  # fmt: skip
    w, m, v = planes
    kind, mode, points = plan
    steps, exact, squares = constants
    maps, folded, known, scratch = work
    for q in range(n):
        r = rows[q]
        z = last[r]
        if z >= t:  # up to date, or a second time in `rows`
            continue
        last[r] = t
        p = z - first
        if mode == FOLD and kind <= MOMENTUM:
            _apply_map(w, m, r, kind, maps[p, 0], maps[p, 1], maps[p, 2], maps[p, 3])
        elif mode == DENSE or (mode != FOLD and touched[r]):
            _replay_row(planes, r, z, t, kind, steps)
        elif mode == REPLAY:
            _decay_row(w, r, z, t, steps)
        else:
            f = folded[p]
            if known[p] == 0:
                known[p] = 1
                f[0], f[1], f[2] = folds[KEPT, t] / folds[KEPT, z], folds[MEANS, z], squares[t - z]
                if mode == FOLD and kind == ADAM:
                    fold(folds, z, t, points, exact[t, EPS], scratch, f)
            if touched[r] and kind == ADAM:
                _apply_fold(w, m, v, r, f, points)
            else:
                keep, beta2 = f[0], f[2]
                if keep != 1:
                    for k in range(w.shape[1]):
                        w[r, k] *= keep
                if touched[r]:
                    for k in range(w.shape[1]):
                        v[r, k] *= beta2


@compiled
def catch_up(planes: Any, rows: Any, last: Any, touched: Any, t: int, plan: Any, constants: Any, folds: Any) -> None:
    """Bring `rows` to the state after step t; they may repeat. With a row outside the table, nothing happens.

    Args:
        planes: w, m, v.
        rows: int64[n].
        last: int32[table's rows].
        touched: uint8[table's rows].
        t: steps since the last flush.
        plan: the kind of step; DENSE, REPLAY, EARLY or FOLD; Gauss points.
        constants: of step t in row t, in the planes' dtype and in float64; powers of BETA2.
        folds: see `quadrature.add_step`.
    """
    n = rows.shape[0]
    first = t
    for q in range(n):
        if rows[q] < 0 or rows[q] >= last.shape[0]:
            return
        first = min(first, last[rows[q]])
    if first == t:
        return
    before = flush_denormals()
    work = _new_work(plan, first, t, constants[1], planes[0])
    _catch_up(planes, rows, n, last, touched, t, plan, constants, folds, first, work)
    restore(before)


@compiled
def _catch_up_share(planes: Any, last: Any, touched: Any, t: int, plan: Any, constants: Any, folds: Any) -> None:
    before = flush_denormals()
    thread, threads = team()
    rows = np.arange(last.shape[0] * thread // threads, last.shape[0] * (thread + 1) // threads)
    work = _new_work(plan, 0, t, constants[1], planes[0])
    _catch_up(planes, rows, rows.shape[0], last, touched, t, plan, constants, folds, 0, work)
    restore(before)


@compiled
def catch_up_all(
    planes: Any, last: Any, touched: Any, t: int, plan: Any, constants: Any, folds: Any, threads: int
) -> None:
    """Bring every row to the state after step t; see `catch_up`."""
    in_threads(threads, _catch_up_share, (planes, last, touched, t, plan, constants, folds))

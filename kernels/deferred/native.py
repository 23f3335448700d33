"""The loops of deferred steps, compiled by Numba.

- `planes`: three arrays [rows, width] of one dtype: weights w, running means m, mean squares v. If a kind of step has
  no m or v, w is passed in its place and not used as such.
- `last[r]`: the last step that row r has taken. A step before the last flush counts as the flush, which brought all
  rows up to date.
- `touched[r]`: whether row r has ever had a gradient.
- `counters`: int64[4], the steps DONE before the last flush; the steps PENDING since, which are on record; the OLDEST
  start that is live (see `..quadrature.add_step`); whether ALL rows are touched.
- `record`: the constants of step t in row t, in the planes' dtype and in float64; the powers of β2; the folds.

`..steps` defines the steps and their constants. Rows and offsets are int64, so tables may have more than 2³¹ numbers.

Python calls one function, `move`. It runs completely or, if an id is outside the table, does nothing: an exception such
as Ctrl-C comes before or after it. A table's first step compiles it, so no later step waits for the compiler.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..instructions import flush_denormals, restore
from ..native import compiled, inlined, rounded, rounded_inlined
from ..quadrature import BETA1_PRODUCT, KEPT, add_step, fold, fold_two, folded
from ..steps import BETA1, EPS, KEEP, L2, RATE, REST1
from ..threads import team

DONE, PENDING, OLDEST, ALL = range(4)

# How missed steps are applied. DENSE runs them all. REPLAY does too, but only decays rows that never had a gradient,
# which gives the same bits. EARLY replays, but folds the decay of those rows. FOLD folds all steps.
DENSE, REPLAY, EARLY, FOLD = range(4)

# What `move` does: bring some rows up to date, bring all rows up to date, step some rows, step all rows.
CATCH_UP, FLUSH, STEP, STEP_ALL = range(4)


@rounded_inlined
def _step_row(planes: Any, r: Any, grads: Any, q: Any, kind: Any, steps: Any, t: Any) -> None:
    """Take step t of row r, with gradient grads[q], or without if `grads` is None; see `..steps`."""
    w, m, v = planes
    keep, l2, beta1, rest1, beta2 = steps[t, 0], steps[t, 1], steps[t, 2], steps[t, 3], steps[t, 4]
    rest2, scale, eps, rate = steps[t, 5], steps[t, 6], steps[t, 7], steps[t, 8]
    for k in range(w.shape[1]):
        x = w[r, k]
        pull = l2 * x if l2 != 0 else l2  # an infinite weight, such as a mask's, stays as it is
        g = pull if grads is None else grads[q, k] + pull
        moved = g
        if kind.mean is not None:
            moved = beta1 * m[r, k] + rest1 * g
            m[r, k] = moved
        if kind.square is not None:
            square = beta2 * v[r, k] + rest2 * g * g
            v[r, k] = square
            moved = moved / (np.sqrt(square) * scale + eps)
        w[r, k] = x * keep - rate * moved


@rounded
def _step_rows(
    planes: Any, rows: Any, grads: Any, last: Any, touched: Any, now: int, kind: Any, steps: Any, t: int, whole: bool
) -> None:  # fmt: skip
    """Take step t of the distinct `rows`, or of the whole table, from step t − 1, with gradients [rows, width]."""
    for q in range(grads.shape[0]):
        r = q if whole else rows[q]
        _step_row(planes, r, grads, q, kind, steps, t)
        last[r] = now
        touched[r] = 1


@rounded
def _replay_row(planes: Any, r: int, after: int, until: int, kind: Any, steps: Any, decays: bool) -> None:
    """Run the steps after+1 … until of a row, without gradient. A row that only `decays` has m = v = 0 and no L2."""
    for t in range(after + 1, until + 1):
        if not decays:
            _step_row(planes, r, None, 0, kind, steps, t)
        elif steps[t, KEEP] != 1:
            for k in range(planes[0].shape[1]):
                planes[0][r, k] *= steps[t, KEEP]


@inlined
def _linear_maps(first: Any, t: Any, steps: Any, maps: Any, thread: Any) -> None:
    """Write the linear map of (w, m) by SGD's steps z+1 … t, without gradient, as a 2×2 matrix to row z of `maps`."""
    a, b, c, d = 1.0, 0.0, 0.0, 1.0
    for z in range(t, first, -1):
        pull = steps[z, REST1] * steps[z, L2]
        beta, rate = steps[z, BETA1], steps[z, RATE]
        ww, wm = steps[z, KEEP] - rate * pull, -rate * beta
        a, b, c, d = a * ww + b * pull, a * wm + b * beta, c * ww + d * pull, c * wm + d * beta
        maps[thread, z - 1, 0], maps[thread, z - 1, 1] = a, b
        maps[thread, z - 1, 2], maps[thread, z - 1, 3] = c, d


@inlined
def _apply_map(w: Any, m: Any, r: Any, kind: Any, f: Any) -> None:
    a, b, c, d = f[0], f[1], f[2], f[3]
    if kind.mean is not None:
        for k in range(w.shape[1]):
            x, mean = w[r, k], m[r, k]
            w[r, k] = a * x + b * mean
            m[r, k] = (c * x if c != 0 else c) + d * mean  # an infinite weight, such as a mask's, stays as it is
    elif a != 1:
        for k in range(w.shape[1]):
            w[r, k] *= a


@inlined
def _apply_fold(w: Any, m: Any, v: Any, r: Any, f: Any, points: Any) -> None:
    """Move row r by a fold; see `quadrature.fold`."""
    keep, beta1, beta2 = f[0], f[1], f[2]
    if points > 2:
        a, b, c, d = f[7], f[8], f[9], f[10]
        for k in range(w.shape[1]):
            w[r, k] = w[r, k] * keep - folded(m[r, k], v[r, k], a, b, c, d)
        keep = type(keep)(1)
    a, b, c, d = f[3], f[4], f[5], f[6]
    for k in range(w.shape[1]):
        mean, square = m[r, k], v[r, k]
        w[r, k] = w[r, k] * keep - folded(mean, square, a, b, c, d)
        m[r, k] = mean * beta1
        v[r, k] = square * beta2


@compiled
def move(
    what: int, planes: Any, rows: Any, grads: Any, last: Any, touched: Any, counters: Any, plan: Any, many_points: Any,
    record: Any, work: Any,
) -> None:  # fmt: skip
    """Bring rows up to date, then step them.

    Args:
        what: CATCH_UP, FLUSH, STEP or STEP_ALL. FLUSH may run in several threads, each with a share of the rows; after
            it the caller sets the counters.
        planes: see above.
        rows: int64[n]. For CATCH_UP they may repeat. If a row is outside the table, nothing moves.
        grads: [n, width], the gradients of the rows, or of all rows. The constants of their step are on record.
        last: int32[rows of the table].
        touched: uint8[rows of the table].
        counters: see above.
        plan: the kind of step; how missed steps are applied, DENSE … FOLD; the number of Gauss points.
        many_points: 1 if there may be more than two points, else None: then Numba does not compile their code.
        record: see above.
        work: scratch space of each thread. [threads, steps + 1, FACTORS] of the planes' dtype: what the missed steps do
            to a row that was last at step z. int64[threads, steps + 1]: up to which step this is computed. And that of
            `quadrature.new_work`.

    Raises:
        IndexError: a row to be stepped is outside the table.
    """
    w, m, v = planes
    kind, mode, points = plan
    steps, exact, squares, folds = record
    factors, known, scratch = work
    done, t = counters[DONE], counters[PENDING]
    thread, begin, end, first = 0, 0, rows.shape[0], 0
    if what == FLUSH:
        thread, threads = team()
        begin, end = last.shape[0] * thread // threads, last.shape[0] * (thread + 1) // threads
    else:
        first = t
        for q in range(end):
            r = rows[q]
            if r < 0 or r >= last.shape[0]:
                if what == STEP:
                    raise IndexError("a gradient has rows outside its table")
                return
            first = min(first, max(last[r] - done, 0))
    linear = mode == FOLD and kind.square is None
    before = flush_denormals()
    if linear:
        _linear_maps(first, t, exact, factors, thread)
    # Rows that are stepped have missed no step, unless another step came between their forward and their backward.
    for q in range(begin, end if first < t else begin):
        r = q if what == FLUSH else rows[q]
        z = max(last[r] - done, 0)
        if z >= t:  # up to date, or a second time in `rows`
            continue
        last[r] = done + t
        f = factors[thread, z]
        if linear:
            _apply_map(w, m, r, kind, f)
        elif mode < EARLY or (mode == EARLY and touched[r]):
            _replay_row(planes, r, z, t, kind, steps, mode == REPLAY and not touched[r])
        else:
            if known[thread, z] != t:
                known[thread, z] = t
                f[0], f[2] = folds[KEPT, t] / folds[KEPT, z], squares[t - z]
                f[1] = folds[BETA1_PRODUCT, z] if z >= counters[OLDEST] else 0
                if mode == FOLD and kind.mean is not None:
                    if many_points is None:
                        fold_two(folds, z, t, exact[t, EPS], f)
                    else:
                        fold(folds, z, t, points, exact[t, EPS], scratch[thread], f)
            if touched[r] and kind.mean is not None:
                _apply_fold(w, m, v, r, f, points)
            else:
                keep, beta2 = f[0], f[2]
                if keep != 1:
                    for k in range(w.shape[1]):
                        w[r, k] *= keep
                if touched[r]:
                    for k in range(w.shape[1]):
                        v[r, k] *= beta2
    if what >= STEP:
        t += 1
        oldest = t
        if what == STEP and mode >= EARLY:
            oldest = add_step(folds, t, counters[OLDEST], points if mode == FOLD else 0, exact[t])
        if exact[t, L2] != 0 and counters[ALL] == 0:  # L2 gives every row a gradient
            for r in range(last.shape[0]):
                touched[r] = 1
            counters[ALL] = 1
        _step_rows(planes, rows, grads, last, touched, done + t, kind, steps, t, what == STEP_ALL)
        if what == STEP:
            counters[PENDING], counters[OLDEST] = t, oldest
        else:
            counters[DONE], counters[ALL] = done + 1, 1
    restore(before)

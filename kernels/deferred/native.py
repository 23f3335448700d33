"""The loops of deferred steps, compiled by Numba.

`planes` are three arrays [rows, width] of one dtype: weights w, running means m, mean squares v; where a kind of step
has no m or v, w stands in for it and is not touched. `last[r]` is the step up to which row r has been brought, or
earlier than the last flush, which brought all; `touched[r]` says whether it ever had a gradient. `account` is int64[4]:
the steps DONE before the last flush; those PENDING since, which are on record; the OLDEST start that is live (see
`..quadrature.add_step`); and whether ALL rows are touched. A `record` has the constants of step t in row t, in the
planes' dtype and in float64; the powers of BETA2; and the folds. Steps and constants are those of `..steps`; rows and
offsets are int64, so that tables may have more than 2³¹ numbers.

What Python calls here happens as a whole or, where an id is outside the table, not at all: an exception such as Ctrl-C
comes before or after it. It is one function, so that a table's first step compiles all that its others need.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..instructions import flush_denormals, restore
from ..native import compiled, inlined, rounded, rounded_inlined
from ..quadrature import KEPT, MEANS, add_step, fold, fold_two, folded
from ..steps import BETA1, EPS, KEEP, L2, RATE, REST1
from ..threads import team

DONE, PENDING, OLDEST, ALL = range(4)

# How missed steps are made up for: DENSE runs them all; REPLAY too, but rows without a gradient ever only decay, to
# the same bits; EARLY replays, but folds the decay of such rows; FOLD folds all.
DENSE, REPLAY, EARLY, FOLD = range(4)

# What is done: rows are brought up to date, or all rows are; then rows are stepped, or all rows are.
CATCH_UP, FLUSH, STEP, STEP_ALL = range(4)


@rounded_inlined
def _step_row(planes: Any, r: Any, grads: Any, q: Any, kind: Any, steps: Any, t: Any) -> None:
    """Step t of row r, with gradient grads[q] or none; see `..steps`."""
    w, m, v = planes
    keep, l2, beta1, rest1, beta2 = steps[t, 0], steps[t, 1], steps[t, 2], steps[t, 3], steps[t, 4]
    rest2, scale, eps, rate = steps[t, 5], steps[t, 6], steps[t, 7], steps[t, 8]
    for k in range(w.shape[1]):
        x = w[r, k]
        g = l2 * x if grads is None else grads[q, k] + l2 * x
        moved = g
        if kind.mean is not None:
            moved = beta1 * m[r, k] + rest1 * g
            m[r, k] = moved
        if kind.square is not None:
            square = beta2 * v[r, k] + rest2 * (g * g)
            v[r, k] = square
            moved = moved / (np.sqrt(square) * scale + eps)
        w[r, k] = x * keep - rate * moved


@rounded
def _step_rows(
    planes: Any, rows: Any, grads: Any, last: Any, touched: Any, now: int, kind: Any, steps: Any, t: int, whole: bool
) -> None:  # fmt: skip
    """Step t of the distinct `rows`, or of the whole table, which are at step t − 1, with gradients [rows, width]."""
    for q in range(grads.shape[0]):
        r = q if whole else rows[q]
        _step_row(planes, r, grads, q, kind, steps, t)
        last[r] = now
        touched[r] = 1


@rounded
def _replay_row(planes: Any, r: int, after: int, until: int, kind: Any, steps: Any, decays: bool) -> None:
    """The steps after+1 … until of a row without gradient; one that only `decays` has zero m and v, and no L2."""
    for t in range(after + 1, until + 1):
        if not decays:
            _step_row(planes, r, None, 0, kind, steps, t)
        elif steps[t, KEEP] != 1:
            for k in range(planes[0].shape[1]):
                planes[0][r, k] *= steps[t, KEEP]


@inlined
def _linear_maps(first: Any, t: Any, steps: Any, maps: Any, thread: Any) -> None:
    """What the steps z+1 … t of SGD do without gradient to (w, m), as a 2×2 matrix in row z of `maps`."""
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
            m[r, k] = c * x + d * mean
    elif a != 1:
        for k in range(w.shape[1]):
            w[r, k] *= a


@inlined
def _apply_fold(w: Any, m: Any, v: Any, r: Any, f: Any, points: Any) -> None:
    """See `quadrature.fold`."""
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
    what: int, planes: Any, rows: Any, grads: Any, last: Any, touched: Any, account: Any, plan: Any, more: Any,
    record: Any, work: Any,
) -> None:  # fmt: skip
    """Bring rows up to date, then step them.

    Args:
        what: CATCH_UP, FLUSH, which may be done in threads, each with a share of the rows, STEP or STEP_ALL. After a
            flush the caller lets steps count from there.
        planes: see above.
        rows: int64[n], which may repeat where they are not stepped. With a row outside the table, nothing happens.
        grads: [n, width], the rows' gradients, or those of all rows; the constants of their step are on record.
        last: int32[rows of the table].
        touched: uint8[rows of the table].
        account: see above.
        plan: the kind of step; how missed ones are made up for, DENSE … FOLD; of how many Gauss points.
        more: 1 where those may be more than two, or None: so nobody else compiles what finds them.
        record: see above.
        work: of each thread. What is done to rows at step z, [threads, steps + 1, FACTORS] of the planes' dtype;
            int64[threads, steps + 1], up to which step that is; and `quadrature.new_work`'s.

    Raises:
        IndexError: a row to be stepped is outside the table.
    """
    w, m, v = planes
    kind, mode, points = plan
    steps, exact, squares, folds = record
    factors, known, scratch = work
    done, t = account[DONE], account[PENDING]
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
    # Where rows are stepped, they have missed none, unless a step came between forward and backward.
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
                f[1] = folds[MEANS, z] if z >= account[OLDEST] else 0
                if mode == FOLD and kind.mean is not None:
                    if more is None:
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
            oldest = add_step(folds, t, account[OLDEST], points if mode == FOLD else 0, exact[t])
        if exact[t, L2] != 0 and account[ALL] == 0:  # a gradient of every row
            for r in range(last.shape[0]):
                touched[r] = 1
            account[ALL] = 1
        _step_rows(planes, rows, grads, last, touched, done + t, kind, steps, t, what == STEP_ALL)
        if what == STEP:
            account[PENDING], account[OLDEST] = t, oldest
        else:
            account[DONE], account[ALL] = done + 1, 1
    restore(before)

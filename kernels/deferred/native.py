"""The loops of deferred steps, compiled by Numba.

`planes` are three arrays [rows, width] of one dtype: weights w, running means m, mean squares v; where a kind of step
has no m or v, w stands in for it and is not touched. `last[r]` is the step up to which row r has been brought, counted
from the last flush; `touched[r]` says whether it ever had a gradient. `account` is int64[4]: the steps DONE before the
last flush; those PENDING since, which are on record; the OLDEST start that is live (see `..quadrature.add_step`); and
whether ALL rows are touched. A `record` has the constants of step t in row t, in the planes' dtype and in float64; the
powers of BETA2; and the folds. Steps and constants are those of `..steps`; rows and offsets are int64, so that tables
may have more than 2³¹ numbers.

What Python calls here happens as a whole or, where memory or an id is lacking, not at all: an exception such as Ctrl-C
comes before or after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..instructions import flush_denormals, increment, restore
from ..native import compiled, rounded, rounded_inlined
from ..quadrature import FACTORS, KEPT, MEANS, add_step, fold, folded, new_work
from ..steps import BETA1, EPS, KEEP, L2, RATE, REST1
from ..threads import team

DONE, PENDING, OLDEST, ALL = range(4)

# How missed steps are made up for: DENSE runs them all; REPLAY too, but rows without a gradient ever only decay, to
# the same bits; EARLY replays, but folds the decay of such rows; FOLD folds all.
DENSE, REPLAY, EARLY, FOLD = range(4)


@rounded_inlined
def _step_row(planes: Any, r: Any, grads: Any, q: Any, kind: Any, c: Any) -> None:
    """A step of row r, with gradient grads[q] or none; see `..steps`."""
    w, m, v = planes
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
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
def _step_rows(planes: Any, rows: Any, grads: Any, last: Any, touched: Any, t: int, kind: Any, c: Any) -> None:
    """Step t of the distinct `rows`, which are at step t − 1, with gradients [rows, width]."""
    for q in range(rows.shape[0]):
        r = rows[q]
        _step_row(planes, r, grads, q, kind, c)
        last[r] = t
        touched[r] = 1


@rounded
def _step_table(planes: Any, grads: Any, kind: Any, c: Any) -> None:
    for r in range(grads.shape[0]):
        _step_row(planes, r, grads, r, kind, c)


@rounded
def _replay_row(planes: Any, r: int, after: int, until: int, kind: Any, steps: Any) -> None:
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
    maps[t - first, 0], maps[t - first, 1] = a, b
    maps[t - first, 2], maps[t - first, 3] = c, d
    for z in range(t, first, -1):
        pull = steps[z, REST1] * steps[z, L2]
        beta, rate = steps[z, BETA1], steps[z, RATE]
        ww, wm = steps[z, KEEP] - rate * pull, -rate * beta
        a, b, c, d = a * ww + b * pull, a * wm + b * beta, c * ww + d * pull, c * wm + d * beta
        maps[z - 1 - first, 0], maps[z - 1 - first, 1] = a, b
        maps[z - 1 - first, 2], maps[z - 1 - first, 3] = c, d
    return maps


@compiled
def _apply_map(w: Any, m: Any, r: int, kind: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    if kind.mean is not None:
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
            w[r, k] = w[r, k] * keep - folded(m[r, k], v[r, k], a, b, c, d)
        keep = type(keep)(1)
    a, b, c, d = f[3], f[4], f[5], f[6]
    for k in range(w.shape[1]):
        mean, square = m[r, k], v[r, k]
        w[r, k] = w[r, k] * keep - folded(mean, square, a, b, c, d)
        m[r, k] = mean * beta1
        v[r, k] = square * beta2


@compiled
def _new_work(plan: Any, first: int, t: int, exact: Any, like: Any) -> Any:
    """For starts z ≥ first, in row z − first: the maps of SGD; the factors that fold, and whether they are known."""
    starts = t - first + 1
    maps = _linear_maps(first if plan[0].square is None else t, t, exact, like)
    return maps, np.empty((starts, FACTORS), like.dtype), np.zeros(starts, np.uint8), new_work()


@compiled
def _catch_up(
    planes: Any, rows: Any, last: Any, touched: Any, t: int, oldest: int, plan: Any, record: Any, first: int, work: Any
) -> None:
    w, m, v = planes
    kind, mode, points = plan
    steps, exact, squares, folds = record
    maps, factors, known, scratch = work
    for q in range(rows.shape[0]):
        r = rows[q]
        z = last[r]
        if z >= t:  # up to date, or a second time in `rows`
            continue
        last[r] = t
        p = z - first
        if mode == FOLD and kind.square is None:
            _apply_map(w, m, r, kind, maps[p, 0], maps[p, 1], maps[p, 2], maps[p, 3])
        elif mode == DENSE or (mode != FOLD and touched[r]):
            _replay_row(planes, r, z, t, kind, steps)
        elif mode == REPLAY:
            _decay_row(w, r, z, t, steps)
        else:
            f = factors[p]
            if known[p] == 0:
                known[p] = 1
                f[0], f[2] = folds[KEPT, t] / folds[KEPT, z], squares[t - z]
                f[1] = folds[MEANS, z] if z >= oldest else 0
                if mode == FOLD and kind.mean is not None:
                    fold(folds, z, t, points, exact[t, EPS], scratch, f)
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


@compiled
def _bring(planes: Any, rows: Any, last: Any, touched: Any, account: Any, plan: Any, record: Any) -> None:
    """Bring `rows` up to date; with a row outside the table, nothing happens."""
    t = first = account[PENDING]
    for q in range(rows.shape[0]):
        first = min(first, last[rows[q]])
    if first == t:
        return
    work = _new_work(plan, first, t, record[1], planes[0])
    before = flush_denormals()
    _catch_up(planes, rows, last, touched, t, account[OLDEST], plan, record, first, work)
    restore(before)


@compiled
def _inside(rows: Any, n: int) -> bool:
    for q in range(rows.shape[0]):  # noqa: SIM110 - Numba has no all()
        if rows[q] < 0 or rows[q] >= n:
            return False
    return True


@compiled
def catch_up(planes: Any, rows: Any, last: Any, touched: Any, account: Any, plan: Any, record: Any) -> None:
    """Bring `rows` int64[n] up to date; they may repeat. With a row outside the table, nothing happens.

    `plan` says of the steps on record their kind; how they are made up for, DENSE … FOLD; and of how many Gauss points.
    """
    if _inside(rows, last.shape[0]):
        _bring(planes, rows, last, touched, account, plan, record)


@compiled
def flush(planes: Any, last: Any, touched: Any, account: Any, plan: Any, record: Any, count: Any) -> None:
    """A thread's share of bringing every row up to date; see `..threads.in_threads`.

    The last thread, by `count` int32[1] of those that are done, lets steps count from here.
    """
    t = account[PENDING]
    thread, threads = team()
    rows = np.arange(last.shape[0] * thread // threads, last.shape[0] * (thread + 1) // threads)
    work = _new_work(plan, 0, t, record[1], planes[0])
    before = flush_denormals()
    _catch_up(planes, rows, last, touched, t, account[OLDEST], plan, record, 0, work)
    restore(before)
    if increment(count.ctypes.data) == threads - 1:
        last[:] = 0
        account[DONE] += t
        account[PENDING] = 0
        account[OLDEST] = 0


@compiled
def step(
    planes: Any, rows: Any, grads: Any, last: Any, touched: Any, account: Any, plan: Any, record: Any, c: Any
) -> None:
    """The next step, of constants c: of the distinct `rows` int64[n], with gradients [n, width]; the others miss it.

    Raises:
        IndexError: a row outside the table.
    """
    if not _inside(rows, last.shape[0]):
        raise IndexError("a gradient has rows outside its table")
    # They have missed none, unless a step came between forward and backward.
    _bring(planes, rows, last, touched, account, plan, record)
    steps, exact, _, folds = record
    kind, mode, points = plan
    t = account[PENDING] + 1
    oldest = t
    if mode >= EARLY:
        oldest = add_step(folds, t, account[OLDEST], points if mode == FOLD else 0, c)
    for i in range(c.shape[0]):
        exact[t, i] = c[i]
        steps[t, i] = c[i]
    if c[L2] != 0 and account[ALL] == 0:  # a gradient of every row
        touched[:] = 1
        account[ALL] = 1
    before = flush_denormals()
    _step_rows(planes, rows, grads, last, touched, t, kind, steps[t])
    restore(before)
    account[PENDING], account[OLDEST] = t, oldest


@compiled
def step_all(planes: Any, grads: Any, touched: Any, account: Any, kind: Any, c: Any) -> None:
    """A step of every row, none of which has missed one; gradients [rows, width], constants in the planes' dtype."""
    before = flush_denormals()
    touched[:] = 1
    _step_table(planes, grads, kind, c)
    restore(before)
    account[DONE] += 1
    account[ALL] = 1

"""The loops of the fused trainer, compiled by Numba. `kernels/trainer/__init__.py` says what they are for.

A table is an array [rows, padded(planes · width)]. A row has `width` weights w, factors and bias, and after them, as
the optimizer needs them, as many running means m and mean squares v: one stretch of memory. An account int32[rows, 2]
beside it says of each row after which step of the epoch it stands, and its slot in the batch that read it last.

A batch's rows are brought up to date, rows ahead being fetched meanwhile, as the tables may be far larger than the
caches; their weights are copied to one place, where scores and gradients read them by slot; then they are stepped.
`epoch.py` goes through the batches.

Steps and their constants are those of `..steps`; what folds, and when, is in `..quadrature`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..dot_bias.native import sigmoid
from ..instructions import fetch, fetch_part, flush_denormals, increment, restore
from ..native import compiled, rounded, rounded_inlined
from ..quadrature import CENTER, KEPT, MEANS, MOMENTS, folded, fraction, two_points
from ..steps import EPS, Kind
from ..threads import team
from . import approximations

DENSE, REPLAY, VIRTUAL = range(3)
LAST, SLOT = range(2)
NEVER = -1  # the slot of a row that no batch ever read: its m and v are zero
AHEAD = 8  # rows fetched before their turn
BLOCK = 256  # rows caught up together, where all are


class Plan(NamedTuple):
    """How an epoch's steps are taken."""

    kind: Kind  # of step
    mode: int
    replay_before: int  # the step: gaps that begin earlier are replayed
    points: int  # of Gauss, where gaps are folded
    owed: float  # what rows that no batch has read have yet to decay by


class Record(NamedTuple):
    """An epoch's steps, which count from 1."""

    steps: Any  # [steps + 1, 9], the constants of step t in row t, of the tables' dtype
    missed: Any  # the same, of the steps that a row takes without a gradient
    exact: Any  # those of `steps` in float64
    squares: Any  # float64[steps + 1], powers of β2
    every: Any  # int64[steps], 0, 1, …
    folds: Any  # see `..quadrature.add_step`
    rule: Any  # the constants of an approximation, or None: so nobody else compiles what approximates


@rounded_inlined
def _step_row(table: Any, width: Any, r: Any, grads: Any, q: Any, kind: Any, c: Any) -> None:
    """A step of row r, with gradient grads[q] or none; see `..steps`."""
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    squares = width if kind.mean is None else 2 * width
    for k in range(width):
        w = table[r, k]
        g = l2 * w if grads is None else grads[q, k] + l2 * w
        moved = g
        if kind.mean is not None:
            moved = beta1 * table[r, width + k] + rest1 * g
            table[r, width + k] = moved
        if kind.square is not None:
            v = beta2 * table[r, squares + k] + rest2 * (g * g)
            table[r, squares + k] = v
            moved = moved / (np.sqrt(v) * scale + eps)
        table[r, k] = w * keep - rate * moved


@rounded
def step_rows(table: Any, width: int, rows: Any, n: int, grads: Any, kind: Any, c: Any) -> None:
    """One step of rows[:n] with gradients grads[:n], which are zero afterwards."""
    for q in range(n):
        if q + AHEAD < n:
            fetch(table, rows[q + AHEAD])
        _step_row(table, width, rows[q], grads, q, kind, c)
        for k in range(grads.shape[1]):
            grads[q, k] = 0


@rounded
def replay_row(table: Any, width: int, r: int, after: int, until: int, kind: Any, steps: Any) -> None:
    """The steps after+1 … until of a row that no batch read in them."""
    for t in range(after + 1, until + 1):
        _step_row(table, width, r, None, 0, kind, steps[t])


@rounded
def replay_others(table: Any, width: int, account: Any, t: int, kind: Any, steps: Any) -> None:
    """Step t of the rows that its batch did not read."""
    for r in range(table.shape[0]):
        if account[r, LAST] != t:
            replay_row(table, width, r, t - 1, t, kind, steps)


@compiled
def fold(starts: Any, n: int, t: int, oldest: int, plan: Any, record: Any, wide: Any, out: Any) -> None:
    """What the steps after starts[:n] up to t do to rows without gradient, as seven numbers a start.

    They are what weight, mean and mean square are multiplied by, and a, b, c, d of ADAM's `fraction`; of MOMENTUM a is
    what its mean is multiplied by to move a weight. Loop by loop, so that each of them uses whole vectors.
    """
    folds, m = record.folds, MOMENTS
    keep, first, second, third, fourth = wide[0], wide[3], wide[4], wide[5], wide[6]
    for q in range(n):
        z = starts[q]
        keep[q] = folds[KEPT, t] / folds[KEPT, z]
        wide[2, q] = record.squares[t - z]
        if plan.points > 0:
            wide[1, q] = folds[MEANS, z] if z >= oldest else 0
            first[q] = folds[m, z]
    if plan.kind.square is not None and plan.kind.mean is not None:
        center, eps = wide[7], record.exact[t, EPS]
        for q in range(n):
            z = starts[q]
            second[q], third[q], fourth[q], center[q] = (
                folds[m + 1, z],
                folds[m + 2, z],
                folds[m + 3, z],
                folds[CENTER, z],
            )
        for q in range(n):
            low, low_weight, high, high_weight = two_points(first[q], second[q], third[q], fourth[q], center[q])
            first[q], second[q], third[q], fourth[q] = fraction(
                eps * low, low_weight * keep[q], eps * high, high_weight * keep[q]
            )
    elif plan.kind.mean is not None:
        for q in range(n):
            first[q] *= keep[q]
    for q in range(n):
        for k in range(7):
            out[q, k] = wide[k, q]


@compiled
def apply_folds(table: Any, width: int, rows: Any, n: int, folds: Any, at: Any, kind: Any) -> None:
    """The missed steps of rows[:n], folded: what they do to rows[q] stands in folds[at[q]], see `fold`."""
    for q in range(min(AHEAD, n)):
        fetch(table, rows[q])
    for q in range(n):
        if q + AHEAD < n:
            fetch(table, rows[q + AHEAD])
        r, i = rows[q], at[q]
        keep, beta1, beta2 = folds[i, 0], folds[i, 1], folds[i, 2]
        a, b, c, d = folds[i, 3], folds[i, 4], folds[i, 5], folds[i, 6]
        squares = width if kind.mean is None else 2 * width
        for k in range(width):
            w = table[r, k] * keep
            if kind.mean is not None:
                m = table[r, width + k]
                table[r, width + k] = m * beta1
                if kind.square is not None:
                    w -= folded(m, table[r, squares + k], a, b, c, d)
                else:
                    w -= m * a
            if kind.square is not None:
                table[r, squares + k] *= beta2
            table[r, k] = w


@compiled
def catch_up(
    table: Any, width: int, rows: Any, starts: Any, fresh: Any, n: int, t: int, oldest: int, plan: Any, record: Any,
    rule: Any, work: Any,
) -> None:  # fmt: skip
    """Bring rows[:n] from the steps `starts` to step t; `fresh` are those that no batch has read."""
    late, at, wide, factors = work
    if rule is not None:
        beta2, eps = record.squares[1], record.exact[max(t, 1), EPS]
        approximations.catch_up(table, width, rows, starts, fresh, n, t, plan.mode, rule, beta2, eps)
        return
    m = 0
    for q in range(n):
        r, z = rows[q], starts[q]
        if plan.mode == VIRTUAL and fresh[q]:
            factors[m, 0] = plan.owed * record.folds[KEPT, t]
            keep = factors[m, 0]
            for k in range(width):
                table[r, k] *= keep
        elif z >= t:
            continue
        elif plan.mode == REPLAY or z < plan.replay_before:
            replay_row(table, width, r, z, t, plan.kind, record.missed)
        else:
            late[m] = r
            at[m] = z
            m += 1
    if t < m:  # several rows began at one step, so what each start misses is worked out once
        fold(record.every, t, t, oldest, plan, record, wide, factors)
        apply_folds(table, width, late, m, factors, at, plan.kind)
    else:
        fold(at, m, t, oldest, plan, record, wide, factors)
        apply_folds(table, width, late, m, factors, record.every, plan.kind)


def scratch(n: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """What `catch_up` works in, for `n` rows."""
    return np.empty(n, np.int64), np.empty(n, np.int64), np.empty((8, n)), np.empty((n, 7), dtype)


@compiled
def catch_up_all(
    table: Any, width: int, account: Any, t: int, oldest: int, plan: Any, record: Any, at_end: bool, first: int,
    end: int, rows: Any, starts: Any, fresh: Any, work: Any,
) -> None:  # fmt: skip
    """Bring the rows first … end − 1 to the state after step t, where the epoch may end.

    Rows that no batch has read wait, but for those that are replayed, at the end: see `settle`.
    """
    for begin in range(first, end, BLOCK):
        n = 0
        for r in range(begin, min(begin + BLOCK, end)):
            new = account[r, SLOT] == NEVER
            if not new or (at_end and plan.mode != VIRTUAL):
                rows[n], starts[n], fresh[n] = r, account[r, LAST], new
                n += 1
                account[r, LAST] = 0 if at_end else t
        catch_up(table, width, rows, starts, fresh, n, t, oldest, plan, record, record.rule, work)


@compiled
def settle(tables: Any, width: int, accounts: Any, factor: Any, owed: Any, count: Any) -> None:
    """A thread's share of letting the rows that no batch has read decay by `factor`; see `..threads.in_threads`.

    It is owed[0] in the tables' dtype, and the last thread, by `count` int32[1] of those that are done, sets that to 1.
    """
    before = flush_denormals()
    thread, threads = team()
    for side in range(2):
        table, account = tables[side], accounts[side]
        first, end = table.shape[0] * thread // threads, table.shape[0] * (thread + 1) // threads
        for r in range(first, end):
            if r + AHEAD < end and account[r + AHEAD, SLOT] == NEVER:
                fetch_part(table, r + AHEAD, width * table.itemsize)
            if account[r, SLOT] == NEVER:
                for k in range(width):
                    table[r, k] *= factor
    if increment(count.ctypes.data) == threads - 1:
        owed[0] = 1
    restore(before)


@compiled
def enter(
    ids: Any, order: Any, begin: int, end: int, account: Any, now: int, slots: Any, rows: Any, starts: Any, fresh: Any
) -> int:
    """Give each distinct id of a batch a slot; returns how many there are."""
    for b in range(end - begin):
        r = ids[order[begin + b]]
        slots[b] = r
        fetch(account, r)
    n = 0
    for b in range(end - begin):
        r = slots[b]
        last, slot = account[r, LAST], account[r, SLOT]
        # Without a branch on what no processor can predict: what is written for a row seen before is overwritten.
        rows[n], starts[n], fresh[n] = r, last, slot == NEVER
        new = last != now
        slot = n if new else slot
        account[r, LAST], account[r, SLOT] = now, slot
        slots[b] = slot
        n += new
    return n


@compiled
def copy_weights(table: Any, rows: Any, n: int, out: Any) -> None:
    """Copy the weights of rows[:n] to out[:n], in whole vectors: what follows them is not looked at there."""
    for q in range(n):
        r = rows[q]
        for k in range(out.shape[1]):
            out[q, k] = table[r, k]


@compiled
def copy_rows(array: Any, out: Any) -> None:
    """Copy a table; `out[:] = array` takes seconds to compile, for what it would say where they do not fit."""
    for r in range(array.shape[0]):
        for k in range(array.shape[1]):
            out[r, k] = array[r, k]


@compiled
def score(
    users: Any, items: Any, user_slots: Any, item_slots: Any, ratings: Any, order: Any, begin: int, end: int,
    first: int, until: int, model: Any, slopes: Any,
) -> float:  # fmt: skip
    """What ratings first … until − 1 of a batch add to its mean squared error.

    `slopes` gets what that changes by with each score.
    """
    n_factors, ranged, low, width = model
    factor = type(width)(2) / type(width)(end - begin)
    total = 0.0
    for b in range(first, until):
        u, i = user_slots[b], item_slots[b]
        x = users[u, n_factors] + items[i, n_factors]
        for k in range(n_factors):
            x += users[u, k] * items[i, k]
        slope = factor
        if ranged:
            s, ds = sigmoid(x)
            x = s * width + low
            slope *= ds * width
        error = x - ratings[order[begin + b]]
        total += error * error
        slopes[b] = error * slope
    return total / (end - begin)


@compiled
def sum_gradients(
    own: Any, slots: Any, other_slots: Any, others: Any, slopes: Any, size: int, n_factors: int
) -> None:  # fmt: skip
    """The gradients of one table's rows, summed by slot."""
    for b in range(size):
        q, o, g = slots[b], other_slots[b], slopes[b]
        for k in range(n_factors):
            own[q, k] += g * others[o, k]
        own[q, n_factors] += g


def padded(numbers: int) -> int:
    """So many numbers at least that rows of them, of 4 bytes or 8, fill whole cache lines."""
    return -(-numbers // 16) * 16


@compiled
def scores(tables: Any, accounts: Any, owed: Any, users: Any, items: Any, model: Any, out: Any) -> None:
    """The scores of pairs."""
    user_table, item_table = tables
    user_account, item_account = accounts
    n_factors, ranged, low, width = model
    for b in range(users.shape[0]):
        u, i = users[b], items[b]
        user_owed = owed if user_account[u, SLOT] == NEVER else type(owed)(1)
        item_owed = owed if item_account[i, SLOT] == NEVER else type(owed)(1)
        x = type(owed)(0)
        for k in range(n_factors):
            x += user_table[u, k] * item_table[i, k]
        x *= user_owed * item_owed
        x += user_table[u, n_factors] * user_owed + item_table[i, n_factors] * item_owed
        out[b] = sigmoid(x)[0] * width + low if ranged else x

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
from ..instructions import fetch, flush_denormals, increment, restore
from ..native import compiled, inlined, rounded, rounded_inlined
from ..quadrature import CENTER, KEPT, MEANS, MOMENTS, folded, fraction, two_points
from ..steps import EPS, Kind
from ..threads import team
from . import approximations

DENSE, REPLAY, FOLDED = range(3)
LAST, SLOT = range(2)
NEVER = -1  # the slot of a row that no batch ever read: its m and v are zero
# Of the rows of a batch: which they are, the steps that they stand after, whether no batch has read them; then what
# `catch_up` works in, the last line being 0, 1, …; and how many rows there are.
ROWS, STARTS, FRESH, LATE, AT, EVERY, COUNT, LINES = range(8)
STEPS, MISSED = range(2)  # of a record's steps
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

    steps: Any  # [2, steps + 1, 9], the constants of step t in row t, of the tables' dtype; then those without gradient
    exact: Any  # float64[steps + 1, 9], of the first ones
    squares: Any  # float64[steps + 1], powers of β2
    folds: Any  # float64[2, …], each thread's, see `..quadrature.add_step`
    rule: Any  # the constants of an approximation, or None: so nobody else compiles what approximates


@rounded_inlined
def _step_row(
    table: Any, width: Any, r: Any, grads: Any, side: Any, q: Any, kind: Any, steps: Any, which: Any, t: Any
) -> None:  # fmt: skip
    """Step t of row r, with gradient grads[side, q] or none; see `..steps`."""
    keep, l2, beta1 = steps[which, t, 0], steps[which, t, 1], steps[which, t, 2]
    rest1, beta2, rest2 = steps[which, t, 3], steps[which, t, 4], steps[which, t, 5]
    scale, eps, rate = steps[which, t, 6], steps[which, t, 7], steps[which, t, 8]
    squares = width if kind.mean is None else 2 * width
    for k in range(width):
        w = table[r, k]
        g = l2 * w if grads is None else grads[side, q, k] + l2 * w
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
def step_rows(
    table: Any, width: int, places: Any, n: int, grads: Any, side: int, kind: Any, steps: Any, t: int
) -> None:
    """Step t of a batch's n rows with gradients grads[side, :n], which are zero afterwards."""
    for q in range(n):
        if q + AHEAD < n:
            fetch(table, places[ROWS, q + AHEAD], table.strides[0])
        _step_row(table, width, places[ROWS, q], grads, side, q, kind, steps, STEPS, t)
        for k in range(grads.shape[2]):
            grads[side, q, k] = 0


@rounded
def replay_row(table: Any, width: int, r: int, after: int, until: int, kind: Any, steps: Any) -> None:
    """The steps after+1 … until of a row that no batch read in them."""
    for t in range(after + 1, until + 1):
        _step_row(table, width, r, None, 0, 0, kind, steps, MISSED, t)


@inlined
def _fold(
    places: Any, line: Any, n: Any, t: Any, oldest: Any, plan: Any, record: Any, folds: Any, wide: Any, out: Any
) -> None:  # fmt: skip
    """What the steps after places[line, :n] up to t do to rows without gradient, as seven numbers a start.

    They are what weight, mean and mean square are multiplied by, and a, b, c, d of ADAM's `fraction`; of MOMENTUM a is
    what its mean is multiplied by to move a weight. Loop by loop, so that each of them uses whole vectors.
    """
    keep, first = wide[0], wide[3]
    for q in range(n):
        z = places[line, q]
        keep[q] = folds[KEPT, t] / folds[KEPT, z]
        wide[2, q] = record.squares[t - z]
        if plan.points > 0:
            wide[1, q] = folds[MEANS, z] if z >= oldest else 0
            first[q] = folds[MOMENTS, z]
    if plan.kind.square is not None and plan.kind.mean is not None:
        second, third, fourth, center = wide[4], wide[5], wide[6], wide[7]
        eps = record.exact[t, EPS]
        for q in range(n):
            z = places[line, q]
            second[q], third[q] = folds[MOMENTS + 1, z], folds[MOMENTS + 2, z]
            fourth[q], center[q] = folds[MOMENTS + 3, z], folds[CENTER, z]
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


@inlined
def _apply_folds(table: Any, width: Any, places: Any, line: Any, n: Any, factors: Any, kind: Any) -> None:
    """The missed steps of places[LATE, :n], folded: what they do to the row at q is factors[places[line, q]]."""
    for q in range(min(AHEAD, n)):
        fetch(table, places[LATE, q], table.strides[0])
    for q in range(n):
        if q + AHEAD < n:
            fetch(table, places[LATE, q + AHEAD], table.strides[0])
        r, i = places[LATE, q], places[line, q]
        keep, beta1, beta2 = factors[i, 0], factors[i, 1], factors[i, 2]
        a, b, c, d = factors[i, 3], factors[i, 4], factors[i, 5], factors[i, 6]
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
    table: Any, width: int, places: Any, n: int, t: int, oldest: int, plan: Any, record: Any, rule: Any, thread: int,
    wide: Any, factors: Any,
) -> None:  # fmt: skip
    """Bring the n rows in `places` from the steps that they stand after to step t."""
    folds = record.folds[thread]
    if rule is not None:
        beta2, eps = record.squares[1], record.exact[max(t, 1), EPS]
        approximations.catch_up(
            table, width, places[ROWS], places[STARTS], places[FRESH], n, t, plan.mode, rule, beta2, eps
        )
        return
    m = 0
    for q in range(n):
        r, z = places[ROWS, q], places[STARTS, q]
        if plan.mode == FOLDED and places[FRESH, q]:
            factors[m, 0] = plan.owed * folds[KEPT, t]
            keep = factors[m, 0]
            for k in range(width):
                table[r, k] *= keep
        elif z >= t:
            continue
        elif plan.mode == REPLAY or z < plan.replay_before:
            replay_row(table, width, r, z, t, plan.kind, record.steps)
        else:
            places[LATE, m], places[AT, m] = r, z
            m += 1
    several = t < m  # rows that began at one step, so what each start misses is worked out once
    _fold(places, EVERY if several else AT, t if several else m, t, oldest, plan, record, folds, wide, factors)
    _apply_folds(table, width, places, AT if several else EVERY, m, factors, plan.kind)


@inlined
def catch_up_all(
    side: Any, width: Any, t: Any, oldest: Any, plan: Any, record: Any, thread: Any, at_end: Any, first: Any, end: Any,
    places: Any, wide: Any, factors: Any,
) -> None:  # fmt: skip
    """Bring the rows first … end − 1 to the state after step t, where the epoch may end.

    Rows that no batch has read wait, but for those that are replayed, at the end: see `settle`.
    """
    account = side.account
    for begin in range(first, end, BLOCK):
        n = 0
        for r in range(begin, min(begin + BLOCK, end)):
            new = account[r, SLOT] == NEVER
            if not new or (at_end and plan.mode != FOLDED):
                places[ROWS, n], places[STARTS, n], places[FRESH, n] = r, account[r, LAST], new
                n += 1
                account[r, LAST] = 0 if at_end else t
        catch_up(side.table, width, places, n, t, oldest, plan, record, record.rule, thread, wide, factors)


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
                fetch(table, r + AHEAD, width * table.itemsize)
            if account[r, SLOT] == NEVER:
                for k in range(width):
                    table[r, k] *= factor
    if increment(count.ctypes.data) == threads - 1:
        owed[0] = 1
    restore(before)


@inlined
def enter(side: Any, order: Any, begin: Any, end: Any, now: Any, slots: Any, places: Any) -> int:
    """Give each distinct id of a batch a slot; returns how many there are."""
    account = side.account
    for b in range(end - begin):
        r = side.ids[order[begin + b]]
        slots[b] = r
        fetch(account, r, account.strides[0])
    n = 0
    for b in range(end - begin):
        r = slots[b]
        last, slot = account[r, LAST], account[r, SLOT]
        # Without a branch on what no processor can predict: what is written for a row seen before is overwritten.
        places[ROWS, n], places[STARTS, n], places[FRESH, n] = r, last, slot == NEVER
        new = last != now
        slot = n if new else slot
        account[r, LAST], account[r, SLOT] = now, slot
        slots[b] = slot
        n += new
    return n


@inlined
def copy_weights(table: Any, places: Any, n: Any, out: Any) -> None:
    """Copy the weights of a batch's rows to out[:n], in whole vectors: what follows them is not looked at there."""
    for q in range(n):
        r = places[ROWS, q]
        for k in range(out.shape[1]):
            out[q, k] = table[r, k]


@inlined
def score(
    users: Any, items: Any, user_slots: Any, item_slots: Any, batches: Any, begin: Any, end: Any, first: Any,
    until: Any, model: Any,
) -> float:  # fmt: skip
    """What ratings first … until − 1 of a batch add to its mean squared error.

    `batches.slopes` gets what that changes by with each score.
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
        error = x - batches.ratings[batches.order[begin + b]]
        total += error * error
        batches.slopes[b] = error * slope
    return total / (end - begin)


@inlined
def sum_gradients(
    grads: Any, side: Any, slots: Any, other_slots: Any, others: Any, slopes: Any, size: Any, n_factors: Any
) -> None:  # fmt: skip
    """The gradients of one table's rows, summed by slot."""
    for b in range(size):
        q, o, g = slots[b], other_slots[b], slopes[b]
        for k in range(n_factors):
            grads[side, q, k] += g * others[o, k]
        grads[side, q, n_factors] += g


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

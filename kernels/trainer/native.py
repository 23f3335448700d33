"""The loops of the fused trainer, compiled by Numba. `kernels/trainer/__init__.py` says what they are for.

A table is an array [rows, planes, width]. A row has its weights w: factors, bias, zeros up to whole vectors; and as the
optimizer needs them, its running means m and mean squares v, side by side, so that a row is one stretch of memory. An
account int32[rows, 2] beside it says of each row after which step of the epoch it stands, and its slot in the batch
that read it last.

A batch's rows are gathered into one place, brought up to date there, read, stepped, and put back: the table, which may
be far larger than the caches, is read and written once a step, rows ahead being fetched meanwhile. Two threads share
the work, a table each; a score belongs to both, so they meet after gathering and after scoring.

`steps[t]` holds a step's constants: KEEP, L2, BETA1, REST1, BETA2, REST2, SCALE, EPS, RATE. Element by element it does

    g ← gradient + L2·w
    SGD       w ← w·KEEP − RATE·g
    MOMENTUM  m ← BETA1·m + REST1·g,  w ← w·KEEP − RATE·m
    RMSPROP   v ← BETA2·v + REST2·g², w ← w·KEEP − RATE·g/(√v·SCALE + EPS)
    ADAM      m and v as above,       w ← w·KEEP − RATE·m/(√v·SCALE + EPS)
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from ..dot_bias.native import FASTMATH, sigmoid
from .machine import fetch, meet

SGD, MOMENTUM, RMSPROP, ADAM = range(4)
KEEP, L2, BETA1, REST1, BETA2, REST2, SCALE, EPS, RATE = range(9)
DENSE, REPLAY, VIRTUAL = range(3)
LAST, SLOT = range(2)
NEVER = -1  # the slot of a row that no batch ever read: its m and v are zero
AHEAD = 8  # rows fetched before their turn

# A step is rounded as it is written, nothing reordered or fused, so that replayed steps give the bits of dense ones.
rounded = numba.njit(nogil=True, cache=True, error_model="numpy")
compiled = numba.njit(nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy")


@numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _step_row(source: Any, q: Any, grads: Any, kind: Any, c: Any, target: Any, r: Any) -> None:
    """Write to target[r] what one step makes of source[q]."""
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    if kind == ADAM:
        for k in range(source.shape[2]):
            w = source[q, 0, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            m = beta1 * source[q, 1, k] + rest1 * g
            v = beta2 * source[q, 2, k] + rest2 * (g * g)
            target[r, 1, k] = m
            target[r, 2, k] = v
            target[r, 0, k] = w * keep - rate * m / (np.sqrt(v) * scale + eps)
    elif kind == RMSPROP:
        for k in range(source.shape[2]):
            w = source[q, 0, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            v = beta2 * source[q, 1, k] + rest2 * (g * g)
            target[r, 1, k] = v
            target[r, 0, k] = w * keep - rate * g / (np.sqrt(v) * scale + eps)
    elif kind == MOMENTUM:
        for k in range(source.shape[2]):
            w = source[q, 0, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            m = beta1 * source[q, 1, k] + rest1 * g
            target[r, 1, k] = m
            target[r, 0, k] = w * keep - rate * m
    else:
        for k in range(source.shape[2]):
            w = source[q, 0, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            target[r, 0, k] = w * keep - rate * g


@rounded
def step_rows(gathered: Any, grads: Any, kind: int, c: Any, table: Any, rows: Any, n: int) -> None:
    """One step of the gathered rows with their gradients, put back as rows[:n] of the table."""
    for q in range(n):
        _step_row(gathered, q, grads, kind, c, table, rows[q])


@rounded
def replay_row(table: Any, r: int, after: int, until: int, kind: int, steps: Any) -> None:
    """The steps after+1 … until of a row that no batch read in them."""
    for t in range(after + 1, until + 1):
        _step_row(table, r, None, kind, steps[t], table, r)


@rounded
def replay_others(table: Any, account: Any, t: int, kind: int, steps: Any) -> None:
    """Step t of the rows that its batch did not read."""
    for r in range(table.shape[0]):
        if account[r, LAST] != t:
            _step_row(table, r, None, kind, steps[t], table, r)


@compiled
def add_step(folds: Any, t: int, first: int, beta1: float, beta2: float, keep: float, rate: float, c2: float) -> None:
    """Let every start z of first … t − 1 know step t, which its rows miss.

    Of z, folds holds: 0 the product of KEEP up to z (from the epoch's start), 1 of BETA1 since z, 2 of 1/√BETA2 since
    z, and 3 … 6 the moments 0 … 3 of the measure {(κ_j − 1, W_j)}, each divided by the KEEPs since z.
    """
    up = 1 / math.sqrt(beta2)
    root = math.sqrt(c2)
    folds[0, t] = folds[0, t - 1] * keep
    per_keep = rate / folds[0, t]
    for z in range(first, t):
        folds[1, z] *= beta1
        folds[2, z] *= up
        kappa = root * folds[2, z]
        term = per_keep * folds[0, z] * folds[1, z] * kappa
        folds[3, z] += term
        term *= kappa - 1
        folds[4, z] += term
        term *= kappa - 1
        folds[5, z] += term
        term *= kappa - 1
        folds[6, z] += term


@compiled
def fold(starts: Any, n: int, t: int, folds: Any, squares: Any, kind: int, eps: float, wide: Any, out: Any) -> None:
    """What the steps after starts[:n] up to t do to rows without gradient, as seven numbers a start.

    ADAM's sum over steps of W_j/(√v + eps·κ_j) becomes that of its two-point Gauss quadrature, written as one fraction
    (out[3]·√v + out[4]) / (v + out[5]·√v + out[6]); the nodes come from four moments in closed form. `squares` holds
    the powers of BETA2.
    """
    for q in range(n):
        z = starts[q]
        wide[q, 0] = folds[0, t] / folds[0, z]
        wide[q, 1] = folds[1, z]
        wide[q, 2] = squares[t - z]
        wide[q, 3] = folds[3, z]
        wide[q, 4] = folds[4, z]
        wide[q, 5] = folds[5, z]
        wide[q, 6] = folds[6, z]
    if kind == ADAM:
        for q in range(n):
            m0 = wide[q, 3]
            mean = wide[q, 4] / m0
            second = wide[q, 5] / m0
            variance = max(second - mean * mean, 1e-13)
            skew = (wide[q, 6] / m0 - 3 * mean * second + 2 * mean * mean * mean) / variance
            spread = math.sqrt(skew * skew + 4 * variance)
            low, high = (skew - spread) / 2, (skew + spread) / 2
            weight = m0 * high / spread  # of the lower node
            a, b = eps * (1 + mean + low), eps * (1 + mean + high)
            wide[q, 3] = m0 * wide[q, 0]
            wide[q, 4] = (weight * b + (m0 - weight) * a) * wide[q, 0]
            wide[q, 5] = a + b
            wide[q, 6] = a * b
    else:
        for q in range(n):
            wide[q, 3] *= wide[q, 0]
    for q in range(n):
        for k in range(7):
            out[q, k] = wide[q, k]


@numba.njit(nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _apply_fold(table: Any, r: Any, f: Any, kind: Any) -> None:
    keep, beta1, beta2, a, b, c, d = f[0], f[1], f[2], f[3], f[4], f[5], f[6]
    if kind == ADAM:
        for k in range(table.shape[2]):
            m = table[r, 1, k]
            v = table[r, 2, k]
            root = np.sqrt(v)
            table[r, 0, k] = table[r, 0, k] * keep - m * (a * root + b) / (v + c * root + d)
            table[r, 1, k] = m * beta1
            table[r, 2, k] = v * beta2
    elif kind == MOMENTUM:
        for k in range(table.shape[2]):
            m = table[r, 1, k]
            table[r, 0, k] = table[r, 0, k] * keep - m * a
            table[r, 1, k] = m * beta1
    elif kind == RMSPROP:
        for k in range(table.shape[2]):
            table[r, 0, k] *= keep
            table[r, 1, k] *= beta2
    else:
        for k in range(table.shape[2]):
            table[r, 0, k] *= keep


@numba.njit(nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _catch_up(table: Any, r: Any, z: Any, fresh: Any, t: Any, plan: Any, steps: Any, folded: Any) -> None:
    """Bring a row from step z to step t; `folded` is what the steps between do."""
    kind, mode, replay_before, _ = plan
    if mode == VIRTUAL and fresh:
        keep = folded[0]
        for k in range(table.shape[2]):
            table[r, 0, k] *= keep
    elif mode == REPLAY or z < replay_before:
        replay_row(table, r, z, t, kind, steps)
    else:
        _apply_fold(table, r, folded, kind)


@compiled
def gather(
    table: Any, rows: Any, starts: Any, fresh: Any, n: int, t: int, plan: Any, constants: Any, folds: Any, wide: Any,
    folded: Any, out: Any,
) -> None:  # fmt: skip
    """Copy rows[:n] to out[:n] as step t leaves them."""
    kind, mode, _, _ = plan
    steps, _, squares, eps, every = constants
    # Many rows began at few steps, or few at many.
    by_start = t < n
    if mode == VIRTUAL:
        fold(every if by_start else starts, t if by_start else n, t, folds, squares, kind, eps, wide, folded)
    for q in range(min(AHEAD, n)):
        fetch(table, rows[q])
    for q in range(n):
        if q + AHEAD < n:
            fetch(table, rows[q + AHEAD])
        r = rows[q]
        for p in range(table.shape[1]):
            for k in range(table.shape[2]):
                out[q, p, k] = table[r, p, k]
        z = starts[q]
        if mode != DENSE and z < t:
            _catch_up(out, q, z, fresh[q], t, plan, steps, folded[z if by_start else q])


@compiled
def catch_up_all(
    table: Any, account: Any, first: int, end: int, t: int, plan: Any, constants: Any, folds: Any, at_end: bool
) -> None:  # fmt: skip
    """Bring the rows first … end − 1 to the state after step t, where an epoch may end.

    At its end all of them; else those that a batch has read, as the others can wait.
    """
    kind, mode, _, _ = plan
    steps, _, squares, eps, every = constants
    wide, folded = np.empty((t, 7)), np.empty((t, 7), table.dtype)
    if mode == VIRTUAL:
        fold(every, t, t, folds, squares, kind, eps, wide, folded)
    for r in range(first, end):
        z = account[r, LAST]
        fresh = account[r, SLOT] == NEVER
        if at_end or not fresh:
            if z < t:
                _catch_up(table, r, z, fresh, t, plan, steps, folded[z])
            account[r, LAST] = 0 if at_end else t


@compiled
def enter(
    ids: Any, order: Any, begin: int, end: int, account: Any, now: int, slots: Any, rows: Any, starts: Any, fresh: Any
) -> int:
    """Give each distinct id of a batch a slot; returns how many there are."""
    for b in range(begin, min(begin + AHEAD, end)):
        fetch(account, ids[order[b]])
    n = 0
    for b in range(begin, end):
        if b + AHEAD < end:
            fetch(account, ids[order[b + AHEAD]])
        r = ids[order[b]]
        if account[r, LAST] != now:
            rows[n] = r
            starts[n] = account[r, LAST]
            fresh[n] = account[r, SLOT] == NEVER
            account[r, LAST] = now
            account[r, SLOT] = n
            n += 1
        slots[b - begin] = account[r, SLOT]
    return n


@compiled
def score(
    users: Any, items: Any, user_slots: Any, item_slots: Any, ratings: Any, order: Any, begin: int, first: int,
    end: int, factor: Any, model: Any, errors: Any, slopes: Any,
) -> None:  # fmt: skip
    """Errors of the ratings first … end − 1 of a batch, and the loss's slopes with respect to their scores."""
    n_factors, ranged, low, width = model
    for b in range(first, end):
        u, i = user_slots[b], item_slots[b]
        x = users[u, 0, n_factors] + items[i, 0, n_factors]
        for k in range(n_factors):
            x += users[u, 0, k] * items[i, 0, k]
        slope = factor
        if ranged:
            s, ds = sigmoid(x)
            x = s * width + low
            slope *= ds * width
        error = x - ratings[order[begin + b]]
        errors[b] = error
        slopes[b] = error * slope


@compiled
def sum_gradients(own: Any, slots: Any, slots_of_others: Any, others: Any, slopes: Any, n_factors: int) -> None:
    """The gradients of one table's rows, summed by slot."""
    for b in range(slopes.shape[0]):
        q, o, g = slots[b], slots_of_others[b], slopes[b]
        for k in range(n_factors):
            own[q, k] += g * others[o, 0, k]
        own[q, n_factors] += g


@compiled
def mean_square(errors: Any) -> float:
    """The mean of squares, in float64."""
    total = 0.0
    for b in range(errors.shape[0]):
        total += errors[b] * errors[b]
    return total / errors.shape[0]


@compiled
def room(size: int, table: Any) -> Any:
    """What one side of a batch of `size` ratings is worked on in, twice where two threads work: see `epoch`."""
    _, planes, width = table.shape
    return (
        np.empty((2, size), np.int32),
        np.empty((2, size, planes, width), table.dtype),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.bool_),
        np.empty((size, width), table.dtype),
        np.empty((size, 7)),
        np.empty((size, 7), table.dtype),
    )


@compiled
def epoch(
    part: int, parts: int, tables: Any, accounts: Any, ids: Any, ratings: Any, order: Any, batch_size: int, plan: Any,
    constants: Any, folds: Any, model: Any, rooms: Any, errors: Any, slopes: Any, flags: Any, losses: Any,
) -> None:  # fmt: skip
    """Every batch of an epoch; with two parts, one of two threads. Steps missed at its end: `catch_up_all` does them.

    Part 0 has the users' side, part 1 the items', a single part both. With two, a side's rows are gathered in turn in
    one of two places, since the other thread may still read those of the batch before.
    """
    kind, mode, replay_before, window = plan
    steps, exact = constants[0], constants[1]
    n_rows = np.empty(2, np.int64)
    n = order.shape[0]
    for t in range(1, losses.shape[0] + 1):
        begin = (t - 1) * batch_size
        end = min(begin + batch_size, n)
        size = end - begin
        turn = t % 2 if parts == 2 else 0
        for side in range(part, 2, parts):
            slots, gathered, rows, starts, fresh, _, wide, folded = rooms[side]
            n_rows[side] = enter(
                ids[side], order, begin, end, accounts[side], t, slots[turn], rows, starts, fresh
            )  # fmt: skip
            gather(
                tables[side], rows, starts, fresh, n_rows[side], t - 1, plan, constants, folds, wide, folded,
                gathered[turn],
            )  # fmt: skip
        meet(flags, part, parts, 2 * t - 1)
        factor = errors.dtype.type(2) / errors.dtype.type(size)
        score(
            rooms[0][1][turn], rooms[1][1][turn], rooms[0][0][turn], rooms[1][0][turn], ratings, order, begin,
            size * part // parts, size * (part + 1) // parts, factor, model, errors, slopes,
        )  # fmt: skip
        if part == 0 and mode == VIRTUAL:
            c = exact[t]
            first = max(replay_before, t - window)
            add_step(folds, t, first, c[BETA1], c[BETA2], c[KEEP], c[RATE], 1 / (c[SCALE] * c[SCALE]))
        meet(flags, part, parts, 2 * t)
        for side in range(part, 2, parts):
            slots, gathered, rows, _, _, grads, _, _ = rooms[side]
            grads[: n_rows[side]] = 0
            other = rooms[1 - side]
            sum_gradients(grads, slots[turn], other[0][turn], other[1][turn], slopes[:size], model[0])
            step_rows(gathered[turn], grads, kind, steps[t], tables[side], rows, n_rows[side])
            if mode == DENSE:
                replay_others(tables[side], accounts[side], t, kind, steps)
            elif mode == VIRTUAL and t == replay_before:
                # No gap that starts later is replayed, so none may start earlier.
                catch_up_all(
                    tables[side], accounts[side], 0, tables[side].shape[0], t, plan, constants, folds, False
                )  # fmt: skip
        if part == 0:
            losses[t - 1] = mean_square(errors[:size])


@compiled
def scores(tables: Any, users: Any, items: Any, model: Any, out: Any) -> None:
    """The scores of pairs."""
    users_table, items_table = tables
    n_factors, ranged, low, width = model
    for b in range(users.shape[0]):
        u, i = users[b], items[b]
        x = users_table[u, 0, n_factors] + items_table[i, 0, n_factors]
        for k in range(n_factors):
            x += users_table[u, 0, k] * items_table[i, 0, k]
        out[b] = sigmoid(x)[0] * width + low if ranged else x

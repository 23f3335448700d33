"""The loops of the fused trainer, compiled by Numba. `kernels/trainer/__init__.py` says what they are for.

A table is an array [planes, rows, width]: a plane of weights w, for each row its factors, then its bias, then zeros up
to whole vectors; and, as the optimizer needs them, a plane of running means m and one of mean squares v. Rows that no
batch ever touched have zeros there, and need none of it read.

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

SGD, MOMENTUM, RMSPROP, ADAM = range(4)
KEEP, L2, BETA1, REST1, BETA2, REST2, SCALE, EPS, RATE = range(9)
DENSE, REPLAY, VIRTUAL = range(3)

# A step is rounded as it is written, nothing reordered or fused, so that replayed steps give the bits of dense ones.
rounded = numba.njit(nogil=True, cache=True, error_model="numpy")
compiled = numba.njit(nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy")


@numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _step_row(table: Any, r: Any, grads: Any, q: Any, kind: Any, c: Any) -> None:
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    if kind == ADAM:
        for k in range(table.shape[2]):
            w = table[0, r, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            m = beta1 * table[1, r, k] + rest1 * g
            v = beta2 * table[2, r, k] + rest2 * (g * g)
            table[1, r, k] = m
            table[2, r, k] = v
            table[0, r, k] = w * keep - rate * m / (np.sqrt(v) * scale + eps)
    elif kind == RMSPROP:
        for k in range(table.shape[2]):
            w = table[0, r, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            v = beta2 * table[1, r, k] + rest2 * (g * g)
            table[1, r, k] = v
            table[0, r, k] = w * keep - rate * g / (np.sqrt(v) * scale + eps)
    elif kind == MOMENTUM:
        for k in range(table.shape[2]):
            w = table[0, r, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            m = beta1 * table[1, r, k] + rest1 * g
            table[1, r, k] = m
            table[0, r, k] = w * keep - rate * m
    else:
        for k in range(table.shape[2]):
            w = table[0, r, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            table[0, r, k] = w * keep - rate * g


@rounded
def step_rows(table: Any, rows: Any, n: int, grads: Any, kind: int, c: Any) -> None:
    """One step of rows[:n] with gradients grads[:n]."""
    for q in range(n):
        _step_row(table, rows[q], grads, q, kind, c)


@rounded
def replay_row(table: Any, r: int, after: int, until: int, kind: int, steps: Any) -> None:
    """The steps after+1 … until of a row that no batch touched in them."""
    for t in range(after + 1, until + 1):
        _step_row(table, r, None, 0, kind, steps[t])


@rounded
def replay_others(table: Any, stamps: Any, now: int, kind: int, steps: Any, t: int) -> None:
    """Step t of the rows that its batch did not touch, those without the stamp `now`."""
    for r in range(table.shape[1]):
        if stamps[r] != now:
            replay_row(table, r, t - 1, t, kind, steps)


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


@compiled
def apply_folds(table: Any, rows: Any, n: int, folded: Any, kind: int) -> None:
    """The missed steps of rows[:n], folded."""
    for q in range(n):
        r = rows[q]
        keep, beta1, beta2 = folded[q, 0], folded[q, 1], folded[q, 2]
        a, b, c, d = folded[q, 3], folded[q, 4], folded[q, 5], folded[q, 6]
        if kind == ADAM:
            for k in range(table.shape[2]):
                m = table[1, r, k]
                v = table[2, r, k]
                root = np.sqrt(v)
                table[0, r, k] = table[0, r, k] * keep - m * (a * root + b) / (v + c * root + d)
                table[1, r, k] = m * beta1
                table[2, r, k] = v * beta2
        elif kind == MOMENTUM:
            for k in range(table.shape[2]):
                m = table[1, r, k]
                table[0, r, k] = table[0, r, k] * keep - m * a
                table[1, r, k] = m * beta1
        elif kind == RMSPROP:
            for k in range(table.shape[2]):
                table[0, r, k] *= keep
                table[1, r, k] *= beta2
        else:
            for k in range(table.shape[2]):
                table[0, r, k] *= keep


@compiled
def catch_up(
    table: Any, rows: Any, n: int, last: Any, touched: Any, t: int, plan: Any, constants: Any, folds: Any, work: Any
) -> None:
    """Bring rows[:n] to the state after step t."""
    kind, mode, replay_before, _ = plan
    steps, _, squares, eps = constants
    todo, starts, wide, folded = work
    m = 0
    for q in range(n):
        r = rows[q]
        z = last[r]
        if z >= t:
            continue
        last[r] = t
        if mode == VIRTUAL and touched[r] == 0:  # no gradient ever, so m and v are zero
            folded[m, 0] = folds[0, t] / folds[0, z]
            keep = folded[m, 0]
            for k in range(table.shape[2]):
                table[0, r, k] *= keep
        elif mode == REPLAY or z < replay_before:
            replay_row(table, r, z, t, kind, steps)
        else:
            todo[m] = r
            starts[m] = z
            m += 1
    fold(starts, m, t, folds, squares, kind, eps, wide, folded)
    apply_folds(table, todo, m, folded, kind)


@compiled
def scratch(n: int, like: Any) -> Any:
    """What `catch_up` works in, for `n` rows."""
    return np.empty(n, np.int64), np.empty(n, np.int64), np.empty((n, 7)), np.empty((n, 7), like.dtype)


@compiled
def catch_up_all(
    table: Any, first: int, end: int, last: Any, touched: Any, t: int, plan: Any, constants: Any, folds: Any,
    untouched_too: bool,
) -> None:  # fmt: skip
    """Bring the rows first … end − 1 to the state after step t."""
    block = 256
    work = scratch(block, table)
    rows = np.empty(block, np.int64)
    for begin in range(first, end, block):
        n = 0
        for r in range(begin, min(begin + block, end)):
            if untouched_too or touched[r]:
                rows[n] = r
                n += 1
        catch_up(table, rows, n, last, touched, t, plan, constants, folds, work)


@compiled
def _enter(ids: Any, order: Any, begin: int, end: int, stamps: Any, slots: Any, rows: Any, now: int) -> int:
    """Give each distinct id of a batch a slot; returns how many there are."""
    n = 0
    for b in range(begin, end):
        r = ids[order[b]]
        if stamps[r] != now:
            stamps[r] = now
            slots[r] = n
            rows[n] = r
            n += 1
    return n


@compiled
def _batch(
    users_table: Any, items_table: Any, users: Any, items: Any, ratings: Any, order: Any, begin: int, end: int,
    user_slots: Any, item_slots: Any, user_grads: Any, item_grads: Any, n_factors: int, ranged: bool, low: Any,
    width: Any,
) -> float:  # fmt: skip
    """Scores, mean squared error and gradients, summed by slot, of a batch; returns the error."""
    one = type(width)(1)
    factor = type(width)(2) / type(width)(end - begin)
    total = 0.0
    for b in range(begin, end):
        row = order[b]
        u, i = users[row], items[row]
        x = users_table[0, u, n_factors] + items_table[0, i, n_factors]
        for k in range(n_factors):
            x += users_table[0, u, k] * items_table[0, i, k]
        slope = one
        if ranged:
            s, slope = sigmoid(x)
            x = s * width + low
            slope *= width
        error = x - ratings[row]
        total += error * error
        g = factor * error * slope
        p, q = user_slots[u], item_slots[i]
        for k in range(n_factors):
            user_grads[p, k] += g * items_table[0, i, k]
        for k in range(n_factors):
            item_grads[q, k] += g * users_table[0, u, k]
        user_grads[p, n_factors] += g
        item_grads[q, n_factors] += g
    return total / (end - begin)


@compiled
def epoch(
    tables: Any, last: Any, touched: Any, users: Any, items: Any, ratings: Any, order: Any, batch_size: int,
    plan: Any, constants: Any, folds: Any, n_factors: int, ranged: bool, low: Any, width: Any, losses: Any,
) -> None:  # fmt: skip
    """Every batch of an epoch. With missed steps pending at its end: `catch_up_all` does them."""
    users_table, items_table = tables
    kind, mode, replay_before, window = plan
    steps, exact, _, _ = constants
    n = order.shape[0]
    size = min(batch_size, n)
    planes_width = users_table.shape[2]
    user_rows, item_rows = np.empty(size, np.int64), np.empty(size, np.int64)
    user_slots, item_slots = np.empty(users_table.shape[1], np.int32), np.empty(items_table.shape[1], np.int32)
    user_stamps, item_stamps = np.zeros(users_table.shape[1], np.int32), np.zeros(items_table.shape[1], np.int32)
    user_grads = np.zeros((size, planes_width), users_table.dtype)
    item_grads = np.zeros((size, planes_width), items_table.dtype)
    work = scratch(size, users_table)
    for t in range(1, losses.shape[0] + 1):
        begin = (t - 1) * batch_size
        end = min(begin + batch_size, n)
        n_users = _enter(users, order, begin, end, user_stamps, user_slots, user_rows, t)
        n_items = _enter(items, order, begin, end, item_stamps, item_slots, item_rows, t)
        if mode != DENSE:
            catch_up(users_table, user_rows, n_users, last[0], touched[0], t - 1, plan, constants, folds, work)
            catch_up(items_table, item_rows, n_items, last[1], touched[1], t - 1, plan, constants, folds, work)
        user_grads[:n_users] = 0
        item_grads[:n_items] = 0
        losses[t - 1] = _batch(
            users_table, items_table, users, items, ratings, order, begin, end, user_slots, item_slots,
            user_grads, item_grads, n_factors, ranged, low, width,
        )  # fmt: skip
        if mode == DENSE:
            replay_others(users_table, user_stamps, t, kind, steps, t)
            replay_others(items_table, item_stamps, t, kind, steps, t)
        step_rows(users_table, user_rows, n_users, user_grads, kind, steps[t])
        step_rows(items_table, item_rows, n_items, item_grads, kind, steps[t])
        for q in range(n_users):
            last[0][user_rows[q]] = t
            touched[0][user_rows[q]] = 1
        for q in range(n_items):
            last[1][item_rows[q]] = t
            touched[1][item_rows[q]] = 1
        if mode == VIRTUAL:
            c = exact[t]
            add_step(
                folds,
                t,
                max(replay_before, t - window),
                c[BETA1],
                c[BETA2],
                c[KEEP],
                c[RATE],
                1 / (c[SCALE] * c[SCALE]),
            )
            if t == replay_before:  # no gap that starts later is replayed, so none may start earlier
                catch_up_all(
                    users_table, 0, users_table.shape[1], last[0], touched[0], t, plan, constants, folds, False
                )
                catch_up_all(
                    items_table, 0, items_table.shape[1], last[1], touched[1], t, plan, constants, folds, False
                )


@compiled
def scores(tables: Any, users: Any, items: Any, n_factors: int, ranged: bool, low: Any, width: Any, out: Any) -> None:
    """The scores of pairs."""
    users_table, items_table = tables
    for b in range(users.shape[0]):
        u, i = users[b], items[b]
        x = users_table[0, u, n_factors] + items_table[0, i, n_factors]
        for k in range(n_factors):
            x += users_table[0, u, k] * items_table[0, i, k]
        out[b] = sigmoid(x)[0] * width + low if ranged else x

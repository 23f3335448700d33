"""The loops of the fused trainer, compiled by Numba. `kernels/trainer/__init__.py` says what they are for.

A table is an array [rows, padded(planes · width)]. A row has `width` weights w, factors and bias, and after them, as
the optimizer needs them, as many running means m and mean squares v: one stretch of memory. An account int32[rows, 2]
beside it says of each row after which step of the epoch it stands, and its slot in the batch that read it last.

A batch's rows are brought up to date, rows ahead being fetched meanwhile, as the tables may be far larger than the
caches; their weights are copied to one place, where scores and gradients read them by slot; then they are stepped.
`epoch.py` goes through the batches.

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
from ..instructions import fetch, fetch_part, flush_denormals, restore
from ..threads import in_threads, team
from . import approximations

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
def _step_row(table: Any, width: Any, r: Any, grads: Any, q: Any, kind: Any, c: Any) -> None:
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    if kind == ADAM:
        for k in range(width):
            w = table[r, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            m = beta1 * table[r, width + k] + rest1 * g
            v = beta2 * table[r, 2 * width + k] + rest2 * (g * g)
            table[r, width + k] = m
            table[r, 2 * width + k] = v
            table[r, k] = w * keep - rate * m / (np.sqrt(v) * scale + eps)
    elif kind == RMSPROP:
        for k in range(width):
            w = table[r, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            v = beta2 * table[r, width + k] + rest2 * (g * g)
            table[r, width + k] = v
            table[r, k] = w * keep - rate * g / (np.sqrt(v) * scale + eps)
    elif kind == MOMENTUM:
        for k in range(width):
            w = table[r, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            m = beta1 * table[r, width + k] + rest1 * g
            table[r, width + k] = m
            table[r, k] = w * keep - rate * m
    else:
        for k in range(width):
            w = table[r, k]
            g = l2 * w if grads is None else grads[q, k] + l2 * w
            table[r, k] = w * keep - rate * g


@rounded
def step_rows(table: Any, width: int, rows: Any, n: int, grads: Any, kind: int, c: Any) -> None:
    """One step of rows[:n] with gradients grads[:n], which are zero afterwards."""
    for q in range(n):
        if q + AHEAD < n:
            fetch(table, rows[q + AHEAD])
        _step_row(table, width, rows[q], grads, q, kind, c)
        for k in range(grads.shape[1]):
            grads[q, k] = 0


@rounded
def replay_row(table: Any, width: int, r: int, after: int, until: int, kind: int, steps: Any) -> None:
    """The steps after+1 … until of a row that no batch read in them."""
    for t in range(after + 1, until + 1):
        _step_row(table, width, r, None, 0, kind, steps[t])


@rounded
def replay_others(table: Any, width: int, account: Any, t: int, kind: int, steps: Any) -> None:
    """Step t of the rows that its batch did not read."""
    for r in range(table.shape[0]):
        if account[r, LAST] != t:
            replay_row(table, width, r, t - 1, t, kind, steps)


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
def apply_folds(table: Any, width: int, rows: Any, n: int, folded: Any, at: Any, kind: int) -> None:
    """The missed steps of rows[:n], folded: what they do to rows[q] stands in folded[at[q]]."""
    for q in range(min(AHEAD, n)):
        fetch(table, rows[q])
    for q in range(n):
        if q + AHEAD < n:
            fetch(table, rows[q + AHEAD])
        r, i = rows[q], at[q]
        keep, beta1, beta2 = folded[i, 0], folded[i, 1], folded[i, 2]
        a, b, c, d = folded[i, 3], folded[i, 4], folded[i, 5], folded[i, 6]
        if kind == ADAM:
            for k in range(width):
                m = table[r, width + k]
                v = table[r, 2 * width + k]
                root = np.sqrt(v)
                table[r, k] = table[r, k] * keep - m * (a * root + b) / (v + c * root + d)
                table[r, width + k] = m * beta1
                table[r, 2 * width + k] = v * beta2
        elif kind == MOMENTUM:
            for k in range(width):
                m = table[r, width + k]
                table[r, k] = table[r, k] * keep - m * a
                table[r, width + k] = m * beta1
        elif kind == RMSPROP:
            for k in range(width):
                table[r, k] *= keep
                table[r, width + k] *= beta2
        else:
            for k in range(width):
                table[r, k] *= keep


@compiled
def catch_up(
    table: Any, width: int, rows: Any, starts: Any, fresh: Any, n: int, t: int, plan: Any, constants: Any, folds: Any,
    work: Any,
) -> None:  # fmt: skip
    """Bring rows[:n] from the steps `starts` to step t; `fresh` are those that no batch has read."""
    kind, mode, replay_before, _, owed = plan
    steps, _, squares, eps, every = constants
    late, at, wide, folded = work
    if mode > VIRTUAL:
        approximations.catch_up(table, width, rows, starts, fresh, n, t, mode, folds, squares[1], eps)
        return
    m = 0
    for q in range(n):
        r, z = rows[q], starts[q]
        if mode == VIRTUAL and fresh[q]:
            folded[m, 0] = owed * folds[0, t]
            keep = folded[m, 0]
            for k in range(width):
                table[r, k] *= keep
        elif z >= t:
            continue
        elif mode == REPLAY or z < replay_before:
            replay_row(table, width, r, z, t, kind, steps)
        else:
            late[m] = r
            at[m] = z
            m += 1
    if t < m:  # several rows began at one step, so what each start misses is worked out once
        fold(every, t, t, folds, squares, kind, eps, wide, folded)
        apply_folds(table, width, late, m, folded, at, kind)
    else:
        fold(at, m, t, folds, squares, kind, eps, wide, folded)
        apply_folds(table, width, late, m, folded, every, kind)


@compiled
def scratch(n: int, like: Any) -> Any:
    """What `catch_up` works in, for `n` rows."""
    return np.empty(n, np.int64), np.empty(n, np.int64), np.empty((n, 7)), np.empty((n, 7), like.dtype)


@compiled
def catch_up_all(
    table: Any, width: int, account: Any, t: int, plan: Any, constants: Any, folds: Any, at_end: bool, first: int,
    end: int,
) -> None:  # fmt: skip
    """Bring the rows first … end − 1 to the state after step t, where the epoch may end.

    Rows that no batch has read wait, but for those that are replayed, at the end: see `settle`.
    """
    mode = plan[1]
    block = 256
    work = scratch(max(block, t), table)
    rows, starts, fresh = np.empty(block, np.int64), np.empty(block, np.int64), np.empty(block, np.bool_)
    for begin in range(first, end, block):
        n = 0
        for r in range(begin, min(begin + block, end)):
            new = account[r, SLOT] == NEVER
            if not new or (at_end and mode != VIRTUAL):
                rows[n], starts[n], fresh[n] = r, account[r, LAST], new
                n += 1
                account[r, LAST] = 0 if at_end else t
        catch_up(table, width, rows, starts, fresh, n, t, plan, constants, folds, work)


@compiled
def _settle(table: Any, width: int, account: Any, owed: Any) -> None:
    before = flush_denormals()
    thread, threads = team()
    first, end = table.shape[0] * thread // threads, table.shape[0] * (thread + 1) // threads
    for r in range(first, end):
        if r + AHEAD < end and account[r + AHEAD, SLOT] == NEVER:
            fetch_part(table, r + AHEAD, width * table.itemsize)
        if account[r, SLOT] == NEVER:
            for k in range(width):
                table[r, k] *= owed
    restore(before)


@compiled
def settle(table: Any, width: int, account: Any, owed: Any, threads: int) -> None:
    """Let the rows that no batch has read decay by what they are owed."""
    in_threads(threads, _settle, (table, width, account, owed))


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


@compiled
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

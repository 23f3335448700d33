"""The loops of the fused trainer, compiled by Numba. The docstring of `kernels/trainer/__init__.py` has the method.

A table is an array [rows, padded(planes · width)]. A row has `width` weights w (factors and bias), then as many running
means m and mean squares v, if the optimizer needs them, in one stretch of memory. `row_state` int32[rows, 2] holds, for
each row, the LAST step of the epoch that it has taken and its SLOT in the batch that last read it.

For each batch, the loops bring its rows up to date, copy their weights to one place, where scores and gradients read
them by slot, and step the rows. They prefetch rows, because tables may be far larger than the caches. `epoch.py` goes
through the batches.

`..steps` defines the steps and their constants, `..quadrature` what folds and when.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..dot_bias.native import sigmoid
from ..instructions import fetch, flush_denormals, increment, restore
from ..native import compiled, inlined, llvm_inlined, rounded, rounded_inlined
from ..quadrature import BETA1_PRODUCT, CENTER, KEPT, MOMENTS, folded, fraction, two_points
from ..steps import EPS, Kind
from ..threads import team
from . import approximations

DENSE, REPLAY, FOLDED = range(3)
LAST, SLOT = range(2)
NEVER = -1  # the slot of a row that no batch has ever read: its m and v are zero
# The lines of `places`. For the rows of a batch: the row, the last step it has taken, and whether no batch has ever
# read it. For `catch_up`: the rows to fold, the steps that their gaps start after, and 0, 1, …. Last, their number.
ROWS, STARTS, UNREAD, TO_FOLD, FOLD_STARTS, CONSECUTIVE, COUNT, LINES = range(8)
STEPS, MISSED = range(2)  # the index of `Record.steps`
AHEAD = 8  # how many rows ahead are prefetched
BLOCK = 256  # how many rows are caught up together when all rows are


class Plan(NamedTuple):
    """How an epoch takes its steps."""

    kind: Kind  # of step
    mode: int
    replay_before: int  # gaps that begin before this step are replayed
    points: int  # of Gauss, for folded gaps
    pending_decay: float  # the factor by which rows that no batch has read must still decay


class Record(NamedTuple):
    """The constants of an epoch's steps, which count from 1."""

    steps: Any  # [2, steps + 1, 9], the tables' dtype; row t: the constants of step t with gradient, then without
    exact: Any  # float64[steps + 1, 9], the first of these in double precision
    squares: Any  # float64[steps + 1], powers of β2
    folds: Any  # float64[2, …], one for each thread, see `..quadrature.add_step`
    rule: Any  # the constants of an approximation, or None: then Numba does not compile the approximations


@rounded_inlined
def _step_row(
    table: Any, width: Any, r: Any, grads: Any, side: Any, q: Any, kind: Any, steps: Any, which: Any, t: Any
) -> None:  # fmt: skip
    """Take step t of row r, with gradient grads[side, q], or without if `grads` is None; see `..steps`."""
    keep, l2, beta1 = steps[which, t, 0], steps[which, t, 1], steps[which, t, 2]
    rest1, beta2, rest2 = steps[which, t, 3], steps[which, t, 4], steps[which, t, 5]
    scale, eps, rate = steps[which, t, 6], steps[which, t, 7], steps[which, t, 8]
    squares = width if kind.mean is None else 2 * width
    for k in range(width):
        w = table[r, k]
        pull = l2 * w if l2 != 0 else l2  # an infinite weight, such as a mask's, stays as it is
        g = pull if grads is None else grads[side, q, k] + pull
        moved = g
        if kind.mean is not None:
            moved = beta1 * table[r, width + k] + rest1 * g
            table[r, width + k] = moved
        if kind.square is not None:
            v = beta2 * table[r, squares + k] + rest2 * g * g
            table[r, squares + k] = v
            moved = moved / (np.sqrt(v) * scale + eps)
        table[r, k] = w * keep - rate * moved


@rounded
def step_rows(
    table: Any, width: int, places: Any, n: int, grads: Any, side: int, kind: Any, steps: Any, t: int
) -> None:
    """Take step t of a batch's n rows with gradients grads[side, :n], and set these to zero for the next batch."""
    for q in range(n):
        if q + AHEAD < n:
            fetch(table, places[ROWS, q + AHEAD], table.strides[0])
        _step_row(table, width, places[ROWS, q], grads, side, q, kind, steps, STEPS, t)
        for k in range(grads.shape[2]):
            grads[side, q, k] = 0


@rounded
def replay_row(table: Any, width: int, r: int, after: int, until: int, kind: Any, steps: Any) -> None:
    """Run the steps after+1 … until of a row that no batch read in them."""
    for t in range(after + 1, until + 1):
        _step_row(table, width, r, None, 0, 0, kind, steps, MISSED, t)


@inlined
def _fold(
    places: Any, line: Any, n: Any, t: Any, oldest: Any, plan: Any, record: Any, folds: Any, wide: Any, out: Any
) -> None:  # fmt: skip
    """Fold the steps from each start places[line, :n] up to t: writes seven numbers per start to out[:n].

    They are the factors of weight, mean and mean square, and a, b, c, d of the `fraction` of ADAM. For MOMENTUM, a is
    the factor by which the mean moves a weight. The loops are separate, so that each compiles to vector instructions.
    """
    keep, first = wide[0], wide[3]
    for q in range(n):
        z = places[line, q]
        keep[q] = folds[KEPT, t] / folds[KEPT, z]
        wide[2, q] = record.squares[t - z]
        if plan.points > 0:
            wide[1, q] = folds[BETA1_PRODUCT, z] if z >= oldest else 0
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
    """Apply the folded steps to the rows places[TO_FOLD, :n]: row q gets factors[places[line, q]]."""
    for q in range(min(AHEAD, n)):
        fetch(table, places[TO_FOLD, q], table.strides[0])
    for q in range(n):
        if q + AHEAD < n:
            fetch(table, places[TO_FOLD, q + AHEAD], table.strides[0])
        r, i = places[TO_FOLD, q], places[line, q]
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


@llvm_inlined
def catch_up(
    table: Any, width: int, places: Any, n: int, t: int, oldest: int, plan: Any, record: Any, rule: Any, thread: int,
    wide: Any, factors: Any,
) -> None:  # fmt: skip
    """Bring the n rows in `places` from the last steps that they have taken to step t."""
    folds = record.folds[thread]
    if rule is not None:
        beta2, eps = record.squares[1], record.exact[max(t, 1), EPS]
        approximations.catch_up(
            table, width, places[ROWS], places[STARTS], places[UNREAD], n, t, plan.mode, rule, beta2, eps
        )
        return
    m = 0
    for q in range(n):
        r, z = places[ROWS, q], places[STARTS, q]
        if plan.mode == FOLDED and places[UNREAD, q]:
            factors[m, 0] = plan.pending_decay * folds[KEPT, t]
            keep = factors[m, 0]
            for k in range(width):
                table[r, k] *= keep
        elif z >= t:
            continue
        elif plan.mode == REPLAY or z < plan.replay_before:
            replay_row(table, width, r, z, t, plan.kind, record.steps)
        else:
            places[TO_FOLD, m], places[FOLD_STARTS, m] = r, z
            m += 1
    several = t < m  # more rows than starts: then fold once for each start, not once for each row
    line = CONSECUTIVE if several else FOLD_STARTS
    _fold(places, line, t if several else m, t, oldest, plan, record, folds, wide, factors)
    _apply_folds(table, width, places, FOLD_STARTS if several else CONSECUTIVE, m, factors, plan.kind)


@inlined
def catch_up_all(
    side: Any, width: Any, t: Any, oldest: Any, plan: Any, record: Any, thread: Any, at_end: Any, first: Any, end: Any,
    places: Any, wide: Any, factors: Any,
) -> None:  # fmt: skip
    """Bring the rows first … end − 1 to the state after step t, which may be the end of the epoch.

    Rows that no batch has read are left out, see `apply_pending_decay`, except at the end if they are not folded.
    """
    row_state = side.row_state
    for begin in range(first, end, BLOCK):
        n = 0
        for r in range(begin, min(begin + BLOCK, end)):
            new = row_state[r, SLOT] == NEVER
            if not new or (at_end and plan.mode != FOLDED):
                places[ROWS, n], places[STARTS, n], places[UNREAD, n] = r, row_state[r, LAST], new
                n += 1
                row_state[r, LAST] = 0 if at_end else t
        catch_up(side.table, width, places, n, t, oldest, plan, record, record.rule, thread, wide, factors)


@compiled
def apply_pending_decay(tables: Any, width: int, row_states: Any, factor: Any, pending_decay: Any, count: Any) -> None:
    """Decay this thread's share of the rows that no batch has read by `factor`; see `..threads.in_threads`.

    `factor` is pending_decay[0] in the tables' dtype. `count` int32[1] counts the threads that are done; the last one
    sets pending_decay[0] to 1.
    """
    before = flush_denormals()
    thread, threads = team()
    for side in range(2):
        table, row_state = tables[side], row_states[side]
        first, end = table.shape[0] * thread // threads, table.shape[0] * (thread + 1) // threads
        for r in range(first, end):
            if r + AHEAD < end and row_state[r + AHEAD, SLOT] == NEVER:
                fetch(table, r + AHEAD, width * table.itemsize)
            if row_state[r, SLOT] == NEVER:
                for k in range(width):
                    table[r, k] *= factor
    if increment(count.ctypes.data) == threads - 1:
        pending_decay[0] = 1
    restore(before)


@inlined
def assign_slots(side: Any, order: Any, begin: Any, end: Any, now: Any, slots: Any, places: Any) -> int:
    """Give each distinct id of a batch a slot, and list these rows in `places`; returns their number."""
    row_state = side.row_state
    for b in range(end - begin):
        r = side.ids[order[begin + b]]
        slots[b] = r
        fetch(row_state, r, row_state.strides[0])
    n = 0
    for b in range(end - begin):
        r = slots[b]
        last, slot = row_state[r, LAST], row_state[r, SLOT]
        # No branch, because the processor could not predict it: a row seen before is written too, then overwritten.
        places[ROWS, n], places[STARTS, n], places[UNREAD, n] = r, last, slot == NEVER
        new = last != now
        slot = n if new else slot
        row_state[r, LAST], row_state[r, SLOT] = now, slot
        slots[b] = slot
        n += new
    return n


@inlined
def copy_weights(table: Any, places: Any, n: Any, out: Any) -> None:
    """Copy the weights of a batch's rows to out[:n], in whole vectors. Numbers beyond a row's weights are unused."""
    for q in range(n):
        r = places[ROWS, q]
        for k in range(out.shape[1]):
            out[q, k] = table[r, k]


@inlined
def score(
    users: Any, items: Any, user_slots: Any, item_slots: Any, batches: Any, begin: Any, end: Any, first: Any,
    until: Any, model: Any,
) -> float:  # fmt: skip
    """What the ratings first … until − 1 of a batch add to its mean squared error.

    Writes the derivative of that error by each score to `batches.slopes`.
    """
    n_factors, ranged, low, width, _ = model
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
    grads: Any, side: Any, slots: Any, other_slots: Any, others: Any, slopes: Any, size: Any, model: Any
) -> None:  # fmt: skip
    """Sum the gradients of one table's rows by slot, into `grads`; a bias that is not learned gets none."""
    n_factors, learned = model[0], model[4][side]
    for b in range(size):
        q, o, g = slots[b], other_slots[b], slopes[b]
        for k in range(n_factors):
            grads[side, q, k] += g * others[o, k]
        if learned:
            grads[side, q, n_factors] += g


def padded(numbers: int) -> int:
    """The next multiple of 16: a row of so many numbers, of 4 or 8 bytes, fills whole cache lines.

    >>> padded(41)
    48
    """
    return -(-numbers // 16) * 16


@compiled
def scores(tables: Any, row_states: Any, pending_decay: Any, users: Any, items: Any, model: Any, out: Any) -> None:
    """Write the scores of pairs to `out`, including the pending decay of rows that no batch has read."""
    user_table, item_table = tables
    user_state, item_state = row_states
    n_factors, ranged, low, width, _ = model
    for b in range(users.shape[0]):
        u, i = users[b], items[b]
        user_decay = pending_decay if user_state[u, SLOT] == NEVER else type(pending_decay)(1)
        item_decay = pending_decay if item_state[i, SLOT] == NEVER else type(pending_decay)(1)
        x = type(pending_decay)(0)
        for k in range(n_factors):
            x += user_table[u, k] * item_table[i, k]
        x *= user_decay * item_decay
        x += user_table[u, n_factors] * user_decay + item_table[i, n_factors] * item_decay
        out[b] = sigmoid(x)[0] * width + low if ranged else x

"""An epoch, batch by batch, in one thread or two, compiled by Numba. The loops over rows are in `native.py`.

Of two threads each has a table: its rows, their gradients and their steps. A batch's scores need both tables, and are
shared out half and half. So a thread has to wait for the other one twice a step, and no number depends on how many
threads there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..instructions import flush_denormals, restore, ticks
from ..native import compiled, inlined
from ..quadrature import FADES, KEPT, add_step, oldest_live
from .meeting import asked, close, come, let_in, meet, parting
from .native import (
    BLOCK,
    DENSE,
    LAST,
    VIRTUAL,
    catch_up,
    catch_up_all,
    copy_rows,
    copy_weights,
    enter,
    padded,
    replay_others,
    score,
    scratch,
    step_rows,
    sum_gradients,
)  # fmt: skip

DONE, OWED = range(2)  # of a trainer's progress


class Side(NamedTuple):
    """What there is of users, and of items: one thread's, where there are two."""

    table: Any
    account: Any
    ids: Any  # int64[ratings]
    slots: Any  # int64[2, ratings of a batch], of each rating its row's place among the batch's rows
    weights: Any  # [2, ratings of a batch, …], the weights of those rows


class Room(NamedTuple):
    """What a thread works in: the rows of a batch, at their places."""

    rows: Any
    starts: Any
    fresh: Any
    grads: Any
    count: Any  # int64[1], how many rows there are
    scratch: Any


class Batches(NamedTuple):
    """An epoch's ratings, in their order."""

    ratings: Any
    order: Any
    size: int
    slopes: Any  # [ratings of a batch], what the loss changes by with each score
    losses: Any  # float64[2, batches], what each half of a batch adds to its loss


def sides(
    tables: tuple[np.ndarray, ...], accounts: tuple[np.ndarray, ...], ids: tuple[np.ndarray, ...], size: int, width: int
) -> tuple[Side, ...]:
    """Users and items. Both threads read a batch's slots and weights, which are there twice: for every other batch.

    For one thread may still read them when the other one begins with the next batch.
    """
    return tuple(
        Side(table, account, of, np.empty((2, size), np.int64), np.empty((2, size, padded(width)), table.dtype))
        for table, account, of in zip(tables, accounts, ids, strict=True)
    )


def rooms(size: int, width: int, dtype: np.dtype) -> tuple[Room, ...]:
    """For batches of `size` ratings; of each thread."""
    rows = max(size + 1, BLOCK)
    return tuple(
        Room(
            np.empty(rows, np.int64),
            np.empty(rows, np.int64),
            np.empty(rows, np.bool_),
            np.zeros((size, padded(width)), dtype),
            np.zeros(1, np.int64),
            scratch(rows, dtype),
        )
        for _ in range(2)
    )


@inlined
def _read(
    side: Any, half: int, batches: Any, begin: int, end: int, t: int, width: int, oldest: int, room: Any, plan: Any,
    record: Any,
) -> None:  # fmt: skip
    """Bring the rows of a batch up to date, and copy their weights."""
    n = enter(
        side.ids, batches.order, begin, end, side.account, t, side.slots[half], room.rows, room.starts, room.fresh
    )  # fmt: skip
    if plan.mode != DENSE:
        catch_up(
            side.table, width, room.rows, room.starts, room.fresh, n, t - 1, oldest, plan, record, record.rule,
            room.scratch,
        )  # fmt: skip
    copy_weights(side.table, room.rows, n, side.weights[half])
    room.count[0] = n


@inlined
def _step(
    side: Any, other: Any, half: int, slopes: Any, size: int, t: int, width: int, room: Any, plan: Any, steps: Any
) -> None:
    """Sum the gradients of a batch's rows, and step them."""
    sum_gradients(room.grads, side.slots[half], other.slots[half], other.weights[half], slopes, size, width - 1)
    step_rows(side.table, width, room.rows, room.count[0], room.grads, plan.kind, steps[t])
    if plan.mode == DENSE:
        replay_others(side.table, width, side.account, t, plan.kind, steps)


@inlined
def _score(
    users: Any, items: Any, half: int, batches: Any, begin: int, end: int, first: int, until: int, model: Any
) -> float:
    return score(
        users.weights[half], items.weights[half], users.slots[half], items.slots[half], batches.ratings,
        batches.order, begin, end, first, until, model, batches.slopes,
    )  # fmt: skip


@inlined
def _catch_up(
    side: Any, t: int, at_end: bool, first: int, end: int, width: int, oldest: int, room: Any, plan: Any, record: Any
) -> None:
    catch_up_all(
        side.table, width, side.account, t, oldest, plan, record, at_end, first, end, room.rows, room.starts,
        room.fresh, room.scratch,
    )  # fmt: skip


@compiled
def epoch(
    meeting: Any, both: Any, rooms: Any, batches: Any, plan: Any, records: Any, model: Any, progress: Any
) -> None:  # fmt: skip
    """A thread's part of an epoch: every batch, the steps missed at its end, and what was done; see `in_threads`.

    The first thread that comes goes through all batches, alone until another one comes. Thread 0 has users, and the
    first half of a batch's scores; thread 1 has the rest, or thread 0 while it is alone.

    Args:
        meeting: of the two; see `meeting`.
        both: `sides`, of users and items.
        rooms: of the threads. All memory is there before they begin: they wait for each other.
        batches: the ratings; the sum of their losses gets the mean squared error of each batch before its step.
        plan: how steps are taken.
        records: of them, the same for each thread, but for the folds: room for its own.
        model: the number of factors; whether there is a range, its low end and its width.
        progress: float64[2], steps DONE, and what rows that no batch has read are OWED; thread 0 brings it up to date.
    """
    thread, first = come(meeting)
    if first == 0:
        return
    before = flush_denormals()
    alone = thread == 0
    record = records[thread]
    if thread == 1:
        copy_rows(records[0].folds, record.folds)  # both add every step to their own
    oldest = oldest_live(record.folds[FADES], first - 1, 0, plan.points)
    users, items = both
    n, width, last = batches.order.shape[0], model[0] + 1, batches.losses.shape[1]
    since = ticks()

    for t in range(first, last + 1):
        if alone and asked(meeting):
            let_in(meeting, t)
            alone = False
        begin = (t - 1) * batches.size
        end = min(begin + batches.size, n)
        size, half = end - begin, 0 if alone else t % 2
        of_users, of_items = thread == 0, alone or thread == 1

        if of_users:
            _read(users, half, batches, begin, end, t, width, oldest, rooms[0], plan, record)
        if of_items:
            _read(items, half, batches, begin, end, t, width, oldest, rooms[1], plan, record)
        if not alone:
            since = meet(meeting, thread, t, since)
        if of_users:
            batches.losses[0, t - 1] = _score(users, items, half, batches, begin, end, 0, size // 2, model)
        if of_items:
            batches.losses[1, t - 1] = _score(users, items, half, batches, begin, end, size // 2, size, model)
        if not alone:
            since = meet(meeting, thread, t, since)
        if of_users:
            _step(users, items, half, batches.slopes, size, t, width, rooms[0], plan, record.steps)
        if of_items:
            _step(items, users, half, batches.slopes, size, t, width, rooms[1], plan, record.steps)

        if plan.mode == VIRTUAL:
            # Gaps that begin before `replay_before` are never folded, so those starts need not know a step.
            live = max(oldest, plan.replay_before)
            oldest = add_step(record.folds, t, min(live, t), plan.points, record.exact[t])
            if t == plan.replay_before:  # no gap that starts later is replayed, so none may start earlier
                if of_users:
                    _catch_up(users, t, False, 0, users.table.shape[0], width, oldest, rooms[0], plan, record)
                if of_items:
                    _catch_up(items, t, False, 0, items.table.shape[0], width, oldest, rooms[1], plan, record)
        if not alone and parting(meeting, t):
            since = meet(meeting, thread, t, since)
            if thread == 1:
                restore(before)
                return
            alone = True

    if alone and not close(meeting):
        let_in(meeting, last + 1)
        alone = False
    if not alone:
        meet(meeting, thread, last, since)
    for side in both:  # steps count from 1 again; each thread has half of the rows
        rows = side.table.shape[0]
        begin = rows // 2 * thread
        end = rows if alone else begin + rows // 2 + rows % 2 * thread
        if plan.mode == DENSE:
            side.account[begin:end, LAST] = 0
        else:
            _catch_up(side, last, True, begin, end, width, oldest, rooms[thread], plan, record)
    if not alone:
        meet(meeting, thread, last, since)
    if thread == 0:
        progress[DONE] += last
        if plan.mode == VIRTUAL:
            progress[OWED] *= record.folds[KEPT, last]
    restore(before)

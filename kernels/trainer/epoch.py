"""An epoch, batch by batch, in one thread or two, compiled by Numba. The loops over rows are in `native.py`.

Of two threads each has a table: its rows, their gradients and their steps. A batch's scores need both tables, and are
shared out half and half. So a thread has to wait for the other one twice a step, and no number depends on how many
threads there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..instructions import flush_denormals, restore, ticks
from ..native import compiled
from ..quadrature import FADES, KEPT, add_step, oldest_live
from .meeting import asked, close, come, let_in, meet, parting
from .native import (
    BLOCK,
    COUNT,
    DENSE,
    EVERY,
    LAST,
    LINES,
    FOLDED,
    catch_up,
    catch_up_all,
    copy_weights,
    enter,
    padded,
    replay_row,
    score,
    step_rows,
    sum_gradients,
)  # fmt: skip

DONE, OWED = range(2)  # of a trainer's progress


class Side(NamedTuple):
    """What there is of users, and of items: one thread's, where there are two."""

    table: Any
    account: Any
    ids: Any  # int64[ratings]


class Batches(NamedTuple):
    """An epoch's ratings, in their order."""

    ratings: Any
    order: Any
    size: int
    slopes: Any  # [ratings of a batch], what the loss changes by with each score
    losses: Any  # float64[2, batches], what each half of a batch adds to its loss


class Room(NamedTuple):
    """What is worked in, first users' and then items'.

    Both threads read a batch's slots and weights, which are there twice, for every other batch: one thread may still
    read them when the other one begins with the next batch.
    """

    places: Any  # int64[2, LINES, rows of a batch]
    slots: Any  # int64[2, 2, ratings of a batch], of each rating its row's place among the batch's rows
    weights: Any  # [2, 2, ratings of a batch, …], the weights of those rows
    grads: Any  # [2, ratings of a batch, …]
    wide: Any  # float64[2, 8, rows of a batch]
    factors: Any  # [2, rows of a batch, 7]


def room(size: int, width: int, dtype: np.dtype) -> Room:
    """For batches of `size` ratings. All memory is there before threads begin: they wait for each other."""
    rows = max(size + 1, BLOCK)
    places = np.empty((2, LINES, rows), np.int64)
    places[:, EVERY] = np.arange(rows)
    return Room(
        places,
        np.empty((2, 2, size), np.int64),
        np.empty((2, 2, size, padded(width)), dtype),
        np.zeros((2, size, padded(width)), dtype),
        np.empty((2, 8, rows)),
        np.empty((2, rows, 7), dtype),
    )


@compiled
def epoch(meeting: Any, both: Any, room: Any, batches: Any, plan: Any, record: Any, model: Any, progress: Any) -> None:
    """A thread's part of an epoch: every batch, the steps missed at its end, and what was done; see `in_threads`.

    The first thread that comes goes through all batches, alone until another one comes. Thread 0 has users, and the
    first half of a batch's scores; thread 1 has the rest, or thread 0 while it is alone.

    Args:
        meeting: of the two; see `meeting`.
        both: the `Side`s of users and items.
        room: to work in.
        batches: the ratings; the sum of their losses gets the mean squared error of each batch before its step.
        plan: how steps are taken.
        record: of them.
        model: the number of factors; whether there is a range, its low end and its width.
        progress: float64[2], steps DONE, and what rows that no batch has read are OWED; thread 0 brings it up to date.
    """
    thread, first = come(meeting)
    if first == 0:
        return
    before = flush_denormals()
    alone = thread == 0
    folds = record.folds[thread]
    if thread == 1:  # both add every step to their own
        for row in range(folds.shape[0]):
            for z in range(folds.shape[1]):
                folds[row, z] = record.folds[0, row, z]
    oldest = oldest_live(folds[FADES], first - 1, 0, plan.points)
    n, width, last = batches.order.shape[0], model[0] + 1, batches.losses.shape[1]
    since = ticks()

    for t in range(first, last + 1):
        if alone and asked(meeting):
            let_in(meeting, t)
            alone = False
        begin = (t - 1) * batches.size
        end = min(begin + batches.size, n)
        size, half = end - begin, 0 if alone else t % 2
        until = 2 if alone else thread + 1  # of the sides that are this thread's

        for s in range(thread, until):  # a batch's rows are brought up to date, and their weights copied
            side, places = both[s], room.places[s]
            rows = enter(side, batches.order, begin, end, t, room.slots[s, half], places)
            if plan.mode != DENSE:
                catch_up(
                    side.table, width, places, rows, t - 1, oldest, plan, record, record.rule, thread, room.wide[s],
                    room.factors[s],
                )  # fmt: skip
            copy_weights(side.table, places, rows, room.weights[s, half])
            places[COUNT, 0] = rows
        if not alone:
            since = meet(meeting, thread, t, since)
        for s in range(thread, until):
            batches.losses[s, t - 1] = score(
                room.weights[0, half], room.weights[1, half], room.slots[0, half], room.slots[1, half], batches, begin,
                end, s * (size // 2), size if s else size // 2, model,
            )  # fmt: skip
        if not alone:
            since = meet(meeting, thread, t, since)
        for s in range(thread, until):
            side = both[s]
            sum_gradients(
                room.grads, s, room.slots[s, half], room.slots[1 - s, half], room.weights[1 - s, half], batches.slopes,
                size, model[0],
            )  # fmt: skip
            step_rows(
                side.table, width, room.places[s], room.places[s, COUNT, 0], room.grads, s, plan.kind, record.steps, t
            )
            if plan.mode == DENSE:
                for r in range(side.table.shape[0]):
                    if side.account[r, LAST] != t:
                        replay_row(side.table, width, r, t - 1, t, plan.kind, record.steps)

        if plan.mode == FOLDED:
            # Gaps that begin before `replay_before` are never folded, so those starts need not know a step.
            live = max(oldest, plan.replay_before)
            oldest = add_step(folds, t, min(live, t), plan.points, record.exact[t])
            if t == plan.replay_before:  # no gap that starts later is replayed, so none may start earlier
                for s in range(thread, until):
                    side = both[s]
                    catch_up_all(
                        side, width, t, oldest, plan, record, thread, False, 0, side.table.shape[0], room.places[s],
                        room.wide[s], room.factors[s],
                    )  # fmt: skip
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
            catch_up_all(
                side, width, last, oldest, plan, record, thread, True, begin, end, room.places[thread],
                room.wide[thread], room.factors[thread],
            )  # fmt: skip
    if not alone:
        meet(meeting, thread, last, since)
    if thread == 0:
        progress[DONE] += last
        if plan.mode == FOLDED:
            progress[OWED] *= folds[KEPT, last]
    restore(before)

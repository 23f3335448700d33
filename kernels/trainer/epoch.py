"""Runs an epoch batch by batch, in one thread or two, compiled by Numba. The loops over rows are in `native.py`.

Each of two threads has one table: its rows, their gradients and their steps. The scores of a batch need both tables, so
each thread computes half of them. So a thread waits for the other one twice a step, and the results do not depend on
the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..instructions import flush_denormals, restore, ticks
from ..native import compiled
from ..quadrature import KEPT, LOG_FADE, add_step, oldest_live
from .meeting import close_door, join, let_in, meet, separates_after, wants_to_join
from .native import (
    BLOCK,
    CONSECUTIVE,
    COUNT,
    DENSE,
    FOLDED,
    LAST,
    LINES,
    assign_slots,
    catch_up,
    catch_up_all,
    copy_weights,
    padded,
    replay_row,
    score,
    step_rows,
    sum_gradients,
)  # fmt: skip

DONE, PENDING_DECAY = range(2)  # of a trainer's progress


class Side(NamedTuple):
    """The data of users or of items. With two threads, each has one side."""

    table: Any
    row_state: Any  # int32[rows, 2], see `native`
    ids: Any  # int64[ratings]


class Batches(NamedTuple):
    """The ratings of an epoch and the order of its batches."""

    ratings: Any
    order: Any  # int64[n]
    size: int
    slopes: Any  # [ratings of a batch], the derivative of the loss by each score
    losses: Any  # float64[2, batches], what each half of a batch adds to its loss


class Workspace(NamedTuple):
    """The arrays that an epoch works in; the first index is 0 for users and 1 for items.

    Both threads read the slots and weights of a batch. There are two copies, used in turn, because one thread may still
    read a batch's when the other one begins the next batch.
    """

    places: Any  # int64[2, LINES, rows of a batch]
    slots: Any  # int64[2, 2, ratings of a batch], for each rating the place of its row among the batch's rows
    weights: Any  # [2, 2, ratings of a batch, …], the weights of those rows
    grads: Any  # [2, ratings of a batch, …]
    wide: Any  # float64[2, 8, rows of a batch]
    factors: Any  # [2, rows of a batch, 7]


def workspace(size: int, width: int, dtype: np.dtype) -> Workspace:
    """The arrays for batches of `size` ratings. Threads allocate nothing, because failing would block the other one."""
    rows = max(size + 1, BLOCK)
    places = np.empty((2, LINES, rows), np.int64)
    places[:, CONSECUTIVE] = np.arange(rows)
    return Workspace(
        places,
        np.empty((2, 2, size), np.int64),
        np.empty((2, 2, size, padded(width)), dtype),
        np.zeros((2, size, padded(width)), dtype),
        np.empty((2, 8, rows)),
        np.empty((2, rows, 7), dtype),
    )


@compiled
def epoch(meeting: Any, sides: Any, work: Any, batches: Any, plan: Any, record: Any, model: Any, progress: Any) -> None:
    """Run one thread's part of an epoch: every batch, then the steps that rows still miss; see `in_threads`.

    The first thread goes through all batches, alone until a second one joins. Thread 0 has the users and the first half
    of each batch's scores. Thread 1 has the items and the second half; thread 0 does those too while it is alone.

    Args:
        meeting: where the threads wait for each other; see `meeting`.
        sides: the `Side`s of users and items.
        work: the arrays to work in.
        batches: the ratings. Its `losses` get both halves of each batch's mean squared error before its step.
        plan: how steps are taken.
        record: the constants of the steps.
        model: the number of factors; whether there is a range; its low end; its width; whether each side has biases.
        progress: float64[2], the steps DONE, and the PENDING_DECAY of rows that no batch has read; thread 0 updates it.
    """
    thread, first = join(meeting)
    if first == 0:
        return
    before = flush_denormals()
    alone = thread == 0
    folds = record.folds[thread]
    if thread == 1:  # each thread has a copy of the folds, and adds every step to it
        for row in range(folds.shape[0]):
            for z in range(folds.shape[1]):
                folds[row, z] = record.folds[0, row, z]
    oldest = oldest_live(folds[LOG_FADE], first - 1, 0, plan.points)
    n, width, last = batches.order.shape[0], model[0] + 1, batches.losses.shape[1]
    since = ticks()

    for t in range(first, last + 1):
        if alone and wants_to_join(meeting):
            let_in(meeting, t)
            alone = False
        begin = (t - 1) * batches.size
        end = min(begin + batches.size, n)
        size, half = end - begin, 0 if alone else t % 2
        until = 2 if alone else thread + 1  # this thread has the sides `thread` … until − 1

        for s in range(thread, until):  # bring the batch's rows up to date, and copy their weights
            side, places = sides[s], work.places[s]
            rows = assign_slots(side, batches.order, begin, end, t, work.slots[s, half], places)
            if plan.mode != DENSE:
                catch_up(
                    side.table, width, places, rows, t - 1, oldest, plan, record, record.rule, thread, work.wide[s],
                    work.factors[s],
                )  # fmt: skip
            copy_weights(side.table, places, rows, work.weights[s, half])
            places[COUNT, 0] = rows
        if not alone:
            since = meet(meeting, thread, t, since)
        for s in range(thread, until):
            batches.losses[s, t - 1] = score(
                work.weights[0, half], work.weights[1, half], work.slots[0, half], work.slots[1, half], batches, begin,
                end, s * (size // 2), size if s else size // 2, model,
            )  # fmt: skip
        if not alone:
            since = meet(meeting, thread, t, since)
        for s in range(thread, until):
            side = sides[s]
            sum_gradients(
                work.grads, s, work.slots[s, half], work.slots[1 - s, half], work.weights[1 - s, half], batches.slopes,
                size, model,
            )  # fmt: skip
            step_rows(
                side.table, width, work.places[s], work.places[s, COUNT, 0], work.grads, s, plan.kind, record.steps, t
            )
            if plan.mode == DENSE:
                for r in range(side.table.shape[0]):
                    if side.row_state[r, LAST] != t:
                        replay_row(side.table, width, r, t - 1, t, plan.kind, record.steps)

        if plan.mode == FOLDED:
            # Gaps that begin before `replay_before` are never folded, so no step is added to those starts.
            live = max(oldest, plan.replay_before)
            oldest = add_step(folds, t, min(live, t), plan.points, record.exact[t])
            if t == plan.replay_before:  # later gaps are folded, so every gap that began earlier must end here
                for s in range(thread, until):
                    side = sides[s]
                    catch_up_all(
                        side, width, t, oldest, plan, record, thread, False, 0, side.table.shape[0], work.places[s],
                        work.wide[s], work.factors[s],
                    )  # fmt: skip
        if not alone and separates_after(meeting, t):
            since = meet(meeting, thread, t, since)
            if thread == 1:
                restore(before)
                return
            alone = True

    if alone and not close_door(meeting):
        let_in(meeting, last + 1)
        alone = False
    if not alone:
        meet(meeting, thread, last, since)
    for side in sides:  # the next epoch counts steps from 1 again; each thread has half of the rows
        rows = side.table.shape[0]
        begin = rows // 2 * thread
        end = rows if alone else begin + rows // 2 + rows % 2 * thread
        if plan.mode == DENSE:
            side.row_state[begin:end, LAST] = 0
        else:
            catch_up_all(
                side, width, last, oldest, plan, record, thread, True, begin, end, work.places[thread],
                work.wide[thread], work.factors[thread],
            )  # fmt: skip
    if not alone:
        meet(meeting, thread, last, since)
    if thread == 0:
        progress[DONE] += last
        if plan.mode == FOLDED:
            progress[PENDING_DECAY] *= folds[KEPT, last]
    restore(before)

"""An epoch, batch by batch, in one thread or two, compiled by Numba. The loops over rows are in `native.py`.

Of two threads each has a table: its rows, their gradients and their steps. A batch's scores need both tables, and are
shared out half and half. So a thread has to wait for the other one twice a step, and no number depends on how many
threads there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..instructions import flush_denormals, restore, ticks
from ..threads import in_threads
from .meeting import asked, close, come, let_in, meet, parting
from .native import (
    BETA1,
    BETA2,
    DENSE,
    KEEP,
    LAST,
    RATE,
    SCALE,
    VIRTUAL,
    add_step,
    catch_up,
    catch_up_all,
    compiled,
    copy_weights,
    enter,
    padded,
    replay_others,
    score,
    scratch,
    step_rows,
    sum_gradients,
)  # fmt: skip


def shared(size: int, table: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What both threads read of a batch of `size` ratings: slots and weights [table, half, …], and slopes.

    A half is for every other batch: one thread may still read it when the other one begins with the next batch.
    """
    weights = np.empty((2, 2, size, padded(width)), table.dtype)
    return np.empty((2, 2, size), np.int64), weights, np.empty(size, table.dtype)


@compiled
def _room(size: int, table: Any, width: int) -> Any:
    """What the rows of a batch of `size` ratings are worked on in: rows, starts, fresh, gradients, and scratch."""
    return (
        np.empty(size + 1, np.int64),
        np.empty(size + 1, np.int64),
        np.empty(size + 1, np.bool_),
        np.zeros((size, padded(width)), table.dtype),
        scratch(size, table),
    )


@compiled
def _read(
    table: Any, account: Any, ids: Any, order: Any, begin: int, end: int, slots: Any, weights: Any, t: int, width: int,
    room: Any, plan: Any, constants: Any, folds: Any,
) -> int:  # fmt: skip
    """Bring the rows of a batch up to date, and copy their weights; returns how many there are."""
    rows, starts, fresh, _, work = room
    n = enter(ids, order, begin, end, account, t, slots, rows, starts, fresh)
    if plan[1] != DENSE:
        catch_up(table, width, rows, starts, fresh, n, t - 1, plan, constants, folds, work)
    copy_weights(table, rows, n, weights)
    return n


@compiled
def _step(
    table: Any, account: Any, slots: Any, other_slots: Any, other_weights: Any, slopes: Any, size: int, n: int, t: int,
    width: int, room: Any, plan: Any, steps: Any,
) -> None:  # fmt: skip
    """Sum the gradients of a batch's `n` rows, and step them."""
    rows, _, _, grads, _ = room
    sum_gradients(grads, slots, other_slots, other_weights, slopes, size, width - 1)
    step_rows(table, width, rows, n, grads, plan[0], steps[t])
    if plan[1] == DENSE:
        replay_others(table, width, account, t, plan[0], steps)


@compiled
def _end(
    table: Any, account: Any, first: int, end: int, batches: int, width: int, plan: Any, constants: Any, folds: Any
) -> None:
    """Let the rows first … end − 1 end the epoch; steps count from 1 again."""
    if plan[1] == DENSE:
        account[first:end, LAST] = 0
    else:
        catch_up_all(table, width, account, batches, plan, constants, folds, True, first, end)


@compiled
def _take_part(
    meeting: Any, tables: Any, accounts: Any, ids: Any, ratings: Any, order: Any, batch_size: int, plan: Any,
    constants: Any, folds: Any, own_folds: Any, model: Any, user_room: Any, item_room: Any, slots: Any, weights: Any,
    slopes: Any, losses: Any,
) -> None:  # fmt: skip
    """The first thread that comes goes through all batches, alone until another one comes."""
    thread, first = come(meeting)
    if first == 0:
        return
    before = flush_denormals()
    alone = thread == 0
    if thread == 1:
        own_folds[:] = folds  # both add every step to their own
        folds = own_folds
    user_table, item_table = tables
    user_account, item_account = accounts
    users, items = ids
    mode, replay_before, window = plan[1], plan[2], plan[3]
    steps, exact = constants[0], constants[1]
    n, width, batches = order.shape[0], model[0] + 1, losses.shape[1]
    n_users, n_items = 0, 0
    since = ticks()

    for t in range(first, batches + 1):
        if alone and asked(meeting):
            let_in(meeting, t)
            alone = False
        of_users, of_items = thread == 0, alone or thread == 1
        begin = (t - 1) * batch_size
        end = min(begin + batch_size, n)
        size = end - begin
        half = t % 2 if not alone else 0
        user_slots, item_slots = slots[0, half], slots[1, half]
        user_weights, item_weights = weights[0, half], weights[1, half]

        if of_users:
            n_users = _read(
                user_table, user_account, users, order, begin, end, user_slots, user_weights, t, width, user_room,
                plan, constants, folds,
            )  # fmt: skip
        if of_items:
            n_items = _read(
                item_table, item_account, items, order, begin, end, item_slots, item_weights, t, width, item_room,
                plan, constants, folds,
            )  # fmt: skip
        if not alone:
            since = meet(meeting, thread, t, since)
        if of_users:
            losses[0, t - 1] = score(
                user_weights, item_weights, user_slots, item_slots, ratings, order, begin, end, 0, size // 2, model,
                slopes,
            )  # fmt: skip
        if of_items:
            losses[1, t - 1] = score(
                user_weights, item_weights, user_slots, item_slots, ratings, order, begin, end, size // 2, size, model,
                slopes,
            )  # fmt: skip
        if not alone:
            since = meet(meeting, thread, t, since)
        if of_users:
            _step(
                user_table, user_account, user_slots, item_slots, item_weights, slopes, size, n_users, t, width,
                user_room, plan, steps,
            )  # fmt: skip
        if of_items:
            _step(
                item_table, item_account, item_slots, user_slots, user_weights, slopes, size, n_items, t, width,
                item_room, plan, steps,
            )  # fmt: skip

        if mode == VIRTUAL:
            c = exact[t]
            known = max(replay_before, t - window)
            add_step(folds, t, known, c[BETA1], c[BETA2], c[KEEP], c[RATE], 1 / (c[SCALE] * c[SCALE]))
            if t == replay_before:  # no gap that starts later is replayed, so none may start earlier
                if of_users:
                    catch_up_all(
                        user_table, width, user_account, t, plan, constants, folds, False, 0, user_table.shape[0]
                    )  # fmt: skip
                if of_items:
                    catch_up_all(
                        item_table, width, item_account, t, plan, constants, folds, False, 0, item_table.shape[0]
                    )  # fmt: skip
        if not alone and parting(meeting, t):
            since = meet(meeting, thread, t, since)
            if thread == 1:
                restore(before)
                return
            alone = True

    if alone and not close(meeting):
        let_in(meeting, batches + 1)
        alone = False
    if not alone:
        meet(meeting, thread, batches, since)
    for table, account in ((user_table, user_account), (item_table, item_account)):
        rows = table.shape[0]
        if thread == 0:
            _end(table, account, 0, rows // 2, batches, width, plan, constants, folds)
        if alone or thread == 1:
            _end(table, account, rows // 2, rows, batches, width, plan, constants, folds)
    if not alone:
        meet(meeting, thread, batches, since)
    restore(before)


@compiled
def epoch(
    threads: int, meeting: Any, tables: Any, accounts: Any, ids: Any, ratings: Any, order: Any, batch_size: int,
    plan: Any, constants: Any, folds: Any, model: Any, slots: Any, weights: Any, slopes: Any, losses: Any,
) -> None:  # fmt: skip
    """Every batch of an epoch, and the steps missed at its end.

    Args:
        threads: 1 or 2.
        meeting: of the two; see `meeting`.
        tables: of users and items; see `native`.
        accounts: theirs.
        ids: of users and items, int64[ratings].
        ratings: of the tables' dtype.
        order: int64[n], ratings.
        batch_size: of them a step.
        plan: the kind of step, the mode, the step before which missed ones are replayed, the steps for which they have
            to be known afterwards, and what rows that no batch has read are owed.
        constants: of each step in the tables' dtype and in float64, powers of β2, eps, and int64 0 …, as many as steps.
        folds: see `native.add_step`.
        model: the number of factors; whether there is a range, its low end and its width.
        slots: see `shared`.
        weights: as well.
        slopes: as well.
        losses: float64[2, steps]; their sum gets the mean squared error of each batch before its step.
    """
    size, width = slopes.shape[0], model[0] + 1
    # Here, where a lack of memory is an error before anybody waits for anybody.
    user_room, item_room = _room(size, tables[0], width), _room(size, tables[1], width)
    in_threads(
        threads, _take_part,
        (meeting, tables, accounts, ids, ratings, order, batch_size, plan, constants, folds, folds.copy(), model,
         user_room, item_room, slots, weights, slopes, losses),
    )  # fmt: skip

"""Whole epochs of embedding-dot-bias under Adam or AdamW in native code: gather, score, loss, gradient, step.

A training step of the lesson's model is small (64 ratings, 108 thousand parameters), so that in eager PyTorch most of
its time is the way from op to op. Here an epoch is one call, with the GIL released.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from .adam.native import step_constants, step_flat
from .dot_bias.native import FASTMATH, score, sigmoid
from .dot_bias.reference import YRange


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers count as zero in this thread: running means that die away are far slower with them."""
    smallest = np.finfo(np.float32).smallest_normal
    flushing = bool(smallest * np.float32(0.5) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushing)


@numba.njit(nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy")
def _epoch(
    tables: Any, grads: Any, means: Any, squares: Any, users: Any, items: Any, ratings: Any, batch_size: int,
    constants: Any, ranged: bool, low: Any, width: Any, losses: Any,
) -> None:  # fmt: skip
    user_weight, item_weight, user_bias, item_bias = tables
    d_user_weight, d_item_weight, d_user_bias, d_item_bias = grads
    n_factors = user_weight.shape[1]
    rows = users.shape[0]
    for batch in range(losses.shape[0]):
        begin = batch * batch_size
        end = min(begin + batch_size, rows)
        factor = type(width)(2) / type(width)(end - begin)
        total = 0.0
        for row in range(begin, end):
            u, i = users[row], items[row]
            user_row, item_row = user_weight[u], item_weight[i]
            x = score(user_row, item_row, user_bias[u], item_bias[i])
            slope = type(width)(1)
            if ranged:
                s, slope = sigmoid(x)
                x = s * width + low
                slope *= width
            error = x - ratings[row]
            total += error * error
            g = factor * error * slope
            d_user_row, d_item_row = d_user_weight[u], d_item_weight[i]
            for k in range(n_factors):
                d_user_row[k] += g * item_row[k]
                d_item_row[k] += g * user_row[k]
            d_user_bias[u] += g
            d_item_bias[i] += g
        losses[batch] = total / (end - begin)
        step_flat(
            user_weight.reshape(-1),
            d_user_weight.reshape(-1),
            means[0].reshape(-1),
            squares[0].reshape(-1),
            constants[batch],
        )
        step_flat(
            item_weight.reshape(-1),
            d_item_weight.reshape(-1),
            means[1].reshape(-1),
            squares[1].reshape(-1),
            constants[batch],
        )
        step_flat(user_bias, d_user_bias, means[2], squares[2], constants[batch])
        step_flat(item_bias, d_item_bias, means[3], squares[3], constants[batch])
        for row in range(begin, end):  # only these rows have a gradient
            u, i = users[row], items[row]
            d_user_weight[u] = 0
            d_item_weight[i] = 0
            d_user_bias[u] = 0
            d_item_bias[i] = 0


def train_epoch(
    tables: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    users: Tensor,
    items: Tensor,
    ratings: Tensor,
    *,
    batch_size: int,
    lr: Sequence[float],
    beta1: Sequence[float],
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool = True,
    first_step: int = 1,
    y_range: YRange = None,
) -> Tensor:
    """Train one epoch on the CPU, in place.

    The arithmetic is that of `embedding_dot_bias`, the mean squared error of each batch, and `adam_step_` on all rows.
    Deterministic: the same inputs give the same bits.

    Args:
        tables: user weights [n_users, n_factors], item weights [n_items, n_factors], user biases [n_users], item
            biases [n_items]; contiguous, float32 or float64.
        exp_avg: Adam's running means, shaped like the tables.
        exp_avg_sq: Adam's running mean squares, likewise.
        users: int64[rows], in the order of training; ids must lie within the tables.
        items: int64[rows], likewise.
        ratings: [rows], of the tables' dtype.
        batch_size: rows a step; the last batch may be smaller.
        lr: learning rate of each step, as many as there are batches.
        beta1: momentum of each step, likewise.
        beta2: decay of the mean square.
        eps: Adam's.
        weight_decay: `wd` of the lesson.
        decoupled: decay as in AdamW; False adds wd·w to the gradient (L2).
        first_step: the number of this epoch's first step, 1 at the start of training.
        y_range: (low, high) of the sigmoid, or None.

    Returns:
        float64[batches], the mean squared error of each batch before its step.

    Raises:
        IndexError: an id outside its table.
        ValueError: a schedule whose length is not the number of batches.
    """
    batches = -(-len(users) // batch_size)
    if len(lr) != batches or len(beta1) != batches:
        raise ValueError(f"{batches} batches need as many rates and momentums, not {len(lr)} and {len(beta1)}")
    for ids, table in ((users, tables[0]), (items, tables[1])):
        low_id, high_id = ids.aminmax()
        if low_id < 0 or high_id >= len(table):
            raise IndexError(f"ids go from {low_id} to {high_id}, the table's rows from 0 to {len(table) - 1}")
    dtype = tables[0].numpy().dtype
    number = dtype.type
    constants = np.array(
        [step_constants(lr[t], beta1[t], beta2, eps, weight_decay, first_step + t, decoupled) for t in range(batches)],
        dtype=dtype,
    )
    losses = torch.empty(batches, dtype=torch.float64)
    low, high = y_range or (0.0, 0.0)

    def arrays(tensors: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
        return tuple(tensor.numpy() for tensor in tensors)

    with flushed_denormals():
        _epoch(
            arrays(tables),
            arrays([torch.zeros_like(table) for table in tables]),
            arrays(exp_avg),
            arrays(exp_avg_sq),
            *arrays([users, items, ratings]),
            batch_size,
            constants,
            y_range is not None,
            number(low),
            number(high - low),
            losses.numpy(),
        )
    return losses

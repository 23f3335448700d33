"""Embedding-dot-bias in plain PyTorch. It defines the result; the other backends are compared with it in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

YRange = tuple[float, float] | None


def check_range(y_range: YRange) -> None:
    """Raise ValueError unless `y_range` is None or two finite numbers, the smaller one first."""
    if y_range is None:
        return
    if len(y_range) != 2 or not all(map(math.isfinite, y_range)) or not y_range[0] < y_range[1]:
        raise ValueError(f"{y_range=}: two finite numbers are needed, the first number must be the smaller one")


def forward(
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
) -> Tensor:
    """u·i + user bias + item bias, then the sigmoid to `y_range` (claim 28)."""
    dot = (user_weight[users] * item_weight[items]).sum(1)
    out = dot + user_bias[users] + item_bias[items]
    if y_range is None:
        return out
    low, high = y_range
    return torch.sigmoid(out) * (high - low) + low


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over tables of `dtype`: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def loss(
    users: Tensor,
    items: Tensor,
    ratings: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
) -> Tensor:
    """The mean squared error of the scores, in the tables' arithmetic."""
    dtype = arithmetic(user_weight.dtype)
    tables = user_weight.to(dtype), item_weight.to(dtype), user_bias.to(dtype), item_bias.to(dtype)
    return (forward(users, items, *tables, y_range) - ratings.to(dtype)).square().mean()


def loss_and_gradients(
    users: Tensor,
    items: Tensor,
    ratings: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The mean squared error and its dense gradients for the four tables, all in the tables' arithmetic."""
    dtype = arithmetic(user_weight.dtype)
    tables = user_weight.to(dtype), item_weight.to(dtype), user_bias.to(dtype), item_bias.to(dtype)
    error = forward(users, items, *tables, y_range) - ratings.to(dtype)
    gradients = backward(error * (2 / max(1, len(error))), users, items, *tables, y_range)
    return error.square().mean(), *gradients


def backward(
    grad: Tensor,
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Dense gradients for the four tables; the rows of repeated ids add up (claim 25).

    Sums are in the tables' arithmetic, and rounded to the tables' dtype once: a sum of ones in bfloat16 stops at 256.
    """
    dtype = arithmetic(user_weight.dtype)
    user_rows, item_rows = user_weight[users].to(dtype), item_weight[items].to(dtype)
    grad = grad.to(dtype)
    if y_range is not None:
        low, high = y_range
        out = (user_rows * item_rows).sum(1) + user_bias[users].to(dtype) + item_bias[items].to(dtype)
        # σ(x)·σ(−x) is σ(x)·(1 − σ(x)) without its cancellation where the sigmoid saturates.
        grad = grad * (high - low) * torch.sigmoid(out) * torch.sigmoid(-out)
    return (
        _added_up(user_weight, users, grad[:, None] * item_rows),
        _added_up(item_weight, items, grad[:, None] * user_rows),
        _added_up(user_bias, users, grad),
        _added_up(item_bias, items, grad),
    )


def _added_up(table: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """Sums of `rows` by id, like a table; contiguous, as the compiler is told, though a table may not be."""
    zeros = torch.zeros_like(table, dtype=rows.dtype, memory_format=torch.contiguous_format)
    return zeros.index_add_(0, ids, rows).to(table.dtype)

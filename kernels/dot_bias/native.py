"""Embedding-dot-bias for a CPU, compiled by Numba, without arrays of looked-up rows or of their gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..native import compiled, inlined, llvm_inlined, rounded
from .reference import YRange


@llvm_inlined
def score(user_row: Any, item_row: Any, user_bias: Any, item_bias: Any) -> Any:
    """u·i + both biases, for one pair."""
    total = user_bias + item_bias
    for k in range(user_row.shape[0]):
        total += user_row[k] * item_row[k]
    return total


@rounded
def sigmoid(x: Any) -> Any:
    """The sigmoid σ(x) and its slope σ(x)·σ(−x), of x's type, without cancellation or overflow."""
    one = type(x)(1)
    small = type(x)(math.exp(-abs(x)))
    large = one / (one + small)
    small *= large
    return (large if x >= 0 else small), large * small


@compiled
def _forward(
    users: Any, items: Any, user_weight: Any, item_weight: Any, user_bias: Any, item_bias: Any, ranged: bool,
    low: Any, width: Any, out: Any,
) -> None:  # fmt: skip
    for b in range(users.shape[0]):
        u, i = users[b], items[b]
        x = score(user_weight[u], item_weight[i], user_bias[u], item_bias[i])
        out[b] = sigmoid(x)[0] * width + low if ranged else x


@inlined
def _add(g: Any, user_row: Any, item_row: Any, d_user_row: Any, d_item_row: Any) -> None:
    for k in range(user_row.shape[0]):
        d_user_row[k] += g * item_row[k]
        d_item_row[k] += g * user_row[k]


@compiled
def _backward(
    grad: Any, users: Any, items: Any, user_weight: Any, item_weight: Any, user_bias: Any, item_bias: Any,
    ranged: bool, width: Any, d_user_weight: Any, d_item_weight: Any, d_user_bias: Any, d_item_bias: Any,
) -> None:  # fmt: skip
    for b in range(users.shape[0]):
        u, i = users[b], items[b]
        user_row, item_row = user_weight[u], item_weight[i]
        g = grad[b]
        if ranged:
            g *= width * sigmoid(score(user_row, item_row, user_bias[u], item_bias[i]))[1]
        _add(g, user_row, item_row, d_user_weight[u], d_item_weight[i])
        d_user_bias[u] += g
        d_item_bias[i] += g


@inlined
def _error(x: Any, rating: Any, ranged: bool, low: Any, width: Any) -> Any:
    """For x, a score before the sigmoid: the error of the score, and the slope of the sigmoid there."""
    slope = type(x)(1)
    if ranged:
        s, steepness = sigmoid(x)
        x = s * width + low
        slope = width * steepness
    return x - rating, slope


@compiled
def _loss(
    users: Any, items: Any, ratings: Any, user_weight: Any, item_weight: Any, user_bias: Any, item_bias: Any,
    ranged: bool, low: Any, width: Any,
) -> float:  # fmt: skip
    total = 0.0
    for b in range(users.shape[0]):
        u, i = users[b], items[b]
        x = score(user_weight[u], item_weight[i], user_bias[u], item_bias[i])
        error, _ = _error(x, ratings[b], ranged, low, width)
        total += error * error
    return total / users.shape[0]


@compiled
def _loss_and_gradients(
    users: Any, items: Any, ratings: Any, user_weight: Any, item_weight: Any, user_bias: Any, item_bias: Any,
    ranged: bool, low: Any, width: Any, factor: Any,
    d_user_weight: Any, d_item_weight: Any, d_user_bias: Any, d_item_bias: Any,
) -> float:  # fmt: skip
    total = 0.0
    for b in range(users.shape[0]):
        u, i = users[b], items[b]
        user_row, item_row = user_weight[u], item_weight[i]
        x = score(user_row, item_row, user_bias[u], item_bias[i])
        error, slope = _error(x, ratings[b], ranged, low, width)
        total += error * error
        g = factor * error * slope
        _add(g, user_row, item_row, d_user_weight[u], d_item_weight[i])
        d_user_bias[u] += g
        d_item_bias[i] += g
    return total / users.shape[0]


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _zeros(*tables: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(table.shape, dtype=table.dtype) for table in tables)


def forward(
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
) -> Tensor:
    """As `reference.forward`."""
    out = torch.empty(len(users), dtype=user_weight.dtype)
    arrays = _arrays(users, items, user_weight, item_weight, user_bias, item_bias)
    low, high = y_range or (0.0, 0.0)
    number = out.numpy().dtype.type
    _forward(*arrays, y_range is not None, number(low), number(high - low), out.numpy())
    return out


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
    """As `reference.loss`."""
    arrays = _arrays(users, items, ratings.to(user_weight.dtype), user_weight, item_weight, user_bias, item_bias)
    low, high = y_range or (0.0, 0.0)
    number = arrays[3].dtype.type
    mean = _loss(*arrays, y_range is not None, number(low), number(high - low))
    return torch.tensor(mean, dtype=user_weight.dtype)


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
    """As `reference.loss_and_gradients`."""
    gradients = _zeros(user_weight, item_weight, user_bias, item_bias)
    arrays = _arrays(users, items, ratings.to(user_weight.dtype), user_weight, item_weight, user_bias, item_bias)
    low, high = y_range or (0.0, 0.0)
    number = arrays[3].dtype.type
    constants = number(low), number(high - low), number(2 / max(1, len(users)))
    mean = _loss_and_gradients(*arrays, y_range is not None, *constants, *_arrays(*gradients))
    return torch.tensor(mean, dtype=user_weight.dtype), *gradients  # type: ignore[return-value]


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
    """As `reference.backward`."""
    gradients = _zeros(user_weight, item_weight, user_bias, item_bias)
    arrays = _arrays(grad, users, items, user_weight, item_weight, user_bias, item_bias)
    low, high = y_range or (0.0, 0.0)
    _backward(*arrays, y_range is not None, arrays[0].dtype.type(high - low), *_arrays(*gradients))
    return gradients  # type: ignore[return-value]

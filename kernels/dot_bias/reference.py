"""Embedding-dot-bias in plain PyTorch: the definition. In float64 it judges every other implementation."""

from __future__ import annotations

import torch
from torch import Tensor

YRange = tuple[float, float] | None


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
    """Dense gradients of the four tables; the rows of repeated ids add up (claim 25)."""
    user_rows, item_rows = user_weight[users], item_weight[items]
    if y_range is not None:
        low, high = y_range
        out = (user_rows * item_rows).sum(1) + user_bias[users] + item_bias[items]
        # σ(x)·σ(−x) is σ(x)·(1 − σ(x)) without its cancellation where the sigmoid saturates.
        grad = grad * (high - low) * torch.sigmoid(out) * torch.sigmoid(-out)
    return (
        torch.zeros_like(user_weight).index_add_(0, users, grad[:, None] * item_rows),
        torch.zeros_like(item_weight).index_add_(0, items, grad[:, None] * user_rows),
        torch.zeros_like(user_bias).index_add_(0, users, grad),
        torch.zeros_like(item_bias).index_add_(0, items, grad),
    )

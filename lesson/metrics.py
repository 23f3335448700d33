"""Metrics: functions of predictions and target that return a number."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss


def accuracy(out: Tensor, target: Tensor) -> Tensor:
    """The share of rows whose largest output is the target's.

    Args:
        out: [rows, classes].
        target: int64[rows].

    >>> import torch
    >>> accuracy(torch.tensor([[0.1, 2.0], [3.0, 1.0]]), torch.tensor([1, 1])).item()
    0.5
    """
    return (out.argmax(1) == target).float().mean()


def rmse(out: Tensor, target: Tensor) -> Tensor:
    """The root of the mean squared error of predictions [rows]."""
    return mse_loss(out, target).sqrt()

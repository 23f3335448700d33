"""The lesson's nets for digits, from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """x @ Wᵀ + b, initialized as torch's: uniform between ±1/√n_in (claim 61).

    Args:
        n_in: width of x.
        n_out: width of the result.

    >>> Linear(784, 10)(torch.zeros(64, 784)).shape
    torch.Size([64, 10])
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n_out, n_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """[…, n_out] of x […, n_in]."""
        return x @ self.weight.T + self.bias


class Mnist_Logistic(nn.Module):  # noqa: N801 - the lesson's name
    """Logistic regression of ten digits on 784 pixels (claim 60)."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = Linear(784, 10)

    def forward(self, xb: Tensor) -> Tensor:
        """Scores [rows, 10] of xb float32[rows, 784]; their softmax is in the loss (claim 84)."""
        return self.lin(xb)


class Mnist_NN(nn.Module):  # noqa: N801 - the lesson's name
    """A hidden layer of 50 between the pixels and the digits (claim 65).

    Args:
        activation: between the layers; element by element (claims 5, 6).
    """

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.lin1, self.lin2 = Linear(784, 50), Linear(50, 10)
        self.activation = activation

    def forward(self, xb: Tensor) -> Tensor:
        """Scores [rows, 10] of xb float32[rows, 784]."""
        return self.lin2(self.activation(self.lin1(xb)))

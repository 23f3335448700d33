"""Data that every run makes itself: random ids and tables, functions of one variable."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from lesson import checks
from lesson.checks import DataError, shown
from lesson.data.bunch import DataBunch
from lesson.data.origin import Origin

# On [−1, 1] each has mean 0 and mean square 1, so a mean squared error is the share of the variance that is left.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "smooth": lambda x: math.sqrt(2) * (math.pi * x).sin(),
    "kinked": lambda x: math.sqrt(12) * (x.abs() - 0.5),
    "jump": lambda x: torch.where(x < 0, -1.0, 1.0),
}


class Made:
    """Nothing to read: each run draws the data from its seed."""

    origin = Origin("data made by each run", "made")

    def learnable(self, seeds: int) -> list[str]:  # noqa: ARG002 - as other data have it
        """Notes before the first run: none."""
        return []


class Curves(Made):
    """Functions of one variable on [−1, 1]: smooth, kinked, and with a jump, which is not continuous (claim 7)."""

    origin = Origin("functions of one variable", "made-1d", {"functions": len(FUNCTIONS)}, key="made-1d")

    def split(self, seed: int = 42, function: str = "smooth", n: int = 1000) -> DataBunch:
        """Points of a function without noise: x and y float32[n, 1], as many for training as for validation.

        Args:
            seed: of the points, which are uniform on [−1, 1].
            function: one of `FUNCTIONS`.
            n: the number of training points.

        Raises:
            DataError: an argument is wrong.

        >>> x, y = Curves().split(seed=0, function="kinked", n=100).train[:]
        >>> x.shape, y.shape
        (torch.Size([100, 1]), torch.Size([100, 1]))
        """
        n, drawn = checks.whole("n", n, least=1), torch.Generator().manual_seed(checks.whole("seed", seed))
        if function not in FUNCTIONS:
            raise DataError(f"function={shown(function)}: there are {', '.join(FUNCTIONS)}")
        train, valid = torch.rand(2, n, 1, generator=drawn).mul(2).sub(1)
        curve = FUNCTIONS[function]
        return DataBunch(TensorDataset(train, curve(train)), TensorDataset(valid, curve(valid)))

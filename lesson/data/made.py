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

Curve = Callable[[Tensor], Tensor]


def smooth(drawn: torch.Generator) -> Curve:
    """A sum of three waves, with one to three periods on [−1, 1]."""
    heights, shifts = torch.randn(3, generator=drawn), torch.rand(3, generator=drawn) * 2 * math.pi
    periods = torch.arange(1, 4)
    return lambda x: (torch.sin(math.pi * x[..., None] * periods + shifts) * heights).sum(-1)


def kinked(drawn: torch.Generator) -> Curve:
    """Straight lines between six points."""
    at, heights = _places(4, drawn), torch.randn(6, generator=drawn)
    at = torch.cat([torch.tensor([-1.0]), at, torch.tensor([1.0])])
    slopes = heights.diff() / at.diff()

    def curve(x: Tensor) -> Tensor:
        part = torch.bucketize(x, at[1:-1].to(x.dtype))
        return heights[part] + (x - at[part]) * slopes[part]

    return curve


def jump(drawn: torch.Generator) -> Curve:
    """Four constants, with a jump from each to the next."""
    at, heights = _places(3, drawn), torch.randn(4, generator=drawn)
    return lambda x: heights[torch.bucketize(x, at.to(x.dtype))]


def _places(count: int, drawn: torch.Generator) -> Tensor:
    """Places in (−1, 1) in order, one in each of `count` equal parts, off its ends."""
    part = 2 / count
    return -1 + part * (torch.arange(count) + 0.1 + 0.8 * torch.rand(count, generator=drawn))


FUNCTIONS: dict[str, Callable[[torch.Generator], Curve]] = {"smooth": smooth, "kinked": kinked, "jump": jump}


class Made:
    """Nothing to read: each run draws the data from its seed."""

    origin = Origin("data made by each run", "made")

    def learnable(self, seeds: int) -> list[str]:  # noqa: ARG002 - as other data have it
        """Notes before the first run: none."""
        return []


class Curves(Made):
    """Random functions of one variable on [−1, 1]: smooth, kinked, and with jumps, so not continuous (claim 7)."""

    origin = Origin("functions of one variable", "made-1d", {"kinds of functions": len(FUNCTIONS)}, key="made-1d")

    def split(self, seed: int = 42, function: str = "smooth", n: int = 1000) -> DataBunch:
        """Points of a function without noise: x and y float32[n, 1], as many for training as for validation.

        The function has mean 0 and mean square 1 on [−1, 1], so a mean squared error is the share of the variance that
        is left.

        Args:
            seed: of the function and of the points, which are uniform on [−1, 1].
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
        curve = FUNCTIONS[function](drawn)
        everywhere = curve(torch.linspace(-1, 1, 10_001))
        mean, spread = everywhere.mean(), everywhere.std(correction=0)
        points = torch.rand(2, n, 1, generator=drawn).mul(2).sub(1)
        train, valid = (TensorDataset(x, (curve(x) - mean) / spread) for x in points)
        return DataBunch(train, valid)

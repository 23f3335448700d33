"""Data that every run makes itself: random ids and tables, functions of one variable, ratings from planted factors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from lesson import checks
from lesson.checks import DataError, shown
from lesson.data.bunch import DataBunch
from lesson.data.collab import CollabData, split
from lesson.data.origin import Origin
from lesson.data.ratings import Ratings

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
        n, drawn = checks.whole("n", n, least=1), torch.Generator().manual_seed(checks.seed(seed))
        if function not in FUNCTIONS:
            raise DataError(f"function={shown(function)}: there are {', '.join(FUNCTIONS)}")
        curve = FUNCTIONS[function](drawn)
        everywhere = curve(torch.linspace(-1, 1, 10_001))
        mean, spread = everywhere.mean(), everywhere.std(correction=0)
        points = torch.rand(2, n, 1, generator=drawn).mul(2).sub(1)
        train, valid = (TensorDataset(x, (curve(x) - mean) / spread) for x in points)
        return DataBunch(train, valid)


class Planted(NamedTuple):
    """Ratings, and the factors that they were drawn from: float64[users, rank] and float64[items, rank]."""

    data: CollabData
    users: np.ndarray
    items: np.ndarray


class PlantedRatings(Made):
    """Ratings drawn from factors and biases that the caller gets to see (claim 29)."""

    N_USERS, N_ITEMS, SHARE = 600, 400, 0.15  # SHARE of all pairs are rated
    origin = Origin("ratings from planted factors", "made-ratings", key="made-ratings")

    def draw(self, seed: int = 42, rank: int = 4, signal: float = 1.0, noise: float = 0.5) -> Planted:
        """Ratings that are 3 + biases + signal · (user's factors · item's factors) + noise, split as others are.

        Factors, biases and noise are normal; products of factors have a standard deviation of 1, biases of .5.

        Args:
            seed: of everything, and of the split.
            rank: the number of factors.
            signal: 0 leaves factors that the ratings know nothing of.
            noise: the standard deviation of what nothing explains.

        Raises:
            DataError: an argument is wrong.

        >>> data, users, items = PlantedRatings().draw(seed=0)
        >>> len(data.train), len(data.valid), users.shape, items.shape
        (32400, 3600, (600, 4), (400, 4))
        """
        rank, seed = checks.whole("rank", rank, least=1), checks.whole("seed", seed)
        signal, noise = checks.number("signal", signal, least=0), checks.number("noise", noise, least=0)
        drawn = np.random.default_rng(seed)
        users, items = (drawn.normal(size=(n, rank)) / rank**0.25 for n in (self.N_USERS, self.N_ITEMS))
        biases = [drawn.normal(scale=0.5, size=n) for n in (self.N_USERS, self.N_ITEMS)]
        pairs = drawn.permutation(self.N_USERS * self.N_ITEMS)[: round(self.SHARE * self.N_USERS * self.N_ITEMS)]
        user, item = np.divmod(pairs, self.N_ITEMS)
        stars = 3 + biases[0][user] + biases[1][item] + signal * (users[user] * items[item]).sum(1)
        stars += drawn.normal(scale=noise, size=len(pairs))
        rating = stars.astype(np.float32)
        low, high = float(rating.min()), float(rating.max())
        margin = (high - low) / 8
        ratings = Ratings(
            user,
            item,
            rating,
            np.arange(self.N_USERS),
            np.arange(self.N_ITEMS),
            self.origin.name,
            self.origin.checksum,
            repeated=0,
            y_range=(low - margin, high + margin),
        )
        return Planted(split(ratings, seed=seed), users, items)

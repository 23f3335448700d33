"""Folding in: the factors and the bias of a user whom training never saw, from a few ratings, without retraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lesson.data import CollabData

if TYPE_CHECKING:
    from lesson.models import EmbeddingDotBias

STEPS, EPS = 50, 1e-6  # of Gauss-Newton; it usually takes five to ten steps, to an accuracy of EPS
SAMPLE = 1024  # users and ratings of the training that the prior comes from: its deviations are known to 3 %


@dataclass(frozen=True, eq=False)
class FoldedUser:
    """A user whom training never saw; made by `CollabLearner.fold_in`.

    Attributes:
        weight: latent factors float[n_factors].
        bias: the user's bias.
        seen: rows of the items that the user has rated, int64[ratings].
        model: the model that it was folded into.
    """

    weight: Tensor
    bias: float
    seen: Tensor
    model: EmbeddingDotBias

    def __repr__(self) -> str:
        return f"<a user with {len(self.seen):,} ratings, folded in: bias {self.bias:.3f}>"


def prior(model: EmbeddingDotBias, data: CollabData) -> tuple[np.ndarray, np.ndarray, float]:
    """What training says about a user before the first rating: its users as a normal distribution, and its error.

    Returns:
        The mean [n_factors + 1] of the users' factors and bias, a square root [n_factors + 1, n_factors + 1] of their
        covariance, and the root of the mean squared error on the training's ratings. Larger tables give 1,024 evenly
        spaced users and ratings.
    """
    weight, _, bias, _ = model.tables()
    users = _spaced(1, len(weight)).to(weight.device)
    rows = torch.cat([weight[users], bias[users, None]], 1).detach().cpu().double().numpy()
    mean = rows.mean(0)
    variances, directions = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    root = directions * np.sqrt(variances.clip(min=0))
    model.eval()
    *pairs, ratings = data.train[_spaced(0, len(data.train))]
    with torch.no_grad():
        errors = ratings - model(*(column.to(weight.device) for column in pairs)).cpu()
    return mean, root, errors.double().square().mean().sqrt().item()


def _spaced(first: int, end: int) -> Tensor:
    """Rows from `first` to before `end`, or some of them, evenly spaced."""
    return torch.linspace(first, end - 1, min(SAMPLE, end - first), dtype=torch.float64).round().long()


def most_likely(model: EmbeddingDotBias, data: CollabData, items: Tensor, ratings: np.ndarray) -> tuple[Tensor, float]:
    """The factors [n_factors] and the bias that minimize the objective of `CollabLearner.fold_in`.

    Args:
        model: trained.
        data: its data.
        items: rows of the rated items, int64[n].
        ratings: float64[n].
    """
    mean, root, error = prior(model, data)
    _, weight, _, bias = (table.detach() for table in model.tables())
    rated = items.to(weight.device)
    factors = weight[rated].cpu().double().numpy()
    known = np.column_stack([factors, np.ones(len(factors))])  # the user's bias counts once
    # The unknowns q have u = μ + root·q: the penalty is σ²·q², even if the covariance has no inverse.
    start, slopes = known @ mean + bias[rated].cpu().double().numpy(), known @ root
    lowest, highest = data.ratings.ends
    # Above 0, so that the equations have one solution, and by the ratings' scale, so that units do not matter.
    penalty = max(error**2, EPS * ((highest - lowest) ** 2 or 1))

    def predicted(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ratings, and how fast they grow with the score."""
        score = start + slopes @ q
        if model.y_range is None:
            return score, np.ones_like(score)
        low, high = model.y_range
        share = (1 + np.tanh(score / 2)) / 2  # the sigmoid, which cannot overflow so
        return low + (high - low) * share, (high - low) * share * (1 - share)

    def objective(q: np.ndarray) -> float:
        return float(((ratings - predicted(q)[0]) ** 2).sum() + penalty * (q**2).sum())

    q = np.zeros(len(mean))
    for _ in range(STEPS):
        rating, growth = predicted(q)
        jacobian = growth[:, None] * slopes
        step = np.linalg.solve(
            jacobian.T @ jacobian + penalty * np.eye(len(q)), jacobian.T @ (ratings - rating) - penalty * q
        )
        before = objective(q)
        while objective(q + step) > before and np.abs(step).max() > EPS:
            step /= 2
        q = q + step
        if np.abs(step).max() <= EPS:
            break
    user = torch.from_numpy(mean + root @ q)
    return user[:-1].to(weight.dtype), user[-1].to(weight.dtype).item()

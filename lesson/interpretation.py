"""Looking into a trained model: principal components, nearest items, and one prediction taken apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lesson import checks
from lesson.checks import DataError, shown
from lesson.models import sigmoid_range

if TYPE_CHECKING:
    import pandas as pd


def pca(x: Tensor, k: int = 2) -> Tensor:
    """The first `k` principal components of rows, float[rows, k], the largest variance first (claim 42).

    They are fastai's, with one addition. A singular value decomposition leaves each component's sign open; here the
    column that weighs most in a component has a positive weight, so equal rows give equal components.

    Args:
        x: float[rows, columns].
        k: how many components, at most as many as there are rows or columns.

    Raises:
        DataError: `x` is not such a table of finite numbers, or `k` is too large.

    >>> pca(torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.5]]), 1).T
    tensor([[-1.,  1.,  0.]])
    """
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point() or not x.isfinite().all():
        raise DataError(f"x={shown(x)}: a table [rows, columns] of finite numbers is needed")
    if checks.whole("k", k, least=1) > min(x.shape):
        raise DataError(f"k={shown(k)}: {x.shape[0]} rows of {x.shape[1]} numbers have {min(x.shape)} components")
    centered = x.detach().double() - x.detach().double().mean(0)
    directions = torch.linalg.svd(centered, full_matrices=False).Vh[: int(k)]
    heaviest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (centered @ (directions * heaviest.sign()).T).to(x.dtype)


class Factors(Tensor):
    """Latent factors float32[rows, n_factors]: a tensor that also has `pca`, as in the notes.

    Whatever is calculated from it is an ordinary tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def pca(self, k: int = 2) -> Tensor:
        """The first `k` principal components of the rows; see `lesson.interpretation.pca`."""
        return pca(self.as_subclass(Tensor), k)


def widened(x: Tensor) -> Tensor:
    """Numbers of bfloat16 as float32, since NumPy has no bfloat16; others as they are."""
    return x.float() if x.dtype is torch.bfloat16 else x


def cosines(weights: Tensor, row: int) -> Tensor:
    """The cosine of the angle between one row of factors and every row, float[rows]; 0 where a row has no length.

    Args:
        weights: float[rows, n_factors].
        row: the row.
    """
    lengths = weights.norm(dim=1)
    both = lengths * lengths[row]
    return torch.where(both == 0, 0, weights @ weights[row] / both)


def taken_apart(
    dot: float, user_bias: float, item_bias: float, y_range: tuple[float, float] | None, prediction: float
) -> pd.DataFrame:
    """A prediction's parts: each one's share of the score, and by how much it moves the rating.

    The item's bias is taken first, then the user's, then the dot product: the sigmoid is no straight line, so how far a
    part moves the rating depends on the parts before it.

    Args:
        dot: the dot product of the user's and the item's factors.
        user_bias: the user's bias.
        item_bias: the item's bias.
        y_range: of the sigmoid.
        prediction: the predicted rating.

    Returns:
        Columns score and rating by part; in both, the last row, "prediction", is the sum of the others.
    """
    import pandas as pd  # pandas takes half a second to import, only needed here

    parts = {"item bias": item_bias, "user bias": user_bias, "dot product": dot}
    if y_range is not None:
        parts = {f"middle of {y_range[0]:g} to {y_range[1]:g}": 0.0, **parts}
    scores = pd.Series(parts, dtype="float64")
    # In float32, as the prediction is: then their differences are exact in float64, and add up to it.
    levels = torch.tensor(scores.cumsum().tolist())
    ratings = [0.0, *(levels if y_range is None else sigmoid_range(levels, *y_range)).tolist()[:-1], prediction]
    table = pd.DataFrame({"score": scores, "rating": pd.Series(ratings).diff()[1:].tolist()})
    table.loc["prediction"] = [scores.sum(), prediction]
    return table.rename_axis("part")

"""Plots for notebooks. Only this module imports seaborn and matplotlib, and others import it when they plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from torch import Tensor

from lesson.lr_find import smoothed

if TYPE_CHECKING:
    from lesson.learner import Recorder


def _axes(columns: int = 1) -> np.ndarray:
    """Empty axes in a row, in seaborn's style, [columns]."""
    with sns.axes_style("whitegrid"):
        _, axes = plt.subplots(1, columns, figsize=(6 * columns, 4), squeeze=False, layout="constrained")
    row: np.ndarray = axes[0]
    return row


def _line(axes: Axes, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, **how: Any) -> None:
    sns.lineplot(x=x, y=y, ax=axes, estimator=None, **how)  # without an estimator, no band of errors


def losses(recorder: Recorder) -> Axes:
    """The loss of every batch, its running average, and the validation loss after every epoch."""
    axes: Axes = _axes()[0]
    steps = np.arange(1, len(recorder.losses) + 1)
    _line(axes, steps, recorder.losses, color="C0", alpha=0.3, linewidth=0.8, label="each batch")
    _line(axes, steps, smoothed(np.array(recorder.losses)), color="C0", label="training, smooth")
    _line(axes, recorder.epoch_ends, recorder.val_losses, color="C1", marker="o", label="validation")
    axes.set(xlabel="batches", ylabel="loss")
    return axes


def rates(recorder: Recorder) -> np.ndarray:
    """The rate and the momentum of every batch, in two axes."""
    row = _axes(2)
    for axes, values, name in zip(row, (recorder.lrs, recorder.moms), ("learning rate", "momentum"), strict=True):
        _line(axes, np.arange(1, len(values) + 1), values)
        axes.set(xlabel="batches", ylabel=name)
    return row


def found_rates(lrs: np.ndarray, smooth_losses: np.ndarray, suggestion: float | None) -> Axes:
    """The smooth loss by rate, with the suggestion as a point."""
    axes: Axes = _axes()[0]
    _line(axes, lrs, smooth_losses)
    if suggestion is not None:
        at = smooth_losses[lrs == suggestion]
        sns.scatterplot(x=[suggestion], y=at, ax=axes, color="C1", zorder=3, label=f"steepest: {suggestion:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss, smooth")
    return axes


def images(x: Tensor, titles: Sequence[str], wrong: Sequence[bool]) -> np.ndarray:
    """Images with titles, in a grid.

    Args:
        x: pixels from 0 to 1, [n, height, width], or [n, height, width, 3] with colors.
        titles: one for each image.
        wrong: whose titles are red.

    Returns:
        The grid's axes [rows, columns]; those after the last image are empty.
    """
    columns = math.ceil(math.sqrt(len(x)))
    rows = math.ceil(len(x) / columns)
    size = (1.4 * columns, 1.6 * rows)
    _, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, pixels, title, red in zip(grid.flat, x, titles, wrong, strict=False):
        axes.imshow(pixels.numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(title, color="tab:red" if red else "black", parse_math=False)
    found: np.ndarray = grid
    return found

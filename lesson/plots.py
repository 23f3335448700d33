"""Plots for notebooks. Only this module imports seaborn and matplotlib, and others import it when they plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional

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


def filters(weights: Sequence[Tensor], titles: Sequence[str]) -> np.ndarray:
    """The filters of a first layer as small images, a grid for each time at which it was copied.

    The same filter has the same place in each grid, and the same scale: gray is 0, and the filter's largest weight at
    any time is as far from it as a color can be.

    Args:
        weights: one or more copies, each float[filters, 3, height, width].
        titles: one for each copy.

    Returns:
        The axes, one for each copy.
    """
    every = torch.stack([copy.detach().cpu().float() for copy in weights])
    scale = every.abs().amax((0, 2, 3, 4), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    images = functional.pad(0.5 + 0.5 * every / scale, (0, 1, 0, 1), value=1.0)  # a white line between them
    _, n, _, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    empty = torch.ones(len(images), rows * columns - n, 3, height, width)
    grids = torch.cat([images, empty], 1).unflatten(1, (rows, columns)).permute(0, 1, 4, 2, 5, 3)
    row = _axes(len(images))
    for axes, grid, title in zip(row, grids, titles, strict=True):
        axes.imshow(grid.reshape(rows * height, columns * width, 3)[:-1, :-1].numpy())
        axes.set_axis_off()
        axes.set_title(title)
    return row

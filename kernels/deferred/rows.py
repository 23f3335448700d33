"""What a table does to its rows: by Numba on a CPU, by Triton on a GPU.

Both keep, where the rows are, `last` (the step up to which a row has been brought, counted from the last flush) and the
steps on record. Theirs are three operations: rows are caught up, all are, and rows are stepped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..threads import shares
from . import native, quadrature

FLUSHED = 1 << 24  # rows that one launch flushes


class Way(NamedTuple):
    """How the steps on record are made up for."""

    mode: int  # native.DENSE … FOLD
    points: int  # of Gauss, where Adam's steps are folded


class NativeRows:
    """On a CPU. A row without a gradient ever is known by `touched`: it only decays."""

    most_points = quadrature.MOST_POINTS
    folds_l2 = True  # SGD's

    def __init__(self, kind: int, weight: Tensor, mean: Tensor | None, square: Tensor | None, capacity: int) -> None:
        w = weight.numpy()
        self.kind = kind
        self.planes = (w, *(w if plane is None else plane.numpy() for plane in (mean, square)))
        self.last = np.zeros(len(w), np.int32)
        self.touched = np.zeros(len(w), np.uint8)
        for plane in self.planes[1:]:
            if plane is not w:
                self.touched |= (plane != 0).any(1)
        self.exact = np.zeros((capacity + 1, 9))
        self.steps = np.zeros((capacity + 1, 9), w.dtype)
        self.folds = np.zeros((quadrature.ROWS, capacity + 1))
        self.squares = np.ones(capacity + 1)

    def begin(self, way: Way, beta2: float) -> None:
        """A new record, whose steps are made up for in this way."""
        self.way = way
        self.folds[: quadrature.CENTER] = 1
        self.folds[quadrature.CENTER :] = 0
        self.folds[quadrature.MOMENTS] = 1e-200  # a measure of nothing at all, as rates of zero make it, has no mean
        self.squares[:] = beta2 ** np.arange(len(self.squares)) if way.mode == native.FOLD else 1

    def record(self, t: int, c: np.ndarray) -> None:
        """Step t's constants float64[9], see `native`."""
        self.exact[t] = self.steps[t] = c

    def fold(self, t: int, first: int, c: np.ndarray) -> None:
        """Let the starts first … t − 1 know step t."""
        if self.kind in (native.SGD, native.MOMENTUM):
            return  # folded from the constants themselves, as maps
        quadrature.add_step(
            self.folds, t, first, self.way.points, c[native.BETA1], c[native.BETA2], c[native.KEEP], c[native.RATE],
            1 / c[native.SCALE] ** 2,
        )  # fmt: skip

    def kept(self, t: int) -> float:
        """The product of the decays of steps 1 … t."""
        return float(self.folds[quadrature.KEPT, t])

    def catch_up(self, ids: Tensor, t: int) -> None:
        """Bring the rows `ids` (int, any shape; may repeat) to the state after step t."""
        rows = ids.reshape(-1).to("cpu", torch.int64).contiguous().numpy()
        native.catch_up(self.planes, rows, self.last, self.touched, t, *self._plan())

    def catch_up_all(self, t: int) -> None:
        """Bring every row to the state after step t, and count from there."""
        native.catch_up_all(self.planes, self.last, self.touched, t, *self._plan(), shares(self.planes[0]))
        self.last[:] = 0

    def step(self, rows: Tensor, grads: Tensor, t: int) -> None:
        """Step t of the distinct `rows` int64[n] with gradients [n, width], after the steps that they missed."""
        if t > 1:  # they missed none, unless a step came between forward and backward
            self.catch_up(rows, t - 1)
        self._step(rows.numpy(), grads, t, self.steps[t])

    def step_all(self, grads: Tensor, c: np.ndarray) -> None:
        """A step of every row, none of which has missed one, with gradients [rows, width]."""
        self._step(np.arange(len(self.last)), grads, 0, c.astype(self.steps.dtype))

    def _step(self, rows: np.ndarray, grads: Tensor, t: int, c: np.ndarray) -> None:
        native.step_rows(self.planes, rows, grads.numpy(), self.last, self.touched, t, self.kind, c)

    def _plan(self) -> tuple[Any, ...]:
        return (self.kind, *self.way), (self.steps, self.exact, self.squares), self.folds


class TritonRows:
    """On a GPU, or on a CPU in Triton's interpreter: missed steps are folded by two points, or replayed.

    Rows without a gradient ever are replayed like others, and so are steps of SGD's with L2.
    """

    most_points = 2
    folds_l2 = False

    def __init__(self, kind: int, weight: Tensor, mean: Tensor | None, square: Tensor | None, capacity: int) -> None:
        from ..optimizers import triton_deferred  # Triton is not there on every platform

        self.kernels = triton_deferred
        self.name: Any = {
            native.SGD: "sgd",
            native.MOMENTUM: "momentum",
            native.RMSPROP: "rmsprop",
            native.ADAM: "adam",
        }[kind]
        self.planes: dict[str, Any] = {"weight": weight, "exp_avg": mean, "exp_avg_sq": square}
        self.last = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        self.steps = torch.zeros(capacity + 1, 9, dtype=weight.dtype, device=weight.device)
        self.moments: Tensor | None = None
        self.products = np.ones(capacity + 1)
        self.eps = 0.0

    def begin(self, way: Way, beta2: float) -> None:
        """As `NativeRows`."""
        self.moments = None
        if way.mode == native.FOLD:
            self.moments = self.kernels.new_moments(len(self.products) - 1, beta2, self.steps.device)

    def record(self, t: int, c: np.ndarray) -> None:
        """As `NativeRows`."""
        # Nine numbers out of pageable memory: they are taken over at once, and nothing waits for the GPU.
        self.steps[t].copy_(torch.from_numpy(c).to(self.steps.dtype), non_blocking=True)
        self.eps = float(c[native.EPS])

    def fold(self, t: int, first: int, c: np.ndarray) -> None:
        """As `NativeRows`."""
        self.products[t] = self.products[t - 1] * c[native.KEEP]
        if self.moments is not None:
            from ..optimizers.triton_kernels import Constants

            self.kernels.add_step_(self.moments, Constants(*c.tolist()), t, first)

    def kept(self, t: int) -> float:
        """As `NativeRows`."""
        return float(self.products[t])

    def catch_up(self, ids: Tensor, t: int) -> None:
        """As `NativeRows`; ids outside the table are passed over."""
        self._run(ids.unique(), t)

    def catch_up_all(self, t: int) -> None:
        """As `NativeRows`."""
        for first in range(0, len(self.last), FLUSHED):
            self._run(torch.arange(first, min(first + FLUSHED, len(self.last)), device=self.last.device), t)
        self.last.zero_()

    def step(self, rows: Tensor, grads: Tensor, t: int) -> None:
        """As `NativeRows`."""
        self._run(rows, t, grads)

    def step_all(self, grads: Tensor, c: np.ndarray) -> None:
        """As `NativeRows`."""
        self.begin(Way(native.DENSE, 0), 1.0)
        self.record(1, c)
        self._run(torch.arange(len(self.last), device=self.last.device), 1, grads)
        self.last.zero_()

    def _run(self, rows: Tensor, t: int, grads: Tensor | None = None) -> None:
        self.kernels.step_rows_(
            self.name, rows, self.last, **self.planes, steps=self.steps, t=t, grads=grads, moments=self.moments,
            eps=self.eps,
        )  # fmt: skip

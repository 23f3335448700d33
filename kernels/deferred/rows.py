"""Moves the rows of a table and applies the steps that they missed: with Numba's loops on a CPU, with Triton on a GPU.

Both classes keep, on the device of the rows, `last` (the last step that each row has taken) and the steps on record:
`done` steps were taken before the last flush, `pending` ones since. They have three operations: catch some rows up,
catch all rows up, and step rows. An exception comes before or after each operation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import quadrature, steps
from ..threads import in_threads, shares
from . import native

FLUSHED = 1 << 24  # rows that one launch flushes
NO_ROWS = np.empty(0, np.int64)


class Method(NamedTuple):
    """How the steps on record are applied to rows that missed them."""

    mode: int  # native.DENSE … FOLD
    points: int  # of Gauss, if Adam's steps are folded


class NativeRows:
    """Rows on a CPU. A row that has never had a gradient (`touched` is 0) only decays."""

    most_points = quadrature.MOST_POINTS
    folds_l2 = True  # whether steps of SGD with L2 fold

    def __init__(
        self, kind: steps.Kind, weight: Tensor, mean: Tensor | None, square: Tensor | None, done: int, capacity: int
    ) -> None:
        w = weight.numpy()
        self.kind = kind
        self.planes = (w, *(w if plane is None else plane.numpy() for plane in (mean, square)))
        self.has = (mean is not None, square is not None)
        self.last = np.zeros(len(w), np.int32)
        self.touched = np.zeros(len(w), np.uint8)
        for plane in self.planes[1:]:
            if plane is not w:
                self.touched |= (plane != 0).any(1)
        self.counters = np.array([done, 0, 0, 0])
        folds = np.empty((quadrature.ROWS, capacity + 1))
        self.record = (np.zeros((capacity + 1, 9), w.dtype), np.zeros((capacity + 1, 9)), np.ones(capacity + 1), folds)
        self.many_points: int | None = None
        self.work = self._new_work(1, capacity)

    def follow(self, weight: Tensor, *others: Tensor) -> None:
        """Use the memory that these tensors, the weight and those of mean and mean square that it has, have now."""
        w, given = weight.numpy(), iter(others)
        self.planes = (w, *(next(given).numpy() if has else w for has in self.has))

    def _new_work(self, threads: int, steps: int) -> tuple[np.ndarray, ...]:
        of_each = (threads, steps + 1)
        factors = np.empty((*of_each, quadrature.FACTORS), self.planes[0].dtype)
        return factors, np.zeros(of_each, np.int64), quadrature.new_work(threads)

    @property
    def done(self) -> int:
        """How many steps were taken before the last flush."""
        return int(self.counters[native.DONE])

    @property
    def pending(self) -> int:
        """How many steps have been taken since the last flush."""
        return int(self.counters[native.PENDING])

    @property
    def kept(self) -> float:
        """The product of the decays of the pending steps, if they are folded."""
        return float(self.record[3][quadrature.KEPT, self.pending])

    def begin(self, method: Method, beta2: float, points: int) -> None:
        """Begin a new record whose steps are applied by `method`. Later records may need `points` Gauss points."""
        self.plan = (self.kind, *method)
        self.many_points = 1 if points > quadrature.FEWEST_POINTS else self.many_points
        *_, squares, folds = self.record
        if method.mode >= native.EARLY:
            quadrature.clear(folds)
            self.work[1].fill(0)
        squares[:] = beta2 ** np.arange(len(squares)) if method.mode == native.FOLD else 1

    def catch_up(self, ids: Tensor) -> None:
        """Bring the rows `ids` (int, any shape; may repeat) up to date."""
        rows = ids.reshape(-1).to("cpu", torch.int64).contiguous().numpy()
        native.move(*self._arguments(native.CATCH_UP, rows), self.work)

    def catch_up_all(self) -> None:
        """Bring every row up to date, and count steps from here."""
        n = shares(self.planes[0])
        in_threads(n, native.move, *self._arguments(native.FLUSH), self._new_work(n, self.pending))
        self.counters[: native.ALL] = [self.done + self.pending, 0, 0]  # one assignment, which Ctrl-C cannot split

    def step(self, rows: Tensor, grads: Tensor, c: np.ndarray) -> None:
        """Take the next step of the distinct `rows` int64[n]: grads [n, width], constants c (see `kernels.steps`)."""
        self._step(native.STEP, rows.numpy(), grads, c)

    def step_all(self, grads: Tensor, c: np.ndarray) -> None:
        """Take a step of every row, with gradients [rows, width]. No row may have missed a step."""
        self.begin(Method(native.DENSE, 0), 1.0, 0)
        self._step(native.STEP_ALL, NO_ROWS, grads, c)

    def _step(self, what: int, rows: np.ndarray, grads: Tensor, c: np.ndarray) -> None:
        steps, exact, *_ = self.record
        t = self.pending + 1
        steps[t] = exact[t] = c
        native.move(*self._arguments(what, rows, grads.numpy()), self.work)

    def _arguments(self, what: int, rows: np.ndarray = NO_ROWS, grads: np.ndarray | None = None) -> tuple[Any, ...]:
        return (
            what, self.planes, rows, self.planes[0][:0] if grads is None else grads, self.last, self.touched,
            self.counters, self.plan, self.many_points, self.record,
        )  # fmt: skip


class TritonRows:
    """Rows on a GPU, or on a CPU in Triton's interpreter: missed steps are folded into two points, or replayed.

    Rows that have never had a gradient are replayed like others, and so are steps of SGD with L2. `last` counts from
    the optimizer's first step, so a flush need not change it.

    A step takes several launches, and an exception may come between them. The first launch writes the step's number to
    `stamp`, on the device. After an exception the next operation reads it and completes the step if it had begun.
    """

    most_points = 2
    folds_l2 = False

    def __init__(
        self, kind: steps.Kind, weight: Tensor, mean: Tensor | None, square: Tensor | None, done: int, capacity: int
    ) -> None:
        from ..optimizers import triton_deferred  # imported here, because not every platform has Triton

        self.kernels, self.kind = triton_deferred, kind
        self.name = next(name for name, number in steps.KINDS.items() if number == kind)
        self.planes: dict[str, Any] = {"weight": weight, "exp_avg": mean, "exp_avg_sq": square}
        self.last = torch.full((len(weight),), done, dtype=torch.int32, device=weight.device)
        self.steps = torch.zeros(capacity + 1, 9, dtype=weight.dtype, device=weight.device)
        self.moments = triton_deferred.new_moments(capacity, 1.0, weight.device)
        self.stamp = torch.zeros((), dtype=torch.int64, device=weight.device)
        self.fades, self.products = np.zeros(capacity + 1), np.ones(capacity + 1)
        self.counts = (done, 0)  # done and pending; one tuple, so that Ctrl-C cannot come between their changes
        self.oldest = 0  # the oldest live start, see `quadrature.add_step`
        self.unfinished: np.ndarray | None = None  # the constants of a step that may not have made all its launches
        self.method = Method(native.REPLAY, 0)
        self.eps = 0.0
        self.stream: torch.cuda.Stream | None = None

    def follow(self, *tensors: Tensor) -> None:
        """As `NativeRows`; the kernels take addresses from the tensors at each launch."""

    @property
    def done(self) -> int:
        """As `NativeRows`."""
        return self.counts[0]

    @property
    def pending(self) -> int:
        """As `NativeRows`."""
        self._end_step()
        return self.counts[1]

    @property
    def kept(self) -> float:
        """As `NativeRows`."""
        return float(self.products[self.pending])

    def begin(self, method: Method, beta2: float, points: int) -> None:  # noqa: ARG002
        """As `NativeRows`."""
        self.method, self.oldest = method, 0
        if method.mode == native.FOLD:
            self.kernels.clear_moments_(self.moments, beta2)

    def catch_up(self, ids: Tensor) -> None:
        """As `NativeRows`; ids outside the table are ignored."""
        self._run(ids.reshape(-1), self.pending)

    def catch_up_all(self) -> None:
        """As `NativeRows`."""
        done, pending = self.done, self.pending
        for first in range(0, len(self.last), FLUSHED):
            self._run(torch.arange(first, min(first + FLUSHED, len(self.last)), device=self.last.device), pending)
        self.counts = (done + pending, 0)

    def step(self, rows: Tensor, grads: Tensor, c: np.ndarray) -> None:
        """As `NativeRows`."""
        t = self.pending + 1
        self.unfinished, self.eps = c, float(c[steps.EPS])
        self._run(rows, t, grads, steps.Constants(*c.tolist()))
        self._add_step(c)

    def step_all(self, grads: Tensor, c: np.ndarray) -> None:
        """As `NativeRows`."""
        self.begin(Method(native.DENSE, 0), 1.0, 0)
        self.step(torch.arange(len(self.last), device=self.last.device), grads, c)
        self.counts = (self.done + self.pending, 0)

    def _end_step(self) -> None:
        if self.unfinished is not None:
            if int(self.stamp) == sum(self.counts) + 1:  # reading it waits for the device
                self._add_step(self.unfinished)
            self.unfinished = None

    def _add_step(self, c: np.ndarray) -> None:
        """Put the step that rows have taken on record. If an exception makes this run twice, the step counts once."""
        done, t = self.done, self.counts[1] + 1
        self.products[t] = self.products[t - 1] * c[steps.KEEP]
        if self.method.mode == native.FOLD:
            live = {steps.ADAM: self.oldest, steps.MOMENTUM: 0}.get(self.kind, t)
            self.kernels.add_step_(self.moments, steps.Constants(*c.tolist()), t, live)
            if self.kind == steps.ADAM:
                self.oldest = quadrature.fade(self.fades, t, self.oldest, self.most_points, c)
        self.counts = (done, t)
        self.unfinished = None

    def _run(
        self, rows: Tensor, t: int, grads: Tensor | None = None, step: steps.Constants | None = None
    ) -> None:  # fmt: skip
        if self.last.is_cuda:
            self._wait_for_last_stream()
        self.kernels.step_rows_(
            self.name, rows, self.last, **self.planes, steps=self.steps, t=t, done=self.done, step=step,
            grads=grads, moments=self.moments if self.method.mode == native.FOLD else None, oldest=self.oldest,
            eps=self.eps, stamp=self.stamp,
        )  # fmt: skip

    def _wait_for_last_stream(self) -> None:
        """Let this stream wait for the stream that last used the rows."""
        stream = torch.cuda.current_stream(self.last.device)
        if self.stream is not None and self.stream != stream:
            stream.wait_stream(self.stream)
        self.stream = stream

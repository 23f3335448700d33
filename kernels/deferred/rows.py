"""The rows of a table and the steps that they miss: by Numba's loops on a CPU, by Triton on a GPU.

Both keep, where the rows are, `last` (the step up to which a row has been brought, counted from the last flush) and the
steps on record: `done` steps were over at the last flush, `pending` ones have come since. Theirs are three operations:
rows are caught up, all are, and rows are stepped. An exception comes before or after each of them.
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


class Way(NamedTuple):
    """How the steps on record are made up for."""

    mode: int  # native.DENSE … FOLD
    points: int  # of Gauss, where Adam's steps are folded


class NativeRows:
    """On a CPU. A row without a gradient ever is known by `touched`: it only decays."""

    most_points = quadrature.MOST_POINTS
    folds_l2 = True  # SGD's

    def __init__(
        self, kind: steps.Kind, weight: Tensor, mean: Tensor | None, square: Tensor | None, done: int, capacity: int
    ) -> None:
        w = weight.numpy()
        self.kind = kind
        self.planes = (w, *(w if plane is None else plane.numpy() for plane in (mean, square)))
        self.last = np.zeros(len(w), np.int32)
        self.touched = np.zeros(len(w), np.uint8)
        for plane in self.planes[1:]:
            if plane is not w:
                self.touched |= (plane != 0).any(1)
        self.account = np.array([done, 0, 0, 0])
        folds = np.empty((quadrature.ROWS, capacity + 1))
        self.record = (np.zeros((capacity + 1, 9), w.dtype), np.zeros((capacity + 1, 9)), np.ones(capacity + 1), folds)
        self.more: int | None = None
        self.work = self._new_work(1, capacity)

    def _new_work(self, threads: int, steps: int) -> tuple[np.ndarray, ...]:
        of_each = (threads, steps + 1)
        factors = np.empty((*of_each, quadrature.FACTORS), self.planes[0].dtype)
        return factors, np.zeros(of_each, np.int64), quadrature.new_work(threads)

    @property
    def done(self) -> int:
        """Steps before the last flush."""
        return int(self.account[native.DONE])

    @property
    def pending(self) -> int:
        """Steps since."""
        return int(self.account[native.PENDING])

    @property
    def kept(self) -> float:
        """The product of the decays of the pending steps, where they are folded."""
        return float(self.record[3][quadrature.KEPT, self.pending])

    def begin(self, way: Way, beta2: float, points: int) -> None:
        """A new record, whose steps are made up for in this way, and may some day be by so many Gauss points."""
        self.plan = (self.kind, *way)
        self.more = 1 if points > quadrature.FEWEST_POINTS else self.more
        *_, squares, folds = self.record
        if way.mode >= native.EARLY:
            quadrature.clear(folds)
            self.work[1].fill(0)
        squares[:] = beta2 ** np.arange(len(squares)) if way.mode == native.FOLD else 1

    def catch_up(self, ids: Tensor) -> None:
        """Bring the rows `ids` (int, any shape; may repeat) up to date."""
        rows = ids.reshape(-1).to("cpu", torch.int64).contiguous().numpy()
        native.move(*self._arguments(native.CATCH_UP, rows), self.work)

    def catch_up_all(self) -> None:
        """Bring every row up to date, and count steps from here."""
        n = shares(self.planes[0])
        in_threads(n, native.move, *self._arguments(native.FLUSH), self._new_work(n, self.pending))
        self.account[: native.ALL] = [self.done + self.pending, 0, 0]  # at once

    def step(self, rows: Tensor, grads: Tensor, c: np.ndarray) -> None:
        """The next step, of constants c, see `kernels.steps`: of the distinct `rows` int64[n], gradients [n, width]."""
        self._step(native.STEP, rows.numpy(), grads, c)

    def step_all(self, grads: Tensor, c: np.ndarray) -> None:
        """A step of every row, none of which has missed one, with gradients [rows, width]."""
        self.begin(Way(native.DENSE, 0), 1.0, 0)
        self._step(native.STEP_ALL, NO_ROWS, grads, c)

    def _step(self, what: int, rows: np.ndarray, grads: Tensor, c: np.ndarray) -> None:
        steps, exact, *_ = self.record
        t = self.pending + 1
        steps[t] = exact[t] = c
        native.move(*self._arguments(what, rows, grads.numpy()), self.work)

    def _arguments(self, what: int, rows: np.ndarray = NO_ROWS, grads: np.ndarray | None = None) -> tuple[Any, ...]:
        return (
            what, self.planes, rows, self.planes[0][:0] if grads is None else grads, self.last, self.touched,
            self.account, self.plan, self.more, self.record,
        )  # fmt: skip


class TritonRows:
    """On a GPU, or on a CPU in Triton's interpreter: missed steps are folded by two points, or replayed.

    Rows without a gradient ever are replayed like others, and so are steps of SGD's with L2. Here `last` counts from
    the optimizer's first step, so that a flush need not change it.

    A step takes several launches, between which an exception may come. Its first one leaves its number in `stamp`, on
    the device, which the next operation reads only if there was an exception: it ends what was begun.
    """

    most_points = 2
    folds_l2 = False

    def __init__(
        self, kind: steps.Kind, weight: Tensor, mean: Tensor | None, square: Tensor | None, done: int, capacity: int
    ) -> None:
        from ..optimizers import triton_deferred  # Triton is not there on every platform

        self.kernels, self.kind = triton_deferred, kind
        self.name = next(name for name, number in steps.KINDS.items() if number == kind)
        self.planes: dict[str, Any] = {"weight": weight, "exp_avg": mean, "exp_avg_sq": square}
        self.last = torch.full((len(weight),), done, dtype=torch.int32, device=weight.device)
        self.steps = torch.zeros(capacity + 1, 9, dtype=weight.dtype, device=weight.device)
        self.moments = triton_deferred.new_moments(capacity, 1.0, weight.device)
        self.stamp = torch.zeros((), dtype=torch.int64, device=weight.device)
        self.fades, self.products = np.zeros(capacity + 1), np.ones(capacity + 1)
        self.counts = (done, 0)  # together, as they change at once
        self.oldest = 0  # live start, see `quadrature.add_step`
        self.begun: np.ndarray | None = None  # constants of a step whose launches may not be over
        self.way = Way(native.REPLAY, 0)
        self.eps = 0.0
        self.stream: torch.cuda.Stream | None = None

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

    def begin(self, way: Way, beta2: float, points: int) -> None:  # noqa: ARG002
        """As `NativeRows`."""
        self.way, self.oldest = way, 0
        if way.mode == native.FOLD:
            self.kernels.clear_moments_(self.moments, beta2)

    def catch_up(self, ids: Tensor) -> None:
        """As `NativeRows`; ids outside the table are passed over."""
        self._run(ids.unique(), self.pending)

    def catch_up_all(self) -> None:
        """As `NativeRows`."""
        done, pending = self.done, self.pending
        for first in range(0, len(self.last), FLUSHED):
            self._run(torch.arange(first, min(first + FLUSHED, len(self.last)), device=self.last.device), pending)
        self.counts = (done + pending, 0)

    def step(self, rows: Tensor, grads: Tensor, c: np.ndarray) -> None:
        """As `NativeRows`."""
        t = self.pending + 1
        # Nine numbers out of pageable memory: they are taken over at once, and nothing waits for the GPU.
        self.steps[t].copy_(torch.from_numpy(c).to(self.steps.dtype), non_blocking=True)
        self.begun, self.eps = c, float(c[steps.EPS])
        self._run(rows, t, grads)
        self._add_step(c)

    def step_all(self, grads: Tensor, c: np.ndarray) -> None:
        """As `NativeRows`."""
        self.begin(Way(native.DENSE, 0), 1.0, 0)
        self.step(torch.arange(len(self.last), device=self.last.device), grads, c)
        self.counts = (self.done + self.pending, 0)

    def _end_step(self) -> None:
        if self.begun is not None:
            if int(self.stamp) == sum(self.counts) + 1:  # this waits for the device
                self._add_step(self.begun)
            self.begun = None

    def _add_step(self, c: np.ndarray) -> None:
        """Put the step that rows have taken on record: once, however often it is tried."""
        done, t = self.done, self.counts[1] + 1
        self.products[t] = self.products[t - 1] * c[steps.KEEP]
        if self.way.mode == native.FOLD:
            live = {steps.ADAM: self.oldest, steps.MOMENTUM: 0}.get(self.kind, t)
            self.kernels.add_step_(self.moments, steps.Constants(*c.tolist()), t, live)
            if self.kind == steps.ADAM:
                self.oldest = quadrature.fade(self.fades, t, self.oldest, self.most_points, c)
        self.counts = (done, t)
        self.begun = None

    def _run(self, rows: Tensor, t: int, grads: Tensor | None = None) -> None:
        if self.last.is_cuda:
            self._come_after()
        self.kernels.step_rows_(
            self.name, rows, self.last, **self.planes, steps=self.steps, t=t, done=self.done, grads=grads,
            moments=self.moments if self.way.mode == native.FOLD else None, oldest=self.oldest, eps=self.eps,
            stamp=self.stamp,
        )  # fmt: skip

    def _come_after(self) -> None:
        """What another stream does to the rows comes first."""
        stream = torch.cuda.current_stream(self.last.device)
        if self.stream is not None and self.stream != stream:
            stream.wait_stream(self.stream)
        self.stream = stream

"""A table of parameters and the account of its steps: which are on record, and how they are made up for."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import backends
from . import native
from .quadrature import FEWEST_POINTS, folding
from .rows import NativeRows, TritonRows, Way

Mode = Literal["virtual", "replay", "dense"]

CAPACITY = 4096  # steps on record; then the table is flushed, so that the record stays bounded
SMALLEST_KEEP = 1e-100  # the product of decays on record; below it, ratios of products would lose their digits


class Table:
    """A parameter [rows, width] whose rows are brought up to date when they are read.

    Steps are counted from the last flush: `done` steps were over then, `pending` have come since. All steps on record
    are made up for in the same way (`native.DENSE` … `FOLD`); a step that needs another way begins a new record.
    """

    def __init__(
        self, param: Tensor, state: dict[str, Any], kind: int, planes: tuple[str | None, str | None],
        backend: str | None,
    ) -> None:  # fmt: skip
        with torch._C.DisableTorchFunctionSubclass():
            self.weight = param.detach()
        self.state, self.kind = state, kind
        if not self.weight.is_contiguous() or self.weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"deferred steps need a contiguous float32 or float64 table, not {self.weight.dtype} with strides "
                f"{self.weight.stride()}: use nn.Embedding and torch.optim"
            )
        chosen = backends.choose(backend, self.weight.device, self.weight.dtype)
        if chosen == "reference":
            raise backends.BackendError(
                f"deferred steps run on a CPU (native) or by Triton, and on {self.weight.device} "
                f"{backends.why_not('triton', self.weight.device)}: use nn.Embedding and torch.optim there"
            )
        for name in filter(None, planes):
            if state.get(name) is None:
                state[name] = torch.zeros_like(self.weight, memory_format=torch.contiguous_format)
            elif state[name].dtype != self.weight.dtype or state[name].shape != self.weight.shape:
                raise ValueError(
                    f"{name} is {state[name].dtype}{list(state[name].shape)}, its parameter "
                    f"{self.weight.dtype}{list(self.weight.shape)}: build a new optimizer after changing a parameter"
                )
            state[name] = state[name].contiguous()
        self.address = self.weight.data_ptr()
        rows: type[NativeRows | TritonRows] = NativeRows if chosen == "native" else TritonRows
        mean, square = (None if name is None else state[name] for name in planes)
        self.rows = rows(kind, self.weight, mean, square, CAPACITY)
        self.done = int(state["step"]) if "step" in state else 0
        self.pending = 0
        self.way: Way | None = None
        self.constants: np.ndarray | None = None  # of the latest step on record

    def belongs_to(self, param: Tensor, state: dict[str, Any], kind: int) -> bool:
        """Whether this is still the table of that memory and that state."""
        return self.state is state and self.kind == kind and self.address == param.data_ptr()

    def catch_up(self, ids: Tensor) -> None:
        """Bring the rows `ids` (int, any shape; may repeat) up to date."""
        if self.pending:
            self.rows.catch_up(ids.detach(), self.pending)

    def flush(self) -> None:
        """Bring every row up to date, and begin a new record."""
        if self.pending:
            self.rows.catch_up_all(self.pending)
            self.done += self.pending
            self.pending = 0

    def step(self, mode: Mode, constants: np.ndarray, grad: Tensor) -> None:
        """The next step: of the rows of a sparse gradient now, of the others when they are read.

        Args:
            mode: of the parameter's group.
            constants: float64[9] of this step, see `native`.
            grad: coalesced sparse, or dense, which is a step of every row.
        """
        if not grad.is_sparse:
            self.flush()
            self.rows.step_all(grad.contiguous(), constants)
            self.done += 1
            return
        grad = grad.coalesce()
        first = self._record(mode, constants)
        self.rows.step(grad.indices()[0].contiguous(), grad.values().contiguous(), self.pending)
        if first is not None:
            self.rows.fold(self.pending, first, constants)
        if mode == "dense":
            self.flush()

    def _record(self, mode: Mode, c: np.ndarray) -> int | None:
        """Put a step on record; returns the first start that is to know it, None where nothing is folded."""
        way, foldable = self._way(mode, c)
        if self.pending and self._record_ends(way, c, foldable):
            self.flush()
            way, _ = self._way(mode, c)
        t = self.pending = self.pending + 1
        if t == 1:
            self.way = way
            self.rows.begin(way, float(c[native.BETA2]))
        self.rows.record(t, c)
        self.constants = c
        if way.mode not in (native.EARLY, native.FOLD):
            return None
        if way.mode == native.EARLY or self.kind in (native.SGD, native.RMSPROP):
            return t
        return max(0, t - _window(c[native.BETA1], c[native.BETA2])) if self.kind == native.ADAM else 0

    def _record_ends(self, way: Way, c: np.ndarray, foldable: float) -> bool:
        if self.pending == CAPACITY or way != self.way:
            return True
        if way.mode not in (native.EARLY, native.FOLD) or self.kind in (native.SGD, native.MOMENTUM):
            return False
        if self.rows.kept(self.pending) * c[native.KEEP] < SMALLEST_KEEP:
            return True
        # Gaps on record began when folding them was not yet accurate under this β1; or with other constants.
        changed = (c != self.constants)[[native.BETA2, native.EPS]].any()
        return bool(way.mode == native.FOLD and (self.done < foldable or changed))

    def _way(self, mode: Mode, c: np.ndarray) -> tuple[Way, float]:
        """How a step is made up for, and the number of steps after which gaps may begin that are folded."""
        points, foldable = 0, 0.0
        if self.kind == native.ADAM:  # a record keeps its number of points where fewer would do
            fewest = self.way.points if self.pending and self.way and self.way.mode == native.FOLD else FEWEST_POINTS
            beta1 = math.ceil(c[native.BETA1] * 1024) / 1024
            points, foldable = folding(beta1, float(c[native.BETA2]), fewest, self.rows.most_points)
        if mode == "virtual" and not c[native.L2] and 0 < c[native.KEEP] <= 1:
            if self.done + self.pending >= foldable:
                return Way(native.FOLD, points), foldable
            return Way(native.EARLY, 0), foldable
        if mode == "virtual" and self.kind in (native.SGD, native.MOMENTUM) and self.rows.folds_l2:
            return Way(native.FOLD, 0), foldable
        return Way(native.DENSE if mode == "dense" or c[native.L2] else native.REPLAY, 0), foldable


def _window(beta1: float, beta2: float) -> int:
    """After so many steps without gradient a further one moves a weight by less than 2⁻³⁰ of the first."""
    fade = beta1 / math.sqrt(beta2)
    return CAPACITY if fade >= 1 else math.ceil(30 * math.log(2) / -math.log(max(fade, 1e-9)))

"""A table of parameters and the account of its steps: which are on record, and how they are made up for."""

from __future__ import annotations

import math
import threading
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import backends
from ..quadrature import FEWEST_POINTS, Folding, foldable_eps, folding
from ..steps import ADAM, BETA1, BETA2, EPS, KEEP, L2, MOMENTUM, SGD, Kind
from . import native
from .rows import NativeRows, TritonRows, Way

Mode = Literal["folded", "replay", "dense"]

CAPACITY = 4096  # steps on record; then the table is flushed, so that the record stays bounded
SMALLEST_KEEP = 1e-100  # the product of decays on record; below it, ratios of products would lose their digits


class Table:
    """A parameter [rows, width] whose rows are brought up to date when they are read.

    Steps are counted from the last flush. All steps on record are made up for in the same way (`native.DENSE` …
    `FOLD`); a step that needs another way begins a new record. A lock keeps threads that read rows apart.

    Args:
        param: the parameter.
        kind: of the steps, see `kernels.steps`.
        planes: names of the state's running mean and mean square, None where this kind has none.
        state: the optimizer's of this parameter, with "step" on the CPU if its kind has one; gets the planes it lacks.
        backend: "native" or "triton"; None chooses by device.

    Raises:
        BackendError: the backend cannot run here.
        ValueError: a parameter or state that cannot be stepped.
    """

    def __init__(
        self, param: Tensor, kind: Kind, planes: tuple[str | None, str | None], state: dict[str, Any],
        backend: str | None,
    ) -> None:  # fmt: skip
        with torch._C._DisableTorchDispatch():
            self.weight = param.detach()
        self.kind, self.state, self.address = kind, state, self.weight.data_ptr()
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
        mean, square = (None if name is None else state[name] for name in planes)
        # NumPy's view, for a table may be flushed while torch.compile lets torch's operations run on no memory at all.
        self.steps_taken = state["step"].numpy() if "step" in state else None
        done = 0 if self.steps_taken is None else int(self.steps_taken)
        rows: type[NativeRows | TritonRows] = NativeRows if chosen == "native" else TritonRows
        self.rows = rows(kind, self.weight, mean, square, done, CAPACITY)
        self.lock = threading.RLock()
        self.way: Way | None = None  # of the steps on record
        self.constants: np.ndarray | None = None  # of the latest one, or of one that was not taken

    def belongs_to(self, state: dict[str, Any], param: Tensor, kind: Kind) -> bool:
        """Whether this is still the table of that state, that memory and that kind of steps."""
        return self.state is state and self.kind == kind and Tensor.data_ptr(param) == self.address

    @property
    def steps(self) -> int:
        """Steps that the table has taken."""
        return self.rows.done + self.rows.pending

    @property
    def pending(self) -> int:
        """Those on record."""
        return self.rows.pending

    def catch_up(self, ids: Tensor) -> None:
        """Bring the rows `ids` (int, any shape; may repeat) up to date."""
        with self.lock:
            if self.rows.pending:
                self.rows.catch_up(ids.detach())

    def flush(self) -> None:
        """Bring every row up to date, and begin a new record."""
        with self.lock:
            if self.rows.pending:
                self.rows.catch_up_all()
            if self.steps_taken is not None:
                self.steps_taken[...] = self.steps

    def step(self, mode: Mode, c: np.ndarray, grad: Tensor) -> None:
        """The next step: of the rows of a sparse gradient now, of the others when they are read.

        Args:
            mode: of the parameter's group.
            c: constants float64[9] of this step, see `kernels.steps`.
            grad: sparse, or dense, which is a step of every row.
        """
        with self.lock:
            if not grad.is_sparse:
                self.flush()
                self.rows.step_all(grad.contiguous(), c)
                return
            grad = grad if grad.is_coalesced() else grad.coalesce()
            self._make_way(mode, c)
            self.rows.step(grad.indices()[0].contiguous(), grad.values().contiguous(), c)
            if mode == "dense":
                self.flush()

    def _make_way(self, mode: Mode, c: np.ndarray) -> None:
        """Begin a new record where there is none, or step c does not fit on it."""
        way = self._way(mode, c)
        if self.rows.pending and not self._fits(way, c):
            self.flush()
            way = self._way(mode, c)  # of a new record fewer points may do
        if not self.rows.pending:
            self.way = way
            points, start = self._folding(c)
            self.rows.begin(way, float(c[BETA2]), points if mode == "folded" and start < math.inf else 0)
        self.constants = c

    def _fits(self, way: Way, c: np.ndarray) -> bool:
        if self.rows.pending == CAPACITY or way != self.way:
            return False
        if way.mode not in (native.EARLY, native.FOLD) or self.kind in (SGD, MOMENTUM):
            return True
        if self.rows.kept * c[KEEP] < SMALLEST_KEEP:
            return False
        if way.mode == native.EARLY:
            return True
        before = self.constants
        assert before is not None
        # Gaps on record must not have begun when folding them was not yet accurate under this β1.
        return c[BETA2] == before[BETA2] and c[EPS] == before[EPS] and self.rows.done >= self._folding(c).start

    def _way(self, mode: Mode, c: np.ndarray) -> Way:
        linear = self.kind in (SGD, MOMENTUM)
        if mode == "folded" and linear and self.rows.folds_l2:
            return Way(native.FOLD, 0)
        if mode == "folded" and not c[L2] and 0 < c[KEEP] <= 1:
            points, start = self._folding(c)
            return Way(native.FOLD, points) if self.steps >= start else Way(native.EARLY, 0)
        return Way(native.DENSE if mode == "dense" or c[L2] else native.REPLAY, 0)

    def _folding(self, c: np.ndarray) -> Folding:
        """How many points this step asks for, and after how many steps a gap may begin that they fold."""
        if self.kind != ADAM:
            return Folding(0, 0)
        if not foldable_eps(c[EPS], self.weight.dtype):
            return Folding(0, math.inf)
        # A record keeps its number of points where fewer would do.
        points = self.way.points if self.rows.pending and self.way and self.way.mode == native.FOLD else FEWEST_POINTS
        return folding(math.ceil(c[BETA1] * 1024) / 1024, float(c[BETA2]), points, self.rows.most_points)

"""A table of parameters, the record of its steps, and the choice of how rows get the steps that they missed."""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import backends
from ..quadrature import FEWEST_POINTS, Folding, foldable_eps, folding
from ..steps import ADAM, BETA1, BETA2, EPS, KEEP, L2, MOMENTUM, SGD, Kind
from . import native
from .rows import Method, NativeRows, TritonRows

Mode = Literal["folded", "replay", "dense"]

CAPACITY = 4096  # the most steps on record; then the table is flushed, so that the record stays bounded
LAST_STEP = 2**31 - 1 - 2 * CAPACITY  # a row keeps the number of its last step as an int32
SMALLEST_KEEP = 1e-100  # the smallest product of decays on record; below it, ratios of products would lose digits


class Table:
    """A parameter [rows, width] whose rows are brought up to date when they are read.

    Steps are counted from the last flush. One `Method` applies all steps on record; a step that needs another one
    begins a new record. A lock makes threads that read rows take turns. A signal handler that reads rows while they are
    moved cannot wait for its own thread: it gets an error.

    Args:
        param: the parameter.
        kind: of the steps, see `kernels.steps`.
        planes: the names of running mean and mean square in the state; None if this kind has none.
        state: the optimizer's state of this parameter, with "step" on the CPU if the kind counts steps. Missing planes
            are added to it.
        backend: "native" or "triton"; None chooses by device.

    Raises:
        BackendError: the backend cannot run here.
        ValueError: a parameter or state of an unsuitable dtype, shape or layout.
    """

    def __init__(
        self, param: Tensor, kind: Kind, planes: tuple[str | None, str | None], state: dict[str, Any],
        backend: str | None,
    ) -> None:  # fmt: skip
        with torch._C._DisableTorchDispatch():
            self.weight = param.detach()
        self.kind = kind
        self._state: weakref.ref[Any] | None = None
        if not self.weight.is_contiguous() or self.weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"deferred steps need a contiguous float32 or float64 table, not {self.weight.dtype} with strides "
                f"{self.weight.stride()}: use nn.Embedding and torch.optim"
            )
        chosen = backends.choose(backend, self.weight.device, self.weight.dtype)
        if chosen == "reference":
            raise backends.BackendError(
                f"deferred steps run on a CPU (native) or with Triton; on {self.weight.device} "
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
        self.tensors = [tensor for tensor in (self.weight, mean, square) if tensor is not None]
        self.counter = [state["step"]] if "step" in state else []
        self.addresses = [tensor.data_ptr() for tensor in (*self.tensors, *self.counter)]
        # A NumPy view, because torch.compile may flush a table while torch's operations run on fake tensors.
        self.steps_taken = state["step"].numpy() if "step" in state else None
        done = 0 if self.steps_taken is None else int(self.steps_taken)
        if done > LAST_STEP:
            raise ValueError(
                f"step is {done}: deferred steps are counted to {LAST_STEP:,}; use nn.Embedding and torch.optim"
            )
        rows: type[NativeRows | TritonRows] = NativeRows if chosen == "native" else TritonRows
        self.rows = rows(kind, self.weight, mean, square, done, CAPACITY)
        self.lock = threading.RLock()
        self.method: Method | None = None  # of the steps on record
        self.constants: np.ndarray | None = None  # of the latest step, even if an exception prevented it

    def belongs_to(self, state: dict[str, Any], param: Tensor, kind: Kind) -> bool:
        """Whether this table is still made for this state, this memory and this kind of steps."""
        same = Tensor.data_ptr(param) == self.addresses[0]
        same = same and param.shape == self.weight.shape and param.stride() == self.weight.stride()
        return same and self._state is not None and self._state() is state and self.kind == kind

    def keep_in(self, state: Any) -> None:
        """Belong to this state. It refers to the parameter and so to this table, which therefore only watches it.

        A cycle would keep the memory of a table that is no longer used until Python looks for cycles.
        """
        self._state = weakref.ref(state)

    @property
    def steps(self) -> int:
        """How many steps the table has taken."""
        return self.rows.done + self.rows.pending

    @property
    def pending(self) -> int:
        """How many steps are on record."""
        return self.rows.pending

    def catch_up(self, ids: Tensor) -> None:
        """Bring the rows `ids` (int, any shape; may repeat) up to date."""
        self._refuse_to_nest()
        with self.lock:
            self._follow_memory()
            if self.rows.pending:
                self.rows.catch_up(ids.detach())

    def flush(self) -> None:
        """Bring every row up to date, and begin a new record."""
        self._refuse_to_nest()
        with self.lock:
            self._flush()

    def leave(self, param: Any) -> None:
        """Bring every row up to date, and let the parameter forget this table."""
        self._refuse_to_nest()
        with self.lock:
            self._flush()
            if param.table is self:
                param.table = None

    def step(self, mode: Mode, c: np.ndarray, grad: Tensor, param: Any) -> None:
        """Take the next step. The rows of a sparse gradient move now, the others when they are read.

        Args:
            mode: of the parameter's group.
            c: float64[9], the constants of this step, see `kernels.steps`.
            grad: the gradient; a dense one steps every row now.
            param: the parameter. If it has forgotten this table since the step began, all rows move now.
        """
        self._refuse_to_nest()
        with self.lock:
            self._follow_memory()
            if not grad.is_sparse:
                self._flush()
                self.rows.step_all(grad.contiguous(), c)
                return
            grad = grad if grad.is_coalesced() else grad.coalesce()
            if not grad._nnz():
                grad = grad.clone()  # torch resizes an empty gradient to add to it, but not one that NumPy has seen
            self._prepare_record(mode, c)
            self.rows.step(grad.indices()[0].contiguous(), grad.values().contiguous(), c)
            if mode == "dense" or param.table is not self:
                self._flush()

    def _flush(self) -> None:
        self._follow_memory()
        if self.rows.pending:
            self.rows.catch_up_all()
        if self.steps_taken is not None:
            self.steps_taken[...] = self.steps

    def _refuse_to_nest(self) -> None:
        if self.lock._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(
                "a signal handler reads a deferred table whose rows are being moved: let it set a flag, and read or "
                "save between steps"
            )

    def _follow_memory(self) -> None:
        """Find the numbers again if torch has moved them to shared memory, through a tensor that shares them."""
        addresses = [tensor.data_ptr() for tensor in (*self.tensors, *self.counter)]
        if addresses != self.addresses:
            self.rows.follow(*self.tensors)
            if self.counter:
                self.steps_taken = self.counter[0].numpy()
            self.addresses = addresses

    def _prepare_record(self, mode: Mode, c: np.ndarray) -> None:
        """Begin a new record if there is none, or if step c does not fit on it."""
        method = self._choose_method(mode, c)
        if self.rows.pending and not self._fits(method, c):
            self._flush()
            method = self._choose_method(mode, c)  # fewer points may be enough for a new record
        if not self.rows.pending:
            self.method = method
            points, start = self._folding(c)
            self.rows.begin(method, float(c[BETA2]), points if mode == "folded" and start < math.inf else 0)
        self.constants = c

    def _fits(self, method: Method, c: np.ndarray) -> bool:
        if self.rows.pending == CAPACITY or method != self.method:
            return False
        if method.mode not in (native.EARLY, native.FOLD) or self.kind in (SGD, MOMENTUM):
            return True
        if self.rows.kept * c[KEEP] < SMALLEST_KEEP:
            return False
        if method.mode == native.EARLY:
            return True
        before = self.constants
        assert before is not None
        # Under this β1, folding must be accurate for the earliest gap on record.
        return c[BETA2] == before[BETA2] and c[EPS] == before[EPS] and self.rows.done >= self._folding(c).start

    def _choose_method(self, mode: Mode, c: np.ndarray) -> Method:
        linear = self.kind in (SGD, MOMENTUM)
        if mode == "folded" and linear and self.rows.folds_l2:
            return Method(native.FOLD, 0)
        if mode == "folded" and not c[L2] and 0 < c[KEEP] <= 1:
            points, start = self._folding(c)
            return Method(native.FOLD, points) if self.steps >= start else Method(native.EARLY, 0)
        return Method(native.DENSE if mode == "dense" or c[L2] else native.REPLAY, 0)

    def _folding(self, c: np.ndarray) -> Folding:
        """How many points this step needs, and the first step after which they fold a gap."""
        if self.kind != ADAM:
            return Folding(0, 0)
        if not foldable_eps(c[EPS], self.weight.dtype):
            return Folding(0, math.inf)
        points = FEWEST_POINTS
        if self.rows.pending and self.method and self.method.mode == native.FOLD:
            points = self.method.points  # a record keeps its number of points, even if fewer were enough
        return folding(math.ceil(c[BETA1] * 1024) / 1024, float(c[BETA2]), points, self.rows.most_points)

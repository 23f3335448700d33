"""A table of parameters and the account of its steps: which rows have missed which."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..trainer import flushed_denormals
from . import native

Mode = Literal["virtual", "replay", "dense"]

CAPACITY = 4096  # steps on record; then the table is flushed, so that the record stays bounded
SMALLEST_KEEP = 1e-100  # the product of decays on record; below it, ratios of products would lose their digits
FOLD_TOLERANCE = 1e-4  # of a step at the highest rate: how far folding may leave a weight from where replay would
SHARE = 1 << 22  # bytes of a plane that a thread must have before a second one pays


class Table:
    """A parameter [rows, width] whose rows are brought up to date when they are read.

    Steps are counted from the last flush: `done` steps were over then, `pending` have come since. All steps on record
    are made up for in the same way (`native.DENSE` … `FOLD`); a step that needs another way begins a new record.
    """

    def __init__(self, param: Tensor, state: dict[str, Any], kind: int, planes: tuple[str | None, str | None]) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            self.weight = param.detach()
        self.state, self.kind = state, kind
        for name in filter(None, planes):
            if state.get(name) is None:
                state[name] = torch.zeros_like(self.weight, memory_format=torch.contiguous_format)
            elif state[name].dtype != self.weight.dtype or state[name].shape != self.weight.shape:
                raise ValueError(
                    f"{name} is {state[name].dtype}{list(state[name].shape)}, its parameter "
                    f"{self.weight.dtype}{list(self.weight.shape)}: build a new optimizer after changing a parameter"
                )
            state[name] = state[name].contiguous()
        if (
            not self.weight.is_contiguous()
            or self.weight.device.type != "cpu"
            or self.weight.dtype not in (torch.float32, torch.float64)
        ):
            raise ValueError(
                f"deferred steps need a contiguous float32 or float64 table on the CPU, not {self.weight.dtype} on "
                f"{self.weight.device}; elsewhere use nn.Embedding and torch.optim"
            )
        w = self.weight.numpy()
        self.address = self.weight.data_ptr()
        self.planes = (w, *(w if name is None else state[name].numpy() for name in planes))
        rows = len(w)
        self.last = np.zeros(rows, np.int32)
        self.touched = np.zeros(rows, np.uint8)
        for plane in self.planes[1:]:
            if plane is not w:
                self.touched |= (plane != 0).any(1)
        self.done = int(state["step"]) if "step" in state else 0
        self.pending = 0
        self.way: int | None = None
        self.exact = np.zeros((CAPACITY + 1, 9))
        self.steps = np.zeros((CAPACITY + 1, 9), w.dtype)
        self.folds = np.zeros((7, CAPACITY + 1))
        self.squares = np.ones(CAPACITY + 1)

    def belongs_to(self, param: Tensor, state: dict[str, Any], kind: int) -> bool:
        """Whether this is still the table of that memory and that state."""
        return self.state is state and self.kind == kind and self.address == param.data_ptr()

    def catch_up(self, ids: Tensor) -> None:
        """Bring the rows `ids` (int, any shape; may repeat) up to date."""
        if self.pending:
            rows = ids.detach().reshape(-1).to("cpu", torch.int64).contiguous().numpy()
            with flushed_denormals():
                native.catch_up(self.planes, rows, self.last, self.touched, self.pending, *self._plan())

    def flush(self) -> None:
        """Bring every row up to date, and begin a new record."""
        if not self.pending:
            return
        rows, plan = len(self.last), self._plan()
        threads = max(1, min(torch.get_num_threads(), self.planes[0].nbytes // SHARE))
        cuts = [rows * share // threads for share in range(threads + 1)]

        def part(cut: tuple[int, int]) -> None:
            with flushed_denormals():
                native.catch_up_range(self.planes, *cut, self.last, self.touched, self.pending, *plan)

        if threads == 1:
            part((0, rows))
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(part, pairwise(cuts)))
        self.last[:] = 0
        self.done += self.pending
        self.pending = 0

    def _plan(self) -> tuple[Any, ...]:
        return (self.kind, self.way), (self.steps, self.exact, self.squares), self.folds

    def step(self, mode: Mode, constants: np.ndarray, grad: Tensor) -> None:
        """The next step: of the rows of a sparse gradient now, of the others when they are read.

        Args:
            mode: of the parameter's group.
            constants: float64[9] of this step, see `native`.
            grad: coalesced sparse, or dense, which is a step of every row.
        """
        if not grad.is_sparse:
            self.flush()
            every = np.arange(len(self.last))
            with flushed_denormals():
                native.step_rows(
                    self.planes, every, grad.contiguous().numpy(), self.last, self.touched, 0, self.kind,
                    constants.astype(self.steps.dtype),
                )  # fmt: skip
            self.done += 1
            return
        grad = grad.coalesce()
        rows, grads = grad.indices()[0], grad.values().contiguous().numpy()
        self.catch_up(rows)  # they are, unless a step came between forward and backward
        self._record(mode, constants)
        with flushed_denormals():
            native.step_rows(
                self.planes, rows.contiguous().numpy(), grads, self.last, self.touched, self.pending, self.kind,
                self.steps[self.pending],
            )  # fmt: skip
        if mode == "dense":
            self.flush()

    def _record(self, mode: Mode, c: np.ndarray) -> None:
        beta1, beta2 = float(c[native.BETA1]), float(c[native.BETA2])
        foldable = foldable_from(math.ceil(beta1 * 1024) / 1024, beta2) if self.kind == native.ADAM else 0
        way = self._way(mode, c, foldable)
        if self.pending and self._record_ends(way, c, foldable):
            self.flush()
        t = self.pending = self.pending + 1
        if t == 1:
            self.way = way
            self.folds[:3], self.folds[3:] = 1, 0
            self.folds[3] = 1e-200  # a measure of nothing at all, as rates of zero make it, has no mean
            self.squares[:] = beta2 ** np.arange(CAPACITY + 1) if way == native.FOLD else 1
        self.exact[t] = self.steps[t] = c
        if way in (native.EARLY, native.FOLD):
            fading = way == native.FOLD and self.kind == native.ADAM
            native.add_step(
                self.folds, t, max(0, t - _window(beta1, beta2)) if fading else t, beta1, beta2,
                c[native.KEEP], c[native.RATE], 1 / c[native.SCALE] ** 2,
            )  # fmt: skip

    def _record_ends(self, way: int, c: np.ndarray, foldable: float) -> bool:
        t = self.pending
        if t == CAPACITY or way != self.way:
            return True
        if way not in (native.EARLY, native.FOLD) or self.kind in (native.SGD, native.MOMENTUM):
            return False
        if self.folds[0, t] * c[native.KEEP] < SMALLEST_KEEP:
            return True
        # Gaps on record began when folding them was not yet accurate under this β1; or with other constants.
        changed = (c != self.exact[t])[[native.BETA2, native.EPS]].any()
        return bool(way == native.FOLD and (self.done < foldable or changed))

    def _way(self, mode: Mode, c: np.ndarray, foldable: float) -> int:
        if mode == "virtual":
            if self.kind in (native.SGD, native.MOMENTUM):
                return native.FOLD
            if not c[native.L2] and 0 < c[native.KEEP] <= 1:
                return native.FOLD if self.done + self.pending >= foldable else native.EARLY
        return native.DENSE if mode == "dense" or c[native.L2] else native.REPLAY


def _window(beta1: float, beta2: float) -> int:
    """After so many steps without gradient a further one moves a weight by less than 2⁻³⁰ of the first."""
    fade = beta1 / math.sqrt(beta2)
    return CAPACITY if fade >= 1 else math.ceil(30 * math.log(2) / -math.log(max(fade, 1e-9)))


@lru_cache(1 << 12)
def foldable_from(beta1: float, beta2: float) -> float:
    """The number of steps after which a gap of Adam's may begin that is folded; math.inf if none may."""
    accurate_from = math.inf
    for start in (10_000, 5_000, 3_300, 2_200, 1_500, 1_000, 700, 450, 300, 200, 130, 90, 60, 40, 25):
        if not fold_error(beta1, beta2, start) <= FOLD_TOLERANCE:
            break
        accurate_from = start
    return accurate_from


def fold_error(beta1: float, beta2: float, start: int) -> float:
    """A bound on what folding moves a weight from where replay would, in steps of the highest rate in the gap.

    For a gap of any length after step `start`, any schedule of rates and of β1 up to `beta1`, any decay and any eps,
    and a mean |m| ≤ √v. The missed steps are −m·∫ f dμ with f(κ) = 1/(√v + eps·κ) and a measure μ of weights
    W_j = lr_j·Πβ1/(1 − β1^j)·decay·κ_j. Gauss's two points err by at most sup f''''/4!·∫π² dμ, where π is the monic
    quadratic that makes the integral least; so a larger measure bounds that of a smaller one, and √v·f''''/4!, largest
    at √v = eps·κ/4, is at most .25/1.25⁵/κ⁴.
    """
    if beta1 >= 0.999 * beta2**2.5:
        return math.inf
    ratio = beta1 / beta2**2.5  # by which the terms of ∫π² dμ shrink from step to step
    gap = np.arange(1.0, math.ceil(40 / -math.log(max(ratio, 1e-9))) + 1)
    kappa = np.sqrt((1 - beta2 ** (start + gap)) / beta2**gap)
    weight = beta1**gap / (1 - beta1 ** (start + gap)) * kappa
    m0 = weight.sum()
    if not m0 > 0:
        return 0.0
    apart = kappa - (weight * kappa).sum() / m0
    second, third, fourth = ((weight * apart**power).sum() / m0 for power in (2, 3, 4))
    if not second > 0:
        return 0.0
    return float(0.25 / 1.25**5 * m0 * (fourth - second**2 - third**2 / second) / kappa[0] ** 4)

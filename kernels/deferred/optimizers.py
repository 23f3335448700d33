"""torch's optimizers, whose steps on the tables of `DeferredEmbedding`s are deferred."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch.optim.optimizer import ParamsT

from . import native
from .embedding import DeferredParameter
from .table import Mode, Table

NOT_DEFERRED = ("amsgrad", "maximize", "nesterov", "dampening", "centered")


class _Deferred(torch.optim.Optimizer):
    """What the deferred optimizers share: they are torch's own for every parameter but the deferred tables."""

    _dense_step: ClassVar[Callable[[Any], Any]]  # torch's, without its hooks and timers: those are on our own

    def __init__(self, mode: Mode, backend: str | None, *args: Any, **kwargs: Any) -> None:
        self._mode, self._backend = mode, backend
        super().__init__(*args, **kwargs)

    def _rule(self, group: dict[str, Any], step: int) -> tuple[int, np.ndarray]:
        """The kind of step and its constants, see `native`."""
        raise NotImplementedError

    @staticmethod
    def _plane_names(kind: int) -> tuple[str | None, str | None]:
        return {
            native.SGD: (None, None),
            native.MOMENTUM: ("momentum_buffer", None),
            native.RMSPROP: (None, "square_avg"),
            native.ADAM: ("exp_avg", "exp_avg_sq"),
        }[kind]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; a group may have its own `mode` and `backend`."""
        mode = param_group.setdefault("mode", self._mode)
        param_group.setdefault("backend", self._backend)
        if mode not in get_args(Mode):
            raise ValueError(f"{mode=}: there are {', '.join(get_args(Mode))}")
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if any(isinstance(param, DeferredParameter) for param in group["params"]):
            wrong = [name for name in NOT_DEFERRED if group.get(name)]
            if "alpha" in group and group.get("momentum"):
                wrong.append("momentum")
            if wrong or not group.get("eps", 1) > 0:
                self.param_groups.pop()
                what = ", ".join(wrong) or f"eps={group['eps']}"
                raise ValueError(f"steps with {what} cannot be deferred: leave that out, or use nn.Embedding")

    def flush(self) -> None:
        """Bring every row of every deferred table up to date."""
        for group in self.param_groups:
            for param in group["params"]:
                if isinstance(param, DeferredParameter) and param.table is not None:
                    param.table.flush()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure`, if given, computes gradients and returns the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tables: list[tuple[DeferredParameter, Any]] = []
        try:
            with torch.no_grad():
                with torch._C.DisableTorchFunctionSubclass():
                    for group in self.param_groups:
                        for param in group["params"]:
                            if isinstance(param, DeferredParameter) and param.grad is not None:
                                self._step_table(param, group)
                                tables.append((param, param.grad))
                                param.grad = None  # so that torch passes it over
                type(self)._dense_step(self)
        finally:
            for param, grad in tables:
                param.grad = grad
        return loss

    def _step_table(self, param: DeferredParameter, group: dict[str, Any]) -> None:
        state = self.state[param]
        kind, _ = self._rule(group, 1)
        table = param.table
        if table is None or not table.belongs_to(param, state, kind):
            if table is not None:
                table.flush()
            if kind in (native.RMSPROP, native.ADAM):
                state.setdefault("step", torch.zeros(()))
            table = param.table = Table(param, state, kind, self._plane_names(kind), group["backend"])
        step = table.done + table.pending + 1
        table.step(group["mode"], self._rule(group, step)[1], param.grad)  # type: ignore[arg-type]
        if "step" in state:
            state["step"].fill_(step)
        torch.autograd.graph.increment_version(param)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with every row up to date; run on after it or load it elsewhere: the bits are the same."""
        self._drop_tables()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, whose state it takes too."""
        ways = [(group["mode"], group["backend"]) for group in self.param_groups]
        self._drop_tables()
        super().load_state_dict(state_dict)
        for group, (mode, backend) in zip(self.param_groups, ways, strict=True):
            group.setdefault("mode", mode)
            group["backend"] = backend  # what runs here is no part of a checkpoint

    def _drop_tables(self) -> None:
        # The record of steps begins anew with the next one, here as in an optimizer that has loaded the state.
        self.flush()
        for group in self.param_groups:
            for param in group["params"]:
                if isinstance(param, DeferredParameter):
                    param.table = None


def _constants(
    *, keep: float = 1.0, l2: float = 0.0, beta1: float = 0.0, rest1: float = 1.0, beta2: float = 1.0,
    scale: float = 1.0, eps: float = 0.0, rate: float,
) -> np.ndarray:  # fmt: skip
    return np.array([keep, l2, beta1, rest1, beta2, 1 - beta2, scale, eps, rate])


class DeferredAdam(_Deferred, torch.optim.Adam):
    """torch.optim.Adam, with deferred steps for the tables of `DeferredEmbedding`s (Kingma & Ba 2015).

    Weight decay is L2 here: it gives every row a gradient at every step, so that a row's missed steps must all be run,
    from the first on and in rows never read too. That saves no arithmetic; `DeferredAdamW` does.

    Args:
        params: as for torch.optim.
        lr: learning rate; may change from step to step.
        betas: decay of the mean, which may change from step to step, and of the mean square. A β2 that changes
            flushes.
        eps: positive.
        weight_decay: L2.
        mode: "virtual" folds a row's missed steps into one operation, where `quadrature.fold_error` is at most
            `TOLERANCE` steps, and else replays them; "replay" runs them one by one, to the bits of "dense", which does
            every row at every step.
        backend: "native" on a CPU, "triton" on a GPU or in Triton's interpreter; None chooses by device.

    Raises:
        ValueError: settings that cannot be deferred.
    """

    _dense_step = inspect.unwrap(torch.optim.Adam.step)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        mode: Mode = "virtual",
        backend: str | None = None,
    ) -> None:
        super().__init__(mode, backend, params, lr, betas, eps, weight_decay)

    def _rule(self, group: dict[str, Any], step: int) -> tuple[int, np.ndarray]:
        lr, (beta1, beta2), decay = float(group["lr"]), map(float, group["betas"]), group["weight_decay"]
        decoupled = group["decoupled_weight_decay"]
        return native.ADAM, _constants(
            keep=1 - lr * decay if decoupled else 1.0,
            l2=0.0 if decoupled else decay,
            beta1=beta1,
            rest1=1 - beta1,
            beta2=beta2,
            # The bias correction uses the current β1, as torch does when a schedule moves it.
            scale=1 / math.sqrt(1 - beta2**step),
            eps=group["eps"],
            rate=lr / (1 - beta1**step),
        )


class DeferredAdamW(DeferredAdam, torch.optim.AdamW):
    """torch.optim.AdamW, with deferred steps for the tables of `DeferredEmbedding`s (Loshchilov & Hutter 2019).

    Args:
        params: as for torch.optim.
        lr: learning rate; may change from step to step.
        betas: decay of the mean, which may change from step to step, and of the mean square. A β2 that changes
            flushes.
        eps: positive.
        weight_decay: decoupled: every step multiplies weights by 1 − lr·weight_decay.
        mode: as for `DeferredAdam`.
        backend: likewise.

    Raises:
        ValueError: settings that cannot be deferred.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        mode: Mode = "virtual",
        backend: str | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, mode=mode, backend=backend)


class DeferredSGD(_Deferred, torch.optim.SGD):
    """torch.optim.SGD, with deferred steps for the tables of `DeferredEmbedding`s.

    Without gradient a step is a linear map of weight and momentum, L2 included, so that missed steps fold exactly.

    Args:
        params: as for torch.optim.
        lr: learning rate; may change from step to step.
        momentum: may change from step to step.
        weight_decay: L2.
        mode: "virtual" multiplies the maps of a row's missed steps, "replay" runs them one by one, to the bits of
            "dense", which does every row at every step.
        backend: as for `DeferredAdam`.

    Raises:
        ValueError: settings that cannot be deferred.
    """

    _dense_step = inspect.unwrap(torch.optim.SGD.step)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        mode: Mode = "virtual",
        backend: str | None = None,
    ) -> None:
        super().__init__(mode, backend, params, lr, momentum, weight_decay=weight_decay)

    def _rule(self, group: dict[str, Any], step: int) -> tuple[int, np.ndarray]:  # noqa: ARG002
        kind = native.MOMENTUM if group["momentum"] else native.SGD
        return kind, _constants(l2=group["weight_decay"], beta1=group["momentum"], rate=float(group["lr"]))


class DeferredRMSprop(_Deferred, torch.optim.RMSprop):
    """torch.optim.RMSprop without momentum, with deferred steps for the tables of `DeferredEmbedding`s.

    Without decay, a step without gradient only shrinks the mean square. Weight decay is L2: it gives every row a
    gradient at every step, all of which must be run, so that nothing is saved.

    Args:
        params: as for torch.optim.
        lr: learning rate; may change from step to step.
        alpha: decay of the mean square.
        eps: positive.
        weight_decay: L2.
        mode: as for `DeferredSGD`.
        backend: as for `DeferredAdam`.

    Raises:
        ValueError: settings that cannot be deferred.
    """

    _dense_step = inspect.unwrap(torch.optim.RMSprop.step)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        mode: Mode = "virtual",
        backend: str | None = None,
    ) -> None:
        super().__init__(mode, backend, params, lr, alpha, eps, weight_decay)

    def _rule(self, group: dict[str, Any], step: int) -> tuple[int, np.ndarray]:  # noqa: ARG002
        return native.RMSPROP, _constants(
            l2=group["weight_decay"], beta2=group["alpha"], eps=group["eps"], rate=float(group["lr"])
        )

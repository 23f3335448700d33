"""torch's optimizers, with deferred steps for the tables of `DeferredEmbedding`s."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..eager import EagerOptimizer, eager
from ..steps import ADAM, KINDS, MOMENTUM, RMSPROP, SGD, Kind, Optimizer, constants
from .embedding import DeferredParameter
from .table import Mode, Table

NOT_DEFERRED = ("amsgrad", "maximize", "nesterov", "dampening", "centered", "capturable", "differentiable")
# torch's names of the running mean and mean square.
PLANES: dict[Kind, tuple[str | None, str | None]] = {
    SGD: (None, None),
    MOMENTUM: ("momentum_buffer", None),
    RMSPROP: (None, "square_avg"),
    ADAM: ("exp_avg", "exp_avg_sq"),
}


class TableState(dict[str, Any]):
    """A table's state in an optimizer. Any access first brings the table up to date; the next step reads it again."""

    def __init__(self, state: dict[str, Any], param: DeferredParameter) -> None:
        super().__init__(state)
        self._param = param

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self.items()),)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(dict(self.items()), memo)


def _watched(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    @wraps(method)
    def watched(self: TableState, *args: Any, **kwargs: Any) -> Any:
        self._param.drop_table()
        return method(self, *args, **kwargs)

    return watched


for _name in (
    "__getitem__", "__iter__", "__setitem__", "__delitem__", "__ior__", "__or__",
    "__eq__", "__ne__", "__repr__", "clear", "copy", "get", "items", "pop", "popitem", "setdefault", "update", "values",
):  # fmt: skip
    setattr(TableState, _name, _watched(_name))


class _Deferred(EagerOptimizer):
    """What the deferred optimizers share. All parameters except deferred tables get torch's own step."""

    _dense_step: ClassVar[Callable[[Any], Any]]  # torch's step without its hooks and timers: our own step has those

    def __init__(self, mode: Mode, backend: str | None, *args: Any, **kwargs: Any) -> None:
        self._mode, self._backend = mode, backend
        super().__init__(*args, **kwargs)
        # torch's fused steps take a GradScaler's factor and its finding of an overflow. A table's step does not, so the
        # scaler must divide the gradients, and leave out steps, itself.
        self._step_supports_amp_scaling = False

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_mode": self._mode, "_backend": self._backend}

    def _rule(self, group: dict[str, Any], step: int) -> tuple[Optimizer, dict[str, Any]]:
        """The kind of step, and the arguments of its constants, see `kernels.steps.constants`."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; a group may have its own `mode` and `backend`."""
        param_group.setdefault("mode", self._mode)
        param_group.setdefault("backend", self._backend)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if any(isinstance(param, DeferredParameter) for param in group["params"]):
            try:
                _check(group)
            except ValueError:
                self.param_groups.pop()
                raise

    def flush(self) -> None:
        """Bring every row of every deferred table up to date."""
        for param in self._tables():
            param.flush()

    def _tables(self) -> list[DeferredParameter]:
        return [p for group in self.param_groups for p in group["params"] if isinstance(p, DeferredParameter)]

    @eager
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step. `closure`, if given, computes the gradients and the loss; returns this loss.

        An exception during the step, such as Ctrl-C, leaves each table as it was before the step or after it.

        Raises:
            ValueError: a group with deferred tables has settings that cannot be deferred, a table's state has another
                dtype or shape, or a parameter that is no deferred table has a sparse gradient. Nothing has moved.
            BackendError: the backend cannot run here. Nothing has moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        due = [(group, param, grad) for group in self.param_groups for param, grad in _tables_due(group)]
        with torch.no_grad():
            with torch._C.DisableTorchFunctionSubclass():
                # A table's error comes before any step.
                tables = [self._table_of(param, group) for group, param, _ in due]
                for table, (group, param, grad) in zip(tables, due, strict=True):
                    optimizer, settings = self._rule(group, table.steps + 1)
                    table.step(group["mode"], np.array(constants(optimizer, **settings)), grad, param)
                    torch.autograd.graph.increment_version(param)
            type(self)._dense_step(self)
        return loss

    def _init_group(self, group: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # torch's own step calls this to learn which parameters to move.
        dense = [param for param in group["params"] if not isinstance(param, DeferredParameter)]
        return super()._init_group({**group, "params": dense}, *args, **kwargs)  # type: ignore[misc]

    def _table_of(self, param: DeferredParameter, group: dict[str, Any]) -> Table:
        kind = KINDS[self._rule(group, 1)[0]]
        table = param.table
        if table is None or not table.belongs_to(self.state[param], param, kind):
            table = self._new_table(param, group, kind)
        return table

    def _new_table(self, param: DeferredParameter, group: dict[str, Any], kind: Kind) -> Table:
        param.drop_table()
        kept, state = self.state[param], dict(self.state[param])
        if kind in (RMSPROP, ADAM):
            # As torch's own. SparseAdam's is an int, a fused one's on a GPU.
            dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
            state["step"] = torch.as_tensor(state.get("step", 0.0), dtype=dtype, device="cpu").reshape(())
        table = Table(param, kind, PLANES[kind], state, group["backend"])
        # As in torch, the dictionary of a parameter stays the same one; that of another parameter stays the other's.
        if isinstance(kept, TableState) and kept._param is param:
            kept.update(state)
        else:
            kept = TableState(state, param)
        self.state[param] = kept
        table.keep_in(kept)
        param.table = table
        return table

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with every row up to date. A run that loads it gives the same bits as the run that continues."""
        # The next step begins a new record, as in an optimizer that loads this state: so both give the same bits.
        for param in self._tables():
            param.drop_table()
        with self.register_state_dict_post_hook(_with_plain_states, prepend=True):  # before the caller's hooks
            return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's. It also loads the checkpoints of torch's optimizers, including SparseAdam.

        Raises:
            ValueError: the checkpoint is another kind of optimizer's, or has settings that cannot be deferred. Nothing
                has changed.
        """
        with self.register_load_state_dict_pre_hook(
            lambda _, given: self._prepare_to_load(given)
        ):  # after the caller's hooks
            super().load_state_dict(state_dict)

    def _prepare_to_load(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The checkpoint with this optimizer's own settings where it has none; raises as `load_state_dict`."""
        groups = []
        for own, saved in zip(self.param_groups, state_dict["param_groups"], strict=False):
            # The backend is this optimizer's, not the checkpoint's. SparseAdam's checkpoints lack some settings.
            group = {**own, **saved, "backend": own["backend"]}
            for param, number in zip(own["params"], saved["params"], strict=False):
                if isinstance(param, DeferredParameter):
                    _check({**group, "params": own["params"]})
                    _check_state(state_dict["state"].get(number, {}), PLANES[KINDS[self._rule(group, 1)[0]]])
            groups.append(group)
        for param in self._tables():
            param.drop_table()
        # If the number of groups differs, torch raises an error.
        return state_dict | {"param_groups": groups + state_dict["param_groups"][len(groups) :]}


def _with_plain_states(_optimizer: torch.optim.Optimizer, found: dict[str, Any]) -> dict[str, Any]:
    states = found["state"].items()
    return found | {"state": {at: dict(state) if isinstance(state, TableState) else state for at, state in states}}


def _tables_due(group: dict[str, Any]) -> list[tuple[DeferredParameter, Tensor]]:
    """The deferred tables of a group that have a gradient, each with its gradient.

    Raises:
        ValueError: the settings cannot be deferred, or a parameter that is not deferred has a sparse gradient.
    """
    due = []
    for param in group["params"]:
        grad = param.grad
        if grad is None:
            continue
        if isinstance(param, DeferredParameter):
            if grad.is_sparse and grad.sparse_dim() != 1:
                raise ValueError(
                    f"a sparse gradient {list(grad.shape)} of single numbers: a table needs one of rows, as "
                    "to_sparse(1) makes it"
                )
            due.append((param, grad))
        elif grad.is_sparse:
            raise ValueError(
                f"a parameter {list(param.shape)} has a sparse gradient and is not deferred: make it a "
                "DeferredEmbedding's, call attach(embedding), or leave out sparse=True"
            )
    if due:
        _check(group)
    return due


def _check(group: dict[str, Any]) -> None:
    """Raise ValueError if the settings cannot be deferred. A schedule, checkpoint or program may have changed them."""
    if group["mode"] not in get_args(Mode):
        raise ValueError(f"mode={group['mode']!r}: there are {', '.join(get_args(Mode))}")
    wrong = [name for name in NOT_DEFERRED if group.get(name)]
    if "alpha" in group and group["momentum"]:
        wrong.append("momentum")
    for param in group["params"]:
        if isinstance(param, DeferredParameter) and param.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"deferred steps need a float32 or float64 table, not {param.dtype}: use nn.Embedding")
    tiny = max(torch.finfo(param.dtype).tiny for param in group["params"] if isinstance(param, DeferredParameter))
    if not tiny <= group.get("eps", 1) < math.inf:  # a denormal number counts as zero
        wrong.append(f"eps={group['eps']}")
    if wrong:
        raise ValueError(f"steps with {', '.join(wrong)} cannot be deferred: leave that out, or use nn.Embedding")
    numbers = [(name, group[name], math.inf) for name in ("lr", "weight_decay", "momentum", "alpha") if name in group]
    for name, value, end in numbers + [("betas", beta, 1) for beta in group.get("betas", ())]:
        if not 0 <= value < end:
            raise ValueError(f"{name}: {float(value)} does not lie in [0, {end})")


def _check_state(state: dict[str, Any], planes: tuple[str | None, str | None]) -> None:
    needed = {*filter(None, planes)} - {"momentum_buffer"}  # the first step creates that one
    if state and not (needed <= state.keys() <= {"step", "momentum_buffer", *needed}):
        raise ValueError(
            f"the checkpoint has {', '.join(state)} of a deferred table, which needs "
            f"{', '.join(filter(None, planes)) or 'nothing'}: another kind of optimizer saved it"
        )


class DeferredAdam(_Deferred, torch.optim.Adam):
    """torch.optim.Adam, with deferred steps for the tables of `DeferredEmbedding`s (Kingma & Ba 2015).

    >>> table = DeferredEmbedding.from_pretrained(torch.ones(3, 1), freeze=False)
    >>> optimizer = DeferredAdam(table.parameters(), lr=0.5)
    >>> table(torch.tensor([1])).sum().backward()
    >>> optimizer.step()
    >>> table.weight.flatten().tolist()  # the first step moves by the rate
    [1.0, 0.5, 1.0]

    Weight decay is L2 here: it gives every row a gradient at every step, so all missed steps must be run, from the
    first step on and also in rows that are never read. This saves no arithmetic; `DeferredAdamW` does.

    Args:
        params: as for torch.optim.
        lr: learning rate; may change from step to step.
        betas: decay of the mean, which may change from step to step, and of the mean square. Changing β2
            flushes the tables.
        eps: positive.
        weight_decay: L2.
        fused: whether all other parameters get torch's fused step, which is faster; None chooses as torch does.
        mode: "folded" folds a row's missed steps into one operation if `quadrature.fold_error` is at most `TOLERANCE`
            steps, and replays them if not. "replay" runs them one by one, with the same bits as "dense", which moves
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
        fused: bool | None = None,
        mode: Mode = "folded",
        backend: str | None = None,
    ) -> None:
        super().__init__(mode, backend, params, lr, betas, eps, weight_decay, fused=fused)

    def _rule(self, group: dict[str, Any], step: int) -> tuple[Optimizer, dict[str, Any]]:
        beta1, beta2 = map(float, group["betas"])
        return "adam", {
            "lr": float(group["lr"]),
            "step": step,
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "weight_decay": float(group["weight_decay"]),
            "decay": "decoupled" if group["decoupled_weight_decay"] else "l2",
        }


class DeferredAdamW(DeferredAdam, torch.optim.AdamW):
    """torch.optim.AdamW, with deferred steps for the tables of `DeferredEmbedding`s (Loshchilov & Hutter 2019).

    >>> table = DeferredEmbedding.from_pretrained(torch.ones(3, 1), freeze=False)
    >>> optimizer = DeferredAdamW(table.parameters(), lr=0.5, weight_decay=0.5)
    >>> table(torch.tensor([1])).sum().backward()
    >>> optimizer.step()
    >>> table.weight.flatten().tolist()  # all rows decay, and row 1 also moves by the rate
    [0.75, 0.25, 0.75]

    Args:
        params: as for torch.optim.
        lr: learning rate; may change from step to step.
        betas: decay of the mean, which may change from step to step, and of the mean square. Changing β2
            flushes the tables.
        eps: positive.
        weight_decay: decoupled: every step multiplies weights by 1 − lr·weight_decay.
        fused: as for `DeferredAdam`.
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
        fused: bool | None = None,
        mode: Mode = "folded",
        backend: str | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused=fused, mode=mode, backend=backend)


class DeferredSGD(_Deferred, torch.optim.SGD):
    """torch.optim.SGD, with deferred steps for the tables of `DeferredEmbedding`s.

    Without a gradient a step is a linear map of weight and momentum, also with L2, so missed steps fold exactly.

    >>> table = DeferredEmbedding.from_pretrained(torch.ones(3, 1), freeze=False)
    >>> optimizer = DeferredSGD(table.parameters(), lr=0.5, weight_decay=0.5)
    >>> table(torch.tensor([1])).sum().backward()
    >>> optimizer.step()
    >>> table.weight.flatten().tolist()  # L2 shrinks all rows
    [0.75, 0.25, 0.75]

    Args:
        params: as for torch.optim.
        lr: learning rate; may change from step to step.
        momentum: may change from step to step.
        weight_decay: L2.
        fused: as for `DeferredAdam`.
        mode: "folded" multiplies the maps of a row's missed steps. "replay" runs them one by one, with the same bits as
            "dense", which moves every row at every step.
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
        fused: bool | None = None,
        mode: Mode = "folded",
        backend: str | None = None,
    ) -> None:
        super().__init__(mode, backend, params, lr, momentum, weight_decay=weight_decay, fused=fused)

    def _init_group(self, group: dict[str, Any], params: list[Tensor], grads: Any, means: list[Any]) -> Any:
        found = super()._init_group(group, params, grads, means)
        # torch's fused step wants all buffers or none. Without dampening, a first step from zeros is torch's own.
        if group["fused"] and not group["dampening"] and any(mean is not None for mean in means):
            means[:] = [torch.zeros_like(p) if mean is None else mean for p, mean in zip(params, means, strict=True)]
        return found

    def _rule(self, group: dict[str, Any], step: int) -> tuple[Optimizer, dict[str, Any]]:  # noqa: ARG002
        return "momentum" if group["momentum"] else "sgd", {
            "lr": float(group["lr"]),
            "beta1": float(group["momentum"]),
            "weight_decay": float(group["weight_decay"]),
            "decay": "l2",
        }


class DeferredRMSprop(_Deferred, torch.optim.RMSprop):
    """torch.optim.RMSprop without momentum, with deferred steps for the tables of `DeferredEmbedding`s.

    Without decay, a step without a gradient only shrinks the mean square. Weight decay is L2: it gives every row a
    gradient at every step, and all of these steps must be run, which saves nothing.

    >>> table = DeferredEmbedding.from_pretrained(torch.ones(3, 1), freeze=False)
    >>> optimizer = DeferredRMSprop(table.parameters(), lr=0.125, alpha=0.75)
    >>> table(torch.tensor([1])).sum().backward()
    >>> optimizer.step()
    >>> table.weight.flatten().tolist()  # row 1 moves by twice the rate
    [1.0, 0.75, 1.0]

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
        mode: Mode = "folded",
        backend: str | None = None,
    ) -> None:
        super().__init__(mode, backend, params, lr, alpha, eps, weight_decay)

    def _rule(self, group: dict[str, Any], step: int) -> tuple[Optimizer, dict[str, Any]]:  # noqa: ARG002
        return "rmsprop", {
            "lr": float(group["lr"]),
            "beta2": float(group["alpha"]),
            "eps": group["eps"],
            "weight_decay": float(group["weight_decay"]),
            "decay": "l2",
        }

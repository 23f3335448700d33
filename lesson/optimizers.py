"""The lesson's optimizers: each is a list of small steps, so that an ablation changes one item.

A step is a function of a parameter, its state and the hyper-parameters of its group, by name. It changes parameter or
state in place; `state["grad"]` is the gradient as changed by earlier steps. All else is `torch.optim.Optimizer`:
parameter groups, `state_dict`, schedulers.

>>> param = torch.nn.Parameter(torch.ones(1))
>>> param.grad = torch.full((1,), 0.5)
>>> Optimizer([param], [weight_decay, sgd_step], lr=0.1, weight_decay=1.0).step()
>>> param.data  # 1 · (1 − .1 · 1) − .1 · .5
tensor([0.8500])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from inspect import Parameter, signature
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kernels import FASTAI, eager, steps
from lesson import checks
from lesson.checks import DataError

State = dict[str, Any]
Step = Callable[..., None]
Params = Iterable[Tensor] | Iterable[dict[str, Any]]


def weight_decay(param: Tensor, state: State, *, lr: float, weight_decay: float, **_: Any) -> None:
    """Decoupled decay: the parameter shrinks by 1 − lr·wd (claim 53)."""
    param.mul_(1 - lr * weight_decay)


def l2_reg(param: Tensor, state: State, *, weight_decay: float, **_: Any) -> None:
    """Decay inside the gradient: it grows by wd·w (claims 46, 50)."""
    state["grad"] = state["grad"].add(param, alpha=weight_decay)


def average_grad(param: Tensor, state: State, *, betas: tuple[float, float], **_: Any) -> None:
    """Exponentially weighted mean of the gradient: m ← β1·m + (1 − β1)·g (claim 68)."""
    _zeros(state, "exp_avg", param).lerp_(state["grad"], 1 - betas[0])


def accumulate_grad(param: Tensor, state: State, *, momentum: float, **_: Any) -> None:
    """The velocity of torch's momentum: m ← μ·m + g (claim 69). As in torch, it stays as it is where μ is 0."""
    if momentum == 0:
        return
    _zeros(state, "exp_avg", param).mul_(momentum).add_(state["grad"])


def average_sqr_grad(param: Tensor, state: State, *, betas: tuple[float, float], **_: Any) -> None:
    """Exponentially weighted mean of the squared gradient: v ← β2·v + (1 − β2)·g²."""
    _zeros(state, "exp_avg_sq", param).mul_(betas[1]).addcmul_(state["grad"], state["grad"], value=1 - betas[1])


def sgd_step(param: Tensor, state: State, *, lr: float, **_: Any) -> None:
    """Step: w −= lr·g (claim 3)."""
    param.sub_(state["grad"], alpha=lr)


def momentum_step(param: Tensor, state: State, *, lr: float, momentum: float | None = None, **_: Any) -> None:
    """Step: w −= lr·m, for either mean (claim 69); w −= lr·g where torch's momentum is 0."""
    param.sub_(state["grad" if momentum == 0 else "exp_avg"], alpha=lr)


def rms_prop_step(param: Tensor, state: State, *, lr: float, eps: float, **_: Any) -> None:
    """Step: w −= lr·g / (√v + eps) (claim 70)."""
    param.addcdiv_(state["grad"], state["exp_avg_sq"].sqrt().add_(eps), value=-lr)


def adam_step(param: Tensor, state: State, *, lr: float, betas: tuple[float, float], eps: float, **_: Any) -> None:
    """Step: w −= lr·m / (√v + eps), both corrected for their start at zero (claim 73)."""
    root = state["exp_avg_sq"].sqrt().div_(math.sqrt(1 - betas[1] ** state["step"]))
    param.addcdiv_(state["exp_avg"], root.add_(eps), value=-lr / (1 - betas[0] ** state["step"]))


def sign_step(param: Tensor, state: State, *, lr: float, **_: Any) -> None:
    """Step: w −= lr·sign(g): the step of an Adam that is re-created for each batch (claim 66)."""
    param.sub_(state["grad"].sign(), alpha=lr)


# As A's note writes RMSprop and Adam, and as the lecture's spreadsheet has them. Without an eps, a parameter whose
# gradients have all been zero becomes NaN.


def average_sqr_grad_by_rate(param: Tensor, state: State, *, lr: float, betas: tuple[float, float], **_: Any) -> None:
    """A's mean of the squared gradient, with the rate where 1 − β2 belongs: v ← β2·v + lr·g² (slip 13)."""
    _zeros(state, "exp_avg_sq", param).mul_(betas[1]).addcmul_(state["grad"], state["grad"], value=lr)


def rms_prop_step_without_root(param: Tensor, state: State, *, lr: float, **_: Any) -> None:
    """A's step of RMSprop: w −= lr·g / v, without the root that its prose names, and without eps (slip 13)."""
    param.addcdiv_(state["grad"], state["exp_avg_sq"], value=-lr)


def rms_prop_step_one_row_late(param: Tensor, state: State, *, lr: float, **_: Any) -> None:
    """The spreadsheet's step of RMSprop: w −= lr·g / √v, with the mean of the row before.

    So it comes before `average_sqr_grad` in the list. The first row has none before it: there v starts at g².
    """
    if "exp_avg_sq" not in state:
        state["exp_avg_sq"] = state["grad"].square()
    param.addcdiv_(state["grad"], state["exp_avg_sq"].sqrt(), value=-lr)


def adam_step_uncorrected(param: Tensor, state: State, *, lr: float, **_: Any) -> None:
    """A's and the spreadsheet's step of Adam: w −= lr·m / √v, without correction and without eps (slip 14)."""
    param.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt(), value=-lr)


def _zeros(state: State, name: str, param: Tensor) -> Tensor:
    """The state of this name, zeros at first."""
    if name not in state:
        state[name] = torch.zeros_like(param)
    mean: Tensor = state[name]
    return mean


class Optimizer(eager.EagerOptimizer):
    """Runs a list of steps over parameters.

    Args:
        params: the parameters, or groups of them: dictionaries with "params" and the group's own settings.
        steps: the steps for each parameter, in order.
        lr: learning rate.
        hypers: the steps' other hyper-parameters: weight_decay, momentum, betas, eps.

    Raises:
        DataError: the list of steps or a number is wrong.
    """

    def __init__(self, params: Params, steps: list[Step], lr: float = 1e-3, **hypers: Any) -> None:
        if not isinstance(steps, list | tuple) or not steps or not all(map(callable, steps)):
            raise DataError(f"steps={checks.shown(steps)}: pass a list of steps, such as [sgd_step]")
        self.steps = list(steps)
        try:
            super().__init__(params, {"lr": lr, **hypers})
        except (TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"params: pass a list of at least one parameter ({error})") from None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters.

        Raises:
            DataError: a number is wrong, or a hyper-parameter of a step is missing.
        """
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except DataError:
            self.param_groups.pop()
            raise

    def _check(self, group: dict[str, Any]) -> None:
        if wrong := [param.dtype for param in group["params"] if not param.is_floating_point()]:
            raise DataError(f"a parameter is {wrong[0]}: a floating dtype is needed")
        for name in CHECKS.keys() & group.keys():
            CHECKS[name](name, group[name])
        for step in self.steps:
            for name, asked in signature(step).parameters.items():
                if asked.kind is Parameter.KEYWORD_ONLY and asked.default is Parameter.empty and name not in group:
                    raise DataError(f"{name}: the step {step.__name__} needs it; pass it to the optimizer by name")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "steps": self.steps}  # torch's copies drop unknown attributes

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient.

        Args:
            closure: computes loss and gradients; its result is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            hypers = {name: value for name, value in group.items() if name != "params"}
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                state["step"] = state.get("step", 0) + 1
                state["grad"] = param.grad
                for step in self.steps:
                    step(param, state, **hypers)
                del state["grad"]
        return loss


def _two_shares(name: str, value: Any) -> None:
    for share in checks.pair(name, value):
        checks.below_one(name, share)


CHECKS: dict[str, Callable[[str, Any], object]] = {
    "lr": lambda name, value: checks.number(name, value, least=0),
    "weight_decay": lambda name, value: checks.number(name, value, least=0),
    "momentum": checks.below_one,
    "betas": _two_shares,
    "eps": lambda name, value: checks.number(name, value, above=0),
}


SGD_STEPS: list[Step] = [weight_decay, sgd_step]
MOMENTUM_STEPS: list[Step] = [weight_decay, accumulate_grad, momentum_step]
RMSPROP_STEPS: list[Step] = [weight_decay, average_sqr_grad, rms_prop_step]
ADAM_STEPS: list[Step] = [l2_reg, average_grad, average_sqr_grad, adam_step]
ADAMW_STEPS: list[Step] = [weight_decay, *ADAM_STEPS[1:]]

# A's momentum is S ← α·g + (1 − α)·S, so its α is 1 − β1 (slip 12).
NOTED_MOMENTUM_STEPS: list[Step] = [average_grad, momentum_step]
NOTED_RMSPROP_STEPS: list[Step] = [average_sqr_grad_by_rate, rms_prop_step_without_root]
NOTED_ADAM_STEPS: list[Step] = [average_grad, average_sqr_grad_by_rate, adam_step_uncorrected]
# The spreadsheet's Adam has β1 = β2 = 0.9.
SHEET_RMSPROP_STEPS: list[Step] = [rms_prop_step_one_row_late, average_sqr_grad]
SHEET_ADAM_STEPS: list[Step] = [average_grad, average_sqr_grad, adam_step_uncorrected]

# For models that only the learner's loop trains: torch's fused AdamW, with fastai's constants.
FUSED = partial(eager.AdamW, betas=FASTAI[:2], eps=FASTAI.eps, fused=True)

Kind = Literal[steps.Optimizer, "sign"]

KINDS: dict[Kind, list[Step]] = {
    "sgd": [sgd_step],
    "momentum": [accumulate_grad, momentum_step],
    "rmsprop": [average_sqr_grad, rms_prop_step],
    "adam": [average_grad, average_sqr_grad, adam_step],
    "sign": [sign_step],
}
DECAYS: dict[steps.Decay, list[Step]] = {"none": [], "l2": [l2_reg], "decoupled": [weight_decay]}


def named(optimizer: torch.optim.Optimizer) -> tuple[Kind, steps.Decay] | None:
    """The names of an optimizer's steps and decay, as native code knows them; None if there are none.

    >>> named(AdamW([torch.nn.Parameter(torch.ones(1))]))
    ('adam', 'decoupled')
    """
    if type(optimizer) is not Optimizer:
        return None
    known = ((kind, decay) for kind in KINDS for decay in DECAYS if DECAYS[decay] + KINDS[kind] == optimizer.steps)
    return next(known, None)


def zero_at_times(momentum: np.ndarray | None) -> bool:
    """Whether it is 0 in some steps and not in others: torch's velocity then waits, and native code's does not."""
    return momentum is not None and bool(0 < np.count_nonzero(momentum) < len(momentum))


def SGD(params: Params, lr: float = 1e-3, weight_decay: float = 0.0) -> Optimizer:  # noqa: N802
    """Plain stochastic gradient descent."""
    return Optimizer(params, SGD_STEPS, lr, weight_decay=weight_decay)


def Momentum(  # noqa: N802
    params: Params, lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0
) -> Optimizer:
    """SGD with torch's momentum."""
    return Optimizer(params, MOMENTUM_STEPS, lr, momentum=momentum, weight_decay=weight_decay)


def RMSprop(  # noqa: N802
    params: Params, lr: float = 1e-3, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """RMSprop (Hinton's course) as in torch: with the root, and eps outside it; torch's alpha is β2."""
    return Optimizer(params, RMSPROP_STEPS, lr, betas=(0.0, alpha), eps=eps, weight_decay=weight_decay)


def Adam(  # noqa: N802
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = FASTAI[:2],
    eps: float = FASTAI.eps,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam with the decay inside the gradient (Kingma & Ba 2015); the constants are fastai's, not torch's."""
    return Optimizer(params, ADAM_STEPS, lr, betas=betas, eps=eps, weight_decay=weight_decay)


def AdamW(  # noqa: N802
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = FASTAI[:2],
    eps: float = FASTAI.eps,
    weight_decay: float = 0.01,
) -> Optimizer:
    """Adam with decoupled decay (Loshchilov & Hutter 2019): the learner's default, with fastai's constants."""
    return Optimizer(params, ADAMW_STEPS, lr, betas=betas, eps=eps, weight_decay=weight_decay)

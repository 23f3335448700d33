"""The lesson's optimizers: each is a list of small steps, so that an ablation is a list with one item changed.

A step is a function of a parameter, its state and the hyper-parameters; it changes parameter or state in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from kernels import FASTAI, AdamConstants
from lesson import checks
from lesson.checks import DataError

State = dict[str, Any]
Step = Callable[[Tensor, State, "Optimizer"], None]


def weight_decay(param: Tensor, state: State, opt: Optimizer) -> None:
    """Decoupled decay: the parameter shrinks by 1 − lr·wd (claim 53)."""
    param.mul_(1 - opt.lr * opt.wd)


def l2_reg(param: Tensor, state: State, opt: Optimizer) -> None:
    """Decay inside the gradient: it grows by wd·w (claims 46, 50)."""
    state["grad"] = state["grad"].add(param, alpha=opt.wd)


def average_grad(param: Tensor, state: State, opt: Optimizer) -> None:
    """Exponentially weighted mean of the gradient (claim 68)."""
    mean = state.setdefault("exp_avg", torch.zeros_like(param))
    mean.lerp_(state["grad"], 1 - opt.momentum)


def average_sqr_grad(param: Tensor, state: State, opt: Optimizer) -> None:
    """Exponentially weighted mean of the squared gradient."""
    mean = state.setdefault("exp_avg_sq", torch.zeros_like(param))
    mean.mul_(opt.beta2).addcmul_(state["grad"], state["grad"], value=1 - opt.beta2)


def accumulate_grad(param: Tensor, state: State, opt: Optimizer) -> None:
    """The velocity of torch's momentum: v ← μv + g (claim 69)."""
    velocity = state.setdefault("velocity", torch.zeros_like(param))
    velocity.mul_(opt.momentum).add_(state["grad"])


def sgd_step(param: Tensor, state: State, opt: Optimizer) -> None:
    """Step: w −= lr · gradient (claim 3)."""
    param.sub_(state["grad"], alpha=opt.lr)


def momentum_step(param: Tensor, state: State, opt: Optimizer) -> None:
    """Step: w −= lr · velocity."""
    param.sub_(state["velocity"], alpha=opt.lr)


def rms_prop_step(param: Tensor, state: State, opt: Optimizer) -> None:
    """Step: w −= lr · gradient / (√(mean square) + eps) (claim 70)."""
    param.addcdiv_(state["grad"], state["exp_avg_sq"].sqrt().add_(opt.eps), value=-opt.lr)


def adam_step(param: Tensor, state: State, opt: Optimizer) -> None:
    """Step: w −= lr · mean / (√(mean square) + eps), both corrected for their start at zero (claim 73)."""
    root = state["exp_avg_sq"].sqrt() / math.sqrt(1 - opt.beta2 ** state["step"])
    param.addcdiv_(state["exp_avg"], root.add_(opt.eps), value=-opt.lr / (1 - opt.momentum ** state["step"]))


class Optimizer:
    """Runs a list of steps over parameters.

    Args:
        params: the parameters.
        steps: what happens to each of them, in order.
        lr: learning rate; may be set anew before each step.
        momentum: μ, or Adam's β1; likewise.
        beta2: decay of the mean square.
        eps: keeps the division finite.
        wd: weight decay.

    Raises:
        DataError: no parameters, or a number that makes no sense.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        steps: list[Step],
        lr: float,
        momentum: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-5,
        wd: float = 0.0,
    ) -> None:
        self.params = [] if isinstance(params, Tensor) or not isinstance(params, Iterable) else list(params)
        if not self.params or not all(isinstance(param, Tensor) for param in self.params):
            raise DataError("params: a list of parameters is needed, with one at least")
        if not isinstance(steps, list | tuple) or not all(map(callable, steps)):
            raise DataError(f"steps={checks.shown(steps)}: a list of steps is needed, such as [sgd_step]")
        self.steps = list(steps)
        self.lr, self.wd = checks.number("lr", lr, least=0), checks.number("wd", wd, least=0)
        self.momentum, self.beta2 = checks.below_one("momentum", momentum), checks.below_one("beta2", beta2)
        self.eps = checks.number("eps", eps, above=0)
        self.state: list[State] = [{"step": 0} for _ in self.params]

    @torch.no_grad()
    def step(self) -> None:
        """One step of every parameter that has a gradient."""
        for param, state in zip(self.params, self.state, strict=True):
            if param.grad is None:
                continue
            state["step"] += 1
            state["grad"] = param.grad
            for step in self.steps:
                step(param, state, self)

    def zero_grad(self) -> None:
        """Forget the gradients; without this they add up (claim 67)."""
        for param in self.params:
            param.grad = None


def SGD(params: Iterable[Tensor], lr: float, wd: float = 0.0) -> Optimizer:  # noqa: N802
    """Plain stochastic gradient descent."""
    return Optimizer(params, [weight_decay, sgd_step], lr, wd=wd)


def Momentum(params: Iterable[Tensor], lr: float, momentum: float = 0.9, wd: float = 0.0) -> Optimizer:  # noqa: N802
    """SGD with torch's momentum."""
    return Optimizer(params, [weight_decay, accumulate_grad, momentum_step], lr, momentum, wd=wd)


def RMSprop(  # noqa: N802
    params: Iterable[Tensor], lr: float, beta2: float = 0.99, eps: float = 1e-8, wd: float = 0.0
) -> Optimizer:
    """RMSprop (Hinton's course) as torch has it: with the root, and eps outside it."""
    return Optimizer(params, [weight_decay, average_sqr_grad, rms_prop_step], lr, beta2=beta2, eps=eps, wd=wd)


def Adam(params: Iterable[Tensor], lr: float, constants: AdamConstants = FASTAI, wd: float = 0.0) -> Optimizer:  # noqa: N802
    """Adam with the decay inside the gradient (Kingma & Ba 2015)."""
    return Optimizer(
        params,
        [l2_reg, average_grad, average_sqr_grad, adam_step],
        lr,
        *checks.adam_constants("constants", constants),
        wd=wd,
    )


def AdamW(params: Iterable[Tensor], lr: float, constants: AdamConstants = FASTAI, wd: float = 0.0) -> Optimizer:  # noqa: N802
    """Adam with decoupled decay (Loshchilov & Hutter 2019): fastai's default."""
    return Optimizer(
        params,
        [weight_decay, average_grad, average_sqr_grad, adam_step],
        lr,
        *checks.adam_constants("constants", constants),
        wd=wd,
    )

"""The dense Adam and AdamW step, as one op that changes its tensors in place.

The op is registered with torch.library as `dotbias::adam_step_`, for torch.compile. Eager calls go straight to the
kernel. `FASTAI` and `TORCH` are the two libraries' default constants, which differ.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from .. import backends
from ..eager import custom_op
from . import native, reference


class AdamConstants(NamedTuple):
    """β1, β2 and eps of an Adam. `FASTAI` and `TORCH` are the defaults of the two libraries.

    >>> FASTAI
    AdamConstants(beta1=0.9, beta2=0.99, eps=1e-05)
    """

    beta1: float
    beta2: float
    eps: float


FASTAI = AdamConstants(0.9, 0.99, 1e-5)  # fastai v2's default; v1 had eps 1e-8
TORCH = AdamConstants(0.9, 0.999, 1e-8)  # Kingma & Ba 2015, and torch.optim's default


def adam_step_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    beta1: float = TORCH.beta1,
    beta2: float = TORCH.beta2,
    eps: float = TORCH.eps,
    weight_decay: float = 0.0,
    step: int,
    decoupled: bool = True,
    backend: str | None = None,
) -> None:
    """Take one dense step, in place (Kingma & Ba 2015; decoupled decay: Loshchilov & Hutter 2019; claim 73).

    Every parameter moves, even with a gradient of zero, because momentum continues and decay shrinks.

    torch.compile compiles a step anew for every other rate or beta, and gives up after a few (`recompile_limit` in
    `torch._dynamo.config`): under a schedule, call it outside of compiled code.

    >>> param, grad, mean, square = torch.tensor([1.0]), torch.tensor([0.5]), torch.zeros(1), torch.zeros(1)
    >>> adam_step_(param, grad, mean, square, lr=0.25, step=1)
    >>> param  # the first step moves by the rate, whatever the size of the gradient
    tensor([0.7500])

    Args:
        param: the parameters, any shape, contiguous.
        grad: their gradient, of the same shape and any floating dtype.
        exp_avg: running mean of the gradient, same shape; zeros before step 1. Of param's dtype, or float32 for a
            half-precision param.
        exp_avg_sq: running mean of its square, likewise.
        lr: learning rate of this step.
        beta1: momentum of this step; may change from step to step, as in one-cycle.
        beta2: decay of the mean square.
        eps: added to the root of the corrected mean square.
        weight_decay: `wd` of the lesson.
        step: 1 for the first step.
        decoupled: True shrinks parameters by 1 − lr·wd (AdamW); False adds wd·param to the gradient (L2).
        backend: "reference", "native" or "triton"; None chooses by device.

    Raises:
        BackendError: the named backend cannot run on these tensors.
        ValueError: shapes that differ, a tensor that is not contiguous, not floating or sparse, averages of another
            dtype, or a number out of its range.
    """
    for name, tensor in {"param": param, "grad": grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}; a floating dtype is needed")
        if tensor.layout is not torch.strided:
            raise ValueError(f"{name} is sparse: a dense step needs dense tensors, as to_dense() makes them")
    for name, tensor in {"grad": grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}.items():
        if tensor.shape != param.shape or tensor.device != param.device:
            raise ValueError(
                f"{name} is {list(tensor.shape)} on {tensor.device}, param {list(param.shape)} on {param.device}"
            )
    for name, tensor in {"param": param, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name} is not contiguous, and is changed in place: call .contiguous() first")
    dtypes = {param.dtype, torch.float32} if param.itemsize < 4 else {param.dtype}
    for name, tensor in {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}.items():
        if tensor.dtype not in dtypes:
            raise ValueError(f"{name} is {tensor.dtype}, param {param.dtype}: averages have their parameter's dtype")
    if not isinstance(step, int) or step < 1:
        raise ValueError(f"{step=}: it must be an integer, and the first step is 1")
    for name, value, end in (("lr", lr, math.inf), ("beta1", beta1, 1), ("beta2", beta2, 1), ("eps", eps, math.inf),
                             ("weight_decay", weight_decay, math.inf)):  # fmt: skip
        if not 0 <= value < end:
            raise ValueError(f"{name}={value}: it must lie in [0, {end})")
    chosen = backends.choose(backend, param.device, param.dtype)
    arguments = (param, grad, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, weight_decay, step, decoupled, chosen)
    if torch.compiler.is_compiling() or type(grad) is not Tensor:
        _step_op(*arguments)
    else:  # the call through torch.library would cost fifty microseconds, more than the step of a small table
        with torch.no_grad():
            _step(*arguments)
        torch.autograd.graph.increment_version((param, exp_avg, exp_avg_sq))


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from . import triton_kernels  # imported here, because not every platform has Triton

        return triton_kernels
    return {"reference": reference, "native": native}[backend]


def _step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    decoupled: bool,
    backend: str,
) -> None:
    with torch.cuda.device_of(param):  # Triton launches on the current device
        _implementation(backend).step_(
            param,
            grad,
            exp_avg,
            exp_avg_sq,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
            step=step,
            decoupled=decoupled,
        )


_step_op = custom_op("dotbias::adam_step_", ("param", "exp_avg", "exp_avg_sq"))(_step)


@_step_op.register_fake
def _(
    param: Tensor,  # noqa: ARG001
    grad: Tensor,  # noqa: ARG001
    exp_avg: Tensor,  # noqa: ARG001
    exp_avg_sq: Tensor,  # noqa: ARG001
    lr: float,  # noqa: ARG001
    beta1: float,  # noqa: ARG001
    beta2: float,  # noqa: ARG001
    eps: float,  # noqa: ARG001
    weight_decay: float,  # noqa: ARG001
    step: int,  # noqa: ARG001
    decoupled: bool,  # noqa: ARG001
    backend: str,  # noqa: ARG001
) -> None:
    return None

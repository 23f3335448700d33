"""A dense Adam or AdamW step in Triton: it calls the kernel of `kernels.optimizers` with one tensor."""

from __future__ import annotations

from torch import Tensor

from ..optimizers import triton_kernels as optimizers


def step_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    decoupled: bool,
) -> None:
    """See `kernels.adam.adam_step_`. Any floating dtype; half-precision parameters have float32 averages."""
    optimizers.step_(
        "adam",
        [param],
        [grad],
        [exp_avg],
        [exp_avg_sq],
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        step=step,
        decoupled=decoupled,
    )

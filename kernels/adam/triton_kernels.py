"""A dense Adam or AdamW step as one Triton kernel: every parameter and its state read and written once."""

# mypy: disallow-incomplete-defs=False
# A kernel annotates what Triton reads: constants and doubles. Tensors and pointers have no type to write.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # parameters a program: eight a thread, two 16-byte loads from each fp32 table


@triton.jit
def _sqrt(x):
    # tl.sqrt and / are approximate in float32 alone; the exact forms take float32 alone.
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def _divide(x, y):
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def _adam_block(
    param, grad, exp_avg, exp_avg_sq, where, mask,
    decay, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction2, eps,
    decoupled: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    w = tl.load(param + where, mask=mask).to(arithmetic)
    g = tl.load(grad + where, mask=mask).to(arithmetic)
    m = tl.load(exp_avg + where, mask=mask).to(arithmetic)
    v = tl.load(exp_avg_sq + where, mask=mask).to(arithmetic)
    if decoupled:
        w = w * decay  # 1 − lr·wd
    else:
        g = g + decay * w  # wd
    m = beta1 * m + one_minus_beta1 * g
    v = beta2 * v + one_minus_beta2 * (g * g)
    w = w - step_size * _divide(m, _divide(_sqrt(v), root_correction2) + eps)
    tl.store(param + where, w, mask=mask)
    tl.store(exp_avg + where, m, mask=mask)
    tl.store(exp_avg_sq + where, v, mask=mask)


# The scalars are doubles, rounded once to the arithmetic's type: Triton would round a plain float to fp32.
@triton.jit
def _adam_step(
    param, grad, exp_avg, exp_avg_sq, n,
    decay: tl.float64, beta1: tl.float64, one_minus_beta1: tl.float64,
    beta2: tl.float64, one_minus_beta2: tl.float64,
    step_size: tl.float64, root_correction2: tl.float64, eps: tl.float64,
    decoupled: tl.constexpr, arithmetic: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    decay = tl.full((), decay, arithmetic)
    beta1 = tl.full((), beta1, arithmetic)
    one_minus_beta1 = tl.full((), one_minus_beta1, arithmetic)
    beta2 = tl.full((), beta2, arithmetic)
    one_minus_beta2 = tl.full((), one_minus_beta2, arithmetic)
    step_size = tl.full((), step_size, arithmetic)
    root_correction2 = tl.full((), root_correction2, arithmetic)
    eps = tl.full((), eps, arithmetic)
    start = tl.program_id(0).to(tl.int64) * block
    where = start + tl.arange(0, block)
    # A mask whose edge may fall anywhere forbids 16-byte loads, so only the last block has one.
    if start + block <= n:
        _adam_block(
            param, grad, exp_avg, exp_avg_sq, where, None,
            decay, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction2, eps,
            decoupled, arithmetic,
        )  # fmt: skip
    else:
        _adam_block(
            param, grad, exp_avg, exp_avg_sq, where, where < n,
            decay, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction2, eps,
            decoupled, arithmetic,
        )  # fmt: skip


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
    """One dense Adam step in place, by torch's formulas; AdamW's where `decoupled`.

    Arithmetic is float32, float64 for float64 parameters, rounded operation by operation (no fused
    multiply-adds). The bias corrections use the betas of this step, as torch does under a schedule.

    Args:
        param: contiguous, any shape and float dtype; written.
        grad: of param's shape.
        exp_avg: of param's shape, contiguous, the running mean of the gradient; written.
        exp_avg_sq: of param's shape, contiguous, the running mean of its square; written.
        lr: learning rate.
        beta1: decay of exp_avg.
        beta2: decay of exp_avg_sq.
        eps: added to the denominator.
        weight_decay: added to the gradient as L2, or where `decoupled` taken off the weights as lr·wd·w.
        step: t ≥ 1, the number of this step.
        decoupled: AdamW (Loshchilov & Hutter 2019) rather than Adam (Kingma & Ba 2015).
    """
    n = param.numel()
    _adam_step[(triton.cdiv(n, BLOCK),)](
        param, grad.contiguous(), exp_avg, exp_avg_sq, n,
        1 - lr * weight_decay if decoupled else weight_decay,
        beta1, 1 - beta1, beta2, 1 - beta2,
        lr / (1 - beta1**step), math.sqrt(1 - beta2**step), eps,
        decoupled=decoupled,
        arithmetic=tl.float64 if param.dtype == torch.float64 else tl.float32,
        block=BLOCK, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def examples() -> Iterator[tuple[str, Any, Callable[[], object], str, int, float]]:
    """Launches for `python -m kernels.inspect`; see `Example` there."""

    def launch(n: int, param: torch.dtype, state: torch.dtype, decoupled: bool) -> Callable[[], object]:
        p, g = torch.zeros(n, dtype=param), torch.zeros(n, dtype=param)
        m, v = torch.zeros(n, dtype=state), torch.zeros(n, dtype=state)
        return lambda: step_(
            p, g, m, v, lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-5, weight_decay=0.1, step=1, decoupled=decoupled
        )

    # Floor: parameter and both means read and written, the gradient read.
    f32, f64, bf16 = torch.float32, torch.float64, torch.bfloat16
    yield "adam.step_ AdamW fp32", _adam_step, launch(4096, f32, f32, True), "parameter", 4096, 7 * 4
    # 4,097: a size that no power of two divides must not lose the wide loads.
    yield "adam.step_ Adam fp32, odd size", _adam_step, launch(4097, f32, f32, False), "parameter", 4097, 7 * 4
    yield "adam.step_ AdamW bf16", _adam_step, launch(4096, bf16, f32, True), "parameter", 4096, 3 * 2 + 4 * 4
    yield "adam.step_ AdamW fp64", _adam_step, launch(4096, f64, f64, True), "parameter", 4096, 7 * 8

"""Dense SGD, momentum, RMSprop and Adam steps as one Triton kernel over a list of tensors.

A model has several small tables, and a launch costs more than the step of one of them. So one launch steps up to
TENSORS tables. Each program looks up which table its block lies in. Each number is read and written once.
"""

# mypy: disallow-incomplete-defs=False
# Kernels annotate only what Triton reads: constants and doubles. Tensors and pointers have no type to write.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..steps import Constants, Optimizer, constants

BLOCK = 1024  # numbers per program: eight per thread, two 16-byte loads from each fp32 tensor; twice as many in 16 bits
TENSORS = 8  # the most tensors per launch; the four tables of an embedding-dot-bias model take one launch


@triton.jit
def sqrt(x):
    """The root, rounded to nearest. tl.sqrt is approximate in float32, and the exact tl.sqrt_rn takes only float32."""
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def divide(x, y):
    """The quotient, rounded to nearest; see `sqrt`."""
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def update(
    w, g, m, v, keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate,
    optimizer: tl.constexpr,
):  # fmt: skip
    """Weight, mean and mean square after a step. Those that the optimizer does not have come back unchanged."""
    g = g + tl.where(l2 != 0, l2 * w, 0.0)  # an infinite weight, such as a mask's, stays as it is
    moved = g
    if (optimizer == "momentum") | (optimizer == "adam"):
        m = beta1 * m + rest1 * g
        moved = m
    if (optimizer == "rmsprop") | (optimizer == "adam"):
        v = beta2 * v + rest2 * g * g
        moved = divide(moved, sqrt(v) * scale + eps)
    return w * keep - rate * moved, m, v


@triton.jit
def rounded(keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate, arithmetic: tl.constexpr):
    """The constants of a step, which are doubles, rounded once to the dtype of the arithmetic."""
    return (
        tl.full((), keep, arithmetic), tl.full((), l2, arithmetic),
        tl.full((), beta1, arithmetic), tl.full((), rest1, arithmetic),
        tl.full((), beta2, arithmetic), tl.full((), rest2, arithmetic),
        tl.full((), scale, arithmetic), tl.full((), eps, arithmetic), tl.full((), rate, arithmetic),
    )  # fmt: skip


@triton.jit
def _step_block(
    weight, grad, exp_avg, exp_avg_sq, where, mask, keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate,
    optimizer: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    averages: tl.constexpr = (optimizer == "momentum") | (optimizer == "adam")
    squares: tl.constexpr = (optimizer == "rmsprop") | (optimizer == "adam")
    w = tl.load(weight + where, mask=mask).to(arithmetic)
    g = tl.load(grad + where, mask=mask).to(arithmetic)
    m = tl.load(exp_avg + where, mask=mask).to(arithmetic) if averages else g
    v = tl.load(exp_avg_sq + where, mask=mask).to(arithmetic) if squares else g
    w, m, v = update(w, g, m, v, keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate, optimizer)
    tl.store(weight + where, w, mask=mask)
    if averages:
        tl.store(exp_avg + where, m, mask=mask)
    if squares:
        tl.store(exp_avg_sq + where, v, mask=mask)


# The scalars are doubles, because Triton would round plain floats to fp32.
@triton.jit
def _step(
    weights, grads, exp_avgs, exp_avg_sqs, sizes,
    keep: tl.float64, l2: tl.float64, beta1: tl.float64, rest1: tl.float64, beta2: tl.float64, rest2: tl.float64,
    scale: tl.float64, eps: tl.float64, rate: tl.float64,
    optimizer: tl.constexpr, arithmetic: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    weight, grad, exp_avg, exp_avg_sq = weights[0], grads[0], exp_avgs[0], exp_avg_sqs[0]
    n = tl.full((), sizes[0], tl.int64)
    first = tl.full((), 0, tl.int64)  # the program that has the tensor's first block
    own_first = first
    for tensor in tl.static_range(1, len(sizes)):
        first += tl.cdiv(tl.full((), sizes[tensor - 1], tl.int64), block)
        if program >= first:
            weight, grad, exp_avg, exp_avg_sq = weights[tensor], grads[tensor], exp_avgs[tensor], exp_avg_sqs[tensor]
            n = tl.full((), sizes[tensor], tl.int64)
            own_first = first
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = rounded(
        keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate, arithmetic
    )  # fmt: skip
    start = (program - own_first) * block
    where = start + tl.arange(0, block)
    # A mask that may end anywhere prevents 16-byte loads, so only the last block has one.
    if start + block <= n:
        _step_block(
            weight, grad, exp_avg, exp_avg_sq, where, None,
            keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate, optimizer, arithmetic,
        )  # fmt: skip
    else:
        _step_block(
            weight, grad, exp_avg, exp_avg_sq, where, where < n,
            keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate, optimizer, arithmetic,
        )  # fmt: skip


def check_state(optimizer: Optimizer, averages: bool, squares: bool) -> None:
    """Raise ValueError if an optimizer lacks the running means or mean squares that its kernel would read and write."""
    states = (("exp_avg", averages, ("momentum", "adam")), ("exp_avg_sq", squares, ("rmsprop", "adam")))
    for name, given, needing in states:
        if optimizer in needing and not given:
            raise ValueError(f"{optimizer} needs {name}, one for each weight")


def step_(
    optimizer: Optimizer,
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor] = (),
    exp_avg_sqs: Sequence[Tensor] = (),
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-5,
    weight_decay: float = 0.0,
    step: int = 1,
    decoupled: bool = True,
) -> None:
    """Take one dense step of every tensor, in place, by torch's formulas: up to TENSORS of one dtype per launch.

    The arithmetic is float32 (float64 for float64 weights); every operation is rounded (no fused multiply-adds).

    Args:
        optimizer: "sgd"; "momentum", v ← μv + g; "rmsprop"; "adam".
        weights: contiguous, any shapes and float dtypes. Written.
        grads: of the weights' shapes.
        exp_avgs: the buffers of "momentum", the running means of gradients of "adam"; contiguous, of the weights'
            shapes, float32 for half-precision weights. Written.
        exp_avg_sqs: the running means of squared gradients of "rmsprop" and "adam", likewise.
        lr: learning rate.
        beta1: μ, or Adam's β1.
        beta2: decay of exp_avg_sqs; torch's alpha for "rmsprop".
        eps: added to the root of the mean square.
        weight_decay: `wd` of the lesson.
        step: t ≥ 1, the number of this step.
        decoupled: True subtracts lr·wd·w from the weights, as AdamW does (Loshchilov & Hutter 2019); False adds wd·w to
            the gradient (L2), as Adam does (Kingma & Ba 2015).

    Raises:
        ValueError: lists of different lengths, state that the optimizer needs and does not get, shapes that differ, or
            a tensor that is written and not contiguous.
    """
    if weights:
        check_state(optimizer, bool(exp_avgs), bool(exp_avg_sqs))
    scalars = constants(
        optimizer, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, step=step,
        decay="decoupled" if decoupled else "l2",
    )  # fmt: skip
    groups: dict[Any, list[tuple[Tensor, ...]]] = {}
    # The weights are passed instead of state that the optimizer does not have; the kernel does not read it.
    for tensors in zip(weights, grads, exp_avgs or weights, exp_avg_sqs or weights, strict=True):
        weight, _, *state = tensors
        if any(tensor.shape != weight.shape for tensor in tensors):
            raise ValueError(f"weight, gradient and state have different shapes: {[list(t.shape) for t in tensors]}")
        if not all(tensor.is_contiguous() for tensor in (weight, *state)):
            raise ValueError(f"a weight {list(weight.shape)} or its state is not contiguous, and is changed in place")
        if weight.numel():
            groups.setdefault(tuple((t.dtype, t.device) for t in tensors), []).append(tensors)
    for group in groups.values():
        for first in range(0, len(group), TENSORS):
            _launch(optimizer, group[first : first + TENSORS], scalars)


def _launch(optimizer: Optimizer, group: list[tuple[Tensor, ...]], scalars: Constants) -> None:
    weights, grads, exp_avgs, exp_avg_sqs = zip(*group, strict=True)
    sizes = tuple(weight.numel() for weight in weights)
    block = BLOCK * max(1, 4 // weights[0].itemsize)
    with torch.cuda.device_of(weights[0]):  # Triton launches on the current device
        _step[(sum(triton.cdiv(size, block) for size in sizes),)](
            weights, tuple(grad.contiguous() for grad in grads), exp_avgs, exp_avg_sqs, sizes, *scalars,
            optimizer=optimizer,
            arithmetic=tl.float64 if weights[0].dtype == torch.float64 else tl.float32,
            block=block, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip


def examples() -> Iterator[tuple[str, Any, Callable[[], object], str, int, float]]:
    """Launches for `python -m kernels.inspect`; see `Example` there."""
    # The floor: weight and state are read and written, the gradient is read.
    f32, f64, bf16, f16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
    four = (4096, 2048, 130, 66)  # weights and biases of two tables; no large power of two divides the biases' sizes
    for name, states in (("sgd", 0), ("momentum", 1), ("rmsprop", 1)):
        floor: float = (3 + 2 * states) * 4
        yield f"optimizers.step_ {name} fp32, 4 tensors", _step, launch(name, four, f32), "parameter", sum(four), floor
    yield "adam.step_ AdamW fp32", _step, launch("adam", [4096], f32), "parameter", 4096, 7 * 4
    # An odd size, 4,097, must not lose the wide loads.
    yield "adam.step_ Adam fp32, odd size", _step, launch("adam", [4097], f32, False), "parameter", 4097, 7 * 4
    yield "adam.step_ AdamW fp32, 4 tensors", _step, launch("adam", four, f32), "parameter", sum(four), 7 * 4
    for half, dtype in (("bf16", bf16), ("fp16", f16)):  # with averages in fp32
        for name, states in (("sgd", 0), ("momentum", 1), ("rmsprop", 1)):
            floor = 3 * 2 + 2 * states * 4
            yield f"optimizers.step_ {name} {half}", _step, launch(name, [4096], dtype), "parameter", 4096, floor
        yield f"adam.step_ AdamW {half}", _step, launch("adam", [4096], dtype), "parameter", 4096, 3 * 2 + 4 * 4
    yield "adam.step_ AdamW fp64", _step, launch("adam", [4096], f64), "parameter", 4096, 7 * 8


def launch(optimizer: Any, sizes: Sequence[int], dtype: torch.dtype, decoupled: bool = True) -> Callable[[], object]:
    """A step of zeros, for `examples`."""
    state = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = [[torch.zeros(size, dtype=t) for size in sizes] for t in (dtype, dtype, state, state)]
    return partial(step_, optimizer, *tensors, lr=1e-3, weight_decay=0.1, decoupled=decoupled)

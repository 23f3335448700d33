"""Deferred steps in Triton: a row is stepped when a batch reads it, after the steps that it missed: replayed or folded.

Dense optimizers move every row at every step, which is work in proportion to the table. Here a launch moves only the
rows that a batch reads, each once. The steps that they missed have no gradient. They are replayed in registers from a
table of the steps' constants, which gives the same bits as dense steps; or folded into one operation, by the two-point
quadrature of `kernels.quadrature`. Weight decay inside the gradient (L2) cannot be folded.
"""

# mypy: disallow-incomplete-defs=False
# Kernels annotate only what Triton reads: constants and doubles. Tensors and pointers have no type to write.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..steps import Constants, Optimizer, constants
from .triton_kernels import check_state, divide, rounded, sqrt, update

START_BLOCK = 256  # starts per program of `add_step_`
NO_STEP = Constants(*[0.0] * len(Constants._fields))


def step_table(steps: Sequence[Constants], like: Tensor) -> Tensor:
    """The constants of steps 1, 2, … in rows 1, 2, …: [steps + 1, 9], on the device of `like`; float64 if that is."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.tensor([[0.0] * len(Constants._fields), *steps], dtype=dtype, device=like.device)


def new_moments(steps: int, beta2: float, device: torch.device | str) -> Tensor:
    """An empty record for folding: float64[10, steps + 1], with a column for each start z = 0 … steps.

    Rows: 0 the product of `keep` up to z; 1 that of β1 since z; 2 that of 1/√β2 since z; 3 … 6 the moments 0 … 3 of the
    measure {(x_j − x_first, W_j)} of the steps since z, with x = 1/(κ + 2), divided by the product of `keep` since z;
    7 the powers of β2; 8 x_first, x of the first step after z; 9 the last step that was added to z.
    """
    moments = torch.empty(10, steps + 1, dtype=torch.float64, device=device)
    clear_moments_(moments, beta2)
    return moments


def clear_moments_(moments: Tensor, beta2: float) -> None:
    """Empty the record: no start has a step."""
    moments.zero_()
    moments[:3] = 1
    moments[7] = beta2 ** torch.arange(moments.shape[1], dtype=torch.float64, device=moments.device)


# t changes at every step, so separate code for 1 and for multiples of 16 would not pay for its compilation.
@triton.jit(do_not_specialize=["t", "first"])
def _add_step(
    moments, stride, t, first, keep: tl.float64, beta1: tl.float64, up: tl.float64, root: tl.float64, rate: tl.float64,
    block: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    t = t.to(tl.int64)
    kept = tl.load(moments + (t - 1)) * tl.full((), keep, tl.float64)
    if program == 0:
        tl.store(moments + t, kept)
    z = first.to(tl.int64) + program * block + tl.arange(0, block)
    live = z < t
    live &= tl.load(moments + (9 * stride + z), mask=live, other=0) < t  # a repeated launch changes nothing
    tl.store(moments + (9 * stride + z), t.to(tl.float64), mask=live)
    means = tl.load(moments + (stride + z), mask=live, other=0) * tl.full((), beta1, tl.float64)
    ups = tl.load(moments + (2 * stride + z), mask=live, other=0) * tl.full((), up, tl.float64)
    tl.store(moments + (stride + z), means, mask=live)
    tl.store(moments + (2 * stride + z), ups, mask=live)
    kappa = tl.full((), root, tl.float64) * ups
    # Divided by the decays since z: so decay applies to old starts too, and they need no update.
    term = tl.full((), rate, tl.float64) / kept * tl.load(moments + z, mask=live, other=0) * means * kappa
    x = 1 / (kappa + 2)
    tl.store(moments + (8 * stride + z), x, mask=live & (z == t - 1))
    x -= tl.where(z == t - 1, x, tl.load(moments + (8 * stride + z), mask=live, other=0))
    for power in tl.static_range(4):
        at = moments + ((3 + power) * stride + z)
        tl.store(at, tl.load(at, mask=live, other=0) + term, mask=live)
        term *= x


def add_step_(moments: Tensor, step: Constants, t: int, first: int) -> None:
    """Add step t to the starts z = first … t − 1, for the rows that miss it.

    Args:
        moments: from `new_moments`; written.
        step: the constants of step t.
        t: ≥ 1; every step is added once, in order.
        first: the oldest start that gets a new term. Terms fade as (β1/√β2)^(t − z). SGD and RMSprop need none: t.
    """
    # Only Adam, which does not fold at β2 = 0, reads the powers of 1/√β2.
    up = 1 / math.sqrt(step.beta2) if step.beta2 else 0.0
    with torch.cuda.device_of(moments):
        _add_step[(max(1, triton.cdiv(t - first, START_BLOCK)),)](
            moments, moments.shape[1], t, first,
            step.keep, step.beta1, up, 1 / step.scale, step.rate,
            block=START_BLOCK, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip


@triton.jit
def _fold(w, m, v, z, t, moments, stride, oldest, eps, folds, optimizer: tl.constexpr, arithmetic: tl.constexpr):
    """Move the rows with `folds` by the steps z + 1 … t, without gradient, as one. See `kernels.quadrature`."""
    # Each row's factors are computed as doubles; they are then applied in the arithmetic of the steps.
    keep = tl.load(moments + t) / tl.load(moments + z, mask=folds, other=1)
    shrink_w = keep.to(arithmetic)[:, None]
    shrink_m = tl.load(moments + (stride + z), mask=folds & (z >= oldest), other=0).to(arithmetic)[:, None]
    shrink_v = tl.load(moments + (7 * stride + (t - z)), mask=folds, other=1).to(arithmetic)[:, None]
    new_w = w * shrink_w
    if (optimizer == "momentum") | (optimizer == "adam"):
        m0 = tl.load(moments + (3 * stride + z), mask=folds, other=1)
        if optimizer == "adam":
            total = tl.where(m0 > 0, m0, 1)  # m0 is 0 if every missed step had rate 0
            mean = tl.load(moments + (4 * stride + z), mask=folds, other=0) / total
            second = tl.load(moments + (5 * stride + z), mask=folds, other=0) / total
            third = tl.load(moments + (6 * stride + z), mask=folds, other=0) / total
            variance = tl.maximum(second - mean * mean, 1e-15)
            skew = (third - 3 * mean * second + 2 * mean * mean * mean) / variance
            spread = tl.sqrt(skew * skew + 4 * variance)
            weight = m0 * (skew + spread) / (2 * spread)  # of the lower node
            mean += tl.load(moments + (8 * stride + z), mask=folds, other=0.3)
            low = eps * (1 / (mean + (skew - spread) / 2) - 2)
            high = eps * (1 / (mean + (skew + spread) / 2) - 2)
            # weight/(√v + low) + (m0 − weight)/(√v + high), as one fraction
            a = (m0 * keep).to(arithmetic)[:, None]
            b = ((weight * high + (m0 - weight) * low) * keep).to(arithmetic)[:, None]
            c = (low + high).to(arithmetic)[:, None]
            d = (low * high).to(arithmetic)[:, None]
            root = sqrt(v)
            moved = m * divide(a * root + b, v + c * root + d)
            new_w -= tl.where(root < float("inf"), moved, 0)
        else:
            new_w -= m * (m0 * keep).to(arithmetic)[:, None]
        m = tl.where(folds[:, None], m * shrink_m, m)
    if (optimizer == "rmsprop") | (optimizer == "adam"):
        v = tl.where(folds[:, None], v * shrink_v, v)
    return tl.where(folds[:, None], new_w, w), m, v


@triton.jit
def _step_missed(
    w, m, v, steps, t, weight_type: tl.constexpr, optimizer: tl.constexpr, arithmetic: tl.constexpr
):  # fmt: skip
    at = t * 9  # int64, like every offset
    w, m, v = update(
        w, tl.zeros_like(w), m, v, tl.load(steps + at), tl.load(steps + (at + 1)), tl.load(steps + (at + 2)),
        tl.load(steps + (at + 3)), tl.load(steps + (at + 4)), tl.load(steps + (at + 5)), tl.load(steps + (at + 6)),
        tl.load(steps + (at + 7)), tl.load(steps + (at + 8)), optimizer,
    )  # fmt: skip
    return w.to(weight_type).to(arithmetic), m, v  # rounded as in the store of a dense step


# The constants of step t are arguments: a copy from the host to the table before the launch would cost as much again.
@triton.jit(do_not_specialize=["n", "table_rows", "t", "done", "oldest"])
def _step_rows(
    ids, n, last, table_rows, weight, exp_avg, exp_avg_sq, grads, steps, moments, moments_stride, t, done, oldest,
    stamp, fold_eps: tl.float64, keep: tl.float64, l2: tl.float64, beta1: tl.float64, rest1: tl.float64,
    beta2: tl.float64, rest2: tl.float64, scale: tl.float64, eps: tl.float64, rate: tl.float64,
    stride: tl.constexpr, k: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr, has_grads: tl.constexpr,
    has_moments: tl.constexpr, optimizer: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    averages: tl.constexpr = (optimizer == "momentum") | (optimizer == "adam")
    squares: tl.constexpr = (optimizer == "rmsprop") | (optimizer == "adam")
    weight_type: tl.constexpr = weight.dtype.element_ty
    t = t.to(tl.int64)
    until = t - 1 if has_grads else t  # the last missed step
    where = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    valid = where < n
    row = tl.load(ids + where, mask=valid, other=0).to(tl.int64)  # row · stride overflows int32 in a large table
    valid &= (row >= 0) & (row < table_rows)
    done = done.to(tl.int64)
    if has_grads:
        z = tl.load(last + row, mask=valid, other=0).to(tl.int64) - done
    else:  # ids may repeat: whoever raises the row's number first moves it, and the others find it up to date
        now = (tl.zeros((rows,), tl.int64) + (t + done)).to(last.dtype.element_ty)
        z = tl.atomic_max(last + row, now, mask=valid, sem="relaxed").to(tl.int64) - done
    # Rows that have missed no step, or have taken this one, stay as they are.
    valid &= z < t
    z = tl.where(valid, z, until)
    column = tl.arange(0, columns)[None, :]
    mask = valid[:, None] & (column < k)
    at = row[:, None] * stride + column
    w = tl.load(weight + at, mask=mask, other=0).to(arithmetic)
    m = tl.load(exp_avg + at, mask=mask, other=0).to(arithmetic) if averages else w
    v = tl.load(exp_avg_sq + at, mask=mask, other=0).to(arithmetic) if squares else w
    if has_moments:
        folds = z < until
        fold_eps = tl.full((), fold_eps, tl.float64)
        w, m, v = _fold(w, m, v, z, until, moments, moments_stride, oldest, fold_eps, folds, optimizer, arithmetic)
        z = tl.where(folds, until, z)
    for step in range(tl.min(z, axis=0) + 1, until + 1):
        new_w, new_m, new_v = _step_missed(w, m, v, steps, step, weight_type, optimizer, arithmetic)
        missed = (z < step)[:, None]
        w = tl.where(missed, new_w, w)
        m = tl.where(missed, new_m, m)
        v = tl.where(missed, new_v, v)
    if has_grads:
        g = tl.load(grads + (where[:, None] * k + column), mask=mask, other=0).to(arithmetic)
        keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = rounded(
            keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate, arithmetic
        )  # fmt: skip
        w, m, v = update(w, g, m, v, keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate, optimizer)
    tl.store(weight + at, w, mask=mask)
    if averages:
        tl.store(exp_avg + at, m, mask=mask)
    if squares:
        tl.store(exp_avg_sq + at, v, mask=mask)
    if has_grads:
        tl.store(last + row, t + done, mask=valid)
        if tl.program_id(0) == 0:
            at_t = t * 9  # int64, like every offset
            tl.store(steps + at_t, keep)
            tl.store(steps + (at_t + 1), l2)
            tl.store(steps + (at_t + 2), beta1)
            tl.store(steps + (at_t + 3), rest1)
            tl.store(steps + (at_t + 4), beta2)
            tl.store(steps + (at_t + 5), rest2)
            tl.store(steps + (at_t + 6), scale)
            tl.store(steps + (at_t + 7), eps)
            tl.store(steps + (at_t + 8), rate)
            if stamp is not None:
                tl.store(stamp, t + done)


def step_rows_(
    optimizer: Optimizer,
    rows: Tensor,
    last: Tensor,
    weight: Tensor,
    exp_avg: Tensor | None,
    exp_avg_sq: Tensor | None,
    steps: Tensor,
    t: int,
    *,
    done: int = 0,
    step: Constants | None = None,
    grads: Tensor | None = None,
    moments: Tensor | None = None,
    oldest: int = 0,
    eps: float = 0.0,
    stamp: Tensor | None = None,
) -> None:
    """Bring rows to the state after step t, in one read and write: the steps that they missed, then t with `grads`.

    Without `grads`, all steps up to t have no gradient. So catch a batch's rows up to t − 1 before they are read, and
    step them with their gradients afterwards. Replayed rows have the same bits as `triton_kernels.step_` gives when it
    steps the whole table at every step.

    Args:
        optimizer: "sgd", "momentum", "rmsprop" or "adam".
        rows: int[n]; with `grads` each at most once. Rows outside the table are ignored.
        last: int32 or int64[table rows], the last step that each row has taken; `done` before the first. Written.
        weight: [table rows, k], rows of consecutive numbers: a table, or a plane of several. Written.
        exp_avg: as weight, with the same strides, for "momentum" and "adam". Written.
        exp_avg_sq: likewise, for "rmsprop" and "adam".
        steps: from `step_table`. Row t is written with `grads`.
        t: the step; ≥ 1 with `grads`.
        done: how many steps were taken before those in `steps`.
        step: the constants of step t; needed with `grads`.
        grads: [n, k], the rows' gradients at step t, with repeated ids summed.
        moments: from `new_moments`, with every step up to the last missed one added: fold instead of replay.
        oldest: the start before which means have faded, see `kernels.quadrature.add_step`.
        eps: that of every step that is folded.
        stamp: int64[], gets done + t if there are `grads`.

    Raises:
        ValueError: tables whose strides differ or whose rows are not consecutive numbers, a table that the optimizer
            needs and does not get, `grads` of another shape, or `grads` without `step`.
    """
    k, stride = weight.shape[1], weight.stride(0)
    if grads is not None and step is None:
        raise ValueError("a step with gradients needs its constants: pass step")
    if grads is not None and grads.shape != (len(rows), k):
        raise ValueError(f"the gradients of {len(rows)} rows of {k} numbers cannot be {list(grads.shape)}")
    check_state(optimizer, exp_avg is not None, exp_avg_sq is not None)
    tables = [table for table in (weight, exp_avg, exp_avg_sq) if table is not None]
    if any(table.shape != weight.shape or table.stride() != (stride, 1) for table in tables):
        layouts = ", ".join(f"{list(table.shape)} with strides {list(table.stride())}" for table in tables)
        raise ValueError(f"tables of one shape, with the same strides and rows of consecutive numbers, not {layouts}")
    columns = max(1, triton.next_power_of_2(k))  # Triton has no blocks without columns
    # A warp moves a kilobyte of each table: several short rows, or a part of a long one.
    size = columns * weight.itemsize if weight.itemsize > 4 else columns * 4
    tile, warps = max(1, min(32, 1024 // size)), max(1, min(16, size // 1024))
    with torch.cuda.device_of(weight):  # Triton launches on the current device
        # If the optimizer or the call lacks a tensor, the kernel does not read it: any tensor can be passed instead.
        # A step is put on record even if no row has a gradient.
        _step_rows[(max(1, triton.cdiv(len(rows), tile)),)](
            rows.contiguous(), len(rows), last, len(weight), weight, weight if exp_avg is None else exp_avg,
            weight if exp_avg_sq is None else exp_avg_sq, weight if grads is None else grads.contiguous(),
            steps, steps if moments is None else moments, 0 if moments is None else moments.shape[1],
            t, done, oldest, stamp, eps, *(step or NO_STEP),
            stride=stride, k=k, columns=columns, rows=tile, has_grads=grads is not None,
            has_moments=moments is not None, optimizer=optimizer,
            arithmetic=tl.float64 if weight.dtype == torch.float64 else tl.float32,
            num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip


def examples() -> Iterator[tuple[str, Any, Callable[[], object], str, int, float]]:
    """Launches for `python -m kernels.inspect`; see `Example` there."""
    n, missed = 64, 5

    def launch(optimizer: Any, k: int, width: int, dtype: torch.dtype, own: bool, fold: bool) -> Callable[[], object]:
        planes = torch.zeros(3, 2 * n, width)[..., :k]
        weight, exp_avg, exp_avg_sq = planes[0].to(dtype), planes[1], planes[2]
        if dtype != torch.float32:
            exp_avg, exp_avg_sq = exp_avg.contiguous(), exp_avg_sq.contiguous()
        step = constants(optimizer, lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-5, weight_decay=0.1, decay="decoupled")
        return partial(
            step_rows_, optimizer, torch.arange(n) * 2, torch.zeros(2 * n, dtype=torch.int32),
            weight, exp_avg, exp_avg_sq, step_table([step] * missed, weight), missed,
            step=step, grads=torch.zeros(n, k, dtype=dtype) if own else None,
            moments=new_moments(missed, 0.99, "cpu") if fold else None, eps=1e-5,
        )  # fmt: skip

    # Read: id, last step, weight, averages, gradient. Written: last step, weight, averages.
    f32, bf16 = torch.float32, torch.bfloat16
    for name, optimizer, k, width, dtype, own, fold in (
        ("Adam fp32, k = 40: replay and step", "adam", 40, 40, f32, True, False),
        ("Adam fp32, planes of 48, k = 40: replay and step", "adam", 40, 48, f32, True, False),
        ("Adam fp32, k = 40: fold", "adam", 40, 40, f32, False, True),
        ("Adam bf16, k = 40: replay and step", "adam", 40, 40, bf16, True, False),
        ("momentum fp32, k = 40: fold and step", "momentum", 40, 40, f32, True, True),
    ):
        numbers = (2 + own) * dtype.itemsize + {"adam": 16, "momentum": 8}[optimizer]
        floor = 8 + 2 * 4 + k * numbers
        yield f"deferred.step_rows_ {name}", _step_rows, launch(optimizer, k, width, dtype, own, fold), "row", n, floor
    moments = new_moments(START_BLOCK, 0.99, "cpu")
    step = constants("adam", lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-5, weight_decay=0.0)
    add = partial(add_step_, moments, step, START_BLOCK, 0)
    yield "deferred.add_step_", _add_step, add, "start", START_BLOCK, 13 * 8  # reads seven numbers, writes six

"""Embedding-dot-bias as Triton kernels: one for the scores, one for scores and loss at once, four for the gradients.

The gradients are sums over the ratings of each row, by default without atomics so that the same batch gives the same
bits. A stable sort brings each row's ratings together. Walkers then sum STEPS sorted ratings each, however they
fall into rows, so a popular film keeps no single program busy: a row whose ratings lie within one walker is
written at once, the pieces of a row that crosses walkers meet in a last, small kernel. With atomics one kernel does
it all, without the sort, and its sums are rounded in another order at each call.
"""

# mypy: disallow-incomplete-defs=False
# A kernel annotates what Triton reads: constants and doubles. Tensors and pointers have no type to write.

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

YRange = tuple[float, float] | None

STEPS = 16  # sorted ratings a walker sums


@triton.jit
def _scores(
    users, items, user_weight, item_weight, user_bias, item_bias, n_users, n_items, where, valid,
    k: tl.constexpr, columns: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """u·i + user bias + item bias of the ratings at `where`, before the sigmoid."""
    user = tl.load(users + where, mask=valid, other=0)  # int64: user · k overflows int32 in a large table
    item = tl.load(items + where, mask=valid, other=0)
    # Compiled only with TRITON_DEBUG=1. Gradients need none: the forward pass has read the same ids.
    tl.device_assert((user >= 0) & (user < n_users), "users holds an id outside its table", mask=valid)
    tl.device_assert((item >= 0) & (item < n_items), "items holds an id outside its table", mask=valid)
    column = tl.arange(0, columns)[None, :]
    mask = valid[:, None] & (column < k)
    u = tl.load(user_weight + (user[:, None] * k + column), mask=mask, other=0).to(arithmetic)
    i = tl.load(item_weight + (item[:, None] * k + column), mask=mask, other=0).to(arithmetic)
    ub = tl.load(user_bias + user, mask=valid, other=0).to(arithmetic)
    ib = tl.load(item_bias + item, mask=valid, other=0).to(arithmetic)
    return tl.sum(u * i, axis=1) + ub + ib


@triton.jit
def _sigmoid(x, arithmetic: tl.constexpr):
    denominator = 1 + tl.exp(-x)
    one = tl.full(x.shape, 1, arithmetic)
    return one / denominator if arithmetic == tl.float64 else tl.div_rn(one, denominator)


# y_range arrives in doubles: Triton would round plain floats to fp32.
@triton.jit(do_not_specialize=["n_users", "n_items"])
def _forward(
    users, items, user_weight, item_weight, user_bias, item_bias, out, batch, n_users, n_items,
    low: tl.float64, span: tl.float64,
    has_range: tl.constexpr, k: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    where = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    valid = where < batch
    x = _scores(
        users, items, user_weight, item_weight, user_bias, item_bias, n_users, n_items, where, valid,
        k, columns, arithmetic,
    )  # fmt: skip
    if has_range:
        x = _sigmoid(x, arithmetic) * tl.full((), span, arithmetic) + tl.full((), low, arithmetic)
    tl.store(out + where, x, mask=valid)


@triton.jit(do_not_specialize=["n_users", "n_items"])
def _score_gradient(
    grad, users, items, user_weight, item_weight, user_bias, item_bias, out, batch, n_users, n_items, span: tl.float64,
    k: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """The gradient before the sigmoid: grad · span · σ(x) · (1 − σ(x))."""
    where = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    valid = where < batch
    x = _scores(
        users, items, user_weight, item_weight, user_bias, item_bias, n_users, n_items, where, valid,
        k, columns, arithmetic,
    )  # fmt: skip
    # 1 − σ(x) as σ(−x): the difference would cancel where the sigmoid saturates.
    slope = _sigmoid(x, arithmetic) * _sigmoid(-x, arithmetic)
    g = tl.load(grad + where, mask=valid, other=0).to(arithmetic)
    tl.store(out + where, g * slope * tl.full((), span, arithmetic), mask=valid)


@triton.jit(do_not_specialize=["n_users", "n_items"])
def _loss(
    users, items, ratings, user_weight, item_weight, user_bias, item_bias, sums, score_grad, batch, n_users, n_items,
    low: tl.float64, span: tl.float64, factor: tl.float64,
    has_range: tl.constexpr, k: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """A program's sum of squared errors, and factor · error for each score, taken back through the sigmoid."""
    where = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    valid = where < batch
    x = _scores(
        users, items, user_weight, item_weight, user_bias, item_bias, n_users, n_items, where, valid,
        k, columns, arithmetic,
    )  # fmt: skip
    slope = tl.full(x.shape, factor, arithmetic)
    if has_range:
        s = _sigmoid(x, arithmetic)
        slope = slope * tl.full((), span, arithmetic) * s * _sigmoid(-x, arithmetic)
        x = s * tl.full((), span, arithmetic) + tl.full((), low, arithmetic)
    error = tl.where(valid, x - tl.load(ratings + where, mask=valid, other=0).to(arithmetic), 0)
    tl.store(score_grad + where, slope * error, mask=valid)
    tl.store(sums + tl.program_id(0).to(tl.int64), tl.sum(error * error, axis=0))


@triton.jit
def _walk(
    score_grad, sorted_ids, order, users, items, user_weight, item_weight,
    d_user_weight, d_item_weight, d_user_bias, d_item_bias, pieces, batch, n_walkers,
    k: tl.constexpr, columns: tl.constexpr, piece_width: tl.constexpr, walkers: tl.constexpr, steps: tl.constexpr,
    stages: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Each walker sums `steps` sorted ratings; a row of the tile is a walker. Axis 1 of the grid: users, items."""
    side = tl.program_id(1).to(tl.int64)
    if side == 0:
        other_ids, other_weight, d_weight, d_bias = items, item_weight, d_user_weight, d_user_bias
    else:
        other_ids, other_weight, d_weight, d_bias = users, user_weight, d_item_weight, d_item_bias
    sorted_ids += side * batch
    order += side * batch
    walker = tl.program_id(0).to(tl.int64) * walkers + tl.arange(0, walkers)
    column = tl.arange(0, columns)[None, :]
    first = walker * steps
    previous = tl.load(sorted_ids + (first - 1), mask=(first > 0) & (first - 1 < batch), other=-1)
    begun = tl.zeros((walkers,), tl.int1)  # whether the row being summed began within this walker
    total = tl.zeros((walkers, columns), arithmetic)
    bias_total = tl.zeros((walkers,), arithmetic)
    for step in tl.range(steps, num_stages=stages):
        at = first + step
        valid = at < batch
        row = tl.load(sorted_ids + at, mask=valid, other=-1)
        rating = tl.load(order + at, mask=valid, other=0)
        g = tl.load(score_grad + rating, mask=valid, other=0).to(arithmetic)
        other = tl.load(other_ids + rating, mask=valid, other=0)
        mask = valid[:, None] & (column < k)
        factors = tl.load(other_weight + (other[:, None] * k + column), mask=mask, other=0).to(arithmetic)
        begins = row != previous
        begun = begun | begins
        total = tl.where(begins[:, None], 0, total) + g[:, None] * factors
        bias_total = tl.where(begins, 0, bias_total) + g
        # Past the batch's end the next id is −1, which ends the last row.
        ends = valid & (row != tl.load(sorted_ids + (at + 1), mask=at + 1 < batch, other=-1))
        whole = ends & begun
        tl.store(d_weight + (row[:, None] * k + column), total, mask=whole[:, None] & (column < k))
        tl.store(d_bias + row, bias_total, mask=whole)
        # Two pieces a walker: of the row that came in from the left, and of the one that goes on to the right.
        piece = (((side * n_walkers + walker) * 2) + begun) * piece_width
        part = valid & ((ends & ~begun) | (~ends & (step == steps - 1)))
        tl.store(pieces + (piece[:, None] + column), total, mask=part[:, None] & (column < k))
        tl.store(pieces + (piece + k), bias_total, mask=part)
        previous = row


@triton.jit
def _join(
    sorted_ids, d_user_weight, d_item_weight, d_user_bias, d_item_bias, pieces, batch, n_walkers,
    k: tl.constexpr, columns: tl.constexpr, piece_width: tl.constexpr, steps: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Write the row that began in this walker and goes on to its right, if there is one."""
    side = tl.program_id(1).to(tl.int64)
    if side == 0:
        d_weight, d_bias = d_user_weight, d_user_bias
    else:
        d_weight, d_bias = d_item_weight, d_item_bias
    sorted_ids += side * batch
    pieces += side * n_walkers * 2 * piece_width
    walker = tl.program_id(0).to(tl.int64)
    first, after = walker * steps, (walker + 1) * steps
    column = tl.arange(0, columns)
    row = tl.load(sorted_ids + (after - 1), mask=after < batch, other=-1)
    goes_on = row == tl.load(sorted_ids + after, mask=after < batch, other=-2)
    if goes_on:  # most rows end where they began: only the others look to the left
        goes_on = row != tl.load(sorted_ids + (first - 1), mask=first > 0, other=-1)
    if goes_on:
        own = (walker * 2 + 1) * piece_width
        total = tl.load(pieces + (own + column), mask=column < k, other=0)
        bias_total = tl.load(pieces + (own + k))
        follower = walker + 1 + tl.arange(0, tile).to(tl.int64)
        while goes_on:
            start = follower * steps
            same = row == tl.load(sorted_ids + start, mask=start < batch, other=-2)
            piece = follower * 2 * piece_width
            mask = same[:, None] & (column < k)[None, :]
            total += tl.sum(tl.load(pieces + (piece[:, None] + column[None, :]), mask=mask, other=0), axis=0)
            bias_total += tl.sum(tl.load(pieces + (piece + k), mask=same, other=0), axis=0)
            goes_on = tl.min(same.to(tl.int32), axis=0) == 1  # sorted: once one differs, all later ones do
            follower += tile
        tl.store(d_weight + (row * k + column), total, mask=column < k)
        tl.store(d_bias + row, bias_total)


@triton.jit
def _add(
    grad, users, items, user_weight, item_weight, user_bias, item_bias,
    d_user_weight, d_item_weight, d_user_bias, d_item_bias, batch, span: tl.float64,
    has_range: tl.constexpr, k: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """The whole backward with atomics: each rating adds to its two rows and biases."""
    where = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    valid = where < batch
    user = tl.load(users + where, mask=valid, other=0)
    item = tl.load(items + where, mask=valid, other=0)
    column = tl.arange(0, columns)[None, :]
    mask = valid[:, None] & (column < k)
    of_user, of_item = user[:, None] * k + column, item[:, None] * k + column
    u = tl.load(user_weight + of_user, mask=mask, other=0).to(arithmetic)
    i = tl.load(item_weight + of_item, mask=mask, other=0).to(arithmetic)
    g = tl.load(grad + where, mask=valid, other=0).to(arithmetic)
    if has_range:
        ub = tl.load(user_bias + user, mask=valid, other=0).to(arithmetic)
        ib = tl.load(item_bias + item, mask=valid, other=0).to(arithmetic)
        x = tl.sum(u * i, axis=1) + ub + ib
        g *= tl.full((), span, arithmetic) * _sigmoid(x, arithmetic) * _sigmoid(-x, arithmetic)
    # Nothing waits for these sums but the kernel's end, so no order among them is asked for.
    tl.atomic_add(d_user_weight + of_user, g[:, None] * i, mask=mask, sem="relaxed")
    tl.atomic_add(d_item_weight + of_item, g[:, None] * u, mask=mask, sem="relaxed")
    tl.atomic_add(d_user_bias + user, g, mask=valid, sem="relaxed")
    tl.atomic_add(d_item_bias + item, g, mask=valid, sem="relaxed")


def _shape(weight: Tensor) -> tuple[int, int, torch.dtype, Any]:
    """Factors, the power of two that holds them, and the arithmetic's type for torch and for Triton."""
    k = weight.shape[1]
    double = weight.dtype == torch.float64
    return k, triton.next_power_of_2(k), *((torch.float64, tl.float64) if double else (torch.float32, tl.float32))


def forward(
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
) -> Tensor:
    """Scores, [batch], of the tables' dtype; see `kernels.dot_bias.embedding_dot_bias`."""
    k, columns, _, arithmetic = _shape(user_weight)
    low, high = y_range or (0.0, 0.0)
    out = torch.empty(len(users), dtype=user_weight.dtype, device=users.device)
    inputs = [t.contiguous() for t in (users, items, user_weight, item_weight, user_bias, item_bias)]
    rows = _rows(user_weight, 4096)
    _forward[(triton.cdiv(len(users), rows),)](
        *inputs, out, len(users), len(user_weight), len(item_weight), low, high - low,
        has_range=y_range is not None, k=k, columns=columns, rows=rows, arithmetic=arithmetic,
        num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def _rows(weight: Tensor, size: int) -> int:
    """How many rows of a table make a tile of about `size` bytes: a thread then loads 16 at a time in any dtype."""
    k, itemsize = weight.shape[1], weight.itemsize
    if k * itemsize % 16:  # no row but the first starts at 16 bytes: more 16-bit numbers a thread would only spill
        itemsize = max(4, itemsize)
    return max(1, min(64, size // (triton.next_power_of_2(k) * itemsize)))


def loss(
    users: Tensor,
    items: Tensor,
    ratings: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
) -> tuple[Tensor, Tensor]:
    """Mean squared error and its gradient for each score; see `kernels.dot_bias.dot_bias_loss`. No scores are kept."""
    k, columns, dtype, arithmetic = _shape(user_weight)
    batch, rows = len(users), _rows(user_weight, 4096)
    inputs = [t.contiguous() for t in (users, items, ratings, user_weight, item_weight, user_bias, item_bias)]
    sums = torch.empty(triton.cdiv(batch, rows), dtype=dtype, device=users.device)
    score_grad = torch.empty(batch, dtype=dtype, device=users.device)
    low, high = y_range or (0.0, 0.0)
    _loss[(len(sums),)](
        *inputs, sums, score_grad, batch, len(user_weight), len(item_weight), low, high - low, 2 / max(1, batch),
        has_range=y_range is not None, k=k, columns=columns, rows=rows, arithmetic=arithmetic,
        num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return sums.sum() / batch, score_grad


def backward(
    grad: Tensor,
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
    deterministic: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Dense gradients of user_weight, item_weight, user_bias and item_bias.

    Sums are float32 (float64 for float64 tables) whatever the tables' dtype, and rounded to it once.

    Args:
        grad: [batch], of the scores; the other tensors are as in `forward`.
        users: int64[batch].
        items: int64[batch].
        user_weight: [n_users, n_factors].
        item_weight: [n_items, n_factors].
        user_bias: [n_users].
        item_bias: [n_items].
        y_range: (low, high) of the sigmoid, or None.
        deterministic: the same bits at every call, by sorting; else by atomics, in whatever order they come.
    """
    k, columns, dtype, arithmetic = _shape(user_weight)
    batch = len(users)
    grad, *inputs = (t.contiguous() for t in (grad, users, items, user_weight, item_weight, user_bias, item_bias))
    if not deterministic:
        sums = [torch.zeros_like(t, dtype=dtype) for t in inputs[2:]]
        rows = _rows(user_weight, 4096)
        _add[(triton.cdiv(batch, rows),)](
            grad, *inputs, *sums, batch, y_range[1] - y_range[0] if y_range else 0.0,
            has_range=y_range is not None, k=k, columns=columns, rows=rows, arithmetic=arithmetic,
            num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return tuple(t.to(user_weight.dtype) for t in sums)  # type: ignore[return-value]
    score_grad = grad
    if y_range is not None:
        score_grad = torch.empty(batch, dtype=dtype, device=grad.device)
        rows = _rows(user_weight, 4096)
        _score_gradient[(triton.cdiv(batch, rows),)](
            grad, *inputs, score_grad, batch, len(user_weight), len(item_weight), y_range[1] - y_range[0],
            k=k, columns=columns, rows=rows, arithmetic=arithmetic, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    users, items, user_weight, item_weight, user_bias, item_bias = inputs
    gradients = tuple(torch.zeros_like(t) for t in (user_weight, item_weight, user_bias, item_bias))
    sorted_ids, order = torch.sort(torch.stack((users, items)), dim=1, stable=True)
    n_walkers = triton.cdiv(batch, STEPS)
    piece_width = 4 * (k // 4 + 1)  # k factors and the bias, padded so that rows start at 16 bytes
    pieces = torch.empty((2, n_walkers, 2, piece_width), dtype=dtype, device=grad.device)
    walkers = _rows(user_weight, 1024)
    sizes = {"k": k, "columns": columns, "piece_width": piece_width, "steps": STEPS}
    # One warp a program: a batch of 512 then fills 16 of them.
    _walk[(triton.cdiv(n_walkers, walkers), 2)](
        score_grad, sorted_ids, order, users, items, user_weight, item_weight, *gradients, pieces, batch, n_walkers,
        **sizes, walkers=walkers, stages=4, arithmetic=arithmetic, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    _join[(n_walkers, 2)](
        sorted_ids, *gradients, pieces, batch, n_walkers,
        **sizes, tile=max(1, min(64, 2048 // columns)), num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return gradients  # type: ignore[return-value]


def examples() -> Iterator[tuple[str, Any, Callable[[], object], str, int, float]]:
    """Launches for `python -m kernels.inspect`; see `Example` there."""
    batch, n_users, n_items, y_range = 512, 128, 256, (0.0, 5.5)
    f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16
    names = {f32: "fp32", bf16: "bf16", f16: "fp16"}

    def forward_on(k: int, dtype: torch.dtype) -> Callable[[], object]:
        return partial(forward, *ids(n_users), *tables(k, dtype), y_range)

    def loss_on(k: int, dtype: torch.dtype) -> Callable[[], object]:
        return partial(loss, *ids(n_users), torch.zeros(batch), *tables(k, dtype), y_range)

    def backward_on(
        k: int, dtype: torch.dtype, n_users: int = n_users, deterministic: bool = True
    ) -> Callable[[], object]:
        grad = torch.zeros(batch, dtype=dtype)
        return partial(backward, grad, *ids(n_users), *tables(k, dtype), y_range, deterministic)

    def ids(n_users: int) -> tuple[Tensor, Tensor]:
        return torch.arange(batch) % n_users, torch.arange(batch) * 7 % n_items

    def tables(k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zeros = partial(torch.zeros, dtype=dtype)
        return zeros(n_users, k), zeros(n_items, k), zeros(n_users), zeros(n_items)

    # k decides the width of loads: rows of 40 floats start at 16 bytes, rows of 50 at 8, rows of 37 at 4.
    for k, dtype in ((40, f32), (37, f32), (40, bf16), (40, f16)):
        size, name = dtype.itemsize, f"{names[dtype]}, k = {k}"
        read = 2 * 8 + (2 * k + 2) * size  # ids, two rows, two biases
        yield f"dot_bias.forward {name}", _forward, forward_on(k, dtype), "rating", batch, read + size
        # A rating comes in besides, the score's gradient goes out.
        yield f"dot_bias.loss {name}", _loss, loss_on(k, dtype), "rating", batch, read + 4 + 4
    for k, dtype in ((40, f32), (50, f32), (40, bf16), (40, f16), (50, f16)):
        size, name = dtype.itemsize, f"dot_bias.backward {names[dtype]}, k = {k}"
        # On each side sorted id, order, the other id, gradient and the other row; each row's sum written once.
        floor: float = 2 * (3 * 8 + 4 + k * size) + (n_users + n_items) / batch * (k + 1) * size
        yield f"{name}: sums", _walk, backward_on(k, dtype), "rating", batch, floor
        if k != 40:
            continue
        read = 2 * 8 + (2 * k + 2 + 1) * size  # ids, two rows, two biases and the score's gradient
        yield f"{name}: sigmoid", _score_gradient, backward_on(k, dtype), "rating", batch, read + 4
        # Each rating's parts of its two rows' sums go out by themselves, in fp32: unsorted, no program knows which
        # ratings share a row, and its own sixteen rarely do. A total written once a row is the floor of sorted sums;
        # they pay for it with the kernel above, the order read back, and the sort, and move more in all.
        floor = read + 2 * (k + 1) * 4
        yield f"{name}: atomics", _add, backward_on(k, dtype, deterministic=False), "rating", batch, floor
        # All ratings are one user's: a piece a walker, with the id that says whose it is, and one row written.
        pieces = batch // STEPS
        floor = 8 + (k + 1) * (4 + size / pieces)
        yield f"{name}: joining", _join, backward_on(k, dtype, n_users=1), "piece", pieces, floor

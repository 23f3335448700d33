"""Embedding-dot-bias as Triton kernels: scores, a loss alone, and gradients with or without a loss.

The gradient of a row is a sum over its ratings. By default it uses no atomics, so the same batch gives the same bits:

1. A stable sort brings the ratings of each row together.
2. Each walker sums STEPS sorted ratings, whatever rows they belong to, so a popular film does not keep one program
   busy. A walker writes a row directly if all its ratings lie within the walker, else it writes a piece of the row.
3. A last, small kernel adds up the pieces of rows that cross walkers.

A walker of users reads the rows of items to sum them, and keeps the user's own row while the ratings are that user's.
So it computes each score, and with the rating its error, itself, and no earlier kernel has to store them. A walker of
items computes them again instead of waiting for them.

With atomics, one kernel does everything without a sort. Its sums are rounded in another order at each call.
"""

# mypy: disallow-incomplete-defs=False
# A kernel annotates what Triton reads: constants and doubles. Tensors and pointers have no type to write.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import backends

YRange = tuple[float, float] | None

STEPS = 16  # sorted ratings a walker sums


@triton.jit
def _check_ids(user, item, n_users, n_items, valid):
    """Assert that ids are in their tables. Triton compiles this only with TRITON_DEBUG=1."""
    tl.device_assert((user >= 0) & (user < n_users), "users holds an id outside its table", mask=valid)
    tl.device_assert((item >= 0) & (item < n_items), "items holds an id outside its table", mask=valid)


@triton.jit
def _read(
    users, items, user_weight, item_weight, user_bias, item_bias, n_users, n_items, where, valid,
    k: tl.constexpr, columns: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """For the ratings at `where`: ids, rows, and u·i + user bias + item bias, before the sigmoid."""
    user = tl.load(users + where, mask=valid, other=0)  # int64: user · k overflows int32 in a large table
    item = tl.load(items + where, mask=valid, other=0)
    _check_ids(user, item, n_users, n_items, valid)
    column = tl.arange(0, columns)[None, :]
    mask = valid[:, None] & (column < k)
    u = tl.load(user_weight + (user[:, None] * k + column), mask=mask, other=0).to(arithmetic)
    i = tl.load(item_weight + (item[:, None] * k + column), mask=mask, other=0).to(arithmetic)
    ub = tl.load(user_bias + user, mask=valid, other=0).to(arithmetic)
    ib = tl.load(item_bias + item, mask=valid, other=0).to(arithmetic)
    return user, item, u, i, tl.sum(u * i, axis=1) + ub + ib


@triton.jit
def _sigmoid(x, arithmetic: tl.constexpr):
    denominator = 1 + tl.exp(-x)
    one = tl.full(x.shape, 1, arithmetic)
    return one / denominator if arithmetic == tl.float64 else tl.div_rn(one, denominator)


@triton.jit
def _score(x, low, span, has_range: tl.constexpr, arithmetic: tl.constexpr):
    """The score: x through the sigmoid to y_range, if there is one."""
    if has_range:
        x = _sigmoid(x, arithmetic) * tl.full((), span, arithmetic) + tl.full((), low, arithmetic)
    return x


@triton.jit
def _score_gradient(
    x, given, valid, low, span, factor, of_loss: tl.constexpr, has_range: tl.constexpr, arithmetic: tl.constexpr
):
    """The gradient for x, a score before the sigmoid; and the squared error, if `of_loss`.

    `given` is the rating if `of_loss`: then the gradient of the score is factor · error. Else it is that gradient.
    """
    g, square = given, tl.zeros(given.shape, arithmetic)
    if of_loss:
        error = tl.where(valid, _score(x, low, span, has_range, arithmetic) - given, 0)
        g, square = error * tl.full((), factor, arithmetic), error * error
    if has_range:
        # σ(−x) instead of 1 − σ(x), because the difference would cancel where the sigmoid saturates.
        g *= tl.full((), span, arithmetic) * _sigmoid(x, arithmetic) * _sigmoid(-x, arithmetic)
    return g, square


# y_range is passed as doubles, because Triton would round plain floats to fp32.
@triton.jit(do_not_specialize=["n_users", "n_items"])
def _forward(
    users, items, user_weight, item_weight, user_bias, item_bias, out, batch, n_users, n_items,
    low: tl.float64, span: tl.float64,
    has_range: tl.constexpr, k: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    where = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    valid = where < batch
    _, _, _, _, x = _read(
        users, items, user_weight, item_weight, user_bias, item_bias, n_users, n_items, where, valid,
        k, columns, arithmetic,
    )  # fmt: skip
    tl.store(out + where, _score(x, low, span, has_range, arithmetic), mask=valid)


@triton.jit(do_not_specialize=["n_users", "n_items"])
def _loss(
    users, items, ratings, user_weight, item_weight, user_bias, item_bias, squares, batch, n_users, n_items,
    low: tl.float64, span: tl.float64,
    has_range: tl.constexpr, k: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Store each program's sum of squared errors."""
    where = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    valid = where < batch
    _, _, _, _, x = _read(
        users, items, user_weight, item_weight, user_bias, item_bias, n_users, n_items, where, valid,
        k, columns, arithmetic,
    )  # fmt: skip
    rating = tl.load(ratings + where, mask=valid, other=0).to(arithmetic)
    error = tl.where(valid, _score(x, low, span, has_range, arithmetic) - rating, 0)
    tl.store(squares + tl.program_id(0).to(tl.int64), tl.sum(error * error, axis=0))


@triton.jit(do_not_specialize=["n_users", "n_items"])
def _walk(
    given, sorted_ids, order, users, items, user_weight, item_weight, user_bias, item_bias,
    d_user_weight, d_item_weight, d_user_bias, d_item_bias, pieces, squares, batch, n_users, n_items, n_walkers,
    low: tl.float64, span: tl.float64, factor: tl.float64, of_loss: tl.constexpr, has_range: tl.constexpr,
    k: tl.constexpr, columns: tl.constexpr, piece_width: tl.constexpr, walkers: tl.constexpr, steps: tl.constexpr,
    stages: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Each walker sums `steps` sorted ratings; a row of the tile is a walker. Axis 1 of the grid: users, items.

    `given` is as in `_score_gradient`. If `of_loss`, the users' programs also store their sums of squared errors.
    """
    side = tl.program_id(1).to(tl.int64)
    if side == 0:
        own_weight, own_bias, d_weight, d_bias = user_weight, user_bias, d_user_weight, d_user_bias
        other_ids, other_weight, other_bias = items, item_weight, item_bias
    else:
        own_weight, own_bias, d_weight, d_bias = item_weight, item_bias, d_item_weight, d_item_bias
        other_ids, other_weight, other_bias = users, user_weight, user_bias
    sorted_ids += side * batch
    order += side * batch
    walker = tl.program_id(0).to(tl.int64) * walkers + tl.arange(0, walkers)
    column = tl.arange(0, columns)[None, :]
    first = walker * steps
    previous = tl.load(sorted_ids + (first - 1), mask=(first > 0) & (first - 1 < batch), other=-1)
    begun = tl.zeros((walkers,), tl.int1)  # whether the row being summed began within this walker
    own = tl.zeros((walkers, columns), own_weight.dtype.element_ty)
    own_b = tl.zeros((walkers,), own_bias.dtype.element_ty)
    total = tl.zeros((walkers, columns), arithmetic)
    bias_total = tl.zeros((walkers,), arithmetic)
    square_total = tl.zeros((walkers,), arithmetic)
    for step in tl.range(steps, num_stages=stages):
        at = first + step
        valid = at < batch
        row = tl.load(sorted_ids + at, mask=valid, other=-1)
        rating = tl.load(order + at, mask=valid, other=0)
        g = tl.load(given + rating, mask=valid, other=0).to(arithmetic)
        other = tl.load(other_ids + rating, mask=valid, other=0)
        if of_loss:  # else the forward pass has checked the same ids
            _check_ids(tl.where(side == 0, row, other), tl.where(side == 0, other, row), n_users, n_items, valid)
        mask = valid[:, None] & (column < k)
        factors = tl.load(other_weight + (other[:, None] * k + column), mask=mask, other=0).to(arithmetic)
        begins = row != previous
        if of_loss or has_range:
            fresh = valid & (begins | (step == 0))
            read = tl.load(own_weight + (row[:, None] * k + column), mask=fresh[:, None] & (column < k), other=0)
            own = tl.where(fresh[:, None], read, own)
            own_b = tl.where(fresh, tl.load(own_bias + row, mask=fresh, other=0), own_b)
            other_b = tl.load(other_bias + other, mask=valid, other=0).to(arithmetic)
            x = tl.sum(own.to(arithmetic) * factors, axis=1) + own_b.to(arithmetic) + other_b
            g, square = _score_gradient(x, g, valid, low, span, factor, of_loss, has_range, arithmetic)
            square_total += square
        begun = begun | begins
        total = tl.where(begins[:, None], 0, total) + g[:, None] * factors
        bias_total = tl.where(begins, 0, bias_total) + g
        # After the end of the batch the next id is −1, which ends the last row.
        ends = valid & (row != tl.load(sorted_ids + (at + 1), mask=at + 1 < batch, other=-1))
        whole = ends & begun
        tl.store(d_weight + (row[:, None] * k + column), total, mask=whole[:, None] & (column < k))
        tl.store(d_bias + row, bias_total, mask=whole)
        # A walker has two pieces: of the row that began to its left, and of the row that continues to its right.
        piece = (((side * n_walkers + walker) * 2) + begun) * piece_width
        part = valid & ((ends & ~begun) | (~ends & (step == steps - 1)))
        tl.store(pieces + (piece[:, None] + column), total, mask=part[:, None] & (column < k))
        tl.store(pieces + (piece + k), bias_total, mask=part)
        previous = row
    if of_loss:
        tl.store(squares + tl.program_id(0).to(tl.int64), tl.sum(square_total, axis=0), mask=side == 0)


@triton.jit
def _join(
    sorted_ids, d_user_weight, d_item_weight, d_user_bias, d_item_bias, pieces, batch, n_walkers,
    k: tl.constexpr, columns: tl.constexpr, piece_width: tl.constexpr, steps: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Write the row that began in this walker and continues to its right, if there is one."""
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
    if goes_on:  # most rows end in the walker they began in: only for the others, read the id to the left
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
            goes_on = tl.min(same.to(tl.int32), axis=0) == 1  # ids are sorted: after one that differs, all differ
            follower += tile
        tl.store(d_weight + (row * k + column), total, mask=column < k)
        tl.store(d_bias + row, bias_total)


@triton.jit(do_not_specialize=["n_users", "n_items"])
def _add(
    given, users, items, user_weight, item_weight, user_bias, item_bias,
    d_user_weight, d_item_weight, d_user_bias, d_item_bias, squares, batch, n_users, n_items,
    low: tl.float64, span: tl.float64, factor: tl.float64, of_loss: tl.constexpr, has_range: tl.constexpr,
    k: tl.constexpr, columns: tl.constexpr, rows: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Do what `_walk` and `_join` do, with atomics: each rating adds to its two rows and biases."""
    where = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    valid = where < batch
    user, item, u, i, x = _read(
        users, items, user_weight, item_weight, user_bias, item_bias, n_users, n_items, where, valid,
        k, columns, arithmetic,
    )  # fmt: skip
    g = tl.load(given + where, mask=valid, other=0).to(arithmetic)
    g, square = _score_gradient(x, g, valid, low, span, factor, of_loss, has_range, arithmetic)
    column = tl.arange(0, columns)[None, :]
    mask = valid[:, None] & (column < k)
    # Nothing reads these sums before the kernel ends, so they need no order ("relaxed").
    tl.atomic_add(d_user_weight + (user[:, None] * k + column), g[:, None] * i, mask=mask, sem="relaxed")
    tl.atomic_add(d_item_weight + (item[:, None] * k + column), g[:, None] * u, mask=mask, sem="relaxed")
    tl.atomic_add(d_user_bias + user, g, mask=valid, sem="relaxed")
    tl.atomic_add(d_item_bias + item, g, mask=valid, sem="relaxed")
    if of_loss:
        tl.store(squares + tl.program_id(0).to(tl.int64), tl.sum(square, axis=0))


@triton.jit(do_not_specialize=["n_users", "n_items"])
def _scale(
    user_weight, item_weight, user_bias, item_bias, factor, n_users, n_items, k: tl.constexpr, size: tl.constexpr
):
    """Multiply by `factor` in place. Axis 1 of the grid: users, items."""
    if tl.program_id(1) == 0:
        weight, bias, rows = user_weight, user_bias, n_users.to(tl.int64)
    else:
        weight, bias, rows = item_weight, item_bias, n_items.to(tl.int64)
    by = tl.load(factor)
    if by != 1:
        where = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
        tl.store(weight + where, tl.load(weight + where, mask=where < rows * k) * by, mask=where < rows * k)
        tl.store(bias + where, tl.load(bias + where, mask=where < rows) * by, mask=where < rows)


def _columns(k: int) -> int:
    return max(1, triton.next_power_of_2(k))  # Triton has no blocks without columns


def _shape(weight: Tensor) -> tuple[int, int, torch.dtype, Any]:
    """The number of factors, the next power of two, and the arithmetic's dtype for torch and for Triton."""
    k = weight.shape[1]
    double = weight.dtype == torch.float64
    return k, _columns(k), *((torch.float64, tl.float64) if double else (torch.float32, tl.float32))


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
    """How many rows of a table make a tile of about `size` bytes. A thread then loads 16 bytes at once in any dtype."""
    k, itemsize = weight.shape[1], weight.itemsize
    if k * itemsize % 16:  # rows do not start at multiples of 16 bytes: more 16-bit numbers per thread would only spill
        itemsize = max(4, itemsize)
    return max(1, min(64, size // (_columns(k) * itemsize)))


def _warp_size() -> int:
    return 32 if backends.triton_interpreted() else triton.runtime.driver.active.get_current_target().warp_size


def loss(
    users: Tensor,
    items: Tensor,
    ratings: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
) -> Tensor:
    """Mean squared error, []; see `kernels.dot_bias.dot_bias_loss`. It stores no scores."""
    k, columns, dtype, arithmetic = _shape(user_weight)
    batch, rows = len(users), _rows(user_weight, 4096)
    inputs = [t.contiguous() for t in (users, items, ratings, user_weight, item_weight, user_bias, item_bias)]
    squares = torch.empty(triton.cdiv(batch, rows), dtype=dtype, device=users.device)
    low, high = y_range or (0.0, 0.0)
    _loss[(len(squares),)](
        *inputs, squares, batch, len(user_weight), len(item_weight), low, high - low,
        has_range=y_range is not None, k=k, columns=columns, rows=rows, arithmetic=arithmetic,
        num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return squares.sum() / batch


def loss_and_gradients(
    users: Tensor,
    items: Tensor,
    ratings: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
    deterministic: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean squared error and its dense gradients for the four tables, float32 (float64 for float64 tables).

    The arguments are those of `backward`, with ratings, [batch], instead of a gradient.
    """
    squares, gradients = _sum_gradients(
        ratings, users, items, user_weight, item_weight, user_bias, item_bias, y_range, deterministic,
        _shape(user_weight)[2], of_loss=True,
    )  # fmt: skip
    return squares.sum() / len(users), *gradients  # type: ignore[return-value]


def scale_(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply the four gradients that `loss_and_gradients` returns by factor, [], in place."""
    n_users, n_items, size = len(gradients[2]), len(gradients[3]), 2048
    longest = max(gradient.numel() for gradient in gradients)
    _scale[(triton.cdiv(longest, size), 2)](
        *gradients, factor, n_users, n_items, k=gradients[0].shape[1], size=size, num_warps=4
    )


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
    """Dense gradients for user_weight, item_weight, user_bias and item_bias.

    Sums are float32 (float64 for float64 tables), and rounded to the tables' dtype once.

    Args:
        grad: [batch], the gradient of the scores.
        users: int64[batch].
        items: int64[batch].
        user_weight: [n_users, n_factors].
        item_weight: [n_items, n_factors].
        user_bias: [n_users].
        item_bias: [n_items].
        y_range: (low, high) of the sigmoid, or None.
        deterministic: True sorts, which gives the same bits at every call; False adds with atomics, in any order.
    """
    _, gradients = _sum_gradients(
        grad, users, items, user_weight, item_weight, user_bias, item_bias, y_range, deterministic,
        user_weight.dtype, of_loss=False,
    )  # fmt: skip
    return gradients  # type: ignore[return-value]


def _sum_gradients(
    given: Tensor,
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
    deterministic: bool,
    out: torch.dtype,
    of_loss: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Each program's sum of squared errors, and the four gradients in the dtype `out`.

    `given`, [batch], is the ratings if `of_loss`. Else it is the gradient of the scores, and the squares are undefined.
    """
    k, columns, dtype, arithmetic = _shape(user_weight)
    batch = len(users)
    given, users, items, *tables = (
        t.contiguous() for t in (given, users, items, user_weight, item_weight, user_bias, item_bias)
    )
    zeros = partial(torch.zeros, device=users.device)
    low, high = y_range or (0.0, 0.0)
    rows = len(user_weight), len(item_weight)
    numbers = {"low": low, "span": high - low, "factor": 2 / max(1, batch)}
    what = numbers | {"of_loss": of_loss, "has_range": y_range is not None, "k": k, "columns": columns}
    if not deterministic:
        tile = _rows(user_weight, 4096)
        squares = torch.empty(triton.cdiv(batch, tile), dtype=dtype, device=users.device)
        gradients = tuple(zeros(t.shape, dtype=dtype) for t in tables)
        _add[(len(squares),)](
            given, users, items, *tables, *gradients, squares, batch, *rows,
            **what, rows=tile, arithmetic=arithmetic, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return squares, tuple(t.to(out) for t in gradients)
    gradients = tuple(zeros(t.shape, dtype=out) for t in tables)
    sorted_ids, order = torch.sort(torch.stack((users, items)), dim=1, stable=True)
    n_walkers = triton.cdiv(batch, STEPS)
    piece_width = 4 * (k // 4 + 1)  # k factors and the bias, padded so that rows start at 16 bytes
    pieces = torch.empty((2, n_walkers, 2, piece_width), dtype=dtype, device=users.device)
    warp_bytes = 16 * _warp_size()  # one load per thread: two would double the registers
    walkers = _rows(user_weight, warp_bytes)
    squares = torch.empty(triton.cdiv(n_walkers, walkers), dtype=dtype, device=users.device)
    sizes = {"piece_width": piece_width, "steps": STEPS}
    # One warp per program, so that a batch of 512 fills 32 of them; a long row needs more to hold it in registers.
    warps = max(1, min(16, columns * user_weight.itemsize // warp_bytes))
    _walk[(len(squares), 2)](
        given, sorted_ids, order, users, items, *tables, *gradients, pieces, squares, batch, *rows, n_walkers,
        **what, **sizes, walkers=walkers, stages=3, arithmetic=arithmetic, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip
    _join[(n_walkers, 2)](
        sorted_ids, *gradients, pieces, batch, n_walkers, k=k, columns=columns,
        **sizes, tile=max(1, min(64, 2048 // columns)), num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return squares, gradients


def examples() -> Iterator[tuple[str, Any, Callable[[], object], str, int, float]]:
    """Launches for `python -m kernels.inspect`; see `Example` there."""
    batch, n_users, n_items, y_range = 192, 48, 96, (0.0, 5.5)
    f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16
    names = {f32: "fp32", bf16: "bf16", f16: "fp16"}

    def forward_on(k: int, dtype: torch.dtype) -> Callable[[], object]:
        return partial(forward, *ids(n_users), *tables(k, dtype), y_range)

    def loss_on(k: int, dtype: torch.dtype) -> Callable[[], object]:
        return partial(loss, *ids(n_users), torch.zeros(batch), *tables(k, dtype), y_range)

    def both_on(k: int, dtype: torch.dtype, deterministic: bool = True) -> Callable[[], object]:
        ratings = torch.zeros(batch)
        return partial(loss_and_gradients, *ids(n_users), ratings, *tables(k, dtype), y_range, deterministic)

    def backward_on(
        k: int, dtype: torch.dtype, n_users: int = n_users, y_range: YRange = y_range, deterministic: bool = True
    ) -> Callable[[], object]:
        grad = torch.zeros(batch, dtype=dtype)
        return partial(backward, grad, *ids(n_users), *tables(k, dtype), y_range, deterministic)

    def ids(n_users: int) -> tuple[Tensor, Tensor]:
        return torch.arange(batch) % n_users, torch.arange(batch) * 7 % n_items

    def tables(k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zeros = partial(torch.zeros, dtype=dtype)
        return zeros(n_users, k), zeros(n_items, k), zeros(n_users), zeros(n_items)

    # k decides the width of loads: rows of 40 floats start at multiples of 16 bytes, rows of 50 at 8, rows of 37 at 4.
    for k, dtype in ((40, f32), (37, f32), (40, bf16), (40, f16)):
        size, name = dtype.itemsize, f"{names[dtype]}, k = {k}"
        read = 2 * 8 + (2 * k + 2) * size  # ids, two rows, two biases
        yield f"dot_bias.forward {name}", _forward, forward_on(k, dtype), "rating", batch, read + size
        yield f"dot_bias.loss {name}", _loss, loss_on(k, dtype), "rating", batch, read + 4  # and the rating
    for k, dtype in ((40, f32), (50, f32), (40, bf16), (40, f16), (50, f16)):
        size, name = dtype.itemsize, f"{names[dtype]}, k = {k}"
        rows = (n_users + n_items) / batch * (k + 1)  # numbers per rating, if each row is read or written once
        # Each side reads the sorted id, order, the other id, gradient and the other row; it writes each row's sum once.
        floor: float = 2 * (3 * 8 + size + k * size) + rows * size
        sums = backward_on(k, dtype, y_range=None)
        yield f"dot_bias.backward {name}: sums", _walk, sums, "rating", batch, floor
        # To compute the score, it also reads the other bias, and each row itself once.
        floor += 2 * size + rows * size
        yield f"dot_bias.backward {name}: sums, sigmoid", _walk, backward_on(k, dtype), "rating", batch, floor
        # With the loss, it reads a rating instead of the score's gradient, and writes sums in fp32.
        floor += (2 + rows) * (4 - size)
        yield f"dot_bias.loss {name}: sums", _walk, both_on(k, dtype), "rating", batch, floor
        if k != 40:
            continue
        # Atomics write each rating's parts of its two rows' sums separately, in fp32: without a sort a program cannot
        # find the ratings that share a row, and its own sixteen rarely do. Sorted sums write one total per row, but
        # they also sort and read the order back. In all they move more than atomics with fp32 tables, and less with
        # 16-bit tables, where atomics still write fp32.
        floor = 2 * 8 + (2 * k + 2) * size + 2 * (k + 1) * 4  # ids, two rows, two biases; parts of two sums
        atomics = backward_on(k, dtype, deterministic=False)
        yield f"dot_bias.backward {name}: atomics", _add, atomics, "rating", batch, floor + size
        yield f"dot_bias.loss {name}: atomics", _add, both_on(k, dtype, False), "rating", batch, floor + 4
        # All ratings belong to one user: it reads one piece and one id per walker, and writes one row.
        pieces = batch // STEPS
        floor = 8 + (k + 1) * (4 + size / pieces)
        yield f"dot_bias.backward {name}: joining", _join, backward_on(k, dtype, n_users=1), "piece", pieces, floor
    gradients, twice = tables(40, f32), torch.full((), 2.0)
    numbers = sum(t.numel() for t in gradients)
    yield "dot_bias.loss fp32, k = 40: scaling", _scale, partial(scale_, gradients, twice), "parameter", numbers, 2 * 4

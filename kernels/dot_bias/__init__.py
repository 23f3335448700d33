"""Embedding-dot-bias: the score of a user for an item, and its loss, as ops with autograd.

`embedding_dot_bias` and `dot_bias_loss` are registered with torch.library under these names, as `dotbias::…`, so they
work with autograd and torch.compile. A call through the library costs some ten microseconds more than the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import backends
from ..eager import custom_op
from . import native, reference

YRange = reference.YRange


def embedding_dot_bias(
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange = None,
    *,
    deterministic: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Scores of (user, item) pairs: u·i + user bias + item bias, through a sigmoid to `y_range` (claim 28).

    >>> users, items = torch.tensor([0, 1]), torch.tensor([2, 0])
    >>> weights, biases = torch.ones(3, 4), torch.tensor([0.5, 0.0, 0.25])
    >>> embedding_dot_bias(users, items, weights, weights, biases, biases)
    tensor([4.7500, 4.5000])

    Args:
        users: int64[batch], rows of the user tables; ids may repeat.
        items: int64[batch], rows of the item tables.
        user_weight: [n_users, n_factors].
        item_weight: [n_items, n_factors].
        user_bias: [n_users].
        item_bias: [n_items].
        y_range: (low, high) of the sigmoid; None leaves it out.
        deterministic: for "triton": True sorts, so that gradients have the same bits at every call; False uses atomics
            instead. The other backends ignore it; on a CPU their bits are always the same.
        backend: "reference", "native" or "triton"; None chooses by device.

    Returns:
        [batch], of the tables' dtype. Gradients are dense, of the tables' shapes.

    Raises:
        BackendError: the named backend cannot run on these tensors.
        IndexError: an id is outside its table. Only on a CPU, because on a GPU the check would wait for the device:
            there the caller must ensure it (with a vocabulary, say), and a wrong id reads and writes other memory. With
            TRITON_DEBUG=1 in the environment the "triton" kernels assert it on the device; after a failure the process
            can no longer use the device. The reference always asserts it so.
        NotImplementedError: forward-mode differentiation.
        ValueError: shapes, dtypes or devices that do not fit.
    """
    _check(users, items, user_weight, item_weight, user_bias, item_bias, y_range)
    chosen = backends.choose(backend, user_weight.device, user_weight.dtype)
    return _forward_op(
        users, items, user_weight, item_weight, user_bias, item_bias,
        list(y_range) if y_range is not None else [], deterministic, chosen,
    )  # fmt: skip


def dot_bias_loss(
    users: Tensor,
    items: Tensor,
    ratings: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange = None,
    *,
    deterministic: bool = True,
    backend: str | None = None,
) -> Tensor:
    """The mean squared error of `embedding_dot_bias` against ratings, in one pass that keeps no scores (claim 36).

    If a table requires a gradient, the same pass sums the gradients of all four, and backward only scales them.

    >>> ids, weights, biases = torch.tensor([0, 1]), torch.ones(3, 4), torch.zeros(3)
    >>> dot_bias_loss(ids, ids, torch.tensor([4.0, 5.0]), weights, weights, biases, biases)  # the scores are 4 and 4
    tensor(0.5000)

    Args:
        users: int64[batch], as for `embedding_dot_bias`.
        items: int64[batch].
        ratings: [batch], any floating dtype; no gradient goes to them.
        user_weight: [n_users, n_factors].
        item_weight: [n_items, n_factors].
        user_bias: [n_users].
        item_bias: [n_items].
        y_range: (low, high) of the sigmoid; None leaves it out.
        deterministic: as for `embedding_dot_bias`, for the gradients; the loss is always deterministic.
        backend: "reference", "native" or "triton"; None chooses by device.

    Returns:
        [], float64 for float64 tables, else float32. NaN for an empty batch, as `torch.nn.functional.mse_loss`.

    Raises:
        BackendError: the named backend cannot run on these tensors.
        IndexError: an id is outside its table; checked on a CPU only, as for `embedding_dot_bias`.
        RuntimeError: in backward, with `create_graph`: there are no second derivatives.
        ValueError: shapes, dtypes or devices that do not fit, or ratings that require a gradient.
    """
    _check(users, items, user_weight, item_weight, user_bias, item_bias, y_range)
    if ratings.shape != users.shape or not ratings.dtype.is_floating_point or ratings.device != users.device:
        raise ValueError(
            f"ratings must be floating, {list(users.shape)} on {users.device} like users, "
            f"not {ratings.dtype}{list(ratings.shape)} on {ratings.device}"
        )
    if ratings.requires_grad:
        raise ValueError("ratings require a gradient, and this op has none: detach them, or use embedding_dot_bias")
    _refuse_tangent("ratings", ratings)
    chosen = backends.choose(backend, user_weight.device, user_weight.dtype)
    tables = (user_weight, item_weight, user_bias, item_bias)
    pair = list(y_range) if y_range is not None else []
    if torch.is_grad_enabled() and any(table.requires_grad for table in tables):
        return _loss_and_gradients_op(users, items, ratings, *tables, pair, deterministic, chosen)[0]
    return _loss_op(users, items, ratings, *tables, pair, chosen)


def _check(
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: YRange,
) -> None:
    reference.check_range(y_range)
    tables = {
        "user_weight": user_weight,
        "item_weight": item_weight,
        "user_bias": user_bias,
        "item_bias": item_bias,
    }
    for name, ids in {"users": users, "items": items}.items():
        if ids.dtype != torch.int64 or ids.ndim != 1:
            raise ValueError(f"{name} must be int64[batch], not {ids.dtype}{list(ids.shape)}")
    if users.shape != items.shape:
        raise ValueError(f"users and items differ in length: {len(users)} and {len(items)}")
    for kind, weight, bias in (("user", user_weight, user_bias), ("item", item_weight, item_bias)):
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{kind}_weight must be [n, n_factors] and {kind}_bias [n], "
                f"not {list(weight.shape)} and {list(bias.shape)}"
            )
    if user_weight.shape[1] != item_weight.shape[1]:
        raise ValueError(f"users have {user_weight.shape[1]} factors and items {item_weight.shape[1]}")
    for name, table in tables.items():
        if table.dtype != user_weight.dtype or not table.dtype.is_floating_point:
            raise ValueError(f"{name} is {table.dtype}, user_weight {user_weight.dtype}; one floating dtype is needed")
        if table.device != users.device or items.device != users.device:
            raise ValueError(f"{name} is on {table.device}, users on {users.device} and items on {items.device}")
        _refuse_tangent(name, table)


def _refuse_tangent(name: str, tensor: Tensor) -> None:
    """Refuse forward-mode differentiation: torch.library would leave the tangent out without a word."""
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        raise NotImplementedError(f"{name} has a tangent, and this op no forward-mode derivative; use backward()")


def _check_ids(users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
    if users.device.type != "cpu" or len(users) == 0:
        return
    for name, ids, rows in (("users", users, n_users), ("items", items, n_items)):
        low, high = ids.aminmax()
        if low < 0 or high >= rows:
            wrong = int(low) if low < 0 else int(high)
            raise IndexError(f"{name} holds id {wrong}, but the table's rows go from 0 to {rows - 1}")


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from . import triton_kernels  # imported here, because not every platform has Triton

        return triton_kernels
    return {"reference": reference, "native": native}[backend]


def _pair(y_range: list[float]) -> YRange:
    return (y_range[0], y_range[1]) if y_range else None


@custom_op("dotbias::embedding_dot_bias")
def _forward_op(
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: list[float],
    deterministic: bool,  # noqa: ARG001 - backward uses it
    backend: str,
) -> Tensor:
    _check_ids(users, items, len(user_weight), len(item_weight))
    run = _implementation(backend).forward
    with torch.cuda.device_of(users):  # Triton launches on the current device
        return run(users, items, user_weight, item_weight, user_bias, item_bias, _pair(y_range))


@_forward_op.register_fake
def _(
    users: Tensor,
    items: Tensor,  # noqa: ARG001
    user_weight: Tensor,
    item_weight: Tensor,  # noqa: ARG001
    user_bias: Tensor,  # noqa: ARG001
    item_bias: Tensor,  # noqa: ARG001
    y_range: list[float],  # noqa: ARG001
    deterministic: bool,  # noqa: ARG001
    backend: str,  # noqa: ARG001
) -> Tensor:
    return user_weight.new_empty(users.shape[0])


def _summing(name: str, backend: str, deterministic: bool) -> Callable[..., Any]:
    """The backend's function of this name, which sums gradients. Only Triton's takes the argument `deterministic`."""
    run = getattr(_implementation(backend), name)
    return partial(run, deterministic=deterministic) if backend == "triton" else run


@custom_op("dotbias::embedding_dot_bias_backward")
def _backward_op(
    grad: Tensor,
    users: Tensor,
    items: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: list[float],
    deterministic: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    run = _summing("backward", backend, deterministic)
    with torch.cuda.device_of(users):
        return run(grad, users, items, user_weight, item_weight, user_bias, item_bias, _pair(y_range))


@_backward_op.register_fake
def _(
    grad: Tensor,  # noqa: ARG001
    users: Tensor,  # noqa: ARG001
    items: Tensor,  # noqa: ARG001
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: list[float],  # noqa: ARG001
    deterministic: bool,  # noqa: ARG001
    backend: str,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(user_weight, memory_format=torch.contiguous_format),
        torch.empty_like(item_weight, memory_format=torch.contiguous_format),
        torch.empty_like(user_bias, memory_format=torch.contiguous_format),
        torch.empty_like(item_bias, memory_format=torch.contiguous_format),
    )


@custom_op("dotbias::dot_bias_loss")
def _loss_op(
    users: Tensor,
    items: Tensor,
    ratings: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: list[float],
    backend: str,
) -> Tensor:
    _check_ids(users, items, len(user_weight), len(item_weight))
    run = _implementation(backend).loss
    with torch.cuda.device_of(users):
        return run(users, items, ratings, user_weight, item_weight, user_bias, item_bias, _pair(y_range))


@_loss_op.register_fake
def _(
    users: Tensor,  # noqa: ARG001
    items: Tensor,  # noqa: ARG001
    ratings: Tensor,  # noqa: ARG001
    user_weight: Tensor,
    item_weight: Tensor,  # noqa: ARG001
    user_bias: Tensor,  # noqa: ARG001
    item_bias: Tensor,  # noqa: ARG001
    y_range: list[float],  # noqa: ARG001
    backend: str,  # noqa: ARG001
) -> Tensor:
    return user_weight.new_empty((), dtype=reference.arithmetic(user_weight.dtype))


# The gradients have the dtype of the tables' arithmetic: in fp16 they could vanish before a loss scale multiplies them.
@custom_op("dotbias::dot_bias_loss_and_gradients")
def _loss_and_gradients_op(
    users: Tensor,
    items: Tensor,
    ratings: Tensor,
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: list[float],
    deterministic: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check_ids(users, items, len(user_weight), len(item_weight))
    run = _summing("loss_and_gradients", backend, deterministic)
    with torch.cuda.device_of(users):
        return run(users, items, ratings, user_weight, item_weight, user_bias, item_bias, _pair(y_range))


@_loss_and_gradients_op.register_fake
def _(
    users: Tensor,  # noqa: ARG001
    items: Tensor,  # noqa: ARG001
    ratings: Tensor,  # noqa: ARG001
    user_weight: Tensor,
    item_weight: Tensor,
    user_bias: Tensor,
    item_bias: Tensor,
    y_range: list[float],  # noqa: ARG001
    deterministic: bool,  # noqa: ARG001
    backend: str,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shapes: tuple[tuple[int, ...], ...] = ((), *(t.shape for t in (user_weight, item_weight, user_bias, item_bias)))
    dtype = reference.arithmetic(user_weight.dtype)
    return tuple(user_weight.new_empty(shape, dtype=dtype) for shape in shapes)  # type: ignore[return-value]


def _setup_loss_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *ctx.gradients = output
    *tensors, ctx.y_range, ctx.deterministic, ctx.backend = inputs
    ctx.mark_non_differentiable(*ctx.gradients)
    ctx.set_materialize_grads(False)  # else backward would be given zeros as large as the tables
    ctx.save_for_backward(*tensors)


def _loss_autograd(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # the gradients are constants here, so derivatives of them would be silently wrong
        raise RuntimeError("dot_bias_loss has no second derivatives: leave out create_graph, or use torch's own ops")
    if grad is None:
        return (None,) * 10
    if type(grad) is not Tensor:  # torch.compile is tracing; it decides itself what to do in place
        gradients = [grad * gradient for gradient in ctx.gradients]
    else:
        # They are scaled in place, so they can be used once. Another backward through a retained graph sums them again.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            _, *gradients = _loss_and_gradients_op(*ctx.saved_tensors, ctx.y_range, ctx.deterministic, ctx.backend)
        _scale_(gradients, grad, ctx.backend)
    dtype = ctx.saved_tensors[-1].dtype
    return (None, None, None, *(gradient.to(dtype) for gradient in gradients), None, None, None)


def _scale_(gradients: list[Tensor], factor: Tensor, backend: str) -> None:
    """Multiply in place. A factor of 1, which `loss.backward()` gives, costs no pass over the tables."""
    if backend == "triton":
        with torch.cuda.device_of(factor):
            _implementation(backend).scale_(gradients, factor)
    elif factor.device.type != "cpu" or factor != 1:  # on a GPU, reading the factor would wait for the device
        torch._foreach_mul_(gradients, factor)


_loss_and_gradients_op.register_autograd(_loss_autograd, setup_context=_setup_loss_context)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.y_range, ctx.deterministic, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _backward_op(grad, *ctx.saved_tensors, ctx.y_range, ctx.deterministic, ctx.backend)
    return (None, None, *grads, None, None, None)


_forward_op.register_autograd(_autograd, setup_context=_setup_context)


def _refuse_second_derivatives(_ctx: Any, *_: Tensor) -> None:
    raise RuntimeError("embedding_dot_bias has no second derivatives: leave out create_graph, or use torch's own ops")


_backward_op.register_autograd(_refuse_second_derivatives)

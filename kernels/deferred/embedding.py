"""Embeddings that bring rows up to date before they are read, and the parameter that detects all other reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..eager import eager
from .table import Table

_GRAD: Any = Tensor.grad

# The operations that read no rows of a table but those of the ids: for each, where table and ids are in its arguments.
LOOKUPS = {
    torch.ops.aten.embedding.default: (0, 1),
    torch.ops.aten._embedding_bag.default: (0, 1),
    torch.ops.aten._embedding_bag_forward_only.default: (0, 1),
    torch.ops.aten._embedding_bag_per_sample_weights_backward.default: (1, 2),
}

PLAIN = (Tensor, nn.Parameter, type(None))  # the types of arguments that have no say in an operation

# The functions that clipping and scaling call on a gradient. On a sparse gradient it is enough to call them on its
# values, if zeros stay zeros and do not change the result.
MULTIPLIES: set[Callable[..., Any]] = {torch.mul, Tensor.mul, Tensor.mul_, torch._foreach_mul_}
CLAMPS: set[Callable[..., Any]] = {
    torch.clamp, torch.clamp_, Tensor.clamp, Tensor.clamp_, torch._foreach_clamp_min_, torch._foreach_clamp_max_,
}  # fmt: skip
NORMS: set[Callable[..., Any]] = {
    torch.linalg.vector_norm, torch.linalg.norm, torch.norm, Tensor.norm, torch._foreach_norm,
}  # fmt: skip
TESTS: set[Callable[..., Any]] = {torch.isfinite, Tensor.isfinite, torch.isnan, Tensor.isnan}
IN_PLACE: set[Callable[..., Any]] = {
    Tensor.mul_, torch._foreach_mul_, torch.clamp_, Tensor.clamp_, torch._foreach_clamp_min_,
    torch._foreach_clamp_max_,
}  # fmt: skip


class RowGradient(Tensor):
    """A sparse gradient of rows that torch's functions can clip, scale and take the norm of."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func not in MULTIPLIES | CLAMPS | NORMS | TESTS:
                return func(*args, **kwargs)
            grads = args[0]
            if func not in IN_PLACE:
                grads = [_coalesced(grad) for grad in grads] if isinstance(grads, list | tuple) else _coalesced(grads)
            elif func in CLAMPS and not all(map(_is_coalesced, grads if isinstance(grads, list | tuple) else [grads])):
                return func(*args, **kwargs)  # parts of a sum cannot be limited: torch raises its own error
            if _values_are_enough(func, args[1:], kwargs):
                values = [_values(grad) for grad in grads] if isinstance(grads, list | tuple) else _values(grads)
                if func in NORMS:
                    values = [_or_zero(v) for v in values] if isinstance(values, list) else _or_zero(values)
                found = func(values, *args[1:], **kwargs)
                if func in IN_PLACE:
                    return grads
                return found if func in NORMS else _sparse(grads, found)
            if func in IN_PLACE:  # torch raises its own error if it cannot do this to a sparse gradient
                return func(*args, **kwargs)
            dense = [grad.to_dense() for grad in grads] if isinstance(grads, list | tuple) else grads.to_dense()
            return func(dense, *args[1:], **kwargs)


def _values_are_enough(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether calling a function on a sparse gradient's values gives the same as calling it on the whole gradient."""
    if func in MULTIPLIES:
        factors = args[0] if args else kwargs["other"]
        factors = factors if isinstance(factors, list | tuple) else [factors]
        return all(not isinstance(factor, Tensor) or factor.ndim == 0 for factor in factors)
    if func in CLAMPS:
        bounds = [*args, *kwargs.values()]
        if any(isinstance(bound, Tensor | list | tuple) for bound in bounds):
            return False
        if func in (torch._foreach_clamp_min_, torch._foreach_clamp_max_):
            return bounds[0] <= 0 if func is torch._foreach_clamp_min_ else bounds[0] >= 0
        low, high = (kwargs.get(name, args[k] if len(args) > k else None) for k, name in enumerate(("min", "max")))
        return (low is None or low <= 0) and (high is None or high >= 0)
    if func in NORMS:
        order = kwargs.get("ord", kwargs.get("p", args[0] if args else 2))
        whole = len(args) < 2 and kwargs.get("dim") is None
        return whole and (order is None or order == "fro" or (not isinstance(order, str) and order >= 0))
    return False


def _is_coalesced(grad: Tensor) -> bool:
    return not grad.is_sparse or grad.is_coalesced()


def _coalesced(grad: Tensor) -> Tensor:
    """A gradient that has each row once."""
    return grad if _is_coalesced(grad) else grad.coalesce()


def _values(grad: Tensor) -> Tensor:
    """The numbers of a gradient; a gradient with a graph has been built by `create_graph`, and they belong to it."""
    if not grad.is_sparse:
        return grad
    return grad.values() if grad.requires_grad else grad._values()


def _or_zero(values: Tensor) -> Tensor:
    """Values whose norm is 0 if there are none: torch refuses to take the largest of none."""
    return values if values.numel() else values.new_zeros(1)


def _sparse(grad: Tensor, values: Tensor) -> Tensor:
    """A gradient of the same rows as `grad`, with these values."""
    like = torch.sparse_coo_tensor(grad._indices(), values, grad.shape, is_coalesced=True, check_invariants=False)
    return _row_gradient(like)


def _row_gradient(grad: Tensor) -> Tensor:
    """A sparse tensor as a RowGradient. Only with a graph, as `create_graph` builds, does autograd take part."""
    if grad.requires_grad:
        return _AsRowGradient.apply(grad)
    return Tensor._make_subclass(RowGradient, grad)


class _AsRowGradient(torch.autograd.Function):
    """A sparse tensor as a RowGradient, in the same graph: `as_subclass` refuses sparse tensors."""

    @staticmethod
    def forward(_ctx: Any, grad: Tensor) -> Tensor:
        return Tensor._make_subclass(RowGradient, grad)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return grad


class DeferredParameter(nn.Parameter):
    """A table [rows, width] that brings all its rows up to date before anything but a lookup of ids reads it."""

    table: Table | None = None

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not all(issubclass(kind, DeferredParameter) for kind in types):
            return NotImplemented  # another subclass of Tensor, which calls operations on what it holds
        kwargs = kwargs or {}
        # A mode that is still active is a tracer's: it leaves subclasses alone, and records plain tensors for later.
        traced = torch._C._len_torch_dispatch_stack() > 0
        if func in LOOKUPS and not traced:
            weight, ids = (args[place] for place in LOOKUPS[func])
            weight.look_up(ids)
        else:
            _flush_all(args, kwargs)
        if traced:
            args, kwargs = tree_map_only(DeferredParameter, _plain, (args, kwargs))
            return func(*args, **kwargs)
        with torch._C._DisableTorchDispatch():
            return func(*args, **kwargs)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # The dispatcher does not see the reads of compiled code, but the compiler calls this function.
        if torch.compiler.is_compiling():
            _flush_all(args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def flush(self) -> None:
        """Bring every row up to date."""
        if (table := self.table) is not None:  # another thread may drop the table meanwhile
            table.flush()

    def look_up(self, ids: Tensor) -> None:
        """Bring the rows `ids` up to date; all rows while torch.jit traces, because a trace keeps the whole table."""
        if (table := self.table) is None:
            return
        if torch._C._is_tracing():
            table.flush()
        else:
            table.catch_up(ids)

    def drop_table(self) -> None:
        """Bring every row up to date and forget the table: the optimizer's next step makes a new one from its state."""
        if (table := self.table) is not None:
            table.leave(self)

    @property
    def grad(self) -> Tensor | None:
        """As any tensor's. A sparse gradient has each row once."""
        with torch._C.DisableTorchFunctionSubclass():
            grad = _GRAD.__get__(self)
            if grad is not None and grad.is_sparse and not (type(grad) is RowGradient and grad.is_coalesced()):
                grad = _row_gradient(grad.coalesce())
                _GRAD.__set__(self, grad)
            return grad

    @grad.setter
    def grad(self, grad: Tensor | None) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            _GRAD.__set__(self, grad)

    @grad.deleter
    def grad(self) -> None:
        _GRAD.__delete__(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return DeferredParameter, (self.detach(), self.requires_grad)

    # These methods give access to memory without an operation that `__torch_dispatch__` sees.

    def numpy(self, *, force: bool = False) -> Any:
        """As any tensor's."""
        return self.detach().requires_grad_(self.requires_grad).numpy(force=force)

    def tolist(self) -> list[Any]:
        """As any tensor's."""
        return self.detach().tolist()

    def data_ptr(self) -> int:
        """As any tensor's."""
        self.flush()
        return super().data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        """As any tensor's."""
        self.flush()
        return super().untyped_storage()

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        return self.detach().__dlpack__(*args, **kwargs)


def _plain(param: Tensor) -> Tensor:
    """The same memory as a plain tensor."""
    with torch._C._DisableTorchDispatch():
        return param.detach()


# torch.load calls no classes but those that it knows to be harmless: this one keeps a tensor, and runs nothing.
torch.serialization.add_safe_globals([DeferredParameter])


@eager
def _flush_all(*arguments: Any) -> None:
    for leaf in tree_leaves(arguments):
        if isinstance(leaf, DeferredParameter):
            leaf.flush()


class _Deferred(nn.Module):
    """What the deferred embeddings share. It stands before torch's class among the bases."""

    weight: Any
    _looks_up: bool  # whether `super().forward` does nothing but look rows up

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        after = cls.__mro__[cls.__mro__.index(_Deferred) + 1 :]
        cls._looks_up = next(base for base in after if "forward" in vars(base)) in (nn.Embedding, nn.EmbeddingBag)

    @eager
    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002 - torch's name
        """As torch's, of rows that are up to date."""
        weight = self.weight
        # The short way below is wrong if `weight` is another tensor (torch.func.functional_call), if ids are batched by
        # vmap or of another subclass of Tensor (nested), if a mode watches operations (tracing, checkpointing), or if
        # the forward of a subclass reads the table differently.
        plain = type(weight) is DeferredParameter and all(type(x) in PLAIN for x in (input, *args, *kwargs.values()))
        watched = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack()
        if not plain or watched or not self._looks_up:
            return super().forward(input, *args, **kwargs)
        # The same as `DeferredParameter.__torch_dispatch__`, without the cost of the dispatch.
        weight.look_up(input)
        with torch._C.DisableTorchFunctionSubclass(), torch._C._DisableTorchDispatch():
            return super().forward(input, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if type(self.weight) is nn.Parameter:  # to_empty
            _defer(self.weight)
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        if not isinstance(self.weight, DeferredParameter):  # load_state_dict(…, assign=True)
            self.weight = DeferredParameter(self.weight.data, self.weight.requires_grad)


class DeferredEmbedding(_Deferred, nn.Embedding):
    """nn.Embedding for the deferred optimizers: its forward first brings the rows that it reads up to date.

    Its forward takes ids, int32 or int64 of any shape, and returns their rows [*shape, embedding_dim].

    >>> table = DeferredEmbedding(1_000, 8)
    >>> table(torch.tensor([[3, 14], [15, 92]])).shape
    torch.Size([2, 2, 8])

    The gradient of `weight` is sparse. torch's clipping functions accept it, torch's dense optimizers refuse it. All
    other reads of `weight` (`state_dict`, tied weights, `weight.norm()`) first bring the whole table up to date. If a
    gradient comes from one of them, it is dense: the steps are correct, at dense cost. Reads of memory that you took
    earlier (`weight.detach()`, `.data`, `.numpy()`) cannot be detected: they show rows as they are, up to date or not.
    To make another parameter of its numbers, pass `weight.detach()`: `nn.Parameter(table.weight.detach())`.

    Args:
        num_embeddings: rows.
        embedding_dim: width.
        padding_idx: the row that gets no gradient, as in nn.Embedding.
        device: a CPU or a GPU. An id outside the table moves nothing. On a CPU it raises IndexError; on a GPU torch's
            own assertion on the device ends the process.
        dtype: float32 or float64.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, sparse=True, device=device, dtype=dtype)
        self.weight = DeferredParameter(self.weight.data)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None
    ) -> DeferredEmbedding:
        """An embedding that holds a copy of `embeddings` [rows, width]."""
        rows, width = embeddings.shape
        return _filled(cls(rows, width, padding_idx, embeddings.device, embeddings.dtype), embeddings, freeze)


class DeferredEmbeddingBag(_Deferred, nn.EmbeddingBag):
    """nn.EmbeddingBag for the deferred optimizers: sums or means of the rows of each bag of ids.

    Its forward takes what nn.EmbeddingBag's does: ids [bags, ids of each], or one list of ids with the `offsets` where
    bags begin, and for sums `per_sample_weights`, a factor for each id. It returns [bags, embedding_dim]; an empty bag
    gives zeros. Gradients and other reads are as in `DeferredEmbedding`. An id outside the table moves nothing; on a
    CPU it raises torch's RuntimeError.

    >>> bags = DeferredEmbeddingBag.from_pretrained(torch.arange(6.0).view(3, 2), mode="sum")
    >>> bags(torch.tensor([0, 2, 2]), torch.tensor([0, 2, 2]))  # bags of rows 0 and 2, of none, and of row 2
    tensor([[4., 6.],
            [0., 0.],
            [4., 5.]])

    Args:
        num_embeddings: rows.
        embedding_dim: width.
        mode: "mean" or "sum". The largest ("max") has no sparse gradient.
        include_last_offset: whether `offsets` also has the end of the last bag, as in nn.EmbeddingBag.
        padding_idx: the row that no bag counts, and that gets no gradient.
        device: a CPU or a GPU.
        dtype: float32 or float64.

    Raises:
        ValueError: another mode.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_mode(mode)
        super().__init__(
            num_embeddings, embedding_dim, mode=mode, sparse=True, include_last_offset=include_last_offset,
            padding_idx=padding_idx, device=device, dtype=dtype,
        )  # fmt: skip
        self.weight = DeferredParameter(self.weight.data)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> DeferredEmbeddingBag:
        """Bags of a table that holds a copy of `embeddings` [rows, width]."""
        rows, width = embeddings.shape
        bags = cls(rows, width, mode, include_last_offset, padding_idx, embeddings.device, embeddings.dtype)
        return _filled(bags, embeddings, freeze)


T = TypeVar("T", DeferredEmbedding, DeferredEmbeddingBag)


def _filled(module: T, rows: Tensor, freeze: bool) -> T:
    module.weight.data.copy_(rows)
    module.weight.requires_grad_(not freeze)
    return module


def _check_mode(mode: str) -> None:
    if mode not in ("mean", "sum"):
        raise ValueError(f"mode={mode!r}: only bags with mean or sum have a sparse gradient; keep nn.EmbeddingBag")


def attach(embedding: nn.Embedding | nn.EmbeddingBag) -> None:
    """Turn an embedding of an existing model into a deferred one, in place, with the same parameter object.

    >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 1))
    >>> attach(model[0])
    >>> model[0]
    DeferredEmbedding(10, 4, sparse=True)

    A subclass keeps its own behavior. If its forward does not use `torch.nn.functional.embedding` or `embedding_bag`,
    the results are correct, at dense cost.

    Args:
        embedding: an nn.Embedding, which becomes a `DeferredEmbedding`, or an nn.EmbeddingBag, which becomes a
            `DeferredEmbeddingBag`; or one of these whose weight has been replaced by a plain nn.Parameter.

    Raises:
        ValueError: another module; one that is deferred already; bags of the largest; an embedding that changes rows
            or gradients when it reads them (`max_norm`, `scale_grad_by_freq`); or a weight that has hooks.
    """
    deferred = isinstance(embedding, _Deferred)
    if not isinstance(embedding, nn.Embedding | nn.EmbeddingBag) or (
        deferred and isinstance(embedding.weight, DeferredParameter)
    ):
        raise ValueError(
            f"{type(embedding).__name__}: an nn.Embedding or nn.EmbeddingBag is needed that is not deferred yet"
        )
    if type(embedding.weight) is not nn.Parameter:
        raise ValueError(
            f"its weight is a {type(embedding.weight).__name__}, not a plain nn.Parameter: leave it as it is"
        )
    if embedding.max_norm is not None or embedding.scale_grad_by_freq:
        raise ValueError("max_norm and scale_grad_by_freq cannot be deferred: leave them out, or keep torch's module")
    if isinstance(embedding, nn.EmbeddingBag):
        _check_mode(embedding.mode)
    weight = embedding.weight
    if weight._backward_hooks or weight._post_accumulate_grad_hooks:
        raise ValueError("its weight has hooks, which would be lost: attach first, then register them")
    _defer(weight)
    if not deferred:
        embedding.__class__ = _deferred(type(embedding))  # type: ignore[arg-type, assignment]
    embedding.sparse = True


def _defer(weight: nn.Parameter) -> None:
    """Make a parameter deferred. It stays the same object, so that tied weights and optimizers still refer to it."""
    grad, weight.grad = weight.grad, None
    deferred = DeferredParameter(weight.data, weight.requires_grad)
    deferred.__dict__.update(weight.__dict__)
    try:
        torch.utils.swap_tensors(weight, deferred)  # refuses a parameter that others hold in a way it cannot follow
    finally:
        weight.grad = grad


@cache
def _deferred(of: type[nn.Module]) -> type[nn.Module]:
    """The deferred subclass of a class of embeddings, with the same name. Pickles refer to the original class."""
    ours, torchs = (
        (DeferredEmbedding, nn.Embedding) if issubclass(of, nn.Embedding) else (DeferredEmbeddingBag, nn.EmbeddingBag)
    )
    if of is torchs:
        return ours

    def reduce(self: nn.Module, _protocol: Any) -> tuple[Any, ...]:
        return _new, (of,), self.__dict__

    return type(of.__name__, (ours, of), {"__reduce_ex__": reduce, "__module__": of.__module__})


def _new(of: type[nn.Module]) -> nn.Module:
    deferred = _deferred(of)  # type: ignore[arg-type]
    return deferred.__new__(deferred)

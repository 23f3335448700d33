"""An embedding whose rows are brought up to date when they are read, and a parameter that nobody reads stale."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .table import Table

_disabled = cache(torch.compiler.disable)
_GRAD: Any = Tensor.grad


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep torch.compile out of a function, as `torch.compiler.disable`, which takes two seconds to load what compiles.

    So it is asked when somebody else has loaded that.
    """

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return _disabled(function)(*args, **kwargs)
        return function(*args, **kwargs)

    called._torchdynamo_disable = True  # type: ignore[attr-defined]
    return called


# What clipping and scaling ask of a gradient. A sparse one may be asked of its values alone where zeros add nothing to
# the answer, and stay zeros.
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
    """A coalesced sparse gradient, which torch can clip and scale, and whose norm it can take."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func not in MULTIPLIES | CLAMPS | NORMS | TESTS:
                return func(*args, **kwargs)
            grads = args[0]
            if _zeros_say_nothing(func, args[1:], kwargs):
                values = [_values(grad) for grad in grads] if isinstance(grads, list | tuple) else _values(grads)
                found = func(values, *args[1:], **kwargs)
                if func in IN_PLACE:
                    return grads
                return found if func in NORMS else _sparse(grads, found)
            if func in IN_PLACE:  # torch says what it cannot do to a sparse gradient
                return func(*args, **kwargs)
            dense = [grad.to_dense() for grad in grads] if isinstance(grads, list | tuple) else grads.to_dense()
            return func(dense, *args[1:], **kwargs)


def _zeros_say_nothing(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether what a function does to the rows of a gradient that are not zero is what it does to the whole of it."""
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


def _values(grad: Tensor) -> Tensor:
    return grad._values() if grad.is_sparse else grad


def _sparse(grad: Tensor, values: Tensor) -> Tensor:
    """The gradient with other values."""
    like = torch.sparse_coo_tensor(grad._indices(), values, grad.shape, is_coalesced=True, check_invariants=False)
    return Tensor._make_subclass(RowGradient, like)


class DeferredParameter(nn.Parameter):
    """A table [rows, width] that is flushed before anything but an embedding's lookup reads it."""

    table: Table | None = None

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.embedding.default:
            weight, ids = args[:2]
            if weight.table is not None:
                weight.table.catch_up(ids)
        else:
            _flush_all(args, kwargs)
        with torch._C._DisableTorchDispatch():
            return func(*args, **kwargs)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Compiled code reads memory without an operation that the dispatcher sees. But the compiler looks here.
        if torch.compiler.is_compiling():
            _flush_all(args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def flush(self) -> None:
        """Bring every row up to date."""
        if self.table is not None:
            self.table.flush()

    def drop_table(self) -> None:
        """Bring every row up to date; the optimizer's next step finds out anew how its state stands."""
        self.flush()
        self.table = None

    @property
    def grad(self) -> Tensor | None:
        """As any tensor's; a sparse one has each row once."""
        with torch._C.DisableTorchFunctionSubclass():
            grad = _GRAD.__get__(self)
            if grad is not None and grad.is_sparse and not (type(grad) is RowGradient and grad.is_coalesced()):
                grad = Tensor._make_subclass(RowGradient, grad.coalesce())
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

    # What follows gives out memory, without an operation that `__torch_dispatch__` would see.

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


@eager
def _flush_all(*arguments: Any) -> None:
    for leaf in tree_leaves(arguments):
        if isinstance(leaf, DeferredParameter):
            leaf.flush()


class DeferredEmbedding(nn.Embedding):
    """nn.Embedding for the deferred optimizers: its forward first makes the rows it reads up to date.

    The gradient of `weight` is sparse, so that torch's dense optimizers refuse it; torch's functions that clip take it.
    Whatever else reads `weight` (`state_dict`, tied weights, `weight.norm()`) makes all of it up to date first, and a
    gradient that arrives that way is dense: right, at dense cost. Only memory that was taken out before
    (`weight.detach()`, `.data`, `.numpy()`) cannot be watched: it shows rows as they stand, up to date or not.

    Args:
        num_embeddings: rows.
        embedding_dim: width.
        padding_idx: the row that gets no gradient, as in nn.Embedding.
        device: a CPU or a GPU. On a CPU an id outside the table is an IndexError and moves nothing; on a GPU it moves
            nothing either, and torch's own assertion on the device ends the process.
        dtype: float32 or float64.
    """

    _looks_up = True  # and nothing else, in `super().forward`

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
        embedding = cls(rows, width, padding_idx, embeddings.device, embeddings.dtype)
        embedding.weight.data.copy_(embeddings)
        embedding.weight.requires_grad_(not freeze)
        return embedding

    @eager
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Rows [*input.shape, embedding_dim] of ids int32 or int64 of any shape."""
        weight: Any = self.weight
        # Not so where it may be torch.func.functional_call's other tensor, where ids may be vmap's, and where a
        # subclass' forward may read it otherwise.
        plain = type(weight) is DeferredParameter and not torch._C._are_functorch_transforms_active()
        if not plain or not self._looks_up:
            return super().forward(input)
        # What `DeferredParameter.__torch_dispatch__` does, without the way there.
        if weight.table is not None:
            weight.table.catch_up(input)
        with torch._C.DisableTorchFunctionSubclass(), torch._C._DisableTorchDispatch():
            return super().forward(input)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        if not isinstance(self.weight, DeferredParameter):  # load_state_dict(…, assign=True)
            self.weight = DeferredParameter(self.weight.data, self.weight.requires_grad)


def attach(embedding: nn.Embedding) -> None:
    """Make an embedding a `DeferredEmbedding` where it is, its parameter the same: in a model that others built.

    A subclass keeps what it does besides; where its forward reads the table by another way than
    `torch.nn.functional.embedding`, that is right, at dense cost.

    Raises:
        ValueError: an embedding that changes rows, or gradients, as it reads them; or no nn.Embedding.
    """
    if not isinstance(embedding, nn.Embedding) or isinstance(embedding, DeferredEmbedding):
        raise ValueError(f"{type(embedding).__name__}: an nn.Embedding is needed, which is not deferred yet")
    if type(embedding.weight) is not nn.Parameter:
        raise ValueError(
            f"its weight is a {type(embedding.weight).__name__}, not a plain nn.Parameter: keep it as it is"
        )
    if embedding.max_norm is not None or embedding.scale_grad_by_freq:
        raise ValueError("max_norm and scale_grad_by_freq cannot be deferred: leave them out, or keep nn.Embedding")
    weight = embedding.weight
    grad, weight.grad = weight.grad, None
    # The parameter stays the object that it is, so that tied weights and optimizers still hold it.
    torch.utils.swap_tensors(weight, DeferredParameter(weight.data, weight.requires_grad))
    weight.grad = grad
    embedding.__class__ = _deferred(type(embedding))  # type: ignore[arg-type]
    embedding.sparse = True


@cache
def _deferred(of: type[nn.Embedding]) -> type[nn.Embedding]:
    """A class of embeddings as one of deferred ones, of the same name; pickles know it by the class it is made of."""
    if of is nn.Embedding:
        return DeferredEmbedding

    def reduce(self: nn.Module, _protocol: Any) -> tuple[Any, ...]:
        return _new, (of,), self.__dict__

    looks_up = of.forward is nn.Embedding.forward
    members = {"__reduce_ex__": reduce, "__module__": of.__module__, "_looks_up": looks_up}
    return type(of.__name__, (DeferredEmbedding, of), members)


def _new(of: type[nn.Embedding]) -> nn.Module:
    deferred = _deferred(of)  # type: ignore[arg-type]
    return deferred.__new__(deferred)

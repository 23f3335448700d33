"""An embedding whose rows are brought up to date when they are read, and a parameter that nobody reads stale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from .table import Table

# What tells of a tensor without reading its numbers. Anything else flushes.
PROPERTIES = (
    "grad", "_grad", "requires_grad", "is_leaf", "grad_fn", "retains_grad", "shape", "ndim", "dtype", "device",
    "layout", "is_sparse", "is_sparse_csr", "is_quantized", "is_nested", "is_meta", "is_cpu", "is_cuda", "is_mps",
    "is_xpu", "is_mkldnn", "itemsize", "nbytes", "_version", "_backward_hooks", "_post_accumulate_grad_hooks",
)  # fmt: skip
METADATA: set[Callable[..., Any]] = {
    *(getattr(Tensor, name).__get__ for name in PROPERTIES),
    *(getattr(Tensor, name).__set__ for name in ("grad", "requires_grad")),
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.storage_offset, Tensor.is_contiguous,
    Tensor.is_floating_point, Tensor.is_complex, Tensor.element_size, Tensor.requires_grad_, Tensor.register_hook,
    Tensor.register_post_accumulate_grad_hook, Tensor.__len__, torch.is_floating_point, torch.is_complex, torch.numel,
}  # fmt: skip
NORMS = {torch.linalg.vector_norm, torch.linalg.norm, torch.norm, Tensor.norm}


class RowGradient(Tensor):
    """A coalesced sparse gradient of which torch can take the norm, as `clip_grad_norm_` does."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in NORMS:  # torch has none for sparse tensors on a CPU
                args = (args[0].coalesce().values(), *args[1:])
            return func(*args, **(kwargs or {}))


class DeferredParameter(nn.Parameter):
    """A table [rows, width] that is flushed before anything but `DeferredEmbedding` reads it."""

    table: Table | None = None

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in METADATA:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, DeferredParameter) and leaf.table is not None:
                    leaf.table.flush()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return DeferredParameter, (self.detach(), self.requires_grad)

    def lookup(self, ids: Tensor, padding_idx: int | None) -> Tensor:
        """The rows `ids`, up to date; their gradient is sparse."""
        if self.table is not None:
            self.table.catch_up(ids)
        with torch._C.DisableTorchFunctionSubclass():
            if self.requires_grad and not self._post_accumulate_grad_hooks:
                self.register_post_accumulate_grad_hook(_sum_duplicates)
            return functional.embedding(ids, self, padding_idx, sparse=True)


def _sum_duplicates(param: Tensor) -> None:
    with torch._C.DisableTorchFunctionSubclass():
        if param.grad is not None and param.grad.is_sparse:
            param.grad = Tensor._make_subclass(RowGradient, param.grad.coalesce())


class DeferredEmbedding(nn.Embedding):
    """nn.Embedding for the deferred optimizers: its forward first makes the rows it reads up to date.

    The gradient of `weight` is sparse, so that torch's dense optimizers refuse it; `torch.nn.utils.clip_grad_norm_`
    takes it. Whatever else reads `weight` (`state_dict`, tied weights, `weight.norm()`) makes all of it up to date
    first, and a gradient that arrives that way is dense: right, at dense cost. Only memory that was taken out before
    (`weight.detach()`, `.data`, `.numpy()`) cannot be watched: it shows rows as they stand, up to date or not.

    Args:
        num_embeddings: rows.
        embedding_dim: width.
        padding_idx: the row that gets no gradient, as in nn.Embedding.
        device: a CPU or a GPU. On a CPU an id outside the table is an IndexError and moves nothing; on a GPU it moves
            nothing either, and torch's own assertion on the device ends the process.
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
        embedding = cls(rows, width, padding_idx, embeddings.device, embeddings.dtype)
        embedding.weight.data.copy_(embeddings)
        embedding.weight.requires_grad_(not freeze)
        return embedding

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Rows [*input.shape, embedding_dim] of ids int32 or int64 of any shape."""
        if isinstance(self.weight, DeferredParameter):
            return self.weight.lookup(input, self.padding_idx)
        return super().forward(input)  # torch.func.functional_call has put another tensor in its place


def attach(embedding: nn.Embedding) -> None:
    """Make an embedding a `DeferredEmbedding` where it is, its parameter the same: in a model that others built.

    Raises:
        ValueError: an embedding that changes rows, or gradients, as it reads them; or a subclass.
    """
    if type(embedding) is not nn.Embedding or type(embedding.weight) is not nn.Parameter:
        raise ValueError(f"{type(embedding).__name__} of {type(embedding.weight).__name__}: nn.Embedding is needed")
    if embedding.max_norm is not None or embedding.scale_grad_by_freq:
        raise ValueError("max_norm and scale_grad_by_freq cannot be deferred: leave them out, or keep nn.Embedding")
    # The parameter stays the object that it is, so that tied weights and optimizers still hold it.
    embedding.weight.__class__ = DeferredParameter
    embedding.__class__ = DeferredEmbedding
    embedding.sparse = True

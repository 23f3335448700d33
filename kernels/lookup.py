"""The lookup and its one-hot rivals.

Claim 25: `one_hot(ids) @ weight` is `weight[ids]`, and its gradient is a scatter-add of the rows' gradients.
Claim 26: the lookup is faster and smaller. `bench/test_lookup.py` measures where that holds.

Shapes, the same in every function: `ids: int64[batch]` in [0, classes), `weight: float[classes, width]`,
a one-hot matrix `float[batch, classes]`; a rival returns `float[batch, width]`, differentiable in `weight`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812, torch's own name for it
from torch import Tensor


def one_hot(ids: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The dense one-hot matrix: batch × classes numbers, of which batch are 1.

    >>> one_hot(torch.tensor([2, 0]), 3).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]

    Raises:
        RuntimeError: an id is not in [0, classes). (On a GPU torch asserts on the device.)
    """
    if classes < 0:  # torch takes -1 as the largest id plus 1
        raise RuntimeError(f"{classes=}: no id lies in [0, {classes})")
    return F.one_hot(ids, classes).to(dtype)


def sparse_one_hot(ids: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same matrix as sparse COO: it stores only the ones, each with its row and column (two int64).

    Raises:
        RuntimeError: an id is not in [0, classes).
    """
    batch = ids.numel()
    indices = torch.stack([torch.arange(batch, device=ids.device), ids])
    ones = torch.ones(batch, dtype=dtype, device=ids.device)
    # One entry per row, in the order of the rows, is already coalesced: saying so saves a sort.
    return torch.sparse_coo_tensor(indices, ones, (batch, classes), check_invariants=True, is_coalesced=True)


def one_hot_matmul(ids: Tensor, weight: Tensor) -> Tensor:
    """What the lesson draws, done literally: build the one-hot matrix, then multiply.

    >>> one_hot_matmul(torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])).tolist()
    [[5.0, 6.0], [1.0, 2.0]]
    """
    return one_hot(ids, weight.shape[0], weight.dtype) @ weight


def prebuilt_one_hot_matmul(one_hot: Tensor, weight: Tensor) -> Tensor:
    """Only the product, for data that is stored one-hot: see `one_hot`."""
    return one_hot @ weight


def sparse_one_hot_matmul(sparse_one_hot: Tensor, weight: Tensor) -> Tensor:
    """Only the product, with a matrix that stores no zeros: see `sparse_one_hot`."""
    return torch.sparse.mm(sparse_one_hot, weight)


def index_select(ids: Tensor, weight: Tensor) -> Tensor:
    """The lookup as plain indexing."""
    return weight.index_select(0, ids)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """The lookup as `torch.nn.Embedding` does it."""
    return F.embedding(ids, weight)

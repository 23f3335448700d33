"""Deferred optimizers: the results of dense steps at sparse cost, for any embedding table, on a CPU or a GPU.

A batch reads few rows of a table, yet a dense optimizer moves all of them at every step, because of momentum and decay.
Deferred optimizers move a row when it is read: first they apply the steps that it missed, then its own. The guide is
docs/deferred.md.

>>> import torch
>>> embedding = DeferredEmbedding(1_000, 8)
>>> optimizer = DeferredAdamW(embedding.parameters(), lr=5e-3, weight_decay=0.1)
>>> embedding(torch.tensor([3, 14])).sum().backward()
>>> optimizer.step()  # moves rows 3 and 14; the others get this step when they are read

- `embedding.py`: `DeferredEmbedding` and `DeferredEmbeddingBag`, torch's modules, which bring rows up to date before
  they are read. `attach` turns torch's modules into them.
- `optimizers.py`: `DeferredAdamW`, `DeferredAdam`, `DeferredSGD` and `DeferredRMSprop`, torch's optimizers with
  deferred steps for the tables of `DeferredEmbedding`s.
- `table.py` keeps the record of a table's steps. `rows.py` moves its rows, with the loops of `native.py` or in Triton.
- `../quadrature.py` folds steps of Adam. `python -m kernels.deferred` prints how many points each pair of betas needs.
"""

from .embedding import DeferredEmbedding, DeferredEmbeddingBag, attach
from .optimizers import DeferredAdam, DeferredAdamW, DeferredRMSprop, DeferredSGD

__all__ = [
    "DeferredAdam",
    "DeferredAdamW",
    "DeferredEmbedding",
    "DeferredEmbeddingBag",
    "DeferredRMSprop",
    "DeferredSGD",
    "attach",
]

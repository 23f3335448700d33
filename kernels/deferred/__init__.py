"""Deferred optimizers: the results of dense steps at sparse cost, for any embedding table, on a CPU or a GPU.

A batch reads few rows of a table, yet a dense optimizer moves all of them at every step: momentum goes on and decay
shrinks. Here a row is moved when it is read: first the steps it missed, then its own. docs/deferred.md is the guide.

- `DeferredEmbedding` is an nn.Embedding whose parameter knows which of its rows lag behind; `attach` makes an
  nn.Embedding one (`embedding.py`).
- `DeferredAdamW`, `DeferredAdam`, `DeferredSGD` and `DeferredRMSprop` are torch's optimizers, but for such parameters
  (`optimizers.py`).
- `table.py` keeps a table's account of steps; `rows.py` moves its rows, by the loops of `native.py` or by Triton.
- `quadrature.py` folds steps of Adam, and says how many points that takes: `python -m kernels.deferred`.
"""

from .embedding import DeferredEmbedding, attach
from .optimizers import DeferredAdam, DeferredAdamW, DeferredRMSprop, DeferredSGD

__all__ = ["DeferredAdam", "DeferredAdamW", "DeferredEmbedding", "DeferredRMSprop", "DeferredSGD", "attach"]

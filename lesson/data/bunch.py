"""Training and validation rows together, under the lesson's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from lesson import checks
from lesson.checks import DataError


@dataclass(frozen=True)
class DataBunch:
    """Two data sets and a batch size: all that a learner needs.

    Attributes:
        train: a data set indexed by row numbers, such as `torch.utils.data.TensorDataset` (claim 57).
        valid: another.
        bs: rows per batch.
    """

    train: Any
    valid: Any
    bs: int = 64

    @classmethod
    def create(cls, train_ds: Any, valid_ds: Any, bs: int = 64) -> DataBunch:
        """The lesson's name for the constructor.

        >>> import torch
        >>> rows = torch.utils.data.TensorDataset(torch.rand(100, 784), torch.randint(10, (100,)))
        >>> data = DataBunch.create(rows, rows, bs=64)
        >>> x, y = next(iter(data.train_dl))
        >>> x.shape, y.shape
        (torch.Size([64, 784]), torch.Size([64]))
        """
        return cls(train_ds, valid_ds, checks.whole("bs", bs, least=1))

    @property
    def train_dl(self) -> DataLoader[Any]:
        """Batches of training rows, shuffled (claim 58)."""
        return DataLoader(self.train, self.bs, shuffle=True)

    @property
    def valid_dl(self) -> DataLoader[Any]:
        """Batches of validation rows, in order."""
        return DataLoader(self.valid, self.bs)


def split_rows(n: int, seed: int, valid_pct: float, what: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers of the training rows, in file order, and of the validation rows, as `lesson.data.split` takes them.

    Args:
        n: the number of rows.
        seed: the split's seed.
        valid_pct: the share of validation rows.
        what: the rows' name in errors: "MNIST: 5000 digits".

    Raises:
        DataError: an argument is wrong, or a part would be empty.

    >>> train, valid = split_rows(10, seed=0, valid_pct=0.2, what="10 digits")
    >>> len(train), len(valid)
    (8, 2)
    """
    seed, share = checks.whole("seed", seed), checks.number("valid_pct", valid_pct, above=0, below=1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    valid, train = order.tensor_split([int(share * n)])
    if not len(valid) or not len(train):
        raise DataError(
            f"{what} leave {len(train)} for training and {len(valid)} for validation; both need at least one"
        )
    return train.sort().values, valid

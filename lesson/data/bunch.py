"""Training and validation rows together, under the lesson's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from lesson import checks


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
    def inputs(self) -> int:
        """The numbers in a row of inputs, such as 784 pixels."""
        return int(self.train[:1][0].shape[1])

    @property
    def c(self) -> int:
        """The number of classes, by fastai's name: the largest target plus one."""
        return 1 + max(int(part[:][-1].max()) for part in (self.train, self.valid))

    @property
    def train_dl(self) -> DataLoader[Any]:
        """Batches of training rows, shuffled (claim 58)."""
        return DataLoader(self.train, self.bs, shuffle=True)

    @property
    def valid_dl(self) -> DataLoader[Any]:
        """Batches of validation rows, in order."""
        return DataLoader(self.valid, self.bs)

"""Training and validation rows together, under the lesson's name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from lesson import checks
from lesson.checks import DataError, shown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class DataBunch:
    """Two data sets and a batch size: all that a learner needs.

    Attributes:
        train: a data set indexed by row numbers, such as `torch.utils.data.TensorDataset` (claim 57).
        valid: another.
        bs: rows per batch.
        image: height and width, if each row of x is an image.
    """

    train: Any
    valid: Any
    bs: int = 64
    image: tuple[int, int] | None = None

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
        return int(self.train[:1][0].numel())

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

    def show_batch(self, n: int = 9) -> Any:
        """`n` training rows, evenly spaced: images as a grid of matplotlib's Axes, other data as a table.

        The table has a column for each column of x, and y.
        """
        n = min(checks.whole("n", n, least=1), len(self.train))
        *inputs, target = self.train[torch.linspace(0, len(self.train) - 1, n).long()]
        if self.image is None:
            return _table(inputs, target)
        from lesson import plots

        return plots.images(self._pictures(inputs[0]), [self._name(y) for y in target.tolist()], [False] * n)

    def show_results(self, rows: torch.Tensor, out: torch.Tensor) -> Any:
        """Validation rows with predictions, images or a table as in `show_batch`; titles of wrong ones are red.

        Args:
            rows: int64[n].
            out: the model's outputs [n, …]; if y is a class, the largest is the prediction.

        Raises:
            DataError: y is a class, and the model has one output.
        """
        *inputs, target = self.valid[rows]
        if not target.is_floating_point() and (out.ndim != 2 or out.shape[1] < 2):
            raise DataError(f"outputs of shape {list(out.shape)}: one for each class is needed to show the largest")
        predicted = out if target.is_floating_point() else out.argmax(1)
        if self.image is None:
            return _table(inputs, target).assign(prediction=predicted.reshape(len(rows), -1)[:, 0].numpy())
        from lesson import plots

        pairs = list(zip(target.tolist(), predicted.tolist(), strict=True))
        names = [[self._name(y) for y in pair] for pair in pairs]
        titles = [name if name == guess else f"{name}, not {guess}" for name, guess in names]
        return plots.images(self._pictures(inputs[0]), titles, [y != guess for y, guess in pairs])

    def _pictures(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of inputs as images [n, height, width], or [n, height, width, 3], of numbers from 0 to 1."""
        assert self.image is not None
        return x.reshape(-1, *self.image)

    def _name(self, y: Any) -> str:
        """A target in words."""
        return str(y)


def _table(inputs: list[torch.Tensor], target: torch.Tensor) -> pd.DataFrame:
    import pandas as pd  # pandas takes half a second to import, only needed here

    columns = torch.cat([part.reshape(len(part), -1) for part in inputs], dim=1).numpy()
    table = pd.DataFrame(columns).add_prefix("x")
    return table.assign(y=target.reshape(len(target), -1)[:, 0].numpy())


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
    seed, share = checks.seed(seed), checks.number("valid_pct", valid_pct, above=0, below=1)
    # fastai's RandomSplitter uses the global generator; a separate one gives the same rows without side effects.
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    valid, train = order.tensor_split([int(share * n)])
    if not len(valid) or not len(train):
        raise DataError(
            f"{what} leave {len(train)} for training and {len(valid)} for validation; both need at least one "
            "(more rows, or another valid_pct)"
        )
    return train.sort()[0], valid


def split_digest(valid: Any) -> str:
    """A digest of validation rows, whatever their order: of others a saved model may have seen the answers.

    >>> rows = torch.utils.data.TensorDataset(torch.tensor([[1, 2], [3, 4]]), torch.tensor([0.5, 1.0]))
    >>> split_digest(rows) == split_digest(torch.utils.data.TensorDataset(*rows[[1, 0]]))
    True
    """
    table = np.column_stack([column.double().numpy() for column in valid[:]])
    return hashlib.sha256(table[np.lexsort(table.T)].tobytes()).hexdigest()


def given_rows(valid_rows: Any, n: int) -> np.ndarray:
    """Row numbers of validation rows that the caller gives: int64[rows], each from 0 to n − 1, none twice.

    Raises:
        DataError: they are not.

    >>> given_rows([3, 1], n=4)
    array([3, 1])
    """
    chosen = np.asarray(valid_rows)
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1:
        raise DataError(f"valid_rows must be a list of row numbers, not {shown(valid_rows)}")
    outside = chosen[(chosen < 0) | (chosen >= n)]
    if len(outside):
        raise DataError(f"valid_rows: there is no row {outside[0]}; rows go from 0 to {n - 1}")
    if len(np.unique(chosen)) != len(chosen):
        raise DataError("valid_rows: a row number occurs twice")
    return chosen

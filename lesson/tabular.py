"""Tables: the learner of entity embeddings, as fastai v1's tabular_learner."""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from kernels import (
    DeferredAdam,
    DeferredAdamW,
    DeferredEmbedding,
    DeferredRMSprop,
    DeferredSGD,
    attach,
)
from lesson import checks, embeddings
from lesson.checks import DataError, shown
from lesson.data import Tabular, TabularData
from lesson.data.bunch import split_digest
from lesson.learner import NORMS, Learner, Metric, OptFunc, stream
from lesson.models import TabularModel, emb_sz_rule
from lesson.optimizers import FUSED
from lesson.schedules import Schedule

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from lesson.data.tabular import NewRows

FAR = 100.0  # 190 steps of 1e-2 reached targets of 100 ± 30 and 10 ± 1, but not of 100 ± 1 or 1,000 ± 100

DEFERRED = (DeferredAdam, DeferredAdamW, DeferredRMSprop, DeferredSGD)


class TabularLearner(Learner):
    """A learner for tables; made by `tabular_learner`.

    Its layer groups are the embeddings and the rest, so `freeze()` keeps the embeddings. The loss is cross-entropy for
    classes, and the mean squared error for numbers.

    Args:
        data: from `load_table`.
        model: reads the data's categories and numbers.
        how: as for `Learner`.

    Raises:
        DataError: an argument is wrong.
    """

    data: TabularData
    model: TabularModel

    def __init__(self, data: TabularData, model: TabularModel, **how: Any) -> None:
        groups = [model.embeds, nn.ModuleList([model.bn_cont, model.layers])] if len(model.embeds) else [model]
        loss = mse_loss if data.classes is None else cross_entropy
        super().__init__(data, model, loss, **{"layer_groups": groups} | how)

    def _training(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule
    ) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        rows = len(self.data.train)
        alone = rows % self.bs == 1 or self.bs == 1
        if alone and any(isinstance(layer, NORMS) for layer in self.model.modules()):
            raise DataError(
                f"bs={self.bs}: BatchNorm needs two rows or more, but the last of {rows:,} is alone; "
                f"try bs={batch_size(rows, self.bs)}"
            )
        waits = any(isinstance(table, DeferredEmbedding) for table in self.model.embeds)
        if waits and not isinstance(optimizer, DEFERRED):
            names = ", ".join(kind.__name__ for kind in DEFERRED)
            raise DataError(f"opt_func makes {type(optimizer).__name__}: with deferred=True use one of {names}")
        return super()._training(optimizer, schedule)

    def predict(self, rows: NewRows) -> Any:
        """The predicted label, or number, of a row; or those of several.

        Args:
            rows: a row as a dictionary of values by column, or as a Series (`df.iloc[0]`); several as a dictionary of
                lists, a DataFrame, or a table from `read_table`. See `TabularData.encoded`.

        Returns:
            A label or a float; of several rows a list of labels, or float32[rows].

        Raises:
            DataError: a column is missing, or a value is of another kind than the file's.

        Example:
            >>> learn.predict({"age": 39, "city": "Oslo", "sold": "2026-11-27"})  # doctest: +SKIP
        """
        out, single = self._scores(rows)
        if single:
            return self.data.decoded(out)[0]
        return out[:, 0] if self.data.classes is None else self.data.decoded(out)

    def probabilities(self, rows: NewRows) -> pd.DataFrame:
        """The probability of each class, a column each, by row; see `predict`.

        Raises:
            DataError: as for `predict`, or the target is a number.
        """
        import pandas as pd  # pandas takes half a second to import, only needed here

        if self.data.classes is None:
            raise DataError(f"the target {self.data.source.target.name!r} is a number: it has no classes")
        out, _ = self._scores(rows)
        return pd.DataFrame(out.softmax(1).numpy(), columns=self.data.classes)

    def export(self, path: str | Path) -> None:
        """Write the embeddings to a Parquet file; the whole file or nothing.

        One row per category and value that training rows have, with columns category, value (as text), count (in the
        training rows), factors (float[width of the embedding]), and components: the first two principal components of
        the factors of the category's 1,000 most frequent values, null for the others. `python -m reports` draws the
        file as a page, a map for each category, if it is `embeddings.parquet` in the folder of the results.

        Raises:
            DataError: the net has no embeddings or holds numbers that are not finite, or the file cannot be written.

        Example:
            >>> learn.export("results/embeddings.parquet")  # doctest: +SKIP
        """
        embeddings.write(path, self.model, self.data)

    def _scores(self, rows: NewRows) -> tuple[Tensor, bool]:
        """The outputs [rows, c], and whether it was a single row."""
        values: Any = rows
        if getattr(rows, "ndim", 2) == 1 and hasattr(rows, "to_dict"):
            values = values.to_dict()  # a Series
        needed = {column.name for column in self.data.needed}
        single = isinstance(values, Mapping) and not any(_is_list(values[name]) for name in needed & values.keys())
        several = {name: _alone(value) for name, value in values.items()} if single else values
        inputs = self.data.encoded(several, stacklevel=4)  # of who calls `predict` or `probabilities`
        self.model.eval()
        parts = zip(*(column.split(self.valid_bs) for column in inputs), strict=True)
        with torch.no_grad():
            out = torch.cat([self.model(*(column.to(self.device) for column in part)).cpu() for part in parts])
        if not out.isfinite().all():
            row = int((~out.isfinite()).any(1).nonzero()[0])
            raise DataError(
                f"the rows, row {row + 1}: the net gives no finite numbers. A value is too far from those of "
                "training, or the training diverged"
            )
        return out, single

    def _identity(self) -> dict[str, str]:
        learned = {
            "target": [self.data.source.target.name, self.data.classes],
            "categories": [[category.name, category.vocab.ids.tolist()] for category in self.data.categories],
            "numbers": [list(number) for number in self.data.numbers],
        }
        said = {name: json.dumps(value) for name, value in learned.items()}
        said["categories"] = hashlib.sha256(said["categories"].encode()).hexdigest()  # they may be many
        return said | {"y_range": json.dumps(self.model.y_range), "split": split_digest(self.data.valid)}


def batch_size(rows: int, least: int) -> int:
    """The smallest batch size from `least` on that leaves no row of an epoch alone: BatchNorm needs two.

    >>> batch_size(4161, 64)  # 64 and 65 leave one row
    66
    """
    return next(bs for bs in itertools.count(max(least, 2)) if rows % bs != 1)


def tabular_learner(
    data: TabularData,
    emb_szs: Mapping[str, int] | None = None,
    layers: Sequence[int] = (200, 100),
    emb_drop: float = 0.0,
    ps: float | Sequence[float] = 0.0,
    y_range: tuple[float, float] | None = None,
    wd: float = 0.01,
    *,
    bs: int = 64,
    opt_func: OptFunc | None = None,
    metrics: Sequence[Metric] = (),
    bn_wd: bool = True,
    train_bn: bool = True,
    deferred: bool = False,
    seed: int = 0,
    quiet: bool = False,
) -> TabularLearner:
    """A learner for tables: embeddings of the categories, and a net on them and the numbers (claims 1 and 44).

    Args:
        data: from `load_table`.
        emb_szs: widths of embeddings by column; `emb_sz_rule` gives those of the others.
        layers: widths of the hidden layers.
        emb_drop: dropout of the embeddings.
        ps: dropout after each hidden layer: one share for all, or one for each.
        y_range: for a target of numbers, the range of a sigmoid on the output, such as `data.y_range`; None for no
            sigmoid. Without it a net starts near 0 and takes long to reach numbers in the hundreds.
        wd: weight decay.
        bs: rows per batch.
        opt_func: makes the optimizer; None is torch's fused AdamW with fastai's constants, which takes the steps of
            `lesson.optimizers.AdamW` several times as fast.
        metrics: functions of outputs and target, such as `lesson.metrics.accuracy` and `rmse`.
        bn_wd: whether biases and BatchNorm decay too.
        train_bn: whether BatchNorm trains in frozen layer groups too.
        deferred: whether rows of embeddings that a batch does not read get their steps later, at once. The results are
            the same within rounding. It pays for categories of many tens of thousands of values.
        seed: of initialization, dropout and batch order.
        quiet: do not print a line per epoch.

    Raises:
        DataError: an argument is wrong.

    >>> import tempfile
    >>> from lesson import load_table
    >>> rows = [f"{'abc'[k % 3]},{k % 7},{'much' if k % 3 else 'little'}" for k in range(200)]
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     print("shop,size,sold", *rows, sep=chr(10), file=file, flush=True)
    ...     learn = tabular_learner(load_table(file.name, "sold"), quiet=True)
    >>> learn.fit_one_cycle(5, 1e-2)
    >>> learn.predict({"shop": "b", "size": 3})
    'much'
    """
    if isinstance(data, Tabular):
        raise DataError(f"data={shown(data)}: pass it split, such as load_flights().split()")
    if not isinstance(data, TabularData):
        raise DataError(
            f"data={shown(data)}: pass the result of load_table, as in tabular_learner(load_table('sales.csv', 'sold'))"
        )
    if y_range is not None and data.classes is not None:
        raise DataError(
            f"y_range={shown(y_range)}: the target {data.source.target.name!r} is a class, and has no range"
        )
    widths = _widths(data, emb_szs)
    draws = stream(seed, "initialization")
    model = TabularModel(widths, len(data.numbers), data.c, layers, ps, emb_drop, y_range, draws)
    _check_range(data, model.y_range)
    if deferred:
        for table in model.modules():
            if isinstance(table, nn.Embedding):
                attach(table)
    if opt_func is None:
        opt_func = partial(DeferredAdamW, **FUSED.keywords) if deferred else FUSED
    how = {"opt_func": opt_func, "metrics": metrics, "wd": wd, "bn_wd": bn_wd, "train_bn": train_bn}
    return TabularLearner(data, model, **how, bs=checks.whole("bs", bs, least=1), seed=seed, quiet=quiet)


def _widths(data: TabularData, emb_szs: Mapping[str, int] | None) -> list[tuple[int, int]]:
    """Rows and width of each category's embedding."""
    if emb_szs is not None and not isinstance(emb_szs, Mapping):
        raise DataError(f"emb_szs={shown(emb_szs)}: a dictionary is needed, as in {{'city': 10}}")
    told, names = emb_szs or {}, [category.name for category in data.categories]
    for name in told:
        if name not in names:
            raise DataError(f"emb_szs: no category {shown(name)}; the categories are {', '.join(map(repr, names))}")
    rows = [len(category.vocab) for category in data.categories]
    return [
        (n, checks.whole(f"emb_szs[{name!r}]", told[name], least=1) if name in told else emb_sz_rule(n))
        for name, n in zip(names, rows, strict=True)
    ]


def _check_range(data: TabularData, y_range: tuple[float, float] | None) -> None:
    """Warn of a range that the training rows' numbers exceed, or of numbers that a net hardly reaches without one."""
    if data.y_range is None:
        return
    low, high = (end.item() for end in torch.aminmax(data.train.tensors[-1]))
    about = f"the target {data.source.target.name!r} goes from {low:g} to {high:g}"
    if y_range is not None and not checks.covers(*y_range, low, high):
        warnings.warn(f"y_range={y_range}: {about}; data.y_range covers it: {data.y_range}", stacklevel=3)
    elif y_range is None and max(-low, high) > FAR:
        warnings.warn(
            f"{about}, and a net starts near 0: pass y_range=data.y_range, or predict its logarithm", stacklevel=3
        )


def _is_list(values: Any) -> bool:
    return not isinstance(values, str | bytes) and hasattr(values, "__len__") and getattr(values, "ndim", 1) > 0


def _alone(value: Any) -> Any:
    """A column of one value."""
    is_array = getattr(value, "ndim", None) == 0 and not isinstance(value, str | bytes)
    return value[None] if is_array else [value]

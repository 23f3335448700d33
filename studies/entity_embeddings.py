"""Claims 1, 34 and 44 on tables: is a net with entity embeddings as good as boosted trees, and do trees gain from them?

Nine models of a target of two classes. A logistic regression and a net read one-hot columns. A net reads embeddings of
categories, as wide as half their number, at most 50; four more have other widths. Boosted trees read the categories;
others read the net's embeddings in their place, learned from the same training rows. All read the same columns, and no
features are made by hand. At most 10,000 rows train. Each seed draws them, the 2,500 that validate, initialization and
batch order; of the flights, 10,000 of the last two months validate, the same for all seeds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits
from torch.utils.data import TensorDataset

from lesson import DataError, Learner, Net, TableWarning, net_learner, tabular_learner
from lesson.data import Adult, DataBunch, Tabular, TabularData
from lesson.data.columns import Column
from lesson.learner import stream
from lesson.tabular import batch_size
from studies.embedding_sizes import RULES
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Settings, Study, beats, best, not_worse

ROWS, VALID = 10_000, 2_500  # that train and that validate, at most
VALID_OF_TIME = 10_000  # likewise, where all seeds validate on the latest rows
EPOCHS, BATCH, HIDDEN, LR, WD = 5, 512, (100, 50), 1e-2, 0.1
TREES, SHRINKAGE, LEAF = 100, 0.1, 20  # how many, their rate, the least rows of a leaf
CATEGORIES = 255  # that scikit-learn's trees can read in a column
ONE_HOT = 2_000  # columns, at most
LEAST = 0.02  # of the log loss of constant probabilities: twice the margin
PROBES = 5  # splits that may show that there is something to learn
WIDTHS = {**RULES, "50": lambda n: 50}  # noqa: ARG005 - as every rule is called
HALF = "half, at most 50"

Fitted = tuple[np.ndarray, Learner | None]  # probabilities float64[validation rows, 2], and the net if it is one


def run(job: Run, table: Adult | Tabular) -> Outcome:
    """One model: fitted to training rows, and judged on validation rows."""
    source = people(table)
    if job.tuning and source.time is not None:
        source = source.earlier()  # the validation rows are the same for all seeds: tuning must not see them
    data = split(source, job.seed)
    with threadpool_limits(job.threads):
        found, learn = MODELS[job["model"]](data, job.settings, job.draw)
    y = data.valid.tensors[-1].numpy()
    measured = {"log_loss": losses(found, y).mean(), "auc": auc(found, y)}
    return Outcome.of(learn, **measured) if learn else Outcome(measured, n_train=len(data.train), n_valid=len(y))


def people(table: Adult | Tabular) -> Tabular:
    """The table; of the census, the one with names instead of one-hot columns."""
    return table.table if isinstance(table, Adult) else table


def split(source: Tabular, seed: int) -> TabularData:
    """Training rows, `ROWS` at most, and validation rows. What is odd about them has been said before the first run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        return source.split(seed, at_most=(ROWS, VALID if source.time is None else VALID_OF_TIME))


def losses(found: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the probability of each row's class, in float64."""
    least: float = np.finfo(float).eps
    chosen: np.ndarray = found[np.arange(len(y)), y]
    return -np.log(chosen.astype(float).clip(least, 1))


def auc(found: np.ndarray, y: np.ndarray) -> float | None:
    """The area under the ROC curve; None if all rows have one class."""
    return float(roc_auc_score(y, found[:, 1])) if 0 < y.mean() < 1 else None


def one_hot(data: TabularData) -> list[scipy.sparse.csr_array]:
    """The inputs of both parts: a column for each category that training rows have, and the numbers.

    A row with a category that they lack has 0 in all columns of its kind.
    """
    known = data.train.tensors[0].numpy()
    seen = [np.unique(column) for column in known.T]
    parts = []
    for ids, numbers, _ in (data.train.tensors, data.valid.tensors):
        hot = [scipy.sparse.csr_array(column[:, None] == at) for column, at in zip(ids.numpy().T, seen, strict=True)]
        parts.append(scipy.sparse.hstack([*hot, scipy.sparse.csr_array(numbers.numpy())], "csr", np.float32))
    return parts


def logistic_regression(data: TabularData, settings: Mapping[str, Any], draw: int) -> Fitted:  # noqa: ARG001 - as every model
    """Of one-hot columns."""
    x, new = one_hot(data)
    model = LogisticRegression(C=1 / settings["penalty"], max_iter=1000)
    return model.fit(x, data.train.tensors[-1].numpy()).predict_proba(new), None


def one_hot_net(data: TabularData, settings: Mapping[str, Any], draw: int) -> Fitted:
    """A net on one-hot columns."""
    x, new = (torch.from_numpy(part.toarray()) for part in one_hot(data))
    rows = DataBunch(TensorDataset(x, data.train.tensors[-1]), TensorDataset(new, data.valid.tensors[-1]))
    model = Net((rows.inputs, *HIDDEN, data.c), bn=True, generator=stream(draw, "initialization"))
    learn = net_learner(rows, model, wd=WD * settings["penalty"], bs=batch(data), seed=draw, quiet=True)
    learn.fit_one_cycle(EPOCHS, LR * settings["rate"])
    return probabilities(learn), learn


def embedding_net(data: TabularData, settings: Mapping[str, Any], draw: int) -> Fitted:
    """The lesson's net for tables, with widths of embeddings by the arm's rule."""
    rule = WIDTHS[settings["rule"]]
    widths = {category.name: rule(len(category.vocab)) for category in data.categories}
    how: dict[str, Any] = {"wd": WD * settings["penalty"], "bs": batch(data), "seed": draw, "quiet": True}
    learn = tabular_learner(data, widths, HIDDEN, **how)
    learn.fit_one_cycle(EPOCHS, LR * settings["rate"])
    return probabilities(learn), learn


def boosted_trees(data: TabularData, settings: Mapping[str, Any], draw: int) -> Fitted:  # noqa: ARG001 - as every model
    """Of categories and numbers."""
    few = [place for place, category in enumerate(data.categories) if len(category.vocab) <= CATEGORIES]
    x, new = (np.column_stack([part.tensors[0], part.tensors[1]]) for part in (data.train, data.valid))
    return boosted(x, data.train.tensors[-1].numpy(), settings, few).predict_proba(new), None


def trees_with_embeddings(data: TabularData, settings: Mapping[str, Any], draw: int) -> Fitted:
    """Of the embeddings that a net has learned from the same training rows, and of numbers."""
    _, learn = embedding_net(data, {"rule": HALF, "rate": 1.0, "penalty": 1.0}, draw)
    assert learn is not None
    tables = [table.weight.detach().numpy() for table in learn.model.embeds]  # type: ignore[union-attr]
    x, new = (
        np.column_stack([*(table[ids] for table, ids in zip(tables, part.tensors[0].T, strict=True)), part.tensors[1]])
        for part in (data.train, data.valid)
    )
    return boosted(x, data.train.tensors[-1].numpy(), settings, []).predict_proba(new), None


def boosted(
    x: np.ndarray, y: np.ndarray, settings: Mapping[str, Any], categories: list[int]
) -> HistGradientBoostingClassifier:
    """Trees fitted to inputs [rows, columns], some of which are categories."""
    trees = HistGradientBoostingClassifier(
        max_iter=TREES,
        learning_rate=SHRINKAGE * settings["rate"],
        min_samples_leaf=max(1, round(LEAF * settings["penalty"])),
        categorical_features=categories or None,
        early_stopping=False,
    )
    return trees.fit(x, y)


def batch(data: TabularData) -> int:
    """Rows per batch."""
    return batch_size(len(data.train), BATCH)


@torch.no_grad()
def probabilities(learn: Learner) -> np.ndarray:
    """Of each class on the validation rows, float64[rows, classes]."""
    learn.model.eval()
    return learn.model(*learn.data.valid.tensors[:-1]).double().softmax(1).numpy()


MODELS: dict[str, Callable[[TabularData, Mapping[str, Any], int], Fitted]] = {
    "logistic regression": logistic_regression,
    "one-hot net": one_hot_net,
    "embedding net": embedding_net,
    "boosted trees": boosted_trees,
    "trees with embeddings": trees_with_embeddings,
}


def check(table: Adult | Tabular) -> list[str]:
    """Notes before the first run.

    Raises:
        DataError: the target does not have two classes, a column alone tells it, there are too many categories, or
            nothing can be learned.
    """
    source = people(table)
    target, where = source.target, f"{source.path}, target {source.target.name!r}"
    if target.kind == "number" or len(target.ids) != 2:
        have = "is a number" if target.kind == "number" else f"has {len(target.ids):,} classes"
        raise DataError(f"{where} {have}; log loss and AUC, which this study measures, are of two classes")
    for column in source.columns:
        if tells(column, target.cells):
            raise DataError(
                f"{where}: column {column.name!r} alone tells the class of every row, as a copy of the target does; "
                f"if nobody knows it before the target, leave it out with --drop {column.name!r}"
            )
    data = split(source, 0)
    if (many := sum(len(category.vocab) for category in data.categories)) > ONE_HOT:
        widest = max(data.categories, key=lambda category: len(category.vocab)).name
        raise DataError(
            f"{source.path}: {many:,} categories, of {ONE_HOT:,} at most; leave out a column (--drop {widest!r}?)"
        )
    with threadpool_limits(1):  # threads that wait for a busy processor take longer than one alone
        share, shown = learnable_share(source)
    if not shown:
        raise DataError(
            f"{where}: boosted trees and a logistic regression take {max(share, 0):.1%} off the log loss of constant "
            f"probabilities, which does not show that {LEAST:.0%} can be learned; models that have learned nothing "
            "cannot be compared, so no verdict is given"
        )
    return [f"There is something to learn: untuned models take {share:.0%} off the log loss of constant probabilities."]


def tells(column: Column, y: np.ndarray) -> bool:
    """Whether a column alone tells the class of every row: by few values, or by a threshold."""
    _, code = np.unique(column.cells, return_inverse=True)  # missing values are one of them
    rows, ones = np.bincount(code), np.bincount(code, y)
    if not ((ones == 0) | (ones == rows)).all():
        return False
    switches = np.abs(np.diff(ones > 0)).sum()
    return bool(len(rows) <= len(y) / 10 or (column.kind != "category" and switches <= 1))


def learnable_share(source: Tabular) -> tuple[float, bool]:
    """The share of a constant's log loss that models take off, and whether it exceeds `LEAST` beyond doubt.

    Errors of the mean are counted twice, over the validation rows of the splits so far.
    """
    settings, share, seen = {"rate": 1.0, "penalty": 1.0}, -math.inf, []
    for seed in range(PROBES if source.time is None else 1):
        data = split(source, seed)
        y = data.valid.tensors[-1].numpy()
        constant = np.bincount(data.train.tensors[-1].numpy(), minlength=2) / len(data.train)
        models = (boosted_trees, logistic_regression)
        seen.append(
            [losses(np.tile(constant, (len(y), 1)), y), *(losses(fit(data, settings, 0)[0], y) for fit in models)]
        )
        worst, *found = (np.concatenate(rows) for rows in zip(*seen, strict=True))
        for each in found:
            gains = worst - each
            share = max(share, gains.mean() / worst.mean())
            if gains.mean() - 2 * gains.std() / math.sqrt(len(gains)) > LEAST * worst.mean():
                return share, True
    return share, False


def _arm(model: str, rule: str = "none") -> Settings:
    return {"model": model, "rule": rule, "rate": 1.0, "penalty": 1.0}


NET, TREES_ALONE, ENRICHED = "embedding net", "boosted trees", "trees with embeddings"
OTHERS = {f"embedding net, {rule}": _arm(NET, rule) for rule in WIDTHS if rule != HALF}
STUDY = Study(
    name="entity_embeddings",
    title="Entity embeddings",
    question="Is a net with entity embeddings as good as boosted trees on tables?",
    run=run,
    check=check,
    data=("adult", "flights"),
    arms={model: _arm(model, HALF if model == NET else "none") for model in MODELS} | OTHERS,
    baseline=NET,
    metrics={
        "log_loss": Metric("log loss on the validation rows", better="lower", smallest="1 %"),
        "auc": Metric("area under the ROC curve", better="higher", smallest=0.005),
    },
    parts=(
        not_worse("44a", NET, TREES_ALONE, says="a net on entity embeddings is not worse than boosted trees"),
        beats("44b", ENRICHED, TREES_ALONE, says="trees gain from the learned embeddings"),
        not_worse("1b", NET, TREES_ALONE, says="the net with embeddings is not worse than boosted trees"),
        best("34", NET, OTHERS, says="half the categories, at most 50, is not worse than any"),
        not_worse("", NET, "logistic regression", says="the net on embeddings is not worse than a logistic regression"),
        beats("", NET, "one-hot net", says="the net on embeddings beats the net on one-hot columns"),
        beats("", "one-hot net", "logistic regression", says="the one-hot net beats the logistic regression"),
        not_worse("", NET, TREES_ALONE, says="its AUC is not worse than that of boosted trees", metric="auc"),
        beats("", ENRICHED, TREES_ALONE, says="the trees' AUC gains, too", metric="auc"),
    ),
    tuned={"rate": Range(0.1, 10), "penalty": Range(0.1, 10)},
    tunes_apart=True,
    cpu_only=True,
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute and a half"),
        "regular": Profile(seeds=20, trials=6, cost="twenty minutes"),
        "full": Profile(seeds=40, trials=16, cost="an hour and a quarter"),
    },
    names={
        "rate": "learning rate, times the model's own",
        "penalty": "weight decay, penalty or leaf size, times the model's own",
    },
    limits=(
        f"At most {ROWS:,} rows train: with more, models may rank differently.",
        f"Nets have hidden layers of {HIDDEN[0]} and {HIDDEN[1]}, {EPOCHS} epochs, batches of {BATCH}, a rate of "
        f"{LR:g} and a decay of {WD:g}. There are {TREES} trees, of rate {SHRINKAGE:g}, with leaves of {LEAF} rows "
        "or more. Tuning multiplies these numbers; a logistic regression has a penalty alone.",
        "The embeddings that trees read come from the untuned net.",
        f"Trees read a column of more than {CATEGORIES - 1} categories as numbers.",
        "Claims 1 and 44 ask for the same comparison here; a logistic regression may be better than both.",
        "No category of the census and the flights is large enough for `deferred=True` to save time: with 103 values, "
        "as the largest has, a training step takes 1.24 [1.24, 1.25] of the time of torch’s. With 100,000 it takes "
        "0.84 [0.81, 0.86], with a million 0.086 [0.083, 0.095], on two cores of an AMD EPYC, 2026-11-28 "
        "(`pytest bench/test_tables.py --benchmark-only --bench-profile full`).",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()

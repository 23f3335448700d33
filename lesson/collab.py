"""Collaborative filtering: the learner of embedding-dot-bias, which uses the fused trainer if it can."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kernels import FASTAI, backends
from kernels.steps import Decay
from kernels.steps import Optimizer as Kind
from kernels.trainer import Mode, Trainer
from lesson import checks, optimizers
from lesson.checks import DataError, shown
from lesson.data import CollabData, UnknownIdsWarning, Vocab
from lesson.data.ids import listed, spelled
from lesson.data.table import reason
from lesson.learner import Learner, Metric, OptFunc, stream, watched
from lesson.models import EmbeddingDotBias
from lesson.optimizers import AdamW
from lesson.schedules import Schedule

if TYPE_CHECKING:
    import pandas as pd

    Id = str | int | float
    Ids = list[Any] | tuple[Any, ...] | np.ndarray | Tensor | pd.Series[Any] | pd.Index[Any]


class Rule(NamedTuple):
    """An optimizer's settings as the fused trainer names them."""

    optimizer: Kind
    decay: Decay
    wd: float
    beta1: float
    beta2: float
    eps: float
    biases: tuple[bool, bool]


def seeded_model(
    n_factors: int,
    n_users: int,
    n_items: int,
    y_range: tuple[float, float] | None = None,
    seed: int = 0,
    backend: str | None = None,
) -> EmbeddingDotBias:
    """The initial model of the learner with this seed; see `EmbeddingDotBias` for the other arguments."""
    return EmbeddingDotBias(n_factors, n_users, n_items, y_range, stream(seed, "initialization"), backend)


def fused_trainer(
    model: EmbeddingDotBias,
    schedule: Schedule,
    *,
    wd: float,
    optimizer: Kind = "adam",
    decay: Decay = "decoupled",
    beta1: float = FASTAI.beta1,
    beta2: float = FASTAI.beta2,
    eps: float = FASTAI.eps,
    biases: tuple[bool, bool] = (True, True),
    mode: Mode | None = None,
    dtype: torch.dtype | None = None,
) -> Trainer:
    """A trainer that starts from a model's tables and follows a schedule: by default the lesson's AdamW.

    Args:
        model: its tables are copied.
        schedule: a rate and a momentum for each step of the training.
        wd: weight decay.
        optimizer: see `kernels.trainer.Trainer`, as for the following.
        decay: what weight decay does.
        beta1: momentum at every step, if the schedule has none.
        beta2: decay of the mean square.
        eps: added to its root.
        biases: whether users and items learn their biases; otherwise these are zero.
        mode: what happens to rows that a batch does not read.
        dtype: of the trainer's tables; None takes the model's.

    >>> from lesson.schedules import one_cycle
    >>> model = seeded_model(40, n_users=944, n_items=1683, y_range=(0, 5.5), seed=0)
    >>> trainer = fused_trainer(model, one_cycle(5 * 1407, 5e-3), wd=0.1)
    >>> users, items, stars = torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([5.0, 1.0])
    >>> trainer.epoch(users, items, stars, order=torch.tensor([1, 0]), batch_size=64).shape
    torch.Size([1])
    """
    momentum = np.full(len(schedule.lr), beta1) if schedule.momentum is None else schedule.momentum
    return Trainer(
        *(table.detach().to(dtype) for table in model.tables()),
        lr=schedule.lr,
        momentum=momentum,
        optimizer=optimizer,
        decay=decay,
        weight_decay=wd,
        beta2=beta2,
        eps=eps,
        y_range=model.y_range,
        biases=biases,
        mode=mode,
    )


class CollabLearner(Learner):
    """A learner for collaborative filtering; made by `collab_learner`.

    On a CPU the fused trainer does whole epochs for the optimizers it knows: the lesson's SGD, Momentum, RMSprop, Adam
    and AdamW, over all four tables, or without biases that are frozen at zero. Other optimizers, other frozen tables,
    hooks and `bn_wd=False` use the learner's loop, which takes many times as long.

    Args:
        data: ratings, split.
        model: embedding-dot-bias, with tables for this data.
        mode: how the fused trainer treats rows that a batch does not read; see `kernels.trainer`.
        how: as for `Learner`.

    Raises:
        DataError: an argument is wrong.
    """

    data: CollabData
    model: EmbeddingDotBias
    valid_bs = 1 << 16

    def __init__(self, data: CollabData, model: EmbeddingDotBias, *, mode: Mode | None = None, **how: Any) -> None:
        if mode not in (None, *get_args(Mode)):
            raise DataError(f"mode={shown(mode)}: there are {', '.join(get_args(Mode))}, and None")
        super().__init__(data, model, mse_loss, **how)
        self.mode = mode

    @property
    def backend(self) -> str:
        """Which implementation trains."""
        return backends.choose(self.model.backend, self.device, self.model.u_weight.weight.dtype)

    def _training(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule
    ) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        rule = self._rule(optimizer) if self.backend == "native" else None
        if rule is not None:
            return self._fused_training(rule, schedule)
        if self.mode is not None:
            raise DataError(f"mode={self.mode!r}: only the fused trainer has modes, and it cannot train this model")
        return super()._training(optimizer, schedule)

    @contextmanager
    def _fused_training(self, rule: Rule, schedule: Schedule) -> Iterator[Callable[[Tensor], Tensor]]:
        trainer = fused_trainer(self.model, schedule, mode=self.mode, **rule._asdict())
        layers, rows = self.model.layers(), self.data.train
        stars = rows.ratings.to(layers[0].weight.dtype)

        def train(order: Tensor) -> Tensor:
            for layer, table in zip(layers, trainer.weights(), strict=True):
                if layer.weight.data_ptr() != table.data_ptr():  # the caller changed the model's numbers
                    table.copy_(layer.weight.detach().view_as(table))
            try:
                return trainer.epoch(rows.users, rows.items, stars, order, self.bs)
            finally:
                _share(layers, trainer)

        _share(layers, trainer)
        try:
            yield train
        finally:
            for layer in layers:
                layer.weight.data = layer.weight.detach().clone(memory_format=torch.contiguous_format)

    def _rule(self, optimizer: torch.optim.Optimizer) -> Rule | None:
        """The optimizer's settings for the fused trainer; None if the trainer cannot compute its steps."""
        users, items, *biases = (layer.weight for layer in self.model.layers())
        trains = users.requires_grad and items.requires_grad and all(b.requires_grad or not b.any() for b in biases)
        whole = len(optimizer.param_groups) == 1 and trains
        kind, decay = optimizers.named(optimizer) or ("sign", "none")
        if kind == "sign" or not whole or self.loss_func is not mse_loss or watched(self.model, optimizer):
            return None
        group = optimizer.param_groups[0]
        beta1, beta2 = group.get("betas", FASTAI[:2])
        beta1 = group["momentum"] if kind == "momentum" else beta1
        learned = biases[0].requires_grad, biases[1].requires_grad
        return Rule(kind, decay, group.get("weight_decay", 0.0), beta1, beta2, group.get("eps", FASTAI.eps), learned)

    def bias(self, arr: Ids, is_item: bool = True) -> Tensor:
        """Biases float32[len(arr)] of items (ids or titles), or of users (claim 39).

        Args:
            arr: ids in a list, an array, a tensor or a Series.
            is_item: whether they are items; users otherwise.

        Raises:
            DataError: an id that training did not see.
        """
        table = self.model.i_bias if is_item else self.model.u_bias
        return table.weight.detach().cpu()[self._vocab(is_item).seen(arr), 0]

    def weight(self, arr: Ids, is_item: bool = True) -> Tensor:
        """Latent factors float32[len(arr), n_factors] of items (ids or titles), or of users.

        Args:
            arr: ids in a list, an array, a tensor or a Series.
            is_item: whether they are items; users otherwise.

        Raises:
            DataError: an id that training did not see.
        """
        table = self.model.i_weight if is_item else self.model.u_weight
        return table.weight.detach().cpu()[self._vocab(is_item).seen(arr)]

    def _vocab(self, is_item: bool) -> Vocab:
        return self.data.items if is_item else self.data.users

    @overload
    def predict(self, user: Id, item: Id) -> float: ...
    @overload
    def predict(self, user: Ids, item: Ids) -> Tensor: ...
    def predict(self, user: Id | Ids, item: Id | Ids) -> float | Tensor:
        """The predicted rating of an item by a user, or of pairs of two lists of ids.

        Ids that training never saw get the reserved row, as in fastai: their factors and bias are near zero, so an
        unseen user is predicted from the item's bias. `data.users.known(ids)` says which ids are known.

        Args:
            user: an id, or several in a list, an array, a tensor or a Series.
            item: an id or title, or as many.

        Returns:
            A float, or float32[pairs].

        Raises:
            DataError: an id is None or NaN, or the lists differ in length.

        Warns:
            UnknownIdsWarning: training never saw some of the ids.
        """
        (users, single), (items, single_item) = listed(user), listed(item)
        if single != single_item or len(users) != len(items):
            counts = ["one" if alone else len(ids) for ids, alone in ((users, single), (items, single_item))]
            raise DataError(f"{counts[0]} users and {counts[1]} items: pass pairs")
        rows = [self.data.users.rows(users), self.data.items.rows(items)]
        _warn_of_unknown([("user", users, rows[0]), ("item", items, rows[1])])
        with torch.no_grad():
            scores = self.model(*(torch.from_numpy(ids).to(self.device) for ids in rows)).cpu()
        return scores.item() if single else scores

    def recommend(self, user: Id, n: int = 10) -> pd.DataFrame:
        """The `n` items with the highest predicted ratings among those that the user has not rated in training.

        Returns:
            Columns item, title, prediction, best first; ties by id. Fewer than `n` rows if there are fewer items.

        Raises:
            DataError: training did not see the user.
        """
        import pandas as pd  # pandas takes half a second to import, only needed here

        n, row = checks.whole("n", n, least=1), self.data.users.row(user)
        items = torch.arange(1, len(self.data.items))
        seen = self.data.train.items[self.data.train.users == row]
        items = items[~torch.isin(items, seen)].to(self.device)
        with torch.no_grad():
            scores = self.model(torch.full_like(items, row), items)
        best = torch.sort(scores, descending=True, stable=True).indices[:n]
        keys = [self.data.items.key(item) for item in items[best].tolist()]
        return pd.DataFrame(
            {
                "item": keys,
                "title": [self.data.title(key) for key in keys],
                "prediction": scores[best].cpu().numpy(),
            }
        )

    def _identity(self) -> dict[str, str]:
        return {
            "users": json.dumps(self.data.users.ids.tolist()),
            "items": json.dumps(self.data.items.ids.tolist()),
            "n_factors": str(self.model.u_weight.embedding_dim),
            "y_range": json.dumps(self.model.y_range),
        }


def _share(layers: Sequence[nn.Embedding], trainer: Trainer) -> None:
    """Make the parameters views of the trainer's tables: separate copies would take 17 bytes per parameter."""
    for layer, table in zip(layers, trainer.weights(), strict=True):
        layer.weight.data = table.view(len(table), -1)


def collab_learner(
    data: CollabData,
    n_factors: int = 50,
    y_range: tuple[float, float] | None = None,
    wd: float = 0.01,
    *,
    bs: int = 64,
    opt_func: OptFunc = AdamW,
    metrics: Sequence[Metric] = (),
    bn_wd: bool = True,
    seed: int = 0,
    backend: str | None = None,
    device: str | torch.device = "cpu",
    mode: Mode | None = None,
    quiet: bool = False,
) -> CollabLearner:
    """A learner for collaborative filtering: EmbeddingDotBias under AdamW (claims 35, 49, 75).

    Args:
        data: from `load_movielens` or `load_ratings`.
        n_factors: width of the embeddings.
        y_range: range of the sigmoid on the score, at least as wide as the ratings; None for no sigmoid.
        wd: weight decay; under AdamW each step shrinks every parameter by 1 − lr·wd.
        bs: ratings per batch.
        opt_func: makes the optimizer; one of `lesson.optimizers`, with other constants through `functools.partial`.
        metrics: functions of predictions and ratings, such as `lesson.metrics.rmse`.
        bn_wd: whether the tables of biases decay too (claim 55).
        seed: of initialization and batch order. The same seed, backend and thread count give the same bits.
        backend: "native" (default on a CPU), "reference" or "triton" (default on a GPU).
        device: the model's device. The CPU is the default: at the lesson's sizes it is faster.
        mode: how the fused trainer treats rows that a batch does not read; see `kernels.trainer`.
        quiet: do not print a line per epoch.

    Raises:
        BackendError: the backend cannot run on this device.
        DataError: an argument is wrong.

    >>> from lesson import load_movielens
    >>> learn = collab_learner(load_movielens(), n_factors=40, y_range=(0, 5.5), wd=1e-1, quiet=True)
    >>> learn.weight(["Star Wars (1977)", 1], is_item=True).shape
    torch.Size([2, 40])
    """
    if not isinstance(data, CollabData):
        raise DataError(
            f"data={shown(data)}: pass the result of load_ratings or load_movielens, "
            "as in collab_learner(load_ratings('ratings.csv'))"
        )
    checks.text("backend", backend)
    bs, place = checks.whole("bs", bs, least=1), _device(device)
    model = seeded_model(n_factors, len(data.users), len(data.items), y_range, seed, backend).to(place)
    low, high = data.ratings.rating.min(), data.ratings.rating.max()
    if model.y_range is not None and not (model.y_range[0] <= low and high <= model.y_range[1]):
        warnings.warn(
            f"y_range={model.y_range} does not cover all ratings, which go from {low:g} to {high:g}; "
            f"data.y_range does: {data.y_range}",
            stacklevel=2,
        )
    backends.choose(backend, model.u_weight.weight.device, model.u_weight.weight.dtype)
    how = {"opt_func": opt_func, "metrics": metrics, "wd": wd, "bn_wd": bn_wd, "bs": bs, "seed": seed, "quiet": quiet}
    return CollabLearner(data, model, mode=mode, **how)


def _device(device: Any) -> torch.device:
    try:
        place = torch.device(device)
        torch.zeros((), device=place).item()  # "meta" has no numbers
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        known = "use 'cpu', or 'cuda' if there is a GPU"
        raise DataError(f"device={shown(device)}: {known} ({reason(error)})") from None
    return place


def _warn_of_unknown(asked: list[tuple[str, list[Any], np.ndarray]]) -> None:
    """Warn once about ids that training never saw."""
    names = ((kind, spelled(keys[k])) for kind, keys, rows in asked for k in np.flatnonzero(rows == 0))
    unknown = list(dict.fromkeys(names))
    if unknown:
        some = ", ".join(f"{kind} {key!r}" for kind, key in unknown[:3]) + (" …" if len(unknown) > 3 else "")
        warnings.warn(
            f"no training rating has {some} ({len(unknown):,} in all); the reserved row answers. "
            "data.users.known(ids) and data.items.known(ids) say which ids are known",
            UnknownIdsWarning,
            stacklevel=3,
        )

"""Collaborative filtering: the learner of embedding-dot-bias, which uses the fused trainer if it can."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kernels import FASTAI, backends, embedding_dot_bias
from kernels.steps import Decay
from kernels.steps import Optimizer as Kind
from kernels.trainer import Mode, Trainer
from lesson import checks, films, optimizers
from lesson.checks import DataError, shown
from lesson.data import CollabData, UnknownIdsWarning, Vocab
from lesson.data.bunch import split_digest
from lesson.data.ids import listed, spelled
from lesson.data.table import reason
from lesson.fold_in import FoldedUser, most_likely
from lesson.interpretation import Factors, cosines, taken_apart, widened
from lesson.learner import Learner, Metric, OptFunc, stream, watched
from lesson.models import EmbeddingDotBias
from lesson.optimizers import AdamW
from lesson.schedules import Schedule

if TYPE_CHECKING:
    from pathlib import Path

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
    hooks, models of a subclass and `bn_wd=False` use the learner's loop, which takes many times as long. The fused
    trainer keeps the optimizer's averages to itself: a state that is loaded between epochs is refused.

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
        if rule is not None and not (rule.optimizer == "momentum" and optimizers.zero_at_times(schedule.momentum)):
            return self._fused_training(rule, optimizer, schedule)
        if self.mode is not None:
            raise DataError(f"mode={self.mode!r}: only the fused trainer has modes, and it cannot train this model")
        return super()._training(optimizer, schedule)

    @contextmanager
    def _fused_training(
        self, rule: Rule, optimizer: torch.optim.Optimizer, schedule: Schedule
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        trainer = fused_trainer(self.model, schedule, mode=self.mode, **rule._asdict())
        layers, y_range = self.model.layers(), self.model.y_range
        before, dtype = [layer.weight.data for layer in layers], layers[0].weight.dtype

        def train(order: Tensor) -> Tensor:
            # The trainer has the averages, so the learner's loop cannot go on.
            same = self.model.y_range == y_range and all(layer.weight.dtype == dtype for layer in layers)
            if self._rule(optimizer) != rule or not same:
                raise DataError(
                    "what is frozen, the loss, y_range, a layer, a dtype, a hook or the optimizer's settings or state "
                    "have changed between epochs: start a new training"
                )
            optimizer.zero_grad()  # the caller's gradients are no part of a step
            rows = self.data.train
            stars = rows.ratings.to(dtype)
            for layer, table in zip(layers, trainer.weights(), strict=True):
                if layer.weight.data_ptr() != table.data_ptr():  # the caller changed the model's numbers
                    table.copy_(layer.weight.detach().view_as(table))
            try:
                return trainer.epoch(rows.users, rows.items, stars, order, self.bs)
            finally:
                _share(layers, trainer)

        _share(layers, trainer)
        shared = [layer.weight.data_ptr() for layer in layers]
        try:
            yield train
        finally:  # at the end of the program, too, where views of NumPy's memory cannot be made any more
            for layer, place, own in zip(layers, shared, before, strict=True):
                if layer.weight.data_ptr() == place:  # else the caller has given it other memory
                    if not torch.equal(own, now := layer.weight.detach()):  # frozen biases may not be writable
                        own.copy_(now)
                    layer.weight.data = own  # others may share this memory

    def _rule(self, optimizer: torch.optim.Optimizer) -> Rule | None:
        """The optimizer's settings for the fused trainer; None if the trainer cannot compute its steps."""
        layers = self.model.layers()
        if type(self.model) is not EmbeddingDotBias or any(type(layer) is not nn.Embedding for layer in layers):
            return None  # a subclass or a parametrization computes something else
        tables = [layer.weight for layer in layers]
        users, items, *biases = tables
        apart = len({table.data_ptr() for table in tables}) == 4  # no weights used twice
        trains = users.requires_grad and items.requires_grad and all(b.requires_grad or not b.any() for b in biases)
        group, *others = optimizer.param_groups
        whole = {table for table in tables if table.requires_grad} <= {*group["params"]} <= {*tables} and not others
        kind, decay = optimizers.named(optimizer) or ("sign", "none")
        plain = self.loss_func is mse_loss and not watched(self.model, optimizer)
        if kind == "sign" or not (plain and apart and trains and whole):
            return None
        if any(optimizer.state.values()) or group.get("share", 1) != 1:  # a state that was loaded, or another rate
            return None
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

    def weight(self, arr: Ids, is_item: bool = True) -> Factors:
        """Latent factors float32[len(arr), n_factors] of items (ids or titles), or of users.

        Args:
            arr: ids in a list, an array, a tensor or a Series.
            is_item: whether they are items; users otherwise.

        Returns:
            A tensor that also has the notes' `pca` (claim 42).

        Raises:
            DataError: an id that training did not see.

        >>> from lesson import load_movielens
        >>> learn = collab_learner(load_movielens(), n_factors=40, y_range=(0, 5.5), wd=1e-1, quiet=True)
        >>> movie_w = learn.weight(learn.data.top_items(1000))
        >>> fac0, fac1, fac2 = movie_w.pca(3).t()
        >>> movie_w.shape, fac0.shape
        (torch.Size([1000, 40]), torch.Size([1000]))
        """
        table = self.model.i_weight if is_item else self.model.u_weight
        return table.weight.detach().cpu()[self._vocab(is_item).seen(arr)].as_subclass(Factors)

    def _vocab(self, is_item: bool) -> Vocab:
        return self.data.items if is_item else self.data.users

    # A person's questions

    @overload
    def predict(self, user: Id | FoldedUser, item: Id) -> float: ...
    @overload
    def predict(self, user: Ids | FoldedUser, item: Ids) -> Tensor: ...
    def predict(self, user: Id | Ids | FoldedUser, item: Id | Ids) -> float | Tensor:
        """The predicted rating of an item by a user, or of pairs of two lists of ids.

        Ids that training never saw get the reserved row, as in fastai: their factors and bias are near zero, so an
        unseen user is predicted from the item's bias. `data.users.known(ids)` says which ids are known.

        Args:
            user: an id, several in a list, an array, a tensor or a Series, or a user from `fold_in` for all items.
            item: an id or title, or as many.

        Returns:
            A float, or float32[pairs].

        Raises:
            DataError: an id is None or NaN, the lists differ in length, or a user from `fold_in` was folded into
                another learner.

        Warns:
            UnknownIdsWarning: training never saw some of the ids.
        """
        items, single_item = listed(item)
        if isinstance(user, FoldedUser):
            rows = self.data.items.rows(items)
            _warn_of_unknown([("item", items, rows)])
            scores = self._predicted(self._person(user), torch.from_numpy(rows))
            return scores.item() if single_item else scores
        users, single = listed(user)
        if single != single_item or len(users) != len(items):
            counts = ["one" if alone else len(ids) for ids, alone in ((users, single), (items, single_item))]
            raise DataError(f"{counts[0]} users and {counts[1]} items: pass pairs")
        pairs = [self.data.users.rows(users), self.data.items.rows(items)]
        _warn_of_unknown([("user", users, pairs[0]), ("item", items, pairs[1])])
        scores = self._scores(*map(torch.from_numpy, pairs))
        return scores.item() if single else scores

    def fold_in(self, ratings: Mapping[Id, float]) -> FoldedUser:
        """A user whom training never saw, from a few ratings, without retraining.

        The items stay as training left them. The user's factors p and bias b, together u, minimize

            Σ (rating − prediction(u))² + σ² · (u − μ)ᵀ Σᵤ⁻¹ (u − μ)

        where predictions go through the sigmoid's range, σ² is the mean squared error on the training's ratings, and μ
        and Σᵤ are the mean and the covariance of the training's users. So u is the most likely user, if users are like
        those of the training and ratings err as they did there (Salakhutdinov & Mnih 2007, with a full covariance).
        Weight decay comes in through Σᵤ: the harder it pulled the training's users toward zero, the harder this pulls.
        Gauss-Newton steps find the minimum. In large trainings σ, μ and Σᵤ come from 1,024 users and ratings.

        Args:
            ratings: ratings by item (id or title): a dictionary or a Series.

        Returns:
            A user for `predict`, `recommend` and `explain` of this learner. After more training, fold in again.

        Raises:
            DataError: there is no rating of an item that training has seen, a rating is outside the training's ratings,
                an item is rated twice, the model has a forward of its own, or its numbers are not finite.

        Warns:
            UnknownIdsWarning: training never saw some of the items; their ratings are left out.

        Example:
            >>> me = learn.fold_in({"Star Wars (1977)": 5, "Striptease (1996)": 1})  # doctest: +SKIP
            >>> learn.recommend(me, n=5)  # doctest: +SKIP
        """
        self._check_formula()
        checks.finite("fold_in", *self.model.tables())
        if not hasattr(ratings, "items") or getattr(ratings, "ndim", 1) != 1:
            raise DataError(f"ratings={shown(ratings)}: a dictionary is needed, as in {{'Star Wars (1977)': 5}}")
        items, stars = [list(column) for column in zip(*ratings.items(), strict=True)] or ([], [])
        rows, (low, high) = self.data.items.rows(items), self.data.ratings.ends
        for item, star in zip(items, stars, strict=True):
            if not isinstance(star, checks.NUMBERS) or isinstance(star, bool) or not checks.covers(low, high, star):
                raise DataError(
                    f"ratings: {shown(star)} for {shown(item)}; a number from {low:g} to {high:g} is needed"
                )
        _warn_of_unknown([("item", items, rows)])
        known = rows > 0
        if not known.any():
            raise DataError("ratings: none is of an item that training has seen; recommend() needs no ratings")
        seen, times = np.unique(rows[known], return_counts=True)
        if times.max() > 1:
            raise DataError(f"ratings: item {shown(self.data.items.key(seen[times.argmax()]))} is rated twice")
        found = torch.from_numpy(rows[known])
        weight, bias = most_likely(self.model, self.data, found, np.array(stars, np.float64)[known])
        return FoldedUser(weight, bias, found, self.model)

    def recommend(self, user: Id | FoldedUser | None = None, n: int = 10, exclude_seen: bool = True) -> pd.DataFrame:
        """The `n` items with the highest predicted ratings.

        Args:
            user: an id, or a user from `fold_in`. None, for somebody who has rated nothing, gives the items with the
                highest biases (claim 41).
            n: how many.
            exclude_seen: whether to leave out what the user has rated in training.

        Returns:
            Columns item, title, prediction, best first; ties by id. Fewer than `n` rows if there are fewer items.

        Raises:
            DataError: training did not see the user, the user was folded into another learner, or the model has a
                forward of its own and the user is no id, or it predicts numbers that are not finite.
        """
        import pandas as pd  # pandas takes half a second to import, only needed here

        n, person = checks.whole("n", n, least=1), self._person(user)
        items = torch.arange(1, len(self.data.items))
        if exclude_seen:
            items = items[~torch.isin(items, person.seen)]
        if user is None or isinstance(user, FoldedUser):
            scores = self._predicted(person, items)
        else:
            scores = self._scores(torch.full_like(items, self.data.users.row(user)), items)
        checks.finite("recommend", scores)
        best = torch.sort(scores, descending=True, stable=True).indices[:n]
        keys = [self.data.items.key(item) for item in items[best].tolist()]
        return pd.DataFrame(
            {"item": keys, "title": [self.data.title(key) for key in keys], "prediction": scores[best].numpy()}
        )

    def explain(self, user: Id | FoldedUser, item: Id) -> pd.DataFrame:
        """One prediction taken apart: the dot product, the two biases, and what the sigmoid makes of them (claim 28).

        Args:
            user: an id, or a user from `fold_in`.
            item: an id or title.

        Returns:
            Columns score and rating by part. The scores of the parts add up to the score, and their ratings to the
            prediction, exactly. What a part adds to the rating depends on the parts before it, since the sigmoid is no
            straight line: first comes the middle of the range, then the item's bias, the user's, the dot product.

        Raises:
            DataError: training did not see the user or the item, the model has a forward of its own, or the
                prediction is not finite.

        Example:
            >>> learn.explain(196, "Star Wars (1977)").round(2)  # doctest: +SKIP
                                score  rating
            part
            middle of 0 to 5.5   0.00    2.75
            item bias            0.51    0.68
            user bias            0.16    0.20
            dot product          0.23    0.27
            prediction           0.90    3.91
        """
        if user is None:
            raise DataError("user=None: a user is needed")
        person, row = self._person(user), self.data.items.row(item)
        _, weight, _, bias = self.model.tables()
        dot = (person.weight.double() @ weight[row].detach().cpu().double()).item()
        prediction = self._predicted(person, torch.tensor([row]))
        checks.finite("explain", prediction)
        return taken_apart(dot, person.bias, bias[row].item(), self.model.y_range, prediction.item())

    def nearest(self, item: Id, n: int = 10, least: int = 1) -> pd.DataFrame:
        """The `n` items whose factors point most nearly where this item's do: by cosine similarity.

        Biases take no part: the nearest items are liked by the same people, whether they are good or bad.

        Args:
            item: an id or title.
            n: how many.
            least: the ratings that an item must have; the factors of items with few ratings say little.

        Returns:
            Columns item, title, similarity (from −1 to 1), nearest first; ties by id.

        Raises:
            DataError: training did not see the item, or factors are not finite.
        """
        import pandas as pd  # pandas takes half a second to import, only needed here

        n, row = checks.whole("n", n, least=1), self.data.items.row(item)
        table = pd.DataFrame({"item": self.data.items.ids})
        table["title"] = [self.data.title(key) for key in table["item"]]
        similarity = cosines(widened(self.model.i_weight.weight.detach().cpu()[1:]), row - 1)
        checks.finite("nearest", similarity)
        table["similarity"] = similarity.numpy()
        others = table[self.data.item_ratings["count"].to_numpy() >= checks.whole("least", least)].drop(
            row - 1, errors="ignore"
        )
        return others.sort_values("similarity", ascending=False, kind="stable").head(n).reset_index(drop=True)

    def export(self, path: str | Path) -> None:
        """Write what training learned about the items to a Parquet file, best first; the whole file or nothing.

        One row per item that training has seen, with columns item (the id as text), title, bias, factors
        (float[n_factors]), mean and count of all its ratings, genres (if known), and components: up to three principal
        components of the factors of the 1,000 most rated items, null for the others. `python -m reports` draws the file
        as a page if it is `films.parquet` in the folder of the results.

        Raises:
            DataError: the model holds numbers that are not finite, or the file cannot be written.

        Example:
            >>> learn.export("results/films.parquet")  # doctest: +SKIP
        """
        films.write(path, self.model, self.data)

    def _person(self, user: Id | FoldedUser | None) -> FoldedUser:
        """A user's factors, bias and rated items; for nobody no factors, and the mean of the users' biases."""
        weight, _, bias, _ = self.model.tables()
        if isinstance(user, FoldedUser):
            if user.model is not self.model:
                raise DataError(f"user={shown(user)}: folded into another learner; use this one's fold_in")
            return user
        if user is None:
            nobody = torch.zeros(weight.shape[1], dtype=weight.dtype)
            return FoldedUser(nobody, bias[1:].mean().item(), torch.empty(0, dtype=torch.int64), self.model)
        row = self.data.users.row(user)
        seen = self.data.train.items[self.data.train.users == row]
        return FoldedUser(weight[row].detach().cpu(), bias[row].item(), seen, self.model)

    @torch.no_grad()
    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        """The model's predictions of pairs of rows."""
        self.model.eval()
        scores: Tensor = self.model(users.to(self.device), items.to(self.device))
        return widened(scores.cpu())

    def _check_formula(self) -> None:
        """Check that the model predicts by the lesson's formula, since a user without a row needs it written out.

        Raises:
            DataError: it has another forward, or a hook changes what it gets or returns.
        """
        model = self.model
        own = type(model).forward is not EmbeddingDotBias.forward or "forward" in vars(model)
        if own or model._forward_hooks or model._forward_pre_hooks:
            raise DataError(
                f"{type(model).__name__} has a forward or a hook of its own: fold_in, explain and recommend() without "
                "a user know only EmbeddingDotBias; use predict, or recommend with a user's id"
            )

    @torch.no_grad()
    def _predicted(self, person: FoldedUser, items: Tensor) -> Tensor:
        """One user's predicted ratings of rows of the item table."""
        self._check_formula()
        user_weight, weight, user_bias, bias = self.model.tables()
        own = user_weight.new_tensor(person.weight.tolist())[None], user_bias.new_tensor([person.bias])
        rows = items.to(self.device)
        y_range, backend = self.model.y_range, self.model.backend
        scores = embedding_dot_bias(
            torch.zeros_like(rows), rows, own[0], weight, own[1], bias, y_range=y_range, backend=backend
        )
        return widened(scores.cpu())

    def _identity(self) -> dict[str, str]:
        return {
            "users": json.dumps(self.data.users.ids.tolist()),
            "items": json.dumps(self.data.items.ids.tolist()),
            "n_factors": str(self.model.u_weight.embedding_dim),
            "y_range": json.dumps(self.model.y_range),
            "split": split_digest(self.data.valid),
        }


def _share(layers: Sequence[nn.Embedding], trainer: Trainer) -> None:
    """Make the parameters views of the trainer's tables: between epochs the model has what was trained so far."""
    for layer, table in zip(layers, trainer.weights(), strict=True):
        layer.weight.data = table.view(len(table), -1)
    # So that backward() through an older forward pass is refused, as after any other step.
    torch.autograd.graph.increment_version([layer.weight for layer in layers])


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
    low, high = data.ratings.ends
    if model.y_range is not None and not checks.covers(*model.y_range, low, high):
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

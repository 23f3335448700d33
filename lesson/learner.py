"""The learner: data, model and training in the lesson's words."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Hashable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, cast, overload

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from kernels import FASTAI, AdamConstants, adam_step_, backends
from kernels.trainer import Trainer
from lesson.data import CollabData, DataError
from lesson.models import EmbeddingDotBias
from lesson.schedules import Schedule, constant, one_cycle


class Epoch(NamedTuple):
    """What an epoch left behind: 1-based number, mean squared errors, seconds of training."""

    epoch: int
    train_loss: float
    valid_loss: float
    seconds: float


class DivergenceError(FloatingPointError):
    """Training left the finite numbers; `learn.history` holds the epochs before."""


def stream(seed: int, name: str) -> torch.Generator:
    """A generator of its own for each purpose, so that one more draw here moves nothing there."""
    purpose = ("initialization", "order").index(name)
    state = np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


class Learner:
    """A model, its data, and how to train it; made by `collab_learner`.

    Attributes:
        history: an `Epoch` for each epoch trained so far.
    """

    def __init__(
        self,
        data: CollabData,
        model: EmbeddingDotBias,
        wd: float,
        bs: int,
        adam: AdamConstants,
        seed: int,
        quiet: bool,
    ) -> None:
        self.data, self.model, self.wd, self.bs, self.adam, self.quiet = data, model, wd, bs, adam, quiet
        self.history: list[Epoch] = []
        self._order = stream(seed, "order")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.u_weight.weight.device

    @property
    def backend(self) -> str:
        """Which implementation trains."""
        return backends.choose(self.model.backend, self.device, self.model.u_weight.weight.dtype)

    def fit_one_cycle(
        self,
        epochs: int,
        lr: float | slice = 5e-3,
        moms: tuple[float, float] = (0.95, 0.85),
        div_factor: float = 25.0,
        pct_start: float = 0.3,
    ) -> None:
        """Train with the one-cycle policy, rate and momentum changing at every batch (claim 76).

        Raises:
            DivergenceError: the loss is no finite number any more.
        """
        self._fit(epochs, one_cycle(epochs * self._batches, _last_rate(lr), moms, div_factor, pct_start))

    def fit(self, epochs: int, lr: float | slice = 3e-3) -> None:
        """Train with a constant rate. The model has one layer group: of slice(a, b) it gets b (claim 23).

        Raises:
            DivergenceError: the loss is no finite number any more.
        """
        self._fit(epochs, constant(epochs * self._batches, _last_rate(lr), self.adam.beta1))

    @property
    def _batches(self) -> int:
        return -(-len(self.data.train) // self.bs)

    def _fit(self, epochs: int, schedule: Schedule) -> None:
        if epochs < 1:
            raise ValueError(f"{epochs=}: at least one is needed")
        train, valid = self.data.train, self.data.valid
        trainer = (_NativeTraining if self.backend == "native" else _OpsTraining)(self, schedule)
        try:
            for _ in range(epochs):
                order = torch.randperm(len(train), generator=self._order)
                began = time.perf_counter()
                train_loss = trainer.epoch(order).mean().item()
                seconds = time.perf_counter() - began
                valid_loss = _error(trainer.scores(valid.users, valid.items), valid.ratings)
                self._record(Epoch(len(self.history) + 1, train_loss, valid_loss, seconds))
        finally:
            trainer.finish()

    def _record(self, record: Epoch) -> None:
        if not np.isfinite([record.train_loss, record.valid_loss]).all():
            raise DivergenceError(
                f"the loss left the finite numbers in epoch {record.epoch} "
                f"(training {record.train_loss}, validation {record.valid_loss}); try a smaller rate"
            )
        self.history.append(record)
        if not self.quiet:
            if record.epoch == 1:
                print("epoch  train_loss  valid_loss    time")
            print(f"{record.epoch:5}  {record.train_loss:10.6f}  {record.valid_loss:10.6f}  {record.seconds:5.2f}s")

    @torch.no_grad()
    def validate(self) -> float:
        """The mean squared error on the validation rows."""
        valid = self.data.valid
        return _error(self.model(valid.users.to(self.device), valid.items.to(self.device)), valid.ratings)

    def bias(self, arr: Sequence[Hashable] | np.ndarray, is_item: bool = True) -> Tensor:
        """Biases float32[len(arr)] of items (ids or titles), or of users (claim 39).

        Raises:
            DataError: an id that training did not see.
        """
        table = self.model.i_bias if is_item else self.model.u_bias
        return table.weight.detach().cpu()[self._rows(arr, is_item), 0]

    def weight(self, arr: Sequence[Hashable] | np.ndarray, is_item: bool = True) -> Tensor:
        """Latent factors float32[len(arr), n_factors] of items (ids or titles), or of users.

        Raises:
            DataError: an id that training did not see.
        """
        table = self.model.i_weight if is_item else self.model.u_weight
        return table.weight.detach().cpu()[self._rows(arr, is_item)]

    def _rows(self, arr: Sequence[Hashable] | np.ndarray, is_item: bool) -> list[int]:
        if isinstance(arr, (str, bytes)):
            raise TypeError(f"a list of ids is needed, not the text {arr!r}")
        row = self.data.item_row if is_item else self.data.users.row
        return [row(key) for key in (arr.tolist() if isinstance(arr, np.ndarray) else arr)]

    @overload
    def predict(self, user: Hashable, item: Hashable) -> float: ...
    @overload
    def predict(self, user: list[Hashable], item: list[Hashable]) -> Tensor: ...
    @torch.no_grad()
    def predict(self, user: Hashable | list[Hashable], item: Hashable | list[Hashable]) -> float | Tensor:
        """The predicted rating of an item by a user, or of pairs of two lists of ids: float32[pairs].

        Ids that training never saw get the reserved row, as in fastai: their factors and bias are near zero, so an
        unseen user is predicted from the item's bias.
        """
        single = isinstance(user, (str, bytes)) or not isinstance(user, Sequence | np.ndarray)
        users: list[Any] = [user] if single else list(cast(Any, user))
        items: list[Any] = [item] if single else list(cast(Any, item))
        if len(users) != len(items):
            raise ValueError(f"{len(users)} users and {len(items)} items: pairs are needed")
        scores = self.model(
            torch.tensor([self.data.users.row_or_na(key) for key in users], device=self.device),
            torch.tensor([self.data.item_row_or_na(key) for key in items], device=self.device),
        ).cpu()
        return scores.item() if single else scores

    @torch.no_grad()
    def recommend(self, user: Hashable, n: int = 10) -> pd.DataFrame:
        """The `n` items of the highest predicted rating among those the user has not rated in training.

        Returns:
            Columns item, title, prediction, best first; ties go by id.

        Raises:
            DataError: a user that training did not see.
        """
        row = self.data.users.row(user)
        items = torch.arange(1, len(self.data.items))
        seen = self.data.train.items[self.data.train.users == row]
        items = items[~torch.isin(items, seen)].to(self.device)
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

    def save(self, path: str | Path) -> None:
        """Save the model with its vocabularies as a safetensors file; the whole file or none of it."""
        path = Path(path)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            state = {name: table.detach().cpu().contiguous() for name, table in self.model.state_dict().items()}
            safetensors.torch.save_file(state, aside, metadata=self._identity())
            Path(aside).chmod(0o644)
            Path(aside).replace(path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise

    def load(self, path: str | Path) -> Learner:
        """Take over the tables of a saved model that has these vocabularies, width and range.

        Raises:
            DataError: no such file, or one that does not fit this learner.
        """
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                saved = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, safetensors.SafetensorError) as error:
            raise DataError(f"{path}: not a saved model that can be read ({error})") from error
        for name, own in self._identity().items():
            if saved.get(name) != own:
                theirs = saved.get(name, "nothing")
                raise DataError(
                    f"{path}: saved with other {name} ({theirs:.60} where this learner has {own:.60}); "
                    "make the learner from the same data, split and arguments"
                )
        self.model.load_state_dict(state)
        return self

    def _identity(self) -> dict[str, str]:
        return {
            "users": json.dumps(self.data.users.ids.tolist()),
            "items": json.dumps(self.data.items.ids.tolist()),
            "n_factors": str(self.model.u_weight.embedding_dim),
            "y_range": json.dumps(self.model.y_range),
        }


class _NativeTraining:
    """A fit by the fused trainer, which owns the tables until `finish`: both would be 17 bytes a parameter."""

    def __init__(self, learn: Learner, schedule: Schedule) -> None:
        self.learn = learn
        self.trainer = Trainer(
            *learn.model.tables(),
            lr=schedule.lr,
            momentum=schedule.momentum,
            weight_decay=learn.wd,
            beta2=learn.adam.beta2,
            eps=learn.adam.eps,
            y_range=learn.model.y_range,
        )
        for layer in learn.model.layers():
            layer.weight.data = layer.weight.new_empty(0)

    def epoch(self, order: Tensor) -> Tensor:
        train = self.learn.data.train
        return self.trainer.epoch(train.users, train.items, train.ratings, order, self.learn.bs)

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        return self.trainer.scores(users, items)

    def finish(self) -> None:
        for layer, table in zip(self.learn.model.layers(), self.trainer.weights(), strict=True):
            layer.weight.data = table.reshape(len(table), -1).clone(memory_format=torch.contiguous_format)


class _OpsTraining:
    """A fit batch by batch, through autograd and the ops: the definition, and the way to a GPU."""

    def __init__(self, learn: Learner, schedule: Schedule) -> None:
        self.learn, self.schedule = learn, schedule
        self.tables = [layer.weight.detach() for layer in learn.model.layers()]
        self.means, self.squares = ([torch.zeros_like(table) for table in self.tables] for _ in range(2))
        self.steps = 0

    def epoch(self, order: Tensor) -> Tensor:
        learn, train = self.learn, self.learn.data.train
        batches = (
            column[order].to(learn.device).split(learn.bs) for column in (train.users, train.items, train.ratings)
        )
        losses = []
        for users, items, ratings in zip(*batches, strict=True):
            loss = mse_loss(learn.model(users, items), ratings)
            loss.backward()
            losses.append(loss.detach())
            self._step()
        return torch.stack(losses).double().cpu()

    def _step(self) -> None:
        learn = self.learn
        lr, momentum = float(self.schedule.lr[self.steps]), float(self.schedule.momentum[self.steps])
        self.steps += 1
        for layer, table, mean, square in zip(learn.model.layers(), self.tables, self.means, self.squares, strict=True):
            assert layer.weight.grad is not None
            adam_step_(
                table,
                layer.weight.grad,
                mean,
                square,
                lr=lr,
                beta1=momentum,
                beta2=learn.adam.beta2,
                eps=learn.adam.eps,
                weight_decay=learn.wd,
                step=self.steps,
                backend=learn.model.backend,
            )
            layer.weight.grad = None

    @torch.no_grad()
    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        return self.learn.model(users.to(self.learn.device), items.to(self.learn.device))

    def finish(self) -> None:
        """Nothing: the steps changed the model in place."""


def _error(scores: Tensor, ratings: Tensor) -> float:
    return mse_loss(scores.double().cpu(), ratings.double()).item()


def collab_learner(
    data: CollabData,
    n_factors: int = 50,
    y_range: tuple[float, float] | None = None,
    wd: float = 0.01,
    *,
    bs: int = 64,
    adam: AdamConstants = FASTAI,
    seed: int = 0,
    backend: str | None = None,
    device: str | torch.device = "cpu",
    quiet: bool = False,
) -> Learner:
    """A learner for collaborative filtering: EmbeddingDotBias under AdamW (claims 35, 49, 75).

    Args:
        data: from `load_movielens` or `load_ratings`.
        n_factors: width of the embeddings.
        y_range: range of the sigmoid on the score; None leaves it out.
        wd: weight decay, decoupled: each step shrinks every parameter by 1 − lr·wd.
        bs: ratings a batch.
        adam: β1 (for `fit`; one-cycle moves it), β2 and eps: `FASTAI` or `TORCH`, or your own.
        seed: of initialization and batch order. The same seed, backend and thread count give the same bits.
        backend: "native" (default on a CPU), "reference" or "triton" (default on a GPU).
        device: where the model lives. The CPU is the default: at the lesson's sizes it is the faster place.
        quiet: print no line an epoch.

    Raises:
        BackendError: the backend cannot run on this device.
    """
    for name, value, least in (("n_factors", n_factors, 1), ("bs", bs, 1), ("wd", wd, 0)):
        if not (isinstance(value, Real) and least <= value < float("inf")):
            raise ValueError(f"{name}={value!r}: a number of at least {least} is needed")
    if y_range is not None and not (len(y_range) == 2 and y_range[0] < y_range[1]):
        raise ValueError(f"{y_range=}: two numbers are needed, the smaller one first")
    model = EmbeddingDotBias(
        n_factors,
        len(data.users),
        len(data.items),
        (float(y_range[0]), float(y_range[1])) if y_range is not None else None,
        stream(seed, "initialization"),
        backend,
    ).to(device)
    backends.choose(backend, model.u_weight.weight.device, model.u_weight.weight.dtype)
    return Learner(data, model, wd, bs, adam, seed, quiet)


def _last_rate(lr: float | slice) -> float:
    rate = lr.stop if isinstance(lr, slice) else lr
    if not (isinstance(rate, Real) and 0 < float(rate) < float("inf")):
        raise ValueError(f"{lr=}: a positive rate, or a slice that ends in one, is needed")
    return float(rate)

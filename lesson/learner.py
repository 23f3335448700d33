"""The learner: data, model and training in the lesson's words."""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from kernels import FASTAI, AdamConstants, adam_step_, backends
from kernels.trainer import Trainer
from lesson import checks
from lesson.checks import DataError, printable, shown
from lesson.data import CollabData, UnknownIdsWarning, Vocab
from lesson.data.ids import listed, spelled
from lesson.data.table import as_path, reason
from lesson.models import EmbeddingDotBias
from lesson.schedules import Schedule, constant, one_cycle

if TYPE_CHECKING:
    import pandas as pd

    Id = str | int | float
    Ids = list[Any] | tuple[Any, ...] | np.ndarray | Tensor | pd.Series[Any] | pd.Index[Any]


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
    state = np.random.SeedSequence([checks.whole("seed", seed), purpose]).generate_state(1, np.uint64)[0]
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

        Args:
            epochs: how often to go through the training rows.
            lr: the highest rate; of slice(a, b), b.
            moms: momentum at both ends, and in the middle.
            div_factor: how much lower the first rate is.
            pct_start: the share of the steps in which the rate grows.

        Raises:
            DivergenceError: the loss is no finite number any more.
        """
        epochs = checks.whole("epochs", epochs, least=1)
        self._fit(epochs, one_cycle(epochs * self._batches, _last_rate(lr), moms, div_factor, pct_start))

    def fit(self, epochs: int, lr: float | slice = 3e-3) -> None:
        """Train with a constant rate. The model has one layer group: of slice(a, b) it gets b (claim 23).

        Raises:
            DivergenceError: the loss is no finite number any more.
        """
        epochs = checks.whole("epochs", epochs, least=1)
        self._fit(epochs, constant(epochs * self._batches, _last_rate(lr), self.adam.beta1))

    @property
    def _batches(self) -> int:
        return -(-len(self.data.train) // self.bs)

    def _fit(self, epochs: int, schedule: Schedule) -> None:
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

    def bias(self, arr: Ids, is_item: bool = True) -> Tensor:
        """Biases float32[len(arr)] of items (ids or titles), or of users (claim 39).

        Args:
            arr: ids, in a list, an array, a tensor or a Series.
            is_item: whether they are items; users otherwise.

        Raises:
            DataError: an id that training did not see.
        """
        table = self.model.i_bias if is_item else self.model.u_bias
        return table.weight.detach().cpu()[self._vocab(is_item).seen(arr), 0]

    def weight(self, arr: Ids, is_item: bool = True) -> Tensor:
        """Latent factors float32[len(arr), n_factors] of items (ids or titles), or of users.

        Args:
            arr: ids, in a list, an array, a tensor or a Series.
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
            DataError: None or NaN for an id, or lists that are not equally long.

        Warns:
            UnknownIdsWarning: some of the ids training never saw.
        """
        (users, single), (items, single_item) = listed(user), listed(item)
        if single != single_item or len(users) != len(items):
            told = ["one" if alone else len(ids) for ids, alone in ((users, single), (items, single_item))]
            raise DataError(f"{told[0]} users and {told[1]} items: pairs are needed")
        rows = [self.data.users.rows(users), self.data.items.rows(items)]
        _warn_of_unknown([("user", users, rows[0]), ("item", items, rows[1])])
        with torch.no_grad():
            scores = self.model(*(torch.from_numpy(ids).to(self.device) for ids in rows)).cpu()
        return scores.item() if single else scores

    def recommend(self, user: Id, n: int = 10) -> pd.DataFrame:
        """The `n` items of the highest predicted rating among those the user has not rated in training.

        Returns:
            Columns item, title, prediction, best first; ties go by id. Fewer rows where there are fewer items.

        Raises:
            DataError: a user that training did not see.
        """
        import pandas as pd  # half a second, for whoever asks for no recommendation

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

    def save(self, path: str | Path) -> None:
        """Save the model with its vocabularies as a safetensors file; the whole file or none of it.

        Raises:
            DataError: the folder does not exist or cannot be written to, or a folder has this name.
        """
        path = as_path(path)
        try:
            if path.is_dir():
                raise IsADirectoryError("a folder has this name")
            handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise DataError(f"{printable(path)}: cannot be written ({reason(error)})") from error
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
        shown_path = printable(as_path(path))
        try:
            with safetensors.safe_open(as_path(path), framework="pt") as file:
                saved = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, ValueError, safetensors.SafetensorError) as error:  # ValueError: a zero byte in the name
            raise DataError(f"{shown_path}: not a saved model that can be read ({reason(error)})") from error
        for name, own in self._identity().items():
            if saved.get(name) != own:
                theirs = saved.get(name, "nothing")
                raise DataError(
                    f"{shown_path}: saved with other {name} ({theirs:.60} where this learner has {own:.60}); "
                    "make the learner from the same data, split and arguments"
                )
        tables = self.model.state_dict()
        for name in sorted(tables.keys() | state.keys()):
            if name not in tables or name not in state:
                raise DataError(f"{shown_path}: {name} is {'missing' if name in tables else 'no table of this model'}")
            for what in ("shape", "dtype"):
                saved_as, needed = (getattr(table[name], what) for table in (state, tables))
                if saved_as != needed:
                    raise DataError(f"{shown_path}: {name} has {what} {_plain(saved_as)}, not {_plain(needed)}")
            if not state[name].isfinite().all():
                raise DataError(f"{shown_path}: {name} holds numbers that are not finite")
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
        y_range: range of the sigmoid on the score, as wide as the ratings or wider; None leaves it out.
        wd: weight decay, decoupled: each step shrinks every parameter by 1 − lr·wd.
        bs: ratings a batch.
        adam: β1 (for `fit`; one-cycle moves it), β2 and eps: `FASTAI` or `TORCH`, or your own.
        seed: of initialization and batch order. The same seed, backend and thread count give the same bits.
        backend: "native" (default on a CPU), "reference" or "triton" (default on a GPU).
        device: where the model lives. The CPU is the default: at the lesson's sizes it is the faster place.
        quiet: print no line an epoch.

    Raises:
        BackendError: the backend cannot run on this device.
        DataError: an argument makes no sense.
    """
    if not isinstance(data, CollabData):
        raise DataError(
            f"data={shown(data)}: what load_ratings or load_movielens returns is needed, "
            "as in collab_learner(load_ratings('ratings.csv'))"
        )
    checks.text("backend", backend)
    bs, wd = checks.whole("bs", bs, least=1), checks.number("wd", wd, least=0)
    adam = checks.adam_constants("adam", adam)
    generator, place = stream(seed, "initialization"), _device(device)
    model = EmbeddingDotBias(n_factors, len(data.users), len(data.items), y_range, generator, backend).to(place)
    low, high = data.ratings.rating.min(), data.ratings.rating.max()
    if model.y_range is not None and not (model.y_range[0] <= low and high <= model.y_range[1]):
        warnings.warn(
            f"y_range={model.y_range} does not reach all ratings, which go from {low:g} to {high:g}; "
            f"data.y_range does: {data.y_range}",
            stacklevel=2,
        )
    backends.choose(backend, model.u_weight.weight.device, model.u_weight.weight.dtype)
    return Learner(data, model, wd, bs, adam, seed, quiet)


def _device(device: Any) -> torch.device:
    try:
        place = torch.device(device)
        torch.zeros((), device=place).item()  # "meta" has no numbers
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        known = "'cpu' is needed, or 'cuda' where there is a GPU"
        raise DataError(f"device={shown(device)}: {known} ({reason(error)})") from None
    return place


def _warn_of_unknown(asked: list[tuple[str, list[Any], np.ndarray]]) -> None:
    """Say once which ids training never saw."""
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


def _plain(value: Any) -> str:
    return str(list(value)) if isinstance(value, torch.Size) else str(value).removeprefix("torch.")


def _last_rate(lr: float | slice) -> float:
    """The rate of the last layer group, which is the only one."""
    if not isinstance(lr, slice):
        return checks.number("lr", lr, above=0)
    if lr.start is not None:
        checks.number("lr", lr.start, above=0)
    return checks.number("lr", lr.stop, above=0)

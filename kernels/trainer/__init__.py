"""The fused trainer: embedding-dot-bias on a CPU, whole epochs in one native call with the GIL released.

One epoch uses two of torch's threads if there are several (`torch.set_num_threads`), each for a table; other work that
has the processors makes it do with one.

A step of the lesson's model is small (64 ratings, 108 thousand parameters), so that in eager PyTorch most of its time
is the way from op to op. Here nothing stands between the operations; and a row is touched when a batch reads it, not at
every step.

For dense optimizers move every row at every step: momentum goes on and decay shrinks, gradient or not. That is the
table's size in work for a batch that reads a few rows. `mode` says what happens instead:

- "dense": every row at every step.
- "replay": a row's missed steps are run when the next batch reads it, from a table of the steps' constants. The same
  arithmetic in the same order: the bits of "dense". One read and write of a row instead of one a step.
- "virtual": the missed steps are folded into one operation. Without gradient a row's mean and mean square only shrink,
  so k steps of Adam move a weight by m·Σ_j W_j/(√v + eps·κ_j) where W and κ do not depend on the row: a sum over a
  measure, which its two-point Gauss quadrature gives in closed form from four moments. That is within float32 rounding
  of dense from the step on at which the quadrature is accurate (`first_foldable_step`); before it, steps are replayed.
  SGD, momentum and RMSprop with decoupled decay fold exactly. L2 decay gives every row a gradient at every step: with
  it, only SGD folds. Rows that no batch has read yet decay by one factor, which is kept until somebody looks at them.
- "skip", "skip momentum", "hugectr", "caffe2": what other optimizers do, for comparison. They compute something else
  than dense Adam; see `approximations`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..dot_bias.reference import YRange
from ..threads import shares, threads
from . import approximations, native
from .epoch import epoch, shared
from .meeting import meeting, parted

OptimizerName = Literal["sgd", "momentum", "rmsprop", "adam"]
Decay = Literal["none", "l2", "decoupled", "fully decoupled"]
Mode = Literal["dense", "replay", "virtual", "skip", "skip momentum", "hugectr", "caffe2"]

KINDS = {"sgd": native.SGD, "momentum": native.MOMENTUM, "rmsprop": native.RMSPROP, "adam": native.ADAM}
PLANES = {"sgd": 1, "momentum": 2, "rmsprop": 2, "adam": 3}
APPROXIMATIONS = dict(zip(("skip", "skip momentum", "hugectr", "caffe2"), approximations.RULES, strict=True))
MODES = {"dense": native.DENSE, "replay": native.REPLAY, "virtual": native.VIRTUAL} | APPROXIMATIONS

FOLD_TOLERANCE = 1e-4  # of a step at the largest rate: what folding may move a weight from where replay would
TOGETHER = 64  # ratings a batch from which on two threads pay
LONGEST_PAUSE = 64  # epochs in one thread, after other work had the processors
CACHED = 8 << 20  # bytes; tables up to this size stay in cache, where replay reads no less than dense steps


class Trainer:
    """Trains embedding-dot-bias under the mean squared error of each batch (claims 28, 36).

    Deterministic: the same inputs give the same bits, on any number of threads.

    Args:
        user_weight: [n_users, n_factors], float32 or float64; copied.
        item_weight: [n_items, n_factors].
        user_bias: [n_users].
        item_bias: [n_items].
        lr: learning rate of each step of the whole training.
        momentum: μ of "momentum", β1 of "adam", of each step.
        optimizer: "sgd"; "momentum" as torch's SGD with momentum; "rmsprop"; "adam".
        decay: "none"; "l2" adds weight_decay·w to the gradient; "decoupled" shrinks w by 1 − lr·weight_decay, as
            AdamW; "fully decoupled" by 1 − weight_decay.
        weight_decay: `wd` of the lesson.
        beta2: decay of the mean square ("rmsprop", "adam").
        eps: added to its root; positive.
        y_range: (low, high) of the sigmoid on the score; None leaves it out.
        mode: "dense", "replay" or "virtual"; None chooses what is fastest at this size among them. Approximations of
            Adam with decoupled decay or none: "skip", "skip momentum", "hugectr", "caffe2".

    Raises:
        ValueError: arguments that do not fit.
    """

    def __init__(
        self,
        user_weight: Tensor,
        item_weight: Tensor,
        user_bias: Tensor,
        item_bias: Tensor,
        *,
        lr: Sequence[float] | np.ndarray,
        momentum: Sequence[float] | np.ndarray | None = None,
        optimizer: OptimizerName = "adam",
        decay: Decay = "decoupled",
        weight_decay: float = 0.0,
        beta2: float = 0.99,
        eps: float = 1e-5,
        y_range: YRange = None,
        mode: Mode | None = None,
    ) -> None:
        for name, value, known in (("optimizer", optimizer, OptimizerName), ("decay", decay, Decay)):
            if value not in get_args(known):
                raise ValueError(f"{name}={value!r}: there are {', '.join(get_args(known))}")
        if mode is not None and mode not in MODES:
            raise ValueError(f"{mode=}: there are {', '.join(MODES)}, and None")
        if not eps > 0:
            raise ValueError(f"{eps=}: it must be positive")
        if not 0 <= beta2 < 1:
            raise ValueError(f"{beta2=}: it must lie in [0, 1)")
        if y_range is not None and not y_range[0] < y_range[1]:
            raise ValueError(f"{y_range=}: the first number must be the smaller one")
        if user_weight.shape[1:] != item_weight.shape[1:] or user_weight.dtype != item_weight.dtype:
            raise ValueError(
                f"users and items need as many factors, of one dtype, "
                f"not {list(user_weight.shape)} {user_weight.dtype} and {list(item_weight.shape)} {item_weight.dtype}"
            )
        if len(lr) == 0 or not np.isfinite(lr).all():
            raise ValueError("lr: a finite rate for each step is needed")
        self._optimizer, self._asked, self.eps, self.beta2 = optimizer, mode, eps, beta2
        self.y_range, self.n_factors = y_range, user_weight.shape[1]
        self.steps = _step_constants(lr, momentum, optimizer, decay, weight_decay, beta2, eps)
        self.steps_done = 0
        self._pause, self._pauses = 0, 0  # epochs to come in one thread, and how many they were the last time
        self.owed = 1.0  # the factor by which rows that no batch has read have yet to decay
        self.foldable_from = self._foldable_from(FOLD_TOLERANCE * float(np.max(lr)))
        if mode == "virtual" and self.foldable_from is None:
            raise ValueError(f"mode='virtual': {optimizer} with these constants cannot be folded; use 'replay'")
        if mode in APPROXIMATIONS and (optimizer != "adam" or (self.steps[1:, native.L2] != 0).any()):
            raise ValueError(f"{mode=} approximates adam with decoupled decay or none, not {optimizer} with {decay}")
        if mode in APPROXIMATIONS and not (self.steps[1:, native.KEEP] > 0).all():
            raise ValueError(f"{mode=}: {weight_decay=} leaves nothing of the weights at these rates")
        planes = PLANES[optimizer] + (mode == "caffe2")
        self.tables = tuple(_pack(*pair, planes) for pair in ((user_weight, user_bias), (item_weight, item_bias)))
        self.accounts = tuple(np.full((len(table), 2), [0, native.NEVER], np.int32) for table in self.tables)
        number = self.tables[0].dtype.type
        low, high = y_range or (0.0, 0.0)
        self.model = (self.n_factors, y_range is not None, number(low), number(high - low))

    def _foldable_from(self, allowed: float) -> int | None:
        steps = self.steps
        if not (steps[1:, native.KEEP] > 0).all():
            return None
        if steps[1:, native.L2].any() and self._optimizer != "sgd":
            return None
        return first_foldable_step(steps, allowed) if self._optimizer == "adam" else 0

    @property
    def mode(self) -> Mode | None:
        """As it was asked for. It cannot be set: "caffe2" has tables of its own layout."""
        return self._asked

    def epoch(self, users: Tensor, items: Tensor, ratings: Tensor, order: Tensor, batch_size: int) -> Tensor:
        """Train one epoch.

        Args:
            users: int64[rows], rows of the user tables.
            items: int64[rows].
            ratings: [rows], of the tables' dtype.
            order: int64[n], the rows to train on, in this order.
            batch_size: ratings a step; the last batch may be smaller.

        Returns:
            float64[batches], the mean squared error of each batch before its step.

        Raises:
            IndexError: an id outside its table, or a row outside the ratings.
            ValueError: more steps than there are rates, or ratings of another dtype.
        """
        if batch_size < 1 or len(order) == 0:
            raise ValueError(f"{batch_size=} and {len(order)} rows: at least one each is needed")
        if any(ids.dtype != torch.int64 for ids in (users, items, order)):
            raise ValueError("users, items and order must be int64")
        batches = -(-len(order) // batch_size)
        if self.steps_done + batches >= len(self.steps):
            left = len(self.steps) - 1 - self.steps_done
            raise ValueError(f"an epoch of {batches} steps, but there are rates for {left} more")
        arrays = tuple(tensor.contiguous().numpy() for tensor in (users, items, ratings, order))
        for name, ids, rows in (
            ("users", arrays[0], len(self.tables[0])),
            ("items", arrays[1], len(self.tables[1])),
            ("order", arrays[3], len(users)),
        ):
            if len(ids):
                # NumPy's, for torch's would wake every thread for a moment's work.
                first, end = int(ids.min()), int(ids.max())
                if first < 0 or end >= rows:
                    raise IndexError(f"{name} go from {first} to {end}, the rows from 0 to {rows - 1}")
        dtype = self.tables[0].dtype
        if arrays[2].dtype != dtype or not len(users) == len(items) == len(ratings):
            raise ValueError(f"as many {dtype} ratings are needed as users and items")

        batch = arrays[3][:batch_size]
        plan, constants, folds = self._plan(batches, self._mode(arrays[0][batch], arrays[1][batch], batches))
        losses = np.empty((2, batches))
        n_threads, place = self._n_threads(batch_size), meeting()
        epoch(
            n_threads, place, self.tables, self.accounts, arrays[:2], *arrays[2:], batch_size, plan, constants, folds,
            self.model, *shared(min(batch_size, len(order)), self.tables[0], self.n_factors + 1), losses,
        )  # fmt: skip
        if parted(place):
            self._pause = self._pauses = min(2 * self._pauses + 1, LONGEST_PAUSE)
        elif n_threads > 1:
            self._pauses = 0
        if plan[1] == native.VIRTUAL:
            self.owed *= folds[0, batches]
        self.steps_done += batches
        return torch.from_numpy(losses.sum(0))

    def _n_threads(self, batch_size: int) -> int:
        if self._pause > 0:
            self._pause -= 1
            return 1
        return min(2, threads()) if batch_size >= TOGETHER else 1

    def _mode(self, users: np.ndarray, items: np.ndarray, batches: int) -> int:
        if self.mode is not None:
            return MODES[self.mode]
        foldable = self.foldable_from is not None and self.foldable_from < self.steps_done + batches
        if foldable and self.tables[0].dtype == np.float32:
            rows = sum(len(table) for table in self.tables)
            read = len(users) + len(items)  # at most
            if 2 * read >= rows:
                read = len(np.unique(users)) + len(np.unique(items))
            # A row that is read costs two steps, its own and the folded ones: on MovieLens 100k the modes cross where
            # a batch reads .55 of all rows (batches of about 2,000).
            return native.VIRTUAL if 2 * read < rows else native.DENSE
        return native.REPLAY if sum(table.nbytes for table in self.tables) > CACHED else native.DENSE

    def _plan(self, batches: int, mode: int) -> tuple[tuple[Any, ...], tuple[Any, ...], np.ndarray]:
        """What the loops want to know of an epoch: its plan, its constants, and room for folds. Steps count from 1."""
        exact = self.steps[self.steps_done : self.steps_done + batches + 1]
        if mode == native.VIRTUAL and np.prod(exact[1:, native.KEEP]) < 1e-200:
            mode = native.REPLAY  # the products of decay would underflow
        replay_before = max(0, (self.foldable_from or 0) - self.steps_done)
        fade = exact[1:, native.BETA1].max() / math.sqrt(self.beta2)
        window = batches if fade >= 1 else min(batches, math.ceil(30 * math.log(2) / -math.log(max(fade, 1e-9))))
        if self._optimizer in ("sgd", "rmsprop"):
            window = 0
        folds = np.zeros((7, batches + 1))
        folds[:3] = 1
        folds[3] = 1e-200  # no measure is empty, also where the rate is zero
        if mode in approximations.RULES:
            keep, rate, beta1 = (exact[:, column] for column in (native.KEEP, native.RATE, native.BETA1))
            folds = approximations.constants(keep, rate, beta1, self.beta2, self.steps_done)
        dtype = self.tables[0].dtype
        constants = (
            exact.astype(dtype),
            np.ascontiguousarray(exact),
            self.beta2 ** np.arange(batches + 1.0),
            self.eps,
            np.arange(batches),
        )
        if mode != native.VIRTUAL:
            self._settle()
        return (KINDS[self._optimizer], mode, replay_before, window, self.owed), constants, folds

    def _settle(self) -> None:
        if self.owed != 1:
            for table, account in zip(self.tables, self.accounts, strict=True):
                owed = table.dtype.type(self.owed)
                native.settle(table, self.n_factors + 1, account, owed, shares(table))
            self.owed = 1.0

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """User weights, item weights, user biases, item biases: views of the trainer's tables, not contiguous.

        Ask again after more training: rows that no batch has read decay when somebody asks.
        """
        self._settle()
        users, items = (torch.from_numpy(table) for table in self.tables)
        k = self.n_factors
        return users[:, :k], items[:, :k], users[:, k], items[:, k]

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [pairs] of (users int64[pairs], items int64[pairs]), whose ids must lie within the tables."""
        out = torch.empty(len(users), dtype=torch.from_numpy(self.tables[0]).dtype)
        native.scores(
            self.tables, self.accounts, self.tables[0].dtype.type(self.owed), users.numpy(), items.numpy(), self.model,
            out.numpy(),
        )  # fmt: skip
        return out


def first_foldable_step(steps: np.ndarray, allowed: float) -> int | None:
    """The first step after which Adam's missed steps fold into two points within `allowed`; None if none is.

    In the first steps the bias correction bends κ; with a small β2, or β1 near √β2, the measure is too wide for two
    points. From some steps of the schedule on, a gap as long as matters is folded and compared with the sum itself,
    over roots √v from 1e-9 to 1; a mean as large as the root is assumed, the case of a steady gradient.

    Args:
        steps: float64[steps + 1, 9], the constants of each step, as the loops want them; row 0 is none.
        allowed: how far folding may leave a weight from where the steps themselves would.
    """
    n = len(steps) - 1
    roots = np.logspace(-9, 0, 46)[:, None]
    starts = [start for start in (0, 25, 50, 100, 150, 200, 400, 800) if start < n]
    starts += [start for start in (n // 8, n // 4, n // 2, 3 * n // 4) if start > starts[-1]]
    accurate_from = None
    for start in reversed(starts):
        gap = steps[start + 1 : start + 1 + 400]
        kappa = 1 / (gap[:, native.SCALE] * np.sqrt(np.cumprod(gap[:, native.BETA2])))
        keep = np.cumprod(gap[:, native.KEEP])
        weight = gap[:, native.RATE] * np.cumprod(gap[:, native.BETA1]) * kappa * keep[-1] / keep
        weight[~np.isfinite(weight)] = 0
        if not weight.any():  # rates of zero move nothing
            accurate_from = start
            continue
        eps = gap[0, native.EPS]
        with np.errstate(all="ignore"):
            nodes, weights = _two_points(kappa, weight)
            exact = (weight / (roots + eps * kappa)).sum(1)
            folded = (weights / (roots + eps * nodes)).sum(1)
            error = np.abs((folded - exact) * roots[:, 0]).max()
        if not error <= allowed:
            break
        accurate_from = start
    return accurate_from


def _two_points(kappa: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the two-point Gauss quadrature of a measure: it shares the moments 0 to 3."""
    m0 = weight.sum()
    mean = (weight * kappa).sum() / m0
    apart = kappa - mean
    variance = max((weight * apart**2).sum() / m0, 1e-13)
    skew = (weight * apart**3).sum() / m0 / variance
    spread = math.sqrt(skew**2 + 4 * variance)
    ends = (skew + np.array([-spread, spread])) / 2
    return mean + ends, m0 * np.array([ends[1], -ends[0]]) / spread


def _step_constants(
    lr: Sequence[float] | np.ndarray,
    momentum: Sequence[float] | np.ndarray | None,
    optimizer: OptimizerName,
    decay: Decay,
    weight_decay: float,
    beta2: float,
    eps: float,
) -> np.ndarray:
    """The constants of step t in row t, float64[steps + 1, 9]; see `native`."""
    rate = np.asarray(lr, dtype=np.float64)
    if optimizer in ("momentum", "adam"):
        if momentum is None or len(momentum) != len(rate):
            given = "none" if momentum is None else len(momentum)
            raise ValueError(f"{optimizer} needs a momentum for each of {len(rate)} steps, not {given}")
        beta1 = np.asarray(momentum, dtype=np.float64)
    else:
        beta1 = np.zeros_like(rate)
    steps = np.zeros((len(rate) + 1, 9))
    t = np.arange(1, len(rate) + 1)
    if decay == "decoupled":
        keep = 1 - rate * weight_decay
    else:
        keep = np.full_like(rate, 1 - weight_decay if decay == "fully decoupled" else 1)
    l2 = weight_decay if decay == "l2" else 0.0
    if optimizer == "sgd":  # L2 is decay here (claim 51)
        keep, l2 = keep - rate * l2, 0.0
    steps[1:, native.KEEP], steps[1:, native.L2], steps[1:, native.BETA1] = keep, l2, beta1
    steps[1:, native.REST1] = 1 - beta1 if optimizer == "adam" else 1
    steps[1:, native.BETA2], steps[1:, native.REST2] = beta2, 1 - beta2
    steps[1:, native.SCALE], steps[1:, native.EPS], steps[1:, native.RATE] = 1, eps, rate
    if optimizer == "adam":
        # The bias correction uses the current β1, as torch and fastai do when a schedule moves it.
        steps[1:, native.SCALE] = 1 / np.sqrt(1 - beta2**t)
        steps[1:, native.RATE] = rate / (1 - beta1**t)
    if optimizer in ("sgd", "momentum"):
        steps[1:, native.BETA2] = 1
    return steps


def _pack(weight: Tensor, bias: Tensor, planes: int) -> np.ndarray:
    rows, n_factors = weight.shape
    if bias.shape != (rows,) or weight.dtype != bias.dtype or weight.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"weights [rows, n_factors] and biases [rows] of float32 or float64 are needed, "
            f"not {list(weight.shape)} and {list(bias.shape)} of {weight.dtype}"
        )
    table = np.zeros((rows, native.padded(planes * (n_factors + 1))), weight.detach().numpy().dtype)
    table[:, :n_factors] = weight.detach()
    table[:, n_factors] = bias.detach()
    return table

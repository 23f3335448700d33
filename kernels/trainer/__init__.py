"""The fused trainer: trains embedding-dot-bias on a CPU, a whole epoch in one native call that releases the GIL.

An epoch uses two of torch's threads if there are several (`torch.set_num_threads`), one for each table. If other work
occupies the processors, it continues with one.

A step of the lesson's model is small (64 ratings, 108 thousand parameters), so eager PyTorch spends most of its time
between the ops. Here the whole step is compiled code. And a row is updated when a batch reads it, not at every step.

Dense optimizers move every row at every step, because momentum and decay act on rows without a gradient too. So a batch
that reads a few rows costs work in proportion to the whole table. `mode` selects what to do instead:

- "dense": step every row at every step.
- "replay": run a row's missed steps when the next batch reads it, from a table of the steps' constants. The arithmetic
  and its order are those of "dense", so the bits are the same. A row is read and written once instead of at each step.
- "folded": fold the missed steps into one operation. Without a gradient a row's mean and mean square only shrink, so k
  steps of Adam move a weight by m·Σ_j W_j/(√v + eps·κ_j), where W and κ do not depend on the row. This is a sum over a
  measure; its two-point Gauss quadrature has a closed form in four moments. It is within float32 rounding of dense from
  a certain step on (`quadrature.first_foldable`); earlier steps are replayed. SGD, momentum and RMSprop with decoupled
  decay fold exactly. L2 decay gives every row a gradient at every step: with it, only SGD folds. Rows that no batch has
  read share one factor of decay, which is applied when somebody reads the weights.
- "skip", "skip momentum", "skip decay", "hugectr", "caffe2": do what other optimizers do, or a part of it, for
  comparison. They do not compute dense Adam; see `approximations`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .. import quadrature
from ..dot_bias.reference import YRange, check_range
from ..steps import BETA1, KEEP, KINDS, L2, RATE, Decay, Optimizer, constants, stacked
from ..threads import in_threads, shares, threads
from . import approximations, native
from .epoch import DONE, PENDING_DECAY, Batches, Side, epoch, workspace
from .meeting import meeting, separated
from .native import Plan, Record

Mode = Literal["dense", "replay", "folded", "skip", "skip momentum", "skip decay", "hugectr", "caffe2"]

POINTS = {"sgd": 0, "momentum": 1, "rmsprop": 0, "adam": 2}  # Gauss points that fold the missed steps
PLANES = {"sgd": 1, "momentum": 2, "rmsprop": 2, "adam": 3}
APPROXIMATIONS = {
    "skip": approximations.SKIP,
    "skip momentum": approximations.SKIP_MOMENTUM,
    "skip decay": approximations.SKIP_DECAY,
    "hugectr": approximations.HUGECTR,
    "caffe2": approximations.CAFFE2,
}
MODES = {"dense": native.DENSE, "replay": native.REPLAY, "folded": native.FOLDED} | APPROXIMATIONS

TWO_THREADS_FROM = 64  # ratings per batch; in smaller batches a second thread costs more than it saves
LONGEST_PAUSE = 64  # the most epochs in one thread after other work has occupied the processors
CACHE_BYTES = 8 << 20  # tables up to this size stay in the cache, where replay saves no memory traffic


class Trainer:
    """Trains embedding-dot-bias under the mean squared error of each batch (claims 28, 36).

    The same inputs give the same bits, on any number of threads.

    >>> tables = [torch.zeros(shape) for shape in ((3, 2), (4, 2), (3,), (4,))]
    >>> trainer = Trainer(*tables, lr=[0.5], momentum=[0.9])
    >>> ids = torch.tensor([0, 1])
    >>> trainer.epoch(ids, ids, torch.tensor([1.0, 2.0]), torch.arange(2), batch_size=2)
    tensor([2.5000], dtype=torch.float64)
    >>> trainer.scores(ids, ids)  # Adam's first step moves each bias by the rate
    tensor([1.0000, 1.0000])

    Args:
        user_weight: [n_users, n_factors], float32 or float64; copied.
        item_weight: [n_items, n_factors].
        user_bias: [n_users].
        item_bias: [n_items].
        lr: [steps], the learning rate of each step of the whole training.
        momentum: [steps], μ of "momentum" or β1 of "adam" at each step.
        optimizer: "sgd"; "momentum" as torch's SGD with momentum; "rmsprop"; "adam".
        decay: "none"; "l2" adds weight_decay·w to the gradient; "decoupled" shrinks w by 1 − lr·weight_decay, as
            AdamW does; "fully decoupled" by 1 − weight_decay.
        weight_decay: `wd` of the lesson.
        beta2: decay of the mean square ("rmsprop", "adam").
        eps: added to its root; positive.
        y_range: (low, high) of the sigmoid on the score; None leaves it out.
        biases: whether users, and whether items, learn their biases. Those of the others must be zero, and stay so.
        mode: "dense", "replay" or "folded"; None chooses the fastest of them at this size. Approximations of Adam with
            decoupled decay or none: "skip", "skip momentum", "skip decay", "hugectr", "caffe2".

    Raises:
        ValueError: a number out of its range, shapes or dtypes that do not fit, or a mode that this optimizer cannot
            use.
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
        optimizer: Optimizer = "adam",
        decay: Decay = "decoupled",
        weight_decay: float = 0.0,
        beta2: float = 0.99,
        eps: float = 1e-5,
        y_range: YRange = None,
        biases: tuple[bool, bool] = (True, True),
        mode: Mode | None = None,
    ) -> None:
        for name, value, known in (("optimizer", optimizer, Optimizer), ("decay", decay, Decay)):
            if value not in get_args(known):
                raise ValueError(f"{name}={value!r}: there are {', '.join(get_args(known))}")
        if mode is not None and mode not in MODES:
            raise ValueError(f"{mode=}: there are {', '.join(MODES)}, and None")
        if user_weight.shape[1:] != item_weight.shape[1:] or user_weight.dtype != item_weight.dtype:
            raise ValueError(
                f"users and items need the same number of factors and one dtype, "
                f"not {list(user_weight.shape)} {user_weight.dtype} and {list(item_weight.shape)} {item_weight.dtype}"
            )
        for name, table, learns in zip(("user_bias", "item_bias"), (user_bias, item_bias), biases, strict=True):
            if not learns and table.any():
                raise ValueError(f"{name}: biases that are not learned must be zero")
        if not torch.finfo(user_weight.dtype).tiny <= eps < math.inf:
            raise ValueError(f"{eps=}: it must be positive, and a normal number of {user_weight.dtype}")
        if not 0 <= beta2 < 1:
            raise ValueError(f"{beta2=}: it must lie in [0, 1)")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"{weight_decay=}: it must lie in [0, inf)")
        check_range(y_range)
        rates, momenta = _schedule(lr, momentum, optimizer)
        self._optimizer, self._asked, self.beta2 = optimizer, mode, beta2
        self.y_range, self.n_factors = y_range, user_weight.shape[1]
        if optimizer == "sgd" and decay == "l2":
            decay = "decoupled"  # for SGD they are the same (claim 51)
        self.steps = _step_constants(optimizer, rates, momenta, beta2, eps, weight_decay, decay)
        self.progress = np.array([0.0, 1.0])
        self._pause, self._pauses = 0, 0  # how many of the next epochs use one thread; how many the last pause had
        self._lock = threading.RLock()  # reading weights applies pending decay, so it writes too
        self.foldable_from = self._foldable_from(rates, momenta, eps, user_weight.dtype)
        if mode == "folded" and self.foldable_from is None:
            raise ValueError(f"mode='folded': {optimizer} with these constants cannot be folded; use 'replay'")
        if mode in APPROXIMATIONS and (optimizer != "adam" or (self.steps[1:, L2] != 0).any()):
            raise ValueError(f"{mode=} approximates adam with decoupled decay or none, not {optimizer} with {decay}")
        if mode in APPROXIMATIONS and not (self.steps[1:, KEEP] > 0).all():
            raise ValueError(f"{mode=}: {weight_decay=} leaves nothing of the weights at these rates")
        planes = PLANES[optimizer] + (mode == "caffe2")
        self.tables = tuple(_pack(*pair, planes) for pair in ((user_weight, user_bias), (item_weight, item_bias)))
        self.row_states = tuple(np.full((len(table), 2), [0, native.NEVER], np.int32) for table in self.tables)
        number = self.tables[0].dtype.type
        low, high = y_range or (0.0, 0.0)
        learned = (bool(biases[0]), bool(biases[1]))
        self.model = (self.n_factors, y_range is not None, number(low), number(high - low), learned)

    def _foldable_from(self, rates: np.ndarray, momenta: np.ndarray, eps: float, dtype: torch.dtype) -> int | None:
        if not (self.steps[1:, KEEP] > 0).all() or self.steps[1:, L2].any():
            return None
        if self._optimizer != "adam":
            return 0
        if not quadrature.foldable_eps(eps, dtype):
            return len(rates)
        return quadrature.first_foldable(rates, momenta, self.beta2, POINTS["adam"])

    @property
    def steps_done(self) -> int:
        """How many steps have been taken."""
        return int(self.progress[DONE])

    @property
    def mode(self) -> Mode | None:
        """The argument `mode`. It cannot be changed later, because "caffe2" needs tables of another layout."""
        return self._asked

    def epoch(self, users: Tensor, items: Tensor, ratings: Tensor, order: Tensor, batch_size: int) -> Tensor:
        """Train one epoch.

        Args:
            users: int64[ratings], rows of the user tables.
            items: int64[ratings], rows of the item tables.
            ratings: [ratings], of the tables' dtype.
            order: int64[n], the indices of the ratings to train on, in this order.
            batch_size: ratings per step; the last batch may be smaller.

        Returns:
            float64[batches], the mean squared error of each batch before its step.

        Raises:
            IndexError: an id is outside its table, or an index of `order` outside the ratings.
            ValueError: more steps than there are rates; ids or ratings of another shape or dtype.
        """
        if batch_size < 1 or len(order) == 0:
            raise ValueError(f"{batch_size=} and {len(order)} rows: both must be at least 1")
        ids = _ids("users", users, len(self.tables[0])), _ids("items", items, len(self.tables[1]))
        rows, stars, dtype = _ids("order", order, len(users)), ratings.contiguous().numpy(), self.tables[0].dtype
        if not len(users) == len(items) == len(ratings) or stars.ndim != 1 or stars.dtype != dtype:
            raise ValueError(f"users, items and {dtype} ratings of one length are needed")
        batches = -(-len(rows) // batch_size)
        with self._lock:
            if self.steps_done + batches >= len(self.steps):
                left = len(self.steps) - 1 - self.steps_done
                raise ValueError(f"an epoch of {batches} steps, but there are rates for {left} more")
            return self._epoch(ids, stars, rows, batch_size, batches)

    def _epoch(
        self, ids: tuple[np.ndarray, np.ndarray], stars: np.ndarray, order: np.ndarray, batch_size: int, batches: int
    ) -> Tensor:
        batch = order[:batch_size]
        plan, record = self._plan(batches, self._mode(ids[0][batch], ids[1][batch], batches))
        width, size = self.n_factors + 1, len(batch)
        losses = np.empty((2, batches))
        sides = tuple(map(Side, self.tables, self.row_states, ids))
        n_threads, place = self._n_threads(batch_size), meeting()
        in_threads(
            n_threads, epoch, place, sides, workspace(size, width, stars.dtype),
            Batches(stars, order, batch_size, np.empty(size, stars.dtype), losses), plan, record, self.model,
            self.progress,
        )  # fmt: skip
        if separated(place):
            self._pause = self._pauses = min(2 * self._pauses + 1, LONGEST_PAUSE)
        elif n_threads > 1:
            self._pauses = 0
        return torch.from_numpy(losses.sum(0))

    def _n_threads(self, batch_size: int) -> int:
        if self._pause > 0:
            self._pause -= 1
            return 1
        return min(2, threads()) if batch_size >= TWO_THREADS_FROM else 1

    def _mode(self, users: np.ndarray, items: np.ndarray, batches: int) -> int:
        if self.mode is not None:
            return MODES[self.mode]
        foldable = self.foldable_from is not None and self.foldable_from < self.steps_done + batches
        if foldable and self.tables[0].dtype == np.float32:
            rows = sum(len(table) for table in self.tables)
            read = len(users) + len(items)  # an upper bound, because ids repeat
            if 2 * read >= rows:
                read = len(np.unique(users)) + len(np.unique(items))
            # A row that is read costs two steps, its own and the folded ones. On MovieLens 100k both modes take the
            # same time when a batch reads .55 of all rows (batches of about 2,000).
            return native.FOLDED if 2 * read < rows else native.DENSE
        return native.REPLAY if sum(table.nbytes for table in self.tables) > CACHE_BYTES else native.DENSE

    def _plan(self, batches: int, mode: int) -> tuple[Plan, Record]:
        """How the next epoch takes its steps, and the record of their constants."""
        done = self.steps_done
        exact = np.ascontiguousarray(self.steps[done : done + batches + 1])
        if mode == native.FOLDED and np.prod(exact[1:, KEEP]) < 1e-200:
            mode = native.REPLAY  # the products of decay would underflow
        rule, missed = None, exact
        if mode == approximations.SKIP_DECAY:
            mode, missed = native.REPLAY, exact.copy()
            missed[:, KEEP] = 1
        if mode in approximations.RULES:
            rule = approximations.constants(exact[:, KEEP], exact[:, RATE], exact[:, BETA1], self.beta2, done)
        folds = np.empty((2, quadrature.rows(POINTS[self._optimizer]), batches + 1))
        quadrature.clear(folds[0])
        if mode != native.FOLDED:
            self._apply_pending_decay()
        dtype = self.tables[0].dtype
        squares = self.beta2 ** np.arange(batches + 1.0)
        replay_before = max(0, (self.foldable_from or 0) - done)
        decay = float(self.progress[PENDING_DECAY])
        plan = Plan(KINDS[self._optimizer], mode, replay_before, POINTS[self._optimizer], decay)
        return plan, Record(np.stack([exact, missed]).astype(dtype), exact, squares, folds, rule)

    def _apply_pending_decay(self) -> None:
        pending = self.progress[PENDING_DECAY:]
        if pending[0] != 1:
            in_threads(
                max(map(shares, self.tables)), native.apply_pending_decay, self.tables, self.n_factors + 1,
                self.row_states, self.tables[0].dtype.type(pending[0]), pending, np.zeros(1, np.int32),
            )  # fmt: skip

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """User weights, item weights, user biases, item biases: views of the trainer's tables, not contiguous.

        Call it again after more training: the call is what applies decay to rows that no batch has read.
        """
        with self._lock:
            self._apply_pending_decay()
        users, items = (torch.from_numpy(table) for table in self.tables)
        k = self.n_factors
        return users[:, :k], items[:, :k], users[:, k], items[:, k]

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [pairs] of users int64[pairs] for items int64[pairs].

        Raises:
            IndexError: an id is outside its table.
            ValueError: ids of another shape or dtype.
        """
        ids = _ids("users", users, len(self.tables[0])), _ids("items", items, len(self.tables[1]))
        if len(users) != len(items):
            raise ValueError(f"{len(users)} users and {len(items)} items: pairs are needed")
        out = torch.empty(len(users), dtype=torch.from_numpy(self.tables[0]).dtype)
        with self._lock:
            pending_decay = self.tables[0].dtype.type(self.progress[PENDING_DECAY])
            native.scores(self.tables, self.row_states, pending_decay, *ids, self.model, out.numpy())
        return out


def _ids(name: str, ids: Tensor, rows: int) -> np.ndarray:
    if ids.dtype != torch.int64 or ids.ndim != 1:
        raise ValueError(f"{name} must be int64[n], not {ids.dtype}{list(ids.shape)}")
    found = ids.contiguous().numpy()
    if len(found):
        # NumPy's min and max, because torch's would wake every thread for a moment's work.
        first, end = int(found.min()), int(found.max())
        if first < 0 or end >= rows:
            raise IndexError(f"{name} go from {first} to {end}, the rows from 0 to {rows - 1}")
    return found


def _schedule(
    lr: Sequence[float] | np.ndarray, momentum: Sequence[float] | np.ndarray | None, optimizer: Optimizer
) -> tuple[np.ndarray, np.ndarray]:
    """The rate and the momentum of each step, float64[steps]."""
    rates = np.asarray(lr, dtype=np.float64)
    if rates.ndim != 1 or len(rates) == 0 or not (np.isfinite(rates) & (rates >= 0)).all():
        raise ValueError("lr: a finite rate for each step is needed, none of them negative")
    if optimizer not in ("momentum", "adam"):
        return rates, np.zeros_like(rates)
    momenta = np.zeros(0) if momentum is None else np.asarray(momentum, dtype=np.float64)
    if momenta.shape != rates.shape:
        given = "none" if momentum is None else momenta.size
        raise ValueError(f"{optimizer} needs a momentum for each of {len(rates)} steps, not {given}")
    if not ((momenta >= 0) & (momenta < 1)).all():
        raise ValueError(f"momentum: from {momenta.min()} to {momenta.max()}, but each must lie in [0, 1)")
    if optimizer == "momentum" and momenta.any() and not momenta.all():
        raise ValueError(
            "momentum: 0 in some steps and not in others; torch leaves its buffer alone at 0, and this trainer does "
            "not. Use a small number instead of 0"
        )
    return rates, momenta


def _step_constants(
    optimizer: Optimizer, rates: np.ndarray, momenta: np.ndarray, beta2: float, eps: float, weight_decay: float,
    decay: Decay,
) -> np.ndarray:  # fmt: skip
    """The constants of step t in row t, float64[steps + 1, 9]; see `kernels.steps`."""
    step = np.arange(1.0, len(rates) + 1)
    of_each = constants(
        optimizer, lr=rates, step=step, beta1=momenta, beta2=beta2, eps=eps, weight_decay=weight_decay, decay=decay
    )
    steps = np.zeros((len(rates) + 1, len(of_each)))
    steps[1:] = stacked(of_each, len(rates))
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

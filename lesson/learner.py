"""The learner: data, model and training. This loop trains every model of the lesson."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as all_modules
from torch.optim import optimizer as all_optimizers

from lesson import checks, saving
from lesson.checks import DataError, shown
from lesson.interpretation import widened
from lesson.lr_find import FoundRates, lr_find
from lesson.metrics import coverage, ndcg
from lesson.optimizers import AdamW
from lesson.schedules import Policy, Schedule, constant, one_cycle

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], Tensor | float]
OptFunc = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

FROZEN = "every parameter is frozen: call unfreeze() or freeze_to() first"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Epoch(NamedTuple):
    """The record of an epoch: 1-based number, mean losses, seconds of training, metrics by name.

    The loss of training is the mean over the batches, each before its step; that of validation the mean over the rows.
    """

    epoch: int
    train_loss: float
    valid_loss: float
    seconds: float
    metrics: dict[str, float]


class Recorder(NamedTuple):
    """fastai's name for the training record.

    Attributes:
        losses: of every batch of the epochs that were trained to their end, a diverged one among them.
        val_losses: the validation loss after every epoch.
        metrics: of every epoch, by name.
        lrs: the rate of every batch, for the last layer group.
        moms: the momentum of every batch; 0 if the optimizer has none.
        epoch_ends: how many batches there were by the end of every epoch.
    """

    losses: list[float]
    val_losses: list[float]
    metrics: list[dict[str, float]]
    lrs: list[float]
    moms: list[float]
    epoch_ends: list[int]

    def plot_losses(self) -> Any:
        """Draw the losses of training and validation; returns matplotlib's Axes."""
        from lesson import plots

        return plots.losses(self)

    def plot_lr(self) -> Any:
        """Draw the rate and the momentum; returns an array of matplotlib's two Axes."""
        from lesson import plots

        return plots.rates(self)


class DivergenceError(FloatingPointError):
    """Training diverged; `history` has the epochs before."""

    def __init__(self, message: str, history: Sequence[Epoch] = ()) -> None:
        super().__init__(message)
        self.history = list(history)


def stream(seed: int, name: str) -> torch.Generator:
    """A separate generator for each purpose, so that an extra draw in one does not change the other.

    Args:
        seed: at least 0.
        name: "initialization" or "order".
    """
    purpose = ("initialization", "order").index(name)
    state = np.random.SeedSequence([checks.whole("seed", seed), purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


class Learner:
    """A model, its data, and how to train it.

    Args:
        data: has `train` and `valid`, datasets that a tensor of row numbers indexes and that then give
            (inputs …, target), as `torch.utils.data.TensorDataset` does.
        model: called with the inputs of a batch.
        loss_func: of predictions and target; a mean over rows.
        opt_func: makes an optimizer of parameter groups: from `lesson.optimizers` or torch, other constants through
            `functools.partial`.
        metrics: functions of predictions and target, measured on the validation rows after each epoch.
        layer_groups: the model's parts from first to last, for freezing and separate rates; None is one group.
        wd: the optimizer's weight decay, for every group.
        bn_wd: whether biases and BatchNorm decay too. A bias has a name, or a layer name, that ends in "bias".
        train_bn: whether BatchNorm trains in frozen layer groups too (fastai's default).
        divisor: slice(lr) divides the rate of all groups but the last by it.
        bs: rows per batch; None takes the data's `bs`, or 64.
        seed: for the order of rows.
        quiet: do not print a line per epoch.

    Attributes:
        history: an `Epoch` for each epoch trained so far.

    Raises:
        DataError: an argument is wrong.

    >>> from torch.nn.functional import mse_loss
    >>> from lesson.data import DataBunch
    >>> x = torch.linspace(-1, 1, 128)[:, None]
    >>> rows = torch.utils.data.TensorDataset(x, 3 * x)
    >>> learn = Learner(DataBunch.create(rows, rows), nn.Linear(1, 1), mse_loss, quiet=True)
    >>> for epoch in learn.epochs(100, lr=0.1):
    ...     if epoch.valid_loss < 0.01:
    ...         break
    >>> learn.validate() < 0.01
    True
    """

    valid_bs = 1024  # rows validated at a time, to limit the memory for a large validation set

    def __init__(
        self,
        data: Any,
        model: nn.Module,
        loss_func: Loss,
        *,
        opt_func: OptFunc = AdamW,
        metrics: Sequence[Metric] = (),
        layer_groups: Sequence[nn.Module] | None = None,
        wd: float = 0.01,
        bn_wd: bool = True,
        train_bn: bool = True,
        divisor: float = 3,
        bs: int | None = None,
        seed: int = 0,
        quiet: bool = False,
    ) -> None:
        if not all(hasattr(data, part) and len(getattr(data, part)) for part in ("train", "valid")):
            raise DataError(f"data={shown(data)}: it needs train and valid, each with at least one row")
        for name, function in (("loss_func", loss_func), ("opt_func", opt_func), *(("metrics", m) for m in metrics)):
            if not callable(function):
                raise DataError(f"{name}={shown(function)}: pass a function")
        for metric in metrics:
            if metric in (ndcg, coverage):
                name = metric.__name__
                raise DataError(
                    f"metrics: {name} is of a learner, not of predictions; call {name}(learn) after training"
                )
        self.data, self.model, self.loss_func, self.opt_func = data, model, loss_func, opt_func
        self.metrics = {getattr(metric, "__name__", type(metric).__name__): metric for metric in metrics}
        if len(self.metrics) < len(metrics):
            raise DataError(f"metrics: two have the same name; there are {', '.join(self.metrics)}")
        self.layer_groups = [model] if layer_groups is None else list(layer_groups)
        _check_parts(model, self.layer_groups)
        self.wd, self.bn_wd, self.train_bn = checks.number("wd", wd, least=0), bn_wd, train_bn
        self.divisor = checks.number("divisor", divisor, above=0)
        self.bs = checks.whole("bs", getattr(data, "bs", 64) if bs is None else bs, least=1)
        self.quiet = quiet
        self.history: list[Epoch] = []
        self._losses: list[float] = []
        self._lrs: list[float] = []
        self._moms: list[float] = []
        self._epoch_ends: list[int] = []
        self._frozen = 0  # layer groups
        self._order = stream(seed, "order")

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    @property
    def recorder(self) -> Recorder:
        """The losses, rates and momenta of all training so far."""
        return Recorder(
            losses=list(self._losses),
            val_losses=[epoch.valid_loss for epoch in self.history],
            metrics=[epoch.metrics for epoch in self.history],
            lrs=list(self._lrs),
            moms=list(self._moms),
            epoch_ends=list(self._epoch_ends),
        )

    # Freezing and rates

    def freeze_to(self, n: int) -> None:
        """Train the layer groups from the n-th on (claims 14, 16).

        BatchNorm trains everywhere, unless `train_bn` is False: then frozen groups keep it fixed, running means too.

        Args:
            n: the first group that trains, counted from 0; a negative one from the end.

        Raises:
            DataError: there is no such group.
        """
        n = checks.whole("n", n, least=-len(self.layer_groups), most=len(self.layer_groups) - 1)
        self._frozen = n % len(self.layer_groups)
        for place, group in enumerate(self.layer_groups):
            for layer in group.modules():
                trains = place >= self._frozen or (self.train_bn and isinstance(layer, NORMS))
                for param in layer.parameters(recurse=False):
                    param.requires_grad_(trains)

    def freeze(self) -> None:
        """Train only the last layer group."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train every layer."""
        self.freeze_to(0)

    # Training

    def fit(self, epochs: int, lr: float | slice = 3e-3) -> None:
        """Train with a constant rate.

        Args:
            epochs: how often to go through the training rows.
            lr: a rate for all layer groups, or a slice; see `group_rates`.

        Raises:
            DivergenceError: the loss is not finite.
        """
        for _ in self.epochs(epochs, lr):
            pass

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
            lr: the highest rate for all layer groups, or a slice; see `group_rates`.
            moms: momentum at both ends, and in the middle.
            div_factor: how much lower the first rate is.
            pct_start: the share of the steps in which the rate grows.

        Raises:
            DivergenceError: the loss is not finite.
        """
        policy = partial(one_cycle, moms=moms, div_factor=div_factor, pct_start=pct_start)
        for _ in self.epochs(epochs, lr, policy):
            pass

    def lr_find(self, start: float = 1e-7, end: float = 10, steps: int = 100) -> FoundRates:
        """Try growing rates on a copy of the model, to choose a rate; see `lesson.lr_find`.

        >>> from lesson import load_digits
        >>> from lesson.models import Mnist_Logistic
        >>> learn = Learner(load_digits().split(seed=0), Mnist_Logistic(), nn.functional.cross_entropy)
        >>> 1e-4 < learn.lr_find().suggestion < 1e-1
        True
        """
        return lr_find(self, start, end, steps)

    def epochs(self, epochs: int, lr: float | slice = 3e-3, policy: Policy = constant) -> Iterator[Epoch]:
        """An iterator that trains one epoch per step: to stop early, look at weights, or train two in turns.

        Between epochs the model has what was trained so far, and changes to it then count. A training that stops early
        keeps what it has.

        A schedule's momentum is for optimizers that have one: where it is 0, it stays 0.

        Args:
            epochs: the largest number of epochs; the schedule is for all of them.
            lr: the (highest) rate for all layer groups, or a slice; see `group_rates`.
            policy: makes a schedule from a number of steps and a rate: `constant`, `one_cycle`, or your own.

        Raises:
            DataError: an argument is wrong, or all layers are frozen.
                (While training) bs or the number of rows has changed, a layer was unfrozen, added or replaced, or
                everything has been frozen.
            DivergenceError: (while training) the loss is not finite.
        """
        epochs = checks.whole("epochs", epochs, least=1)
        rates = group_rates(lr, len(self.layer_groups), self.divisor)
        steps = epochs * -(-len(self.data.train) // self.bs)
        schedule = policy(steps, rates[-1])
        for name, values, end in (("rates", schedule.lr, math.inf), ("momenta", schedule.momentum, 1)):
            if values is not None and np.shape(values) != (steps,):
                raise DataError(f"policy={shown(policy)}: {name} of shape {list(np.shape(values))} for {steps} steps")
            if values is not None and (wrong := ~((values >= 0) & (values < end))).any():
                raise DataError(
                    f"policy={shown(policy)}: {values[wrong.argmax()]} among the {name}, which must lie in [0, {end})"
                )
        trained = {param for param in self.model.parameters() if param.requires_grad}
        return self._epochs(epochs, self.opt_func(self._param_groups(rates)), schedule, trained)

    def _epochs(
        self, epochs: int, optimizer: torch.optim.Optimizer, schedule: Schedule, trained: set[nn.Parameter]
    ) -> Iterator[Epoch]:
        own = _momentum(optimizer)
        if own is None:
            schedule = schedule._replace(momentum=None)
        lrs = schedule.lr.tolist()
        moms = [own or 0.0] * len(lrs) if schedule.momentum is None else schedule.momentum.tolist()
        with self._training(optimizer, schedule) as train:
            for epoch in range(epochs):
                if -(-len(self.data.train) // self.bs) * epochs != len(lrs):
                    raise DataError(
                        f"bs={self.bs}, {len(self.data.train)} rows: the schedule is for {len(lrs) // epochs} batches "
                        "an epoch; after a change of bs or of the number of rows start a new training"
                    )
                if not any(param.requires_grad for group in optimizer.param_groups for param in group["params"]):
                    raise DataError(FROZEN)
                if not trained.issuperset(param for param in self.model.parameters() if param.requires_grad):
                    raise DataError(
                        "a layer was unfrozen, added or replaced since this training began, and the optimizer does "
                        "not have it: start a new training"
                    )
                order = torch.randperm(len(self.data.train), generator=self._order)
                began = time.perf_counter()
                losses = train(order)
                seconds = time.perf_counter() - began
                self._losses += losses.tolist()
                steps = slice(epoch * len(losses), (epoch + 1) * len(losses))
                self._lrs += lrs[steps]
                self._moms += moms[steps]
                out, target = self.get_preds()
                loss = self.loss_func(out, target).item()
                metrics = {name: float(metric(out, target)) for name, metric in self.metrics.items()}
                yield self._record(Epoch(len(self.history) + 1, losses.mean().item(), loss, seconds, metrics))

    def _training(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule
    ) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """A training: the function it yields trains on rows int64[n] once, and returns losses float64[batches]."""
        momenta = itertools.repeat(None) if schedule.momentum is None else schedule.momentum.tolist()
        steps = zip(schedule.lr.tolist(), momenta, strict=False)

        def train(order: Tensor) -> Tensor:
            self._train_mode()
            optimizer.zero_grad()  # the caller's gradients are no part of a step
            losses = []
            for rows, (lr, momentum) in zip(order.split(self.bs), steps, strict=False):
                _set_hypers(optimizer, lr, momentum)
                *inputs, target = (column.to(self.device) for column in self.data.train[rows])
                loss = self.loss_func(self.model(*inputs), target)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.detach())
            return torch.stack(losses).double().cpu()

        return nullcontext(train)

    def _train_mode(self) -> None:
        self.model.train()
        if not self.train_bn:
            for group in self.layer_groups[: self._frozen]:
                for layer in group.modules():
                    layer.train(not isinstance(layer, NORMS))

    def _param_groups(self, rates: Sequence[float]) -> list[dict[str, Any]]:
        """The optimizer's groups: one per layer group, or two if biases and BatchNorm do not decay."""
        plain = _plain_params(self.model)
        found = []
        for group, rate in zip(self.layer_groups, rates, strict=True):
            for wd, decays in ((self.wd, True), (0.0, False)):
                params = [p for p in group.parameters() if p.requires_grad and (p in plain or self.bn_wd) == decays]
                if params:
                    found.append({"params": params, "lr": rate, "share": rate / rates[-1], "weight_decay": wd})
        if not found:
            raise DataError(FROZEN)
        return found

    def _record(self, record: Epoch) -> Epoch:
        if not (math.isfinite(record.train_loss) and math.isfinite(record.valid_loss)):
            raise DivergenceError(
                f"the loss is not finite in epoch {record.epoch} "
                f"(training {record.train_loss}, validation {record.valid_loss}); try a smaller rate",
                self.history,
            )
        self.history.append(record)
        self._epoch_ends.append(len(self._losses))
        if not self.quiet:
            names = ["train_loss", "valid_loss", *record.metrics]
            values = [record.train_loss, record.valid_loss, *record.metrics.values()]
            if record.epoch == 1:
                print("epoch", *(f"{name:>10}" for name in names), "   time", sep="  ")
            columns = (f"{value:{max(10, len(name))}.6f}" for name, value in zip(names, values, strict=True))
            print(f"{record.epoch:5}", *columns, f"{record.seconds:5.2f}s", sep="  ")
        return record

    # Predictions

    @torch.no_grad()
    def get_preds(self) -> tuple[Tensor, Tensor]:
        """The predictions for the validation rows [rows, …], and their targets [rows, …]."""
        self.model.eval()
        out, targets = [], []
        for rows in torch.arange(len(self.data.valid)).split(self.valid_bs):
            *inputs, target = (column.to(self.device) for column in self.data.valid[rows])
            out.append(self.model(*inputs))
            targets.append(target)
        return torch.cat(out), torch.cat(targets)

    def validate(self) -> float:
        """The loss on the validation rows."""
        return self.loss_func(*self.get_preds()).item()

    def show_results(self, n: int = 9) -> Any:
        """The first `n` validation rows with their predictions: digits as a grid of Axes, other data as a table.

        Raises:
            DataError: the data cannot be shown.
        """
        rows = torch.arange(min(checks.whole("n", n, least=1), len(self.data.valid)))
        if not hasattr(self.data, "show_results"):
            raise DataError(f"data={shown(self.data)}: only a DataBunch and ratings can be shown")
        out, _ = self.get_preds()
        return self.data.show_results(rows, widened(out[rows].cpu()))

    def save(self, path: str | Path) -> None:
        """Save the model as a safetensors file; the whole file or none of it.

        Raises:
            DataError: the folder does not exist or cannot be written to, the path is a folder, or the model holds
                numbers that are not finite.
        """
        saving.save(self.model, path, self._identity())

    def load(self, path: str | Path) -> Self:
        """Load the state of a saved model that fits this one.

        Raises:
            DataError: the file does not exist or does not fit this learner.
        """
        saving.load(self.model, path, self._identity())
        return self

    def _identity(self) -> dict[str, str]:
        """What a saved model must share with this learner, in addition to the tables' shapes."""
        return {}


def group_rates(lr: float | slice, groups: int, divisor: float = 3) -> list[float]:
    """A rate for each layer group, the first layers first (claims 18 to 20).

    Args:
        lr: a number goes to all; slice(b) gives the last group b and all others b / divisor; slice(a, b) goes from a
            to b in equal ratios. A single group gets b.
        groups: the number of groups.
        divisor: 3 as in the lesson; fastai uses 10 since 1.0.29.

    Raises:
        DataError: a rate is wrong.

    >>> group_rates(slice(1e-3), 3)
    [0.0003333333333333333, 0.0003333333333333333, 0.001]
    >>> [round(rate, 8) for rate in group_rates(slice(1e-5, 1e-3), 3)]
    [1e-05, 0.0001, 0.001]
    """
    if not isinstance(lr, slice):
        return [checks.number("lr", lr, above=0)] * groups
    if lr.step is not None:
        raise DataError(f"lr={shown(lr)}: use slice(b) or slice(a, b)")
    last = checks.number("lr", lr.stop, above=0)
    if lr.start is None:
        return [last / divisor] * (groups - 1) + [last]
    first = checks.number("lr", lr.start, above=0)
    rates: list[float] = np.geomspace(first, last, groups).tolist()
    return [*rates[:-1], last]


def _check_parts(model: nn.Module, groups: Sequence[nn.Module]) -> None:
    """Check that every parameter belongs to exactly one layer group."""
    if not all(isinstance(group, nn.Module) for group in groups):
        raise DataError("layer_groups: pass a list of modules, from the first layers to the last")
    owners = Counter(param for group in groups for param in group.parameters())
    for name, param in model.named_parameters():
        if owners[param] != 1:
            raise DataError(f"layer_groups: {name} is in {owners[param]} of them; every parameter belongs to one")


def _plain_params(model: nn.Module) -> set[nn.Parameter]:
    """The parameters that are neither biases nor BatchNorm's."""
    norms = {param for layer in model.modules() if isinstance(layer, NORMS) for param in layer.parameters()}
    named = {param for name, param in model.named_parameters() if not _is_bias(name)}
    return named - norms


def _is_bias(name: str) -> bool:
    return any(part.endswith("bias") for part in name.split(".")[-2:])


def _momentum(optimizer: torch.optim.Optimizer) -> float | None:
    """The optimizer's own momentum; None if it has none, so that a schedule gives it none either."""
    group = optimizer.param_groups[0]
    momentum: float | None = group["betas"][0] if "betas" in group else group.get("momentum")
    return momentum or None


def _set_hypers(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    """Set this step's rate, scaled per group, and its momentum if the optimizer has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        if momentum is not None and "momentum" in group:
            group["momentum"] = momentum


def watched(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether something takes part in steps that native code would pass over: hooks, methods replaced, autocast."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        any("forward" in vars(part) or any(getattr(part, name) for name in hooks) for part in model.modules())
        or any(param._backward_hooks or param._post_accumulate_grad_hooks for param in model.parameters())
        or "step" in vars(optimizer)
        or bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
        or bool(all_optimizers._global_optimizer_pre_hooks or all_optimizers._global_optimizer_post_hooks)
        or all_modules._has_any_global_hook()
        or torch.is_autocast_enabled("cpu")
        or not torch.is_grad_enabled()
    )

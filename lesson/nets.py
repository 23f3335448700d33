"""Fully connected nets: a learner that trains them in native code if it can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, mse_loss
from torch.utils.data import TensorDataset

from kernels import backends
from kernels.net import Layer, LayerKind, NetTrainer, Rows, listed
from kernels.steps import Decay, constants, stacked
from lesson import losses, optimizers
from lesson.checks import DataError, shown
from lesson.learner import Learner, Loss, Metric, OptFunc, watched
from lesson.models import Dropout, Linear, Mnist_Logistic, Mnist_NN, Net
from lesson.optimizers import AdamW
from lesson.schedules import Schedule

ACTIVATIONS: dict[Any, LayerKind] = {
    nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.GELU: "gelu",
    torch.relu: "relu", torch.tanh: "tanh", torch.sigmoid: "sigmoid", gelu: "gelu",
}  # fmt: skip
# With more multiplications than this in a step PyTorch is faster: 784-512-512-10 takes it as long at batches of 64, and
# .8 of the time at 512.
LARGEST = 1 << 25


class NativeNet(NamedTuple):
    """A net and its native trainer.

    Attributes:
        key: everything the trainer was made for; another key needs another trainer.
        parts: the model's parts, in order.
        layers: the same parts for the trainer.
        rows: the training rows.
        rule: the optimizer's steps and decay.
        trainer: reads the model's tensors before each epoch and writes them after it.
    """

    key: list[Any]
    parts: list[Any]
    layers: list[Layer]
    rows: Rows
    rule: tuple[optimizers.Kind, Decay]
    trainer: NetTrainer


class NetLearner(Learner):
    """A learner for fully connected nets; made by `net_learner`.

    On a CPU native code trains whole epochs of `Net`, `Mnist_Logistic`, `Mnist_NN` and `nn.Sequential`s of their
    layers and torch's, under cross-entropy or the mean squared error, by the steps of `lesson.optimizers`. The
    learner's loop trains everything else, several times as slowly: also models, parameters or optimizers with hooks.
    It trains wide nets too, where it is faster. Both give the same numbers within rounding. The learner chooses before
    each epoch, so changes of the model, the data or the loss between epochs count, if torch counts them as changes: of
    the rows, those through NumPy's memory or `.data` begin with the next training.

    Args:
        data: as for `Learner`; native code needs a `TensorDataset` of inputs [rows, inputs] and targets.
        model: as for `Learner`.
        loss_func: as for `Learner`.
        backend: "native" (default on a CPU), or "reference" for the learner's loop.
        how: as for `Learner`.

    Raises:
        BackendError: the backend cannot run on this device.
        DataError: an argument is wrong.
    """

    def __init__(
        self, data: Any, model: nn.Module, loss_func: Loss = cross_entropy, *, backend: str | None = None, **how: Any
    ) -> None:
        super().__init__(data, model, loss_func, **how)
        if backend not in (None, "native", "reference"):
            raise DataError(f"backend={shown(backend)}: nets have native and reference")
        found = backends.choose(backend, self.device, next(model.parameters()).dtype)
        self.backend = "native" if found == "native" else "reference"
        self._listed: tuple[list[tuple[int, int, int]], tuple[Tensor, Tensor], Rows] | None = None
        self._check_targets()

    def _known_layers(self) -> list[Layer] | None:
        """The net as layers for native code, though it may be too wide; None if it or the data are of another kind."""
        rows = self.data.train
        if not isinstance(rows, TensorDataset) or len(rows.tensors) != 2:
            return None
        return _layers(list(_parts(self.model)), rows.tensors[0])

    def _check_batches(self) -> None:
        """Check that no row is alone in a batch where BatchNorm trains."""
        rows, layers = len(self.data.train), self._known_layers()
        self._train_mode()
        moving = any(isinstance(part, nn.BatchNorm1d) and part.training for part in _parts(self.model))
        if layers is not None and moving and (rows % self.bs == 1 or self.bs == 1):
            raise DataError(f"bs={self.bs}: BatchNorm needs two rows or more, but the last of {rows} is alone")

    def _check_targets(self) -> None:
        layers = self._known_layers()
        if layers is None or _known(self.loss_func) is not mse_loss:
            return
        inputs, targets = self.data.train.tensors
        if list(targets.shape) != (shape := [len(inputs), layers[-1].width]):
            raise DataError(
                f"targets of shape {list(targets.shape)}: the scores have shape {shape}; "
                "mse_loss needs the same, such as targets[:, None]"
            )

    def _training(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule
    ) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        self._check_batches()
        by_loop, rule = super()._training, optimizers.named(optimizer)
        waits = rule is not None and rule[0] == "momentum" and optimizers.zero_at_times(schedule.momentum)
        if self.backend != "native" or waits:
            return by_loop(optimizer, schedule)
        self._listed = None  # NumPy can change the rows unnoticed
        native, done = None, 0

        def train(order: Tensor) -> Tensor:
            nonlocal native, done
            steps = slice(done, done - (-len(order) // self.bs))
            part = Schedule(schedule.lr[steps], None if schedule.momentum is None else schedule.momentum[steps])
            native, done = self._native(optimizer, native), steps.stop
            if native is not None:
                return self._native_epoch(native, optimizer, part, order)
            with by_loop(optimizer, part) as loop:
                return loop(order)

        return nullcontext(train)

    def _native(self, optimizer: torch.optim.Optimizer, earlier: NativeNet | None = None) -> NativeNet | None:
        """The net for native code: `earlier` if nothing has changed; None if native code cannot train it.

        A new one continues from the optimizer's state. The two then share memory, so the loop can take over.
        """
        rule, rows = optimizers.named(optimizer), self.data.train
        if rule is None or type(rows) is not TensorDataset or len(rows.tensors) != 2:
            return None
        parts, inputs, targets = list(_parts(self.model)), *rows.tensors
        layers = _layers(parts, inputs)
        if layers is None or watched(self.model, optimizer) or not self._fit(inputs, targets, layers[-1].width):
            return None
        params = [param for layer in layers for param in layer.params]
        ours = {param for group in optimizer.param_groups for param in group["params"]}
        generators = [part.generator for part in parts if isinstance(part, Dropout)]
        known = ours <= set(params) and all("share" in group for group in optimizer.param_groups)
        apart = len({param.data_ptr() for param in params}) == len(params)  # no weights used twice
        if not (known and apart) or len(set(generators)) < len(generators):
            return None
        listing = self._rows(inputs, targets)
        if min(self.bs, len(inputs)) * _dense_weights(layers, listing) > LARGEST:
            return None

        key = [rule, self.bs, id(listing), *map(id, parts)]
        key += [(layer.numbers, *map(id, (*layer.params, *layer.running))) for layer in layers]
        if earlier is not None and earlier.key == key:
            net = earlier
        else:
            trainer = NetTrainer(layers, inputs.shape[1], listing, batch_size=self.bs, optimizer=rule[0])
            net = NativeNet(key, parts, layers, listing, rule, trainer)
        for param, views in zip(params, net.trainer.state, strict=True):
            if param in ours:
                _follow(optimizer.state[param], views)
        return net

    def _native_epoch(
        self, net: NativeNet, optimizer: torch.optim.Optimizer, schedule: Schedule, order: Tensor
    ) -> Tensor:
        """Train an epoch by its part of the schedule."""
        self._check_batches()
        optimizer.zero_grad()  # the caller's gradients are no part of a step
        sizes = [min(self.bs, len(order) - begin) for begin in range(0, len(order), self.bs)]
        norms = {place: part for place, part in enumerate(net.parts) if isinstance(part, nn.BatchNorm1d)}
        moving = [norm for norm in norms.values() if norm.training]
        groups = {param: place for place, group in enumerate(optimizer.param_groups) for param in group["params"]}
        trained = {param for param in groups if param.requires_grad}

        @cache
        def constants_of(group: int, first: int) -> np.ndarray:
            return _constants(net.rule, optimizer.param_groups[group], schedule, first)

        losses = net.trainer.epoch(
            order,
            [
                constants_of(groups[param], optimizer.state[param]["step"]) if param in trained else None
                for layer in net.layers
                for param in layer.params
            ],
            fixed=[place for place, norm in norms.items() if not norm.training],
            draws=[
                part.draw([layer.width * size for size in sizes]).numpy()
                for part, layer in zip(net.parts, net.layers, strict=True)
                if isinstance(part, Dropout)
            ],
        )
        for norm in moving:
            norm.num_batches_tracked.add_(len(sizes))  # type: ignore[union-attr]
        for param in trained:
            optimizer.state[param]["step"] += len(sizes)
        return losses

    def _fit(self, inputs: Tensor, targets: Tensor, n_out: int) -> bool:
        """Whether native code can read these inputs and targets under this loss."""
        state = [*self.model.parameters(), *(b for b in self.model.buffers() if b.is_floating_point())]
        same = all(tensor.dtype == inputs.dtype and tensor.device.type == "cpu" for tensor in (inputs, *state))
        plain = all(tensor.layout is torch.strided and not tensor.is_inference() for tensor in (inputs, targets))
        if not (same and plain) or inputs.requires_grad or targets.requires_grad or targets.device.type != "cpu":
            return False
        loss = _known(self.loss_func)
        if loss is cross_entropy:
            classes = targets.dtype == torch.int64 and targets.ndim == 1
            return classes and int(targets.min()) >= 0 and int(targets.max()) < n_out
        return loss is mse_loss and targets.dtype == inputs.dtype and targets.shape == (len(inputs), n_out)

    def _rows(self, inputs: Tensor, targets: Tensor) -> Rows:
        """The training rows for native code, kept until they change."""
        columns = (inputs, targets)  # kept too, so that no other tensor gets their ids
        seen = [(id(column), column.data_ptr(), column._version) for column in columns]
        if self._listed is None or self._listed[0] != seen:
            self._listed = seen, columns, listed(inputs, targets)
        return self._listed[2]


def _follow(state: dict[str, Any], views: tuple[Tensor, Tensor]) -> None:
    """Give the trainer the averages that the optimizer has now, and the optimizer the views of the trainer's."""
    for name, view in zip(("exp_avg", "exp_avg_sq"), views, strict=True):
        found = state.get(name)
        if found is None:
            view.zero_()
        elif found.data_ptr() != view.data_ptr():  # a state was loaded or assigned
            view.copy_(found)
        state[name] = view
    state.setdefault("step", 0)


def _known(loss: Loss) -> Loss | None:
    """The function of torch's that a loss is equal to; None if native code does not know the loss."""
    if loss is cross_entropy or loss is losses.cross_entropy:
        return cross_entropy
    if loss is mse_loss:
        return mse_loss
    # Weights, another reduction or a hook make another loss of a module.
    if type(loss) is nn.CrossEntropyLoss:
        return cross_entropy if _settings(loss) == _settings(nn.CrossEntropyLoss()) else None
    if type(loss) is nn.MSELoss:
        return mse_loss if _settings(loss) == _settings(nn.MSELoss()) else None
    return None


def _settings(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name != "training"}


def _parts(model: nn.Module) -> Iterator[Any]:
    """The parts of a net in their order: layers, and functions."""
    if type(model) in (nn.Sequential, Net):
        for part in model:  # type: ignore[attr-defined]
            yield from _parts(part)
    elif type(model) is Mnist_Logistic:
        yield model.lin
    elif type(model) is Mnist_NN:
        yield from (model.lin1, model.activation, model.lin2)
    else:
        yield model


def _layers(parts: Sequence[Any], inputs: Tensor) -> list[Layer] | None:
    """The parts as layers for native code; None if it lacks one."""
    if inputs.ndim != 2 or not inputs.shape[1] or not parts:
        return None
    layers, width = [], inputs.shape[1]
    for part in parts:
        layer = _layer(part, width)
        if layer is None:
            return None
        layers.append(layer)
        width = layer.width
    return layers


def _dense_weights(layers: Sequence[Layer], rows: Rows) -> int:
    """The number of weights that multiply each row, without a first layer that reads only nonzero inputs."""
    sparse = len(rows.starts) > 0
    weights = (layer.params[0].numel() for layer in layers[sparse:] if layer.kind == "linear")
    return sum(weights)


def _layer(part: Any, width: int) -> Layer | None:
    """A part as a layer for native code, for inputs of this width; None if native code lacks it."""
    kind = type(part)
    if kind in (Linear, nn.Linear) and part.bias is not None and part.weight.shape[1] == width:
        return Layer("linear", len(part.weight), (part.weight, part.bias))
    if kind is nn.BatchNorm1d and part.num_features == width and part.affine and part.track_running_stats:
        running = (part.running_mean, part.running_var)
        known = part.momentum is not None
        return Layer("norm", width, (part.weight, part.bias), running, (part.eps, part.momentum)) if known else None
    if kind is Dropout:
        return Layer("dropout", width, numbers=(part.least, part.factor))
    if kind is nn.GELU and part.approximate != "none":
        return None
    name = ACTIVATIONS.get(kind) or ACTIVATIONS.get(part)
    return Layer(name, width) if name is not None else None


def _constants(
    rule: tuple[optimizers.Kind, Decay], group: dict[str, Any], schedule: Schedule, first: int
) -> np.ndarray:
    """The constants of an epoch's steps, float64[steps, 9], for parameters that have taken `first` steps before."""
    kind, decay = rule
    lr = schedule.lr * group["share"]
    beta1, beta2 = group.get("betas", (0.0, 0.0))
    beta1 = group.get("momentum", beta1) if schedule.momentum is None else schedule.momentum
    of_each = constants(
        "sgd" if kind == "sign" else kind, lr=lr, step=first + np.arange(1.0, len(lr) + 1), beta1=beta1, beta2=beta2,
        eps=group.get("eps", 0.0), weight_decay=group.get("weight_decay", 0.0), decay=decay,
    )  # fmt: skip
    return stacked(of_each, len(lr))


def net_learner(
    data: Any,
    model: nn.Module,
    loss_func: Loss = cross_entropy,
    *,
    wd: float = 0.01,
    bs: int | None = None,
    opt_func: OptFunc = AdamW,
    metrics: Sequence[Metric] = (),
    layer_groups: Sequence[nn.Module] | None = None,
    bn_wd: bool = True,
    train_bn: bool = True,
    seed: int = 0,
    backend: str | None = None,
    quiet: bool = False,
) -> NetLearner:
    """A learner for a fully connected net, under AdamW by default.

    Args:
        data: has `train` and `valid`, such as `load_digits().split()`.
        model: `Net`, `Mnist_Logistic`, `Mnist_NN`, or any other.
        loss_func: `cross_entropy` of classes int64[rows], or `mse_loss` of targets [rows, outputs]; the lesson's own
            cross-entropy and torch's modules of both are as fast.
        wd: the optimizer's weight decay.
        bs: rows per batch; None takes the data's `bs`, or 64.
        opt_func: makes the optimizer; one of `lesson.optimizers`, with other constants through `functools.partial`.
        metrics: functions of predictions and targets, such as `lesson.metrics.accuracy`.
        layer_groups: see `Learner`, as for the next two.
        bn_wd: whether biases and BatchNorm decay too.
        train_bn: whether BatchNorm trains in frozen layer groups too.
        seed: of the order of rows. The model comes with its initialization, and dropout with its seed.
        backend: "native" (default on a CPU), or "reference", plain PyTorch.
        quiet: do not print a line per epoch.

    Raises:
        BackendError: the backend cannot run on the model's device.
        DataError: an argument is wrong.

    >>> from lesson import load_digits
    >>> learn = net_learner(load_digits().split(), Net([784, 50, 10]), wd=0.1, quiet=True)
    >>> learn.fit_one_cycle(2, 1e-2)
    >>> learn.validate() < 0.4
    True
    """
    how = {"opt_func": opt_func, "metrics": metrics, "layer_groups": layer_groups, "wd": wd, "bn_wd": bn_wd}
    how |= {"train_bn": train_bn, "bs": bs, "seed": seed, "quiet": quiet}
    return NetLearner(data, model, loss_func, backend=backend, **how)

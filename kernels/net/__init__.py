"""Trains fully connected nets on a CPU: whole epochs in one native call, with the GIL released, in one thread.

A step of the lesson's nets is small: eager PyTorch spends most of its time between operations. Here compiled code does
a whole epoch. If most inputs are zero, as in images of digits and in one-hot tables, the first layer reads only the
others, forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from . import native
from .native import WORD, Room, Rows, Tables, epoch
from .vectors import padded

LayerKind = Literal["linear", "norm", "relu", "tanh", "sigmoid", "gelu", "dropout"]
StepKind = Literal["sgd", "momentum", "rmsprop", "adam", "sign"]
STEPS: dict[StepKind, int] = {
    "sgd": native.MEAN, "momentum": native.MEAN, "rmsprop": native.ROOT, "adam": native.ROOT, "sign": native.SIGN,
}  # fmt: skip
SPARSE = 0.5  # nonzero inputs are listed if they are at most this share of all


class Layer(NamedTuple):
    """A layer of a net.

    Args:
        kind: what it does.
        width: of its outputs.
        params: "linear": weight [width, inputs] and bias [width]; "norm": BatchNorm's weight and bias.
        running: "norm": running mean and variance.
        numbers: "norm": eps, and the weight of a batch in the running means. "dropout": the lowest draw that keeps a
            number, an int16, and the factor of the numbers that are kept.
    """

    kind: LayerKind
    width: int
    params: tuple[Tensor, ...] = ()
    running: tuple[Tensor, ...] = ()
    numbers: tuple[float, float] = (0.0, 0.0)


class Spot(NamedTuple):
    """A tensor of a layer and its place in the tables."""

    tensor: Tensor
    view: Tensor  # the numbers in the table, in the tensor's shape
    begin: int
    end: int
    place: int  # the layer's


def listed(inputs: Tensor, targets: Tensor) -> Rows:
    """The training rows in the form that the trainer reads.

    Args:
        inputs: [rows, inputs], float32 or float64.
        targets: classes int64[rows], for cross-entropy; or [rows, outputs] of the inputs' dtype, for the mean squared
            error.

    Raises:
        ValueError: they are of another shape or dtype.
    """
    classes = targets.dtype == torch.int64 and targets.ndim == 1
    known = inputs.ndim == 2 and inputs.dtype in (torch.float32, torch.float64) and len(inputs) == len(targets)
    if not known or not (classes or (targets.dtype == inputs.dtype and targets.ndim == 2)):
        raise ValueError(
            f"inputs [rows, n] of float32 or float64, and targets int64[rows] or [rows, outputs] of their dtype are "
            f"needed, not {list(inputs.shape)} {inputs.dtype} and {list(targets.shape)} {targets.dtype}"
        )
    dense, found = inputs.contiguous().numpy(), targets.contiguous().numpy()
    starts, places, values = np.zeros(0, np.int64), np.zeros(0, np.int32), dense[:0, 0].copy()
    filled = int(np.count_nonzero(dense != 0))  # several times as fast as counting the numbers themselves
    if filled <= SPARSE * dense.size:
        starts, places = np.empty(len(dense) + 1, np.int64), np.empty(filled + 1, np.int32)
        values = np.empty(filled + 1, dense.dtype)
        native.keep_nonzero(dense, starts, places, values)
        dense = dense[:0]
    if classes:
        return Rows(dense, starts, places, values, classes=found, targets=dense[:0])
    return Rows(dense, starts, places, values, classes=np.zeros(0, np.int64), targets=found)


class NetTrainer:
    """Trains layers under the mean of a batch's losses. Deterministic: the same inputs give the same bits.

    The layers' own tensors are read before each epoch and written after it.

    Args:
        layers: from first to last.
        n_in: width of the inputs.
        rows: the training rows, from `listed`.
        batch_size: rows a step.
        optimizer: "sgd"; "momentum" as torch's SGD with momentum; "rmsprop"; "adam"; "sign" steps by the gradient's
            sign.

    Raises:
        ValueError: targets that do not fit the last layer.

    >>> weight, bias = torch.zeros(1, 2), torch.zeros(1)
    >>> rows = listed(torch.eye(2), torch.tensor([[1.0], [-1.0]]))
    >>> trainer = NetTrainer([Layer("linear", 1, (weight, bias))], 2, rows, batch_size=2, optimizer="sgd")
    >>> steps = np.zeros((1, 9)) + [1, 0, 0, 1, 1, 0, 1, 0, 0.1]  # `kernels.steps`: a rate of .1
    >>> trainer.epoch(torch.arange(2), [steps, None])
    tensor([1.], dtype=torch.float64)
    >>> weight
    tensor([[ 0.1000, -0.1000]])
    """

    def __init__(self, layers: Sequence[Layer], n_in: int, rows: Rows, *, batch_size: int, optimizer: StepKind) -> None:
        n_out = layers[-1].width
        if len(rows.classes) and not 0 <= rows.classes.min() <= rows.classes.max() < n_out:
            raise ValueError(f"classes go from {rows.classes.min()} to {rows.classes.max()}, the scores to {n_out - 1}")
        if len(rows.targets) and rows.targets.shape[1] != n_out:
            raise ValueError(f"targets have {rows.targets.shape[1]} columns, the scores {n_out}")
        self._layers, self._rows, self._batch_size = list(layers), rows, batch_size
        self._kind = STEPS[optimizer]
        self._size = min(batch_size, len(rows.classes) + len(rows.targets))  # rows of the largest batch
        self._table = np.zeros((len(layers), native.FIELDS), np.int64)
        self._numbers = np.array([layer.numbers for layer in layers], rows.values.dtype)
        outs, params, running = self._size * padded(n_in), 0, 0
        for line, layer in zip(self._table, layers, strict=True):
            wide_in, wide = padded(n_in), padded(layer.width)
            weights = n_in * wide if layer.kind == "linear" else wide
            line[:] = (
                get_args(LayerKind).index(layer.kind), n_in, layer.width, wide_in, wide, outs - self._size * wide_in,
                outs, params, params + weights, running, 0, False,
            )  # fmt: skip
            outs += self._size * wide
            params += (weights + wide) * (len(layer.params) > 0)
            running += 4 * wide * (len(layer.running) > 0)
            n_in = layer.width
        self._tables = Tables(*map(self._zeros, [params] * 4 + [running]))
        self._room = self._make_room(outs)
        self._params, self._running = list(self._spots_of_params(self._tables.weights)), list(self._spots_of_means())

    @property
    def state(self) -> list[tuple[Tensor, Tensor]]:
        """For each of the layers' params the running means of its gradients and of their squares, in its shape.

        They are views of the trainer's own memory: writing to them changes its next step.
        """
        means, squares = (self._spots_of_params(table) for table in (self._tables.means, self._tables.squares))
        return [(mean.view, square.view) for mean, square in zip(means, squares, strict=True)]

    def _spots_of_params(self, table: np.ndarray) -> Iterator[Spot]:
        numbers = torch.from_numpy(table)
        for place, (layer, line) in enumerate(zip(self._layers, self._table.tolist(), strict=True)):
            wide = line[native.WIDE_OUT]
            for tensor, begin in zip(layer.params, (line[native.WEIGHT], line[native.BIAS]), strict=False):
                end = begin + wide * (line[native.N_IN] if tensor.ndim == 2 else 1)
                view = numbers[begin:end].view(-1, wide)[:, : layer.width]
                yield Spot(tensor, view.T if tensor.ndim == 2 else view[0], begin, end, place)

    def _spots_of_means(self) -> Iterator[Spot]:
        running = torch.from_numpy(self._tables.running)
        for place, (layer, line) in enumerate(zip(self._layers, self._table.tolist(), strict=True)):
            for k, tensor in enumerate(layer.running):
                begin = line[native.RUNNING] + k * line[native.WIDE_OUT]
                yield Spot(tensor, running[begin : begin + layer.width], begin, begin + layer.width, place)

    def _zeros(self, *shape: int) -> np.ndarray:
        """Zeros of the parameters' dtype, in torch's memory, which is aligned for vectors."""
        return torch.zeros(shape, dtype=torch.from_numpy(self._numbers).dtype).numpy()

    def _make_room(self, outs: int) -> Room:
        n_out, wide_in, wide_out = self._table[:, [native.N_OUT, native.WIDE_IN, native.WIDE_OUT]].T
        widest = int(max(wide_in.max(), wide_out.max()))
        return Room(
            outs=self._zeros(outs),
            slopes=self._zeros(2, self._size * widest),
            turned=self._zeros(int((wide_in * np.maximum(n_out, self._size)).max())),
            draws=np.zeros(0, np.int16),
            zeros=self._zeros(widest),
            ones=self._zeros(self._size) + 1,
            numbers=np.arange(max(widest, self._size), dtype=np.int32),
        )

    def epoch(
        self,
        order: Tensor,
        steps: Sequence[np.ndarray | None],
        *,
        fixed: Sequence[int] = (),
        draws: Sequence[np.ndarray] = (),
    ) -> Tensor:
        """Train one epoch.

        Args:
            order: int64[n], the rows to train on, in this order.
            steps: for each of the layers' params, the constants of each step, float64[batches, 9], as
                `kernels.steps.constants` has them; None for one that is not trained.
            fixed: the places of "norm" layers that use their running means, and do not update them.
            draws: int16[…] for each "dropout" layer: one per input, rounded up to a multiple of four in each batch.

        Returns:
            float64[batches], the mean loss of each batch before its step.

        Raises:
            IndexError: there is no such row.
            ValueError: no rows or nothing to train; too few steps or draws; a batch of one row for a "norm" layer that
                is not fixed, because one row has no variance.
        """
        batches = -(-len(order) // self._batch_size)
        found, n_rows = order.contiguous().numpy(), len(self._rows.classes) + len(self._rows.targets)
        if batches == 0 or all(constants is None for constants in steps):
            raise ValueError(f"{len(order)} rows and {len(steps)} parameters: at least one each is needed")
        if found.min() < 0 or found.max() >= n_rows:
            raise IndexError(f"order goes from {found.min()} to {found.max()}, the rows from 0 to {n_rows - 1}")
        if any(constants is not None and constants.shape != (batches, 9) for constants in steps):
            raise ValueError(f"steps: float64[{batches}, 9] is needed for each parameter that is trained")
        norms = set(np.flatnonzero(self._table[:, native.KIND] == get_args(LayerKind).index("norm")).tolist())
        if norms - set(fixed) and 1 in (self._batch_size, len(order) % self._batch_size):
            raise ValueError(f"{len(order)} rows in batches of {self._batch_size} leave one row, which has no variance")
        self._place_draws(draws, len(order))
        trained = [
            (spot, constants) for spot, constants in zip(self._params, steps, strict=True) if constants is not None
        ]
        self._table[:, native.FIXED] = np.isin(np.arange(len(self._table)), fixed)
        dtype, losses = self._numbers.dtype, np.empty(batches)
        for spot in (*self._params, *self._running):
            spot.view.copy_(spot.tensor.detach())
        epoch(
            self._table, self._numbers, min(spot.place for spot, _ in trained), self._tables, self._rows,
            self._room._replace(draws=np.concatenate([np.zeros(0, np.int16), *draws])), found, self._batch_size,
            np.array([(spot.begin, spot.end) for spot, _ in trained]), self._kind,
            np.stack([constants for _, constants in trained]).astype(dtype), losses,
        )  # fmt: skip
        with torch.no_grad():
            for spot in (*self._params, *self._running):
                spot.tensor.copy_(spot.view)
        return torch.from_numpy(losses)

    def _place_draws(self, draws: Sequence[np.ndarray], rows: int) -> None:
        """Store where each "dropout" layer's draws begin."""
        drops = self._table[:, native.KIND] == native.DROPOUT
        needed = [drawn(width, rows, self._batch_size) for width in self._table[drops, native.N_IN].tolist()]
        if [len(given) for given in draws] != needed:
            raise ValueError(f"draws: int16[n] is needed for each dropout layer, n of {needed}")
        self._table[drops, native.DRAWS] = np.cumsum([0, *needed])[:-1]


def drawn(width: int, rows: int, batch_size: int) -> int:
    """The draws of a "dropout" layer in an epoch: one per input, rounded up to a multiple of four in each batch.

    >>> drawn(5, rows=7, batch_size=3)  # 16 + 16 + 8
    40
    """
    whole, rest = divmod(rows, batch_size)
    return sum(-(-size * width // WORD) * WORD for size in (batch_size,) * whole + (rest,))

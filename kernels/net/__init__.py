"""Trains fully connected nets on a CPU: whole epochs in one native call, with the GIL released, in one thread.

A step of the lesson's nets is small, so that in eager PyTorch most of its time is the way from op to op. Here nothing
stands between the operations. If most inputs are zero, as in images of digits and in one-hot tables, the first layer
reads the others only, forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from . import native
from .native import Room, Rows, Tables, epoch
from .vectors import padded

LayerKind = Literal["linear", "norm", "relu", "tanh", "sigmoid", "gelu", "dropout"]
StepKind = Literal["sgd", "momentum", "rmsprop", "adam", "sign"]
STEPS: dict[StepKind, int] = {
    "sgd": native.MEAN, "momentum": native.MEAN, "rmsprop": native.ROOT, "adam": native.ROOT, "sign": native.SIGN,
}  # fmt: skip
SPARSE = 0.5  # the share of inputs that are not zero, up to which they are listed


class Layer(NamedTuple):
    """A layer of a net.

    Args:
        kind: what it does.
        width: of its outputs.
        params: "linear": weight [width, inputs] and bias [width]; "norm": BatchNorm's weight and bias.
        running: "norm": running mean and variance.
        numbers: "norm": eps, and a batch's share in the running means. "dropout": the lowest draw that is kept, an
            int16, and what is kept is multiplied by.
    """

    kind: LayerKind
    width: int
    params: tuple[Tensor, ...] = ()
    running: tuple[Tensor, ...] = ()
    numbers: tuple[float, float] = (0.0, 0.0)


class Spot(NamedTuple):
    """Where a tensor of a layer is in the tables."""

    tensor: Tensor
    view: Tensor  # of the tensor's shape
    begin: int
    end: int
    place: int  # of its layer
    trained: bool


def listed(inputs: Tensor, targets: Tensor) -> Rows:
    """Training rows as the trainer reads them.

    Args:
        inputs: [rows, inputs], float32 or float64.
        targets: classes int64[rows], for cross-entropy; or [rows, outputs] of the inputs' dtype, for the mean squared
            error.
    """
    dense, found = inputs.contiguous().numpy(), targets.contiguous().numpy()
    starts, places, values = np.zeros(0, np.int64), np.zeros(0, np.int32), dense[:0, 0].copy()
    filled = int(np.count_nonzero(dense))
    if filled <= SPARSE * dense.size:
        starts, places = np.empty(len(dense) + 1, np.int64), np.empty(filled + 1, np.int32)
        values = np.empty(filled + 1, dense.dtype)
        native.keep_nonzero(dense, starts, places, values)
        dense = dense[:0]
    classes, numbers = (found, dense[:0]) if targets.dtype == torch.int64 else (np.zeros(0, np.int64), found)
    return Rows(dense, starts, places, values, classes, numbers)


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
        spots = [spot for place in range(len(layers)) for spot in self._spots(place)]
        self._params, self._running = ([spot for spot in spots if spot.trained == kind] for kind in (True, False))

    def _spots(self, place: int) -> Iterator[Spot]:
        """Where a layer's tensors are in the tables."""
        layer, line = self._layers[place], self._table[place]
        wide, weights, running = (
            line[native.WIDE_OUT],
            *map(torch.from_numpy, (self._tables.weights, self._tables.running)),
        )
        for tensor, begin in zip(layer.params, line[[native.WEIGHT, native.BIAS]].tolist(), strict=False):
            end = begin + wide * (line[native.N_IN] if tensor.ndim == 2 else 1)
            view = weights[begin:end].view(-1, wide)[:, : layer.width]
            yield Spot(tensor, view.T if tensor.ndim == 2 else view[0], begin, end, place, True)
        for k, tensor in enumerate(layer.running):
            begin = line[native.RUNNING] + k * wide
            yield Spot(tensor, running[begin : begin + layer.width], begin, begin + wide, place, False)

    def _zeros(self, *shape: int) -> np.ndarray:
        """Zeros of the parameters' dtype, in memory from torch, which begins where a vector does."""
        return torch.zeros(shape, dtype=torch.from_numpy(self._numbers).dtype).numpy()

    def _make_room(self, outs: int) -> Room:
        n_in, n_out, wide_in, wide_out = self._table[:, [native.N_IN, native.N_OUT, native.WIDE_IN, native.WIDE_OUT]].T
        widest = int(max(wide_in.max(), wide_out.max()))
        in_a_row = np.sort(np.diff(self._rows.starts))
        most = int(in_a_row[-self._size :].sum())  # inputs that are not zero in a batch
        return Room(
            outs=self._zeros(outs),
            slopes=self._zeros(2, self._size * widest),
            turned=self._zeros(int((wide_in * np.maximum(n_out, self._size)).max())),
            ends=np.zeros(n_in[0], np.int64),
            columns=np.zeros(most, np.int32),
            column_values=self._zeros(most),
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
            fixed: the places of "norm" layers that take their running means, and leave them, instead of a batch's.
            draws: int16[…] for each "dropout" layer, as many as it has inputs, in each batch rounded up to fours.

        Returns:
            float64[batches], the mean loss of each batch before its step.
        """
        trained = [
            (spot, constants) for spot, constants in zip(self._params, steps, strict=True) if constants is not None
        ]
        self._table[:, native.FIXED] = np.isin(np.arange(len(self._table)), fixed)
        starts = np.cumsum([0, *map(len, draws)])
        self._table[self._table[:, native.KIND] == native.DROPOUT, native.DRAWS] = starts[:-1]
        dtype, losses = self._numbers.dtype, np.empty(-(-len(order) // self._batch_size))
        for spot in (*self._params, *self._running):
            spot.view.copy_(spot.tensor.detach())
        epoch(
            self._table, self._numbers, min(spot.place for spot, _ in trained), self._tables, self._rows,
            self._room._replace(draws=np.concatenate([np.zeros(0, np.int16), *draws])), order.numpy(), self._batch_size,
            np.array([(spot.begin, spot.end) for spot, _ in trained]), self._kind,
            np.stack([constants for _, constants in trained]).astype(dtype), losses,
        )  # fmt: skip
        with torch.no_grad():
            for spot in (*self._params, *self._running):
                spot.tensor.copy_(spot.view)
        return torch.from_numpy(losses)

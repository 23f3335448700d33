"""An epoch of a fully connected net, batch by batch, in one thread, compiled by Numba.

Rows are padded to whole vectors with numbers that nothing reads, and weights are stored as [inputs, outputs]. So every
product is a sum of scaled rows (`vectors`): the scores of a row are a sum of rows of weights, and the gradient of an
input's weights is a sum of rows of slopes. If most inputs are zero, only the others are read, forward and backward.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..instructions import flush_denormals, restore
from ..native import compiled, llvm_inlined
from .vectors import add_to_rows, address, sum_rows

LINEAR, NORM, RELU, TANH, SIGMOID, GELU, DROPOUT = range(7)  # kinds of layers
# Kinds of steps: by the mean of gradients, which under SGD's constants is the last gradient; by the mean over the root
# of the mean square, as Adam and RMSprop; by the gradient's sign.
MEAN, ROOT, SIGN = range(3)
# The fields of a layer, int64: the widths of its inputs and outputs, and the same padded; where its inputs and outputs
# begin in `Room.outs`, its weights and biases in `Tables`, its means in `Tables.running`, its draws in `Room.draws`;
# whether a NORM uses its running means instead of the batch's.
KIND, N_IN, N_OUT, WIDE_IN, WIDE_OUT, IN, OUT, WEIGHT, BIAS, RUNNING, DRAWS, FIXED, FIELDS = range(13)
# A layer's numbers. NORM: eps, and the weight of a batch in the running means. DROPOUT keeps a number whose draw is at
# least LEAST, and multiplies it by FACTOR.
EPS, SHARE = range(2)
LEAST, FACTOR = range(2)
WORD = 4  # draws from one random number
BLOCK = 64  # inputs whose weights fit into the L1 cache


class Tables(NamedTuple):
    """The parameters, with gradient, mean and mean square at the same places."""

    weights: Any
    grads: Any
    means: Any
    squares: Any
    running: Any  # for each NORM: running mean and variance, the batch's mean, 1 / the batch's deviation


class Rows(NamedTuple):
    """The training rows, either `dense` or as lists of nonzero inputs; with `classes` or `targets`."""

    dense: Any  # [rows, inputs], or no rows
    starts: Any  # int64[rows + 1], where each row's inputs begin in the next two; or empty
    places: Any  # int32[…], the columns of the inputs
    values: Any  # […], the inputs
    classes: Any  # int64[rows], or empty
    targets: Any  # [rows, outputs], or no rows


class Room(NamedTuple):
    """Working memory."""

    outs: Any  # the inputs of each layer, and the outputs of the last
    slopes: Any  # [2, …], the loss's derivatives by a layer's outputs, and by its inputs
    turned: Any  # a layer's weights or inputs, transposed
    draws: Any  # int16[…], of each DROPOUT for the whole epoch
    zeros: Any  # a row as wide as the widest
    ones: Any  # one for each row of a batch
    numbers: Any  # int32, 0, 1, …


@llvm_inlined
def _transpose(source: Any, rows: Any, columns: Any, stride: Any, out: Any, out_stride: Any) -> None:
    """out[column, row] = source[row, column]."""
    for c in range(columns):
        line = out[c * out_stride : (c + 1) * out_stride]
        for r in range(rows):
            line[r] = source[r * stride + c]


@llvm_inlined
def _gather(rows: Any, order: Any, begin: Any, size: Any, wide: Any, outs: Any) -> None:
    """Copy a batch's inputs."""
    for b in range(size):
        r, row = order[begin + b], outs[b * wide : (b + 1) * wide]
        if rows.starts.shape[0] == 0:
            for k in range(rows.dense.shape[1]):
                row[k] = rows.dense[r, k]
            continue
        for k in range(wide):
            row[k] = 0
        for e in range(rows.starts[r], rows.starts[r + 1]):
            row[rows.places[e]] = rows.values[e]


@llvm_inlined
def _linear(layer: Any, sparse: Any, tables: Any, rows: Any, room: Any, order: Any, begin: Any, size: Any) -> None:
    number, bytes_, wide = tables.weights[0], tables.weights.itemsize, layer[WIDE_OUT]
    bias = address(tables.weights, layer[BIAS])
    block = layer[N_IN] if sparse else BLOCK
    for i in range(0, layer[N_IN], block):
        weights = address(tables.weights, layer[WEIGHT] + i * wide)
        for b in range(size):
            out = address(room.outs, layer[OUT] + b * wide)
            first = bias if i == 0 else out
            if sparse:
                r = order[begin + b]
                at = rows.starts[r]
                places, scales, n = address(rows.places, at), address(rows.values, at), rows.starts[r + 1] - at
            else:
                scales = address(room.outs, layer[IN] + b * layer[WIDE_IN] + i)
                places, n = address(room.numbers, 0), min(block, layer[N_IN] - i)
            sum_rows(number, bytes_, out, first, weights, wide, places, scales, n)


@llvm_inlined
def _linear_back(
    layer: Any, sparse: Any, lowest: Any, tables: Any, rows: Any, room: Any, order: Any, begin: Any, size: Any,
    slopes: Any, below: Any,
) -> None:  # fmt: skip
    number, bytes_, wide = tables.weights[0], tables.weights.itemsize, layer[WIDE_OUT]
    zeros, numbers, rises = address(room.zeros, 0), address(room.numbers, 0), address(slopes, 0)
    ones = address(room.ones, 0)
    sum_rows(number, bytes_, address(tables.grads, layer[BIAS]), zeros, rises, wide, numbers, ones, size)
    weights = tables.grads[layer[WEIGHT] : layer[WEIGHT] + layer[N_IN] * wide]
    if sparse:
        for k in range(weights.shape[0]):
            weights[k] = 0
        for b in range(size):
            r = order[begin + b]
            at, n = rows.starts[r], rows.starts[r + 1] - rows.starts[r]
            rise, places, scales = address(slopes, b * wide), address(rows.places, at), address(rows.values, at)
            add_to_rows(number, bytes_, rise, address(weights, 0), wide, places, scales, n)
    else:
        _transpose(room.outs[layer[IN] :], size, layer[N_IN], layer[WIDE_IN], room.turned, size)
        for i in range(layer[N_IN]):
            out, scales = address(weights, i * wide), address(room.turned, i * size)
            sum_rows(number, bytes_, out, zeros, rises, wide, numbers, scales, size)
    if not lowest:
        _transpose(tables.weights[layer[WEIGHT] :], layer[N_IN], layer[N_OUT], wide, room.turned, layer[WIDE_IN])
        turned = address(room.turned, 0)
        for b in range(size):
            out, scales = address(below, b * layer[WIDE_IN]), address(slopes, b * wide)
            sum_rows(number, bytes_, out, zeros, turned, layer[WIDE_IN], numbers, scales, layer[N_OUT])


@llvm_inlined
def _norm(layer: Any, numbers: Any, tables: Any, x: Any, out: Any, size: Any) -> None:
    wide, rows = layer[WIDE_IN], type(numbers[0])(size)
    running = tables.running[layer[RUNNING] :]
    mean, variance = running[:wide], running[wide : 2 * wide]
    center, scale = running[2 * wide : 3 * wide], running[3 * wide : 4 * wide]
    if layer[FIXED]:
        for k in range(wide):
            center[k], scale[k] = mean[k], variance[k]
    else:
        for k in range(wide):
            center[k] = scale[k] = 0
        for b in range(size):
            row = x[b * wide : (b + 1) * wide]
            for k in range(wide):
                center[k] += row[k]
        for k in range(wide):
            center[k] /= rows
        for b in range(size):
            row = x[b * wide : (b + 1) * wide]
            for k in range(wide):
                scale[k] += (row[k] - center[k]) * (row[k] - center[k])
        share, unbiased = numbers[SHARE], rows / type(rows)(size - 1)
        for k in range(wide):
            scale[k] /= rows
            mean[k] += share * (center[k] - mean[k])
            variance[k] += share * (scale[k] * unbiased - variance[k])
    for k in range(wide):
        scale[k] = type(rows)(1) / np.sqrt(scale[k] + numbers[EPS])
    gain, shift = tables.weights[layer[WEIGHT] :], tables.weights[layer[BIAS] :]
    for b in range(size):
        row, normed = x[b * wide : (b + 1) * wide], out[b * wide : (b + 1) * wide]
        for k in range(wide):
            normed[k] = (row[k] - center[k]) * scale[k] * gain[k] + shift[k]


@llvm_inlined
def _norm_back(layer: Any, tables: Any, x: Any, slopes: Any, size: Any) -> None:
    wide = layer[WIDE_IN]
    running = tables.running[layer[RUNNING] :]
    center, scale = running[2 * wide : 3 * wide], running[3 * wide : 4 * wide]
    gain = tables.weights[layer[WEIGHT] :]
    gains, shifts = tables.grads[layer[WEIGHT] :], tables.grads[layer[BIAS] :]
    for k in range(wide):
        gains[k] = shifts[k] = 0
    for b in range(size):
        row, slope = x[b * wide : (b + 1) * wide], slopes[b * wide : (b + 1) * wide]
        for k in range(wide):
            gains[k] += slope[k] * (row[k] - center[k]) * scale[k]
            shifts[k] += slope[k]
    moves = type(scale[0])(0 if layer[FIXED] else 1) / type(scale[0])(
        size
    )  # the batch's mean and deviation depend on x, too
    for b in range(size):
        row, slope = x[b * wide : (b + 1) * wide], slopes[b * wide : (b + 1) * wide]
        for k in range(wide):
            along = moves * (shifts[k] + (row[k] - center[k]) * scale[k] * gains[k])
            slope[k] = (slope[k] - along) * scale[k] * gain[k]


@llvm_inlined
def _drop(layer: Any, numbers: Any, draws: Any, x: Any, out: Any, size: Any, t: Any, batch: Any) -> None:
    """Multiply the numbers that are kept, and zero the others: outputs forward, slopes backward."""
    wide, width = layer[WIDE_IN], layer[N_IN]
    draws = draws[layer[DRAWS] + t * ((batch * width + WORD - 1) // WORD * WORD) :]
    nothing = type(numbers[0])(0)
    for b in range(size):
        row, kept = x[b * wide : (b + 1) * wide], out[b * wide : (b + 1) * wide]
        drawn = draws[b * width : (b + 1) * width]
        for k in range(width):
            kept[k] = row[k] * (numbers[FACTOR] if drawn[k] >= numbers[LEAST] else nothing)


@llvm_inlined
def _activate(kind: Any, x: Any, out: Any) -> None:
    zero, half, one = type(x[0])(0), type(x[0])(0.5), type(x[0])(1)
    if kind == RELU:
        for k in range(x.shape[0]):
            out[k] = zero if x[k] < zero else x[k]  # NaN stays
    elif kind == TANH:
        for k in range(x.shape[0]):
            out[k] = math.tanh(x[k])
    elif kind == SIGMOID:
        for k in range(x.shape[0]):
            small = math.exp(-abs(x[k]))
            out[k] = (one if x[k] >= zero else small) / (one + small)
    else:
        for k in range(x.shape[0]):
            out[k] = half * x[k] * (one + type(one)(math.erf(x[k] * type(one)(math.sqrt(0.5)))))


@llvm_inlined
def _activate_back(kind: Any, x: Any, out: Any, slopes: Any) -> None:
    zero, half, one = type(x[0])(0), type(x[0])(0.5), type(x[0])(1)
    if kind == RELU:
        for k in range(x.shape[0]):
            slopes[k] = zero if out[k] <= zero else slopes[k]
    elif kind == TANH:
        for k in range(x.shape[0]):
            slopes[k] *= one - out[k] * out[k]
    elif kind == SIGMOID:
        for k in range(x.shape[0]):
            slopes[k] *= out[k] * (one - out[k])
    else:
        root, height = type(one)(math.sqrt(0.5)), type(one)(1 / math.sqrt(2 * math.pi))
        for k in range(x.shape[0]):
            bell = height * type(one)(math.exp(-half * x[k] * x[k]))
            slopes[k] *= half * (one + type(one)(math.erf(x[k] * root))) + x[k] * bell


@llvm_inlined
def _loss(rows: Any, order: Any, begin: Any, size: Any, n_out: Any, wide: Any, outs: Any, slopes: Any) -> float:
    """The mean loss of a batch, and its slopes by scores: squared error of targets, cross-entropy of classes."""
    total = 0.0
    if rows.classes.shape[0] == 0:
        factor = type(outs[0])(2.0 / (size * n_out))
        for b in range(size):
            target, row = rows.targets[order[begin + b]], slopes[b * wide : (b + 1) * wide]
            for k in range(n_out):
                error = outs[b * wide + k] - target[k]
                row[k] = error * factor
                total += error * error
        return total / (size * n_out)
    for b in range(size):
        scores, row = outs[b * wide : b * wide + n_out], slopes[b * wide : (b + 1) * wide]
        highest = scores[0]
        for k in range(n_out):
            highest = max(highest, scores[k])
        whole = type(highest)(0)
        for k in range(n_out):
            row[k] = math.exp(scores[k] - highest)
            whole += row[k]
        right = rows.classes[order[begin + b]]
        total += math.log(whole) - (scores[right] - highest)
        share = type(highest)(1) / (whole * type(highest)(size))
        for k in range(n_out):
            row[k] *= share
        row[right] -= type(highest)(1) / type(highest)(size)
    return total / size


@llvm_inlined
def _step(kind: int, w: Any, g: Any, m: Any, v: Any, constants: Any) -> None:
    """A step of some parameters; see `..steps`."""
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = constants
    zero, one = type(keep)(0), type(keep)(1)
    if l2 != zero:  # an infinite weight, such as a mask's, stays as it is
        for k in range(w.shape[0]):
            g[k] += l2 * w[k]
    if kind == ROOT:
        for k in range(w.shape[0]):
            m[k] = beta1 * m[k] + rest1 * g[k]
            v[k] = beta2 * v[k] + rest2 * g[k] * g[k]
            w[k] = w[k] * keep - rate * m[k] / (np.sqrt(v[k]) * scale + eps)
    elif kind == MEAN:
        for k in range(w.shape[0]):
            m[k] = beta1 * m[k] + rest1 * g[k]
            w[k] = w[k] * keep - rate * m[k]
    else:
        for k in range(w.shape[0]):
            sign = (one if g[k] > zero else zero) - (one if g[k] < zero else zero)
            w[k] = w[k] * keep - rate * sign


@compiled
def epoch(
    layers: Any, numbers: Any, lowest: int, tables: Any, rows: Any, room: Any, order: Any, batch: int, spans: Any,
    kind: int, constants: Any, losses: Any,
) -> None:  # fmt: skip
    """Train on rows `order`, `batch` at a time.

    Args:
        layers: int64[layers, FIELDS].
        numbers: [layers, 2].
        lowest: the first layer with parameters that are trained.
        tables: the parameters, changed in place.
        rows: the training rows.
        room: working memory.
        order: int64[n].
        batch: rows a step; the last batch may be smaller.
        spans: int64[parameters, 2], where each trained parameter begins and ends in the tables.
        kind: of steps.
        constants: [parameters, batches, 9], of each step; see `..steps`.
        losses: float64[batches], gets the mean loss of each batch before its step.
    """
    before = flush_denormals()
    if kind == SIGN:  # the smallest number has a sign
        restore(before)
    last = layers.shape[0] - 1
    sparse = rows.starts.shape[0] > 0 and layers[0, KIND] == LINEAR
    for t in range(losses.shape[0]):
        begin = t * batch
        size = min(batch, order.shape[0] - begin)
        if not sparse:
            _gather(rows, order, begin, size, layers[0, WIDE_IN], room.outs)
        for l in range(last + 1):  # noqa: E741
            layer = layers[l]
            x = room.outs[layer[IN] : layer[IN] + size * layer[WIDE_IN]]
            out = room.outs[layer[OUT] : layer[OUT] + size * layer[WIDE_OUT]]
            if layer[KIND] == LINEAR:
                _linear(layer, sparse and l == 0, tables, rows, room, order, begin, size)
            elif layer[KIND] == NORM:
                _norm(layer, numbers[l], tables, x, out, size)
            elif layer[KIND] == DROPOUT:
                _drop(layer, numbers[l], room.draws, x, out, size, t, batch)
            else:
                _activate(layer[KIND], x, out)
        side = 0
        wide = layers[last, WIDE_OUT]
        losses[t] = _loss(
            rows, order, begin, size, layers[last, N_OUT], wide, room.outs[layers[last, OUT] :], room.slopes[side]
        )
        for l in range(last, lowest - 1, -1):  # noqa: E741
            layer = layers[l]
            x = room.outs[layer[IN] : layer[IN] + size * layer[WIDE_IN]]
            out = room.outs[layer[OUT] : layer[OUT] + size * layer[WIDE_OUT]]
            slopes = room.slopes[side, : size * layer[WIDE_OUT]]
            if layer[KIND] == LINEAR:
                below = room.slopes[1 - side]
                _linear_back(
                    layer, sparse and l == 0, l == lowest, tables, rows, room, order, begin, size, slopes, below
                )
                side = 1 - side
            elif layer[KIND] == NORM:
                _norm_back(layer, tables, x, slopes, size)
            elif layer[KIND] == DROPOUT:
                _drop(layer, numbers[l], room.draws, slopes, slopes, size, t, batch)
            else:
                _activate_back(layer[KIND], x, out, slopes)
        for s in range(spans.shape[0]):
            at, end = spans[s]
            _step(
                kind, tables.weights[at:end], tables.grads[at:end], tables.means[at:end], tables.squares[at:end],
                constants[s, t],
            )  # fmt: skip
    restore(before)


@compiled
def keep_nonzero(dense: Any, starts: Any, places: Any, values: Any) -> None:
    """List the nonzero inputs of each row; see `Rows`. The lists need a place more than there are nonzero inputs."""
    at = 0
    for r in range(dense.shape[0]):
        starts[r] = at
        row = dense[r]
        for k in range(row.shape[0]):
            places[at], values[at] = k, row[k]
            at += row[k] != 0  # without a branch that no processor can predict
    starts[dense.shape[0]] = at

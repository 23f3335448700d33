"""A net for MNIST from scratch: claims 56 to 63, 67."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from lesson.models import Mnist_Logistic
from lesson.models.mnist import Linear
from lesson.update import update
from studies.exact import Found, exact
from studies.exact._figures import close


def _digits() -> TensorDataset:
    """Pixels [200, 784] and labels [200], drawn at random: the shapes are MNIST's."""
    return TensorDataset(torch.rand(200, 784), torch.randint(10, (200,)))


@exact("56")
def map_makes_a_tensor_of_each_array() -> Found:
    """`map(torch.tensor, (a, b, c, d))` gives the same as four separate lines."""
    arrays = [np.random.default_rng(seed).random((5, 3)) for seed in range(4)]
    x_train, y_train, x_valid, y_valid = map(torch.tensor, arrays)
    lines = [torch.tensor(array) for array in arrays]
    same = all(map(torch.equal, (x_train, y_train, x_valid, y_valid), lines))
    return Found(same, f"4 tensors of shape {tuple(x_train.shape)}: {'equal' if same else 'different'}")


@exact("57")
def a_data_set_gives_the_pair_at_an_index() -> Found:
    """The n-th item of `TensorDataset(x, y)` is the pair of x[n] and y[n]."""
    data = _digits()
    x, y = data.tensors
    same = [torch.equal(data[n][0], x[n]) and torch.equal(data[n][1], y[n]) for n in range(len(data))]
    return Found(len(same) == 200 and all(same), f"{sum(same)} of {len(data)} pairs")


@exact("58")
def a_data_loader_hands_out_minibatches_of_64() -> Found:
    """The first batch of 64 has shapes (64, 784) and (64,), and all batches together hold every row once."""
    data = _digits()
    batches = list(DataLoader(data, batch_size=64))
    shapes = [tuple(part.shape) for part in batches[0]]
    whole = torch.equal(torch.cat([x for x, _ in batches]), data.tensors[0])
    return Found(shapes == [(64, 784), (64,)] and whole, f"{shapes[0]} and {shapes[1]}, {len(batches)} batches")


def _fails(make: type[nn.Module]) -> str:
    """The error that a model's making or use raises, by name; "" where there is none."""
    try:
        make()(torch.ones(1, 784))
    except (AttributeError, NotImplementedError) as error:
        return type(error).__name__
    return ""


@exact("59a")
def without_super_init_a_model_cannot_hold_layers() -> Found:
    """A subclass of nn.Module that leaves out `super().__init__()` cannot be given a layer."""

    class Without(nn.Module):
        def __init__(self) -> None:
            self.lin = nn.Linear(784, 10)

    return Found(
        _fails(Without) == "AttributeError",
        f"without it: {_fails(Without)}; with it: {_fails(Mnist_Logistic) or 'none'}",
    )


@exact("59b")
def without_forward_a_model_cannot_be_called() -> Found:
    """A subclass of nn.Module that defines no `forward` cannot be called."""

    class Without(nn.Module):
        pass

    text = _fails(Without)
    return Found(text == "NotImplementedError", f"without it: {text}; with it: {_fails(Mnist_Logistic) or 'none'}")


@exact("60")
def mnist_logistic_has_the_shapes_that_the_notes_print() -> Found:
    """Mnist_Logistic has parameters of shapes (10, 784) and (10,), and turns a batch into (64, 10)."""
    model = Mnist_Logistic()
    shapes = [tuple(p.shape) for p in model.parameters()]
    output = tuple(model(torch.ones(64, 784)).shape)
    return Found(shapes == [(10, 784), (10,)] and output == (64, 10), f"{shapes[0]}, {shapes[1]}; output {output}")


@exact("61a")
def our_linear_computes_what_torch_s_does() -> Found:
    """A layer from scratch has the outputs of nn.Linear, and the gradients of its weight and bias (float64)."""
    ours, theirs, x = Linear(30, 4).double(), nn.Linear(30, 4).double(), torch.randn(9, 30, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    outputs = close(ours(x), theirs(x), "36 outputs")
    slopes = [torch.autograd.grad(layer(x).square().sum(), [layer.weight, layer.bias]) for layer in (ours, theirs)]
    agree = [close(a, b, "gradients", tolerance=1e-11).holds for a, b in zip(*slopes, strict=True)]
    return Found(outputs.holds and all(agree), f"{outputs.figure}; {sum(agree)} of 2 gradients agree")


@exact("61b")
def our_linear_starts_as_torch_s_does() -> Found:
    """Weights and biases start uniform within ±1/√inputs, both ours and torch's (Kolmogorov–Smirnov)."""
    bound = 1 / math.sqrt(100)
    uniform = stats.uniform(-bound, 2 * bound).cdf
    layers = [make(100, 100) for make in (Linear, nn.Linear)]
    drawn = [tensor.detach().numpy().ravel() for layer in layers for tensor in (layer.weight, layer.bias)]
    p = min(float(stats.kstest(numbers, uniform).pvalue) for numbers in drawn)
    return Found(p > 1e-4, f"least of 4 p-values against uniform(−0.1, 0.1): {p:.2g}")


@exact("62")
def moving_a_model_moves_all_its_parameters() -> Found:
    """A model is made on the CPU; `.to(device)` moves all its parameters, and its buffers (device meta)."""
    model = nn.Sequential(Mnist_Logistic(), nn.BatchNorm1d(10))
    before = [tensor.device.type for tensor in model.state_dict().values()]
    after = [tensor.device.type for tensor in model.to("meta").state_dict().values()]
    return Found(set(before) == {"cpu"} and set(after) == {"meta"}, f"{len(after)} tensors: {before[0]} → {after[0]}")


@exact("63a")
def update_steps_down_the_gradient_of_loss_and_penalty() -> Found:
    """update() steps to w − lr·(gradient + 2·wd·w), and leaves the gradients at zero (float64)."""
    model, (x, y) = Mnist_Logistic().double(), _digits().tensors
    params = list(model.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(model(x.double()), y), params)
    wanted = torch.cat(
        [(p - 2e-2 * (g + 2 * 0.1 * p)).detach().ravel() for p, g in zip(params, gradients, strict=True)]
    )
    update(model, x.double(), y, lr=2e-2, wd=0.1)
    found = torch.cat([p.detach().ravel() for p in params])
    agree = close(found, wanted, "7850 weights and biases", tolerance=1e-15)
    zero = all(p.grad is not None and not p.grad.any() for p in model.parameters())
    return Found(agree.holds and zero, f"{agree.figure}; gradients {'are' if zero else 'are not'} zero")


@exact("63b")
def update_returns_the_loss_with_the_penalty() -> Found:
    """What update() returns contains the penalty wd·Σw²."""
    model, (x, y) = Mnist_Logistic(), _digits().tensors
    plain = F.cross_entropy(model(x), y).item()
    penalty = 0.1 * sum(p.square().sum().item() for p in model.parameters())
    returned = update(model, x, y, lr=2e-2, wd=0.1)
    return Found(abs(returned - plain - penalty) < 1e-5, f"returned {returned:.4f} = {plain:.4f} + {penalty:.4f}")


@exact("67")
def gradients_that_are_not_zeroed_add_up() -> Found:
    """Two backward passes leave the sum of both gradients, unless they are zeroed in between."""
    w, rows = torch.randn(6, dtype=torch.float64, requires_grad=True), torch.randn(2, 6, dtype=torch.float64)
    each = [torch.autograd.grad((row @ w).square(), w)[0] for row in rows]
    for row in rows:
        (row @ w).square().backward()
    assert w.grad is not None
    return close(w.grad, each[0] + each[1], "6 gradients after two passes")

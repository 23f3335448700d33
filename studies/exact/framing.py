"""Numbers of a net, gradient descent, in-place methods, activation functions, affine functions: claims 2 to 5, 8, 9."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lesson.models import Mnist_NN
from studies.exact import Found, exact
from studies.exact._figures import close, listed


class Origins(TorchDispatchMode):
    """Counts where the numbers that operations read come from, by their storage."""

    def __init__(self, parameters: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.keep: list[Tensor] = [*parameters, *inputs]  # storages that live cannot be given out twice
        self.kind = {_storage(p): "parameter" for p in parameters} | {_storage(x): "input" for x in inputs}
        self.read: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and record what it reads; its results are activations."""
        result = func(*args, **(kwargs or {}))
        for read in filter(torch.is_tensor, tree_leaves(args)):
            self.read[_storage(read)] = self.kind.get(_storage(read), "neither")
        for made in filter(torch.is_tensor, tree_leaves(result)):
            self.keep.append(made)
            self.kind.setdefault(_storage(made), "activation")
        return result

    def counts(self) -> dict[str, int]:
        """Storages read, by kind."""
        kinds = list(self.read.values())
        return {kind: kinds.count(kind) for kind in ("parameter", "activation", "input", "neither")}


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _kinds_read(net: nn.Module) -> tuple[dict[str, int], str]:
    x = torch.randn(8, 6)
    parameters = list(net.parameters())
    with torch.no_grad(), Origins(parameters, [x]) as origins:
        net(x)
    counts = origins.counts()
    return counts, " · ".join(f"{number} {kind}" for kind, number in counts.items())


@exact("2a")
def every_number_of_the_lessons_net_is_a_parameter_an_activation_or_the_input() -> Found:
    """All that the operations of two linear layers and a ReLU read is a parameter, an activation or the input."""
    counts, text = _kinds_read(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    return Found(counts["neither"] == 0 and counts["parameter"] == 4 and counts["input"] == 1, f"tensors read: {text}")


@exact("2b", expected=False)
def every_number_of_a_net_with_batch_norm_is_a_parameter_an_activation_or_the_input() -> Found:
    """Everything that the operations of a net with BatchNorm read is a parameter, an activation or the input."""
    counts, text = _kinds_read(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval())
    return Found(counts["neither"] == 0, f"tensors read: {text}: BatchNorm's running mean and variance")


def _loss(w: Tensor) -> Tensor:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    return F.mse_loss(torch.tanh(x @ w), torch.arange(8, dtype=torch.float64).reshape(4, 2) / 8)


@exact("3a")
def autograd_gives_the_gradient_of_the_loss_for_every_parameter() -> Found:
    """Autograd's gradients are the central differences of the loss, in float64."""
    w = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(_loss(w), w)
    steps = 1e-6 * torch.eye(6, dtype=torch.float64).reshape(6, 3, 2)
    differences = torch.stack([(_loss(w.detach() + h) - _loss(w.detach() - h)) / 2e-6 for h in steps])
    return close(differences.reshape(3, 2), gradient, "6 gradients", tolerance=1e-8)


@exact("3b")
def subtracting_rate_times_gradient_is_a_step_of_sgd() -> Found:
    """torch.optim.SGD changes the parameters to `w − lr · gradient`, which lowers the loss."""
    w = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    before = _loss(w)
    (w.grad,) = torch.autograd.grad(before, w)
    by_hand = w.detach() - 0.1 * w.grad
    torch.optim.SGD([w], lr=0.1).step()
    after = _loss(w)
    steps = close(w, by_hand, "6 parameters", tolerance=1e-15)  # torch may round once where we round twice
    return Found(steps.holds and bool(after < before), f"{steps.figure}; loss {before:.4f} → {after:.4f}")


@exact("4a")
def sub_with_an_underscore_is_a_step_of_sgd_in_place() -> Found:
    """`a.sub_(lr * a.grad)` changes `a` in place, like `a -= lr * a.grad` and torch.optim.SGD."""
    a, b, c = (torch.ones(5) for _ in range(3))
    addresses = [w.data_ptr() for w in (a, b, c)]
    c.grad = torch.arange(5.0)
    a.sub_(0.5 * c.grad)
    b -= 0.5 * c.grad
    torch.optim.SGD([c], lr=0.5).step()
    same = [w.data_ptr() for w in (a, b, c)] == addresses
    return Found(same and torch.equal(a, b) and torch.equal(a, c), f"addresses kept: {same}; {listed(a.tolist())}")


METHODS = [name for name in dir(Tensor) if name.endswith("_") and not name.startswith("_")]
SPARSE = ["resize_as_sparse_", "sparse_resize_", "sparse_resize_and_clear_"]  # sparse tensors have no address
MOVERS = ["resize_", "set_", "share_memory_"]  # these change the memory, not the numbers in it


def _calls() -> Iterator[tuple[Tensor, tuple[Any, ...]]]:
    """Tensors with arguments; each method takes some of these."""
    square, row, cube, ids = torch.ones(2, 2), torch.ones(2), torch.ones(2, 2, 2), torch.tensor([0, 1])
    mask, places = square.bool(), torch.zeros(2, 2, dtype=torch.int64)
    numbers = [(), (0.5,), (1,), (0, 1), (2, 0, 1.0), (9, 9), ((2, 2), (2, 1))]
    tensors = [(square,), (places,), (square, square), (row, row), (cube, cube), (square, row)]
    chosen = [(mask, 0.5), (mask, square), (ids, row), ((ids, ids), row), (0, ids, 0.5), (0, ids, square)]
    reduced = [(0, places, square), (0, ids, square, "amax"), (0, places, square, "sum")]
    functions = [(abs,), (square, max), (square, square, max)]
    for tensor in (square / 2, row, cube, places, square.double()):
        for arguments in [*numbers, *tensors, *chosen, *reduced, *functions]:
            yield tensor.clone(), arguments


def _stays(method: str) -> bool | None:
    """Whether a method leaves a tensor at its address and returns it; None if no arguments fit it."""
    for tensor, arguments in [(torch.ones(1), (9, 9)), *_calls()] if method == "resize_" else _calls():
        address = tensor.data_ptr()
        try:
            with warnings.catch_warnings(action="ignore"):  # of torch, on some of its signatures
                result = getattr(tensor, method)(*arguments)
        except (RuntimeError, TypeError, IndexError, ValueError):  # not these arguments
            continue
        return result is tensor and tensor.data_ptr() == address
    return None


def _in_place(methods: list[str]) -> Found:
    stays = {method: _stays(method) for method in methods}
    untried = [method for method, stayed in stays.items() if stayed is None]
    moved = [method for method, stayed in stays.items() if stayed is False]
    text = f"{len(methods) - len(untried) - len(moved)} of {len(methods)} methods leave the address as it is"
    assert not untried, f"no arguments fit {', '.join(untried)}"
    return Found(not moved, text + (f"; {', '.join(moved)} may change it" if moved else ""))


@exact("4b", expected=False)
def every_method_with_an_underscore_works_in_place() -> Found:
    """Every method of Tensor that ends in an underscore leaves the tensor at its address (dense tensors)."""
    return _in_place([method for method in METHODS if method not in SPARSE])


@exact("4c")
def every_method_that_changes_numbers_and_has_an_underscore_works_in_place() -> Found:
    """The same without `resize_`, `set_` and `share_memory_`, whose purpose is to exchange the memory."""
    return _in_place([method for method in METHODS if method not in (*SPARSE, *MOVERS)])


def _element_wise(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether each output depends on the input at its own place alone: a diagonal Jacobian."""
    x = torch.tensor([-1.3, -0.2, 0.4, 2.1], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(function, x)
    return torch.equal(jacobian, torch.diag(jacobian.diagonal()))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "GELU": F.gelu,
    "softmax": lambda x: torch.softmax(x, 0),
}


def _which(names: list[str]) -> Found:
    diagonal = {name: _element_wise(ACTIVATIONS[name]) for name in names}
    text = " · ".join(f"{name} {'diagonal' if one else 'not diagonal'}" for name, one in diagonal.items())
    return Found(all(diagonal.values()), f"Jacobians: {text}")


@exact("5a", expected=False)
def activation_functions_are_element_wise() -> Found:
    """The functions that the lesson calls activations, including softmax, are element-wise."""
    return _which(list(ACTIVATIONS))


@exact("5b")
def activation_functions_between_layers_are_element_wise() -> Found:
    """The same without softmax, which follows the last layer."""
    return _which([name for name in ACTIVATIONS if name != "softmax"])


@exact("8a")
def a_linear_layer_is_a_matrix_product_plus_an_offset() -> Found:
    """nn.Linear is a product with its transposed weight, plus its bias."""
    layer, x = nn.Linear(7, 3).double(), torch.randn(5, 7, dtype=torch.float64)
    return close(layer(x), x @ layer.weight.T + layer.bias, "15 outputs")


@exact("8b")
def a_convolution_is_a_matrix_product_plus_an_offset() -> Found:
    """nn.Conv2d is a product of patches of the image with one matrix, plus its bias."""
    layer, image = nn.Conv2d(2, 3, kernel_size=3).double(), torch.randn(1, 2, 6, 6, dtype=torch.float64)
    assert layer.bias is not None
    patches = F.unfold(image, kernel_size=3)[0].T  # [places, channels · 9]
    by_matrix = patches @ layer.weight.reshape(3, -1).T + layer.bias
    return close(layer(image), by_matrix.T.reshape(1, 3, 4, 4), "48 outputs")


@exact("8c")
def affine_functions_in_a_row_are_one_affine_function() -> Found:
    """Two linear layers with nothing between them are one, with the product of their matrices."""
    first, second = nn.Linear(7, 4).double(), nn.Linear(4, 3).double()
    x = torch.randn(5, 7, dtype=torch.float64)
    one = x @ (second.weight @ first.weight).T + second(first.bias)
    return close(second(first(x)), one, "15 outputs")


@exact("9a")
def a_product_of_matrices_fills_a_block_of_cells() -> Found:
    """A matrix product is a block of cells, each the SUMPRODUCT of a row and a column; so it is entered as an array."""
    a, b = np.arange(12.0).reshape(4, 3), np.arange(6.0).reshape(3, 2) - 2
    cells = [[sum(x * y for x, y in zip(row, column, strict=True)) for column in b.T.tolist()] for row in a.tolist()]
    agree = close(torch.tensor(cells), torch.tensor(a @ b), "cells and NumPy's product", tolerance=0)
    return Found(agree.holds and np.size(cells) > 1, f"{len(cells)} × {len(cells[0])} cells; {agree.figure}")


def _line(xs: list[float]) -> tuple[float, float]:
    """Slope and intercept after a step of gradient descent a row, with numbers alone, as in cells."""
    slope, intercept = 1.0, 1.0
    for x in xs:
        error = slope * x + intercept - (2 * x + 30)
        slope, intercept = slope - 1e-4 * 2 * error * x, intercept - 1e-4 * 2 * error
    return slope, intercept


@exact("9b")
def gradient_descent_fits_in_cells() -> Found:
    """Steps of gradient descent on a line, written only with numbers, are those of torch.optim.SGD."""
    xs = [14.0, 86.0, 28.0, 51.0, 29.0, 72.0]
    line = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([line], lr=1e-4)
    for x in xs:
        (line.grad,) = torch.autograd.grad((line[0] * x + line[1] - (2 * x + 30)).square(), line)
        optimizer.step()
    agree = close(line.detach(), torch.tensor(_line(xs), dtype=torch.float64), "slope and intercept")
    return Found(agree.holds, f"y = 2x + 30, {len(xs)} rows, {listed(line.tolist(), 5)}: {agree.figure}")


@exact("slip 7")
def backpropagation_moves_no_parameter() -> Found:
    """backward() calculates gradients and moves no parameter; subtracting rate times gradient moves them."""
    model, x, y = Mnist_NN(), torch.rand(64, 784), torch.randint(10, (64,))
    start = [p.detach().clone() for p in model.parameters()]

    def moved() -> int:
        return sum(not torch.equal(p, was) for p, was in zip(model.parameters(), start, strict=True))

    F.cross_entropy(model(x), y).backward()
    after_backward, filled = moved(), sum(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(2e-2 * p.grad)  # type: ignore[operator]
    text = f"backward() fills {filled} gradients and moves {after_backward} of 4 parameters; the step moves {moved()}"
    return Found((after_backward, filled, moved()) == (0, 4, 4), text)


@exact("slip 8")
def the_input_is_a_kind_of_its_own() -> Found:
    """The input is not a parameter, and no operation of the net made it: it is an activation only by definition."""
    counts, text = _kinds_read(nn.Linear(6, 3))
    return Found(counts["input"] == 1 and counts["neither"] == 0, f"tensors read: {text}")


@exact("slip 16")
def softmax_is_not_element_wise() -> Found:
    """Each output of softmax depends on every input."""
    x = torch.tensor([-1.3, -0.2, 0.4, 2.1], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: torch.softmax(x, 0), x)
    zeros = int((jacobian == 0).sum())
    return Found(zeros == 0, f"zeros in its 4 × 4 Jacobian: {zeros}")


@exact("slip 17")
def an_affine_function_is_a_linear_one_plus_an_offset() -> Found:
    """A layer with a bias is not linear, f(x + y) ≠ f(x) + f(y); what it lacks is the bias, once."""
    layer, (x, y) = nn.Linear(7, 3).double(), torch.randn(2, 7, dtype=torch.float64)
    lacks = layer(x) + layer(y) - layer(x + y)
    agree = close(lacks, layer.bias, "3 offsets").holds
    return Found(agree and bool(lacks.abs().min() > 0), f"f(x) + f(y) − f(x + y) = b: {listed(lacks.tolist())}")


@exact("slip 24")
def stacked_layers_approximate_only_with_a_nonlinearity() -> Found:
    """Linear layers in a row cannot follow a kink better than one line can; with ReLU between, two units follow it."""
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)[:, None]
    y = 12**0.5 * (x.abs() - 0.5)
    layers = [nn.Linear(1, 8), nn.Linear(8, 8), nn.Linear(8, 1)]
    stack = nn.Sequential(*layers).double()
    ends = stack(x[[0, -1]])
    line = close(stack(x), torch.lerp(ends[0], ends[1], (x + 1) / 2), "1001 outputs of three layers from a line")
    rows = torch.cat([x, torch.ones_like(x)], dim=1)
    left = (rows @ torch.linalg.lstsq(rows, y).solution - y).square().mean() / y.var(correction=0)
    two_units = F.relu(torch.cat([x, -x], dim=1)) @ torch.full((2, 1), 12.0, dtype=x.dtype).sqrt() - 3**0.5
    follows = close(two_units, y, "two units with ReLU from the kink")
    text = f"{line.figure}; the best line leaves {left:.2f} of the variance; {follows.figure}"
    return Found(line.holds and follows.holds and bool(left > 0.99), text)

"""A fully connected net of any depth and width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lesson import checks
from lesson.checks import DataError, shown
from lesson.models.mnist import Linear

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


class Net(nn.Sequential):
    """Linear → (BatchNorm) → activation → (dropout) for each hidden layer, then a last Linear.

    Weights are uniform with variance gain²/n_in (He and others 2015), with torch's gain for the activation that
    follows; for gelu, which has none, with relu's. Biases are zero.

    Args:
        widths: of the inputs, of each hidden layer, and of the scores.
        activation: "relu", "tanh", "sigmoid", "gelu", or "none".
        bn: whether each hidden layer has BatchNorm.
        dropout: the share of a hidden layer's outputs that training zeroes.
        generator: of the weights and of the dropout; None is torch's.

    Raises:
        DataError: an argument is wrong.

    >>> net = Net([784, 50, 10], bn=True, dropout=0.5)
    >>> [type(layer).__name__ for layer in net]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Dropout', 'Linear']
    >>> net(torch.zeros(64, 784)).shape
    torch.Size([64, 10])
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: str = "relu",
        bn: bool = False,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(widths, Sequence) or isinstance(widths, str) or len(widths) < 2:
            raise DataError(f"widths={shown(widths)}: a list of at least two is needed, such as [784, 50, 10]")
        if activation not in (*ACTIVATIONS, "none"):
            raise DataError(f"activation={shown(activation)}: there are {', '.join(ACTIVATIONS)}, and none")
        super().__init__()
        widths = [checks.whole("widths", width, least=1) for width in widths]
        dropout = checks.below_one("dropout", dropout)
        # All weights are drawn before the seeds of the dropout, so that a net has the same ones with and without it.
        hidden = [linear(n_in, n_out, activation, generator) for n_in, n_out in pairwise(widths[:-1])]
        last = linear(widths[-2], widths[-1], "none", generator)
        for layer, n_out in zip(hidden, widths[1:-1], strict=True):
            self.append(layer)
            if bn:
                self.append(nn.BatchNorm1d(n_out))
            if activation != "none":
                self.append(ACTIVATIONS[activation]())
            if dropout:
                self.append(Dropout(dropout, generator))
        self.append(last)

    def __getitem__(self, place: int | slice) -> nn.Module:
        """A layer; of a slice an `nn.Sequential`, such as a layer group."""
        return nn.Sequential(*self)[place]


def linear(n_in: int, n_out: int, activation: str, generator: torch.Generator | None) -> Linear:
    """A layer initialized for what follows it."""
    layer = Linear(n_in, n_out)
    gain = nn.init.calculate_gain({"none": "linear", "gelu": "relu"}.get(activation, activation))  # type: ignore[arg-type]
    bound = gain * (3 / n_in) ** 0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class Dropout(nn.Module):
    """Zeroes a share of the numbers in training, and divides the others by the share that is kept (claim 85).

    It draws from a generator of its own, so that the fast path of `lesson.nets` zeroes the same ones.

    Args:
        p: the share, rounded to 1/65,536.
        generator: seeds the layer's own; None is torch's.
    """

    def __init__(self, p: float = 0.5, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.p = checks.below_one("p", p)
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))

    @property
    def least(self) -> int:
        """The lowest draw that is kept."""
        return min(round(self.p * 2**16), 2**16 - 1) - 2**15

    @property
    def factor(self) -> float:
        """The factor of the numbers that are kept."""
        return 2**16 / (2**15 - self.least)

    def draw(self, sizes: Sequence[int]) -> Tensor:
        """The next draws int16[…] for batches of these sizes, each rounded up to a multiple of four.

        A random number of 64 bits gives four draws.
        """
        words = sum(-(-size // 4) for size in sizes)
        return torch.empty(words, dtype=torch.int64).random_(-(2**63), None, generator=self.generator).view(torch.int16)

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, width] with a share of zeros in training; x itself otherwise."""
        if not self.training:
            return x
        kept = self.draw([x.numel()])[: x.numel()].view(x.shape) >= self.least
        return x * kept.to(x) * self.factor

    def extra_repr(self) -> str:
        """As torch's layer."""
        return f"p={self.p}"

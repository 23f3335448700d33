"""The lesson's model for collaborative filtering, written in full."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels import embedding_dot_bias
from lesson import checks


def sigmoid_range(x: Tensor, low: float, high: float) -> Tensor:
    """A sigmoid stretched to the range (low, high).

    >>> sigmoid_range(torch.tensor([-50.0, 0.0, 50.0]), 1, 3)
    tensor([1., 2., 3.])
    """
    low, high = checks.score_range("low, high", (low, high))
    return torch.sigmoid(x) * (high - low) + low


def embedding(rows: int, width: int, generator: torch.Generator | None = None) -> nn.Embedding:
    """A table of normal numbers with σ = .01, cut at two σ, as fastai initializes embeddings."""
    table = nn.Embedding(checks.whole("rows", rows, least=1), checks.whole("width", width, least=1))
    nn.init.trunc_normal_(table.weight, std=0.01, a=-0.02, b=0.02, generator=generator)
    return table


class EmbeddingDotBias(nn.Module):
    """Dot product of a user's and an item's factors, plus a bias for each (claims 28, 32, 35).

    Args:
        n_factors: width of the two tables of factors.
        n_users: rows of the user tables.
        n_items: rows of the item tables.
        y_range: (low, high) of the sigmoid on the score; None for no sigmoid.
        generator: draws the initial tables; None uses torch's own.
        backend: of the kernel; None chooses by device, see `kernels.embedding_dot_bias`.

    Raises:
        DataError: a size or a range is wrong.

    >>> model = EmbeddingDotBias(n_factors=40, n_users=944, n_items=1683, y_range=(0, 5.5))
    >>> model(torch.tensor([1, 1]), torch.tensor([50, 51])).shape
    torch.Size([2])
    """

    def __init__(
        self,
        n_factors: int,
        n_users: int,
        n_items: int,
        y_range: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        n_factors, n_users, n_items = (
            checks.whole(name, value, least=1)
            for name, value in (("n_factors", n_factors), ("n_users", n_users), ("n_items", n_items))
        )
        self.y_range = None if y_range is None else checks.score_range("y_range", y_range)
        self.backend = backend
        self.u_weight, self.i_weight = (embedding(n, n_factors, generator) for n in (n_users, n_items))
        self.u_bias, self.i_bias = (embedding(n, 1, generator) for n in (n_users, n_items))

    def layers(self) -> tuple[nn.Embedding, nn.Embedding, nn.Embedding, nn.Embedding]:
        """The four embeddings, in the order of `tables`."""
        return self.u_weight, self.i_weight, self.u_bias, self.i_bias

    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views of the parameters: user and item factors [rows, n_factors], user and item biases [rows]."""
        return (
            self.u_weight.weight,
            self.i_weight.weight,
            self.u_bias.weight.squeeze(1),
            self.i_bias.weight.squeeze(1),
        )

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [batch] of the pairs (users int64[batch], items int64[batch])."""
        return embedding_dot_bias(users, items, *self.tables(), y_range=self.y_range, backend=self.backend)

"""The lesson's model in ordinary PyTorch, with which the kernels are compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# MovieLens 100k: 943 users and 1,682 films, plus one row each for unknown ids.
USERS, ITEMS, WIDTH = 944, 1_683, 40
Y_RANGE = (0.0, 5.5)


class EmbeddingDotBias(nn.Module):
    """u·i + user bias + item bias, through a sigmoid to Y_RANGE; four `nn.Embedding`s (fastai v1; claim 28)."""

    def __init__(self, users: int = USERS, items: int = ITEMS, width: int = WIDTH) -> None:
        super().__init__()
        self.user_weight, self.item_weight = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)

    @classmethod
    def of(cls, tables: list[Tensor]) -> EmbeddingDotBias:
        """A model of these tables user_weight, item_weight, user_bias, item_bias, in their memory."""
        users, items, *_ = tables
        model = cls(len(users), len(items), users.shape[1]).to(users.device, users.dtype)
        for parameter, table in zip(model.parameters(), tables, strict=True):
            parameter.data = table.detach().view_as(parameter)
        return model.requires_grad_(users.requires_grad)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores float[batch] of int64[batch] users and items."""
        dot = (self.user_weight(users) * self.item_weight(items)).sum(1)
        out = dot + self.user_bias(users).squeeze(1) + self.item_bias(items).squeeze(1)
        low, high = Y_RANGE
        return torch.sigmoid(out) * (high - low) + low


def popular(rows: int, size: int, generator: torch.Generator) -> Tensor:
    """Ids int64[size] whose popularity falls as 1/rank (Zipf), like that of ratings."""
    weights = 1 / torch.arange(1, rows + 1, dtype=torch.float64)
    return torch.multinomial(weights, size, replacement=True, generator=generator)

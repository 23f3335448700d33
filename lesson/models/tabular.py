"""The lesson's model for tables: entity embeddings beside numbers, as fastai v1's TabularModel, written in full."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lesson import checks
from lesson.checks import DataError, shown
from lesson.models.collab import embedding, sigmoid_range
from lesson.models.net import Dropout, linear


def emb_sz_rule(n_cat: int) -> int:
    """The width of an embedding of `n_cat` categories by fastai's later rule, unknown ones counting as one (slip 18).

    >>> [emb_sz_rule(n) for n in (7, 100, 944, 100_000)]
    [5, 21, 74, 600]
    """
    return min(600, round(1.6 * n_cat**0.56))


class TabularModel(nn.Module):
    """A net on embeddings of categories and on numbers (claims 25 and 44).

    The embeddings with dropout, and the numbers with BatchNorm, stand side by side. Each hidden layer is
    Linear → ReLU → BatchNorm → (dropout); a last Linear gives the scores. Weights are initialized as in `Net`,
    embeddings as in fastai.

    Args:
        emb_szs: rows and width of each category's embedding.
        n_cont: how many numbers there are.
        out_sz: how many scores.
        layers: widths of the hidden layers.
        ps: dropout after each hidden layer: one share for all, or one for each.
        emb_drop: dropout of the embeddings.
        y_range: (low, high) of the sigmoid on the scores; None for no sigmoid.
        generator: of the initialization and of the dropout; None is torch's.

    Raises:
        DataError: an argument is wrong.

    >>> model = TabularModel([(3, 2), (10, 6)], n_cont=2, out_sz=2, layers=[200, 100])
    >>> model(torch.tensor([[0, 9], [2, 1]]), torch.zeros(2, 2)).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        emb_szs: Sequence[tuple[int, int]],
        n_cont: int,
        out_sz: int,
        layers: Sequence[int] = (200, 100),
        ps: float | Sequence[float] = 0.0,
        emb_drop: float = 0.0,
        y_range: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = [checks.whole("layers", width, least=1) for width in _listed("layers", layers)]
        shares = [checks.below_one("ps", p) for p in (_listed("ps", ps) if not _is_number(ps) else [ps] * len(widths))]
        if len(shares) != len(widths):
            raise DataError(f"ps={shown(ps)}: {len(shares)} shares for {len(widths)} hidden layers")
        emb_drop = checks.below_one("emb_drop", emb_drop)
        self.y_range = None if y_range is None else checks.score_range("y_range", y_range)
        self.embeds = nn.ModuleList(embedding(rows, width, generator) for rows, width in emb_szs)
        n_cont = checks.whole("n_cont", n_cont)
        out_sz = checks.whole("out_sz", out_sz, least=1)
        first = sum(width for _, width in emb_szs) + n_cont
        if not first:
            raise DataError("emb_szs, n_cont: a net needs categories or numbers to read")
        # All weights are drawn before the seeds of the dropout, so that a net has the same ones with and without it.
        hidden = [linear(n_in, n_out, "relu", generator) for n_in, n_out in pairwise([first, *widths])]
        last = linear([first, *widths][-1], out_sz, "none", generator)
        self.emb_drop = Dropout(emb_drop, generator) if emb_drop else nn.Identity()
        self.bn_cont = nn.BatchNorm1d(n_cont) if n_cont else nn.Identity()
        self.layers = nn.Sequential()
        for layer, n_out, p in zip(hidden, widths, shares, strict=True):
            self.layers.extend([layer, nn.ReLU(), nn.BatchNorm1d(n_out)])
            if p:
                self.layers.append(Dropout(p, generator))
        self.layers.append(last)

    def forward(self, x_cat: Tensor, x_cont: Tensor) -> Tensor:
        """Scores [batch, out_sz].

        Args:
            x_cat: int64[batch, categories], rows of the embeddings.
            x_cont: [batch, n_cont].
        """
        embedded = [table(ids) for table, ids in zip(self.embeds, x_cat.unbind(1), strict=True)]
        parts = [self.emb_drop(torch.cat(embedded, 1))] if embedded else []
        scores = self.layers(torch.cat([*parts, self.bn_cont(x_cont)], 1))
        return scores if self.y_range is None else sigmoid_range(scores, *self.y_range)


def _is_number(value: Any) -> bool:
    return isinstance(value, checks.NUMBERS)


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise DataError(f"{name}={shown(values)}: a list is needed")
    return list(values)

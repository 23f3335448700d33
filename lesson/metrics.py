"""Metrics: functions of predictions and target that return a number; and of a learner, for rankings.

RMSE judges how well a model rates the items that people chose to rate, a ranking how well it finds these few among all
items; so a model may be better at one and worse at the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from lesson import checks
from lesson.checks import DataError

if TYPE_CHECKING:
    from lesson.collab import CollabLearner

AT_A_TIME = 1 << 22  # predictions, to limit the memory for many users


def accuracy(out: Tensor, target: Tensor) -> Tensor:
    """The share of rows whose largest output is the target's.

    A row with an output that is NaN is wrong.

    Args:
        out: [rows, classes], two classes or more.
        target: int64[rows], or [rows, 1].

    Raises:
        DataError: the rows are not as many, or there are no classes.

    >>> accuracy(torch.tensor([[0.1, 2.0], [3.0, 1.0]]), torch.tensor([1, 1])).item()
    0.5
    """
    if out.ndim != 2 or target.shape not in ((len(out),), (len(out), 1)):
        raise DataError(f"accuracy of outputs {list(out.shape)} and targets {list(target.shape)}: one target a row")
    if out.shape[1] < 2 or target.is_floating_point():
        raise DataError(
            f"accuracy of outputs {list(out.shape)} and {target.dtype} targets: it is of two classes or more, as whole "
            "numbers from 0; for numbers use rmse"
        )
    right = (out.argmax(1) == target.view(-1)) & ~out.isnan().any(1)
    return right.float().mean()


def rmse(out: Tensor, target: Tensor) -> Tensor:
    """The root of the mean squared error of predictions [rows].

    Raises:
        DataError: the target has another shape.
    """
    if out.shape != target.shape:
        raise DataError(
            f"RMSE of predictions {list(out.shape)} and targets {list(target.shape)}: the same shape is needed"
        )
    return mse_loss(out, target).sqrt()


def ndcg(learn: CollabLearner, k: int = 10) -> float:
    """The normalized discounted cumulative gain of the first `k` recommendations: NDCG@k, from 0 to 1.

    It is the mean over users of DCG / ideal DCG, where DCG = Σ gain(place) / log₂(place + 1) over the places 1 … k
    (Järvelin & Kekäläinen 2002), and the ideal has the same gains in falling order.

    - Candidates: all items that training has seen, without those that the user rated in training.
    - Gain: a validation rating minus the data's lowest rating; 0 for an item without one. Of several ratings of an item
      by one user, the highest counts.
    - Ties of predictions: by the item's row, which is the order of ids.
    - Users: those that training has seen and that have a gain above 0 among their candidates. Others have no ideal, and
      are left out of the mean.

    An item without a rating counts as a bad recommendation, though the user might like it. So values are low, and only
    comparisons on the same data mean something.

    Args:
        learn: a trained learner of ratings.
        k: the length of the lists.

    Raises:
        DataError: no user has a gain above 0, or a prediction is not finite.
    """
    k, data = checks.whole("k", k, least=1), learn.data
    discounts = 1 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
    total, users = 0.0, 0
    valid, lowest = data.valid, data.ratings.ends[0]
    judged = (valid.users > 0) & (valid.items > 0)
    pairs = torch.stack([valid.users[judged], valid.items[judged]])
    gains = (valid.ratings[judged] - lowest).double()
    for part, scores in _candidates(learn, pairs[0].unique()):
        gain = torch.zeros(scores.shape, dtype=torch.float64)
        own = torch.isin(pairs[0], part)
        at = torch.searchsorted(part, pairs[0, own]), pairs[1, own]
        flat = at[0] * gain.shape[1] + at[1]
        gain.view(-1).scatter_reduce_(0, flat, gains[own], "amax")
        gain[scores == -torch.inf] = 0
        listed = gain.gather(1, _first(scores, k))
        ideal = gain.topk(min(k, gain.shape[1])).values
        dcg, best = (each @ discounts[: each.shape[1]] for each in (listed, ideal))
        total += (dcg / best)[best > 0].sum().item()
        users += int((best > 0).sum())
    if not users:
        raise DataError("ndcg: no user of the training has a validation rating above the lowest of an unrated item")
    return total / users


def coverage(learn: CollabLearner, k: int = 10) -> float:
    """The share of the training's items that are among the first `k` recommendations of at least one of its users.

    Candidates and ties are those of `ndcg`; the users are all that training has seen. An item that is recommended to
    nobody cannot be found, however well it is rated (Herlocker et al. 2004: catalog coverage).

    Args:
        learn: a trained learner of ratings.
        k: the length of the lists.

    Raises:
        DataError: a prediction is not finite.
    """
    k = checks.whole("k", k, least=1)
    found = torch.zeros(len(learn.data.items), dtype=torch.bool)
    for _, scores in _candidates(learn, torch.arange(1, len(learn.data.users))):
        first = _first(scores, k)
        found[first[scores.gather(1, first) > -torch.inf]] = True
    return found.sum().item() / len(learn.data.items.ids)


def _candidates(learn: CollabLearner, users: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Users' rows, some at a time, and their predictions of all items [users, items]; −∞ for no candidate."""
    data, items = learn.data, torch.arange(len(learn.data.items))
    order = data.train.users.argsort(stable=True)
    rated = torch.stack([data.train.users[order], data.train.items[order]])
    for part in users.split(max(1, AT_A_TIME // len(items))) if len(users) else ():
        learn.model.eval()
        with torch.no_grad():
            pairs = part.repeat_interleave(len(items)), items.repeat(len(part))
            scores = learn.model(*(ids.to(learn.device) for ids in pairs)).cpu().view(len(part), len(items))
        checks.finite("ndcg and coverage", scores[:, 1:])
        first, last = torch.searchsorted(rated[0], part), torch.searchsorted(rated[0], part, right=True)
        own = torch.cat([torch.arange(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True)])
        scores[torch.searchsorted(part, rated[0, own]), rated[1, own]] = -torch.inf
        scores[:, 0] = -torch.inf
        yield part, scores


def _first(scores: Tensor, k: int) -> Tensor:
    """The columns of the `k` highest scores of each row, ties by column."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]

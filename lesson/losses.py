"""Cross-entropy and softmax, written out so that no exponential overflows (claims 79 to 84)."""

from __future__ import annotations

import torch
from torch import Tensor

from lesson.checks import DataError


def softmax(scores: Tensor) -> Tensor:
    """Each row's exponentials over their sum: float[…, classes], from 0 to 1, each row adding up to 1 (claim 83).

    Args:
        scores: float[…, classes]; subtracting the largest of a row changes nothing, and keeps exp at or below 1.

    >>> softmax(torch.tensor([[0.0, 1000.0], [2.0, 2.0]]))
    tensor([[0.0000, 1.0000],
            [0.5000, 0.5000]])
    """
    e = torch.exp(scores - scores.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def log_softmax(scores: Tensor) -> Tensor:
    """The logarithm of softmax: finite where softmax itself is 0.

    Args:
        scores: float[…, classes].

    >>> log_softmax(torch.tensor([0.0, 1000.0]))
    tensor([-1000.,     0.])
    """
    shifted = scores - scores.amax(-1, keepdim=True)
    return shifted - torch.exp(shifted).sum(-1, keepdim=True).log()


def cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """The mean of −log(softmax) at the true classes, as `torch.nn.functional.cross_entropy` (claim 84).

    Args:
        scores: float[rows, classes], before the softmax.
        target: int64[rows], the true classes.

    Raises:
        DataError: the rows are not as many.

    >>> cross_entropy(torch.zeros(3, 10), torch.tensor([0, 5, 9]))  # log 10
    tensor(2.3026)
    """
    if target.shape != scores.shape[:1]:
        raise DataError(f"scores {list(scores.shape)} and targets {list(target.shape)}: one target a row is needed")
    return -log_softmax(scores).gather(1, target[:, None]).mean()


def binary_cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """The mean of −y·log(p) − (1 − y)·log(1 − p), where p = sigmoid(score) (claims 79 to 81).

    With log(p) = −log(1 + e^(−score)) this is log(e^score + e^0) − y·score, and logaddexp does not overflow;
    `torch.nn.functional.binary_cross_entropy_with_logits` is the same.

    Args:
        scores: float[rows], before the sigmoid.
        target: float[rows], 1 or 0.

    Raises:
        DataError: the target has another shape.

    >>> binary_cross_entropy(torch.tensor([0.0, 1000.0]), torch.tensor([1.0, 1.0]))  # half of log 2
    tensor(0.3466)
    """
    if target.shape != scores.shape:
        raise DataError(f"scores {list(scores.shape)} and targets {list(target.shape)}: the same shape is needed")
    return (torch.logaddexp(scores, torch.zeros_like(scores)) - target * scores).mean()

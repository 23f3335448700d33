"""The lesson's update(): one step of training, written in full (claims 63 to 67)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def penalized(model: nn.Module, x: Tensor, y: Tensor, wd: float) -> Tensor:
    """Cross-entropy plus wd times the sum of all squared parameters, biases among them: L2 regularization (claim 46).

    Args:
        model: gives scores [batch, classes].
        x: the inputs of a batch.
        y: int64[batch].
        wd: weight decay; its gradient is 2·wd·w.
    """
    w2 = sum((p**2).sum() for p in model.parameters())
    return cross_entropy(model(x), y) + w2 * wd


def update(model: nn.Module, x: Tensor, y: Tensor, lr: float, wd: float = 1e-5) -> float:
    """One step of gradient descent on the penalized loss, in the lesson's first version (claim 64).

    Returns:
        The loss before the step, penalty included.

    >>> from lesson.models import Mnist_Logistic
    >>> model, x, y = Mnist_Logistic(), torch.rand(64, 784), torch.randint(10, (64,))
    >>> update(model, x, y, lr=2e-2) > update(model, x, y, lr=2e-2)
    True
    """
    loss = penalized(model, x, y, wd)
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            assert p.grad is not None
            p.sub_(lr * p.grad)
            p.grad.zero_()
    return loss.item()


def update_with(opt: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor, wd: float = 0.0) -> float:
    """The same with an optimizer instead of the lesson's two lines, and by default without the penalty.

    The lesson makes a new Adam for every batch, as `update_with(Adam(model.parameters(), lr), model, x, y)` does. It
    starts without state each time, so its step is lr·g/(|g| + eps): the gradient's sign (claim 66).

    Returns:
        The loss before the step.
    """
    loss = penalized(model, x, y, wd)
    loss.backward()
    opt.step()
    opt.zero_grad()
    return loss.item()

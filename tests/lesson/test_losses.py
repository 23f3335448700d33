from __future__ import annotations

import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from lesson import DataError, losses
from lesson.losses import binary_cross_entropy, cross_entropy

SCORES = arrays.arrays(np.float64, (4, 3), elements=st.floats(-1e4, 1e4))
CLASSES = arrays.arrays(np.int64, 4, elements=st.integers(0, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ours", [losses.softmax, losses.log_softmax])
@settings(deadline=None)
@given(values=SCORES)
def test_each_is_torchs_of_the_same_name(ours, dtype, values):
    scores = torch.from_numpy(values).to(dtype)
    torch.testing.assert_close(ours(scores), getattr(torch, ours.__name__)(scores, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(deadline=None)
@given(values=SCORES, classes=CLASSES)
def test_cross_entropy_is_torchs(dtype, values, classes):
    scores, target = torch.from_numpy(values).to(dtype), torch.from_numpy(classes)
    torch.testing.assert_close(losses.cross_entropy(scores, target), F.cross_entropy(scores, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(deadline=None)
@given(values=SCORES, classes=CLASSES)
def test_binary_cross_entropy_is_torchs(dtype, values, classes):
    scores, target = torch.from_numpy(values[:, 0].copy()).to(dtype), torch.from_numpy(classes % 2).to(dtype)
    torch.testing.assert_close(
        losses.binary_cross_entropy(scores, target), F.binary_cross_entropy_with_logits(scores, target)
    )


def test_it_is_the_formula_that_the_notes_have():
    p, y = torch.tensor([0.98, 0.9, 0.5]).double(), torch.tensor([1.0, 0.0, 1.0]).double()
    wanted = np.mean([-math.log(0.98), -math.log(0.1), -math.log(0.5)])
    assert losses.binary_cross_entropy((p / (1 - p)).log(), y).item() == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("size", [0, 0.1, 1, 50, 1000])
def test_gradients_are_torchs_and_finite_even_where_exponentials_would_overflow(size):
    generator = torch.Generator().manual_seed(0)
    scores = (size * torch.randn(20, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    target = torch.randint(5, (20,), generator=generator)
    many = (losses.cross_entropy, F.cross_entropy, scores, target)
    two = (losses.binary_cross_entropy, F.binary_cross_entropy_with_logits, scores[:, 0], (target % 2).double())
    for ours, torchs, x, y in (many, two):
        mine, theirs = (torch.autograd.grad(loss(x, y), scores, retain_graph=True)[0] for loss in (ours, torchs))
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("loss", "scores", "target"),
    [
        (cross_entropy, torch.zeros(2, 3), torch.tensor([1])),
        (cross_entropy, torch.zeros(2, 3), torch.tensor([[1], [2]])),
        (binary_cross_entropy, torch.zeros(2, 1), torch.ones(2)),
        (binary_cross_entropy, torch.zeros(2), torch.ones(1)),
    ],
)
def test_targets_of_another_shape_are_refused(loss, scores, target):
    with pytest.raises(DataError, match="is needed"):
        loss(scores, target)

"""The digits' two studies: the tuned one runs the steps of the other by a learner."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lesson.data import Digits
from studies import mnist, mnist_tuned
from studies.lab.spec import Run


@pytest.mark.parametrize(
    ("as_noted", "by_learner", "lr", "apart"),
    [("update", "SGD", 0.1, 3e-4), ("Adam", "Adam", 3e-3, 1e-5), ("Adam re-created", "sign", 3e-4, 1e-3)],
)
@pytest.mark.parametrize("model", mnist.MODELS)
def test_the_tuned_study_takes_the_steps_of_the_notes(model, as_noted, by_learner, lr, apart, monkeypatch):
    """The same training loss in each epoch. update()'s includes its penalty; Adam re-created has an eps."""
    monkeypatch.setattr(mnist, "STEPS", 15)
    monkeypatch.setattr(mnist_tuned, "STEPS", 15)
    drawn = torch.Generator().manual_seed(0)
    digits = Digits("few digits", "0" * 64, torch.rand(400, 784, generator=drawn), torch.arange(400) % 10)
    settings = {"model": model, "lr": lr}
    expected = mnist.run(Run("mnist", 1, "digits", "", settings | {"step": as_noted}, seed=3), digits)
    found = mnist_tuned.run(Run("mnist_tuned", 1, "digits", "", settings | {"optimizer": by_learner}, seed=3), digits)
    epochs = np.reshape(expected.curves["train_loss"], (3, -1)).mean(1)
    np.testing.assert_allclose(found.curves["train_loss"], epochs, rtol=1e-5, atol=apart)
    assert found.metrics["accuracy"] == pytest.approx(expected.metrics["accuracy"], abs=0.03)

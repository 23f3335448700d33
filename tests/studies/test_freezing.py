"""What the study of freezing measures, on small nets."""

from __future__ import annotations

import pytest
import torch

from lesson.data import Images
from lesson.models import ResNet
from studies.freezing import ALL, EARLY, FIXED, FROZEN, ONCE, learner, saved_bytes
from studies.lab.timing import peak_growth

LAYERS = (1, 1, 1, 1)


def saved(way: str) -> int:
    rows = Images("none", torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.arange(8) % 2, ("a", "b"))
    return saved_bytes(learner(rows.split(bs=4), ResNet(LAYERS, 5), way, seed=0))


def test_a_backward_pass_saves_what_layers_that_train_and_those_after_them_need() -> None:
    bytes_ = {way: saved(way) for way in (ALL, FROZEN, EARLY, FIXED, ONCE)}
    assert bytes_[ONCE] <= bytes_[FIXED] < 0.2 * bytes_[ALL]  # the head's alone
    # BatchNorm that trains needs the inputs of its layers, back to the first.
    assert 0.3 * bytes_[ALL] < bytes_[EARLY] <= bytes_[FROZEN] <= bytes_[ALL]


@pytest.mark.slow  # each way in a fresh process
def test_fixed_batchnorm_needs_less_memory_in_a_fresh_process() -> None:
    unfrozen, fixed = (
        peak_growth("studies.freezing", "two_steps", way, ",".join(map(str, LAYERS)), "64") for way in (ALL, FIXED)
    )
    assert fixed < 0.8 * unfrozen

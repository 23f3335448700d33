"""Learning rates of layer groups: claims 18, 19, 20, 23."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lesson.learner import group_rates
from lesson.models import EmbeddingDotBias
from studies.exact import Found, exact
from studies.exact._figures import listed

LR_RANGE = "fastai 1.0.28, basic_train.py, Learner.lr_range"


@exact("18")
def one_number_as_rate_goes_to_all_layers() -> Found:
    """An optimizer with a single rate uses it for every group of layers."""
    groups = [{"params": nn.Linear(3, 3).parameters()} for _ in range(3)]
    rates = [group["lr"] for group in torch.optim.SGD(groups, lr=1e-3).param_groups]
    return Found(rates == [1e-3] * 3, f"rates of three groups: {listed(rates)}")


@exact("19", by_construction=True, source=LR_RANGE + "; later versions divide by 10")
def the_last_group_gets_the_rate_of_a_slice_and_all_others_a_third() -> Found:
    """`slice(1e-3)` gives the last of three groups 1e-3, and the others a third of it."""
    rates = group_rates(slice(1e-3), 3)
    return Found(rates == [1e-3 / 3, 1e-3 / 3, 1e-3], f"rates of three groups: {listed(rates)}")


@exact("20a", source=LR_RANGE)
def a_slice_goes_from_its_first_number_to_its_last_by_equal_ratios() -> Found:
    """`slice(1e-5, 1e-3)` gives three groups 1e-5, 1e-4 and 1e-3, the first layers the first: equal ratios."""
    rates = group_rates(slice(1e-5, 1e-3), 3)
    agree = np.allclose(rates, [1e-5, 1e-4, 1e-3], rtol=1e-12) and np.allclose(rates, np.geomspace(1e-5, 1e-3, 3))
    return Found(agree, f"rates from the first group to the last: {listed(rates)}")


@exact("20b", expected=False)
def the_rates_between_are_equally_spaced() -> Found:
    """The rates 1e-5, 1e-4 and 1e-3 are equally spaced as numbers: by equal differences."""
    spaced = np.linspace(1e-5, 1e-3, 3)
    return Found(np.allclose(spaced, [1e-5, 1e-4, 1e-3]), f"equal differences would give {listed(spaced)}")


@exact("20c", expected=False, source=LR_RANGE)
def the_last_layers_get_the_first_number_of_a_slice() -> Found:
    """With `slice(1e-5, 1e-3)` the last layers get 1e-5 and the first layers 1e-3, as in A's prose."""
    first, *_, last = group_rates(slice(1e-5, 1e-3), 3)
    return Found((last, first) == (1e-5, 1e-3), f"first group {first:.0e}, last group {last:.0e}")


@exact(
    "23", by_construction=True, source="fastai 1.0.61, basic_train.py, Learner.__post_init__: one group unless split"
)
def a_collaborative_model_has_one_layer_group() -> Found:
    """The model of collaborative filtering is never split, so that one rate serves all four of its tables."""
    model = EmbeddingDotBias(40, 944, 1683)
    groups = torch.optim.Adam(model.parameters(), lr=5e-3).param_groups
    tables = len(groups[0]["params"])
    return Found(len(groups) == 1 and tables == 4, f"groups: {len(groups)}, with {tables} tables")

"""Learning rates of ResNet-34's layer groups: claims 18 to 20, slips 1 to 3; and claim 23."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from lesson import collab_learner, load_movielens
from lesson.learner import group_rates
from lesson.optimizers import SGD
from studies.exact import Found, exact
from studies.exact._figures import listed
from studies.exact.transfer import as_made

LR_RANGE = "fastai 1.0.28, basic_train.py, Learner.lr_range"


def _rates(lr: float | slice, divisor: float = 3) -> list[float]:
    """The rates with which a training of ResNet-34 reaches its optimizer, of the first layer group to the last."""
    learn = copy.copy(as_made())
    asked: list[float] = []

    def opt_func(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        asked.extend(group["lr"] for group in groups)
        return SGD(groups)

    learn.opt_func, learn.divisor = opt_func, divisor
    learn.epochs(1, lr)
    return asked


@exact("18")
def one_number_as_rate_goes_to_all_layers() -> Found:
    """A single rate goes to every layer group of ResNet-34."""
    rates = _rates(1e-3)
    return Found(rates == [1e-3] * 3, f"rates of three groups: {listed(rates)}")


@exact("19", by_construction=True, source=LR_RANGE + "; later versions divide by 10")
def the_last_group_gets_the_rate_of_a_slice_and_all_others_a_third() -> Found:
    """`slice(1e-3)` gives the last of three groups 1e-3, and the others a third of it."""
    rates = _rates(slice(1e-3))
    return Found(rates == [1e-3 / 3, 1e-3 / 3, 1e-3], f"rates of three groups: {listed(rates)}")


@exact("20a", source=LR_RANGE)
def a_slice_goes_from_its_first_number_to_its_last_by_equal_ratios() -> Found:
    """`slice(1e-5, 1e-3)` gives three groups 1e-5, 1e-4 and 1e-3, the first layers the first: equal ratios."""
    rates = _rates(slice(1e-5, 1e-3))
    agree = np.allclose(rates, [1e-5, 1e-4, 1e-3], rtol=1e-12) and np.allclose(rates, np.geomspace(1e-5, 1e-3, 3))
    return Found(agree, f"rates from the first group to the last: {listed(rates)}")


@exact("20b", expected=False)
def the_rates_between_are_equally_spaced() -> Found:
    """The rates 1e-5, 1e-4 and 1e-3 are equally spaced as numbers: by equal differences."""
    spaced = np.linspace(1e-5, 1e-3, 3)
    return Found(np.allclose(spaced, _rates(slice(1e-5, 1e-3))), f"equal differences would give {listed(spaced)}")


@exact("20c", expected=False, source=LR_RANGE)
def the_last_layers_get_the_first_number_of_a_slice() -> Found:
    """With `slice(1e-5, 1e-3)` the last layers get 1e-5 and the first layers 1e-3, as in A's prose."""
    first, *_, last = _rates(slice(1e-5, 1e-3))
    return Found((last, first) == (1e-5, 1e-3), f"first group {first:.0e}, last group {last:.0e}")


@exact(
    "23", by_construction=True, source="fastai 1.0.61, basic_train.py, Learner.__post_init__: one group unless split"
)
def a_collaborative_model_has_one_layer_group() -> Found:
    """The model of collaborative filtering is never split, so that one rate serves all four of its tables."""
    groups = collab_learner(load_movielens(), quiet=True).layer_groups
    tables = sum(1 for group in groups for _ in group.parameters())
    return Found(len(groups) == 1 and tables == 4, f"groups: {len(groups)}, with {tables} tables")


@exact("slip 1", source=LR_RANGE)
def the_first_layers_get_the_first_number_of_a_slice() -> Found:
    """`slice(1e-5, 1e-3)` gives 1e-5 to ResNet-34's first layers and 1e-3 to its head."""
    first, *_, last = _rates(slice(1e-5, 1e-3))
    return Found((first, last) == (1e-5, 1e-3), f"first group {first:.0e}, head {last:.0e}")


@exact("slip 2", source=LR_RANGE)
def neighboring_rates_have_equal_ratios_and_a_single_group_gets_the_last() -> Found:
    """Between ResNet-34's groups the rates of `slice(1e-5, 1e-3)` grow tenfold; a net of one group gets 1e-3."""
    first, second, third = _rates(slice(1e-5, 1e-3))
    ratios, alone = [second / first, third / second], group_rates(slice(1e-5, 1e-3), 1)
    return Found(np.allclose(ratios, 10) and alone == [1e-3], f"ratios {listed(ratios)}; one group {listed(alone)}")


@exact("slip 3", source=LR_RANGE + "; 1.0.29 divides by 10")
def the_divisor_of_a_slice_is_an_argument() -> Found:
    """`slice(lr)` divides the rates of all groups but the last by 3 or, as later versions of fastai, by 10."""
    thirds, tenths = _rates(slice(1e-3), divisor=3), _rates(slice(1e-3), divisor=10)
    agree = np.allclose([thirds, tenths], [[1e-3 / 3, 1e-3 / 3, 1e-3], [1e-4, 1e-4, 1e-3]])
    return Found(agree, f"divided by 3: {listed(thirds)}; by 10: {listed(tenths)}")

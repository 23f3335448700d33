import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from kernels import BackendError
from lesson import DataError, EmbeddingDotBias, collab_learner, load_ratings, sigmoid_range
from lesson.data import split
from lesson.learner import stream
from lesson.models import embedding
from lesson.optimizers import SGD, Adam, AdamW, Momentum, Optimizer, RMSprop, average_grad, sgd_step
from lesson.schedules import constant, cosine, one_cycle

NAN, INF = float("nan"), float("inf")
NO_NUMBER = [
    NAN,
    INF,
    -INF,
    "1",
    "",
    None,
    [1],
    (1, 2),
    {},
    1j,
    True,
    np.bool_(True),
    torch.ones(2),
    object(),
    Fraction(1, 2),
]
NO_COUNT = [*NO_NUMBER, 0, -1, 2.5, np.float32(0.5), 2**70]
NO_SHARE = [*NO_NUMBER, -0.1, 1, 1.5]
NO_RANGE = [
    (5, 1),
    (1, 1),
    (0, INF),
    (-INF, 0),
    (NAN, 1),
    (0, 1, 2),
    (),
    (1,),
    "01",
    5,
    {},
    (None, 1),
    (0, 1e39),
    ("a", "b"),
]
NO_BETAS = [None, 5, "ab", (0.9,), (1, 0.9), (0.9, -1), (0.9, NAN)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("checks") / "r.csv"
    path.write_text("user,item,rating\n" + "".join(f"{k % 3},{k // 3},{k % 5}\n" for k in range(12)))
    return load_ratings(path, valid_rows=[0])


def weights():
    return [torch.ones(3)]


def of(make, name, values):
    return pytest.param(make, name, values, id=name)


def learner(data, **how):
    return collab_learner(data, **({"n_factors": 2, "quiet": True} | how))


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        of(learner, "n_factors", NO_COUNT),
        of(learner, "bs", NO_COUNT),
        of(learner, "wd", [*NO_NUMBER, -1]),
        of(learner, "seed", [*NO_NUMBER, -1, 0.5]),
        of(learner, "y_range", NO_RANGE),
        of(learner, "mode", ["fast", 5, "", True]),
        of(learner, "opt_func", [None, "AdamW", 5]),
        of(learner, "device", [None, "nonsense", "meta", "", 1.5, torch.ones(2, 2), [1]]),
        of(learner, "backend", [5, np.ones(2), torch.ones(2)]),
        of(lambda data, **how: learner(data).fit(**({"epochs": 1} | how)), "epochs", NO_COUNT),
        of(
            lambda data, **how: learner(data).fit(1, **how),
            "lr",
            [*NO_NUMBER, 0, -1, slice(None), slice(-1, 1), slice("a", 1)],
        ),
        of(lambda data, **how: learner(data).fit_one_cycle(**({"epochs": 1} | how)), "epochs", NO_COUNT),
        of(lambda data, **how: learner(data).fit_one_cycle(1, **how), "lr", [*NO_NUMBER, 0, -1, slice(None)]),
        of(
            lambda data, **how: learner(data).fit_one_cycle(1, **how),
            "moms",
            [(2, 3), (0.9,), (0.9, NAN), (0.9, 1), 0.9, "ab", None],
        ),
        of(lambda data, **how: learner(data).fit_one_cycle(1, **how), "div_factor", [*NO_NUMBER, 0, -5]),
        of(lambda data, **how: learner(data).fit_one_cycle(1, **how), "pct_start", [*NO_NUMBER, 0, 1, -1, 2]),
        of(
            lambda data, **how: EmbeddingDotBias(**({"n_factors": 2, "n_users": 2, "n_items": 2} | how)),
            "n_factors",
            NO_COUNT,
        ),
        of(
            lambda data, **how: EmbeddingDotBias(**({"n_factors": 2, "n_users": 2, "n_items": 2} | how)),
            "n_users",
            NO_COUNT,
        ),
        of(
            lambda data, **how: EmbeddingDotBias(**({"n_factors": 2, "n_users": 2, "n_items": 2} | how)),
            "n_items",
            NO_COUNT,
        ),
        of(lambda data, **how: EmbeddingDotBias(2, 2, 2, **how), "y_range", NO_RANGE),
        of(lambda data, **how: embedding(**({"rows": 2, "width": 2} | how)), "rows", NO_COUNT),
        of(lambda data, **how: embedding(**({"rows": 2, "width": 2} | how)), "width", NO_COUNT),
        of(lambda data, **how: sigmoid_range(torch.ones(2), 0, **how), "high", [NAN, INF, 0, -1, None, "1"]),
        of(lambda data, **how: split(data.ratings, **how), "valid_pct", [*NO_SHARE, 0]),
        of(lambda data, **how: split(data.ratings, **how), "seed", [*NO_NUMBER, -1, 0.5]),
        of(
            lambda data, **how: split(data.ratings, **how),
            "valid_rows",
            ["1", 5, [0.5], [[1]], [-1], [99], [1, 1], [True]],
        ),
        of(lambda data, **how: split(**how), "ratings", ["r.csv", None, 5]),
        of(lambda data, **how: stream(**how, name="order"), "seed", [*NO_NUMBER, -1, 0.5]),
        of(lambda data, **how: one_cycle(**({"steps": 2, "lr_max": 1} | how)), "steps", NO_COUNT),
        of(lambda data, **how: one_cycle(2, **how), "lr_max", [*NO_NUMBER, 0, -1]),
        of(lambda data, **how: one_cycle(2, 1, **how), "moms", [(2, 3), (0.9,), 0.9]),
        of(lambda data, **how: constant(**({"steps": 2, "lr": 1} | how)), "steps", NO_COUNT),
        of(lambda data, **how: constant(2, **how), "lr", [*NO_NUMBER, 0, -1]),
        of(lambda data, **how: constant(2, 1, **how), "momentum", [x for x in NO_SHARE if x is not None]),
        of(lambda data, **how: cosine(0, 1, **how), "steps", [*NO_NUMBER, -1, 0.5]),
        of(lambda data, **how: cosine(0, steps=2, **how), "end", NO_NUMBER),
        of(
            lambda data, **how: Optimizer(**({"params": weights(), "steps": [sgd_step], "lr": 1} | how)),
            "params",
            [[], None, 5, torch.ones(2), [1]],
        ),
        of(lambda data, **how: Optimizer(weights(), lr=1, **how), "steps", [None, "sgd", [1], 5]),
        of(lambda data, **how: Optimizer(weights(), [sgd_step], **how), "lr", [*NO_NUMBER, -1]),
        of(lambda data, **how: Optimizer(weights(), [sgd_step], 1, **how), "momentum", NO_SHARE),
        of(lambda data, **how: Optimizer(weights(), [sgd_step], 1, **how), "betas", NO_BETAS),
        of(lambda data, **how: Optimizer(weights(), [sgd_step], 1, **how), "eps", [*NO_NUMBER, 0, -1]),
        of(lambda data, **how: Optimizer(weights(), [sgd_step], 1, **how), "weight_decay", [*NO_NUMBER, -1]),
        of(lambda data, betas: Optimizer(weights(), [average_grad]), "betas", [None]),  # a step asks for them
        of(lambda data, **how: SGD(weights(), **how), "lr", [NAN, -1]),
        of(lambda data, **how: Momentum(weights(), 1, **how), "momentum", NO_SHARE),
        of(lambda data, **how: RMSprop(weights(), 1, **how), "eps", [0, -1, NAN]),
        of(lambda data, **how: Adam(weights(), 1, **how), "betas", NO_BETAS),
        of(lambda data, **how: AdamW(weights(), 1, **how), "betas", NO_BETAS),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_in_one_line(subtests, data, make, name, values):
    for value in values:
        with subtests.test(value=repr(value)):
            with pytest.raises((DataError, BackendError)) as error:
                make(data, **{name: value})
            assert "\n" not in str(error.value)
            assert re.search(rf"\b{name}\b", str(error.value))


@pytest.mark.parametrize("n_factors", [3, 3.0, np.int32(3), np.float64(3)])
def test_whole_numbers_may_be_written_as_floats(data, n_factors):
    assert learner(data, n_factors=n_factors).model.u_weight.weight.shape[1] == 3


def test_nothing_is_trained_before_the_arguments_are_checked(data):
    learn = learner(data)
    before = [table.clone() for table in learn.model.state_dict().values()]
    with pytest.raises(DataError):
        learn.fit_one_cycle(2, 1e-2, pct_start=-1)
    assert learn.history == []
    assert all(map(torch.equal, before, learn.model.state_dict().values()))

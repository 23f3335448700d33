"""Cross-entropy and softmax: claims 79 to 84."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from studies.exact import Found, exact
from studies.exact._figures import close, listed

# cat?, p(cat), the loss that the note prints, the comment beside it
TABLE = [
    (1, 0.5, 0.3, "unsure"),
    (1, 0.98, 0.01, "confident, right"),
    (0, 0.9, 1, "confident, wrong"),
    (0, 0.5, 0.3, "unsure"),
    (1, 0.9, 0.05, "confident, right"),
]
SHEET = "fastai/course-v3, files/xl/entropy_example.xlsx: .30103 .00877 1 .30103 .04576"


def _losses(log: Callable[[float], float]) -> list[float]:
    """−y·log(ŷ) − (1 − y)·log(1 − ŷ) of the five rows."""
    return [-cat * log(p) - (1 - cat) * log(1 - p) for cat, p, *_ in TABLE]


def _as_printed(log: Callable[[float], float]) -> Found:
    losses = _losses(log)
    agree = all(round(loss, 2) == printed for loss, (_, _, printed, _) in zip(losses, TABLE, strict=True))
    return Found(agree, listed(losses, 4))


@exact("79a", source=SHEET)
def the_five_losses_are_those_of_the_decimal_logarithm() -> Found:
    """With the decimal logarithm the five losses are .3, .01, 1, .3 and .05; the lecture's sheet has the same."""
    sheet = [0.30103, 0.00877, 1, 0.30103, 0.04576]
    found = _as_printed(math.log10)
    return Found(found.holds and [round(loss, 5) for loss in _losses(math.log10)] == sheet, found.figure)


@exact("79b", expected=False)
def the_five_losses_are_those_of_the_natural_logarithm() -> Found:
    """With the natural logarithm, PyTorch's, the five losses are .3, .01, 1, .3 and .05."""
    return _as_printed(math.log)


@exact("80")
def right_and_sure_loses_least_wrong_and_sure_most() -> Found:
    """Confident and right has the lowest loss, unsure a moderate one, confident and wrong the highest: either logarithm."""
    ordered = True
    for log in (math.log, math.log10):
        by_comment = {comment: loss for loss, (*_, comment) in zip(_losses(log), TABLE, strict=True)}
        ordered &= by_comment["confident, right"] < by_comment["unsure"] < by_comment["confident, wrong"]
    worst_right = max(loss for loss, (*_, comment) in zip(_losses(math.log), TABLE, strict=True) if "right" in comment)
    ordered &= worst_right < math.log(2)
    return Found(
        ordered, f"natural: right {worst_right:.3g} at most, unsure {math.log(2):.3g}, wrong {-math.log(0.1):.3g}"
    )


@exact("81")
def the_formula_an_if_and_a_lookup_are_one() -> Found:
    """The formula, an if/else and a lookup of −log of the true class's probability give the same losses as torch."""
    p, cat = torch.rand(100, dtype=torch.float64), torch.randint(2, (100,))
    formula = -cat * p.log() - (1 - cat) * (1 - p).log()
    branches = torch.tensor([-math.log(q) if c else -math.log(1 - q) for q, c in zip(p.tolist(), cat, strict=True)])
    lookup = -torch.stack([1 - p, p], dim=1).log()[torch.arange(100), cat]
    by_torch = F.binary_cross_entropy(p, cat.double(), reduction="none")
    stacked = torch.stack([branches.double(), lookup, by_torch])
    return close(stacked, formula.expand(3, -1), "100 losses, four ways", tolerance=1e-6)


@exact("82a")
def numbers_that_do_not_add_up_to_one_lower_the_loss_for_nothing() -> Found:
    """Twice the same scores lower the loss, below zero even, although they say no more about the class."""
    scores = torch.tensor([0.2, 0.7, 0.1])
    losses = [-math.log(float(k * scores[1])) for k in (1, 2)]
    return Found(losses[1] < 0 < losses[0], f"scores that add up to 1: loss {losses[0]:.3g}; to 2: {losses[1]:.3g}")


@exact("82b")
def softmax_makes_predictions_add_up_to_one() -> Found:
    """Predictions from softmax add up to one."""
    sums = torch.softmax(10 * torch.randn(1000, 10, dtype=torch.float64), 1).sum(1)
    return close(sums, torch.ones_like(sums), "1000 sums from 1")


@exact("83a")
def softmax_gives_positive_numbers_that_add_up_to_one() -> Found:
    """Of outputs up to 50 apart softmax makes positive numbers that add up to one (float32); ours are torch's."""
    x = 50 * torch.rand(1000, 10)
    ours = _softmax(x)
    agree = close(ours, torch.softmax(x, 1), "10,000 probabilities, ours and torch's", tolerance=1e-6)
    sums = (ours.sum(1) - 1).abs().max().item()
    return Found(
        agree.holds and bool((ours > 0).all()) and sums < 1e-5, f"least {ours.min():.2g}, sums within {sums:.0e} of 1"
    )


@exact("83b", expected=False)
def softmax_gives_positive_numbers_whatever_the_outputs() -> Found:
    """Whatever the outputs, softmax makes positive numbers of them, in float32 as well."""
    p = torch.softmax(torch.tensor([0.0, -200.0]), 0)
    return Found(bool((p > 0).all()), f"softmax(0, −200) in float32: {listed(p.tolist())}")


@exact("83c")
def softmax_bears_large_outputs() -> Found:
    """Written with the largest output subtracted, softmax is finite where exp overflows, and does not change."""
    x = torch.tensor([1000.0, 999.0])
    naive, ours = x.exp() / x.exp().sum(), _softmax(x[None])[0]
    same = torch.allclose(ours, torch.softmax(torch.tensor([1.0, 0.0]), 0))
    return Found(
        same and not bool(naive.isfinite().any()),
        f"softmax(1000, 999): {listed(ours.tolist())}; naive: {listed(naive.tolist())}",
    )


def _softmax(x: Tensor) -> Tensor:
    """Softmax of each row, float[rows, classes]."""
    e = (x - x.amax(1, keepdim=True)).exp()
    return e / e.sum(1, keepdim=True)


@exact("84a")
def cross_entropy_loss_contains_the_softmax() -> Found:
    """`nn.CrossEntropyLoss` of raw outputs is −log of softmax, looked up at the true class."""
    outputs, target = 5 * torch.randn(100, 10, dtype=torch.float64), torch.randint(10, (100,))
    by_hand = -_softmax(outputs).log()[torch.arange(100), target].mean()
    return close(torch.nn.CrossEntropyLoss()(outputs, target), by_hand, "mean loss of 100 rows")


@exact("slip 15")
def the_table_is_in_decimal_logarithms() -> Found:
    """The table's losses are decimal logarithms; PyTorch's natural ones are .6931, .0202, 2.3026, .6931 and .1054."""
    natural = [round(loss, 4) for loss in _losses(math.log)]
    p = torch.tensor([row[1] for row in TABLE], dtype=torch.float64)
    by_torch = F.binary_cross_entropy(p, torch.tensor([float(row[0]) for row in TABLE]).double(), reduction="none")
    said = [0.6931, 0.0202, 2.3026, 0.6931, 0.1054]
    agree = natural == said and [round(loss, 4) for loss in by_torch.tolist()] == said
    return Found(agree and _as_printed(math.log10).holds, f"natural: {listed(natural, 5)}")

"""Cross-entropy and softmax: claims 79 to 84."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F  # noqa: N812

from lesson.losses import binary_cross_entropy, cross_entropy, softmax
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
LOGARITHMS = (math.log10, math.log)
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
    """Confident and right has the lowest loss, unsure a moderate one, confident and wrong the highest."""
    right, unsure, wrong = (
        [[loss for loss, row in zip(_losses(log), TABLE, strict=True) if row[3] == comment] for log in LOGARITHMS]
        for comment in ("confident, right", "unsure", "confident, wrong")
    )
    ordered = [max(a) < min(b) and max(b) < min(c) for a, b, c in zip(right, unsure, wrong, strict=True)]
    text = [f"{max(a):.3g} < {b[0]:.3g} < {c[0]:.3g}" for a, b, c in zip(right, unsure, wrong, strict=True)]
    return Found(all(ordered), f"decimal {text[0]}; natural {text[1]}")


@exact("81")
def the_formula_an_if_and_a_lookup_are_one() -> Found:
    """The formula, an if/else and a lookup of −log of the true class's probability give torch's and our losses."""
    p, cat = torch.rand(100, dtype=torch.float64), torch.randint(2, (100,))
    formula = -cat * p.log() - (1 - cat) * (1 - p).log()
    branches = p.new_tensor([-math.log(q) if c else -math.log(1 - q) for q, c in zip(p.tolist(), cat, strict=True)])
    lookup = -torch.stack([1 - p, p], dim=1).log()[torch.arange(100), cat]
    by_torch = F.binary_cross_entropy(p, cat.double(), reduction="none")
    pairs = zip((p / (1 - p)).log(), cat.double(), strict=True)
    by_lesson = torch.stack([binary_cross_entropy(score, y) for score, y in pairs])
    ways = torch.stack([branches, lookup, by_torch, by_lesson])
    return close(ways, formula.expand(4, -1), "100 losses, five ways")


@exact("82")
def predictions_must_add_up_to_one() -> Found:
    """Doubled scores lower the loss, even below zero, but predict no better; softmax always sums to one."""
    scores = torch.tensor([0.2, 0.7, 0.1])
    single, doubled = (-math.log(float(k * scores[1])) for k in (1, 2))
    sums = torch.softmax(10 * torch.randn(1000, 10, dtype=torch.float64), 1).sum(1)
    agree = close(sums, torch.ones_like(sums), "1000 sums of softmax from 1")
    return Found(
        doubled < 0 < single and agree.holds, f"sum 1: loss {single:.3g}, sum 2: {doubled:.3g}; {agree.figure}"
    )


@exact("83a")
def softmax_turns_any_outputs_into_numbers_that_add_up_to_one() -> Found:
    """For any outputs, even if exp overflows, softmax makes numbers from 0 to 1 that add up to one."""
    outputs = torch.randn(1000, 10) * torch.logspace(-3, 6, 1000)[:, None]
    ours = softmax(outputs)
    agree = close(ours, torch.softmax(outputs, 1), "10,000 probabilities, ours and torch's", tolerance=1e-6)
    sums = close(ours.sum(1), torch.ones(1000), "1000 sums from 1", tolerance=1e-5)
    return Found(agree.holds and sums.holds and bool((ours >= 0).all()), f"{sums.figure}; {agree.figure}")


@exact("83b", expected=False)
def softmax_gives_positive_numbers_whatever_the_outputs() -> Found:
    """The numbers that softmax makes are always above zero, in float32 too."""
    p = torch.softmax(torch.tensor([0.0, -200.0]), 0)
    return Found(bool((p > 0).all()), f"softmax(0, −200) in float32: {listed(p.tolist())}")


@exact("84a")
def cross_entropy_loss_contains_the_softmax() -> Found:
    """`nn.CrossEntropyLoss` of raw outputs is −log of softmax, looked up at the true class."""
    outputs, target = 5 * torch.randn(100, 10, dtype=torch.float64), torch.randint(10, (100,))
    by_hand = -softmax(outputs).log()[torch.arange(100), target].mean()
    theirs, ours = torch.nn.CrossEntropyLoss()(outputs, target), cross_entropy(outputs, target)
    return close(torch.stack([theirs, ours]), by_hand.expand(2), "mean loss of 100 rows, torch's and lesson's")


@exact("slip 15")
def the_table_is_in_decimal_logarithms() -> Found:
    """The table's losses are decimal logarithms; PyTorch's natural ones are .6931, .0202, 2.3026, .6931 and .1054."""
    natural = [round(loss, 4) for loss in _losses(math.log)]
    p = torch.tensor([row[1] for row in TABLE], dtype=torch.float64)
    by_torch = F.binary_cross_entropy(p, torch.tensor([float(row[0]) for row in TABLE]).double(), reduction="none")
    said = [0.6931, 0.0202, 2.3026, 0.6931, 0.1054]
    agree = natural == said and [round(loss, 4) for loss in by_torch.tolist()] == said
    return Found(agree and _as_printed(math.log10).holds, f"natural: {listed(natural, 5)}")

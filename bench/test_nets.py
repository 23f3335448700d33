"""An epoch of the lesson's small nets: native code against eager PyTorch with its fused AdamW, in one thread each.

The rows are drawn: as many as four fifths of the 5,000 digits, a fifth of their pixels not zero. Eager is PyTorch's
best arrangement: batches by index, no DataLoader, no loss read. Native is the learner, with all that a call of `fit`
does: its optimizer, copies of the parameters, the shuffle, and the validation of a row after each epoch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import TensorDataset

from bench.harness import Case, Check
from kernels.adam import FASTAI
from lesson import DataBunch, Net, net_learner
from lesson.models import Dropout

pytestmark = pytest.mark.benchmark(group="nets")

ROWS, FILLED = 4_000, 0.19
EPOCHS = 5
LR, WD = 1e-3, 0.1
NETS = {
    "784-10": {"widths": [784, 10]},
    "784-50-10": {"widths": [784, 50, 10]},
    "784-50-10 with BatchNorm and dropout": {"widths": [784, 50, 10], "bn": True, "dropout": 0.5},
    "1-50-50-1": {"widths": [1, 50, 50, 1]},
}
GRID = {
    "smoke": [("784-50-10", 64)],
    "default": [(net, 64) for net in NETS],
    "full": [(net, batch) for net in NETS for batch in (64, 512)],
}


def cases(profile: str) -> list[Case]:
    return [Case(net, "native", "eager", "epoch", batch=batch) for net, batch in GRID[profile]]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_nets(case, compare):
    net, rows = Net(**NETS[case.op], generator=torch.Generator().manual_seed(0)), drawn_rows(case.op)
    learn = learner(net, rows, case.batch)
    compare(
        lambda: learn.fit(EPOCHS, LR),
        eager_epoch(net, rows, case.batch),
        lambda: accuracy(net, rows, case.batch),
        clock=time.perf_counter,
        steps=(EPOCHS, 1),
        moves=lambda: list(learn.model.parameters()),
    )


def drawn_rows(op: str) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    if op == "1-50-50-1":
        x = torch.rand(ROWS, 1, generator=generator)
        return TensorDataset(x, torch.sin(6 * x))
    x = torch.rand(ROWS, 784, generator=generator)
    x *= torch.rand(ROWS, 784, generator=generator) < FILLED
    return TensorDataset(x, (x @ torch.randn(784, 10, generator=generator)).argmax(1))


def learner(net: nn.Module, rows: TensorDataset, batch: int, backend: str | None = None):
    data = DataBunch(rows, TensorDataset(*(column[:1] for column in rows.tensors)))
    loss = mse_loss if rows.tensors[1].is_floating_point() else cross_entropy
    return net_learner(data, copy.deepcopy(net), loss, wd=WD, bs=batch, backend=backend, quiet=True)


def eager_epoch(net: nn.Module, rows: TensorDataset, batch: int) -> Callable[[], None]:
    """The loop that everybody writes, of torch's own layers."""
    model = nn.Sequential(*(torchs_own(layer) for layer in net))
    optimizer = torch.optim.AdamW(
        model.parameters(), LR, (FASTAI.beta1, FASTAI.beta2), FASTAI.eps, weight_decay=WD, fused=True
    )
    (x, y), loss_func = rows.tensors, mse_loss if rows.tensors[1].is_floating_point() else cross_entropy

    def epoch() -> None:
        for picked in torch.randperm(len(y)).split(batch):
            loss = loss_func(model(x[picked]), y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def torchs_own(layer: nn.Module) -> nn.Module:
    if isinstance(layer, Dropout):
        return nn.Dropout(layer.p)
    return nn.Linear(*layer.weight.T.shape) if layer._get_name() == "Linear" else copy.deepcopy(layer)


def accuracy(net: nn.Module, rows: TensorDataset, batch: int) -> dict[str, Check]:
    """Compare the scores after an epoch with the float64 loop's: at most 3 times as far as the float32 loop's."""
    exact = copy.deepcopy(rows)
    exact.tensors = tuple(column.double() if column.is_floating_point() else column for column in rows.tensors)

    def scores(backend: str, net: nn.Module, rows: TensorDataset) -> torch.Tensor:
        learn = learner(net, rows, batch, backend)
        learn.fit(1, LR)
        with torch.no_grad():
            return learn.model.eval()(rows.tensors[0]).double()

    expected = scores("reference", copy.deepcopy(net).double(), exact)
    ours, theirs = ((scores(backend, net, rows) - expected).norm() for backend in ("native", "reference"))
    allowed = 3 * theirs / expected.norm()
    return {"distance from the float64 trajectory": Check(ours / expected.norm(), torch.zeros_like(allowed), allowed)}

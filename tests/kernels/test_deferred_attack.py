"""Deferred tables in programs that do anything between two steps, compared with dense steps written out in NumPy."""

import copy
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from kernels import DeferredAdam, DeferredAdamW, DeferredEmbedding, DeferredRMSprop, DeferredSGD
from kernels.trainer import Trainer

OPTIMIZERS = {"AdamW": DeferredAdamW, "Adam": DeferredAdam, "SGD": DeferredSGD, "RMSprop": DeferredRMSprop}
MEAN = {"AdamW": "exp_avg", "Adam": "exp_avg", "SGD": "momentum_buffer"}
SHAPES, PADDING = [(6, 3), (1, 1)], [2, None]  # of the two tables of a model: rows, width
STEPS = 90


@dataclass
class Dense:
    """A table and its dense optimizer, in float64."""

    optimizer: str
    w: np.ndarray
    m: np.ndarray | None = None
    v: np.ndarray | float = 0.0
    steps: int = 0
    longest: float = field(default=0.0)  # the longest step of a mean as large as its root

    def step(self, g, lr, weight_decay, betas=(0.0, 0.0), eps=0.0, momentum=0.0, alpha=0.0):
        self.steps += 1
        if self.optimizer == "AdamW":
            self.w = self.w * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * self.w
        if self.optimizer == "SGD":
            if momentum:  # torch leaves the buffer alone in steps without
                self.m = g if self.m is None else momentum * self.m + g
                g = self.m
            self.w = self.w - lr * g
        elif self.optimizer == "RMSprop":
            self.v = alpha * self.v + (1 - alpha) * g * g
            self.w = self.w - lr * g / (np.sqrt(self.v) + eps)
        else:
            beta1, beta2 = betas
            self.m = beta1 * (0 if self.m is None else self.m) + (1 - beta1) * g
            self.v = beta2 * self.v + (1 - beta2) * g * g
            rate = lr / (1 - beta1**self.steps)
            self.longest = max(self.longest, rate)
            self.w = self.w - rate * self.m / (np.sqrt(self.v / (1 - beta2**self.steps)) + eps)


def settings(rng, optimizer):
    """Draw any settings, for the next steps."""

    def one_of(*values):
        return float(rng.choice(values))

    found = {"lr": one_of(0.0, 1e-3, 1e-2, 0.1), "weight_decay": one_of(0.0, 0.0, 0.1)}
    if "Adam" in optimizer:
        found |= {"betas": (one_of(0.0, 0.5, 0.9, 0.9, 0.95), one_of(0.99, 0.99, 0.999))}
    if optimizer == "SGD":
        return found | {"momentum": one_of(0.0, 0.5, 0.9, 0.99)}
    if optimizer == "RMSprop":  # where L2 alone moves a weight, its sign at the next step is anybody's guess
        found |= {"alpha": one_of(0.9, 0.99), "weight_decay": 0.0}
    return found | {"eps": one_of(1e-8, 1e-5, 1e-2)}


class Model:
    """Two deferred tables in one optimizer, and their dense doubles."""

    def __init__(self, optimizer, mode, setting, rng):
        self.optimizer = optimizer
        starts = [rng.normal(size=shape) for shape in SHAPES]
        self.dense = [Dense(optimizer, start) for start in starts]
        self.tables, self.opt = self.made(setting, mode)
        self.tables.load_state_dict({f"{i}.weight": torch.from_numpy(start) for i, start in enumerate(starts)})

    def made(self, setting, mode):
        tables = nn.ModuleList(
            DeferredEmbedding(*shape, padding_idx=padding, dtype=torch.float64)
            for shape, padding in zip(SHAPES, PADDING, strict=True)
        )
        opt = OPTIMIZERS[self.optimizer]([tables[0].weight], **setting, mode=mode)
        opt.add_param_group({"params": [tables[1].weight]})
        return tables, opt


def nothing(model, rng):
    pass


def reads(model, rng):
    model.tables[0].weight.norm()
    with torch.no_grad():
        model.tables[0](torch.tensor([1, 1]))


def misses(model, rng):
    with pytest.raises(IndexError):
        model.tables[0](torch.tensor([0, SHAPES[0][0]]))


def edits(model, rng):
    with torch.no_grad():
        model.tables[0].weight.mul_(0.5)
    model.dense[0].w = model.dense[0].w * 0.5


def edits_state(model, rng):
    name, dense = MEAN.get(model.optimizer), model.dense[0]
    if name and dense.m is not None:
        model.opt.state[model.tables[0].weight][name].mul_(0.5)
        dense.m = dense.m * 0.5


def forgets(model, rng):
    model.opt.state.pop(model.tables[0].weight, None)
    model.dense[0] = Dense(model.optimizer, model.dense[0].w, longest=model.dense[0].longest)


def resumes(model, rng):
    file = io.BytesIO()
    torch.save([model.tables.state_dict(), model.opt.state_dict()], file)
    file.seek(0)
    tables, state = torch.load(file)
    model.tables, model.opt = model.made({}, "replay")
    model.tables.load_state_dict(tables)
    model.opt.load_state_dict(state)


def copies(model, rng):
    model.tables, model.opt = copy.deepcopy((model.tables, model.opt))


def changes_mode(model, rng):
    model.opt.param_groups[0]["mode"] = str(rng.choice(["folded", "replay", "dense"]))


ACTS: list[Callable[..., None]] = [
    reads,
    misses,
    edits,
    edits_state,
    forgets,
    resumes,
    copies,
    changes_mode,
    *[nothing] * 24,
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("mode", ["folded", "replay", "dense"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_whatever_a_program_does_between_steps_the_tables_equal_dense_steps(optimizer, mode, seed):
    rng = np.random.default_rng(seed)
    setting = settings(rng, optimizer)
    model = Model(optimizer, mode, setting, rng)
    for _ in range(STEPS):
        if rng.random() < 0.05:
            setting = settings(rng, optimizer)
            for group in model.opt.param_groups:
                group.update(setting)
        model.opt.zero_grad(set_to_none=bool(rng.random() < 0.8))
        for table, dense, (rows, width), padding in zip(model.tables, model.dense, SHAPES, PADDING, strict=True):
            ids = rng.integers(0, rows, rng.choice([0, 1, 1, 3]))  # none, too, and repeated ones
            slopes = rng.normal(size=(len(ids), width))
            (table(torch.from_numpy(ids)) * torch.from_numpy(slopes)).sum().backward()
            slopes[ids == padding] = 0
            grad = np.zeros((rows, width))
            np.add.at(grad, ids, slopes)
            dense.step(grad, **setting)
        model.opt.step()
        rng.choice(ACTS)(model, rng)
    for table, dense in zip(model.tables, model.dense, strict=True):
        # After few gradients, a mean is up to several times the root of its mean square.
        folds = 5e-3 * dense.longest if mode == "folded" else 0.0
        error = np.abs(table.weight.detach().numpy() - dense.w).max()
        assert error <= folds + 1e-9 * max(1.0, np.abs(dense.w).max())


def test_a_gradient_times_a_number_applies_to_the_whole_table():
    table = DeferredEmbedding(6, 2)
    table(torch.tensor([3])).sum().backward()
    assert torch.equal((table.weight.grad * 2).to_dense(), table.weight.grad.to_dense() * 2)


def test_float32_dense_steps_of_sgd_with_l2_are_as_near_to_float64_as_torchs():
    found = []
    for deferred, dtype in ((False, torch.float64), (False, torch.float32), (True, torch.float32)):
        table = (DeferredEmbedding if deferred else nn.Embedding).from_pretrained(torch.ones(2, 1).to(dtype), False)
        made = functools.partial(DeferredSGD, mode="dense") if deferred else torch.optim.SGD
        opt = made(table.parameters(), lr=1e-2, weight_decay=1e-2)
        for _ in range(500):
            opt.zero_grad()
            (table(torch.tensor([0])) * 0.0).sum().backward()
            opt.step()
        found.append(table.weight.detach().double())
    exact, torchs, ours = found
    assert (ours - exact).abs().max() <= 1.5 * (torchs - exact).abs().max()


def test_the_trainer_refuses_momentum_that_is_0_in_some_steps_only():
    start = [torch.full(shape, 0.1) for shape in ((1, 1), (1, 1), (1,), (1,))]
    how = {"lr": [0.1] * 4, "optimizer": "momentum", "decay": "none"}
    with pytest.raises(ValueError, match="0 in some steps and not in others"):
        Trainer(*start, momentum=[0.9, 0.9, 0.0, 0.9], **how)
    Trainer(*start, momentum=[0.0] * 4, **how)


@pytest.fixture
def gradient():
    table = DeferredEmbedding(6, 2)
    table(torch.tensor([1, 4, 4])).mul(torch.tensor([[1.0, -2.0]])).sum().backward()
    return table.weight.grad


@pytest.mark.parametrize(
    "ask",
    [
        lambda g: torch.linalg.vector_norm(g, dim=1),
        lambda g: torch.linalg.vector_norm(g, -float("inf")),
        lambda g: g.norm(),
        lambda g: torch.norm(g, 1),
        lambda g: g.norm(dim=0),
        lambda g: g.mul(torch.tensor(3.0)),
        lambda g: 2 * g,
        lambda g: torch.mul(g, torch.full((6, 2), 2.0)),
        lambda g: g.clamp(-1, 1),
        lambda g: g.clamp(min=0.5),
        lambda g: torch.clamp(g, max=-0.5),
        lambda g: torch.isfinite(g),
        lambda g: torch.isnan(g),
        lambda g: torch._foreach_norm([g])[0],
    ],
)
def test_functions_of_a_gradient_see_the_whole_table(gradient, ask):
    whole = gradient.to_dense()
    found = ask(gradient)
    assert torch.equal(found.to_dense() if found.is_sparse else found, ask(torch.Tensor(whole)))


def test_a_clamp_that_would_move_zeros_is_refused_in_place(gradient):
    before = gradient.to_dense()
    with pytest.raises((RuntimeError, NotImplementedError)):
        gradient.clamp_(min=0.5)
    assert torch.equal(gradient.to_dense(), before)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_gradient_keeps_the_graph_that_create_graph_builds():
    found = []
    for deferred in (True, False):
        top = nn.Linear(3, 1, dtype=torch.float64)
        nn.init.constant_(top.weight, 0.5)
        nn.init.zeros_(top.bias)
        kind, opt = (DeferredEmbedding, DeferredAdamW) if deferred else (nn.Embedding, torch.optim.AdamW)
        table = kind.from_pretrained(torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3), freeze=False)
        opt = opt([*table.parameters(), *top.parameters()], lr=0.1)
        top(table(torch.tensor([1, 2, 2]))).pow(2).sum().backward(create_graph=True)
        top(table(torch.tensor([3]))).pow(2).sum().backward(create_graph=True)
        whole = table.weight.grad.to_dense() if deferred else table.weight.grad
        scaled = table.weight.grad * 2
        sums = [whole.pow(2).sum(), table.weight.grad.norm(), (scaled.to_dense() if deferred else scaled).sin().sum()]
        grads = [torch.autograd.grad(s, (top.weight, table.weight), retain_graph=True) for s in sums]
        found.append([g.to_dense() if g.is_sparse else g for pair in grads for g in pair])
        nn.utils.clip_grad_norm_([*table.parameters(), *top.parameters()], 0.1)
        opt.step()
        found[-1] += [table.weight.detach().clone(), top.weight.detach().clone()]
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs)

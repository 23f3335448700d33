"""Deferred steps under schedules that jump: any setting may change before any step, as torch's optimizers allow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kernels import DeferredAdam, DeferredAdamW, DeferredEmbedding, DeferredRMSprop, DeferredSGD

OPTIMIZERS = {
    "AdamW": (DeferredAdamW, torch.optim.AdamW),
    "Adam": (DeferredAdam, torch.optim.Adam),
    "RMSprop": (DeferredRMSprop, torch.optim.RMSprop),
    "SGD": (DeferredSGD, torch.optim.SGD),
}
ROWS, WIDTH, STEPS = 7, 2, 130

rates = st.sampled_from([0.0, 1e-5, 1e-3, 1e-2, 0.1])
betas1 = st.sampled_from([0.0, 0.3, 0.85, 0.9, 0.95, 0.99])
betas2 = st.sampled_from([0.9, 0.95, 0.99, 0.999])
epsilons = st.sampled_from([1e-30, 1e-12, 1e-8, 1e-3])
decays = st.sampled_from([0.0, 0.0, 1e-2, 1.0])


@st.composite
def plans(draw, optimizer):
    """Settings, and their jumps: setting, first step, number of steps, value."""
    kinds = {
        "lr": rates,
        "weight_decay": decays,
        **({"betas": st.tuples(betas1, betas2), "eps": epsilons} if "Adam" in optimizer else {}),
        **({"alpha": betas2, "eps": epsilons} if optimizer == "RMSprop" else {}),
        **({"momentum": st.sampled_from([0.0, 0.5, 0.9, 0.99])} if optimizer == "SGD" else {}),
    }
    jump = st.sampled_from(list(kinds)).flatmap(
        lambda name: st.tuples(
            st.just(name), st.integers(0, STEPS - 1), st.sampled_from([1, 2, 30, STEPS]), kinds[name]
        )
    )
    return draw(st.fixed_dictionaries(kinds)), draw(st.lists(jump, max_size=5))


def every_step(plan):
    """The settings of every step of a plan."""
    base, jumps = plan
    settings = [dict(base) for _ in range(STEPS)]
    for name, first, length, value in jumps:
        for setting in settings[first : first + length]:
            setting[name] = value
    return settings


def batches(seed):
    """The rows that each step reads, and their gradients. Row 0 is read often, 4 in one stretch, 5 late, 6 never."""
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        read = rng.random(ROWS) < [0.5, 0.1, 0.03, 0.02, 0.5 * (20 <= step < 40), 0.1 * (step > 100), 0]
        scale = 10.0 ** rng.choice([-6, 0, 0, 0, 2])
        yield np.flatnonzero(read), scale * rng.normal(size=(read.sum(), WIDTH)) * (rng.random() < 0.95)


def trained(optimizer, plan, seed, mode=None, dtype=torch.float64):
    """The table after all steps, and the optimizer's state. Without a mode, the optimizer is torch's dense one."""
    ours, torchs = OPTIMIZERS[optimizer]
    start = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(ROWS, WIDTH))).to(dtype)
    embedding = (DeferredEmbedding if mode else nn.Embedding).from_pretrained(start.clone(), freeze=False)
    opt = ours(embedding.parameters(), mode=mode) if mode else torchs(embedding.parameters())
    for setting, (rows, grads) in zip(every_step(plan), batches(seed), strict=True):
        opt.param_groups[0].update(setting)
        opt.zero_grad()
        rows, grads = torch.from_numpy(rows), torch.from_numpy(grads).to(dtype)
        (embedding(rows) * grads).sum().backward()
        opt.step()
    state = opt.state_dict()["state"].get(0, {})  # SGD without momentum has none
    planes = [state[name] for name in ("exp_avg", "exp_avg_sq", "square_avg") if name in state]
    return embedding.weight.detach().double(), [plane.double() for plane in planes]


def step_size(plan):
    """The largest step of the plan, for a mean as large as the root of its mean square."""
    return max(setting["lr"] / (1 - setting["betas"][0] ** step) for step, setting in enumerate(every_step(plan), 1))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", ["folded", "replay", "dense"])
@settings(max_examples=3, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_under_any_schedule_the_table_equals_that_of_torchs_dense_optimizer(optimizer, mode, data, seed):
    plan = data.draw(plans(optimizer))
    expected, planes = trained(optimizer, plan, seed)
    found, found_planes = trained(optimizer, plan, seed, mode)
    folds = mode == "folded" and "Adam" in optimizer
    # A mean may be several times the root of its mean square, if β2 has fallen or after few gradients.
    allowed = 5e-3 * step_size(plan) if folds else 0.0
    assert (found - expected).abs().max() <= allowed + 1e-9 * expected.abs().max()
    for plane, exact in zip(found_planes, planes, strict=True):
        # A mean that has faded to 2⁻³⁰ of the root of its mean square counts as zero.
        assert (plane - exact).abs().max() <= 1e-8 * max(1.0, planes[-1].max().sqrt().item(), exact.abs().max().item())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@settings(max_examples=3, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_under_any_schedule_replay_gives_the_bits_of_dense(optimizer, data, seed):
    plan = data.draw(plans(optimizer))
    dtype = torch.float32 if "Adam" in optimizer else torch.float64  # other tests compile these
    dense, replay = (trained(optimizer, plan, seed, mode, dtype) for mode in ("dense", "replay"))
    assert torch.equal(dense[0], replay[0])
    for one, other in zip(dense[1], replay[1], strict=True):
        assert torch.equal(one, other)


LOW = {
    "one step without β1": lambda step: 0.0 if step == 40 else 0.9,
    "five steps of less": lambda step: 0.5 if 40 <= step < 45 else 0.9,
    "again and again": lambda step: 0.0 if step % 30 == 29 else 0.9,
}


@pytest.mark.parametrize(
    ("schedule", "backend"),
    [
        *((schedule, "native") for schedule in LOW),
        ("five steps of less", "triton"),
        *(pytest.param(s, "triton", marks=pytest.mark.slow) for s in ("one step without β1", "again and again")),
    ],
)
def test_a_beta1_that_falls_for_a_moment_is_remembered(backend, schedule):
    if backend == "triton":
        pytest.importorskip("triton")
    found = []
    for deferred in (True, False):
        embedding = (DeferredEmbedding if deferred else nn.Embedding).from_pretrained(torch.ones(2, 1).double(), False)
        how = {"backend": backend} if deferred else {}
        opt = (DeferredAdamW if deferred else torch.optim.AdamW)(embedding.parameters(), lr=1e-2, **how)
        for step in range(70):
            opt.param_groups[0]["betas"] = (LOW[schedule](step), 0.999)
            opt.zero_grad()
            embedding(torch.tensor([0, 1] if step < 30 else [0])).sum().backward()
            opt.step()
        found.append(embedding.weight.detach())
    assert (found[0] - found[1]).abs().max() <= 1e-4 * 1e-2


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop", "SGD"])
@pytest.mark.parametrize("mode", ["folded", "replay", "dense"])
def test_rows_never_read_keep_the_mean_that_l2_decay_has_given_them(optimizer, mode):
    momentum = {"momentum": 0.9} if optimizer == "SGD" else {}
    plan = {"lr": 1e-2, "weight_decay": 0.1, **momentum}, [("weight_decay", 40, STEPS, 0.0)]
    expected, _ = trained(optimizer, plan, 0)
    found, _ = trained(optimizer, plan, 0, mode)
    assert (found - expected)[6].abs().max() <= 1e-9


@pytest.mark.parametrize("eps", [1e-37, 1e-20, 1e-17, 1e-12])
def test_a_tiny_eps_folds_to_no_nan(eps):
    plan = {"lr": 1e-2, "eps": eps}, []
    expected, _ = trained("AdamW", plan, 0)
    found, _ = trained("AdamW", plan, 0, "folded", torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_gradients_whose_squares_overflow_move_nothing_as_with_torch():
    found = []
    for kind, optimizer in ((DeferredEmbedding, DeferredAdamW), (nn.Embedding, torch.optim.AdamW)):
        embedding = kind.from_pretrained(torch.ones(3, 2), False)
        opt = optimizer(embedding.parameters(), lr=1e-2)
        for step in range(80):
            opt.zero_grad()
            (
                embedding(torch.tensor([0, 1] if step in (0, 40) else [0])) * (1e25 if step == 40 else 1.0)
            ).sum().backward()
            opt.step()
        found.append(embedding.weight.detach())
    assert found[1].isfinite().all()
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("first", [True, False])
def test_a_mean_that_faded_long_ago_does_not_come_back_as_the_square_fades_on(first):
    # If the mean stopped at 2⁻³⁰ of the root while the square continued to shrink, a read without a gradient would move
    # the row by it.
    steps, eps = 2500, 1e-14
    found = []
    for deferred in (True, False):
        embedding = (DeferredEmbedding if deferred else nn.Embedding).from_pretrained(torch.ones(2, 1).double(), False)
        opt = (DeferredAdamW if deferred else torch.optim.AdamW)(
            embedding.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=eps
        )
        for step in range(steps):
            opt.zero_grad()
            read = [0, 1] if step < 60 or step >= steps - 3 else [0]
            (embedding(torch.tensor(read)).sum() * (0.0 if step >= steps - 3 and first else 1.0)).backward()
            opt.step()
        found.append(embedding.weight.detach())
    assert (found[0] - found[1]).abs().max() <= 1e-4 * 1e-2
    assert math.isfinite(found[0].sum())

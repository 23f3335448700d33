"""Momentum, RMSprop, Adam, the learner's optimizer, one-cycle: claims 66, 68, 69, 70, 72, 73, 75, 76."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from kernels import adam_step_
from lesson import collab_learner, load_movielens
from lesson.schedules import one_cycle
from studies.exact import Found, exact
from studies.exact._figures import close, listed

ADAMW = (
    "fastai 1.0.61, torch_core.py: AdamW = partial(optim.Adam, betas=(0.9, 0.99)); basic_train.py, Learner(opt_func)"
)
LR, BETA, BETA2, EPS = 0.01, 0.9, 0.99, 1e-8


def _gradients(steps: int = 30) -> Tensor:
    """float64[steps, 5]: the gradients that every optimizer here is given."""
    return torch.randn(steps, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _walk(make: Callable[..., torch.optim.Optimizer], **settings: object) -> Tensor:
    """float64[steps, 5]: where an optimizer of torch goes from zero with these gradients, step by step."""
    w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = make([w], **settings)
    path = []
    for w.grad in _gradients():
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


def _average(values: Tensor, beta: float) -> Tensor:
    """float64[steps, 5]: the running averages S ← β·S + (1 − β)·value, from zero."""
    averages = [torch.zeros_like(values[0])]
    for value in values:
        averages.append(beta * averages[-1] + (1 - beta) * value)
    return torch.stack(averages[1:])


def _corrections(beta: float) -> Tensor:
    """float64[steps, 1]: 1 − βᵗ, what the average of t values weighs."""
    return 1 - beta ** torch.arange(1, len(_gradients()) + 1, dtype=torch.float64)[:, None]


@exact("68a")
def the_recursion_is_a_weighted_sum_of_all_gradients() -> Found:
    """S = α·g + (1 − α)·S is the sum of all gradients so far, each weighted α·(1 − α)^(its age)."""
    gradients = _gradients()
    ages = torch.arange(len(gradients) - 1, -1, -1, dtype=torch.float64)
    weighted = ((1 - BETA) * BETA**ages) @ gradients
    return close(_average(gradients, BETA)[-1], weighted, "5 averages of 30 gradients")


@exact("68b")
def newer_gradients_weigh_exponentially_more() -> Found:
    """A gradient weighs 1/(1 − α) times as much as the one before it, at every age."""
    weights = _average(torch.eye(30, dtype=torch.float64), BETA)[-1]
    ratios = weights[1:] / weights[:-1]
    same = torch.allclose(ratios, torch.tensor(1 / BETA, dtype=torch.float64), rtol=1e-12)
    return Found(
        same and BETA < 1, f"each weighs {ratios.mean():.4f} times the one before; the newest {weights[-1]:.2g}"
    )


@exact("68c")
def the_average_is_right_once_divided_by_what_it_weighs() -> Found:
    """From zero the average of a constant is too small, by 1 − βᵗ; divided by that it is the constant."""
    averages = _average(torch.full((30, 5), 3.0, dtype=torch.float64), BETA)
    agree = close(averages / _corrections(BETA), torch.full_like(averages, 3.0), "30 averages of a constant 3")
    return Found(
        agree.holds and bool(averages[0, 0] < 3), f"the first is {averages[0, 0]:.2g}; corrected, {agree.figure}"
    )


@exact("69a")
def the_averages_steps_are_pytorchs_at_a_smaller_rate() -> Found:
    """Steps by S = α·g + (1 − α)·S are those of torch.optim.SGD(momentum=1 − α) once its rate is multiplied by α."""
    by_average = -LR * _average(_gradients(), BETA).cumsum(0)
    by_torch = _walk(torch.optim.SGD, lr=LR * (1 - BETA), momentum=BETA)
    return close(by_average, by_torch, "30 steps of 5 weights")


@exact("69b", expected=False)
def the_averages_steps_are_pytorchs_at_the_same_rate() -> Found:
    """With the same rate, the average and `momentum=0.9` in torch.optim.SGD take the same steps."""
    by_average = -LR * _average(_gradients(), BETA).cumsum(0)
    by_torch = _walk(torch.optim.SGD, lr=LR, momentum=BETA)
    ratio = (by_torch / by_average).mean().item()
    return Found(torch.allclose(by_average, by_torch), f"PyTorch goes {ratio:.3g} times as far")


@exact("69c", expected=False)
def a_momentum_of_nine_tenths_is_an_alpha_of_nine_tenths() -> Found:
    """In A's S = α·g + (1 − α)·S, α is the momentum, as B says: `momentum=0.9` is α = 0.9."""
    by_average = -LR * _average(_gradients(), 1 - BETA).cumsum(0)
    by_torch = _walk(torch.optim.SGD, lr=LR * (1 - BETA), momentum=BETA)
    apart = (by_average - by_torch).abs().max().item()
    return Found(apart < 1e-12, f"α = 0.9 has a momentum of 0.1; weights end up to {apart:.2g} apart")


@exact("70a", expected=False)
def rmsprop_as_written_is_rmsprop() -> Found:
    """0.9·old + lr·g², and g·lr divided by that, are the steps of torch.optim.RMSprop."""
    average, path = torch.zeros(5, dtype=torch.float64), []
    for g in _gradients():
        average = 0.9 * average + LR * g**2
        path.append(-(g * LR) / average)
    by_torch = _walk(torch.optim.RMSprop, lr=LR, alpha=0.9)
    as_written = torch.stack(path).cumsum(0)
    return Found(
        torch.allclose(as_written, by_torch),
        f"first steps as written {listed(as_written[0].tolist())}; of RMSprop {listed(by_torch[0].tolist())}",
    )


@exact("70b")
def with_1_minus_beta_the_root_and_eps_it_is_rmsprop() -> Found:
    """With 1 − 0.9 in the place of the rate, and the root plus eps below, the steps are those of torch.optim.RMSprop."""
    gradients = _gradients()
    steps = LR * gradients / (_average(gradients**2, 0.9).sqrt() + EPS)
    return close(-steps.cumsum(0), _walk(torch.optim.RMSprop, lr=LR, alpha=0.9), "30 steps of 5 weights")


@exact("73a")
def adam_without_momentum_is_rmsprop_with_correction() -> Found:
    """Adam with β1 = 0 takes RMSprop's steps once the average is divided by 1 − β2ᵗ."""
    gradients = _gradients()
    roots = (_average(gradients**2, BETA2) / _corrections(BETA2)).sqrt()
    steps = LR * gradients / (roots + EPS)
    by_torch = _walk(torch.optim.Adam, lr=LR, betas=(0.0, BETA2), eps=EPS)
    return close(-steps.cumsum(0), by_torch, "30 steps of 5 weights")


@exact("73b")
def adam_is_momentum_over_rmsprop_both_corrected() -> Found:
    """Momentum's average over the root of RMSprop's, both corrected for their start at zero, are Adam's steps."""
    gradients = _gradients()
    momentum = _average(gradients, BETA) / _corrections(BETA)
    roots = (_average(gradients**2, BETA2) / _corrections(BETA2)).sqrt()
    by_torch = _walk(torch.optim.Adam, lr=LR, betas=(BETA, BETA2), eps=EPS)
    return close(-(LR * momentum / (roots + EPS)).cumsum(0), by_torch, "30 steps of 5 weights")


@exact("73c", expected=False)
def adam_as_written_is_adam() -> Found:
    """As A writes it, momentum·lr/√RMSprop without corrections, the steps are Adam's."""
    gradients = _gradients()
    steps = LR * _average(gradients, BETA) / _average(gradients**2, BETA2).sqrt()
    by_torch = _walk(torch.optim.Adam, lr=LR, betas=(BETA, BETA2), eps=EPS)
    ratio = (-steps[0] / by_torch[0]).mean().item()
    return Found(
        torch.allclose(-steps.cumsum(0), by_torch), f"without corrections the first step is {ratio:.3g} times Adam's"
    )


@exact("73d")
def our_fused_adam_takes_torch_s_steps() -> Found:
    """The suite's fused Adam step goes where torch.optim.AdamW goes, decay included."""
    w, mean, square = torch.zeros(3, 5, dtype=torch.float64)
    path = []
    for step, g in enumerate(_gradients(), start=1):
        settings = {"lr": LR, "beta1": BETA, "beta2": BETA2, "eps": EPS, "weight_decay": 0.1}
        adam_step_(w, g, mean, square, step=step, **settings)
        path.append(w.clone())
    by_torch = _walk(torch.optim.AdamW, lr=LR, betas=(BETA, BETA2), eps=EPS, weight_decay=0.1)
    return close(torch.stack(path), by_torch, "30 steps of 5 weights")


@exact("66a")
def adam_made_anew_for_each_batch_is_sign_descent() -> Found:
    """Adam made anew for each step goes lr against the gradient's sign, whatever the gradient's size."""
    w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    for w.grad in _gradients():
        torch.optim.Adam([w], lr=LR).step()
    signs = -LR * _gradients().sign().sum(0)
    return close(w.detach(), signs, "5 weights after 30 steps", tolerance=1e-6)


@exact("72a")
def rmsprop_steps_are_larger_relative_to_small_gradients() -> Found:
    """Of gradients a thousand times smaller RMSprop makes steps a thousand times larger for their size: equal steps."""
    small, large = (_first_step(size) for size in (1e-3, 1.0))
    relative = (small / 1e-3) / large
    return Found(
        abs(relative - 1000) < 0.1, f"steps {small:.4f} and {large:.4f}; relative to the gradient {relative:.4g} : 1"
    )


def _first_step(gradient: float) -> float:
    """The mean step of RMSprop over 30 equal gradients."""
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    w.grad = torch.full_like(w, gradient)
    optimizer = torch.optim.RMSprop([w], lr=LR, alpha=0.9)
    for _ in range(30):
        optimizer.step()
    return -w.item() / 30


@exact("75", by_construction=True, source=ADAMW)
def the_learner_uses_adam_unless_told_otherwise() -> Found:
    """A learner built without naming an optimizer takes the step of torch.optim.AdamW (β1 0.9, β2 0.99)."""
    data = load_movielens(valid_rows=range(64, 100_000))  # 64 training rows: a single batch
    learn = collab_learner(data, n_factors=4, wd=0.01, backend="reference", quiet=True)
    twin = copy.deepcopy(learn.model)
    mse_loss(twin(data.train.users, data.train.items), data.train.ratings).backward()
    torch.optim.AdamW(twin.parameters(), lr=0.1, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01).step()
    learn.fit(1, 0.1)
    moved = [torch.cat([table.detach().ravel() for table in model.parameters()]) for model in (learn.model, twin)]
    return close(moved[0], moved[1], f"{len(moved[0])} parameters after a step at rate 0.1", tolerance=1e-6)


def _turns(values: np.ndarray) -> tuple[int, bool]:
    """The step at which a schedule turns, and whether it goes one way before and the other way after."""
    turn = int(np.abs(values - values[0]).argmax())
    before, after = np.diff(values[: turn + 1]), np.diff(values[turn:])
    return turn, bool((before > 0).all() and (after < 0).all()) or bool((before < 0).all() and (after > 0).all())


@exact("76a")
def the_rate_of_one_cycle_goes_low_high_low() -> Found:
    """The rate of one-cycle starts low, rises to its maximum, and falls to less than it started with."""
    lr = one_cycle(1000, 5e-3).lr
    turn, once = _turns(lr)
    shape = once and lr[turn] == 5e-3 and lr[-1] < lr[0] < lr[turn]
    return Found(shape, f"{lr[0]:.2g} → {lr[turn]:.2g} at step {turn} of 1000 → {lr[-1]:.2g}")


@exact("76b")
def the_momentum_of_one_cycle_mirrors_the_rate() -> Found:
    """Momentum starts high, falls while the rate rises, and rises while it falls; both turn at one step."""
    lr, momentum = one_cycle(1000, 5e-3)
    (turn, once), (at, _) = _turns(momentum), _turns(lr)
    opposed = bool((np.diff(lr) * np.diff(momentum) < 0).all())
    return Found(
        once and turn == at and opposed, f"{momentum[0]:.2f} → {momentum[turn]:.2f} at step {turn} → {momentum[-1]:.2f}"
    )


@exact("76c")
def one_cycle_is_pytorchs() -> Found:
    """At its turning points, one-cycle's rate and momentum are those of torch's OneCycleLR."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=1001, pct_start=0.3)
    theirs = []
    for _ in range(1000):
        theirs.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    ours = torch.tensor(np.stack(one_cycle(1000, 5e-3), axis=1))
    return close(ours, torch.tensor(theirs, dtype=torch.float64), "rates and momenta of 1000 steps", tolerance=1e-3)

"""L2 penalty and weight decay: claims 46, 49, 50, 51, 53; slips 9, 10, 22, 23."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lesson import Learner, collab_learner, load_movielens
from lesson.models import Mnist_Logistic
from lesson.schedules import one_cycle
from lesson.update import penalized
from studies.exact import Found, exact
from studies.exact._figures import close, listed

Make = Callable[..., torch.optim.Optimizer]
STEPS, LR, WD = 100, 0.1, 0.01
LEARNER = "fastai 1.0.61, basic_train.py: defaults.wd = 1e-2, Learner(wd=defaults.wd), create_opt(lr, wd)"
TRUE_WD = "fastai 1.0.61, callback.py, OptimWrapper.step: p.data.mul_(1 - wd*lr) where true_wd, the default"


def _walk(*, penalty: float = 0.0, decay: float = 0.0, make: Make = torch.optim.SGD) -> Tensor:
    """float64[50]: parameters after 100 steps down a bowl, with a penalty · Σw² on the loss, or with decay."""
    generator = torch.Generator().manual_seed(0)
    w, bowl = (torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(2))
    w.requires_grad_()
    optimizer = make([w], lr=LR)
    for _ in range(STEPS):
        loss = ((bowl * w) ** 2).sum() + penalty * (w**2).sum()
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            w.mul_(1 - LR * decay)
        optimizer.step()
    return w.detach()


@exact("46")
def the_gradient_of_wd_times_the_sum_of_squares_is_2_wd_w() -> Found:
    """Autograd's gradient of wd·Σw² is 2·wd·w."""
    w = torch.randn(50, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(WD * (w**2).sum(), w)
    return close(gradient, 2 * WD * w, "50 gradients", tolerance=1e-15)


@exact("49", by_construction=True, source=LEARNER)
def the_default_weight_decay_is_a_hundredth() -> Found:
    """A learner without `wd` trains with 0.01, and one with `wd=0.1` trains with 0.1."""
    data = load_movielens(valid_rows=range(640, 100_000))  # 640 training rows: 10 steps
    default = collab_learner(data, 4, backend="reference", quiet=True)
    given = collab_learner(data, 4, backend="reference", quiet=True, wd=0.1)
    shrunk = [_shrinkage(learn) for learn in (default, given)]
    wanted = [(1 - LR * wd) ** 10 for wd in (0.01, 0.1)]
    agree = all(abs(one - other) < 1e-5 for one, other in zip(shrunk, wanted, strict=True))
    return Found(agree, f"10 steps at rate {LR} shrink a row without gradient by {listed(shrunk, 5)}")


def _shrinkage(learn: Learner) -> float:
    """What training leaves of the reserved row, which no batch reads."""
    before = next(learn.model.parameters())[0].norm().item()
    learn.fit(1, LR)
    return next(learn.model.parameters())[0].norm().item() / before


@exact("50")
def a_penalty_of_wd_is_a_decay_of_twice_wd() -> Found:
    """Under plain SGD, wd·Σw² on the loss and a decay of 2·wd take the same steps: the 2 is a matter of definition."""
    return close(_walk(penalty=WD), _walk(decay=2 * WD), "50 weights after 100 steps")


@exact("51a")
def under_plain_sgd_a_penalty_is_weight_decay() -> Found:
    """Under plain SGD, a penalty of half wd·Σw² and a decay of wd take the same steps, as B says."""
    return close(_walk(penalty=WD / 2), _walk(decay=WD), "50 weights after 100 steps")


@exact("53")
def over_one_cycle_decay_alone_shrinks_a_weight_by_the_product() -> Found:
    """An untouched weight under one-cycle shrinks by the product of (1 − lr·wd) over all steps."""
    rates = one_cycle(1000, 5e-3).lr
    weight = torch.ones(1, dtype=torch.float64)
    weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.AdamW([weight], weight_decay=0.1)
    for optimizer.param_groups[0]["lr"] in rates.tolist():
        optimizer.step()
    agree = close(weight, torch.tensor(1 - rates * 0.1).prod().reshape(1), "a weight after 1000 steps")
    return Found(agree.holds, f"rates up to 0.005, wd 0.1: to {weight.item():.4f} of it; {agree.figure}")


@exact("slip 9", source=TRUE_WD)
def decay_is_apart_from_the_gradient() -> Found:
    """Decay multiplies weights by 1 − lr·wd; as the coefficient of Σw² it would take other steps, under Adam."""
    penalty, decay = (_walk(**how, make=torch.optim.Adam) for how in ({"penalty": WD / 2}, {"decay": WD}))
    apart = (penalty - decay).abs().max().item()
    return Found(apart > 1e-6, f"Adam, largest difference of 50 weights after 100 steps: {apart:.2g}")


@exact("slip 22")
def decay_multiplies_by_1_minus_lr_wd() -> Found:
    """With no gradient a step multiplies the weight by 1 − lr·wd, not by wd, nor by wd·w."""
    weight = torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    torch.optim.AdamW([weight], lr=LR, weight_decay=WD).step()
    factor = weight.item() / 2
    return Found(abs(factor - (1 - LR * WD)) < 1e-15, f"lr {LR}, wd {WD}: the weight is multiplied by {factor:.6g}")


@exact("slip 10")
def a_decay_of_a_hundred_thousandth_does_next_to_nothing() -> Found:
    """With wd=1e-5, lr=2e-2, 782 steps leave 0.99969 of a weight; wd=0.1 leaves 0.0435 of it; biases pay too."""
    kept = {wd: torch.ones(1, dtype=torch.float64, requires_grad=True) for wd in (1e-5, 0.1)}
    for wd, weight in kept.items():
        optimizer = torch.optim.SGD([weight], lr=2e-2)
        for _ in range(782):
            optimizer.zero_grad()
            (wd * weight.square()).sum().backward()
            optimizer.step()
    small, large = (weight.item() for weight in kept.values())
    model, x, y = Mnist_Logistic().double(), torch.rand(64, 784, dtype=torch.float64), torch.randint(10, (64,))
    bias = model.lin.bias
    with_it, without = (torch.autograd.grad(penalized(model, x, y, wd), bias)[0] for wd in (0.1, 0.0))
    pays = close(with_it - without, 2 * 0.1 * bias.detach(), "gradients of 10 biases from 2·wd·b")
    told = round(small, 5) == 0.99969 and round(large, 4) == 0.0435
    return Found(told and pays.holds, f"{small:.5f} and {large:.4f} of a weight are left; {pays.figure}")


@exact("51c", expected=False)
def a_penalty_is_weight_decay_under_adam() -> Found:
    """A penalty of half wd·Σw² and a decay of wd leave the same weights under Adam."""
    apart = (_walk(penalty=WD / 2, make=torch.optim.Adam) - _walk(decay=WD, make=torch.optim.Adam)).abs().max().item()
    return Found(apart < 1e-12, f"largest difference of 50 weights after 100 steps: {apart:.0e}")


@exact("slip 23")
def a_penalty_is_weight_decay_for_plain_sgd_only() -> Found:
    """A penalty of half wd·Σw² is a decay of wd under plain SGD, but not with momentum, and not under Adam."""
    makes: dict[str, Make] = {
        "plain SGD": torch.optim.SGD,
        "with momentum 0.9": partial(torch.optim.SGD, momentum=0.9),
        "Adam": torch.optim.Adam,
    }
    apart = {
        name: (_walk(penalty=WD / 2, make=make) - _walk(decay=WD, make=make)).abs().max().item()
        for name, make in makes.items()
    }
    plain, *others = apart.values()
    text = ", ".join(f"{name} {difference:.0e}" for name, difference in apart.items())
    return Found(plain < 1e-12 and min(others) > 1e-6, f"largest difference of 50 weights after 100 steps: {text}")

import pytest
import torch

from kernels import TORCH
from lesson import optimizers
from lesson.optimizers import Optimizer


def walk(make, steps=30):
    g = torch.Generator().manual_seed(0)
    param = torch.randn(50, generator=g, dtype=torch.float64).requires_grad_()
    opt = make([param])
    for _ in range(steps):
        param.grad = torch.randn(50, generator=g, dtype=torch.float64)
        opt.step()
        opt.zero_grad()
    return param.detach()


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (lambda p: optimizers.SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
        # For plain SGD, L2 and decoupled decay are the same (claim 51).
        (lambda p: optimizers.SGD(p, 0.1, weight_decay=0.1), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.1)),
        (lambda p: optimizers.Momentum(p, 0.1, 0.8), lambda p: torch.optim.SGD(p, 0.1, momentum=0.8)),
        (lambda p: optimizers.RMSprop(p, 0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
        (
            lambda p: optimizers.Adam(p, 0.01, TORCH[:2], TORCH.eps, 0.1),
            lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
        ),
        (
            lambda p: optimizers.AdamW(p, 0.01, TORCH[:2], TORCH.eps, 0.1),
            lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
        ),
    ],
)
def test_the_lists_of_steps_are_torchs_optimizers(ours, torchs):
    torch.testing.assert_close(walk(ours), walk(torchs), rtol=1e-11, atol=1e-13)


def test_an_ablation_is_a_list_with_one_step_left_out():
    steps = [optimizers.average_grad, optimizers.average_sqr_grad, optimizers.adam_step]
    plain = walk(lambda p: Optimizer(p, steps, 0.01, betas=TORCH[:2], eps=TORCH.eps))
    torch.testing.assert_close(plain, walk(lambda p: torch.optim.Adam(p, 0.01)), rtol=1e-11, atol=1e-13)


def test_a_parameter_without_gradient_stays():
    param = torch.ones(3)
    optimizers.SGD([param], 0.1, weight_decay=0.1).step()
    assert torch.equal(param, torch.ones(3))

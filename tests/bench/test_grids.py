from __future__ import annotations

import pytest
import torch

from bench import test_deferred_steps, test_dot_bias, test_dot_bias_loss, test_lookup, test_optimizers
from bench.harness import DEVICE, PROFILES, Case, InaccurateError, check_accuracy


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_the_corner_where_one_hot_wins(profile):
    corner = {
        case.implementation
        for case in test_lookup.cases(profile)
        if (case.classes, case.batch, case.pass_) == (10, 4096, "forward+backward")
    }
    assert corner == set(test_lookup.RIVALS)


def test_the_one_hot_matrix_is_counted_where_it_is_built():
    generator = torch.Generator().manual_seed(0)
    classes, batch, width = 100, 64, 40
    ids = torch.randint(classes, (batch,), generator=generator).to(DEVICE)
    weight, upstream = (torch.randn(rows, width, device=DEVICE) for rows in (classes, batch))
    taken = {
        rival: test_lookup.allocated_bytes(test_lookup.lookup_call(rival, ids, weight, upstream))
        for rival in ("embedding", "one_hot_matmul")
    }
    assert taken["embedding"] == 4 * batch * width
    dense = test_lookup.DENSE_BYTES["one_hot_matmul"] * classes * batch
    assert dense <= taken["one_hot_matmul"] - taken["embedding"] < 1.1 * dense


@pytest.mark.parametrize("op", test_optimizers.OPTIMIZERS)
def test_tritons_steps_pass_the_accuracy_gate(op):
    pytest.importorskip("triton")
    generator = torch.Generator().manual_seed(0)
    tables, grads = (
        [torch.randn(shape, generator=generator) for shape in [(9, 40), (5, 40), (9, 1), (5, 1)]] for _ in "ab"
    )
    case = Case(op, "triton", "torch fused AdamW", "step", params=14 * 41)
    check_accuracy(test_optimizers.accuracy(case, tables, grads))


@pytest.mark.parametrize("implementation", ["triton", "triton atomics"])
def test_tritons_gradients_pass_the_accuracy_gate(implementation):
    pytest.importorskip("triton")
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(rows, (50,), generator=generator) for rows in (9, 12)]
    shapes = [(9, test_dot_bias.WIDTH), (12, test_dot_bias.WIDTH), (9,), (12,)]
    tables = [0.3 * torch.randn(shape, generator=generator) for shape in shapes]
    upstream = torch.randn(50, generator=generator)
    learning = [table.to(DEVICE).requires_grad_() for table in tables]
    run = test_dot_bias.dot_bias_call(implementation, [i.to(DEVICE) for i in ids], learning, upstream.to(DEVICE))
    check_accuracy(test_dot_bias.accuracy(run(), ids, tables, upstream))


@pytest.mark.parametrize("implementation", ["native", "triton", "triton atomics", "triton bf16", "triton fp16"])
def test_losses_and_their_gradients_pass_the_accuracy_gate(implementation):
    pytest.importorskip("triton")
    dtype = test_dot_bias_loss.dtype_of(implementation)
    ids, ratings, tables = test_dot_bias_loss.problem(50, dtype, users=9, items=12)
    device = "cpu" if implementation == "native" else DEVICE
    learning = [table.to(device).requires_grad_() for table in tables]
    run = test_dot_bias_loss.loss_call(implementation, [i.to(device) for i in ids], ratings.to(device), learning)
    results = run()
    assert {result.dtype for result in results[1:]} == {dtype}
    check_accuracy(test_dot_bias_loss.accuracy(results, ids, ratings, tables))


@pytest.mark.parametrize("implementation", test_deferred_steps.IMPLEMENTATIONS)
def test_deferred_steps_pass_the_accuracy_gate(implementation):
    pytest.importorskip("triton")
    checks = test_deferred_steps.accuracy(implementation, *test_deferred_steps.problem(rows=40, read=12))
    check_accuracy(checks)
    others = {name: check._replace(expected=check.expected.roll(1, 0)) for name, check in checks.items()}
    with pytest.raises(InaccurateError):
        check_accuracy(others)

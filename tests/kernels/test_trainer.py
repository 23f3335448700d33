import numpy as np
import pytest
import torch

from kernels import adam_step_, embedding_dot_bias
from kernels.trainer import flushed_denormals, train_epoch


def problem(dtype, k=7, seed=0, rows=50, n_users=9, n_items=6):
    g = torch.Generator().manual_seed(seed)
    tables = [
        torch.randn(s, generator=g, dtype=torch.float64).to(dtype)
        for s in ((n_users, k), (n_items, k), (n_users,), (n_items,))
    ]
    users, items = torch.randint(n_users, (rows,), generator=g), torch.randint(n_items, (rows,), generator=g)
    return tables, users, items, torch.rand(rows, generator=g).to(dtype) * 5


def fused(dtype, epochs=2, batch_size=8, k=7, seed=0, **how):
    tables, users, items, ratings = problem(dtype, k, seed)
    means, squares = ([torch.zeros_like(table) for table in tables] for _ in range(2))
    batches = -(-len(users) // batch_size)
    losses = []
    for epoch in range(epochs):
        lr, beta1 = schedule(epoch, batches)
        losses.append(
            train_epoch(
                tables, means, squares, users, items, ratings, batch_size=batch_size, lr=lr, beta1=beta1,
                beta2=0.99, eps=1e-5, first_step=1 + epoch * batches, **how,
            )
        )  # fmt: skip
    return tables, torch.cat(losses)


def step_by_step(dtype, epochs=2, batch_size=8, k=7, seed=0, y_range=None, **how):
    """The same through autograd and the reference ops."""
    tables, users, items, ratings = problem(dtype, k, seed)
    means, squares = ([torch.zeros_like(table) for table in tables] for _ in range(2))
    batches = -(-len(users) // batch_size)
    losses = []
    for epoch in range(epochs):
        for batch, (lr, beta1) in enumerate(zip(*schedule(epoch, batches), strict=True)):
            rows = slice(batch * batch_size, (batch + 1) * batch_size)
            leaves = [table.detach().requires_grad_() for table in tables]
            scores = embedding_dot_bias(users[rows], items[rows], *leaves, y_range=y_range, backend="reference")
            loss = (scores - ratings[rows]).square().mean()
            loss.backward()
            losses.append(loss.item())
            for table, leaf, mean, square in zip(tables, leaves, means, squares, strict=True):
                step = 1 + epoch * batches + batch
                adam_step_(
                    table, leaf.grad, mean, square, lr=lr, beta1=beta1, beta2=0.99, eps=1e-5, step=step,
                    backend="reference", **how,
                )  # fmt: skip
    return tables, torch.tensor(losses)


def schedule(epoch, batches):
    return [1e-2 + 1e-3 * (epoch * batches + t) for t in range(batches)], [0.95 - 0.01 * t for t in range(batches)]


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("y_range", [None, (0.0, 5.5)])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_an_epoch_is_the_ops_step_by_step(decoupled, y_range, k):
    how = {"decoupled": decoupled, "weight_decay": 0.1, "y_range": y_range, "k": k}
    tables, losses = fused(torch.float64, **how)
    expected_tables, expected_losses = step_by_step(torch.float64, **how)
    torch.testing.assert_close(losses, expected_losses.double(), rtol=1e-7, atol=0)
    for table, expected in zip(tables, expected_tables, strict=True):
        torch.testing.assert_close(table, expected, rtol=1e-9, atol=1e-11)


def test_float32_is_as_near_to_float64_as_the_reference_is():
    squares = {fused: 0.0, step_by_step: 0.0}
    for seed in range(5):  # one walk alone may be lucky
        how = {"weight_decay": 0.1, "y_range": (0.0, 5.5), "k": 40, "epochs": 2, "seed": seed}
        exact, _ = step_by_step(torch.float64, **how)
        for run in squares:
            tables, _ = run(torch.float32, **how)
            squares[run] += sum((a - b).square().sum().item() for a, b in zip(tables, exact, strict=True))
    assert squares[fused] <= 1.5**2 * squares[step_by_step]


def test_the_same_inputs_give_the_same_bits():
    how = {"weight_decay": 0.1, "y_range": (0.0, 5.5)}
    for one, two in zip(fused(torch.float32, **how)[0], fused(torch.float32, **how)[0], strict=True):
        assert torch.equal(one, two)


def test_divergence_shows_as_a_loss_that_is_not_finite():
    tables, users, items, ratings = problem(torch.float32)
    tables[0][users[0]] = float("inf")
    states = [[torch.zeros_like(table) for table in tables] for _ in range(2)]
    losses = train_epoch(
        tables, *states, users, items, ratings, batch_size=50, lr=[0.1], beta1=[0.9], beta2=0.99, eps=1e-5,
        weight_decay=0.0,
    )  # fmt: skip
    assert not losses.isfinite().all()


def test_ids_outside_the_tables_are_refused_before_anything_moves():
    tables, users, items, ratings = problem(torch.float32)
    before = [table.clone() for table in tables]
    states = [[torch.zeros_like(table) for table in tables] for _ in range(2)]
    items[-1] = 6
    with pytest.raises(IndexError, match="ids go from 0 to 6, the table's rows from 0 to 5"):
        train_epoch(
            tables, *states, users, items, ratings, batch_size=50, lr=[0.1], beta1=[0.9], beta2=0.99, eps=1e-5,
            weight_decay=0.0,
        )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, tables, strict=True))


def test_a_schedule_of_another_length_is_refused():
    tables, users, items, ratings = problem(torch.float32)
    with pytest.raises(ValueError, match="7 batches need as many rates and momentums, not 1 and 7"):
        train_epoch(
            tables, tables, tables, users, items, ratings, batch_size=8, lr=[0.1], beta1=[0.9] * 7, beta2=0.99,
            eps=1e-5, weight_decay=0.0,
        )  # fmt: skip


@pytest.mark.parametrize("before", [True, False])
def test_flushing_of_denormals_is_left_as_it_was_found(before):
    def flushes():
        return bool(np.float32(1e-38) * np.float32(0.1) == 0)

    found = flushes()
    try:
        torch.set_flush_denormal(before)
        with flushed_denormals():
            assert flushes()
        assert flushes() == before
    finally:
        torch.set_flush_denormal(found)

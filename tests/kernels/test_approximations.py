import math

import numpy as np
import pytest
import torch

from kernels.trainer import APPROXIMATIONS, Trainer

BETA2, EPS, WD = 0.97, 1e-4, 0.3
EPOCHS, BATCH = 3, 2
RULES = sorted(APPROXIMATIONS)


def problem(rows, n_users, n_items, k=5):
    g = torch.Generator().manual_seed(0)
    shapes = ((n_users, k), (n_items, k), (n_users,), (n_items,))
    tables = [0.3 * torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    users, items = torch.randint(n_users, (rows,), generator=g), torch.randint(n_items, (rows,), generator=g)
    return tables, users, items, 5 * torch.rand(rows, generator=g, dtype=torch.float64)


def schedule(steps):
    t = np.arange(steps)
    return 2e-2 * (0.3 + np.sin(math.pi * (t + 1) / (steps + 1))), 0.9 - 0.2 * np.sin(math.pi * t / steps)


def trained(mode, tables, users, items, ratings, dtype=torch.float64, decay="decoupled"):
    """User and item rows, each with its bias last, float64."""
    orders = batches(len(users))
    lr, beta1 = schedule(EPOCHS * len(orders[0]))
    how = {"decay": decay, "weight_decay": WD, "beta2": BETA2, "eps": EPS, "mode": mode}
    trainer = Trainer(*(table.to(dtype) for table in tables), lr=lr, momentum=beta1, **how)
    for order in orders:
        trainer.epoch(users, items, ratings.to(dtype), torch.cat(order), BATCH)
    u, i, ub, ib = (table.double() for table in trainer.weights())
    return torch.cat([torch.cat([u, ub[:, None]], 1), torch.cat([i, ib[:, None]], 1)])


def batches(rows):
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(1))
    return [order.roll(epoch).split(BATCH) for epoch in range(EPOCHS)]


def by_a_plain_loop(mode, tables, users, items, ratings, wd=WD):
    """The rules' formulas, row by row, with each operation done when the original optimizer does it."""
    u, i, ub, ib = (table.numpy() for table in tables)
    w = np.vstack([np.column_stack([u, ub]), np.column_stack([i, ib])])
    users, items, ratings = users.numpy(), items.numpy() + len(u), ratings.numpy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    last, stepped = np.zeros(len(w), int), np.zeros(len(w), int)  # brought up to; its own last step
    epochs = batches(len(users))
    lr, beta1 = schedule(EPOCHS * len(epochs[0]))
    lr, beta1 = np.append(0, lr), np.append(0, beta1)  # steps count from 1
    catching_up = np.zeros_like(w)  # caffe2's missed momentum, which the next step of the row moves by
    t = 0

    def missed(r):
        k, kept = t - last[r], math.prod(1 - lr[j] * wd for j in range(last[r] + 1, t + 1))
        if mode not in ("skip", "skip decay"):
            w[r] *= kept
        if mode == "skip decay":
            for j in range(last[r] + 1, t + 1):
                m[r], v[r] = m[r] * beta1[j], v[r] * BETA2
                w[r] -= lr[j] / (1 - beta1[j] ** j) * m[r] / (np.sqrt(v[r]) / math.sqrt(1 - BETA2**j) + EPS)
        if mode in ("hugectr", "caffe2") and stepped[r] > 0:
            total = m[r] * sum(beta1[t] ** j for j in range(1, k + 1))
            if mode == "hugectr":
                z = last[r]
                denominator = np.sqrt(v[r]) / math.sqrt(1 - BETA2**z) + EPS
                w[r] -= lr[t] / (1 - beta1[z] ** z) * total / denominator
            else:
                catching_up[r] += total
            m[r] *= beta1[t] ** k
            v[r] *= BETA2**k
        last[r] = t

    for epoch in epochs:
        for rows in map(torch.Tensor.numpy, epoch):
            for r in {*users[rows], *items[rows]}:
                missed(r)
            t += 1
            gradient = {r: np.zeros(w.shape[1]) for r in {*users[rows], *items[rows]}}
            for row in rows:
                p, q = w[users[row]], w[items[row]]
                slope = 2 / len(rows) * (p[:-1] @ q[:-1] + p[-1] + q[-1] - ratings[row])
                gradient[users[row]] += slope * np.append(q[:-1], 1)
                gradient[items[row]] += slope * np.append(p[:-1], 1)
            for r, g in gradient.items():
                m[r] = beta1[t] * m[r] + (1 - beta1[t]) * g
                v[r] = BETA2 * v[r] + (1 - BETA2) * g**2
                root = np.sqrt(v[r])
                own = lr[t] / (1 - beta1[t] ** t) * m[r] / (root / math.sqrt(1 - BETA2**t) + EPS)
                w[r] = w[r] * (1 - lr[t] * wd) - own - lr[t] * catching_up[r] / (root + EPS)
                catching_up[r] = 0
                last[r] = stepped[r] = t
        for r in range(len(w)):
            missed(r)
    return torch.from_numpy(w)


GAPS = {"rows": 41, "n_users": 30, "n_items": 25}  # of one step to whole epochs, and rows that no batch reads


@pytest.mark.parametrize("mode", RULES)
@pytest.mark.parametrize("decay", ["decoupled", "none"])
def test_each_rule_computes_its_formula(mode, decay):
    columns = problem(**GAPS)
    expected = by_a_plain_loop(mode, *columns, wd=WD if decay == "decoupled" else 0.0)
    torch.testing.assert_close(trained(mode, *columns, decay=decay), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", RULES)
def test_without_missed_steps_every_rule_is_dense_adam(mode):
    columns = problem(rows=60, n_users=1, n_items=1)
    torch.testing.assert_close(trained(mode, *columns), trained("dense", *columns), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", RULES)
def test_with_missed_steps_no_rule_is_dense_adam(mode):
    columns = problem(**GAPS)
    dense = trained("dense", *columns)
    assert (trained(mode, *columns) - dense).norm() / dense.norm() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("mode", RULES)
def test_float32_equals_float64_up_to_rounding(mode):
    columns = problem(**GAPS)
    exact = trained(mode, *columns)
    assert (trained(mode, *columns, dtype=torch.float32) - exact).norm() / exact.norm() < 1e-5


def test_a_row_that_no_batch_reads_decays_unless_its_decay_is_skipped():
    columns = problem(**GAPS)
    first = torch.cat([columns[0][0], columns[0][2][:, None]], 1)
    unread = ~torch.isin(torch.arange(len(first)), columns[1])
    assert unread.any()
    lr, _ = schedule(EPOCHS * len(batches(41)[0]))
    for mode in RULES:
        left = 1.0 if mode in ("skip", "skip decay") else math.prod(1 - lr * WD)
        torch.testing.assert_close(trained(mode, *columns)[: len(first)][unread], first[unread] * left)


@pytest.mark.parametrize("mode", RULES)
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"optimizer": "momentum"}, "approximates adam with decoupled decay or none, not momentum with decoupled"),
        ({"decay": "l2"}, "approximates adam with decoupled decay or none, not adam with l2"),
        ({"weight_decay": 100.0}, "leaves nothing of the weights"),
    ],
)
def test_settings_that_the_rules_do_not_approximate_are_refused(mode, change, complaint):
    tables, *_ = problem(**GAPS)
    how = {"lr": np.full(9, 1e-2), "momentum": np.full(9, 0.9), "weight_decay": WD, "mode": mode}
    with pytest.raises(ValueError, match=complaint):
        Trainer(*tables, **(how | change))

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import adam_step_, embedding_dot_bias
from kernels.quadrature import TOLERANCE, first_foldable
from kernels.steps import BETA1, BETA2, KINDS, RATE, SCALE
from kernels.threads import OPENMP
from kernels.trainer import MODES, Trainer, native
from kernels.trainer.meeting import FIRST, meeting

RULES = [
    (optimizer, decay)
    for optimizer in ("sgd", "momentum", "rmsprop", "adam")
    for decay in ("none", "l2", "decoupled", "fully decoupled")
]
FOLDABLE = [(optimizer, decay) for optimizer, decay in RULES if decay != "l2" or optimizer == "sgd"]


def problem(dtype=torch.float32, k=7, seed=0, rows=50, n_users=9, n_items=6):
    g = torch.Generator().manual_seed(seed)
    shapes = ((n_users, k), (n_items, k), (n_users,), (n_items,))
    tables = [0.3 * torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]
    users, items = torch.randint(n_users, (rows,), generator=g), torch.randint(n_items, (rows,), generator=g)
    order = torch.randperm(rows, generator=g)
    return tables, users, items, (torch.rand(rows, generator=g) * 5).to(dtype), order


def schedule(steps):
    t = np.arange(steps)
    return 1e-2 * (0.3 + np.sin(math.pi * (t + 1) / (steps + 1))), 0.95 - 0.1 * np.sin(math.pi * t / steps)


def trained(dtype=torch.float32, epochs=3, batch_size=4, size=None, **how):
    """The four tables after some epochs, and all losses."""
    tables, *columns, order = problem(dtype, **(size or {}))
    steps = epochs * -(-len(order) // batch_size)
    lr, momentum = schedule(steps)
    trainer = Trainer(*tables, **({"lr": lr, "momentum": momentum, "weight_decay": 0.01, "y_range": (0.0, 5.5)} | how))
    losses = [trainer.epoch(*columns, order.roll(epoch), batch_size) for epoch in range(epochs)]
    return torch.cat([table.flatten() for table in trainer.weights()]), torch.cat(losses)


def by_torch(optimizer, decay, epochs=3, batch_size=4, size=None, y_range=(0.0, 5.5), wd=0.01):
    """The same in float64 by autograd and torch.optim."""
    tables, users, items, ratings, order = problem(torch.float64, **(size or {}))
    tables = [table.requires_grad_() for table in tables]
    l2 = wd if decay == "l2" else 0.0
    opt = {
        "sgd": lambda: torch.optim.SGD(tables, weight_decay=l2),
        "momentum": lambda: torch.optim.SGD(tables, momentum=0.9, weight_decay=l2),
        "rmsprop": lambda: torch.optim.RMSprop(tables, alpha=0.99, eps=1e-5, weight_decay=l2),
        "adam": lambda: torch.optim.Adam(tables, eps=1e-5, weight_decay=l2),
    }[optimizer]()
    lrs, momenta = schedule(epochs * -(-len(order) // batch_size))
    losses = []
    for step, rows in enumerate(rows for epoch in range(epochs) for rows in order.roll(epoch).split(batch_size)):
        group = opt.param_groups[0]
        group["lr"], group["momentum"], group["betas"] = lrs[step], momenta[step], (momenta[step], 0.99)
        if optimizer in ("sgd", "rmsprop"):
            group["momentum"] = 0
        scores = embedding_dot_bias(users[rows], items[rows], *tables, y_range=y_range, backend="reference")
        loss = (scores - ratings[rows]).square().mean()
        opt.zero_grad()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for table in tables:
                table.mul_({"decoupled": 1 - lrs[step] * wd, "fully decoupled": 1 - wd}.get(decay, 1.0))
        opt.step()
    return torch.cat([table.detach().flatten() for table in tables]), torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize(("optimizer", "decay"), RULES)
@pytest.mark.parametrize("mode", ["dense", "replay"])
def test_dense_and_replayed_epochs_equal_autograd_and_torchs_optimizers(optimizer, decay, mode):
    weights, losses = trained(torch.float64, optimizer=optimizer, decay=decay, mode=mode)
    expected, expected_losses = by_torch(optimizer, decay)
    torch.testing.assert_close(weights, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-10, atol=0)


@pytest.mark.parametrize("y_range", [None, (0.0, 5.5)])
@pytest.mark.parametrize("k", [1, 15, 16, 40])
def test_any_number_of_factors_and_no_sigmoid(y_range, k):
    weights, _ = trained(torch.float64, size={"k": k}, y_range=y_range)
    torch.testing.assert_close(weights, by_torch("adam", "decoupled", size={"k": k}, y_range=y_range)[0])


@pytest.mark.parametrize(("optimizer", "decay"), RULES)
@given(
    rows=st.integers(1, 60),
    n_users=st.integers(1, 40),
    batch_size=st.integers(1, 20),
    k=st.sampled_from([1, 15, 37, 50]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=8, deadline=None)
def test_replay_gives_the_bits_of_dense(optimizer, decay, rows, n_users, batch_size, k, seed):
    how = {"optimizer": optimizer, "decay": decay, "batch_size": batch_size}
    size = {"rows": rows, "n_users": n_users, "k": k, "seed": seed}
    dtype = torch.float32 if optimizer == "adam" else torch.float64  # other tests compile these two
    dense, replay = (trained(dtype, mode=mode, size=size, **how) for mode in ("dense", "replay"))
    assert torch.equal(dense[0], replay[0])
    assert torch.equal(dense[1], replay[1])


@pytest.mark.parametrize(("optimizer", "decay"), FOLDABLE)
def test_folding_is_exact_except_for_adam(optimizer, decay):
    size = {"rows": 400, "n_users": 200, "n_items": 100}  # gaps of 1 to the whole epoch, rows never touched
    how = {"optimizer": optimizer, "decay": decay, "batch_size": 2, "epochs": 2, "size": size}
    folded, _ = trained(torch.float64, mode="folded", **how)
    dense, _ = trained(torch.float64, mode="dense", **how)
    # With Adam two points have an error, which is a fraction of float32's rounding.
    torch.testing.assert_close(folded, dense, rtol=0, atol=2e-6 if optimizer == "adam" else 1e-13)


def test_folding_is_as_near_to_float64_as_torchs_own_float32():
    size = {"rows": 1500, "n_users": 300, "n_items": 200, "k": 20}
    squares = {"folded": 0.0, "torch": 0.0}
    for seed in range(3):
        how = {"size": size | {"seed": seed}, "batch_size": 6, "epochs": 2}
        exact, _ = trained(torch.float64, mode="dense", **how)
        squares["folded"] += (trained(mode="folded", **how)[0] - exact).square().sum()
        squares["torch"] += (eager(**how) - exact).square().sum()
    assert squares["folded"] <= 1.5**2 * squares["torch"]


def eager(size, batch_size, epochs):
    tables, users, items, ratings, order = problem(**size)
    tables = [table.requires_grad_() for table in tables]
    opt = torch.optim.AdamW(tables, eps=1e-5, weight_decay=0.01, fused=True)
    lrs, momenta = schedule(epochs * -(-len(order) // batch_size))
    for step, rows in enumerate(rows for epoch in range(epochs) for rows in order.roll(epoch).split(batch_size)):
        opt.param_groups[0].update(lr=lrs[step], betas=(momenta[step], 0.99))
        u, i, ub, ib = tables
        out = (u[users[rows]] * i[items[rows]]).sum(1) + ub[users[rows]] + ib[items[rows]]
        loss = (torch.sigmoid(out) * 5.5 - ratings[rows]).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    return torch.cat([table.detach().flatten() for table in tables])


@pytest.mark.parametrize("gap", [1, 2, 3, 4, 5, 20, 200, 1500])
@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.9, 0.99, 1e-5), (0.9, 0.999, 1e-8), (0.95, 0.9999, 1e-8)])
def test_after_any_gap_a_row_equals_that_of_dense_steps(gap, beta1, beta2, eps):
    # Row 0 has a gradient in the first 450 steps, then none for `gap` steps; row 2 never has one.
    first, k = 450, 5
    steps = first + gap
    users = torch.tensor([0] * first + [1] * gap)
    tables, *_ = problem(torch.float64, k=k, n_users=3, n_items=2)
    ratings = torch.rand(steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    items = torch.zeros(steps, dtype=torch.int64)
    weights = {}
    for mode, dtype in (("dense", torch.float64), ("folded", torch.float64), ("folded", torch.float32)):
        constants = {"momentum": np.full(steps, beta1), "beta2": beta2, "eps": eps, "weight_decay": 0.1}
        trainer = Trainer(*(table.to(dtype) for table in tables), lr=np.full(steps, 5e-3), mode=mode, **constants)
        trainer.epoch(users, items, ratings.to(dtype), torch.arange(steps), 1)
        weights[mode, dtype] = trainer.weights()[0].double()
    exact = weights["dense", torch.float64]
    moved = (weights["folded", torch.float64] - exact).abs().max().item()
    assert moved <= 5e-3 * 1e-4
    assert (weights["folded", torch.float32] - exact)[[0, 2]].abs().max() < 5e-5


def test_the_first_steps_and_narrow_pairs_of_betas_are_not_folded():
    def begins(beta1, beta2, eps):
        tables, *_ = problem()
        trainer = Trainer(*tables, lr=np.full(2000, 5e-3), momentum=np.full(2000, beta1), beta2=beta2, eps=eps)
        return trainer.foldable_from

    assert 25 <= begins(0.9, 0.99, 1e-5) < 50
    assert 15 <= begins(0.9, 0.999, 1e-8) < 40
    for betas in ((0.9, 0.9), (0.9, 0.95), (0.95, 0.99)):
        assert begins(*betas, 1e-8) > 1800  # the last gaps are short, so they fold
    assert begins(0.9, 0.999, 1e-30) == 2000


jumps = st.lists(st.tuples(st.integers(0, 399), st.sampled_from([1, 5, 60, 400]), st.floats(0, 0.99)), max_size=4)
rate_jumps = st.lists(
    st.tuples(st.integers(0, 399), st.sampled_from([1, 5, 60, 400]), st.sampled_from([0.0, 1e-4, 1e-2])), max_size=4
)


def jumping(value, jumps, steps=400):
    values = np.full(steps, value)
    for first, length, other in jumps:
        values[first : first + length] = other
    return values


@given(momentum=jumps, lr=rate_jumps, beta2=st.sampled_from([0.99, 0.999]), wd=st.sampled_from([0.0, 0.5]))
@settings(max_examples=30, deadline=None)
def test_under_any_schedule_a_folded_epoch_equals_a_dense_one(momentum, lr, beta2, wd):
    size = {"rows": 800, "n_users": 200, "n_items": 100, "k": 3}
    rates, momenta = jumping(1e-2, lr), jumping(0.9, momentum)
    how = {"lr": rates, "momentum": momenta, "beta2": beta2, "weight_decay": wd, "batch_size": 2, "epochs": 1}
    found, _ = trained(torch.float64, mode="folded", size=size, **how)
    dense, _ = trained(torch.float64, mode="dense", size=size, **how)
    torch.testing.assert_close(found, dense, rtol=0, atol=5 * TOLERANCE * rates.max() + 1e-12)


@given(momentum=jumps, lr=rate_jumps, beta2=st.sampled_from([0.99, 0.999]))
@settings(max_examples=30, deadline=None)
def test_gaps_fold_from_the_step_at_which_two_points_equal_the_sum(momentum, lr, beta2):
    """`first_foldable` against a plain loop over steps in float64, from that step and from later ones."""
    rates, momenta = jumping(5e-3, lr), jumping(0.9, momentum)
    tables, *_ = problem()
    trainer = Trainer(*tables, lr=rates, momentum=momenta, beta2=beta2, eps=1e-5)
    for start in {trainer.foldable_from, *(first for first, _, _ in [*momentum, *lr] if first > trainer.foldable_from)}:
        gap = trainer.steps[start + 1 :]
        kappa = 1 / (gap[:, SCALE] * np.sqrt(np.cumprod(gap[:, BETA2])))
        weight = gap[:, RATE] * np.cumprod(gap[:, BETA1]) * kappa
        if np.count_nonzero(weight > 1e-12 * weight.max(initial=0)) < 3:
            continue  # two points are all there is
        v = np.logspace(-12, 0, 60)
        moved, mean, square = np.zeros_like(v), np.sqrt(v), v.copy()
        for c in gap:
            mean, square = mean * c[BETA1], square * c[BETA2]
            moved = moved + c[RATE] * mean / (np.sqrt(square) * c[SCALE] + 1e-5)
        x, weights = gauss_points(1 / (kappa + 2), weight)
        folded = np.sqrt(v) * (weights / (np.sqrt(v)[:, None] + 1e-5 * (1 / x - 2))).sum(1)
        assert np.abs(folded - moved).max() <= TOLERANCE * rates.max()


def test_the_lessons_schedule_folds_from_early_on():
    up, down = np.linspace(0, 1, 2000), np.linspace(1, 0, 5000)
    momenta = 0.95 - 0.1 * np.concatenate([up, down])
    rates = 5e-3 * np.concatenate([0.04 + 0.96 * up, down])
    assert first_foldable(rates, momenta, 0.99, 2) <= 400


def gauss_points(x, weight):
    """Two Gauss points from the eigenvalues of the Jacobi matrix (Golub & Welsch 1969), not in closed form."""
    p = weight / weight.sum()
    a0 = (p * x).sum()
    b = np.sqrt((p * (x - a0) ** 2).sum())
    a1 = (p * (x - a0) ** 2 * x).sum() / b**2
    nodes, vectors = np.linalg.eigh(np.array([[a0, b], [b, a1]]))
    return nodes, weight.sum() * vectors[0] ** 2


def test_a_table_of_many_rows_is_caught_up_with_the_same_bits_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("kernels.threads.SHARE", 1 << 12)
    threads = torch.get_num_threads()
    size = {"rows": 300, "n_users": 900, "n_items": 700, "k": 20}
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(trained(mode="folded", batch_size=2, epochs=2, size=size)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_size", [64, 100])
def test_an_epoch_has_the_same_bits_in_two_threads_as_in_one(monkeypatch, mode, batch_size):
    places = []
    monkeypatch.setattr("kernels.trainer.meeting", lambda: places.append(meeting()) or places[-1])
    threads = torch.get_num_threads()
    size = {"rows": 64 * 400 + 17, "n_users": 900, "n_items": 300, "k": 12}
    try:
        torch.set_num_threads(1)
        one = trained(mode=mode, batch_size=batch_size, epochs=2, size=size)
        assert not any(place[FIRST // 4] for place in places)
        torch.set_num_threads(2)
        for _ in range(100):  # on a busy machine the second thread may come after the first has done everything
            two = trained(mode=mode, batch_size=batch_size, epochs=2, size=size)
            for expected, found in zip(one, two, strict=True):
                assert torch.equal(expected, found)
            if not OPENMP or any(place[FIRST // 4] for place in places):
                break
        else:
            pytest.fail("the second thread never took part")
    finally:
        torch.set_num_threads(threads)


def test_after_each_separation_epochs_use_one_thread_for_longer(monkeypatch):
    tables, *columns, order = problem(rows=64)
    trainer = Trainer(*tables, lr=np.full(400, 0.1), momentum=np.full(400, 0.9))
    chosen = []
    choose = trainer._n_threads

    def recorded(batch_size):
        chosen.append(choose(batch_size))
        return 1

    crowded = True
    monkeypatch.setattr("kernels.trainer.threads", lambda: 2)
    monkeypatch.setattr("kernels.trainer.separated", lambda _: crowded and chosen[-1] == 2)
    monkeypatch.setattr(trainer, "_n_threads", recorded)
    for _ in range(256):
        trainer.epoch(*columns, order, 64)
    tries = [epoch for epoch, threads in enumerate(chosen) if threads == 2]
    assert np.diff(tries).tolist() == [2, 4, 8, 16, 32, 64, 65]
    crowded = False
    for _ in range(100):
        trainer.epoch(*columns, order, 64)
    assert chosen[-40:] == [2] * 40


def test_rows_that_no_batch_has_read_equal_those_of_dense_steps_in_every_read():
    # Each epoch reads other users; the last 100 users, and items, are never read.
    k, per_epoch, epochs = 5, 120, 3
    tables, *_ = problem(torch.float64, k=k, n_users=3 * 100 + 100, n_items=200)
    generator = torch.Generator().manual_seed(1)
    n = epochs * per_epoch
    users = torch.cat([100 * epoch + torch.randint(100, (per_epoch,), generator=generator) for epoch in range(epochs)])
    items = torch.randint(100, (n,), generator=generator)
    ratings = 5 * torch.rand(n, dtype=torch.float64, generator=generator)
    everyone, everything = torch.arange(400), torch.arange(400) % 200
    found = {}
    for mode in ("dense", "folded"):
        constants = {"momentum": np.full(n, 0.9), "weight_decay": 0.5, "eps": 1e-3, "y_range": (0.0, 5.5)}
        trainer = Trainer(*tables, lr=np.full(n, 1e-2), mode=mode, **constants)
        scores = []
        for epoch in range(epochs):
            trainer.epoch(users, items, ratings, torch.arange(per_epoch) + epoch * per_epoch, 1)
            scores.append(trainer.scores(everyone, everything))
        found[mode] = torch.cat(scores), torch.cat([table.flatten() for table in trainer.weights()])
        torch.testing.assert_close(trainer.scores(everyone, everything), scores[-1], rtol=1e-12, atol=0)
    for folded, dense in zip(found["folded"], found["dense"], strict=True):
        torch.testing.assert_close(folded, dense, rtol=0, atol=5e-6)


def test_the_same_inputs_give_the_same_bits():
    assert torch.equal(trained()[0], trained()[0])


def test_the_mode_depends_on_how_many_rows_a_batch_reads():
    def chosen(batch_size, **how):
        tables, users, items, _, order = problem(rows=2000, n_users=900, n_items=700)
        trainer = Trainer(*tables, **({"lr": np.full(2000, 1e-2), "momentum": np.full(2000, 0.9)} | how))
        batches = -(-2000 // batch_size)
        batch = order.numpy()[:batch_size]
        return trainer._mode(users.numpy()[batch], items.numpy()[batch], batches)

    assert chosen(2) == native.FOLDED
    assert chosen(2000) == native.DENSE
    assert chosen(2, decay="l2", weight_decay=0.1) == native.DENSE
    assert chosen(2, mode="replay") == native.REPLAY


def test_scores_are_those_of_the_weights():
    tables, users, items, _, _ = problem()
    trainer = Trainer(*tables, lr=[0.1], momentum=[0.9], y_range=(0.0, 5.5))
    expected = embedding_dot_bias(users, items, *tables, y_range=(0.0, 5.5))
    torch.testing.assert_close(trainer.scores(users, items), expected)
    for view, table in zip(trainer.weights(), tables, strict=True):
        assert torch.equal(view, table)


def test_the_callers_tables_do_not_change():
    tables, users, items, ratings, order = problem()
    before = [table.clone() for table in tables]
    Trainer(*tables, lr=[0.1], momentum=[0.9]).epoch(users, items, ratings, order, 50)
    assert all(torch.equal(a, b) for a, b in zip(before, tables, strict=True))


def test_divergence_shows_as_a_loss_that_is_not_finite():
    for mode in ("dense", "folded"):
        _, losses = trained(torch.float64, lr=np.full(39, 1e30), mode=mode, optimizer="sgd", decay="none", y_range=None)
        assert not losses.isfinite().all()


def test_epochs_of_different_modes_continue_from_each_other(monkeypatch):
    how = {"size": {"rows": 40, "n_users": 30}, "batch_size": 2, "epochs": 3}
    tables, *columns, order = problem(torch.float64, **how["size"])
    lr, momentum = schedule(60)
    trainer = Trainer(*tables, lr=lr, momentum=momentum, weight_decay=0.01, y_range=(0.0, 5.5), optimizer="momentum")
    for epoch, mode in enumerate(("dense", "folded", "replay")):
        monkeypatch.setattr(trainer, "_mode", lambda *_, mode=mode: MODES[mode])  # as for batches of other sizes
        trainer.epoch(*columns, order.roll(epoch), 2)
    weights = torch.cat([table.flatten() for table in trainer.weights()])
    expected, _ = trained(torch.float64, mode="dense", optimizer="momentum", **how)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-13)


def test_a_trainers_mode_cannot_be_set():
    tables, *_ = problem()
    trainer = Trainer(*tables, lr=[0.1], momentum=[0.9], mode="dense")
    with pytest.raises(AttributeError, match="mode"):
        trainer.mode = "caffe2"
    assert trainer.mode == "dense"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"optimizer": "adagrad"}, "there are sgd, momentum, rmsprop, adam"),
        ({"decay": "L2"}, "there are none, l2, decoupled, fully decoupled"),
        ({"mode": "lazy"}, "there are dense, replay, folded"),
        ({"eps": 0.0}, "must be positive"),
        ({"eps": 1e-39}, "a normal number of torch.float32"),
        ({"eps": math.nan}, "must be positive"),
        ({"beta2": 1.0}, "must lie in"),
        ({"y_range": (5, 0)}, "the first number must be the smaller one"),
        ({"y_range": (0, math.inf)}, "two finite numbers"),
        ({"y_range": (0, 1, 2)}, "two finite numbers"),
        ({"y_range": ()}, "two finite numbers"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1: it must lie in"),
        ({"weight_decay": math.nan}, "weight_decay=nan: it must lie in"),
        ({"lr": np.full(13, -1e-3)}, "none of them negative"),
        ({"lr": np.ones((13, 1))}, "a finite rate for each step"),
        ({"momentum": np.full(13, 1.0)}, r"from 1.0 to 1.0, but each must lie in \[0, 1\)"),
        ({"momentum": np.full(13, np.nan)}, "each must lie in"),
        ({"item_weight": torch.zeros(6, 5)}, "the same number of factors"),
        ({"lr": np.full(13, np.nan)}, "a finite rate"),
        ({"momentum": None}, "adam needs a momentum for each of 13 steps, not none"),
        ({"momentum": [0.9]}, "for each of 13 steps, not 1"),
        ({"biases": (True, False)}, "item_bias: biases that are not learned must be zero"),
        ({"decay": "l2", "weight_decay": 0.1, "mode": "folded"}, "cannot be folded"),
        ({"lr": np.full(13, 100.0), "weight_decay": 0.1, "mode": "folded"}, "cannot be folded"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, complaint):
    tables, *_ = problem()
    lr, momentum = schedule(13)
    arguments = dict(zip(("user_weight", "item_weight", "user_bias", "item_bias"), tables, strict=True))
    arguments |= {"lr": lr, "momentum": momentum} | change
    with pytest.raises(ValueError, match=complaint):
        Trainer(**arguments)


def test_ids_outside_the_tables_are_refused_before_anything_moves():
    tables, users, items, ratings, order = problem()
    trainer = Trainer(*tables, lr=np.full(50, 0.1), momentum=np.full(50, 0.9))
    items[-1] = 6
    with pytest.raises(IndexError, match="items go from 0 to 6, the rows from 0 to 5"):
        trainer.epoch(users, items, ratings, order, 4)
    items[-1] = 0
    with pytest.raises(IndexError, match="order go from 1 to 50, the rows from 0 to 49"):
        trainer.epoch(users, items, ratings, order + 1, 4)
    assert all(torch.equal(a, b) for a, b in zip(trainer.weights(), tables, strict=True))


@pytest.mark.parametrize(
    ("users", "items", "error", "complaint"),
    [
        ([0, 1], [0], ValueError, "2 users and 1 items: pairs are needed"),
        ([9], [0], IndexError, "users go from 9 to 9, the rows from 0 to 8"),
        ([0], [-1], IndexError, "items go from -1 to -1, the rows from 0 to 5"),
        ([[0]], [[0]], ValueError, r"users must be int64\[n\], not torch.int64\[1, 1\]"),
        ([0.5], [0], ValueError, r"users must be int64\[n\], not torch.float32\[1\]"),
    ],
)
def test_scores_of_bad_pairs_are_refused(users, items, error, complaint):
    tables, *_ = problem()
    trainer = Trainer(*tables, lr=[0.1], momentum=[0.9])
    with pytest.raises(error, match=complaint):
        trainer.scores(torch.tensor(users), torch.tensor(items))
    for ids in (torch.tensor(users), torch.tensor(items)):
        if ids.ndim == 2 or ids.dtype != torch.int64:
            with pytest.raises(ValueError, match="must be int64"):
                trainer.epoch(ids, ids, torch.zeros(len(ids)), torch.tensor([0]), 1)


def test_ids_that_are_not_contiguous_are_scored_correctly():
    tables, users, items, _, _ = problem()
    trainer = Trainer(*tables, lr=[0.1], momentum=[0.9])
    assert torch.equal(trainer.scores(users[::2], items[::2]), trainer.scores(users[::2].clone(), items[::2].clone()))


def raise_interrupt(_):
    raise KeyboardInterrupt


def test_an_exception_after_an_epoch_keeps_the_epoch(monkeypatch):
    tables, *columns, order = problem(rows=300, n_users=200, n_items=100)
    how = {"lr": np.full(300, 1e-2), "momentum": np.full(300, 0.9), "weight_decay": 0.5, "mode": "folded"}
    left = []
    for interrupted in (False, True):
        trainer = Trainer(*tables, **how)
        for epoch in range(2):
            with monkeypatch.context() as patch:
                if interrupted and epoch == 0:  # as the epoch's call returns
                    patch.setattr("kernels.trainer.separated", raise_interrupt)
                    with pytest.raises(KeyboardInterrupt):
                        trainer.epoch(*columns, order, 2)
                else:
                    trainer.epoch(*columns, order, 2)
        left.append((trainer.steps_done, torch.cat([table.flatten() for table in trainer.weights()])))
    assert left[0][0] == left[1][0] == 300
    assert torch.equal(left[0][1], left[1][1])


def test_threads_that_read_the_weights_at_once_apply_decay_once():
    tables, *columns, order = problem(rows=60, n_users=20_000, n_items=100)
    how = {"lr": np.full(30, 1e-2), "momentum": np.full(30, 0.9), "weight_decay": 0.5, "mode": "folded"}

    def seen_by(count):
        trainer, barrier = Trainer(*tables, **how), threading.Barrier(count)
        trainer.epoch(*columns, order, 2)
        looks = [threading.Thread(target=lambda: (barrier.wait(), trainer.weights())) for _ in range(count)]
        for look in looks:
            look.start()
        for look in looks:
            look.join()
        return torch.cat([table.flatten() for table in trainer.weights()])

    expected = seen_by(1)
    assert all(torch.equal(seen_by(4), expected) for _ in range(10))


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("mode", [None, "dense", "replay", "folded"])
@pytest.mark.parametrize("read", [False, True])
def test_the_bias_of_a_masked_item_stays_infinite_as_under_torchs_steps(optimizer, mode, read):
    tables, users, items, ratings, order = problem()
    items[items == 5] = 5 if read else 0
    lr, momentum = schedule(13)
    tables[3][5] = -math.inf
    how = {"lr": lr, "momentum": momentum, "weight_decay": 0.01, "y_range": (0.0, 5.5)}
    trainer = Trainer(*tables, **how, optimizer=optimizer, mode=mode)
    assert trainer.epoch(users, items, ratings, order, 4).isfinite().all()
    *others, biases = trainer.weights()
    assert biases[5] == -math.inf
    assert all(table.isfinite().all() for table in (*others, biases[:5]))


def test_gradients_whose_squares_overflow_fold_to_no_nan():
    # User 0 has an overflowing gradient once, and is read again after a gap.
    users = torch.tensor([0] + [1] * 300 + [0])
    tables, *_ = problem(n_users=2, n_items=2, k=3)
    ratings = torch.full((302,), 3.0)
    ratings[0] = 1e25
    for mode in ("dense", "folded"):
        how = {"lr": np.full(604, 1e-3), "momentum": np.full(604, 0.9), "beta2": 0.999, "mode": mode}
        trainer = Trainer(*tables, **how)
        for _ in range(2):
            trainer.epoch(users, torch.zeros(302, dtype=torch.int64), ratings, torch.arange(302), 1)
        assert all(table[:1].isfinite().all() for table in trainer.weights())


def test_a_rate_of_zero_folds_to_no_movement():
    size = {"rows": 300, "n_users": 200, "n_items": 100}
    lr = np.where(np.arange(150) % 100 < 60, 0.0, 1e-2)
    how = {"lr": lr, "momentum": np.full(150, 0.9), "size": size, "batch_size": 2, "epochs": 1}
    folded, _ = trained(torch.float64, mode="folded", **how)
    dense, _ = trained(torch.float64, mode="dense", **how)
    torch.testing.assert_close(folded, dense, rtol=0, atol=2e-6)


def test_more_steps_than_rates_are_refused():
    tables, users, items, ratings, order = problem()
    trainer = Trainer(*tables, lr=np.full(20, 0.1), momentum=np.full(20, 0.9))
    trainer.epoch(users, items, ratings, order, 4)
    with pytest.raises(ValueError, match="an epoch of 13 steps, but there are rates for 7 more"):
        trainer.epoch(users, items, ratings, order, 4)


def test_one_step_equals_the_ops():
    tables, users, items, ratings, order = problem(torch.float64)
    trainer = Trainer(*tables, lr=[1e-2], momentum=[0.9], weight_decay=0.1)
    trainer.epoch(users, items, ratings, order, 50)
    leaves = [table.requires_grad_() for table in tables]
    (embedding_dot_bias(users, items, *leaves) - ratings).square().mean().backward()
    for view, leaf in zip(trainer.weights(), leaves, strict=True):
        zeros = [torch.zeros_like(leaf) for _ in range(2)]
        table = leaf.detach().clone()
        adam_step_(table, leaf.grad, *zeros, lr=1e-2, beta2=0.99, eps=1e-5, weight_decay=0.1, step=1)
        torch.testing.assert_close(view, table, rtol=1e-12, atol=1e-14)

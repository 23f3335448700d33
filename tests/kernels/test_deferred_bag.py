"""Bags of deferred tables, trained beside torch's nn.EmbeddingBag with its dense AdamW in float64."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from kernels import DeferredAdamW, DeferredEmbedding, DeferredEmbeddingBag, attach

ROWS, STEPS = 9, 120
MODES = {"folded": 2e-6, "replay": 1e-10}  # how far from torch's dense steps


class Bags(nn.Module):
    """Sums of weighted rows of one table and means of another's, whose widths are odd."""

    def __init__(self, deferred, padding, last_offset, dtype=torch.float64):
        super().__init__()
        kind = DeferredEmbeddingBag if deferred else nn.EmbeddingBag
        g = torch.Generator().manual_seed(0)
        start = [torch.randn(ROWS, width, generator=g, dtype=torch.float64).to(dtype) for width in (3, 1)]
        self.sums = kind.from_pretrained(start[0].clone(), freeze=False, mode="sum", padding_idx=padding)
        self.means = kind.from_pretrained(
            start[1].clone(), freeze=False, mode="mean", include_last_offset=last_offset, padding_idx=padding
        )
        self.weigh = nn.Parameter(torch.ones(ROWS, dtype=dtype))  # of ids, learned through per_sample_weights
        self.last_offset = last_offset

    def forward(self, ids, offsets):
        ends = torch.cat([offsets, torch.tensor([len(ids)])]) if self.last_offset else offsets
        return torch.cat([self.sums(ids, offsets, self.weigh[ids]), self.means(ids, ends)], 1)


def drawn(rng, lengths=(0, 0, 1, 2, 4)):
    """Ids, offsets and targets of four bags: some empty, some with an id several times; rows 7 and 8 are rare."""
    sizes = rng.choice(lengths, 4)
    ids = rng.integers(0, ROWS if rng.random() < 0.05 else ROWS - 2, sizes.sum())
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return torch.from_numpy(ids), torch.from_numpy(offsets), torch.from_numpy(rng.normal(size=(4, 4)))


def new_settings(rng):
    return {
        "lr": float(rng.choice([0.0, 1e-3, 1e-2])),
        "betas": (float(rng.choice([0.0, 0.8, 0.9])), float(rng.choice([0.99, 0.999]))),
        "eps": float(rng.choice([1e-8, 1e-5])),
        "weight_decay": float(rng.choice([0.0, 0.1])),
    }


def trained(mode, seed=0, padding=2, last_offset=False, dtype=torch.float64, between=None):
    """The model and optimizer after all steps. Every so often, any setting changes. Without a mode: torch's AdamW."""
    rng = np.random.default_rng(seed)
    model = Bags(mode is not None, padding, last_offset, dtype)
    how = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-5, "weight_decay": 0.1}
    params = model.parameters()
    optimizer = DeferredAdamW(params, **how, mode=mode) if mode else torch.optim.AdamW(params, **how)
    for step in range(STEPS):
        if rng.random() < 0.05:
            optimizer.param_groups[0].update(new_settings(rng))
        ids, offsets, targets = drawn(rng)
        optimizer.zero_grad()
        (model(ids, offsets) - targets.to(dtype)).square().sum().backward()
        optimizer.step()
        if between and step == STEPS // 2:
            model, optimizer = between(model, optimizer)
    return model


def flat(model):
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("padding", "last_offset"), [(None, False), (2, True), (-1, False)])
@pytest.mark.parametrize("mode", MODES)
def test_bags_equal_torchs_while_any_setting_changes(mode, padding, last_offset, seed):
    expected = flat(trained(None, seed, padding, last_offset))
    torch.testing.assert_close(flat(trained(mode, seed, padding, last_offset)), expected, rtol=0, atol=MODES[mode])


@pytest.mark.slow
def test_in_float32_they_are_as_near_to_float64_as_torchs():
    squares = {"folded": 0.0, None: 0.0}
    for seed in range(3):
        expected = flat(trained(None, seed))
        for mode in squares:
            squares[mode] += (flat(trained(mode, seed, dtype=torch.float32)) - expected).square().sum().item()
    assert squares["folded"] <= 1.5**2 * squares[None]


def test_a_step_moves_no_rows_but_those_of_its_bags():
    model = Bags(True, None, False, torch.float32)
    optimizer = DeferredAdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.tensor([0, 1, 1]), torch.tensor([0, 2])).sum().backward()  # also learns per_sample_weights
        optimizer.step()
    for table in (model.sums.weight.table, model.means.weight.table):
        assert table.pending == 3
        assert table.rows.last.tolist() == [3, 3] + [0] * (ROWS - 2)


bags = st.lists(st.lists(st.integers(0, ROWS - 1), max_size=4), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(bags=bags, mode=st.sampled_from(["sum", "mean"]), padding=st.sampled_from([None, 0, 3]), wide=st.booleans())
def test_the_forward_gives_the_sums_and_means_of_dense_rows(bags, mode, padding, wide):
    weight = torch.arange(1.0, 3 * ROWS + 1, dtype=torch.float64).view(ROWS, 3)
    module = DeferredEmbeddingBag.from_pretrained(weight, freeze=False, mode=mode, padding_idx=padding)
    optimizer = DeferredAdamW(module.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):  # each step leaves .95 of every row, at once or when it is read
        grad = torch.zeros(1, 3, dtype=torch.float64)
        module.weight.grad = torch.sparse_coo_tensor([[1]], grad, (ROWS, 3), check_invariants=False)
        optimizer.step()
    rows = weight * 0.95**2
    if wide:
        bags = [(bag * 4 + [1] * 4)[:4] for bag in bags]
        found = module(torch.tensor(bags, dtype=torch.int32))
    else:
        ids = torch.tensor([i for bag in bags for i in bag], dtype=torch.int64)
        found = module(ids, torch.tensor([sum(map(len, bags[:k])) for k in range(len(bags))]))
    counted = [[i for i in bag if i != padding] for bag in bags]
    each = [rows[bag].sum(0) / (len(bag) if mode == "mean" and bag else 1) for bag in counted]
    torch.testing.assert_close(found, torch.stack(each), rtol=1e-12, atol=0)


def test_without_gradients_and_of_a_frozen_table_the_rows_are_up_to_date():
    ours, dense = (Bags(deferred, None, False) for deferred in (True, False))
    ids, offsets = torch.arange(ROWS), torch.tensor([0, 4])
    how = {"lr": 0.1, "weight_decay": 0.5}
    for model, optimizer in (
        (ours, DeferredAdamW(ours.parameters(), **how)),
        (dense, torch.optim.AdamW(dense.parameters(), **how)),
    ):
        for step in range(5):
            optimizer.zero_grad()
            model(torch.tensor([step % 2]), torch.tensor([0])).sum().backward()
            optimizer.step()
            if step == 2:
                model.sums.weight.requires_grad_(False)  # frozen in mid-training: torch's AdamW skips it, too
    with torch.no_grad():
        torch.testing.assert_close(ours(ids, offsets), dense(ids, offsets), rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.sums(ids, offsets), dense.sums(ids, offsets), rtol=0, atol=1e-10)
    assert ours.sums.weight.grad is None


def swapped(model, optimizer, deferred):
    """The same training, continued by the other library from a checkpoint."""
    tables, state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    new = Bags(deferred, 2, False)
    new.load_state_dict(tables)
    optimizer = (DeferredAdamW if deferred else torch.optim.AdamW)(new.parameters())
    # A checkpoint has the settings, too. torch's AdamW keeps `mode` and `backend` in its groups and ignores them.
    optimizer.load_state_dict(state)
    return new, optimizer


@pytest.mark.parametrize("ours_first", [True, False])
def test_checkpoints_go_both_ways_between_torch_and_deferred(ours_first):
    model = trained("replay" if ours_first else None, between=lambda *both: swapped(*both, deferred=not ours_first))
    torch.testing.assert_close(flat(model), flat(trained(None)), rtol=0, atol=2e-6)


def test_copies_and_pickles_train_on():
    def copied(model, optimizer):
        return copy.deepcopy((model, optimizer))

    torch.testing.assert_close(flat(trained("replay", between=copied)), flat(trained(None)), rtol=0, atol=1e-10)
    module = pickle.loads(pickle.dumps(DeferredEmbeddingBag(3, 2, "sum")))
    assert (type(module), module.mode) == (DeferredEmbeddingBag, "sum")


class BrokenError(Exception):
    pass


def test_an_exception_in_the_backward_moves_nothing_and_training_goes_on():
    def failing(grad):
        raise BrokenError

    def run(deferred, break_off):
        model = Bags(deferred, None, False)
        optimizer = (DeferredAdamW if deferred else torch.optim.AdamW)(model.parameters(), lr=0.1)
        rng = np.random.default_rng(0)
        for step in range(40):
            ids, offsets, targets = drawn(rng)
            if break_off and step % 7 == 6:
                before = flat(model)
                out = model(ids, offsets)
                sums, means = out.split([3, 1], 1)
                means.register_hook(failing)  # after the gradient of the sums, or before
                with pytest.raises(BrokenError):
                    (sums.sum() + (means * 2).sum()).backward()
                assert torch.equal(flat(model), before)
            optimizer.zero_grad()
            (model(ids, offsets) - targets).square().sum().backward()
            optimizer.step()
        return flat(model)

    torch.testing.assert_close(run(True, True), run(False, False), rtol=0, atol=1e-8)


def test_an_id_outside_the_table_raises_and_moves_nothing():
    model = Bags(True, None, False)
    optimizer = DeferredAdamW(model.parameters(), lr=0.1)
    for ids in ([0, 1], [1]):
        optimizer.zero_grad()
        model(torch.tensor(ids), torch.tensor([0])).sum().backward()
        optimizer.step()
    last = model.means.weight.table.rows.last.copy()
    for wrong in (ROWS, -1):
        with pytest.raises(RuntimeError, match="num_embeddings"):  # torch's own
            model.means(torch.tensor([0, wrong]), torch.tensor([0]))
    assert (model.means.weight.table.rows.last == last).all()
    with pytest.raises(ValueError, match="offsets"):
        model.means(torch.tensor([0, 1]))


def test_clipping_sees_the_norm_of_both_tables():
    norms = []
    for deferred in (True, False):
        model = Bags(deferred, None, False)
        model(torch.tensor([0, 1, 1, 8]), torch.tensor([0, 3, 3])).sum().backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1))
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), math.inf))
    torch.testing.assert_close(norms[:2], norms[2:])


class Halved(nn.EmbeddingBag):
    """A subclass with a forward of its own."""

    def forward(self, input, offsets=None, per_sample_weights=None):  # noqa: A002
        return super().forward(input, offsets, per_sample_weights) / 2


@pytest.mark.parametrize("kind", [nn.EmbeddingBag, Halved])
def test_attach_makes_bags_of_an_existing_model_deferred(kind):
    def run(deferred):
        torch.manual_seed(0)
        module = kind(5, 3, mode="sum", dtype=torch.float64)
        weight = module.weight
        if deferred:
            attach(module)
            assert module.weight is weight
            assert isinstance(module, DeferredEmbeddingBag)
            module = pickle.loads(pickle.dumps(module))
        optimizer = (DeferredAdamW if deferred else torch.optim.AdamW)(module.parameters(), lr=1e-2)
        for step in range(60):
            optimizer.zero_grad()
            module(torch.tensor([[step % 2, step % 2, 2 if step < 5 else 0]])).square().sum().backward()
            optimizer.step()
        if deferred:
            assert module.weight.table.pending
        return module.weight.detach().clone()

    torch.testing.assert_close(run(True), run(False), rtol=0, atol=1e-7)


def test_one_table_may_be_read_by_bags_and_by_an_embedding():
    def run(deferred):
        bag, embedding = (DeferredEmbeddingBag, DeferredEmbedding) if deferred else (nn.EmbeddingBag, nn.Embedding)
        bags, rows = (kind.from_pretrained(torch.ones(5, 2).double(), freeze=False) for kind in (bag, embedding))
        rows.weight = bags.weight
        params = bags.parameters()
        optimizer = DeferredAdamW(params, 1e-2, mode="replay") if deferred else torch.optim.AdamW(params, 1e-2)
        for step in range(60):
            optimizer.zero_grad()
            plain = functional.embedding_bag(torch.tensor([[step % 3]]), bags.weight, sparse=deferred)
            (bags(torch.tensor([[0, step % 4]])) * rows(torch.tensor([step % 3])) + plain).sum().backward()
            optimizer.step()
        if deferred:
            assert bags.weight.table.pending == 60
        return bags.weight.detach().clone()

    torch.testing.assert_close(run(True), run(False), rtol=0, atol=1e-7)


def test_another_tensor_in_the_place_of_the_weight_is_read_as_it_is():
    module = DeferredEmbeddingBag(3, 2, "sum")
    found = functional_call(module, {"weight": torch.ones(3, 2)}, (torch.tensor([[0, 1]]),))
    assert found.tolist() == [[2.0, 2.0]]


@pytest.mark.slow
def test_a_compiled_model_gives_the_same():
    model = Bags(True, None, False)
    ids, offsets = torch.tensor([0, 1, 1, 8]), torch.tensor([0, 3, 3])
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(ids, offsets), model(ids, offsets))


def test_bags_that_cannot_be_deferred_are_named():
    with pytest.raises(ValueError, match="mode='max': only bags with mean or sum"):
        DeferredEmbeddingBag(3, 2, "max")
    for bags, complaint in (
        (nn.EmbeddingBag(3, 2, mode="max"), "mode='max'"),
        (nn.EmbeddingBag(3, 2, max_norm=1.0), "max_norm"),
        (nn.EmbeddingBag(3, 2, scale_grad_by_freq=True, mode="sum"), "scale_grad_by_freq"),
        (DeferredEmbeddingBag(3, 2), "not deferred yet"),
    ):
        with pytest.raises(ValueError, match=complaint):
            attach(bags)

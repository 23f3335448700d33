from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import lookup

RIVALS = {
    "one_hot_matmul": lookup.one_hot_matmul,
    "prebuilt_one_hot_matmul": lambda ids, weight: lookup.prebuilt_one_hot_matmul(
        lookup.one_hot(ids, weight.shape[0], weight.dtype), weight
    ),
    "sparse_one_hot_matmul": lambda ids, weight: lookup.sparse_one_hot_matmul(
        lookup.sparse_one_hot(ids, weight.shape[0], weight.dtype), weight
    ),
    "index_select": lookup.index_select,
    "embedding": lookup.embedding,
}


@pytest.mark.parametrize("rival", RIVALS)
@settings(max_examples=25, deadline=None)
@given(classes=st.integers(1, 13), batch=st.integers(0, 17), width=st.integers(1, 7), seed=st.integers(0, 2**31))
def test_every_rival_reads_the_row_itself(rival, classes, batch, width, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(classes, (batch,), generator=generator)
    weight = torch.randn(classes, width, generator=generator)
    assert torch.equal(RIVALS[rival](ids, weight), weight[ids])


@pytest.mark.parametrize("rival", RIVALS)
def test_every_gradient_is_a_scatter_add_of_the_rows_gradients(rival):
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([3, 0, 3, 3, 5, 0])  # repeated ids add up; rows 1, 2 and 4 stay at zero
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(6, 4, generator=generator, dtype=torch.float64)

    (gradient,) = torch.autograd.grad(RIVALS[rival](ids, weight), weight, upstream)

    scattered = torch.zeros(6, 4, dtype=torch.float64).index_add_(0, ids, upstream)
    torch.testing.assert_close(gradient, scattered, rtol=1e-14, atol=1e-14)


def test_the_sparse_matrix_stores_the_ones_alone():
    ids = torch.tensor([2, 0, 2])
    sparse = lookup.sparse_one_hot(ids, 4)
    assert sparse.is_coalesced()
    assert sparse.values().tolist() == [1, 1, 1]
    assert torch.equal(sparse.to_dense(), lookup.one_hot(ids, 4))


@pytest.mark.parametrize("build", [lookup.one_hot, lookup.sparse_one_hot])
@pytest.mark.parametrize(("bad", "classes"), [(-1, 4), (4, 4), (0, 0), (0, -1)])
def test_an_id_outside_the_classes_is_an_error(build, bad, classes):
    with pytest.raises(RuntimeError):
        build(torch.tensor([0, bad]), classes)

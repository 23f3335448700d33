from __future__ import annotations

import pytest
import torch

from bench import test_lookup
from bench.harness import DEVICE, PROFILES


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

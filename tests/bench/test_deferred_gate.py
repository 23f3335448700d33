from __future__ import annotations

import pytest

from bench import test_deferred, test_tables
from bench.harness import InaccurateError, check_accuracy
from kernels.deferred.table import Table


@pytest.mark.parametrize("mode", ["folded", "replay"])
def test_deferred_steps_are_as_near_to_float64_as_torchs_own(mode):
    check_accuracy(test_deferred.accuracy(mode))


def test_a_net_for_tables_with_deferred_embeddings_is_as_near_to_float64_as_torchs_own():
    check_accuracy(test_tables.accuracy())


def test_steps_that_skip_the_rows_not_read_get_no_time(monkeypatch):
    monkeypatch.setattr(Table, "catch_up", lambda self, ids: None)
    monkeypatch.setattr(Table, "flush", lambda self: None)
    with pytest.raises(InaccurateError, match="distance from the float64 trajectory"):
        check_accuracy(test_deferred.accuracy("folded"))
    with pytest.raises(InaccurateError, match="distance from the float64 trajectory"):
        check_accuracy(test_tables.accuracy())

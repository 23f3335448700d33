from __future__ import annotations

import pytest

from bench import test_lookup
from bench.harness import PROFILES


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_the_corner_where_one_hot_wins(profile):
    corner = {
        case.implementation
        for case in test_lookup.cases(profile)
        if (case.classes, case.batch, case.pass_) == (10, 4096, "forward+backward")
    }
    assert corner == set(test_lookup.RIVALS)

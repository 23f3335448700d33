import math

import numpy as np
import pytest

from lesson.schedules import constant, epochs_for, one_cycle


def test_the_rate_goes_low_high_low_and_momentum_mirrors_it():
    lr, momentum = one_cycle(1000, 5e-3)
    assert lr[0] == pytest.approx(5e-3 / 25)
    assert lr[300] == lr.max() == pytest.approx(5e-3)
    assert lr[-1] == pytest.approx(5e-3 / 250_000, rel=1.5)  # the step after the last would be exactly that
    assert (momentum[0], momentum.min(), momentum[300]) == pytest.approx((0.95, 0.85, 0.85))
    assert (np.diff(lr[:301]) > 0).all()
    assert (np.diff(lr[300:]) < 0).all()
    assert (np.diff(momentum[:301]) < 0).all()
    assert (np.diff(momentum[300:]) > 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_schedules_have_their_length_and_finite_rates(steps):
    for column in one_cycle(steps, 1.0):
        assert len(column) == steps
        assert np.isfinite(column).all()


def test_a_constant_schedule_is_constant():
    assert constant(3, 0.1, 0.8).lr.tolist() == [0.1] * 3
    assert constant(3, 0.1, 0.8).momentum.tolist() == [0.8] * 3


@pytest.mark.parametrize(("steps", "rates"), [(1, [0.0004]), (2, [0.0004, 0.01]), (3, [0.0004, 0.01, 0.0075])])
def test_a_cycle_of_a_few_steps_begins_low_as_fastais(steps, rates):
    found = one_cycle(steps, 1e-2)
    assert found.lr.tolist() == pytest.approx(rates, abs=1e-7)
    assert found.momentum.tolist()[:2] == [0.95, 0.85][:steps]


@pytest.mark.parametrize("rows", [10, 64, 65, 144, 400, 4000])
def test_epochs_come_as_near_to_a_number_of_steps_as_any(rows):
    an_epoch = math.ceil(rows / 64)
    chosen = epochs_for(1000, rows)
    assert abs(chosen * an_epoch - 1000) == min(abs(epochs * an_epoch - 1000) for epochs in range(1, 1001))

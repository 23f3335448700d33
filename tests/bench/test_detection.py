"""How small a slowdown is seen: on a clock that only work moves, every one and never in vain."""

import random

import pytest

from bench import detection
from bench.harness import PROFILES
from tests.bench.test_harness import Machine


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()

    def clock():
        machine.now += 1e-9  # else a loop that waits would never end
        return machine.now

    monkeypatch.setattr(detection, "CLOCK", clock)
    return machine


@pytest.mark.parametrize(("slowdown", "least", "most"), [(0.0, 0, 1), (0.01, 5, 5), (0.05, 5, 5)])
def test_where_there_is_little_noise_every_slowdown_is_seen_and_few_where_there_is_none(machine, slowdown, least, most):
    noise = random.Random(0)

    def run():
        machine.now += 1e-4 * (1 + 1e-4 * noise.random())

    assert least <= detection.detected(run, slowdown, PROFILES["smoke"], 5)[0] <= most


def test_noise_hides_a_small_slowdown(machine):
    noise = random.Random(0)

    def run():
        machine.now += 1e-4 * noise.uniform(1, 3)

    assert detection.detected(run, 0.01, PROFILES["smoke"], 5)[0] < 5


def test_a_number_of_repeats_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        detection.main(["--repeats", "0"])
    assert "--repeats 0: at least 1 is needed" in capsys.readouterr().err

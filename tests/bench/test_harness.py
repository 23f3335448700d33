from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.signal import lfilter

from bench import harness
from bench.harness import Check, Floor, InaccurateError, check_accuracy, compare, median_ratio, rounding_bound

SMOKE = harness.PROFILES["smoke"]
FLOOR = Floor(bytes_per_second=1e9, flops_per_second=1e12)


class Machine:
    """A clock that only work moves: every call of `takes(seconds)` costs exactly that."""

    def __init__(self):
        self.now = 0.0
        self.calls = 0

    def clock(self):
        return self.now

    def takes(self, seconds):
        def run():
            self.now += seconds
            self.calls += 1

        return run


class Benchmark:
    """What the harness uses of pytest-benchmark's fixture."""

    def __init__(self):
        self.extra_info = {}
        self.disabled = False
        self.stats = SimpleNamespace(iterations=1, stats=SimpleNamespace(data=[]))
        self.rounds = 0

    def pedantic(self, target, setup=lambda: None, teardown=lambda: None, rounds=1, iterations=1):
        for _ in range(rounds):
            setup()
            target()
            teardown()
            self.rounds += 1
            self.stats.stats.data.append(1.0)


def accurate():
    exact = torch.ones(3, dtype=torch.float64)
    return {"out": Check(torch.ones(3), exact, rounding_bound(1, exact))}


def compared(ours, theirs, profile=SMOKE, **options):
    machine, benchmark = Machine(), Benchmark()
    run, baseline = machine.takes(ours), machine.takes(theirs)
    compare(benchmark, profile, FLOOR, run, baseline, accurate, clock=machine.clock, **options)
    return benchmark


def test_a_function_against_itself_has_ratio_one():
    info = compared(1e-5, 1e-5).extra_info
    assert [info["ratio"], info["ratio_low"], info["ratio_high"]] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(("ours", "theirs"), [(1e-6, 4e-4), (3e-2, 1e-5)])
def test_the_ratio_is_a_call_against_a_call_however_long_the_loops(ours, theirs):
    info = compared(ours, theirs).extra_info
    assert info["ratio"] == pytest.approx(ours / theirs)


def test_where_calls_do_several_steps_times_and_ratio_are_a_steps():
    benchmark = compared(0.2, 0.3, steps=(100, 10))
    assert benchmark.extra_info["ratio"] == pytest.approx(2e-3 / 3e-2)
    assert benchmark.extra_info["baseline_s"] == pytest.approx(3e-2)
    assert benchmark.extra_info["steps"] == 100
    assert benchmark.stats.iterations == 100  # pytest-benchmark divides by it


def test_a_drifting_machine_does_not_move_the_ratio():
    machine, benchmark = Machine(), Benchmark()
    slowness = iter(range(1, 10**6))

    def work(seconds):  # every call is slower than the one before
        machine.now += seconds * (1 + next(slowness) / 1000)

    compare(benchmark, SMOKE, FLOOR, lambda: work(2e-3), lambda: work(1e-3), accurate, clock=machine.clock)
    assert benchmark.extra_info["ratio"] == pytest.approx(2, rel=0.02)


def test_the_two_take_turns_at_going_first():
    machine, benchmark = Machine(), Benchmark()
    order = []

    def work(name):
        order.append(name)
        machine.now += 1.0  # so long that a loop is one call

    compare(benchmark, SMOKE, FLOOR, lambda: work("A"), lambda: work("B"), accurate, clock=machine.clock)
    assert "".join(order)[-2 * harness.MIN_PAIRS :] == "BAABBAABBAAB"


class Gpu:
    """A host and a device with a clock each: the device works off what the host has queued, never before that."""

    def __init__(self, monkeypatch):
        self.host = self.device = 0.0
        self.order = []
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = gpu.queue(0.0, 0.0)

            def synchronize(self):
                gpu.host = max(gpu.host, self.at)

            def elapsed_time(self, end):
                return (end.at - self.at) * 1e3

        class Cold:
            def zero_(self):
                gpu.order.append("flush")
                gpu.queue(5e-6, harness.FLUSH_SECONDS)

        def synchronize():
            gpu.host = max(gpu.host, gpu.device)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        monkeypatch.setattr(torch, "empty", lambda size, dtype, device: Cold())
        monkeypatch.setattr(harness.time, "perf_counter", lambda: gpu.host)

    def queue(self, host, device):
        self.host += host
        self.device = max(self.device, self.host) + device
        return self.device

    def takes(self, host, device):
        def run():
            self.order.append("run")
            self.queue(host, device)

        return run


@pytest.mark.parametrize("host", [2e-6, 5e-4, 2e-2])  # the last one is longer than a loop: it is called once
def test_on_a_gpu_the_devices_time_is_counted_however_long_the_host_takes_to_queue_a_call(monkeypatch, host):
    run = Gpu(monkeypatch).takes(host, 2e-5)
    assert harness.seconds_per_call(run, 3, clock=None) == pytest.approx(2e-5)


def test_on_a_gpu_every_call_that_is_counted_finds_cold_caches(monkeypatch):
    gpu = Gpu(monkeypatch)
    harness.seconds_per_call(gpu.takes(1e-6, 2e-5), 3, clock=None)
    first, *counted = "".join(name[0] for name in gpu.order).split("f")
    assert first == "r"  # how long the host takes
    assert [call for call in counted if call] == ["r"] * 3
    assert counted[0] == ""


def test_on_a_gpu_the_times_are_the_devices_and_the_hosts_stand_beside_them(monkeypatch):
    gpu, benchmark = Gpu(monkeypatch), Benchmark()
    run, baseline = gpu.takes(3e-4, 2e-5), gpu.takes(1e-4, 4e-5)
    compare(benchmark, SMOKE, FLOOR, run, baseline, accurate, clock=None, bytes_=1000)
    info = benchmark.extra_info
    assert info["ratio"] == pytest.approx(0.5)
    assert info["host_s"] == pytest.approx(3e-4)
    assert info["gb_per_s"] == pytest.approx(1e-6 / 2e-5)
    # pytest-benchmark's own timer has seen the flushes too.
    assert benchmark.stats.stats.data == pytest.approx([2e-5] * benchmark.rounds)


def test_a_loop_is_long_enough_for_the_clock():
    benchmark = compared(1e-6, 1e-6)
    assert benchmark.stats.iterations == pytest.approx(100, abs=1)  # 1 µs a call, .1 ms a loop


def test_a_call_shorter_than_the_clocks_tick_is_timed_in_a_loop():
    machine, benchmark = Machine(), Benchmark()
    run = machine.takes(1e-6)

    def coarse():
        return round(machine.now, 4)  # ticks of 100 µs

    compare(benchmark, SMOKE, FLOOR, run, run, accurate, clock=coarse)
    assert benchmark.extra_info["ratio"] == pytest.approx(1, abs=0.25)


def test_slow_calls_get_fewer_pairs_but_enough_for_an_interval():
    assert compared(1e-4, 1e-4).extra_info["ratio_pairs"] == SMOKE.pairs
    assert compared(10.0, 10.0).extra_info["ratio_pairs"] == harness.MIN_PAIRS


def test_bytes_become_a_rate_and_a_share_of_the_floor():
    info = compared(4e-3, 1e-3, bytes_=1_000_000).extra_info
    assert info["gb_per_s"] == pytest.approx(0.25)
    assert info["floor_fraction"] == pytest.approx(0.25)  # 1 MB at 1 GB/s is 1 ms


def test_arithmetic_can_be_the_floor():
    assert FLOOR.seconds(bytes_=8, flops=10**12) == 1


def test_an_implementation_that_returns_zeros_is_refused_before_any_timing():
    machine, benchmark = Machine(), Benchmark()
    weight = torch.full((5, 4), 1e-3)  # tiny, as at the lesson's initialization
    expected = weight.double()
    zeros = {"rows": Check(torch.zeros(5, 4), expected, rounding_bound(1, expected.abs()))}
    ours, theirs = machine.takes(1e-3), Machine().takes(1e-3)

    with pytest.raises(InaccurateError, match=r"rows\[0, 0\] is 0 and should be 0\.001"):
        compare(benchmark, SMOKE, FLOOR, ours, theirs, lambda: zeros, bytes_=1, clock=machine.clock)

    assert benchmark.rounds == 0
    assert benchmark.extra_info["accurate"] is False
    assert set(benchmark.extra_info) == {"accurate", "accuracy"}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.0001, -1.0])
def test_one_wrong_element_among_many_is_found_and_named(wrong):
    actual = torch.ones(7, 11)
    actual[5, 3] = wrong
    exact = torch.ones(7, 11, dtype=torch.float64)
    with pytest.raises(InaccurateError, match=r"out\[5, 3\].*1 of 77 elements"):
        check_accuracy({"out": Check(actual, exact, rounding_bound(7, exact))})


def test_a_wrong_shape_is_refused_even_where_it_would_broadcast():
    exact = torch.ones(7, dtype=torch.float64)
    with pytest.raises(InaccurateError, match="shape"):
        check_accuracy({"out": Check(torch.ones(1), exact, exact)})


def test_rounding_is_accepted_and_said():
    exact = torch.tensor([1.0, 0.0], dtype=torch.float64)
    actual = torch.tensor([1 + 2**-23, 0.0])  # one float32 step off, and nothing off where nothing may be
    assert check_accuracy({"out": Check(actual, exact, rounding_bound(4, exact))}) == ("of the float64 bound: out 25%")


def test_the_interval_is_the_binomial_one_between_order_statistics():
    ratios = [float(i) for i in range(1, 32)]
    # By the definition: the widest pair of order statistics that leaves at most 2.5 % on either side.
    below = int(scipy.stats.binom.ppf(0.025, 31, 0.5))
    assert median_ratio(ratios, [1.0] * 31) == (16, below, 32 - below, 31)
    assert scipy.stats.binom.cdf(below - 1, 31, 0.5) <= 0.025 < scipy.stats.binom.cdf(below, 31, 0.5)


def test_the_interval_covers_the_true_median_at_least_as_often_as_it_says():
    skewed = scipy.stats.lognorm(s=1.0)  # true median 1
    samples = skewed.rvs(size=(200, 15), random_state=1)
    intervals = [median_ratio(list(sample), [1.0] * 15) for sample in samples]
    assert sum(i.low <= 1 <= i.high for i in intervals) >= 0.92 * 200


def test_one_wild_timing_does_not_move_the_median():
    calm = median_ratio([1.0] * 15, [2.0] * 15)
    assert median_ratio([1.0] * 14 + [500.0], [2.0] * 15) == calm


def test_the_ratio_is_inside_its_interval_though_something_slows_a_stretch_of_the_pairs():
    random = np.random.default_rng(0)
    for slowed in (240, 320, 400):
        seconds = np.exp(0.05 * random.standard_normal(1601))
        seconds[500 : 500 + slowed] *= 1.3
        ratio = median_ratio(list(seconds), [1.0] * 1601)
        assert ratio.low <= ratio.ratio <= ratio.high


def test_of_many_pairs_whose_noise_lasts_the_interval_still_covers_the_true_median():
    random = np.random.default_rng(0)
    noise = lfilter([1.0], [1.0, -0.9], random.standard_normal((300, 1700)), axis=1)[:, 100:]  # lasts for ten pairs
    intervals = [median_ratio(list(1 + 0.001 * sample), [1.0] * 1600) for sample in noise]
    covered = np.mean([ratio.low <= 1 <= ratio.high for ratio in intervals])
    assert covered >= 0.95 - 5 * (0.95 * 0.05 / 300) ** 0.5  # as independent pairs they would be covered half as often
    assert all(ratio.pairs == 1600 for ratio in intervals)


def test_too_few_pairs_are_an_error_not_a_made_up_interval():
    with pytest.raises(ValueError, match=r"5 pairs.*at least 6"):
        median_ratio([1.0] * 5, [1.0] * 5)


def test_asked_for_no_timing_it_only_checks():
    machine, benchmark = Machine(), Benchmark()
    benchmark.disabled = True
    run = machine.takes(1e-3)
    compare(benchmark, SMOKE, FLOOR, run, run, accurate, clock=machine.clock)
    assert machine.calls == 2  # one to warm up, one for pytest-benchmark
    assert "ratio" not in benchmark.extra_info


@pytest.mark.parametrize("pairs", [39, 79, 80, 100, 119, 120, 161, 400])
def test_of_skewed_ratios_the_interval_covers_the_median_at_any_number_of_pairs(pairs):
    skewed = 1 + scipy.stats.expon(scale=0.1).rvs(size=(400, pairs), random_state=0)
    intervals = [median_ratio(list(sample), [1.0] * pairs) for sample in skewed]
    covered = np.mean([i.low <= 1 + 0.1 * np.log(2) <= i.high for i in intervals])
    assert covered >= 0.95 - 4 * (0.95 * 0.05 / 400) ** 0.5

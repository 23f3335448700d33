"""Runs a benchmark: first accuracy, then pairs of timings against a baseline, then the machine's floor.

An implementation and its baseline take turns within one run, so that both see the same clock rate, caches and other
processes. The result is their ratio: ratios carry over to other machines better than seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from scipy.stats import quantile_test
from torch import Tensor

from kernels import backends

Clock = Callable[[], float]

BLOCKS = 40
# Five pairs have no 95 % interval of a median: both ends would be outside with probability 2·½⁵ > .05.
MIN_PAIRS = 6
# The inner loop makes one timing this long, so that the clock costs under .1 %. Longer ones are not better: many short
# pairs in turns see a slowdown of 2 % in the time in which few long ones miss it (`python -m bench.detection`).
MIN_LOOP_SECONDS = 1e-4
# On a GPU an event is as exact as half a microsecond, and each call waits for a flush, so fewer calls make a timing.
MIN_DEVICE_SECONDS = 1e-4

# Written before each timing on a GPU, so that no call finds its operands in the caches: larger than any device's cache
# (MI300X's last level has 256 MB).
FLUSH_BYTES = 2**29
# The shortest time of a flush: on a B200 (8 TB/s), the fastest memory today.
FLUSH_SECONDS = FLUSH_BYTES / 8e12

# Triton kernels run on a GPU, native ones on a CPU. CUDA_VISIBLE_DEVICES= measures the CPU of a GPU machine.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
UNIT_ROUNDOFF = torch.finfo(torch.float32).eps / 2


def why_not_timed(implementation: str) -> str | None:
    """Why a backend cannot be timed on DEVICE; None if it can, and for implementations that are not a backend."""
    backend = implementation.split()[0]  # "native direct", "triton atomics"
    if backend not in backends.BACKENDS:
        return None
    if backend == "triton" and DEVICE.type == "cpu":
        return "Triton's kernels are timed on a GPU, and this machine has none"
    if backend == "triton" and backends.triton_interpreted():
        return "TRITON_INTERPRET=1 is set: the time would be the interpreter's"
    return backends.why_not(backend, DEVICE)


class Profile(NamedTuple):
    """The time for a comparison: at most `pairs` pairs, and after `seconds` no more than MIN_PAIRS."""

    name: str
    pairs: int
    seconds: float


PROFILES = {
    profile.name: profile
    for profile in (Profile("smoke", 151, 0.2), Profile("default", 1601, 1.2), Profile("full", 3201, 5.0))
}


class Case(NamedTuple):
    """One cell of a benchmark's grid. The fields are the row's columns, in `extra_info`."""

    op: str
    implementation: str
    baseline: str
    pass_: str  # forward, forward+backward, step or epoch
    classes: int | None = None
    rows: int | None = None  # of all tables together
    batch: int | None = None
    width: int | None = None
    params: int | None = None

    def columns(self) -> dict[str, str | int]:
        """The fields that are set, under their names in the report."""
        return {name.rstrip("_"): value for name, value in self._asdict().items() if value is not None}

    def __str__(self) -> str:
        columns = {k: v for k, v in self.columns().items() if k != "baseline"}
        return "-".join(f"{k}={v}" if isinstance(v, int) else v.replace(" ", "_") for k, v in columns.items())


class Check(NamedTuple):
    """A result and its float64 definition: |actual − expected| ≤ bound for every element."""

    actual: Tensor
    expected: Tensor
    bound: Tensor


class InaccurateError(AssertionError):
    """An implementation is outside its bound, so it is not timed."""


def rounding_bound(terms: int | Tensor, magnitude: Tensor) -> Tensor:
    """2·K·u·Σ|aᵢbᵢ| for a float32 sum of K `terms`, u = 2⁻²⁴. `magnitude` is Σ|aᵢbᵢ| in float64."""
    return 2 * terms * UNIT_ROUNDOFF * magnitude


def check_accuracy(checks: Mapping[str, Check]) -> str:
    """Check every result against its bound, and return in words how much of it the worst element uses.

    Raises:
        InaccurateError: an element is outside its bound, or not a number; the message names the worst one.
    """
    said = []
    for name, (actual, expected, bound) in checks.items():
        if actual.shape != expected.shape:
            raise InaccurateError(f"{name} has shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
        found = actual.detach().to("cpu", torch.float64)
        error = (found - expected).abs()
        # A bound of 0 with an error of 0 uses none of the bound.
        used = torch.where(error == 0, 0.0, error / bound).nan_to_num(nan=math.inf, posinf=math.inf)
        worst = int(used.argmax())
        share = float(used.flatten()[worst])
        if share > 1:
            index = [int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape)]
            raise InaccurateError(
                f"{name}{index} is {float(found.flatten()[worst]):.9g} and should be "
                f"{float(expected.flatten()[worst]):.9g} ± {float(bound.flatten()[worst]):.2g}; "
                f"{int((used > 1).sum())} of {used.numel()} elements are outside"
            )
        said.append(f"{name} {share:.0%}")
    return f"of the float64 bound: {', '.join(said)}"


def check_again(check: Callable[[], Mapping[str, Check]], inputs: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Check results again on other inputs, and compare the inputs with what was given.

    The numbers of each input, ids among them, change places, and those that are not ids their signs.

    Raises:
        InaccurateError: an input has changed, a result is outside its bound, or a call overwrites an earlier result.
    """
    for number, (tensor, before) in enumerate(zip(inputs, given, strict=True)):
        if not torch.equal(tensor.detach(), before):
            raise InaccurateError(f"a call changes its input {number}, {list(tensor.shape)}")
    first = check()
    kept = {name: result.actual.detach().clone() for name, result in first.items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor, before in zip(inputs, given, strict=True):
            others = before.flatten()[torch.randperm(before.numel(), generator=generator).to(before.device)]
            tensor.copy_((-others if tensor.is_floating_point() else others).view_as(tensor))
    try:
        check_accuracy(check())
    finally:
        with torch.no_grad():
            for tensor, before in zip(inputs, given, strict=True):
                tensor.copy_(before)
    for name, before in kept.items():
        if not torch.equal(first[name].actual.detach(), before):
            raise InaccurateError(f"a later call overwrites {name} of an earlier one")


def check_moves(run: Callable[[], object], moves: Callable[[], Sequence[Tensor]]) -> None:
    """Check that one more call still changes each of the tensors that `moves` reads.

    Raises:
        InaccurateError: one stays as it is.
    """
    before = [tensor.detach().clone() for tensor in moves()]
    run()
    for number, (tensor, was) in enumerate(zip(moves(), before, strict=True)):
        if torch.equal(tensor.detach(), was):
            raise InaccurateError(f"a call after the timing does not move tensor {number}, {list(tensor.shape)}")


class Ratio(NamedTuple):
    """Time over the baseline's time: below 1 is faster. `low` and `high` are its 95 % interval, and hold it."""

    ratio: float
    low: float
    high: float
    pairs: int


def median_ratio(seconds: list[float], baseline_seconds: list[float]) -> Ratio:
    """The median of paired ratios, or of blocks of many, with the binomial interval between order statistics.

    Timings are skewed and have outliers: this interval assumes no distribution, covers at least 95 % at any
    number of pairs, and draws no random numbers. It assumes independent ratios. Pairing timings that are close in
    time removes most of the drift that would make them dependent; what is left lasts for many short pairs. So many
    pairs are divided into about BLOCKS, in their order, and each block's median counts as one ratio. The result is the
    median of these: if another process slows a stretch of the pairs, the median of all pairs can lie outside the
    interval. A block has an odd size: the median of two or four is a mean, which of skewed ratios has another median.
    What does not fill a block is left out.

    Raises:
        ValueError: fewer than MIN_PAIRS pairs.
    """
    if len(seconds) < MIN_PAIRS:
        raise ValueError(f"{len(seconds)} pairs of timings: a 95 % interval needs at least {MIN_PAIRS}")
    ratios = [ours / theirs for ours, theirs in zip(seconds, baseline_seconds, strict=True)]
    size = len(ratios) // BLOCKS | 1
    blocks = [median(ratios[end - size : end]) for end in range(size, len(ratios) + 1, size)]
    interval = quantile_test(blocks, p=0.5).confidence_interval(0.95)
    return Ratio(median(blocks), float(interval.low), float(interval.high), len(seconds))


def seconds_per_call(run: Callable[[], object], repeats: int, clock: Clock | None) -> float:
    """Run `repeats` times and return the mean seconds per call.

    Measured by `clock`, or if it is None by the device: see `device_seconds_per_call`.
    """
    if clock is None:
        return device_seconds_per_call(run, repeats)
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def device_seconds_per_call(run: Callable[[], object], repeats: int) -> float:
    """The mean seconds between CUDA events on either side of each call, caches flushed before each.

    The host queues the call while the device flushes, often enough to keep the device busy until then, so that the
    host's time for a call (see `host_seconds`) does not count as the device's.
    """
    cold = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=DEVICE)
    flushes = 1 + math.ceil(2 * host_seconds(run) / FLUSH_SECONDS)  # twice: queuing a flush takes time too
    events = []
    for _ in range(repeats):
        for _ in range(flushes):
            cold.zero_()
        events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
        start, end = events[-1]
        start.record()
        run()
        end.record()
        end.synchronize()  # else the device would fall behind the host, and the queue would fill up
    return sum(start.elapsed_time(end) for start, end in events) / 1e3 / repeats  # elapsed_time is in milliseconds


def host_seconds(run: Callable[[], object]) -> float:
    """Seconds that the host takes to queue a call on an idle GPU: Python, torch.library, the launches."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return seconds


# On a GPU the device times itself. Code that still runs on the CPU uses time.perf_counter.
CLOCK: Clock | None = None if DEVICE.type == "cuda" else time.perf_counter


def repeats_for(run: Callable[[], object], clock: Clock | None) -> tuple[int, float]:
    """How many calls make a timing, and how many seconds this timing takes, on a GPU with its flushes."""

    def quickest(repeats: int) -> float:
        # The best of three: a short burst of another process would make the loop too short for the whole run.
        seconds = seconds_per_call(run, repeats, clock)
        if seconds > 20 * MIN_LOOP_SECONDS:
            return seconds
        return min(seconds, *(seconds_per_call(run, repeats, clock) for _ in range(2)))

    if clock is None:
        repeats = math.ceil(MIN_DEVICE_SECONDS / quickest(1))
        start = time.perf_counter()
        device_seconds_per_call(run, repeats)
        return repeats, time.perf_counter() - start
    repeats = 1
    while (seconds := quickest(repeats)) * repeats < MIN_LOOP_SECONDS / 2:
        repeats *= 4
    repeats = math.ceil(MIN_LOOP_SECONDS / seconds)
    return repeats, repeats * seconds


def time_pairs(
    benchmark: Any,
    run: Callable[[], object],
    baseline: Callable[[], object],
    profile: Profile,
    clock: Clock | None = CLOCK,
    steps: tuple[int, int] = (1, 1),
) -> tuple[list[float], list[float]]:
    """Time `run` in pytest-benchmark's rounds, and `baseline` just before each or, every other time, just after.

    The two take turns at going first, so that nothing periodic on the machine always hits the same one. Both have been
    called before the first round, so everything is compiled and caches are warm.

    Returns:
        Seconds per step of `run` and of `baseline`, one of each per round; a call does `steps` of them.
    """
    repeats, one = repeats_for(run, clock)
    baseline_repeats, other = repeats_for(baseline, clock)
    rounds = min(profile.pairs, max(MIN_PAIRS, int(profile.seconds / (one + other))))
    seconds: list[float] = []
    baseline_seconds: list[float] = []

    def settle(run: Callable[[], object], repeats: int) -> None:
        if repeats > 1:  # otherwise a short call would pay for the other's cache contents
            run()

    def time_baseline() -> None:
        settle(baseline, baseline_repeats)
        baseline_seconds.append(seconds_per_call(baseline, baseline_repeats, clock) / steps[1])

    def setup() -> None:
        benchmark.stats.iterations = repeats * steps[0]  # the loop is inside the target, unseen by pytest-benchmark
        if len(seconds) % 2 == 0:
            time_baseline()
        settle(run, repeats)

    def target() -> None:
        seconds.append(seconds_per_call(run, repeats, clock) / steps[0])

    def teardown() -> None:
        if len(seconds) % 2 == 0:
            time_baseline()

    benchmark.pedantic(target, setup=setup, teardown=teardown, rounds=rounds, iterations=1)
    # --benchmark-cprofile adds a round under the profiler: no timing.
    del seconds[rounds:], baseline_seconds[rounds:]
    # pytest-benchmark has timed all of `target`, on a GPU including its flushes.
    benchmark.stats.stats.data[:] = seconds
    return seconds, baseline_seconds


class Floor(NamedTuple):
    """The machine's limits: nothing that moves that many bytes or does that many operations is faster."""

    bytes_per_second: float
    flops_per_second: float

    def seconds(self, bytes_: int, flops: int) -> float:
        """The larger of bytes over bandwidth and operations over peak.

        The bandwidth is the main memory's: work on tensors in the caches can be faster than this.
        """
        return max(bytes_ / self.bytes_per_second, flops / self.flops_per_second)


def measure_floor(clock: Clock | None = CLOCK) -> Floor:
    """Bandwidth from an in-place add over 256 MiB (read and write), peak from a 2048² float32 matrix product.

    The add is in place because a copy has a hidden third transfer: it reads the destination before writing it.
    """
    large = torch.zeros(2**26, device=DEVICE)
    square = torch.ones(2048, 2048, device=DEVICE)
    product = torch.empty_like(square)

    def best(run: Callable[[], object]) -> float:
        return min(seconds_per_call(run, 1, clock) for _ in range(5))

    return Floor(
        bytes_per_second=2 * large.numel() * large.element_size() / best(lambda: large.add_(1.0)),
        flops_per_second=2 * 2048**3 / best(lambda: torch.mm(square, square, out=product)),
    )


def compare(
    benchmark: Any,
    profile: Profile,
    floor: Floor,
    run: Callable[[], object],
    baseline: Callable[[], object],
    check: Callable[[], Mapping[str, Check]],
    *,
    bytes_: int | None = None,
    flops: int = 0,
    clock: Clock | None = CLOCK,
    steps: tuple[int, int] = (1, 1),
    inputs: Sequence[Tensor] = (),
    moves: Callable[[], Sequence[Tensor]] | None = None,
) -> None:
    """Check `run`'s results, then time it against `baseline`, and put the outcome into `benchmark.extra_info`.

    Args:
        benchmark: pytest-benchmark's fixture.
        profile: the time for this comparison.
        floor: the machine's limits.
        run: one call of the implementation.
        baseline: one call of the baseline.
        check: the implementation's results and their float64 definition.
        bytes_: the bytes that every implementation must move.
        flops: the operations that every implementation must do.
        clock: seconds, monotonic; None for CUDA events.
        steps: how many steps a call of `run` and one of `baseline` do, if the row is about one step.
        inputs: what `run` reads and must not change. After the timing its results are checked again, on other numbers:
            so it does not help to remember answers, or to compute right ones only at first.
        moves: reads what every call of `run` changes, also one after the timing.

    Raises:
        InaccurateError: the results are outside their bound. Then nothing is timed; or it was, and the time is void.
    """
    info = benchmark.extra_info
    given = [tensor.detach().clone() for tensor in inputs]
    # The first call compiles: its time is shown separately, and only for accurate implementations.
    first_call = seconds_per_call(run, 1, clock) if clock else host_seconds(run)
    try:
        info.update(accuracy=check_accuracy(check()), accurate=True)
    except InaccurateError as error:
        info.update(accuracy=str(error), accurate=False)
        raise
    if benchmark.disabled:  # --benchmark-disable: no timing
        benchmark.pedantic(run)
        return
    baseline()
    seconds, baseline_seconds = time_pairs(benchmark, run, baseline, profile, clock, steps)
    try:
        if inputs:
            check_again(check, inputs, given)
        if moves is not None:
            check_moves(run, moves)
    except InaccurateError as error:
        info.update(accuracy=f"after the timing: {error}", accurate=False)
        raise
    ratio, low, high, pairs = median_ratio(seconds, baseline_seconds)
    info.update(ratio=ratio, ratio_low=low, ratio_high=high, ratio_pairs=pairs, first_call_s=first_call)
    info.update(baseline_s=median(baseline_seconds), steps=steps[0])
    if clock is None:
        info.update(host_s=median(host_seconds(run) for _ in range(MIN_PAIRS)))
    if bytes_ is not None:
        call = median(seconds)
        info.update(
            bytes=bytes_,
            gb_per_s=bytes_ / call / 1e9,
            floor_fraction=floor.seconds(bytes_, flops) / call,
        )

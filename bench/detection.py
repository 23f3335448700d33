"""`python -m bench.detection`: how small a slowdown the harness sees on this machine, and how often one that is not.

A native AdamW step over MovieLens 100k's tables is compared with itself, slowed down by a loop that waits for 0, 1, 2
or 5 % of its time. A slowdown is detected if the whole 95 % interval of the ratio lies above 1. At 0 %, an interval
beside 1 on either side is a false alarm.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace

import torch
from scipy.stats import binomtest

from bench.eager import ITEMS, USERS, WIDTH
from bench.harness import PROFILES, Profile, median_ratio, seconds_per_call, time_pairs
from bench.test_adam import adam_on, table_states

SLOWDOWNS = (0.0, 0.01, 0.02, 0.05)
CLOCK = time.perf_counter


class Rounds:
    """What `time_pairs` uses of pytest-benchmark's fixture."""

    def __init__(self) -> None:
        self.stats = SimpleNamespace(iterations=1, stats=SimpleNamespace(data=[]))

    def pedantic(
        self, target: Callable[[], None], setup: Callable[[], None], teardown: Callable[[], None], rounds: int, **_: int
    ) -> None:
        """Call the three in turns, `rounds` times."""
        for _ in range(rounds):
            setup()
            target()
            teardown()


def slowed(run: Callable[[], object], extra: float) -> Callable[[], object]:
    """A call that takes `extra` seconds longer."""

    def call() -> None:
        run()
        end = CLOCK() + extra
        while CLOCK() < end:
            pass

    return call


def detected(run: Callable[[], object], slowdown: float, profile: Profile, repeats: int) -> tuple[int, float]:
    """In how many of `repeats` comparisons the slowdown is seen, and the median width of their intervals."""
    seconds = min(seconds_per_call(run, 50, CLOCK) for _ in range(5))
    empty = min(seconds_per_call(slowed(lambda: None, 0.0), 1000, CLOCK) for _ in range(5))
    ours, theirs = slowed(run, slowdown * (seconds + empty)), slowed(run, 0.0)
    seen, widths = 0, []
    for _ in range(repeats):
        ratio = median_ratio(*time_pairs(Rounds(), ours, theirs, profile, CLOCK))
        seen += ratio.low > 1 or (slowdown == 0 and ratio.high < 1)
        widths.append(ratio.high - ratio.low)
    return seen, median(widths)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.detection", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bench-profile", choices=list(PROFILES), default="default")
    parser.add_argument("--repeats", type=int, default=30, help="comparisons for each slowdown (default: 30)")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: at least 1 is needed")
    torch.set_num_threads(1)
    states = table_states((USERS + ITEMS) * (WIDTH + 1))
    run = adam_on("native direct", states)[1]
    run()
    print(f"{'slowdown':>8}  {'detected':>9}  {'95 %':>12}  {'interval width':>14}   profile {options.bench_profile}")
    for slowdown in SLOWDOWNS:
        seen, width = detected(run, slowdown, PROFILES[options.bench_profile], options.repeats)
        share = binomtest(seen, options.repeats).proportion_ci(0.95, method="exact")
        what = f"{seen} of {options.repeats}"
        print(f"{slowdown:>8.0%}  {what:>9}  {share.low:>5.2f} – {share.high:.2f}  {width:>14.3f}", flush=True)


if __name__ == "__main__":
    main()

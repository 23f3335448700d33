"""Options of the tests and benchmarks, here because pytest looks for options only in the root conftest.

Otherwise `pytest --benchmark-only --bench-profile smoke` would read `smoke` as a path.
"""

import argparse

import pytest

from bench.limits import Gate, Limit


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--bench-profile`, `--bench-fail` and `--rounds`."""
    group = parser.getgroup("benchmark")
    group.addoption(
        "--bench-fail",
        action="append",
        default=[],
        type=_limit,
        metavar="LIMIT",
        help="Fail the run if a benchmark breaks this limit, such as 'ratio>1.05', or if none measures it; may be "
        "repeated. A ratio breaks it only if its whole interval does. Measures: ratio, seconds, host_s, memory_bytes, "
        "state_bytes, train_loss, floor_fraction.",
    )
    group.addoption(
        "--bench-profile",
        choices=["smoke", "default", "full"],
        default="default",
        help="How much to measure: smoke (two minutes), default (five to eight minutes on two cores) or full. "
        "Benchmarks run with --benchmark-only, or if bench/ is named (pytest bench); "
        "a plain pytest leaves them out.",
    )
    parser.getgroup("faults").addoption(
        "--rounds", type=int, default=4, help="How often the tests of faults (-m faults) repeat each fault."
    )


def _limit(text: str) -> Limit:
    try:
        return Limit.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def pytest_configure(config: pytest.Config) -> None:
    """Register what checks the limits."""
    if limits := config.getoption("bench_fail"):
        config.pluginmanager.register(Gate(limits))

"""The benchmarks' option, here because pytest looks for options only in the root conftest.

Otherwise `pytest --benchmark-only --bench-profile smoke` would read `smoke` as a path.
"""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--bench-profile`."""
    parser.getgroup("benchmark").addoption(
        "--bench-profile",
        choices=["smoke", "default", "full"],
        default="default",
        help="How much to measure: smoke (about a minute), default (five minutes on two cores) or full. "
        "Benchmarks run with --benchmark-only, or if bench/ is named (pytest bench); "
        "a plain pytest leaves them out.",
    )

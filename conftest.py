"""The benchmarks' option, here because pytest looks no deeper for options before it knows them.

Otherwise `pytest --benchmark-only --bench-profile smoke` would take `smoke` for a path.
"""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--bench-profile`."""
    parser.getgroup("benchmark").addoption(
        "--bench-profile",
        choices=["smoke", "default", "full"],
        default="default",
        help="How much to measure: smoke (about a minute), default (five minutes on two cores) or full. "
        "Benchmarks run with --benchmark-only, or where bench/ is named (pytest bench); "
        "a plain pytest leaves them out.",
    )

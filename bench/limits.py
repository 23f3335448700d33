"""The limits of `--bench-fail`: a run whose rows break one fails, as people's CI needs it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

# The rows that have a time, which bench/conftest.py collects.
TIMED = pytest.StashKey[list[dict[str, Any]]]()

# What a limit may be about. A ratio breaks it only if its whole interval does: noise alone fails no run.
MEASURES = ("ratio", "seconds", "host_s", "memory_bytes", "state_bytes", "train_loss", "floor_fraction")
NUMBER = r"\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?"


class Limit(NamedTuple):
    """A row breaks it if its `measure` is above (">") or below ("<") the value.

    >>> Limit.of("ratio>1.05")
    Limit(measure='ratio', sign='>', value=1.05)
    """

    measure: str
    sign: str
    value: float

    @classmethod
    def of(cls, text: str) -> Limit:
        """Read `MEASURE>NUMBER` or `MEASURE<NUMBER`.

        Raises:
            ValueError: it is neither, or the measure is unknown.
        """
        found = re.fullmatch(rf"\s*(\w+)\s*([<>])\s*({NUMBER})\s*", text)
        if found is None or found[1] not in MEASURES or not math.isfinite(float(found[3])):
            raise ValueError(f"{text!r}: write it as ratio>1.05, with one of {', '.join(MEASURES)}, and < or >")
        return cls(found[1], found[2], float(found[3]))

    def value_of(self, row: dict[str, Any]) -> float | None:
        """The number of a row that this limit is about; of a ratio, the interval's end that breaks it last."""
        info = row["extra_info"] | {"seconds": row["seconds"]}
        nearest = {"ratio>": "ratio_low", "ratio<": "ratio_high"}.get(self.measure + self.sign, self.measure)
        return info.get(nearest)

    def broken_by(self, row: dict[str, Any]) -> bool:
        """Whether a row breaks it; a row without this measure does not."""
        value = self.value_of(row)
        if value is None:
            return False
        return bool(value > self.value if self.sign == ">" else value < self.value)

    def __str__(self) -> str:
        return f"{self.measure}{self.sign}{self.value:.15g}"


class Gate:
    """Fails a run in which a row breaks a limit, or no row has what a limit is about."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = limits

    def failures(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """A line for each limit that nothing was measured for, and for each limit and row that breaks it."""
        said = []
        for limit in self.limits:
            if all(limit.value_of(row) is None for row in rows):
                said.append(f"{limit}: no benchmark measured its {limit.measure}")
            said += [f"{limit}: {row['fullname']}" for row in rows if limit.broken_by(row)]
        return said

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that would otherwise pass."""
        passed = session.exitstatus == pytest.ExitCode.OK and not session.config.getoption("collectonly")
        if passed and self.failures(session.config.stash.get(TIMED, [])):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Print what failed."""
        failures = self.failures(config.stash.get(TIMED, []))
        if failures and not config.getoption("collectonly"):
            terminalreporter.section("limits not kept")
            for line in failures:
                terminalreporter.write_line(line)

"""Writes a run of the benchmarks to the file that the pages use, which a smaller run never replaces."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.utils import safe_dumps

from bench import harness
from studies.evidence.schema import read_bytes, write_text

HERE = Path(__file__).parent
RESULTS = Path("results")  # relative to the root; `python -m reports` reads the files there


class Keeper:
    """Writes a file at the end of a run whose options name no other: all benchmarks, or what -m gpu selects.

    Args:
        mark: what -m selects: benchmarks without this mark are not missing from the run, and the file's name is the
            mark's. None selects all benchmarks.
    """

    def __init__(self, mark: str | None = None) -> None:
        self.mark = mark
        self.file = RESULTS / f"{mark or 'benchmarks'}.json"
        self.left_out = False
        self.outcome = ""
        self.tests: Counter[str] = Counter()
        self.done: set[str] = set()

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Note that a run with -k, -m or similar is not whole."""
        benchmarks = (item for item in items if item.path.is_relative_to(HERE))
        self.left_out |= any(self.mark is None or item.get_closest_marker(self.mark) for item in benchmarks)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which items are done, and count the outcomes of the tests that run beside the benchmarks."""
        if report.when == "teardown":
            self.done.add(report.nodeid)
        if not report.nodeid.startswith(f"{HERE.name}/") and (report.when == "call" or report.outcome != "passed"):
            self.tests[report.outcome] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the run, or print why the old file is kept."""
        config = session.config
        measured = config.pluginmanager.get_plugin("pytest-benchmark")
        if not measured.benchmarks:
            return
        hook, path = config.hook, config.rootpath / self.file
        commit = hook.pytest_benchmark_generate_commit_info(config=config)
        hook.pytest_benchmark_update_commit_info(config=config, commit_info=commit)
        output = hook.pytest_benchmark_generate_json(
            config=config,
            benchmarks=measured.benchmarks,
            include_data=True,
            machine_info=measured.get_machine_info(),
            commit_info=commit,
        )
        hook.pytest_benchmark_update_json(config=config, benchmarks=measured.benchmarks, output_json=output)
        output["bench_profile"] = config.getoption("bench_profile")
        output["tests"] = dict(self.tests)
        try:
            if reason := why_keep(path, output, self.is_whole(session)):
                self.outcome = f"{path} is kept: {reason}; --benchmark-json FILE writes this run elsewhere"
                return
            write_text(path, safe_dumps(output, ensure_ascii=True, indent=4) + "\n")
        except OSError as error:
            self.outcome = f"error: {path} cannot be written ({error.strerror})"
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            return
        self.outcome = f"written to {path}; `python -m reports` draws the pages"

    def is_whole(self, session: pytest.Session) -> bool:
        """Whether every benchmark of the profile was selected and done."""
        config = session.config
        start = config.invocation_params.dir
        named = any(HERE.is_relative_to((start / arg).resolve()) for arg in config.args)
        # With these whole files are not collected, which no hook is told.
        options = ("ignore", "ignore_glob", "lf", "continue_on_collection_errors")
        narrowed = self.left_out or any(config.getoption(option, False) for option in options)
        return named and not narrowed and all(item.nodeid in self.done for item in session.items)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print where the run is."""
        if self.outcome:
            terminalreporter.section(self.file.name)
            terminalreporter.write_line(self.outcome)


def why_keep(path: Path, new: dict[str, Any], is_whole: bool) -> str | None:
    """Why the file of an earlier run is not replaced by a new one; None if it may be.

    Args:
        path: the earlier run's file.
        new: the new run's data.
        is_whole: whether the new run had all benchmarks of its profile.
    """
    if not os.path.lexists(path):
        return None
    try:
        old = json.loads(read_bytes(path))
        theirs, ours = names(old), names(new)
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return "this suite did not write it"
    ranks = list(harness.PROFILES)
    profile = old.get("bench_profile", "default")  # a file from before this was recorded
    if profile not in ranks or ranks.index(profile) > ranks.index(new["bench_profile"]):
        return f"it holds the {profile} profile, which is more than {new['bench_profile']}"
    if not is_whole and theirs - ours:
        return f"it holds benchmarks that this run left out ({len(theirs - ours):,})"
    return None


def names(output: dict[str, Any]) -> set[str]:
    """The benchmarks that were done, timed or not."""
    return {row["fullname"] for row in [*output["benchmarks"], *output.get("not_timed", [])]}

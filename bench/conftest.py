"""The benchmarks' options, fixtures and summary. `bench/harness.py` describes the timing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import harness, keeping
from bench.limits import TIMED

NOT_TIMED = pytest.StashKey[list[dict[str, Any]]]()
SETTINGS = [field.rstrip("_") for field in harness.Case._fields]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TIMED] = []
    config.stash[NOT_TIMED] = []
    asked = [config.getoption(f"benchmark_{option}") for option in ("json", "save", "autosave", "disable", "skip")]
    mark = "gpu" if config.getoption("markexpr") == "gpu" else None
    whole = config.getoption("benchmark_only") or mark
    if whole and not any(asked) and not config.getoption("collectonly"):
        config.pluginmanager.register(keeping.Keeper(mark))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("markexpr") == "gpu" and harness.DEVICE.type == "cpu":
        for item in items:
            item.add_marker(pytest.mark.skip(reason="this machine has no GPU"))
    here = Path(__file__).parent
    start = config.invocation_params.dir
    named = config.args_source is not config.ArgsSource.TESTPATHS and any(
        (start / arg.split("::")[0]).resolve().is_relative_to(here) for arg in config.args
    )
    only = config.getoption("benchmark_only")
    if named and not only:
        return
    # Without --benchmark-only only tests run; with it only benchmarks.
    config.hook.pytest_deselected(items=[item for item in items if item.path.is_relative_to(here) != only])
    items[:] = [item for item in items if item.path.is_relative_to(here) == only]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # A benchmark's grid is what its module's `cases(profile)` returns.
    if "case" in metafunc.fixturenames:
        grid = metafunc.module.cases(metafunc.config.getoption("bench_profile"))
        marked = [
            pytest.param(case, marks=pytest.mark.gpu if case.implementation.startswith("triton") else ())
            for case in grid
        ]
        metafunc.parametrize("case", marked, ids=[str(case) for case in grid])


@pytest.fixture(scope="session")
def floor() -> harness.Floor:
    """The machine's floor, measured once, in the same run as everything that is compared with it."""
    return harness.measure_floor()


@pytest.fixture
def compare(
    request: pytest.FixtureRequest, benchmark: Any, case: harness.Case, floor: harness.Floor
) -> Callable[..., None]:
    """`harness.compare` for this case: only the outcome is missing from its row."""
    benchmark.extra_info.update(case.columns(), threads=torch.get_num_threads())
    profile = harness.PROFILES[request.config.getoption("bench_profile")]
    return partial(harness.compare, benchmark, profile, floor)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if benchmark is not None and call.when == "call":
        row = {"group": benchmark.group, "fullname": benchmark.fullname, "extra_info": benchmark.extra_info}
        if call.excinfo is not None:
            item.config.stash[NOT_TIMED].append({**row, "reason": str(call.excinfo.value)})
            if benchmark.stats is not None:  # it was timed before it was refused: no table and no file shows that time
                item.config.pluginmanager.get_plugin("pytest-benchmark").benchmarks.remove(benchmark.stats)
        elif benchmark.stats is not None:
            item.config.stash[TIMED].append({**row, "seconds": benchmark.stats.stats.median})
    return report


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["cpu_name"] = machine_info["cpu"].get("brand_raw", machine_info["processor"])
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    # Cases that failed the accuracy check, or cannot run here, have no timing and no row in pytest-benchmark's table.
    output_json["not_timed"] = config.stash[NOT_TIMED]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    timed, not_timed = config.stash[TIMED], config.stash[NOT_TIMED]
    if timed:
        terminalreporter.section("time / baseline's time, with its 95 % interval (below 1 is faster)")
    for group in sorted({row["group"] for row in timed}):
        terminalreporter.write_line(summary_table(group, [row for row in timed if row["group"] == group]))
    if not_timed:
        terminalreporter.section("not timed")
    reasons = Counter((row["group"], row["extra_info"]["implementation"], row["reason"]) for row in not_timed)
    for (group, implementation, reason), count in reasons.items():
        terminalreporter.write_line(f"{group} {implementation}, {count} of its sizes and passes: {reason}")


def summary_table(group: str, rows: list[dict[str, Any]]) -> str:
    """One group as text. Columns are fields that differ between rows; the heading has the rest."""
    import pandas as pd  # takes half a second, which other runs should not pay

    frame = pd.DataFrame([row["extra_info"] for row in rows])
    settings = frame[[column for column in SETTINGS if column in frame]]
    same = [column for column in settings if (settings[column] == settings[column].iloc[0]).all()]
    same = [column for column in same if column != "implementation"]
    table = settings.drop(columns=same)
    table["time"] = [f"{row['seconds'] * 1e6:,.1f} µs" for row in rows]
    table["ratio"] = [f"{ratio:.3g}" for ratio in frame["ratio"]]
    table["95 %"] = [f"[{low:.3g}, {high:.3g}]" for low, high in zip(frame.ratio_low, frame.ratio_high, strict=True)]
    if "floor_fraction" in frame:
        table["of floor"] = [f"{share:.0%}" for share in frame.floor_fraction]
    if "host_s" in frame:
        table["host"] = [f"{seconds * 1e6:,.1f} µs" for seconds in frame.host_s]
    if "memory_bytes" in frame:
        table["memory"] = [f"{size / 1e6:,.3g} MB" for size in frame.memory_bytes]
    if "state_bytes" in frame:
        table["state"] = ["" if pd.isna(size) else f"{size / 1e3:,.0f} kB" for size in frame.state_bytes]
        table["train loss"] = ["" if pd.isna(loss) else f"{loss:.4f}" for loss in frame.train_loss]
    heading = ", ".join(f"{column} {settings[column].iloc[0]}" for column in same)
    return f"\n{group} ({heading})\n{table.to_string(index=False)}"

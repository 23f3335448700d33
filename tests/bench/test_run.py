"""The command line, the JSON and the summary, on a project of one small benchmark."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.conftest import pytest_collection_modifyitems

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

BENCHMARK = """
import pytest
import torch
from bench.harness import Case, Check, Floor, rounding_bound

pytestmark = pytest.mark.benchmark(group="doubling")

@pytest.fixture(scope="session")
def floor():  # the machine's takes a second to measure
    return Floor(1e9, 1e9)

def cases(profile):
    return [Case("double", name, "add", "forward", batch=7) for name in ("add", "zeros", "absent")]

def test_doubling(case, compare):
    if case.implementation == "absent":
        pytest.skip("no such machine here")
    x = torch.ones(case.batch)
    run = {"add": lambda: x + x, "zeros": lambda: 0 * x}[case.implementation]
    exact = 2 * x.double()
    check = lambda: {"out": Check(run(), exact, rounding_bound(1, exact))}
    compare(run, lambda: x + x, check, bytes_=8 * case.batch)
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A checkout in small: bench/ with the real conftest and harness, and a test beside it."""
    shutil.copytree(ROOT / "bench", pytester.path / "bench", ignore=shutil.ignore_patterns("test_*", "__pycache__"))
    shutil.copy(ROOT / "conftest.py", pytester.path)
    pytester.path.joinpath("bench", "test_doubling.py").write_text(BENCHMARK)
    pytester.path.joinpath("tests").mkdir()
    pytester.path.joinpath("tests", "test_plain.py").write_text("def test_plain(): pass")
    pytester.makepyprojecttoml(
        """
        [tool.pytest.ini_options]
        testpaths = ["tests", "bench"]
        addopts = ["--import-mode=importlib"]
        pythonpath = ["."]
        """
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for kernels
    return pytester


def test_a_run_says_what_was_timed_and_what_was_not(project):
    result = project.runpytest_subprocess("--benchmark-only", "--bench-profile=smoke", "--benchmark-json=out.json")

    result.assert_outcomes(passed=1, failed=1, skipped=1, deselected=1)  # the plain test is left out
    result.stdout.fnmatch_lines(
        [
            "*doubling (op double, baseline add, pass forward, batch 7)*",
            "*implementation*time*ratio*95 %*of floor*",
            "*add*µs*[[]*]*%*",
            "*not timed*",
            "doubling zeros, 1 of its sizes and passes: out[[]0] is 0 and should be 2*",
            "doubling absent, 1 of its sizes and passes: no such machine here",
        ]
    )
    out = json.loads(project.path.joinpath("out.json").read_text())
    (row,) = out["benchmarks"]
    assert row["group"] == "doubling"
    info = row["extra_info"]
    assert {name: info[name] for name in ("op", "implementation", "baseline", "pass", "batch", "accurate")} == {
        "op": "double",
        "implementation": "add",
        "baseline": "add",
        "pass": "forward",
        "batch": 7,
        "accurate": True,
    }
    assert 0 < info["ratio_low"] <= info["ratio"] <= info["ratio_high"]
    assert info["ratio_pairs"] == row["stats"]["rounds"]
    # pytest-benchmark's own statistics are a call's, not those of the loop that is timed.
    assert info["gb_per_s"] == pytest.approx(56 / row["stats"]["median"] / 1e9, rel=0.05)
    assert {"torch", "threads", "cpu_name"} <= set(out["machine_info"])

    zeros, absent = out["not_timed"]
    assert zeros["extra_info"]["implementation"] == "zeros"
    assert zeros["extra_info"]["accurate"] is False
    assert not {"ratio", "bytes", "gb_per_s", "first_call_s"} & set(zeros["extra_info"])
    assert absent["reason"] == "no such machine here"


def test_a_plain_run_leaves_the_benchmarks_out(project):
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=1, deselected=3)


def test_tests_run_in_tritons_interpreter_and_benchmarks_of_the_whole_project_do_not(project, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    shutil.copy(ROOT / "tests" / "conftest.py", project.path / "tests")
    project.path.joinpath("tests", "test_plain.py").write_text(
        "import os\ndef test_plain(): assert os.environ['TRITON_INTERPRET'] == '1'"
    )
    head = "def test_doubling(case, compare):\n"
    project.path.joinpath("bench", "test_doubling.py").write_text(
        "import os\n" + BENCHMARK.replace(head, head + "    assert 'TRITON_INTERPRET' not in os.environ\n")
    )
    project.runpytest_subprocess().assert_outcomes(passed=1, deselected=3)
    result = project.runpytest_subprocess("--benchmark-only", "--bench-profile=smoke")
    result.assert_outcomes(passed=1, failed=1, skipped=1, deselected=1)


def test_an_unknown_profile_is_an_error_that_names_the_known_ones(project):
    result = project.runpytest_subprocess("bench", "--bench-profile", "large")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--bench-profile: invalid choice: 'large' (choose from *smoke*, *default*, *full*)"])


@pytest.mark.parametrize(
    ("arguments", "only", "kept"),
    [
        (["tests", "bench"], False, ["tests", "bench"]),
        (["bench/test_lookup.py"], False, ["tests", "bench"]),
        (["bench/test_lookup.py::test_lookup[x]"], False, ["tests", "bench"]),
        (["."], False, ["tests"]),
        (["."], True, ["bench"]),
        (["tests", "bench"], True, ["bench"]),
    ],
)
def test_benchmarks_run_where_they_are_named_or_asked_for_and_then_alone(arguments, only, kept):
    config = SimpleNamespace(
        ArgsSource=pytest.Config.ArgsSource,
        args_source=pytest.Config.ArgsSource.ARGS,
        args=arguments,
        invocation_params=SimpleNamespace(dir=ROOT),
        getoption={"benchmark_only": only}.get,
        hook=SimpleNamespace(pytest_deselected=lambda items: None),
    )
    benchmark, plain = (SimpleNamespace(path=ROOT / folder / "test_lookup.py") for folder in ("bench", "tests"))
    items = [plain, benchmark]
    pytest_collection_modifyitems(config, items)
    assert [item.path.parent.name for item in items] == kept

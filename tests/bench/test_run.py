"""The command line, the JSON and the summary, on a project of one small benchmark."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import keeping
from bench.conftest import pytest_collection_modifyitems

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pytest-benchmark is told that other tests run beside it, it measures nothing."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


BENCHMARK = """
import pytest
import torch
from bench.harness import Case, Check, Floor, rounding_bound

pytestmark = pytest.mark.benchmark(group="doubling")

@pytest.fixture(scope="session")
def floor():  # the machine's takes a second to measure
    return Floor(1e9, 1e9)

def cases(profile):
    return [Case("double", name, "add", "forward", batch=7) for name in ("add", "zeros", "kept", "absent")]

def test_doubling(case, compare):
    if case.implementation == "absent":
        pytest.skip("no such machine here")
    x = torch.ones(case.batch)
    known = 2 * x
    run = {"add": lambda: x + x, "zeros": lambda: 0 * x, "kept": lambda: known}[case.implementation]

    def check():
        exact = 2 * x.double()
        return {"out": Check(run(), exact, rounding_bound(1, exact.abs()))}

    compare(run, lambda: x + x, check, bytes_=8 * case.batch, inputs=[x])
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
    limits = ["--bench-fail=seconds>100", "--bench-fail=host_s>1"]
    result = project.runpytest_subprocess("--benchmark-only", "--bench-profile=smoke", *limits)

    result.assert_outcomes(passed=1, failed=2, skipped=1, deselected=1)  # the plain test is left out
    result.stdout.fnmatch_lines(
        [
            "*doubling (op double, baseline add, pass forward, batch 7)*",
            "*implementation*time*ratio*95 %*of floor*",
            "*add*µs*[[]*]*%*",
            "*not timed*",
            "doubling zeros, 1 of its sizes and passes: out[[]0] is 0 and should be 2*",
            "doubling kept, 1 of its sizes and passes: out[[]0] is 2 and should be -2*",
            "doubling absent, 1 of its sizes and passes: no such machine here",
        ]
    )
    result.stdout.fnmatch_lines(["host_s>1: no benchmark measured its host_s"])
    result.stdout.no_fnmatch_line("seconds>100: *")
    result.stdout.no_fnmatch_line("test_doubling*kept*")  # in pytest-benchmark's table of times
    result.stdout.fnmatch_lines(["*written to *results/benchmarks.json; `python -m reports` draws the pages"])
    assert [path.name for path in kept(project).parent.iterdir()] == ["benchmarks.json"]
    out = json.loads(kept(project).read_text())
    assert out["bench_profile"] == "smoke"
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

    zeros, kept_, absent = out["not_timed"]
    assert kept_["extra_info"]["accuracy"].startswith("after the timing: ")
    assert zeros["extra_info"]["implementation"] == "zeros"
    assert zeros["extra_info"]["accurate"] is False
    assert not {"ratio", "bytes", "gb_per_s", "first_call_s"} & set(zeros["extra_info"])
    assert absent["reason"] == "no such machine here"


def kept(project):
    return project.path / "results" / "benchmarks.json"


@pytest.mark.slow
def test_a_part_of_a_run_replaces_nothing_and_a_file_that_is_named_is_the_only_one(project):
    project.runpytest_subprocess("--benchmark-only", "--bench-profile=smoke", "--benchmark-json=out.json")
    assert project.path.joinpath("out.json").exists()
    assert not kept(project).exists()

    project.runpytest_subprocess("--benchmark-only", "--bench-profile=smoke")
    before = kept(project).read_text()
    result = project.runpytest_subprocess("bench", "--benchmark-only", "--bench-profile=smoke", "-k", "double-add")
    result.stdout.fnmatch_lines(
        ["*benchmarks.json is kept: it holds benchmarks that this run left out (3); --benchmark-*"]
    )
    assert kept(project).read_text() == before


def run_of(names, **more):
    return {"benchmarks": [{"fullname": name} for name in names], **more}


@pytest.mark.parametrize(
    ("there", "is_whole", "said"),
    [
        (run_of("ab", bench_profile="full"), True, "it holds the full profile, which is more than default"),
        (run_of("ab", bench_profile="unknown"), True, "it holds the unknown profile, which is more than default"),
        (run_of("abc", bench_profile="default"), False, "it holds benchmarks that this run left out (1)"),
        (run_of("a", not_timed=[{"fullname": "d"}]), False, "it holds benchmarks that this run left out (1)"),
        (run_of("ab", bench_profile="default"), False, None),
        (run_of("abc", bench_profile="default"), True, None),  # a benchmark that is gone is kept by no file
        (run_of("abc", bench_profile="smoke"), True, None),
        (run_of("abc"), True, None),  # written before profiles were
        ("theirs", True, "this suite did not write it"),
        (["theirs"], True, "this suite did not write it"),
        ({"benchmarks": [1]}, True, "this suite did not write it"),
        (None, True, "this suite did not write it"),
    ],
)
def test_a_run_replaces_no_file_that_holds_more_or_is_anothers(tmp_path, there, is_whole, said):
    path = tmp_path / "benchmarks.json"
    new = run_of("a", bench_profile="default", not_timed=[{"fullname": "b"}])
    assert keeping.why_keep(path, new, is_whole) is None
    path.write_text(json.dumps(there))
    assert keeping.why_keep(path, new, is_whole) == said


def test_a_link_that_leads_nowhere_is_not_replaced(tmp_path):
    (tmp_path / "benchmarks.json").symlink_to("nowhere")
    assert keeping.why_keep(tmp_path / "benchmarks.json", run_of("a"), True) == "this suite did not write it"


def test_a_file_that_cannot_be_written_is_said_and_ends_the_run_with_an_error(tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    measured = SimpleNamespace(benchmarks=["a"], get_machine_info=dict)
    hook = SimpleNamespace(
        pytest_benchmark_generate_commit_info=lambda **_: {},
        pytest_benchmark_update_commit_info=lambda **_: None,
        pytest_benchmark_generate_json=lambda **_: run_of("a"),
        pytest_benchmark_update_json=lambda **_: None,
    )
    plugins = SimpleNamespace(get_plugin=lambda name: measured)
    config = SimpleNamespace(
        hook=hook, rootpath=tmp_path, pluginmanager=plugins, args=[], invocation_params=SimpleNamespace(dir=ROOT)
    )
    config.getoption = {"bench_profile": "smoke"}.get
    session = SimpleNamespace(config=config, items=[], exitstatus=0)
    keeper = keeping.Keeper()
    keeper.pytest_sessionfinish(session)
    assert keeper.outcome.startswith(f"error: {tmp_path}/results/benchmarks.json cannot be written (")
    assert session.exitstatus == pytest.ExitCode.INTERNAL_ERROR


@pytest.mark.parametrize(
    ("arguments", "options", "is_whole"),
    [
        ([str(ROOT)], {}, True),
        (["tests", "bench"], {}, True),
        (["bench/test_lookup.py"], {}, False),
        (["bench"], {"ignore": ["bench/test_lookup.py"]}, False),
        (["bench"], {"lf": True}, False),
        (["bench"], {"continue_on_collection_errors": True}, False),
    ],
)
def test_a_run_is_whole_that_names_all_benchmarks_and_does_each(arguments, options, is_whole):
    config = SimpleNamespace(
        args=arguments,
        invocation_params=SimpleNamespace(dir=ROOT),
        getoption=lambda name, default=None: options.get(name, default),
    )
    session = SimpleNamespace(config=config, items=[SimpleNamespace(nodeid=f"bench/a.py::{name}") for name in "bc"])
    keeper = keeping.Keeper()
    reports = [("b", "setup"), ("b", "call"), ("b", "teardown"), ("c", "setup"), ("c", "teardown")]  # c is skipped
    for name, when in reports:
        assert not keeper.is_whole(session)  # stopped here, by Ctrl-C or otherwise
        keeper.pytest_runtest_logreport(SimpleNamespace(nodeid=f"bench/a.py::{name}", when=when, outcome="passed"))
    assert keeper.is_whole(session) is is_whole
    keeper.pytest_deselected([SimpleNamespace(path=ROOT / "tests" / "test_a.py")])
    assert keeper.is_whole(session) is is_whole
    keeper.pytest_deselected([SimpleNamespace(path=ROOT / "bench" / "test_lookup.py")])
    assert not keeper.is_whole(session)


def test_a_run_of_a_mark_is_whole_without_the_benchmarks_that_lack_it_and_counts_the_tests_beside_it():
    keeper = keeping.Keeper("gpu")
    assert keeper.file == keeping.RESULTS / "gpu.json"
    path = ROOT / "bench" / "test_lookup.py"
    keeper.pytest_deselected([SimpleNamespace(path=path, get_closest_marker=lambda name: None)])
    assert not keeper.left_out
    keeper.pytest_deselected([SimpleNamespace(path=path, get_closest_marker=lambda name: name == "gpu")])
    assert keeper.left_out
    for nodeid, when, outcome in (
        ("tests/a.py::b", "setup", "passed"), ("tests/a.py::b", "call", "passed"), ("tests/a.py::c", "setup", "failed"),
        ("tests/a.py::d", "setup", "skipped"), ("bench/test_lookup.py::e", "call", "passed"),
    ):  # fmt: skip
        keeper.pytest_runtest_logreport(SimpleNamespace(nodeid=nodeid, when=when, outcome=outcome))
    assert keeper.tests == {"passed": 1, "failed": 1, "skipped": 1}


@pytest.mark.slow
def test_a_plain_run_leaves_the_benchmarks_out(project):
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=1, deselected=4)
    assert not kept(project).exists()


@pytest.mark.slow
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
    project.runpytest_subprocess().assert_outcomes(passed=1, deselected=4)
    result = project.runpytest_subprocess("--benchmark-only", "--bench-profile=smoke")
    result.assert_outcomes(passed=1, failed=2, skipped=1, deselected=1)

    project.path.joinpath("tests", "test_plain.py").write_text(
        "import os, pytest\n@pytest.mark.gpu\ndef test_plain(): assert os.environ['TRITON_INTERPRET'] == '0'"
    )
    project.runpytest_subprocess("tests", "-m", "gpu").assert_outcomes(passed=1)


@pytest.mark.slow
def test_an_unknown_profile_is_an_error_that_names_the_known_ones(project):
    result = project.runpytest_subprocess("bench", "--bench-profile", "large")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--bench-profile: invalid choice: 'large' (choose from *smoke*, *default*, *full*)"])


@pytest.mark.slow
def test_a_limit_that_is_none_is_refused_and_one_that_nothing_is_measured_for_fails_wherever_tests_run(project):
    result = project.runpytest_subprocess("tests", "--bench-fail", "speed>1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--bench-fail: 'speed>1': write it as ratio>1.05, with one of ratio, *"])
    for arguments in (["tests"], ["bench", "--benchmark-disable", "-k", "add"]):
        result = project.runpytest_subprocess(*arguments, "--bench-fail", "seconds>1e9")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["seconds>1000000000: no benchmark measured its seconds"])


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

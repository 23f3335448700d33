"""What the Triton kernels compile to on every target, and whether the command that reports it is correct.

The tests run in Triton's interpreter; compiling needs a process without it. Run as a script, this file is that
process: it prints what only the compiled kernels show.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from functools import partial
from math import gcd
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
import torch

from kernels import inspect
from kernels.inspect import TARGETS, Example

pytest.importorskip("triton", reason="Triton is available on Linux")

import triton
import triton.language as tl

ROOT = Path(__file__).parents[2]


@triton.jit
def _too_many_registers(x, n, size: tl.constexpr):
    """Two tiles kept in one warp throughout a loop: more values than registers. Offsets are int32."""
    where = tl.arange(0, size)
    a, b = tl.load(x + where), tl.load(x + size + where)
    for _ in range(n):
        a, b = b, a * b
    tl.store(x + where, a + b)


def facts_of_compiled_kernels() -> dict[str, dict]:
    """What the tests below check about compiled kernels.

    The rows of `python -m kernels.inspect`, each example for sm_90 and every third for one more target: the slow tests
    have the whole product. Spills and offset bits of the kernel above by target; every kernel's PTX for sm_90, and its
    TTIR, which is the same for all targets; the atomics' machine instructions by target; TTIR of the scores with and
    without TRITON_DEBUG.
    """
    from triton import knobs

    examples = {example.name: example for example in inspect.find_examples()}
    others = [target for target in TARGETS if target != "sm_90"]
    found = [row for example in examples.values() for row in inspect.inspect([example], ["sm_90"])]
    for place, example in enumerate(list(examples.values())[::3]):
        found += inspect.inspect([example], [others[place % len(others)]])
    spilling = {}
    for target, (_, _, warp_size) in TARGETS.items():
        size = 256 * warp_size  # 256 values of each tile a thread
        launch = partial(_too_many_registers[(1,)], torch.zeros(32), 9, size=size, num_warps=1)
        (row,) = inspect.inspect([Example("", _too_many_registers, launch, "tile", 1, 0)], [target])
        spilling[target] = [row.spills, row.offset_bits]
    compiled = {name: inspect.compile_for("sm_90", example).asm for name, example in examples.items()}
    atomics = {}
    for target in TARGETS:
        asm = inspect.compile_for(target, examples["dot_bias.backward fp32, k = 40: atomics"]).asm
        code = asm.get("amdgcn") or disassembled(asm["cubin"])
        atomics[target] = re.findall(r"\b(?:ATOM|REDG?\b|\w*_atomic_).*", code)
    refused = refused_at([1])
    debug = {}
    for knobs.runtime.debug in (False, True):
        scores = inspect.compile_for("sm_90", examples["dot_bias.forward fp32, k = 40"]).asm
        debug[str(knobs.runtime.debug)] = [scores["ttir"], scores["ptx"]]
    return {
        "rows": [asdict(row) for row in found],
        "spilling": spilling,
        "ptx": {name: asm["ptx"] for name, asm in compiled.items()},
        "ttir": {name: asm["ttir"] for name, asm in compiled.items()},
        "atomics": atomics,
        "debug": debug,
        "refused": refused,
    }


def refused_at(sizes: list[int]) -> list[str]:
    """What the compiler says of the kernels that it does not compile for arguments of these sizes."""
    refused = []
    for example in {example.kernel: example for example in inspect.find_examples()}.values():
        for size in sizes:
            try:
                compiled_at(size, example)
            except Exception as error:  # whatever the compiler says
                refused.append(f"{example.name} at {size}: {error}")
    return refused


def compiled_at(size: int, example: Example) -> None:
    """Compile a kernel for arguments that all have this size: Triton compiles separately for 1, 16 and over 32 bits."""
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def sized(self, *args, **kwargs):
        constants = {parameter.name for parameter in self.params if parameter.is_constexpr}
        names = [parameter.name for parameter in self.params]
        given = dict(zip(names, args, strict=False)) | {name: kwargs[name] for name in names if name in kwargs}
        number = {n: size for n, value in given.items() if type(value) is int and n not in constants}
        if self is not example.kernel:
            number = {}
        rest = {name: value for name, value in kwargs.items() if name not in given}
        return run(self, **(given | number | rest))

    JITFunction.run = sized
    try:
        inspect.compile_for("sm_90", example)
    finally:
        JITFunction.run = run


def disassembled(cubin: bytes) -> str:
    from triton import knobs

    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-sass", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def facts() -> dict[str, dict]:
    done = run(__file__)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def rows(facts: dict[str, dict]) -> list[dict]:
    return facts["rows"]


@pytest.fixture(scope="session")
def counted(rows: list[dict]) -> list[dict]:
    """The rows with the bytes that they move, which take half a minute in the interpreter: for slow tests."""
    moved = json.loads(inspect.count_bytes_apart().communicate()[0])
    return [asdict(inspect.predict(inspect.Row(**row), moved[row["kernel"]])) for row in rows]


def test_every_kernel_is_compiled_for_several_targets_and_every_target_has_kernels(rows: list[dict]) -> None:
    kernels = {row["kernel"] for row in rows}
    assert {row["kernel"] for row in rows if row["target"] == "sm_90"} == kernels
    assert min(Counter(row["target"] for row in rows).values()) >= len(kernels) // 9
    assert all(row["registers"] > 0 for row in rows)


@pytest.mark.slow
def test_the_command_compiles_every_kernel_for_every_target_and_none_spills() -> None:
    done = run("-m", "kernels.inspect", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    kernels = {row["kernel"] for row in rows}
    assert {(row["kernel"], row["target"]) for row in rows} == {(k, t) for k in kernels for t in TARGETS}
    assert all(row["registers"] > 0 for row in rows)
    test_no_kernel_spills_on_any_target(rows)
    test_every_offset_is_64_bits_wide(rows)
    test_dot_bias_loads_16_bytes_at_a_time_in_every_dtype_where_rows_start_at_16(rows)
    test_no_kernel_moves_more_than_a_quarter_over_its_floor(rows)
    test_no_kernel_moves_less_than_its_floor(rows)


def test_every_kernel_compiles_for_tables_of_one_row(facts: dict[str, dict]) -> None:
    assert facts["refused"] == []


@pytest.mark.slow
def test_every_kernel_compiles_for_tables_of_odd_size_and_of_more_than_two_to_the_31() -> None:
    done = run(__file__, "7", str((1 << 31) + 1))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_no_kernel_spills_on_any_target(rows: list[dict]) -> None:
    assert [row for row in rows if row["spills"]] == []


def test_a_kernel_that_spills_is_reported_on_every_target(facts: dict[str, dict]) -> None:
    assert all(spills > 0 for spills, _ in facts["spilling"].values()), facts["spilling"]


def test_every_offset_is_64_bits_wide(rows: list[dict]) -> None:
    assert [row for row in rows if row["offset_bits"] < 64] == []


def test_an_offset_in_int32_is_reported(facts: dict[str, dict]) -> None:
    assert {bits for _, bits in facts["spilling"].values()} == {32}


def test_dense_steps_load_16_bytes_at_a_time_also_where_sizes_are_odd(rows: list[dict]) -> None:
    steps = [row for row in rows if "step_ " in row["kernel"]]
    assert len(steps) >= 8 * 2
    assert {row["load_bytes"] for row in steps} == {16}


def test_deferred_steps_load_rows_of_40_numbers_16_bytes_at_a_time(rows: list[dict]) -> None:
    deferred = [row for row in rows if row["kernel"].startswith("deferred.step_rows_")]
    assert {row["load_bytes"] for row in deferred} == {16}


@pytest.mark.slow
def test_dense_steps_move_what_they_must_and_nothing_more(counted: list[dict]) -> None:
    moved = {row["kernel"]: row["bytes_moved"] for row in counted if "step_ " in row["kernel"]}
    assert moved["adam.step_ AdamW fp32"] == 28
    assert [row for row in counted if row["kernel"] in moved and row["bytes_moved"] != row["bytes_floor"]] == []


def test_no_offset_comes_from_a_product_in_int32(facts: dict[str, dict]) -> None:
    products = re.compile(r"arith\.(?:muli|shli) .*: (?:tensor<[\dx]*)?i32\b")
    found = {name: products.findall(ttir) for name, ttir in facts["ttir"].items()}
    # Deferred steps multiply the number of steps by that of the moments' planes, below ten.
    assert {name for name, lines in found.items() if lines and not name.startswith("deferred")} == set()


def test_dot_bias_loads_16_bytes_at_a_time_in_every_dtype_where_rows_start_at_16(rows: list[dict]) -> None:
    dot_bias = [row for row in rows if row["kernel"].startswith("dot_bias")]
    for row in dot_bias:
        bits, k = re.search(r"[bf]p?f?(\d\d), k = (\d+)", row["kernel"]).groups()
        # Ids load 8 bytes in any case, and so do rows that start elsewhere. So a 16 is the load of a row.
        assert row["load_bytes"] == max(8, gcd(16, int(bits) // 8 * int(k))), row
    parts = {"forward", "backward: sums", "backward: sums, sigmoid", "backward: atomics", "backward: joining"}
    parts |= {"loss", "loss: sums", "loss: atomics"}
    for dtype in ("fp32", "bf16", "fp16"):
        name = f"{dtype}, k = 40"
        found = {row["kernel"].replace(f" {name}", "") for row in dot_bias if name in row["kernel"]}
        assert found >= {f"dot_bias.{part}" for part in parts}, dtype


def test_every_optimizer_steps_in_every_storage_dtype(rows: list[dict]) -> None:
    kernels = " ".join(row["kernel"] for row in rows)
    for dtype in ("fp32", "bf16", "fp16"):
        assert all(f"{name} {dtype}" in kernels for name in ("sgd", "momentum", "rmsprop", "AdamW")), dtype


@pytest.mark.slow
def test_dot_bias_moves_little_more_than_it_must(counted: list[dict]) -> None:
    by_name = {row["kernel"]: row["bytes_moved"] / row["bytes_floor"] for row in counted}
    assert by_name["dot_bias.forward fp32, k = 40"] == 1
    assert by_name["dot_bias.backward fp32, k = 40: sums"] < 1.05


@pytest.mark.slow
def test_no_kernel_moves_more_than_a_quarter_over_its_floor(counted: list[dict]) -> None:
    assert [row for row in counted if row["bytes_moved"] > 1.25 * row["bytes_floor"]] == []


def test_atomics_move_their_values_one_way_as_they_are_counted(facts: dict[str, dict]) -> None:
    for target, instructions in facts["atomics"].items():
        assert instructions, target
        # NVIDIA: RED adds, ATOM also returns the old value. AMD: sc0 requests it.
        back = [i for i in instructions if i.startswith("ATOM") or re.search(r"\bsc0\b|\bglc\b", i)]
        assert back == [], target


@pytest.mark.slow
def test_atomics_move_less_than_sorting_would_where_tables_are_in_fp32_and_more_in_16_bits(counted: list[dict]) -> None:
    moved = {row["kernel"]: row["bytes_moved"] for row in counted}
    one_pass = 2 * 2 * 16  # two ids and their places, read and written: the least that a sort moves
    for dtype in ("fp32", "bf16", "fp16"):
        for op, sums in (("backward", "sums, sigmoid"), ("loss", "sums")):
            name = f"dot_bias.{op} {dtype}, k = 40: "
            less = moved[name + "atomics"] < one_pass + moved[name + sums]
            assert less == (dtype == "fp32"), name


@pytest.mark.slow
def test_a_prediction_is_the_bytes_over_the_devices_bandwidth_and_says_what_for(counted: list[dict]) -> None:
    by_target = {row["target"]: row for row in counted if row["unit"] == "parameter"}
    assert {target: row["predicted_device"] for target, row in by_target.items()} == {
        "sm_80": "A100 80GB SXM", "sm_90": "H100 SXM", "sm_100": "B200", "gfx942": "MI300X",
    }  # fmt: skip
    (adam,) = [row for row in counted if row["kernel"] == "adam.step_ AdamW fp32" and row["target"] == "sm_90"]
    assert adam["predicted_units"] == 2**20
    assert adam["predicted_us"] == pytest.approx(28 * 2**20 / 3.35e12 * 1e6, abs=1e-3)


@pytest.mark.slow
def test_no_kernel_moves_less_than_its_floor(counted: list[dict]) -> None:
    assert [row for row in counted if row["bytes_moved"] < row["bytes_floor"]] == []


def test_square_roots_and_divisions_are_rounded_to_nearest(facts: dict[str, dict]) -> None:
    for name, ptx in facts["ptx"].items():
        found = set(re.findall(r"\b(?:sqrt|div|rcp|rsqrt)\.[a-z]+(?:\.ftz)?\.f(?:32|64)", ptx))
        assert found <= {"sqrt.rn.f32", "sqrt.rn.f64", "div.rn.f32", "div.rn.f64"}, name
        if "adam" in name or "rmsprop" in name:
            assert found in ({"sqrt.rn.f32", "div.rn.f32"}, {"sqrt.rn.f64", "div.rn.f64"}), name


def test_no_target_is_asked_for_an_approximate_root_or_quotient_in_float32(facts: dict[str, dict]) -> None:
    # `tt.precise_sqrtf` and `tt.precise_divf` round to nearest; these two may not.
    approximate = re.compile(r"(?:math\.r?sqrt|arith\.divf) .*: (?:tensor<[\dx]*)?f32\b")
    assert {name: found for name, ttir in facts["ttir"].items() if (found := approximate.findall(ttir))} == {}


def test_only_a_debug_run_asserts_ids_on_the_device(facts: dict[str, dict]) -> None:
    (ttir, ptx), (debug_ttir, debug_ptx) = facts["debug"]["False"], facts["debug"]["True"]
    assert "tt.assert" not in ttir
    assert "__assertfail" not in ptx
    for name in ("users", "items"):
        assert f'"{name} holds an id outside its table"' in debug_ttir
    assert "__assertfail" in debug_ptx


def test_optimizers_round_every_operation_by_itself(facts: dict[str, dict]) -> None:
    steps = [ptx for name, ptx in facts["ptx"].items() if name.startswith(("adam", "optimizers", "deferred"))]
    assert len(steps) >= 8
    # ptxas would contract plain mul and add; .rn prevents it.
    assert not [ptx for ptx in steps if re.search(r"\bfma\.|\b(?:mul|add|sub)\.f(?:32|64)", ptx)]


@pytest.mark.parametrize(
    ("ptx", "width"),
    [
        ("@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];", 16),
        ("ld.global.L1::evict_first.v2.b64 { %rd1, %rd2 }, [ %rd3 + 0 ];", 16),
        ("ld.global.b16 { %rs1 }, [ %rd1 + 0 ];\n ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r5];", 2),
        ("ld.global.b64 { %rd1 }, [ %rd2 + 0 ];\n st.global.v4.b32 [ %rd1 + 0 ], { %r1, %r2, %r3, %r4 };", 8),
        ("cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;", 16),
        ("ret;", 0),
    ],
)
def test_the_widest_load_is_read_off_the_ptx(ptx: str, width: int) -> None:
    assert inspect.widest_load({"ptx": ptx}) == width


@pytest.mark.parametrize(
    ("amdgcn", "width"),
    [
        ("buffer_load_dwordx4 v[0:3], v4, s[0:3], 0 offen\n global_load_dword v5, v[6:7], off", 16),
        ("global_load_dwordx2 v[0:1], v[2:3], off\n ds_read_b128 v[0:3], v4", 8),
        ("buffer_load_ushort v0, v1, s[0:3], 0 offen\n buffer_store_dwordx4 v[0:3], v4, s[0:3], 0 offen", 2),
    ],
)
def test_the_widest_load_is_read_off_the_amdgcn(amdgcn: str, width: int) -> None:
    assert inspect.widest_load({"amdgcn": amdgcn}) == width


def test_an_unknown_target_gets_one_line_that_lists_the_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main(["--target", "sm_61"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error == "unknown target 'sm_61'; there are sm_80, sm_90, sm_100, gfx942\n"


def test_without_triton_there_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert inspect.main([]) == 2
    assert capsys.readouterr().err == "Triton is not installed (it is available on Linux): nothing to inspect\n"


def test_help_explains_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        inspect.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for column in ("registers", "spills", "shared", "widest load", "offsets", "bytes moved", "floor", "predicted"):
        assert f"\n  {column} " in out


def test_the_table_has_a_line_a_row_and_the_floor_in_words(rows: list[dict]) -> None:
    counted = [inspect.predict(inspect.Row(**row), 28.0) for row in rows]
    head, *lines = inspect.table(counted).splitlines()
    assert head.split()[:3] == ["kernel", "target", "registers"]
    assert len(lines) == len(rows)
    assert re.search(
        r"adam\.step_ AdamW fp32 +sm_90 .* 16 B +64 bit +28 +28 a parameter +9 µs$", "\n".join(lines), re.M
    )


def test_a_kernel_that_does_not_compile_leaves_no_process_behind(monkeypatch):
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setenv("TRITON_INTERPRET", os.environ["TRITON_INTERPRET"])  # the command removes it
    monkeypatch.setattr(inspect, "find_examples", list)
    monkeypatch.setattr(inspect, "count_bytes_apart", lambda: started)
    monkeypatch.setattr(inspect, "inspect", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        inspect.main([])
    assert started.wait(timeout=30) < 0


if __name__ == "__main__":
    sizes = [int(size) for size in sys.argv[1:]]
    print(json.dumps(refused_at(sizes) if sizes else facts_of_compiled_kernels()))  # noqa: T201

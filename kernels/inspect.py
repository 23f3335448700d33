"""Compiles the Triton kernels for every target, without a GPU, and reports registers, spills, loads and bytes.

    python -m kernels.inspect
    python -m kernels.inspect --target sm_90 --json

To add a kernel, add an `Example` to `examples()` in its triton_*.py; nothing changes here.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

# Name → the arguments of triton.backends.compiler.GPUTarget: backend, architecture, threads per warp.
TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}

# A device of each target and the GB/s of its memory, from the maker's data sheet: NVIDIA A100 80GB SXM (2,039 GB/s),
# H100 SXM (3.35 TB/s), B200 (8 TB/s: DGX B200's 64 TB/s over 8 GPUs), AMD Instinct MI300X (5.3 TB/s).
DEVICES: dict[str, tuple[str, float]] = {
    "sm_80": ("A100 80GB SXM", 2039),
    "sm_90": ("H100 SXM", 3350),
    "sm_100": ("B200", 8000),
    "gfx942": ("MI300X", 5300),
}
PREDICTED_UNITS = 2**20  # a prediction is for this many parameters, ratings, rows, …


class Example(NamedTuple):
    """One launch of one kernel, and the least traffic that its work needs."""

    name: str
    kernel: Any  # the @triton.jit function; other kernels that `launch` starts are ignored
    launch: Callable[[], object]  # calls the kernel through its public function, on CPU tensors
    unit: str  # "parameter", "rating", …
    units: int  # how many of them the launch works on
    floor: float  # the least bytes per unit that the algorithm must move


@dataclass(frozen=True)
class Row:
    """One kernel on one target."""

    kernel: str
    target: str
    registers: int  # per thread
    spills: int  # registers per thread that are kept in memory: 4-byte words of its local memory
    shared: int  # bytes per program
    load_bytes: int  # of the widest load from global memory, per thread
    offset_bits: int  # of the narrowest offset that is added to a pointer
    bytes_floor: float  # per unit
    unit: str
    bytes_moved: float | None = None  # per unit, counted from the kernel's own loads and stores
    predicted_us: float | None = None  # not measured: bytes moved for `predicted_units`, over the device's bandwidth
    predicted_units: int = PREDICTED_UNITS
    predicted_device: str = ""


def predict(row: Row, bytes_moved: float) -> Row:
    """The row with its bytes, and a prediction: how long the device's memory takes to move them for PREDICTED_UNITS.

    Launches, latency and arithmetic add to it; data that a cache serves takes less.
    """
    device, gigabytes_per_second = DEVICES[row.target]
    microseconds = bytes_moved * PREDICTED_UNITS / gigabytes_per_second / 1e3
    return replace(row, bytes_moved=bytes_moved, predicted_us=round(microseconds, 3), predicted_device=device)


def find_examples() -> Iterator[Example]:
    """The examples in every triton_*.py of the folders beside this file."""
    for path in sorted(Path(__file__).parent.glob("*/triton_*.py")):
        module = importlib.import_module(f"{__package__}.{path.parent.name}.{path.stem}")
        yield from (Example(*example) for example in getattr(module, "examples", tuple)())


def inspect(examples: Iterable[Example], targets: Iterable[str]) -> Iterator[Row]:
    """Compile each example for each target. `count_bytes` adds the bytes moved."""
    for example in examples:
        for target in targets:
            compiled = compile_for(target, example)
            registers, spills = usage(compiled)
            yield Row(
                kernel=example.name,
                target=target,
                registers=registers,
                spills=spills,
                shared=compiled.metadata.shared,
                load_bytes=widest_load(compiled.asm),
                offset_bits=narrowest_offset(compiled.asm["ttir"]),
                bytes_floor=example.floor,
                unit=example.unit,
            )


class _FixedTarget:
    """Replaces Triton's driver, which would ask a GPU for its architecture."""

    def __init__(self, name: str) -> None:
        from triton.backends.compiler import GPUTarget

        self.name = name
        self.target = GPUTarget(*TARGETS[name])

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> str:
        return self.name  # Triton's key for the kernels compiled in this process

    def get_current_stream(self, _device: str) -> int:
        return 0


def compile_for(target: str, example: Example) -> Any:
    """The kernel, compiled for exactly the arguments that `example.launch` gives it."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    compiled = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, **kwargs: Any) -> None:
        kernel = run(self, *args, **(kwargs | {"warmup": True}))  # a warm-up compiles and launches nothing
        if self is example.kernel:
            compiled.append(kernel)

    driver.set_active(_FixedTarget(target))
    JITFunction.run = compile_only
    try:
        example.launch()
    finally:
        JITFunction.run = run
    if len(compiled) != 1:
        raise ValueError(f"example {example.name!r} launched its kernel {len(compiled)} times, expected once")
    return compiled[0]


def usage(compiled: Any) -> tuple[int, int]:
    """Registers per thread, and how many more a thread keeps in memory."""
    if "amdgcn" in compiled.asm:
        count = functools.partial(_number, text=compiled.asm["amdgcn"])
        in_memory = max(count(r"\.private_segment_fixed_size:\s+(\d+)") // 4, count(r"\.vgpr_spill_count:\s+(\d+)"))
        return count(r"\.vgpr_count:\s+(\d+)"), in_memory
    from triton import knobs

    with NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", cubin.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return _number(r"\bREG:(\d+)", text), (_number(r"\bSTACK:(\d+)", text) + _number(r"\bLOCAL:(\d+)", text)) // 4


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"the compiler's output has no {pattern}: this version of Triton may write it differently")
    return int(found[1])


def widest_load(asm: dict[str, Any]) -> int:
    """The bytes of the widest load from global memory that one thread issues."""
    if "amdgcn" in asm:
        widths = {"ubyte": 1, "ushort": 2, "short": 2, "dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16}
        found = re.findall(r"\b(?:global|buffer)_load_(ubyte|ushort|short|dword(?:x[234])?)\b", asm["amdgcn"])
        return max((widths[width] for width in found), default=0)
    loads = re.findall(r"\bld\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)\s", asm["ptx"])
    copies = re.findall(r"\bcp\.async\.c[ag]\.shared\.global[^;]*?\],\s*(0x[0-9a-f]+|\d+)", asm["ptx"])
    sizes = [int(count or 1) * int(bits) // 8 for count, bits in loads] + [int(size, 0) for size in copies]
    return max(sizes, default=0)


def narrowest_offset(ttir: str) -> int:
    """The bits of the narrowest offset that is added to a pointer. With 32, `row * k` overflows in a large table.

    It sees the type of the sum alone: an offset that is computed with 32 bits and widened afterwards counts as 64.
    """
    return min(int(bits) for bits in re.findall(r"tt\.addptr .*, (?:tensor<[\dx]*)?i(\d+)>?", ttir))


def count_bytes() -> dict[str, float]:
    """The bytes per unit that each example's kernel loads and stores, by name, without masked-off elements.

    They are counted while Triton's interpreter runs the launch, so this needs a process of its own with
    TRITON_INTERPRET=1. A value that is loaded twice counts twice, though a cache may serve it. An atomic add whose old
    value is not used counts as a store: the cache adds its value, and sends nothing back.
    """
    from triton.runtime import interpreter

    counted: Counter[Any] = Counter()
    running: list[Any] = []
    builder = interpreter.interpreter_builder
    load, store, atomic = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
    run = interpreter.InterpretedFunction.run

    def count(pointers: Any, mask: Any) -> None:
        counted[running[-1]] += int(mask.data.sum()) * pointers.get_element_ty().primitive_bitwidth // 8

    def counting_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        count(pointers, mask)
        return load(pointers, mask, *rest)

    def counting_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        count(pointers, mask)
        return store(pointers, value, mask, *rest)

    def counting_atomic(operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        count(pointers, mask)
        return atomic(operation, pointers, value, mask, *rest)

    def counting_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        running.append(self)
        try:
            return run(self, *args, **kwargs)
        finally:
            running.pop()

    builder.create_masked_load, builder.create_masked_store = counting_load, counting_store
    builder.create_atomic_rmw = counting_atomic
    interpreter.InterpretedFunction.run = counting_run
    moved = {}
    for example in find_examples():
        counted.clear()
        example.launch()
        moved[example.name] = counted[example.kernel] / example.units
    return moved


def count_bytes_apart() -> subprocess.Popen[str]:
    """`count_bytes` in a process of its own, which interprets the kernels and prints JSON."""
    code = f"import json; from {__package__}.inspect import count_bytes; print(json.dumps(count_bytes()))"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603


def table(rows: list[Row]) -> str:
    """The rows as a text table."""
    head = (
        "kernel",
        "target",
        "registers",
        "spills",
        "shared",
        "widest load",
        "offsets",
        "bytes moved",
        "floor",
        "predicted, 2^20",
    )
    lines = [head]
    for row in rows:
        moved = "?" if row.bytes_moved is None else f"{row.bytes_moved:.4g}"
        predicted = "?" if row.predicted_us is None else f"{row.predicted_us:,.0f} µs"
        lines.append((
            row.kernel, row.target, str(row.registers), str(row.spills), f"{row.shared} B", f"{row.load_bytes} B",
            f"{row.offset_bits} bit", moved, f"{row.bytes_floor:.4g} a {row.unit}", predicted,
        ))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ("left", "left")  # the other columns are numbers
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < len(text) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


HELP = """\
columns:
  registers    per thread; the fewer, the more programs run at once
  spills       registers that a thread keeps in memory instead, in 4-byte words; 0 is best
  shared       bytes of shared memory per program
  widest load  bytes of the widest load from global memory that a thread issues; 16 is the most
  offsets      bits of the narrowest offset that is added to a pointer; 32 bits overflow in large tables. One that
               is computed with 32 bits and widened afterwards is not noticed
  bytes moved  per unit, counted from the kernel's own loads and stores; a value that is loaded twice counts
               twice, an atomic add counts as a store, because it brings nothing back
  floor        the least bytes per unit that the algorithm must move: dense Adam in fp32 reads a parameter, its
               gradient and two means and writes all but the gradient, 7 × 4 = 28; atomics add the parts of each
               rating separately, sorted sums write the total of a row once
  predicted    a prediction, not a measurement: the bytes moved for 2^20 units over the published bandwidth of a
               device: A100 80GB SXM (sm_80, 2,039 GB/s), H100 SXM (sm_90, 3,350), B200 (sm_100, 8,000),
               MI300X (gfx942, 5,300). Launch, latency and arithmetic add to it

examples:
  python -m kernels.inspect                          every kernel on every target
  python -m kernels.inspect --target sm_90           one target; may be repeated
  python -m kernels.inspect --json > inspected.json  a list of rows

To add a kernel, add an entry to the examples() of its file. No GPU is needed.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.inspect",
        description="Compile every Triton kernel for every target, without a GPU, and report the result.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", action="append", help=f"{', '.join(TARGETS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="a list of rows rather than a table")
    options = parser.parse_args(arguments)
    targets = options.target or list(TARGETS)
    unknown = [target for target in targets if target not in TARGETS]
    if unknown:
        print(f"unknown target {unknown[0]!r}; there are {', '.join(TARGETS)}", file=sys.stderr)  # noqa: T201
        return 2
    if importlib.util.find_spec("triton") is None:
        print("Triton is not installed (it is available on Linux): nothing to inspect", file=sys.stderr)  # noqa: T201
        return 2
    os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels cannot be compiled in the same process
    counting = count_bytes_apart()
    rows = []
    try:
        examples = list(find_examples())
        for row in inspect(examples, targets):
            rows.append(row)
            if sys.stderr.isatty():
                print(f"\rcompiled {len(rows)} of {len(examples) * len(targets)}", end="", file=sys.stderr)  # noqa: T201
        if sys.stderr.isatty():
            print(file=sys.stderr)  # noqa: T201
        moved, _ = counting.communicate()
    finally:
        counting.kill()  # does nothing to a process that has ended
    if counting.returncode:
        return 1  # the other process has printed its traceback
    counted = json.loads(moved)
    rows = [predict(row, counted[row.kernel]) for row in rows]
    print(json.dumps([asdict(row) for row in rows], indent=1) if options.json else table(rows))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Malformed inputs over all faces: one clear line each, no traceback, nothing written, no password shown."""

from __future__ import annotations

import os
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.malformed import FACES, faults_of, inputs

KINDS = ("refused", "valid", "traceback", "status", "lines", "password", "written")


@pytest.fixture(scope="module")
def faces() -> Iterator[dict[str, Counter[str]]]:
    rows: dict[str, Counter[str]] = {}
    yield rows
    if rows:
        rows["all"] = sum(rows.values(), Counter())
        print(f"\n{'':24}" + "".join(f"{kind:>12}" for kind in KINDS))
        for face, counts in rows.items():
            print(f"{face:24}" + "".join(f"{counts[kind]:12}" for kind in KINDS))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def refuse(folder: Path, face: str, seed: int, count: int | None = None) -> tuple[Counter[str], list[str]]:
    """The counts of a face, and what went wrong."""
    counts, wrong = Counter[str](), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for given in inputs(folder, face, seed, count):
            faults = faults_of(given)
            counts["valid" if faults is None else "refused"] += 1
            for fault in faults or ():
                counts[fault.split(":")[0].split()[0]] += 1
                wrong.append(f"{given.name}: {fault}")
    if left := list(Path().iterdir()):
        counts["written"] += len(left)
        wrong.append(f"left in the working folder: {left}")
    return counts, wrong


@pytest.mark.faults
@pytest.mark.parametrize("face", FACES)
def test_every_malformed_input_is_one_line(tmp_path: Path, faces: dict[str, Counter[str]], face: str) -> None:
    seed = int(os.environ.get("MALFORMED_SEED", random.randrange(1_000_000)))
    print(f"\nMALFORMED_SEED={seed}")
    faces[face], wrong = refuse(tmp_path, face, seed)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("face", FACES)
def test_some_malformed_inputs_are_one_line(tmp_path: Path, face: str) -> None:
    drawn = face in ("summary.json", "tables", "benchmarks.json", "other JSON files")  # as pages, which takes longer
    counts, wrong = refuse(tmp_path, face, seed=1, count=2 if drawn else 5)
    assert not wrong, "\n".join(wrong)
    assert counts["refused"]

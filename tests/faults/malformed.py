"""Malformed inputs by face, made by hand or from valid ones by a seeded mutator, and what must hold of each.

An input is refused in one clear line with exit status 2 (1 where the pages of all other files are drawn), or it turns
out to be valid after all.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import safetensors.torch
import torch
from typer.testing import CliRunner

import reports.__main__
import studies.__main__
import studies.calibration
from lesson import DataError, collab_learner, load_digits, load_movielens, load_ratings
from reports.figures import drawing
from studies.lab import command, storage
from studies.lab.storage import JOURNAL
from studies.lab.sweep import Sweep
from tests.reports.conftest import EMPTY
from tests.reports.test_doors import FILES, PLACES, path_of, replaced, without, write_everything
from tests.studies import toy
from tests.studies.conftest import Inline

SECRET = "hunter2"
DATABASE = f"postgresql+psycopg://me:{SECRET}@localhost/x"
PAIRS = [(user, item) for user in range(9) for item in range(9)]
RATINGS = "\n".join(["user,item,rating", *(f"{user},{item},{1 + (user * item + user) % 5}" for user, item in PAIRS)])
LOCKS = (".lock", ".replacing.lock")
BESIDE = ("note: ", "missing: ", "Usage: ", "Try ", "pages: ", "toy: ")  # lines that may stand beside the one
JUNK = (b"\x00", b"\xff\xfe", b'"', b"\n\n", b",,,", b"nan", b"inf", b"1e999", b"\xe2\x80\xae", b"{", b"]", b"-" * 99)


class AcceptedError(BaseException):
    """An input is valid: what would follow is no longer about it."""


class Said(NamedTuple):
    """How a use of an input ended."""

    status: int
    out: str
    err: str


class Input(NamedTuple):
    """A malformed input.

    Attributes:
        name: what it is.
        use: gives it to the program. Raises AcceptedError if it is valid.
        folder: nothing may change below it.
        status: with which it is refused.
        prepare: writes it.
    """

    name: str
    use: Callable[[], Said]
    folder: Path
    status: int = 2
    prepare: Callable[[], None] = lambda: None


def faults_of(given: Input) -> list[str] | None:
    """What is wrong with how an input is refused; None if it is valid."""
    given.prepare()
    before = snapshot(given.folder)
    try:
        said = given.use()
    except AcceptedError:
        return None
    except Exception as error:  # what must not happen
        return [f"traceback: {type(error).__name__}: {error}"]
    if said.status == 0:
        return None
    lines = [line for line in said.err.splitlines() if line.strip() and not line.startswith(BESIDE)]
    several = given.status == 1 and all(line.startswith("problem: ") for line in lines)
    wrong = {
        "traceback": "Traceback" in said.err,
        f"status {said.status}": said.status != given.status,
        "lines": not lines or (len(lines) > 1 and not several),
        "password": SECRET in said.out + said.err,
        "written": snapshot(given.folder) != before,
    }
    return [f"{name}: {said.err[-400:]}" for name, is_wrong in wrong.items() if is_wrong]


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    """Every file below a folder and its content; locks are left out."""
    found = [path for path in folder.rglob("*") if path.name not in LOCKS]
    return {path: path.read_bytes() if path.is_file() else None for path in found}


# How inputs are used


def typed(app: Any, *arguments: str) -> Said:
    """Run a command of typer's in this process."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


def study(folder: Path, *arguments: str, ratings: Path | None = None, results: str = "results") -> Said:
    """Run the toy study's command up to its first run."""
    ratings = ratings or folder.parent / "ratings.csv"
    given = ["--ratings", str(ratings), "--results", str(folder / results), *arguments]
    with mock.patch.object(Sweep, "do", side_effect=AcceptedError):
        return typed(command.command(toy.STUDY), *given)


def pages(folder: Path) -> Said:
    """Draw the pages of a folder of results, but no figures."""
    with mock.patch.object(drawing, "svg_of", return_value=EMPTY):
        return typed(reports.__main__.app, "--results", str(folder), "--out", str(folder.parent / "html"))


def called(use: Callable[[], Any]) -> Said:
    """Call Python's API: a DataError counts as status 2."""
    try:
        use()
    except DataError as error:
        return Said(2, "", str(error))
    return Said(0, "", "")


# The mutator


def mutated(draw: random.Random, valid: bytes) -> bytes:
    """Valid bytes with one to three changes."""
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(valid) + 1)
        until = min(len(valid), place + draw.randint(1, 40))
        valid = draw.choice(
            [
                valid[:place],
                valid[place:],
                valid[:place] + valid[until:],
                valid[:place] + valid[place:until] * 2 + valid[until:],
                valid[:place] + draw.choice(JUNK) + valid[place:],
                valid[:place] + bytes([draw.randrange(256)]) + valid[place + 1 :],
            ]
        )
    return valid


def wrong_json(draw: random.Random, name: str) -> Any:
    """One of the made-up files with another value, or none, at one place."""
    place = draw.choice(PLACES[name])
    if place and draw.random() < 0.3:
        return without(FILES[name], place)
    value = draw.choice([None, [], {}, "x", DATABASE, True, -1, 0.5, 1e308, float("nan"), 10**30, [[[]]], "\u202e"])
    return replaced(FILES[name], place, value)


# The faces


def ratings_files(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Files of ratings."""
    by_hand: dict[str, bytes] = {
        "empty.csv": b"",
        "header.csv": b"user,item,rating\n",
        "none.csv": b"a,b,c\n1,2,3\n",
        "twice.csv": b"user,user,item,rating\n1,1,2,3\n",
        "text.csv": b"user,item,rating\n1,2,good\n3,4,5\n",
        "nan.csv": b"user,item,rating\n1,2,nan\n3,4,5\n",
        "huge.csv": b"user,item,rating\n1,2,1e400\n3,4,5\n",
        "long.csv": b"user,item,rating\n1,2,3,4\n3,4,5\n",
        "short.csv": b"user,item,rating\n1,2\n3,4,5\n",
        "one.csv": b"user,item,rating\n1,2,3\n1,4,5\n",
        "same.csv": RATINGS.encode().replace(b",2\n", b",1\n").translate(bytes.maketrans(b"2345", b"1111")),
        "quote.csv": b'user,item,rating\n"1,2,3\n',
        "utf16.csv": RATINGS.encode("utf-16")[2:],
        "zero.csv": b"\x00" * 99,
        "not.parquet": b"PAR1 no PAR1",
        "not.zip": b"PK\x03\x04",
        "not.csv.gz": b"\x1f\x8b\x08\x00",
        "u.data": b"1\t2\t3\n",
        "ratings.dat": b"1::2::x::4\n5::6::7::8\n",
        "x.inter": b"user_id:token\n1\n",
    }
    files = by_hand | {f"mutated{n}.csv": mutated(draw, RATINGS.encode()) for n in range(60)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        yield Input(name, partial(study, folder, ratings=folder / name), folder)
    for name in ("missing.csv", "", ".", "/dev/null", "x" * 300, DATABASE):
        yield Input(f"--ratings {name!r}", partial(study, folder, "--ratings", name), folder)


def arguments(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Arguments of commands."""
    wrong = {
        "--seeds": ["0", "-1", "1.5", "x", "", "1e3", "99999999", DATABASE],
        "--trials": ["-1", "1", "x", "", "2", DATABASE],
        "--values": ["", ",", "x", "1", "0,05", "1,nan", "inf,1", "1;2", DATABASE, "1,,2", "1e400,2"],
        "--data": ["", "x", "movielens", ",", DATABASE],
        "--profile": ["", "x", "QUICK", DATABASE],
        "--workers": ["0", "-1", "x", "1.5", DATABASE],
        "--timeout": ["0", "-1", "nan", "inf", "x", DATABASE],
        "--patience": ["-1", "nan", "inf", "x", DATABASE],
        "--results": ["", DATABASE, "/proc/x", "/dev/null/x", "x" * 300],
        "--device": ["", "gpu", "cuda:99", "cuda:-1", "CPU", DATABASE],
        "--user": ["", "nobody", "item", DATABASE],
        "--rating": ["", "user", DATABASE],
        "--sep": ["", "\n", DATABASE],
        "--encoding": ["", "no-such", "rot13", DATABASE],
        "--split": ["", "x", "time", DATABASE],
        "--nonsense": ["x", DATABASE],
        "--fresh": ["--export"],
        DATABASE: ["x"],
    }
    for option, values in wrong.items():
        for value in values:
            yield Input(f"{option} {value!r}", partial(study, folder, option, value), folder)
    here = str(folder)
    ways: list[tuple[Any, list[str]]] = [
        *((studies.__main__.app, ["--claim", claim]) for claim in ("0", "86", "x", DATABASE)),
        *((studies.__main__.app, ["--results", results]) for results in ("", DATABASE)),
        *((studies.__main__.app, ["--all", *more]) for more in (["--profile", "x"], ["--claim", "1"])),
        *((studies.__main__.app, more) for more in (["--profile", "quick"], ["--nonsense"], [DATABASE], ["--claim"])),
        *((reports.__main__.app, ["--results", name]) for name in ("missing", DATABASE, "/dev/null", "x" * 300)),
        *((reports.__main__.app, ["--results", here, "--out", name]) for name in (DATABASE, "/proc/x", "x" * 300)),
        *((reports.__main__.app, more) for more in (["--nonsense"], ["--out"], [DATABASE], ["x"])),
        *((studies.calibration.app, ["--studies", count]) for count in ("1", "x", DATABASE)),
        *((studies.calibration.app, ["--seed", seed]) for seed in ("-1", "x", DATABASE)),
        *((studies.calibration.app, ["--out", name]) for name in ("/proc/x/y", "/dev/null/x")),
    ]
    for app, way in ways:
        yield Input(f"{app.registered_commands[0].callback.__module__} {way}", partial(typed, app, *way), folder)


def storages(folder: Path, draw: random.Random) -> Iterator[Input]:
    """URLs of storages."""
    (folder / "file").write_text("no database")
    (folder / "folder").mkdir()
    urls = [
        *("", "x", "postgresql", "postgresql:", "postgresql://", "://", "sqlite", "sqlite://", "sqlite:///"),
        *("sqlite:///:memory:", "sqlite:////no/such/folder/x.db", f"sqlite:///{folder}/folder", "file:x", "redis://x"),
        *(f"sqlite:///{folder}/file", f"me:{SECRET}@localhost/x", f"postgresql:/me:{SECRET}@localhost/x"),
        *(f"postgresql://me:{SECRET}@localhost:port/x", f"postgresql+nodriver://me:{SECRET}@localhost/x"),
        *(f"postgresql://me:{SECRET}@[::1/x", f"mysql://me:{SECRET}@localhost/x?password={SECRET}"),
        *(f"host=localhost user=me password={SECRET}", f"postgresql://me:{SECRET}@localhost:99999/x"),
        *(f"postgresql+psycopg://me:{SECRET}@localhost/x?nonsense={SECRET}", f"journal://{SECRET}:x@y"),
        *(f"oracle://me:{SECRET}@x/y", "é://ü"),
        *(f"sqlite:///{folder}/missing.db?mode=ro&uri=true", f"postgresql://me:{SECRET} @ localhost/x"),
    ]
    valid = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/x?connect_timeout=1"
    for _ in range(25):
        changed = mutated(draw, valid.encode()).decode(errors="surrogateescape")
        urls.append(changed if SECRET in changed or "//" not in changed else f"postgresql://:{SECRET}@127.0.0.1:1/x")
    for url in urls:
        yield Input(f"--storage {url!r}", partial(study, folder, "--storage", url), folder)


def journals(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Files of runs."""
    valid = journal_of(folder)
    lines = valid.splitlines(keepends=True)
    by_hand = [
        b"\n",
        b"\x00\n",
        b"[]\n",
        b"{}\n",
        b'{"op_code": 99, "worker_id": "x"}\n',
        b"null\n",
        lines[1],
        b'{"a": ' + b"[" * 5000 + b"\n",
    ]
    by_hand += [b"".join(lines[1:]), b"".join(reversed(lines)), lines[0] + b"\n" + lines[1]]
    by_hand += [valid.replace(b'"key"', b'"yek"'), valid.replace(b'"toy"', b'"yot"'), b"\xff" * 50 + b"\n" + valid]
    changed = [mutated(draw, valid) for _ in range(40)]
    for number, content in enumerate([*by_hand, *changed]):
        own = folder / f"{number}"
        (own / "results" / "toy" / "ratings").mkdir(parents=True)
        (own / "results" / "toy" / "ratings" / JOURNAL).write_bytes(content)
        yield Input(f"journal {number}", partial(study, own, ratings=folder.parent / "ratings.csv"), own)


@cache
def journal_of(folder: Path) -> bytes:
    """The file of a sweep with two finished runs."""
    with storage.open_storage(folder / "valid", None) as opened, mock.patch("studies.lab.workers.Workers", Inline):
        toy.do(Sweep(toy.STUDY, opened), [toy.planned(0), toy.planned(1)])
    return (folder / "valid" / JOURNAL).read_bytes()


def results_files(folder: Path, draw: random.Random, names: Sequence[str], count: int) -> Iterator[Input]:
    """JSON files in a folder of results, whose pages are drawn."""
    for number in range(count):
        whole, name = folder / f"{number}" / "results", draw.choice(names)
        changed = json.dumps(wrong_json(draw, name)).encode()
        if number % 3 == 0:
            changed = mutated(draw, json.dumps(FILES[name]).encode())
        yield Input(f"{name} {number}", partial(pages, whole), whole, 1, partial(write_other, whole, name, changed))


def write_other(whole: Path, name: str, content: bytes) -> None:
    """Write all files of results, one of them with another content."""
    path_of(write_everything(whole), name).write_bytes(content)


def summaries(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Summaries, which pages show and a study's command would replace."""
    yield from results_files(folder, draw, ["summary.json"], 40)
    by_hand = [b"", b"[]", b"null", b"{", b"\xff", b"1e999", b'"x"', b"[" * 100_000, b"{}", b'{"study": "toy"}']
    for number, content in enumerate(by_hand):
        own = folder / f"study{number}"
        path = own / "results" / "toy" / "ratings" / "quick" / "summary.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        yield Input(f"summary in the way {number}", partial(study, own, ratings=folder.parent / "ratings.csv"), own)
        yield Input(f"summary {number}", partial(pages, own / "results"), own / "results", status=1)


def tables(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Tables beside a summary."""
    valid = write_everything(folder / "valid")
    for number in range(24):
        whole, name = folder / f"{number}" / "results", draw.choice(["runs.parquet", "curves.parquet"])
        changed = mutated(draw, path_of(valid, name).read_bytes())
        yield Input(f"{name} {number}", partial(pages, whole), whole, 1, partial(write_other, whole, name, changed))


def benchmarks(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Benchmarks, as pytest-benchmark writes them."""
    yield from results_files(folder, draw, ["benchmarks.json"], 50)


def other_files(folder: Path, draw: random.Random) -> Iterator[Input]:
    """The other files of results."""
    yield from results_files(folder, draw, ["peers.json", "calibration.json"], 40)
    for number, content in enumerate(
        [b"", b"[]", b"{}", b"\xff", b'{"schema_version": 1, "checks": 1}', b"[" * 100_000]
    ):
        own = folder / f"exact{number}"
        own.mkdir()
        (own / "exact.json").write_bytes(content)
        yield Input(f"exact.json {number}", partial(pages, own), own, status=1)


def checkpoints(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Saved models."""
    learn = learner()
    learn.save(folder / "valid")
    valid = (folder / "valid").read_bytes()
    state = {name: table.clone() for name, table in learn.model.state_dict().items()}
    first = next(iter(state))
    with safetensors.safe_open(folder / "valid", framework="pt") as file:
        identity = file.metadata()
    by_hand: dict[str, bytes] = {
        "empty": b"",
        "pickle": b"\x80\x04\x95",
        "length": (2**63).to_bytes(8, "little") + valid[8:],
        "nan": safetensors.torch.save(state | {first: torch.full_like(state[first], np.nan)}, identity),
        "shape": safetensors.torch.save(state | {first: state[first][:1].contiguous()}, identity),
        "dtype": safetensors.torch.save(state | {first: state[first].double()}, identity),
        "more": safetensors.torch.save(state | {"more": torch.ones(1)}, identity),
        "fewer": safetensors.torch.save({first: state[first]}, identity),
        "anonymous": safetensors.torch.save(state, {}),
    }
    files = by_hand | {f"mutated{number}": mutated(draw, valid) for number in range(40)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        yield Input(f"saved model {name}", partial(loaded, learn, folder / name), folder)
    for path in ("missing", "", ".", "a\x00b", "x" * 300):
        yield Input(f"saved model {path!r}", partial(loaded, learn, folder / path), folder)


@cache
def learner() -> Any:
    """A small learner on the ratings."""
    return collab_learner(load_movielens(), n_factors=3, y_range=(0, 5.5))


def loaded(learn: Any, path: Path) -> Said:
    """Load a saved model; a model that is refused changes nothing."""
    before = copy.deepcopy(learn.model.state_dict())
    said = called(lambda: learn.load(path))
    after = learn.model.state_dict()
    if said.status and not all(torch.equal(before[name], after[name]) for name in before):
        return said._replace(err="Traceback: the model has changed")
    return said


def api(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Arguments in Python."""
    odd = [None, "x", -1, 0, 1.5, float("nan"), float("inf"), [], {}, [1], True, 10**30, b"x", np.float32("nan"), ""]
    learn = learner()
    calls: dict[str, Callable[[Any], Any]] = {
        "load_ratings": load_ratings,
        "load_digits": load_digits,
        "load_movielens": load_movielens,
        "n_factors": lambda value: collab_learner(learn.data, n_factors=value),
        "y_range": lambda value: collab_learner(learn.data, y_range=value),
        "wd": lambda value: collab_learner(learn.data, wd=value),
        "seed": lambda value: collab_learner(learn.data, seed=value),
        "learner's data": lambda value: collab_learner(value),
        "fit's rate": lambda value: learn.fit(1, value) if value is None or value != value else None,
        "recommend": lambda value: learn.recommend(value, 3),
        "recommend's n": lambda value: learn.recommend(1, value),
        "bias": lambda value: learn.bias(value, is_item=True),
        "weight": lambda value: learn.weight(value, is_item=True),
    }
    for name, call in calls.items():
        for value in odd:
            yield Input(f"{name} {value!r}", partial(called, partial(call, value)), folder)


FACES: dict[str, Callable[[Path, random.Random], Iterator[Input]]] = {
    "ratings file": ratings_files,
    "arguments": arguments,
    "storage URL": storages,
    "file of runs": journals,
    "summary.json": summaries,
    "tables": tables,
    "benchmarks.json": benchmarks,
    "other JSON files": other_files,
    "saved model": checkpoints,
    "Python API": api,
}


def inputs(folder: Path, face: str, seed: int, count: int | None = None) -> Iterator[Input]:
    """The inputs of a face, or `count` of them, drawn with a seed; their files are in `folder`."""
    draw = random.Random(f"{face} {seed}")
    (folder / "ratings.csv").write_text(RATINGS)
    own = folder / "face"
    own.mkdir()
    made = FACES[face](own, draw)
    yield from made if count is None else draw.sample(list(made), count)

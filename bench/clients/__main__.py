"""Trains fastai and RecBole with their own AdamW and with DeferredAdamW, in turns.

The code is that of docs/clients.md. Each library gets its own environment under .tox/clients, kept for the next time;
one that cannot be made is reported and left out. "apart" is the largest distance between the two figures of a seed,
"seeds" the standard deviation of the dense figure over seeds: apart should be far smaller. "time" is the median of the
seeds' ratios, deferred over dense, with its 95 % interval. Do not use the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from bench.harness import MIN_PAIRS, median_ratio
from bench.peers.conversation import export
from bench.peers.environments import NoEnvironmentError, python_of
from lesson import load_movielens
from lesson.data import DataError

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".tox" / "clients"
CLIENTS = {"fastai": "fastai", "RecBole": "recbole"}  # a section of the guide each


class ClientError(RuntimeError):
    """A library's training failed: the message is its last line."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.clients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=MIN_PAIRS, help=f"at least {MIN_PAIRS}")
    seeds = parser.parse_args().seeds
    if seeds < MIN_PAIRS:
        parser.error(f"--seeds {seeds}: an interval needs at least {MIN_PAIRS}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="clients-") as folder:
        ratings = Path(folder) / "ratings.npz"
        try:
            export(load_movielens(), ratings)
        except DataError as error:
            parser.error(str(error))
        for client, requirements in CLIENTS.items():
            print(client, file=sys.stderr)
            try:
                python = python_of(HERE / f"{requirements}.txt", ENVIRONMENTS)
                rows.append({"library": client, **summary(trained(python, client, seeds, ratings))})
            except (NoEnvironmentError, ClientError) as error:
                print(f"left out: {client}: {error}", file=sys.stderr)
    print(pd.DataFrame(rows).to_string(index=False))


def trained(python: str, client: str, seeds: int, ratings: Path) -> pd.DataFrame:
    """One row for each seed: the figures and the seconds of both trainings.

    Raises:
        ClientError: a training failed, or gave no row.
    """
    command = [python, str(HERE / "turns.py"), client, str(seeds), str(ratings)]
    done = subprocess.run(command, cwd=ratings.parent, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ClientError((done.stderr.strip().splitlines() or ["it gives no reason"])[-1])
    lines = [line.removeprefix("row ") for line in done.stdout.splitlines() if line.startswith("row ")]
    if not lines:
        raise ClientError("it printed no row")
    return pd.json_normalize([json.loads(line) for line in lines])


def summary(rows: pd.DataFrame) -> dict[str, object]:
    """The columns of the printed table."""
    ratio = median_ratio(rows["deferred.seconds"].to_list(), rows["dense.seconds"].to_list())
    return {
        "dense": f"{rows['dense.figure'].mean():.5g}",
        "deferred": f"{rows['deferred.figure'].mean():.5g}",
        "apart": f"{(rows['deferred.figure'] - rows['dense.figure']).abs().max():.1g}",
        "seeds": f"{rows['dense.figure'].std():.1g}",
        "time": f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
    }


if __name__ == "__main__":
    main()

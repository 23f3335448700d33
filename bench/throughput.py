"""Trainings per minute on the whole machine: dotbias against eager PyTorch.

A training is the lesson's: MovieLens 100k, five epochs of one-cycle in batches of 64. Training many models, as a study
does, can use every core. dotbias gets one process with one thread per core; PyTorch is measured like that, and as one
process with all threads. A round is one turn of each. The processes of a turn are new: they import, compile and train
once, start together when all are ready, and count their trainings for a quarter of a minute. dotbias trains with the
lesson's learner, so its time includes validation after each epoch; PyTorch does not validate. Do not use the machine
meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, MutableSequence
from itertools import count
from multiprocessing.synchronize import Barrier
from typing import NamedTuple

import pandas as pd
import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessException

from bench.eager import WIDTH, Y_RANGE
from bench.harness import check_accuracy
from bench.training import EPOCHS, LR, WD, small_accuracy, training
from lesson import collab_learner, load_movielens
from lesson.data import CollabData, DataError
from lesson.schedules import one_cycle
from studies.evidence import provenance

BATCH = 64
SECONDS = 15.0


class Arrangement(NamedTuple):
    """An implementation, its number of processes, and the threads of each."""

    implementation: str  # dotbias or eager
    processes: int
    threads: int


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: 5, six to nine minutes on two cores")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds {rounds}: choose at least one")
    try:
        load_movielens()
    except DataError as error:
        parser.error(str(error))
    check_accuracy(small_accuracy("native"))
    cores = provenance.cores()
    try:
        rates = take_turns(arrangements(cores), rounds)
    except ProcessException as error:
        sys.exit(f"\nerror: {error}")
    print(summary(rates))
    print(f"{provenance.cpu()}, {cores} cores; torch {torch.__version__}")


def arrangements(cores: int) -> list[Arrangement]:
    """Our arrangement, and the candidates for PyTorch's best."""
    theirs = [Arrangement("eager", cores, 1), Arrangement("eager", 1, cores)]
    return [Arrangement("dotbias", cores, 1), *dict.fromkeys(theirs)]  # on one core they are the same


def take_turns(
    turns: list[Arrangement], rounds: int, load: Callable[[], CollabData] = load_movielens, seconds: float = SECONDS
) -> pd.DataFrame:
    """Trainings per minute: one row per round, one column per arrangement.

    Raises:
        ProcessException: a process failed or died; the others have been ended.
    """
    rates = pd.DataFrame(columns=pd.MultiIndex.from_tuples(turns, names=Arrangement._fields), dtype=float)
    for number in range(1, rounds + 1):
        for turn in turns:
            name, processes, threads = turn
            said = f"round {number} of {rounds}: {name}, processes × threads {processes} × {threads}: "
            print(said, end="", file=sys.stderr, flush=True)
            rates.loc[number, turn] = rate = trainings_a_minute(turn, load, seconds)
            print(f"{rate:,.1f} per minute", file=sys.stderr)
    return rates


def trainings_a_minute(turn: Arrangement, load: Callable[[], CollabData], seconds: float) -> float:
    """Run the processes of a turn together; each counts for `seconds` and to the end of a training."""
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(turn.processes), context.Array("d", turn.processes)
    multiprocessing.spawn(train_for, (turn, load, seconds, ready, rates), turn.processes)
    return 60 * sum(rates)


def train_for(
    process: int,
    turn: Arrangement,
    load: Callable[[], CollabData],
    seconds: float,
    ready: Barrier,
    rates: MutableSequence[float],
) -> None:
    """The work of a process: it writes its trainings per second to rates[process]."""
    torch.set_num_threads(turn.threads)
    data = load()
    train = {"dotbias": train_by_learner, "eager": train_eagerly}[turn.implementation]
    train(data, 0)
    ready.wait()
    began = time.perf_counter()
    for done in count(1):
        train(data, done)
        if not rates[process] and (taken := time.perf_counter() - began) >= seconds:
            rates[process] = done / taken
        if all(rates):  # continue until then, or the last to finish would have more of the machine
            return


def train_by_learner(data: CollabData, seed: int) -> None:
    learn = collab_learner(data, WIDTH, Y_RANGE, WD, bs=BATCH, seed=seed, quiet=True)
    learn.fit_one_cycle(EPOCHS, LR)


def train_eagerly(data: CollabData, _seed: int) -> None:
    train = data.train
    schedule = one_cycle(EPOCHS * -(-len(train) // BATCH), LR)
    _, epoch = training("eager", BATCH, schedule, (len(data.users), len(data.items)))
    for _ in range(EPOCHS):
        epoch((train.users, train.items, train.ratings))


def summary(rates: pd.DataFrame) -> str:
    """Medians with their range over rounds, and the ratio to PyTorch's best arrangement, round by round."""
    table = rates.agg(["median", "min", "max"]).T.reset_index()
    processes, threads = rates["eager"].median().idxmax()
    ratios = rates["dotbias"].squeeze(axis=1) / rates["eager", processes, threads]
    return (
        f"Trainings per minute (rounds: {len(rates)})\n{table.to_string(index=False, float_format='{:,.1f}'.format)}\n"
        f"dotbias trains {ratios.median():.1f} times as many (from {ratios.min():.1f} to {ratios.max():.1f}) as eager "
        f"PyTorch at its best, {processes} × {threads}"
    )


if __name__ == "__main__":
    main()

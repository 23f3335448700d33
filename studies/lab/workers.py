"""Processes that do runs. They know no storage: the sweep alone writes, so that a killed worker tears nothing."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, Self

Prepare = Callable[[], Callable[[Any], Any]]


@dataclass(frozen=True)
class Finished:
    """A job that ended: "done" with its result, "failed" with a traceback, or "lost" with its worker."""

    job: Any
    how: Literal["done", "failed", "lost"]
    result: Any


class _Worker:
    def __init__(self, prepare: Prepare) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Any = None

    def give(self, job: Any) -> None:
        self.job = job
        self.connection.send(job)

    def take(self) -> Finished:
        job, self.job = self.job, None
        try:
            how, result = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Finished(job, "lost", f"worker {self.process.pid} died (exit code {self.process.exitcode})")
        return Finished(job, how, result)


def _serve(connection: Connection, prepare: Prepare) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the sweep decides what it means
    try:
        run = prepare()
        while True:
            job = connection.recv()  # EOFError: the sweep is gone, so nobody waits for more
            try:
                answer = ("done", run(job))
            except Exception:
                answer = ("failed", traceback.format_exc())
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class Workers:
    """A fixed number of worker processes; a dead one is replaced.

    Args:
        count: how many.
        prepare: called once in each worker; returns the function that does a job. Both travel by pickle.
    """

    def __init__(self, count: int, prepare: Prepare) -> None:
        self.prepare = prepare
        self.workers = [_Worker(prepare) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()

    @property
    def idle(self) -> int:
        """How many have nothing to do."""
        return sum(worker.job is None for worker in self.workers)

    @property
    def busy_with(self) -> list[Any]:
        """The jobs being done."""
        return [worker.job for worker in self.workers if worker.job is not None]

    def give(self, job: Any) -> None:
        """Hand a job to an idle worker."""
        for place, worker in enumerate(self.workers):
            if worker.job is None:
                if not worker.process.is_alive():
                    worker = self.workers[place] = _Worker(self.prepare)
                worker.give(job)
                return
        raise RuntimeError("every worker is busy")

    def wait(self, seconds: float) -> Iterator[Finished]:
        """The jobs that end within `seconds`, at least one where one is under way and ends in time."""
        busy = {worker.connection: worker for worker in self.workers if worker.job is not None}
        for connection in multiprocessing.connection.wait(list(busy), seconds):
            worker = busy[connection]  # type: ignore[index]
            finished = worker.take()
            if finished.how == "lost":
                self.workers[self.workers.index(worker)] = _Worker(self.prepare)
            yield finished

"""Processes that do runs. Only the sweep writes to the storage, so a killed worker corrupts nothing.

A worker ends with its parent, however that ends. A thread of the worker waits for the parent's end. That works on every
system, also while compiled code computes that releases Python's lock. Code that hangs may hold the lock forever, so on
Linux the kernel kills the worker as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, Self

from numba.core import event

from studies.lab.spec import OutcomeError

Prepare = Callable[[], Callable[[Any], Any]]

COMPILING = "compiling the CPU kernels, once per machine: about half a minute"
STILLBORN = 3  # after so many deaths in a row before a worker is ready, give up
START = 600.0  # seconds that a worker may take to start, at least: imports on a busy machine
LOOK = 10.0  # seconds; a sweep that looked away for longer, because it or the machine was stopped, counts only these
PR_SET_PDEATHSIG = 1  # of Linux' prctl


class WorkerError(RuntimeError):
    """The workers cannot start: the message says why."""


@dataclass(frozen=True)
class Finished:
    """A job that ended: "done" with its result, "failed" with a traceback or a line, "lost" with its worker, or "late".

    A job is late if it exceeds its limit; its worker is then killed.

    Attributes:
        job: as it was given.
        how: it ended.
        result: what its function returned, or what went wrong.
        seconds: the worker took for it, if it is done or failed.
    """

    job: Any
    how: Literal["done", "failed", "lost", "late"]
    result: Any
    seconds: float = field(default=0.0, compare=False)


class _Compilation(event.Listener):
    """Notifies the sweep that a worker compiles; code from the cache causes no such event."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.notified = connection, False

    def on_start(self, *_: object) -> None:
        """Notify once."""
        if not self.notified:
            self.notified = True
            self.connection.send(("note", COMPILING))

    def on_end(self, *_: object) -> None:
        """Do nothing."""


class _Worker:
    def __init__(self, prepare: Prepare, began: float) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process with threads may hang
        self.connection, theirs = context.Pipe()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which counts bytes, would write to stderr
        self.process = context.Process(target=_serve, args=(theirs, prepare), daemon=True)
        # Ctrl-C reaches the whole group, but only the sweep handles it: children inherit the ignored signal.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        theirs.close()
        self.ready = False
        self.jobs: deque[Any] = deque()  # the one being done, and those that wait in the connection
        self.began = began  # to start, or with its job, by the clock of `Workers`

    @property
    def ahead(self) -> list[Any]:
        """The jobs that have not begun, as far as the sweep knows."""
        return list(self.jobs)[int(self.ready) :]

    def give(self, jobs: Iterable[Any]) -> None:
        for job in jobs:
            self.jobs.append(job)
            with contextlib.suppress(OSError):  # it has just died: `wait` reports the job as lost
                self.connection.send(job)

    def end(self) -> str:
        """How a worker died after its connection closed."""
        self.process.join(LOOK)
        self.process.kill()  # it may hang while it ends
        self.process.join()
        return f"worker {self.process.pid} died (exit code {self.process.exitcode})"


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _serve(connection: Connection, prepare: Prepare) -> None:
    _end_with_parent()
    try:
        try:
            run = prepare()
        except Exception as error:
            connection.send(("unfit", f"{type(error).__name__}: {error}"))
            return
        event.register("numba:compile", _Compilation(connection))
        connection.send(("ready", None))
        while True:
            job = connection.recv()  # EOFError: the sweep is gone
            began = time.monotonic()
            how, result = attempt(run, job)
            connection.send((how, result, time.monotonic() - began))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def attempt(run: Callable[[Any], Any], job: Any) -> tuple[Literal["done", "failed"], Any]:
    """How a job ends, and its result: see `Finished`."""
    try:
        return "done", run(job)
    except OutcomeError as error:  # its line says all
        return "failed", str(error)
    except Exception:
        return "failed", traceback.format_exc()


class Workers:
    """A fixed number of worker processes; a dead one is replaced.

    Args:
        count: how many.
        prepare: called once in each worker; returns the function that does a job. Both travel by pickle.
        show: called with each distinct note of the workers, once.
    """

    def __init__(self, count: int, prepare: Prepare, show: Callable[[str], None]) -> None:
        self.prepare, self.show = prepare, show
        self.shown: set[str] = set()
        self.stillborn = 0
        self.clock, self.looked = 0.0, time.monotonic()
        self.workers = [_Worker(prepare, self.clock) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()

    def room(self, ahead: int = 0) -> int:
        """How many jobs can be given, if each worker that is ready has one and so many more ahead."""
        return sum(max(0, 1 + ahead - len(worker.jobs)) for worker in self.workers if worker.ready)

    @property
    def jobs(self) -> list[Any]:
        """The jobs that were given and have not ended."""
        return [job for worker in self.workers for job in worker.jobs]

    @property
    def ahead(self) -> list[Any]:
        """Those of them that have not begun."""
        return [job for worker in self.workers for job in worker.ahead]

    def give(self, job: Any) -> None:
        """Hand a job to the worker that has the fewest; it begins as soon as the worker is done with those before."""
        worker = min((worker for worker in self.workers if worker.ready), key=lambda worker: len(worker.jobs))
        if not worker.jobs:
            worker.began = self._now()
        worker.give([job])

    def wait(self, seconds: float, limit: float = math.inf) -> Iterator[Finished]:
        """The jobs that ended; returns when a worker reports anything, or after `seconds`.

        Args:
            seconds: how long to wait.
            limit: the seconds after which a job is ended; the start of a worker may take START, if that is more.

        Raises:
            WorkerError: a worker's `prepare` raised, or several workers in a row died in it or exceeded the limit.
        """
        of = {worker.connection: worker for worker in self.workers}
        for connection in multiprocessing.connection.wait(list(of), seconds):
            worker = of[connection]  # type: ignore[index]
            took: list[float] = []
            try:
                how, result, *took = worker.connection.recv()
            except (EOFError, OSError):
                how, result = "lost", worker.end()
                self._replace(worker, result)
            if how == "unfit":
                raise WorkerError(f"a worker cannot start: {result}")
            if how == "note":
                self._note(result)
            elif how == "ready":
                worker.ready, self.stillborn, worker.began = True, 0, self._now()
            elif worker.ready and worker.jobs:
                yield self._finished(worker, how, result, *took)
        now = self._now()
        for worker in list(self.workers):
            allowed = limit if worker.ready else max(limit, START)
            idle = worker.ready and not worker.jobs
            if idle or now - worker.began <= allowed or worker.connection.poll():
                continue
            worker.process.kill()
            worker.process.join()
            late = f"ended after {now - worker.began:,.0f} seconds, its limit; --timeout SECONDS allows more"
            self._replace(worker, f"worker {worker.process.pid} did not start: {late}")
            if worker.ready:
                yield self._finished(worker, "late", late)

    def _finished(self, worker: _Worker, *end: Any) -> Finished:
        worker.began = self._now()  # with the job ahead
        return Finished(worker.jobs.popleft(), *end)

    def _now(self) -> float:
        """Seconds during which the sweep has looked after its workers."""
        now = time.monotonic()
        self.clock += min(now - self.looked, LOOK)
        self.looked = now
        return self.clock

    def _note(self, text: str) -> None:
        if text not in self.shown:
            self.shown.add(text)
            self.show(text)

    def _replace(self, dead: _Worker, end: str) -> None:
        self.stillborn += not dead.ready
        if self.stillborn == STILLBORN:
            raise WorkerError(f"{STILLBORN} workers in a row died while starting; the last: {end}")
        dead.connection.close()
        new = self.workers[self.workers.index(dead)] = _Worker(self.prepare, self._now())
        new.give(dead.ahead)

"""Processes that do runs. Only the sweep writes to the storage, so a killed worker corrupts nothing.

A worker ends with its parent, however that ends. A thread of the worker waits for the parent's end. That works on every
system, also while compiled code computes that releases Python's lock. Code that hangs may hold the lock for ever, so on
Linux the kernel kills the worker as well.
"""

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    """

    job: Any
    how: Literal["done", "failed", "lost", "late"]
    result: Any


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
        self.job: Any = None
        self.began = began  # to start, or with its job, by the clock of `Workers`

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None

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
            connection.send(attempt(run, job))
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

    @property
    def idle(self) -> int:
        """How many workers are ready and idle."""
        return sum(worker.idle for worker in self.workers)

    @property
    def busy_with(self) -> list[Any]:
        """The jobs being done."""
        return [worker.job for worker in self.workers if worker.job is not None]

    def give(self, job: Any) -> None:
        """Hand a job to an idle worker."""
        worker = next(worker for worker in self.workers if worker.idle)
        worker.job, worker.began = job, self._now()
        try:
            worker.connection.send(job)
        except OSError:
            return  # it has just died: `wait` reports the job as lost

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
            try:
                how, result = worker.connection.recv()
            except (EOFError, OSError):
                how, result = "lost", worker.end()
                self._replace(worker, result)
            if how == "unfit":
                raise WorkerError(f"a worker cannot start: {result}")
            if how == "note":
                self._note(result)
            elif how == "ready":
                worker.ready, self.stillborn = True, 0
            elif worker.job is not None:
                job, worker.job = worker.job, None
                yield Finished(job, how, result)
        now = self._now()
        for worker in list(self.workers):
            allowed = limit if worker.ready else max(limit, START)
            if worker.idle or now - worker.began <= allowed or worker.connection.poll():
                continue
            worker.process.kill()
            worker.process.join()
            late = f"ended after {now - worker.began:,.0f} seconds, its limit; --timeout SECONDS allows more"
            self._replace(worker, f"worker {worker.process.pid} did not start: {late}")
            if worker.job is not None:
                yield Finished(worker.job, "late", late)

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
        self.workers[self.workers.index(dead)] = _Worker(self.prepare, self._now())

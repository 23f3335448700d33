"""Processes that do runs. Only the sweep writes to the storage, so a killed worker corrupts nothing.

A study's command starts its workers as copies of its own process, before it has done anything but import: a new process
imports torch for seconds. A worker is a new process where it replaces another, beyond one per core, on a GPU, where the
command is not the process's program, and on other systems than Linux.

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
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Literal, Self

from numba.core import event

from studies.evidence.provenance import cores
from studies.lab import stopping
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
    def __init__(self, copied: bool = False) -> None:
        context = multiprocessing.get_context("fork") if copied else multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which counts bytes, would write to stderr
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        if not copied and sys.platform != "win32":
            resource_tracker.ensure_running()  # starting it lets Ctrl-C through again
        try:
            with stopping.waiting():
                self.process.start()
        except OSError as error:
            raise WorkerError(f"a worker cannot start: {error.strerror}; ask for fewer with --workers") from None
        theirs.close()
        self.prepare: Prepare | None = None  # that it was told to call last; None if it has nothing to do
        self.told = 0  # how often
        self.ready = False
        self.jobs: deque[Any] = deque()  # the one being done, and those that wait in the connection
        self.began = 0.0  # to prepare, or with its job, by the clock of `Workers`

    @property
    def ahead(self) -> list[Any]:
        """The jobs that have not begun, as far as the sweep knows."""
        return list(self.jobs)[int(self.ready) :]

    def begin(self, prepare: Prepare, now: float) -> None:
        self.prepare, self.ready, self.began = prepare, False, now
        self.told += 1
        self._send("prepare", prepare)

    def give(self, jobs: Iterable[Any]) -> None:
        for job in jobs:
            self.jobs.append(job)
            self._send("do", job)

    def _send(self, *message: Any) -> None:
        with contextlib.suppress(OSError):  # it has just died: `wait` replaces it, and reports its job as lost
            self.connection.send(message)

    def end(self) -> str:
        """How a worker died after its connection closed."""
        self.process.join(LOOK)
        self.kill()  # it may hang while it ends
        return f"worker {self.process.pid} died (exit code {self.process.exitcode})"

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _leave_signals_to_the_sweep() -> None:
    """Ignore Ctrl-C, which reaches the whole group; end at other signals, for which a copy has the sweep's handlers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def _serve(connection: Connection) -> None:
    _end_with_parent()
    _leave_signals_to_the_sweep()
    event.register("numba:compile", _Compilation(connection))
    run: Callable[[Any], Any] | None = None
    told = 0
    try:
        while True:
            what, given = connection.recv()  # EOFError: the sweep is gone
            if what == "prepare":
                told += 1
                try:
                    run = given()
                except Exception as error:
                    connection.send(("unfit", f"{type(error).__name__}: {error}"))
                    return
                connection.send(("ready", told))
            elif run is not None:
                began = time.monotonic()
                how, result = attempt(run, given)
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
    """Up to a fixed number of worker processes; a dead one is replaced.

    Args:
        count: how many.
        show: called with each distinct note of the workers, once.
    """

    def __init__(self, count: int, show: Callable[[str], None]) -> None:
        self.count, self.show = count, show
        self.shown: set[str] = set()
        self.stillborn = 0
        self.clock, self.looked = 0.0, time.monotonic()
        self.workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.kill()

    def fork(self) -> None:
        """Start a worker per core as a copy of this process, which must have done nothing but import.

        A copy has one thread only, and would wait forever for a lock that another held, or for a library's threads.
        """
        for _ in range(min(self.count, cores())):
            self.workers.append(_Worker(copied=True))

    def begin(self, prepare: Prepare, jobs: int) -> None:
        """Prepare for a number of jobs as many workers as can have one. What they are still doing is given up.

        Args:
            prepare: called once in each worker; returns the function that does a job. Both travel by pickle.
            jobs: how many there will be.
        """
        for worker in [worker for worker in self.workers if worker.jobs]:
            worker.kill()
            self.workers.remove(worker)
        self.stillborn = 0
        needed = min(self.count, jobs)
        self.workers += [_Worker() for _ in range(needed - len(self.workers))]
        for worker in self.workers[:needed]:
            if worker.prepare is not prepare:
                worker.begin(prepare, self._now())
        for worker in self.workers[needed:]:
            worker.prepare, worker.ready = None, False

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
                self.stillborn = 0
                if worker.prepare is not None and result == worker.told:
                    worker.ready, worker.began = True, self._now()
            elif worker.ready and worker.jobs:
                yield self._finished(worker, how, result, *took)
        now = self._now()
        for worker in list(self.workers):
            allowed = limit if worker.ready else max(limit, START)
            idle = worker.prepare is None or (worker.ready and not worker.jobs)
            if idle or now - worker.began <= allowed or worker.connection.poll():
                continue
            worker.kill()
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
        self.stillborn += dead.prepare is not None and not dead.ready
        if self.stillborn == STILLBORN:
            raise WorkerError(f"{STILLBORN} workers in a row died while starting; the last: {end}")
        new = self.workers[self.workers.index(dead)] = _Worker()
        if dead.prepare is not None:
            new.begin(dead.prepare, self._now())
        new.give(dead.ahead)

"""Where a sweep keeps its runs: a journal file that one process owns, or a database that machines share."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import filelock
import optuna
import sqlalchemy.event
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from studies.evidence.outside import Masked, storage_name, without_password
from studies.evidence.schema import CURVES, RUNS, SUMMARY

JOURNAL = "trials.log"
REPLACING = ".replacing.lock"  # held while a folder's results are replaced
HEARTBEAT, GRACE = 15, 60  # seconds; a machine silent for longer than GRACE has lost its runs
PATIENCE = 600.0  # seconds to wait for a database that stopped answering
LONGEST_PAUSE = 30.0  # seconds between two attempts to reach it
ANSWER = 30  # seconds within which a database that is there answers
OPENINGS = 20  # attempts to open a database, a second apart, while other machines create its tables
RACES = (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError)  # what is to be created exists meanwhile
PSYCOPG = 'python -m pip install "psycopg[binary]"'
DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)


class SweepError(RuntimeError):
    """The sweep cannot continue: the message says why and what to do."""


LOST = (  # Optuna goes on with the transaction of a lost connection: the third
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.PendingRollbackError,
)
Found = TypeVar("Found")


class Patience:
    """Does an operation on a storage, again and again while a database has stopped answering.

    Args:
        storage: where the operations are done; only a database is waited for.
        seconds: how long to wait; 0 to give up at once.

    Attributes:
        regained: when the last outage ended, by `time.monotonic`.
    """

    def __init__(self, storage: BaseStorage, seconds: float) -> None:
        self.seconds = seconds
        self.shown = storage_name(storage.url) if isinstance(storage, RDBStorage) else ""
        self.regained = -float("inf")

    def __call__(self, operation: Callable[[], Found]) -> Found:
        """The result of `operation`. If an error is reported, it may have been done all the same."""
        lost: float | None = None
        failures, pause = 0, 0.0
        while True:
            try:
                found = operation()
            except DATABASE_ERRORS as error:
                now = time.monotonic()
                lost, failures = (now if lost is None else lost), failures + 1
                left = lost + self.seconds - now
                if not self.shown or not _is_lost(error) or left <= 0:
                    raise
                if failures == 2:  # at once, a new connection replaces one that was closed
                    _say(f"storage {self.shown}: stopped answering; waiting for it up to {self.seconds:,.0f} seconds")
                    pause = 1.0
                time.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if lost is not None:
                self.regained = time.monotonic()
                if failures > 1:
                    _say(f"storage {self.shown}: answers again after {self.regained - lost:,.0f} seconds")
            return found


def _is_lost(error: Exception) -> bool:
    """Whether it may pass: a closed connection, a server that starts, a database that others have locked."""
    return isinstance(error, LOST) or isinstance(error.__cause__, LOST)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def open_storage(
    folder: Path, url: str | None, fresh: bool = False, results: Path | None = None
) -> contextlib.AbstractContextManager[BaseStorage]:
    """The trials' storage: any SQLAlchemy URL, or by default a file in `folder`, locked by this process.

    Args:
        folder: holds the file; created if missing.
        url: of a database that machines share; None for the file.
        fresh: first rename the file, and the files in the folder `results`.
        results: the folder that results will be written to.

    Raises:
        SweepError: the file is damaged or in use by another sweep, or the URL is wrong or in memory.
    """
    _mask_logs()
    return _file(folder, fresh, results) if url is None else _database(folder, url)


def _make(folder: Path) -> None:
    """Make the folder of results, and check now, not after all runs, that files can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _mask_logs() -> None:
    """Send all logs and warnings of Optuna, SQLAlchemy and drivers to one handler, which masks passwords."""
    handler = logging.StreamHandler()
    handler.setFormatter(Masked())
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of each failed query; `Patience` says so once
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()


@contextlib.contextmanager
def _database(folder: Path, url: str) -> Iterator[BaseStorage]:
    shown = storage_name(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are experimental
        warnings.filterwarnings("ignore", module="optuna|sqlalchemy|alembic")
        # Messages show only the error's type: a driver's own text may hold the password.
        try:
            storage = _tables(url)
            forgetful = _is_in_memory(storage)
        except ImportError as error:
            missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
            reason = without_password(str(missing))
            how = f", {PSYCOPG}" if missing.name == "psycopg" or "pq wrapper" in reason else ""  # libpq is missing
            raise SweepError(f"storage {shown}: install its driver{how} ({reason})") from None
        except Exception as error:  # each driver has its own errors
            raise SweepError(f"storage {shown}: {_why_not_opened(error)}") from None
        if forgetful:
            raise SweepError(
                f"storage {shown}: a database in memory loses all runs when the command ends; name a file, "
                "such as sqlite:///trials.db"
            )
        _make(folder)
        try:
            yield storage
        except DATABASE_ERRORS as error:
            raise SweepError(
                f"storage {shown}: stopped answering ({type(error.__cause__ or error).__name__}); finished runs are "
                "kept, the same command continues"
            ) from None


WHY_NOT_OPENED = {  # by what servers and drivers say, in lower case
    "it refuses this user or password": (
        "authentication failed",
        "no password supplied",
        "access denied",
        "role ",
        "28p01",
    ),
    "this user may not make tables there; GRANT it CREATE on the schema": ("permission denied for",),
    "it has no connection left; try again soon": ("too many connections", "too many clients", "connection slots"),
    "it has no such database; create it first": ("does not exist", "unknown database", "3d000"),
    "no server answers there; check host and port, and whether it runs": (
        *("refused", "can't connect", "no such file", "could not translate host", "resolve host", "not known"),
        *("timeout", "timed out", "no route to host", "unreachable"),
    ),
    "it starts or stops; try again soon": ("starting up", "shutting down"),
    "its file cannot be opened; check that its folder exists and can be written": ("unable to open database file",),
    "another program holds it; try again soon": ("database is locked",),
}


def _why_not_opened(error: Exception) -> str:
    """In our own words: a driver's text may hold the password."""
    return _known_reason(error) or (
        f"cannot be opened ({type(error).__name__}); check the URL (such as postgresql://user:password@host/"
        "database), the server, the database and the password"
    )


def _known_reason(error: Exception) -> str | None:
    wrapped = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    of_driver = getattr(wrapped, "orig", None)
    said = f"{getattr(of_driver, 'sqlstate', '')} {of_driver}".lower()
    return next((why for why, words in WHY_NOT_OPENED.items() if any(word in said for word in words)), None)


def _tables(url: str) -> RDBStorage:
    for attempt in range(1, OPENINGS):
        try:
            return _opened(url)
        except (sqlalchemy.exc.DBAPIError, optuna.exceptions.StorageInternalError) as error:
            # Machines that start together all create the tables: at each of them one succeeds, and the others fail.
            is_race = isinstance(error, RACES) and _known_reason(error) is None
            if attempt > 1 and not is_race:
                raise
        time.sleep(1)
    return _opened(url)


def _opened(url: str) -> RDBStorage:
    parsed = sqlalchemy.engine.make_url(url)
    driver = parsed.get_driver_name()
    if driver in ("psycopg", "psycopg2"):  # a server that vanishes without a word would be waited for, forever
        arguments = {"connect_timeout": ANSWER, "tcp_user_timeout": ANSWER * 1000, "keepalives_idle": ANSWER}
    elif driver == "pysqlite":
        arguments = {"timeout": ANSWER}
    else:
        arguments = {}
    asked = {"connect_args": {name: value for name, value in arguments.items() if name not in parsed.query}}
    storage = RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE, engine_kwargs=asked)
    if storage.engine.name == "sqlite":
        # By default SQLite's transactions read without a lock, so that several processes would get one claim.
        @sqlalchemy.event.listens_for(storage.engine, "connect")
        def _connected(connection: Any, _: object) -> None:
            connection.isolation_level = None  # the driver begins no transaction by itself

        @sqlalchemy.event.listens_for(storage.engine, "begin")
        def _begun(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        storage.engine.dispose()  # the connections made before
    return storage


def _is_in_memory(storage: RDBStorage) -> bool:
    """Whether it is SQLite without a file, however the URL is written."""
    if storage.engine.name != "sqlite":
        return False
    with storage.engine.connect() as connection:
        return not any(file for _, _, file in connection.exec_driver_sql("PRAGMA database_list"))


@contextlib.contextmanager
def _file(folder: Path, fresh: bool, results: Path | None) -> Iterator[BaseStorage]:
    busy = (
        f"another sweep is writing to {folder}: wait for it, name another folder with --results, or give both a shared "
        "database with --storage"
    )
    _make(folder)
    lock = folder / ".lock"
    with locked(lock, busy):
        if fresh:
            set_aside([folder / JOURNAL, *((results or folder) / name for name in (SUMMARY, RUNS, CURVES))])
        journal = folder / JOURNAL
        _mend(journal, lock)
        yield _read(journal, lock)


@contextlib.contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold the lock of a file.

    Args:
        path: the file.
        busy: the error if another process holds it; None waits instead.

    Raises:
        SweepError: another process holds it, or files cannot be locked there.
    """
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if busy is None else 0)
    except filelock.Timeout:
        raise SweepError(busy) from None
    except NotImplementedError:
        raise SweepError(
            f"{path}: files cannot be locked there; name another folder with --results, on a local disk"
        ) from None
    try:
        yield
    finally:
        lock.release()


def set_aside(paths: Sequence[Path]) -> None:
    """Rename the files of earlier sweeps, so that nothing is lost and the names are free."""
    for path in paths:
        if os.path.lexists(path):
            aside = path.rename(_aside(path, "until"))
            print(f"{path.name} is set aside as {aside.name}", file=sys.stderr)


def _mend(journal: Path, lock: Path) -> None:
    """Repair what a killed sweep may have left; we hold the folder's lock, so no other sweep is alive."""
    for torn in journal.parent.glob(f"{journal.name}.torn-*"):
        if torn.is_file() and not torn.stat().st_size:  # its command was killed before it kept anything there
            torn.unlink()
    if not os.path.lexists(journal):
        return
    if not journal.is_file():  # a pipe would be waited for, forever
        raise SweepError(f"{journal}: not a file; --fresh sets it aside and starts anew")
    if journal.is_symlink() or journal.stat().st_nlink > 1:
        raise SweepError(
            f"{journal}: a link, so another sweep may write to the same file; name the folder of the file itself with "
            "--results, or set the link aside with --fresh"
        )
    raw = journal.read_bytes()
    *lines, last = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not _is_record(line):  # trials are numbered by line, so only the last line may be dropped
            raise SweepError(f"{journal}, line {number}: damaged; --fresh sets the file aside and starts anew")
    if last and _is_record(last):
        with journal.open("ab") as file:
            file.write(b"\n")
    elif last:  # cut short, as on a full disk; Optuna would ignore everything after it
        _read(journal, lock)  # a file that is inconsistent stays as it is
        torn = _aside(journal, "torn")
        torn.write_bytes(last)
        with journal.open("r+b") as file:
            file.truncate(len(raw) - len(last))
        print(f"{journal}: the last line was cut short; it is kept in {torn.name}", file=sys.stderr)


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and isinstance(record.get("op_code"), int) and "worker_id" in record


class _Journal(JournalFileBackend):
    """Optuna's journal file, in a folder whose lock this process holds: so it needs no lock for each record.

    Args:
        path: the file; created if missing.
        lock: the folder's lock file.
    """

    def __init__(self, path: Path, lock: Path) -> None:
        super().__init__(str(path))
        self.path, self.lock = path, lock
        self.ours = {path: _identity(path), lock: _identity(lock)}

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The records from a number on."""
        self._require_ours()
        return super().read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write records, all or none: a part of a line, as on a full disk, would hide those after it."""
        self._require_ours()
        lines = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                while lines:
                    lines = lines[file.write(lines) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise

    def _require_ours(self) -> None:
        for path, identity in self.ours.items():
            if _identity(path) == identity:
                continue
            after = (
                "another sweep may have begun; finished runs are kept, the same command continues"
                if path == self.lock
                else "put it back before you continue, or its runs are done anew"
            )
            raise SweepError(f"{path}: removed or replaced while the sweep ran: {after}")


def _identity(path: Path) -> tuple[int, int] | None:
    """What distinguishes a file from another of its name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read(journal: Path, lock: Path) -> JournalStorage:
    try:
        return JournalStorage(_Journal(journal, lock))
    except (OSError, SweepError):
        raise
    except Exception as error:  # any error of Optuna's on records that it did not write
        raise SweepError(
            f"{journal}: its records are inconsistent ({type(error).__name__}); --fresh sets the file aside and "
            "starts anew"
        ) from error


def _aside(path: Path, why: str) -> Path:
    """A name that no file has yet."""
    now = f"{path.name}.{why}-{datetime.now().astimezone():%Y%m%dT%H%M%S}"
    names = itertools.chain([now], (f"{now}-{count}" for count in itertools.count(2)))
    return next(aside for name in names if not os.path.lexists(aside := path.with_name(name)))

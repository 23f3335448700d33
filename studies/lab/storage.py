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
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import filelock
import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from studies.evidence.outside import Masked, storage_name, without_password
from studies.evidence.schema import CURVES, RUNS, SUMMARY

JOURNAL = "trials.log"
HEARTBEAT, GRACE = 15, 60  # seconds; a machine silent for longer than GRACE has lost its runs
DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)


class SweepError(RuntimeError):
    """The sweep cannot continue: the message says why and what to do."""


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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
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
            reason = without_password(str(error.__cause__ or error))
            raise SweepError(f"storage {shown}: install its driver ({reason})") from None
        except Exception as error:  # each driver has its own errors
            raise SweepError(
                f"storage {shown}: cannot be opened ({type(error).__name__}); check the URL (such as "
                "postgresql://user:password@host/database), the server, the database and the password"
            ) from None
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


def _tables(url: str) -> RDBStorage:
    try:
        return RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except (sqlalchemy.exc.DBAPIError, optuna.exceptions.StorageInternalError):
        time.sleep(1)  # machines that start together all create the tables: one succeeds, the others fail
        return RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)


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
    with locked(folder / ".lock", busy):
        if fresh:
            _set_aside([folder / JOURNAL, *((results or folder) / name for name in (SUMMARY, RUNS, CURVES))])
        journal = folder / JOURNAL
        _mend(journal)
        yield _read(journal)


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


def _set_aside(paths: Sequence[Path]) -> None:
    """Rename the files of earlier sweeps, so that nothing is lost and the names are free."""
    for path in paths:
        if os.path.lexists(path):
            aside = path.rename(_aside(path, "until"))
            print(f"{path.name} is set aside as {aside.name}", file=sys.stderr)


def _mend(journal: Path) -> None:
    """Repair what a killed sweep may have left; we hold the folder's lock, so no other sweep is alive."""
    Path(f"{journal}.lock").unlink(missing_ok=True)  # Optuna's own lock, which it would wait 30 seconds for
    for torn in journal.parent.glob(f"{journal.name}.torn-*"):
        if torn.is_file() and not torn.stat().st_size:  # its command was killed before it kept anything there
            torn.unlink()
    if not os.path.lexists(journal):
        return
    if not journal.is_file():  # a pipe would be waited for, for ever
        raise SweepError(f"{journal}: not a file; --fresh sets it aside and starts anew")
    raw = journal.read_bytes()
    *lines, last = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not _is_record(line):  # trials are numbered by line, so only the last line may be dropped
            raise SweepError(f"{journal}, line {number}: damaged; --fresh sets the file aside and starts anew")
    if last and _is_record(last):
        with journal.open("ab") as file:
            file.write(b"\n")
    elif last:  # cut short, as on a full disk; Optuna would ignore everything after it
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


def _read(journal: Path) -> JournalStorage:
    try:
        return JournalStorage(JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal))))
    except OSError:
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

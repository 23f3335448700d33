"""Where a sweep keeps its runs: a journal file that is one process's alone, or a database that machines share."""

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
    """A sweep that cannot go on: the message says why and what to do."""


def open_storage(
    folder: Path, url: str | None, fresh: bool = False, results: Path | None = None
) -> contextlib.AbstractContextManager[BaseStorage]:
    """The trials' storage: any SQLAlchemy URL, or by default a file in `folder`, which then is ours alone.

    Args:
        folder: made if it is not there; where the file is.
        url: of a database that machines share.
        fresh: set the file, and the files of the folder `results`, aside first.
        results: the folder of the results to come.

    Raises:
        SweepError: the file is in use by another sweep or damaged, or the URL leads nowhere or to memory.
    """
    _mask_logs()
    return _file(folder, fresh, results) if url is None else _database(folder, url)


def _make(folder: Path) -> None:
    """Make the folder of results, and be sure now, not after all runs, that files can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _mask_logs() -> None:
    """Whatever Optuna, SQLAlchemy and drivers log or warn of goes through one handler, which shows no password."""
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
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are, since 2021
        warnings.filterwarnings("ignore", module="optuna|sqlalchemy|alembic")
        # Only the names of errors are told: a database driver's own words may hold the password.
        try:
            storage = _tables(url)
            forgetful = _is_in_memory(storage)
        except ImportError as error:
            reason = without_password(str(error.__cause__ or error))
            raise SweepError(f"storage {shown}: install its driver ({reason})") from None
        except Exception as error:  # drivers have errors of their own
            raise SweepError(
                f"storage {shown}: cannot be opened ({type(error).__name__}); is it a URL such as "
                "postgresql://user:password@host/database, the server up, the database there, the password right?"
            ) from None
        if forgetful:
            raise SweepError(
                f"storage {shown}: a database in memory, which forgets all runs when the command ends; name a file, "
                "such as sqlite:///trials.db"
            )
        _make(folder)
        try:
            yield storage
        except DATABASE_ERRORS as error:
            raise SweepError(
                f"storage {shown}: stopped answering ({type(error.__cause__ or error).__name__}); finished runs are "
                "kept, the same command goes on"
            ) from None


def _tables(url: str) -> RDBStorage:
    try:
        return RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except (sqlalchemy.exc.DBAPIError, optuna.exceptions.StorageInternalError):
        time.sleep(1)  # machines that come first at the same moment all make the tables: one does, the others fail
        return RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)


def _is_in_memory(storage: RDBStorage) -> bool:
    """Whether it is SQLite without a file, however its URL says so."""
    if storage.engine.name != "sqlite":
        return False
    with storage.engine.connect() as connection:
        return not any(file for _, _, file in connection.exec_driver_sql("PRAGMA database_list"))


@contextlib.contextmanager
def _file(folder: Path, fresh: bool, results: Path | None) -> Iterator[BaseStorage]:
    busy = (
        f"another sweep is writing to {folder}: wait for it, name another folder by --results, or give both a shared "
        "database by --storage"
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
    """Alone with a lock's file.

    Args:
        path: of the file.
        busy: what to say if another process has it; None waits for that.

    Raises:
        SweepError: another has it, or files cannot be locked there.
    """
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if busy is None else 0)
    except filelock.Timeout:
        raise SweepError(busy) from None
    except NotImplementedError:
        raise SweepError(
            f"{path}: files cannot be locked there; name another folder by --results, on a disk of this machine"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _set_aside(paths: Sequence[Path]) -> None:
    """Rename what earlier sweeps have left, so that none of it is lost and none in the way."""
    for path in paths:
        if os.path.lexists(path):
            aside = path.rename(_aside(path, "until"))
            print(f"{path.name} is set aside as {aside.name}", file=sys.stderr)


def _mend(journal: Path) -> None:
    """Undo what a sweep that was killed may have left; the folder's lock says that no other is alive."""
    Path(f"{journal}.lock").unlink(missing_ok=True)  # Optuna's own lock, which would cost 30 seconds to outwait
    if not os.path.lexists(journal):
        return
    if not journal.is_file():  # a pipe would be waited for, for ever
        raise SweepError(f"{journal}: not a file; --fresh sets it aside and starts anew")
    raw = journal.read_bytes()
    *lines, last = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not _is_record(line):  # lines count trials, so none but the last can be spared
            raise SweepError(f"{journal}, line {number}: damaged; --fresh sets the file aside and starts anew")
    if last and _is_record(last):
        with journal.open("ab") as file:
            file.write(b"\n")
    elif last:  # cut short, as on a full disk; Optuna would read nothing behind it
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
    except Exception as error:  # whatever Optuna stumbles over in records that are none of its own
        raise SweepError(
            f"{journal}: its records do not fit together ({type(error).__name__}); --fresh sets the file aside and "
            "starts anew"
        ) from error


def _aside(path: Path, why: str) -> Path:
    """A name that nothing has yet."""
    now = f"{path.name}.{why}-{datetime.now().astimezone():%Y%m%dT%H%M%S}"
    names = itertools.chain([now], (f"{now}-{count}" for count in itertools.count(2)))
    return next(aside for name in names if not os.path.lexists(aside := path.with_name(name)))

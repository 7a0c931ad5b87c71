"""A real PostgreSQL for the tests: one server in its own processes, as Debian packages it.

Its data is in a folder of its own. ``initdb`` and the server refuse to run as root: then they run as the user
``postgres``, whom the package makes. Without the package the test is skipped, or fails if ``CI`` is set.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

#: On a busy machine the first start takes some seconds.
START_TIMEOUT_S, STOP_TIMEOUT_S = 60.0, 20.0
USER = "repertory"


class PostgresMissingError(Exception):
    """No server can be had on this machine; the message says what is missing."""


def _binary(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    path = str(found[-1]) if found else shutil.which(name)
    if path is None:
        raise PostgresMissingError(f"{name} is not installed: apt-get install postgresql")
    return path


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


class Postgres:
    """One server. ``start`` and ``stop`` may be called again and again: its data stays until ``close``.

    It does not wait for the disk: tests kill processes, and no machine.
    """

    def __init__(self) -> None:
        self._server, initdb = _binary("postgres"), _binary("initdb")
        self._user: str | None = None
        if os.geteuid() == 0:
            try:
                self._user = pwd.getpwnam("postgres").pw_name
            except KeyError:
                raise PostgresMissingError("there is no user postgres: apt-get install postgresql") from None
        self._folder = Path(tempfile.mkdtemp(prefix="repertory-postgresql-"))
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._folder.chmod(0o700)
        self._data, self.port = self._folder / "data", _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._run([initdb, "-D", str(self._data), "-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C", "--no-sync"])

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases, as SQLAlchemy takes it."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def make(self, database: str) -> str:
        """Make a database, and return its URL."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')  # type: ignore[arg-type]
        return self.url(database)

    @property
    def _dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={USER} dbname=postgres connect_timeout=5"

    def start(self) -> Postgres:
        """Start the server, and wait until it answers."""
        command = [
            self._server, "-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), "-k", str(self._folder),
            "-c", "fsync=off", "-c", "max_connections=50", "-c", "log_min_messages=fatal",
        ]  # fmt: skip
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", user=self._user, group=self._user,
                extra_groups=[] if self._user else None, start_new_session=True,
            )  # fmt: skip
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self._dsn).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)
            else:
                return self

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends its sessions, SIGQUIT is a crash of all its processes."""
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(STOP_TIMEOUT_S)
        self._process = None

    def close(self) -> None:
        """Stop the server, and remove its data."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder.parent / f"{self._folder.name}.log").unlink(missing_ok=True)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd="/", user=self._user, group=self._user,
            extra_groups=[] if self._user else None,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

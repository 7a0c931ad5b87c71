"""``Database``: the SQL database of a projection, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from repertory.bridge.text import without_login
from repertory.projections.progress import TooSlow, WorldError, line_of
from repertory.projections.sleepers import end_sleepers

#: A projector that is stopped within its transaction holds locks. PostgreSQL ends its session after this time, and who
#: waits for such a lock tries again after this one; SQLite's writers wait for this long.
IDLE_IN_TRANSACTION_MS, LOCK_TIMEOUT_MS = 2_000, 1_000
_CONNECT_TIMEOUT_S = 5

#: The driver that a database needs, and the extra that has it.
_DRIVERS = {"sqlite": ("sqlite3", "projections"), "postgresql": ("psycopg", "projections,postgresql")}
#: SQLSTATEs of failures that no event causes: a server that became a standby, a right that was taken away, a prepared
#: statement that a pooler lost, a lock that was not got, an operator or a crash. And classes of them: connections, the
#: end of a transaction (serialization, deadlock), resources (a full disk, too many connections), damage.
_READ_ONLY = "25006"
_NO_LOCK = "55P03"
_WORLD = {_READ_ONLY, _NO_LOCK, "26000", "42501", "42P05", "57P01", "57P02", "57P03", "57P04", "57P05"}
_WORLD_CLASSES = ("08", "28", "40", "53", "58", "XX")
_IDLE_IN_TRANSACTION = "25P03"
#: The server ended a statement, or a whole transaction, because it took too long, or somebody cancelled it.
_TOO_LONG = {"25P04", "57014"}
#: SQLite's primary result codes of the same kind: PERM, BUSY, LOCKED, NOMEM, READONLY, IOERR, CORRUPT, FULL, CANTOPEN,
#: PROTOCOL, NOTADB.
_SQLITE_WORLD = {3, 5, 6, 7, 8, 10, 11, 13, 14, 15, 26}


def checked_url(text: str) -> sa.URL:
    """Return the URL of a database; ValueError if it is none, or its driver is not installed."""
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        shown = without_login(text) if isinstance(text, str) else text
        raise ValueError(
            f"to={shown!r:.200} is no URL of a database: sqlite:///PATH or postgresql+psycopg://…"
        ) from error
    kind, _, driver = url.drivername.partition("+")
    if kind not in _DRIVERS:
        raise ValueError(f"to={_shown(url)}: projections are kept in sqlite or postgresql, not in {kind}")
    module, extra = _DRIVERS[kind]
    if kind == "postgresql":
        if driver not in ("", "psycopg"):
            raise ValueError(f"to={_shown(url)}: the driver for PostgreSQL is psycopg: postgresql+psycopg://…")
        url = url.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and not url.database:
        raise ValueError(f"to={_shown(url)} names no file, and other processes cannot reach a database in memory")
    if find_spec(module) is None:
        raise ValueError(f"to={_shown(url)}: {module} is not installed: pip install 'repertory[{extra}]'")
    return url


def _shown(url: sa.URL) -> str:
    """Return a URL without its secrets: its password, and what libpq takes for one among its parameters."""
    hidden = {name: "***" for name in url.query if "password" in name}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


class Database:
    """One database, opened at first use. Any thread may use it; it survives no fork."""

    def __init__(self, url: sa.URL) -> None:
        self.url, self.is_sqlite = url, url.get_backend_name() == "sqlite"
        self.shown = _shown(url)
        self._writer: sa.Engine | None = None
        self._reader: sa.Engine | None = None
        self._pid = 0
        #: The file that was opened (its device and inode), None before: somebody may put another one in its place.
        self._file: tuple[int, int] | None = None
        #: When a transaction's last statement ended, and how long after that the next one began.
        self._idle_from_s = self._idle_s = 0.0

    @property
    def path(self) -> str:
        """The file of an SQLite database; "" for any other."""
        return str(Path(self.url.database or "").absolute()) if self.is_sqlite else ""

    def _engine(self, *, writes: bool) -> sa.Engine:
        if self._pid != os.getpid():
            self._writer = self._reader = None
            self._pid = os.getpid()
        if self._file is not None and self._file != self._file_now():
            self.close()
        if writes:
            if self._writer is None:
                self._writer = _sqlite(self.url, "BEGIN IMMEDIATE") if self.is_sqlite else self._watched()
            return self._writer
        if self._reader is None:
            self._reader = _sqlite(self.url, "BEGIN") if self.is_sqlite else _postgresql(self.url)
        return self._reader

    def _file_now(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116  at each transaction
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def is_lost(self) -> bool:
        """Return whether the file that was opened is not there any more, so that its tables have to be made anew."""
        return self._file is not None and self._file_now() is None

    def _watched(self) -> sa.Engine:
        """Return an engine of PostgreSQL that measures for how long a transaction does nothing.

        Where the server ends one for that, a driver that sends several statements at once learns no more than that the
        connection is lost.
        """
        engine = _postgresql(self.url)

        @event.listens_for(engine, "before_cursor_execute")
        def begins(*_: object) -> None:
            self._idle_s = time.monotonic() - self._idle_from_s

        @event.listens_for(engine, "after_cursor_execute")
        def ended(*_: object) -> None:
            self._idle_from_s, self._idle_s = time.monotonic(), 0.0

        return engine

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Run one transaction that writes. Raises WorldError, and what the statements within raise.

        A WorldError at the very commit says nothing about whether it was committed.
        """
        self._idle_from_s, self._idle_s = time.monotonic(), 0.0
        with self._mapped(), self._engine(writes=True).begin() as connection:
            if self.is_sqlite and self._file is None:
                self._file = self._file_now()
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Read, at one moment of the database. Raises WorldError."""
        if self.is_sqlite and not Path(self.path).exists():
            raise WorldError(f"{self.path} does not exist: no projector has run, or in another folder")
        with self._mapped(), self._engine(writes=False).begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            state = _state_of(error)
            if state == _READ_ONLY:
                self.close()  # Its name may lead to another server by now.
            if state == _NO_LOCK:
                self._end_sleepers()
            if (world := self.world_error(error)) is not None:
                raise world from error
            raise

    def _end_sleepers(self) -> None:
        with contextlib.suppress(sa.exc.SQLAlchemyError), self._engine(writes=False).begin() as connection:
            end_sleepers(connection, IDLE_IN_TRANSACTION_MS / 1_000)

    def world_error(self, error: sa.exc.SQLAlchemyError) -> WorldError | None:
        """Return what a failure means if no event is to blame for it, else None."""
        if isinstance(error, sa.exc.TimeoutError):  # of the pool
            return WorldError(f"{self.shown}: {line_of(error)}")
        if not isinstance(error, sa.exc.DBAPIError):
            return None
        original = error.orig
        text = f"{self.shown}: {line_of(error if original is None else original)}"
        if self.is_sqlite:
            code = getattr(original, "sqlite_errorcode", None)
            return WorldError(text) if code is not None and code & 0xFF in _SQLITE_WORLD else None
        state = _state_of(error)
        is_lost = error.connection_invalidated or (not state and isinstance(error, sa.exc.OperationalError))
        if state in _TOO_LONG:
            return TooSlow(text)
        if state == _IDLE_IN_TRANSACTION or (is_lost and self._idle_s * 1_000 >= IDLE_IN_TRANSACTION_MS):
            return TooSlow(
                f"{self.shown} ended a transaction that sent nothing for {IDLE_IN_TRANSACTION_MS / 1_000:g} s: its "
                "handlers are slow"
            )
        return WorldError(text) if is_lost or state in _WORLD or state.startswith(_WORLD_CLASSES) else None

    def close(self) -> None:
        """Close its connections; a later use opens others."""
        for engine in (self._writer, self._reader):
            if engine is not None and self._pid == os.getpid():
                engine.dispose()
        self._writer = self._reader = self._file = None


def _state_of(error: sa.exc.SQLAlchemyError) -> str:
    """Return the SQLSTATE of a failure, "" without one: SQLite has none, nor has a connection that is lost."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def _sqlite(url: sa.URL, begin: str) -> sa.Engine:
    """Return an engine whose transactions begin as ``begin`` says: the driver's own would begin late.

    Rows and progress are in one file, and lost together: so a commit need not wait for the disk.
    """
    engine = sa.create_engine(
        url, connect_args={"timeout": LOCK_TIMEOUT_MS / 1_000, "isolation_level": None, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def opened(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    """Return an engine whose sessions have our time-outs, UTC for times without a zone, and the URL's options."""
    ours = {"idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS, "lock_timeout": LOCK_TIMEOUT_MS}
    options = [f"-c {name}={value}" for name, value in {**ours, "TimeZone": "UTC"}.items()]
    given = url.query.get("options", ())
    connect_args: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "repertory"}
    connect_args = {name: value for name, value in connect_args.items() if name not in url.query}
    connect_args["options"] = " ".join([*((given,) if isinstance(given, str) else given), *options])
    return sa.create_engine(url, isolation_level="READ COMMITTED", pool_pre_ping=True, connect_args=connect_args)


def lock_ddl(connection: sa.Connection, number: int) -> None:
    """Let one transaction at a time make or drop tables: PostgreSQL's own IF NOT EXISTS loses races."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})

"""The database of a simulated run: SQLite in memory, real and transactional, with a name for each of its steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event

from repertory.projections.database import Database
from repertory.projections.definition import Projection
from repertory.supervision.traceback_text import message_of

#: Is called at each step of a process with its database and its log, by the step's name, and may raise.
Reached = Callable[[str], None]

#: Where several connections of a process can share a database in memory.
_SHARES_MEMORY = (3, 36)
#: The remedy where projections cannot be simulated.
LEFT_OUT = "leave projections out: projections=False for simulate, or --no-projections"
_numbers = itertools.count()


class _Engine:
    """The engine of all databases in memory of this process: so statements are compiled once for all runs."""

    def __init__(self) -> None:
        self._name = ""
        self._engine = sa.create_engine("sqlite://", creator=self._open, poolclass=sa.NullPool)
        self._dbapi = cast("Any", self._engine.dialect.dbapi)
        if self._dbapi.sqlite_version_info < _SHARES_MEMORY:
            raise ValueError(
                "projections are simulated with SQLite 3.36 or newer, and this Python has "
                f"{self._dbapi.sqlite_version}; {LEFT_OUT}"
            )

    def connect(self, name: str) -> sa.Connection:
        """Open the database of a name, which ends with its last connection."""
        self._name = name
        return self._engine.connect()

    def _open(self) -> Any:
        # Without a timeout: who waits for a lock in one thread waits for ever.
        return self._dbapi.connect(f"file:/{self._name}?vfs=memdb", uri=True, timeout=0.0, isolation_level=None)


@cache
def _engine() -> _Engine:
    return _Engine()


class MemoryDatabase:
    """One database of a run, as long as it is open."""

    def __init__(self) -> None:
        self._name = f"simulated-{next(_numbers)}"
        self._keeper = self.connect()

    def connect(self) -> sa.Connection:
        """Open one more connection."""
        return _engine().connect(self._name)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Run one transaction in which nothing happens by itself, for those who look at the end, or set it up."""
        with self._keeper.begin():
            self._keeper.exec_driver_sql("BEGIN IMMEDIATE")
            yield self._keeper

    def close(self) -> None:
        """Close it."""
        self._keeper.close()


_checked: set[type[Projection]] = set()


def check_tables(kind: type[Projection]) -> None:
    """Raise ValueError if SQLite cannot make the tables of a projection."""
    if kind in _checked:
        return
    with closing(MemoryDatabase()) as memory, memory.transaction() as connection:
        try:
            kind.metadata.create_all(connection, checkfirst=False)
        except sa.exc.SQLAlchemyError as error:
            raise ValueError(
                f"{kind.__name__} cannot be simulated, as SQLite cannot make its tables: {message_of(error)}; "
                f"{LEFT_OUT}"
            ) from error
    _checked.add(kind)


class SimulatedDatabase(Database):
    """A database as one process has it open. Its ``Reached`` is called with these names:

    ``load`` and ``loaded`` around a reading; ``begin`` before a transaction, ``statement`` before each of either,
    ``commit`` before a COMMIT, ``committed`` after it. ``on_commit`` is called between these two.
    """

    def __init__(self, memory: MemoryDatabase, reached: Reached = lambda _: None) -> None:
        super().__init__(sa.make_url("sqlite://"))
        self._memory, self.reached = memory, reached
        self.on_commit: Callable[[], None] = lambda: None
        self._connection: sa.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """See ``Database``."""
        self.reached("begin")
        self.on_commit = lambda: None
        with self._mapped(), self._within("BEGIN IMMEDIATE") as connection:
            yield connection
            self.reached("commit")
        self.on_commit()
        self.reached("committed")

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """See ``Database``. Each statement sees what is committed when it begins, as PostgreSQL's do."""
        self.reached("load")
        with self._mapped(), self._within() as connection:
            yield connection
        self.reached("loaded")

    @contextmanager
    def _within(self, begin: str = "") -> Iterator[sa.Connection]:
        connection = self._opened()
        with connection.begin():
            if begin:
                connection.exec_driver_sql(begin)
            yield connection

    def _opened(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._memory.connect()

            @event.listens_for(self._connection, "before_cursor_execute")
            def executes(_connection: object, _cursor: object, statement: str, *_: object) -> None:
                if not statement.startswith("BEGIN"):
                    self.reached("statement")

        return self._connection

    def close(self) -> None:
        """See ``Database``. The end of its process does the same: what was not committed is undone."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

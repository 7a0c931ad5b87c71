"""``HolderWatch``: on SQLite, a projector that is stopped within its transaction must not stop all others.

It keeps the file's only write lock, for as long as it sleeps. Its supervisor would kill it for its silence after a
while, unless that is stopped too. So projectors watch each other, and kill one of their own if all of this is certain:

- the kernel says that the process holds the write lock of this file (``supervision.process.proc.writer_pid``);
- it is a supervised projector: it wrote its pid and its start down in this file, and the process with that pid has the
  same start, so it is no other process with a pid that was used again; no other program of a user is ever killed;
- it was stopped (SIGSTOP, a frozen container) for ``STOPPED_S``.

SQLite then undoes its transaction, its supervisor starts it again, and its progress is where it was.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress

import sqlalchemy as sa

from repertory.projections import schema
from repertory.projections.database import Database
from repertory.projections.progress import WorldError
from repertory.supervision.process.proc import is_stopped, pid_start, writer_pid

#: How long a holder of the lock is left alone that is stopped: as long as PostgreSQL leaves a session that is idle.
STOPPED_S = 2.0
_LOOK_S = 0.5

logger = logging.getLogger("repertory")


class HolderWatch:
    """Owned by a projector process. On any other database than SQLite it does nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_registered = False
        self._look_s = self._since_s = 0.0
        self._suspect: tuple[int, str] | None = None

    def step(self) -> None:
        """Look who holds the lock, now and then."""
        now_s = time.monotonic()
        if not self._database.is_sqlite or now_s < self._look_s:
            return
        self._look_s = now_s + _LOOK_S
        if not self._is_registered:
            self._register()
        holder = self._stopped_holder()
        if holder != self._suspect:
            self._suspect, self._since_s = holder, now_s
        elif holder is not None and now_s - self._since_s >= STOPPED_S and self._is_projector(*holder):
            self._kill(*holder)

    def _register(self) -> None:
        """Write down that this process is a projector, and forget those that have ended."""
        table, own = schema.projectors, (os.getpid(), pid_start(os.getpid()) or "")
        with suppress(WorldError, sa.exc.SQLAlchemyError), self._database.transaction() as connection:
            for pid, start in connection.execute(sa.select(table.c.pid, table.c.start)).all():
                if pid_start(pid) != start or (pid, start) == own:
                    connection.execute(sa.delete(table).where(table.c.pid == pid, table.c.start == start))
            connection.execute(table.insert(), {"pid": own[0], "start": own[1]})
            self._is_registered = True

    def _stopped_holder(self) -> tuple[int, str] | None:
        pid = writer_pid(self._database.path)
        if pid is None or pid == os.getpid() or not is_stopped(pid) or not (start := pid_start(pid)):
            return None
        return pid, start

    def _is_projector(self, pid: int, start: str) -> bool:
        table = schema.projectors
        with suppress(WorldError, sa.exc.SQLAlchemyError), self._database.reading() as connection:
            mine = sa.select(sa.func.count()).where(table.c.pid == pid, table.c.start == start)
            return bool(connection.execute(mine).scalar_one())
        return False

    def _kill(self, pid: int, start: str) -> None:
        """Kill a process, if it still is the one that holds the lock and is stopped."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return
        try:
            # From here on the descriptor is of one process: what is true of its pid is true of that.
            if pid_start(pid) == start and self._stopped_holder() == (pid, start):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                logger.warning(
                    "%s was locked by the projector with pid %d, which was stopped for %g s: it is killed, and its "
                    "supervisor starts it again", self._database.shown, pid, STOPPED_S,
                )  # fmt: skip
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Forget this process."""
        if not self._is_registered:
            return
        with suppress(WorldError, sa.exc.SQLAlchemyError), self._database.transaction() as connection:
            connection.execute(sa.delete(schema.projectors).where(schema.projectors.c.pid == os.getpid()))

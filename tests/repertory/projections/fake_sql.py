"""A database that is a transactional fake: what happens between any two statements is drawn by a test."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from repertory.bridge.log.record import Record
from repertory.projections.progress import PlacedEvent, ProgressRow, TooSlow, WorldError


class Crash(BaseException):
    """The process of a projector ends here. Not an Exception: nothing may catch it."""


class Doubled(Exception):
    """A row is there already: what an INSERT says to whoever applies an event twice."""


class Poison(Exception):
    """An event that its handler does not take."""


class FakeSql:
    """One partition's progress, the events that were applied, and those that are parked: what is committed.

    ``fate`` is called before each statement and around each commit, and may raise Crash, WorldError or TooSlow, or let
    another projector work meanwhile. ``poison``: how often an event fails, by its seq; negative: always.
    """

    def __init__(self, poison: dict[int, int]) -> None:
        self.row: ProgressRow | None = ProgressRow(0, 0)
        self.applied: list[PlacedEvent] = []
        self.parked: list[PlacedEvent] = []
        self.poison, self.fate = dict(poison), lambda _at: ""
        #: The events whose handlers end their process, by seq; and how often each has.
        self.deadly: frozenset[int] = frozenset()
        self.deaths: Counter[int] = Counter()
        self.blamed: Counter[int] = Counter()
        #: How often somebody was about to apply an event again: the database would have blamed an innocent one.
        self.doubled = 0
        self._locked_by: FakeTransaction | None = None

    def load(self) -> ProgressRow | None:
        """See ``ProgressStore.load``."""
        self.meet("load")
        if self.row is None:
            return None
        return msgspec.structs.replace(self.row, parked=Counter(event.key for event in self.parked))

    def meet(self, at: str) -> str:
        """Let fate act."""
        what = self.fate(at)
        if what == "crash":
            raise Crash
        if what == "world":
            raise WorldError("the world fails")
        if what == "slow" and at != "load":
            raise TooSlow("idle for too long")
        return what

    @contextlib.contextmanager
    def transaction(self) -> Iterator[FakeTransaction]:
        """See ``ProgressStore.transaction``."""
        self.meet("begin")
        mine = FakeTransaction(self)
        try:
            yield mine
            if self.meet("commit") == "lost":
                mine.commit()
                raise WorldError("the connection is lost")
            mine.commit()
            if self.meet("committed") == "lost":
                raise WorldError("the connection is lost")
        finally:
            if self._locked_by is mine:
                self._locked_by = None

    def lock(self, by: FakeTransaction) -> None:
        """Lock the progress for a transaction; the lock is not got where another has it."""
        if self._locked_by not in (None, by):
            raise WorldError("the lock was not got in time")
        self._locked_by = by


class FakeTransaction:
    """Implements ``ProgressTransaction``."""

    def __init__(self, sql: FakeSql) -> None:
        self._sql = sql
        self._to: ProgressRow | None = None
        self._applied: list[PlacedEvent] = []
        self._parked: list[PlacedEvent] = []

    def swap(self, row: ProgressRow, to: ProgressRow) -> bool:
        """See ``ProgressTransaction.swap``."""
        sql = self._sql
        sql.meet("swap")
        sql.lock(self)
        now = sql.row
        if now is None or now.failed >= 0 or (now.next, now.changes) != (row.next, row.changes):
            return False
        self._to = msgspec.structs.replace(to, changes=now.changes + 1, parked={})
        return True

    def park(self, event: PlacedEvent, error: str) -> None:
        """See ``ProgressTransaction.park``."""
        self._sql.meet("park")
        self._parked.append(event)

    def apply(self, event: PlacedEvent) -> None:
        """See ``ProgressTransaction.apply``."""
        sql = self._sql
        sql.meet("apply")
        if event.seq in sql.deadly:
            sql.deaths[event.seq] += 1
            raise Crash
        left = sql.poison.get(event.seq, 0)
        if left:
            sql.poison[event.seq] = left - 1
            sql.blamed[event.seq] += 1
            raise Poison(f"event {event.seq}")
        if event in sql.applied:
            sql.doubled += 1
            raise Doubled(f"event {event.seq}")
        self._applied.append(event)

    def flush(self) -> None:
        """See ``ProgressTransaction.flush``."""
        self._sql.meet("flush")

    def commit(self) -> None:
        """Make all of it true."""
        sql = self._sql
        if self._to is not None:
            sql.row = self._to
        sql.applied += self._applied
        sql.parked += self._parked


def events(keys: list[str], gaps: list[int]) -> list[PlacedEvent]:
    """Return events with the given keys; between two of them lie offsets without events."""
    found, offset = [], 0
    for seq, key in enumerate(keys):
        offset += gaps[seq % len(gaps)] if gaps else 0
        record = Record("t", 0, offset, key.encode(), b"", (), 0)
        found.append(PlacedEvent(seq, key, record))
        offset += 1
    return found


def within(sql: FakeSql, act: Callable[[ProgressRow], ProgressRow | None]) -> None:
    """Change the progress as an operator does: in a transaction of its own, or not at all."""
    row = sql.row
    if row is not None and (to := act(row)) is not None:
        sql.row = msgspec.structs.replace(to, changes=row.changes + 1)


def retried(row: ProgressRow) -> ProgressRow | None:
    """Return the progress that an operator lets go on at an event that was blamed for deaths, None if none was."""
    if row.failed < 0:
        return None
    assert "processes in a row ended" in row.error, row.error
    return msgspec.structs.replace(row, failed=-1, error="")

"""What a projection knows of one partition, and the port of its database. Pure.

One SQL transaction holds the rows of a projection and its progress, and the first statement is a compare-and-swap of
the progress: of two projectors that work on one partition, one changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from repertory.bridge.log.record import Record
from repertory.supervision.traceback_text import message_of


class ProjectedPlace(msgspec.Struct, frozen=True):
    """One partition of the events of one entity."""

    entity: str
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class ProgressRow(msgspec.Struct, frozen=True):
    """How far a projection is with one partition.

    ``next``: the offset from which it reads; ``seq``: the number of events before it, which is the seq of the next one.
    ``failed``: the offset of the event at which it has stopped, -1 while it works, and ``error`` says why. ``changes``
    grows with each transaction. ``parked``: the keys whose events wait, each with the number of them. ``topic_id``: the
    log's id of the topic, which another topic of the same name does not have.

    ``trying``: the offset of the last event of the batch that a projector was about to try, -1 if none said so; it is
    found by its successor if the process ends meanwhile. ``deaths``: how many in a row did so while that was the only
    event.
    """

    next: int
    seq: int
    failed: int = -1
    error: str = ""
    changes: int = 0
    parked: Mapping[str, int] = {}
    topic_id: str = ""
    trying: int = -1
    deaths: int = 0


class PlacedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of the journal that counts: its place in the order, its key, and the record that holds it."""

    seq: int
    key: str
    record: Record

    @property
    def offset(self) -> int:
        """The offset of its record."""
        return self.record.offset


class WorldError(Exception):
    """The database fails, and no event is to blame: the same transaction is tried again as a whole."""


class TooSlow(WorldError):
    """The database ended a transaction because nothing came for too long: the handlers of the batch are slow."""


class ProgressChanged(Exception):
    """Somebody else changed the progress: nothing was written, and it is read again."""


class ProgressTransaction(Protocol):
    """One transaction of the database. What a method raises undoes all of it."""

    def swap(self, row: ProgressRow, to: ProgressRow) -> bool:
        """Change the progress from ``row`` to ``to``; return False if it is not ``row`` any more, or has failed."""

    def park(self, event: PlacedEvent, error: str) -> None:
        """Keep a pointer to an event of a key that is parked; ``error``: why its first event failed, else ""."""

    def apply(self, event: PlacedEvent) -> None:
        """Run the handler of an event, if it has one. Raises whatever the handler or the database does."""

    def flush(self) -> None:
        """Send what handlers have left for later. Raises whatever the database does."""


class ProgressStore(Protocol):
    """The database of a projection, as one partition sees it."""

    def load(self) -> ProgressRow | None:
        """Read the progress; None if the projection was dropped. Raises WorldError."""

    def transaction(self) -> AbstractContextManager[ProgressTransaction]:
        """Begin a transaction, which is committed at the end of the block and undone by what it raises.

        Raises WorldError: at a commit, it may have been committed all the same.
        """


def line_of(error: BaseException) -> str:
    """Return what an error says in one line; libpq's have several."""
    return " ".join(message_of(error).split())


def sentence_of(error: BaseException) -> str:
    """Return what an error says, in one line: of one of SQLAlchemy's what the database said, and not the SQL."""
    original = getattr(error, "orig", None)
    told = original if isinstance(original, BaseException) else error
    return f"{type(told).__name__}: {line_of(told)}"


def events_to_take(row: ProgressRow, events: Sequence[PlacedEvent]) -> Sequence[PlacedEvent]:
    """Return the events that continue a progress: those before it were applied by somebody else."""
    first = 0
    while first < len(events) and events[first].seq < row.seq:
        first += 1
    return events[first:] if first else events

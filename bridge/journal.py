"""The tail of a shard's journal, folded onto its snapshots; each record is checked against those before it.

Phase: RECOVERING, third step (see ``bridge.recovery``). Before it, snapshots and stashed commands have been restored.
After it, at least once, recovery reads the commands topic (fourth step); otherwise the shard is RUNNING.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from repertory.actors.message import Stopped, Unknown
from repertory.actors.placement import key_of
from repertory.actors.shard.cells import Cell
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.recovered import RecoveredShard
from repertory.actors.shard.replay import fold
from repertory.actors.wire import DecodeError
from repertory.bridge.log.record import Record
from repertory.bridge.schemas import Kind
from repertory.supervision import Directive, Failure
from repertory.supervision.traceback_text import message_of, user_traceback

#: The remedy when a part of a shard's history is missing or contradicts the rest.
REMEDY = "restore all topics of this entity from one backup"


class Lacking(NamedTuple):
    """What this build lacks to read a record of an entity, and where that is."""

    unknown: Unknown
    kind: Kind
    where: str

    @classmethod
    def by(cls, error: BaseException, kind: Kind, where: str) -> Lacking | None:
        """Return what an error says that this build lacks, None if that is not what is wrong."""
        unknown = error.unknown if isinstance(error, DecodeError) else None
        return None if unknown is None else cls(unknown, kind, where)


class Inconsistent(Exception):
    """The log contradicts itself; the sentence says what, where, and the remedy. The shard stays stopped.

    ``lacks``: what this build lacks, if that is all: a newer one may have it.
    """

    lacks: Lacking | None = None

    @classmethod
    def of(cls, shard: object, what: str, lacks: Lacking | None = None) -> Inconsistent:
        """Return the error for a shard."""
        error = cls(f"shard {shard} is stopped: {what}.")
        error.lacks = lacks
        return error

    def failure(self, shard: str) -> Failure:
        """Return the failure that stops the shard: no restart can correct what is in the log.

        It has a traceback only if user code failed on what is in the log; else the sentence says all.
        """
        failure = Failure.of(self, shard)
        return msgspec.structs.replace(failure, directive=Directive.STOP, traceback=user_traceback(self))


class JournalTail:
    """Applies the journal records that count, in seq order. ``next_seq`` is -1 before the first."""

    def __init__(self, config: ShardConfig, found: RecoveredShard) -> None:
        self._config = config
        self._record, self._cells, self._window = found.record, found.cells, found.window
        self.next_seq = -1

    def fold(self, record: Record) -> None:
        """Apply one record; Inconsistent if it does not continue the records before it."""
        shard, behaviour = self._record, self._config.behaviour
        seq, version = record.position
        if seq >= shard.seq:
            raise self._wrong(
                f"{record.place} has seq {seq}, the shard record says {shard.seq}: a transaction is torn; {REMEDY}"
            )
        if self.next_seq not in (-1, seq):
            raise self._wrong(
                f"{record.place} has seq {seq} where {self.next_seq} is next: journal records are lost; {REMEDY}"
            )
        if self.next_seq == -1 and seq > shard.tail_start:
            raise self._wrong(
                f"the journal begins at {record.place} with seq {seq}, after the tail's {shard.tail_start}: journal "
                f"records are lost; {REMEDY}"
            )
        self.next_seq = seq + 1
        self._window.placed(seq, record.offset)
        if seq < shard.tail_start:
            return
        key = entity_key(record)
        cell = self._cells.get(key)
        if cell is None:
            cell = Cell(behaviour.initial(), behaviour.initial_data)
            self._cells.put(key, cell)
        if seq <= cell.seq:
            return
        if version != cell.version + 1:
            raise self._wrong(
                f"{record.place} is version {version} of key {key!r} where {cell.version + 1} is next: a snapshot or "
                f"journal records are lost; {REMEDY}"
            )
        self._evolve(cell, record)
        cell.seq = seq
        self._window.wrote(key, seq)

    def _evolve(self, cell: Cell, record: Record) -> None:
        try:
            event, cell.state, cell.data = fold(self._config.behaviour, cell.state, record.value or b"")
        except MemoryError:
            raise
        except Exception as error:
            raise self._wrong(
                f"the journal record {record.place} cannot be applied: {type(error).__name__}: {message_of(error)}; "
                "run the code that wrote it, or correct the @event method",
                Lacking.by(error, Kind.EVENT, record.place),
            ) from error
        cell.version = 0 if type(event) is Stopped else cell.version + 1

    def _wrong(self, what: str, lacks: Lacking | None = None) -> Inconsistent:
        return Inconsistent.of(self._config.id, what, lacks)


def entity_key(record: Record) -> str:
    """Return the key of an entity's record; DecodeError if it is invalid."""
    try:
        return key_of(record.key or b"")
    except ValueError as error:
        raise DecodeError(f"its key is not a valid entity key: {error}") from error

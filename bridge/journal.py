"""The tail of a shard's journal, folded onto its snapshots; each record is checked against those before it."""

from __future__ import annotations

from repertory.actors.message import Stopped
from repertory.actors.placement import checked_key
from repertory.actors.shard.cells import Cell
from repertory.actors.shard.decision import evolve
from repertory.actors.shard.shard import Shard
from repertory.actors.wire import DecodeError, refuse_unknown_fields
from repertory.bridge.codec import number
from repertory.bridge.log.record import Record

#: What helps when a part of a shard's history is missing or contradicts the rest.
MEND = "restore all topics of this entity from one backup"


class Inconsistent(Exception):
    """The log contradicts itself; the sentence names what, where and the mend. The shard stays stopped."""

    @classmethod
    def of(cls, shard: object, what: str) -> Inconsistent:
        """Return the complaint about a shard."""
        return cls(f"shard {shard} is stopped: {what}.")


class Tail:
    """Takes the journal records that count, in seq order. ``next_seq`` is -1 before the first."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.next_seq = -1

    def fold(self, record: Record) -> None:
        """Apply one record; Inconsistent if it does not follow."""
        shard, behaviour = self._shard, self._shard.config.behaviour
        seq, version = number(record, "seq"), number(record, "version")
        where = record.place
        if seq >= shard.record.seq:
            raise self._wrong(
                f"{where} has seq {seq}, the shard record says {shard.record.seq}: a transaction is torn; {MEND}"
            )
        if self.next_seq not in (-1, seq):
            raise self._wrong(f"{where} has seq {seq} where {self.next_seq} follows: journal records are lost; {MEND}")
        if self.next_seq == -1 and seq > shard.record.tail_start:
            raise self._wrong(
                f"the journal begins at {where} with seq {seq}, after the tail's {shard.record.tail_start}: journal "
                f"records are lost; {MEND}"
            )
        self.next_seq = seq + 1
        shard.window.placed(seq, record.offset)
        if seq < shard.record.tail_start:
            return
        key = entity_key(record)
        cell = shard.cells.get(key)
        if cell is None:
            cell = shard.cells[key] = Cell(behaviour.initial(), behaviour.initial_data)
        if seq <= cell.seq:
            return
        if version != cell.version + 1:
            raise self._wrong(
                f"{where} is version {version} of key {key!r} where {cell.version + 1} follows: a snapshot or journal "
                f"records are lost; {MEND}"
            )
        self._evolve(cell, record, where)
        cell.seq = seq
        shard.window.wrote(key, seq)

    def _evolve(self, cell: Cell, record: Record, where: str) -> None:
        behaviour, data = self._shard.config.behaviour, record.value or b""
        try:
            event = behaviour.journal.decode(data)
            refuse_unknown_fields(data, event)
            if type(event) is Stopped:
                cell.state, cell.data, cell.version = behaviour.initial(), behaviour.initial_data, 0
                return
            cell.state, cell.data = evolve(behaviour, cell.state, data, type(event), bytes_max=1 << 62)
            cell.version += 1
        except MemoryError:
            raise
        except Exception as error:
            raise self._wrong(
                f"the journal record {where} cannot be applied: {type(error).__name__}: {error!s:.1000}; run the code "
                "that wrote it, and mend the @event method"
            ) from error

    def _wrong(self, what: str) -> Inconsistent:
        return Inconsistent.of(self._shard.config.id, what)


def entity_key(record: Record) -> str:
    """Return the key of an entity's record; DecodeError if it is none."""
    try:
        return checked_key((record.key or b"").decode())
    except ValueError as error:
        raise DecodeError(f"its key is none of an entity: {error}") from error

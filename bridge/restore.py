"""From the log to a shard: snapshots, waiting commands, and the tail of the journal, each checked.

A restore is a definition: the state of an entity is its latest snapshot and the fold of the journal records after
it. Whatever contradicts that (a gap, a record beyond the shard record, bytes that no longer decode) is
:class:`Inconsistent`: the shard stops, loudly, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from actors.decision import evolve
from actors.effects import ShardRecord, StateRecord, WaitingRecord
from actors.message import Stopped, Undecodable
from actors.part import Part
from actors.placement import checked_key
from actors.shard import Cell, Shard
from actors.waiting import Waiting
from actors.wire import DecodeError, encode, refuse_unknown_fields
from bridge import codec as wire
from bridge.codec import Codec
from bridge.log import Claimed, Replayed
from bridge.record import Record
from bridge.topics import SHARD_KEY

#: What helps when a part of a shard's history is missing or contradicts the rest.
_MEND = "restore all topics of this entity from one backup"


class Inconsistent(Exception):
    """The log contradicts itself; the sentence names what, where and the mend. The shard stays stopped."""


class Replay(msgspec.Struct, frozen=True):
    """A stretch of one topic that a restoration wants to read."""

    topic: str
    from_offset: int
    to_offset: int


class Restoration:
    """Reads a claimed shard's topics one after the other: state, waiting, events. Owned by the loop.

    Ask :attr:`wanted` for the stretch to replay, :meth:`feed` what comes, and when nothing is wanted any more take
    the :meth:`shard`. Raises Inconsistent from ``feed`` and ``shard``.
    """

    def __init__(self, part: Part, codec: Codec, claimed: Claimed) -> None:
        self._part = part
        self._codec = codec
        self._claimed = claimed
        self._states: dict[str, tuple[StateRecord, int, int]] = {}
        self._waiting: dict[int, WaitingRecord] = {}
        self._record: ShardRecord | None = None
        self._shard: Shard | None = None
        self._next_seq = -1
        #: Records read so far, and when (epoch, by its writer's clock) the shard record was written.
        self.records, self.recorded_ms = 0, 0
        #: Whether the group has an offset: without one, progress cannot be seen from outside.
        self.mirrored = claimed.committed is not None
        self.wanted: Replay | None = Replay(codec.state, 0, claimed.ends[codec.state])

    def feed(self, replayed: Replayed) -> None:
        """Take in records of the wanted stretch."""
        assert self.wanted is not None and replayed.topic == self.wanted.topic, replayed.topic
        self.records += len(replayed.records)
        if replayed.topic == self._codec.state:
            self._each(replayed.records, self._state)
            if replayed.complete:
                self._check_position()
                self.wanted = Replay(self._codec.waiting, 0, self._claimed.ends[self._codec.waiting])
        elif replayed.topic == self._codec.waiting:
            self._each(replayed.records, self._wait)
            if replayed.complete:
                self._begin_tail()
        else:
            self._each(replayed.records, self._fold)
            if replayed.complete:
                self.wanted = None

    def _each(self, records: Sequence[Record], take: Callable[[Record], None]) -> None:
        """Take records in; bytes that mean nothing here are a contradiction like any other."""
        for record in records:
            try:
                take(record)
            except DecodeError as error:
                raise self._wrong(
                    f"{record.place} cannot be understood: {error}; run the code that wrote it, or {_MEND}"
                ) from error

    def shard(self) -> Shard:
        """Return the restored shard, checked against its own shard record."""
        shard = self._shard
        assert shard is not None and self.wanted is None
        record, read = shard.record, self._next_seq
        if self._part.behaviour.journaled and read != record.seq and (read != -1 or record.tail_start < record.seq):
            raise self._wrong(
                f"the journal {self._codec.events} ends before seq {max(read, record.tail_start)} where the shard "
                f"record says {record.seq}: records are lost; {_MEND}"
            )
        return shard

    # --- state ------------------------------------------------------------------------------------------------

    def _state(self, record: Record) -> None:
        if record.key == SHARD_KEY:
            self._record, self.recorded_ms = wire.decode_shard(record.value or b""), record.timestamp_ms
            return
        key = _key(record)
        if record.value is None:
            self._states.pop(key, None)
        else:
            state = wire.decode_state(record.value)
            self._states[key] = (state, wire.number(record, "version"), wire.number(record, "seq"))

    def _check_position(self) -> None:
        """Hold the shard record against the group's offset and the commands topic (design, section 6)."""
        claimed, record, codec = self._claimed, self._record, self._codec
        if record is None:
            # A shard that never committed: nothing waits and nothing is journaled either, or the next steps say so.
            if claimed.committed is not None or self._states:
                raise self._wrong(
                    f"{codec.state} has no shard record, but the group has an offset ({claimed.committed}) or states; "
                    "restore that topic from a backup, or delete the system's topics and its group to begin anew"
                )
            self._record = ShardRecord(next=claimed.low, seq=0, tail_start=0, tail_offset=0, books=0)
        elif claimed.committed not in (None, record.next):
            raise self._wrong(
                f"the group's offset is {claimed.committed}, the shard record says {record.next}: the offset was "
                f"moved, or a transaction is torn; if it was moved, set it back to {record.next}"
            )
        elif claimed.low > record.next:
            raise self._wrong(
                f"commands {record.next} to {claimed.low - 1} are gone from {codec.commands} and were never handled; "
                "bring them back from a backup, and keep commands longer (retention.ms=-1)"
            )
        elif claimed.high < record.next:
            raise self._wrong(
                f"{codec.commands} ends at {claimed.high} where {record.next} is next: its tail is lost; bring it back"
            )

    # --- waiting ----------------------------------------------------------------------------------------------

    def _wait(self, record: Record) -> None:
        offset = wire.waiting_offset(record)
        if record.value is None:
            self._waiting.pop(offset, None)
        else:
            self._waiting[offset] = wire.decode_waiting(record.value)

    def _begin_tail(self) -> None:
        """Make the shard from its snapshots and waiting commands; then only the journal's tail is missing."""
        record = self._record
        assert record is not None
        shard = self._shard = Shard(self._part, record, self._claimed.high)
        for key, (state, version, seq) in self._states.items():
            if seq >= record.seq:
                raise self._wrong(
                    f"the state of key {key!r} has seq {seq}, the shard record says {record.seq}: a transaction is "
                    f"torn; {_MEND}"
                )
            self._seat(shard, key, state, version, seq)
        shard.budget.restore({key: s.restarts_ms for key, (s, _, _) in self._states.items() if s.restarts_ms})
        for offset in sorted(self._waiting):
            if offset >= record.next:
                raise self._wrong(
                    f"{self._codec.waiting} holds command {offset}, the shard record says {record.next} is next: a "
                    f"transaction is torn; {_MEND}"
                )
            letter = self._codec.waiting_envelope(offset, self._waiting[offset])
            if isinstance(letter, Undecodable):
                raise self._wrong(
                    f"the waiting command {offset} cannot be decoded by this code: {letter.reason}; "
                    "run the code that wrote it"
                )
            shard.waiting.join(Waiting(letter, self._waiting[offset]))
        self._check_waiting(shard)
        self._states.clear()
        self._waiting.clear()
        self.wanted = None
        if self._part.behaviour.journaled:
            self.wanted = Replay(self._codec.events, record.tail_offset, self._claimed.ends[self._codec.events])

    def _seat(self, shard: Shard, key: str, state: StateRecord, version: int, seq: int) -> None:
        behaviour = self._part.behaviour
        if state.snapshot is not None:
            entity = self._snapshot(key, state.snapshot)
            data = encode(entity) if behaviour.has_mutable_fields else state.snapshot
            shard.cells[key] = Cell(entity, data, version, seq)
        elif state.ended:
            shard.cells[key] = Cell(behaviour.initial(), behaviour.initial_data, 0, seq)
            shard.window.ended(key, seq)

    def _snapshot(self, key: str, data: bytes) -> Any:
        try:
            entity = self._part.behaviour.state_decode(data)
            refuse_unknown_fields(data, entity)
        except MemoryError:
            raise
        except Exception as error:  # A __post_init__ is user code.
            raise self._wrong(
                f"the snapshot of key {key!r} does not fit {self._part.behaviour.entity.__name__}: {error!s:.1000}; "
                "run the code that wrote it"
            ) from error
        return entity

    def _check_waiting(self, shard: Shard) -> None:
        told = {key: state for key, (state, _, _) in self._states.items() if state.waiting}
        for key in {*told, *shard.waiting}:
            queue = shard.waiting.queue(key)
            state = told.get(key, StateRecord())
            first = queue[0].envelope.offset if queue else -1
            if (len(queue), first) != (state.waiting, state.waiting_first):
                raise self._wrong(
                    f"key {key!r} has {len(queue)} waiting commands from {first}, its state record says "
                    f"{state.waiting} from {state.waiting_first}; {_MEND}"
                )

    # --- the tail of the journal ------------------------------------------------------------------------------

    def _fold(self, record: Record) -> None:
        shard, part = self._shard, self._part
        assert shard is not None
        seq, version = wire.number(record, "seq"), wire.number(record, "version")
        where = record.place
        if seq >= shard.record.seq:
            raise self._wrong(
                f"{where} has seq {seq}, the shard record says {shard.record.seq}: a transaction is torn; {_MEND}"
            )
        if self._next_seq not in (-1, seq):
            raise self._wrong(
                f"{where} has seq {seq} where {self._next_seq} follows: journal records are lost; {_MEND}"
            )
        if self._next_seq == -1 and seq > shard.record.tail_start:
            raise self._wrong(
                f"the journal begins at {where} with seq {seq}, after the tail's {shard.record.tail_start}: journal "
                f"records are lost; {_MEND}"
            )
        self._next_seq = seq + 1
        shard.window.placed(seq, record.offset)
        if seq < shard.record.tail_start:
            return
        key = _key(record)
        cell = shard.cells.get(key)
        if cell is None:
            cell = shard.cells[key] = Cell(part.behaviour.initial(), part.behaviour.initial_data)
        if seq <= cell.seq:
            return
        if version != cell.version + 1:
            raise self._wrong(
                f"{where} is version {version} of key {key!r} where {cell.version + 1} follows: a snapshot or journal "
                f"records are lost; {_MEND}"
            )
        self._evolve(cell, record, where)
        cell.seq = seq
        shard.window.wrote(key, seq)

    def _evolve(self, cell: Cell, record: Record, where: str) -> None:
        behaviour, data = self._part.behaviour, record.value or b""
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
        return Inconsistent(f"shard {self._part.id} is stopped: {what}.")


def _key(record: Record) -> str:
    try:
        return checked_key((record.key or b"").decode())
    except ValueError as error:
        raise DecodeError(f"its key is none of an entity: {error}") from error

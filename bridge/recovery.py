"""From the log to a shard: snapshots, waiting commands, and the tail of the journal, each checked.

A restore is a definition: the state of an entity is its latest snapshot and the fold of the journal records after
it. Whatever contradicts that (a gap, a record beyond the shard record, bytes that no longer decode) is
:class:`Inconsistent`: the shard stops, loudly, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from repertory.actors.message import Undecodable
from repertory.actors.shard.cells import Cell
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.shard import Shard
from repertory.actors.shard.stash import Stashed
from repertory.actors.shard.turn_result import SeenRecord, ShardRecord, StashedRecord, StateRecord
from repertory.actors.wire import DecodeError, encode, refuse_unknown_fields
from repertory.bridge import codec as wire
from repertory.bridge.codec import Codec
from repertory.bridge.journal import MEND, Inconsistent, Tail, entity_key
from repertory.bridge.log.port import Claimed, Replayed
from repertory.bridge.log.record import Record
from repertory.bridge.nontransactional import CountingJournal
from repertory.bridge.topics import SEEN_KEY, SHARD_KEY


class Replay(msgspec.Struct, frozen=True):
    """A stretch of one topic that a restoration wants to read."""

    topic: str
    from_offset: int
    to_offset: int


class Recovery:
    """Reads a claimed shard's topics one after the other: state, waiting, events, some commands. Owned by the loop.

    Ask :attr:`wanted` for the stretch to replay, :meth:`feed` what comes, and when nothing is wanted any more take
    the :meth:`shard`. Raises Inconsistent from ``feed`` and ``shard``.
    """

    def __init__(self, config: ShardConfig, codec: Codec, claimed: Claimed) -> None:
        self._config = config
        self._codec = codec
        self._claimed = claimed
        self._states: dict[str, tuple[StateRecord, int, int]] = {}
        self._seen: dict[str, SeenRecord] = {}
        self._stashed: dict[int, StashedRecord] = {}
        self._record: ShardRecord | None = None
        self._shard: Shard | None = None
        self._tail: Tail | None = None
        #: Which journal records count; None where all do, because each was written by a transaction.
        self._counted: CountingJournal | None = None
        #: Records read so far, and when (epoch, by its writer's clock) the shard record was written.
        self.records, self.recorded_ms = 0, 0
        #: Whether the group has an offset: without one, progress cannot be seen from outside.
        self.has_group_offset = claimed.committed is not None
        self.wanted: Replay | None = Replay(codec.state, 0, claimed.ends[codec.state])

    def feed(self, replayed: Replayed) -> None:
        """Take in records of the wanted stretch."""
        assert self.wanted is not None and replayed.topic == self.wanted.topic, replayed.topic
        self.records += len(replayed.records)
        if replayed.topic == self._codec.state:
            self._each(replayed.records, self._state)
            if replayed.complete:
                self._check_position()
                self.wanted = Replay(self._codec.stash, 0, self._claimed.ends[self._codec.stash])
        elif replayed.topic == self._codec.stash:
            self._each(replayed.records, self._stashed_command)
            if replayed.complete:
                self._begin_tail()
        elif replayed.topic == self._codec.events:
            self._journal(replayed)
        else:
            self._each(replayed.records, self._see)
            if replayed.complete:
                self.wanted = None

    def _each(self, records: Sequence[Record], take: Callable[[Record], None]) -> None:
        """Take records in; bytes that mean nothing here are a contradiction like any other."""
        for record in records:
            try:
                take(record)
            except DecodeError as error:
                raise self._wrong(
                    f"{record.place} cannot be understood: {error}; run the code that wrote it, or {MEND}"
                ) from error

    def shard(self) -> Shard:
        """Return the restored shard, checked against its own shard record."""
        shard = self._shard
        assert shard is not None and self.wanted is None
        record, read = shard.record, -1 if self._tail is None else self._tail.next_seq
        if self._config.behaviour.journaled and read != record.seq and (read != -1 or record.tail_start < record.seq):
            raise self._wrong(
                f"the journal {self._codec.events} ends before seq {max(read, record.tail_start)} where the shard "
                f"record says {record.seq}: records are lost; {MEND}"
            )
        return shard

    # --- state ------------------------------------------------------------------------------------------------

    def _state(self, record: Record) -> None:
        if record.key == SHARD_KEY:
            self._record, self.recorded_ms = wire.decode_shard(record.value or b""), record.timestamp_ms
            return
        if record.key is not None and record.key.startswith(SEEN_KEY):
            source = record.key.removeprefix(SEEN_KEY).decode("utf-8", "replace")
            self._seen[source] = wire.decode_seen(record.value or b"")
            return
        key = entity_key(record)
        if record.value is None:
            self._states.pop(key, None)
        else:
            state = wire.decode_state(record.value)
            self._states[key] = (state, wire.number(record, "version"), wire.number(record, "seq"))

    def _check_position(self) -> None:
        """Hold the shard record against the group's offset and the commands topic (design, section 6).

        What plain turns do, the group's offset follows when it can, and the journal tells the rest.
        """
        claimed, record, codec = self._claimed, self._record, self._codec
        if record is None:
            # A shard that never committed: nothing waits and nothing is journaled either, or the next steps say so.
            if claimed.committed is not None or self._states:
                raise self._wrong(
                    f"{codec.state} has no shard record, but the group has an offset ({claimed.committed}) or states; "
                    "restore that topic from a backup, or delete the system's topics and its group to begin anew"
                )
            self._record = ShardRecord(next=claimed.start_offset, seq=0, tail_start=0, tail_offset=0, changelog=0)
        elif record.nontransactional:
            return
        elif claimed.committed not in (None, record.next):
            raise self._wrong(
                f"the group's offset is {claimed.committed}, the shard record says {record.next}: the offset was "
                f"moved, or a transaction is torn; if it was moved, set it back to {record.next}"
            )
        else:
            self._check_commands(record.next)

    def _check_commands(self, next_offset: int) -> None:
        """Hold the next command against those that there are."""
        claimed, codec = self._claimed, self._codec
        if claimed.start_offset > next_offset:
            raise self._wrong(
                f"commands {next_offset} to {claimed.start_offset - 1} are gone from {codec.commands} and were never "
                "handled; bring them back from a backup, and keep commands longer (retention.ms=-1)"
            )
        if claimed.end_offset < next_offset:
            raise self._wrong(
                f"{codec.commands} ends at {claimed.end_offset} where {next_offset} is next: its tail is lost; "
                "bring it back"
            )

    # --- waiting ----------------------------------------------------------------------------------------------

    def _stashed_command(self, record: Record) -> None:
        offset = wire.stashed_offset(record)
        if record.value is None:
            self._stashed.pop(offset, None)
        else:
            self._stashed[offset] = wire.decode_stashed(record.value)

    def _begin_tail(self) -> None:
        """Make the shard from its snapshots and waiting commands; then only the journal's tail is missing."""
        record = self._record
        assert record is not None
        shard = self._shard = Shard(self._config, record, self._claimed.end_offset)
        for key, (state, version, seq) in self._states.items():
            if seq >= record.seq:
                raise self._wrong(
                    f"the state of key {key!r} has seq {seq}, the shard record says {record.seq}: a transaction is "
                    f"torn; {MEND}"
                )
            self._seat(shard, key, state, version, seq)
        shard.budget.restore({key: s.restarts_ms for key, (s, _, _) in self._states.items() if s.restarts_ms})
        for offset in sorted(self._stashed):
            if offset >= record.next:
                raise self._wrong(
                    f"{self._codec.stash} holds command {offset}, the shard record says {record.next} is next: a "
                    f"transaction is torn; {MEND}"
                )
            delivery = self._codec.stashed_envelope(offset, self._stashed[offset])
            if isinstance(delivery, Undecodable):
                raise self._wrong(
                    f"the waiting command {offset} cannot be decoded by this code: {delivery.reason}; "
                    "run the code that wrote it"
                )
            shard.stash.join(Stashed(delivery, self._stashed[offset]))
        self._check_stash(shard)
        self._states.clear()
        self._stashed.clear()
        if self._config.behaviour.journaled:
            self._tail = Tail(shard)
            self._counted = CountingJournal(record, record.tail_start) if record.epoch else None
            self.wanted = Replay(self._codec.events, record.tail_offset, self._claimed.ends[self._codec.events])
        else:
            self._begin_commands(shard)

    def _seat(self, shard: Shard, key: str, state: StateRecord, version: int, seq: int) -> None:
        behaviour = self._config.behaviour
        if state.snapshot is not None:
            entity = self._snapshot(key, state.snapshot)
            data = encode(entity) if behaviour.has_mutable_fields else state.snapshot
            shard.cells[key] = Cell(entity, data, version, seq)
        elif state.ended:
            shard.cells[key] = Cell(behaviour.initial(), behaviour.initial_data, 0, seq)
            shard.window.ended(key, seq)

    def _snapshot(self, key: str, data: bytes) -> Any:
        try:
            entity = self._config.behaviour.state_decode(data)
            refuse_unknown_fields(data, entity)
        except MemoryError:
            raise
        except Exception as error:  # A __post_init__ is user code.
            raise self._wrong(
                f"the snapshot of key {key!r} does not fit {self._config.behaviour.entity.__name__}: {error!s:.1000}; "
                "run the code that wrote it"
            ) from error
        return entity

    def _check_stash(self, shard: Shard) -> None:
        told = {key: state for key, (state, _, _) in self._states.items() if state.stashed}
        for key in {*told, *shard.stash}:
            queue = shard.stash.queue(key)
            state = told.get(key, StateRecord())
            first = queue[0].envelope.offset if queue else -1
            if (len(queue), first) != (state.stashed, state.stashed_first):
                raise self._wrong(
                    f"key {key!r} has {len(queue)} waiting commands from {first}, its state record says "
                    f"{state.stashed} from {state.stashed_first}; {MEND}"
                )

    # --- the tail of the journal, and of the commands ---------------------------------------------------------------

    def _journal(self, replayed: Replayed) -> None:
        shard, tail, counted = self._shard, self._tail, self._counted
        assert shard is not None and tail is not None
        self._each(replayed.records, tail.fold if counted is None else counted.add)
        if not replayed.complete:
            return
        if counted is not None:
            records, record = counted.settle()
            shard.advance(record.next, record.seq, self._claimed.end_offset)
            self._each(records, tail.fold)
        self._begin_commands(shard)

    def _begin_commands(self, shard: Shard) -> None:
        """Read again what other shards have sent since that was written down, if any of them may send it again."""
        record = shard.record
        self.wanted = None
        if record.nontransactional:
            self._check_commands(record.next)
        if record.epoch:
            seen = shard.redeliver().seen
            for source, causes in self._seen.items():
                seen.load(source, causes)
            if (from_offset := max(record.seen, self._claimed.start_offset)) < record.next:
                self.wanted = Replay(self._codec.commands, from_offset, record.next)

    def _see(self, record: Record) -> None:
        assert self._shard is not None
        seen = self._shard.redeliver().seen
        if (stamp := seen.stamp(record.headers)) is not None:
            seen.note(stamp)

    def _wrong(self, what: str) -> Inconsistent:
        return Inconsistent.of(self._config.id, what)

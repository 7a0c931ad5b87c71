"""From the log to a shard: its changelog (states, stashed commands) and the tail of the journal, each checked.

Phase: RECOVERING. Before it, the shard is claimed (CLAIMING, ``bridge.log``); after it, `Shard` handles commands
(RUNNING, ``bridge.loop``). Recovery reads one topic after the other::

    ReplayingState → ReplayingJournal (journaled entities) → ReplayingCommands (at least once) → RecoveredShard

Recovery defines the state of an entity: its latest snapshot, and the journal records after it, folded onto that.
Anything that contradicts this (a gap, a record beyond the shard record, bytes that no longer decode) raises
:class:`Inconsistent`: the shard stops and reports it, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from repertory.actors.entity import Entity
from repertory.actors.message import Undecodable
from repertory.actors.shard.cells import Cell
from repertory.actors.shard.changelog import (
    ShardRecord,
    StateRecord,
)
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.recovered import RecoveredShard, new_shard
from repertory.actors.shard.replay import restore
from repertory.actors.shard.stash import Stashed
from repertory.actors.shard.turn_result import Incident
from repertory.actors.wire import DecodeError
from repertory.bridge.codec import Codec
from repertory.bridge.consistency import check_commands, check_offsets, check_topics, first_record
from repertory.bridge.journal import REMEDY, Inconsistent, JournalTail, Lacking
from repertory.bridge.log.port import Claimed, Replayed
from repertory.bridge.log.record import Record
from repertory.bridge.nontransactional import NontransactionalRecovery
from repertory.bridge.read_changelog import ReadChangelog
from repertory.bridge.schemas import Kind
from repertory.bridge.silence import silenced
from repertory.supervision.traceback_text import message_of


class Replay(msgspec.Struct, frozen=True):
    """A range of one topic that a recovery has to read."""

    topic: str
    from_offset: int
    to_offset: int


class Recovery:
    """Reads the topics of a claimed shard. Owned by the loop, used once.

    Replay the range in :attr:`wanted`, :meth:`feed` its records, and repeat; once :attr:`wanted` is None, take the
    shard that was :meth:`recovered`. Both methods raise Inconsistent.
    """

    def __init__(self, config: ShardConfig, codec: Codec, claimed: Claimed) -> None:
        self._config, self._codec, self._claimed = config, codec, claimed
        self._changelog = ReadChangelog()
        self._record: ShardRecord | None = None
        self._incidents: tuple[Incident, ...] = ()
        self._found: RecoveredShard | None = None
        self._tail: JournalTail | None = None
        #: At least once; None if every journal record was written by a transaction.
        self._nontransactional: NontransactionalRecovery | None = None
        #: Records read so far.
        self.records = 0
        self.wanted: Replay | None = Replay(codec.state, 0, claimed.ends[codec.state])

    @silenced()
    def feed(self, replayed: Replayed) -> None:
        """Process records of the wanted range. What events log and print was logged when they happened."""
        assert self.wanted is not None and replayed.topic == self.wanted.topic, replayed.topic
        self.records += len(replayed.records)
        codec, is_complete = self._codec, replayed.complete
        if replayed.topic == codec.state:
            self._changelog.add(replayed.records)
            if is_complete:
                self._each(self._changelog.latest.values(), self._changelog.take)
                self._changelog.latest.clear()
                self._record = self._changelog.record
                self._record = self._checked_record()
                self._begin_journal()
        elif replayed.topic == codec.events:
            self._journal(replayed)
        else:
            assert self._nontransactional is not None, replayed.topic
            self._each(replayed.records, self._nontransactional.see)
            if is_complete:
                self.wanted = None

    def recovered(self) -> RecoveredShard:
        """Return the shard's committed state, checked against its own shard record."""
        found = self._found
        assert found is not None and self.wanted is None
        record, read = found.record, -1 if self._tail is None else self._tail.next_seq
        if record.digest not in (None, self._changelog.digest.value):
            raise self._wrong(
                f"{self._codec.state} does not hold the records that the shard record speaks of: some are missing, or "
                f"of another time; {REMEDY}"
            )
        if self._config.behaviour.journaled and read != record.seq and (read != -1 or record.tail_start < record.seq):
            raise self._wrong(
                f"the journal {self._codec.events} ends before seq {max(read, record.tail_start)} where the shard "
                f"record says {record.seq}: records are lost; {REMEDY}"
            )
        return found

    def _each(self, records: Iterable[Record], take: Callable[[Record], None]) -> None:
        """Process records one by one; bytes that cannot be decoded are a contradiction like any other."""
        for record in records:
            try:
                take(record)
            except DecodeError as error:
                raise self._wrong(
                    f"{record.place} cannot be decoded: {error}; run the code that wrote it, or {REMEDY}"
                ) from error

    def _wrong(self, what: str, lacks: Lacking | None = None) -> Inconsistent:
        return Inconsistent.of(self._config.id, what, lacks)

    # --- state ------------------------------------------------------------------------------------------------

    def _checked_record(self) -> ShardRecord:
        claimed, codec = self._claimed, self._codec
        if self._record is None:
            record = first_record(self._config, codec, claimed, has_states=bool(self._changelog.states))
        else:
            record, self._incidents = check_topics(self._config, codec, claimed, self._record)
        if not record.nontransactional:  # Else the group's offset may lag behind, and the journal has the rest.
            record, more = check_offsets(self._config, codec, claimed, record)
            self._incidents += more
        return record

    # --- stash ------------------------------------------------------------------------------------------------

    def _begin_journal(self) -> None:
        """Restore snapshots and stashed commands, and request the journal's tail."""
        record = self._record
        assert record is not None
        self._found = found = msgspec.structs.replace(
            new_shard(self._config, record),
            end_offset=self._claimed.end_offset,
            has_group_offset=self._claimed.committed is not None,
            digest=self._changelog.digest,
            recorded_ms=self._changelog.recorded_ms,
            incidents=self._incidents,
        )
        self._restore_states(found)
        self._restore_stashed(found)
        self._check_stash(found)
        found.asks.load(self._changelog.answers, found.stash.askers())
        self._check_owed(record)
        found.timers.load(self._changelog.owed)
        found.effects.load(self._changelog.effects)
        if record.epoch:
            self._nontransactional = NontransactionalRecovery(self._config, record, self._changelog.seen)
        self._changelog.states.clear()
        self._changelog.stashed.clear()
        if self._config.behaviour.journaled:
            if self._nontransactional is None:
                self._tail = JournalTail(self._config, found)
            self.wanted = Replay(self._codec.events, record.tail_offset, self._claimed.ends[self._codec.events])
        else:
            self._begin_commands()

    def _restore_states(self, found: RecoveredShard) -> None:
        behaviour, record = self._config.behaviour, found.record
        for key, (state, version, seq) in self._changelog.states.items():
            if seq >= record.seq:
                raise self._wrong(
                    f"the state of key {key!r} has seq {seq}, the shard record says {record.seq}: a transaction is "
                    f"torn; {REMEDY}"
                )
            if state.snapshot is not None:
                entity, data = self._snapshot(key, state.snapshot)
                found.cells.put(key, Cell(entity, data, version, seq))
            elif state.ended:
                found.cells.put(key, Cell(behaviour.initial(), behaviour.initial_data, 0, seq))
                found.window.ended(key, seq)
        found.budget.restore({key: s.restarts_ms for key, (s, _, _) in self._changelog.states.items() if s.restarts_ms})

    def _snapshot(self, key: str, data: bytes) -> tuple[Entity, bytes]:
        try:
            return restore(self._config.behaviour, data)
        except MemoryError:
            raise
        except Exception as error:  # A __post_init__ is user code.
            raise self._wrong(
                f"the snapshot of key {key!r} does not fit {self._config.behaviour.entity.__name__}: "
                f"{message_of(error)}; run the code that wrote it",
                Lacking.by(error, Kind.STATE, f"the snapshot of key {key!r} in {self._codec.state}"),
            ) from error

    def _restore_stashed(self, found: RecoveredShard) -> None:
        for offset in sorted(self._changelog.stashed):
            if offset >= found.record.next:
                raise self._wrong(
                    f"{self._codec.state} holds the stashed command {offset}, the shard record says "
                    f"{found.record.next} is next: a transaction is torn; {REMEDY}"
                )
            delivery = self._codec.stashed_envelope(offset, self._changelog.stashed[offset])
            if isinstance(delivery, Undecodable):
                raise self._wrong(
                    f"the stashed command {offset} cannot be decoded by this code: {delivery.reason}; "
                    "run the code that wrote it",
                    delivery.unknown and Lacking(delivery.unknown, Kind.TAKEN, f"the stashed command {offset}"),
                )
            found.stash.join(Stashed(delivery, self._changelog.stashed[offset]))

    def _check_stash(self, found: RecoveredShard) -> None:
        recorded = {key: state for key, (state, _, _) in self._changelog.states.items() if state.stashed}
        for key in {*recorded, *found.stash}:
            queue = found.stash.queue(key)
            state = recorded.get(key, StateRecord())
            first = queue[0].envelope.offset if queue else -1
            if (len(queue), first) != (state.stashed, state.stashed_first):
                raise self._wrong(
                    f"key {key!r} has {len(queue)} stashed commands from {first}, its state record says "
                    f"{state.stashed} from {state.stashed_first}; {REMEDY}"
                )

    def _check_owed(self, record: ShardRecord) -> None:
        for key, owed in (*self._changelog.owed.items(), *self._changelog.effects.items()):
            if not record.has_handled(owed.offset):
                raise self._wrong(
                    f"{self._codec.state} holds {key!r:.300}, which command {owed.offset} made, the shard record "
                    f"says {record.next} is next: a transaction is torn; {REMEDY}"
                )

    # --- the tail of the journal, and of the commands ---------------------------------------------------------

    def _journal(self, replayed: Replayed) -> None:
        found, nontransactional = self._found, self._nontransactional
        assert found is not None
        if nontransactional is None:
            assert self._tail is not None
            self._each(replayed.records, self._tail.fold)
        else:
            self._each(replayed.records, nontransactional.add)
        if not replayed.complete:
            return
        if nontransactional is not None:
            records, record = nontransactional.settle()
            self._found = msgspec.structs.replace(found, record=record)
            self._tail = JournalTail(self._config, self._found)
            self._each(records, self._tail.fold)
        self._begin_commands()

    def _begin_commands(self) -> None:
        """At least once, request the commands since the seen records were written: other shards may send them again."""
        found, nontransactional, self.wanted = self._found, self._nontransactional, None
        assert found is not None
        record = found.record
        if record.nontransactional:
            record, more = check_commands(self._config, self._codec, self._claimed, record)
            found = self._found = msgspec.structs.replace(found, record=record, incidents=(*found.incidents, *more))
        if nontransactional is not None:
            self._found = msgspec.structs.replace(found, seen=nontransactional.seen)
            if (from_offset := max(record.seen, self._claimed.start_offset)) < record.next:
                self.wanted = Replay(self._codec.commands, from_offset, record.next)

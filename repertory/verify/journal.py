"""Fold one shard's journal from its first record, and compare each state record with the fold at its seq."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import msgspec

from repertory.actors.entity import Behaviour, Entity
from repertory.actors.headers import CAUSE, EPOCH, SEQ
from repertory.actors.message import Message, Stopped
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import CHANGELOG_INDEX
from repertory.actors.shard.replay import fold
from repertory.actors.wire import DecodeError
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.nontransactional import CountingJournal
from repertory.supervision.traceback_text import message_of
from repertory.verify.changelog import Changelog
from repertory.verify.epochs import OwnerEpochs
from repertory.verify.findings import Findings, Place, text
from repertory.verify.headers import are_of_an_event, names
from repertory.verify.produced import Cause, Produced, Targets, cause_of, event_digest
from repertory.verify.records import Records
from repertory.verify.snapshots import begun, same, shown, snapshot_of
from repertory.verify.stash_records import StateEntry
from repertory.verify.values import Receivers


class Step(NamedTuple):
    """One event of one entity, and the entity's state before and after it."""

    record: Record
    key: str
    event: Message
    before: Entity
    after: Entity


class Life:
    """One entity, folded from its journal. ``covered`` is the last seq of this life below ``tail_start``.

    ``base`` is the entity before the first event whose command is still in the log, None if there is no such event.
    ``data`` is None after an event that could not be applied: from there on, the state is not known.
    """

    __slots__ = ("base", "cause", "covered", "data", "is_read", "seq", "state", "version")

    def __init__(self, state: Entity, data: bytes) -> None:
        self.state, self.version, self.seq, self.covered = state, 0, -1, -1
        self.data: bytes | None = data
        self.base: tuple[Entity, bytes | None] | None = None
        self.cause = (-1, -1)
        #: Whether an event of this life, or of one before it, was read.
        self.is_read = False


class Journal:
    """Folds one journal. ``lives`` holds its entities as they are at the end."""

    def __init__(
        self,
        source: TopicPartition,
        hosted: HostedEntity,
        findings: Findings,
        changelog: Changelog,
        low: int,
        targets: Targets,
        receivers: Receivers,
        epochs: OwnerEpochs,
        urgent: Collection[int],
    ) -> None:
        """``urgent``: the offsets of the commands that do not wait for those of their key that are stashed."""
        self._urgent = urgent
        self._source, self._hosted, self._findings, self._changelog, self._low = (
            source,
            hosted,
            findings,
            changelog,
            low,
        )
        self._targets = targets
        self.target = targets.number(TopicPartition(hosted.codec.events, source.partition))
        self._epochs = epochs
        self._decode = receivers.of(hosted.codec.events, source.topic)
        self.lives: dict[str, Life] = {}
        #: The seq that follows; -1 if retention has deleted all events.
        self.next_seq = 0
        #: Whether retention has deleted the first events: a fold begins with a snapshot then.
        self.is_cut = False
        self._tail_start = 0 if changelog.shard is None else changelog.shard.tail_start
        #: The first seq below that of the shard record which no state record covers.
        self._uncovered = 0 if changelog.shard is None else changelog.shard.seq
        self._unconfirmed: dict[tuple[str, int], list[StateEntry]] = {}
        for key, entries in changelog.unconfirmed.items():
            for entry in entries:
                if entry.seq >= 0:
                    self._unconfirmed.setdefault((key, entry.seq), []).append(entry)

    def read(self, records: Records, produced: Produced, on_step: Callable[[Step], None] | None) -> None:
        """Fold all events that count, and record each event for its command."""
        place = TopicPartition(self._hosted.codec.events, self._source.partition)
        counted = self._counted(records, place)
        if records.reader.bounds(*place)[0] > 0:
            self._begin_behind_the_cut(records.reader.read(*place), counted)
        for record in records.read(*place):
            if counted is not None and record.offset not in counted:
                continue
            self._findings.writer.looked_at += 1
            cause = cause_of(record)
            if cause is None or cause.source != self._source or cause.nth >= CHANGELOG_INDEX:
                self._findings.writer.wrong(
                    record, f"names the cause {record.header(CAUSE)!r:.300}, which is not of this shard"
                )
            else:
                produced.add(cause, self.target, event_digest(record.key, record.value, self._decode), record.offset)
            try:
                self._event(record, cause, on_step)
            except DecodeError as error:
                self._findings.states.wrong(record, f"cannot be decoded: {error}")
        for entries in self._unconfirmed.values():
            for entry in entries:
                self._findings.states.wrong(entry.place, f"has seq {entry.seq}, but no event of that key has it")
        self._check_latest()

    def _counted(self, records: Records, place: TopicPartition) -> Collection[int] | None:
        """Return the offsets of the events that count in a journal that was written at least once; else None, for all.

        Replaces the changelog's shard record by the one that follows from the journal. Holds all headers in memory.
        """
        shard = self._changelog.shard
        if shard is None or not shard.epoch:
            return None
        counted = CountingJournal(shard, from_seq=0)
        for record in records.reader.read(*place):
            try:
                counted.add(msgspec.structs.replace(record, key=None, value=None))
            except DecodeError as error:
                self._findings.writer.wrong(record, f"has headers that do not show whether it counts: {error}")
        found, self._changelog.shard = counted.settle()
        return {record.offset for record in found}

    def _begin_behind_the_cut(self, journal: Iterable[Record], counted: Collection[int] | None) -> None:
        """Begin with the snapshots that are older than the first event that is left. What is before it is unknown."""
        self.is_cut = True
        self._targets.cut.add(self.target)
        remaining = (record for record in journal if counted is None or record.offset in counted)
        self.next_seq = next((int(record.header(SEQ) or b"-1") for record in remaining), -1)
        older = [place for place in self._unconfirmed if self.next_seq < 0 or place[1] < self.next_seq]
        for key, seq in sorted(older, key=lambda place: place[1]):
            for entry in self._unconfirmed.pop((key, seq)):
                life = self.lives[key] = self._new_life()
                life.version, life.seq, life.data = entry.version, entry.seq, None
                self._check_state(self._hosted.behaviour, entry, life)

    def _new_life(self) -> Life:
        return Life(self._hosted.behaviour.initial(), self._hosted.behaviour.initial_data)

    def _event(self, record: Record, cause: Cause | None, on_step: Callable[[Step], None] | None) -> None:
        behaviour, writer = self._hosted.behaviour, self._findings.writer
        seq, version = record.position
        key = text(record.key) or ""
        life = self.lives.get(key)
        if life is None or (self.is_cut and not life.is_read and version != life.version + 1):
            life = self.lives[key] = self._new_life()
            if self.is_cut and version != 1:
                life.version, life.data = version - 1, None
        if seq != self.next_seq:
            writer.wrong(record, f"has seq {seq} where {self.next_seq} follows")
        if version != life.version + 1:
            writer.wrong(record, f"has version {version} where {life.version + 1} follows")
        if not are_of_an_event(record.headers):
            writer.wrong(record, f"has headers that no shard writes to a journal: {names(record.headers)}"[:500])
        elif not self._epochs.fit(self._source, record.headers):
            writer.wrong(record, f"has the epoch {record.header(EPOCH)!r:.100}, which is no owner's of the shard")
        if partition_of(record.key or b"", self._hosted.partitions) != self._source.partition:
            writer.wrong(record, "is on a partition that its key does not belong to")
        self.next_seq, was_read, life.is_read = seq + 1, life.is_read, True
        life.seq, life.version = max(life.seq, seq), version
        if seq < self._tail_start:
            life.covered = seq
        if seq < self._uncovered and ((entry := self._changelog.latest.get(key)) is None or entry.seq < seq):
            self._uncovered = seq
        if cause is not None:
            self._order(record, life, cause, is_known=was_read or not self.is_cut)
        self._advance(behaviour, record, key, life, on_step)
        for entry in self._unconfirmed.pop((key, seq), ()):
            self._check_state(behaviour, entry, life)

    def _order(self, record: Record, life: Life, cause: Cause, *, is_known: bool) -> None:
        """Check that the causes of one key strictly increase: no command overtakes a stashed one of its key.

        Only one that does not wait for them may, such as one that cancels a saga.
        ``is_known``: the event before this one of the key is known, or that there is none.
        """
        self._findings.order.looked_at += 1
        place = (cause.offset, cause.nth)
        if place <= life.cause:
            before = f"{life.cause[0]}/{life.cause[1]}"
            self._findings.order.wrong(
                record, f"belongs to command {cause.offset}/{cause.nth}, but follows an event of {before}"
            )
        if cause.offset not in self._urgent:
            life.cause = max(place, life.cause)
        if life.base is None and cause.offset >= self._low:
            life.base = life.state, life.data if is_known else None

    def _advance(
        self, behaviour: Behaviour, record: Record, key: str, life: Life, on_step: Callable[[Step], None] | None
    ) -> None:
        before = life.state
        if on_step is not None and behaviour.has_mutable_fields and life.data is not None:
            before = behaviour.state_decode(life.data)
        try:
            # Not strict: whether a shard may read the record is for the restore, which does not read every event.
            event, after, data = fold(behaviour, life.state, record.value or b"", strict=False)
        except (MemoryError, DecodeError):
            raise
        except Exception as error:  # noqa: BLE001  an @event method is user code
            if life.data is not None:
                self._findings.states.wrong(record, f"cannot be applied: {type(error).__name__}: {message_of(error)}")
            life.data = None
            return
        if type(event) is Stopped:
            life.version, life.covered = 0, -1
        elif life.data is None:
            return
        life.state, life.data = after, data
        if on_step is not None:
            on_step(Step(record, key, event, before, life.state))

    def bases(self) -> dict[str, tuple[Entity, bytes | None]]:
        """Return the entities before the first command that is still in the log."""
        if self._low == 0:
            return {}
        return {
            key: life.base or (life.state, life.data if life.is_read or not self.is_cut else None)
            for key, life in self.lives.items()
        }

    # --- states -----------------------------------------------------------------------------------------------

    def _check_state(self, behaviour: Behaviour, entry: StateEntry, life: Life) -> None:
        """Compare a state record with the entity at the record's seq."""
        wrong = self._findings.states.wrong
        if entry.version != life.version:
            wrong(entry.place, f"has version {entry.version}, but the journal has {life.version}")
        elif not entry.lives:
            if self.is_cut and not life.version:
                life.state, life.data = behaviour.initial(), behaviour.initial_data
            if life.version:
                wrong(entry.place, f"holds no entity, but the journal has {life.version} events before it")
        elif life.version == 0:
            wrong(entry.place, "holds an entity, but the journal ends it")
        elif life.data is None and self.is_cut:
            self._findings.states.unverifiable += 1
            life.state, life.data = begun(behaviour, entry)
        elif life.data is not None and not same(behaviour, snapshot_of(entry), life.state):
            wrong(
                entry.place, f"holds {shown(behaviour, snapshot_of(entry))}, but the journal gives {life.state!r:.300}"
            )

    def _check_latest(self) -> None:
        """Check that a snapshot covers the events below the tail: a restore does not read those events."""
        if self._tail_start < self._uncovered and not self.is_cut:
            place = Place(self._hosted.codec.state, self._source.partition, -1, "\0shard")
            sentence = f"has tail_start {self._tail_start}, but snapshots cover the events below {self._uncovered}"
            self._findings.shards.wrong(place, sentence)
        for key, life in self.lives.items():
            entry = self._changelog.latest.get(key)
            latest = -1 if entry is None else entry.seq
            if life.version and latest < life.covered:
                place = Place(self._hosted.codec.state, self._source.partition, -1, key)
                self._findings.states.wrong(
                    place, f"covers seq {latest}, but a restore begins behind the key's seq {life.covered}"
                )

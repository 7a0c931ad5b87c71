"""``Replica``: the entities of one shard, as a view keeps them. Pure but for the reader; see ``bridge.system.view``.

A replica is restored as a shard is (``bridge.recovery``): the snapshots of the state topic, and the tail of the journal
folded onto them. Then it follows one topic: a journaled entity's events, or a stateful entity's states. What does not
continue the records before it is :class:`Overtaken`, and the replica is restored again; a restore that finds a
contradiction is :class:`Unreadable`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from repertory.actors.entity import Entity
from repertory.actors.headers import TURN
from repertory.actors.message import Stopped
from repertory.actors.shard.changelog import SHARD_KEY, ShardRecord, StateRecord, first_shard_record
from repertory.actors.shard.replay import fold, restore
from repertory.actors.wire import DecodeError
from repertory.bridge import changelog_codec as wire
from repertory.bridge import topics
from repertory.bridge.journal import entity_key
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.bridge.nontransactional import epoch_of, turn_of
from repertory.bridge.silence import silenced
from repertory.bridge.system.committed import journal
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.supervision.traceback_text import message_of

T = TypeVar("T")


class Overtaken(Exception):
    """A record does not continue what the replica has: it has to be restored."""


class Unreadable(Exception):
    """A record contradicts the others, or this code cannot read it. The sentence names it."""


class Kept(NamedTuple):
    """One entity: its state, the number of the last record of its life, and the shard's number of that record."""

    state: Entity
    version: int
    seq: int


class Replica(Protocol):
    """The entities of one shard. Changed by one thread, in steps after each of which all is consistent."""

    #: The topic that it follows, and the next record of it.
    topic: str
    next_offset: int
    #: How far it is: the seq of the next record that it will take.
    next_seq: int
    entities: dict[str, Kept]

    def restore(self, reader: Reader) -> None:
        """Read the committed state. Raises LogError, Unreadable."""

    def take(self, record: Record) -> None:
        """Apply the next record of the topic. Raises Overtaken, Unreadable."""


def replica_of(system: SystemDefinition, hosted: EntityDefinition, partition: int) -> Replica:
    """Return the replica of one shard, not restored yet; ValueError for an entity that keeps no state."""
    if hosted.behaviour.journaled:
        return JournaledReplica(system, hosted, partition)
    if hosted.behaviour.stateful:
        return StatefulReplica(system, hosted, partition)
    raise ValueError(f"{hosted.behaviour.entity.__name__} keeps no state, so there is nothing to view")


class _States:
    """The records of a shard's state topic: the latest of each key."""

    def __init__(self, system: SystemDefinition, hosted: EntityDefinition) -> None:
        self.topic = topics.state_topic(system.name, hosted.behaviour.name)
        self._behaviour = hosted.behaviour
        self.latest: dict[bytes, Record] = {}

    def take(self, record: Record) -> ShardRecord | None:
        """Take one record; return the shard record if it is that."""
        if record.key == SHARD_KEY:
            return _read(record, lambda: wire.decode_shard(record.value or b""))
        if record.key is not None and not record.key.startswith(b"\0"):  # Those are the shard's own.
            self.latest[record.key] = record
        return None

    def entities(self) -> dict[str, Kept | None]:
        """Return the entities of the records since the last call; None for a key without a state."""
        found = dict(map(self._keyed, self.latest.values()))
        self.latest.clear()
        return found

    def _keyed(self, record: Record) -> tuple[str, Kept | None]:
        return _read(record, lambda: entity_key(record)), self._kept(record)

    def _kept(self, record: Record) -> Kept | None:
        if record.value is None:
            return None
        seq, version = record.position
        state: StateRecord = _read(record, lambda: wire.decode_state(record.value or b""))
        if state.snapshot is None:
            return Kept(self._behaviour.initial(), 0, seq) if state.ended else None
        data = state.snapshot
        return Kept(_read(record, lambda: restore(self._behaviour, data)[0]), version, seq)


class StatefulReplica:
    """Follows the state topic: each transaction's states at once, at its shard record."""

    def __init__(self, system: SystemDefinition, hosted: EntityDefinition, partition: int) -> None:
        self._partition = partition
        self._states = _States(system, hosted)
        self.topic = self._states.topic
        self.next_offset = self.next_seq = 0
        self.entities: dict[str, Kept] = {}

    @silenced()
    def restore(self, reader: Reader) -> None:
        """See ``Replica.restore``."""
        self.entities, self.next_offset = {}, 0
        self._states.latest.clear()
        shard: ShardRecord | None = None
        for record in reader.read(self.topic, self._partition):
            shard = self._states.take(record) or shard
            self.next_offset = record.offset + 1
        if shard is not None:
            self._apply(shard)

    @silenced()
    def take(self, record: Record) -> None:
        """See ``Replica.take``."""
        if (shard := self._states.take(record)) is not None:
            self._apply(shard)
        self.next_offset = record.offset + 1

    def _apply(self, shard: ShardRecord) -> None:
        for key, kept in self._states.entities().items():
            if kept is None or kept.version == 0:
                self.entities.pop(key, None)
            else:
                self.entities[key] = kept
        self.next_seq = shard.seq


class JournaledReplica:
    """Follows the journal. Of a turn without a transaction, all events at once; see ``bridge.nontransactional``.

    A worker that was replaced may have appended a turn that does not count, and this is known only from the records of
    its successor: at least once, a replica may show such a turn until then.
    """

    def __init__(self, system: SystemDefinition, hosted: EntityDefinition, partition: int) -> None:
        self._system, self._hosted, self._partition = system, hosted, partition
        self._behaviour = hosted.behaviour
        self.topic = topics.events_topic(system.name, self._behaviour.name)
        self.next_offset = self.next_seq = self._epoch = 0
        self.entities: dict[str, Kept] = {}
        #: The records of a turn without a transaction that is incomplete so far.
        self._turn: list[Record] = []

    # --- restore ----------------------------------------------------------------------------------------------

    @silenced()
    def restore(self, reader: Reader) -> None:
        """See ``Replica.restore``."""
        states, shard = _States(self._system, self._hosted), first_shard_record()
        for record in reader.read(states.topic, self._partition):
            shard = states.take(record) or shard
        self.entities = {key: kept for key, kept in states.entities().items() if kept is not None}
        self._turn, self._epoch = [], shard.epoch
        self.next_offset, self.next_seq = shard.tail_offset, shard.tail_start
        try:
            records, current = journal(reader, self._system, self._behaviour, self._partition, shard)
        except DecodeError as error:
            raise Unreadable(f"a record of {self.topic}/{self._partition} cannot be decoded: {error}") from error
        for record in records:
            self._restored(record, shard.tail_start)
        if self.next_seq < current.seq:
            raise Unreadable(
                f"the journal {self.topic}/{self._partition} ends before seq {self.next_seq} where the shard record "
                f"says {current.seq}: records are lost"
            )
        self.entities = {key: kept for key, kept in self.entities.items() if kept.version}

    def _restored(self, record: Record, tail_start: int) -> None:
        seq = record.position[0]
        self.next_offset = record.offset + 1
        if seq < tail_start:
            return  # In a snapshot.
        if seq != self.next_seq:
            raise Unreadable(f"{record.place} has seq {seq} where {self.next_seq} is next: journal records are lost")
        self._fold(record)

    # --- follow -----------------------------------------------------------------------------------------------

    @silenced()
    def take(self, record: Record) -> None:
        """See ``Replica.take``."""
        seq, epoch = _read(record, lambda: record.position[0]), _read(record, lambda: epoch_of(record))
        if epoch > self._epoch:
            self._turn, self._epoch = [], epoch
            if seq < self.next_seq:
                raise Overtaken(f"{record.place} is of a newer owner")
        if epoch == self._epoch and seq >= self.next_seq:
            self._follow(record, seq)
        self.next_offset = record.offset + 1

    def _follow(self, record: Record, seq: int) -> None:
        if record.header(TURN) is None:
            self._turn, count = [], 1
        else:
            index, count = _read(record, lambda: turn_of(record))
            self._turn = self._turn[:index]
        if seq != self.next_seq + len(self._turn):
            raise Overtaken(f"{record.place} has seq {seq} where {self.next_seq + len(self._turn)} is next")
        self._turn.append(record)
        if len(self._turn) == count:
            turn, self._turn = self._turn, []
            for each in turn:
                key = self._fold(each)
                if self.entities[key].version == 0:
                    del self.entities[key]

    def _fold(self, record: Record) -> str:
        """Apply the next record of the journal and return its key. A life that ended is kept, with version 0."""
        behaviour = self._behaviour
        key = _read(record, lambda: entity_key(record))
        seq, version = record.position
        self.next_seq = seq + 1
        kept = self.entities.get(key)
        if kept is None:
            kept = Kept(behaviour.initial(), 0, -1)
        if seq <= kept.seq:
            return key  # In its snapshot.
        if version != kept.version + 1:
            raise Unreadable(
                f"{record.place} is version {version} of key {key!r} where {kept.version + 1} is next: a snapshot or "
                "journal records are lost"
            )
        event, state, _ = _read(record, lambda: fold(behaviour, kept.state, record.value or b""))
        self.entities[key] = Kept(state, 0 if type(event) is Stopped else version, seq)
        return key


def _read(record: Record, read: Callable[[], T]) -> T:
    """Return what is read of a record; Unreadable, which names it, if this code cannot."""
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # DecodeError, or whatever an @event method or a __post_init__ raises.
        raise Unreadable(
            f"{record.place} cannot be read by this code: {type(error).__name__}: {message_of(error)}; run the code "
            "that wrote it"
        ) from error

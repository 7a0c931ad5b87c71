"""What the runtime promises to journaled entities, checked from committed records alone.

Nothing here knows of banks, and nothing is asked of the runtime: each journal is folded anew, and what the states and
shard records say is held against that. Memory: one state per entity of one partition, and what `Causes` keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from actors.effects import ShardRecord, StateRecord
from actors.entity import Behaviour, Entity
from actors.message import Message, Stopped
from actors.placement import partition_of
from actors.wire import DecodeError
from bridge import ActorSystem, topics
from bridge.codec import decode_shard, decode_state, number
from bridge.log import Reader
from bridge.record import Record
from bridge.system import Hosted
from examples.banking.causes import Causes
from examples.banking.findings import Check, Finding

_SEEN_RECORDS = 500


class Step(NamedTuple):
    """One event of one entity, and the entity before and after it."""

    record: Record
    key: str
    event: Message
    before: Entity
    after: Entity


class Life:
    """One entity as its journal tells it. ``covered`` is its last seq below the shard's ``tail_start``."""

    __slots__ = ("covered", "seq", "state", "version")

    def __init__(self, state: Entity) -> None:
        self.state, self.version, self.seq, self.covered = state, 0, -1, -1


class StateEntry(NamedTuple):
    """A state record of one key; None is a tombstone."""

    record: Record
    state: StateRecord | None
    seq: int
    version: int


class States:
    """The state topic of one shard: what it says last of each key, and what the fold has not confirmed yet."""

    def __init__(self) -> None:
        self.shard: ShardRecord | None = None
        self.latest: dict[str, StateEntry] = {}
        self.unconfirmed: dict[tuple[str, int], list[StateEntry]] = {}

    def add(self, key: str, entry: StateEntry) -> None:
        """Take in a state record. One without a seq was written before the key's first event: there is no fold yet."""
        self.latest[key] = entry
        if entry.seq >= 0:
            self.unconfirmed.setdefault((key, entry.seq), []).append(entry)


class Books:
    """Reads every topic of a system once and holds what it says together. Used once.

    ``on_step`` is told of each event as it is folded, ``on_command`` of each committed command, both in the order of
    their partition; ``seen`` of how many records were read since it was called last.
    """

    def __init__(
        self,
        reader: Reader,
        system: ActorSystem,
        *,
        on_step: Callable[[Step], None],
        on_command: Callable[[Record], None],
        seen: Callable[[int], None],
    ) -> None:
        self._reader, self._system = reader, system
        self._on_step, self._on_command, self._seen = on_step, on_command, seen
        self._counts = dict.fromkeys(("events", "snapshots", "shards"), 0)
        self._causes = Causes()
        self._journals = Finding("journals have no gap")
        self._states = Finding("states are the fold of the journal")
        self._shards = Finding("shard records agree with journal and offset")
        self._commands = Finding("no command is left")
        self._waiting = Finding("nothing waits")
        self._dead = Finding("no dead letters")

    def checks(self) -> list[Check]:
        """Read everything and return what was found."""
        for hosted in self._system.hosted.values():
            for partition in range(hosted.partitions):
                self._shard(hosted, partition)
        for topic in (topics.dead_letters_topic(self._system.name), topics.replies_topic(self._system.name)):
            for partition in range(self._reader.partition_count(topic) or 0):
                self._beside(topic, partition)
        counts = self._counts
        return [
            self._causes.check(self._everything()),
            self._journals.check(f"{counts['events']:,} events"),
            self._states.check(f"{counts['snapshots']:,} state records"),
            self._shards.check(f"{counts['shards']:,} shards"),
            self._commands.check("all below the committed offsets"),
            self._waiting.check("none in the waiting topics"),
            self._dead.check("none"),
        ]

    # --- one shard --------------------------------------------------------------------------------------------

    def _shard(self, hosted: Hosted, partition: int) -> None:
        behaviour, system = hosted.behaviour, self._system.name
        states = self._read_states(topics.state_topic(system, behaviour.name), partition)
        lives = self._fold(hosted, partition, states)
        for entry in (entry for entries in states.unconfirmed.values() for entry in entries):
            self._states.wrong(entry.record, f"has seq {entry.seq}, which is no event of that key in the journal")
        for key, life in lives.items():
            self._check_covered(behaviour, partition, key, life, states.latest.get(key))
        self._read_waiting(topics.waiting_topic(system, behaviour.name), partition)
        committed = self._read_commands(topics.commands_topic(system, behaviour.name), partition)
        last_seq = max((life.seq for life in lives.values()), default=-1)
        self._check_shard(hosted, partition, states.shard, committed, last_seq)

    def _read_states(self, topic: str, partition: int) -> States:
        states = States()
        for record in self._records(topic, partition):
            self._causes.add(record)
            try:
                if record.key == topics.SHARD_KEY:
                    before, states.shard = states.shard, decode_shard(record.value or b"")
                    self._check_order(record, before, states.shard)
                    continue
                state = None if record.value is None else decode_state(record.value)
                entry = StateEntry(record, state, number(record, "seq"), number(record, "version"))
            except DecodeError as error:
                finding = self._shards if record.key == topics.SHARD_KEY else self._states
                finding.wrong(record, f"cannot be decoded: {error}")
                continue
            self._counts["snapshots"] += 1
            states.add((record.key or b"").decode(errors="backslashreplace"), entry)
        for entry in states.latest.values():
            if entry.state is not None and entry.state.waiting:
                self._waiting.wrong(entry.record, f"the state says that {entry.state.waiting} commands wait")
        return states

    def _fold(self, hosted: Hosted, partition: int, states: States) -> dict[str, Life]:
        """Fold a journal, holding each state record against the fold at its seq; return the entities at the end."""
        behaviour, lives, next_seq = hosted.behaviour, dict[str, Life](), 0
        tail_start = 0 if states.shard is None else states.shard.tail_start
        for record in self._records(topics.events_topic(self._system.name, behaviour.name), partition):
            self._causes.add(record)
            self._counts["events"] += 1
            key = (record.key or b"").decode(errors="backslashreplace")
            try:
                seq, version = number(record, "seq"), number(record, "version")
                event: Message = behaviour.journal.decode(record.value or b"")
            except DecodeError as error:
                self._journals.wrong(record, f"cannot be decoded: {error}")
                continue
            life = lives.setdefault(key, Life(behaviour.initial()))
            if seq != next_seq:
                self._journals.wrong(record, f"has seq {seq} where {next_seq} follows")
            if version != life.version + 1:
                self._journals.wrong(record, f"has version {version} where {life.version + 1} follows")
            if partition_of(record.key or b"", hosted.partitions) != partition:
                self._journals.wrong(record, "is on a partition that its key does not belong to")
            next_seq = seq + 1
            self._advance(behaviour, life, Step(record, key, event, life.state, life.state), seq, version)
            if seq < tail_start:
                life.covered = seq
            for entry in states.unconfirmed.pop((key, seq), ()):
                self._check_state(behaviour, entry, life)
        return lives

    def _advance(self, behaviour: Behaviour, life: Life, step: Step, seq: int, version: int) -> None:
        life.seq, life.version = max(life.seq, seq), version
        if isinstance(step.event, Stopped):
            life.state, life.version = behaviour.initial(), 0
        else:
            evolve, _ = behaviour.evolve[type(step.event)]
            life.state = evolve(life.state, step.event)
        self._on_step(step._replace(after=life.state))

    # --- states -----------------------------------------------------------------------------------------------

    def _check_state(self, behaviour: Behaviour, entry: StateEntry, life: Life) -> None:
        """Hold a state record against the entity as it was at the record's seq."""
        if entry.version != life.version:
            self._states.wrong(entry.record, f"says version {entry.version}, the journal {life.version}")
        elif entry.state is None or entry.state.ended:
            if life.version:
                self._states.wrong(entry.record, "says that the entity has ended, the journal that it lives")
        elif entry.state.snapshot is None:
            self._states.wrong(entry.record, f"holds no snapshot, the journal has {life.version} events before it")
        else:
            try:
                snapshot = behaviour.state_decode(bytes(entry.state.snapshot))
            except msgspec.DecodeError as error:
                self._states.wrong(entry.record, f"cannot be decoded: {error}")
                return
            if snapshot != life.state:
                self._states.wrong(entry.record, f"says {snapshot}, the journal {life.state}")

    def _check_covered(
        self, behaviour: Behaviour, partition: int, key: str, life: Life, entry: StateEntry | None
    ) -> None:
        """Events below the tail are in a snapshot: a restore does not read them. An ended entity is forgotten."""
        latest = -1 if entry is None else entry.seq
        if life.version and latest < life.covered:
            where = f"{topics.state_topic(self._system.name, behaviour.name)}/{partition} key {key!r}"
            self._states.wrong(where, f"holds seq {latest}, but a restore begins behind the key's seq {life.covered}")

    # --- shard records, commands, what waits ------------------------------------------------------------------

    def _check_order(self, record: Record, before: ShardRecord | None, after: ShardRecord) -> None:
        if before is None:
            return
        for name in ("next", "seq", "tail_start", "tail_offset", "books"):
            if getattr(after, name) < getattr(before, name):
                self._shards.wrong(record, f"goes back in {name}: {getattr(before, name)} to {getattr(after, name)}")

    def _check_shard(
        self, hosted: Hosted, partition: int, shard: ShardRecord | None, committed: int | None, last_seq: int
    ) -> None:
        """Hold the last shard record against the group's offset and the journal's end."""
        where = f"{topics.state_topic(self._system.name, hosted.behaviour.name)}/{partition} key {topics.SHARD_KEY!r}"
        if shard is None:
            if committed is not None or last_seq >= 0:
                self._shards.wrong(where, f"is missing; the group's offset is {committed}, the last seq {last_seq}")
            return
        self._counts["shards"] += 1
        if shard.next != committed:
            self._shards.wrong(where, f"says that {shard.next} is next, the group {committed}")
        if shard.seq != last_seq + 1:
            self._shards.wrong(where, f"says that seq {shard.seq} is next, the journal ends with {last_seq}")
        if shard.tail_start > shard.seq:
            self._shards.wrong(where, f"has tail_start {shard.tail_start} behind its seq {shard.seq}")
            return
        events = topics.events_topic(self._system.name, hosted.behaviour.name)
        if shard.tail_start < shard.seq:
            first = next(self._reader.read(events, partition, shard.tail_offset), None)
            if first is None or number(first, "seq") > shard.tail_start:
                self._shards.wrong(where, f"has tail_offset {shard.tail_offset}, behind seq {shard.tail_start}")

    def _read_commands(self, topic: str, partition: int) -> int | None:
        committed = self._reader.committed(self._system.name, topic, partition)
        for record in self._records(topic, partition):
            self._causes.add(record, produced=False)
            self._on_command(record)
            if record.offset >= (committed or 0):
                self._commands.wrong(record, f"was not handled; the committed offset is {committed}")
        return committed

    def _read_waiting(self, topic: str, partition: int) -> None:
        waiting: dict[bytes | None, Record] = {}
        for record in self._records(topic, partition):
            self._causes.add(record)
            if record.value is None:
                waiting.pop(record.key, None)
            else:
                waiting[record.key] = record
        for record in waiting.values():
            self._waiting.wrong(record, "still waits")

    def _beside(self, topic: str, partition: int) -> None:
        """Read a topic of the whole system: dead letters, replies."""
        for record in self._records(topic, partition):
            self._causes.add(record)
            if topic == topics.dead_letters_topic(self._system.name):
                reason = (record.header("error-message") or b"").decode(errors="backslashreplace")
                self._dead.wrong(record, reason or "of unknown cause")

    def _everything(self) -> Iterator[Record]:
        for topic in (spec.name for spec in self._system.topic_specs()):
            for partition in range(self._reader.partition_count(topic) or 0):
                yield from self._reader.read(topic, partition)

    def _records(self, topic: str, partition: int) -> Iterator[Record]:
        count = 0
        for count, record in enumerate(self._reader.read(topic, partition), 1):
            yield record
            if count % _SEEN_RECORDS == 0:
                self._seen(_SEEN_RECORDS)
        self._seen(count % _SEEN_RECORDS)

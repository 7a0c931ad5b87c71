"""What the committed records say, for people: an entity's state, a shard's position, a topic's records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import msgpack
import msgspec

from actors.effects import ShardRecord, StateRecord, WaitingRecord
from actors.entity import Behaviour, Entity
from actors.message import Stopped
from actors.placement import checked_key, partition_of
from actors.wire import DEPTH_MAX, DecodeError, check_depth
from bridge import codec as wire
from bridge import topics
from bridge.incidents import NodeRecord, decode_node
from bridge.log import Reader
from bridge.plain import Counted
from bridge.record import Record
from bridge.system import ActorSystem, Hosted
from bridge.text import one_line

#: Commands above the committed offset that ``status`` counts exactly; beyond that it says "more than".
LAG_COUNTED_MAX = 10_000

_NO_RECORD = ShardRecord(next=0, seq=0, tail_start=0, tail_offset=0, books=0)


class EntityState(msgspec.Struct, frozen=True):
    """One entity as its committed records have it. ``state`` is None for one that does not exist, or has ended."""

    key: str
    partition: int
    version: int
    state: Entity | None
    waiting: int
    parked: str


def entity_state(reader: Reader, system: ActorSystem, hosted: Hosted, key: str) -> EntityState:
    """Read one entity's snapshot and the tail of the journal; see ``bridge.restore`` for the whole shard.

    Raises ValueError for a key that is none, DecodeError for records that this code cannot read.
    """
    behaviour = hosted.behaviour
    raw_key = checked_key(key).encode()
    partition = partition_of(raw_key, hosted.partitions)
    record, state = _NO_RECORD, None
    for found in reader.read(topics.state_topic(system.name, behaviour.name), partition):
        if found.key == topics.SHARD_KEY and found.value is not None:
            record = wire.decode_shard(found.value)
        elif found.key == raw_key:
            state = found
    told = StateRecord() if state is None or state.value is None else wire.decode_state(state.value)
    seq, version = -1, 0
    entity = behaviour.initial()
    if state is not None and state.value is not None:
        seq, version = wire.number(state, "seq"), wire.number(state, "version")
        if told.snapshot is not None:
            entity = _snapshot(behaviour, state, told.snapshot)
    if behaviour.journaled:
        for event in journal(reader, system, behaviour, partition, record)[0]:
            if event.key == raw_key and wire.number(event, "seq") > seq:
                entity, version = _evolved(behaviour, entity, event)
    first = next((w for _, w in waiting_commands(reader, system, behaviour, partition) if w.key == key), None)
    parked = f"{first.error}: {first.reason}" if first is not None and first.parked else ""
    return EntityState(key, partition, version, entity if version else None, told.waiting, parked)


def _snapshot(behaviour: Behaviour, record: Record, data: bytes) -> Entity:
    try:
        entity: Entity = behaviour.state_decode(data)
    except MemoryError:
        raise
    except Exception as error:  # A __post_init__ is user code.
        raise DecodeError(
            f"the snapshot {record.place} does not fit {behaviour.entity.__name__}: {error!s:.1000}; use the code that "
            "wrote it"
        ) from error
    return entity


def shard_record(reader: Reader, system: ActorSystem, behaviour: Behaviour, partition: int) -> ShardRecord:
    """Return the latest shard record, one that begins if there is none."""
    record = _NO_RECORD
    for found in reader.read(topics.state_topic(system.name, behaviour.name), partition):
        if found.key == topics.SHARD_KEY and found.value is not None:
            record = wire.decode_shard(found.value)
    return record


def journal(
    reader: Reader, system: ActorSystem, behaviour: Behaviour, partition: int, record: ShardRecord, from_seq: int = -1
) -> tuple[Iterable[Record], ShardRecord]:
    """Return the journal records that count, by default from the tail on, and where the shard stands behind them.

    ``record`` is the latest shard record; see ``bridge.plain``.
    """
    from_offset = record.tail_offset if from_seq < 0 else 0
    records = reader.read(topics.events_topic(system.name, behaviour.name), partition, from_offset)
    if not record.epoch:
        return records, record
    counted = Counted(record, record.tail_start if from_seq < 0 else from_seq)
    for each in records:
        counted.add(each)
    return counted.settle()


def _evolved(behaviour: Behaviour, entity: Entity, record: Record) -> tuple[Entity, int]:
    event = behaviour.journal.decode(record.value or b"")
    if isinstance(event, Stopped):
        return behaviour.initial(), 0
    try:
        evolved: Entity = behaviour.events[type(event)].function(entity, event)
    except MemoryError:
        raise
    except Exception as error:
        raise DecodeError(
            f"the journal record {record.place} cannot be applied: {type(error).__name__}: {error!s:.1000}; use the "
            "code that wrote it, and mend the @event method"
        ) from error
    return evolved, wire.number(record, "version")


def waiting_commands(
    reader: Reader, system: ActorSystem, behaviour: Behaviour, partition: int
) -> list[tuple[int, WaitingRecord]]:
    """Return what waits or is parked on one shard, by its source offset."""
    found: dict[int, WaitingRecord] = {}
    for record in reader.read(topics.waiting_topic(system.name, behaviour.name), partition):
        offset = wire.waiting_offset(record)
        if record.value is None:
            found.pop(offset, None)
        else:
            found[offset] = wire.decode_waiting(record.value)
    return sorted(found.items())


class ShardStatus(msgspec.Struct, frozen=True):
    """Where one shard stands. ``lag`` counts committed commands that are not handled, up to ``LAG_COUNTED_MAX``."""

    entity: str
    partition: int
    next_offset: int
    committed: int | None
    lag: int
    journaled: int
    waiting: int
    parked: list[str]


def shard_status(reader: Reader, system: ActorSystem, hosted: Hosted, partition: int) -> ShardStatus:
    """Read where a shard stands from its committed records."""
    behaviour = hosted.behaviour
    record = shard_record(reader, system, behaviour, partition)
    if record.plain and behaviour.journaled:
        _, record = journal(reader, system, behaviour, partition, record)
    commands = topics.commands_topic(system.name, behaviour.name)
    lag = 0
    for _ in reader.read(commands, partition, record.next):
        lag += 1
        if lag > LAG_COUNTED_MAX:
            break
    waiting = waiting_commands(reader, system, behaviour, partition)
    parked = sorted({command.key for _, command in waiting if command.parked})
    committed = reader.committed(system.name, commands, partition)
    return ShardStatus(behaviour.name, partition, record.next, committed, lag, record.seq, len(waiting), parked)


def shard_statuses(reader: Reader, system: ActorSystem) -> Iterator[ShardStatus]:
    """Read the status of every shard of a system, in the order of ``host()``."""
    for hosted in system.hosted.values():
        for partition in range(hosted.partitions):
            yield shard_status(reader, system, hosted, partition)


def node_records(reader: Reader, system: ActorSystem) -> list[NodeRecord]:
    """Return the latest word of every node that said one, by name; nothing where the log has no topic for it."""
    topic = topics.incidents_topic(system.name)
    found: dict[bytes, NodeRecord] = {}
    for record in reader.read(topic, 0) if reader.partition_count(topic) else ():
        if record.key is not None and record.value is not None:
            found[record.key] = decode_node(record.value)
    return [found[name] for name in sorted(found)]


def readable(data: bytes | None) -> str:
    """Return a value as one line of JSON if it is MessagePack, else as Python bytes; None as ``null``."""
    if data is None:
        return "null"
    try:
        check_depth(data, DEPTH_MAX)
        # The msgpack package reads what has no type here: foreign topics, books, dead letters.
        value = msgpack.unpackb(data, object_pairs_hook=_with_text_keys, strict_map_key=False)
    except (ValueError, DecodeError, RecursionError, msgpack.UnpackException):
        return repr(data)
    return json.dumps(value, ensure_ascii=False, default=repr)


def _with_text_keys(pairs: list[tuple[object, object]]) -> dict[str, object]:
    """Return a map as JSON can have it: a foreign one has keys of any type, also such as Python cannot hash."""
    return {key if isinstance(key, str) else repr(key): value for key, value in pairs}


def readable_key(key: bytes | None) -> str:
    """Return a key as text; what is no UTF-8 escaped, and control characters too."""
    if key is None:
        return "null"
    return one_line(key.decode("utf-8", "backslashreplace"))

"""Reads committed records for inspection: an entity's state, a shard's position, its stashed commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from repertory.actors.entity import Behaviour, Entity
from repertory.actors.headers import SEQ, VERSION
from repertory.actors.message import Stopped
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.shard.changelog import (
    LOST,
    SHARD_KEY,
    Accepted,
    ShardRecord,
    StashedRecord,
    StateRecord,
    first_shard_record,
)
from repertory.actors.shard.replay import fold, restore
from repertory.actors.wire import DecodeError
from repertory.bridge import changelog_codec as wire
from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.bridge.nontransactional import CountingJournal
from repertory.bridge.silence import silenced
from repertory.bridge.sources.position import SKIPPED
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.supervision.traceback_text import message_of

K = TypeVar("K")
T = TypeVar("T")

#: Called with a sentence for each record that cannot be read, which is then skipped; None: it is a DecodeError.
Skip = Callable[[str], None] | None


class EntityState(msgspec.Struct, frozen=True):
    """One entity as of its committed records. ``state`` is None if it never existed, or has stopped."""

    key: str
    partition: int
    version: int
    state: Entity | None
    stashed: int
    parked: str


@silenced()
def entity_state(reader: Reader, system: SystemDefinition, hosted: EntityDefinition, key: str) -> EntityState:
    """Read one entity's snapshot and the tail of the journal; see ``bridge.recovery`` for the whole shard.

    What events log and print was logged when they happened, and is not shown again.

    Raises ValueError for an invalid key, DecodeError for records that this code cannot decode.
    """
    behaviour = hosted.behaviour
    raw_key = checked_key(key).encode()
    partition = partition_of(raw_key, hosted.partitions)
    shard, state = None, None
    for found in reader.read(topics.state_topic(system.name, behaviour.name), partition):
        if found.key == SHARD_KEY and found.value is not None:
            shard = found
        elif found.key == raw_key:
            state = found
    record = decoded_shard(shard)
    latest = StateRecord() if state is None or state.value is None else decoded_as(wire.decode_state, state)
    seq, version = -1, 0
    entity = behaviour.initial()
    if state is not None and state.value is not None:
        seq, version = state.position
        if latest.snapshot is not None:
            entity = snapshot_of(behaviour, state, latest.snapshot)
    if behaviour.journaled:
        for event in journal(reader, system, behaviour, partition, record)[0]:
            if event.key == raw_key and event.number(SEQ) > seq and event.number(SEQ) >= record.tail_start:
                entity, version = evolved(behaviour, entity, event)
    first = next((w for _, w in stashed_commands(reader, system, behaviour, partition) if w.key == key), None)
    parked = f"{first.error}: {first.reason}" if first is not None and first.parked else ""
    return EntityState(key, partition, version, entity if version else None, latest.stashed, parked)


def snapshot_of(behaviour: Behaviour, record: Record, data: bytes) -> Entity:
    """Return the entity of a snapshot in a record; DecodeError that names the record."""
    try:
        return restore(behaviour, data)[0]
    except MemoryError:
        raise
    except Exception as error:  # A __post_init__ is user code.
        raise DecodeError(
            f"the snapshot {record.place} does not fit {behaviour.entity.__name__}: {message_of(error)}; run the code "
            "that wrote it"
        ) from error


def shard_record(reader: Reader, system: SystemDefinition, behaviour: Behaviour, partition: int) -> ShardRecord:
    """Return the latest shard record, or that of a shard which has committed nothing; DecodeError if it is invalid."""
    shard = None
    for found in reader.read(topics.state_topic(system.name, behaviour.name), partition):
        if found.key == SHARD_KEY and found.value is not None:
            shard = found
    return decoded_shard(shard)


def current_record(reader: Reader, system: SystemDefinition, behaviour: Behaviour, partition: int) -> ShardRecord:
    """Return the shard record, brought up to date with the journal if the shard works without transactions."""
    record = shard_record(reader, system, behaviour, partition)
    if record.nontransactional and behaviour.journaled:
        _, record = journal(reader, system, behaviour, partition, record)
    return record


def decoded_shard(record: Record | None) -> ShardRecord:
    """Return the shard record in a record, None: that of a shard which has committed nothing."""
    return first_shard_record() if record is None else decoded_as(wire.decode_shard, record)


def decoded_as(decode: Callable[[bytes], T], record: Record) -> T:
    """Decode a record's value; DecodeError names the record."""
    try:
        return decode(record.value or b"")
    except DecodeError as error:
        raise DecodeError(f"{record.place} cannot be decoded: {error}") from error


def journal(
    reader: Reader,
    system: SystemDefinition,
    behaviour: Behaviour,
    partition: int,
    record: ShardRecord,
    from_seq: int = -1,
) -> tuple[Iterable[Record], ShardRecord]:
    """Return the journal records that count, by default from the tail on, and the shard record up to date with them.

    ``record`` is the latest shard record; see ``bridge.nontransactional``.
    """
    from_offset = record.tail_offset if from_seq < 0 else 0
    records = reader.read(topics.events_topic(system.name, behaviour.name), partition, from_offset)
    if not record.epoch:
        return records, record
    counted = CountingJournal(record, record.tail_start if from_seq < 0 else from_seq)
    for each in records:
        counted.add(each)
    return counted.settle()


def evolved(behaviour: Behaviour, entity: Entity, record: Record) -> tuple[Entity, int]:
    """Return an entity after a journal record, and its version, 0 if it has stopped; DecodeError names the record."""
    try:
        event, state, _ = fold(behaviour, entity, record.value or b"")
    except MemoryError:
        raise
    except Exception as error:
        raise DecodeError(
            f"the journal record {record.place} cannot be applied: {type(error).__name__}: {message_of(error)}; run "
            "the code that wrote it, or correct the @event method"
        ) from error
    return state, 0 if type(event) is Stopped else record.number(VERSION)


def stashed_commands(
    reader: Reader,
    system: SystemDefinition,
    behaviour: Behaviour,
    partition: int,
    *,
    skip: Skip = None,
) -> list[tuple[int, StashedRecord]]:
    """Return a shard's stashed commands, parked ones included, by their source offset; see `kept_records`."""

    def offset_of(record: Record) -> int | None:
        return wire.stashed_offset(record) if wire.is_stashed(record) else None

    def decode(_: int, data: bytes) -> StashedRecord:
        return wire.decode_stashed(data)

    kept = kept_records(reader, system, behaviour, partition, offset_of, decode, "a stashed command", skip)
    return sorted(kept.items())


def kept_records(
    reader: Reader,
    system: SystemDefinition,
    behaviour: Behaviour,
    partition: int,
    key_of: Callable[[Record], K | None],
    decode: Callable[[K, bytes], T],
    what: str,
    skip: Skip,
) -> dict[K, T]:
    """Return the records of one kind that a shard's changelog keeps, by ``key_of``, which is None for other kinds.

    A record that cannot be decoded is a DecodeError that names it or, with ``skip``, is skipped after ``skip`` was
    called with that sentence: the shard refuses to start, but an operator can still see the others.
    """
    kept: dict[K, T] = {}
    for record in reader.read(topics.state_topic(system.name, behaviour.name), partition):
        try:
            if (key := key_of(record)) is None:
                continue
            if record.value is None:
                kept.pop(key, None)
            else:
                kept[key] = decode(key, record.value)
        except DecodeError as error:
            sentence = f"{record.place} is not {what}: {error}"
            if skip is None:
                raise DecodeError(sentence) from error
            skip(sentence)
    return kept


def accepted_of(shard: str, accepted: Accepted, lost: str = "commands") -> str:
    """Describe what an operator accepted (``bridge.system.accept``): which shard, what, who, when and why."""
    what = "topics that were created again were adopted"
    if accepted.what == LOST:
        what = f"{lost} {accepted.first} to {accepted.last} are lost and were skipped"
    elif accepted.what == SKIPPED:
        what = f"record {accepted.first} was skipped"
    try:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(accepted.at_ms / 1000))
    except (OverflowError, ValueError, OSError):  # A record may hold any number.
        at = f"{accepted.at_ms} ms"
    return f"{shard}: {what} by {accepted.who or 'an operator'} at {at}: {accepted.reason}"

"""What of a log a build could not read, misread, or not go on with: asked before it is deployed (``check --log``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import msgspec

from repertory.actors.effect import registered
from repertory.actors.entity import Behaviour
from repertory.actors.headers import Headers
from repertory.actors.message import Message
from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.actors.shard.changelog import (
    STASH_KEY,
    EffectRecord,
    ShardRecord,
    StashedRecord,
    StateRecord,
    TimerRecord,
)
from repertory.actors.shard.effect_builds import lacking
from repertory.actors.shard.replay import restore
from repertory.actors.wire import DecodeError, MessageDecoder, unknown_fields, written_name
from repertory.bridge import changelog_codec as wire
from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.bridge.schemas import Kind, Schema
from repertory.bridge.silence import silenced
from repertory.bridge.system.committed import journal, shard_record
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.inspect.saga_builds import is_step_answer, saga_flaws
from repertory.supervision.traceback_text import message_of

#: What happens to a shard of this build that meets such a record.
STOPS, DROPS, HISTORY = "its shard stops", "a dead letter", "only the past: verify and time travel"
WAITS = "the effect waits for a build that can run it"
KEY_PARKS, KEY_WAITS = "its key is parked when its next answer comes", "its key waits for a build that has it"
LOSES, DIFFERS = "the field is ignored", "before the next deploy"


class Flaw(msgspec.Struct, frozen=True):
    """Records that a build cannot read as they were meant. ``where``: the first of them; ``then``: what follows."""

    name: str
    what: str
    then: str
    where: str
    records: int = 1


class _Found(NamedTuple):
    """One record that is wrong. ``alike``: the same for records that are wrong alike, where ``what`` differs."""

    name: str
    what: str
    then: str
    where: str
    alike: str = ""


@silenced()
def flaws(
    reader: Reader, system: SystemDefinition, schemas: Collection[Schema], seen: Callable[[], None] = lambda: None
) -> list[Flaw]:
    """Return what is wrong, the same of many records once. ``seen`` is called for each record that was read.

    Raises DecodeError for a shard record that this version of the runtime cannot read, and LogError.
    """
    found: dict[tuple[str, str, str], Flaw] = {}
    for hosted in system.hosted.values():
        for each in (*_written(reader, system, hosted, seen), *_declared(hosted.behaviour, schemas)):
            key = each.name, each.alike or each.what, each.then
            known = found.get(key)
            found[key] = Flaw(*each[:4]) if known is None else msgspec.structs.replace(known, records=known.records + 1)
    return list(found.values())


def _written(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, seen: Callable[[], None]
) -> Iterator[_Found]:
    """Read what is in an entity's topics."""
    behaviour = hosted.behaviour
    for partition in range(hosted.partitions):
        if reader.partition_count(topics.state_topic(system.name, behaviour.name)) is None:
            return
        latest = {
            record.key: record for record in reader.read(topics.state_topic(system.name, behaviour.name), partition)
        }
        for record in latest.values():
            seen()
            yield from _changelog(system, behaviour, record)
        shard = shard_record(reader, system, behaviour, partition)
        yield from _journal(reader, system, behaviour, partition, shard, seen)
        commands = topics.commands_topic(system.name, behaviour.name)
        begin = max(shard.next, reader.bounds(commands, partition)[0])
        for record in reader.read(commands, partition, begin):
            seen()
            if not _answers_saga(behaviour, record.headers, record.value or b""):
                yield from _message(behaviour.decoder, record.value or b"", record.place, DROPS, LOSES)
        if isinstance(behaviour, SagaBehaviour):
            for each in saga_flaws(reader, system, hosted, partition):
                then = KEY_PARKS if each.is_in_build else KEY_WAITS
                yield _Found(behaviour.name, each.what, then, f"{behaviour.name} {each.key!r}", each.alike)


def _answers_saga(behaviour: Behaviour, headers: Headers, value: bytes) -> bool:
    """Return whether a record answers a saga's step: that is of any type, and what the saga makes of it is replayed."""
    return isinstance(behaviour, SagaBehaviour) and is_step_answer(behaviour, headers, value) is not None


def _changelog(system: SystemDefinition, behaviour: Behaviour, record: Record) -> Iterator[_Found]:
    if record.value is None or record.key is None:
        return
    if record.key.startswith(STASH_KEY):
        kept: StashedRecord = wire.decode_stashed(record.value)
        if _answers_saga(behaviour, kept.headers, kept.value):
            return
        yield from _message(behaviour.decoder, kept.value, record.place, STOPS, LOSES)
    elif wire.is_owed(record.key):
        owed = wire.decode_owed(record.key.decode("utf-8", "backslashreplace"), record.value)
        receiver = behaviour.name if isinstance(owed, TimerRecord) else owed.entity
        for each in system.hosted.values():
            if each.behaviour.name == receiver:
                yield from _message(each.behaviour.decoder, owed.value, record.place, DROPS, LOSES)
    elif wire.is_effect(record.key):
        yield from _effect(wire.decode_effect(record.value), behaviour, record.place)
    if record.key.startswith(b"\0"):
        return
    state: StateRecord = wire.decode_state(record.value)
    if state.snapshot is None:
        return
    try:
        restore(behaviour, state.snapshot)
    except Exception as error:  # noqa: BLE001  a __post_init__ is user code
        yield _Found(written_name(state.snapshot) or "?", message_of(error), STOPS, record.place)


def _effect(record: EffectRecord, behaviour: Behaviour, where: str) -> Iterator[_Found]:
    """Find an effect that is not settled and that a build cannot run, or of whose request it would lose a field."""
    if (what := lacking(record, behaviour)) is not None:
        yield _Found(record.effect, what, WAITS, where)
    elif (effect := registered(record.effect)) is not None:
        yield from _message(effect.signature.decoder, record.request, where, WAITS, LOSES)


def _journal(
    reader: Reader, system: SystemDefinition, behaviour: Behaviour, partition: int, shard: ShardRecord,
    seen: Callable[[], None],
) -> Iterator[_Found]:  # fmt: skip
    if not behaviour.journaled:
        return
    for record in journal(reader, system, behaviour, partition, shard, from_seq=0)[0]:
        seen()
        then = STOPS if record.position[0] >= shard.tail_start else HISTORY
        yield from _message(behaviour.journal, record.value or b"", record.place, then, then)


def _message(decoder: MessageDecoder, data: bytes, where: str, then: str, loses: str) -> Iterator[_Found]:
    """Decode one message; ``then``: what follows if that is refused, ``loses`` if it has a field too many."""
    name = written_name(data) or "?"
    try:
        message: Message = decoder.decode(data)
    except DecodeError as error:
        yield _Found(name, str(error), then, where)
        return
    if strange := unknown_fields(decoder.current(data), message):
        yield _Found(name, f"{type(message).__name__} has no field {strange[0]!r}", loses, where)


def _declared(behaviour: Behaviour, schemas: Collection[Schema]) -> Iterator[_Found]:
    """Compare a build's commands with those of earlier builds: an owner ignores a field that it does not know."""
    before = [each for each in schemas if (each.entity, each.kind, each.retired) == (behaviour.name, Kind.TAKEN, False)]
    for message in behaviour.taken:
        mine = Schema.of(behaviour, Kind.TAKEN, message)
        older = [each for each in before if each.name == mine.name]
        if not older or mine in older:
            continue
        for field in sorted(mine.fields.keys() - older[-1].fields.keys()):
            how = "which messages of an older build lack" if mine.fields[field] else "which an older build ignores"
            what = f"{message.__name__} has the new field {field!r}, {how}; write version={message.wire.version + 1}"
            yield _Found(mine.name, f"{what} and an upcaster", DIFFERS, "the catalogue")

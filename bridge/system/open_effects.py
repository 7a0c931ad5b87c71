"""Reads the effects of a system that are not settled from its committed records."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from repertory.actors.effect import registered
from repertory.actors.message import Message
from repertory.actors.shard.changelog import EffectRecord
from repertory.actors.wire import DecodeError
from repertory.bridge import changelog_codec as wire
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.bridge.system.committed import Skip, kept_records
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition


class OpenEffect(msgspec.Struct, frozen=True):
    """An effect that is not settled: what the entity ``key`` has asked of the world outside.

    ``entity`` is its name in topics; ``partition``, ``offset`` and ``index`` are those of its request: the command that
    performed it, and the position among what that command left for later. ``record`` is all that is kept of it, and
    ``request`` what it asks (None: this code cannot decode it).
    """

    entity: str
    partition: int
    offset: int
    index: int
    key: str
    effect: str
    record: EffectRecord
    request: Message | None = None

    @property
    def address(self) -> str:
        """``partition@offset/index``, as the command line has it."""
        return f"{self.partition}@{self.offset}/{self.index}"

    @property
    def parked(self) -> bool:
        """Whether only an operator has it tried again."""
        return self.record.parked

    @property
    def not_in_build(self) -> bool:
        """Whether it waits for an owner whose build can run it; ``record.reason`` says what the last one lacked."""
        return self.record.not_in_build


def open_effects(reader: Reader, system: SystemDefinition, *, skip: Skip = None) -> Iterator[OpenEffect]:
    """Yield all effects of a system that are not settled, by entity, partition and request.

    A record that cannot be decoded is a DecodeError that names it or, with ``skip``, is skipped after ``skip`` was
    called with that sentence.
    """
    for hosted in system.hosted.values():
        for partition in range(hosted.partitions):
            yield from effects_on(reader, system, hosted, partition, skip=skip)


def effects_on(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int, *, skip: Skip = None
) -> list[OpenEffect]:
    """Return those of one shard."""

    def key_of(record: Record) -> bytes | None:
        return record.key if record.key is not None and wire.is_effect(record.key) else None

    def decode(_: bytes, data: bytes) -> EffectRecord:
        return wire.decode_effect(data)

    found = kept_records(reader, system, hosted.behaviour, partition, key_of, decode, "an effect", skip)
    effects = [
        OpenEffect(
            hosted.behaviour.name, partition, each.offset, each.index, each.key, each.effect, each, _request(each)
        )
        for each in found.values()
    ]
    return sorted(effects, key=lambda each: (each.offset, each.index))


def _request(record: EffectRecord) -> Message | None:
    effect = registered(record.effect)
    try:
        return None if effect is None else effect.signature.decoder.decode(record.request)
    except (DecodeError, TypeError):
        return None

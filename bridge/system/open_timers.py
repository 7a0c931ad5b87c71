"""Reads the timers and delayed messages of a system from its committed records."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from repertory.actors.message import Message
from repertory.actors.shard.changelog import TellRecord, TimerRecord, timer_of
from repertory.actors.wire import DecodeError
from repertory.bridge import changelog_codec as wire
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.bridge.system.committed import Skip, kept_records
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition


class OpenTimer(msgspec.Struct, frozen=True):
    """A timer of the entity ``key``, or (``name`` "") a delayed message, to the entity ``to`` (``account/a-1``).

    ``entity`` is its name in topics; ``partition`` and ``offset`` are the place of the command that scheduled it, among
    the commands of ``entity``; ``key`` of a delayed message is "". ``due_ms`` (epoch); ``every_ms`` is the period of a
    recurring one, else 0. ``fired``: it was due, and its command is in the log without a fate yet. ``value`` is the
    command, and ``message`` the same decoded (None: this code cannot).
    """

    entity: str
    partition: int
    key: str
    name: str
    due_ms: int
    offset: int
    value: bytes
    every_ms: int = 0
    fired: bool = False
    to: str = ""
    message: Message | None = None


def open_timers(reader: Reader, system: SystemDefinition, *, skip: Skip = None) -> Iterator[OpenTimer]:
    """Yield all open timers and delayed messages of a system, by entity, partition, due time, and cause.

    A record that cannot be decoded is a DecodeError that names it or, with ``skip``, is skipped after ``skip`` was
    called with that sentence.
    """
    for hosted in system.hosted.values():
        for partition in range(hosted.partitions):
            yield from timers_on(reader, system, hosted, partition, skip=skip)


def timers_on(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int, *, skip: Skip = None
) -> list[OpenTimer]:
    """Return those of one shard."""
    found = owed_records(reader, system, hosted, partition, skip=skip)
    timers = [_timer(system, hosted, partition, place, record) for place, record in found.items()]
    return sorted(timers, key=lambda each: (each.due_ms, each.offset))


def owed_records(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int, *, skip: Skip = None
) -> dict[str, TimerRecord | TellRecord]:
    """Return the records of one shard, by their keys in the changelog."""

    def place_of(record: Record) -> str | None:
        if record.key is None or not wire.is_owed(record.key):
            return None
        return record.key.decode("utf-8", "backslashreplace")

    return kept_records(reader, system, hosted.behaviour, partition, place_of, wire.decode_owed, "a timer", skip)


def _timer(
    system: SystemDefinition, hosted: EntityDefinition, partition: int, place: str, record: TimerRecord | TellRecord
) -> OpenTimer:
    own = hosted.behaviour.name
    if isinstance(record, TimerRecord):
        key, name = timer_of(place)
        return OpenTimer(
            own, partition, key, name, record.due_ms, record.offset, record.value, record.every_ms, record.fired,
            message=_message(hosted, record.value),
        )  # fmt: skip
    receiver = next((each for each in system.hosted.values() if each.behaviour.name == record.entity), None)
    message = None if receiver is None else _message(receiver, record.value)
    to = f"{record.entity}/{record.key}"
    return OpenTimer(own, partition, "", "", record.due_ms, record.offset, record.value, to=to, message=message)


def _message(hosted: EntityDefinition, value: bytes) -> Message | None:
    try:
        message: Message = hosted.behaviour.decoder.decode(value)
    except DecodeError:
        return None
    return message

"""Reads the commands that were not applied: parked keys and dead letters, from committed records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from repertory.actors.headers import (
    ATTEMPTS,
    CORRELATION_ID,
    DEAD_LETTER,
    ERROR_MESSAGE,
    ERROR_TRACEBACK,
    ERROR_TYPE,
    REPLY_KEY,
    REPLY_TO,
    SOURCE_OFFSET,
    SOURCE_PARTITION,
    SOURCE_TOPIC,
    Headers,
    restored,
)
from repertory.actors.message import Message
from repertory.actors.shard.changelog import StashedRecord
from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.bridge.system.committed import Skip, stashed_commands
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition

#: A number in a header. The length is limited because Python refuses to parse thousands of digits.
_NUMBER = re.compile("[0-9]{1,18}", re.ASCII)


class Parked(msgspec.Struct, frozen=True):
    """A parked key: its first stashed command, and the number of commands stashed behind that one.

    ``entity`` is its name in topics, ``partition`` and ``offset`` the place of the command among its commands,
    ``message`` the command itself (None: this code cannot decode it), ``record`` all that is kept of it. ``error`` is
    the type of the last failure (``ValueError``, ``bank.accounts.Frozen``) and ``reason`` its message.

    ``askers``: who waits for the answers of these commands, in their order: ``transfer t-1``, or ``client 7f3a…`` with
    the correlation id.
    """

    entity: str
    partition: int
    key: str
    offset: int
    message: Message | None
    record: StashedRecord
    behind: int
    askers: tuple[str, ...]

    @property
    def error(self) -> str:
        """The type of the last failure."""
        return self.record.error

    @property
    def reason(self) -> str:
        """The message of the last failure."""
        return self.record.reason

    @property
    def traceback(self) -> str:
        """Where the last failure was."""
        return self.record.traceback


class DeadLetter(msgspec.Struct, frozen=True):
    """A command that was not applied, as its dead letter has it. ``headers`` are those of the command.

    ``error`` is the type of its last failure (``ValueError``), or what else ended it: ``Dropped``, ``Quarantined``,
    ``Parked`` (asked, behind a parked command), ``NoRoom``, ``WrongPartition``; ``DecodeError`` or ``ValueError`` for a
    record that is no command. ``reason`` says more, ``traceback`` where user code failed. ``message`` is the command,
    None if this code cannot decode it. The source is the record that it was; a field is empty or -1 if a foreign record
    lacks its header.
    """

    record: Record
    error: str
    reason: str
    attempts: int
    source_topic: str
    source_partition: int
    source_offset: int
    headers: Headers
    message: Message | None = None
    traceback: str = ""

    @property
    def key(self) -> str | None:
        """The key of the command; bytes that are not UTF-8 are escaped."""
        return None if self.record.key is None else self.record.key.decode("utf-8", "backslashreplace")

    @property
    def address(self) -> str:
        """``partition@offset`` within the dead-letters topic."""
        return f"{self.record.partition}@{self.record.offset}"

    @property
    def source(self) -> str:
        """The place of the command in its topic."""
        return f"{self.source_topic}/{self.source_partition}@{self.source_offset}"

    @property
    def retry_of(self) -> bytes:
        """The value of the ``retry-of`` header of a retry."""
        return f"{self.record.topic}/{self.record.partition}/{self.record.offset}".encode()


# --- parked keys ----------------------------------------------------------------------------------------------


def parked_keys(reader: Reader, system: SystemDefinition, *, skip: Skip = None) -> Iterator[Parked]:
    """Yield all parked keys of a system, by entity, partition and offset."""
    for hosted in system.hosted.values():
        for partition in range(hosted.partitions):
            yield from parked_on(reader, system, hosted, partition, skip=skip)


def parked_on(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int, *, skip: Skip = None
) -> Iterator[Parked]:
    """Yield the parked keys of one shard."""
    stashed = stashed_commands(reader, system, hosted.behaviour, partition, skip=skip)
    for offset, record in stashed:
        if record.parked:
            queue = [other for _, other in stashed if other.key == record.key]
            askers = tuple(asker for other in queue if (asker := _asker(system, other.headers)))
            message = _message(hosted, record.value)
            yield Parked(hosted.behaviour.name, partition, record.key, offset, message, record, len(queue) - 1, askers)


def _asker(system: SystemDefinition, of_command: Headers) -> str:
    """Return who waits for the answer of a command; "" if it was not asked."""
    headers = dict(of_command)
    if REPLY_TO not in headers:
        return ""
    topic = headers[REPLY_TO].decode("utf-8", "replace").partition("/")[0]
    if REPLY_KEY in headers:
        entity = topic.removeprefix(f"{system.name}.").removesuffix(".commands")
        return f"{entity} {headers[REPLY_KEY].decode('utf-8', 'replace')}"
    return f"client {headers.get(CORRELATION_ID, b'').decode('utf-8', 'replace')}"


# --- dead letters ---------------------------------------------------------------------------------------------


def dead_letters(reader: Reader, system: SystemDefinition) -> Iterator[DeadLetter]:
    """Yield all dead letters that the log still holds, oldest first in each partition."""
    topic = topics.dead_letters_topic(system.name)
    by_topic = {topics.commands_topic(system.name, each.behaviour.name): each for each in system.hosted.values()}
    for partition in range(reader.partition_count(topic) or 0):
        for record in reader.read(topic, partition, reader.bounds(topic, partition)[0]):
            letter = dead_letter(record)
            hosted = by_topic.get(letter.source_topic)
            message = None if hosted is None else _message(hosted, record.value)
            yield letter if message is None else msgspec.structs.replace(letter, message=message)


def dead_letter(record: Record) -> DeadLetter:
    """Read a record of the dead-letters topic from its headers alone."""
    found: Mapping[str, str] = {
        name: value.decode("utf-8", "backslashreplace") for name, value in record.headers if name in DEAD_LETTER
    }
    kept = tuple((restored(name), value) for name, value in record.headers if name not in DEAD_LETTER)
    return DeadLetter(
        record,
        found.get(ERROR_TYPE, ""),
        found.get(ERROR_MESSAGE, ""),
        _number(found.get(ATTEMPTS)),
        found.get(SOURCE_TOPIC, ""),
        _number(found.get(SOURCE_PARTITION)),
        _number(found.get(SOURCE_OFFSET)),
        kept,
        traceback=found.get(ERROR_TRACEBACK, ""),
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else -1


def _message(hosted: EntityDefinition, value: bytes | None) -> Message | None:
    try:
        message: Message = hosted.behaviour.decoder.decode(value or b"")
    except DecodeError:
        return None
    return message

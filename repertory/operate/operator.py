"""What an operator can do about parked keys and dead letters, through the log and nothing else."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping

import msgspec

from repertory.actors.control import DropParked, RetryParked
from repertory.actors.headers import CORRELATION_ID, RETRY_OF, Headers
from repertory.actors.message import Done, Message, Undelivered
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.shard.changelog import StashedRecord
from repertory.actors.wire import MessageDecoder, encode
from repertory.bridge import topics
from repertory.bridge.log.port import Backend, LogUnavailable, Reader
from repertory.bridge.log.record import Output, Record
from repertory.bridge.system.committed import stashed_commands
from repertory.bridge.system.definition import EntityDefinition, SystemDefinition

#: Headers that a dead letter has beside those of the command that it was.
_LETTER_HEADERS = frozenset(
    {"cause", "error-type", "error-message", "attempts", "source-topic", "source-partition", "source-offset"}
)
#: Those of the command itself that a letter keeps under another name.
_OF_ITS_SENDER = frozenset({"source-cause", "source-epoch"})
#: Headers by which somebody waits for an answer.
_ASKED_HEADERS = frozenset({"reply-to", "reply-key"})
#: A number in a header: Python refuses to read one of thousands of digits.
_NUMBER = re.compile("[0-9]{1,18}", re.ASCII)


class Parked(msgspec.Struct, frozen=True):
    """A parked key: its first command, and how many are kept behind it."""

    entity: str
    partition: int
    key: str
    offset: int
    record: StashedRecord
    behind: int


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter as its headers tell. ``headers`` are those of the command that it was."""

    record: Record
    error: str
    reason: str
    attempts: int
    source_topic: str
    source_partition: int
    source_offset: int
    headers: Headers

    @property
    def address(self) -> str:
        """``partition@offset`` within the dead-letters topic."""
        return f"{self.record.partition}@{self.record.offset}"


class Operator:
    """One thread uses it. What it tells a shard is a record among the shard's commands; its owner acts on it."""

    def __init__(self, system: SystemDefinition, backend: Backend) -> None:
        self._system = system
        self._reader: Reader = backend.reader()
        self._appender = backend.appender()

    # --- parked keys ------------------------------------------------------------------------------------------

    def parked(self) -> Iterator[Parked]:
        """Yield every parked key of the system."""
        for hosted in self._system.hosted.values():
            for partition in range(hosted.partitions):
                yield from self._parked_on(hosted, partition)

    def find_parked(self, entity: str, key: str) -> Parked:
        """Return a parked key; LookupError if it is not parked, or the system hosts no such entity."""
        hosted = self._system.hosted[self._system.behaviour(entity).entity]
        partition = partition_of(checked_key(key).encode(), hosted.partitions)
        for parked in self._parked_on(hosted, partition):
            if parked.key == key:
                return parked
        raise LookupError(f"the key {key!r} of {hosted.behaviour.name} is not parked")

    def _parked_on(self, hosted: EntityDefinition, partition: int) -> Iterator[Parked]:
        stashed = stashed_commands(self._reader, self._system, hosted.behaviour, partition)
        for offset, record in stashed:
            if record.parked:
                behind = sum(1 for _, other in stashed if other.key == record.key) - 1
                yield Parked(hosted.behaviour.name, partition, record.key, offset, record, behind)

    def retry(self, parked: Parked, timeout_s: float = 30.0) -> None:
        """Run a parked key's commands again, in order; returns once its shard has taken that in.

        Raises LogUnavailable if no worker answers in time; what was told stands in the log and is done later.
        """
        self._tell(parked, RetryParked(offset=parked.offset), timeout_s)

    def drop(self, parked: Parked, reason: str, timeout_s: float = 30.0) -> None:
        """Make a parked key's first command a dead letter, with a reason; those behind it run. Raises as ``retry``."""
        if not reason.strip():
            raise ValueError("to drop a command needs a reason: it stands in the dead letter")
        self._tell(parked, DropParked(offset=parked.offset, reason=reason), timeout_s)

    def _tell(self, parked: Parked, message: RetryParked | DropParked, timeout_s: float) -> None:
        replies, partition = topics.replies_topic(self._system.name), 0
        correlation_id = uuid.uuid4().hex
        _, position = self._reader.bounds(replies, partition)
        headers = (
            ("message-id", correlation_id.encode()),
            ("correlation-id", correlation_id.encode()),
            ("reply-to", f"{replies}/{partition}".encode()),
        )
        topic = topics.commands_topic(self._system.name, parked.entity)
        self._appender.append([Output(topic, parked.partition, parked.key.encode(), encode(message), headers)])
        answer = self._answer(replies, partition, position, correlation_id, timeout_s)
        assert isinstance(answer, Done), f"a shard answers its operator {answer}"

    def _answer(self, topic: str, partition: int, position: int, correlation_id: str, timeout_s: float) -> Message:
        decode = MessageDecoder([Done, Undelivered]).decode
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            for record in self._reader.follow(topic, {partition: position}, left_s):
                position = record.offset + 1
                if record.header(CORRELATION_ID) == correlation_id.encode():
                    found: Message = decode(record.value or b"")
                    return found
                if time.monotonic() > deadline_s:
                    break
        raise LogUnavailable(
            f"no worker of {self._system.name} answered within {timeout_s:.0f} s; what was told stands in the log, and "
            "is done when one runs"
        )

    # --- dead letters -----------------------------------------------------------------------------------------

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Yield every dead letter that is still kept, oldest first."""
        topic = topics.dead_letters_topic(self._system.name)
        for partition in range(self._reader.partition_count(topic) or 0):
            low, _ = self._reader.bounds(topic, partition)
            for record in self._reader.read(topic, partition, low):
                yield dead_letter(record)

    def find_dead_letter(self, address: str) -> DeadLetter:
        """Return the dead letter at ``partition@offset``; LookupError if there is none."""
        for letter in self.dead_letters():
            if letter.address == address:
                return letter
        raise LookupError(f"there is no dead letter {address!r}; list shows their addresses, as in 0@17")

    def retry_dead_letter(self, letter: DeadLetter, *, force: bool = False) -> None:
        """Append the command again, at the end of its topic, without anybody waiting for its answer.

        LookupError if that was done before, or whoever asked was told that it never would be, unless ``force``.
        """
        if not force:
            if any(name in _ASKED_HEADERS for name, _ in letter.headers):
                raise LookupError(
                    f"{letter.address} was asked, and answered with Undelivered; --force retries it all the same"
                )
            if self._was_retried(letter):
                raise LookupError(f"{letter.address} was retried before; --force does it once more")
        mark = f"{letter.record.topic}/{letter.record.partition}/{letter.record.offset}"
        headers = (*(h for h in letter.headers if h[0] not in _ASKED_HEADERS), (RETRY_OF, mark.encode()))
        key = letter.record.key
        count = self._reader.partition_count(letter.source_topic)
        if count is None:
            raise LookupError(f"{letter.address} came from {letter.source_topic!r}, which is not there any more")
        partition = letter.source_partition if key is None else partition_of(key, count)
        self._appender.append([Output(letter.source_topic, partition, key, letter.record.value, headers)])

    def _was_retried(self, letter: DeadLetter) -> bool:
        mark = f"{letter.record.topic}/{letter.record.partition}/{letter.record.offset}".encode()
        count = self._reader.partition_count(letter.source_topic) or 0
        return any(
            record.header(RETRY_OF) == mark
            for partition in range(count)
            for record in self._reader.read(
                letter.source_topic, partition, self._reader.bounds(letter.source_topic, partition)[0]
            )
        )

    def _low(self, topic: str, partition: int) -> int:
        return self._reader.bounds(topic, partition)[0]

    def close(self) -> None:
        """Release what it holds."""
        self._appender.close()
        self._reader.close()


def dead_letter(record: Record) -> DeadLetter:
    """Read a record of the dead-letters topic; what a foreign one does not say is empty, or -1."""
    found: Mapping[str, str] = {
        name: value.decode("utf-8", "backslashreplace") for name, value in record.headers if name in _LETTER_HEADERS
    }
    kept = tuple(
        (n.removeprefix("source-") if n in _OF_ITS_SENDER else n, v) for n, v in record.headers if n not in found
    )
    return DeadLetter(
        record,
        found.get("error-type", ""),
        found.get("error-message", ""),
        _number(found.get("attempts")),
        found.get("source-topic", ""),
        _number(found.get("source-partition")),
        _number(found.get("source-offset")),
        kept,
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else -1

"""Operator actions on parked keys and dead letters. They use only the log, so they work from any machine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

from repertory.actors.control import DropParked, RetryParked
from repertory.actors.headers import ASKED, CORRELATION_ID, MESSAGE_ID, REPLY_TO, RETRY_OF
from repertory.actors.message import Done, Message, Undelivered
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.wire import MessageDecoder, encode
from repertory.bridge import topics
from repertory.bridge.log.port import Backend, LogUnavailable, Reader
from repertory.bridge.log.record import Output
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.failed import DeadLetter, Parked, dead_letters, parked_keys, parked_on


class Operator:
    """For use by one thread. Appends control commands to a shard's commands topic; the shard's owner executes them."""

    def __init__(self, system: SystemDefinition, backend: Backend) -> None:
        self._system = system
        self._reader: Reader = backend.reader()
        self._appender = backend.appender()

    # --- parked keys ------------------------------------------------------------------------------------------

    def parked(self) -> Iterator[Parked]:
        """Return all parked keys of the system."""
        return parked_keys(self._reader, self._system)

    def find_parked(self, entity: str, key: str) -> Parked:
        """Return a parked key. Raises LookupError if the key is not parked or the system hosts no such entity."""
        hosted = self._system.hosted[self._system.behaviour(entity).entity]
        partition = partition_of(checked_key(key).encode(), hosted.partitions)
        for parked in parked_on(self._reader, self._system, hosted, partition):
            if parked.key == key:
                return parked
        raise LookupError(f"the key {key!r} of {hosted.behaviour.name} is not parked")

    def retry(self, parked: Parked, timeout_s: float = 30.0) -> None:
        """Run a parked key's commands again, in order. Returns once the shard has accepted the request.

        Raises LogUnavailable if no worker answers in time. The request stays in the log and is executed later.
        """
        self._request(parked, RetryParked(offset=parked.offset), timeout_s)

    def drop(self, parked: Parked, reason: str, timeout_s: float = 30.0) -> None:
        """Dead-letter a parked key's first command, with a reason; the commands behind it run. Raises as ``retry``."""
        if not reason.strip():
            raise ValueError("a command is dropped with a reason, which the dead letter records; give one")
        self._request(parked, DropParked(offset=parked.offset, reason=reason), timeout_s)

    def _request(self, parked: Parked, message: RetryParked | DropParked, timeout_s: float) -> None:
        replies, partition = topics.replies_topic(self._system.name), 0
        correlation_id = uuid.uuid4().hex
        _, position = self._reader.bounds(replies, partition)
        headers = (
            (MESSAGE_ID, correlation_id.encode()),
            (CORRELATION_ID, correlation_id.encode()),
            (REPLY_TO, f"{replies}/{partition}".encode()),
        )
        topic = topics.commands_topic(self._system.name, parked.entity)
        self._appender.append([Output(topic, parked.partition, parked.key.encode(), encode(message), headers)])
        answer = self._answer(replies, partition, position, correlation_id, timeout_s)
        assert isinstance(answer, Done), f"a shard answered a control command with {answer}"

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
            f"no worker of {self._system.name} answered within {timeout_s:.0f} s; the request is in the log and is "
            "executed when a worker runs"
        )

    # --- dead letters -----------------------------------------------------------------------------------------

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Return all dead letters that the log still holds, oldest first in each partition."""
        return dead_letters(self._reader, self._system)

    def find_dead_letter(self, address: str) -> DeadLetter:
        """Return the dead letter at ``partition@offset``. Raises LookupError if there is none."""
        for letter in self.dead_letters():
            if letter.address == address:
                return letter
        raise LookupError(f"there is no dead letter {address!r}; `dead-letters list` shows the addresses, such as 0@17")

    def retry_dead_letter(self, letter: DeadLetter, *, force: bool = False) -> None:
        """Append the command again, at the end of its topic. Nobody receives its reply.

        Raises LookupError, unless ``force``, if the dead letter was retried before, or if the command was an ask: its
        sender was answered with `Undelivered`, which says that the command is never applied.
        """
        if not force:
            if any(name in ASKED for name, _ in letter.headers):
                raise LookupError(
                    f"{letter.address} was an ask and was answered with Undelivered; --force retries it nevertheless"
                )
            if self._was_retried(letter):
                raise LookupError(f"{letter.address} was retried before; --force retries it again")
        headers = (*(header for header in letter.headers if header[0] not in ASKED), (RETRY_OF, letter.retry_of))
        key = letter.record.key
        count = self._reader.partition_count(letter.source_topic)
        if count is None:
            raise LookupError(f"{letter.address} came from the topic {letter.source_topic!r}, which no longer exists")
        partition = letter.source_partition if key is None else partition_of(key, count)
        self._appender.append([Output(letter.source_topic, partition, key, letter.record.value, headers)])

    def _was_retried(self, letter: DeadLetter) -> bool:
        topic, retry_of = letter.source_topic, letter.retry_of
        return any(
            record.header(RETRY_OF) == retry_of
            for partition in range(self._reader.partition_count(topic) or 0)
            for record in self._reader.read(topic, partition, self._low(topic, partition))
        )

    def _low(self, topic: str, partition: int) -> int:
        return self._reader.bounds(topic, partition)[0]

    def close(self) -> None:
        """Release what it holds."""
        self._appender.close()
        self._reader.close()

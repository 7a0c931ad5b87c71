"""The addresses in the headers of a command: who asked, what a reply is about, and which operator retried it.

A client that may write commands may write any header. So an address is a partition of the system's replies topic or a
commands topic of the system, and the log is never asked for the partition count of any other name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from repertory.actors.context import TAG_BYTES_MAX
from repertory.actors.headers import (
    ABOUT,
    ASK_ID,
    CORRELATION_ID,
    ORIGIN,
    REPLY_KEY,
    REPLY_TO,
    RETRY_OF,
    RETRY_TO,
    TIMER,
)
from repertory.actors.message import RetryRequest, Sender
from repertory.actors.placement import checked_key
from repertory.actors.shard.answers import ParsedId
from repertory.actors.timer import FiredTimer
from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.log.record import Record

_PARTITION = re.compile(r"[0-9]{1,9}", re.ASCII)
_ENTITY = re.compile(r"[a-z0-9-]{1,100}")


class Addresses:
    """Reads the addresses of a system's commands. It has no mutable state."""

    def __init__(self, system: str, partition_count: Callable[[str], int | None]) -> None:
        self._system, self._partition_count = system, partition_count
        self._replies = topics.replies_topic(system)

    def of(self, record: Record) -> dict[str, bytes]:
        """Return the headers of a command that say where it comes from; mostly none."""
        return {name: value for name, value in record.headers if name in ORIGIN}

    def sender(self, found: dict[str, bytes]) -> tuple[Sender | None, str]:
        """Return who asked, and what a reply is about; DecodeError for an invalid ``reply-to``."""
        for name in (ABOUT, CORRELATION_ID):
            if len(found.get(name, b"")) > TAG_BYTES_MAX:
                raise DecodeError(f"header {name!r} has {len(found[name])} bytes, over {TAG_BYTES_MAX}")
        about = found.get(ABOUT, b"").decode()
        reply_to = found.get(REPLY_TO)
        if reply_to is None:
            return None, about
        topic, _, partition = reply_to.decode().partition("/")
        correlation_id = found.get(CORRELATION_ID, b"").decode()
        if partition:
            if not self._is_reply_partition(topic, partition):
                raise DecodeError(f"reply-to {reply_to!r:.200} is not a partition of {self._replies}")
            if (asked := found.get(ASK_ID)) is None:
                return Sender(topic, int(partition), None, correlation_id, about), about
            try:
                ParsedId.parse(asked.decode())
            except ValueError as error:
                raise DecodeError(f"header {ASK_ID!r}: {error}") from error
            return Sender(topic, int(partition), None, correlation_id, about, asked.decode()), about
        entity = topic.removeprefix(f"{self._system}.").removesuffix(".commands")
        is_ours = _ENTITY.fullmatch(entity) and topic == topics.commands_topic(self._system, entity)
        if not is_ours or self._partition_count(topic) is None:
            raise DecodeError(f"reply-to {reply_to!r:.200} is not a commands topic of the system {self._system}")
        key = checked_key(found.get(REPLY_KEY, b"").decode())
        return Sender(topic, None, key, correlation_id, about), about

    def retry(self, found: dict[str, bytes], offset: int) -> RetryRequest | None:
        """Return the operator who retried a dead letter, now the command at ``offset``; None for an invalid address."""
        topic, _, rest = found.get(RETRY_TO, b"").decode("utf-8", "replace").partition("/")
        partition, _, correlation_id = rest.partition("/")
        if not self._is_reply_partition(topic, partition) or len(correlation_id) > TAG_BYTES_MAX:
            return None
        return RetryRequest(offset, topic, int(partition), correlation_id)

    def timer(self, found: dict[str, bytes]) -> FiredTimer | None:
        """Return the timer that sent a command; DecodeError for an invalid header."""
        header = found.get(TIMER)
        try:
            return None if header is None else FiredTimer.parse(header, retried=RETRY_OF in found)
        except ValueError as error:
            raise DecodeError(f"header {TIMER!r}: {error}") from error

    def _is_reply_partition(self, topic: str, partition: str) -> bool:
        count = self._partition_count(topic) if topic == self._replies else None
        return count is not None and _PARTITION.fullmatch(partition) is not None and int(partition) < count

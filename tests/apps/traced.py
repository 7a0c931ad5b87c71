"""The counters of ``tests.apps.counting``, whose workers write down what happens to each shard, and when.

One JSON line for each happening, appended to the file that ``TRACE_FILE`` names: ``[seconds, pid, slot, shard, what]``.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from repertory.bridge.log.kafka.log import KafkaLog
from repertory.bridge.log.port import (
    Committed,
    Fetched,
    LogEvent,
    Replayed,
    Transaction,
)
from repertory.bridge.log.record import TopicPartition
from tests.apps.counting import system

__all__ = ["system"]

FILE = os.environ.get("TRACE_FILE", "")


def _open() -> Callable[[str, TopicPartition | None, str], None]:
    """Return a function that appends one line; each is one ``write``, so the processes share the file."""
    trace_fd = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(slot: str, shard: TopicPartition | None, what: str) -> None:
        line = [round(time.monotonic(), 4), os.getpid(), slot, shard.partition if shard else -1, what]
        os.write(trace_fd, json.dumps(line).encode() + b"\n")

    return write


def _trace(write: Callable[[str, TopicPartition | None, str], None]) -> None:
    """Wrap the methods of the Kafka log."""

    def wrap(name: str, around: Callable[..., Any]) -> None:
        original = getattr(KafkaLog, name)
        setattr(KafkaLog, name, functools.wraps(original)(functools.partialmethod(around, original)))

    def slot(log: KafkaLog) -> str:
        return f"{log._member.node}/{log._member.slot}"

    fetched: set[tuple[TopicPartition, int]] = set()
    offsets: dict[TopicPartition, int] = {}

    def poll(log: KafkaLog, original: Callable[..., Sequence[LogEvent]], timeout_s: float) -> Sequence[LogEvent]:
        is_new = log._group is None
        if is_new:
            write(slot(log), None, "joining")
        events = original(log, timeout_s)
        if is_new:
            write(slot(log), None, "joined")
        for event in events:
            if isinstance(event, Replayed) and not event.complete:
                continue
            if isinstance(event, Fetched):
                key = (event.shard, id(log._shards.get(event.shard)))
                if key in fetched:
                    continue
                fetched.add(key)
            what = type(event).__name__
            if isinstance(event, Committed):
                what = f"Committed {offsets.get(event.shard)}"
            elif hasattr(event, "reason"):
                what = f"{what}: {event.reason}"
            write(slot(log), event.shard, what)
        return events

    def claim(log: KafkaLog, original: Callable[..., None], shard: TopicPartition, topics: Sequence[str]) -> None:
        write(slot(log), shard, "claim asked")
        original(log, shard, topics)

    def start(log: KafkaLog, original: Callable[..., None], shard: Any) -> None:
        write(slot(log), shard.where, "claim started")
        original(log, shard)

    def begin(log: KafkaLog, original: Callable[..., None], shard: TopicPartition, next_offset: int) -> None:
        write(slot(log), shard, f"begin {next_offset}")
        original(log, shard, next_offset)

    def commit(log: KafkaLog, original: Callable[..., None], transaction: Transaction) -> None:
        offsets[transaction.shard] = transaction.next_offset
        write(slot(log), transaction.shard, f"commit {transaction.next_offset}")
        original(log, transaction)

    for name, around in (("poll", poll), ("claim", claim), ("_start", start), ("begin", begin), ("commit", commit)):
        wrap(name, around)


if FILE:
    _trace(_open())

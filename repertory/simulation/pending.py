"""Commits and appends in flight in the simulated log, and what is written of them if their sender sees no result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from repertory.bridge.log.port import (
    Append,
    Fetched,
    LogEvent,
    Replayed,
    Transaction,
)
from repertory.bridge.log.record import Output, TopicPartition


class Pending(NamedTuple):
    """A commit or an append in flight. ``late``: the shard was claimed after it was sent."""

    due_s: float
    transaction: Transaction | Append
    late: bool = False


def overtaken(pending: Iterable[Pending], shard: TopicPartition) -> list[Pending]:
    """Return what is still in flight after a claim of a shard: its commits are fenced, its appends are not."""
    return [
        each._replace(late=True) if each.transaction.shard == shard else each
        for each in pending
        if each.transaction.shard != shard or isinstance(each.transaction, Append)
    ]


def torn(sent: Transaction | Append, fate: str = "") -> list[Output]:
    """Return the part of an append that is written; empty for a transaction, which is never written in part."""
    if isinstance(sent, Transaction):
        return []
    whole, outputs = [*sent.outputs, *sent.journal], len(sent.outputs)
    match fate:
        case "abort":
            return whole[: outputs // 2]
        case "fenced":
            return whole[:outputs]
        case "unknown-lost":
            return whole[: outputs + len(sent.journal) // 2]
    return whole


def cut(event: LogEvent, records_max: int) -> tuple[LogEvent, LogEvent | None]:
    """Cut an event after ``records_max`` records (0: do not cut); return the piece and the rest."""
    if not records_max or not isinstance(event, Fetched | Replayed) or len(event.records) <= records_max:
        return event, None
    first, rest = event.records[:records_max], event.records[records_max:]
    if isinstance(event, Fetched):
        return Fetched(event.shard, first), Fetched(event.shard, rest)
    return (
        Replayed(event.shard, event.topic, first, complete=False),
        Replayed(event.shard, event.topic, rest, event.complete),
    )

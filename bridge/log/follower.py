"""The port of a log that is followed: committed records of many partitions as they come, without group or ownership.

A relay (``bridge.sources``) follows the foreign topics of its sources with it; the log may be another cluster's, of
which it needs nothing but the right to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from repertory.bridge.log.record import Record, TopicPartition


class Surveyed(msgspec.Struct, frozen=True):
    """A topic as it is now: its id, and the bounds of each partition, in their order.

    Bounds: the first offset that is still held, and the end of the committed records.
    """

    topic_id: str
    bounds: Sequence[tuple[int, int]]


class Followed(msgspec.Struct, frozen=True):
    """Committed records of a partition, in offset order, behind those before."""

    place: TopicPartition
    records: Sequence[Record]


class Unfollowed(msgspec.Struct, frozen=True):
    """The partition is followed no more: it does not have the next offset, or does not exist. A survey tells."""

    place: TopicPartition
    reason: str


class Follower(Protocol):
    """Follows partitions. One thread calls it; ``survey`` may be called on another."""

    def survey(self, topic: str) -> Surveyed | None:
        """Return what there is of a topic, None if it does not exist. Nothing of it is cached.

        Raises LogUnavailable if the log does not answer within some seconds.
        """

    def follow(self, place: TopicPartition, next_offset: int) -> None:
        """Follow a partition from an offset on, instead of from where it was followed before."""

    def forget(self, place: TopicPartition) -> None:
        """Follow a partition no more. Idempotent."""

    def poll(self, timeout_s: float, records_max: int) -> Sequence[Followed | Unfollowed]:
        """Return new records, about ``records_max`` at most; wait up to ``timeout_s`` if there are none.

        A log that is out of reach has no records: a survey tells.
        """

    def close(self) -> None:
        """Release all resources. Idempotent."""

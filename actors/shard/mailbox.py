"""The commands of one shard between the log and their handlers: bounded, in offset order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from repertory.actors.message import Envelope, Undecodable
from repertory.actors.shard.config import Limits

Delivery = Envelope | Undecodable


class Mailbox:
    """A first-in first-out window on one partition. Owned by its shard.

    It never drops: at its bound of records or bytes the owner pauses the partition (what was already fetched still
    comes in), and resumes it at half of that. Offsets strictly increase; one that does not is our bug.
    """

    __slots__ = ("_bytes_max", "_next_offset", "_records_max", "bytes", "deliveries")

    def __init__(self, limits: Limits, next_offset: int) -> None:
        #: In offset order. The shard takes from its left end directly: a method call for each command costs 0.2 µs.
        self.deliveries: deque[Delivery] = deque()
        #: Of the deliveries' values. Whoever takes a delivery subtracts it.
        self.bytes = 0
        self._next_offset = next_offset
        self._records_max, self._bytes_max = limits.mailbox_records_max, limits.mailbox_bytes_max

    def __len__(self) -> int:
        return len(self.deliveries)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self.deliveries)

    @property
    def full(self) -> bool:
        """Whether the partition has to be paused."""
        return len(self.deliveries) >= self._records_max or self.bytes >= self._bytes_max

    @property
    def drained(self) -> bool:
        """Whether a paused partition can be resumed: at half of what it takes, so that it does not flutter."""
        return len(self.deliveries) <= self._records_max // 2 and self.bytes <= self._bytes_max // 2

    def offer(self, deliveries: Iterable[Delivery]) -> None:
        """Append deliveries."""
        for delivery in deliveries:
            assert delivery.offset >= self._next_offset, (delivery.offset, self._next_offset)
            self._next_offset = delivery.offset + 1
            self.bytes += len(delivery.value or b"")
            self.deliveries.append(delivery)

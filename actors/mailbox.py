"""The commands of one shard between the log and their handlers: bounded, in offset order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from actors.message import Envelope, Undecodable

Letter = Envelope | Undecodable


class Mailbox:
    """A first-in first-out window on one partition. Owned by its shard.

    It never drops: at ``capacity`` its owner pauses the partition (what was already fetched still comes in), and
    resumes it at half. Offsets strictly increase; one that does not is our bug.
    """

    __slots__ = ("_next_offset", "capacity", "letters")

    def __init__(self, capacity: int, next_offset: int) -> None:
        assert capacity > 0, capacity
        #: In offset order. The shard takes from its left end directly: a method call for each command costs 0.2 µs.
        self.letters: deque[Letter] = deque()
        self._next_offset = next_offset
        self.capacity = capacity

    def __len__(self) -> int:
        return len(self.letters)

    def __iter__(self) -> Iterator[Letter]:
        return iter(self.letters)

    @property
    def full(self) -> bool:
        """Whether the partition has to be paused."""
        return len(self.letters) >= self.capacity

    @property
    def drained(self) -> bool:
        """Whether a paused partition can be resumed: at half of the capacity, so that it does not flutter."""
        return len(self.letters) <= self.capacity // 2

    def offer(self, letters: Iterable[Letter]) -> None:
        """Take in letters behind those that are there."""
        for letter in letters:
            assert letter.offset >= self._next_offset, (letter.offset, self._next_offset)
            self._next_offset = letter.offset + 1
            self.letters.append(letter)

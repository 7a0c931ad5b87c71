"""The commands of one shard between the log and their handlers: bounded, in offset order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from repertory.actors.message import Envelope, Undecodable
from repertory.actors.shard.config import Limits

Letter = Envelope | Undecodable


class Mailbox:
    """A first-in first-out window on one partition. Owned by its shard.

    It never drops: at so many letters or bytes its owner pauses the partition (what was already fetched still comes
    in), and resumes it at half of them. Offsets strictly increase; one that does not is our bug.
    """

    __slots__ = ("_bytes_max", "_letters_max", "_next_offset", "bytes", "letters")

    def __init__(self, limits: Limits, next_offset: int) -> None:
        #: In offset order. The shard takes from its left end directly: a method call for each command costs 0.2 µs.
        self.letters: deque[Letter] = deque()
        #: Of the letters' values. Whoever takes a letter counts it off.
        self.bytes = 0
        self._next_offset = next_offset
        self._letters_max, self._bytes_max = limits.mailbox_records_max, limits.mailbox_bytes_max

    def __len__(self) -> int:
        return len(self.letters)

    def __iter__(self) -> Iterator[Letter]:
        return iter(self.letters)

    @property
    def full(self) -> bool:
        """Whether the partition has to be paused."""
        return len(self.letters) >= self._letters_max or self.bytes >= self._bytes_max

    @property
    def drained(self) -> bool:
        """Whether a paused partition can be resumed: at half of what it takes, so that it does not flutter."""
        return len(self.letters) <= self._letters_max // 2 and self.bytes <= self._bytes_max // 2

    def offer(self, letters: Iterable[Letter]) -> None:
        """Take in letters behind those that are there."""
        for letter in letters:
            assert letter.offset >= self._next_offset, (letter.offset, self._next_offset)
            self._next_offset = letter.offset + 1
            self.bytes += len(letter.value or b"")
            self.letters.append(letter)

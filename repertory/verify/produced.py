"""The records that the commands of one shard produced, in all topics, sorted by command: 32 bytes per record."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator
from typing import NamedTuple

from repertory.actors.headers import ATTEMPTS, CAUSE, ERROR_MESSAGE, ERROR_TRACEBACK, ERROR_TYPE, Headers
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.verify.findings import Place
from repertory.verify.headers import without_epoch, without_position
from repertory.verify.values import Decode, as_read

_CAUSE = re.compile(rb"([A-Za-z0-9._-]+)/([0-9]{1,9})/([0-9]{1,18})/([0-9]{1,18})")


class Cause(NamedTuple):
    """The `cause` of a record: the command that produced it, and ``nth``, its index among that command's outputs."""

    source: TopicPartition
    offset: int
    nth: int


class Made(NamedTuple):
    """One record that a command produced: its index, its partition (``target``) and offset, and a hash of its bytes."""

    nth: int
    target: int
    digest: int
    place: int


def cause_of(record: Record) -> Cause | None:
    """Return the cause of a record, None if it has none or an invalid one."""
    value = record.header(CAUSE)
    if value is None:
        return None
    found = _CAUSE.fullmatch(value)
    if found is None:
        return None
    topic, partition, offset, nth = found.groups()
    return Cause(TopicPartition(topic.decode(), int(partition)), int(offset), int(nth))


def digest(record: Record | Output, decode: Decode | None) -> int:
    """Return a hash of a record as its receiver reads it, without its offset, its owner's epoch and its position.

    It differs between processes.
    """
    return hash((record.key, as_read(decode, record.value), without_position(without_epoch(record.headers))))


def event_digest(key: bytes | None, value: bytes | None, decode: Decode | None) -> int:
    """Return a hash of an event as a shard reads it, without its headers, which `Journal` checks."""
    return hash((key, as_read(decode, value)))


class Targets:
    """Numbers for the partitions that hold outputs, and the first offset that each still holds."""

    def __init__(self) -> None:
        self._numbers: dict[TopicPartition, int] = {}
        self._names: list[TopicPartition] = []
        self.lows: dict[int, int] = {}
        #: The partitions of journals whose first events were deleted.
        self.cut: set[int] = set()

    def number(self, place: TopicPartition) -> int:
        """Return the number of a partition."""
        number = self._numbers.get(place)
        if number is None:
            number = self._numbers[place] = len(self._names)
            self._names.append(place)
        return number

    def name(self, number: int) -> TopicPartition:
        """Return the partition that has a number."""
        return self._names[number]

    def place(self, made: Made) -> Place:
        """Return the place of a record."""
        return Place(*self._names[made.target], made.place)

    def is_cut(self, number: int) -> bool:
        """Whether older records of a partition were deleted, so that a missing record may be one of them."""
        return self.lows.get(number, 0) > 0 or number in self.cut


class Produced:
    """The outputs of one shard's commands. Filled in any order, then walked once by command."""

    def __init__(self) -> None:
        self._offsets, self._digests, self._places = array("q"), array("q"), array("q")
        self._indexes, self._targets = array("I"), array("I")

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, cause: Cause, target: int, digest_: int, place: int) -> None:
        """Add one record. ``place`` is the record's offset."""
        self._offsets.append(cause.offset)
        self._indexes.append(cause.nth)
        self._digests.append(digest_)
        self._targets.append(target)
        self._places.append(place)

    def offsets(self) -> set[int]:
        """Return the offsets of the commands that have outputs."""
        return set(self._offsets)

    def first_places(self, offsets: Collection[int], target: int) -> dict[int, int]:
        """Return where the first output of each of these commands is, if that is in a partition ``target``."""
        return {
            offset: place
            for offset, nth, to, place in zip(self._offsets, self._indexes, self._targets, self._places, strict=True)
            if offset in offsets and nth == 0 and to == target
        }

    def by_command(self) -> Iterator[tuple[int, list[Made]]]:
        """Yield the offset of each command with its records, by ascending offset, and by index within a command."""
        offsets, indexes = self._offsets, self._indexes
        order = sorted(range(len(offsets)), key=lambda at: (offsets[at], indexes[at], self._places[at]))
        current, made = -1, list[Made]()
        for at in order:
            if offsets[at] != current:
                if made:
                    yield current, made
                current, made = offsets[at], []
            made.append(Made(indexes[at], self._targets[at], self._digests[at], self._places[at]))
        if made:
            yield current, made


#: The headers of a dead letter that describe its failure; the others follow from the command.
_OF_THE_FAILURE = frozenset({ERROR_TYPE, ERROR_MESSAGE, ATTEMPTS})


def without_failure(headers: Headers) -> Headers:
    """Return a dead letter's headers with empty values for those that describe its failure, without the traceback.

    Line numbers change from build to build, and a failure may leave no traceback.
    """
    kept = (header for header in headers if header[0] != ERROR_TRACEBACK)
    return tuple((name, b"" if name in _OF_THE_FAILURE else value) for name, value in kept)

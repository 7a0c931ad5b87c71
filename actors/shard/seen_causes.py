"""``SeenCauses``: what other shards have sent to a shard, so that what they send again is dropped.

A shard that works at least once may send a message again, under the same ``cause``: after a crash it decides commands
again whose outputs had left. Two rules tell a repetition, for each source partition:

- The cause is among the last ``size`` ones. Never a high-water mark of causes: they come in the order in which the
  source handled its commands, and one that waited comes after younger ones.
- The source's owner (its ``epoch``) is older than one heard of already. What counts of an older owner's turns was
  acknowledged before its successor restored, hence stands before all that the successor sends; anything later is a
  worker that does not know yet that it was replaced, and the successor decides the same commands itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from repertory.actors.headers import Headers
from repertory.actors.shard.changelog import SeenRecord, SeenWritten

#: A message that an operator sends again on purpose is no repetition.
RETRY_OF = "retry-of"

_NUMBER_DIGITS_MAX = 18
#: An index takes the lower bits of a cause. One number needs a third of a pair's memory.
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


class Stamp(NamedTuple):
    """Who sent a message, and its cause as one number: the offset of the command, then the index of its output."""

    source: str
    epoch: int
    cause: int


class _Source:
    """The last causes of one source partition, in the order in which they came."""

    __slots__ = ("causes", "epoch", "order")

    def __init__(self) -> None:
        self.epoch = 0
        self.causes: set[int] = set()
        self.order: deque[int] = deque()


class SeenCauses:
    """Mutable; owned by its shard. ``exists`` tells whether a partition is one of the log: others send no messages."""

    def __init__(self, size: int, exists: Callable[[str, int], bool]) -> None:
        assert size > 0, size
        self._size = size
        self._exists = exists
        self._sources: dict[str, _Source] = {}
        self._changed: dict[str, None] = {}

    def stamp(self, headers: Headers) -> Stamp | None:
        """Return who sent a message; None for one from outside, or of a shard that works exactly once."""
        found = dict(headers)
        epoch, cause = found.get("epoch"), found.get("cause")
        if epoch is None or cause is None or RETRY_OF in found:
            return None
        parts = cause.rsplit(b"/", 2)
        if len(parts) != 3 or not all(map(_is_number, (epoch, *parts[1:]))):
            return None
        source = parts[0].decode("utf-8", "replace")
        if source not in self._sources and not self._is_partition(source):
            return None
        return Stamp(source, int(epoch), int(parts[1]) << _INDEX_BITS | int(parts[2]) & _INDEX_MASK)

    def _is_partition(self, source: str) -> bool:
        """Look a source up once: what is kept must not grow with what a stranger writes into headers."""
        topic, _, partition = source.rpartition("/")
        return _is_number(partition.encode()) and self._exists(topic, int(partition))

    def repeats(self, stamp: Stamp) -> bool:
        """Whether this message came before, or will be sent by the source's present owner itself."""
        source = self._sources.get(stamp.source)
        if source is None:
            return False
        return stamp.epoch < source.epoch or stamp.cause in source.causes

    def note(self, stamp: Stamp) -> None:
        """Remember a message that was taken; one that repeats another changes nothing but the owner known last."""
        source = self._sources.setdefault(stamp.source, _Source())
        if stamp.epoch < source.epoch:
            return
        self._changed[stamp.source] = None
        source.epoch = stamp.epoch
        if stamp.cause in source.causes:
            return
        source.causes.add(stamp.cause)
        source.order.append(stamp.cause)
        if len(source.order) > self._size:
            source.causes.remove(source.order.popleft())

    # --- from and to the log ----------------------------------------------------------------------------------

    def written(self) -> Iterator[SeenWritten]:
        """Yield the records of the sources that have sent something since the last call."""
        for name in self._changed:
            source = self._sources[name]
            base = min(source.order, default=0) >> _INDEX_BITS
            causes = tuple(n for c in source.order for n in ((c >> _INDEX_BITS) - base, c & _INDEX_MASK))
            yield SeenWritten(name, SeenRecord(source.epoch, base, causes))
        self._changed.clear()

    def load(self, name: str, record: SeenRecord) -> None:
        """Take in what a predecessor wrote."""
        source = self._sources[name] = _Source()
        source.epoch = record.epoch
        pairs = zip(record.causes[::2], record.causes[1::2], strict=True)
        source.order.extend(record.base + offset << _INDEX_BITS | index for offset, index in pairs)
        source.causes.update(source.order)


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= _NUMBER_DIGITS_MAX

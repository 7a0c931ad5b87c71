"""``SeenCauses``: the messages that a shard has received from other shards, so that repetitions are dropped.

A shard that works at least once may send a message again, with the same ``cause``: after a crash it decides commands
again whose outputs were already written. Two rules detect a repetition, for each source partition:

- The cause is among the last ``size`` causes. A high-water mark would be wrong: causes arrive in the order in which the
  source handled its commands, and a command that was stashed is handled after later ones.
- The source's owner (its ``epoch``) is older than an owner that is already known. The valid turns of the older owner
  were acknowledged before its successor restored, so they precede all messages of the successor. A later message comes
  from a worker that does not know yet that it was replaced, and the successor decides the same commands itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from repertory.actors.headers import CAUSE, EPOCH, RETRY_OF, Headers
from repertory.actors.shard.changelog import ChangelogEntry, SeenRecord, seen_entry

_NUMBER_DIGITS_MAX = 18
#: A cause holds the index in its lower bits. One number needs a third of the memory of a pair.
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


class Stamp(NamedTuple):
    """The source of a message, and its cause as one number: the offset of the command, then the index of its output."""

    source: str
    epoch: int
    cause: int


class _Source:
    """The last causes of one source partition, in the order in which they arrived."""

    __slots__ = ("causes", "epoch", "order")

    def __init__(self) -> None:
        self.epoch = 0
        self.causes: set[int] = set()
        self.order: deque[int] = deque()


class SeenCauses:
    """Mutable; owned by its shard. ``exists`` returns whether the log has a partition; no others can be sources."""

    def __init__(self, size: int, exists: Callable[[str, int], bool]) -> None:
        assert size > 0, size
        self._size = size
        self._exists = exists
        self._sources: dict[str, _Source] = {}
        self._changed: dict[str, None] = {}

    def stamp(self, headers: Headers) -> Stamp | None:
        """Return the source of a message; None if it is from outside, or from a shard that works exactly once."""
        found = dict(headers)
        epoch, cause = found.get(EPOCH), found.get(CAUSE)
        if epoch is None or cause is None or RETRY_OF in found:  # An operator's retry is sent again on purpose.
            return None
        parts = cause.rsplit(b"/", 2)
        if len(parts) != 3 or not all(map(_is_number, (epoch, *parts[1:]))):
            return None
        source = parts[0].decode("utf-8", "replace")
        if source not in self._sources and not self._is_partition(source):
            return None
        return Stamp(source, int(epoch), int(parts[1]) << _INDEX_BITS | int(parts[2]) & _INDEX_MASK)

    def _is_partition(self, source: str) -> bool:
        """Return whether a new source exists: foreign headers with invented sources must not use up memory."""
        topic, _, partition = source.rpartition("/")
        return _is_number(partition.encode()) and self._exists(topic, int(partition))

    def repeats(self, stamp: Stamp) -> bool:
        """Return whether this message is a repetition, or comes from a replaced owner of its source."""
        source = self._sources.get(stamp.source)
        if source is None:
            return False
        return stamp.epoch < source.epoch or stamp.cause in source.causes

    def note(self, stamp: Stamp) -> None:
        """Remember a message that was accepted; a repetition only updates the epoch of its source."""
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

    def written(self) -> Iterator[ChangelogEntry]:
        """Yield the records of the sources with new messages since the last call."""
        for name in self._changed:
            source = self._sources[name]
            base = min(source.order, default=0) >> _INDEX_BITS
            causes = tuple(n for c in source.order for n in ((c >> _INDEX_BITS) - base, c & _INDEX_MASK))
            yield seen_entry(name, SeenRecord(source.epoch, base, causes))
        self._changed.clear()

    def load(self, name: str, record: SeenRecord) -> None:
        """Load a record of a former owner."""
        source = self._sources[name] = _Source()
        source.epoch = record.epoch
        pairs = zip(record.causes[::2], record.causes[1::2], strict=True)
        source.order.extend(record.base + offset << _INDEX_BITS | index for offset, index in pairs)
        source.causes.update(source.order)


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= _NUMBER_DIGITS_MAX

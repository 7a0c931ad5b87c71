"""The commands that cannot be applied yet: per key a queue whose first waits for a restart or is parked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush

import msgspec

from repertory.actors.message import Envelope
from repertory.actors.shard.changelog import StashedRecord
from repertory.actors.shard.config import Limits


class Stashed(msgspec.Struct, frozen=True, gc=False):
    """A command that waits: what is kept of it in the log, and the same as an envelope."""

    envelope: Envelope
    record: StashedRecord


class Stash:
    """All queues of one shard. Owned by the shard; what is here is in the waiting topic too, once committed."""

    __slots__ = ("_due", "_queues", "size")

    def __init__(self) -> None:
        self._queues: dict[str, deque[Stashed]] = {}
        #: (due_ms, offset, key) of the first of each queue; entries that are no longer true are skipped.
        self._due: list[tuple[int, int, str]] = []
        self.size = 0

    def __contains__(self, key: str) -> bool:
        return key in self._queues

    def __iter__(self) -> Iterator[str]:
        return iter(self._queues)

    def queue(self, key: str) -> deque[Stashed]:
        """Return the queue of a key, empty if nothing waits. Not to be changed by the caller."""
        return self._queues.get(key, deque())

    def no_room(self, key: str | None, limits: Limits) -> str | None:
        """Say why no other command of a key can be stashed; None if one can. None for a key: of no entity."""
        if self.size >= limits.stash_per_shard_max:
            return f"{self.size} commands wait (stash_per_shard_max)"
        if key is not None and len(self.queue(key)) >= limits.stash_per_key_max:
            return f"{limits.stash_per_key_max} commands wait for key {key!r} (stash_per_key_max)"
        return None

    def holds(self, offset: int) -> bool:
        """Tell whether the command with this offset waits."""
        return any(stashed.envelope.offset == offset for queue in self._queues.values() for stashed in queue)

    def retriable(self) -> Iterator[int]:
        """Yield the offsets of what waits and is tried again without an operator."""
        for queue in self._queues.values():
            if not queue[0].record.parked:
                yield from (stashed.envelope.offset for stashed in queue)

    def join(self, stashed: Stashed) -> None:
        """Put a command behind the others of its key."""
        queue = self._queues.setdefault(stashed.envelope.key, deque())
        assert not queue or queue[-1].envelope.offset < stashed.envelope.offset, stashed.envelope.offset
        queue.append(stashed)
        self.size += 1
        if len(queue) == 1:
            self._schedule(stashed)

    def replace_first(self, stashed: Stashed) -> None:
        """Keep the first of a queue, with another due time, attempt or fate."""
        queue = self._queues[stashed.envelope.key]
        assert queue[0].envelope.offset == stashed.envelope.offset
        queue[0] = stashed
        self._schedule(stashed)

    def leave(self, key: str) -> None:
        """Remove the first of a queue; the next one may run at once."""
        queue = self._queues[key]
        queue.popleft()
        self.size -= 1
        if queue:
            self._schedule(queue[0])
        else:
            del self._queues[key]

    def remove_asked(self, key: str) -> list[Stashed]:
        """Remove and return the commands behind the first of a queue that somebody waits for an answer to."""
        queue = self._queues[key]
        kept = deque(w for w in queue if w is queue[0] or w.envelope.sender is None)
        removed = [w for w in queue if w is not queue[0] and w.envelope.sender is not None]
        self._queues[key] = kept
        self.size -= len(removed)
        return removed

    def due(self, now_ms: int) -> str | None:
        """Return the key that has waited longest among those whose first may run now; None if there is none."""
        due_ms = self.next_due_ms()
        return self._due[0][2] if due_ms is not None and due_ms <= now_ms else None

    def next_due_ms(self) -> int | None:
        """Return when (epoch) the next command may run; None if none ever will by itself."""
        while self._due:
            due_ms, offset, key = self._due[0]
            queue = self._queues.get(key)
            first = queue[0] if queue else None
            if first and (first.record.due_ms, first.envelope.offset) == (due_ms, offset) and not first.record.parked:
                return due_ms
            heappop(self._due)
        return None

    def _schedule(self, first: Stashed) -> None:
        if not first.record.parked:
            heappush(self._due, (first.record.due_ms, first.envelope.offset, first.envelope.key))

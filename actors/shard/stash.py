"""``Stash``: the commands that cannot be applied yet, one queue per key. Its first is due for a retry, or parked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush

import msgspec

from repertory.actors.message import Envelope, Sender
from repertory.actors.shard.changelog import StashedRecord
from repertory.actors.shard.config import Limits


class Stashed(msgspec.Struct, frozen=True, gc=False):
    """A stashed command: its record in the log, and the same command as an envelope."""

    envelope: Envelope
    record: StashedRecord


class Stash:
    """All queues of one shard. Owned by the shard; once committed, its commands are in the changelog too."""

    __slots__ = ("_due", "_queues", "size")

    def __init__(self) -> None:
        self._queues: dict[str, deque[Stashed]] = {}
        #: (due_ms, offset, key) of the first of each queue; outdated entries are skipped.
        self._due: list[tuple[int, int, str]] = []
        self.size = 0

    def __contains__(self, key: str) -> bool:
        return key in self._queues

    def __iter__(self) -> Iterator[str]:
        return iter(self._queues)

    def queue(self, key: str) -> deque[Stashed]:
        """Return the queue of a key, empty if no command is stashed. The caller must not change it."""
        return self._queues.get(key, deque())

    def no_room(self, key: str | None, limits: Limits) -> str | None:
        """Return why no further command of a key can be stashed, else None. ``key``: None if undecodable."""
        if self.size >= limits.stash_per_shard_max:
            return f"{self.size} commands are stashed (stash_per_shard_max)"
        if key is not None and len(self.queue(key)) >= limits.stash_per_key_max:
            return f"{limits.stash_per_key_max} commands are stashed for key {key!r} (stash_per_key_max)"
        return None

    def holds(self, offset: int) -> bool:
        """Return whether the command with this offset is stashed."""
        return any(stashed.envelope.offset == offset for queue in self._queues.values() for stashed in queue)

    def askers(self) -> set[Sender]:
        """Return who waits for the outcome of a stashed command."""
        queues = self._queues.values()
        return {each.envelope.sender for queue in queues for each in queue if each.envelope.sender is not None}

    def retriable(self) -> Iterator[int]:
        """Yield the offsets of the stashed commands that are retried without an operator."""
        for queue in self._queues.values():
            if not queue[0].record.parked:
                yield from (stashed.envelope.offset for stashed in queue)

    def join(self, stashed: Stashed) -> None:
        """Append a command to the queue of its key."""
        queue = self._queues.setdefault(stashed.envelope.key, deque())
        assert not queue or queue[-1].envelope.offset < stashed.envelope.offset, stashed.envelope.offset
        queue.append(stashed)
        self.size += 1
        if len(queue) == 1:
            self._schedule(stashed)

    def replace_first(self, stashed: Stashed) -> None:
        """Replace the first of a queue by the same command with another due time, attempt or fate."""
        queue = self._queues[stashed.envelope.key]
        assert queue[0].envelope.offset == stashed.envelope.offset
        queue[0] = stashed
        self._schedule(stashed)

    def leave(self, key: str) -> None:
        """Remove the first of a queue; the next one can run at once."""
        queue = self._queues[key]
        queue.popleft()
        self.size -= 1
        if queue:
            self._schedule(queue[0])
        else:
            del self._queues[key]

    def remove(self, stashed: Stashed) -> None:
        """Remove a command, wherever it is in the queue of its key."""
        key = stashed.envelope.key
        queue = self._queues[key]
        if queue[0] is stashed:
            self.leave(key)
            return
        self._queues[key] = deque(each for each in queue if each is not stashed)
        self.size -= 1

    def remove_asked(self, key: str) -> list[Stashed]:
        """Remove and return the asked commands behind the first of a queue."""
        queue = self._queues[key]
        kept = deque(w for w in queue if w is queue[0] or w.envelope.sender is None)
        removed = [w for w in queue if w is not queue[0] and w.envelope.sender is not None]
        self._queues[key] = kept
        self.size -= len(removed)
        return removed

    def clock_set_back(self, now_ms: int) -> None:
        """Let no command wait longer than the delay of its backoff from now on."""
        for key, queue in self._queues.items():
            record = queue[0].record
            if not record.parked and record.due_ms > now_ms + record.delay_ms:
                due = msgspec.structs.replace(record, due_ms=now_ms + record.delay_ms)
                queue[0] = Stashed(queue[0].envelope, due)
                self._schedule(self._queues[key][0])

    def due(self, now_ms: int) -> str | None:
        """Return the key whose first command was due earliest, if it can run now; else None."""
        due_ms = self.next_due_ms()
        return self._due[0][2] if due_ms is not None and due_ms <= now_ms else None

    def next_due_ms(self) -> int | None:
        """Return when (epoch) the next command can run; None if none can without an operator."""
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

"""What each worker of a node is handling right now, in memory that outlives it.

A record that kills its process leaves no exception behind. So the offset of the command under way stands in memory that
all processes of the node share. Whoever owns the shard next finds it there and commits the death before it handles
anything; a process that died between two commands leaves nothing to find.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import MutableSequence

from repertory.actors.shard.shard import COMMAND, SHARD
from repertory.supervision.process.proc import pid_start

#: A row: the worker's pid, and then what a shard writes: ``actors.shard.shard.SHARD``, ``COMMAND``.
PID = 0
_FIELDS = 3


class InFlightCommands:
    """Two rows for each worker: what it is doing, and what the one before it in its slot was doing when it died.

    Make it before the workers are forked. A living worker's row is written by itself alone, eight bytes at a time.
    ``owner`` names this memory in shard records: whoever finds another name there cannot ask it.
    """

    def __init__(self, workers: int, owner: str) -> None:
        self.owner = owner
        self._cells = memoryview(mmap.mmap(-1, max(1, 2 * workers * _FIELDS * 8))).cast("q")
        self._workers = workers

    def enter(self, slot: int) -> MutableSequence[int]:
        """Take over a slot in this process, keeping what its predecessor left, and return the row to write to."""
        now, last = self._row(2 * slot), self._row(2 * slot + 1)
        if now[COMMAND]:
            last[PID], last[SHARD], last[COMMAND] = now[PID], now[SHARD], now[COMMAND]
        now[PID], now[COMMAND] = os.getpid(), 0
        return now  # type: ignore[return-value]  # a memoryview of integers has all that a mark needs

    def deaths(self, shard: int) -> list[tuple[int, int]]:
        """Return (offset, pid) of the commands of a shard within which a process died, and forget them.

        For the owner of the shard, who commits them next. Should that fail too, a death is not counted: a record that
        kills gets another try, one that is innocent is never given up for it.
        """
        found = []
        for number in range(2 * self._workers):
            row = self._row(number)
            if row[SHARD] == shard and row[COMMAND] and pid_start(row[PID]) is None:
                found.append((row[COMMAND] - 1, row[PID]))
                row[COMMAND] = 0
        return found

    def _row(self, number: int) -> memoryview:
        return self._cells[number * _FIELDS : (number + 1) * _FIELDS]


class _Node:
    """Where a node keeps its marks for the processes that it forks."""

    commands: InFlightCommands | None = None


def share(workers: int, owner: str) -> None:
    """Make the marks of this run of a node; call it before any worker is forked."""
    _Node.commands = InFlightCommands(workers, owner)


def shared() -> InFlightCommands:
    """Return the marks of the node that this worker belongs to."""
    assert _Node.commands is not None, "the node made its marks before it forked"
    return _Node.commands

"""The command that each worker of a node is handling now, in shared memory that outlives the worker.

A command that kills its process raises no exception. So each worker writes the offset of the command that it handles to
memory that all processes of the node share. The next owner of the shard finds it there, and commits the death before it
handles anything. A process that dies between two commands leaves no entry.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import MutableSequence

from repertory.actors.shard.crash_guard import COMMAND, SHARD
from repertory.bridge.node.in_flight_effects import InFlightEffects
from repertory.bridge.node.in_flight_source import InFlightSource
from repertory.supervision.process.proc import start_ticks

#: A row holds the worker's pid, the two fields that a shard writes (``SHARD`` and ``COMMAND``), and when the process
#: started: a pid may be given to another process.
PID = 0
_START = 3
_FIELDS = 4


class InFlightCommands:
    """Two rows for each slot: the command of the current worker, and the one that its predecessor died in.

    Make it before the workers are forked. Only a live worker itself writes its row, eight bytes at a time. ``owner``
    names this memory in shard records. A worker that finds another name there cannot read the memory in question.
    """

    def __init__(self, workers: int, owner: str) -> None:
        self.owner = owner
        self._cells = memoryview(mmap.mmap(-1, max(1, 2 * workers * _FIELDS * 8))).cast("q")
        self._workers = workers

    def enter(self, slot: int) -> MutableSequence[int]:
        """Take over a slot in this process, keep the predecessor's entry, and return the row to write to."""
        now, last = self._row(2 * slot), self._row(2 * slot + 1)
        if now[COMMAND]:
            last[:] = now
        pid = os.getpid()
        now[PID], now[_START], now[COMMAND] = pid, _start(pid), 0
        return now  # type: ignore[return-value]  # a memoryview of integers is used as a sequence of them

    def deaths(self, shard: int) -> list[tuple[int, int]]:
        """Return (offset, pid) for each command of a shard in which a process died, and clear these entries.

        Only the owner of the shard calls this, and it commits the deaths next. If that commit fails, the deaths are not
        counted: a command that kills its process is tried once more, but a harmless command is never given up.
        """
        found = []
        for number in range(2 * self._workers):
            row = self._row(number)
            if row[SHARD] == shard and row[COMMAND] and _start(row[PID]) != row[_START]:
                found.append((row[COMMAND] - 1, row[PID]))
                row[COMMAND] = 0
        return found

    def _row(self, number: int) -> memoryview:
        return self._cells[number * _FIELDS : (number + 1) * _FIELDS]


def _start(pid: int) -> int:
    """Return when a process started, in clock ticks; -1 if it is gone."""
    return int(start_ticks(pid) or -1)


class _Node:
    """The memory of this node. Forked workers inherit it."""

    commands: InFlightCommands | None = None
    effects: InFlightEffects | None = None
    source: InFlightSource | None = None


def share_with_workers(workers: int, owner: str, effects_max: int) -> None:
    """Make the memory for this run of the node. Call it before any worker is forked."""
    _Node.commands = InFlightCommands(workers, owner)
    _Node.effects = InFlightEffects(workers, effects_max)
    _Node.source = InFlightSource()


def of_this_node() -> InFlightCommands:
    """Return the memory of the node that this worker belongs to."""
    assert _Node.commands is not None, "share_with_workers was not called before the workers were forked"
    return _Node.commands


def effects_of_this_node() -> InFlightEffects:
    """Return the memory for the effects of the node that this worker belongs to."""
    assert _Node.effects is not None, "share_with_workers was not called before the workers were forked"
    return _Node.effects


def source_of_this_node() -> InFlightSource:
    """Return the memory for the record that the sources process of this node is decoding."""
    assert _Node.source is not None, "share_with_workers was not called before the workers were forked"
    return _Node.source

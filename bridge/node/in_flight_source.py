"""The record that a node's sources process is decoding now, in shared memory that outlives that process.

As for commands (``bridge.node.in_flight``): a record whose function kills its process raises nothing. Several deaths in
a row at one record stop its partition, and nothing else.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import MutableSequence
from typing import NamedTuple

from repertory.supervision.process.proc import start_ticks

#: A row: the source's number, the partition, the offset and 1 (0: nothing is being decoded), the pid and its start.
SOURCE, PARTITION, RECORD, _PID, _START, _FIELDS = 0, 1, 2, 3, 4, 5
#: A row of the record that the last process died at, and how many died there in a row.
_DEATHS = 3


class SourceDeath(NamedTuple):
    """A record at which processes died: the number of its source, its place, and how many did in a row."""

    source: int
    partition: int
    offset: int
    deaths: int


class InFlightSource:
    """Make it before the processes are forked. Only a live sources process writes it, eight bytes at a time."""

    def __init__(self) -> None:
        self._cells = memoryview(mmap.mmap(-1, 2 * _FIELDS * 8)).cast("q")

    def enter(self) -> tuple[MutableSequence[int], SourceDeath | None]:
        """Begin in this process: return the row to write to, and where its predecessor died, if it died decoding."""
        now, last = self._cells[:_FIELDS], self._cells[_FIELDS:]
        died = None
        if now[RECORD] and int(start_ticks(now[_PID]) or -1) != now[_START]:
            is_again = (*last[:_DEATHS],) == (*now[:_DEATHS],)
            last[_DEATHS] = last[_DEATHS] + 1 if is_again else 1
            last[:_DEATHS] = now[:_DEATHS]
            died = SourceDeath(last[SOURCE], last[PARTITION], last[RECORD] - 1, last[_DEATHS])
        pid = os.getpid()
        now[RECORD], now[_PID], now[_START] = 0, pid, int(start_ticks(pid) or -1)
        return now, died  # type: ignore[return-value]  # a memoryview of integers is used as a sequence of them

    def forget(self) -> None:
        """Begin to count anew: what was found is on its way into the log."""
        self._cells[_FIELDS + _DEATHS] = 0

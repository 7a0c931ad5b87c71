"""The effects that each worker of a node is running now, in shared memory that outlives the worker.

As the command under way (``bridge.node.in_flight``), but there may be many of them, and only one is guilty if their
process dies. Whoever ran alone is; those that ran with others are tried again one at a time.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator

from repertory.actors.shard.changelog import effect_key
from repertory.actors.shard.effect_settler import EffectDeath
from repertory.supervision.process.proc import start_ticks

#: A table begins with the worker's pid and when the process started; each row has a shard's number and 1, negative once
#: the shard's owner has heard of it, and the cause of the effect. A row whose first field is 0 is free.
_PID, _START, _HEAD = 0, 1, 2
_SHARD, _OFFSET, _INDEX, _FIELDS = 0, 1, 2, 3


class InFlightEffects:
    """Two tables for each slot: the effects of the current worker, and those that its predecessor died in.

    Make it before the workers are forked. Only a live worker writes its table, on the thread of its loop.
    """

    def __init__(self, workers: int, effects_max: int) -> None:
        self._rows, self._tables = effects_max, 2 * workers
        self._size = _HEAD + effects_max * _FIELDS
        self._cells = memoryview(mmap.mmap(-1, max(1, self._tables * self._size * 8))).cast("q")

    def enter(self, slot: int) -> EffectMarks:
        """Take over a slot in this process, keep the predecessor's effects, and return the marks to write."""
        now, last = self._table(2 * slot), self._table(2 * slot + 1)
        if any(self._marked(now)):
            last[:] = now
        for row in range(_HEAD, self._size, _FIELDS):
            now[row + _SHARD] = 0
        now[_PID], now[_START] = os.getpid(), int(start_ticks(os.getpid()) or -1)
        return EffectMarks(now, self._rows, self.deaths)

    def deaths(self, shard: int) -> list[EffectDeath]:
        """Return the effects of a shard that ran in a process which died, and note that its owner has heard of them.

        Only the owner of the shard calls this, and it commits them next. See ``InFlightCommands.deaths``.
        """
        found = []
        for number in range(self._tables):
            table = self._table(number)
            if not table[_PID] or int(start_ticks(table[_PID]) or -1) == table[_START]:
                continue
            marked = list(self._marked(table))
            for row in marked:
                if table[row + _SHARD] == shard + 1:
                    found.append(EffectDeath(effect_key(table[row + _OFFSET], table[row + _INDEX]), len(marked) == 1))
                    table[row + _SHARD] = -shard - 1
        return found

    def _marked(self, table: memoryview) -> Iterator[int]:
        return (row for row in range(_HEAD, self._size, _FIELDS) if table[row + _SHARD])

    def _table(self, number: int) -> memoryview:
        return self._cells[number * self._size : (number + 1) * self._size]


class EffectMarks:
    """The table of one worker. See ``bridge.effect_runner.Marks``."""

    def __init__(self, table: memoryview, rows: int, deaths: Callable[[int], list[EffectDeath]]) -> None:
        #: Of all workers of the node: see `InFlightEffects.deaths`.
        self.deaths = deaths
        self._table = table
        self._free = list(range(rows - 1, -1, -1))

    def begin(self, shard: int, offset: int, index: int) -> int:
        """Note that an effect runs; return the number of the mark."""
        mark = self._free.pop()
        row = _HEAD + mark * _FIELDS
        self._table[row + _OFFSET], self._table[row + _INDEX] = offset, index
        self._table[row + _SHARD] = shard + 1
        return mark

    def end(self, mark: int) -> None:
        """Remove a mark."""
        self._table[_HEAD + mark * _FIELDS + _SHARD] = 0
        self._free.append(mark)

"""``Entities``: applies the decisions of commands to a shard's entities, and adds the state records that are due."""

from __future__ import annotations

from repertory.actors.entity import Behaviour
from repertory.actors.message import Envelope
from repertory.actors.shard.cells import Cell, Cells
from repertory.actors.shard.changelog import ChangelogEntry, StateRecord, state_entry
from repertory.actors.shard.decision import Decision
from repertory.actors.shard.restart_budget import RestartBudget
from repertory.actors.shard.snapshot_window import SnapshotWindow
from repertory.actors.shard.stash import Stash
from repertory.actors.shard.turn import Turn
from repertory.actors.shard.turn_result import Journaled

#: Later than any time, so that the first look at the clock bounds what the last owner wrote.
NEVER_MS = 1 << 62


class Entities:
    """Owned by its shard. ``seq`` is the number of the next journal or state record."""

    __slots__ = ("_behaviour", "_last_now_ms", "budget", "cells", "seq", "stash", "window")

    def __init__(
        self,
        behaviour: Behaviour,
        cells: Cells,
        window: SnapshotWindow,
        stash: Stash,
        budget: RestartBudget,
        seq: int,
    ) -> None:
        self._behaviour = behaviour
        self.cells, self.window, self.stash, self.budget, self.seq = cells, window, stash, budget, seq
        self._last_now_ms = NEVER_MS

    def apply(self, cell: Cell, envelope: Envelope, decision: Decision, turn: Turn) -> None:
        """Apply the decision of a command: add its events to the turn, and set the entity's state."""
        if decision.rejected:
            turn.counts.rejected += 1
            return
        turn.counts.applied += 1
        key, size = envelope.key, len(decision.data)
        if decision.events:
            seq, version, offset = self.seq, cell.version, envelope.offset
            self.window.wrote(key, seq)
            for index, data in enumerate(decision.events):
                version += 1
                turn.outputs.append(Journaled(key, data, version, seq + index, offset, index))
                size += len(data)
            cell.version, self.seq = version, seq + len(decision.events)
            cell.seq = self.seq - 1
        turn.bytes += size
        if decision.data is cell.data and not decision.stopped:
            return
        cell.state, cell.data = decision.state, decision.data
        self.cells.put(key, cell)
        if self._behaviour.stateful:
            turn.changed[key] = envelope.offset
        if decision.stopped:
            cell.version = 0
            if not self._behaviour.journaled:
                self.cells.remove(key)

    def watch_clock(self, now_ms: int) -> bool:
        """Bound waits and restart budgets if the wall clock was set back, or is behind the last owner's; return if."""
        is_back = now_ms < self._last_now_ms
        if is_back:
            self.stash.clock_set_back(now_ms)
            self.budget.clock_set_back(now_ms)
        self._last_now_ms = now_ms
        return is_back

    def expire_budgets(self, now_ms: int, turn: Turn) -> None:
        """Forget restarts outside their window; a key without a live entity then needs a state record or tombstone."""
        for key in self.budget.expire(now_ms):
            cell = self.cells.get(key)
            if cell is None or cell.version == 0:
                turn.touched[key] = None

    def write(self, turn: Turn, ahead: int) -> int:
        """Add the state records that are due to a turn's changelog; return the seq from which a restore must replay.

        ``ahead``: number of records of the window that are snapshotted before they are due.
        """
        for key in {**turn.touched, **turn.changed, **dict.fromkeys(self.window.due(self.seq + ahead))}:
            turn.changelog.append(self._state_written(key, turn.changed.get(key, -1)))
        tail_start = self.window.tail_start(self.seq)
        for key in self.window.forgettable(tail_start):
            self.window.forgotten(key)
            if key not in self.stash and key not in self.budget:
                turn.changelog.append(state_entry(key, None, 0, self.cells.remove(key).seq))
        return tail_start

    def _state_written(self, key: str, changed_by: int) -> ChangelogEntry:
        """Return the state record of a key; ``changed_by`` is the command that changed a stateful entity, or -1."""
        queue = self.stash.queue(key)
        stashed, first = len(queue), queue[0].envelope.offset if queue else -1
        restarts = self.budget.of(key)
        cell = self.cells.get(key)
        if cell is None:
            record = StateRecord(stashed=stashed, stashed_first=first, restarts_ms=restarts)
            return state_entry(key, record if stashed or restarts else None, 0, -1, changed_by)
        if changed_by >= 0:
            cell.version, cell.seq = cell.version + 1, self.seq
            self.seq += 1
        if cell.version == 0:
            self.window.ended(key, cell.seq)
            record = StateRecord(ended=True, stashed=stashed, stashed_first=first, restarts_ms=restarts)
            return state_entry(key, record, 0, cell.seq, changed_by)
        self.window.snapshotted(key)
        record = StateRecord(snapshot=cell.data, stashed=stashed, stashed_first=first, restarts_ms=restarts)
        return state_entry(key, record, cell.version, cell.seq, changed_by)

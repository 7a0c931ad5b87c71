"""``PartitionProjection``: applies the events of one partition, batch by batch, and finds the one that fails. Pure.

Time arrives as ``now_s``; the database is a port (``progress``). Where a batch fails, nothing of it is written:

- the world has failed (`WorldError`): the same batch is tried again, with increasing delays, for as long as it takes;
- anything else: some event of the batch is to blame. The batch is halved until that is one event, and what is before it
  is applied. The event is tried again as often as the policy says. Then the partition stops, with the event's name, or
  the event's key is parked, and later events of the key join it.

An event can also end the process: it raises nothing, and would do so again and again. So a projector is *careful* at
first: it writes down which events it is about to try, before it does, until some are applied. A successor that finds
such a note is careful up to there, with a tenth as many events; ``DEATHS_MAX`` deaths in a row at one event alone
are taken for its failure. Whoever is killed for another reason blames nobody, unless it happens so often at one event.

What was committed is never in doubt: after each failure the progress is read again, and it says.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from repertory.bridge.system.projected import OnError, Park
from repertory.projections.progress import (
    PlacedEvent,
    ProgressChanged,
    ProgressRow,
    ProgressStore,
    TooSlow,
    WorldError,
    events_to_take,
    sentence_of,
)
from repertory.supervision.traceback_text import message_of

#: After so many transactions in a row that the database ended for their slowness, the batch counts as failed.
TOO_SLOW_MAX = 3
#: After so many processes in a row that ended while they tried one event, and no other, the event counts as failed.
DEATHS_MAX = 3
DIED = "processes in a row ended while they projected it, and nothing else"
#: The delays before another attempt: of an event that failed, and of a batch that met a failure of the world.
_FIRST_DELAY_S, _DELAY_S_MAX = 0.05, 5.0
_ERROR_CHARS_MAX = 2_000


class PartitionProjection:
    """Owned by one thread. ``row``: the progress as it was last read or written; None before it is known."""

    def __init__(self, store: ProgressStore, on_error: OnError) -> None:
        self._store, self._on_error = store, on_error
        self.row: ProgressRow | None = None
        #: Whether the projection was dropped: there is nothing to do any more.
        self.is_dropped = False
        #: Why it waits, "" if it does not; and until when.
        self.trouble, self.due_s = "", 0.0
        self._waits, self._slow = 0, 0
        #: The last offset of a batch that failed: the guilty event is not behind it. -1 if there is none.
        self._guilty_by = -1
        #: Into how many parts such a batch is divided: where each try may cost a process, fewer tries are better.
        self._parts = 2
        #: The offset of the one event that failed, and how often.
        self._failing, self._failures = -1, 0
        #: Whether it notes what it is about to try, and the last offset of the batch that it has noted.
        self._is_careful, self._noted = True, -1
        #: The row that its predecessor has left; None before that is read.
        self._found: ProgressRow | None = None

    def load(self, now_s: float) -> bool:
        """Read the progress, if it is not known; return whether it is."""
        if self.row is None and not self.is_dropped:
            try:
                self.row = self._store.load()
            except WorldError as error:
                self._wait(error, now_s)
            else:
                self.is_dropped = self.row is None
                if self._found is None and self.row is not None:
                    self._found = self.row
                    if self.row.trying >= self.row.next:
                        self._guilty_by, self._parts = self.row.trying, 10
        return self.row is not None

    def step(self, events: Sequence[PlacedEvent], now_s: float) -> bool:
        """Apply the next events, in seq order, from ``row.seq`` on; return whether the progress changed.

        The caller gives as many as one transaction may hold, and reads on from ``row.next``.
        """
        if now_s < self.due_s or not self.load(now_s):
            return False
        row = self.row
        assert row is not None
        if row.failed >= 0 or not (events := events_to_take(row, events)):
            return False
        batch = self._suspected(events)
        noted = self._noted if row.trying == self._noted else -1
        if self._is_careful and batch[0].offset > noted:
            moved, row = self._note(row, batch, now_s), self.row
            if row is None or row.trying != batch[-1].offset:
                return moved
        elif self._is_careful:
            batch = [event for event in batch if event.offset <= noted]
        try:
            self._attempt(row, batch)
        except ProgressChanged:
            self.row = None
            return True
        except TooSlow as error:
            self.row, self._slow = None, self._slow + 1
            if self._slow < TOO_SLOW_MAX:
                self._wait(error, now_s)
                return False
            self._slow = 0
            return self._blame(row, batch, error, now_s)
        except WorldError as error:
            self.row = None
            self._wait(error, now_s)
            return False
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a handler is user code, and so is a statement
            return self._blame(row, batch, error, now_s)
        self._succeeded(batch)
        return True

    def _suspected(self, events: Sequence[PlacedEvent]) -> Sequence[PlacedEvent]:
        """Return the part of the events to try at once: half of those among which one is guilty, or a tenth."""
        suspects = sum(event.offset <= self._guilty_by for event in events)
        if not suspects:
            self._guilty_by, self._parts = -1, 2
            return events
        return events[: max(1, suspects // self._parts)]

    def _attempt(self, row: ProgressRow, batch: Sequence[PlacedEvent]) -> None:
        """Apply a batch in one transaction."""
        last = batch[-1]
        parked = dict(row.parked)
        for event in batch:
            if event.key in parked:
                parked[event.key] += 1
        to = msgspec.structs.replace(
            row, next=last.offset + 1, seq=last.seq + 1, changes=row.changes + 1, parked=parked, trying=-1, deaths=0
        )
        with self._store.transaction() as transaction:
            if not transaction.swap(row, to):
                raise ProgressChanged
            for event in batch:
                if event.key in parked:
                    transaction.park(event, "")
                else:
                    transaction.apply(event)
            transaction.flush()
        self.row = to

    def _succeeded(self, batch: Sequence[PlacedEvent]) -> None:
        self.trouble, self._waits, self._slow = "", 0, 0
        if batch[-1].offset >= self._guilty_by:
            self._guilty_by = -1
        if batch[-1].offset >= self._failing:
            self._failing, self._failures = -1, 0
        self._is_careful &= self._guilty_by >= 0

    def _note(self, row: ProgressRow, batch: Sequence[PlacedEvent], now_s: float) -> bool:
        """Write down what is about to be tried; one event at which too many processes have ended has failed."""
        last, found = batch[-1].offset, self._found
        is_again = len(batch) == 1 and found is not None and found.trying == last
        deaths = found.deaths + 1 if is_again and found is not None else 0
        if deaths >= DEATHS_MAX:
            why = f"{deaths} {DIED}"
            return self._give_up(row, batch[0], why, now_s)
        to = msgspec.structs.replace(row, trying=last, deaths=deaths, changes=row.changes + 1)
        moved = self._change(row, to, now_s)
        if self.row is not None:
            self._noted = last
        return moved

    # --- failures ---------------------------------------------------------------------------------------------

    def _wait(self, error: BaseException, now_s: float) -> None:
        """Try again later: nobody here is to blame."""
        self.trouble = message_of(error)
        self.due_s = now_s + _delay_s(self._waits)
        self._waits += 1

    def _blame(self, row: ProgressRow, batch: Sequence[PlacedEvent], error: Exception, now_s: float) -> bool:
        """Look for the event that fails; at one event, try it again, and then act as the policy says."""
        self._guilty_by = batch[-1].offset
        if len(batch) > 1:
            self.row = row
            return True
        event = batch[0]
        self._failures = self._failures + 1 if self._failing == event.offset else 1
        self._failing = event.offset
        if self._failures <= self._on_error.times:
            self.trouble = f"{event.record.place} fails: {sentence_of(error)}"
            self.due_s, self.row = now_s + _delay_s(self._failures - 1), row
            return False
        return self._give_up(row, event, sentence_of(error)[:_ERROR_CHARS_MAX], now_s)

    def _give_up(self, row: ProgressRow, event: PlacedEvent, why: str, now_s: float) -> bool:
        """Park the event's key, or stop."""
        if isinstance(self._on_error, Park) and len(row.parked) < self._on_error.keys_max:
            to = msgspec.structs.replace(
                row,
                next=event.offset + 1,
                seq=event.seq + 1,
                changes=row.changes + 1,
                parked={**row.parked, event.key: 1},
                trying=-1,
                deaths=0,
            )
            return self._forget(self._change(row, to, now_s, event, why))
        to = msgspec.structs.replace(
            row, next=event.offset, seq=event.seq, failed=event.offset, error=why, changes=row.changes + 1, trying=-1,
            deaths=0,
        )  # fmt: skip
        return self._forget(self._change(row, to, now_s))

    def _forget(self, changed: bool) -> bool:  # noqa: FBT001
        """Forget who is to blame, if the database says it now."""
        if changed and self.row is not None:
            self._failing, self._failures, self._guilty_by, self._noted, self._found = -1, 0, -1, -1, self.row
        return changed

    def stop(self, why: str, now_s: float) -> bool:
        """Stop before the next event, whatever that is: what the log holds there cannot be projected."""
        row = self.row
        if row is None or row.failed >= 0:
            return False
        to = msgspec.structs.replace(row, failed=row.next, error=why[:_ERROR_CHARS_MAX], changes=row.changes + 1)
        return self._change(row, to, now_s)

    def adopt(self, topic_id: str, now_s: float) -> bool:
        """Note which topic it is that is read."""
        row = self.row
        assert row is not None
        return self._change(row, msgspec.structs.replace(row, topic_id=topic_id, changes=row.changes + 1), now_s)

    def leave(self, now_s: float) -> bool:
        """Give the partition back alive: what it was about to try is no sign of a death to whoever comes next.

        Returns False if the database does not answer.
        """
        found = self._found
        if self._noted < 0 or found is None:
            return True
        if not self.load(now_s) or self.row is None:
            return self.is_dropped
        if self.row.failed < 0 and self.row.trying == self._noted:
            was = found if found.trying >= self.row.next else ProgressRow(0, 0)
            to = msgspec.structs.replace(
                self.row, trying=was.trying, deaths=was.deaths, changes=self.row.changes + 1
            )  # What it has found is true all the same.
            return self._change(self.row, to, now_s)
        return True

    def _change(
        self, row: ProgressRow, to: ProgressRow, now_s: float, parks: PlacedEvent | None = None, why: str = ""
    ) -> bool:
        """Change the progress alone, and park an event; return whether something has changed."""
        self.row = None
        try:
            with self._store.transaction() as transaction:
                if not transaction.swap(row, to):
                    raise ProgressChanged  # noqa: TRY301 - as in an attempt
                if parks is not None:
                    transaction.park(parks, why)
        except ProgressChanged:
            return True
        except WorldError as error:
            self._wait(error, now_s)
            return False
        self.row, self.trouble, self._waits = to, "", 0
        return True


def _delay_s(times: int) -> float:
    return min(_FIRST_DELAY_S * (1 << min(times, 16)), _DELAY_S_MAX)

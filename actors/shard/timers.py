"""``Timers``: the timers and delayed messages that a shard owes, by the time when they are due.

A timer that is due is marked *fired*, and its command is appended to the shard's own partition, in one transaction.
From there it is a command like any other, and the record stays until it has a final fate: applied, rejected or
dead-lettered. So a timer that is cancelled or replaced after it fired has no effect either: its command finds no record
that says that it fired, and is dropped, when it is taken or when it is retried. A recurring timer is due again then, a
period after the log had the command. A delayed message is sent and forgotten, in one transaction.

Pure: the time comes from outside. Nothing is due before its time by the owner's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

import msgspec

from repertory.actors.collected import Cancel, LaterItem, Schedule, Tell
from repertory.actors.context import ContractViolation
from repertory.actors.entity import resolved
from repertory.actors.shard.changelog import (
    ChangelogEntry,
    TellRecord,
    TimerRecord,
    owed_entry,
    tell_key,
    timer_key,
    timer_of,
)
from repertory.actors.shard.config import Limits
from repertory.actors.shard.turn_result import Fired
from repertory.actors.timer import FiredTimer

#: When (epoch), the cause (``offset`` and ``index``), and the key in the changelog.
_Due = tuple[int, int, int, str]
#: The heap may hold so many outdated due times, and as many again as there are records.
_OUTDATED_MAX = 1_000


class Timers:
    """Owned by the recovery, then by the shard. Each change that it makes it returns as an entry of the changelog."""

    __slots__ = ("_due", "_keys", "_limits", "records")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: The records, by their keys in the changelog.
        self.records: dict[str, TimerRecord | TellRecord] = {}
        #: The keys of the timers of each entity, by its key.
        self._keys: dict[str, tuple[str, ...]] = {}
        #: When each is due, in the order of the commands that scheduled them; outdated entries are skipped.
        self._due: list[_Due] = []

    def __len__(self) -> int:
        return len(self.records)

    def load(self, records: Mapping[str, TimerRecord | TellRecord]) -> None:
        """Load the records of the changelog, by their keys there."""
        for place, record in records.items():
            self.records[place] = record
            if isinstance(record, TimerRecord):
                self._note(place)
        self._sort()

    def next_due_ms(self) -> int | None:
        """Return when (epoch) the next one is due; None if none is."""
        due, records = self._due, self.records
        while due:
            first = due[0]
            record = records.get(first[3])
            if record is not None and not record.fired and _due(first[3], record) == first:
                return first[0]
            heappop(due)
        return None

    # --- when a command is decided ----------------------------------------------------------------------------

    def check(self, key: str, later: Sequence[LaterItem]) -> None:
        """Raise ContractViolation if there is no room for what a command schedules."""
        added = {each.name for each in later if isinstance(each, Schedule)}
        sent = sum(isinstance(each, Tell) for each in later)
        limits, places = self._limits, self._keys.get(key, ())
        if len(places) + len(added) > limits.timers_per_key_max:
            count = len({*places, *(timer_key(key, name) for name in added)})
            if count > limits.timers_per_key_max:
                raise ContractViolation(
                    f"key {key!r} would have {count:,} timers; timers_per_key_max is {limits.timers_per_key_max:,}"
                )
        if len(self.records) + len(added) + sent > limits.timers_per_shard_max:
            raise ContractViolation(
                f"the shard has {len(self.records):,} timers and delayed messages; timers_per_shard_max is "
                f"{limits.timers_per_shard_max:,}"
            )

    def settle(self, key: str, timer: FiredTimer, timestamp_ms: int) -> ChangelogEntry | None:
        """Note the final fate of a timer's command, which the log has since ``timestamp_ms``; None if it is stale."""
        if (found := self._fired(key, timer)) is None:
            return None
        if not found.every_ms:
            return self._forget(key, timer_key(key, timer.name))
        again = msgspec.structs.replace(found, due_ms=timestamp_ms + found.every_ms, fired=False)
        return self._put(timer_key(key, timer.name), again)

    def is_stale(self, key: str, timer: FiredTimer) -> bool:
        """Return whether a timer was cancelled or replaced since it sent a command, which must be dropped then.

        A dead letter that an operator retries is never stale: its timer was settled before.
        """
        return not timer.retried and self._fired(key, timer) is None

    def apply(self, key: str, offset: int, later: Sequence[LaterItem], sent: Sequence[bytes]) -> list[ChangelogEntry]:
        """Schedule and cancel what the command at ``offset`` has collected; ``sent`` are its encoded messages."""
        entries: list[ChangelogEntry] = []
        for index, (each, data) in enumerate(zip(later, sent, strict=True)):
            match each:
                case Schedule(name, _, _, due_ms, every_ms):
                    timer = TimerRecord(value=data, due_ms=due_ms, offset=offset, index=index, every_ms=every_ms)
                    entries.append(self._put(timer_key(key, name), timer))
                case Cancel(name):
                    if (entry := self.cancel(key, name)) is not None:
                        entries.append(entry)
                case Tell(handler, to, due_ms=int(due_ms)):
                    told = TellRecord(
                        entity=resolved(handler.owner).name,
                        key=to,
                        value=data,
                        due_ms=due_ms,
                        offset=offset,
                        index=index,
                    )
                    entries.append(self._put(tell_key(offset, index), told))
        return entries

    def cancel(self, key: str, name: str) -> ChangelogEntry | None:
        """Cancel a timer; None if there is none of that name."""
        place = timer_key(key, name)
        return self._forget(key, place) if place in self.records else None

    def stop(self, key: str) -> list[ChangelogEntry]:
        """Cancel all timers of an entity whose life has ended."""
        return [self._forget(key, place) for place in self._keys.get(key, ())]

    # --- when something is due --------------------------------------------------------------------------------

    def fire(self, now_ms: int, refused: Mapping[int | str, str]) -> tuple[Fired, ChangelogEntry] | None:
        """Mark the timer that is due first as fired, or forget the delayed message; None if none is due.

        ``refused``: what the log refuses, by the keys of the records, and why. It is forgotten, a recurring timer too.
        """
        due_ms = self.next_due_ms()
        if due_ms is None or due_ms > now_ms:
            return None
        place = self._due[0][3]
        record, why = self.records[place], refused.get(place, "")
        if isinstance(record, TimerRecord):
            key, name = timer_of(place)
            timer = FiredTimer(name, record.offset, record.index, record.due_ms)
            fired = Fired(None, key, record.value, record.offset, record.index, place, timer, why)
            if why:
                return fired, self._forget(key, place)
            last_ms = now_ms if record.every_ms else 0
            return fired, self._put(place, msgspec.structs.replace(record, fired=True, last_ms=last_ms))
        del self.records[place]
        fired = Fired(record.entity, record.key, record.value, record.offset, record.index, place, None, why)
        return fired, owed_entry(place, None)

    def clock_set_back(self, now_ms: int) -> None:
        """Let no recurring timer wait for a time at which a clock that was ahead has fired it."""
        ahead = {
            place: record
            for place, record in self.records.items()
            if isinstance(record, TimerRecord) and record.last_ms > now_ms
        }
        if ahead:
            self.records.update({place: msgspec.structs.replace(each, last_ms=0) for place, each in ahead.items()})
            self._sort()

    def _fired(self, key: str, timer: FiredTimer) -> TimerRecord | None:
        """Return the record of a timer that sent a command, if it still says so."""
        found = self.records.get(timer_key(key, timer.name))
        if not isinstance(found, TimerRecord) or not found.fired:
            return None
        is_same = (found.offset, found.index, found.due_ms) == (timer.offset, timer.index, timer.due_ms)
        return found if is_same else None

    def _put(self, place: str, record: TimerRecord | TellRecord) -> ChangelogEntry:
        is_new = place not in self.records
        self.records[place] = record
        if not record.fired:
            heappush(self._due, _due(place, record))
            if len(self._due) > 2 * len(self.records) + _OUTDATED_MAX:
                self._sort()
        if is_new and isinstance(record, TimerRecord):
            self._note(place)
        return owed_entry(place, record)

    def _forget(self, key: str, place: str) -> ChangelogEntry:
        del self.records[place]
        if left := tuple(each for each in self._keys[key] if each != place):
            self._keys[key] = left
        else:
            del self._keys[key]
        return owed_entry(place, None)

    def _note(self, place: str) -> None:
        key, _ = timer_of(place)
        self._keys[key] = (*self._keys.get(key, ()), place)

    def _sort(self) -> None:
        self._due = [_due(place, record) for place, record in self.records.items() if not record.fired]
        heapify(self._due)


def _due(place: str, record: TimerRecord | TellRecord) -> _Due:
    return record.when_ms, record.offset, record.index, place

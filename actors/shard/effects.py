"""``Effects``: the effects of a shard that are not settled, and which of them can be started.

Each is a record of the changelog from the transaction of its command on, until its result is a command in the shard's
own partition. Those of one entity and one function are in order: only the first of them that is not parked is tried. A
function may run twice for one record; its result counts once, and only that of the owner that started it.

Pure: the time comes from outside, and so does what runs an effect. It asks what is :meth:`~Effects.startable` between
two turns, says what it has :meth:`~Effects.started`, and brings each outcome to ``Shard.finished``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

import msgspec

from repertory.actors.collected import LaterItem, Perform
from repertory.actors.context import ContractViolation
from repertory.actors.shard.changelog import ChangelogEntry, EffectRecord, effect_entry, effect_key
from repertory.actors.shard.config import Limits

#: The entity's key and the name of the effect.
_Queue = tuple[str, str]
#: ``due_ms``, the cause (``offset`` and ``index``).
_Due = tuple[int, int, int]
#: The heap may hold so many outdated due times, and as many again as there are records.
_OUTDATED_MAX = 1_000


class EffectOutcome(msgspec.Struct, frozen=True):
    """How one attempt of an effect has ended: ``error`` is the type of what it raised, "" if it returned ``result``.

    ``place``, ``attempt`` and ``epoch`` are those of its start (`Effects.epoch`).
    """

    place: str
    attempt: int
    epoch: int
    result: object = None
    error: str = ""
    reason: str = ""
    traceback: str = ""


class Effects:
    """Owned by the recovery, then by the shard. Each change that it makes it returns as an entry of the changelog.

    What a turn has changed cannot be started before that turn is :meth:`committed`.
    """

    __slots__ = (
        "_alone", "_busy", "_due", "_finished", "_limits", "_ordered", "_queues", "_touched", "epoch", "held", "parked",
        "records", "running",
    )  # fmt: skip

    def __init__(self, limits: Limits, *, ordered: bool = True) -> None:
        """``ordered``: see `Behaviour.orders_effects`."""
        self._limits, self._ordered = limits, ordered
        #: The records, by their keys in the changelog.
        self.records: dict[str, EffectRecord] = {}
        #: Those that are started and have no outcome, with the attempt. What is not among them any more was dropped.
        self.running: dict[str, int] = {}
        #: Those that cannot be started, and what this build lacks; "" until the record says that it lacks nothing.
        self.held: dict[str, str] = {}
        #: How many are parked.
        self.parked = 0
        #: The number of this owner, which grows with each one.
        self.epoch = 0
        #: Those that are not parked, in order.
        self._queues: dict[_Queue, list[tuple[int, int]]] = {}
        #: The one of each queue that is started, and not settled yet.
        self._busy: dict[_Queue, str] = {}
        #: The queues whose first one a turn has changed that is not committed.
        self._touched: dict[_Queue, None] = {}
        #: When the first of each queue is due; outdated entries are skipped.
        self._due: list[_Due] = []
        self._finished: deque[EffectOutcome] = deque()
        #: Those that are tried with no other.
        self._alone: set[str] = set()

    def __len__(self) -> int:
        return len(self.records)

    def load(self, records: Mapping[str, EffectRecord]) -> None:
        """Load the records of the changelog, by their keys there. None starts before the next commit."""
        for place, record in records.items():
            self._put(place, record)

    # --- called by what runs them -----------------------------------------------------------------------------

    def startable(self, now_ms: int, count_max: int) -> list[str]:
        """Return up to so many that can be started now, those that were due first before the others, by their keys.

        One that must run alone is returned when no other of the shard runs, and none beside it.
        """
        if alone := self._first_alone(now_ms):
            return [] if self._busy or count_max < 1 else [alone]
        found: dict[str, _Due] = {}
        while len(found) < count_max and (first := self._next()) is not None and first[0] <= now_ms:
            found[effect_key(*first[1:])] = heappop(self._due)
        for due in found.values():
            heappush(self._due, due)
        return list(found)

    def next_due_ms(self) -> int | None:
        """Return when (epoch) the next one can be started; None if none can before another one has ended."""
        if self._alone and self._busy:
            return None
        first = self._next()
        return None if first is None else first[0]

    def started(self, place: str) -> EffectRecord:
        """Note that a startable one is started; return its record."""
        record = self.records[place]
        assert self.queue_of(record) not in self._busy, place
        self.running[place] = record.attempt
        self._busy[self.queue_of(record)] = place
        return record

    def finished(self, outcome: EffectOutcome) -> bool:
        """Keep the outcome of one that runs, until a turn settles it; return False if it is ignored.

        That is one that was dropped meanwhile, or was started by another owner, or is not of the attempt that runs.
        """
        if outcome.epoch != self.epoch or self.running.get(outcome.place) != outcome.attempt:
            return False
        del self.running[outcome.place]
        self._finished.append(outcome)
        return True

    def queue_of(self, record: EffectRecord) -> tuple[str, str]:
        """Return what an effect waits for its turn in: that of its key and function, or one of its own."""
        effect = record.effect if self._ordered else f"{record.effect}\0{record.offset}/{record.index}"
        return record.key, effect

    # --- called by the shard ----------------------------------------------------------------------------------

    def check(self, later: Sequence[LaterItem]) -> None:
        """Raise ContractViolation if there is no room for what a command performs."""
        count, limit = sum(isinstance(each, Perform) for each in later), self._limits.effects_per_shard_max
        if count and len(self.records) + count > limit:
            raise ContractViolation(
                f"the shard has {len(self.records):,} effects that are not settled; effects_per_shard_max is {limit:,}"
            )

    def apply(self, key: str, offset: int, later: Sequence[LaterItem], sent: Sequence[bytes]) -> list[ChangelogEntry]:
        """Add what the command at ``offset`` performs; ``sent`` are its encoded requests."""
        return [
            self.put(effect_key(offset, index), EffectRecord(each.effect.name, key, data, offset, index, each.about))
            for index, (each, data) in enumerate(zip(later, sent, strict=True))
            if isinstance(each, Perform)
        ]

    def has_finished(self) -> bool:
        """Return whether an outcome waits for a turn."""
        return len(self._finished) > 0

    def take_finished(self) -> EffectOutcome | None:
        """Take the next outcome of one that is still open; None if there is none."""
        while self._finished:
            outcome = self._finished.popleft()
            if outcome.place in self.records:
                return outcome
        return None

    def put(self, place: str, record: EffectRecord) -> ChangelogEntry:
        """Add one, or replace its record."""
        self._put(place, record)
        return effect_entry(place, record)

    def forget(self, place: str) -> ChangelogEntry:
        """Remove one that is settled or dropped."""
        self._leave(place)
        self.held.pop(place, None)
        del self.records[place]
        return effect_entry(place, None)

    def committed(self) -> None:
        """Note that the last turn is committed: what it has changed can be started."""
        for queue in self._touched:
            self._push(queue)
        self._touched.clear()
        if len(self._due) > 2 * len(self.records) + _OUTDATED_MAX:
            self._due = [self._entry(waiting[0]) for waiting in self._queues.values()]
            heapify(self._due)

    # --- queues -----------------------------------------------------------------------------------------------

    def _put(self, place: str, record: EffectRecord) -> None:
        self._leave(place)
        self.records[place] = record
        if record.parked:
            self.parked += 1
        else:
            waiting = self._queues.setdefault(self.queue_of(record), [])
            insort(waiting, (record.offset, record.index))
            if waiting[0] == (record.offset, record.index):
                self._touched[self.queue_of(record)] = None
            if record.alone:
                self._alone.add(place)

    def _leave(self, place: str) -> None:
        """Take one out of its queue, if it is there; it does not run any more."""
        self.running.pop(place, None)
        self._alone.discard(place)
        record = self.records.get(place)
        if record is not None and record.parked:
            self.parked -= 1
        if record is None or record.parked:
            return
        queue, cause = self.queue_of(record), (record.offset, record.index)
        waiting = self._queues[queue]
        at = bisect_left(waiting, cause)
        del waiting[at]
        if at == 0 or self._busy.get(queue) == place:
            self._touched[queue] = None
        if self._busy.get(queue) == place:
            del self._busy[queue]
        if not waiting:
            del self._queues[queue]

    def _push(self, queue: _Queue) -> None:
        if waiting := self._queues.get(queue):
            heappush(self._due, self._entry(waiting[0]))

    def _entry(self, cause: tuple[int, int]) -> _Due:
        return self.records[effect_key(*cause)].due_ms, *cause

    def _next(self) -> _Due | None:
        """Return the due time of the one that can be started first; None if none can."""
        while self._due:
            due_ms, offset, index = first = self._due[0]
            record = self.records.get(effect_key(offset, index))
            if record is not None and record.due_ms == due_ms and self._can_start(record):
                return first
            heappop(self._due)
        return None

    def _can_start(self, record: EffectRecord) -> bool:
        queue = self.queue_of(record)
        is_first = not record.parked and self._queues[queue][0] == (record.offset, record.index)
        is_free = is_first and queue not in self._busy and queue not in self._touched
        return is_free and effect_key(record.offset, record.index) not in self.held

    def _first_alone(self, now_ms: int) -> str | None:
        """Return the first that is due of the queues in which one must run alone; None if none is."""
        queues = {self.queue_of(self.records[place]) for place in self._alone}
        firsts = [self.records[effect_key(*self._queues[queue][0])] for queue in queues]
        due = [
            (each.offset, each.index) for each in firsts
            if each.due_ms <= now_ms and (self._can_start(each) or self.queue_of(each) in self._busy)
        ]  # fmt: skip
        return effect_key(*min(due)) if due else None

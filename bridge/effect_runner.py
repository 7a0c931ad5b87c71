"""``EffectRunner``: runs the effects of one worker, on a thread with an event loop of its own.

The loop of the worker calls :meth:`~EffectRunner.step` once in each tick: it brings what has ended to the shard that
owns it, forgets what belongs to a shard that is lost, and starts what can be started. An effect starts only after the
transaction of its command, and an outcome counts only for the owner that started it: so an effect may run twice in the
world outside, and has one result.

The thread begins with the first effect, enters the system's ``lifespan``, and leaves it when the worker stops.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from repertory.actors.shard.effect_settler import EffectDeath
from repertory.actors.shard.effects import EffectOutcome
from repertory.actors.shard.shard import Shard
from repertory.bridge.assigned_shard import AssignedShard, ShardPhase
from repertory.bridge.effect_thread import EffectThread, Lifespan, attempt
from repertory.bridge.log_lines import entry
from repertory.bridge.region import ShardRegion

logger = logging.getLogger("repertory")

#: How often a worker looks for outcomes while effects run.
LOOK_S = 0.005
#: A call that blocks the event loop for so long is named in the log.
BLOCKED_S = 1.0
#: How long the lifespan may take until it is entered.
ENTER_S = 60.0
#: An effect is started, and its outcome heard, in these phases of its shard.
_ALIVE = (ShardPhase.RUNNING, ShardPhase.COMMITTING)


class Marks(Protocol):
    """Memory that outlives the worker, for the effects under way (``bridge.node.in_flight``)."""

    def begin(self, shard: int, offset: int, index: int) -> int:
        """Note that an effect runs; return the number of the mark."""

    def end(self, mark: int) -> None:
        """Remove a mark."""

    def deaths(self, shard: int) -> Iterable[EffectDeath]:
        """Return the effects of a shard that ran in a process which died."""


class NoEffects:
    """In place of an `EffectRunner` where something else runs effects."""

    def deaths(self, _shard: int) -> Iterable[EffectDeath]:
        """See ``EffectRunner``."""
        return ()

    def next_in_s(self, _region: ShardRegion, _epoch_ms: Callable[[], int]) -> float | None:
        """See ``EffectRunner``."""
        return None

    def step(self, _region: ShardRegion, _epoch_ms: Callable[[], int]) -> bool:
        """See ``EffectRunner``."""
        return False


#: The only one: it has no state.
NO_EFFECTS = NoEffects()


class NoMarks:
    """For a worker without a node: nobody looks for the effect that has killed it."""

    def begin(self, _shard: int, _offset: int, _index: int) -> int:
        """See ``Marks``."""
        return 0

    def end(self, _mark: int) -> None:
        """See ``Marks``."""

    def deaths(self, _shard: int) -> Iterable[EffectDeath]:
        """See ``Marks``."""
        return ()


class LifespanFailed(Exception):
    """The lifespan of the system could not be entered: no effect can run in this worker."""


class EffectsBlocked(Exception):
    """A sync call has blocked the event loop for too long: no effect goes on in this worker before it ends."""


class RunningEffect(NamedTuple):
    """One attempt that runs: the shard that owns it, and how it is cancelled."""

    shard: Shard
    place: str
    mark: int
    cancel: Callable[[], object]


class EffectRunner:
    """Owned by the loop of one worker; its methods are for the loop's thread."""

    def __init__(
        self,
        *,
        running_max: int,
        lifespan: Lifespan | None = None,
        marks: Marks | None = None,
        is_sure: Callable[[], bool] = lambda: True,
        blocked_max_s: float = float("inf"),
    ) -> None:
        """``is_sure``: whether the group has confirmed not long ago that the shards are ours; else none starts.

        ``blocked_max_s``: how long a sync call may block the event loop, until that ends the worker.
        """
        self._running_max, self._is_sure, self._blocked_max_s = running_max, is_sure, blocked_max_s
        self._lifespan, self._marks = lifespan, marks or NoMarks()
        #: What runs, by number; a number is never used again.
        self._running: dict[int, RunningEffect] = {}
        self._started = 0
        self._alone: int | None = None
        #: The one that blocks the event loop, and has been named.
        self._blocking: int | None = None
        self._named = ""
        self._ended: deque[tuple[int, EffectOutcome]] = deque()
        self._thread: EffectThread | None = None

    @property
    def is_running(self) -> bool:
        """Whether any effect runs."""
        return bool(self._running)

    def deaths(self, shard: int) -> Iterable[EffectDeath]:
        """Return the effects of a shard that ran in a process of this node which died."""
        return self._marks.deaths(shard)

    def next_in_s(self, region: ShardRegion, epoch_ms: Callable[[], int]) -> float | None:
        """Return in how many seconds :meth:`step` has something to do at the earliest; None: nothing is known."""
        if self._running:
            return LOOK_S
        live = [each.shard.effects for each in region if each.shard is not None and each.phase in _ALIVE]
        due = [effects.next_due_ms() for effects in live if len(effects)]
        found = [due_ms for due_ms in due if due_ms is not None]
        return max(0.0, (min(found) - epoch_ms()) / 1_000) if found else None

    def step(self, region: ShardRegion, epoch_ms: Callable[[], int]) -> bool:
        """Bring outcomes to their shards, cancel what belongs to none, and start what is due; return if any happened.

        Raises LifespanFailed if the lifespan could not be entered, and EffectsBlocked.
        """
        if not self._running and not any(each.shard is not None and len(each.shard.effects) for each in region):
            return False
        if self._thread is not None:
            self._watch(self._thread)
        heard = self._hear()
        self._cancel_lost(region)
        return self._start(region, epoch_ms()) or heard

    def close(self) -> None:
        """Cancel what runs, leave the lifespan, and end the thread.

        What blocks the event loop keeps its mark, since the process ends because of it, and nobody waits for its end.
        """
        for number, each in [*self._running.items()]:
            each.cancel()
            if number != self._blocking:
                self._end(number)
        if self._thread is not None:
            self._thread.stop(waits=not self._named)
            self._thread = None

    # --- one step ---------------------------------------------------------------------------------------------

    def _watch(self, thread: EffectThread) -> None:
        """See that the thread can go on; name what blocks it."""
        if thread.failure is not None:
            raise LifespanFailed(f"the lifespan of the system failed: {thread.failure}")
        blocked_s = thread.watch.look()
        if not thread.has_entered and thread.watch.seen_s > ENTER_S:
            raise LifespanFailed(f"the lifespan of the system failed: it was not entered within {ENTER_S:g} s")
        if blocked_s < BLOCKED_S:
            self._blocking, self._named = None, ""
        elif not self._named:
            self._name(thread)
        elif blocked_s > self._blocked_max_s:
            raise EffectsBlocked(f"{self._named}, for more than {self._blocked_max_s:g} s")

    def _name(self, thread: EffectThread) -> None:
        """Log what blocks the event loop, once each time."""
        task, stack = thread.watch.task(), thread.watch.stack()
        found = self._running.get(int(task)) if task.isdecimal() else None
        self._blocking, what = None, "what no effect of this worker waits for any more, or the lifespan,"
        if found is not None and (record := found.shard.effects.records.get(found.place)) is not None:
            self._blocking = int(task)
            what = f"{found.shard.config.id}@{record.offset} effect {record.effect!r} of key {record.key!r}"
        self._named = f"{what} blocks the event loop of all effects with a sync call"
        then = "the others wait for its end; let it await that, or asyncio.to_thread(…)"
        logger.handle(entry(logger, logging.WARNING, f"{self._named}; {then}", stack))

    def _hear(self) -> bool:
        heard = False
        while self._ended:
            number, outcome = self._ended.popleft()
            if (found := self._end(number)) is not None:
                heard |= found.shard.finished(outcome)
        return heard

    def _end(self, number: int) -> RunningEffect | None:
        found = self._running.pop(number, None)
        if found is not None:
            self._marks.end(found.mark)
        if number == self._alone:
            self._alone = None
        return found

    def _cancel_lost(self, region: ShardRegion) -> None:
        """Cancel what no shard waits for any more: the shard is lost or starts over, or the effect was dropped."""
        live = {id(each.shard) for each in region if each.shard is not None}
        for number, each in [*self._running.items()]:
            if id(each.shard) not in live or each.place not in each.shard.effects.running:
                each.cancel()
                self._end(number)

    def _start(self, region: ShardRegion, now_ms: int) -> bool:
        before = self._started
        if self._alone is not None or not self._is_sure():
            return False
        for assigned, place in self._candidates(region, now_ms):
            is_alone = assigned.shard is not None and assigned.shard.effects.records[place].alone
            if is_alone and self._running:
                break  # It waits until nothing else runs, and nothing else starts before.
            self._begin(assigned, place)
            if is_alone:
                self._alone = self._started
                break
        return self._started > before

    def _candidates(self, region: ShardRegion, now_ms: int) -> Iterator[tuple[AssignedShard, str]]:
        """Yield what can be started now, what must run alone first; the shards take turns."""
        room = self._running_max - len(self._running)
        found = [
            (each, each.shard.effects.startable(now_ms, max(room, 1)))
            for each in region
            if each.shard is not None and each.phase in _ALIVE and len(each.shard.effects)
        ]
        for assigned, places in found:
            assert assigned.shard is not None
            if places and assigned.shard.effects.records[places[0]].alone:
                yield assigned, places[0]
                return
        for nth in range(room):
            for assigned, places in found:
                if nth < len(places) and room > 0:
                    room -= 1
                    yield assigned, places[nth]

    def _begin(self, assigned: AssignedShard, place: str) -> None:
        shard = assigned.shard
        assert shard is not None
        record = shard.effects.started(place)
        self._started += 1
        number, epoch = self._started, shard.effects.epoch
        fx_id = f"{assigned.place.topic}/{assigned.place.partition}/{record.offset}/{record.index}"
        if self._thread is None:
            self._thread = EffectThread(self._lifespan)
        thread, mark = self._thread, self._marks.begin(assigned.config.number, record.offset, record.index)

        def ended(outcome: EffectOutcome) -> None:
            self._ended.append((number, outcome))

        cancel = thread.submit(lambda: attempt(thread, record, place, fx_id, epoch, ended), str(number))
        self._running[number] = RunningEffect(shard, place, mark, cancel)

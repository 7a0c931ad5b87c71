"""``FaultyLog``: a ``Log`` as the port allows it to be at its worst, around one that works.

Whatever it does, the port's rules hold: events of a shard come in order, and after ``claim``, ``Lost``, ``Aborted`` or
``Fenced`` none that belongs to the time before. Commits are asynchronous, as Kafka's are: one may be under way for a
while, outlive the worker that sent it, and arrive when somebody else has the shard.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bridge.log import (
    Aborted,
    Assigned,
    Claimed,
    Fenced,
    Fetched,
    Log,
    LogEvent,
    LogUnavailable,
    Lost,
    Reader,
    Replayed,
    Transaction,
)
from bridge.record import TopicPartition
from bridge.simulation.virtual import Violation, VirtualClock


class Ledger:
    """What happened in the log, seen from outside all workers: who claimed a shard last, and what was committed.

    Raises Violation for a commit of anybody but the last claimer (I10), or one whose offset moves back (I23).
    """

    def __init__(self, reader: Reader, states: Mapping[str, str]) -> None:
        self._reader, self._states = reader, states
        self._claimers: dict[TopicPartition, str] = {}
        self._ends: Counter[TopicPartition] = Counter()
        self._offsets: Counter[TopicPartition] = Counter()
        self.commits = 0
        self.probes: Counter[str] = Counter()

    def claimed(self, worker: str, shard: TopicPartition) -> None:
        """Note that a worker has shut out all others."""
        self._claimers[shard] = worker

    def landed(self, worker: str, transaction: Transaction) -> bool:
        """Tell whether the commit that was just handed over is in the log, and check that it may be."""
        shard = transaction.shard
        end = self._reader.bounds(self._states[shard.topic], shard.partition)[1]
        if end == self._ends[shard]:
            return False
        self._ends[shard] = end
        self.commits += 1
        if self._claimers.get(shard) != worker:
            raise Violation("one writer", f"{worker} committed to {shard}, claimed by {self._claimers.get(shard)}")
        if transaction.next_offset < self._offsets[shard]:
            raise Violation(
                "offsets move on", f"{worker} set {shard} from {self._offsets[shard]} to {transaction.next_offset}"
            )
        self._offsets[shard] = transaction.next_offset
        return True


class Pending(NamedTuple):
    """A commit that is under way."""

    due_s: float
    transaction: Transaction


class FaultyLog:
    """Faults are armed from outside and happen at the next opportunity."""

    def __init__(
        self, inner: Log, worker: str, clock: VirtualClock, ledger: Ledger, *, piece: int, events: int
    ) -> None:
        self._inner, self._worker, self._clock, self._ledger = inner, worker, clock, ledger
        self._piece, self._events = piece, events
        #: What the log has said and nobody has heard. The first of it may be what is left of a longer event.
        self._queue: deque[LogEvent] = deque()
        self._muted: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._owned: dict[TopicPartition, None] = {}
        self.pending: list[Pending] = []
        #: Armed: what happens to the next commits, how many claims fail, until when nothing is heard.
        self.fates: deque[str] = deque()
        self.failing_claims = 0
        self.held_until_s = 0.0
        self.delay_s = 0.0
        self.unavailable = False

    # --- the port ---------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float) -> Sequence[LogEvent]:
        """See ``Log``. Instead of waiting, time goes on."""
        if self.unavailable:
            self.unavailable = False
            raise LogUnavailable("the simulated log is out of reach")
        self._land_due()
        for event in self._inner.poll(0.0):
            self._take_in(event)
        events = list(self._deliver())
        if not events and timeout_s > 0:
            self._clock.advance(timeout_s)
        return events

    def claim(self, shard: TopicPartition, topics: Sequence[str]) -> None:
        """See ``Log``. A commit that was under way is overtaken: it will never be written."""
        self._forget(shard)
        self.pending = [pending for pending in self.pending if pending.transaction.shard != shard]
        self._muted.discard(shard)
        self._paused.discard(shard)
        if self.failing_claims:
            self.failing_claims -= 1
            self.abort(shard, "claim")
        else:
            self._inner.claim(shard, topics)

    def replay(self, shard: TopicPartition, topic: str, from_offset: int, to_offset: int) -> None:
        """See ``Log``."""
        self._inner.replay(shard, topic, from_offset, to_offset)

    def begin(self, shard: TopicPartition, next_offset: int) -> None:
        """See ``Log``."""
        self._inner.begin(shard, next_offset)

    def pause(self, shard: TopicPartition) -> None:
        """See ``Log``. What was already fetched stays here when it comes in pieces."""
        self._paused.add(shard)
        self._inner.pause(shard)

    def resume(self, shard: TopicPartition) -> None:
        """See ``Log``."""
        self._paused.discard(shard)
        self._inner.resume(shard)

    def commit(self, transaction: Transaction) -> None:
        """See ``Log``: now, later, or not at all."""
        shard = transaction.shard
        match self.fates.popleft() if self.fates else "":
            case "abort" | "unknown-lost":
                self.abort(shard, "commit")
            case "unknown-written":
                self._land(transaction)
                self.abort(shard, "commit")
            case "fenced":
                self._say(Fenced(shard, "simulated"))
                self._queue.append(Assigned(shard))
            case _ if self.delay_s:
                self.pending.append(Pending(self._clock.monotonic_s() + self.delay_s, transaction))
            case _:
                self._land(transaction)
        self.delay_s = 0.0

    def partition_count(self, topic: str) -> int | None:
        """See ``Log``."""
        return self._inner.partition_count(topic)

    def close(self) -> None:
        """See ``Log``."""
        self._inner.close()

    def abandon(self) -> None:
        """See ``Log``."""
        self._inner.abandon()

    # --- faults -----------------------------------------------------------------------------------------------

    @property
    def owned(self) -> list[TopicPartition]:
        """The shards that are assigned."""
        return list(self._owned)

    def abort(self, shard: TopicPartition, what: str) -> None:
        """Answer whatever is under way for a shard with an abort."""
        self._say(Aborted(shard, f"simulated ({what})", routine=False))

    def lose(self, shard: TopicPartition, *, twice: bool) -> None:
        """Revoke a shard and assign it again."""
        self._say(Lost(shard, "simulated"))
        if twice:
            self._queue.append(Lost(shard, "simulated, again"))
        self._queue.append(Assigned(shard))

    def arrive(self, pending: Pending) -> bool:
        """Let a commit arrive, whoever has the shard by now; tell whether it was written."""
        landed = self._land(pending.transaction)
        self._ledger.probes["late commit written" if landed else "late commit refused"] += 1
        return landed

    def next_s(self) -> float | None:
        """Return when something happens here by itself."""
        if any(
            not (self._piece and isinstance(event, Fetched) and event.shard in self._paused) for event in self._queue
        ):
            return self.held_until_s
        return min((pending.due_s for pending in self.pending), default=None)

    # --- how it works -----------------------------------------------------------------------------------------

    def _land_due(self) -> None:
        now_s = self._clock.monotonic_s()
        due = [pending for pending in self.pending if pending.due_s <= now_s]
        self.pending = [pending for pending in self.pending if pending.due_s > now_s]
        for pending in due:
            if pending.transaction.shard in self._muted:
                self.arrive(pending)  # Its owner was told that it is over; only the claim that follows decides.
            else:
                self._land(pending.transaction)

    def _land(self, transaction: Transaction) -> bool:
        self._inner.commit(transaction)
        return self._ledger.landed(self._worker, transaction)

    def _say(self, event: Aborted | Fenced | Lost) -> None:
        """Say that all that went on for a shard is void: nothing of it comes any more until it is claimed."""
        self._forget(event.shard)
        self._muted.add(event.shard)
        self._queue.append(event)

    def _forget(self, shard: TopicPartition) -> None:
        self._queue = deque(event for event in self._queue if event.shard != shard)

    def _take_in(self, event: LogEvent) -> None:
        """Queue what the log says, cut into pieces, unless it belongs to a time that is over."""
        shard = event.shard
        match event:
            case Claimed():
                self._ledger.claimed(self._worker, shard)
            case Assigned():
                self._owned[shard] = None
                self._muted.discard(shard)
            case Lost() | Fenced():
                self._owned.pop(shard, None)
                self._forget(shard)
                self._muted.discard(shard)
                self._ledger.probes[f"log says {type(event).__name__}"] += 1
            case _:
                pass
        if shard in self._muted:
            return
        self._queue.append(event)

    def _cut(self, event: LogEvent) -> tuple[LogEvent, LogEvent | None]:
        """Cut a piece off an event that is longer; return it and what is left."""
        size = self._piece
        if not size or not isinstance(event, Fetched | Replayed) or len(event.records) <= size:
            return event, None
        first, rest = event.records[:size], event.records[size:]
        if isinstance(event, Fetched):
            return Fetched(event.shard, first), Fetched(event.shard, rest)
        return (
            Replayed(event.shard, event.topic, first, complete=False),
            Replayed(event.shard, event.topic, rest, event.complete),
        )

    def _deliver(self) -> Iterator[LogEvent]:
        """Hand over what is there: some of it, later, and no more commands of a paused shard than must be."""
        if not self._queue or self._clock.monotonic_s() < self.held_until_s:
            return
        queue, kept = self._queue, list[LogEvent]()
        left = self._events or 1 << 30
        full = set(self._paused) if self._piece else set[TopicPartition]()
        while queue and left:
            event: LogEvent | None = queue.popleft()
            while event is not None and left:
                if isinstance(event, Fetched):
                    if event.shard in full:  # What is said of commits and claims may overtake commands, and must.
                        break
                    if self._piece:
                        full.add(event.shard)  # One piece, so that a full mailbox can pause the next.
                piece, event = self._cut(event)
                left -= 1
                yield piece
            if event is not None:
                kept.append(event)
        queue.extendleft(reversed(kept))

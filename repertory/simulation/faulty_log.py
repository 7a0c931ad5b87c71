"""``FaultyLog``: wraps a ``Log`` and injects the worst behaviour that the port allows.

The rules of the port always hold: the events of a shard come in order, and after ``claim``, ``Lost``, ``Aborted`` or
``Fenced`` no earlier event is delivered. Commits are asynchronous, as Kafka's are: a commit may be in flight for a
while, outlive the worker that sent it, and arrive when another worker owns the shard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from repertory.bridge import kill_points
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.port import (
    Aborted,
    Append,
    Appender,
    Assigned,
    Claimed,
    Fenced,
    Fetched,
    Log,
    LogEvent,
    Lost,
    OutputsRefused,
    Replayed,
    Transaction,
)
from repertory.bridge.log.record import Output, TopicPartition
from repertory.simulation.commit_monitor import CommitMonitor
from repertory.simulation.output_refusals import OutputRefusals
from repertory.simulation.pending import Pending, cut, overtaken, torn
from repertory.simulation.virtual import VirtualClock


class FaultyLog:
    """Faults are armed from outside and take effect at the next opportunity."""

    def __init__(
        self, inner: Log, appender: Appender, worker: str, clock: VirtualClock, monitor: CommitMonitor,
        refusals: OutputRefusals, *, piece: int = 0, events: int = 0, markers: int = 0,
    ) -> None:  # fmt: skip
        self._inner, self._worker, self._clock, self._monitor = inner, worker, clock, monitor
        self._appender, self._refusals = appender, refusals
        self._piece, self._events, self._markers = piece, events, markers
        #: Events of the log that are not delivered yet. The first may be the rest of a larger event.
        self._queue: deque[LogEvent] = deque()
        self._muted: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._owned: dict[TopicPartition, None] = {}
        self.pending: list[Pending] = []
        #: Shard -> the time until which another producer's open transaction hides its records.
        self._hidden: dict[TopicPartition, float] = {}
        #: Armed faults: the fates of the next commits, how many claims fail, and until when no event is delivered.
        self.fates: deque[str] = deque()
        self.failing_claims = 0
        self.held_until_s = 0.0
        self.delay_s = 0.0
        self.unavailable = False
        #: See ``Log``: no simulated worker asks.
        self.is_member = self.is_sure = True

    # --- the port ---------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float) -> Sequence[LogEvent]:
        """See ``Log``. Instead of waiting, it advances the clock."""
        if self.unavailable:
            self.unavailable = False
            raise LogUnavailable("the simulated log is out of reach")
        if self.pending:
            self._land_due()
        for event in self._inner.poll(0.0):
            self._take_in(event)
        events = list(self._deliver())
        if any(isinstance(event, Lost) and self._is_under_way(event.shard) for event in events):
            kill_points.reached("revoking")
        if not events and timeout_s > 0:
            self._clock.advance(timeout_s)
        return events

    def claim(self, shard: TopicPartition, topics: Sequence[str]) -> None:
        """See ``Log``. A transaction in flight is fenced and never written; an append in flight is not fenced."""
        self._forget(shard)
        self.pending = overtaken(self.pending, shard)
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
        """See ``Log``. Records that were fetched already stay queued if they are delivered in pieces."""
        self._paused.add(shard)
        self._inner.pause(shard)

    def resume(self, shard: TopicPartition) -> None:
        """See ``Log``."""
        self._paused.discard(shard)
        self._inner.resume(shard)

    def commit(self, transaction: Transaction) -> None:
        """See ``Log``: now, later, or not at all."""
        self._send(transaction)

    def append(self, append: Append) -> None:
        """See ``Log``: now, later, or only in part."""
        self._send(append)

    def _send(self, sent: Transaction | Append) -> None:
        shard = sent.shard
        if (refused := self._refusals.refusal(sent)) is not None:
            self._monitor.probes["outputs refused"] += 1
            self._emit(refused)
            return
        match self.fates.popleft() if self.fates else "":
            case "fenced":
                self._write(torn(sent, "fenced"))
                self._emit(Fenced(shard, "simulated"))
                self._queue.append(Assigned(shard))
            case "abort" | "unknown-lost" | "unknown-written" as fate:
                self._write(torn(sent, fate))
                if fate == "unknown-written" and isinstance(sent, Transaction):
                    self._land(sent)
                self.abort(shard, "commit")
            case _ if self.delay_s:
                self.pending.append(Pending(self._clock.monotonic_s() + self.delay_s, sent))
            case _:
                self._land(sent)
        self.delay_s = 0.0

    def partition_count(self, topic: str) -> int | None:
        """See ``Log``."""
        return self._inner.partition_count(topic)

    def close(self) -> None:
        """See ``Log``."""
        self._inner.close()

    def withdraw(self, topics: Sequence[str]) -> None:
        """See ``Log``."""
        self._inner.withdraw(topics)

    def abandon(self) -> None:
        """See ``Log``."""
        self._inner.abandon()

    # --- faults -----------------------------------------------------------------------------------------------

    @property
    def owned(self) -> list[TopicPartition]:
        """The shards that are assigned."""
        return list(self._owned)

    def abort(self, shard: TopicPartition, what: str) -> None:
        """Abort whatever is in progress for a shard."""
        self._emit(Aborted(shard, f"simulated ({what})", routine=False))

    def hide(self, shard: TopicPartition, seconds: float) -> None:
        """Hide the records of a shard for a while; the results of its commits are still delivered."""
        self._hidden[shard] = self._clock.monotonic_s() + seconds

    def heal(self) -> None:
        """Clear all armed faults."""
        self.held_until_s = self.delay_s = 0.0
        self.fates.clear()
        self._hidden.clear()
        self.failing_claims, self.unavailable = 0, False

    def lose(self, shard: TopicPartition, *, twice: bool) -> None:
        """Revoke a shard and assign it again."""
        self._emit(Lost(shard, "simulated"))
        if twice:
            self._queue.append(Lost(shard, "simulated, again"))
        self._queue.append(Assigned(shard))

    def arrive(self, pending: Pending) -> bool:
        """Let a commit in flight arrive, whichever worker owns the shard by now; return whether it was written."""
        if is_append := isinstance(pending.transaction, Append):
            self._write(torn(pending.transaction))
        landed = is_append or self._land(pending.transaction)
        self._monitor.probes[f"late {'append' if is_append else 'commit'} {'written' if landed else 'refused'}"] += 1
        return landed

    def next_s(self) -> float | None:
        """Return the time of the next event that needs no caller, None if there is none."""
        instants = [
            max(self.held_until_s, self._hidden_until_s(event))
            for event in self._queue
            if not (self._piece and isinstance(event, Fetched) and event.shard in self._paused)
        ]
        return min(instants or (pending.due_s for pending in self.pending), default=None)

    # --- internals --------------------------------------------------------------------------------------------

    def _land_due(self) -> None:
        now_s = self._clock.monotonic_s()
        due = [pending for pending in self.pending if pending.due_s <= now_s]
        self.pending = [pending for pending in self.pending if pending.due_s > now_s]
        for pending in due:
            if pending.late or pending.transaction.shard in self._muted:
                self.arrive(pending)  # Its owner has seen it aborted; the next claim decides whether it is written.
            else:
                self._land(pending.transaction)

    def _write(self, outputs: Sequence[Output]) -> None:
        """Write without fencing, as a broker does for appends."""
        if outputs:
            self._appender.append(outputs)

    def _land(self, transaction: Transaction | Append) -> bool:
        landed = False
        if isinstance(transaction, Append):
            self._inner.append(transaction)
            return True
        try:
            self._inner.commit(transaction)
        finally:  # A worker that is killed within the commit may have written it.
            landed = self._monitor.landed(self._worker, transaction)
        return landed

    def _is_under_way(self, shard: TopicPartition) -> bool:
        return any(pending.transaction.shard == shard for pending in self.pending)

    def _hidden_until_s(self, event: LogEvent) -> float:
        return self._hidden.get(event.shard, 0.0) if isinstance(event, Fetched | Replayed) else 0.0

    def _emit(self, event: Aborted | Fenced | Lost | OutputsRefused) -> None:
        """Queue an event that voids all work in progress of a shard; deliver nothing else before its next claim."""
        self._forget(event.shard)
        self._muted.add(event.shard)
        self._queue.append(event)

    def _forget(self, shard: TopicPartition) -> None:
        self._queue = deque(event for event in self._queue if event.shard != shard)

    def _take_in(self, event: LogEvent) -> None:
        """Queue an event of the log, unless a later event of the shard has voided it."""
        shard = event.shard
        match event:
            case Claimed():
                self._monitor.claimed(self._worker, shard)
                ends = {topic: end + self._markers for topic, end in event.ends.items()}
                event = msgspec.structs.replace(event, ends=ends)
            case Assigned():
                self._owned[shard] = None
                self._muted.discard(shard)
            case Lost() | Fenced():
                self._owned.pop(shard, None)
                self._forget(shard)
                self._muted.discard(shard)
                self._monitor.probes[f"log says {type(event).__name__}"] += 1
            case _:
                pass
        if shard in self._muted:
            return
        self._queue.append(event)

    def _deliver(self) -> Iterator[LogEvent]:
        """Deliver queued events: only some of them, possibly later, and no commands of a paused shard."""
        now_s = self._clock.monotonic_s()
        if not self._queue or now_s < self.held_until_s:
            return
        queue, kept = self._queue, list[LogEvent]()
        left = self._events or 1 << 30
        full = set(self._paused) if self._piece else set[TopicPartition]()
        while queue and left:
            event: LogEvent | None = queue.popleft()
            while event is not None and left:
                if self._hidden and self._hidden_until_s(event) > now_s:
                    self._monitor.probes["hidden for a while"] += 1
                    break
                if isinstance(event, Fetched):
                    if event.shard in full:  # Results of commits and claims must overtake commands.
                        break
                    if self._piece:
                        full.add(
                            event.shard
                        )  # One piece per poll, so that a full mailbox can pause the shard before the next.
                piece, event = cut(event, self._piece)
                left -= 1
                yield piece
            if event is not None:
                kept.append(event)
        queue.extendleft(reversed(kept))

"""``FaultyLog``: a ``Log`` as the port allows it to be at its worst, around one that works.

Whatever it does, the port's rules hold: events of a shard come in order, and after ``claim``, ``Lost``, ``Aborted`` or
``Fenced`` none that belongs to the time before. Commits are asynchronous, as Kafka's are: one may be under way for a
while, outlive the worker that sent it, and arrive when somebody else has the shard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from repertory.bridge import kill_points
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
    LogUnavailable,
    Lost,
    Replayed,
    Transaction,
)
from repertory.bridge.log.record import Output, TopicPartition
from repertory.simulation.commit_monitor import CommitMonitor
from repertory.simulation.pending import Pending, cut, overtaken, torn
from repertory.simulation.virtual import VirtualClock


class FaultyLog:
    """Faults are armed from outside and happen at the next opportunity."""

    def __init__(
        self,
        inner: Log,
        appender: Appender,
        worker: str,
        clock: VirtualClock,
        monitor: CommitMonitor,
        *,
        piece: int = 0,
        events: int = 0,
        markers: int = 0,
    ) -> None:
        self._inner, self._worker, self._clock, self._monitor = inner, worker, clock, monitor
        self._appender = appender
        self._piece, self._events, self._markers = piece, events, markers
        #: What the log has said and nobody has heard. The first of it may be what is left of a longer event.
        self._queue: deque[LogEvent] = deque()
        self._muted: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._owned: dict[TopicPartition, None] = {}
        self.pending: list[Pending] = []
        #: Until when an open transaction of another hides what there is to read for a shard.
        self._hidden: dict[TopicPartition, float] = {}
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
        """See ``Log``. A transaction that was under way is overtaken and never written; nothing overtakes an append."""
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
        """See ``Log``. What was already fetched stays here when it comes in pieces."""
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
        """See ``Log``: now, later, or only a part of it."""
        self._send(append)

    def _send(self, sent: Transaction | Append) -> None:
        shard = sent.shard
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
        self._emit(Aborted(shard, f"simulated ({what})", routine=False))

    def hide(self, shard: TopicPartition, seconds: float) -> None:
        """Let nothing be read for a shard for a while; what is said of its commits comes all the same."""
        self._hidden[shard] = self._clock.monotonic_s() + seconds

    def heal(self) -> None:
        """Do nothing bad any more that was armed."""
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
        """Let a commit arrive, whoever has the shard by now; tell whether it was written."""
        if is_append := isinstance(pending.transaction, Append):
            self._write(torn(pending.transaction))
        landed = is_append or self._land(pending.transaction)
        self._monitor.probes[f"late {'append' if is_append else 'commit'} {'written' if landed else 'refused'}"] += 1
        return landed

    def next_s(self) -> float | None:
        """Return when something happens here by itself."""
        instants = [
            max(self.held_until_s, self._hidden_until_s(event))
            for event in self._queue
            if not (self._piece and isinstance(event, Fetched) and event.shard in self._paused)
        ]
        return min(instants or (pending.due_s for pending in self.pending), default=None)

    # --- how it works -----------------------------------------------------------------------------------------

    def _land_due(self) -> None:
        now_s = self._clock.monotonic_s()
        due = [pending for pending in self.pending if pending.due_s <= now_s]
        self.pending = [pending for pending in self.pending if pending.due_s > now_s]
        for pending in due:
            if pending.late or pending.transaction.shard in self._muted:
                self.arrive(pending)  # Its owner was told that it is over; only the claim that follows decides.
            else:
                self._land(pending.transaction)

    def _write(self, outputs: Sequence[Output]) -> None:
        """Write without a fence, as a broker does for whomever."""
        if outputs:
            self._appender.append(outputs)

    def _land(self, transaction: Transaction | Append) -> bool:
        landed = False
        if isinstance(transaction, Append):
            self._inner.append(transaction)
            return True
        try:
            self._inner.commit(transaction)
        finally:  # Whoever dies within it may have written it.
            landed = self._monitor.landed(self._worker, transaction)
        return landed

    def _is_under_way(self, shard: TopicPartition) -> bool:
        return any(pending.transaction.shard == shard for pending in self.pending)

    def _hidden_until_s(self, event: LogEvent) -> float:
        return self._hidden.get(event.shard, 0.0) if isinstance(event, Fetched | Replayed) else 0.0

    def _emit(self, event: Aborted | Fenced | Lost) -> None:
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
        """Hand over what is there: some of it, later, and no more commands of a paused shard than must be."""
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
                    if event.shard in full:  # What is said of commits and claims may overtake commands, and must.
                        break
                    if self._piece:
                        full.add(event.shard)  # One piece, so that a full mailbox can pause the next.
                piece, event = cut(event, self._piece)
                left -= 1
                yield piece
            if event is not None:
                kept.append(event)
        queue.extendleft(reversed(kept))

"""The message path: from a record that was read to a transaction that is committed, top to bottom.

``tick`` moves one bounded batch of each ready shard. A shard is either deciding or committing: while the commit of one
is in flight, the loop decides the next. What a shard decided leaves with its commit or not at all; when a commit
fails in whatever way, the shard is dropped, claimed again and restored from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec

from repertory.actors.shard.mailbox import Letter
from repertory.actors.shard.turn_result import Counts, Effects
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.clock import Clock, elapsed
from repertory.bridge.log.port import (
    Aborted,
    Assigned,
    Claimed,
    Committed,
    Fenced,
    Fetched,
    Log,
    LogEvent,
    Lost,
    Replayed,
    ShardEvent,
)
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.region import Phase, Seat, ShardRegion
from repertory.bridge.worker_log import Dialogue, Report
from repertory.supervision import Backoff, Directive, Exited, Failed, Failure, Start, Started, Stop

#: How soon a shard is claimed again after an abort. Never counted as a restart: a log that is out of reach for too
#: long says so itself (LogUnavailable).
RECLAIM_BACKOFF = Backoff(first_s=0.02, factor=2.0, max_s=2.0)

#: A contradiction in the log is believed once it was read so many times more: a broker that has just come back may
#: not show everything yet.
DOUBTS_MAX = 2
DOUBT = "It is read again before that is believed."

#: How often a shard that restores says how far it is.
RESTORE_REPORT_S = 1.0


class ShardLoop:
    """One worker's loop. Its methods are called by one thread; nothing here blocks but the log's ``poll``."""

    def __init__(
        self,
        log: Log,
        region: ShardRegion,
        clock: Clock,
        *,
        poll_timeout_s: float,
        turns_max_s: float = float("inf"),
        report: Report = lambda *_, **__: None,
        progress: Callable[[], None] = lambda: None,
        fault_point: Callable[[str], None] = lambda _point: None,
        deaths: Callable[[int], Iterable[tuple[int, int]]] = lambda _number: (),
    ) -> None:
        self._log, self._clock, self._dialogue = log, clock, Dialogue(report)
        #: How long all shards together may decide until the log is polled again: each has an equal share.
        self._poll_timeout_s, self._turns_max_s = poll_timeout_s, turns_max_s
        #: The shards of this worker.
        self.region = region
        self._progress, self._fault, self._deaths = progress, fault_point, deaths
        #: The shards that were claimed since the last poll: what it brought for them belongs to the time before.
        self._claimed_since: set[TopicPartition] = set()
        self.counts = Counts()
        self.commits = 0

    def tick(self, timeout_s: float | None = None) -> bool:
        """Move one bounded batch of each ready shard from input to output; return whether anything happened.

        Waits at most ``timeout_s`` (default: the configured poll timeout) when there is nothing to do.

        Raises:
            Escalated: the worker has to go down and be restarted as its supervisor says.
            LogUnavailable, SlotTaken: see ``Log.poll``.
        """
        patience_s = self.region.patience_s(self._clock.monotonic_s(), self._clock.epoch_ms)
        limit_s = self._poll_timeout_s if timeout_s is None else timeout_s
        self._claimed_since.clear()
        events = self._log.poll(limit_s if patience_s is None else min(limit_s, patience_s))
        self._progress()
        self._fault("K1")
        for event in events:
            self._on(event)
            self._carry_out()
        self._wake()
        turns = [self._turn(seat) for seat in self.region]
        self._carry_out()
        return bool(events) or any(turns)

    # --- the journey ------------------------------------------------------------------------------------------

    def _on(self, event: LogEvent) -> None:
        """Take in one thing that happened in the log."""
        now_s = self._clock.monotonic_s()
        if isinstance(event, Assigned):
            self._dialogue.assigned(str(event.shard))
            self.region.add(event.shard, now_s)
            return
        seat = self.region.seat(event.shard)
        if seat is None or (event.shard in self._claimed_since and not isinstance(event, Fenced | Lost)):
            return
        try:
            self._on_seat(seat, event, now_s)
        except Inconsistent as error:
            seat.doubts += 1
            if seat.doubts <= DOUBTS_MAX:
                self._aborted(seat, f"{error} {DOUBT}", routine=False)
            else:  # No restart can mend what stands in the log.
                self._fail(seat, msgspec.structs.replace(Failure.of(error, seat.name), directive=Directive.STOP))

    def _on_seat(self, seat: Seat, event: ShardEvent, now_s: float) -> None:
        """Take in what concerns one assigned shard."""
        if seat.phase is Phase.DOWN and isinstance(event, Claimed | Replayed | Aborted):
            return  # Asked for before its supervisor stopped it; it is claimed anew when it may start.
        match event:
            case Fetched(_, records):
                self._fetched(seat, [seat.role.codec.decode(record) for record in records])
            case Committed():
                self._committed(seat, event)
            case Claimed():
                self._claimed(seat, event)
            case Replayed():
                self._replayed(seat, event)
            case Aborted(_, reason, routine):
                self._aborted(seat, reason, routine=routine)
            case Fenced(_, reason) | Lost(_, reason):
                self._dialogue.lost(seat.name, reason, fenced=isinstance(event, Fenced))
                self.region.forget(event.shard, now_s)
            case _:
                assert_never(event)

    def _fetched(self, seat: Seat, letters: list[Letter]) -> None:
        """Put decoded records into the mailbox; a full one pauses its partition."""
        if seat.shard is None:
            return
        seat.shard.offer(letters)
        self._fault("K2")
        if seat.shard.mailbox.full and not seat.paused:
            seat.paused = True
            self._log.pause(seat.place)

    def _turn(self, seat: Seat) -> bool:
        """Decide a batch of one shard and send it off; user code runs here, and only here."""
        shard = seat.shard
        if shard is None or seat.in_flight is not None or seat.phase is not Phase.RUNNING:
            return False
        now_ms = self._clock.epoch_ms()
        if not shard.ready(now_ms):
            return False
        effects = shard.decide(now_ms, elapsed(self._clock, self._turns_max_s / len(self.region)))
        self._progress()
        self._fault("K4")
        if shard.stalled:
            self._dialogue.stalled(seat.name, shard.stalled)
        if effects is None:
            self._check_failure(seat)
            return shard.failure is not None
        self._commit(seat, effects)
        if seat.paused and shard.mailbox.drained:
            seat.paused = False
            self._log.resume(seat.place)
        return True

    def _commit(self, seat: Seat, effects: Effects) -> None:
        self._dialogue.incidents(effects.incidents)
        seat.in_flight = effects
        if effects.plain:
            self._log.append(seat.role.codec.encode_plain(effects))
        else:
            self._log.commit(seat.role.codec.encode(effects))
        self._fault("K9")

    def _committed(self, seat: Seat, event: Committed) -> None:
        """What was decided is true now, and has left."""
        self._fault("K10")
        effects, shard = seat.in_flight, seat.shard
        if effects is None or shard is None:
            return  # Stopped by its supervisor meanwhile: what is true stands in the log.
        shard.committed(effects.first_seq, event.first_offsets.get(seat.role.codec.events))
        seat.in_flight = None
        seat.aborts = 0
        self.counts.add(effects.counts)
        self.commits += 1
        self._check_failure(seat)

    # --- the way up -------------------------------------------------------------------------------------------

    def _claim(self, seat: Seat) -> None:
        seat.drop(Phase.CLAIMING)
        seat.claimed_s = seat.told_s = self._clock.monotonic_s()
        self._fault("K14")
        self._claimed_since.add(seat.place)
        self._log.claim(seat.place, seat.role.codec.restored_topics)

    def _claimed(self, seat: Seat, event: Claimed) -> None:
        self._fault("K15")
        seat.restore(event)
        self._replay_next(seat, event)

    def _replayed(self, seat: Seat, event: Replayed) -> None:
        self._fault("K16")
        assert seat.restoration is not None
        seat.restoration.feed(event)
        if (now_s := self._clock.monotonic_s()) >= seat.told_s + RESTORE_REPORT_S:
            seat.told_s = now_s
            self._dialogue.restoring(seat.name, event.topic, seat.restoration.records)
        if event.complete:
            self._replay_next(seat, event)

    def _replay_next(self, seat: Seat, event: Claimed | Replayed) -> None:
        """Ask for the next stretch, or begin where the shard record says."""
        restoration = seat.restoration
        assert restoration is not None
        if (wanted := restoration.wanted) is not None:
            self._log.replay(event.shard, wanted.topic, wanted.from_offset, wanted.to_offset)
            return
        seat.shard = restoration.shard()
        self._fault("K17")
        seat.phase = Phase.RUNNING
        seat.restoration = None
        seat.doubts = 0
        self._dialogue.restored(seat.name, restoration.records, self._clock.monotonic_s() - seat.claimed_s)
        if (record := seat.shard.record).closed:
            self._dialogue.handed_over(seat.name, record.owner, self._clock.epoch_ms() - restoration.recorded_ms)
        self._log.begin(seat.place, seat.shard.record.next)
        if effects := seat.shard.opening(self._deaths(seat.part.number), mirrored=restoration.mirrored):
            self._commit(seat, effects)
        self.region.supervise(Started(seat.name, seat.incarnation), self._clock.monotonic_s())

    # --- failure ----------------------------------------------------------------------------------------------

    def _aborted(self, seat: Seat, reason: str, *, routine: bool) -> None:
        """Drop everything and claim again, later each time; nobody is to blame."""
        seat.aborts += 1
        delay_s = 0.0 if routine and seat.aborts == 1 else RECLAIM_BACKOFF.delay_s(seat.aborts, 0.0)
        self._dialogue.aborted(seat.name, reason, delay_s, routine=routine)
        seat.drop(Phase.DOWN)
        seat.reclaim_s = self._clock.monotonic_s() + delay_s

    def _check_failure(self, seat: Seat) -> None:
        """Tell the supervisor of a handler's failure that escalated, once the good prefix is committed."""
        if seat.shard is not None and seat.shard.failure is not None and seat.in_flight is None:
            self._fail(seat, seat.shard.failure)

    def _fail(self, seat: Seat, failure: Failure) -> None:
        seat.drop(Phase.DOWN)
        self._log.pause(seat.place)
        now_s = self._clock.monotonic_s()
        failure = self.region.tree.policy.of_one_gone(failure)
        self.region.supervise(Failed(seat.name, seat.incarnation, failure), now_s)
        self._dialogue.failed(seat.name, failure, self.region.outlook(seat.name, now_s))

    def _wake(self) -> None:
        """Do what has become due: restarts after a backoff, claims after an abort."""
        now_s = self._clock.monotonic_s()
        self.region.due(now_s)
        self._carry_out()
        for seat in self.region:
            if seat.reclaim_s is not None and seat.reclaim_s <= now_s:
                self._claim(seat)

    def _carry_out(self) -> None:
        """Do what the supervision tree wants, in order."""
        while (command := self.region.next_command()) is not None:
            match command:
                case Start(child, incarnation):
                    if seat := self.region.named(child):
                        seat.incarnation = incarnation
                        self._claim(seat)
                case Stop(child, incarnation):
                    if seat := self.region.named(child):
                        seat.drop(Phase.DOWN)
                        self._log.pause(seat.place)
                    self.region.supervise(Exited(child, incarnation), self._clock.monotonic_s())
                case _:
                    assert_never(command)

    # --- the way down -----------------------------------------------------------------------------------------

    def drain(self, deadline_s: float) -> bool:
        """Wait for the commits in flight, then say of each shard that nothing is under way; False if time ran out."""
        if not self._answered(deadline_s):
            return False
        for seat in self.region:
            if seat.phase is Phase.RUNNING and seat.shard and (effects := seat.shard.closing()):
                self._commit(seat, effects)
        return self._answered(deadline_s)

    def _answered(self, deadline_s: float) -> bool:
        """Take nothing new until every commit is answered; False if time ran out."""
        while any(seat.in_flight is not None for seat in self.region):
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                return False
            self._claimed_since.clear()
            for event in self._log.poll(min(left_s, self._poll_timeout_s)):
                if not isinstance(event, Fetched | Assigned):
                    self._on(event)
        return True

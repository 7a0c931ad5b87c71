"""The message path, top to bottom: from a record that was read to a transaction that is committed.

Phases: RUNNING and COMMITTING. Before them a shard is CLAIMING (``bridge.log``) and RECOVERING (``bridge.recovery``);
after them it is ABORTED or STOPPED, until it is claimed again. While one shard commits, the loop decides the next. A
turn result becomes visible with its commit or not at all: when a commit fails, the shard is dropped and claimed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import filterfalse
from typing import assert_never

from repertory.actors.shard.mailbox import Delivery
from repertory.actors.shard.shard import Shard
from repertory.actors.shard.turn_result import Counts, TurnResult
from repertory.bridge import kill_points
from repertory.bridge.assigned_shard import DOWN, AssignedShard, ShardPhase
from repertory.bridge.departures import Departures, Newer
from repertory.bridge.drain import Drain
from repertory.bridge.effect_runner import NO_EFFECTS, EffectRunner, NoEffects
from repertory.bridge.interruption import WholeTicks
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log import port
from repertory.bridge.log.clock import Clock, elapsed
from repertory.bridge.recovery import Recovery
from repertory.bridge.region import ShardRegion
from repertory.bridge.reports import ReportSink
from repertory.bridge.worker_log import WorkerLog
from repertory.supervision import Exited, Failed, Failure, Start, Started, Stop

#: A contradiction in the log is read again so many times before it stops the shard: a broker that has just restarted
#: may not show all records yet.
DOUBTS_MAX, DOUBT = 2, "The log is read again before the shard is stopped for good."

#: What answers a request of the loop.
_ANSWERS = port.Claimed | port.Replayed | port.Aborted | port.OutputsRefused


class ShardLoop:
    """One worker's loop. One thread calls its methods; nothing blocks except the log's ``poll``."""

    def __init__(
        self,
        log: port.Log,
        region: ShardRegion,
        clock: Clock,
        *,
        poll_timeout_s: float,
        turn_max_s: float = float("inf"),
        turns_max_s: float = float("inf"),
        report: ReportSink = lambda _report: None,
        progress: Callable[[], None] = lambda: None,
        deaths: Callable[[int], Iterable[tuple[int, int]]] = lambda _number: (),
        newer: Newer = lambda _entity, _kind, _unknown: None,
        is_stopping: Callable[[], bool] = lambda: False,
        effects: EffectRunner | NoEffects = NO_EFFECTS,
    ) -> None:
        #: ``region``: the shards of this worker. ``newer``: names what another build knows (``Catalogue.known``).
        self._log, self.region, self._clock, self._worker_log = log, region, clock, WorkerLog(report)
        #: How long one shard, and all together, may decide before the log is polled again; each has an equal share.
        self._poll_timeout_s, self._turn_max_s, self._turns_max_s = poll_timeout_s, turn_max_s, turns_max_s
        self._progress, self._deaths, self._is_stopping, self._effects = progress, deaths, is_stopping, effects
        self._departures = Departures(log, region, self._worker_log, newer, commit=self._commit, stop=self._stop)
        self.counts, self.commits, self.ticks = Counts(), 0, WholeTicks()

    def tick(self, timeout_s: float | None = None) -> bool:
        """Handle one bounded batch of each ready shard; return whether anything happened.

        Waits ``timeout_s`` (default: as configured) at most if there is nothing to do. What leaves it as an exception
        (RegionEscalated, what ``Log.poll`` raises, KeyboardInterrupt) ends the loop: later calls raise LoopInterrupted.
        """
        with self.ticks:
            limit_s = self._poll_timeout_s if timeout_s is None else timeout_s
            due_in_s = self.region.next_due_in_s(self._clock.monotonic_s(), self._clock.epoch_ms)
            waits = limit_s, due_in_s, self._effects.next_in_s(self.region, self._clock.epoch_ms)
            events = self._log.poll(min(each for each in waits if each is not None))
            self._progress()
            kill_points.reached("polled")
            for event in events:
                self._on(event)
                self._carry_out()
            self._wake()
            self._departures.step()
            turns = [self._turn(assigned) for assigned in self.region]
            self._carry_out()
            return self._effects.step(self.region, self._clock.epoch_ms) or bool(events) or any(turns)

    # --- events and turns -------------------------------------------------------------------------------------

    def _on(self, event: port.LogEvent) -> None:
        now_s = self._clock.monotonic_s()
        if isinstance(event, port.Assigned):
            self._worker_log.assigned(self.region.add(event.shard, now_s), self._log.partition_count)
            return
        assigned = self.region.assigned(event.shard)
        if assigned is None:
            return
        try:
            self._on_shard(assigned, event, now_s)
        except Inconsistent as error:
            if self._departures.excuse(assigned, error):
                return
            if assigned.doubt() <= DOUBTS_MAX:
                self._aborted(assigned, f"{error} {DOUBT}", routine=False)
            else:
                self._fail(assigned, error.failure(assigned.name))

    def _on_shard(self, assigned: AssignedShard, event: port.ShardEvent, now_s: float) -> None:
        if assigned.phase in DOWN and isinstance(event, _ANSWERS):
            return  # Answers a request from before the stop or abort; the shard is claimed again when it starts.
        match event:
            case port.Fetched(_, records):
                self._fetched(assigned, [assigned.hosted.codec.decode(record) for record in records])
            case port.Committed():
                self._committed(assigned, event)
            case port.Claimed():
                kill_points.reached("claimed")
                self._replay_next(assigned, assigned.begin_recovery(event))
            case port.Replayed():
                self._replayed(assigned, event)
            case port.Aborted(_, reason, routine):
                self._aborted(assigned, reason, routine=routine)
            case port.OutputsRefused():
                self._refused(assigned, event)
            case port.Fenced(_, reason) | port.Lost(_, reason):
                self._worker_log.lost(assigned.name, reason, fenced=isinstance(event, port.Fenced))
                self.region.forget(event.shard, now_s)
            case _:
                assert_never(event)

    def _fetched(self, assigned: AssignedShard, deliveries: list[Delivery]) -> None:
        """Put decoded records into the mailbox; a full mailbox pauses its partition."""
        if assigned.shard is None or self._departures.see(assigned, deliveries):
            return
        assigned.shard.offer(deliveries)
        kill_points.reached("queued")
        if assigned.must_pause(len(self.region)):
            self._log.pause(assigned.place)

    def _turn(self, assigned: AssignedShard) -> bool:
        """Decide one batch of one shard and send its commit; user code runs here and nowhere else."""
        shard = assigned.shard
        if shard is None or assigned.phase is not ShardPhase.RUNNING or self._departures.concern(assigned):
            return False
        now_ms = self._clock.epoch_ms()
        if not shard.ready(now_ms):
            return False
        time_is_up = elapsed(self._clock, min(self._turn_max_s, self._turns_max_s / len(self.region)))
        result = shard.decide(now_ms, time_is_up, assigned.refusals.records_max)
        self._progress()
        kill_points.reached("decided")
        if shard.stalled:
            self._worker_log.stalled(assigned.name, shard.stalled)
        if result is None:
            self._check_failure(assigned)
            return shard.failure is not None
        self._commit(assigned, result)
        if assigned.must_resume(len(self.region)):
            self._log.resume(assigned.place)
        return True

    def _commit(self, assigned: AssignedShard, result: TurnResult) -> None:
        self._worker_log.incidents(result.incidents)
        assigned.send(result)
        if result.nontransactional:
            self._log.append(assigned.hosted.codec.encode_nontransactional(result))
        else:
            self._log.commit(assigned.hosted.codec.encode(result))
        kill_points.reached("handed-over")

    def _committed(self, assigned: AssignedShard, event: port.Committed) -> None:
        """Tell the shard that its turn is committed."""
        kill_points.reached("commit-heard")
        shard = assigned.shard
        if shard is None or assigned.phase is not ShardPhase.COMMITTING:
            return  # Stopped by its supervisor in the meantime; its next recovery reads what was committed.
        result = assigned.committed()
        shard.committed(result.first_seq, event.first_offsets.get(assigned.hosted.codec.events))
        self.counts.add(result.counts)
        self.commits += 1
        self._check_failure(assigned)

    # --- claim and recovery -----------------------------------------------------------------------------------

    def _claim_some(self) -> None:
        """Claim the shards whose turn it is, after all events of the poll: none of those is about this claim."""
        if self._is_stopping():
            return  # What other workers of the node give up in the same stop is for the other nodes.
        now_s = self._clock.monotonic_s()
        for assigned in filterfalse(self._departures.concern, self.region.claimable(now_s)):
            assigned.claim(now_s)
            kill_points.reached("claiming")
            self._log.claim(assigned.place, assigned.hosted.codec.restored_topics)

    def _replayed(self, assigned: AssignedShard, event: port.Replayed) -> None:
        kill_points.reached("restoring")
        recovery = assigned.recovery
        recovery.feed(event)
        if assigned.is_report_due(self._clock.monotonic_s()):
            self._worker_log.restoring(assigned.name, event.topic, recovery.records)
        if event.complete:
            self._replay_next(assigned, recovery)

    def _replay_next(self, assigned: AssignedShard, recovery: Recovery) -> None:
        """Request the next range of the recovery; if there is none, start the shard where its shard record says."""
        if (wanted := recovery.wanted) is not None:
            self._log.replay(assigned.place, wanted.topic, wanted.from_offset, wanted.to_offset)
            return
        recovered = recovery.recovered()
        shard, record = Shard(assigned.config, recovered, assigned.refusals.reasons), recovered.record
        kill_points.reached("restored")
        assigned.start(shard)
        self._worker_log.restored(assigned.name, recovery.records, self._clock.monotonic_s() - assigned.claimed_s)
        if record.closed:
            self._worker_log.handed_over(assigned.name, record.owner, self._clock.epoch_ms() - recovered.recorded_ms)
        self._log.begin(assigned.place, record.next)
        number = assigned.config.number
        if result := shard.takeover_result(self._deaths(number), self._effects.deaths(number)):
            self._commit(assigned, result)
        self.region.supervise(Started(assigned.name, assigned.incarnation), self._clock.monotonic_s())

    # --- failure ----------------------------------------------------------------------------------------------

    def _aborted(self, assigned: AssignedShard, reason: str, *, routine: bool) -> None:
        """Drop the shard's state and claim again with increasing delay; this does not count as a failure."""
        delay_s = assigned.abort(self._clock.monotonic_s(), routine=routine)
        self._worker_log.aborted(assigned.name, reason, delay_s, routine=routine)

    def _refused(self, assigned: AssignedShard, refused: port.OutputsRefused) -> None:
        """Start over without the command whose outputs are refused for good, or with fewer commands to find it."""
        if (failure := assigned.refused(refused)) is None:
            self._aborted(assigned, refused.reason, routine=True)
        else:
            self._fail(assigned, failure)

    def _check_failure(self, assigned: AssignedShard) -> None:
        """Report an escalated failure of a handler to the supervisor, once the commands before it are committed."""
        shard = assigned.shard
        if shard is not None and shard.failure is not None and assigned.phase is ShardPhase.RUNNING:
            self._fail(assigned, shard.failure)

    def _fail(self, assigned: AssignedShard, failure: Failure) -> None:
        self._stop(assigned)
        now_s = self._clock.monotonic_s()
        failure = self.region.tree.policy.of_one_gone(failure)
        self.region.supervise(Failed(assigned.name, assigned.incarnation, failure), now_s)
        self._worker_log.failed(assigned.name, failure, self.region.describe_decision(assigned.name, now_s))

    def _stop(self, assigned: AssignedShard) -> None:
        assigned.stop()
        self._log.pause(assigned.place)

    def _wake(self) -> None:
        """Run what is due: restarts after a backoff, claims."""
        self.region.due(self._clock.monotonic_s())
        self._carry_out()
        self._claim_some()

    def _carry_out(self) -> None:
        """Carry out the commands of the supervision tree, in order."""
        while (command := self.region.next_command()) is not None:
            assigned = self.region.named(command.child)
            match command:
                case Start(_, incarnation):
                    if assigned is not None:
                        assigned.await_claim(self._clock.monotonic_s(), incarnation)
                case Stop(child, incarnation):
                    if assigned is not None:
                        self._stop(assigned)
                    self.region.supervise(Exited(child, incarnation), self._clock.monotonic_s())
                case _:
                    assert_never(command)

    # --- drain ------------------------------------------------------------------------------------------------

    def drain(self, deadline_s: float) -> bool:
        """Finish the turns under way and hand each shard over; False if the deadline passed first."""
        with self.ticks:
            return Drain(
                self._log, self.region, self._clock,
                on=self._on, commit=self._commit, stop=self._stop, poll_timeout_s=self._poll_timeout_s,
            ).run(deadline_s)  # fmt: skip

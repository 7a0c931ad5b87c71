"""``Shard``: the entities, the mailbox and the stash of one partition; it decides the result of each turn.

Phase: running. Before it, ``bridge.recovery`` reads the committed state, a `RecoveredShard`; after it, the recovery of
the next owner does.

Pure: no clock, no I/O. The owner offers deliveries, calls :meth:`Shard.decide`, commits the `TurnResult` as one
transaction and calls :meth:`Shard.committed`. If the commit fails for any reason, the owner discards the whole shard
and recovers another from the log, so decisions that were not committed leave no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import msgspec

from repertory.actors.message import Envelope
from repertory.actors.shard.cells import Cells
from repertory.actors.shard.changelog import ChangelogEntry, ShardRecord
from repertory.actors.shard.command_runner import CommandRunner
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.control_runner import ControlRunner
from repertory.actors.shard.crash_guard import CrashGuard
from repertory.actors.shard.effect_settler import EffectDeath, EffectSettler
from repertory.actors.shard.effects import EffectOutcome
from repertory.actors.shard.entities import Entities
from repertory.actors.shard.intake import Intake
from repertory.actors.shard.mailbox import Delivery, Mailbox
from repertory.actors.shard.query_runner import QueryRunner
from repertory.actors.shard.recovered import RecoveredShard
from repertory.actors.shard.redelivery import Redelivery, next_epoch
from repertory.actors.shard.turn import Turn
from repertory.actors.shard.turn_result import Counts, Incident, TurnResult
from repertory.supervision.directive import Failure


class Shard:
    """Mutable; owned by the thread of the loop."""

    def __init__(
        self, config: ShardConfig, recovered: RecoveredShard, refused: Mapping[int | str, str] = MappingProxyType({})
    ) -> None:
        """``refused``: the commands whose outputs the log refuses for good, by offset, and why; timers by their key."""
        record = recovered.record
        self.config = config
        #: The shard record after the last turn.
        self.record = record
        self.stash = recovered.stash
        self.mailbox = Mailbox(config.limits, record.next)
        self._entities = Entities(
            config.behaviour, recovered.cells, recovered.window, recovered.stash, recovered.budget, record.seq
        )
        #: What the shard sends later.
        self.timers = recovered.timers
        #: What the shard asks the world outside. The owner runs what is startable, between two turns.
        self.effects = recovered.effects
        self.effects.epoch = record.changelog
        self._digest, self._asks = recovered.digest, recovered.asks
        self._guard = CrashGuard(config, record, recovered.end_offset)
        self._refused = dict(refused)
        self._runner = CommandRunner(
            config, self._entities, self._guard, self.stash, self.timers, self.effects, self._refused
        )
        self._queries = QueryRunner(config, self._entities, self._guard, self._refused)
        self._settler = EffectSettler(config, self.effects)
        controls = ControlRunner(self.stash, self._entities.budget, self._asks, self._settler, config.behaviour)
        redelivery = Redelivery(config, record.next, recovered.seen) if record.epoch else None
        runners = self._runner, self._queries, controls
        self._intake = Intake(config, self.mailbox, self.stash, runners, self._guard, record, redelivery)
        self._has_group_offset, self._recovery_incidents = recovered.has_group_offset, recovered.incidents

    @property
    def cells(self) -> Cells:
        """The entities."""
        return self._entities.cells

    @property
    def failure(self) -> Failure | None:
        """Set when a failure escalates: earlier commands are committed first, then the failure is reported."""
        return self._runner.failure

    @property
    def handling(self) -> Envelope | None:
        """The command that is being handled, or was last. Another thread can read it if the handler never returns."""
        return self._runner.envelope if self._queries.envelope is None else self._queries.envelope

    @property
    def stalled(self) -> str | None:
        """Why the shard takes no command although there are some; None if it is not stalled."""
        return self._runner.stalled

    # --- called by the owner ----------------------------------------------------------------------------------

    def offer(self, deliveries: Iterable[Delivery]) -> None:
        """Put deliveries into the mailbox."""
        deliveries = tuple(deliveries)
        self.mailbox.offer(deliveries)
        if self._runner.stalled and any(map(self._intake.may_make_room, deliveries)):
            self._runner.stalled = None

    def ready(self, now_ms: int) -> bool:
        """Return whether ``decide`` has commands to handle, or something to send or settle."""
        if self.failure is not None or self.config.recovers_only:
            return False
        self._watch_clock(now_ms)
        due_ms = self.next_due_ms()
        return (len(self.mailbox) > 0 and self.stalled is None) or (due_ms is not None and due_ms <= now_ms)

    def finished(self, outcome: EffectOutcome) -> bool:
        """Take the outcome of an effect, which the next turn settles; return False if it is ignored: see `Effects`."""
        return self.effects.finished(outcome)

    def next_due_ms(self) -> int | None:
        """Return when (epoch) a stashed command, a timer or a shard record is due; 0 if an effect has ended; else None.

        When an effect can be started is not among them: see `Effects.next_due_ms`.
        """
        if self._settler.has_work():
            return 0
        due = self.stash.next_due_ms(), self.timers.next_due_ms(), self._intake.record_due_ms()
        return min((each for each in due if each is not None), default=None)

    def takeover_result(
        self, deaths: Iterable[tuple[int, int]], effect_deaths: Iterable[EffectDeath] = ()
    ) -> TurnResult | None:
        """Return the result to commit before a recovered shard handles any command; None if none is needed.

        ``deaths``: (offset, pid) of each process that died while it handled a command of this shard. If the group has
        no offset, it gets one together with the shard record, unless the shard is new too. ``effect_deaths``: the
        effects of this shard that ran in a process which died. While there are effects, each owner writes one result:
        it numbers the owners (`Effects.epoch`), and no effect starts before.
        """
        last = self.record
        entries, blamed = self._settler.died(effect_deaths)
        incidents = [*blamed, *self._recovery_incidents]
        incidents += self._guard.takeover(last, deaths, self._intake.next, self.stash)
        # Before any command is handled, the record must name the owner whose memory knows the command under way.
        is_ours = not self.config.owner or (last.owner == self.config.owner and not last.closed)
        if (record := next_epoch(self.config, last)) is not None:
            self.record = record
            self._intake.redelivery = self._intake.redelivery or Redelivery(self.config, self._intake.next, None)
        elif not (incidents or self.effects.records) and is_ours and (self._has_group_offset or last.changelog == 0):
            return None
        result = self._record_only(incidents=incidents, entries=entries)
        self.effects.epoch = self.record.changelog
        return result

    def handover_result(self) -> TurnResult | None:
        """Return the closing record, which tells the next owner that no command is under way; None if none is needed.

        Called when no commit is in flight. After it, the shard must not be used any more.
        """
        if not self.config.owner or self.record.changelog == 0:
            return None
        return self._record_only(closed=True)

    def decide(
        self, now_ms: int, time_is_up: Callable[[], bool] = lambda: False, records_max: int | None = None
    ) -> TurnResult | None:
        """Handle stashed commands that are due and then commands from the mailbox, up to a batch.

        Then send what is due, and settle the effects that have ended.

        ``now_ms`` is epoch time; ``time_is_up`` is called after each command, and ends the batch if it returns True.
        ``records_max``: take no more commands than that, and none if something is due.
        Returns None if no command was handled, nothing was due, and no announcement must be written or cleared.
        """
        guard, runner, has_alone = self._guard, self._runner, self._guard.has_alone
        turn = Turn(self.config.policy, self.stash, self._asks, self.timers, now_ms, self._refused)
        batch_max = records_max or guard.batch_max(self._intake.next)
        runner.stalled = None
        self._watch_clock(now_ms)
        guard.begin_turn()
        if records_max is not None:  # What the log refuses is searched: first among what is due.
            self._fire(turn, records_max)
            batch_max = 0 if turn.fired else batch_max
        while turn.handled < batch_max and runner.failure is None:
            key = self.stash.due(now_ms) if self.stash.size else None
            if has_alone and (alone := self._alone(key)) >= 0:
                if turn.handled or (key is None and self.stash.size and not self._intake.can_take(now_ms, turn)):
                    break
                if guard.must_announce(alone):
                    return self._record_only(announce=alone)
                batch_max = 1
            if key is None:
                if not self._intake.take(now_ms, turn, 1 if has_alone else batch_max, time_is_up):
                    break
            else:
                self._intake.retry(key, now_ms, turn)
                if time_is_up() or turn.bytes + turn.asked.bytes >= self.config.limits.turn_bytes_max:
                    break
        guard.leave()
        if runner.failure is None:
            self._settle(turn, now_ms, records_max)
        if turn.handled or turn.changelog:
            return self._finish(turn, now_ms)
        # The announced command was not handled either, so its announcement is cleared; or a shard record is due.
        if max(turn.announces, self.record.guarded) >= 0 or (self._intake.record_due_ms() or now_ms + 1) <= now_ms:
            return self._record_only(announce=turn.announces)
        return None

    def _watch_clock(self, now_ms: int) -> None:
        if self._entities.watch_clock(now_ms):
            self.timers.clock_set_back(now_ms)

    def _fire(self, turn: Turn, count_max: int) -> None:
        turn.fire(count_max, self.config.limits.turn_bytes_max, str(self.config.id))

    def _settle(self, turn: Turn, now_ms: int, records_max: int | None) -> None:
        """Send what is due, and settle the effects that have ended."""
        count_max = self.config.limits.timers_per_turn_max
        if records_max is None:
            self._fire(turn, count_max)
        else:
            count_max = records_max - turn.handled - len(turn.fired)
        self._settler.settle(now_ms, turn, count_max)

    def committed(self, first_seq: int, journal_offset: int | None) -> None:
        """Note that the last turn is committed; ``journal_offset`` is that of its first journal record."""
        if journal_offset is not None:
            self._entities.window.placed(first_seq, journal_offset)
        self.effects.committed()

    # --- the end of a turn ------------------------------------------------------------------------------------

    def _finish(self, turn: Turn, now_ms: int) -> TurnResult:
        entities, redelivery, last = self._entities, self._intake.redelivery, self.record
        if not turn.handled:  # Nothing but timers and effects.
            turn.anchor = max(self._intake.next - 1, 0)
        turn.report(str(self.config.id))
        entities.expire_budgets(now_ms, turn)
        turn.counts.journaled = entities.seq - last.seq
        entities.window.resize(len(entities.cells), turn.counts.journaled, turn.bytes)
        record = None
        if redelivery is not None and self._can_do_without_transaction():
            record = redelivery.end_without_transaction(turn, last, self._intake.next, entities.seq, now_ms)
        nontransactional = record is not None
        self.record = record or self._end_transaction(turn, now_ms)
        return TurnResult(
            self.config.id, turn.outputs, turn.changelog, self.record, turn.anchor, last.seq, turn.counts,
            turn.incidents, nontransactional, turn.handled, tuple(turn.refused), turn.fired,
        )  # fmt: skip

    def _can_do_without_transaction(self) -> bool:
        entities = self._entities
        return self.failure is None and not self._guard.is_careful and not entities.window.due(entities.seq)

    def _end_transaction(self, turn: Turn, now_ms: int) -> ShardRecord:
        entities, guard, redelivery, last = self._entities, self._guard, self._intake.redelivery, self.record
        tail_start = entities.write(turn, 0 if redelivery is None else redelivery.ahead(last))
        seen = last.seen if redelivery is None else redelivery.write(turn.changelog, last.seen, self._intake.next)
        turn.changelog.extend(self._asks.evict(now_ms, turn.asked.decided))
        self._digest.write_all(turn.changelog)
        guard.end_turn(turn.anchor if turn.handled else -1, self._intake.next, self.stash)
        if guard.is_careful:
            guard.announce(self._alone(self.stash.due(now_ms) if self.stash.size else None))
        record = msgspec.structs.replace(
            last, next=self._intake.next, seq=entities.seq, tail_start=tail_start,
            tail_offset=entities.window.tail_offset(tail_start),
            changelog=last.changelog + len(turn.fired) + len(turn.changelog) + 1, seen=seen, digest=self._digest.value,
            answers_horizon_ms=self._asks.own_horizon_ms, auto_horizon_ms=self._asks.auto_horizon_ms,
            ahead=self._intake.ahead.since(self._intake.next),
        )  # fmt: skip
        return guard.signed(record)

    def _record_only(
        self,
        *,
        announce: int = -1,
        closed: bool = False,
        incidents: list[Incident] | None = None,
        entries: list[ChangelogEntry] | None = None,
    ) -> TurnResult:
        """Return a turn result that writes the shard record, and what a takeover changes."""
        changelog = entries or []
        self._guard.announce(announce)
        self._intake.recorded()
        self._digest.write_all(changelog)
        number = self.record.changelog + len(changelog) + 1
        record = msgspec.structs.replace(self.record, changelog=number, digest=self._digest.value)
        record = self.record = self._guard.signed(record, closed=closed)
        return TurnResult(
            self.config.id, [], changelog, record, max(record.next - 1, 0), record.seq, Counts(), incidents or []
        )

    def _alone(self, due: str | None) -> int:
        """Return the offset of the next command if it must be handled alone, else -1. ``due``: the stashed key due."""
        coming = next(iter(self.mailbox), None) if due is None else self.stash.queue(due)[0].envelope
        return -1 if coming is None or not self._guard.goes_alone(coming.offset) else coming.offset

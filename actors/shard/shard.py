"""``Shard``: one partition's entities, its mailbox, its waiting commands, and what a turn of it wants.

Pure: no clock, no I/O. The owner feeds letters, calls :meth:`Shard.decide`, commits the Effects as one transaction
and calls :meth:`Shard.committed`. If the commit fails in whatever way, the owner throws the whole shard away and
restores another from the log: what was decided but not committed has left nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from repertory.actors.control import CONTROL
from repertory.actors.message import Envelope, Undecodable
from repertory.actors.placement import partition_of
from repertory.actors.shard.cells import Cell
from repertory.actors.shard.config import AT_LEAST_ONCE, ShardConfig
from repertory.actors.shard.crash_guard import CrashGuard, crash_guard_for, witnessed
from repertory.actors.shard.decision import Decision, decide
from repertory.actors.shard.mailbox import Delivery, Mailbox
from repertory.actors.shard.redelivery import AHEAD, Redelivery, next_epoch
from repertory.actors.shard.restart_budget import RestartBudget
from repertory.actors.shard.snapshot_window import SnapshotWindow
from repertory.actors.shard.stash import Stash, Stashed
from repertory.actors.shard.turn import Turn, outputs_of
from repertory.actors.shard.turn_result import (
    Counts,
    Incident,
    Journaled,
    ShardRecord,
    StashedRecord,
    StateRecord,
    StateWritten,
    TurnResult,
)
from repertory.supervision.directive import Directive, Failure
from repertory.supervision.policy import judge

#: Places in a mark: the number of the shard, and offset + 1 of its command under way (0: none).
SHARD, COMMAND = 1, 2


class Shard:
    """Mutable; owned by the thread of the loop. Made by ``bridge.recovery.Recovery``.

    ``high``: end of its commands at the takeover.
    """

    def __init__(self, config: ShardConfig, record: ShardRecord, end_offset: int = 0) -> None:
        self.config = config
        self.record = record
        self.cells: dict[str, Cell] = {}
        self.stash = Stash()
        self.budget = RestartBudget(config.policy.within_s)
        self.mailbox = Mailbox(config.limits, record.next)
        self.window = SnapshotWindow(config.limits.snapshot_window_records, record.tail_start, record.tail_offset)
        #: Set when a handler's failure escalates: the good prefix is committed, then the supervisor is told.
        self.failure: Failure | None = None
        #: What a handler has now, or had last. Another thread may ask, should that handler never return.
        self.handling: Envelope | None = None
        #: Why no command is taken although there are some; None if nothing is in the way.
        self.stalled: str | None = None
        #: Offsets of the control records in the mailbox that were heard before their turn came.
        self._heard: set[int] = set()
        self._next = record.next
        self._seq = record.seq
        #: None as long as this log has only known exactly once.
        self.redelivery: Redelivery | None = None
        self._handlers = config.behaviour.handlers
        self._in_flight = config.in_flight
        self._quarantined = record.suspect if record.deaths >= config.limits.deaths_max else -1
        self._cause_prefix = f"{config.topic}/{config.id.partition}/"
        self._crash_guard = crash_guard_for(record, config.owner, end_offset, config.limits.batch_records_max)

    # --- the owner's side -------------------------------------------------------------------------------------

    def offer(self, deliveries: Iterable[Delivery]) -> None:
        """Put letters into the mailbox."""
        deliveries = tuple(deliveries)
        self.mailbox.offer(deliveries)
        if self.stalled and any(map(_is_control, deliveries)):
            self.stalled = None  # An operator may be about to make room.

    def ready(self, now_ms: int) -> bool:
        """Whether ``decide`` has something to do."""
        if self.failure is not None:
            return False
        due_ms = self.stash.next_due_ms()
        return (len(self.mailbox) > 0 and self.stalled is None) or (due_ms is not None and due_ms <= now_ms)

    def decide(self, now_ms: int, time_is_up: Callable[[], bool] = lambda: False) -> TurnResult | None:
        """Handle waiting commands that are due and then commands from the mailbox, up to a batch of them.

        ``now_ms`` is epoch time; ``enough`` is asked behind each command, and ends the batch when it says so. Returns
        None if nothing was handled, and no mark is to be set or taken back.
        """
        turn = Turn(self.stash, self.budget)
        batch_max = self.config.limits.batch_records_max
        self.stalled = None
        self._in_flight[SHARD] = self.config.number
        has_alone = self._crash_guard is not None or self.record.suspect >= 0
        while turn.handled < batch_max and self.failure is None:
            key = self.stash.due(now_ms) if self.stash.size else None
            if has_alone and (alone := self._alone(key)) >= 0:
                if turn.handled or (key is None and self.stash.size and not self._can_take(turn)):
                    break
                if self.record.guarded != alone and self._crash_guard is not None and self._crash_guard.concerns(alone):
                    return self._record_only(msgspec.structs.replace(self._current_record(), guarded=alone), [])
                batch_max = 1
            if key is not None:
                self._retry(key, now_ms, turn)
            elif not self._take(now_ms, turn):
                break
            if time_is_up() or turn.bytes >= self.config.limits.turn_bytes_max:
                break
        if not turn.handled and self.record.guarded >= 0:  # Nor was what is marked: nobody can die of it now.
            return self._record_only(self._current_record(), [])
        return self._finish(turn, now_ms) if turn.handled else None

    def committed(self, first_seq: int, journal_offset: int | None) -> None:
        """Note that the last Effects happened; ``journal_offset`` is that of their first journal record."""
        if journal_offset is not None:
            self.window.placed(first_seq, journal_offset)

    # --- one command ------------------------------------------------------------------------------------------

    def _take(self, now_ms: int, turn: Turn) -> bool:
        deliveries = self.mailbox.deliveries
        if not deliveries or (self.stash.size and not self._can_take(turn)):
            return False
        delivery = deliveries.popleft()
        self.mailbox.bytes -= len(delivery.value or b"")
        self._next = delivery.offset + 1
        redelivery = self.redelivery
        if redelivery is not None and redelivery.repeats(delivery.headers):
            turn.counts.repeated += 1
        elif isinstance(delivery, Undecodable):
            turn.dead_letter(delivery, delivery.error, delivery.reason)
        elif type(delivery.message) not in self._handlers:  # The decoder knows no other but an operator's.
            if delivery.offset not in self._heard:
                turn.operate(delivery)
            self._heard.discard(delivery.offset)
            turn.answer(delivery)
        elif self.stash.size and delivery.key in self.stash:
            if self._has_room(delivery):
                turn.join(delivery)
            else:
                turn.overflowed += 1
                self._overflow(delivery, 1, turn)
        else:
            self._handle(delivery, None, now_ms, turn)
        if self.failure is not None:
            self._next = delivery.offset  # Not handled: it is the first that the shard's next life sees.
            return False
        turn.anchor = delivery.offset
        turn.handled += 1
        return redelivery is None or redelivery.took(len(turn.outputs))

    def _can_take(self, turn: Turn) -> bool:
        """Tell whether the first letter could wait, if it must; if not, hear what an operator says behind it."""
        delivery = self.mailbox.deliveries[0]
        if self.config.limits.dead_letter_overflow or _is_control(delivery) or self._has_room(delivery):
            return True
        self._listen(turn)
        self.stalled = None
        self._has_room(delivery)
        return False

    def _listen(self, turn: Turn) -> None:
        """Do at once what an operator tells behind commands that have no room: it may be what makes room.

        The order stays: the letter is taken, and answered, when its turn comes. It is heard once: a command that fails
        again would else be retried for ever.
        """
        for delivery in self.mailbox:
            if isinstance(delivery, Envelope) and _is_control(delivery) and delivery.offset not in self._heard:
                self._heard.add(delivery.offset)
                written = len(turn.changelog)
                turn.operate(delivery)
                if len(turn.changelog) > written:
                    turn.anchor = max(turn.anchor, self._next - 1, 0)
                    turn.handled += 1

    def _retry(self, key: str, now_ms: int, turn: Turn) -> None:
        first = self.stash.queue(key)[0]
        self._handle(first.envelope, first.record, now_ms, turn)
        if self.failure is None:
            turn.anchor = first.envelope.offset
            turn.handled += 1

    def _handle(self, envelope: Envelope, waited: StashedRecord | None, now_ms: int, turn: Turn) -> None:
        """Run one command; ``waited`` is its record if it comes from the waiting room."""
        config = self.config
        key = envelope.key
        cell = self.cells.get(key)
        if cell is None:
            if partition_of(key.encode(), config.partitions) != config.id.partition:
                reason = f"key {key!r} belongs on partition {partition_of(key.encode(), config.partitions)}"
                turn.dead_letter(envelope, "WrongPartition", reason)
                return
            cell = Cell(config.behaviour.initial(), config.behaviour.initial_data)
        if envelope.offset == self._quarantined:
            turn.quarantine(envelope, self._where(envelope), self.record.deaths, waits=waited is not None)
            return
        asks = self._handlers[type(envelope.message)].takes_context
        self.handling = envelope
        self._in_flight[COMMAND] = envelope.offset + 1
        try:
            decision = decide(
                config.behaviour, cell.state, cell.data, envelope, config.directory,
                cause=f"{self._cause_prefix}{envelope.offset}" if asks else "",
                attempt=1 if waited is None else waited.attempt,
                bytes_max=config.limits.output_bytes_max,
            )  # fmt: skip
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  whatever user code raises is its supervisor's to judge
            if config.behaviour.has_mutable_fields:
                cell.state = config.behaviour.state_decode(cell.data)
            self._in_flight[COMMAND] = 0
            self._failed(envelope, waited, error, now_ms, turn)
            return
        self._in_flight[COMMAND] = 0
        self._apply(cell, envelope, decision, turn)
        if decision.outputs or decision.reply is not None:
            turn.outputs.extend(outputs_of(envelope, decision))
            turn.bytes += sum(map(len, decision.sent), len(decision.reply_data))
        if waited is not None:
            turn.leave(envelope)

    def _apply(self, cell: Cell, envelope: Envelope, decision: Decision, turn: Turn) -> None:
        if decision.rejected:
            turn.counts.rejected += 1
            return
        turn.counts.applied += 1
        turn.bytes += len(decision.data)
        key = envelope.key
        for index, data in enumerate(decision.events):
            cell.version += 1
            cell.seq = self._seq
            self._seq += 1
            turn.outputs.append(Journaled(key, data, cell.version, cell.seq, envelope.offset, index))
            self.window.wrote(key, cell.seq)
            turn.bytes += len(data)
        if decision.data is cell.data and not decision.stopped:
            return
        cell.state, cell.data = decision.state, decision.data
        self.cells[key] = cell
        if self.config.behaviour.stateful:
            turn.changed[key] = None
        if decision.stopped:
            cell.version = 0
            if not self.config.behaviour.journaled:
                del self.cells[key]

    # --- death ------------------------------------------------------------------------------------------------

    def takeover_result(self, deaths: Iterable[tuple[int, int]], *, has_group_offset: bool) -> TurnResult | None:
        """Return what has to be committed before a restored shard handles anything; None if there is nothing.

        ``deaths``: (offset, pid) of each process that died while it handled a command of this shard. Not ``mirrored``:
        the group has no offset; it is written again with the shard record, unless that is new too. At least once, the
        new owner gives itself an epoch: what an older one still appends does not count (``bridge.nontransactional``).
        """
        last, guard = self.record, self._crash_guard
        died = [(offset, f"process {pid}") for offset, pid in deaths]
        incidents: list[Incident] = []
        if guard is not None and guard.takes_over:
            # Ours is from before that node owned the shard: the one that is counted, for all that can be known.
            died = [death for death in died if death[0] != last.suspect]
            died.append((last.guarded, f"node {last.owner}"))
            incidents += guard.begin(self.config.id, last, self.stash.retriable())
        incidents += [self._witness(offset, who) for offset, who in died if self._is_open(offset)]
        # Before anything is handled, the record must say whose memory knows what is under way.
        is_ours = not self.config.owner or (last.owner == self.config.owner and not last.closed)
        nontransactional = self.config.limits.delivery == AT_LEAST_ONCE
        if nontransactional or last.epoch:
            self.record = next_epoch(self.record, nontransactional=nontransactional)
            self.redeliver()
        elif not incidents and is_ours and (has_group_offset or last.changelog == 0):
            return None
        return self._record_only(self._current_record(), incidents)

    def handover_result(self) -> TurnResult | None:
        """Return the word that nothing is under way, for whoever owns the shard next; None if nobody would miss it.

        Called when no commit is in flight; the shard must not be asked for anything any more.
        """
        if not self.config.owner or self.record.changelog == 0:
            return None
        return self._record_only(msgspec.structs.replace(self._current_record(), closed=True), [])

    def _record_only(self, record: ShardRecord, incidents: list[Incident]) -> TurnResult:
        """Return a transaction that moves nothing but the shard's own record."""
        record = self.record = msgspec.structs.replace(record, changelog=record.changelog + 1)
        return TurnResult(self.config.id, [], [], record, max(record.next - 1, 0), record.seq, Counts(), incidents)

    def _current_record(self) -> ShardRecord:
        """Return the shard record as this owner writes it."""
        below = 0 if self._crash_guard is None or self._crash_guard.below <= self._next else self._crash_guard.below
        return msgspec.structs.replace(
            self.record, owner=self.config.owner, closed=False, guarded=-1, guarded_below=below
        )

    def redeliver(self) -> Redelivery:
        """Take into account from now on that what comes may have come before."""
        if self.redelivery is None:
            self.redelivery = Redelivery(self.config, self._next)
        return self.redelivery

    def advance(self, next_offset: int, seq: int, end_offset: int) -> None:
        """Go on behind plain turns, which the shard record does not tell of. Before anything is offered."""
        self.record = msgspec.structs.replace(self.record, next=next_offset, seq=seq)
        self._next, self._seq = next_offset, seq
        self.mailbox = Mailbox(self.config.limits, next_offset)
        self._crash_guard = crash_guard_for(
            self.record, self.config.owner, end_offset, self.config.limits.batch_records_max
        )

    def _alone(self, due: str | None) -> int:
        """Return the offset of the command that comes next, if it has to go alone; else -1. ``due``: a key's turn.

        Within a node it is known of which command a process died. What stands before that one is committed first, and
        what came of it before anything else is handled: another that kills, behind it, would undo both for ever.
        """
        coming = next(iter(self.mailbox), None) if due is None else self.stash.queue(due)[0].envelope
        if coming is None:
            return -1
        is_alone = coming.offset == self.record.suspect or (
            self._crash_guard and self._crash_guard.concerns(coming.offset)
        )
        return coming.offset if is_alone else -1

    def _witness(self, offset: int, who: str) -> Incident:
        self.record, incident = witnessed(self.config.id, self.record, offset, who, self.config.limits.deaths_max)
        self._quarantined = offset if self.record.deaths >= self.config.limits.deaths_max else -1
        return incident

    def _is_open(self, offset: int) -> bool:
        return offset >= self._next or self.stash.holds(offset)

    def _where(self, envelope: Envelope) -> str:
        return f"{self.config.id}@{envelope.offset} key {envelope.key!r}"

    # --- failure ----------------------------------------------------------------------------------------------

    def _failed(
        self, envelope: Envelope, waited: StashedRecord | None, error: Exception, now_ms: int, turn: Turn
    ) -> None:
        attempt = 1 if waited is None else waited.attempt
        restarts = self.budget.history_s(envelope.key, now_ms)
        draw = ((envelope.offset * 2_654_435_761 + attempt * 40_503) & 0xFFFF) / 0x10000
        judgement = judge(self.config.policy, restarts, type(error), now_ms / 1000, draw, attempt=attempt)
        where = self._where(envelope)
        failure = Failure.of(error, where)
        directive = judgement.directive
        parks = directive is Directive.STOP or (directive is Directive.RESTART and judgement.spent)
        if directive is Directive.ESCALATE:
            self.failure = failure
            then, outcome = "the shard is restarted", "escalated"
        elif directive is Directive.RESUME or (parks and envelope.sender is not None):
            then, outcome = "the command is a dead letter", "dead-lettered"
            turn.dead_letter(envelope, failure.error_type, failure.message, attempt)
            if waited is not None:
                turn.leave(envelope)
        elif waited is None and not self._has_room(envelope):
            then, outcome = "there is no room to wait; the command is a dead letter", "no-room"
            self._overflow(envelope, attempt, turn)
        else:
            record = StashedRecord(
                key=envelope.key, value=envelope.value, headers=envelope.headers, timestamp_ms=envelope.timestamp_ms,
                attempt=attempt if parks else attempt + 1,
                due_ms=0 if parks else now_ms + int(judgement.delay_s * 1000),
                parked=parks, error=failure.error_type, reason=failure.message,
            )  # fmt: skip
            then, outcome = "its key is parked", "parked"
            if not parks:
                then, outcome = f"attempt {attempt + 1} follows in {judgement.delay_s:.2f} s", "restarted"
                self.budget.restarted(envelope.key, tuple(round(at_s * 1000) for at_s in judgement.restarts))
            # Decoded anew: what the handler did to the command's lists must not be there at the next attempt.
            message = self.config.behaviour.decoder.decode(envelope.value)
            again = msgspec.structs.replace(envelope, message=message)
            turn.keep(Stashed(again, record), known=waited is not None)
        turn.incidents.append(Incident(where, failure.error_type, failure.message, then, outcome, failure.traceback))

    def _has_room(self, delivery: Delivery) -> bool:
        limits = self.config.limits
        if self.stash.size >= limits.stash_per_shard_max:
            self.stalled = f"{self.stash.size} commands wait (stash_per_shard_max)"
        elif isinstance(delivery, Envelope) and len(self.stash.queue(delivery.key)) >= limits.stash_per_key_max:
            self.stalled = f"{limits.stash_per_key_max} commands wait for key {delivery.key!r} (stash_per_key_max)"
        return self.stalled is None

    def _overflow(self, envelope: Envelope, attempt: int, turn: Turn) -> None:
        """Dead-letter a command that has no room to wait, as the policy says."""
        assert self.stalled is not None
        turn.dead_letter(envelope, "NoRoom", self.stalled, attempt)
        self.stalled = None

    # --- the end of a turn ------------------------------------------------------------------------------------

    def _finish(self, turn: Turn, now_ms: int) -> TurnResult:
        changelog, first_seq = turn.changelog, self.record.seq
        if turn.overflowed:  # One word for all: there may be a batch of them in every turn.
            reason = f"{turn.overflowed} commands found no room to wait"
            turn.incidents.append(Incident(str(self.config.id), "NoRoom", reason, "they are dead letters", "no-room"))
        for key in self.budget.expire(now_ms):
            cell = self.cells.get(key)
            if cell is None or cell.version == 0:  # Nothing but its restarts kept its state record.
                turn.touched[key] = None
        turn.counts.journaled = self._seq - first_seq
        redelivery, due_seq = self.redelivery, self._seq
        if redelivery is not None and self.record.nontransactional:
            is_calm = self.failure is None and self._crash_guard is None and not self.window.due(due_seq)
            if is_calm and (record := redelivery.nontransactional(turn, self.record, self._next, due_seq)):
                self.record = record
                return self._result(turn, first_seq, nontransactional=True)
            due_seq += self.window.size // AHEAD
        for key in {**turn.touched, **turn.changed, **dict.fromkeys(self.window.due(due_seq))}:
            changelog.append(self._state_written(key, changed=key in turn.changed))
        tail_start = self.window.tail_start(self._seq)
        for key in self.window.forgettable(tail_start):
            self.window.forgotten(key)
            if key not in self.stash and key not in self.budget:
                changelog.append(StateWritten(key, None, 0, self.cells.pop(key).seq))
        last = self.record
        suspect, deaths = last.suspect, last.deaths
        if suspect >= 0 and not self._is_open(suspect):
            suspect, deaths = -1, 0
        tail_offset = self.window.tail_offset(tail_start)
        seen = last.seen if redelivery is None else redelivery.write(changelog, last.seen, self._next)
        changelog_count = last.changelog + len(changelog) + 1
        self.record = ShardRecord(
            self._next, self._seq, tail_start, tail_offset, changelog_count, suspect, deaths, self.config.owner,
            epoch=last.epoch, nontransactional=last.nontransactional, seen=seen,
        )  # fmt: skip
        if self._crash_guard is not None:
            self._go_on(self._crash_guard, turn.anchor, now_ms)
        return self._result(turn, first_seq, nontransactional=False)

    def _result(self, turn: Turn, first_seq: int, *, nontransactional: bool) -> TurnResult:
        return TurnResult(
            self.config.id, turn.outputs, turn.changelog, self.record, turn.anchor, first_seq, turn.counts,
            turn.incidents, nontransactional,
        )  # fmt: skip

    def _go_on(self, guard: CrashGuard, handled: int, now_ms: int) -> None:
        """After a turn with caution: mark the command that comes next, unless none has to go alone any more."""
        guard.tried(handled)
        if guard.is_over(self._next, self.stash.retriable()):
            self._crash_guard = None
        else:
            guarded = self._alone(self.stash.due(now_ms) if self.stash.size else None)
            self.record = msgspec.structs.replace(self._current_record(), guarded=guarded)

    def _state_written(self, key: str, *, changed: bool) -> StateWritten:
        queue = self.stash.queue(key)
        stashed, first = len(queue), queue[0].envelope.offset if queue else -1
        restarts = self.budget.of(key)
        cell = self.cells.get(key)
        if cell is None:
            record = StateRecord(stashed=stashed, stashed_first=first, restarts_ms=restarts)
            return StateWritten(key, record if stashed or restarts else None, 0, -1)
        if changed:
            cell.version, cell.seq = cell.version + 1, self._seq
            self._seq += 1
        if cell.version == 0:
            self.window.ended(key, cell.seq)
            record = StateRecord(ended=True, stashed=stashed, stashed_first=first, restarts_ms=restarts)
            return StateWritten(key, record, 0, cell.seq)
        self.window.snapshotted(key)
        record = StateRecord(snapshot=cell.data, stashed=stashed, stashed_first=first, restarts_ms=restarts)
        return StateWritten(key, record, cell.version, cell.seq)


def _is_control(delivery: Delivery) -> bool:
    return isinstance(delivery, Envelope) and isinstance(delivery.message, CONTROL)

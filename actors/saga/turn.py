"""``SagaTurn``: what a saga does about one message: what it records, sends, and answers. Pure.

While the saga runs, its code decides what comes next (``actors.saga.replay``). When it has its outcome, the code is
over, and what is recorded decides (``actors.saga.settling``).
"""

from __future__ import annotations

from repertory.actors.collected import Cancel, Perform, Schedule, Tell
from repertory.actors.context import ContractViolation
from repertory.actors.message import Command, Message, Rejection, Sender, Undelivered, wire_name
from repertory.actors.outgoing import sendable
from repertory.actors.saga.context import SagaContext
from repertory.actors.saga.facts import AgainRequested
from repertory.actors.saga.inner import StepDue, step_id
from repertory.actors.saga.messages import NotStuck, TooLate
from repertory.actors.saga.progress import (
    CancelRefused,
    RecordedCall,
    RecordedStep,
    SagaAgain,
    SagaBegan,
    SagaCancelling,
    SagaPhase,
    SagaProgress,
    SignalCame,
    SignalRevoked,
    SignalTaken,
    StarterJoined,
    StarterLeft,
    StepAnswered,
    StepExpired,
    StepUndone,
)
from repertory.actors.saga.replay import SUSPENDED, Required, SagaReplay, checked_result
from repertory.actors.saga.room import check_steps, room_left
from repertory.actors.saga.settling import Settling, ended, timer_of
from repertory.actors.saga.step import Plan, SagaRefused, digest_of
from repertory.actors.wire import encode, written_name, written_reason

#: How many may wait for the answer of one saga.
STARTERS_MAX = 1_000
_UNDELIVERED = wire_name(Undelivered)
#: Most bytes of an asker, as it is recorded: a topic, a key, a correlation id and an id of 255 bytes, and names.
_SENDER_BYTES = 1_200
#: The reason of a cancel is cut to this length.
_REASON_CHARS_MAX = 1_000


class SagaTurn(Settling):
    """Exists for one message."""

    # --- messages ---------------------------------------------------------------------------------------------

    def begin(self, command: Command) -> None:
        """Begin the saga."""
        self._add(
            SagaBegan(
                version=self._behaviour.latest, command=encode(command), digest=digest_of(command),
                cause=self._context.cause, life=self._context.offset, at_ms=self._now_ms, sender=self._context.sender,
            )
        )  # fmt: skip
        self._advance()

    def join(self) -> TooLate | None:
        """Let another sender of the same start wait for the answer, or give it."""
        sender, progress = self._context.sender, self.progress
        if sender is None and progress.phase is SagaPhase.RUNNING and not progress.is_told:
            self._add(StarterJoined())
        if sender is None or sender in progress.starters:
            return None
        if progress.phase is SagaPhase.OVER or (progress.phase is SagaPhase.SETTLING and not progress.is_rejected):
            self._reply(sender, progress.outcome, rejected=progress.is_rejected)
        elif len(progress.starters) >= STARTERS_MAX:
            return TooLate(reason=f"{STARTERS_MAX:,} wait for the answer of this saga; ask again later")
        elif (refusal := self._flaw_of_room(_SENDER_BYTES)) is not None:
            return refusal
        else:
            self._add(StarterJoined(sender=sender))
        return None

    def answered(self, n: int, value: bytes, *, rejected: bool) -> None:
        """Take the answer to step ``n``; ignore one that nobody waits for."""
        step = self.progress.step(n)
        if step is None or not step.is_unsettled:
            return
        if step.kind == "perform" and written_name(value) == _UNDELIVERED:
            rejected = False  # An operator has dropped it. It may have been done, so its undo must run.
        if self.progress.phase is not SagaPhase.RUNNING or step.abandoned:
            value = b""  # Nobody reads it.
        if len(value) > (limit := self._behaviour.limits.answer_bytes_max):
            raise ContractViolation(
                f"the answer to step {n} ({step.target} {step.key!r}) takes {len(value)} bytes; answer_bytes_max of "
                f"{self._behaviour.entity.__name__} is {limit}"
            )
        if step.due_ms and not step.done:
            self._context.later.append(Cancel(timer_of(n)))
        self._add(StepAnswered(n=n, value=value, rejected=rejected, at_ms=self._now_ms))
        if self.progress.is_cancelling and step.is_pivot and not rejected:
            self._tell_cancellers(TooLate(reason=_stands(step)))
            self._add(CancelRefused())
        self._go_on()

    def undo_answered(self, n: int, attempt: int, value: bytes, *, rejected: bool) -> None:
        """Take the answer to the undo of step ``n``; ignore that of an earlier attempt."""
        progress = self.progress
        if (progress.undoing, progress.undo_attempt) != (n, attempt) or progress.stuck:
            return
        if rejected:
            self._stuck(n, written_reason(value))
        else:
            self._add(StepUndone(n=n))
            self._settle()

    def expired(self, n: int) -> None:
        """Note that the time of a step is over; ignore that of a step which is completed."""
        step = self.progress.step(n)
        if step is None or not step.is_waited_for or self.progress.phase is not SagaPhase.RUNNING:
            return
        self._add(StepExpired(n=n, at_ms=self._now_ms))
        if step.is_outside:
            self._revoke(step)
        self._go_on()

    def signalled(self, signal: Command, name: str) -> TooLate | None:
        """Keep a signal until it is taken, which may be at once."""
        progress, limit = self.progress, self._behaviour.limits.signals_max
        if progress.phase is not SagaPhase.RUNNING:
            return TooLate(reason=ended(progress.phase))
        if len(progress.signals) >= limit:
            return TooLate(reason=f"{limit:,} signals wait already (signals_max)")
        value = encode(signal)
        if (refusal := self._flaw_of_room(len(value) + _SENDER_BYTES)) is not None:
            return refusal
        self._add(SignalCame(name=name, value=value, at_ms=self._now_ms, sender=self._context.sender))
        waits = next((each for each in progress.steps if _takes(each, name)), None)
        if waits is not None:
            self._add(SignalTaken(number=progress.signals_seen, n=waits.n, at_ms=self._now_ms))
            self._go_on()
        return None

    def cancel(self, reason: str, sender: Sender | None) -> TooLate | None:
        """Roll the saga back; if a pivot is open, only when it was not applied. ``sender`` is answered then."""
        progress = self.progress
        if progress.phase is not SagaPhase.RUNNING:
            return TooLate(reason=ended(progress.phase))
        if (applied := next(progress.applied_pivots(), None)) is not None:
            return TooLate(reason=_stands(applied))
        pivots = [each for each in progress.unsettled() if each.is_pivot]
        reason = reason[:_REASON_CHARS_MAX]
        if pivots and (refusal := self._flaw_of_room(len(reason.encode()) + _SENDER_BYTES)) is not None:
            return refusal
        if not progress.is_cancelling:
            for pivot in pivots:
                self._revoke(pivot)
        self._add(SagaCancelling(reason=reason, sender=sender))
        if not pivots:
            self._cancelled()
        return None

    def revoked(self, address: tuple[str, str | None, str]) -> None:
        """Let go who revokes an ask, by topic, key and about: its start, or a signal that nobody has taken.

        The last starter that leaves cancels the saga, unless it was told to run. A saga that rolls back has its
        outcome, so the last one is answered before the undos: two sagas that wait for each other, and are cancelled,
        would else do so for ever.
        """
        progress = self.progress
        for signal in progress.signals:
            if signal.sender is not None and _address(signal.sender) == address:
                self._reply(signal.sender, _REVOKED, rejected=True)
                self._add(SignalRevoked(number=signal.number))
                return
        starter = next((each for each in progress.starters if _address(each) == address), None)
        if starter is None or (progress.phase is SagaPhase.SETTLING and not progress.is_rejected):
            return  # Nobody asked, or it is answered.
        if len(progress.starters) > 1 or progress.is_told:
            self._reply(starter, _REVOKED, rejected=True)
            self._add(StarterLeft(sender=starter))
        elif progress.phase is SagaPhase.RUNNING and not progress.is_cancelling:
            self.cancel("revoked by who started it", None)
        elif progress.phase is SagaPhase.SETTLING and progress.is_rejected:
            self._reply(starter, progress.outcome, rejected=True)
            self._add(StarterLeft(sender=starter))

    def retry_undo(self, n: int, call: RecordedCall | None = None) -> NotStuck | None:
        """Send the undo of a step again, or another one."""
        if (refusal := self._flaw_of_request(n)) is None:
            self._undo(n, call)
            self.say_done()
        return refusal

    def amended(self, n: int, message: bytes) -> NotStuck | None:
        """Send another message as the undo of a step, to the same receiver."""
        step = self.progress.step(n)
        if step is None or step.undo is None:
            return self._flaw_of_request(n) or NotStuck(reason=f"step {n} has no undo")
        return self.retry_undo(n, RecordedCall(step.undo.target, step.undo.key, message, step.undo.is_effect))

    def skip_undo(self, n: int, reason: str) -> NotStuck | None:
        """Go on without the undo of a step."""
        if (refusal := self._flaw_of_request(n)) is None:
            self._add(StepUndone(n=n, skipped=reason or "by an operator"))
            self._settle()
            self.say_done()
        return refusal

    def forget(self) -> None:
        """End the life of a saga whose result was kept long enough."""
        if self.progress.phase is SagaPhase.OVER:
            self._context.stop()

    # --- the code runs ----------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        progress = self.progress
        if progress.phase is SagaPhase.SETTLING:
            self._settle()
        elif progress.is_cancelling:
            if not any(each.is_pivot for each in progress.unsettled()):
                self._cancelled()
        else:
            self._advance()

    def _advance(self) -> None:
        """Run the code up to its next open step, or its end."""
        while isinstance(outcome := self._replayed(), AgainRequested):
            if self.progress.next_step == self.progress.first:
                raise SagaRefused(f"{self._behaviour.run(self.progress)!r} begins again without a step; await one")
            self._add(SagaAgain(version=self._behaviour.latest, command=encode(outcome.command), at_ms=self._now_ms))
        if outcome is SUSPENDED:
            return
        if isinstance(outcome, Required):
            self._end(outcome.step.value, rejected=True)
        else:
            result = checked_result(self._behaviour.run(self.progress), outcome)
            self._end(sendable(result, self._context.bytes_max), rejected=isinstance(result, Rejection))

    def _replayed(self) -> object:
        run = self._behaviour.run(self.progress)
        command: Message = self._behaviour.decoder.decode(self.progress.command)
        replay = SagaReplay(run, self.progress, self._now_ms, self._check_room)
        outcome = replay.drive(self._saga, command, SagaContext(self._context, run, self.progress))
        self._add_folded(replay.events, replay.progress)
        for step, plan in replay.opened:
            self._send(step, plan)
        for step in replay.lost:
            self._give_up(step)
        return outcome

    def _check_room(self, progress: SagaProgress) -> None:
        name, limits = self._behaviour.entity.__name__, self._behaviour.limits
        check_steps(name, limits, progress, self._context.bytes_max)

    def _flaw_of_room(self, size: int) -> TooLate | None:
        """Return why so many bytes more would take the room of open answers, which must always be recordable."""
        left = room_left(self._behaviour.limits, self.progress, self._context.bytes_max)
        return None if size <= left else TooLate(reason=f"the saga holds as much as it may; {left} bytes are left")

    def _send(self, step: RecordedStep, plan: Plan) -> None:
        context, about = self._context, step_id(self.progress.life, step.n)
        if plan.kind == "perform":
            context.later.append(Perform(plan.receiver, plan.output, about))  # type: ignore[arg-type]
        elif plan.output is not None:
            context.collected.append(Tell(plan.receiver, step.key, plan.output, asked=True, about=about))  # type: ignore[arg-type]
        if step.due_ms:
            due = self._behaviour.due
            context.later.append(Schedule(timer_of(step.n), due, StepDue(step=step.n), step.due_ms))

    def _flaw_of_request(self, n: int) -> NotStuck | None:
        progress = self.progress
        if progress.stuck and progress.undoing == n:
            return None
        what = f"it is stuck at step {progress.undoing}" if progress.stuck else ended(progress.phase)
        return NotStuck(reason=f"the saga is not stuck at step {n}: {what}")


#: The answer to an ask that was revoked.
_REVOKED = encode(Undelivered(reason="revoked"))


def _address(sender: Sender) -> tuple[str, str | None, str]:
    return sender.topic, sender.key, sender.about


def _stands(pivot: RecordedStep) -> str:
    return f"step {pivot.n} ({pivot.target} {pivot.key!r}) was applied, and cannot be undone"


def _takes(step: RecordedStep, name: str) -> bool:
    return step.kind == "signal" and step.target == name and step.is_waited_for

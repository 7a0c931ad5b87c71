"""``Settling``: what is sent and recorded, and what becomes of a saga that has its outcome. Pure.

From then on the code is over, and what is recorded decides: all that is open is settled; what was applied is undone,
the last first, one after the other; then a rejection is answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from repertory.actors.collected import Alert, Cancel, Perform, Reply, Schedule, Send
from repertory.actors.context import Context
from repertory.actors.control import RevokeAsk
from repertory.actors.effect import registered
from repertory.actors.message import Done, Event, Rejection, Sender, Undelivered
from repertory.actors.saga.fold import fold
from repertory.actors.saga.inner import ResultDue, revoke_id, step_id, undo_id
from repertory.actors.saga.messages import Cancelled, TooLate
from repertory.actors.saga.progress import (
    RecordedCall,
    RecordedStep,
    SagaOver,
    SagaPhase,
    SagaProgress,
    SagaSettling,
    SagaStuck,
    SignalTaken,
    StepUndoing,
)
from repertory.actors.saga.step import NotInBuild
from repertory.actors.wire import encode

if TYPE_CHECKING:
    from repertory.actors.saga.behaviour import SagaBehaviour
    from repertory.actors.saga.saga import Saga

_DONE_DATA = encode(Done())


class Settling:
    """Exists for one message. ``events`` are what it adds to the journal; the rest is collected in the context."""

    def __init__(self, behaviour: SagaBehaviour, saga: Saga, context: Context) -> None:
        self._behaviour, self._saga, self._context = behaviour, saga, context
        self._now_ms = context.timestamp_ms
        self.progress = saga.progress
        self.events: list[Event] = []

    def recorded(self) -> tuple[Event, ...]:
        """Return what is added to the journal; the runtime is given the state after it, which is the fold."""
        if self.events:
            self._context.evolved = self._saga.replace(progress=self.progress)
        return tuple(self.events)

    def say_done(self) -> None:
        """Answer who asks for something beside the saga's own flow."""
        if (sender := self._context.sender) is not None:
            self._reply(sender, _DONE_DATA, rejected=False)

    # --- the code is over -------------------------------------------------------------------------------------

    def _cancelled(self) -> None:
        self._tell_cancellers(Done())
        self._end(encode(Cancelled(reason=self.progress.cancel_reason)), rejected=True)

    def _end(self, outcome: bytes, *, rejected: bool) -> None:
        """Settle the saga with its outcome: revoke what is open, and answer an event at once."""
        for step in self.progress.steps:
            if step.is_waited_for and step.n >= self.progress.first:
                self._give_up(step)
        if not rejected:
            self._answer_starters(outcome, rejected=False)
        self._add(SagaSettling(outcome=outcome, rejected=rejected, at_ms=self._now_ms))
        self._settle()

    def _settle(self) -> None:
        """Undo what is to be undone once all is settled; then the saga is over."""
        progress = self.progress
        if progress.phase is not SagaPhase.SETTLING or progress.unsettled() or progress.undoing >= 0:
            return
        if (step := next(progress.to_undo(), None)) is not None:
            self._undo(step.n)
            return
        if progress.is_rejected:
            self._answer_starters(progress.outcome, rejected=True)
        for signal in progress.signals:
            if signal.sender is not None:
                self._reply(signal.sender, encode(Undelivered(reason="the saga has ended")), rejected=True)
        self._add(SagaOver(at_ms=self._now_ms))
        due_ms = self._now_ms + round(self._behaviour.limits.results_kept_s * 1_000)
        self._context.later.append(Schedule(timer_of(-1), self._behaviour.due, ResultDue(), due_ms))

    def _undo(self, n: int, call: RecordedCall | None = None) -> None:
        step = self.progress.step(n)
        assert step is not None, n
        undo = call or step.undo
        assert undo is not None, step
        attempt = self.progress.undo_attempt + 1
        about = undo_id(self.progress.life, n, attempt)
        if undo.is_effect:
            if (effect := registered(undo.target)) is None:
                raise NotInBuild(f"the undo of step {n} is effect {undo.target!r}, which this build does not have")
            self._context.later.append(Perform(effect, undo.message, about))
        else:
            self._context.collected.append(Send(undo.target, undo.key, undo.message, about))
        self._add(StepUndoing(n=n, attempt=attempt, call=call, at_ms=self._now_ms))

    def _stuck(self, n: int, reason: str) -> None:
        """Wait for an operator, who is told: the undo of step ``n`` was rejected."""
        self._add(SagaStuck(n=n, reason=reason, at_ms=self._now_ms))
        step = self.progress.step(n)
        assert step is not None, n
        assert step.undo is not None, step
        to = f"{step.undo.target} {step.undo.key!r}" if step.undo.key else step.undo.target
        then = "it undoes nothing before an operator acts: repertory sagas retry|skip|amend"
        self._context.alerts.append(Alert("SagaStuck", f"{to} has rejected the undo of step {n}: {reason}", then))

    # --- what is sent -----------------------------------------------------------------------------------------

    def _give_up(self, step: RecordedStep) -> None:
        """Stop waiting for an open step: revoke an ask, cancel a timer. An effect is never cancelled."""
        if step.due_ms:
            self._context.later.append(Cancel(timer_of(step.n)))
        self._revoke(step)

    def _revoke(self, step: RecordedStep) -> None:
        if step.kind in ("ask", "require") and step.is_unsettled:
            about = step_id(self.progress.life, step.n)
            revoke, own = encode(RevokeAsk(about=about)), revoke_id(self.progress.life, step.n)
            self._context.collected.append(Send(step.target, step.key, revoke, own))

    def _answer_starters(self, outcome: bytes, *, rejected: bool) -> None:
        for starter in self.progress.starters:
            self._reply(starter, outcome, rejected=rejected)

    def _tell_cancellers(self, answer: Done | TooLate) -> None:
        for canceller in self.progress.cancellers:
            self._reply(canceller, encode(answer), rejected=isinstance(answer, Rejection))

    def _reply(self, to: Sender, value: bytes, *, rejected: bool) -> None:
        self._context.collected.append(Reply(to, value, rejected))

    def _add(self, evt: Event) -> None:
        self._add_folded((evt,), fold(self.progress, evt))

    def _add_folded(self, events: Iterable[Event], progress: SagaProgress) -> None:
        """Record events, of which ``progress`` is the fold."""
        for evt in events:
            if isinstance(evt, SignalTaken):
                taken = next(each for each in self.progress.signals if each.number == evt.number)
                if taken.sender is not None:
                    self._reply(taken.sender, _DONE_DATA, rejected=False)
            self.events.append(evt)
        self.progress = progress


def timer_of(n: int) -> str:
    """Return the name of the timer of a step; that of the result is -1."""
    return "result" if n < 0 else f"step:{n}"


def ended(phase: SagaPhase) -> str:
    """Return what a saga does, for people."""
    match phase:
        case SagaPhase.SETTLING:
            return "the saga has its outcome, and settles what is open"
        case SagaPhase.OVER:
            return "the saga is over"
        case _:
            return "the saga runs"

"""``SagaKit``: runs one saga by hand: a test answers its steps, moves its clock, signals and cancels it.

The code of production decides each message, twice: a saga whose second run differs is named at the step that does.
"""

# ruff: noqa: SLF001 - a kit makes copies of itself.
from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import msgspec

from repertory.actors.collected import Perform, Reply, Send, Tell
from repertory.actors.context import Directory
from repertory.actors.effect import Effect, registered
from repertory.actors.entity import resolved
from repertory.actors.handler import Handler
from repertory.actors.message import Command, Done, Envelope, Event, Message, Rejection, Undelivered, wire_name
from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.actors.saga.inner import StepAnswer, StepId, step_id, undo_id
from repertory.actors.saga.messages import AmendUndo, CancelSaga, RetryUndo, SkipUndo
from repertory.actors.saga.progress import RecordedCall, RecordedStep, SagaPhase, SagaProgress
from repertory.actors.saga.saga import Saga
from repertory.actors.saga.step import NonDeterministic
from repertory.actors.shard.config import Limits
from repertory.actors.shard.decision import Decision
from repertory.actors.shard.timers import Timers
from repertory.actors.testkit import CommandOutcome, TestKit
from repertory.actors.wire import MessageDecoder, encode
from repertory.testing.open_step import OpenStep, answers_of
from repertory.testing.saga_trace import DecidedTurn, difference, replay

S = TypeVar("S", bound=Saga)


class _Sent(msgspec.Struct, frozen=True):
    receiver: Handler | Effect[Any, Any] | None
    message: Message


class SagaKit(TestKit[S]):
    """Runs one saga, step by step; nobody but the test answers::

        kit = SagaKit(Transfer, key="t-1")
        kit.start(Start(source="a", target="b", amount=5))
        (withdraw,) = kit.open
        assert withdraw.message == Withdraw(amount=5, transfer="t-1")
        kit.answer(Withdrawn(amount=5, transfer="t-1"))
        kit.cancel()
        kit.answer(Undelivered(reason="revoked"))   # of the deposit
        kit.answer(Refunded(amount=5))              # of the undo
        assert kit.outcome == Cancelled()

    An answer is given to the step that is named, or to the only one that can have it. ``advance`` moves the clock:
    sleeps end, asks time out. ``replies``: what was asked of the saga, a signal too, with the answer, in order.
    ``applied``: the steps and undos that were answered with no rejection, in order; dropped effects, too.

    Each message is decided twice, and NonDeterministic raised where that differs. ``replay_elsewhere`` runs all again
    in another process, with another hash seed.
    """

    def __init__(
        self, saga: type[S], *, key: str = "key", timestamp_ms: int = 0, publishes: Iterable[str] = ()
    ) -> None:
        given: object = saga
        if not isinstance(given, type) or not issubclass(given, Saga) or given is Saga:
            raise TypeError(f"SagaKit takes a class of sagas, as in SagaKit(Transfer), not {given!r:.100}")
        super().__init__(saga(), key=key, timestamp_ms=timestamp_ms, publishes=publishes)
        self._directory = Directory(self._meet, lambda _: 1 << 31, frozenset(publishes).__contains__)
        self._met: dict[str, type] = {}
        self._sent: dict[int, _Sent] = {}
        self._undo = _Sent(None, Done())
        self._asked: dict[str, Message] = {}
        self.replies: list[tuple[Message, Message]] = []
        self.applied: list[OpenStep] = []
        self._turns: list[DecidedTurn] = []

    # --- what a test does -------------------------------------------------------------------------------------

    def start(self, command: Command) -> CommandOutcome[S]:
        """Start the saga, by the command of its ``@run`` method; its ``reply`` comes when it has its outcome."""
        return self.run(command)

    def answer(self, answer: Event | Rejection | None, step: OpenStep | int | None = None) -> CommandOutcome[S]:
        """Answer a step, or an undo; None: ``Done``, as of a handler or an effect that returns None."""
        value: Message = Done() if answer is None else answer
        found = self._answered(value, step)
        life, undone = self.progress.life, found.kind == "undo"
        about = undo_id(life, found.n, self.progress.undo_attempt) if undone else step_id(life, found.n)
        rejected = isinstance(value, Rejection)
        outcome = self._run(StepAnswer(step=about, value=encode(value), rejected=rejected), about, 1, None)
        is_dropped = found.kind == "perform" and isinstance(value, Undelivered)  # It may have been done.
        if not rejected or is_dropped:
            self.applied.append(found)
        return outcome

    def signal(self, signal: Command) -> CommandOutcome[S]:
        """Send a signal; it is answered when the code takes it, or at the end."""
        return self.run(signal)

    def cancel(self, reason: str = "") -> CommandOutcome[S]:
        """Cancel the saga; with a pivot under way the answer comes when that was answered."""
        return self.run(CancelSaga(reason=reason))

    def retry_undo(self) -> CommandOutcome[S]:
        """Have the undo at which the saga is stuck tried again."""
        return self.run(RetryUndo(step=self.progress.undoing))

    def skip_undo(self, reason: str = "") -> CommandOutcome[S]:
        """Go on without the undo at which the saga is stuck."""
        return self.run(SkipUndo(step=self.progress.undoing, reason=reason))

    def amend_undo(self, message: Message) -> CommandOutcome[S]:
        """Try another message in place of the undo at which the saga is stuck."""
        return self.run(AmendUndo(step=self.progress.undoing, message=encode(message)))

    def fork(self) -> SagaKit[S]:
        """Return a copy that goes its own way from here."""
        made = copy.copy(self)
        made._directory = Directory(made._meet, self._directory.partition_count, self._directory.publishes)
        made._timers = Timers(Limits())
        made._timers.load(self._timers.records)
        for name in ("_met", "_sent", "_asked", "replies", "applied", "performed", "_turns"):
            setattr(made, name, copy.copy(getattr(self, name)))
        return made

    def again(self, turn: DecidedTurn) -> DecidedTurn:
        """Run a turn of another kit again, and return what is decided here."""
        self._offset, self._timestamp_ms = turn.offset, turn.timestamp_ms
        message: Message = (
            StepAnswer(step=turn.answers, value=turn.value, rejected=turn.rejected)
            if turn.answers
            else self._behaviour.decoder.decode(turn.value)
        )
        self._run(message, turn.answers, 1, turn.sender, turn.timer)
        return self._turns[-1]

    def replay_elsewhere(self) -> None:
        """Run all messages again in a new process, with another hash seed and at other addresses (0.5 s).

        Raises NonDeterministic, which names the step that is another there; ValueError if the class of the saga is not
        at the top of a module, where a process can import it.
        """
        replay(type(self.state), self._key, [self._turns])

    # --- what it shows ----------------------------------------------------------------------------------------

    @property
    def progress(self) -> SagaProgress:
        """All that is recorded."""
        return self.state.progress

    @property
    def open(self) -> tuple[OpenStep, ...]:
        """What the saga waits for, in the order of the steps; the undo under way last."""
        progress, runs = self.progress, self.progress.phase is SagaPhase.RUNNING
        found = [self._opened(each) for each in progress.steps if each.is_unsettled or (runs and each.is_waited_for)]
        if progress.undoing >= 0 and not progress.stuck:
            found.append(self._undoing(progress.undoing))
        return tuple(found)

    @property
    def outcome(self) -> Event | Rejection | None:
        """How the saga ends; None while its code runs. What was applied may still have to be undone."""
        data = self.progress.outcome
        return cast("Event | Rejection", self._read(self._behaviour.messages.values(), data)) if data else None

    @property
    def reply(self) -> Message | None:
        """The last answer to a start; None if there was none yet."""
        taken = self._saga.run(self.progress).message_types if self.progress.version else ()
        return next((reply for asked, reply in reversed(self.replies) if isinstance(asked, taken)), None)

    @property
    def is_over(self) -> bool:
        """Whether all is settled, undone and answered."""
        return self.progress.phase is SagaPhase.OVER

    @property
    def stuck(self) -> str:
        """Why the undo under way was rejected; "" if none was."""
        return self.progress.stuck

    @property
    def turns(self) -> tuple[DecidedTurn, ...]:
        """All messages so far, with what was decided, for `saga_trace.replay`."""
        return tuple(self._turns)

    # --- as a TestKit -----------------------------------------------------------------------------------------

    @property
    def _saga(self) -> SagaBehaviour:
        assert isinstance(self._behaviour, SagaBehaviour)
        return self._behaviour

    def _meet(self, owner: type) -> bool:
        """Note an entity that the code addresses: an undo names it as the log does. All are hosted."""
        self._met[resolved(owner).name] = owner
        return True

    def _received(self, message: Message) -> tuple[Message, bytes]:
        if isinstance(message, StepAnswer):
            return message, message.value
        return super()._received(message)

    def _decided(self, envelope: Envelope, attempt: int) -> Decision:
        decision = super()._decided(envelope, attempt)
        self.state = self._restored(self._data)
        turn = DecidedTurn.of(envelope, decision)
        if (flaw := difference(turn, DecidedTurn.of(envelope, super()._decided(envelope, attempt)))) is not None:
            raise NonDeterministic(f"{type(self.state).__name__} differs from run to run: {flaw}")
        self._turns.append(turn)
        self._note(envelope, decision)
        return decision

    def _note(self, envelope: Envelope, decision: Decision) -> None:
        if envelope.sender is not None:
            self._asked[envelope.sender.correlation_id] = envelope.message
        if decision.reply is not None:  # A refusal, which the handler has returned.
            self.replies.append((envelope.message, decision.reply))
        for each in (*decision.outputs, *decision.later):
            match each:
                case Reply():
                    self.replies.append((self._asked[each.to.correlation_id], self._said(each)))
                case Tell() | Send() | Perform() if (step := StepId.parse(each.about)) is not None:
                    self._note_sent(step, each)

    def _note_sent(self, step: StepId, sent: Tell | Send | Perform) -> None:
        match sent:
            case Tell(handler, _, message):
                self._sent[step.n] = _Sent(handler, message)
            case Perform(effect, request) if isinstance(request, Message):
                self._sent[step.n] = _Sent(effect, request)
            case Perform(effect, bytes(request)):
                self._undo = self._called(RecordedCall(effect.name, "", request, is_effect=True))
            case Send(entity, key, data) if step.undo:
                self._undo = self._called(RecordedCall(entity, key, data))

    def _called(self, call: RecordedCall) -> _Sent:
        """Return a message that was written down, and who has it."""
        if call.is_effect:
            effect = registered(call.target)
            assert effect is not None, call
            return _Sent(effect, self._read([effect.signature.request], call.message))
        taken = resolved(self._met[call.target]).taken
        message = self._read(taken, call.message)
        return _Sent(taken[type(message)], message)

    def _opened(self, step: RecordedStep) -> OpenStep:
        due_s = (step.due_ms - self._timestamp_ms) / 1_000 if step.due_ms and step.is_waited_for else None
        sent = self._sent.get(step.n)
        if sent is None:
            signal = next((each for each in self._behaviour.handlers if step.target == wire_name(each)), None)
            return OpenStep(step.n, step.kind, signal if step.kind == "signal" else None, due_s=due_s)
        return OpenStep(
            step.n, step.kind, sent.receiver, step.key, sent.message, due_s, step.abandoned, answers_of(sent.receiver)
        )

    def _undoing(self, n: int) -> OpenStep:
        step = self.progress.step(n)
        assert step is not None
        assert step.undo is not None
        receiver = self._undo.receiver
        return OpenStep(n, "undo", receiver, step.undo.key, self._undo.message, answers=answers_of(receiver))

    def _answered(self, answer: Message, step: OpenStep | int | None) -> OpenStep:
        """Return the open step for an answer; ValueError if there is none, or more than one."""
        n = step.n if isinstance(step, OpenStep) else step
        found = [each for each in self.open if each.answers and n in (None, each.n)]
        fits = [each for each in found if type(answer) in each.answers]
        if len(fits) == 1:
            return fits[0]
        name = type(answer).__name__
        if fits:
            raise ValueError(f"{name} may answer {' and '.join(map(str, fits))}; say which: kit.answer(…, step)")
        takes = "; ".join(f"{each} takes {', '.join(kind.__name__ for kind in each.answers)}" for each in found)
        raise ValueError(f"nothing that is open may be answered {name}: {takes or 'no step waits for an answer'}")

    @staticmethod
    def _read(types: Iterable[type[Message]], data: bytes) -> Message:
        found: Message = MessageDecoder(types).decode(data)
        return found

"""``SagaProgress``: what is recorded of a saga: its steps with their answers, what it waits for, and how it ends. Pure.

A saga's journal holds the events below; its state is their fold (``actors.saga.fold``). They hold messages as bytes, as
they came: each is decoded where a build needs it, so one that it cannot decode parks the saga and is not lost.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from repertory.actors.message import Event, Sender

StepKind = Literal["ask", "require", "perform", "sleep", "signal"]


class SagaPhase(enum.StrEnum):
    """What a saga does: nothing yet, its code, settling what is open and undoing what was applied, or nothing more."""

    NEW = "new"
    RUNNING = "running"
    SETTLING = "settling"
    OVER = "over"


class RecordedCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message for an entity, or a request to an effect (``key`` is "" then): what undoes a step."""

    target: str
    key: str
    message: bytes
    is_effect: bool = False


class RecordedStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step, number ``n`` of its saga's life. ``due_ms`` (epoch): of its time-out, or when a sleep ends; 0: never.

    ``target`` is the entity, the effect or the signal, ``handler`` is for people. ``done`` is its place in the order in
    which steps were completed, 0 while its coroutine waits; ``value`` is what it was completed with, ``rejected``
    whether that says that nothing was applied. ``answered``: the entity or effect has answered, perhaps after its
    time-out. ``abandoned``: its answer is not for the coroutine. ``sent`` is False for what lost before it was sent.
    """

    n: int
    kind: StepKind
    target: str = ""
    key: str = ""
    handler: str = ""
    about: str = ""
    digest: bytes = b""
    undo: RecordedCall | None = None
    is_pivot: bool = False
    sent: bool = True
    due_ms: int = 0
    opened_ms: int = 0
    done: int = 0
    done_ms: int = 0
    value: bytes = b""
    rejected: bool = False
    answered: bool = False
    timed_out: bool = False
    abandoned: bool = False
    won: bool = False
    undone: bool = False

    @property
    def is_outside(self) -> bool:
        """Whether it asks another entity or the world outside."""
        return self.kind in ("ask", "require", "perform")

    @property
    def is_unsettled(self) -> bool:
        """Whether it is not known yet if it was applied."""
        return self.is_outside and self.sent and not self.answered

    @property
    def was_applied(self) -> bool:
        """Whether it has changed something."""
        return self.is_outside and self.answered and not self.rejected

    @property
    def is_waited_for(self) -> bool:
        """Whether the coroutine waits for it."""
        return not self.done and self.sent and not self.abandoned


class WaitingSignal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A signal that nobody has taken yet, number ``number`` of its saga's life; ``sender`` is answered then."""

    number: int
    name: str
    value: bytes
    at_ms: int
    sender: Sender | None = None


class SagaProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a saga. ``life``: the offset of the command that began it. ``runs``: how often `again` was called.

    ``steps`` are those of this run, and of former ones what is unsettled or may be undone; numbers go on. This run's
    begin at ``first``. ``kept``: undos of steps completed up to this place in the order are forgotten. ``is_told``:
    somebody has started it who can never revoke that, by a tell. ``cancellers`` wait for a pivot. ``undoing``: the step
    whose undo is under way, -1 if none is; ``stuck`` says why it was rejected.
    ``since_ms`` (epoch): when it began to settle, sent that undo, or got stuck; 0 while it runs.
    """

    phase: SagaPhase = SagaPhase.NEW
    version: int = 0
    command: bytes = b""
    digest: bytes = b""
    cause: str = ""
    life: int = 0
    began_ms: int = 0
    runs: int = 0
    first: int = 0
    steps: tuple[RecordedStep, ...] = ()
    order: int = 0
    kept: int = 0
    starters: tuple[Sender, ...] = ()
    is_told: bool = False
    signals: tuple[WaitingSignal, ...] = ()
    signals_seen: int = 0
    is_cancelling: bool = False
    cancel_reason: str = ""
    cancellers: tuple[Sender, ...] = ()
    outcome: bytes = b""
    is_rejected: bool = False
    undoing: int = -1
    undo_attempt: int = 0
    stuck: str = ""
    since_ms: int = 0
    over_ms: int = 0

    @property
    def next_step(self) -> int:
        """The number of the next step that is opened."""
        return max(self.first, self.steps[-1].n + 1) if self.steps else self.first

    def step(self, n: int) -> RecordedStep | None:
        """Return a step by its number; None if it does not exist, or was forgotten."""
        at = self.place(n)
        return None if at < 0 else self.steps[at]

    def some_steps(self, first: int, count: int) -> Sequence[RecordedStep]:
        """Return those of the steps of this run from number ``first`` on, at most ``count``, that exist."""
        at = self.place(first)
        return () if at < 0 else self.steps[at : at + count]

    def place(self, n: int) -> int:
        """Return the index of a step among ``steps``; -1 if it does not exist, or was forgotten."""
        steps = self.steps
        if not steps:
            return -1
        at = len(steps) - 1 - steps[-1].n + n  # Those of this run are one behind the other.
        if 0 <= at < len(steps) and steps[at].n == n:
            return at
        return next((at for at, each in enumerate(steps) if each.n == n), -1)

    def unsettled(self) -> list[RecordedStep]:
        """Return the steps of which it is not known yet whether they were applied."""
        return [each for each in self.steps if each.is_unsettled]

    def applied_pivots(self) -> Iterator[RecordedStep]:
        """Yield the pivots of this run that were applied since the last ``keep``."""
        return (each for each in self.steps if each.is_pivot and each.was_applied and each.done > self.kept)

    @property
    def stands(self) -> int:
        """What was completed up to this place in the order is not undone: an applied pivot, or ``keep``, was there."""
        return max([self.kept, *(each.done for each in self.applied_pivots())])

    def to_undo(self) -> Iterator[RecordedStep]:
        """Yield the steps whose undo must run before the saga is over, the last first.

        Of what was abandoned, whatever becomes of the saga; of the others, if it rolls back, what was completed behind
        the last pivot that was applied and the last ``keep``.
        """
        stands = self.stands
        for step in reversed(self.steps):
            is_due = step.abandoned or (self.is_rejected and step.done > stands)
            if is_due and step.undo is not None and step.was_applied and not step.undone:
                yield step


# --- the journal ----------------------------------------------------------------------------------------------


class SagaBegan(Event, name="repertory.saga-began"):
    """A saga was started: by ``command``, whose sender is answered at its end."""

    version: int
    command: bytes
    digest: bytes
    cause: str
    life: int
    at_ms: int
    sender: Sender | None = None


class StarterJoined(Event, name="repertory.starter-joined"):
    """The same start came again, from another sender, who is answered too; None: from one who asks for no answer."""

    sender: Sender | None = None


class StarterLeft(Event, name="repertory.starter-left"):
    """One of several starters has revoked its start, and was answered."""

    sender: Sender


class StepsOpened(Event, name="repertory.steps-opened"):
    """The coroutine awaits these steps, which are sent in the same transaction."""

    steps: tuple[RecordedStep, ...]


class StepAnswered(Event, name="repertory.step-answered"):
    """An entity or an effect has answered step ``n``."""

    n: int
    value: bytes
    rejected: bool
    at_ms: int


class StepExpired(Event, name="repertory.step-expired"):
    """The time of step ``n`` is over: a sleep has ended, an ask has timed out and is abandoned."""

    n: int
    at_ms: int


class SignalCame(Event, name="repertory.signal-came"):
    """A signal waits until the coroutine takes it."""

    name: str
    value: bytes
    at_ms: int
    sender: Sender | None = None


class SignalTaken(Event, name="repertory.signal-taken"):
    """The coroutine takes the signal ``number`` as step ``n``."""

    number: int
    n: int
    at_ms: int


class SignalRevoked(Event, name="repertory.signal-revoked"):
    """The signal ``number`` was revoked by who asked, and answered: it waits no more."""

    number: int


class RaceWon(Event, name="repertory.race-won"):
    """Of the steps of a ``first``, ``n`` has won; the others are abandoned."""

    n: int
    over: tuple[int, ...]


class WorkKept(Event, name="repertory.work-kept"):
    """The code has called ``keep``: what is completed so far is not undone by a later roll back."""

    order: int


class SagaCancelling(Event, name="repertory.saga-cancelling"):
    """Somebody cancels the saga; it waits for its open pivots, which are revoked."""

    reason: str
    sender: Sender | None = None


class CancelRefused(Event, name="repertory.cancel-refused"):
    """A pivot was applied: the saga goes on, and those who cancelled were answered ``TooLate``."""


class SagaSettling(Event, name="repertory.saga-settling"):
    """The saga has its ``outcome``. If that is a rejection, what was applied is undone before it is answered."""

    outcome: bytes
    rejected: bool
    at_ms: int = 0


class StepUndoing(Event, name="repertory.step-undoing"):
    """The undo of step ``n`` was sent, as attempt ``attempt``; ``call``: another one than was recorded."""

    n: int
    attempt: int
    call: RecordedCall | None = None
    at_ms: int = 0


class StepUndone(Event, name="repertory.step-undone"):
    """The undo of step ``n`` was applied; or ``skipped``, by whom and why in words."""

    n: int
    skipped: str = ""


class SagaStuck(Event, name="repertory.saga-stuck"):
    """The undo of step ``n`` was rejected: an operator must act. Nothing before it is undone meanwhile."""

    n: int
    reason: str
    at_ms: int = 0


class SagaAgain(Event, name="repertory.saga-again"):
    """A new run begins under the same key: with its own steps, and what is unsettled or may be undone of the others."""

    version: int
    command: bytes
    at_ms: int


class SagaOver(Event, name="repertory.saga-over"):
    """All is settled and undone, and the outcome answered. Only the outcome and the start's digest are kept."""

    at_ms: int


SAGA_EVENTS: tuple[type[Event], ...] = (
    SagaBegan, StarterJoined, StarterLeft, StepsOpened, StepAnswered, StepExpired, SignalCame, SignalTaken,
    SignalRevoked, RaceWon, WorkKept, SagaCancelling, CancelRefused, SagaSettling, StepUndoing, StepUndone, SagaStuck,
    SagaAgain, SagaOver,
)  # fmt: skip

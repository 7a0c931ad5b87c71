"""The fold of a saga's journal: one function for each event, total and pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from repertory.actors.message import Event
from repertory.actors.saga.progress import (
    CancelRefused,
    RaceWon,
    RecordedStep,
    SagaAgain,
    SagaBegan,
    SagaCancelling,
    SagaOver,
    SagaPhase,
    SagaProgress,
    SagaSettling,
    SagaStuck,
    SignalCame,
    SignalRevoked,
    SignalTaken,
    StarterJoined,
    StarterLeft,
    StepAnswered,
    StepExpired,
    StepsOpened,
    StepUndoing,
    StepUndone,
    WaitingSignal,
    WorkKept,
)


def _began(_progress: SagaProgress, evt: SagaBegan) -> SagaProgress:
    starters = () if evt.sender is None else (evt.sender,)
    return SagaProgress(
        phase=SagaPhase.RUNNING, version=evt.version, command=evt.command, digest=evt.digest, cause=evt.cause,
        life=evt.life, began_ms=evt.at_ms, starters=starters, is_told=evt.sender is None,
    )  # fmt: skip


def _starter_joined(progress: SagaProgress, evt: StarterJoined) -> SagaProgress:
    if evt.sender is None:
        return replace(progress, is_told=True)
    return replace(progress, starters=(*progress.starters, evt.sender))


def _starter_left(progress: SagaProgress, evt: StarterLeft) -> SagaProgress:
    return replace(progress, starters=tuple(each for each in progress.starters if each != evt.sender))


def _opened(progress: SagaProgress, evt: StepsOpened) -> SagaProgress:
    return replace(progress, steps=(*progress.steps, *evt.steps))


def _answered(progress: SagaProgress, evt: StepAnswered) -> SagaProgress:
    step = progress.step(evt.n)
    if step is None:
        return progress
    if step.done:  # Late: it has timed out.
        return _put(progress, replace(step, answered=True, rejected=evt.rejected))
    answered = replace(step, answered=True, rejected=evt.rejected, value=evt.value)
    return _done(progress, answered, evt.at_ms)


def _expired(progress: SagaProgress, evt: StepExpired) -> SagaProgress:
    step = progress.step(evt.n)
    if step is None:
        return progress
    return _done(progress, replace(step, timed_out=step.is_outside, abandoned=step.is_outside), evt.at_ms)


def _signal_came(progress: SagaProgress, evt: SignalCame) -> SagaProgress:
    signal = WaitingSignal(progress.signals_seen, evt.name, evt.value, evt.at_ms, evt.sender)
    return replace(progress, signals=(*progress.signals, signal), signals_seen=progress.signals_seen + 1)


def _signal_taken(progress: SagaProgress, evt: SignalTaken) -> SagaProgress:
    step = progress.step(evt.n)
    taken = next((each for each in progress.signals if each.number == evt.number), None)
    if step is None or taken is None:
        return progress
    left = tuple(each for each in progress.signals if each is not taken)
    return _done(replace(progress, signals=left), replace(step, value=taken.value), evt.at_ms)


def _signal_revoked(progress: SagaProgress, evt: SignalRevoked) -> SagaProgress:
    return replace(progress, signals=tuple(each for each in progress.signals if each.number != evt.number))


def _race_won(progress: SagaProgress, evt: RaceWon) -> SagaProgress:
    steps = (
        replace(each, won=True) if each.n == evt.n else replace(each, abandoned=True) if each.n in evt.over else each
        for each in progress.steps
    )
    return replace(progress, steps=tuple(steps))


def _kept(progress: SagaProgress, evt: WorkKept) -> SagaProgress:
    return replace(progress, kept=evt.order)


def _cancelling(progress: SagaProgress, evt: SagaCancelling) -> SagaProgress:
    cancellers = progress.cancellers if evt.sender is None else (*progress.cancellers, evt.sender)
    return replace(progress, is_cancelling=True, cancel_reason=evt.reason, cancellers=cancellers)


def _cancel_refused(progress: SagaProgress, _evt: CancelRefused) -> SagaProgress:
    return replace(progress, is_cancelling=False, cancel_reason="", cancellers=())


def _settling(progress: SagaProgress, evt: SagaSettling) -> SagaProgress:
    return replace(
        progress, phase=SagaPhase.SETTLING, outcome=evt.outcome, is_rejected=evt.rejected, is_cancelling=False,
        cancellers=(), since_ms=evt.at_ms,
    )  # fmt: skip


def _undoing(progress: SagaProgress, evt: StepUndoing) -> SagaProgress:
    progress = replace(progress, undoing=evt.n, undo_attempt=evt.attempt, stuck="", since_ms=evt.at_ms)
    step = progress.step(evt.n)
    return progress if evt.call is None or step is None else _put(progress, replace(step, undo=evt.call))


def _undone(progress: SagaProgress, evt: StepUndone) -> SagaProgress:
    progress = replace(progress, undoing=-1, undo_attempt=0, stuck="")
    step = progress.step(evt.n)
    return progress if step is None else _put(progress, replace(step, undone=True))


def _stuck(progress: SagaProgress, evt: SagaStuck) -> SagaProgress:
    return replace(progress, stuck=evt.reason, since_ms=evt.at_ms)


def _again(progress: SagaProgress, evt: SagaAgain) -> SagaProgress:
    stands = progress.stands
    carried = tuple(
        each for each in progress.steps
        if each.is_unsettled or (each.undo is not None and each.was_applied and not each.undone
                                 and (each.abandoned or each.done > stands))
    )  # fmt: skip
    return replace(
        progress, version=evt.version, command=evt.command, began_ms=evt.at_ms, runs=progress.runs + 1,
        first=progress.next_step, steps=carried, kept=stands,
    )  # fmt: skip


def _over(progress: SagaProgress, evt: SagaOver) -> SagaProgress:
    return SagaProgress(
        phase=SagaPhase.OVER, version=progress.version, digest=progress.digest, life=progress.life,
        began_ms=progress.began_ms, runs=progress.runs, outcome=progress.outcome, is_rejected=progress.is_rejected,
        over_ms=evt.at_ms,
    )  # fmt: skip


def _done(progress: SagaProgress, step: RecordedStep, at_ms: int) -> SagaProgress:
    """Complete a step, as the next one in order."""
    order = progress.order + 1
    return _put(replace(progress, order=order), replace(step, done=order, done_ms=at_ms))


def _put(progress: SagaProgress, step: RecordedStep) -> SagaProgress:
    steps, at = progress.steps, progress.place(step.n)
    return progress if at < 0 else replace(progress, steps=(*steps[:at], step, *steps[at + 1 :]))


FOLD: dict[type[Event], Callable[[SagaProgress, Any], SagaProgress]] = {
    SagaBegan: _began,
    StarterJoined: _starter_joined,
    StarterLeft: _starter_left,
    StepsOpened: _opened,
    StepAnswered: _answered,
    StepExpired: _expired,
    SignalCame: _signal_came,
    SignalTaken: _signal_taken,
    SignalRevoked: _signal_revoked,
    RaceWon: _race_won,
    WorkKept: _kept,
    SagaCancelling: _cancelling,
    CancelRefused: _cancel_refused,
    SagaSettling: _settling,
    StepUndoing: _undoing,
    StepUndone: _undone,
    SagaStuck: _stuck,
    SagaAgain: _again,
    SagaOver: _over,
}


def fold(progress: SagaProgress, evt: Event) -> SagaProgress:
    """Return the progress after one event."""
    return FOLD[type(evt)](progress, evt)

"""A saga for people: what it waits for, what is wrong with it, and its steps."""

from __future__ import annotations

import time

from repertory.actors.saga.progress import RecordedCall, RecordedStep, SagaPhase
from repertory.bridge.system.open_sagas import OPERATOR, UNDO, AwaitedStep, OpenSaga, receiver
from repertory.inspect.nodes import age
from repertory.inspect.readable import readable


def awaited(wait: AwaitedStep, now_ms: int) -> str:
    """Return what a saga waits for, since when, and where its message is."""
    what = f"{wait.target} {wait.key!r}" if wait.key else wait.target
    match wait.kind:
        case "sleep":
            text = "its sleep"
        case "signal":
            text = f"signal {wait.target}"
        case "perform":
            text = f"effect {wait.target}"
        case _ if wait.kind == UNDO:
            text = f"{what} to undo it"
        case _ if wait.kind == OPERATOR:
            return f"step {wait.n}: an operator, since {what} has refused to undo it ({age(now_ms - wait.since_ms)})"
        case _:
            text = what
    left_ms = wait.due_ms - now_ms
    due = f", {f'until in {age(left_ms)}' if left_ms > 0 else f'{age(-left_ms)} overdue'}" if wait.due_ms else ""
    place = "" if wait.place is None else f"; it {wait.place.text}"
    return f"step {wait.n}: {text} ({age(now_ms - wait.since_ms)}{due}){place}"


def needs_operator(saga: OpenSaga) -> bool:
    """Return whether nothing more happens to a saga before an operator acts."""
    places = (saga.stash, *(each.place for each in saga.waits))
    return bool(saga.stuck) or any(each is not None and each.parked for each in places)


def trouble(saga: OpenSaga) -> str:
    """Return what is wrong with a saga; "" if that is nothing."""
    if saga.is_over:
        return ""
    if saga.stuck:
        return f"the undo of step {saga.progress.undoing} was rejected: {saga.stuck}"
    if saga.stash is not None and saga.stash.error:
        return f"its own key {saga.stash.text}"
    failed = next((each for each in saga.waits if each.place is not None and each.place.error), None)
    return "" if failed is None or failed.place is None else f"step {failed.n} {failed.place.text}"


def shown_saga(saga: OpenSaga) -> dict[str, object]:
    """Return a saga as plain values; its steps are apart."""
    progress = saga.progress
    return {
        "entity": saga.entity,
        "key": saga.key,
        "partition": saga.partition,
        "phase": saga.phase,
        "version": progress.version,
        "run": progress.runs + 1,
        "begun": moment(progress.began_ms) if progress.began_ms else "",
        "since": moment(saga.since_ms),
        "waits": saga.waits,
        "trouble": trouble(saga),
        "stash": saga.stash,
        "command": readable(progress.command) if progress.command else "",
        "outcome": readable(progress.outcome) if progress.outcome else "",
        "cancelled_for": progress.cancel_reason,
        "waiting_for_it": [f"{each.topic} {each.key or each.correlation_id}" for each in progress.starters],
        "signals": [f"{readable(each.value)} at {moment(each.at_ms)}" for each in progress.signals],
    }


def shown_step(saga: OpenSaga, step: RecordedStep) -> dict[str, object]:
    """Return a step as plain values."""
    return {
        "step": step.n,
        "what": step.kind,
        "receiver": receiver(step),
        "key": step.key,
        "about": step.about,
        "begun": moment(step.opened_ms),
        "took": f"{(step.done_ms - step.opened_ms) / 1_000:g} s" if step.done else "",
        "due": moment(step.due_ms) if step.due_ms else "",
        "result": _result(step),
        "undo": _undo(saga, step),
    }


def _result(step: RecordedStep) -> str:
    if not step.sent:
        return "not sent: another one had won"
    late = " and answered later: " + ("nothing was applied" if step.rejected else "it was applied")
    if step.timed_out:
        return f"timed out{late if step.answered else '; it is not known yet whether it was applied'}"
    if not step.done:
        return "abandoned" if step.abandoned else ""
    if step.kind == "sleep":
        return "over"
    return f"{'rejected: ' if step.rejected else ''}{readable(step.value)}{' (abandoned)' if step.abandoned else ''}"


def _undo(saga: OpenSaga, step: RecordedStep) -> str:
    progress = saga.progress
    if step.is_pivot:
        return "pivot: what was done before stands" if step.was_applied else "pivot: cannot be undone"
    if step.undo is None:
        return ""
    call = _called(step.undo)
    if step.undone:
        return f"undone: {call}"
    if step.n == progress.undoing:
        attempt = f"attempt {progress.undo_attempt}"
        return f"{attempt} was rejected: {progress.stuck}: {call}" if progress.stuck else f"{attempt}: {call}"
    if step.answered and not step.was_applied:
        return "nothing to undo"
    if any(each.n == step.n for each in progress.to_undo()):
        return f"to come: {call}"
    if progress.phase is SagaPhase.RUNNING or step.is_unsettled:
        return f"if it has to be: {call}"
    return "it stands"


def _called(undo: RecordedCall) -> str:
    return f"{undo.target}{f' {undo.key!r}' if undo.key else ''} {readable(undo.message)}"


def moment(at_ms: int) -> str:
    """Return a time in UTC."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms / 1_000))
    except (OverflowError, ValueError, OSError):  # A record may hold any number.
        return f"{at_ms} ms"

"""``explore``: runs a saga in every way: each order of answers, each rejection, time-outs, signals, a cancel."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from repertory.actors.message import Command, Event, Message, Rejection, Undelivered
from repertory.actors.saga.progress import SagaPhase
from repertory.actors.saga.saga import Saga
from repertory.actors.timer import DELAY_S_MAX
from repertory.testing.open_step import OpenStep
from repertory.testing.saga_kit import SagaKit
from repertory.testing.saga_trace import DecidedTurn, replay

S = TypeVar("S", bound=Saga)

#: What a test says may be answered: values, or what gives them for a step.
Answers = Iterable[Event | Rejection] | Callable[[OpenStep], Iterable[Event | Rejection]]

#: So many of the runs, spread over all of them, are run again in another process.
_REPLAYED_MAX = 100
#: What a field of a rejection may be, tried in this order.
_SAMPLES: tuple[Any, ...] = (None, 0, "", False, 0.0, [], {}, 1, "a", "2000-01-01T00:00:00Z", "2000-01-01", "00:00:00")


class Explored(msgspec.Struct, frozen=True):
    """So many ``runs`` came to their end, ``waiting`` of them to a wait for what nobody gives.

    ``is_complete``: whether these are all there are; else ``runs_max`` or ``turns_max`` has cut it short.
    """

    runs: int
    waiting: int
    is_complete: bool


class _Path(msgspec.Struct, frozen=True):
    """One run up to a gap, what has led there, and what may still come from outside."""

    kit: SagaKit[Any]
    said: tuple[str, ...]
    signals: tuple[Command, ...]
    cancels: bool
    retries: bool = True


_Move = tuple[str, Callable[[SagaKit[Any]], object], Callable[[_Path], _Path]]


def explore(
    saga: type[S],
    start: Command,
    check: Callable[[SagaKit[S]], None],
    *,
    answers: Answers = (),
    signals: Iterable[Command] = (),
    cancels: bool = True,
    key: str = "key",
    runs_max: int = 10_000,
    turns_max: int = 50,
    elsewhere: bool = True,
) -> Explored:
    """Run a saga in every way there is, and call ``check(kit)`` where it is over or Stuck.

    At each gap, whatever is open may be answered next: by each of ``answers`` of a fitting type, ``Done``, and each
    rejection that its receiver may give, with the least values if ``answers`` has none; an abandoned step too. Or the
    next time-out or sleep ends, or one of ``signals`` comes (each comes once, if ever), or somebody cancels (once).
    An undo may be rejected: then ``check`` is called, and the undo is tried again.

    An exception, of the saga or of ``check``, has a note that says what has led there. With ``elsewhere`` some of the
    runs are run again in another process, with another hash seed, if that can import the class of the saga.

    About 0.3 ms a turn. ``runs_max``: the end of the search, see `Explored`; ``turns_max``: of one run.
    """
    kit = SagaKit(saga, key=key)
    kit.start(start)
    todo = [_Path(kit, (f"start {start!r:.200}",), tuple(signals), cancels)]
    runs = waiting = 0
    is_complete, traces = True, list[tuple[DecidedTurn, ...]]()
    stride = 1
    while todo:
        if runs >= runs_max:
            is_complete = False
            break
        path = todo.pop()
        if path.kit.stuck or path.kit.is_over:
            _check(path, check)
        following = [] if path.kit.is_over else list(_following(path, answers))
        if following and len(path.said) < turns_max:
            todo += reversed(following)
            continue
        runs += 1
        waiting += not path.kit.is_over
        is_complete = is_complete and not following
        if runs % stride == 0:
            traces.append(path.kit.turns)
        if len(traces) > _REPLAYED_MAX:
            stride, traces = 2 * stride, traces[::2]
    if elsewhere and "<locals>" not in saga.__qualname__ and saga.__module__ != "__main__":
        replay(saga, key, traces)
    return Explored(runs, waiting, is_complete)


def _check(path: _Path, check: Callable[[SagaKit[Any]], None]) -> None:
    try:
        check(path.kit)
    except BaseException as error:
        error.add_note(_note(path.said))
        raise


def _following(path: _Path, answers: Answers) -> Iterator[_Path]:
    for said, act, left in _moves(path, answers):
        kit, way = path.kit.fork(), (*path.said, said)
        try:
            act(kit)
        except BaseException as error:
            error.add_note(_note(way))
            raise
        yield left(msgspec.structs.replace(path, kit=kit, said=way))


def _note(said: Iterable[str]) -> str:
    return "explore came here by: " + "; ".join(said)


def _moves(path: _Path, answers: Answers) -> Iterator[_Move]:
    """Yield what may happen next."""
    kit = path.kit
    if kit.stuck:
        if path.retries:
            yield "retry", lambda kit: kit.retry_undo(), lambda path: msgspec.structs.replace(path, retries=False)
        return
    for step in kit.open:
        for answer in _candidates(step, answers, retried=not path.retries):
            yield f"answer {step} {answer!r:.200}", _answering(answer, step), _same
    if kit.progress.phase is not SagaPhase.RUNNING:
        return
    due = [each.due_s for each in kit.open if each.due_s is not None]
    if due and min(due) <= DELAY_S_MAX:
        yield f"advance {min(due):g} s", _advancing(max(0.0, min(due))), _same
    for at, signal in enumerate(path.signals):
        left = path.signals[:at] + path.signals[at + 1 :]
        yield f"signal {signal!r:.200}", _signalling(signal), _leaving(left)
    if path.cancels:
        yield "cancel", lambda kit: kit.cancel(), lambda path: msgspec.structs.replace(path, cancels=False)


def _same(path: _Path) -> _Path:
    return path


def _answering(answer: Any, step: OpenStep) -> Callable[[SagaKit[Any]], object]:
    return lambda kit: kit.answer(answer, step)


def _advancing(seconds: float) -> Callable[[SagaKit[Any]], object]:
    return lambda kit: kit.advance(seconds)


def _signalling(signal: Command) -> Callable[[SagaKit[Any]], object]:
    return lambda kit: kit.signal(signal)


def _leaving(signals: tuple[Command, ...]) -> Callable[[_Path], _Path]:
    return lambda path: msgspec.structs.replace(path, signals=signals)


def _candidates(step: OpenStep, answers: Answers, *, retried: bool) -> Iterator[Message]:
    """Yield what a step may be answered. An undo is rejected in one way, and not when it was tried again."""
    if not step.answers:
        return
    given = [each for each in (answers(step) if callable(answers) else answers) if type(each) in step.answers]
    kinds = {type(each) for each in given}
    made = [_sample(kind) for kind in step.answers if kind not in kinds and not kind.__struct_fields__]
    made += [
        _sample(kind)
        for kind in step.answers
        if kind not in kinds and kind.__struct_fields__ and issubclass(kind, Rejection)
    ]
    found: list[Message] = [*given, *made]
    applied = [each for each in found if not isinstance(each, Rejection)]
    if not applied:
        names = ", ".join(kind.__name__ for kind in step.answers if not issubclass(kind, Rejection))
        raise ValueError(f"{step} of {step.receiver!r} may be answered {names}; give one: explore(…, answers=[…])")
    if step.kind != "undo":
        yield from found
        return
    yield applied[0]
    if not retried:
        yield next((each for each in given if isinstance(each, Rejection)), Undelivered(reason="dropped"))


def _sample(kind: type[msgspec.Struct]) -> Any:
    """Return a message with the least values; ValueError if a field is not of a plain kind."""
    hints = get_type_hints(kind, include_extras=True)
    values = {each.name: _value(hints[each.name], kind) for each in msgspec.structs.fields(kind) if each.required}
    return kind(**values)


def _value(wanted: Any, kind: type) -> Any:
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return next(iter(wanted))
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return _sample(wanted)
    samples = get_args(wanted) if get_origin(wanted) is Literal else _SAMPLES
    for raw in samples:
        try:
            return msgspec.convert(raw, wanted)
        except msgspec.ValidationError:
            continue
    raise ValueError(f"explore cannot make a {kind.__name__}; give one: explore(…, answers=[{kind.__name__}(…)])")

"""Makes the plans of steps: what is sent, how it is undone, and what makes a value of the answer. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from repertory.actors.context import Context, checked_about
from repertory.actors.effect import Effect
from repertory.actors.entity import resolved
from repertory.actors.handler import Handler
from repertory.actors.message import Done, Message, Request, wire_name
from repertory.actors.placement import checked_key
from repertory.actors.saga.messages import TimedOut
from repertory.actors.saga.progress import RecordedStep, StepKind
from repertory.actors.saga.step import Call, NotInBuild, Pivot, Plan, SagaRefused, digest_of, digest_of_value
from repertory.actors.timer import DELAY_S_MAX
from repertory.actors.wire import DecodeError, MessageDecoder

_decoders: dict[tuple[type[Message], ...], MessageDecoder] = {}


def call_to(context: Context, receiver: Any, args: tuple[Any, ...]) -> Call:
    """Return a message for an entity, or a request to an effect, as data."""
    if len(args) != (1 if isinstance(receiver, Effect) else 2):
        raise SagaRefused("call takes a method, a key and a message, or an effect and a request")
    if isinstance(receiver, Effect):
        (request,) = args
        _check_request(receiver, request)
        return Call(receiver.name, "", request, is_effect=True)
    key, message = args
    handler = context.addressed(receiver, message)
    return Call(resolved(handler.owner).name, checked_key(key), message)


def asked(
    context: Context,
    kind: StepKind,
    handler: Any,
    key: str,
    message: Any,
    *,
    undo: object,
    timeout_s: float | None = None,
    about: str = "",
) -> Plan:
    """Return the plan of an ask of another entity."""
    context.addressed(handler, message)
    recorded, is_pivot = _undo_of(handler, undo)
    delay_ms = 0 if timeout_s is None else milliseconds("timeout_s", timeout_s)
    return Plan(
        kind, resolved(handler.owner).name, checked_key(key), handler.name, checked_about(about), digest_of(message),
        _answer(handler.answers), recorded, is_pivot, delay_ms, handler, message,
    )  # fmt: skip


def performed(effect: object, request: Request, *, undo: object) -> Plan:
    """Return the plan of an effect."""
    if not isinstance(effect, Effect):
        raise SagaRefused(f"perform takes an @effect function, not {effect!r:.100}")
    _check_request(effect, request)
    recorded, is_pivot = _undo_of(effect, undo)
    return Plan(
        "perform", effect.name, "", "", "", digest_of(request), _result(effect), recorded, is_pivot,
        receiver=effect, output=request,
    )  # fmt: skip


def slept(s: float) -> Plan:
    """Return the plan of a sleep."""
    delay_ms = milliseconds("sleep", s)
    return Plan("sleep", "", "", "", "", digest_of_value(delay_ms), lambda _step: None, delay_ms=delay_ms)


def signalled(run: Handler, kind: Any) -> Plan:
    """Return the plan of waiting for a signal."""
    declared = resolved(run.owner).handlers.get(kind)
    if declared is None or declared.kind != "signal":
        name = getattr(kind, "__name__", repr(kind))
        raise SagaRefused(f"{run.owner.__name__} has no signal {name}; declare one: … = signal({name})")
    return Plan("signal", wire_name(kind), "", "", "", b"", _answer((kind,)))


def milliseconds(name: str, seconds: object) -> int:
    """Return a wait in whole milliseconds, at least one."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= DELAY_S_MAX:
        raise SagaRefused(f"{name} is a number of seconds from 0 on, not {seconds!r:.100}")
    return max(round(seconds * 1_000), 1)


def _undo_of(receiver: object, undo: object) -> tuple[Call | None, bool]:
    match undo:
        case None:
            return None, False
        case Pivot():
            return None, True
        case Call():
            return undo, False
    raise SagaRefused(
        f"{receiver!r}: undo={undo!r:.100} is not data that can be written down; use ctx.call(…), None or PIVOT"
    )


def _check_request(effect: Effect[Any, Any], request: object) -> None:
    if type(request) is not effect.signature.request:
        raise SagaRefused(f"effect {effect.name!r} does not take {type(request).__name__}")


def _answer(answers: tuple[type[Message], ...]) -> Callable[[RecordedStep], Message]:
    """Return what makes a value of the answer to a step."""

    def decode(step: RecordedStep) -> Message:
        return TimedOut() if step.timed_out else _decoded(answers, step.value)

    return decode


def _result(effect: Effect[Any, Any]) -> Callable[[RecordedStep], Message | None]:
    """Return what makes a value of the result of an effect."""
    results = effect.signature.results
    answers: tuple[type[Message], ...] = (*effect.signature.answers, Done)

    def decode(step: RecordedStep) -> Message | None:
        found = _decoded(answers, step.value)
        return None if type(found) is Done and type(None) in results else found

    return decode


def _decoded(answers: tuple[type[Message], ...], data: bytes) -> Message:
    """Decode an answer; DecodeError if no build can, NotInBuild if it is of a type that another build may have."""
    if (decoder := _decoders.get(answers)) is None:
        decoder = _decoders[answers] = MessageDecoder(dict.fromkeys(answers))
    try:
        found: Message = decoder.decode(data)
    except DecodeError as error:
        if error.unknown is None:
            raise
        raise NotInBuild(f"an answer cannot be read by this build: {error}") from error
    return found

"""One command on one entity: run the handler, check its contract, evolve the state. Pure; nothing is sent.

Values that could not be committed and restored fail here: each event and each state is encoded *and decoded* before it
is used, so the live fold and every replay see the same values (0.1-0.2 µs for small ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import msgspec

from repertory.actors.collected import Alert, Cancel, Collected, LaterItem, Perform, Schedule, Send, Tell
from repertory.actors.context import Context, ContractViolation, Directory
from repertory.actors.entity import Behaviour, Entity
from repertory.actors.handler import Handler, NextState, ResultKind
from repertory.actors.message import Done, Envelope, Message, Stopped
from repertory.actors.outgoing import check_encoding, check_size, encoded, sendable
from repertory.actors.wire import DEPTH_MAX, encode

#: A member of an Enum takes as long to look up as a function to call.
_EVENT, _REJECTION, _STATE = ResultKind.EVENT, ResultKind.REJECTION, ResultKind.STATE


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The result of one command. ``events`` are encoded, ``Stopped`` included; ``reply`` is None if none is sent.

    ``sent`` are the encoded values of ``outputs``, and ``reply_data`` is that of ``reply``. ``rejection`` is what
    the handler returned if ``rejected``, also if nobody is answered. ``later`` is what is for later, and ``later_data``
    are its encoded messages and requests, b"" for a timer that is cancelled. ``alerts`` are for operators.
    """

    state: Entity
    data: bytes
    events: Sequence[bytes] = ()
    messages: Sequence[Message] = ()
    reply: Message | None = None
    reply_data: bytes = b""
    outputs: Sequence[Collected] = ()
    sent: Sequence[bytes] = ()
    rejected: bool = False
    stopped: bool = False
    rejection: Message | None = None
    later: Sequence[LaterItem] = ()
    later_data: Sequence[bytes] = ()
    alerts: Sequence[Alert] = ()


def decide(
    behaviour: Behaviour,
    state: Entity,
    data: bytes,
    envelope: Envelope,
    directory: Directory,
    *,
    cause: str,
    attempt: int,
    bytes_max: int,
) -> Decision:
    """Run the handler for the envelope's message on a state whose encoding is ``data``.

    Raises the handler's exception, and ContractViolation or OutputTooLarge if it breaks its contract. After that the
    caller must decode the state from ``data`` again.
    """
    handler = behaviour.handlers[type(envelope.message)]
    context: Context | None = None
    if handler.takes_context:
        context = Context(behaviour, handler, envelope, directory, cause, attempt, bytes_max)
    command = envelope.message
    result = handler.function(state, command) if context is None else handler.function(state, command, context)
    if behaviour.has_mutable_fields and encode(state) != data:
        raise ContractViolation(f"{handler!r} changed its entity in place; return what changes instead")
    after, after_data = state, data
    events: list[bytes] = []
    messages: Sequence[Message] = ()
    kind = handler.result_kinds.get(type(result))
    if kind is _EVENT:
        messages = (result,)
    elif kind is None:
        messages = _checked(handler, result)
    elif kind is _REJECTION:
        reply = result if envelope.sender is not None and handler.answers_asker else None
        reply_data = b"" if reply is None else sendable(reply, bytes_max)
        return Decision(state, data, reply=reply, reply_data=reply_data, rejected=True, rejection=result)
    elif kind is _STATE:
        after, after_data = _survived(behaviour, result, bytes_max)
    if context is not None and context.evolved is not None:
        events = [encoded(message, bytes_max) for message in messages]
        after, after_data = _folded(behaviour, context.evolved, bytes_max)
    else:
        for message in messages:
            event_data = encoded(message, bytes_max)
            events.append(event_data)
            event = behaviour.event_decode[type(message)](event_data)
            after, after_data = evolve(behaviour, after, event, bytes_max)
    reply, reply_data = None, b""
    if envelope.sender is not None and _answers(handler, result, context):
        reply, reply_data = (messages[-1], events[-1]) if messages else (_DONE, _DONE_DATA)
    if context is None:
        return Decision(after, after_data, events, messages, reply, reply_data)
    sent = [_sent(output, bytes_max) for output in context.collected]
    later_data = _later_data(handler, context, bytes_max) if context.later else ()
    if context.stopped:
        after, after_data = _stopped(behaviour, events)
    return Decision(
        after, after_data, events, messages, reply, reply_data, context.collected, sent,
        stopped=context.stopped, later=context.later, later_data=later_data, alerts=context.alerts,
    )  # fmt: skip


def decide_query(
    behaviour: Behaviour,
    state: Entity,
    data: bytes,
    envelope: Envelope,
    directory: Directory,
    *,
    cause: str,
    attempt: int,
    bytes_max: int,
) -> Decision:
    """Run the handler for a query, which changes nothing. The decision has a reply, also if nobody asked.

    Takes and raises what :func:`decide` does.
    """
    handler = behaviour.queries[type(envelope.message)]
    if handler.takes_context:  # No query does; a hook before it does (``bridge.hooked``).
        context = Context(behaviour, handler, envelope, directory, cause, attempt, bytes_max)
        result = handler.function(state, envelope.message, context)
    else:
        result = handler.function(state, envelope.message)
    if behaviour.has_mutable_fields and encode(state) != data:
        raise ContractViolation(f"{handler!r} changed its entity in place; a query changes nothing")
    kind = handler.result_kinds.get(type(result))
    if kind is None:
        _refuse(handler, result, "")
    rejection = result if kind is _REJECTION else None
    reply_data = sendable(result, bytes_max)
    return Decision(
        state, data, reply=result, reply_data=reply_data, rejected=rejection is not None, rejection=rejection
    )


_STOPPED = encode(Stopped())
_DONE = Done()
_DONE_DATA = encode(_DONE)


def evolve(behaviour: Behaviour, state: Entity, event: Message, bytes_max: int) -> tuple[Entity, bytes]:
    """Return the state after one decoded event, and its bytes. Live folds and replays both use this step."""
    after = behaviour.evolve[type(event)](state, event)
    if type(after) is not behaviour.entity:
        raise ContractViolation(
            f"{behaviour.events[type(event)]!r} returned {type(after).__name__}, not {behaviour.entity.__name__}"
        )
    return _survived(behaviour, after, bytes_max)


def _folded(behaviour: Behaviour, state: Entity, bytes_max: int) -> tuple[Entity, bytes]:
    """Return a state that a handler has folded itself, and its bytes.

    It is not decoded again, which takes as long as the state is large: that is only for states that are of nothing but
    the runtime's own structs, whose every field survives.
    """
    data = encode(state)
    check_size(behaviour.entity.__name__, len(data), bytes_max)
    return state, data


def _stopped(behaviour: Behaviour, events: list[bytes]) -> tuple[Entity, bytes]:
    """Return the state in which the next life begins, and add the end of this one to the events."""
    if behaviour.journaled:
        events.append(_STOPPED)
    return behaviour.initial(), behaviour.initial_data


def _survived(behaviour: Behaviour, state: Entity, bytes_max: int) -> tuple[Entity, bytes]:
    data = encode(state)
    if len(data) > DEPTH_MAX:
        if behaviour.is_shallow:
            check_size(behaviour.entity.__name__, len(data), bytes_max)
        else:
            check_encoding(state, data, bytes_max)
    try:
        restored = behaviour.state_decode(data)
    except msgspec.DecodeError as error:
        raise ContractViolation(
            f"the new state of {behaviour.entity.__name__} could not be restored: {error}"
        ) from error
    if behaviour.has_mutable_fields:
        data = encoded(restored, bytes_max)
    return restored, data


def _sent(output: Collected, bytes_max: int) -> bytes:
    """Return the encoded value of a collected output. Bytes are only checked for their size."""
    value = output.message if isinstance(output, Tell | Send) else output.value
    if isinstance(value, bytes):
        check_size("the published value", len(value), bytes_max)
        return value
    return sendable(value, bytes_max)


def _later_data(handler: Handler, context: Context, bytes_max: int) -> list[bytes]:
    """Return the encoded messages of what a handler has collected for later, b"" for a timer that is cancelled."""
    if context.stopped and any(isinstance(each, Schedule) for each in context.later):
        raise ContractViolation(f"{handler!r} schedules a timer for an entity that stops; use tell(…, after_s=…)")
    return [_sent_later(each, bytes_max) for each in context.later]


def _sent_later(item: LaterItem, bytes_max: int) -> bytes:
    match item:
        case Cancel():
            return b""
        case Perform(_, request):
            return request if isinstance(request, bytes) else sendable(request, bytes_max)
        case Schedule() | Tell():
            return sendable(item.message, bytes_max)


def _answers(handler: Handler, result: object, context: Context | None) -> bool:
    """Return whether the handler's result is the answer to an asker."""
    return handler.answers_asker and (context is None or not (context.replied or context.keeps_sender(result)))


def _checked(handler: Handler, result: object) -> Sequence[Message]:
    """Return a tuple of allowed events; raise ContractViolation for any other result."""
    if type(result) is not tuple or not handler.returns_tuple:
        _refuse(handler, result, "")
    if not result and not handler.returns_nothing:
        raise ContractViolation(f"{handler!r} returned no event; its annotation requires at least one")
    for message in result:
        if handler.result_kinds.get(type(message)) is not _EVENT:
            _refuse(handler, message, " within a tuple")
    return result


def _refuse(handler: Handler, result: object, where: str) -> NoReturn:
    names = ", ".join("Self" if r is NextState else r.__name__ for r in handler.results)
    raise ContractViolation(f"{handler!r} returned {type(result).__name__}{where}; its annotation names {names}")

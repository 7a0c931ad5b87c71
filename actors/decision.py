"""One command on one entity: run the handler, check its contract, evolve the state. Pure; nothing is sent.

All that could not be committed and restored fails here: each event and each state is encoded *and decoded* before
it counts, so the live fold and every replay see the same values (0.1-0.2 µs when small).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from actors.context import Context, ContractViolation, Directory, OutputTooLarge, Publish, Reply, Tell
from actors.entity import Behaviour, Entity
from actors.handler import Handler, NextState
from actors.message import Done, Envelope, Message, Rejection, Stopped
from actors.wire import encode

#: What a record carries beside a message: key (255), headers (under 700), the fields of a state record.
RECORD_OVERHEAD_BYTES = 1_024

_NOTHING: Sequence[Any] = ()


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What one command does. ``events`` are encoded, ``Stopped`` included; ``reply`` is None for nobody asked."""

    state: Entity
    data: bytes
    events: Sequence[bytes]
    messages: Sequence[Message]
    outputs: Sequence[Tell | Publish | Reply]
    reply: Message | None
    rejected: bool
    stopped: bool


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

    Raises what the handler raises, and ContractViolation or OutputTooLarge for what it must not do. The caller
    then goes on with the state decoded from ``data`` anew.
    """
    handler = behaviour.handlers[type(envelope.message)]
    context: Context | None = None
    if handler.takes_context:
        context = Context(behaviour, handler, envelope, directory, cause, attempt)
        result = handler.function(state, envelope.message, context)
    else:
        result = handler.function(state, envelope.message)
    if behaviour.has_mutable_fields and encode(state) != data:
        raise ContractViolation(f"{handler!r} changed its entity in place; return what changes instead")
    kind = type(result)
    if kind not in handler.allowed:
        _check_result(handler, result)
    if issubclass(kind, Rejection):
        reply = result if envelope.sender is not None and handler.kind == "@command" else None
        return Decision(state, data, _NOTHING, _NOTHING, _NOTHING, reply, rejected=True, stopped=False)
    messages = result if kind is tuple else (result,) if kind in behaviour.evolve else _NOTHING
    events: list[bytes] = []
    after, after_data = state, data
    for message in messages:
        event_data = _encoded(message, bytes_max)
        events.append(event_data)
        after, after_data = evolve(behaviour, after, event_data, type(message), bytes_max)
    if kind is behaviour.entity:
        after, after_data = _survived(behaviour, result, bytes_max)
    reply = None
    if envelope.sender is not None:
        reply = _reply(handler, result, messages, context)
    if context is None:
        return Decision(after, after_data, events, messages, _NOTHING, reply, rejected=False, stopped=False)
    if context.stopped:
        after, after_data = behaviour.initial(), behaviour.initial_data
        if behaviour.journaled:
            events.append(_STOPPED)
    return Decision(
        after, after_data, events, messages, context.collected, reply, rejected=False, stopped=context.stopped
    )


_STOPPED = encode(Stopped())


def evolve(
    behaviour: Behaviour, state: Entity, event_data: bytes, event_type: type[Message], bytes_max: int
) -> tuple[Entity, bytes]:
    """Return the state after one encoded event, and its bytes: the step that live folds and replays share."""
    function, decode_event = behaviour.evolve[event_type]
    after = function(state, decode_event(event_data))
    if type(after) is not behaviour.entity:
        raise ContractViolation(
            f"{behaviour.events[event_type]!r} returned {type(after).__name__}, not {behaviour.entity.__name__}"
        )
    return _survived(behaviour, after, bytes_max)


def _survived(behaviour: Behaviour, state: Entity, bytes_max: int) -> tuple[Entity, bytes]:
    data = _encoded(state, bytes_max)
    try:
        return behaviour.state_decode(data), data
    except msgspec.DecodeError as error:
        raise ContractViolation(
            f"the new state of {behaviour.entity.__name__} could not be restored: {error}"
        ) from error


def _encoded(message: Message, bytes_max: int) -> bytes:
    data = encode(message)
    if len(data) > bytes_max - RECORD_OVERHEAD_BYTES:
        raise OutputTooLarge(
            f"{type(message).__name__} takes {len(data)} bytes; output_bytes_max is {bytes_max}, of which "
            f"{RECORD_OVERHEAD_BYTES} are for key and headers"
        )
    return data


def _reply(handler: Handler, result: object, messages: Sequence[Message], context: Context | None) -> Message | None:
    if handler.kind == "@reply" or (context is not None and (context.replied or context.keeps_sender(result))):
        return None
    return messages[-1] if messages else Done()


def _check_result(handler: Handler, result: object) -> None:
    """Pass a tuple of allowed events; raise ContractViolation for all else."""
    if type(result) is tuple and handler.returns_tuple:
        for message in result:
            if type(message) not in handler.allowed or message is None or isinstance(message, Rejection):
                _refuse(handler, message, "within a tuple")
    else:
        _refuse(handler, result, "")


def _refuse(handler: Handler, result: object, where: str) -> NoReturn:
    names = ", ".join("Self" if r is NextState else r.__name__ for r in handler.results)
    raise ContractViolation(f"{handler!r} returned {type(result).__name__} {where}; its annotation names {names}")

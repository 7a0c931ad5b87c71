"""The handlers of a projection: from the record of an event to the ``@project`` method that takes it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from repertory.actors.entity import Behaviour
from repertory.actors.headers import CAUSE
from repertory.actors.message import DefinitionError, Message, Stopped, WireName
from repertory.actors.wire import DecodeError, refuse_unknown_fields
from repertory.projections.db import Db
from repertory.projections.definition import At, Projection
from repertory.projections.progress import PlacedEvent

Method = Callable[[Projection, Any, At, Db], None]


class Handlers:
    """The handlers of one projection, for the events of one entity. ``names``: of the events that it handles."""

    def __init__(self, projection: Projection, behaviour: Behaviour, methods: Mapping[type[Message], Method]) -> None:
        self._projection, self._behaviour = projection, behaviour
        self._methods = {each: method for each, method in methods.items() if _is_of(each, behaviour)}
        self.names = sorted(each.wire.name for each in self._methods)
        self._bases = {name for each in self._methods for name in (each.wire.name, *each.wire.was)}

    def of(self, projection: Projection) -> Handlers:
        """Return the same handlers, of another instance of the projection."""
        return Handlers(projection, self._behaviour, self._methods)

    def handle(self, event: PlacedEvent, db: Db) -> None:
        """Call the method that takes an event, if there is one.

        Raises DecodeError for bytes that this build cannot read, unless they are of a type that it does not know: that
        has no handler here. Raises whatever the method does.
        """
        record = event.record
        data = record.value or b""
        try:
            message: Message = self._behaviour.journal.decode(data)
            method = self._methods.get(type(message))
            if method is not None:
                refuse_unknown_fields(data, message, self._behaviour.journal)
        except DecodeError as error:
            unknown = error.unknown
            if unknown is None or unknown.field or WireName.parse(unknown.name).name in self._bases:
                raise
            return
        if method is not None:
            cause = (record.header(CAUSE) or b"").decode("utf-8", "backslashreplace")
            at = At(
                self._behaviour.name, event.key, record.partition, record.offset, event.seq, record.timestamp_ms, cause
            )
            method(self._projection, message, at, db)


def _is_of(event: type[Message], behaviour: Behaviour) -> bool:
    return event is Stopped or event in behaviour.events


def methods_of(kind: type[Projection], behaviours: Sequence[Behaviour]) -> dict[type[Message], Method]:
    """Return the methods of a projection by the events that they take; DefinitionError for a mistake."""
    found: dict[type[Message], Method] = {}
    for method in kind.methods():
        for event in _events(kind, method):
            if not any(_is_of(event, behaviour) for behaviour in behaviours):
                names = ", ".join(behaviour.entity.__name__ for behaviour in behaviours)
                raise _refusal(kind, method, f"takes {event.__name__}, which is no event of {names}")
            other = found.setdefault(event, method)
            if other is not method:
                raise _refusal(kind, method, f"takes {event.__name__}, and so does {other.__name__}")
    if not found:
        raise DefinitionError(f"{kind.__name__} has no @project method, so it can project nothing; write one.")
    return found


def _events(kind: type[Projection], method: Callable[..., None]) -> list[type[Message]]:
    if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
        raise _refusal(kind, method, "is not a plain function; it does no I/O but db, so make it a plain def")
    parameters = list(inspect.signature(method).parameters.values())
    if len(parameters) != 4:
        raise _refusal(kind, method, "takes (self, evt, at, db)")
    try:
        hints = get_type_hints(method, localns={kind.__name__: kind})
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise _refusal(kind, method, f"has an annotation that cannot be read ({error})") from error
    annotation = hints.get(parameters[1].name)
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    for member in members:
        if not (isinstance(member, type) and issubclass(member, Message)):
            raise _refusal(
                kind, method, f"needs an event as the annotation of {parameters[1].name!r}, or a union of them"
            )
    return list(members)


def _refusal(kind: type[Projection], method: Callable[..., object], sentence: str) -> DefinitionError:
    return DefinitionError(f"@project {kind.__name__}.{method.__name__} {sentence}.")

"""What a gateway exposes: each command, query and signal as an operation with a path and a decoder. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

from repertory.actors.entity import Entity
from repertory.actors.handler import Handler
from repertory.actors.message import Message, Rejection
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.gateway.asking import is_query

_KINDS: Final = ("@command", "@query", "@run", "signal")
_SCALARS: Final = (
    inspect.BoolType | inspect.DateTimeType | inspect.DateType | inspect.DecimalType | inspect.EnumType
    | inspect.FloatType | inspect.IntType | inspect.LiteralType | inspect.NoneType | inspect.StrType | inspect.TimeType
    | inspect.TimeDeltaType | inspect.UUIDType
)  # fmt: skip


class Operation(msgspec.Struct, frozen=True):
    """One command or query. ``name`` is the handler's in paths: with dashes, as entities have them there."""

    entity: type[Entity]
    entity_name: str
    name: str
    handler: Handler
    message_type: type[Message]
    is_query: bool
    #: Its fields are parameters of a GET; else they are the body of a POST.
    has_parameters: bool
    decode_json: Any

    @property
    def is_long(self) -> bool:
        """Whether its answer may take days: the start of a saga, and a signal. It can be fetched by a GET, too."""
        return self.handler.kind in ("@run", "signal")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of HTTP by which it is asked."""
        if self.is_long:
            return ("POST", "GET", "HEAD")
        return ("GET", "HEAD") if self.has_parameters else ("POST",)


Operations = Mapping[tuple[str, str], Operation]


def operations(system: SystemDefinition, expose: Iterable[Handler] | None) -> Operations:
    """Return the operations by entity and name. None exposes all commands and queries of a system.

    Raises ValueError where ``expose`` names what is no command or query of the system.
    """
    hosted = list(system.hosted.values())
    if expose is None:
        chosen = [(definition, handler) for definition in hosted for handler in _exposable(definition)]
    else:
        chosen = [(_hosting(system, handler), handler) for handler in expose]
    found = (_operation(definition, handler) for definition, handler in chosen)
    return {(each.entity_name, each.name): each for each in found}


def checked_statuses(statuses: Mapping[type[Rejection], int]) -> dict[type[Rejection], int]:
    """Return the statuses of rejections; ValueError for what is no class of rejections, or no status of an error."""
    for rejection, status in statuses.items():
        if not (isinstance(rejection, type) and issubclass(rejection, Rejection)):
            raise ValueError(f"status: {rejection!r} is not a Rejection class")  # noqa: TRY004  one class to catch
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"status: {rejection.__name__} has {status!r}; use a number from 400 to 599")
    return dict(statuses)


def _exposable(definition: EntityDefinition) -> list[Handler]:
    """Return what an entity takes from outside; of several versions of a saga's code only that which new ones run."""
    declared = [each for each in vars(definition.behaviour.entity).values() if isinstance(each, Handler)]
    taken = definition.behaviour.taken
    return [each for each in declared if each.kind in _KINDS and taken[each.message_types[0]].name == each.name]


def _hosting(system: SystemDefinition, handler: Handler) -> EntityDefinition:
    if not isinstance(handler, Handler) or handler.kind not in _KINDS:
        raise ValueError(
            f"expose: {handler!r} is not a @command or @query method of an entity, such as Account.deposit, nor a @run "
            "method or a signal of a saga"
        )
    definition = system.hosted.get(handler.owner)
    if definition is None:
        raise ValueError(f"expose: {system.name} hosts no entity with the handler {handler!r}; add system.host(…)")
    return definition


def _operation(definition: EntityDefinition, handler: Handler) -> Operation:
    (message_type,) = handler.message_types
    asks_query = is_query(handler)
    return Operation(
        entity=definition.behaviour.entity,
        entity_name=definition.behaviour.name,
        name=handler.name.replace("_", "-"),
        handler=handler,
        message_type=message_type,
        is_query=asks_query,
        has_parameters=asks_query and _has_scalars_only(message_type),
        decode_json=msgspec.json.Decoder(message_type).decode,
    )


def _has_scalars_only(message_type: type[Message]) -> bool:
    info = inspect.type_info(message_type)
    assert isinstance(info, inspect.StructType)
    return all(_is_scalar(field.type) for field in info.fields)


def _is_scalar(node: inspect.Type) -> bool:
    if isinstance(node, inspect.Metadata):
        return _is_scalar(node.type)
    if isinstance(node, inspect.UnionType):
        return all(map(_is_scalar, node.types))
    return isinstance(node, _SCALARS)

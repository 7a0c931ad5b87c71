"""Generate commands for a system without a workload of its own, from the types of its handlers' messages."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterator

import msgspec
from msgspec import inspect

from repertory.actors.control import RevokeAsk
from repertory.actors.entity import Behaviour
from repertory.actors.handler import CommandHandler
from repertory.actors.message import Command, Message, Query
from repertory.actors.query import QueryHandler
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.clients import AddressedHandler, ClientCommand
from repertory.supervision.traceback_text import message_of

#: Few keys, so that many commands have the same key.
_KEYS = 6
_TRIES = 20
#: One text, bytes or collection in so many is large, where its type allows it. A text can still be a key, which has at
#: most 255 bytes.
_LARGE_EVERY, _LARGE_CHARS, _LARGE_BYTES, _LARGE_ITEMS = 30, 200, 20_000, 40
#: Methods of a handler's context. A handler that names them is drawn more often, once more for each: ends of life,
#: messages, replies and published records meet more of what can go wrong than a change of state does.
_OUTPUTS = ("ask", "publish", "reply", "stop", "tell")


def generated(system: ActorSystem, *, commands: int = 200) -> Callable[[random.Random], Iterator[ClientCommand]]:
    """Return a generator of ``commands`` commands and queries to all entities of a system.

    Raises ValueError if a command type of the system cannot be drawn.
    """
    handlers = [
        handler
        for hosted in system.hosted.values()
        for handler in dict.fromkeys(hosted.behaviour.taken.values())
        if isinstance(handler, CommandHandler | QueryHandler) and not _is_inner(handler, hosted.behaviour)
    ]

    weights = [_weight(handler) for handler in handlers]

    def draw(source: random.Random) -> Iterator[ClientCommand]:
        for _ in range(commands):
            (handler,) = source.choices(handlers, weights)
            key = f"k{source.randrange(_KEYS)}"
            yield handler, key, _message(source, handler)

    probe = random.Random(0)  # noqa: S311  reproducible on purpose
    for handler in handlers:
        _message(probe, handler)
    return draw


def _is_inner(handler: AddressedHandler, behaviour: Behaviour) -> bool:
    """Return whether a handler is for what a saga or the runtime sends, and no client."""
    return any(each in behaviour.owed or each is RevokeAsk for each in handler.message_types)


def _weight(handler: AddressedHandler) -> int:
    names = getattr(getattr(handler.function, "__code__", None), "co_names", ())
    return 1 + sum(name in names for name in _OUTPUTS)


def _message(source: random.Random, handler: AddressedHandler) -> Command | Query:
    made = drawn_message(source, handler.message_types[0])
    assert isinstance(made, Command | Query), made
    return made


def drawn_message(source: random.Random, message_type: type[Message]) -> Message:
    """Draw a message of a type. Raises ValueError if none can be drawn."""
    reason = ""
    for _ in range(_TRIES):
        try:
            data = msgspec.to_builtins(_struct(source, message_type))
            return msgspec.convert(data, message_type)
        except (msgspec.ValidationError, ValueError) as error:
            reason = message_of(error)
    raise ValueError(
        f"no valid {message_type.__qualname__} could be drawn from its field types: {reason}; pass commands= to "
        "simulate, or write a module `scenario` with commands(random) beside the system"
    )


def _struct(source: random.Random, cls: type) -> dict[str, object]:
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType), cls
    drawn: dict[str, object] = {field.encode_name: _value(source, field.type) for field in info.fields}
    config = cls.__struct_config__  # type: ignore[attr-defined]
    if config.tag_field is not None:
        drawn[config.tag_field] = config.tag
    return drawn


def _value(source: random.Random, info: inspect.Type) -> object:  # noqa: PLR0912  one case for each kind of type
    match info:
        case inspect.BoolType():
            return source.random() < 0.5
        case inspect.IntType(gt=gt, ge=ge):
            low = 0 if gt is None and ge is None else (gt + 1 if gt is not None else ge or 0)
            return low + source.randrange(20)
        case inspect.FloatType():
            return source.randrange(20) / 2
        case inspect.StrType(max_length=longest):
            text = f"k{source.randrange(_KEYS)}"
            return text.ljust(_size(source, len(text), _LARGE_CHARS, longest), "k")
        case inspect.BytesType(max_length=longest):
            return bytes(_size(source, 1, _LARGE_BYTES, longest))
        case inspect.LiteralType(values=values):
            return source.choice(values)
        case inspect.EnumType(cls=cls):
            chosen: enum.Enum = source.choice(list(cls))
            return chosen.value
        case inspect.StructType(cls=cls):
            return _struct(source, cls)
        case inspect.UnionType(types=types):
            return _value(source, source.choice(types))
        case inspect.Metadata(type=inner):
            return _value(source, inner)
        case inspect.ListType() | inspect.SetType() | inspect.VarTupleType() | inspect.FrozenSetType():
            count = _size(source, source.randrange(3), _LARGE_ITEMS, info.max_length)
            return [_value(source, info.item_type) for _ in range(count)]
        case inspect.TupleType(item_types=items):
            return [_value(source, item) for item in items]
        case inspect.DictType(key_type=key, value_type=value):
            return {_value(source, key): _value(source, value) for _ in range(source.randrange(3))}
        case _:
            return None


def _size(source: random.Random, usual: int, large: int, longest: int | None) -> int:
    """Return a usual size in most cases, else a large one that the type allows."""
    if source.randrange(_LARGE_EVERY):
        return usual
    return large if longest is None else min(large, longest)

"""Messages to bytes and back: one MessagePack map with the wire name in ``type``.

Only registered types are ever built, and nothing but :class:`DecodeError` comes out of a decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Union

import msgspec

from repertory.actors.message import TYPE_FIELD, DefinitionError, Message, wire_name
from repertory.supervision.directive import Failure

#: ``order="deterministic"``: equal values give equal bytes, so states can be compared as bytes.
encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode

#: Nesting above which bytes are refused before any object is made (settings: ``depth_max``).
DEPTH_MAX: Final = 32

#: All byte values but those that can begin an array or a map.
_NOT_A_CONTAINER: Final = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))


class DecodeError(ValueError):
    """Bytes that are no message of the types expected; the message says why."""


class _Never(msgspec.Struct, tag_field=TYPE_FIELD, tag="\0never"):
    """In each decoder's union: with two types or more, msgspec insists on the ``type`` field. None can be decoded."""

    never: Annotated[int, msgspec.Meta(ge=1, le=0)]


def by_wire_name(types: Iterable[type[Message]]) -> dict[str, type[Message]]:
    """Return message types by their wire names; DefinitionError if two have one."""
    found: dict[str, type[Message]] = {}
    for message_type in types:
        known = found.setdefault(wire_name(message_type), message_type)
        if known is not message_type:
            raise DefinitionError(
                f"{known.__module__}.{known.__qualname__} and {message_type.__module__}."
                f"{message_type.__qualname__} have one wire name, {wire_name(message_type)!r}; give one of "
                'them another: class …(…, name="…").'
            )
    return found


class MessageDecoder:
    """Decodes one of several message types, told apart by their wire names."""

    def __init__(self, types: Iterable[type[Message]]) -> None:
        self.types = by_wire_name(types)
        # Union of a runtime set of types: there is no static spelling of it.
        self._decode = msgspec.msgpack.Decoder(Union[(_Never, *self.types.values())]).decode

    def decode(self, data: bytes) -> Any:
        """Return the message; raise DecodeError for anything else, whatever the bytes are."""
        if len(data) > DEPTH_MAX:
            check_depth(data)
        try:
            return self._decode(data)
        except MemoryError:
            raise
        except Exception as error:
            # Broad on purpose: a message class may run user code in __post_init__.
            raise DecodeError(_explain(error, data)) from error


def _explain(error: Exception, data: bytes) -> str:
    """Say what is wrong in at most 1,000 characters, whatever the bytes hold and whatever a ``__post_init__`` says."""
    text = Failure.of(error, "").message
    if isinstance(error, msgspec.ValidationError) and text.startswith("Invalid value '"):
        return f"unknown type {text.removeprefix('Invalid value ').removesuffix(' - at `$.type`')}"
    return f"{text or type(error).__name__} ({len(data)} bytes)"


def check_depth(data: bytes, depth_max: int = DEPTH_MAX) -> None:
    """Refuse bytes that nest deeper than ``depth_max`` before anything is built from them.

    Bytes with no more container heads than the bound cannot nest deeper: that test takes 0.1 µs and settles
    nearly every message; the others are walked token by token, without recursion.
    """
    if len(data) > depth_max and len(data.translate(None, _NOT_A_CONTAINER)) > depth_max:
        deepest = _depth(data, depth_max)
        if deepest > depth_max:
            raise DecodeError(f"nested deeper than {depth_max} levels ({len(data)} bytes)")


def _depth(data: bytes, depth_max: int) -> int:
    """Return how deep the first value nests; stops early past ``depth_max`` or at bytes that end too soon."""
    position, size, deepest = 0, len(data), 0
    open_items = [1]  # items still to come at each level
    while open_items and position < size:
        while open_items and open_items[-1] == 0:
            open_items.pop()
        if not open_items:
            break
        open_items[-1] -= 1
        items, skip = _token(data, position)
        position += skip
        if items:
            open_items.append(items)
            deepest = max(deepest, len(open_items) - 1)
            if deepest > depth_max:
                break
    return deepest


#: Head byte -> (bytes of the length field, fixed bytes after it) of MessagePack's sized formats.
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED: Final = {
    0xCA: 5,
    0xCB: 9,
    0xCC: 2,
    0xCD: 3,
    0xCE: 5,
    0xCF: 9,
    0xD0: 2,
    0xD1: 3,
    0xD2: 5,
    0xD3: 9,
    0xD4: 3,
    0xD5: 4,
    0xD6: 6,
    0xD7: 10,
    0xD8: 18,
}
_CONTAINERS: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def _token(data: bytes, position: int) -> tuple[int, int]:
    """Return (items that follow inside, bytes of the head and its payload) of the token at ``position``."""
    head = data[position]
    if 0x80 <= head <= 0x8F:
        return 2 * (head & 0x0F), 1
    if 0x90 <= head <= 0x9F:
        return head & 0x0F, 1
    if 0xA0 <= head <= 0xBF:
        return 0, 1 + (head & 0x1F)
    if head in _CONTAINERS:
        width, per_item = _CONTAINERS[head]
        return per_item * int.from_bytes(data[position + 1 : position + 1 + width], "big"), 1 + width
    if head in _SIZED:
        width = _SIZED[head]
        length = int.from_bytes(data[position + 1 : position + 1 + width], "big")
        return 0, 1 + width + length + (1 if head in (0xC7, 0xC8, 0xC9) else 0)
    return 0, _FIXED.get(head, 1)


def refuse_unknown_fields(data: bytes, message: msgspec.Struct) -> None:
    """Raise DecodeError if the bytes say more than this code knows: it would be lost from the state.

    Bytes that the message encodes to again say no more than it does: that settles nearly all in 0.2 µs.
    """
    if encode(message) == data:
        return
    if strange := unknown_fields(data, message):
        raise DecodeError(f"{type(message).__name__} has no field {strange[0]!r}; run the code that wrote it")


def unknown_fields(data: bytes, message: msgspec.Struct) -> list[str]:
    """Name the fields in ``data`` that ``message``, or a struct within it, does not have.

    Journals and states are read strictly: what an older version does not know it must not drop.
    """
    return sorted(_unknown(msgspec.msgpack.decode(data), message, ""))


def _unknown(raw: object, value: object, path: str) -> Iterator[str]:
    """Compare what was read with what became of it. Structs within sets cannot be told apart and are left out."""
    if isinstance(value, msgspec.Struct) and isinstance(raw, dict):
        fields = dict(zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True))
        for name, part in raw.items():
            if field := fields.get(name):
                if isinstance(part, dict | list):
                    yield from _unknown(part, getattr(value, field), f"{path}{name}.")
            elif name != value.__struct_config__.tag_field:
                yield f"{path}{name}"
    elif isinstance(value, list | tuple) and isinstance(raw, list):
        for part, item in zip(raw, value, strict=False):
            yield from _unknown(part, item, path)
    elif isinstance(value, dict) and isinstance(raw, dict):
        for name, part in raw.items():
            yield from _unknown(part, value.get(name), f"{path}{name}.")

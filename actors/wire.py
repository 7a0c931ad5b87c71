"""Encodes and decodes messages: one MessagePack map with the wire name in ``type``.

A decoder only builds registered types, and raises only :class:`DecodeError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Union

import msgspec

from repertory.actors.evolution import History, UpcastError
from repertory.actors.message import TYPE_FIELD, DefinitionError, Message, Unknown, wire_name
from repertory.supervision.traceback_text import message_of

#: ``order="deterministic"``: equal values give equal bytes, so states can be compared as bytes.
encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode

#: Bytes that nest deeper are refused before any object is built: they would exhaust the stack (100,000 levels do).
DEPTH_MAX: Final = 32

#: All byte values except those that can begin an array or a map.
_NOT_A_CONTAINER: Final = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))


class DecodeError(ValueError):
    """The bytes are not a message of an expected type; the error's text says why.

    ``unknown``: what this build lacks, if that is all that is wrong with them.
    """

    def __init__(self, text: str, unknown: Unknown | None = None) -> None:
        super().__init__(text)
        self.unknown = unknown


class _Never(msgspec.Struct, tag_field=TYPE_FIELD, tag="\0never"):
    """A second type in each decoder's union, since msgspec then requires the ``type`` field. It is never decoded."""

    never: Annotated[int, msgspec.Meta(ge=1, le=0)]


def by_wire_name(types: Iterable[type[Message]]) -> dict[str, type[Message]]:
    """Return message types by their wire names; DefinitionError if two types share one."""
    found: dict[str, type[Message]] = {}
    for message_type in types:
        known = found.setdefault(wire_name(message_type), message_type)
        if known is not message_type:
            raise DefinitionError(
                f"{known.__module__}.{known.__qualname__} and {message_type.__module__}."
                f"{message_type.__qualname__} have the same wire name, {wire_name(message_type)!r}; give one of "
                'them another: class …(…, name="…").'
            )
    return found


class MessageDecoder:
    """Decodes messages of several types, distinguished by their wire names, and those of their earlier versions."""

    def __init__(self, types: Iterable[type[Message]]) -> None:
        self.types = by_wire_name(types)
        self._history = History(self.types.values())
        # A union of types that are only known at run time: no type annotation can express it.
        self._decode = msgspec.msgpack.Decoder(Union[(_Never, *self.types.values())]).decode

    def decode(self, data: bytes) -> Any:
        """Return the message; raise DecodeError for any bytes that are not one."""
        if len(data) > DEPTH_MAX:
            check_depth(data)
        try:
            return self._decode(data)
        except MemoryError:
            raise
        except Exception as error:
            # Broad on purpose: a message class can run user code in __post_init__.
            current = self._upcast(data)
            if current is None:
                raise DecodeError(*_explain(error, data)) from error
        try:
            return self._decode(current)
        except MemoryError:
            raise
        except Exception as error:
            raise DecodeError(f"after its upcast: {_explain(error, current)[0]}") from error

    def current(self, data: bytes) -> bytes:
        """Return the bytes as this build would write them: the same, unless they are of an earlier version or name.

        Raises DecodeError if an upcaster is missing or fails.
        """
        return data if (upcast := self._upcast(data)) is None else upcast

    def _upcast(self, data: bytes) -> bytes | None:
        try:
            return self._history.upcast(data)
        except UpcastError as error:
            raise DecodeError(message_of(error), Unknown(written_name(data) or "")) from error


def written_reason(data: bytes) -> str:
    """Return what a rejection says, for people: its wire name and its ``reason``, or its fields."""
    try:
        raw = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "a value that cannot be read"
    if not isinstance(raw, dict):
        return "a value that is no message"
    fields = {name: value for name, value in raw.items() if name != TYPE_FIELD}
    said = fields.get("reason") or ", ".join(f"{name}={value!r:.100}" for name, value in fields.items())
    return f"{raw.get(TYPE_FIELD)}: {said}"[:1_000] if said else str(raw.get(TYPE_FIELD))


def written_name(data: bytes) -> str | None:
    """Return the wire name in the bytes of a message, whatever build wrote it; None if there is none."""
    try:
        raw = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    name = raw.get(TYPE_FIELD) if isinstance(raw, dict) else None
    return name if isinstance(name, str) else None


#: What msgspec says about a wire name that is not in the union, and about a field that a class forbids.
_BAD_NAME: Final = re.compile(r"Invalid value ('.*') - at `\$\.type`", re.DOTALL)
_BAD_FIELD: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def _explain(error: Exception, data: bytes) -> tuple[str, Unknown | None]:
    """Describe the error in at most 1,000 characters, however long the bytes or the text of a ``__post_init__`` are."""
    text = message_of(error)
    if isinstance(error, msgspec.ValidationError):
        if found := _BAD_NAME.fullmatch(text):
            return f"unknown type {found[1]}", Unknown(written_name(data) or "")
        if found := _BAD_FIELD.fullmatch(text):
            return text, Unknown(written_name(data) or "", found[1])
    return _describe(text or type(error).__name__, data), None


def _describe(text: str, data: bytes) -> str:
    if data[:1] in (b"{", b"[", b'"') and _is_json(data):
        return f"it is JSON, not MessagePack ({len(data)} bytes)"
    return f"{text} ({len(data)} bytes)"


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def check_depth(data: bytes, depth_max: int = DEPTH_MAX) -> None:
    """Refuse bytes that nest deeper than ``depth_max`` before any object is built from them.

    Bytes with no more container heads than the bound cannot nest deeper. That test takes 0.1 µs and is enough for
    nearly every message; the others are read token by token, without recursion.
    """
    if len(data) > depth_max and len(data.translate(None, _NOT_A_CONTAINER)) > depth_max:
        deepest = _depth(data, depth_max)
        if deepest > depth_max:
            raise DecodeError(f"nested deeper than {depth_max} levels ({len(data)} bytes)")


def _depth(data: bytes, depth_max: int) -> int:
    """Return the nesting depth of the first value; stops early beyond ``depth_max`` or where bytes are truncated."""
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
    """Return (number of items inside, bytes of the head and its payload) of the token at ``position``."""
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


def refuse_unknown_fields(data: bytes, message: msgspec.Struct, decoder: MessageDecoder) -> None:
    """Raise DecodeError if the bytes have fields that this code does not know: they would be lost from the state.

    If the message encodes to the same bytes, there are none. That test takes 0.2 µs and is enough for nearly all.
    ``decoder`` made the message of the bytes, which may be of an earlier version.
    """
    if encode(message) == data:
        return
    if strange := unknown_fields(decoder.current(data), message):
        unknown = Unknown(wire_name(type(message)), strange[0]) if isinstance(message, Message) else None
        raise DecodeError(f"{type(message).__name__} has no field {strange[0]!r}", unknown)


def unknown_fields(data: bytes, message: msgspec.Struct) -> list[str]:
    """Name the fields in ``data`` that ``message``, or a struct within it, does not have.

    Journals and states are read strictly: an older version must not drop fields that it does not know.
    """
    return sorted(_unknown(msgspec.msgpack.decode(data), message, ""))


def _unknown(raw: object, value: object, path: str) -> Iterator[str]:
    """Compare the raw data with the decoded value. Structs in sets are skipped: their raw items cannot be matched."""
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

"""Keys and values of any record as human-readable text."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgpack
import msgspec

from repertory.actors.message import TYPE_FIELD
from repertory.actors.wire import DEPTH_MAX, DecodeError, check_depth
from repertory.bridge.text import one_line, printable_json


def readable(data: bytes | None) -> str:
    """Return a value as one line of JSON if it is MessagePack, else as a Python bytes literal; None as ``null``.

    Messages within it that are kept as bytes, as those of a saga are, are shown as what they say.
    """
    if data is None:
        return "null"
    try:
        value = _unpacked(data)
    except (ValueError, DecodeError, RecursionError, msgpack.UnpackException):
        return repr(data)
    return printable_json(json.dumps(value, ensure_ascii=False, default=shown_bytes))


def shown_bytes(value: object) -> object:
    """Return what JSON shows of a value that it does not know: of a message's bytes the message, else ``repr``."""
    if isinstance(value, bytes):
        with contextlib.suppress(ValueError, DecodeError, RecursionError, msgpack.UnpackException):
            found = _unpacked(value)
            if isinstance(found, dict) and isinstance(found.get(TYPE_FIELD), str):
                return found
    return repr(value)


def plain(state: msgspec.Struct) -> Any:
    """Return a state as JSON has it: its messages that are kept as bytes as what they say, other bytes as base64."""
    return _plain(msgspec.to_builtins(state, builtin_types=(bytes,)))


def _plain(value: object) -> object:
    match value:
        case bytes():
            shown = shown_bytes(value)
            return _plain(shown) if isinstance(shown, dict) else msgspec.to_builtins(value)
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value


def _unpacked(data: bytes) -> Any:
    check_depth(data, DEPTH_MAX)
    # The msgpack package decodes values without a known type: foreign topics, changelogs, dead letters.
    return msgpack.unpackb(data, object_pairs_hook=_with_text_keys, strict_map_key=False)


def _with_text_keys(pairs: list[tuple[object, object]]) -> dict[str, object]:
    """Return a map as a JSON object. A foreign map has keys of any type, including types that Python cannot hash."""
    return {key if isinstance(key, str) else repr(key): value for key, value in pairs}


def readable_key(key: bytes | None) -> str:
    """Return a key as text; bytes that are not UTF-8, and control characters, are escaped."""
    if key is None:
        return "null"
    return one_line(key.decode("utf-8", "backslashreplace"))

"""Keys and values of any record as human-readable text."""

from __future__ import annotations

import json

import msgpack

from repertory.actors.wire import DEPTH_MAX, DecodeError, check_depth
from repertory.bridge.text import one_line, printable_json


def readable(data: bytes | None) -> str:
    """Return a value as one line of JSON if it is MessagePack, else as a Python bytes literal; None as ``null``."""
    if data is None:
        return "null"
    try:
        check_depth(data, DEPTH_MAX)
        # The msgpack package decodes values without a known type: foreign topics, changelogs, dead letters.
        value = msgpack.unpackb(data, object_pairs_hook=_with_text_keys, strict_map_key=False)
    except (ValueError, DecodeError, RecursionError, msgpack.UnpackException):
        return repr(data)
    return printable_json(json.dumps(value, ensure_ascii=False, default=repr))


def _with_text_keys(pairs: list[tuple[object, object]]) -> dict[str, object]:
    """Return a map as a JSON object. A foreign map has keys of any type, including types that Python cannot hash."""
    return {key if isinstance(key, str) else repr(key): value for key, value in pairs}


def readable_key(key: bytes | None) -> str:
    """Return a key as text; bytes that are not UTF-8, and control characters, are escaped."""
    if key is None:
        return "null"
    return one_line(key.decode("utf-8", "backslashreplace"))

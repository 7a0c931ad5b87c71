"""The parts of an OpenAPI document that many operations share: their parameters, and the headers of answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from repertory.gateway import ids

KEY_PARAMETER: Final = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "The entity's key: 1 to 255 bytes of UTF-8. A / in it may be written as it is.",
    "schema": {"type": "string", "minLength": 1},
}
ANSWER_HEADERS: Final = {
    ids.POSITION: {"description": "entity/partition/seq of the command's own record.", "schema": {"type": "string"}},
    ids.REPLAYED: {
        "description": "The answer is that of an earlier request with the same key.",
        "schema": {"const": "true"},
    },
}


def id_parameters(*, is_required: bool) -> list[dict[str, Any]]:
    """Return the headers with which a command is asked, or its answer."""
    return [
        {
            "name": ids.KEY,
            "in": "header",
            "required": is_required,
            "description": "One for each command, the same when it is repeated: a UUIDv7, or with its time beside it.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 257},
        },
        {
            "name": ids.MADE_AT,
            "in": "header",
            "required": False,
            "description": "The time of the first attempt, where the key is no UUIDv7.",
            "schema": {"type": "string", "format": "date-time"},
        },
    ]


def parameters_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of a message as parameters of a GET."""
    return [
        {"name": name, "in": "query", "required": name in body["required"], "schema": schema}
        for name, schema in body["properties"].items()
    ]


PREFER_PARAMETER: Final = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "respond-async, wait=10: answer 202 where the answer takes longer than so many seconds.",
    "schema": {"type": "string"},
}

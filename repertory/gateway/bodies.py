"""From a request to its message: a JSON body, or the parameters of a query. All that is wrong with them is said."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request

from repertory.actors.message import Message
from repertory.actors.wire import DecodeError, check_depth, encode, unknown_fields
from repertory.gateway.operations import Operation
from repertory.gateway.problems import ProblemError, bad_input, too_large

#: "Expected `int`, got `str` - at `$.amount`", as msgspec says it.
_AT: Final = re.compile(r"(?P<text>.*) - at `(?P<path>\$.*)`", re.DOTALL)
_MEDIA_TYPE: Final = re.compile(r'application/json(\s*;\s*charset\s*=\s*"?utf-8"?)?\s*', re.IGNORECASE)


def check_media_type(request: Request) -> None:
    """Raise ProblemError (415) unless the body is plain JSON.

    A page of another origin may send ``text/plain`` without a preflight, and so may none that says it is JSON.
    """
    given = request.headers.getlist("content-type")
    if len(given) != 1 or not _MEDIA_TYPE.fullmatch(given[0]):
        raise _unsupported("The body must be application/json, in UTF-8.", "Accept-Post", "application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _unsupported("The body must not be compressed.", "Accept-Encoding", "identity")


async def read_body(request: Request, bytes_max: int, timeout_s: float) -> bytes:
    """Return the body; ProblemError if it is longer than ``bytes_max`` (413), however it is sent, or late (408)."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > bytes_max:
        raise too_large(bytes_max)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > bytes_max:
                    raise too_large(bytes_max)
                body += chunk
    except TimeoutError:
        detail = f"The body was not there after {timeout_s:g} s."
        raise ProblemError(408, "timeout", "The body is late.", detail, headers={"Connection": "close"}) from None
    return bytes(body)


def message_of_body(operation: Operation, body: bytes, bytes_max: int) -> Message:
    """Return the message of a JSON body.

    Raises ProblemError: 400 with the path of the field that is wrong, 413 if a shard would refuse the message's size.
    """
    try:
        message: Message = operation.decode_json(body or b"{}")
    except MemoryError:
        raise
    except Exception as error:  # A message class can run user code in __post_init__.
        raise _invalid(error) from error
    try:
        _check_fields(msgspec.json.decode(body or b"{}"), message)
        size = len(encode(message))
    except (OverflowError, RecursionError) as error:
        raise _invalid(error) from error
    if size > bytes_max:
        raise too_large(bytes_max)
    return message


def message_of_parameters(operation: Operation, parameters: QueryParams) -> Message:
    """Return the query of a URL's parameters; ProblemError (400) as for a body."""
    fields: dict[str, Any] = dict(parameters)
    for name, _ in parameters.multi_items():
        if len(parameters.getlist(name)) > 1:
            raise bad_input("A parameter is given more than once.", field=f"$.{name}")
    try:
        message: Message = msgspec.convert(fields, operation.message_type, strict=False)
    except MemoryError:
        raise
    except Exception as error:  # As above.
        raise _invalid(error) from error
    _check_fields(fields, message)
    return message


def _check_fields(fields: Any, message: Message) -> None:
    """Refuse fields that the message does not have: one that is misspelt would be left out without a word."""
    data = msgspec.msgpack.encode(fields)
    try:
        check_depth(data)
        strange = unknown_fields(data, message)
    except DecodeError as error:
        raise bad_input(f"{error}.") from error
    if strange:
        raise bad_input("The message has no such field.", field=f"$.{strange[0]}")


def _invalid(error: Exception) -> ProblemError:
    """Return the problem of what cannot be decoded, with the path of the field if that is known."""
    if isinstance(error, RecursionError):
        return bad_input("The body is nested too deeply.")
    if isinstance(error, OverflowError):
        return bad_input("A number has more than 64 bits.")
    if isinstance(error, UnicodeDecodeError):
        return bad_input("The body is not UTF-8.")
    if not isinstance(error, msgspec.DecodeError):  # User code failed: what it says may be for its own log only.
        return bad_input("The message is refused by its own check.")
    found = _AT.fullmatch(str(error))
    if found is None:
        return bad_input(f"{error}.", **({"field": "$"} if isinstance(error, msgspec.ValidationError) else {}))
    return bad_input(f"{found['text']}.", field=found["path"])


def _unsupported(detail: str, header: str, value: str) -> ProblemError:
    title = "The body has the wrong media type."
    return ProblemError(415, "unsupported-media-type", title, detail, headers={header: value})

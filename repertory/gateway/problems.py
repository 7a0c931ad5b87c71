"""What went wrong, as ``application/problem+json`` (RFC 9457). Its ``type`` is the wire name of a rejection, or ours.

Ours begin with ``repertory.``, which no message of an application does. No problem has a traceback.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from repertory.actors.asks import AskId
from repertory.actors.control import StillOpen
from repertory.actors.message import ClockAhead, IdConflict, Message, Rejection, Undelivered, wire_name
from repertory.bridge.log.errors import IdTooOld, LogError, LogUnavailable, OutcomeUnknown
from repertory.gateway import ids

MEDIA_TYPE: Final = "application/problem+json"
#: When a client may ask again that met a log which was away, or a gateway with all hands full.
RETRY_AFTER_S: Final = 1

REJECTED: Final = 409
#: The statuses of the rejections that are the runtime's own.
STATUSES: Final[Mapping[type[Rejection], int]] = {Undelivered: 503, IdConflict: 422, ClockAhead: 400}


class ProblemError(Exception):
    """A request that is not answered with 200; ``response`` makes the answer of it.

    ``name`` without ``repertory.``, ``title`` is the same for each problem of this name, ``detail`` is about this one.
    """

    def __init__(
        self,
        status: int,
        name: str,
        title: str,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        **members: str,
    ) -> None:
        super().__init__(detail or title)
        self.status, self.headers = status, dict(headers or {})
        self.members: dict[str, object] = {
            "type": f"repertory.{name}",
            "title": title,
            "status": status,
            **({"detail": detail} if detail else {}),
            **members,
        }

    def response(self) -> Response:
        """Return the answer."""
        body = msgspec.json.encode(self.members)
        return Response(body, self.status, {**self.headers, "Cache-Control": "no-store"}, MEDIA_TYPE)


def bad_input(detail: str, **members: str) -> ProblemError:
    """Return the problem of a request that is wrong in itself."""
    return ProblemError(400, "bad-input", "The request is invalid.", detail, headers=None, **members)


def not_found(detail: str) -> ProblemError:
    """Return the problem of a path that leads nowhere."""
    return ProblemError(404, "not-found", "There is no such operation.", detail)


def not_asked() -> ProblemError:
    """Return the problem of an answer that is fetched by an id with which nothing was asked."""
    detail = f"Nothing was asked with this {ids.KEY}; a POST with it asks."
    return ProblemError(404, "not-asked", "There is no such request.", detail)


def still_open(found: StillOpen, path: str, made: AskId) -> Response:
    """Return what is answered while there is no answer; a GET of ``path`` with the same key has it later."""
    headers = {**ids.written(made), "Location": path, "Retry-After": str(RETRY_AFTER_S), "Cache-Control": "no-store"}
    return Response(msgspec.json.encode(builtins_of(found)), 202, headers, "application/json")


def too_large(bytes_max: int) -> ProblemError:
    """Return the problem of a message that is too large. The rest of it is not read, so the connection ends."""
    detail = f"The message has more than {bytes_max:,} bytes."
    return ProblemError(413, "too-large", "The message is too large.", detail, headers={"Connection": "close"})


def busy(requests_max: int) -> ProblemError:
    """Return the problem of one request more than are handled at once."""
    return ProblemError(
        503, "busy", "Too many requests are under way.", f"{requests_max} requests are under way here.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )  # fmt: skip


def internal() -> ProblemError:
    """Return the problem of an error of ours, or of a hook; the log has it."""
    return ProblemError(500, "internal-error", "The server failed.", "The server's log says why.")


def of_rejection(value: Rejection, status: int, headers: Mapping[str, str]) -> Response:
    """Return the answer of a rejection; its fields are in ``rejection``, since they might be called ``title``."""
    name = wire_name(type(value))
    members: dict[str, object] = {"type": quote(name, safe="@"), "title": title_of(type(value)), "status": status}
    if isinstance(value, Undelivered | IdConflict | ClockAhead) and value.reason:
        members["detail"] = value.reason
    body = msgspec.json.encode({**members, "rejection": builtins_of(value)})
    return Response(body, status, {**headers, "Cache-Control": "no-store"}, MEDIA_TYPE)


def of_log_error(error: LogError, made: AskId | None) -> ProblemError | None:
    """Return the problem of what a log said; None if only an operator can do something about it.

    Where the outcome is unknown, the id by which the same request is sent again goes back with it.
    """
    match error:
        case IdTooOld():
            detail = "The answer to this key is no longer kept: the command may have been applied, or not."
            return ProblemError(410, "id-too-old", "The idempotency key is too old.", detail)
        case OutcomeUnknown() if made is not None:
            detail = f"Send the same request again with the same {ids.KEY} and {ids.MADE_AT} to learn its outcome."
            title = "There was no answer in time; the command may be applied."
            headers = ids.written(made)
            return ProblemError(504, "outcome-unknown", title, detail, headers=headers, idempotency_key=made.id)
        case OutcomeUnknown():
            return ProblemError(504, "no-answer", "There was no answer in time.", "A query changes nothing: ask again.")
        case LogUnavailable():
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            return ProblemError(503, "log-unavailable", "The log cannot be reached; nothing was done.", headers=headers)
    return None


def builtins_of(value: Message) -> Any:
    """Return a message as JSON shows it, with its wire name in ``type``."""
    return msgspec.to_builtins(value, str_keys=True)


def title_of(message: type[Message]) -> str:
    """Return the first line of a message's own docstring, or its wire name."""
    written = vars(message).get("__doc__") or ""
    return inspect.cleandoc(written).split("\n", maxsplit=1)[0] or wire_name(message)

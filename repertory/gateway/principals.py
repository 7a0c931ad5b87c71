"""Who asks, and what they may: the hooks of an application, and the one of ``repertory serve``."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request

from repertory.actors.entity import Entity
from repertory.actors.handler import Handler

#: Returns who sends a request, None for nobody known; may be a coroutine function.
PrincipalOf = Callable[[Request], Any]
#: ``authorize(principal, Account, "a-1", Account.deposit)``: whether they may; may be a coroutine function.
Authorize = Callable[[Any, type[Entity], str, Handler], bool | Awaitable[bool]]


def bearer_token(request: Request) -> str | None:
    """Return the bearer token of a request (RFC 6750, 2.1), None if it has none."""
    given = request.headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip() or None if scheme.lower() == "bearer" else None


def has_token(expected: str) -> Authorize:
    """Return an ``authorize`` that lets in who has a token. Its time does not tell how much of a token was right."""

    def authorize(principal: Any, _entity: type[Entity], _key: str, _handler: Handler) -> bool:
        return isinstance(principal, str) and hmac.compare_digest(principal.encode(), expected.encode())

    return authorize

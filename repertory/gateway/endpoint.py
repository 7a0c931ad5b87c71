"""One request's journey, from its path to its answer: who may ask is asked before anything is read."""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from repertory.actors.asks import AskId
from repertory.actors.control import NotAsked, StillOpen
from repertory.actors.message import Message, Rejection
from repertory.bridge.log.errors import IdTooOld, LogError, OutcomeUnknown
from repertory.gateway import ids, problems
from repertory.gateway.asking import Answered, Asker
from repertory.gateway.bodies import check_media_type, message_of_body, message_of_parameters, read_body
from repertory.gateway.operations import Operation, Operations
from repertory.gateway.principals import Authorize, PrincipalOf
from repertory.gateway.problems import ProblemError
from repertory.gateway.routing import check_method, routed

logger = logging.getLogger("repertory.gateway")


class GatewayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway takes. All are per process."""

    #: Longest body in bytes. A message is never larger than the system's ``input_bytes_max``.
    body_bytes_max: int = 1 << 20
    #: How long a body may take.
    body_timeout_s: float = 10.0
    #: How long an answer may take: after that the outcome is unknown (504).
    ask_timeout_s: float = 10.0
    #: Requests under way; one more is answered with 503.
    requests_max: int = 256


class Endpoint:
    """Answers every request for an operation. An ASGI application; all its state is the number of requests under way.

    ``asker`` returns the client, and connects if that is still to be done.
    """

    def __init__(
        self,
        known: Operations,
        asker: Callable[[], Awaitable[Asker]],
        *,
        limits: GatewayLimits,
        message_bytes_max: int,
        principal: PrincipalOf,
        authorize: Authorize | None,
        statuses: Mapping[type[Rejection], int],
        requires_key: bool,
    ) -> None:
        self._known, self._asker, self._limits = known, asker, limits
        self._message_bytes_max = message_bytes_max
        self._principal, self._authorize = principal, authorize
        self._statuses, self._requires_key = {**problems.STATUSES, **statuses}, requires_key
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        try:
            response = await self._bounded(request)
        except ProblemError as problem:
            response = problem.response()
        except ClientDisconnect:
            return
        except Exception:
            # The last line of defence: what is wrong with a hook, or with us, is for the log and not for the caller.
            logger.exception("a request was answered with 500")
            response = problems.internal().response()
        await response(scope, receive, send)

    async def _bounded(self, request: Request) -> Response:
        if self._requests >= self._limits.requests_max:
            raise problems.busy(self._limits.requests_max)
        self._requests += 1
        try:
            return await self._answered(request)
        finally:
            self._requests -= 1

    async def _answered(self, request: Request) -> Response:
        operation, key = routed(request.scope, self._known)
        await self._check_allowed(request, operation, key)
        check_method(request.method, operation)
        if operation.is_long and request.method != "POST":
            return await self._fetched(request, operation, key, self._id(request, is_required=True))
        if operation.has_parameters:
            message = message_of_parameters(operation, request.query_params)
        else:
            check_media_type(request)
            made = None if operation.is_query else self._id(request, is_required=self._requires_key)
            body = await read_body(request, self._limits.body_bytes_max, self._limits.body_timeout_s)
            message = message_of_body(operation, body, self._message_bytes_max)
            if made is not None:
                return await self._asked(request, operation, key, message, made)
        return await self._queried(operation, key, message)

    async def _check_allowed(self, request: Request, operation: Operation, key: str) -> None:
        if self._authorize is None:
            return
        principal = await _awaited(self._principal(request))
        if await _awaited(self._authorize(principal, operation.entity, key, operation.handler)):
            return
        if principal is None:
            headers = {"WWW-Authenticate": "Bearer"}
            raise ProblemError(401, "unauthorized", "The request says not who sends it.", headers=headers)
        raise ProblemError(403, "forbidden", "The request is not allowed.")

    def _id(self, request: Request, *, is_required: bool) -> AskId:
        headers = request.headers
        try:
            made = ids.ask_id(headers.getlist(ids.KEY), headers.getlist(ids.MADE_AT))
        except ids.BadKeyError as error:
            raise _bad_key(f"{error}.") from None
        if made is not None:
            return made
        if is_required:
            raise _bad_key(
                f"Send {ids.KEY}, a new UUIDv7 for each command, and the same one when the request is repeated."
            )
        return ids.new_id(time.time(), os.urandom(10))

    async def _asked(self, request: Request, operation: Operation, key: str, message: Message, made: AskId) -> Response:
        asker = await self._connected()
        later_s = ids.preferred_wait_s(request.headers.getlist(ids.PREFER)) if operation.is_long else None
        timeout_s = self._limits.ask_timeout_s if later_s is None else min(later_s, self._limits.ask_timeout_s)
        try:
            answered = await asker.ask_result(operation.handler, key, message, timeout_s=timeout_s, id=made)
        except OutcomeUnknown as error:
            if later_s is None or isinstance(error, IdTooOld):
                raise _problem_of(error, made) from error
            return await self._fetched(request, operation, key, made)
        except (LogError, ValueError) as error:
            raise _problem_of(error, made) from error
        return self._answer(answered)

    async def _fetched(self, request: Request, operation: Operation, key: str, made: AskId) -> Response:
        """Answer what is known of an earlier request, which may have been this one."""
        asker = await self._connected()
        try:
            found = await asker.answer(operation.handler, key, made, timeout_s=self._limits.ask_timeout_s)
        except (LogError, ValueError) as error:
            raise _problem_of(error, made) from error
        match found:
            case StillOpen():
                return problems.still_open(found, request.url.path, made)
            case NotAsked() if request.method == "POST":
                raise _problem_of(OutcomeUnknown("the command is not in the log yet"), made)
            case NotAsked():
                raise problems.not_asked()
        return self._answer(found)

    def _answer(self, answered: Answered) -> Response:
        headers = {} if answered.position is None else {ids.POSITION: str(answered.position)}
        if answered.again:
            headers[ids.REPLAYED] = "true"
        return self._response(answered.value, headers)

    async def _queried(self, operation: Operation, key: str, query: Message) -> Response:
        asker = await self._connected()
        try:
            answer = await asker.query(operation.handler, key, query, timeout_s=self._limits.ask_timeout_s)
        except (LogError, ValueError) as error:
            raise _problem_of(error, None) from error
        return self._response(answer, {})

    async def _connected(self) -> Asker:
        try:
            return await self._asker()
        except LogError as error:
            raise _problem_of(error, None) from error

    def _response(self, value: Message, headers: Mapping[str, str]) -> Response:
        if isinstance(value, Rejection):
            status = self._statuses.get(type(value), problems.REJECTED)
            return problems.of_rejection(value, status, headers)
        body = msgspec.json.encode(problems.builtins_of(value))
        return Response(body, 200, {**headers, "Cache-Control": "no-store"}, "application/json")


def _problem_of(error: LogError | ValueError, made: AskId | None) -> ProblemError:
    """Return the problem of what a client raised; what only an operator can remedy is logged."""
    if isinstance(error, ValueError):
        return problems.bad_input(f"{error}.")
    found = problems.of_log_error(error, made)
    if found is not None:
        return found
    logger.error("a request was answered with 503: %s", error)
    return ProblemError(503, "log-refuses", "The log does not take the command; nothing was done.")


def _bad_key(detail: str) -> ProblemError:
    return ProblemError(400, "bad-idempotency-key", "The idempotency key is missing or invalid.", detail)


async def _awaited(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found

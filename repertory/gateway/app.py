"""``Gateway``: the ASGI application of a system, by itself or mounted in another one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route

from repertory.actors.handler import Handler
from repertory.actors.message import Rejection
from repertory.bridge.system.system import ActorSystem
from repertory.gateway import ids, openapi, page
from repertory.gateway.asking import Asker
from repertory.gateway.endpoint import Endpoint, GatewayLimits
from repertory.gateway.operations import checked_statuses, operations
from repertory.gateway.principals import Authorize, PrincipalOf, bearer_token

DEFAULT_LIMITS = GatewayLimits()


class Gateway:
    """Answers ``POST /{entity}/{key}/{handler}`` by asking the system on a log. ``app`` is the ASGI application.

    By itself: ``uvicorn.run(gateway.app)``. Mounted: ``app.mount("/bank", gateway.app)``; an outer application does not
    tell its mounted ones when it starts and stops, so give it ``lifespan=gateway.lifespan``, or the gateway connects at
    the first request and stays connected until the process ends. One event loop uses a gateway.

    ``expose``: the handlers that can be asked; all commands and queries by default. ``principal`` says who sends a
    request (the bearer token by default), ``authorize`` whether they may: ``authorize(principal, Account, "a-1",
    Account.deposit)``. Without it all may. ``status``: the HTTP status of rejections other than 409. ``requires_key``:
    whether a command without an idempotency key is refused. ``cors``: the origins whose pages may call.

    Raises ValueError where an argument is wrong, or names what the system does not host.
    """

    def __init__(
        self,
        system: ActorSystem,
        *,
        log: str | None = None,
        kafka_config: str | None = None,
        client: Asker | None = None,
        expose: Iterable[Handler] | None = None,
        principal: PrincipalOf = bearer_token,
        authorize: Authorize | None = None,
        status: Mapping[type[Rejection], int] | None = None,
        requires_key: bool = True,
        cors: Sequence[str] = (),
        limits: GatewayLimits = DEFAULT_LIMITS,
    ) -> None:
        """``log``: a URL to connect to; or ``client``: one that is connected, and that its owner closes."""
        if (log is None) == (client is None):
            raise ValueError("a gateway needs a log or a client: Gateway(system, log=URL)")
        system.check()
        self._system, self._log, self._kafka_config = system, log, kafka_config
        self._client, self._owns_client = client, client is None
        self._connecting = asyncio.Lock()
        known = operations(system, expose)
        statuses = checked_statuses(status or {})
        self.endpoint = Endpoint(
            known,
            self.connected,
            limits=limits,
            message_bytes_max=system.settings.input_bytes_max,
            principal=principal,
            authorize=authorize,
            statuses=statuses,
            requires_key=requires_key,
        )
        is_secured = authorize is not None and principal is bearer_token
        #: The OpenAPI document of the operations.
        self.document = openapi.document(
            system.name, known.values(), statuses, requires_key=requires_key, is_secured=is_secured
        )
        self.app = self._app(cors)

    def _app(self, cors: Sequence[str]) -> Starlette:
        headers = [ids.KEY, ids.MADE_AT, ids.PREFER, "Authorization", "Content-Type"]
        exposed = [ids.POSITION, ids.REPLAYED, ids.KEY, ids.MADE_AT, "Location", "Retry-After"]
        crossing = Middleware(
            CORSMiddleware, allow_origins=cors, allow_methods=["GET", "POST"], allow_headers=headers,
            expose_headers=exposed,
        )  # fmt: skip
        encoded = openapi.encoded(self.document)
        html = page.html(self._system.name, encoded)

        async def described(_request: Request) -> Response:
            return Response(encoded, 200, {"Cache-Control": "no-cache"}, "application/json")

        async def shown(_request: Request) -> Response:
            return HTMLResponse(html, 200, page.HEADERS)

        return Starlette(
            routes=[Route("/openapi.json", described), Route("/docs", shown), Mount("/", self.endpoint)],
            middleware=[crossing] if cors else [],
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Any = None) -> AsyncIterator[None]:
        """Connect, and close at the end: the lifespan of ``app``, and for that of an application that mounts it."""
        async with self:
            yield

    async def __aenter__(self) -> Self:
        await self.connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owns_client and self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def connected(self) -> Asker:
        """Return the client; connect first if there is none. Raises LogError."""
        if self._client is None:
            async with self._connecting:
                if self._client is None:
                    self._client = await asyncio.to_thread(self._connect)
        return self._client

    def _connect(self) -> Asker:
        assert self._log is not None
        return self._system.async_client(self._log, kafka_config=self._kafka_config)

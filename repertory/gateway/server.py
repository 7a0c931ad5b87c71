"""``repertory serve``: a gateway by itself, in uvicorn. Loopback by default; elsewhere with a token, or by choice."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NamedTuple

import uvicorn
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from repertory.gateway.app import Gateway
from repertory.gateway.problems import ProblemError

logger = logging.getLogger("repertory.gateway")

#: How long open requests may take after SIGTERM. An open event stream held uvicorn for 8.6 s without it.
GRACE_S = 2
_BACKLOG = 1_024


class HttpAddress(NamedTuple):
    """Where to listen. ``port`` 0 lets the kernel choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HttpAddress:
        """Return the parts of ``127.0.0.1:8080`` or ``[::1]:8080``; ValueError for anything else."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port[:6]) > 65_535:
            raise ValueError(f"{text!r} is not an address to listen on; write HOST:PORT, as in 127.0.0.1:8080")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it. A name is taken for another machine's, but for ``localhost``."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@contextlib.contextmanager
def bound(address: HttpAddress) -> Iterator[socket.socket]:
    """Give a socket that has an address and does not listen yet: until then clients are refused, and wait for nothing.

    Raises ValueError, one sentence, where the address cannot be had.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(f"cannot listen on {address}: {error.strerror or error}") from error
    with taken:
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(where)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(
                f"cannot listen on {address}: {reason}; choose another one with --http HOST:PORT"
            ) from error
        yield taken


class GatewayServer:
    """Runs one gateway on one socket, on the main thread, until SIGTERM or Ctrl-C; open requests have `GRACE_S`.

    ``is_local``: requests that name another host are refused, since a page can have its own name lead to this machine.
    """

    def __init__(self, gateway: Gateway, taken: socket.socket, *, is_local: bool) -> None:
        self._gateway, self._taken = gateway, taken
        app: ASGIApp = LocalHostOnly(gateway.app) if is_local else gateway.app
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, log_level="warning", access_log=False, server_header=False,
            proxy_headers=False, ws="none", http="h11", backlog=_BACKLOG, timeout_graceful_shutdown=GRACE_S,
        )  # fmt: skip
        self._server = _Server(config)

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Connect the gateway, listen, and answer until a signal. Raises LogError, and then has not listened."""
        before = {number: signal.signal(number, self._server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            asyncio.run(self._serve(ready))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Stop as a signal does. Any thread may call it."""
        self._server.should_exit = True

    async def _serve(self, ready: Callable[[], None]) -> None:
        async with self._gateway:
            self._taken.listen(_BACKLOG)  # The kernel takes connections now; uvicorn answers them within milliseconds.
            ready()
            await self._server.serve(sockets=[self._taken])


class _Server(uvicorn.Server):
    """A server that ends with 0: uvicorn's own raises the signal again after it has shut down, and dies of it."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop; the second Ctrl-C does not wait for open requests."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


class LocalHostOnly:
    """Refuses requests whose ``Host`` is not this machine's loopback (DNS rebinding)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 421."""
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            with contextlib.suppress(ValueError):
                host = str(HttpAddress.parse(host).host)
            if not HttpAddress(host.removeprefix("[").removesuffix("]"), 0).is_loopback:
                detail = "This server answers on loopback alone: ask for localhost or 127.0.0.1."
                problem = ProblemError(421, "wrong-host", "The request is for another host.", detail)
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

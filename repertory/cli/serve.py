"""``repertory serve``: the HTTP front of a system, beside its nodes."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from typing import TYPE_CHECKING, Annotated, cast

import typer

from repertory.bridge import log_lines
from repertory.bridge.system.system import ActorSystem
from repertory.cli.shared import EX_SOFTWARE, KafkaConfig, Target, configured, sentences

if TYPE_CHECKING:
    from repertory.gateway.driven import Drivable
    from repertory.gateway.server import GatewayServer, HttpAddress

logger = logging.getLogger("repertory.gateway")

TOKEN = "REPERTORY_HTTP_TOKEN"  # noqa: S105  the variable's name

LogUrl = Annotated[
    str, typer.Option("--log", envvar="REPERTORY_LOG", help="sqlite:PATH, kafka://host:port, or memory: to try it out.")
]


def serve(
    target: Target,
    log: LogUrl,
    http: Annotated[str, typer.Option("--http", metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:8080",
    public: Annotated[
        bool, typer.Option("--public", help="Listen beyond this machine without a token: anybody may ask anything.")
    ] = False,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Let the pages of an origin call. May be repeated.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that an answer may take.")] = 10.0,
    optional_keys: Annotated[
        bool, typer.Option("--optional-keys", help="Take commands without an Idempotency-Key, too.")
    ] = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """Answer HTTP requests by asking a system, until SIGTERM or Ctrl-C. /docs lists what can be asked.

    Nodes (repertory run) do the work; on memory: this process does it too. Beyond loopback it needs a token, which
    clients send as a bearer token: set REPERTORY_HTTP_TOKEN.
    """
    with sentences():
        _check_installed()
        from repertory.gateway.server import HttpAddress  # noqa: PLC0415  the extra may not be installed

        address = HttpAddress.parse(http)
        token = _token(address, is_public=public)
        system = configured(target)
        system.check()
        config = None if kafka_config is None else str(kafka_config)
        has_failed = _serve(system, log, address, token, cors or [], timeout_s, config, requires_key=not optional_keys)
    if has_failed:
        raise typer.Exit(EX_SOFTWARE)


def _serve(
    system: ActorSystem,
    log: str,
    address: HttpAddress,
    token: str | None,
    cors: list[str],
    timeout_s: float,
    kafka_config: str | None,
    *,
    requires_key: bool,
) -> bool:
    """Serve until a signal; return whether the system beside it has failed meanwhile."""
    from repertory.gateway import Gateway, GatewayLimits  # noqa: PLC0415  as above
    from repertory.gateway.driven import DrivenAsker  # noqa: PLC0415
    from repertory.gateway.principals import has_token  # noqa: PLC0415
    from repertory.gateway.server import GatewayServer, bound  # noqa: PLC0415

    log_lines.work_as("http")
    failed: list[GatewayServer] = []

    def stop() -> None:
        failed.append(server)
        server.stop()

    with bound(address) as taken:  # First: a port that is in use leaves nothing half started.
        driven: DrivenAsker | None = None
        if log == "memory:":
            logger.warning("memory: keeps all records in this process; they are lost at exit")
            driven = DrivenAsker(cast("Drivable", system.start(log)), stop)
        gateway = Gateway(
            system, log=log if driven is None else None, kafka_config=kafka_config, client=driven,
            authorize=None if token is None else has_token(token), requires_key=requires_key, cors=cors,
            limits=GatewayLimits(ask_timeout_s=timeout_s),
        )  # fmt: skip
        server = GatewayServer(gateway, taken, is_local=address.is_loopback and token is None)
        try:
            if driven is not None:
                driven.start()
            server.run(lambda: _say_where(system.name, taken))
        finally:
            if driven is not None:
                driven.stop()
    return bool(failed)


def _say_where(name: str, taken: socket.socket) -> None:
    host, port = taken.getsockname()[:2]
    logger.info("%s is served at http://%s:%s/docs", name, f"[{host}]" if ":" in host else host, port)


def _token(address: HttpAddress, *, is_public: bool) -> str | None:
    """Return the token that requests need, None if they need none; ValueError where the address does not allow that."""
    token = os.environ.get(TOKEN)
    if token is not None and not token.strip():
        raise ValueError(f"{TOKEN} is empty: set it to a secret, or unset it")
    if token is None and not address.is_loopback and not is_public:
        raise ValueError(
            f"{address.host} can be reached from other machines: set {TOKEN} to a secret that clients send, or pass "
            "--public to let anybody ask"
        )
    return None if token is None else token.strip()


def _check_installed() -> None:
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"{name} is not installed: pip install 'repertory[http]'")

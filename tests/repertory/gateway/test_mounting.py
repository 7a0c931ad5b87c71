"""A gateway by itself, and mounted in Starlette and FastAPI: paths, lifespans, pages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message

from repertory.bridge.log.errors import LogUnavailable
from repertory.gateway import Gateway, ids
from tests.apps.fronted import system
from tests.repertory.gateway.in_memory import InMemoryAsker
from tests.repertory.gateway.test_endpoint import ORDER, PLACE, new_key


class Connecting(Gateway):
    """A gateway whose log is in memory, since a client that asks comes with branch ``ask``."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(system, log="memory:")
        self.made: list[InMemoryAsker] = []
        self.failures = failures

    def _connect(self) -> InMemoryAsker:
        if self.failures:
            self.failures -= 1
            raise LogUnavailable("it is away")
        self.made.append(InMemoryAsker())
        return self.made[-1]


async def through(app: ASGIApp, talk: Callable[[httpx.AsyncClient], Awaitable[None]]) -> list[str]:
    """Run an application with its lifespan, as a server does; return how the lifespan went."""
    told: list[str] = []
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "state": {}}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    told.append((await from_app.get())["type"])
    if told == ["lifespan.startup.complete"]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            await talk(client)
        await to_app.put({"type": "lifespan.shutdown"})
        told.append((await from_app.get())["type"])
    with contextlib.suppress(LogUnavailable):
        await task
    return told


def test_alone_it_connects_before_the_first_request_and_closes_at_the_end() -> None:
    """A server tells the application when it starts and stops."""
    front = Connecting()

    async def talk(client: httpx.AsyncClient) -> None:
        assert len(front.made) == 1
        assert (await client.post(PLACE, json=ORDER, headers={ids.KEY: new_key()})).status_code == 200

    assert asyncio.run(through(front.app, talk)) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert [each.is_closed for each in front.made] == [True]


def test_a_log_that_is_away_fails_the_start() -> None:
    """A server ends then, and whoever started it sees why."""

    async def talk(_client: httpx.AsyncClient) -> None:
        raise AssertionError

    assert asyncio.run(through(Connecting(failures=1).app, talk)) == ["lifespan.startup.failed"]


def frameworks(front: Gateway, **options: Any) -> list[Starlette]:
    """Return an application of each framework with the gateway mounted."""
    found = [Starlette(**options), FastAPI(**options)]
    for app in found:
        app.mount("/bank", front.app)
    return found


@pytest.mark.parametrize("number", [0, 1], ids=["starlette", "fastapi"])
def test_mounted_it_is_below_its_path(number: int) -> None:
    """Keys, pages and problems are the same below the path of a mount, also within another mount."""
    front = Connecting()
    app = frameworks(front)[number]
    outer = Starlette()
    outer.mount("/outer", app)

    async def talk(client: httpx.AsyncClient) -> None:
        for base in ("/bank", "/outer/bank"):
            app_of_base = outer if base.startswith("/outer") else app
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app_of_base), base_url="http://localhost"
            ) as asking:
                path = f"{base}/web-order/{base.strip('/')}%2F1/place-order"
                answer = await asking.post(path, json=ORDER, headers={ids.KEY: new_key()})
                assert answer.status_code == 200, answer.text
                assert (await asking.get(f"{base}/openapi.json")).json() == front.document
                assert (await asking.get(f"{base}/docs")).status_code == 200
                missing = await asking.get(f"{base}/nothing")
                assert missing.headers["content-type"] == "application/problem+json"

    asyncio.run(through(app, talk))
    (asker,) = front.made  # Connected once, at the first request: an outer application tells nothing.
    assert {key for _, key in asker._kits} == {"bank/1", "outer/bank/1"}
    assert not asker.is_closed


@pytest.mark.parametrize("number", [0, 1], ids=["starlette", "fastapi"])
def test_mounted_its_lifespan_is_given_to_the_outer_application(number: int) -> None:
    """``FastAPI(lifespan=gateway.lifespan)`` connects and closes with it."""
    front = Connecting()

    async def talk(_client: httpx.AsyncClient) -> None:
        assert len(front.made) == 1

    asyncio.run(through(frameworks(front, lifespan=front.lifespan)[number], talk))
    assert front.made[0].is_closed


def test_a_log_that_was_away_is_tried_again_at_the_next_request() -> None:
    """Mounted without its lifespan, it answers 503 until it is connected; many first requests connect once."""
    front = Connecting(failures=1)

    async def talk() -> list[int]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=front.app), base_url="http://localhost"
        ) as client:
            first = await client.get("/web-order/o-1/status")
            more = await asyncio.gather(*(client.get("/web-order/o-1/status") for _ in range(10)))
            return [first.status_code, *{each.status_code for each in more}]

    assert asyncio.run(talk()) == [503, 200]
    assert len(front.made) == 1


def test_the_pages_are_read_by_get() -> None:
    """By another method there is nothing there: a path of one segment is no operation."""
    front = Gateway(system, client=InMemoryAsker())

    async def talk() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=front.app), base_url="http://localhost"
        ) as client:
            return await client.post("/openapi.json")

    answer = asyncio.run(talk())
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"

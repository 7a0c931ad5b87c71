"""Sagas behind the front: the newest version of their code starts them, and signals reach them."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import httpx
import pytest

from repertory import ActorSystem, Cancelled, Command, Event, Saga, SagaContext, run, signal
from repertory.gateway import Gateway, ids
from repertory.gateway.driven import DrivenAsker
from tests.repertory.gateway.in_memory import InMemoryAsker


class Apply(Command):
    """Apply for a loan."""

    cents: int


class Approve(Command):
    """Grant it."""

    by: str


class Granted(Event):
    """It is granted."""

    by: str


class Loan(Saga):
    """A loan; somebody has to approve it."""

    approve = signal(Approve)

    @run
    async def apply(self, _cmd: Apply, ctx: SagaContext) -> Granted | Cancelled:
        """Grant it at once."""
        return Granted(by=ctx.key)

    @run(version=2)
    async def apply_for(self, _cmd: Apply, ctx: SagaContext) -> Granted | Cancelled:
        """Wait for somebody who approves."""
        return Granted(by=(await ctx.signal(Approve)).by)


system = ActorSystem("loans")
system.host(Loan, partitions=1)


def test_a_saga_is_started_and_signalled() -> None:
    """The start is answered at the end of the saga, and the signal when it is taken."""
    asker = DrivenAsker(system.start("memory:")).start()
    front = Gateway(system, client=asker)

    def key() -> dict[str, str]:
        return {ids.KEY: ids.new_id(time.time(), os.urandom(10)).id}

    async def talk() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=front.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asked = asyncio.create_task(client.post("/loan/l-1/apply-for", json={"cents": 5}, headers=key()))
            while True:
                approved = await client.post("/loan/l-1/approve", json={"by": "eve"}, headers=key())
                if approved.json().get("type") != "repertory.no-such-saga":
                    return [approved, await asked]

    try:
        approved, granted = asyncio.run(talk())
    finally:
        asker.stop()
    assert (approved.status_code, approved.json()) == (200, {"type": "Done"}), approved.text
    assert (granted.status_code, granted.json()) == (200, {"type": "Granted", "by": "eve"}), granted.text


def test_a_saga_that_takes_days_is_started_and_its_answer_fetched() -> None:
    """A request that prefers to be answered later is told where: by a GET of the same path with the same key."""
    asker = DrivenAsker(system.start("memory:")).start()
    front = Gateway(system, client=asker)
    start, other = (ids.written(ids.new_id(time.time(), os.urandom(10))) for _ in "12")
    later = {"Prefer": "respond-async, wait=0"}

    async def talk() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=front.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            nothing = await client.get("/loan/l-2/apply-for", headers=start)
            while (
                begun := await client.post("/loan/l-2/apply-for", json={"cents": 5}, headers={**start, **later})
            ).is_error:
                assert begun.status_code == 504, begun.text  # It is not in the log yet.
            where = begun.headers["location"]
            fetched = await client.get(where, headers=start)
            approve = {**ids.written(ids.new_id(time.time(), os.urandom(10)))}
            await client.post("/loan/l-2/approve", json={"by": "eve"}, headers=approve)
            granted = await client.get(where, headers=start)
            strange = await client.get(where, headers=other)
            keyless = await client.get(where)
            again = await client.post(where, json={"cents": 5}, headers={**start, **later})
            return [nothing, begun, fetched, granted, strange, keyless, again]

    try:
        nothing, begun, fetched, granted, strange, keyless, again = asyncio.run(talk())
    finally:
        asker.stop()
    assert (nothing.status_code, nothing.json()["type"]) == (404, "repertory.not-asked")
    for each in (begun, fetched):
        assert (each.status_code, each.json()) == (202, {"type": "repertory.still-open", "state": "kept"}), each.text
        assert each.headers[ids.KEY] == start[ids.KEY]
        assert each.headers["location"] == "/loan/l-2/apply-for"
    for each in (granted, again):
        assert (each.status_code, each.json()) == (200, {"type": "Granted", "by": "eve"}), each.text
        assert each.headers[ids.REPLAYED] == "true"
    assert (strange.status_code, strange.json()["type"]) == (404, "repertory.not-asked")
    assert (keyless.status_code, keyless.json()["type"]) == (400, "repertory.bad-idempotency-key")


@pytest.mark.parametrize(
    ("values", "wait_s"),
    [
        ([], None),
        (["return=minimal"], None),
        (["wait=5"], None),
        (["respond-async"], 1.0),
        (["respond-async, wait=5"], 5.0),
        (["wait=5", "Respond-Async"], 5.0),
        (["respond-async, wait=0"], 0.5),
        (["respond-async, wait=-1"], 1.0),
        (["respond-async, wait=" + "9" * 400], 1.0),
    ],
)
def test_a_preference_is_read_as_it_is_written(values: list[str], wait_s: float | None) -> None:
    """RFC 7240: one that is unknown or strange is ignored."""
    assert ids.preferred_wait_s(values) == wait_s


def test_the_document_has_its_start_and_its_signals() -> None:
    """Not the code that only sagas of an earlier build run, nor what the runtime sends to a saga."""
    document: Any = Gateway(system, client=InMemoryAsker()).document
    assert set(document["paths"]) == {"/loan/{key}/apply-for", "/loan/{key}/approve"}
    assert {*document["paths"]["/loan/{key}/apply-for"]} == {"post", "get"}
    fetched = document["paths"]["/loan/{key}/apply-for"]["get"]
    assert {"200", "202", "404"} <= {*fetched["responses"]}
    assert "requestBody" not in fetched
    responses = document["paths"]["/loan/{key}/apply-for"]["post"]["responses"]
    members = responses["409"]["content"]["application/problem+json"]["schema"]["allOf"][1]
    rejections = members["properties"]["rejection"]["discriminator"]["mapping"]
    assert {"repertory.already-begun", "repertory.cancelled", "repertory.too-late"} <= {*rejections}

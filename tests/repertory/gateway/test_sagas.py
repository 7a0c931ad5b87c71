"""Sagas behind the front: the newest version of their code starts them, and signals reach them."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import httpx

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


def test_the_document_has_its_start_and_its_signals() -> None:
    """Not the code that only sagas of an earlier build run, nor what the runtime sends to a saga."""
    document: Any = Gateway(system, client=InMemoryAsker()).document
    assert set(document["paths"]) == {"/loan/{key}/apply-for", "/loan/{key}/approve"}
    responses = document["paths"]["/loan/{key}/apply-for"]["post"]["responses"]
    members = responses["409"]["content"]["application/problem+json"]["schema"]["allOf"][1]
    rejections = members["properties"]["rejection"]["discriminator"]["mapping"]
    assert {"repertory.already-begun", "repertory.cancelled", "repertory.too-late"} <= {*rejections}

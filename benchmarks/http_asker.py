"""Asks a gateway over HTTP, with a new key each: ``python -m benchmarks.http_asker HOST:PORT COUNT CONNECTIONS``."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Iterator

import httpx
import msgspec
import typer

from benchmarks import job
from benchmarks.asker import Latency
from repertory.bridge.system.client_core import uuid7

#: How long the gateway may take until it listens.
_START_TIMEOUT_S = 30.0
_PAUSE_S = 0.05


def main(address: str, count: int, connections: int) -> None:
    """Ask, and print the latencies as JSON."""
    print(msgspec.json.encode(asyncio.run(_ask(address, count, connections))).decode())


async def _ask(address: str, count: int, connections: int) -> Latency:
    limits = httpx.Limits(max_connections=connections)
    async with httpx.AsyncClient(base_url=f"http://{address}", limits=limits, timeout=_START_TIMEOUT_S) as client:
        await _listening(client)
        numbers, latencies_ms = iter(range(count)), list[float]()
        begin_s = time.perf_counter()
        await asyncio.gather(*(_one_by_one(client, numbers, latencies_ms) for _ in range(connections)))
        seconds = time.perf_counter() - begin_s
    found = sorted(latencies_ms)
    places = [found[min(int(len(found) * part), len(found) - 1)] for part in (0.99, 0.999)]
    return Latency(count / seconds, statistics.median(found), *places)


async def _listening(client: httpx.AsyncClient) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            await client.get("/openapi.json")
        except httpx.TransportError:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return


async def _one_by_one(client: httpx.AsyncClient, numbers: Iterator[int], latencies_ms: list[float]) -> None:
    """Take the next number, ask, and note how long it took, until there is none."""
    for number in numbers:
        key = uuid7(time.time_ns() // 1_000_000, secrets.randbits(74))
        begin_s = time.perf_counter()
        answer = await client.post(
            f"/account/account-{number % job.ACCOUNTS}/deposit",
            json={"amount": job.AMOUNT},
            headers={"Idempotency-Key": key},
        )
        answer.raise_for_status()
        latencies_ms.append((time.perf_counter() - begin_s) * 1e3)


if __name__ == "__main__":
    typer.run(main)

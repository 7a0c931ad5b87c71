"""What asks of each kind take: a part of ``python -m benchmarks``.

A flood of each kind goes to one worker on Kafka; the same bare clients ask the bare loop. HTTP requests go from
``benchmarks.http_asker`` through a gateway to the same worker.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from benchmarks.asker import Kind, Latency
from benchmarks.latency import asked
from benchmarks.processes import Program, Started, bare, load, repertory, started
from repertory.bridge.topics import replies_topic
from tests.support.kafka.broker import Broker

HTTP = "HTTP request"
#: What each kind is called in tables.
NAMES = {
    Kind.PLAIN: "ask without an id",
    Kind.GIVEN: "ask with an id",
    Kind.AUTO: "ask with an id of the client's",
    Kind.QUERY: "query",
}
_CONNECTIONS = 32


class Asked(msgspec.Struct, frozen=True):
    """Asks of one kind. ``cpu_us``: of the worker; of HTTP requests ``gateway_us`` as well. ``loads``: latencies."""

    cpu_us: float
    broker_us: float
    rate: float
    gateway_us: float = 0.0
    loads: dict[str, Latency] = {}


def kinds(
    broker: Broker,
    count: int,
    seconds: float = 0.0,
    loads: Mapping[str, float] | None = None,
    delivery: str = "exactly-once",
) -> dict[str, Asked]:
    """Return what each kind takes, that of the bare loop and of HTTP requests too.

    ``count``: asks of each flood. ``loads``: asks a second for ``seconds`` each, by the name of the load.
    """
    found: dict[str, Asked] = {}
    floor = bare("bare loop")
    with asked(broker, floor, replies_topic) as (one, program, _):
        found[floor.label] = _measured(broker, program, partial(one, kind=Kind.PLAIN), count, seconds, loads or {})
    with asked(broker, repertory(delivery=delivery), replies_topic) as (one, program, name):
        for kind, label in NAMES.items():
            found[label] = _measured(broker, program, partial(one, kind=kind), count, seconds, loads or {})
        found[HTTP] = _over_http(broker, program, name, max(count // 10, 10))
    return found


def _measured(
    broker: Broker,
    program: Started,
    one: Callable[[float, int], Latency],
    count: int,
    seconds: float,
    loads: Mapping[str, float],
) -> Asked:
    rate, cpu_us, broker_us = _flood(broker, program, lambda: one(0, count).rate, count)
    return Asked(cpu_us, broker_us, rate, loads={name: one(of, int(of * seconds)) for name, of in loads.items()})


def _flood(broker: Broker, program: Started, flood: Callable[[], float], count: int) -> tuple[float, float, float]:
    """Return the answers a second, and the µs of CPU for each of the program and of the broker."""
    before = load(program, broker.pid)
    rate = flood()
    after = load(program, broker.pid)
    program_s, broker_s = after.program_s - before.program_s, after.broker_s - before.broker_s
    return rate, program_s / count * 1e6, broker_s / count * 1e6


def _over_http(broker: Broker, worker: Started, name: str, count: int) -> Asked:
    """Ask over HTTP: commands with an idempotency key each, on some connections at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    serve = [
        sys.executable, "-m", "repertory", "serve", "benchmarks.job:system", "--log", broker.url, "--http", address
    ]  # fmt: skip
    program = Program("gateway", lambda *_: [serve])
    with started(program, broker.address, name) as gateway:
        _asker(address, 2 * _CONNECTIONS, gateway)  # Warms it up, and waits until it listens.
        gateway_s = gateway.cpu_s()
        found: list[Latency] = []

        def flood() -> float:
            found.append(_asker(address, count, gateway))
            return found[0].rate

        rate, cpu_us, broker_us = _flood(broker, worker, flood, count)
        gateway_us = (gateway.cpu_s() - gateway_s) / count * 1e6
    return Asked(cpu_us, broker_us, rate, gateway_us, {f"{_CONNECTIONS} at once": found[0]})


def _asker(address: str, count: int, gateway: Started) -> Latency:
    command = [sys.executable, "-m", "benchmarks.http_asker", address, str(count), str(_CONNECTIONS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603
    gateway.check()
    done.check_returncode()
    return msgspec.json.decode(done.stdout, type=Latency)

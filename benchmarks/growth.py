"""What grows with the number of entities and shards: a part of ``python -m benchmarks``."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from benchmarks import path
from benchmarks.processes import repertory, started
from benchmarks.throughput import filled, ledger, reached
from tests.support.kafka.broker import Broker

_SETTLED_S = 3.0


class Entities(msgspec.Struct, frozen=True):
    """One shard of many entities, without a log. CPU in µs of a command."""

    entities: int
    cpu_us: float


class Shards(msgspec.Struct, frozen=True):
    """A worker of many shards on Kafka, idle and at work."""

    shards: int
    threads: int
    descriptors: int
    memory_mb: float
    #: Idle: TCP segments that this machine sends each second, and the worker's CPU, in cores.
    segments_s: float
    idle_cores: float
    commands_s: float
    cpu_us: float


def entities(count: int, commands: int = 200_000) -> Entities:
    """Measure the pure path with ``count`` entities, for so many commands that each is snapshotted."""
    return Entities(count, sum(path.measure(count, max(commands, 2 * count)).values()))


def shards(broker: Broker, count: int, commands: int, watched_s: float = 10.0) -> Shards:
    """Measure one worker of ``count`` shards: first idle, then at the ledger job."""
    program = repertory(partitions=count)
    with (
        filled(broker, 20 * count, 20 * count, count) as (name, offsets),
        started(program, broker.address, name) as running,
    ):
        reached(offsets, running, broker, 20 * count)
        time.sleep(_SETTLED_S)
        worker = running.tree()[-1]
        segments, cpu_s, begin_s = _segments(), running.cpu_s(), time.perf_counter()
        time.sleep(watched_s)
        seconds = time.perf_counter() - begin_s
        segments_s, idle_cores = (_segments() - segments) / seconds, (running.cpu_s() - cpu_s) / seconds
        threads, descriptors = worker.num_threads(), worker.num_fds()
        memory_mb = worker.memory_info().rss / 1e6
    busy = ledger(broker, program, commands)
    return Shards(count, threads, descriptors, memory_mb, segments_s, idle_cores, busy.commands_s, busy.cpu_us)


def _segments() -> int:
    lines = [line.split() for line in Path("/proc/net/snmp").read_text(encoding="ascii").splitlines()]
    names, values = (line for line in lines if line[0] == "Tcp:")
    return int(values[names.index("OutSegs")])

"""The ledger job on the embedded log, and a bare loop on the same log, in turn: ``python -m benchmarks.ledger``.

The job: decode a deposit, add it to the balance of one of 10,000 accounts, and emit an event; exactly once, on four
partitions. Each round starts a loop, fills its topic, and measures until everything is committed. Only figures of the
same run are comparable; the result is their ratio. For Kafka, see ``python -m benchmarks``.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.job import PARTITIONS, ledger_system, preload
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import (
    Assigned,
    Claimed,
    Fetched,
    Member,
    TopicSpec,
    Transaction,
)
from repertory.bridge.log.record import Output
from repertory.bridge.system.running import Running
from repertory.bridge.worker import calm_the_collector
from repertory.cli.shared import sentences

console = Console(highlight=False)


def repertory(url: str, count: int) -> float:
    """Run the job as an entity in this process and return the seconds it took."""
    system = ledger_system(f"ledger-{uuid.uuid4().hex[:8]}")
    backend = connect(url, system.settings)
    system.prepare(backend)
    running = Running(system, backend)
    while sum(assigned.shard is not None for assigned in running.loop.region) < PARTITIONS:
        running.tick(0.05)
    preload(backend, f"{system.name}.account.commands", count)
    begin_s = time.perf_counter()
    while running.loop.counts.applied < count:
        running.tick(0.05)
    seconds = time.perf_counter() - begin_s
    running.close()
    return seconds


def bare_embedded(url: str, count: int) -> float:
    """Read, append the same number of records, commit: the same SQLite log without actors and without decoding."""
    name = f"bare-{uuid.uuid4().hex[:8]}"
    backend = connect(url)
    topics = [f"{name}.account.commands", f"{name}.account.events", f"{name}.control"]
    backend.ensure([TopicSpec(topic, PARTITIONS, {}) for topic in topics])
    preload(backend, topics[0], count)
    log = backend.log(Member(name, "bench", 0), topics[:1])
    done, begin_s = 0, time.perf_counter()
    while done < count:
        for happened in log.poll(0.05):
            match happened:
                case Assigned(shard):
                    log.claim(shard, ())
                case Claimed(shard):
                    log.begin(shard, 0)
                case Fetched(shard, records):
                    outputs = [Output(topics[1], shard.partition, r.key, r.value) for r in records]
                    log.commit(Transaction(shard, records[-1].offset + 1, outputs))
                    done += len(records)
    seconds = time.perf_counter() - begin_s
    log.close()
    backend.close()
    return seconds


def measure(job: Callable[[str, int], float], url: str, count: int) -> float:
    """Return commands per second."""
    return count / job(url, count)


def main(
    log: Annotated[str, typer.Option(help="memory: or sqlite:PATH")] = "memory:",
    count: Annotated[int, typer.Option("--commands", min=1, help="Commands of each round.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Measure both loops in turn and print the ratio."""
    calm_the_collector()  # As a worker process does; the bare loop benefits as well.
    with sentences():
        _compare(log, count, rounds)


def _compare(log: str, count: int, rounds: int) -> None:
    table = Table("round", "bare loop /s", "repertory /s", "ratio", title=f"ledger, {count:,} commands, {log}")
    ratios = []
    for number in range(rounds):
        floor, ours = measure(bare_embedded, log, count), measure(repertory, log, count)
        ratios.append(ours / floor)
        table.add_row(str(number + 1), f"{floor:,.0f}", f"{ours:,.0f}", f"{ratios[-1]:.2f}")
    console.print(table)
    console.print(f"ratio: median {statistics.median(ratios):.2f} of {rounds}")


if __name__ == "__main__":
    typer.run(main)

"""All measurements on Kafka, peers included, in turn in one run: ``make bench``, or ``python -m benchmarks``.

Programs alternate; each figure is the median of its rounds. The machine must have nothing else to do: a round in which
others take more than 0.3 of a core is repeated, three times at most. The results go to ``docs/performance.json``, the
tables to ``docs/performance.rst``, the plots beside it. Only figures of one run are comparable.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import partial
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from benchmarks import ask, check, job, report
from benchmarks.growth import entities, shards
from benchmarks.latency import IDLE_RATE, highest_rate, latencies
from benchmarks.peers import PeerMissingError, faust, quix, streams
from benchmarks.processes import Program, bare, repertory
from benchmarks.report import RESULTS, Results
from benchmarks.restore import handover, kills
from benchmarks.throughput import ledger
from repertory.bridge.topics import replies_topic
from tests.support.kafka.broker import Broker

console = Console(highlight=False, stderr=True)

OURS, BARE, STREAMS = "Repertory", "bare loop", "Kafka Streams"
#: Kafka Streams runs the job with so many threads.
_THREADS = (1, 2, 4)
#: Parts of the highest rate of asks.
_LOADS = (0.1, 0.5, 0.9)


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int
    commands: int
    #: For the slower peers.
    few_commands: int
    #: Asks that come as fast as they can.
    flood: int
    #: Seconds at each load.
    load_s: float
    restored: tuple[int, ...]
    kills: int
    #: Commands of a long life; 0 for none.
    long_life: int
    entities: tuple[int, ...]
    shards: tuple[int, ...]


FULL = Size(
    rounds=3,
    commands=2_000_000,
    few_commands=200_000,
    flood=100_000,
    load_s=6.0,
    restored=(1_000, 100_000, 1_000_000),
    kills=4,
    long_life=10_000_000,
    entities=(1_000, 10_000, 100_000, 1_000_000, 2_000_000),
    shards=(4, 20, 64, 256),
)
SHORT = Size(
    rounds=1,
    commands=20_000,
    few_commands=2_000,
    flood=2_000,
    load_s=1.0,
    restored=(1_000,),
    kills=1,
    long_life=0,
    entities=(1_000,),
    shards=(4,),
)


def streams_program(threads: int, commit_interval_ms: int | None = None, label: str = STREAMS) -> Program:
    """Return Kafka Streams, built if it is not yet."""
    return peer(label, partial(streams, threads=threads, commit_interval_ms=commit_interval_ms))


def peer(label: str, command: Callable[..., list[str]]) -> Program:
    """Return a peer that runs in one process."""
    return Program(label, lambda brokers, name, directory: [command(brokers, name, directory)])


def measure_ledger(broker: Broker, results: Results, size: Size) -> None:
    """Throughput and CPU, one worker, two, at least once, and the slower peers at a smaller size."""
    large = [
        bare(BARE),
        repertory(OURS),
        streams_program(1),
        bare(f"{BARE}, 2 processes", processes=2),
        repertory(f"{OURS}, 2 workers", workers=2),
        *(streams_program(threads, label=f"{STREAMS}, {threads} threads") for threads in _THREADS[1:]),
        repertory(f"{OURS}, at least once", delivery="at-least-once"),
    ]
    slower = peer("Quix Streams", quix), peer("Faust, at least once", faust)
    counts = {slower[0].label: size.few_commands, slower[1].label: size.few_commands // 4}
    results.ledger = {}
    ledger(broker, large[0], size.few_commands)  # Warms the broker up, and does not count.
    for number in range(size.rounds):
        for program in (*large, *slower):
            found = ledger(broker, program, counts.get(program.label, size.commands))
            results.ledger.setdefault(program.label, []).append(found)
            console.print(f"ledger, round {number + 1}: {program.label}: {found}")


def measure_latency(broker: Broker, results: Results, size: Size) -> None:
    """Asks, idle and under load, beside the bare loop and Kafka Streams."""
    ours, at_least_once = repertory(OURS), repertory(f"{OURS}, at least once", delivery="at-least-once")
    results.rate_max = highest_rate(broker, ours, size.flood)
    console.print(f"highest rate of asks: {results.rate_max:,.0f}/s")
    loads = {f"{part:.0%}": part * results.rate_max for part in _LOADS}
    streams_programs = streams_program(1), streams_program(1, 1, f"{STREAMS}, commit.interval.ms=1")
    results.latency = {}
    for number in range(size.rounds):
        for program in (bare(BARE), ours, at_least_once, *streams_programs):
            answers_of = job.events_of if program in streams_programs else replies_topic
            found = latencies(broker, program, size.load_s, loads, answers_of)
            results.latency.setdefault(program.label, []).append(found)
            console.print(f"latency, round {number + 1}: {program.label}: {found}")


def measure_asks(broker: Broker, results: Results, size: Size) -> None:
    """Asks with and without an id, queries and HTTP requests: CPU of each, and latencies."""
    rate_max = results.rate_max or highest_rate(broker, repertory(OURS), size.flood)
    loads = {"idle": IDLE_RATE} | {f"{part:.0%}": part * rate_max for part in _LOADS[1:]}
    results.asks = {}
    for number in range(size.rounds):
        once = ask.kinds(broker, size.flood, size.load_s, loads)
        often = ask.kinds(broker, size.flood, size.load_s, loads, "at-least-once")
        for name, found in (once | {f"{each}, at least once": often[each] for each in ask.NAMES.values()}).items():
            results.asks.setdefault(name, []).append(found)
            console.print(f"asks, round {number + 1}: {name}: {found}")


def measure_restore(broker: Broker, results: Results, size: Size) -> None:
    """SIGKILL to next commit by the number of entities, and after a long life; a planned handover."""
    results.restore = {}
    lives = {f"{accounts:,}": (accounts, accounts) for accounts in size.restored}
    if size.long_life:
        lives[f"{job.ACCOUNTS * 10:,}, after {size.long_life:,} commands"] = job.ACCOUNTS * 10, size.long_life
    for life, (accounts, count) in lives.items():
        results.restore[life] = kills(broker, accounts, count, size.kills)
        console.print(f"restore: {life}: {results.restore[life]}")
    results.handover = [handover(broker, size.restored[0]) for _ in range(size.kills)]
    console.print(f"handover: {results.handover}")


def measure_growth(broker: Broker, results: Results, size: Size) -> None:
    """CPU by the number of entities; a worker by the number of its shards."""
    results.entities, results.shards = [], []
    for count in size.entities:
        results.entities.append(entities(count))
        console.print(f"growth: {results.entities[-1]}")
    for count in size.shards:
        results.shards.append(shards(broker, count, size.commands))
        console.print(f"growth: {results.shards[-1]}")


def measure_check(broker: Broker, results: Results, _size: Size) -> None:
    """The ratios that ``make bench-check`` compares."""
    results.check |= check.measured(broker)
    console.print(f"check: {results.check}")


def measure_later(_broker: Broker, results: Results, _size: Size) -> None:
    """Those of timers and effects."""
    results.check |= check.measured_later()
    console.print(f"later: {results.check}")


def measure_sagas(_broker: Broker, results: Results, _size: Size) -> None:
    """Those of sagas."""
    results.check |= check.measured_sagas()
    console.print(f"sagas: {results.check}")


MEASURE: dict[str, Callable[[Broker, Results, Size], None]] = {
    "ledger": measure_ledger,
    "latency": measure_latency,
    "asks": measure_asks,
    "restore": measure_restore,
    "growth": measure_growth,
    "check": measure_check,
    "later": measure_later,
    "sagas": measure_sagas,
}


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Parts, of {', '.join(MEASURE)}; all by default.")] = None,
    short: Annotated[bool, typer.Option("--short", help="A little of each; says nothing about speed.")] = False,  # noqa: FBT002
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    commands: Annotated[int, typer.Option(min=10_000)] = 2_000_000,
) -> None:
    """Measure, and write the page."""
    parts = only or list(MEASURE)
    if unknown := {*parts} - {*MEASURE}:
        raise typer.BadParameter(f"no part is called {', '.join(unknown)}: choose from {', '.join(MEASURE)}")
    results = report.read() if only and RESULTS.exists() else Results()
    results.measured = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    size = SHORT if short else msgspec.structs.replace(FULL, rounds=rounds, commands=commands)
    broker = Broker(jvm=()).start()
    try:
        for part in parts:
            MEASURE[part](broker, results, size)
    except PeerMissingError as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(1) from error
    finally:
        broker.stop()
    if not short:
        report.write(results)
    report.show(results)


if __name__ == "__main__":
    typer.run(main)

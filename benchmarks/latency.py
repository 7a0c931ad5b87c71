"""The latency of an ask, exactly once and at least once, in turn: ``python -m benchmarks.latency --log kafka://…``.

One client asks one account at a time, and a worker process replies. The latency is measured from before the command is
appended until its reply is read. Only figures of the same run are comparable; the result is their ratio.
"""

from __future__ import annotations

import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.job import PARTITIONS, Account, Deposit
from repertory import ActorSystem
from repertory.actors.headers import CORRELATION_ID, REPLY_TO
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output, Record
from repertory.bridge.system.settings import DELIVERIES, Settings
from repertory.bridge.topics import commands_topic, replies_topic
from repertory.cli.shared import sentences

console = Console(highlight=False)

NAME, DELIVERY = "LATENCY_NAME", "LATENCY_DELIVERY"
#: Asks before the measurement, so that shards are restored and connections are open.
WARM_UP = 50
PATIENCE_S = 30.0


def accounts_system(name: str, delivery: str) -> ActorSystem:
    """Return the system that a worker hosts."""
    made = ActorSystem(name, settings=Settings(delivery=delivery))
    made.host(Account, partitions=PARTITIONS)
    return made


#: The workers import this: the system of the current round.
system = accounts_system(os.environ.get(NAME, "latency"), os.environ.get(DELIVERY, DELIVERIES[0]))


def latencies_ms(url: str, delivery: str, count: int) -> list[float]:
    """Ask one at a time and return the latency of each ask, in milliseconds."""
    os.environ[NAME], os.environ[DELIVERY] = f"latency-{uuid.uuid4().hex[:8]}", delivery
    asked = accounts_system(os.environ[NAME], delivery)
    with (
        asked.spawn("benchmarks.latency:system", log=url),
        closing(connect(url, asked.settings)) as backend,
        closing(backend.appender()) as appender,
        closing(backend.reader()) as reader,
    ):
        replies = reader.follow(replies_topic(asked.name), {0: 0}, PATIENCE_S)
        return list(_asked(asked.name, appender.append, replies, count))


def _asked(
    name: str, append: Callable[[Sequence[Output]], object], replies: Iterator[Record], count: int
) -> Iterator[float]:
    topic, reply_to = commands_topic(name, "account"), f"{replies_topic(name)}/0".encode()
    value = encode(Deposit(amount=1))
    for number in range(WARM_UP + count):
        key = b"account-%d" % (number % 100)
        headers = ((REPLY_TO, reply_to), (CORRELATION_ID, b"%d" % number))
        begin_s = time.perf_counter()
        append([Output(topic, partition_of(key, PARTITIONS), key, value, headers)])
        while next(replies).header(CORRELATION_ID) != b"%d" % number:
            pass  # At least once, an earlier reply may be repeated.
        if number >= WARM_UP:
            yield (time.perf_counter() - begin_s) * 1000


def main(
    log: Annotated[str, typer.Option(help="sqlite:PATH or kafka://host:port")],
    count: Annotated[int, typer.Option("--asks", min=10, help="Asks of each round.")] = 500,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Measure both modes in turn and print the ratio."""
    table = Table("round", *(f"{each} {name} ms" for each in DELIVERIES for name in ("p50", "p99")), "ratio of p50")
    ratios = []
    with sentences():
        for number in range(rounds):
            found = [sorted(latencies_ms(log, delivery, count)) for delivery in DELIVERIES]
            medians = [statistics.median(each) for each in found]
            ratios.append(medians[1] / medians[0])
            figures = [f"{each[int(len(each) * part)]:.1f}" for each in found for part in (0.5, 0.99)]
            table.add_row(str(number + 1), *figures, f"{ratios[-1]:.2f}")
    console.print(table)
    console.print(f"ratio of the medians, at least once to exactly once: {statistics.median(ratios):.2f} of {rounds}")


if __name__ == "__main__":
    typer.run(main)

"""Bare clients that ask at a given rate: one process sends, one receives, and the time of sending travels along.

``python -m benchmarks.asker send|receive BROKERS …``. A latency counts from when an ask was due, not from when it was
sent: a program that stops for a second is charged for every ask of that second (no coordinated omission).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from enum import StrEnum
from typing import Annotated

import msgspec
import typer
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks import job
from repertory.actors.headers import ASK_ID, CORRELATION_ID, REPLY_TO
from repertory.actors.wire import encode
from repertory.bridge.system.client_core import uuid7

app = typer.Typer(add_completion=False)

#: How long the receiver waits for the next answer.
_PATIENCE_S = 15.0
#: This part of the asks warms the way up, and does not count.
_WARM = 0.2
_READY = "ready"
_CHANCE = (1 << 74) - 1
#: Asks a second up to which each is sent at once.
_CALM_RATE = 500
_BATCH = 1_000


class Kind(StrEnum):
    """What is asked: a command without an id, with one that its caller gave or its client made, or a query."""

    PLAIN = "plain"
    GIVEN = "given"
    AUTO = "auto"
    QUERY = "query"


class Latency(msgspec.Struct, frozen=True):
    """Of asks at one rate, in ms. ``rate``: answers a second, from the first to the last."""

    rate: float
    p50: float
    p99: float
    p999: float


class UnansweredError(Exception):
    """Asks without an answer."""


def ask(
    brokers: str,
    name: str,
    answers: str,
    rate: float,
    count: int,
    patience_s: float = _PATIENCE_S,
    kind: Kind = Kind.PLAIN,
) -> Latency:
    """Send ``count`` asks to the accounts of ``name``, ``rate`` each second; 0 is as fast as it goes.

    ``answers``: the topic where the answers come; the next one is waited for as long as ``patience_s``.
    Raises UnansweredError.
    """
    module = [sys.executable, "-m", "benchmarks.asker"]
    receive = [*module, "receive", brokers, answers, str(count), str(patience_s)]
    send = [*module, "send", brokers, job.commands_of(name), f"{answers}/0", str(rate), str(count), kind]
    with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiver:  # noqa: S603
        assert receiver.stdout is not None
        if receiver.stdout.readline().strip() == _READY:
            subprocess.run(send, check=True)  # noqa: S603
        said = receiver.stdout.read()
    if receiver.returncode:
        raise UnansweredError(f"{name} at {rate:,.0f} asks/s: {said.strip()}")
    return msgspec.json.decode(said, type=Latency)


@app.command()
def send(brokers: str, commands: str, reply_to: str, rate: float, count: int, kind: Kind) -> None:
    """Send deposits that ask for an answer, or queries."""
    # Under load, a request for each ask would take the broker's time from the programs that are measured.
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 2 if not rate or rate > _CALM_RATE else 0})
    value, to = encode(job.GetBalance() if kind is Kind.QUERY else job.Deposit(amount=job.AMOUNT)), reply_to.encode()
    made_ms = time.time_ns() // 1_000_000
    accounts = job.places()
    gap_ns = 1e9 / rate if rate else 0.0
    begin_ns = time.monotonic_ns()
    for number in range(count):
        due_ns = begin_ns + int(number * gap_ns)
        while rate and (ahead_ns := due_ns - time.monotonic_ns()) > 0:
            producer.poll(ahead_ns / 1e9)
        partition, key = accounts[number % job.ACCOUNTS]
        sent = b"%d" % (due_ns if rate else time.monotonic_ns())
        headers: list[tuple[str, str | bytes | None]] = [(REPLY_TO, to), (CORRELATION_ID, sent)]
        if kind is Kind.GIVEN:
            headers.append((ASK_ID, f"{made_ms}/{begin_ns}-{number}"))
        elif kind is Kind.AUTO:
            headers.append((ASK_ID, f"auto/{uuid7(time.time_ns() // 1_000_000, (begin_ns << 32 | number) & _CHANCE)}"))
        while True:
            try:
                producer.produce(commands, value, key, partition, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


@app.command()
def receive(brokers: str, answers: str, count: Annotated[int, typer.Argument(min=10)], patience_s: float) -> None:
    """Wait for the answers, and print their latencies as JSON."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers, "group.id": "asker", "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )  # fmt: skip
    partitions = AdminClient({"bootstrap.servers": brokers}).list_topics(answers).topics[answers].partitions
    ends = [
        (partition, consumer.get_watermark_offsets(TopicPartition(answers, partition))[1]) for partition in partitions
    ]
    consumer.assign([TopicPartition(answers, partition, end) for partition, end in ends])
    print(_READY, flush=True)
    latencies_ms: list[float] = []
    first_ns = last_ns = 0
    deadline_s = time.monotonic() + patience_s
    while len(latencies_ms) < count:
        first = consumer.poll(0.1)
        messages = [first, *consumer.consume(_BATCH, 0)] if first else []
        last_ns = time.monotonic_ns() if messages else last_ns
        first_ns = first_ns or last_ns
        for message in messages:
            sent = dict(message.headers() or ()).get(CORRELATION_ID)
            if sent is not None:
                latencies_ms.append((last_ns - int(sent)) / 1e6)
        if messages:
            deadline_s = time.monotonic() + patience_s
        elif time.monotonic() > deadline_s:
            print(f"{count - len(latencies_ms)} of {count} were not answered within {patience_s:g} s")
            raise typer.Exit(1)
    consumer.close()
    found = sorted(latencies_ms[int(_WARM * count) :])
    rate = (count - 1) / (max(last_ns - first_ns, 1) / 1e9)
    places = [found[min(int(len(found) * part), len(found) - 1)] for part in (0.99, 0.999)]
    print(msgspec.json.encode(Latency(rate, statistics.median(found), *places)).decode())


if __name__ == "__main__":
    app()

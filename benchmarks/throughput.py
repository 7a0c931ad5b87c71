"""Throughput and CPU of the ledger job on Kafka, program beside program: a part of ``python -m benchmarks``.

Each run has topics of its own, filled before the program starts. The first half of the commands warms it up, the second
half is measured, between two commits of its group. Afterwards its balances are checked from its committed events.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import msgspec
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks import job
from benchmarks.processes import FOREIGN_CORES_MAX, Load, Offsets, Program, Started, load, started
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.topics import LOG_TIME
from tests.support.kafka.broker import Broker

#: A round that others disturb is repeated so often at most.
_REPEATS_MAX = 3
_PROGRESS_TIMEOUT_S = 120.0
_POLL_S = 0.25
_READ = 10_000
_END_TIMEOUT_S = 10.0


class Throughput(msgspec.Struct, frozen=True):
    """One valid round of a program. CPU in µs for each command."""

    commands_s: float
    cpu_us: float
    broker_us: float
    #: Cores that others took.
    foreign: float


class UnbalancedError(Exception):
    """A program lost a command or counted it twice."""


def ledger(broker: Broker, program: Program, count: int, accounts: int = job.ACCOUNTS) -> Throughput:
    """Run the job once, and again while others disturb it, three times at most."""
    for _ in range(_REPEATS_MAX):
        found = _ledger(broker, program, count, accounts)
        if found.foreign <= FOREIGN_CORES_MAX:
            break
    return found


def _ledger(broker: Broker, program: Program, count: int, accounts: int) -> Throughput:
    with filled(broker, count, accounts, program.partitions) as (name, offsets):
        with started(program, broker.address, name) as running:
            start = 0, load(running, broker.pid)
            first = reached(offsets, running, broker, count // 2)
            last = reached(offsets, running, broker, count)
        check_balances(broker.address, name, count, accounts)
    if first[0] == last[0]:  # So few commands that they were committed at once.
        first = start
    handled, begin, end = last[0] - first[0], first[1], last[1]
    seconds = end.at_s - begin.at_s
    return Throughput(
        commands_s=handled / seconds,
        cpu_us=(end.program_s - begin.program_s) / handled * 1e6,
        broker_us=(end.broker_s - begin.broker_s) / handled * 1e6,
        foreign=round((end.foreign_s - begin.foreign_s) / seconds, 2),
    )


def reached(offsets: Offsets, running: Started, broker: Broker, wanted: int) -> tuple[int, Load]:
    """Wait until ``wanted`` commands are committed; return how many are, and the load at that time."""
    done, deadline_s = -1, 0.0
    while True:
        now, committed = time.monotonic(), sum(offsets.read())
        if committed >= wanted:
            return committed, load(running, broker.pid)
        if committed > done:
            done, deadline_s = committed, now + _PROGRESS_TIMEOUT_S
        running.check()
        if now > deadline_s:
            raise RuntimeError(f"no progress for {_PROGRESS_TIMEOUT_S:.0f} s at {done:,} of {wanted:,} commands")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def filled(
    broker: Broker, count: int, accounts: int = job.ACCOUNTS, partitions: int = job.PARTITIONS
) -> Iterator[tuple[str, Offsets]]:
    """Give a run a name, its topics with the commands, and its group's offsets; all is deleted at the end."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    prepare(broker, name, count, accounts, partitions)
    offsets = Offsets(broker.address, name, partitions)
    try:
        yield name, offsets
    finally:
        offsets.close()
        _drop(AdminClient({"bootstrap.servers": broker.address}), name)


def prepare(
    broker: Broker, name: str, count: int, accounts: int = job.ACCOUNTS, partitions: int = job.PARTITIONS
) -> None:
    """Create the topics of commands and events, and append the commands."""
    backend = connect(broker.url)
    commands, events = job.commands_of(name), job.events_of(name)
    backend.ensure([TopicSpec(commands, partitions, LOG_TIME), TopicSpec(events, partitions, {})])
    job.preload(backend, commands, count, accounts, partitions)
    backend.close()


def check_balances(brokers: str, name: str, count: int, accounts: int) -> None:
    """Read the committed events: each account's sum, and the balance that an event carries, must be as sent.

    Raises UnbalancedError.
    """
    events, last = Counter[bytes](), dict[bytes, bytes]()
    for message in committed(brokers, job.events_of(name)):
        key = message.key() or b""
        events[key] += 1
        last[key] = message.value() or b""
    expected = Counter({b"account-%d" % n: count // accounts + (n < count % accounts) for n in range(accounts)})
    if events != +expected:
        wrong = next(key for key in {*events, *expected} if events[key] != expected[key])
        raise UnbalancedError(f"{name}: {wrong!r} has {events[wrong]} events of {expected[wrong]}")
    for key, value in last.items():
        fields = msgspec.msgpack.decode(value)
        if fields.get("balance", expected[key] * job.AMOUNT) != expected[key] * job.AMOUNT:
            raise UnbalancedError(f"{name}: the last event of {key!r} is {fields}, after {expected[key]} deposits")


def committed(brokers: str, topic: str) -> Iterator[Message]:
    """Yield the committed records of a topic, in the order of each partition. Raises RuntimeError if it has no end."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers, "group.id": "audit", "enable.auto.commit": False,
            "isolation.level": "read_committed", "enable.partition.eof": True,
        }
    )  # fmt: skip
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    open_ends, heard_s = len(partitions), time.monotonic()
    while open_ends:
        for message in consumer.consume(_READ, 0.2):
            heard_s = time.monotonic()
            if message.error() is None:
                yield message
            else:
                open_ends -= 1
        if time.monotonic() > heard_s + _END_TIMEOUT_S:
            raise RuntimeError(f"{topic}: the end of {open_ends} partitions was not read within {_END_TIMEOUT_S:.0f} s")
    consumer.close()


def _drop(admin: AdminClient, name: str) -> None:
    """Delete every topic of a run: the next ones have the disk to themselves."""
    topics = [topic for topic in admin.list_topics().topics if topic.startswith(name)]
    for future in admin.delete_topics(topics).values():
        future.result()

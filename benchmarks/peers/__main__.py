"""Checks that each peer does the ledger job as Repertory does: ``python -m benchmarks.peers``. It starts a Kafka.

One process of each peer handles commands; then its group's offsets, its events and its exit status are checked.
The rate that is printed is rough: it includes the time to produce the commands.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from rich.console import Console

from benchmarks import peers
from benchmarks.job import PARTITIONS, Deposit
from repertory.actors.headers import CORRELATION_ID
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.log.record import Output
from tests.support.kafka.broker import Broker

console = Console(highlight=False)

PEERS = {"streams": peers.streams, "quix": peers.quix, "faust": peers.faust}
#: Faust handles a few thousand commands a second, the others tens of thousands.
COUNTS = {"streams": 100_000, "quix": 100_000, "faust": 5_000}
KEYS = 1_000
AMOUNT = 5
START_TIMEOUT_S = 90.0
JOB_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
#: The first group of a new broker makes its offsets topic.
NOT_YET = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}


class Event(msgspec.Struct, tag_field="type", tag="Deposited", forbid_unknown_fields=True):
    """What a peer produces for each command."""

    amount: int
    balance: int


def outputs(topic: str, numbers: range) -> Iterator[Output]:
    """Yield deposits over all keys, round robin, each with a header."""
    value = encode(Deposit(amount=AMOUNT))
    for number in numbers:
        key = b"account-%d" % (number % KEYS)
        yield Output(topic, partition_of(key, PARTITIONS), key, value, ((CORRELATION_ID, b"%d" % number),))


def committed(group: Consumer, topic: str) -> int:
    """Return how many commands a group has committed. The consumer is no member; it only asks for its group's offsets.

    ``AdminClient.list_consumer_group_offsets`` is not used: with confluent-kafka 2.16.1 it can crash the process while
    the group's coordinator is not yet known.
    """
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    try:
        return sum(max(0, place.offset) for place in group.committed(places, START_TIMEOUT_S))
    except KafkaException as error:
        if error.args[0].code() not in NOT_YET:
            raise
        return 0


def await_committed(group: Consumer, name: str, total: int, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait until a peer has committed its commands; SystemExit if it ends or takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while (found := committed(group, f"{name}.account.commands")) < total:
        if process.poll() is not None:
            raise SystemExit(f"{name} exited with {process.returncode} after {found:,} of {total:,} commands")
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{name} has committed {found:,} of {total:,} commands after {timeout_s:.0f} s")
        time.sleep(0.05)
    if found != total:
        raise SystemExit(f"{name} has committed {found:,} commands, and there are {total:,}")


def check_events(brokers: str, topic: str, total: int) -> None:
    """Read the committed events to their end and compare them with the commands; AssertionError if they differ."""
    settings = {"bootstrap.servers": brokers, "group.id": topic, "isolation.level": "read_committed"}
    decode = msgspec.msgpack.Decoder(Event).decode
    seen: Counter[bytes] = Counter()
    correlations = set()
    with closing(Consumer({**settings, "enable.partition.eof": True, "enable.auto.commit": False})) as consumer:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        ends = 0
        while ends < PARTITIONS:
            message = consumer.poll(10)
            assert message is not None, "the events topic has no end"
            if message.error() is not None:
                ends += 1
                continue
            key, event = message.key() or b"", decode(message.value() or b"")
            seen[key] += 1
            assert message.partition() == partition_of(key, PARTITIONS), (key, message.partition())
            assert event == Event(AMOUNT, AMOUNT * seen[key]), (key, event, seen[key])
            correlations.add(dict(message.headers() or ())[CORRELATION_ID])
    assert seen == Counter(b"account-%d" % (number % KEYS) for number in range(total)), seen.total()
    assert correlations == {b"%d" % number for number in range(total)}, len(correlations)


def check(peer: str, brokers: str, count: int, log: Path, directory: Path) -> str:
    """Run a peer and return what is to be said about it."""
    name = f"{peer}-{uuid.uuid4().hex[:8]}"
    topics = [f"{name}.account.{part}" for part in ("commands", "events")]
    command = PEERS[peer](brokers, name, directory)
    asking = Consumer({"bootstrap.servers": brokers, "group.id": name, "isolation.level": "read_uncommitted"})
    with (
        closing(asking) as group,
        closing(connect(f"kafka://{brokers}")) as backend,
        closing(backend.appender()) as appender,
    ):
        backend.ensure([TopicSpec(topic, PARTITIONS, {}) for topic in topics])
        appender.append(list(outputs(topics[0], range(KEYS))))
        with log.open("wb") as sink:
            process = subprocess.Popen(command, cwd=directory, stdout=sink, stderr=sink)  # noqa: S603
        try:
            begin_s = time.monotonic()
            await_committed(group, name, KEYS, process, START_TIMEOUT_S)
            ready_s = time.monotonic()
            for start in range(KEYS, KEYS + count, KEYS):
                appender.append(list(outputs(topics[0], range(start, min(start + KEYS, KEYS + count)))))
            await_committed(group, name, KEYS + count, process, JOB_TIMEOUT_S)
            end_s = time.monotonic()
            process.terminate()
            status = process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()
    assert status == 0, f"{name} exited with {status}"
    stop_s = time.monotonic() - end_s
    check_events(brokers, topics[1], KEYS + count)
    return (
        f"{peer}: {KEYS + count:,} commands and as many events, all balances right; {count / (end_s - ready_s):,.0f} "
        f"commands/s, ready after {ready_s - begin_s:.1f} s, stopped in {stop_s:.1f} s"
    )


def main(
    only: Annotated[list[str] | None, typer.Option("--peer", help="streams, quix or faust; may be repeated.")] = None,
    count: Annotated[int | None, typer.Option("--commands", min=1, help="By default enough for a few seconds.")] = None,
) -> None:
    """Check the peers on a Kafka that is started for it."""
    broker = Broker()
    try:
        broker.start()
        for peer in only or PEERS:
            with tempfile.TemporaryDirectory(prefix=f"peer-{peer}-") as folder:
                log, state = Path(folder) / "log", Path(folder) / "state"
                state.mkdir()
                try:
                    console.print(check(peer, broker.address, count or COUNTS[peer], log, state))
                finally:
                    printed = log.read_text(errors="replace")[-4000:] if log.exists() else ""
                    if printed.strip():
                        console.print(f"{peer} printed:\n{printed}", markup=False)
    finally:
        broker.stop()


if __name__ == "__main__":
    typer.run(main)

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
from rich.console import Console

from benchmarks import peers
from benchmarks.job import AMOUNT, PARTITIONS, Deposit, commands_of, events_of
from benchmarks.processes import Offsets
from benchmarks.throughput import committed
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
START_TIMEOUT_S = 90.0
JOB_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0


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


def await_committed(group: Offsets, name: str, total: int, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait until a peer has committed its commands; SystemExit if it ends or takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while (found := sum(group.read())) < total:
        if process.poll() is not None:
            raise SystemExit(f"{name} exited with {process.returncode} after {found:,} of {total:,} commands")
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{name} has committed {found:,} of {total:,} commands after {timeout_s:.0f} s")
        time.sleep(0.05)
    if found != total:
        raise SystemExit(f"{name} has committed {found:,} commands, and there are {total:,}")


def check_events(brokers: str, topic: str, total: int) -> None:
    """Read the committed events to their end and compare them with the commands; AssertionError if they differ."""
    decode = msgspec.msgpack.Decoder(Event).decode
    seen: Counter[bytes] = Counter()
    correlations = set()
    for message in committed(brokers, topic):
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
    topics = [commands_of(name), events_of(name)]
    command = PEERS[peer](brokers, name, directory)
    with (
        closing(Offsets(brokers, name)) as group,
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
    broker = Broker(jvm=())
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

"""Who may write a shard, on a real Kafka: sleepers, successors, duplicates, rebalances, torn commits."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from unittest.mock import patch

import pytest
from confluent_kafka import Consumer, Producer

from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import LogUnavailable, SlotTaken
from repertory.bridge.log.kafka.log import KafkaLog
from repertory.bridge.log.port import (
    Aborted,
    Assigned,
    Committed,
    Fenced,
    Fetched,
    Member,
)
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.system.settings import Settings
from tests.support.kafka.broker import Broker, BrokerMissingError
from tests.support.kafka.tcp_proxy import END_TXN, TXN_OFFSET_COMMIT, Catch, LateRequestProxy
from tests.support.logs.copier import CopierThread
from tests.support.logs.log_driver import DEADLINE_S, LogHarness
from tests.support.paths import ROOT

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

COPIER = ROOT / "tests" / "support" / "logs" / "copier.py"


@pytest.fixture
def world(kafka_url: str) -> Iterator[LogHarness]:
    """Give a world on the test run's Kafka."""
    world = LogHarness(connect(kafka_url), "kafka")
    world.make()
    yield world
    world.close()


class Child:
    """A copier in a process of its own."""

    def __init__(self, world: LogHarness, slot: int, session_s: float) -> None:
        command = [sys.executable, str(COPIER), world.backend.url, world.group, str(slot), str(session_s)]
        root = str(COPIER.parent.parent)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"},
        )

    def says(self, *words: str) -> str:
        """Read its lines until one begins with one of these words."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith(words):
                return line
        raise AssertionError(f"it ended without {words}: {lines}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.process.stdout.close()
        self.process.stdin.close()


def session_s() -> float:
    """Return the shortest session that the broker in use allows."""
    return 6.0 if os.environ.get("REPERTORY_TEST_KAFKA") else 1.0


def test_a_stopped_process_that_wakes_cannot_write(world: LogHarness) -> None:
    """A worker that slept past its session writes nothing, and the rightful owner goes on undisturbed."""
    world.append(b"before")
    with Child(world, slot=0, session_s=session_s()) as sleeper:
        sleeper.says("Committed 0")
        sleeper.signal(signal.SIGSTOP)
        owner = world.join(1)
        shard = world.shard()
        claimed = owner.claimed(shard)
        assert claimed.committed == 1
        owner.log.commit(world.transaction(shard, 1, b"owner"))
        owner.until(Committed, shard)
        world.append(b"after")  # for the sleeper to try
        sleeper.signal(signal.SIGCONT)
        sleeper.says("Lost 0", "Fenced 0")
        # Whatever the group decides now, the record is copied once by whoever has the shard.
        assert [record.value for record in world.read(world.events)][:2] == [b"before", b"owner"]
        assert Counter(record.value for record in world.read(world.events))[b"after"] <= 1


def test_a_member_that_was_busy_for_a_session_keeps_its_shard(kafka_url: str) -> None:
    """A batch may take longer than a session: the group confirms the membership before anything is given up."""
    world = LogHarness(connect(kafka_url, Settings(session_timeout_s=session_s())), "kafka")
    world.make()
    try:
        driver, shard = world.working()
        driver.log.begin(shard, 0)
        driver.log.poll(0.0)
        time.sleep(1.5 * session_s())
        world.append(b"after")
        assert driver.until(Fetched, shard).records[0].value == b"after"
        driver.log.commit(world.transaction(shard, 1, b"late"))
        driver.until(Committed, shard)
    finally:
        world.close()


def test_after_a_false_fencing_the_owner_is_assigned_again(world: LogHarness) -> None:
    """Somebody who is no member claims the shard: the member is fenced, proves its membership, and goes on."""
    driver, shard = world.working()
    thief = Producer(
        {
            "bootstrap.servers": world.backend.url.removeprefix("kafka://"),
            "transactional.id": f"{world.group}.account.0",
        }
    )
    thief.init_transactions(DEADLINE_S)
    driver.log.commit(world.transaction(shard, 1, b"x"))
    driver.until(Fenced, shard)
    driver.until(Assigned, shard)
    driver.claimed(shard)
    driver.log.commit(world.transaction(shard, 1, b"y"))
    driver.until(Committed, shard)
    assert [record.value for record in world.read(world.events)] == [b"y"]


def test_a_killed_slot_is_taken_over(world: LogHarness) -> None:
    """After SIGKILL the same slot's next process is not refused, though the group still lists the dead one."""
    world.append(b"before")
    with Child(world, slot=0, session_s=30.0) as victim:
        victim.says("Committed 0")
        victim.signal(signal.SIGKILL)
        victim.process.wait()
        heir = world.join(0)
        assert heir.claimed(world.shard()).committed == 1


def test_an_abandoned_log_leaves_its_slot(world: LogHarness) -> None:
    """A log that was abandoned is as dead as a killed process: its slot's next log takes over."""
    first, shard = world.working()
    first.log.abandon()
    world.drivers.remove(first)
    heir = world.join(0)
    heir.claimed(shard)


@pytest.mark.parametrize("_", range(3))
def test_a_member_may_be_abandoned_in_a_rebalance(world: LogHarness, _: int) -> None:
    """librdkafka's destructor waited for ever for the rebalance callback that nobody serves: every second time here."""
    first, second = world.join(0), world.join(1)
    world.settled(first, second)  # the first still has an answer to give: the rebalance has a second half
    first.log.abandon()
    world.drivers.remove(first)
    world.settled(second, world.join(0))


def test_a_live_slot_of_another_process_is_taken(world: LogHarness) -> None:
    """A newcomer for a slot of a living process is refused with its process id, and the older one goes on."""
    world.append(b"before")
    with Child(world, slot=0, session_s=6.0) as older:
        older.says("Committed 0")
        newcomer = world.backend.log(Member(world.group, "here", 0), [world.commands])
        with pytest.raises(SlotTaken, match=f"process {older.process.pid}"):
            newcomer.poll(5.0)
        newcomer.close()
        world.append(b"after")
        older.says("Committed 0")


def test_a_live_slot_is_taken_also_in_its_second_life(world: LogHarness) -> None:
    """The group shows a returning static member with its predecessor's ``client.id``: that tells nobody who lives."""
    for leave in ("close", "abandon"):
        first, _ = world.working()
        getattr(first.log, leave)()
        world.drivers.remove(first)
    second, shard = world.working()
    duplicate = world.backend.log(Member(world.group, "here", 0), [world.commands])
    with pytest.raises(SlotTaken, match=f"process {os.getpid()}"):
        duplicate.poll(5.0)
    duplicate.close()
    second.log.commit(world.transaction(shard, 1, b"x"))
    second.until(Committed, shard)


def test_the_older_of_two_racing_duplicates_ends(world: LogHarness) -> None:
    """Where the newcomer could not see the older one (another machine), the older one gets SlotTaken."""
    older, _ = world.working()
    older.log._group._slot_lock.close()  # as if it were on another machine
    newer = world.backend.log(Member(world.group, "here", 0), [world.commands])

    def refused() -> str | None:
        newer.poll(0.01)
        try:
            older.log.poll(0.01)
        except SlotTaken as taken:
            return str(taken)
        return None

    world.drivers.remove(older)
    deadline_s = time.monotonic() + DEADLINE_S
    while (sentence := refused()) is None:
        assert time.monotonic() < deadline_s
    assert "joined later" in sentence
    older.log.close()
    newer.close()


def test_a_worker_that_a_late_request_shut_out_may_come_back(world: LogHarness) -> None:
    """Nobody took its slot: a request to join came late, its own or its killed predecessor's. It tries again."""
    driver, shard = world.working()
    group = driver.log._group
    assert group is not None
    join_again(world.backend.url.removeprefix("kafka://"), world.group, Member(world.group, "here", 0))
    world.drivers.remove(driver)
    deadline_s = time.monotonic() + DEADLINE_S
    with pytest.raises(LogUnavailable, match="a request to join that came late"):  # noqa: PT012
        while time.monotonic() < deadline_s:
            driver.log.poll(0.01)
    driver.log.close()
    world.join(0).claimed(shard)


def join_again(broker: str, group: str, member: Member, session_ms: int = 6_000) -> None:
    """Send the request with which a static member joins (JoinGroup, version 5), as its client would, and leave."""

    def text(value: str) -> bytes:
        return struct.pack(">h", len(value)) + value.encode()

    header = struct.pack(">hhi", 11, 5, 1) + text("repertory-here-0")
    instance = text(member.instance_id)
    body = text(group) + struct.pack(">ii", session_ms, 60_000) + text("") + instance + text("consumer")
    subscription = struct.pack(">hii", 0, 0, 0)  # No topics. Of none at all, librdkafka's group leader aborts.
    protocols = struct.pack(">i", 1) + text("cooperative-sticky") + struct.pack(">i", len(subscription)) + subscription
    request = header + body + protocols
    host, _, port = broker.partition(":")
    with socket.create_connection((host, int(port))) as connection, suppress(TimeoutError):
        connection.settimeout(1.0)  # The answer waits for the end of a rebalance.
        connection.sendall(struct.pack(">i", len(request)) + request)
        connection.recv(4)


def test_who_joins_during_a_rebalance_proves_nothing(kafka_url: str) -> None:
    """While the group waits for others it asks nobody for heartbeats, and a late request holds the slot for long.

    So it is after a machine slept: all its workers join again at once. A worker that then ended for good, because
    another had its slot, would be missing.
    """
    world = LogHarness(connect(kafka_url, Settings(session_timeout_s=session_s())), "kafka")
    world.make()
    try:
        driver = world.join(0)
        world.settled(driver)
        group, broker = driver.log._group, world.backend.url.removeprefix("kafka://")
        assert group is not None
        until_s = time.monotonic() + DEADLINE_S
        for _ in range(2):  # The second time the group waits for this silent member to join again.
            join_again(broker, world.group, Member(world.group, "silent", 0), session_ms=30_000)
            join_again(broker, world.group, Member(world.group, "silent", 1), session_ms=30_000)
        while group._admin.slot(Member(world.group, "here", 0)).is_steady:
            driver.log.poll(0.01)
            assert time.monotonic() < until_s
        join_again(broker, world.group, Member(world.group, "here", 0))
        with pytest.raises(LogUnavailable, match="a request to join that came late"):  # noqa: PT012
            while time.monotonic() < until_s:
                driver.log.poll(0.01)
    finally:
        world.close()


def fenced_while_it_gives_up_everything(url: str) -> None:
    """In a process of its own: a proof of membership is under way when the group takes a worker's shards and slot."""
    world = LogHarness(connect(url), "kafka")
    world.make()
    driver = world.join(0)
    world.settled(driver)
    group = driver.log._group
    revoked = group._listener.revoked

    def fenced(shards: Sequence[TopicPartition], reason: str, *, lost: bool) -> None:
        revoked(shards, reason, lost=lost)
        join_again(url.removeprefix("kafka://"), world.group, Member(world.group, "here", 0))
        group.prove()

    def unassign_all(consumer: Consumer, _: object) -> None:
        consumer.incremental_unassign(consumer.assignment())

    with (
        patch.object(group._listener, "revoked", fenced),
        patch("repertory.bridge.log.kafka.group._unassign", unassign_all),
    ):
        world.join(1)
        try:
            world.until(lambda: False, lambda: "the fencing")
        except LogUnavailable as error:
            sys.stdout.write(f"{error}\n")
            sys.stdout.flush()
    os._exit(0)


def test_a_fenced_worker_that_gives_up_everything_survives(world: LogHarness) -> None:
    """librdkafka's thread recursed until its stack was full, when this proof was refused: the process was gone."""
    script = f"from {__name__} import *; fenced_while_it_gives_up_everything({world.backend.url!r})"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "was shut out by a request to join that came late" in ended.stdout


@pytest.mark.parametrize("records", [3_000])
def test_rebalances_under_load_copy_everything_once(world: LogHarness, records: int) -> None:
    """Two workers, then three, then two again: every input is copied to the output exactly once."""
    values = [b"%d" % i for i in range(records)]
    workers = [
        CopierThread(world.backend.log(Member(world.group, "here", slot), [world.commands])) for slot in range(3)
    ]
    for phase, (start, stop) in enumerate([(None, None), (2, None), (None, 0)]):
        if phase == 0:
            workers[0].start()
            workers[1].start()
        if start is not None:
            workers[start].start()
        if stop is not None:
            workers[stop].stop()
        part = values[phase::3]
        for index in range(0, len(part), 20):
            world.append(*part[index : index + 20], partition=index // 20 % 2)

    def copied() -> Counter[bytes | None]:
        return Counter(record.value for partition in (0, 1) for record in world.read(world.events, partition))

    deadline_s = time.monotonic() + DEADLINE_S
    while sum(copied().values()) < records and time.monotonic() < deadline_s:
        assert not [worker.failure for worker in workers if worker.failure]
    for worker in workers[1:]:
        worker.stop()
    assert copied() == Counter(values)


#: The longest wait of a client for an answer in these tests. librdkafka's own is that of the transaction's timeout.
ANSWER_MS = 2_000


@pytest.fixture
def proxied() -> Iterator[tuple[LogHarness, LateRequestProxy]]:
    """Give a world on a broker that is reached only through a proxy."""
    proxy = LateRequestProxy(END_TXN)
    try:
        broker = Broker(advertised_port=proxy.port)
    except BrokerMissingError as missing:
        pytest.skip(str(missing))
    try:
        broker.start()
        proxy.forward_to(broker.port)
        user = {"socket.timeout.ms": f"{ANSWER_MS}"}
        world = LogHarness(connect(f"kafka://127.0.0.1:{proxy.port}", Settings(), user), "kafka")
        world.make()
        yield world, proxy
        world.close()
    finally:
        proxy.close()
        broker.stop()


@pytest.mark.parametrize("catch", [Catch.CUT, Catch.HOLD])
def test_a_late_end_of_transaction_tears_nothing(proxied: tuple[LogHarness, LateRequestProxy], catch: Catch) -> None:
    """A commit whose connection broke is an unknown outcome; its late copy does not end the next transaction.

    librdkafka repeats EndTxn without a word, so ``commit_transaction`` returns as if nothing had been. It does so where
    the network closes the connection, and where it closes the connection itself after it has waited for an answer.
    """
    world, proxy = proxied
    driver, shard = world.working()
    driver.log.commit(world.transaction(shard, 1, b"first"))
    driver.until(Committed, shard)
    proxy.arm(catch)
    driver.log.commit(world.transaction(shard, 2, b"second"))
    aborted = driver.until(Aborted, shard)
    assert proxy.caught.is_set()
    assert "unknown outcome" in aborted.reason
    assert not aborted.routine
    claimed = driver.claimed_again(shard)
    assert claimed.committed == 2, "the repeated EndTxn had committed it"
    proxy.deliver()
    driver.log.commit(world.transaction(shard, 3, b"third"))
    driver.until(Committed, shard)
    assert [record.value for record in world.read(world.events)] == [b"first", b"second", b"third"]


@pytest.mark.parametrize("catch", [Catch.CUT, Catch.HOLD])
def test_an_offset_that_may_come_late_is_an_unknown_outcome(
    proxied: tuple[LogHarness, LateRequestProxy], catch: Catch
) -> None:
    """librdkafka repeats TxnOffsetCommit too: a late copy would set the offset of the next transaction back."""
    world, proxy = proxied
    driver, shard = world.working()
    proxy.api_key = TXN_OFFSET_COMMIT
    proxy.arm(catch)
    driver.log.commit(world.transaction(shard, 1, b"x"))
    assert "unknown outcome" in driver.until(Aborted, shard).reason
    assert proxy.caught.is_set()
    assert driver.claimed_again(shard).committed == 1
    assert [record.value for record in world.read(world.events)] == [b"x"]


def test_a_commit_that_is_slow_is_not_trusted(proxied: tuple[LogHarness, LateRequestProxy]) -> None:
    """Beyond its slice a commit may have been sent again, also if no connection broke: the next claim decides it."""
    world, proxy = proxied
    driver, shard = world.working()
    log = driver.log
    assert isinstance(log, KafkaLog)
    claim = log._shards[shard].claim
    assert claim is not None
    claim._commit_slice_s = ANSWER_MS / 10_000
    proxy.arm(Catch.ANSWER)
    driver.log.commit(world.transaction(shard, 1, b"slow"))
    assert proxy.caught.wait(DEADLINE_S)
    time.sleep(claim._commit_slice_s)  # How slow the broker is; if it is slower the connection breaks as well.
    proxy.deliver()
    aborted = driver.until(Aborted, shard)
    assert "unknown outcome" in aborted.reason
    assert driver.claimed_again(shard).committed == 1
    assert [record.value for record in world.read(world.events)] == [b"slow"]

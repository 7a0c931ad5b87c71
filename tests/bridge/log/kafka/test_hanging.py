"""Transactions that a killed broker forgets to end: one that is its own controller, and has no replicas.

Whether it forgets one is a race within it. So what it leaves behind then is written for it, into its own log, before it
is killed: what it had decided, and that it was done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from hypothesis import given
from hypothesis import strategies as st

from repertory.bridge.log.connect import connect
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.hanging import (
    _PREPARE_ABORT,
    _PREPARE_COMMIT,
    STATE_TOPIC,
    NotMendedError,
    _abs_hash,
    _Fields,
    _read,
)
from repertory.bridge.log.port import Aborted, Claimed, Committed
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.system.settings import Settings
from tests.support.kafka.broker import Broker, BrokerMissingError
from tests.support.logs.log_driver import Driver, LogHarness

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

PARTITIONS = 3
#: What is left open stays so for longer than a test takes: only what the coordinator reads in its log ends it.
OPEN_MS = 600_000
#: ``TransactionState`` of Kafka: before a transaction is decided, and after its markers.
ONGOING = 1
COMPLETE = {_PREPARE_COMMIT: 4, _PREPARE_ABORT: 5}
#: Where it stands in a record: after version, producer id, epoch and timeout.
STATE_AT = 2 + 8 + 2 + 4
#: The client that brokers let write to their internal topics (``AdminUtils.ADMIN_CLIENT_ID``).
INTERNAL_CLIENT = "__admin_client"
SETTINGS = Settings(unavailable_timeout_s=120.0, transaction_timeout_s=2.0, connect_timeout_s=2.0)


@pytest.fixture
def forgetful() -> Iterator[Broker]:
    """Give a broker that is its own controller."""
    try:
        broker = Broker(["broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=500"])
    except BrokerMissingError as missing:
        pytest.skip(str(missing))
    try:
        yield broker.start()
    finally:
        broker.stop()


@pytest.fixture
def world(forgetful: Broker) -> Iterator[LogHarness]:
    """Give topics, and a group that has a coordinator."""
    world = LogHarness(connect(forgetful.url, SETTINGS), "kafka")
    world.make(PARTITIONS)
    # A broker that has just started on a busy machine has no coordinator for a while.
    patient = msgspec.structs.replace(SETTINGS, connect_timeout_s=60.0)
    admin = Admin(KafkaConfig(forgetful.address, patient, {}))
    assert admin.committed(world.group, world.shard()) is None
    admin.close()
    yield world
    world.close()


def leave_open(broker: Broker, world: LogHarness, partition: int, offset: int, *values: bytes) -> None:
    """Do what a shard's owner does in a transaction, and go before it is decided; nobody ends it for a while."""
    config = KafkaConfig(broker.address, SETTINGS, {})
    transactional_id = f"{world.group}.account.{partition}"
    owner = Producer(config.shard(config.lines(), transactional_id) | {"transaction.timeout.ms": OPEN_MS})
    owner.init_transactions(20.0)
    owner.begin_transaction()
    for value in values:
        owner.produce(world.events, value, b"k", partition)
    owner.flush(10.0)
    nobody = Consumer(config.asker(config.lines(), world.group))
    given = [KafkaPartition(world.commands, partition, offset)]
    owner.send_offsets_to_transaction(given, nobody.consumer_group_metadata(), 10.0)
    nobody.close()


def decide(
    broker: Broker, world: LogHarness, partition: int, prepared: int, *places: TopicPartition, complete: bool = True
) -> None:
    """Write into the coordinator's log that an open transaction is decided, and that all markers are written.

    A broker reads its log when it starts; until then it goes by its memory. ``places`` stand in for the partitions that
    the transaction wrote to.
    """
    config = KafkaConfig(broker.address, SETTINGS, {})
    transactional_id = f"{world.group}.account.{partition}"
    *_, last = (
        message
        for message in _read(config, STATE_TOPIC, transactional_id)
        if _Fields(message.key() or b"").transactional_id() == transactional_id
    )
    value, now_ms = last.value(), time.time_ns() // 1_000_000
    assert isinstance(value, bytes)
    states = [state_record(value, prepared, now_ms, places)]
    if complete:
        states.append(state_record(value, COMPLETE[prepared], now_ms, ()))
    errors: list[object] = []
    coordinator = Producer({"bootstrap.servers": broker.address, "client.id": INTERNAL_CLIENT, "acks": "all"})
    for state in states:
        coordinator.produce(
            STATE_TOPIC, state, last.key(), last.partition() or 0, on_delivery=lambda error, _: errors.append(error)
        )
    assert coordinator.flush(10.0) == 0
    assert errors == [None] * len(states)


def state_record(ongoing: bytes, state: int, now_ms: int, places: Sequence[TopicPartition]) -> bytes:
    """Return what the coordinator writes for a transaction in another state (``TransactionLogValue.json``, version 1).

    A transaction that is prepared has its partitions still, or ``places``; one that is complete has none.
    """
    assert ongoing[:2] == b"\x00\x01", "version 1"
    assert ongoing[STATE_AT] == ONGOING
    fields = _Fields(ongoing[:STATE_AT] + bytes([_PREPARE_ABORT]) + ongoing[STATE_AT + 1 :])
    known = fields.outcome()
    assert known is not None
    tags = ongoing[fields._at :]
    written = sorted(places or known.partitions) if state in COMPLETE else []
    topics = bytes([len(written) + 1])  # Compact: a length is one more than it is, and none of these needs two bytes.
    for topic, partition in written:
        topics += bytes([len(topic) + 1]) + topic.encode() + b"\x02" + partition.to_bytes(4) + b"\x00"
    times = now_ms.to_bytes(8) + known.began_ms.to_bytes(8)
    return ongoing[:STATE_AT] + bytes([state]) + topics + times + tags


def hangs(broker: Broker, world: LogHarness, partition: int) -> bool:
    """Tell whether a shard's offset is pending."""
    admin = Admin(KafkaConfig(broker.address, SETTINGS, {}))
    try:
        admin.committed(world.group, world.shard(partition))
    except KafkaException:
        return admin.is_pending(world.group, world.shard(partition))
    else:
        return False
    finally:
        admin.close()


def hung(broker: Broker, world: LogHarness, prepared: int, *places: TopicPartition, values: Sequence[bytes]) -> None:
    """Leave a transaction of shard 0 with offset 7 as a broker leaves it that has dropped its markers."""
    leave_open(broker, world, 0, 7, *values)
    decide(broker, world, 0, prepared, *places)
    broker.kill()
    broker.launch()
    assert hangs(broker, world, 0)


def claimed_at_last(world: LogHarness, driver: Driver, shard: TopicPartition) -> Claimed:
    """Claim as a worker does, again and again."""
    while True:
        driver.pending.clear()
        world.until(lambda: shard in driver.owned or None, lambda: f"{shard} among {driver.owned}")
        driver.log.claim(shard, [world.events])
        world.until(lambda: bool(driver.said(shard)), lambda: f"an answer for {shard}")
        said = driver.said(shard)[0]
        if isinstance(said, Claimed):
            return said


def committed_and_seen(world: LogHarness, driver: Driver, shard: TopicPartition, *expected: bytes) -> None:
    """The shard goes on, and its records are these and one more."""
    driver.log.commit(world.transaction(shard, 8, b"after"))
    assert isinstance(driver.outcome(shard), Committed)
    assert [r.value for r in world.read(world.events, shard.partition)] == [*expected, b"after"]


@pytest.mark.parametrize(
    ("name", "hashed"),
    [("", 0), ("Aa", 2112), ("hello", 99162322), ("polygenelubricants", 0), ("repertory", 639604980)],
)
def test_names_are_placed_as_kafka_places_them(name: str, hashed: int) -> None:
    """``Math.abs`` of Java's ``hashCode``, and 0 for the one number that has no absolute value."""
    assert _abs_hash(name) == hashed


@given(st.binary(max_size=80))
def test_records_of_kafka_that_are_no_such_records_are_refused(data: bytes) -> None:
    """Nothing but a reading, or the sentence that it cannot be read."""
    for read in (_Fields.transactional_id, _Fields.group_and_shard, _Fields.outcome, _Fields.offset):
        with suppress(NotMendedError):
            read(_Fields(data))


def test_what_was_aborted_is_aborted_everywhere_by_the_next_claim(forgetful: Broker, world: LogHarness) -> None:
    """Every shard goes on where its last commit left it, and nothing that was aborted is ever seen."""
    hung(forgetful, world, _PREPARE_ABORT, values=[b"never"])
    driver = world.join(0)
    for partition in range(PARTITIONS):
        shard = world.shard(partition)
        assert claimed_at_last(world, driver, shard).committed is None
        committed_and_seen(world, driver, shard)


def test_what_a_killed_broker_does_with_markers_that_it_owes_changes_nothing(
    forgetful: Broker, world: LogHarness
) -> None:
    """Killed between decision and markers, a broker drops the markers or sends them, as it happens: a shard goes on.

    How many of the shards' transactions hung is written to stdout (``pytest -rP``), and is nothing to rely on.
    """
    for partition in range(PARTITIONS):
        leave_open(forgetful, world, partition, 7, b"never")
        decide(forgetful, world, partition, _PREPARE_ABORT, complete=False)
    forgetful.kill()
    forgetful.launch()
    hanging = sum(hangs(forgetful, world, partition) for partition in range(PARTITIONS))
    sys.stdout.write(f"{hanging} of {PARTITIONS} transactions hung\n")
    driver = world.join(0)
    for partition in range(PARTITIONS):
        shard = world.shard(partition)
        assert claimed_at_last(world, driver, shard).committed is None
        committed_and_seen(world, driver, shard)


def test_what_was_committed_unseen_is_aborted_as_a_whole(forgetful: Broker, world: LogHarness) -> None:
    """Nobody has seen anything of it: its command is handled again."""
    hung(forgetful, world, _PREPARE_COMMIT, values=[b"unseen"])
    driver, shard = world.join(0), world.shard()
    assert claimed_at_last(world, driver, shard).committed is None
    committed_and_seen(world, driver, shard)


def test_what_was_committed_and_seen_gets_its_offset(forgetful: Broker, world: LogHarness) -> None:
    """Once all its records can be read its offset is committed as well; while some cannot, nothing is touched."""
    places = [TopicPartition(world.events, partition) for partition in (0, 1)]
    hung(forgetful, world, _PREPARE_COMMIT, *places, values=[])
    config = KafkaConfig(forgetful.address, SETTINGS, {})
    other = Producer(config.shard(config.lines(), "other") | {"transaction.timeout.ms": OPEN_MS})
    other.init_transactions(20.0)
    other.begin_transaction()
    other.produce(world.events, b"open", b"k", 1)
    other.flush(10.0)
    driver, shard = world.join(0), world.shard()
    world.until(lambda: shard in driver.owned or None, lambda: f"{shard} among {driver.owned}")
    driver.log.claim(shard, [world.events])
    refused = driver.until(Aborted, shard)
    assert f"hangs and could not be ended: it was committed, and {places[1]} cannot be read" in refused.reason
    other.abort_transaction(10.0)
    assert claimed_at_last(world, driver, shard).committed == 7
    committed_and_seen(world, driver, shard)

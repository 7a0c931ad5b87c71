"""Transactions that a killed broker forgets to end: one that is its own controller, and has no replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from hypothesis import given
from hypothesis import strategies as st

from repertory.bridge.log.connect import connect
from repertory.bridge.log.kafka import hanging
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.hanging import NotMendedError, TransactionOutcome, _abs_hash, _Fields
from repertory.bridge.log.port import Aborted, Claimed, Committed
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.system.settings import Settings
from tests.support.kafka.broker import Broker, BrokerMissingError
from tests.support.logs.log_driver import Driver, LogHarness

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

PARTITIONS = 3
TRIES_MAX = 5
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
    admin = Admin(KafkaConfig(forgetful.address, SETTINGS, {}))
    assert admin.committed(world.group, world.shard()) is None
    admin.close()
    yield world
    world.close()


def leave_open(broker: Broker, world: LogHarness, partition: int, offset: int, *values: bytes) -> None:
    """Do what a shard's owner does in a transaction, and go before it is decided."""
    config = KafkaConfig(broker.address, SETTINGS, {})
    owner = Producer(config.shard(config.lines(), f"{world.group}.account.{partition}"))
    owner.init_transactions(20.0)
    owner.begin_transaction()
    for value in values:
        owner.produce(world.events, value, b"k", partition)
    owner.flush(10.0)
    nobody = Consumer(config.asker(config.lines(), world.group))
    given = [KafkaPartition(world.commands, partition, offset)]
    owner.send_offsets_to_transaction(given, nobody.consumer_group_metadata(), 10.0)
    nobody.close()


def hangs(broker: Broker, world: LogHarness, partition: int) -> bool:
    """Tell whether a shard's offset is pending after all transactions have ended."""
    admin = Admin(KafkaConfig(broker.address, SETTINGS, {}))
    try:
        admin.committed(world.group, world.shard(partition))
    except KafkaException:
        return admin.is_pending(world.group, world.shard(partition))
    else:
        return False
    finally:
        admin.close()


def hung(broker: Broker, world: LogHarness, partition: int, *values: bytes) -> None:
    """Leave a transaction with offset 7 open and have the broker forget it: a matter of milliseconds within it."""
    for _ in range(TRIES_MAX):
        leave_open(broker, world, partition, 7, *values)
        broker.kill()
        broker.launch()
        if hangs(broker, world, partition):
            return
    pytest.fail("no transaction has hung")


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


def decided(world: LogHarness, *places: TopicPartition) -> Callable[[KafkaConfig, str], TransactionOutcome]:
    """Have the coordinator's word be that the transaction was committed."""
    everywhere = frozenset({*places, TopicPartition("__consumer_offsets", 0)})
    return lambda _config, _id: TransactionOutcome(True, everywhere, 2**62, 0)  # noqa: FBT003 - a tuple's field


@pytest.mark.parametrize(
    ("name", "hashed"),
    [("", 0), ("Aa", 2112), ("hello", 99162322), ("polygenelubricants", 0), ("repertory", 1764306447)],
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
    hung(forgetful, world, 0, b"never")
    driver = world.join(0)
    for partition in range(PARTITIONS):
        shard = world.shard(partition)
        assert claimed_at_last(world, driver, shard).committed is None
        committed_and_seen(world, driver, shard)


def test_what_was_committed_unseen_is_aborted_as_a_whole(
    forgetful: Broker, world: LogHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has seen anything of it: its command is handled again."""
    hung(forgetful, world, 0, b"unseen")
    monkeypatch.setattr(hanging, "_decision", decided(world, TopicPartition(world.events, 0)))
    driver, shard = world.join(0), world.shard()
    assert claimed_at_last(world, driver, shard).committed is None
    committed_and_seen(world, driver, shard)


def test_what_was_committed_and_seen_gets_its_offset(
    forgetful: Broker, world: LogHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all its records can be read its offset is committed as well; while some cannot, nothing is touched."""
    hung(forgetful, world, 0)
    places = [TopicPartition(world.events, partition) for partition in (0, 1)]
    monkeypatch.setattr(hanging, "_decision", decided(world, *places))
    config = KafkaConfig(forgetful.address, SETTINGS, {})
    other = Producer(config.shard(config.lines(), "other") | {"transaction.timeout.ms": 60_000})
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

"""What only a real Kafka does to a log: open and aborted transactions, gaps, missing rights, brokers that are gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import InvalidSetting, LogUnavailable, TopicMismatch
from repertory.bridge.log.kafka import KafkaBackend, parse_properties
from repertory.bridge.log.kafka.config import LogLines
from repertory.bridge.log.kafka.log import KafkaLog
from repertory.bridge.log.port import (
    Aborted,
    Fetched,
    Replayed,
    TopicSpec,
)
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.system.settings import Settings
from tests.support.kafka.broker import Broker, BrokerMissingError
from tests.support.logs.log_driver import DEADLINE_S, PATIENT, Driver, LogHarness


@pytest.fixture
def world(kafka_url: str) -> Iterator[LogHarness]:
    """Give a world on the test run's Kafka."""
    world = LogHarness(connect(kafka_url, PATIENT), "kafka")
    world.make()
    yield world
    world.close()


def foreign(world: LogHarness) -> Producer:
    """Return a transactional producer of another application."""
    producer = Producer(
        {"bootstrap.servers": world.backend.url.removeprefix("kafka://"), "transactional.id": f"{world.group}-x"}
    )
    producer.init_transactions(DEADLINE_S)
    return producer


def replayed(driver: Driver, shard: TopicPartition) -> list[Record]:
    """Collect a replay that was asked for."""
    records: list[Record] = []
    while True:
        event = driver.until(Replayed, shard)
        records += event.records
        if event.complete:
            return records


# --- transactions of others -----------------------------------------------------------------------------------


@pytest.mark.kafka
def test_a_replay_ends_behind_aborted_records(world: LogHarness) -> None:
    """A range whose last offsets are aborted records and markers is complete without them, for a reader too."""
    world.append(b"good", topic=world.events)
    other = foreign(world)
    other.begin_transaction()
    for _ in range(10):
        other.produce(world.events, b"bad", partition=0)
    other.flush()
    other.abort_transaction(DEADLINE_S)
    driver = world.join()
    end = driver.claimed(world.shard(), world.events).ends[world.events]
    assert end >= 11
    driver.log.replay(world.shard(), world.events, 0, end)
    assert [record.value for record in replayed(driver, world.shard())] == [b"good"]
    assert [record.value for record in world.read(world.events)] == [b"good"]


@pytest.mark.kafka
def test_a_replay_waits_for_an_open_transaction(world: LogHarness) -> None:
    """What a foreign open transaction hides below the target is waited for, and then read."""
    world.append(b"before", topic=world.events)
    other = foreign(world)
    other.begin_transaction()
    other.produce(world.events, b"hidden", partition=0)
    other.flush()
    driver, shard = world.join(), world.shard()
    end = driver.claimed(shard, world.events).ends[world.events]
    assert end == 2
    driver.log.replay(shard, world.events, 0, end)
    first = driver.until(Replayed, shard)
    assert ([record.value for record in first.records], first.complete) == ([b"before"], False)
    for _ in range(20):
        driver.poll()
    assert driver.said(shard) == []
    other.commit_transaction(DEADLINE_S)
    assert [record.value for record in replayed(driver, shard)] == [b"hidden"]


@pytest.mark.kafka
def test_a_reader_does_not_wait_for_an_open_transaction(world: LogHarness) -> None:
    """A read from outside stops where an open transaction begins; the bounds say the same."""
    world.append(b"before", topic=world.events)
    other = foreign(world)
    other.begin_transaction()
    other.produce(world.events, b"hidden", partition=0)
    other.flush()
    assert world.reader.bounds(world.events, 0) == (0, 1)
    assert [record.value for record in world.read(world.events)] == [b"before"]
    other.abort_transaction(DEADLINE_S)


@pytest.mark.kafka
def test_an_offset_that_is_gone_aborts(world: LogHarness) -> None:
    """Records that were deleted under a shard are a failure that names the offset; a claim tells the new low."""
    world.append(b"a", b"b", b"c")
    admin = AdminClient({"bootstrap.servers": world.backend.url.removeprefix("kafka://")})
    for future in admin.delete_records([KafkaPartition(world.commands, 0, 2)]).values():
        future.result(DEADLINE_S)
    driver, shard = world.working()
    driver.log.begin(shard, 0)
    aborted = driver.until(Aborted, shard)
    assert f"{shard}: offset 0" in aborted.reason
    claimed = driver.claimed_again(shard)
    assert (claimed.start_offset, claimed.end_offset) == (2, 3)
    driver.log.begin(shard, claimed.start_offset)
    assert [record.value for record in driver.until(Fetched, shard).records] == [b"c"]


# --- brokers and rights ---------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_nothing_of_a_claim_comes_after_its_abort(world: LogHarness) -> None:
    """An error behind records of the same fetch ends the claim: no record of it is delivered after ``Aborted``."""
    driver, shard = world.working()
    driver.log.begin(shard, 0)
    other = world.shard(1)
    gone = KafkaError(KafkaError.OFFSET_OUT_OF_RANGE)
    log = driver.log
    assert isinstance(log, KafkaLog)
    log._take(
        [
            Message(topic=shard.topic, partition=shard.partition, offset=0, value=b"x", timestamp=(1, 0)),
            Message(topic=other.topic, partition=other.partition, offset=0, value=b"x", timestamp=(1, 0)),
            Message(topic=shard.topic, partition=shard.partition, error=gone),
        ]
    )
    world.until(lambda: bool(driver.said(shard)), lambda: "an event")
    assert [type(event) for event in driver.said(shard)] == [Aborted]


def test_an_unreachable_broker_is_named() -> None:
    """If no broker answers, the error names the address and the last attempt's error."""
    backend = KafkaBackend("kafka://127.0.0.1:1", Settings(connect_timeout_s=0.5))
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1:1 .*refused"):
        backend.topics()


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """Give a broker that a test may ruin: it asks for rights and grants all until told otherwise."""
    try:
        broker = Broker(
            [
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "allow.everyone.if.no.acl.found=true",
            ]
        )
    except BrokerMissingError as missing:
        pytest.skip(str(missing))
    try:
        yield broker.start()
    finally:
        broker.stop()


@pytest.mark.kafka
@pytest.mark.processes
def test_missing_rights_and_a_broker_that_dies(own_broker: Broker) -> None:
    """Topics that may not be created are all named with their settings; a broker that stays down ends the worker."""
    world = LogHarness(connect(own_broker.url, Settings(unavailable_timeout_s=2.0, stop_timeout_s=1.0)), "kafka")
    world.make()
    driver, _ = world.working()
    _forbid_topics(own_broker)
    specs = [TopicSpec("new.one", 3, {"cleanup.policy": "compact"}), TopicSpec("new.two", 1, {})]
    with pytest.raises(TopicMismatch) as refusal:
        world.backend.ensure(specs)
    assert "new.one with 3 partitions and cleanup.policy=compact; new.two with 1 partitions" in str(refusal.value)

    assert own_broker.process is not None
    own_broker.process.kill()
    deadline_s = time.monotonic() + DEADLINE_S
    sentence = ""
    while not sentence:
        assert time.monotonic() < deadline_s
        try:
            driver.log.poll(0.1)
        except LogUnavailable as gone:
            sentence = str(gone)
    assert "no Kafka broker has answered" in sentence
    world.close()  # and closing does not hang


def _forbid_topics(broker: Broker) -> None:
    everything = [(ResourceType.BROKER, "kafka-cluster"), (ResourceType.TOPIC, "*")]
    rules = [(AclOperation.ALL, AclPermissionType.ALLOW), (AclOperation.CREATE, AclPermissionType.DENY)]
    bindings = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission)
        for operation, permission in rules
        for kind, name in everything
    ]
    admin = AdminClient({"bootstrap.servers": broker.address})
    for future in admin.create_acls(bindings).values():
        future.result(DEADLINE_S)


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.auto.commit", "true"),
        ("enable.auto.offset.store", "true"),
        ("isolation.level", "read_uncommitted"),
        ("enable.idempotence", "false"),
        ("acks", "1"),
        ("auto.offset.reset", "latest"),
        ("group.id", "mine"),
        ("group.instance.id", "mine"),
        ("group.protocol", "consumer"),
        ("transactional.id", "mine"),
        ("partition.assignment.strategy", "range"),
        ("partitioner", "random"),
        ("message.timeout.ms", "1000"),
        ("bootstrap.servers", "elsewhere:9092"),
        ("log_level", "3"),
    ],
)
def test_a_setting_that_breaks_a_promise_is_refused(name: str, value: str) -> None:
    """Such a setting is refused by name, with the reason."""
    with pytest.raises(InvalidSetting, match=rf"{name}='{value}' is refused: .+"):
        KafkaBackend("kafka://127.0.0.1:1", kafka_config={name: value})


@pytest.mark.parametrize(("name", "value"), [("acks", "-1"), ("isolation.level", "read_committed"), ("linger.ms", "2")])
def test_what_breaks_no_promise_passes(name: str, value: str) -> None:
    """A setting may repeat the value that it has anyway, and other settings are passed through."""
    KafkaBackend("kafka://127.0.0.1:1", kafka_config={name: value}).close()


@pytest.mark.parametrize("config", [{"no.such.setting": "1"}, {"fetch.wait.max.ms": "soon"}])
def test_librdkafka_says_what_it_does_not_know(config: dict[str, str]) -> None:
    """An unknown key or an impossible value is an InvalidSetting in librdkafka's own words."""
    with pytest.raises(InvalidSetting, match=next(iter(config))):
        KafkaBackend("kafka://127.0.0.1:1", kafka_config=config)


def test_properties_files() -> None:
    """Java's properties files are read: comments, both separators, blanks, continued lines, `=` in values."""
    text = "# comment\n! another\n\nsasl.username = me\nsasl.password=a=b#c\nlinger.ms:5\nssl.ca.location=/a\\\n/b\n"
    assert parse_properties(text) == {
        "sasl.username": "me",
        "sasl.password": "a=b#c",
        "linger.ms": "5",
        "ssl.ca.location": "/a/b",
    }
    with pytest.raises(InvalidSetting, match="not a key=value line"):
        parse_properties("what is this")


def test_a_rebalance_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A transaction that a rebalance ends is reported by its claim, and what is sent again is no warning.

    These are the lines of a normal start under load. What librdkafka says of other things keeps its level.
    """
    lines = LogLines(())
    with caplog.at_level(logging.DEBUG, "repertory.kafka"):
        lines.log(logging.ERROR, "%s [%s] %s", "TXNERR", "p", "Specified group generation id is not valid")
        lines.log(logging.WARNING, "%s [%s] %s", "GETPID", "p", "Failed to acquire transactional PID: retrying")
        lines.log(logging.WARNING, "%s [%s] %s", "REQTMOUT", "c", "Timed out 3 in-flight")
        lines.log(logging.DEBUG, "%s [%s] %s", "GETPID", "p", "details")
        lines.log(logging.ERROR, "%s [%s] %s", "FAIL", "p", "Connection refused")
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.DEBUG, logging.INFO, logging.INFO, logging.DEBUG, logging.ERROR]
    assert lines.answer_lost


def test_a_broker_that_is_away_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """The same failure is logged once in ten seconds, with the number of times that it was not; others at once."""
    now_s = 0.0
    lines = LogLines((), lambda: now_s)

    def fail(broker: str, took_ms: int) -> None:
        lines.log(logging.ERROR, "%s [%s] %s", "FAIL", "p", f"{broker}: refused (after {took_ms}ms in state CONNECT)")

    with caplog.at_level(logging.ERROR, "repertory.kafka"):
        for now_s in (0.0, 0.1, 9.9, 10.0, 10.1):
            fail("a", int(now_s * 10))
            fail("b", 0)
        now_s = 30.0
        fail("a", 0)
    again = " (2 times more since the last such line)"
    assert [line.removeprefix("FAIL [p] ") for line in caplog.messages] == [
        "a: refused (after 0ms in state CONNECT)",
        "b: refused (after 0ms in state CONNECT)",
        f"a: refused (after 100ms in state CONNECT){again}",
        f"b: refused (after 0ms in state CONNECT){again}",
        "a: refused (after 0ms in state CONNECT) (1 times more since the last such line)",
    ]
    assert "a: refused" in lines.last


def test_secrets_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What librdkafka logs goes to `repertory.kafka`, with secrets blotted out."""
    with caplog.at_level(logging.DEBUG, "repertory.kafka"):
        LogLines(("hush",)).log(logging.DEBUG, "%s [%s] %s", "CONF", "client", "sasl.password = hush")
    assert caplog.messages == ["CONF [client] sasl.password = ***"]


@pytest.mark.parametrize(
    ("facility", "line", "lost"),
    [
        ("FAIL", "TxnCoordinator/1: Disconnected: closed by peer (after 3ms in state UP)", True),
        ("FAIL", "127.0.0.1:9092/1: Disconnected (after 3ms in state UP)", True),
        ("REQTMOUT", "TxnCoordinator/1: Timed out 1 in-flight, 0 retry-queued, 0 out-queue requests", True),
        ("FAIL", "localhost:9092/1: Connect to ipv6#[::1]:9092 failed: Connection refused (in state CONNECT)", False),
        ("GETPID", "Failed to acquire transactional PID from broker TxnCoordinator/1: retrying", False),
    ],
)
def test_a_broken_connection_is_noticed(facility: str, line: str, *, lost: bool) -> None:
    """Only these lines tell that a request may be under way twice. A connection that could not be made carried none."""
    lines = LogLines(())
    lines.log(logging.INFO, "%s [%s] %s", facility, "p", line)
    assert lines.answer_lost == lost

"""A transaction that stays open for too long is reported while a shard waits for it."""

from __future__ import annotations

import json

import pytest
from confluent_kafka import Producer

from repertory.bridge.log.connect import connect
from repertory.bridge.log.kafka import config as configs
from repertory.bridge.log.kafka import group as groups
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.hidden import REPEAT_S, Hidden, HiddenWatch
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.system.settings import Settings
from tests.support.logs.log_driver import LogHarness

SHARD = TopicPartition("account.commands", 3)
LIMIT_S = 20.0


def statistics(stable: int, end: int, fetched: int, state: str = "active") -> str:
    """Return librdkafka's statistics of one partition, with fields that are not read."""
    found = {"ls_offset": stable, "hi_offset": end, "next_offset": fetched, "fetch_state": state, "toppars": 1}
    return json.dumps({"name": "x", "topics": {"account.commands": {"partitions": {"3": found}, "age": 1}}})


def test_what_stands_still_past_the_limit_is_reported_repeatedly() -> None:
    """A hidden range is reported once it is older than the limit, and then each minute until it moves."""
    watch = HiddenWatch(LIMIT_S)
    assert [watch.observe(statistics(5, 9, 5), at) for at in (0.0, 5.0, LIMIT_S - 0.1)] == [[], [], []]
    assert watch.observe(statistics(5, 9, 5), LIMIT_S) == [Hidden(SHARD, 5, 9, LIMIT_S)]
    assert watch.observe(statistics(5, 12, 5), LIMIT_S + 5) == []
    assert watch.observe(statistics(5, 12, 5), LIMIT_S + REPEAT_S) == [Hidden(SHARD, 5, 12, LIMIT_S + REPEAT_S)]
    assert watch.observe(statistics(12, 12, 12), 200.0) == []
    assert watch.observe(statistics(12, 20, 12), 300.0) == []


@pytest.mark.parametrize(
    "seen",
    [
        statistics(9, 9, 9),  # nothing is open
        statistics(5, 9, 2),  # there is more to fetch before that
        statistics(5, 9, 5, "none"),  # assigned to another worker by now
        statistics(-1001, -1001, -1001),  # not fetched yet
        "{}",
    ],
)
def test_what_is_not_waited_for_is_not_reported(seen: str) -> None:
    """A partition that waits for no transaction is never reported."""
    watch = HiddenWatch(LIMIT_S)
    assert [watch.observe(seen, at) for at in (0.0, 100.0, 1_000.0)] == [[], [], []]


def test_transactions_that_follow_each_other_are_no_standstill() -> None:
    """Under load a transaction is always open, each time another one: nothing is reported."""
    watch = HiddenWatch(LIMIT_S)
    assert not any(watch.observe(statistics(at, at + 3, at), float(at)) for at in range(0, 500, 5))


@pytest.mark.kafka
def test_a_shard_that_waits_for_a_foreign_transaction_says_so(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names the partition, the offsets, and the command that finds the producer."""
    monkeypatch.setattr(configs, "STATISTICS_MS", 200)
    monkeypatch.setattr(groups, "GRACE_S", 0.0)
    world = LogHarness(connect(kafka_url, Settings(transaction_timeout_s=1.0)), "kafka")
    world.make()
    driver, shard = world.working()
    driver.log.begin(shard, 0)
    config = KafkaConfig(kafka_url.removeprefix("kafka://"), Settings(), {})
    other = Producer(config.shard(config.lines(), f"{world.group}-other") | {"transaction.timeout.ms": 60_000})
    other.init_transactions(20.0)
    other.begin_transaction()
    other.produce(shard.topic, b"open", b"k", shard.partition)
    other.flush(10.0)
    world.until(lambda: "a transaction has hidden" in caplog.text, lambda: "the report of the open transaction")
    assert f"{shard}: a transaction has hidden offsets 0 to 0 for" in caplog.text
    assert f"describe-producers --topic {shard.topic} --partition 0" in caplog.text
    other.abort_transaction(10.0)
    world.close()

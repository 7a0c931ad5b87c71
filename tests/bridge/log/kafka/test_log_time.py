"""Commands carry the time of the broker that took them, whatever the clock of their producer says."""

from __future__ import annotations

import time
import uuid

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from repertory import ActorSystem, TopicMismatch
from repertory.bridge.log.connect import connect
from repertory.bridge.topics import commands_topic
from tests.apps.counting import Counter

YEAR_MS = 366 * 86_400_000


def system_of() -> ActorSystem:
    """Return a system with a name of its own."""
    system = ActorSystem(f"time-{uuid.uuid4().hex[:8]}")
    system.host(Counter, partitions=1)
    return system


@pytest.mark.kafka
def test_the_clock_of_a_producer_does_not_count(kafka_url: str) -> None:
    """A record that was sent a year ahead has the time at which it came."""
    system = system_of()
    backend = connect(kafka_url)
    system.prepare(backend)
    topic = commands_topic(system.name, "counter")
    producer = Producer({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
    before_ms = time.time_ns() // 1_000_000
    producer.produce(topic, b"v", key=b"k", partition=0, timestamp=before_ms + YEAR_MS)
    assert producer.flush(30) == 0
    reader = backend.reader()
    (record,) = reader.read(topic, 0)
    assert before_ms - 60_000 < record.timestamp_ms < before_ms + YEAR_MS // 2
    reader.close()
    backend.close()


@pytest.mark.kafka
def test_a_commands_topic_that_takes_the_time_of_its_producers_is_refused(kafka_url: str) -> None:
    """With the command that alters it; none of the other topics is created."""
    system = system_of()
    topic = commands_topic(system.name, "counter")
    admin = AdminClient({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    backend = connect(kafka_url)
    with pytest.raises(TopicMismatch) as refusal:
        system.prepare(backend)
    said = str(refusal.value)
    assert f"topic {topic} has message.timestamp.type=CreateTime" in said
    assert f"--entity-name {topic} --add-config message.timestamp.type=LogAppendTime" in said
    assert [name for name in backend.topics() if name.startswith(f"{system.name}.")] == [topic]
    backend.close()


def test_the_code_cannot_ask_for_another_time() -> None:
    """It is a promise of the runtime."""
    with pytest.raises(ValueError, match=r"topic_config cannot set message\.timestamp\.type"):
        ActorSystem("bank", topic_config={"message.timestamp.type": "CreateTime"})

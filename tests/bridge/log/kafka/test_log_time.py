"""Commands carry the time of the broker that took them, whatever the clock of their producer says."""

from __future__ import annotations

import time
import uuid
from contextlib import closing

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from repertory import ActorSystem, TopicMismatch
from repertory.bridge.log.connect import connect
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.topics import commands_topic
from tests.apps.counting import Counter

YEAR_MS = 366 * 86_400_000
DEADLINE_S = 60.0


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


def made_by_hand(url: str, topic: str) -> AdminClient:
    """Create a topic as Kafka does by default, and return the client once the broker lists it: the controller answered.

    A broker that is asked at once may not know the topic yet.
    """
    admin = AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    deadline_s = time.monotonic() + DEADLINE_S
    while topic not in admin.list_topics(timeout=DEADLINE_S).topics:
        assert time.monotonic() < deadline_s, topic
        time.sleep(0.02)
    return admin


def refused_for_its_clock(topic: str, admin: AdminClient, url: str, system: ActorSystem) -> list[str]:
    """Check that the system is refused because of a topic made by hand, and return which of its topics there are."""
    backend = connect(url)
    with closing(backend), pytest.raises(TopicMismatch) as refusal:
        system.prepare(backend)
    said = str(refusal.value)
    assert f"topic {topic} has message.timestamp.type=CreateTime" in said
    assert f"--entity-name {topic} --add-config message.timestamp.type=LogAppendTime" in said
    return [name for name in admin.list_topics(timeout=DEADLINE_S).topics if name.startswith(f"{system.name}.")]


@pytest.mark.kafka
def test_a_commands_topic_that_takes_the_time_of_its_producers_is_refused(kafka_url: str) -> None:
    """With the command that alters it; none of the other topics is created."""
    system = system_of()
    topic = commands_topic(system.name, "counter")
    admin = made_by_hand(kafka_url, topic)
    assert refused_for_its_clock(topic, admin, kafka_url, system) == [topic]


@pytest.mark.kafka
def test_so_is_one_that_the_broker_does_not_list_yet(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller has made it and says so when the start creates it; the broker that was asked learns it later."""
    system = system_of()
    topic = commands_topic(system.name, "counter")
    admin = made_by_hand(kafka_url, topic)
    asked = []

    def late(self: Admin) -> dict[str, int]:
        asked.append(topics(self))
        return {name: count for name, count in asked[-1].items() if len(asked) > 1 or name != topic}

    topics = Admin.topics
    monkeypatch.setattr(Admin, "topics", late)
    refused_for_its_clock(topic, admin, kafka_url, system)
    assert len(asked) > 1


@pytest.mark.kafka
def test_a_broker_that_cannot_say_yet_which_time_a_topic_takes_is_asked_again(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lists the topic, and the broker that is asked for its settings does not know it yet."""
    system = system_of()
    topic = commands_topic(system.name, "counter")
    admin = made_by_hand(kafka_url, topic)
    asked = []

    def unknown_at_first(self: Admin, topic: str, name: str) -> str:
        asked.append(topic)
        if len(asked) == 1:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return setting(self, topic, name)

    setting = Admin._setting
    monkeypatch.setattr(Admin, "_setting", unknown_at_first)
    assert refused_for_its_clock(topic, admin, kafka_url, system) == [topic]


def test_the_code_cannot_ask_for_another_time() -> None:
    """It is a promise of the runtime."""
    with pytest.raises(ValueError, match=r"topic_config cannot set message\.timestamp\.type"):
        ActorSystem("bank", topic_config={"message.timestamp.type": "CreateTime"})

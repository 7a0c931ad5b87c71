"""What a failed append on a real Kafka means: refused for good, unavailable, or unknown."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not re-exported
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import (
    LogError,
    OutcomeUnknown,
    Refused,
    TopicMismatch,
)
from repertory.bridge.log.kafka.appender import KafkaAppender, _Delivery
from repertory.bridge.log.kafka.backend import KafkaBackend
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.log.record import Output
from repertory.bridge.system.settings import Settings
from tests.support.kafka.broker import Broker

pytestmark = pytest.mark.kafka


@pytest.fixture
def backend(kafka_url: str) -> Iterator[KafkaBackend]:
    """Yield a backend whose records have five seconds to be acknowledged."""
    with closing(cast("KafkaBackend", connect(kafka_url, Settings(transaction_timeout_s=5.0)))) as backend:
        yield backend


@pytest.fixture
def appender(backend: KafkaBackend) -> Iterator[KafkaAppender]:
    with closing(backend.appender()) as appender:
        yield appender


def made(backend: KafkaBackend, **config: str) -> str:
    """Create a topic and return its name."""
    name = f"appended-{uuid.uuid4().hex[:12]}"
    backend.ensure([TopicSpec(name, 2, {key.replace("_", "."): value for key, value in config.items()})])
    return name


def values(backend: KafkaBackend, topic: str) -> list[bytes | None]:
    with closing(backend.reader()) as reader:
        return [record.value for partition in range(2) for record in reader.read(topic, partition)]


def test_a_record_that_is_too_large_for_its_topic_is_refused(backend: KafkaBackend, appender: KafkaAppender) -> None:
    """The error names topic, size and limit; nothing is appended, and smaller records pass afterwards."""
    topic = made(backend, max_message_bytes="2000")
    with pytest.raises(
        Refused, match=rf"nothing was appended: {topic}/1 refuses .* of 5,001 bytes .*max.message.bytes"
    ):
        appender.append([Output(topic, 1, b"k", b"x" * 5_000)])
    appender.append([Output(topic, 1, b"k", b"small")])
    assert values(backend, topic) == [b"small"]


def test_a_record_that_is_too_large_for_the_client_is_refused(backend: KafkaBackend, appender: KafkaAppender) -> None:
    """So is one above librdkafka's own limit, which never leaves the process."""
    topic = made(backend)
    with pytest.raises(Refused, match=r"refuses .* for good"):
        appender.append([Output(topic, 0, b"k", bytes(5 << 20))])
    assert values(backend, topic) == []


def test_a_record_without_a_key_for_a_compacted_topic_is_refused(
    backend: KafkaBackend, appender: KafkaAppender
) -> None:
    """The broker finds it invalid; the error says what a compacted topic needs."""
    topic = made(backend, cleanup_policy="compact")
    with pytest.raises(Refused, match="a compacted topic takes no record without a key"):
        appender.append([Output(topic, 0, None, b"x")])
    assert values(backend, topic) == []


def test_a_refusal_of_some_of_many_is_an_unknown_outcome(backend: KafkaBackend, appender: KafkaAppender) -> None:
    """Where other records of the call were appended, nothing can be promised of all; the reason is still given."""
    topic = made(backend, max_message_bytes="2000")
    with pytest.raises(OutcomeUnknown, match=r"1 of 2 records .*max\.message\.bytes"):
        appender.append([Output(topic, 0, b"k", b"small"), Output(topic, 1, b"k", b"x" * 5_000)])
    assert values(backend, topic) == [b"small"]


@pytest.mark.parametrize("used", [False, True])
def test_a_topic_that_was_deleted_is_a_mismatch(
    kafka_url: str, backend: KafkaBackend, appender: KafkaAppender, *, used: bool
) -> None:
    """A topic that stays unknown: whatever was written is gone with it, so nothing is appended, for certain."""
    topic = made(backend)
    appender.append([Output(topic, 0, b"k", b"before")] if used else [])
    admin = AdminClient({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
    admin.delete_topics([topic])[topic].result(30)
    with pytest.raises(TopicMismatch, match=f"nothing was appended: there is no topic {topic}"):
        appender.append([Output(topic, 0, b"k", b"after")])


def test_a_refusal_after_a_lost_answer_is_an_unknown_outcome(backend: KafkaBackend, appender: KafkaAppender) -> None:
    """If a connection broke during the append, an earlier attempt may have been written: Refused would promise more."""

    def meant() -> LogError:
        delivery = _Delivery(Output("t", 0, b"k", b"x"))
        delivery.decided, delivery.error = True, KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
        return appender._failure([delivery], 0)

    lines = appender._lines
    assert isinstance(meant(), Refused)
    lines.log(6, "", "FAIL", "c", "127.0.0.1:1/1: Connect to ipv4#127.0.0.1:1 failed (after 0ms in state CONNECT)")
    assert isinstance(meant(), Refused)
    lines.log(6, "", "FAIL", "c", "127.0.0.1:9092/1: Disconnected (after 17ms in state UP)")
    assert isinstance(meant(), OutcomeUnknown)
    appender._ready()
    assert isinstance(meant(), Refused)
    lines.log(4, "", "REQTMOUT", "c", "127.0.0.1:9092/1: Timed out 1 in-flight, 0 retry-queued requests")
    assert isinstance(meant(), OutcomeUnknown)


def test_a_topic_that_may_not_be_written_is_refused() -> None:
    """The error names the grant that is missing."""
    authorizer = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    broker = Broker([authorizer, "allow.everyone.if.no.acl.found=true"])
    try:
        with closing(cast("KafkaBackend", connect(broker.start().url))) as backend:
            topic = made(backend)
            admin = AdminClient({"bootstrap.servers": broker.address})
            deny = AclBinding(
                ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:*", "*", AclOperation.WRITE,
                AclPermissionType.DENY,
            )  # fmt: skip
            allow = AclBinding(
                ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:*", "*", AclOperation.DESCRIBE,
                AclPermissionType.ALLOW,
            )  # fmt: skip
            for future in admin.create_acls([deny, allow]).values():
                future.result(30)
            with closing(backend.appender()) as appender, pytest.raises(Refused, match="grant WRITE on the topic"):
                appender.append([Output(topic, 0, b"k", b"x")])
    except KafkaException as refused:
        pytest.fail(f"the access list could not be made: {refused}")
    finally:
        broker.stop()

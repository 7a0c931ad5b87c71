"""librdkafka's messages as records, and its errors by the reaction that they need."""
# ruff: noqa: SLF001 - librdkafka's own error codes begin with an underscore; here they get public names.

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, Message

from repertory.actors.headers import Headers
from repertory.bridge.log.errors import InvalidSetting
from repertory.bridge.log.kafka.config import logger
from repertory.bridge.log.record import Record, TopicPartition

CLOSE_TIMEOUT_S = 3.0

TIMED_OUT = KafkaError._TIMED_OUT
#: A record was not acknowledged in its time; it may have been written.
MESSAGE_TIMED_OUT = KafkaError._MSG_TIMED_OUT
STATE = KafkaError._STATE
PARTITION_EOF = KafkaError._PARTITION_EOF
ALL_BROKERS_DOWN = KafkaError._ALL_BROKERS_DOWN
FATAL = KafkaError._FATAL
#: Errors of a cluster that moves leaders or coordinators: repeat the request.
TRANSIENT = frozenset(
    {
        KafkaError._NOENT,  # "no leaders found", while librdkafka connects
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._WAIT_COORD,
        KafkaError._WAIT_CACHE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,  # the broker restarted after librdkafka read its metadata
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
#: The leader that librdkafka knows was replaced or restarted; a timeout may be a symptom of that.
STALE_METADATA = frozenset({KafkaError._TIMED_OUT, KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH})
#: A later owner initialised the transactional id, or the coordinator timed out (librdkafka reports both the same).
FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
#: The member's generation is not the group's: a rebalance is under way, or the worker is no longer a member.
NOT_A_MEMBER = frozenset({KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID})
UNKNOWN_PARTITION = KafkaError._UNKNOWN_PARTITION
#: No broker knows the topic.
UNKNOWN_TOPIC = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART})
#: The partition has no such offset; reported because of ``auto.offset.reset=error``.
OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
#: Waiting does not help: an operator must grant the access.
UNAUTHORIZED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)


def error_of(exception: KafkaException) -> KafkaError:
    """Return the error in a ``KafkaException``."""
    error = exception.args[0]
    assert isinstance(error, KafkaError), exception
    return error


C = TypeVar("C")


def create_client(client: Callable[..., C], config: dict[str, object]) -> C:
    """Create a client; raise InvalidSetting with librdkafka's message if it refuses a setting."""
    try:
        return client(config)
    except KafkaException as refusal:
        raise InvalidSetting(f"librdkafka refuses the Kafka settings: {error_of(refusal).str()}") from None


def close_bounded(close: Callable[[], None], what: str) -> None:
    """Close on a thread of its own, in bounded time: librdkafka may wait for a broker that never answers."""
    thread = threading.Thread(target=close, name=f"close {what}", daemon=True)
    thread.start()
    thread.join(CLOSE_TIMEOUT_S)
    if thread.is_alive():
        logger.warning("the %s did not close within %g s and is abandoned", what, CLOSE_TIMEOUT_S)


def describe(error: KafkaError) -> str:
    """Return an error's text and name, for a message."""
    return f"{error.str()} ({error.name()})"


def _headers(message: Message) -> Headers:
    """Return a message's headers, a null value as empty. With a name that is not UTF-8 none can be read: ()."""
    try:
        headers = message.headers()
    except (SystemError, UnicodeDecodeError):  # 2.16.1 raises the first; the record has no headers then
        return ()
    if not headers:
        return ()
    pairs = headers.items() if isinstance(headers, dict) else headers
    return tuple((name, value if isinstance(value, bytes) else b"") for name, value in pairs)


def records_of(messages: Sequence[Message], where: TopicPartition) -> list[Record]:
    """Return the messages of one partition as records, without errors.

    Topic and partition are those of ``where``: the binding would create a new string for each message.
    """
    topic, partition = where
    return [
        Record(
            topic,
            partition,
            message.offset(),  # type: ignore[arg-type]  # None only for errors
            message.key(),
            message.value(),
            _headers(message),
            message.timestamp()[1],
        )
        for message in messages
        if message.error() is None
    ]


def runs(messages: Sequence[Message]) -> Iterator[tuple[TopicPartition, Sequence[Message]]]:
    """Split a fetched batch into runs of one partition: librdkafka returns a partition's records together."""
    start = 0
    topic, partition = messages[0].topic(), messages[0].partition()
    for index, message in enumerate(messages):
        if message.partition() != partition or message.topic() != topic:
            yield _place(topic, partition), messages[start:index]
            start, topic, partition = index, message.topic(), message.partition()
    yield _place(topic, partition), messages[start:]


def _place(topic: str | None, partition: int | None) -> TopicPartition:
    """Return a message's partition; an error of the whole client has none (-1)."""
    return TopicPartition(topic or "", -1 if partition is None else partition)

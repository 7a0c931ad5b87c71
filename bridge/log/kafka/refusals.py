"""Which errors of Kafka are refusals for good: nothing of the record was written, and a repetition is refused again.

Pure. A broker that refuses a record for its size, its content or its topic checks that before it writes anything
(``UnifiedLog.append``), so the record of such an error is certainly not in the log. The same record to the same topic
is refused until somebody changes one of them. Every other error is passing or leaves the outcome unknown:

- ``_MSG_TIMED_OUT``: librdkafka knows whether the record may have been written (``rd_kafka_message_status``), and
  confluent-kafka 2.16.1 does not expose it: unknown;
- ``_PURGE_QUEUE`` is reported for records that wait to be sent, and also for those that wait for a *second* attempt
  after the answer to the first was lost (``rd_kafka_toppar_purge_queues``): unknown, as ``_PURGE_INFLIGHT`` is;
- ``REQUEST_TIMED_OUT`` and ``NOT_ENOUGH_REPLICAS_AFTER_APPEND``: the leader has written it. librdkafka sends it again;
- ``NOT_ENOUGH_REPLICAS``, ``KAFKA_STORAGE_ERROR``, ``INVALID_MSG`` (damaged on the way) and a leader that moves are
  passing. librdkafka repeats the request until the record's time is over, and then reports ``_MSG_TIMED_OUT``;
- ``_AUTHENTICATION`` and ``SASL_AUTHENTICATION_FAILED`` concern the connection, not a record.

A broker judges a *batch*, which are records of one partition that librdkafka sends together. For ``INVALID_RECORD`` it
names the guilty ones. If there are several, librdkafka reports ``_INVALID_DIFFERENT_RECORD`` for the rest of the batch;
if there is one, all of the batch are reported as invalid (librdkafka 2.16.1, tried). A batch that is too large
(``MSG_SIZE_TOO_LARGE``, ``RECORD_LIST_TOO_LARGE``) gives that code to all its records, also where each of them alone
would pass. Find the guilty one by sending fewer. In a transactional producer the code of the first refused
batch is also that of the failed ``commit_transaction``; which record it was is only in the delivery reports.

One thing this table cannot see: whether the answer to an earlier attempt of the same record was lost, and the topic,
its limits or its grants were changed before the second. Who promises that nothing was written (``KafkaAppender``) asks
whether a connection broke meanwhile; who aborts the transaction anyway need not.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from confluent_kafka import KafkaError


class Blame(enum.Enum):
    """What was refused."""

    RECORD = "the record"
    """This record, or its batch: other records of the topic pass."""
    NEIGHBOUR = "another record of its batch"
    """This record is innocent: without the other, it passes."""
    TOPIC = "the topic"
    """Every record for this topic."""


class Refusal(NamedTuple):
    """A refusal for good: what was refused, why, and what has to change."""

    blame: Blame
    why: str


#: By error code.
_TABLE: Mapping[int, Refusal] = MappingProxyType(
    {
        KafkaError.MSG_SIZE_TOO_LARGE: Refusal(  # By the broker, and by librdkafka's own message.max.bytes.
            Blame.RECORD, "it is larger than the topic's max.message.bytes; send less at once, or raise that limit"
        ),
        KafkaError.RECORD_LIST_TOO_LARGE: Refusal(
            Blame.RECORD, "it is larger than the topic's segment.bytes; send less at once, or raise that limit"
        ),
        KafkaError.INVALID_MSG_SIZE: Refusal(Blame.RECORD, "its size is invalid"),
        KafkaError.INVALID_RECORD: Refusal(
            Blame.RECORD, "the broker found it invalid: a compacted topic takes no record without a key"
        ),
        KafkaError.INVALID_TIMESTAMP: Refusal(
            Blame.RECORD,
            "its timestamp is too far from the broker's clock; set the clock, or the topic's message.timestamp limits",
        ),
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT: Refusal(
            Blame.RECORD, "the topic's message format cannot hold it; raise the topic's message.format.version"
        ),
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE: Refusal(
            Blame.RECORD, "the broker does not know its compression; change the setting compression.type"
        ),
        KafkaError.POLICY_VIOLATION: Refusal(Blame.RECORD, "a policy of the broker forbids it"),
        KafkaError._INVALID_DIFFERENT_RECORD: Refusal(  # noqa: SLF001  librdkafka's own codes begin so
            Blame.NEIGHBOUR, "another record of its batch is invalid; send it without that one"
        ),
        KafkaError.TOPIC_AUTHORIZATION_FAILED: Refusal(
            Blame.TOPIC, "this user may not write to it; grant WRITE on the topic"
        ),
        KafkaError.CLUSTER_AUTHORIZATION_FAILED: Refusal(
            Blame.TOPIC, "this user may not write idempotently; grant IDEMPOTENT_WRITE on the cluster"
        ),
        KafkaError.TOPIC_EXCEPTION: Refusal(
            Blame.TOPIC, "no record can be written to a topic of this name; use another name"
        ),
        # librdkafka repeats the request for as long as the topic may be new, and gives these codes after that.
        **dict.fromkeys(
            (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION),  # noqa: SLF001
            Refusal(Blame.TOPIC, "there is no such topic or partition; was it deleted?"),
        ),
    }
)


def refusal_of(code: int) -> Refusal | None:
    """Return the refusal that an error code (``KafkaError.code()``) of a record means.

    None if the record may be accepted the next time, or if it is unknown whether it was written.
    """
    return _TABLE.get(code)

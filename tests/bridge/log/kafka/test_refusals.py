"""Which errors of Kafka are refusals for good (``bridge/log/kafka/refusals.py``)."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from repertory.bridge.log.kafka.messages import FENCED, NOT_A_MEMBER, TRANSIENT
from repertory.bridge.log.kafka.refusals import Blame, refusal_of


@pytest.mark.parametrize(
    ("code", "blame"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, Blame.RECORD),
        (KafkaError.INVALID_RECORD, Blame.RECORD),
        (KafkaError._INVALID_DIFFERENT_RECORD, Blame.NEIGHBOUR),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Blame.TOPIC),
        (KafkaError._UNKNOWN_TOPIC, Blame.TOPIC),
    ],
)
def test_a_refusal_names_what_was_refused(code: int, blame: Blame) -> None:
    """The record, a neighbour in its batch, or every record of the topic."""
    refusal = refusal_of(code)
    assert refusal is not None
    assert refusal.blame is blame
    assert refusal.why


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._MSG_TIMED_OUT,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._TRANSPORT,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError._FATAL,
        KafkaError._GAPLESS_GUARANTEE,
        *TRANSIENT,
        *FENCED,
        *NOT_A_MEMBER,
    ],
)
def test_what_may_have_been_written_or_may_pass_later_is_no_refusal(code: int) -> None:
    """Only what was certainly not written, and would be refused again, is a refusal."""
    assert refusal_of(code) is None

"""Which records a failed transaction names as refused for good."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from repertory.bridge.log.kafka.delivery import DeliveryReports
from repertory.bridge.log.port import OutputsRefused
from repertory.bridge.log.record import Output, TopicPartition

SHARD = TopicPartition("bank.account.commands", 0)
TOO_LARGE, DENIED = KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.TOPIC_AUTHORIZATION_FAILED
INVALID = KafkaError.INVALID_RECORD


def output(topic: str = "news", partition: int = 0, value: bytes = b"v") -> Output:
    """Return a record."""
    return Output(topic, partition, b"k", value)


def event(reported: list[tuple[Output, int]], outputs: list[Output]) -> OutputsRefused | None:
    """Return the event after these reports, by error code."""
    reports = DeliveryReports("bank", reports_all=True)
    for each, code in reported:
        reports.report(each, KafkaError(code))
    return reports.event(SHARD, outputs)


def test_a_batch_is_refused_together_and_a_record_alone_is_guilty() -> None:
    """A batch is of one partition: where one record is refused, it is that one, whatever other partitions say."""
    first, second, other = output(value=b"1"), output(value=b"2"), output(partition=1)
    together = event([(first, TOO_LARGE), (second, TOO_LARGE)], [first, second])
    assert together is not None
    assert (list(together.outputs), together.all_refused) == ([first, second], False)
    assert "news/0 refuses one of 2 records" in together.reason
    alone = event([(first, TOO_LARGE), (second, TOO_LARGE), (other, TOO_LARGE)], [first, second, other])
    assert alone is not None
    assert (list(alone.outputs), alone.all_refused) == ([other], True)
    assert "news/1 refuses a record of" in alone.reason


def test_records_that_are_refused_together_for_different_causes() -> None:
    """One cause is named, with the records of one partition: the size first, since smaller batches may pass."""
    keyless, beside, *large = output("compact", value=b"1"), output("compact"), output(value=b"2"), output(value=b"3")
    reported = [(keyless, INVALID), (beside, INVALID), *((each, TOO_LARGE) for each in large)]
    found = event(reported, [keyless, beside, *large])
    assert found is not None
    assert (list(found.outputs), found.all_refused) == (large, False)
    assert "news/0 refuses one of 2 records" in found.reason
    found = event(reported[:2], [keyless, beside])
    assert found is not None
    assert (list(found.outputs), found.all_refused) == ([keyless, beside], False)
    assert "compact/0 refuses one of 2 records" in found.reason


@pytest.mark.parametrize(("code", "topic"), [(TOO_LARGE, "news"), (INVALID, None)])
def test_only_a_refusal_for_the_size_asks_for_smaller_batches(code: int, topic: str | None) -> None:
    """Smaller batches help nothing else."""
    reports = DeliveryReports("bank", reports_all=True)
    reports.report(output(), KafkaError(code))
    assert reports.too_large_for == topic


def test_a_topic_that_may_not_be_written_refuses_all_its_records() -> None:
    """Also those that were not reported yet."""
    outputs = [output(partition=partition) for partition in range(3)]
    found = event([(outputs[1], DENIED)], [*outputs, output("fine")])
    assert found is not None
    assert (list(found.outputs), found.all_refused) == (outputs, True)
    assert "grant WRITE" in found.reason


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("bank.account.events", DENIED),
        ("news", KafkaError.UNKNOWN_TOPIC_OR_PART),
        ("news", KafkaError._UNKNOWN_PARTITION),
        ("news", KafkaError._INVALID_DIFFERENT_RECORD),
        ("news", KafkaError._PURGE_QUEUE),
        ("news", KafkaError._MSG_TIMED_OUT),
        ("news", KafkaError.NOT_ENOUGH_REPLICAS),
    ],
)
def test_what_is_no_refusal_of_a_record(topic: str, code: int) -> None:
    """An own topic that refuses everything is no command's fault; what seems unknown may be known a little later."""
    assert event([(output(topic), code)], [output(topic)]) is None

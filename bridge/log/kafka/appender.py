"""Appends without a transaction: from outside a shard, and by shards that process at least once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.messages import create_client, describe, error_of
from repertory.bridge.log.port import LogError, LogUnavailable, OutcomeUnknown
from repertory.bridge.log.record import Output, TopicPartition

#: librdkafka reports every delivery by its own timeout. One that is not reported this much later never will be.
DECISION_SLACK_S = 5.0


class KafkaAppender:
    """Implements ``Appender`` with one idempotent producer. Every record goes to its explicit partition.

    ``gapless``: after a lost record all later records to the same partition are lost too. The owner must discard the
    appender after its first failure.
    """

    def __init__(self, config: KafkaConfig, admin: Admin, *, gapless: bool = False) -> None:
        self._admin = admin
        self._timeout_s = config.settings.transaction_timeout_s + DECISION_SLACK_S
        self._lines = config.lines()
        settings = config.nontransactional(self._lines) if gapless else config.appender(self._lines)
        self._producer: Producer | None = create_client(Producer, settings)

    def append(self, outputs: Sequence[Output]) -> Sequence[int]:
        """See ``Appender.append``.

        An offset is -1 if the first acknowledgement was lost and the broker answered the retry without an offset
        (DUPLICATE_SEQUENCE_NUMBER): the record was appended once, at an unknown offset.
        """
        producer = self._producer
        assert producer is not None, "append after close"
        for where in {TopicPartition(output.topic, output.partition) for output in outputs}:
            self._admin.require(where, "nothing was appended")
        deliveries = [_Delivery() for _ in outputs]
        deadline_s = time.monotonic() + self._timeout_s
        for index, output in enumerate(outputs):
            refusal = _enqueue(producer, output, deliveries[index], deadline_s)
            if refusal is not None:
                # This record never left the process; those before it may have.
                raise OutcomeUnknown(refusal) if index else LogUnavailable(f"nothing was appended: {refusal}")
        for delivery in deliveries:
            while not delivery.decided and time.monotonic() < deadline_s:
                _serve(producer)
        failed = [delivery for delivery in deliveries if not delivery.decided or delivery.error is not None]
        if failed:
            raise _outcome_unknown(failed[0], len(failed), outputs)
        return [delivery.offset for delivery in deliveries]

    def close(self) -> None:
        """See ``Appender.close``. Nothing is under way: every append knew its outcome when it returned."""
        self._producer = None


class _Delivery:
    """The delivery callback of one record, and its outcome."""

    __slots__ = ("decided", "error", "offset")

    def __init__(self) -> None:
        self.decided = False
        self.offset = -1
        self.error: KafkaError | None = None

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        self.decided = True
        self.error = error
        offset = message.offset()
        if error is None and offset is not None:
            self.offset = offset


def _serve(producer: Producer) -> None:
    """Run delivery callbacks."""
    try:
        producer.poll(0.1)
    except KafkaException as failure:  # A gap: the producer failed fatally, and reports it here.
        raise OutcomeUnknown(describe(error_of(failure))) from failure


def _enqueue(producer: Producer, output: Output, delivery: _Delivery, deadline_s: float) -> str | None:
    """Put one record into the queue, waiting for room; return the reason if that failed."""
    headers: list[tuple[str, str | bytes | None]] | None = [*output.headers] if output.headers else None
    while True:
        try:
            producer.produce(output.topic, output.value, output.key, output.partition, delivery, headers=headers)
        except BufferError:
            if time.monotonic() > deadline_s:
                return f"the queue to the brokers stays full: they do not accept its records (topic {output.topic})"
            _serve(producer)
        except KafkaException as failure:
            return f"a record for {output.topic}/{output.partition} was refused: {describe(error_of(failure))}"
        else:
            return None


def _outcome_unknown(delivery: _Delivery, count: int, outputs: Sequence[Output]) -> LogError:
    why = describe(delivery.error) if delivery.error is not None else "no answer"
    topics = ", ".join(sorted({output.topic for output in outputs}))
    return OutcomeUnknown(f"{count} of {len(outputs)} records for {topics} may or may not be appended: {why}")

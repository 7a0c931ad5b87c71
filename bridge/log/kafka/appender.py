"""Appends without a transaction: from outside a shard, and of shards that work at least once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.messages import describe, error_of, made
from repertory.bridge.log.port import LogError, LogUnavailable, OutcomeUnknown
from repertory.bridge.log.record import Output, TopicPartition

#: librdkafka decides every delivery at its own timeout; this much later something is wrong with it.
DECISION_SLACK_S = 5.0


class KafkaAppender:
    """Implements ``Appender``: one idempotent producer, every record to its explicit partition.

    ``gapless``: of the records to one partition those behind a lost one are lost too. The owner has to throw the
    appender away after its first failure.
    """

    def __init__(self, config: KafkaConfig, admin: Admin, *, gapless: bool = False) -> None:
        self._admin = admin
        self._timeout_s = config.settings.transaction_timeout_s + DECISION_SLACK_S
        self._lines = config.lines()
        settings = config.nontransactional(self._lines) if gapless else config.appender(self._lines)
        self._producer: Producer | None = made(Producer, settings)

    def append(self, outputs: Sequence[Output]) -> Sequence[int]:
        """See ``Appender.append``.

        An offset is -1 where the first answer got lost and the broker, asked again, only knew that it has the
        record (DUPLICATE_SEQUENCE_NUMBER): it is appended once, but nobody says where.
        """
        producer = self._producer
        assert producer is not None, "append after close"
        for where in {TopicPartition(output.topic, output.partition) for output in outputs}:
            self._admin.require(where, "nothing was appended")
        deliveries = [_Delivery() for _ in outputs]
        deadline_s = time.monotonic() + self._timeout_s
        for index, output in enumerate(outputs):
            refusal = _queued(producer, output, deliveries[index], deadline_s)
            if refusal is not None:
                # It never left this process; those before it may have.
                raise OutcomeUnknown(refusal) if index else LogUnavailable(f"nothing was appended: {refusal}")
        for delivery in deliveries:
            while not delivery.decided and time.monotonic() < deadline_s:
                _served(producer)
        failed = [delivery for delivery in deliveries if not delivery.decided or delivery.error is not None]
        if failed:
            raise _unknown(failed[0], len(failed), outputs)
        return [delivery.offset for delivery in deliveries]

    def close(self) -> None:
        """See ``Appender.close``. Every append was decided before it returned."""
        self._producer = None


class _Delivery:
    """The fate of one record; librdkafka calls it."""

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


def _served(producer: Producer) -> None:
    """Let deliveries be told."""
    try:
        producer.poll(0.1)
    except KafkaException as failure:  # A gap: the producer is dead, and says so here if nobody else listens.
        raise OutcomeUnknown(describe(error_of(failure))) from failure


def _queued(producer: Producer, output: Output, delivery: _Delivery, deadline_s: float) -> str | None:
    """Put one record into the queue, waiting for room; return why it could not be."""
    headers: list[tuple[str, str | bytes | None]] | None = [*output.headers] if output.headers else None
    while True:
        try:
            producer.produce(output.topic, output.value, output.key, output.partition, delivery, headers=headers)
        except BufferError:
            if time.monotonic() > deadline_s:
                return f"the queue to the brokers is full of records that they do not take (topic {output.topic})"
            _served(producer)
        except KafkaException as failure:
            return f"a record for {output.topic}/{output.partition} was refused: {describe(error_of(failure))}"
        else:
            return None


def _unknown(delivery: _Delivery, count: int, outputs: Sequence[Output]) -> LogError:
    why = describe(delivery.error) if delivery.error is not None else "no answer"
    topics = ", ".join(sorted({output.topic for output in outputs}))
    return OutcomeUnknown(f"{count} of {len(outputs)} records for {topics} may or may not be appended: {why}")

"""Appends without a transaction: from outside a shard, and by shards that process at least once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from repertory.bridge.log.errors import (
    LogError,
    LogUnavailable,
    OutcomeUnknown,
    Refused,
    TopicMismatch,
)
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.callbacks import Callbacks
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.messages import (
    FATAL,
    MESSAGE_TIMED_OUT,
    UNKNOWN_TOPIC,
    create_client,
    describe,
    error_of,
)
from repertory.bridge.log.kafka.refusals import Blame, refusal_of
from repertory.bridge.log.record import Output, TopicPartition

#: librdkafka reports every delivery by its own timeout. One that is not reported this much later never will be.
DECISION_SLACK_S = 5.0
#: After a fatal error the reports of records that were sent arrive at once; other records have no report.
DRAIN_S = 1.0


class KafkaAppender:
    """Implements ``Appender`` with one idempotent producer. Every record goes to its explicit partition.

    A producer that has failed fatally is replaced at the next append. ``gapless``: after a lost record all later
    records to the same partition are lost too. The owner must discard the appender after its first failure.
    """

    def __init__(self, config: KafkaConfig, admin: Admin, *, gapless: bool = False) -> None:
        self._admin = admin
        self._timeout_s = config.settings.transaction_timeout_s + DECISION_SLACK_S
        self._lines, self._callbacks = config.lines(), Callbacks()
        self._settings = config.nontransactional(self._lines) if gapless else config.appender(self._lines)
        self._producer: Producer | None = create_client(Producer, self._settings)
        self._gapless, self._has_failed = gapless, False
        #: The records of the last append that failed, and why.
        self.errors: list[tuple[Output, KafkaError]] = []

    def append(self, outputs: Sequence[Output]) -> Sequence[int]:
        """See ``Appender.append``.

        An offset is -1 if the first acknowledgement was lost and the broker answered the retry without an offset
        (DUPLICATE_SEQUENCE_NUMBER): the record was appended once, at an unknown offset.
        """
        for where in {TopicPartition(output.topic, output.partition) for output in outputs}:
            self._admin.require(where, "nothing was appended")
        producer = self._ready()
        deliveries = [_Delivery(output) for output in outputs]
        try:
            self._deliver(producer, deliveries)
        except OutcomeUnknown:  # A fatal error comes before the reports that say of which records it is.
            self._drain(producer, deliveries)
            raise
        finally:
            self.errors = [(each.output, each.error) for each in deliveries if each.error is not None]
        failed = [delivery for delivery in deliveries if not delivery.decided or delivery.error is not None]
        if failed:
            self._serve(producer, 0.0)  # The log line of a broken connection is in this queue before the report.
            raise self._failure(failed, len(deliveries) - len(failed))
        return [delivery.offset for delivery in deliveries]

    def _deliver(self, producer: Producer, deliveries: list[_Delivery]) -> None:
        """Send records, and wait for their reports; those that never left the process are removed."""
        deadline_s = time.monotonic() + self._timeout_s
        for index, delivery in enumerate(deliveries):
            if not self._enqueue(producer, delivery, deadline_s):
                del deliveries[index + 1 :]
                break
        for delivery in deliveries:
            while not delivery.decided and time.monotonic() < deadline_s:
                self._serve(producer)

    def close(self) -> None:
        """See ``Appender.close``. Nothing is under way: every append knew its outcome when it returned."""
        self._producer = None

    def _ready(self) -> Producer:
        """Return a producer that can be used, and forget which connections have broken before."""
        assert self._producer is not None, "append after close"
        try:
            self._callbacks.poll(self._producer.poll, 0.0)
        except KafkaException:
            self._has_failed = True
        if self._has_failed and not self._gapless:
            self._producer, self._has_failed = create_client(Producer, self._settings), False
        self._lines.answer_lost = False
        return self._producer

    def _serve(self, producer: Producer, timeout_s: float = 0.1) -> None:
        """Run delivery callbacks."""
        try:
            self._callbacks.poll(producer.poll, timeout_s)
        except KafkaException as failure:  # A gap: the producer failed fatally, and reports it here.
            self._has_failed = True
            raise OutcomeUnknown(describe(error_of(failure))) from failure

    def _drain(self, producer: Producer, deliveries: Sequence[_Delivery]) -> None:
        """Take the reports that a producer still has after a fatal error."""
        deadline_s = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline_s and not all(delivery.decided for delivery in deliveries):
            with suppress(KafkaException):
                self._callbacks.poll(producer.poll, 0.05)

    def _enqueue(self, producer: Producer, delivery: _Delivery, deadline_s: float) -> bool:
        """Put one record into the queue, waiting for room; return whether that was possible."""
        output = delivery.output
        headers: list[tuple[str, str | bytes | None]] | None = [*output.headers] if output.headers else None
        while True:
            try:
                producer.produce(output.topic, output.value, output.key, output.partition, delivery, headers=headers)
            except BufferError:
                if time.monotonic() > deadline_s:
                    delivery.keep(None, "the queue to the brokers stays full: they do not accept its records")
                    return False
                self._serve(producer)
            except KafkaException as failure:
                error = error_of(failure)
                self._has_failed = self._has_failed or error.fatal() or error.code() == FATAL
                delivery.keep(error, describe(error))
                return False
            else:
                return True

    def _failure(self, failed: Sequence[_Delivery], appended: int) -> LogError:
        """Return what the failed records mean, all of which have an error or are undecided."""
        first = min(failed, key=_is_innocent)
        output, where = first.output, f"{first.output.topic}/{first.output.partition}"
        if not appended and all(self._is_gone(delivery) for delivery in failed):
            return TopicMismatch(f"nothing was appended: there is no topic {output.topic}; was it deleted?")
        refusal = refusal_of(first.code)
        is_certain = all(each.never_sent or (refusal_of(each.code) and not self._lines.answer_lost) for each in failed)
        if not is_certain or appended:
            topics = ", ".join(sorted({delivery.output.topic for delivery in failed}))
            reason = f"{refusal.why} ({first.why})" if refusal else first.why
            return OutcomeUnknown(
                f"{len(failed)} of {len(failed) + appended} records for {topics} may or may not be appended: {reason}"
            )
        if refusal is None:
            return LogUnavailable(f"nothing was appended: a record for {where} could not be sent: {first.why}")
        record = f"a record of {output.size_bytes:,} bytes"
        return Refused(f"nothing was appended: {where} refuses {record} for good: {refusal.why} ({first.why})")

    def _is_gone(self, delivery: _Delivery) -> bool:
        """Return whether a record's topic does not exist any more: then whatever was written is gone with it."""
        if delivery.code not in UNKNOWN_TOPIC and delivery.code != MESSAGE_TIMED_OUT:
            return False
        try:
            return delivery.output.topic not in self._admin.topic_ids([delivery.output.topic])
        except KafkaException:
            return False


class _Delivery:
    """The delivery callback of one record, and its outcome."""

    __slots__ = ("decided", "error", "never_sent", "offset", "output", "why")

    def __init__(self, output: Output) -> None:
        self.output = output
        self.decided = self.never_sent = False
        self.offset = -1
        self.error: KafkaError | None = None
        self.why = "no answer"

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        self.decided = True
        offset = message.offset()
        if error is not None:
            self.error, self.why = error, describe(error)
        elif offset is not None:
            self.offset = offset

    def keep(self, error: KafkaError | None, why: str) -> None:
        """The record never left the process."""
        self.decided = error is not None
        self.never_sent, self.error, self.why = True, error, why

    @property
    def code(self) -> int:
        """The error's code; 0 if there is none."""
        return 0 if self.error is None else self.error.code()


def _is_innocent(delivery: _Delivery) -> bool:
    """Return whether a record was refused because of another one of its batch."""
    refusal = refusal_of(delivery.code)
    return refusal is not None and refusal.blame is Blame.NEIGHBOUR

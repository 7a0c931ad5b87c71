"""Sends the records of one transaction: into librdkafka's queue, and to the brokers as far as their answers matter."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Producer

from repertory.bridge import kill_points
from repertory.bridge.log.kafka.admin import REQUEST_TIMEOUT_S, RETRY_WAIT_S, Admin
from repertory.bridge.log.kafka.config import LogLines
from repertory.bridge.log.kafka.delivery import DeliveryReports
from repertory.bridge.log.kafka.messages import STATE, TIMED_OUT, UNKNOWN_PARTITION, error_of
from repertory.bridge.log.record import Output

#: A topic that was created just now may be unknown to some brokers for so long.
ABSENT_AFTER_S = 2.0
#: A flush ends after this long, if records behind a refused one wait for ever.
FLUSH_SLICE_S = 0.05


class Sending:
    """One transaction on the thread of its claim. Raises KafkaException; after that the transaction must be aborted."""

    def __init__(
        self,
        producer: Producer,
        admin: Admin,
        reports: DeliveryReports,
        lines: LogLines,
        cancelled: threading.Event,
        deadline_s: float,
    ) -> None:
        """``deadline_s``: on the monotonic clock."""
        self._producer, self._admin, self._reports, self._lines = producer, admin, reports, lines
        self._cancelled, self._deadline_s = cancelled, deadline_s
        lines.unauthorized.clear()

    def queue(self, outputs: Sequence[Output]) -> None:
        """Queue all outputs.

        A failed delivery, with a report or without, makes the transaction abortable in librdkafka, so the commit fails.
        """
        #: By topic: its number of partitions, and whether each of its records is reported.
        known: dict[str, tuple[int, bool]] = {}
        reports, produce = self._reports, self._producer.produce
        for output in outputs:
            topic, partition, headers = output.topic, output.partition, output.headers
            if is_first := topic not in known:
                self._reach(topic, is_first=not known)
                known[topic] = partition_count(self._admin, topic, self._cancelled), reports.names_each(topic)
            count, is_reported = known[topic]
            if not 0 <= partition < count:
                # librdkafka would wait half a minute for a missing topic, and choose a partition itself for -1.
                error = no_partition(topic, partition)
                if not count:
                    reports.refuse(output, error)
                raise KafkaException(error)
            callback = None
            if is_first or is_reported:
                callback = reports.expected(output, names_each=is_reported, is_first=is_first)
            while True:
                try:
                    produce(
                        topic,
                        output.value,
                        output.key,
                        partition,
                        callback,
                        None,
                        0,
                        list(headers) if headers else None,
                    )
                    break
                except BufferError:
                    self._wait_for_room()
                except KafkaException as failure:
                    self._refused(output, failure)

    @staticmethod
    def _reach(topic: str, *, is_first: bool) -> None:
        if not is_first:
            kill_points.reached("producing")
        if point := kill_points.PRODUCING.get(topic.rpartition(".")[2]):
            kill_points.reached(point)

    def _refused(self, output: Output, failure: KafkaException) -> None:
        """Return if librdkafka may take the record the next time: it knew fewer partitions than the topic has now."""
        error = error_of(failure)
        if error.code() != UNKNOWN_PARTITION or time.monotonic() > self._deadline_s or self._cancelled.is_set():
            self._reports.report(output, error)
            raise failure
        self._producer.list_topics(output.topic, REQUEST_TIMEOUT_S)

    def _wait_for_room(self) -> None:
        self._producer.poll(0.01)
        if time.monotonic() > self._deadline_s or self._cancelled.is_set():
            raise KafkaException(
                KafkaError(TIMED_OUT, "the queue to the brokers stays full", txn_requires_abort=True)
            ) from None

    def await_reports(self) -> None:
        """Wait for the reports that may name a refused record: a commit would wait for the records behind it."""
        reports = self._reports
        while reports.waiting and not self._is_refused() and not self._cancelled.is_set():
            if time.monotonic() > self._deadline_s:
                return
            self._producer.flush(FLUSH_SLICE_S)
        if self._is_refused():
            raise KafkaException(KafkaError(STATE, "a record was refused", txn_requires_abort=True))

    def _is_refused(self) -> bool:
        return self._reports.has_refusals or bool(self._lines.unauthorized)

    def take_unauthorized(self, outputs: Sequence[Output]) -> None:
        """After a failure: note the records for topics that the transaction was not allowed to write."""
        with suppress(KafkaException):  # A fenced producer raises that here again.
            self._producer.poll(0)
        error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
        for output in outputs if self._lines.unauthorized else ():
            if output.topic in self._lines.unauthorized:
                self._reports.report(output, error)


def partition_count(admin: Admin, topic: str, cancelled: threading.Event) -> int:
    """Return a topic's number of partitions, 0 if there is no such topic for longer than one may be new."""
    absent_s = time.monotonic() + ABSENT_AFTER_S
    while (count := admin.partition_count(topic)) is None:
        if time.monotonic() > absent_s or cancelled.is_set():
            return 0
        time.sleep(5 * RETRY_WAIT_S)
        admin.forget(topic)
    return count


def no_partition(topic: str, partition: int) -> KafkaError:
    """Return the error of a record for a partition that does not exist."""
    text = f"there is no partition {topic}/{partition}"
    return KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, text, txn_requires_abort=True)

"""Read the committed records of one partition from one offset up to another."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from repertory.bridge.log.kafka.config import KafkaConfig, logger
from repertory.bridge.log.kafka.messages import OUT_OF_RANGE, PARTITION_EOF, TRANSIENT, create_client, records_of, runs
from repertory.bridge.log.record import Record, TopicPartition

#: The largest batch.
BATCH_RECORDS = 1_000
#: How long one fetch waits for records; the caller can check for its cancellation after it.
WAIT_S = 0.1
#: Timeout of a request that only wakes a broker's thread; its answer does not matter.
WAKE_WAIT_S = 0.01
#: A dead owner's open transaction ends within about a second; one that stays open longer is reported.
HIDDEN_REPORT_S = 3.0


class RangeReader:
    """One consumer that joins no group, used for one range after another. One thread."""

    def __init__(self, config: KafkaConfig, low: Callable[[TopicPartition], int]) -> None:
        self._consumer = create_client(Consumer, config.reader(config.lines()))
        self._low = low
        #: Where ``follow`` goes on without another assignment, and what was fetched there and not yielded yet.
        self._followed: dict[TopicPartition, int] = {}
        self._fetched: dict[TopicPartition, int] = {}
        self._pending: deque[Record] = deque()

    def close(self) -> None:
        """Release the consumer. May block for some milliseconds."""
        self._consumer.close()

    def read(
        self, where: TopicPartition, start: int, end: int, quiet_max_s: float = math.inf
    ) -> Iterator[list[Record]]:
        """Yield the committed records in ``[start, end)`` in batches; an empty one if nothing arrived in ``WAIT_S``.

        A partition-EOF at or above ``end``, or a record there, ends the read: aborted records and transaction markers
        take offsets but are never delivered, and ``position()`` does not count them. An EOF below ``end`` means an
        open transaction of another producer: the read reports it and waits for its end, or stops after ``quiet_max_s``
        without a record. If ``start`` was deleted, the read starts at the first offset that is left.
        """
        if start >= end:
            return
        self._assign({where: start})
        hidden = _HiddenRange(where, end)
        done = False
        while not done:
            messages = [message for message in self._fetch(WAIT_S) if message.topic() == where.topic]
            records = records_of(messages, where)
            for message in messages if len(records) < len(messages) else ():
                eof = self._check(message, where)
                if eof is not None:
                    hidden.saw_eof(eof)
                    done = done or eof >= end
            if records:
                done = done or records[-1].offset >= end - 1
                if records[0].offset < start or records[-1].offset >= end:
                    records = [record for record in records if start <= record.offset < end]
            if records or done:
                hidden.progressed()
            else:
                hidden.report()
                done = hidden.quiet_s() > quiet_max_s
            yield records

    def follow(self, topic: str, positions: dict[int, int], timeout_s: float) -> Iterator[Record]:
        """Yield the records of several partitions as they arrive; stop after ``timeout_s`` without one.

        A call that goes on where the last one stopped has what was fetched meanwhile, so it need not wait at all.
        """
        next_offsets = {TopicPartition(topic, partition): offset for partition, offset in positions.items()}
        if next_offsets != self._followed:
            self._pending.clear()
            self._assign(next_offsets)
            self._followed, self._fetched = next_offsets, dict(next_offsets)
        followed, pending = self._followed, self._pending
        quiet_at_s = time.monotonic() + timeout_s
        while True:
            while pending:
                record = pending.popleft()
                followed[TopicPartition(topic, record.partition)] = record.offset + 1
                yield record
                quiet_at_s = time.monotonic() + timeout_s
            messages = self._fetch(max(0.0, min(WAIT_S, quiet_at_s - time.monotonic())))
            for where, run in runs(messages) if messages else ():
                for message in run:
                    self._check(message, where)
                for record in records_of(run, where):
                    if record.offset >= self._fetched.get(where, record.offset + 1):
                        self._fetched[where] = record.offset + 1
                        pending.append(record)
            if not pending and time.monotonic() >= quiet_at_s:
                return

    def stop(self) -> None:
        """Stop fetching; keep the connection."""
        self._followed.clear()
        self._pending.clear()
        self._consumer.unassign()

    def _assign(self, starts: dict[TopicPartition, int]) -> None:
        """Begin to fetch, and wake the broker's thread, which may sleep for up to a second after the last range.

        A request wakes it (see ``GroupMember.fetch_from``): a restore of three ranges takes 0.1 s instead of 1.05 s.
        """
        targets = [KafkaPartition(where.topic, where.partition, start) for where, start in starts.items()]
        self._consumer.assign(targets)
        with suppress(KafkaException):
            self._consumer.get_watermark_offsets(targets[0], timeout=WAKE_WAIT_S)

    def _fetch(self, wait_s: float) -> list[Message]:
        """Wait for one message, then take those that are ready: `consume(n, t)` would wait ``t`` for all ``n``."""
        message = self._consumer.poll(wait_s)
        if message is None:
            return []
        return [message, *self._consumer.consume(BATCH_RECORDS - 1, 0.0)]

    def _check(self, message: Message, where: TopicPartition) -> int | None:
        """Return the offset of a partition-EOF. Move a start that was deleted; raise an error that is not transient."""
        error = message.error()
        if error is None or message.topic() != where.topic:
            return None
        if error.code() == PARTITION_EOF:
            return message.offset()
        if error.code() in OUT_OF_RANGE:
            low = self._low(where)
            logger.warning("%s begins at offset %d now; reading from there", where, low)
            self._consumer.assign(
                [
                    KafkaPartition(each.topic, each.partition, low if each == where else offset)
                    for each, offset in (self._followed or {where: low}).items()
                ]
            )
            return None
        if error.code() in TRANSIENT or error.retriable():
            return None
        raise KafkaException(error)


class _HiddenRange:
    """Watches for an open transaction that hides the rest of a range, and reports it repeatedly."""

    def __init__(self, where: TopicPartition, end: int) -> None:
        self._where, self._end = where, end
        self._eof: int | None = None
        self._since_s = time.monotonic()
        self._report_due_s = self._since_s + HIDDEN_REPORT_S

    def saw_eof(self, eof: int) -> None:
        self._eof = eof

    def progressed(self) -> None:
        self._since_s = time.monotonic()

    def quiet_s(self) -> float:
        """Return how long no record has arrived, 0 if no EOF was seen below the target."""
        return 0.0 if self._eof is None else time.monotonic() - self._since_s

    def report(self) -> None:
        if self._eof is None or time.monotonic() < self._report_due_s:
            return
        self._report_due_s = time.monotonic() + HIDDEN_REPORT_S
        logger.warning(
            "%s: an open transaction of another producer hides offsets %d to %d; waiting until it ends",
            self._where,
            self._eof,
            self._end - 1,
        )

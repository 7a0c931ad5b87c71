"""Read the committed records of one partition from one offset up to another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from repertory.bridge.log.kafka.config import KafkaConfig, logger
from repertory.bridge.log.kafka.messages import OUT_OF_RANGE, PARTITION_EOF, PASSING, made, records_of, runs
from repertory.bridge.log.record import Record, TopicPartition

#: Records handed over at once.
BATCH_RECORDS = 1_000
#: How long one wait for records lasts: after it the caller may look whether it is still wanted.
WAIT_S = 0.1
#: A question that is asked for the sake of asking; its answer does not matter.
WAKE_WAIT_S = 0.01
#: An open transaction of a dead owner is gone after a second; this long it is nothing to tell.
HIDDEN_REPORT_S = 3.0


class RangeReader:
    """One consumer without a group's life, used for one range after another. One thread."""

    def __init__(self, config: KafkaConfig, low: Callable[[TopicPartition], int]) -> None:
        self._consumer = made(Consumer, config.reader(config.lines()))
        self._low = low

    def close(self) -> None:
        """Release the consumer; may take some milliseconds."""
        self._consumer.close()

    def read(
        self, where: TopicPartition, start: int, end: int, quiet_max_s: float = math.inf
    ) -> Iterator[list[Record]]:
        """Yield the committed records in ``[start, end)`` in batches; an empty one when nothing came for a while.

        A partition-EOF at or above ``end`` ends it, or a record there: aborted records and transaction markers
        take offsets but are never delivered, and ``position()`` does not tell. An EOF below ``end`` is a foreign
        open transaction: it is waited for and reported, after ``quiet_max_s`` without a record it is left alone. A
        start that is no longer held becomes the first that is.
        """
        if start >= end:
            return
        self._assign({where: start})
        hidden = _Hidden(where, end)
        done = False
        while not done:
            messages = self._fetch(WAIT_S)
            records = []
            for record in records_of([m for m in messages if m.topic() == where.topic], where):
                if start <= record.offset < end:
                    records.append(record)
                done = done or record.offset >= end - 1
            for message in messages:
                eof = self._check(message, where)
                if eof is not None:
                    hidden.seen(eof)
                    done = done or eof >= end
            if records or done:
                hidden.moved()
            else:
                hidden.report()
                done = hidden.seconds() > quiet_max_s
            yield records

    def follow(self, topic: str, positions: dict[int, int], timeout_s: float) -> Iterator[Record]:
        """Yield the records of several partitions as they come; stop after ``timeout_s`` without one."""
        next_offsets = {TopicPartition(topic, partition): offset for partition, offset in positions.items()}
        self._assign(next_offsets)
        quiet_at_s = time.monotonic() + timeout_s
        while True:
            messages = self._fetch(max(0.0, min(WAIT_S, quiet_at_s - time.monotonic())))
            for where, run in runs(messages) if messages else ():
                for message in run:
                    self._check(message, where)
                for record in records_of(run, where):
                    if record.offset >= next_offsets.get(where, record.offset + 1):
                        next_offsets[where] = record.offset + 1
                        yield record
                        quiet_at_s = time.monotonic() + timeout_s
            if time.monotonic() >= quiet_at_s:
                return

    def rest(self) -> None:
        """Stop fetching, keep the connection."""
        self._consumer.unassign()

    def _assign(self, starts: dict[TopicPartition, int]) -> None:
        """Begin to fetch, and wake the broker's thread: idle since the last range, it would sleep on for a second.

        A question to the broker does that (see ``GroupMember.flow``): a restore of three ranges took 1.05 s before,
        and takes 0.1 s now.
        """
        targets = [KafkaPartition(where.topic, where.partition, start) for where, start in starts.items()]
        self._consumer.assign(targets)
        with suppress(KafkaException):
            self._consumer.get_watermark_offsets(targets[0], timeout=WAKE_WAIT_S)

    def _fetch(self, wait_s: float) -> list[Message]:
        """Wait for one message, then take what else is there: `consume(n, t)` would wait ``t`` for all ``n``."""
        message = self._consumer.poll(wait_s)
        if message is None:
            return []
        return [message, *self._consumer.consume(BATCH_RECORDS - 1, 0.0)]

    def _check(self, message: Message, where: TopicPartition) -> int | None:
        """Return the offset of a partition-EOF, move a start that is gone, raise what waiting does not mend."""
        error = message.error()
        if error is None or message.topic() != where.topic:
            return None
        if error.code() == PARTITION_EOF:
            return message.offset()
        if error.code() in OUT_OF_RANGE:
            low = self._low(where)
            logger.warning("%s begins at offset %d now; reading from there", where, low)
            self._consumer.assign([KafkaPartition(where.topic, where.partition, low)])
            return None
        if error.code() in PASSING or error.retriable():
            return None
        raise KafkaException(error)


class _Hidden:
    """Watches for an open transaction that hides the rest of a range, and says so now and then."""

    def __init__(self, where: TopicPartition, end: int) -> None:
        self._where, self._end = where, end
        self._eof: int | None = None
        self._since_s = time.monotonic()
        self._report_due_s = self._since_s + HIDDEN_REPORT_S

    def seen(self, eof: int) -> None:
        self._eof = eof

    def moved(self) -> None:
        self._since_s = time.monotonic()

    def seconds(self) -> float:
        """How long nothing has come though an end was seen below the target."""
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

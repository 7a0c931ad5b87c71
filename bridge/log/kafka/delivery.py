"""The delivery reports of one transaction: each topic's first offset, and the records that are refused for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, Message

from repertory.bridge.log.kafka.messages import UNKNOWN_PARTITION, UNKNOWN_TOPIC, describe
from repertory.bridge.log.kafka.refusals import Blame, Refusal, refusal_of
from repertory.bridge.log.port import OutputsRefused
from repertory.bridge.log.record import Output, TopicPartition

_SEEMS_UNKNOWN = UNKNOWN_TOPIC | {UNKNOWN_PARTITION}
#: A batch is too large for its topic, or one of its records is.
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}


class _Refused(NamedTuple):
    """One record that is refused for good."""

    output: Output
    refusal: Refusal
    error: KafkaError

    def is_like(self, other: _Refused) -> bool:
        """Return whether both are for one partition, and were refused for one cause."""
        here, there = self.output, other.output
        return (here.topic, here.partition, self.error.code()) == (there.topic, there.partition, other.error.code())


class DeliveryReports:
    """Belongs to one transaction of one claim, whose thread uses it.

    A report costs 1 µs (measured). So there is one for the first record of each topic, for each record of a topic
    outside the system, and for every record if ``reports_all``.
    """

    def __init__(self, system: str, *, reports_all: bool) -> None:
        self._prefix, self._reports_all = f"{system}.", reports_all
        self._refused: list[_Refused] = []
        #: Each topic's first offset, once that record is delivered.
        self.firsts: dict[str, int] = {}
        #: How many of the records that may be refused one by one have no report yet.
        self.waiting = 0

    def is_outside(self, topic: str) -> bool:
        """Return whether a topic is outside the system."""
        return not topic.startswith(self._prefix)

    def names_each(self, topic: str) -> bool:
        """Return whether every record of a topic has a report."""
        return self._reports_all or self.is_outside(topic)

    def expected(self, output: Output, *, names_each: bool, is_first: bool) -> _Report:
        """Return the callback for the report of a record: the first of its topic, or each."""
        self.waiting += names_each
        return _Report(self, output, names_each=names_each, is_first=is_first)

    def report(self, output: Output, error: KafkaError) -> None:
        """Note the error that a record was reported with.

        A topic that seems unknown may be known a little later: its next claim asks (``Admin.renew_doubted``).
        """
        if error.code() not in _SEEMS_UNKNOWN:
            self.refuse(output, error)

    def refuse(self, output: Output, error: KafkaError) -> None:
        """Note an error of a record, which may be a refusal."""
        refusal = refusal_of(error.code())
        if refusal is None or refusal.blame is Blame.NEIGHBOUR:
            return
        # One of our own topics that refuses everything is no fault of any command.
        if refusal.blame is Blame.RECORD or self.is_outside(output.topic):
            self._refused.append(_Refused(output, refusal, error))

    @property
    def has_refusals(self) -> bool:
        """Return whether a record was refused so far."""
        return bool(self._refused)

    @property
    def too_large_for(self) -> str | None:
        """The topic that refused a batch or a record for its size; None if none did."""
        return next((each.output.topic for each in self._too_large()), None)

    def _too_large(self) -> list[_Refused]:
        return [each for each in self._refused if each.error.code() in _TOO_LARGE]

    def event(self, shard: TopicPartition, outputs: Sequence[Output]) -> OutputsRefused | None:
        """Return the event for a transaction with these outputs, None if no record was refused so far.

        A topic that refuses everything refuses all outputs for it. Otherwise a broker refuses a batch together, which
        is of one partition: a record that was refused alone in its partition is guilty. If there is none, the event
        names the records of one partition that were refused for one cause, for their size if any were.
        """
        if not self._refused:
            return None
        topics = {each.output.topic for each in self._refused if each.refusal.blame is Blame.TOPIC}
        together = Counter((each.output.topic, each.output.partition) for each in self._refused)
        alone = [each for each in self._refused if together[each.output.topic, each.output.partition] == 1]
        closed = [each for each in self._refused if each.output.topic in topics]
        first = (*closed, *alone, *self._too_large(), *self._refused)[0]
        if topics:
            refused = [output for output in outputs if output.topic in topics]
        else:
            refused = [each.output for each in alone or filter(first.is_like, self._refused)]
        is_certain = bool(topics or alone)
        where = f"{first.output.topic}/{first.output.partition}"
        what = f"a record of {first.output.size_bytes:,} bytes" if is_certain else f"one of {len(refused)} records"
        reason = f"{where} refuses {what} for good: {first.refusal.why} ({describe(first.error)})"
        return OutputsRefused(shard, refused, reason, is_certain)


class _Report:
    """The delivery callback of one record."""

    __slots__ = ("_is_first", "_names_each", "_output", "_reports")

    def __init__(self, reports: DeliveryReports, output: Output, *, names_each: bool, is_first: bool) -> None:
        self._reports, self._output, self._names_each, self._is_first = reports, output, names_each, is_first

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        self._reports.waiting -= self._names_each
        offset = message.offset()
        if error is None and self._is_first and offset is not None:
            self._reports.firsts[self._output.topic] = offset
        elif error is not None and self._names_each:
            self._reports.report(self._output, error)

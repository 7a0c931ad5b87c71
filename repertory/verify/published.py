"""Check the records published to topics outside the system against those that deciding the commands again gives."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from repertory.actors.headers import EPOCH
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.verify.epochs import OwnerEpochs
from repertory.verify.findings import Findings, Place, text
from repertory.verify.headers import are_of_a_publication
from repertory.verify.produced import cause_of, digest
from repertory.verify.records import Records
from repertory.verify.values import Decode


class ExpectedRecord(NamedTuple):
    """A record that a command publishes: a hash, its partition, its command, and how its value is decoded."""

    digest: int
    partition: int
    command: Place
    decode: Decode | None


class PublishedOutputs:
    """The published records that are expected. Memory: about 250 bytes per record."""

    def __init__(
        self,
        system: str,
        sources: Collection[TopicPartition],
        compacted: Collection[str],
        epochs: OwnerEpochs,
        findings: Findings,
    ) -> None:
        self._prefix = f"{system}."
        self._sources, self._epochs, self._findings = sources, epochs, findings
        #: Topics of which superseded records are deleted.
        self._compacted = compacted
        #: Topic -> cause -> what is expected, in the order in which the commands of each shard were decided.
        self._expected: dict[str, dict[str, ExpectedRecord]] = {}
        #: Whether some commands could not be decided again: an unexpected record may be theirs.
        self.is_partial = False
        self._excused: set[tuple[TopicPartition, int]] = set()

    def is_foreign(self, topic: str) -> bool:
        """Whether a topic is outside the system."""
        return not topic.startswith(self._prefix)

    def expect(self, cause: str, output: Output, decode: Decode | None, command: Record) -> None:
        """Expect a record that a command publishes. The commands of each shard come in log order."""
        place = Place(command.topic, command.partition, command.offset, text(command.key))
        expected = ExpectedRecord(digest(output, decode), output.partition, place, decode)
        self._expected.setdefault(output.topic, {})[cause] = expected

    def excuse(self, source: TopicPartition, offset: int) -> None:
        """Allow the outputs of a command that was not applied: its shard works at least once and may have sent them."""
        self._excused.add((source, offset))

    def check(self, records: Records) -> None:
        """Read the topics and compare them with the expected records."""
        for topic, expected in self._expected.items():
            seen, is_cut = dict[str, int](), topic in self._compacted
            for place in records.partitions(topic):
                is_cut |= records.reader.bounds(*place)[0] > 0
                for record in records.read(*place):
                    self._published(record, expected, seen)
            for cause in expected.keys() - seen.keys():
                if is_cut:
                    self._findings.atomicity.unverifiable += 1
                else:
                    self._findings.atomicity.wrong(
                        expected[cause].command, f"lacks output {cause}, published to {topic}"
                    )
            self._order(topic, expected, seen)

    def _order(self, topic: str, expected: dict[str, ExpectedRecord], seen: dict[str, int]) -> None:
        """Check that the records of one entity in a partition are in the order of its commands."""
        last: dict[tuple[str, int, str | None, int], int] = {}
        for cause, each in expected.items():
            if (offset := seen.get(cause)) is None:
                continue
            self._findings.order.looked_at += 1
            lane = (each.command.topic, each.command.partition, each.command.key, each.partition)
            if offset < last.get(lane, -1):
                place = Place(topic, each.partition, offset)
                self._findings.order.wrong(place, f"is before an earlier output of key {each.command.key!r}")
            last[lane] = max(offset, last.get(lane, -1))

    def _published(self, record: Record, expected: dict[str, ExpectedRecord], seen: dict[str, int]) -> None:
        cause = cause_of(record)
        if cause is None or cause.source not in self._sources:
            return
        if not are_of_a_publication(record.headers) or not self._epochs.fit(cause.source, record.headers):
            return  # Others write to this topic too, with whatever headers.
        self._findings.duplicates.looked_at += 1
        name = f"{cause.source}/{cause.offset}/{cause.nth}"
        due = expected.get(name)
        is_due = due is not None and (due.digest, due.partition) == (digest(record, due.decode), record.partition)
        if name in seen and is_due and record.header(EPOCH) is not None:
            return  # A shard that works at least once has sent it again.
        if name in seen:
            self._findings.duplicates.wrong(record, f"has the cause {name} of another record of the topic")
        seen.setdefault(name, record.offset)
        if due is not None:
            if not is_due:
                self._findings.decisions.wrong(
                    record, f"differs from output {name}, as deciding its command again gives it"
                )
        elif self.is_partial or cause[:2] in self._excused:
            self._findings.decisions.unverifiable += 1
        else:
            self._findings.decisions.wrong(
                record, f"has the cause {name}, but deciding that command again does not give it"
            )

"""Check the records published to topics outside the system against those that deciding the commands again gives."""

from __future__ import annotations

from collections.abc import Collection

from repertory.actors.headers import EPOCH
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.verify.findings import Findings, Place, text
from repertory.verify.gather import Records
from repertory.verify.produced import cause_of, digest


class PublishedOutputs:
    """The published records that are expected. Memory: about 250 bytes per record."""

    def __init__(self, system: str, sources: Collection[TopicPartition], findings: Findings) -> None:
        self._prefix = f"{system}."
        self._sources, self._findings = sources, findings
        #: Topic -> cause -> (hash, partition, the command that published it).
        self._expected: dict[str, dict[str, tuple[int, int, Place]]] = {}
        #: Whether some commands could not be decided again: an unexpected record may be theirs.
        self.is_partial = False
        self._excused: set[tuple[TopicPartition, int]] = set()

    def is_foreign(self, topic: str) -> bool:
        """Whether a topic is outside the system."""
        return not topic.startswith(self._prefix)

    def expect(self, cause: str, output: Output, command: Record) -> None:
        """Expect a record that a command publishes."""
        place = Place(command.topic, command.partition, command.offset, text(command.key))
        self._expected.setdefault(output.topic, {})[cause] = (digest(output), output.partition, place)

    def excuse(self, source: TopicPartition, offset: int) -> None:
        """Allow the outputs of a command that was not applied: its shard works at least once and may have sent them."""
        self._excused.add((source, offset))

    def check(self, records: Records) -> None:
        """Read the topics and compare them with the expected records."""
        for topic, expected in self._expected.items():
            seen, is_cut = set[str](), False
            for place in records.partitions(topic):
                is_cut |= records.reader.bounds(*place)[0] > 0
                for record in records.read(*place):
                    self._published(record, expected, seen)
            for cause in expected.keys() - seen:
                if is_cut:
                    self._findings.atomicity.unverifiable += 1
                else:
                    self._findings.atomicity.wrong(expected[cause][2], f"lacks output {cause}, published to {topic}")

    def _published(self, record: Record, expected: dict[str, tuple[int, int, Place]], seen: set[str]) -> None:
        cause = cause_of(record)
        if cause is None or cause.source not in self._sources:
            return
        self._findings.duplicates.looked_at += 1
        name = f"{cause.source}/{cause.offset}/{cause.nth}"
        is_due = name in expected and expected[name][:2] == (digest(record), record.partition)
        if name in seen and is_due and record.header(EPOCH) is not None:
            return  # A shard that works at least once has sent it again.
        if name in seen:
            self._findings.duplicates.wrong(record, f"has the cause {name} of another record of the topic")
        seen.add(name)
        if name in expected:
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

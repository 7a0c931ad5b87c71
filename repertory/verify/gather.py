"""The outputs of a system's shards outside their own topics (tells, replies, dead letters), and the asks."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from typing import NamedTuple

from repertory.actors.control import CancelTimer, cancelled_timer
from repertory.actors.headers import (
    ATTEMPTS,
    BECAUSE,
    CAUSE,
    CORRELATION_ID,
    EPOCH,
    ERROR_MESSAGE,
    ERROR_TYPE,
    REPLY_KEY,
    REPLY_TO,
    RETRY_TO,
)
from repertory.actors.message import ClockAhead, IdConflict, TooOld, Undelivered, wire_name
from repertory.actors.shard.changelog import CHANGELOG_INDEX, RETRY_INDEX
from repertory.actors.shard.seen_causes import SeenCauses
from repertory.actors.wire import written_name
from repertory.bridge import topics
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.system.definition import SystemDefinition
from repertory.verify.ask_ids import AskIds
from repertory.verify.epochs import OwnerEpochs
from repertory.verify.findings import Finding, Findings, Place
from repertory.verify.headers import are_of_an_output, are_sent_later
from repertory.verify.later import SentLater, sent_later
from repertory.verify.overtaking import UrgentCommands
from repertory.verify.produced import Cause, Produced, Targets, cause_of, digest, without_failure
from repertory.verify.records import Records
from repertory.verify.relayed import RelayedCommands
from repertory.verify.repetitions import Repetitions
from repertory.verify.values import Receivers

_NAME = wire_name(Undelivered)
_UNDELIVERED = _NAME.encode()
_CANCEL = wire_name(CancelTimer)
#: Answers to an ask that say nothing about its command, but about its id.
_ABOUT_THE_ID = frozenset({wire_name(IdConflict), wire_name(ClockAhead), wire_name(TooOld)})
#: As in the codec: a longer number is not a partition, and the command is not an ask.
_PARTITION_DIGITS_MAX = 9


class DeadLetterEntry(NamedTuple):
    """A dead letter: its failure, a hash of everything else, and its place."""

    nth: int
    error: str
    reason: str
    attempts: str
    digest: int
    place: Place


class Gathered:
    """The records outside the shards' own topics, by the shard whose command produced them."""

    def __init__(
        self,
        records: Records,
        system: SystemDefinition,
        sources: Mapping[TopicPartition, HostedEntity],
        receivers: Receivers,
        epochs: OwnerEpochs,
        findings: Findings,
        relayed: RelayedCommands,
    ) -> None:
        self._records, self._receivers, self._findings, self._relayed = records, receivers, findings, relayed
        self.ids = AskIds(sources)
        self._repetitions: dict[TopicPartition, Repetitions] = {}
        self._epochs, self._causes_max = epochs, system.settings.seen_causes_max
        self._answered: set[tuple[bytes, int]] = set()
        #: Who waits for the outcome of a dead letter's retry; and the requests whose outcome was answered.
        self._retries: set[bytes] = set()
        self._retried: set[tuple[TopicPartition, int]] = set()
        self.targets = Targets()
        self.produced = {source: Produced() for source in sources}
        #: The timers that operators have cancelled (shard, key, name), and the offset of the last request.
        self.cancelled: dict[tuple[TopicPartition, bytes | None, str], int] = {}
        self.urgent = UrgentCommands({at: {*map(wire_name, each.behaviour.urgent)} for at, each in sources.items()})
        #: What each shard has sent later.
        self.sent_later: dict[TopicPartition, list[SentLater]] = {source: [] for source in sources}
        #: The commands whose first output tells an asker that there is no answer: of a query, that it failed.
        self.undelivered: dict[TopicPartition, set[int]] = {source: set() for source in sources}
        self.dead: dict[TopicPartition, dict[int, list[DeadLetterEntry]]] = {source: {} for source in sources}
        name = system.name
        self._prefix = f"{name}."
        self._replies_topic, self._dead_topic = topics.replies_topic(name), topics.dead_letters_topic(name)
        #: Hashes of the address and correlation id of each ask and of each reply, and the place of each reply.
        self._asks = array("q")
        self._answers, self._answer_targets, self._answer_places = array("q"), array("I"), array("q")
        #: Hashes of the address of each ask with an id and of that id, and of the address and value of each answer.
        self._ask_ids: dict[int, int] = {}
        self._values: list[tuple[int, int, Place]] = []
        self._has_all_commands, self.has_cut_dead_letters = True, False

    def read(self, on_command: Callable[[Record], None]) -> None:
        """Read the commands, the replies and the dead letters."""
        for source in self.produced:
            is_whole = self._low(source) == 0
            self._has_all_commands &= is_whole
            repetitions = self._repetitions[source] = Repetitions(
                source, self._epochs, self._seen(), is_whole=is_whole, findings=self._findings
            )
            for record in self._records.read(*source):
                self.urgent.take(source, record)
                if record.headers:
                    self._command(record)
                    self._relayed.command(record)
                    repetitions.take(record)
                if record.offset not in repetitions.repeated:
                    on_command(record)
        for place in self._records.partitions(self._replies_topic):
            self._low(place)
            for record in self._records.read(*place):
                self._reply(record)
        for place in self._records.partitions(self._dead_topic):
            self.has_cut_dead_letters |= self._low(place) > 0
            for record in self._records.read(*place):
                self._dead_letter(record)

    def _seen(self) -> SeenCauses:
        """Return the seen causes of a shard that has handled no command yet."""
        count = self._records.reader.partition_count
        return SeenCauses(self._causes_max, lambda topic, partition: partition < (count(topic) or 0))

    def _low(self, place: TopicPartition) -> int:
        low, _ = self._records.reader.bounds(*place)
        self.targets.lows[self.targets.number(place)] = low
        return low

    def repeated_of(self, source: TopicPartition, stashed: Collection[int], *, has_seen: bool) -> set[int]:
        """Return the commands of a shard that were dropped: of those that may have been, the ones without any trace.

        ``has_seen``: the shard has written seen records, which are compared with the commands.
        """
        found = self._repetitions[source]
        if has_seen:
            found.compare()
        return found.repeated | (found.maybe - self.produced[source].offsets() - self.dead[source].keys() - {*stashed})

    def _command(self, record: Record) -> None:
        """Record an ask, and a tell or a reply to an entity. Commands from outside the system may have any headers."""
        headers = dict(record.headers)
        if written_name(record.value or b"") == _CANCEL and (name := cancelled_timer(record.value or b"")) is not None:
            self.cancelled[TopicPartition(record.topic, record.partition), record.key, name] = record.offset
        if REPLY_TO in headers and (asked := _asked(headers)) is not None:
            self._asks.append(asked)
            if (ask_id := self.ids.of(record)) is not None:
                self._ask_ids[asked] = ask_id
        if RETRY_TO in headers:
            self._retries.add(headers[RETRY_TO])
        cause = cause_of(record)
        if cause is None or not cause.source.topic.startswith(self._prefix):
            return
        if cause.nth >= CHANGELOG_INDEX and are_sent_later(record.headers):
            self._sent_later(record, cause)
            return
        if not are_of_an_output(record.headers, cause.source.topic) or not self._epochs.fit(
            cause.source, record.headers
        ):
            return
        is_reply = CORRELATION_ID in headers and REPLY_TO not in headers
        self._note(record, cause, self._findings.replies if is_reply else self._findings.tells)
        if is_reply:
            key = hash((record.topic.encode(), record.key, headers[CORRELATION_ID]))
            self._answer(record, key)

    def _sent_later(self, record: Record, cause: Cause) -> None:
        """Record the command of a timer, or a delayed message."""
        found = sent_later(record, cause.nth, cause.source) if cause.source in self.sent_later else None
        if found is None:
            self._findings.later.wrong(record, f"has headers that no shard writes: {record.headers!r:.300}")
        else:
            self.sent_later[cause.source].append(found)

    def _reply(self, record: Record) -> None:
        cause, to = cause_of(record), f"{record.topic}/{record.partition}".encode()
        if cause is not None and cause.nth == RETRY_INDEX and cause.source in self.produced:
            self._retry_ended(record, cause, to)
        elif self._note(record, cause, self._findings.replies):
            key = hash((to, b"", record.header(CORRELATION_ID) or b""))
            self._answer(record, key)
            if key in self._ask_ids and written_name(record.value or b"") not in _ABOUT_THE_ID:
                self._values.append(
                    (self._ask_ids[key], hash(record.value), Place(record.topic, record.partition, record.offset))
                )

    def _retry_ended(self, record: Record, cause: Cause, to: bytes) -> None:
        """Check the answer to an operator who retried a command: there is one for each request, beside its `Done`."""
        finding, correlation_id = self._findings.replies, record.header(CORRELATION_ID) or b""
        finding.looked_at += 1
        if cause[:2] in self._retried and record.header(EPOCH) is None:
            finding.wrong(record, "is a second outcome of one retry")
        self._retried.add(cause[:2])
        is_asked = hash((to, b"", correlation_id)) in self._asks or to + b"/" + correlation_id in self._retries
        if not is_asked and self._has_all_commands:
            finding.wrong(record, "is the outcome of a retry that nobody requested")

    def _answer(self, record: Record, key: int) -> None:
        """Record a reply. At least once, a repeated reply of a command to the same ask is not a second reply."""
        if record.header(EPOCH) is not None:
            answer = ((record.header(CAUSE) or b"").rpartition(b"/")[0], key)
            if answer in self._answered:
                return
            self._answered.add(answer)
        self._answers.append(key)
        self._answer_targets.append(self.targets.number(TopicPartition(record.topic, record.partition)))
        self._answer_places.append(record.offset)

    def _dead_letter(self, record: Record) -> None:
        if self._relayed.letter(record):
            return
        cause = cause_of(record)
        if cause is not None and cause.nth >= CHANGELOG_INDEX and record.header(BECAUSE) is not None:
            self._sent_later(record, cause)
            return
        if not self._note(record, cause, self._findings.dead) or cause is None:
            return
        error, reason, attempts = (
            (record.header(name) or b"").decode(errors="backslashreplace")
            for name in (ERROR_TYPE, ERROR_MESSAGE, ATTEMPTS)
        )
        place = Place(record.topic, record.partition, record.offset)
        rest = hash((record.key, record.value, without_failure(record.headers)))
        entries = self.dead[cause.source].setdefault(cause.offset, [])
        entries.append(DeadLetterEntry(cause.nth, error, reason, attempts, rest, place))

    def _note(self, record: Record, cause: Cause | None, finding: Finding) -> bool:
        """Record one output for its source shard; return whether it has one."""
        finding.looked_at += 1
        if cause is None:
            finding.wrong(record, "has no cause")
        elif not self._epochs.fit(cause.source, record.headers):
            finding.wrong(record, f"has the epoch {record.header(EPOCH)!r:.100}, which is no owner's of its source")
        elif cause.source not in self.produced or cause.nth >= CHANGELOG_INDEX:
            finding.wrong(record, f"names the cause {record.header(CAUSE)!r:.300}, which is not of this system")
        else:
            target = self.targets.number(TopicPartition(record.topic, record.partition))
            decode = self._receivers.of(record.topic, cause.source.topic)
            self.produced[cause.source].add(cause, target, digest(record, decode), record.offset)
            if cause.nth == 0 and _UNDELIVERED in (record.value or b"") and written_name(record.value or b"") == _NAME:
                self.undelivered[cause.source].add(cause.offset)
            return True
        return False

    # --- the end ----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Check that each reply has an ask, each ask at most one reply, and each id one answer."""
        answers_of: dict[int, int] = {}
        for asked, value, place in self._values:
            if answers_of.setdefault(asked, value) != value:
                self._findings.replies.wrong(place, "is another answer to an id than the one before it")
        asks = sorted(self._asks)
        answers = sorted(range(len(self._answers)), key=lambda at: (self._answers[at], self._answer_places[at]))
        for key, group in groupby(answers, self._answers.__getitem__):
            asked = bisect_right(asks, key) - bisect_left(asks, key)
            for at in list(group)[asked:]:
                if not asked and not self._has_all_commands:
                    self._findings.replies.unverifiable += 1
                    continue
                place = Place(*self.targets.name(self._answer_targets[at]), self._answer_places[at])
                sentence = "is a second reply to its ask" if asked else "is a reply without an ask"
                self._findings.replies.wrong(place, sentence)


def _asked(headers: dict[str, bytes]) -> int | None:
    """Return a hash of the address of an ask, as its reply has it; None if the header is not a valid address."""
    topic, slash, partition = headers[REPLY_TO].partition(b"/")
    correlation_id = headers.get(CORRELATION_ID, b"")
    if not slash:
        return hash((topic, headers.get(REPLY_KEY, b""), correlation_id))
    if not partition.isdigit() or len(partition) > _PARTITION_DIGITS_MAX:
        return None
    return hash((topic + b"/%d" % int(partition), b"", correlation_id))

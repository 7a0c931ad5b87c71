"""One command of one shard, decided again on the state of its moment: what it must have made, byte for byte."""

from __future__ import annotations

from typing import NamedTuple

from repertory.actors.context import Directory
from repertory.actors.entity import Entity
from repertory.actors.message import Envelope
from repertory.actors.shard.changelog import ShardId, first_shard_record
from repertory.actors.shard.decision import Decision, decide
from repertory.actors.shard.turn import outputs_of
from repertory.actors.shard.turn_result import Counts, Journaled, TurnOutput, TurnResult
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.verify.changelog import Changelog
from repertory.verify.compare import equal
from repertory.verify.findings import Findings
from repertory.verify.gather import Gathered
from repertory.verify.produced import Made, digest, event_digest
from repertory.verify.published import PublishedOutputs

#: Restarts that are tried for a command whose attempt the log does not say any more.
_ATTEMPTS_MAX = 20
_FIRST_RECORD = first_shard_record()
_NO_COUNTS = Counts()


class Subject(NamedTuple):
    """One shard under verification, and what is known of it. ``low`` is its first command that is still there."""

    source: TopicPartition
    hosted: HostedEntity
    changelog: Changelog
    gathered: Gathered
    published: PublishedOutputs
    findings: Findings
    directory: Directory
    output_bytes_max: int
    low: int

    @property
    def prefix(self) -> str:
        """What the causes of this shard begin with."""
        return f"{self.source.topic}/{self.source.partition}/"


class Moment(NamedTuple):
    """An entity and its encoding, between two commands."""

    state: Entity
    data: bytes


class Again(NamedTuple):
    """What deciding a command again gives, ``made`` within the system; or the ``error`` of the last attempt."""

    decision: Decision | None
    made: list[Made]
    outputs: list[Output]
    error: str


class Decider:
    """The entities of one shard between two commands. ``moments`` lacks those that are at their beginning."""

    def __init__(self, subject: Subject, moments: dict[str, Moment]) -> None:
        self._subject = subject
        self._behaviour, self._codec = subject.hosted.behaviour, subject.hosted.codec
        self._shard = ShardId(self._behaviour.name, subject.source.partition)
        self.moments = moments

    def again(self, record: Record, delivery: Envelope, made: list[Made]) -> Again:
        """Decide a command again, as often as it took; what the log says of its attempts is tried first."""
        known = self._subject.changelog.attempts.get(record.offset)
        restarts = min(self._subject.hosted.policy.max_restarts, _ATTEMPTS_MAX)
        attempts = [*([] if known is None else [known]), *range(1, restarts + 2)]
        first: Again | None = None
        for attempt in attempts:
            again = self._decide(record, delivery, attempt)
            if again.decision is not None and equal(made, again.made):
                return again
            if first is None or first.decision is None:
                first = again
            # Decoded anew: a handler may have changed the lists of its command.
            decoded = self._codec.decode(record)
            assert isinstance(decoded, Envelope), record
            delivery = decoded
        assert first is not None
        return first

    def _decide(self, record: Record, delivery: Envelope, attempt: int) -> Again:
        behaviour, subject, key = self._behaviour, self._subject, delivery.key
        moment = self.moments.get(key)
        state, data = moment if moment is not None else (behaviour.initial(), behaviour.initial_data)
        try:
            decision = decide(
                behaviour, state, data, delivery, subject.directory,
                cause=f"{subject.prefix}{record.offset}", attempt=attempt, bytes_max=subject.output_bytes_max,
            )  # fmt: skip
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  user code
            if behaviour.has_mutable_fields and moment is not None:
                self.moments[key] = Moment(behaviour.state_decode(data), data)
            return Again(None, [], [], f"{type(error).__name__}: {error}"[:300])
        outputs: list[TurnOutput] = [
            Journaled(key, event, 0, 0, record.offset, index) for index, event in enumerate(decision.events)
        ]
        outputs += outputs_of(delivery, decision)
        encoded = self.encoded(outputs, record.offset) if outputs else []
        is_foreign = subject.published.is_foreign
        made = [self.made(output, index) for index, output in enumerate(encoded) if not is_foreign(output.topic)]
        return Again(decision, made, encoded, "")

    def encoded(self, outputs: list[TurnOutput], offset: int) -> list[Output]:
        """Return outputs as the codec writes them, without the shard record that ends each transaction."""
        result = TurnResult(self._shard, outputs, [], _FIRST_RECORD, offset, 0, _NO_COUNTS, [])
        return list(self._codec.encode(result).records)[:-1]

    def made(self, output: Output, index: int) -> Made:
        """Return an output as it is known of those that stand in the log."""
        target = self._subject.gathered.targets.number(TopicPartition(output.topic, output.partition))
        is_event = output.topic == self._codec.events
        return Made(index, target, event_digest(output.key, output.value) if is_event else digest(output), -1)

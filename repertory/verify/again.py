"""Decide one command of one shard again, on the state before it, and return the records it must have produced."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from repertory.actors.collected import Send, Tell
from repertory.actors.context import Directory
from repertory.actors.control import cancel_of
from repertory.actors.entity import Entity
from repertory.actors.message import Envelope, Message
from repertory.actors.shard.changelog import ShardId, first_shard_record
from repertory.actors.shard.decision import Decision, decide, decide_query
from repertory.actors.shard.outputs import outputs_of
from repertory.actors.shard.turn_result import Counts, DeadLettered, Journaled, TurnOutput, TurnResult
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.supervision.traceback_text import message_of
from repertory.verify.changelog import Changelog
from repertory.verify.compare import equal
from repertory.verify.findings import Findings
from repertory.verify.gather import Gathered
from repertory.verify.headers import due
from repertory.verify.produced import Made, digest, event_digest
from repertory.verify.published import PublishedOutputs
from repertory.verify.values import Receivers

#: Restarts that are tried for a command whose attempt the log no longer records.
_ATTEMPTS_MAX = 20
_FIRST_RECORD = first_shard_record()
_NO_COUNTS = Counts()


class Subject(NamedTuple):
    """One shard under verification and its data. ``low`` is the offset of the first command still in the log."""

    source: TopicPartition
    hosted: HostedEntity
    changelog: Changelog
    gathered: Gathered
    published: PublishedOutputs
    receivers: Receivers
    findings: Findings
    directory: Directory
    output_bytes_max: int
    ids_ahead_ms: float
    low: int

    @property
    def prefix(self) -> str:
        """The prefix of this shard's causes."""
        return f"{self.source.topic}/{self.source.partition}/"


class Moment(NamedTuple):
    """The state of an entity between two commands, and its encoding."""

    state: Entity
    data: bytes


class Again(NamedTuple):
    """The result of deciding a command again: ``outputs``, of which ``made`` stay in the system; or an ``error``."""

    decision: Decision | None
    made: list[Made]
    outputs: list[Output]
    error: str

    def published(self, index: int) -> Message | bytes:
        """Return the value that the handler published as the output ``index``."""
        assert self.decision is not None
        collected = self.decision.outputs[index - len(self.decision.events)]
        assert not isinstance(collected, Tell | Send), collected
        return collected.value


class Decider:
    """The entities of one shard between two commands. ``moments`` does not hold entities in their initial state."""

    def __init__(self, subject: Subject, moments: dict[str, Moment]) -> None:
        self._subject = subject
        self._behaviour, self._codec = subject.hosted.behaviour, subject.hosted.codec
        self._shard = ShardId(self._behaviour.name, subject.source.partition)
        self.moments = moments
        #: The commands that have cancelled starts of sagas, which are dead letters.
        dead = subject.gathered.dead[subject.source].values()
        self._dropping = {cancel_of(each.error, each.reason) for entries in dead for each in entries}

    def again(self, record: Record, delivery: Envelope, made: list[Made]) -> Again:
        """Decide a command again, once for each possible attempt; an attempt that the log records is tried first."""
        known = self._subject.changelog.attempts.get(record.offset)
        restarts = min(self._subject.hosted.policy.max_restarts, _ATTEMPTS_MAX)
        attempts = [*([] if known is None else [known]), *range(1, restarts + 2)]
        first: Again | None = None
        for attempt in attempts:
            again = self._without_deleted(made, self._decide(record, delivery, attempt, self.moments.get(delivery.key)))
            if again.decision is not None and equal(made, again.made):
                return again
            if first is None or first.decision is None:
                first = again
            # Decode it afresh: a handler may have changed the lists of its command.
            decoded = self._codec.decode(record)
            assert isinstance(decoded, Envelope), record
            delivery = decoded
        assert first is not None
        if self._subject.gathered.has_cut_dead_letters and type(delivery.message) in self._behaviour.cancels:
            dropping = msgspec.structs.replace(delivery, drops_start=True)  # What it dropped is deleted, perhaps.
            again = self._decide(record, dropping, 1, self.moments.get(delivery.key))
            return again if equal(made, again.made) else first
        return first

    def answered(self, record: Record, delivery: Envelope, moment: Moment | None) -> Again:
        """Decide a query again on a state of its entity; None is the initial one."""
        return self._decide(record, delivery, 1, moment)

    def _without_deleted(self, made: list[Made], again: Again) -> Again:
        """Return a decision without the events that are missing because the journal's first events were deleted.

        An event that is missing behind them leaves a gap in the numbers of the journal, which `Journal` finds.
        """
        cut = self._subject.gathered.targets.cut
        if not cut:
            return again
        found = {each.nth for each in made}
        kept = [each for each in again.made if each.target not in cut or each.nth in found]
        self._subject.findings.atomicity.unverifiable += len(kept) < len(again.made)
        return again._replace(made=kept)

    def _decide(self, record: Record, delivery: Envelope, attempt: int, moment: Moment | None) -> Again:
        behaviour, subject, key = self._behaviour, self._subject, delivery.key
        if record.offset in self._dropping:
            delivery = msgspec.structs.replace(delivery, drops_start=True)
        run = decide_query if type(delivery.message) in behaviour.queries else decide
        state, data = moment if moment is not None else (behaviour.initial(), behaviour.initial_data)
        try:
            decision = run(
                behaviour, state, data, delivery, subject.directory,
                cause=f"{subject.prefix}{record.offset}", attempt=attempt, bytes_max=subject.output_bytes_max,
            )  # fmt: skip
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  user code
            if behaviour.has_mutable_fields and moment is not None and self.moments.get(key) is moment:
                self.moments[key] = Moment(behaviour.state_decode(data), data)
            return Again(None, [], [], f"{type(error).__name__}: {message_of(error)}"[:300])
        outputs: list[TurnOutput] = [
            Journaled(key, event, 0, 0, record.offset, index) for index, event in enumerate(decision.events)
        ]
        outputs += outputs_of(delivery, decision)
        encoded = self.encoded(outputs, record.offset) if outputs else []
        is_foreign = subject.published.is_foreign
        made = [self.made(output, index) for index, output in enumerate(encoded) if not is_foreign(output.topic)]
        return Again(decision, made, encoded, "")

    def encoded(self, outputs: list[TurnOutput], offset: int) -> list[Output]:
        """Return outputs as the codec encodes them, without the shard record that ends each transaction.

        The headers of those that others receive are not the codec's, which may be what is wrong.
        """
        result = TurnResult(self._shard, outputs, [], _FIRST_RECORD, offset, 0, _NO_COUNTS, [])
        records = self._codec.encode(result).records[:-1]
        return [self._with_due_headers(*each) for each in zip(outputs, records, strict=True)]

    def _with_due_headers(self, output: TurnOutput, record: Output) -> Output:
        if isinstance(output, Journaled | DeadLettered):
            return record
        cause = f"{self._subject.prefix}{output.offset}/{output.index}".encode()
        return msgspec.structs.replace(record, headers=due(output, self._codec.commands, cause))

    def made(self, output: Output, index: int) -> Made:
        """Return an output in the form in which the outputs in the log are compared."""
        target = self._subject.gathered.targets.number(TopicPartition(output.topic, output.partition))
        decode = self._subject.receivers.of(output.topic, self._codec.commands)
        is_event = output.topic == self._codec.events
        found = event_digest(output.key, output.value, decode) if is_event else digest(output, decode)
        return Made(index, target, found, -1)

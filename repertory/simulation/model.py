"""What should have happened: each entity's commands handled one at a time, in the order of the log, without a fault.

The model takes the commands as they stand in the log, and decides each again on the state that the ones before it of
the same key have left. It knows nothing of shards, batches, windows, restores or workers: only handlers, which are
pure, and policies. Where an outcome depends on when something failed (a key that was parked for a while), all outcomes
that are allowed are accepted, and the one that was chosen is gone on with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from repertory.actors.context import Directory, Publish, Reply, Tell
from repertory.actors.control import is_control
from repertory.actors.entity import resolved
from repertory.actors.headers import ERROR_TYPE
from repertory.actors.message import Envelope, Sender, Undecodable
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import StashedRecord
from repertory.actors.shard.decision import Decision, decide
from repertory.bridge import topics
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record
from repertory.simulation.swarm import INJECTED
from repertory.simulation.virtual import Violation
from repertory.supervision.directive import qualified_name

#: A handler that fails this often in a row at ever higher attempts is taken to fail always.
_ATTEMPTS_MAX = 12
_INJECTED = frozenset(qualified_name(error) for error in INJECTED)
_NO_RECORDS: Mapping[int, Record] = {}


class ExpectedOutput(msgspec.Struct, frozen=True):
    """A record that a command must have made. None stands for what the model does not say."""

    topic: str
    key: bytes | None
    value: bytes | None


class Seen(msgspec.Struct, frozen=True):
    """What the log says of one shard: its commands up to ``next``, what came of each by offset, and what waits."""

    partition: int
    next: int
    commands: list[Record]
    outputs: Mapping[int, Mapping[int, Record]]
    stash: Mapping[int, StashedRecord]
    #: Commands whose handlers were made to fail.
    raised: frozenset[int]
    #: Commands within whose handlers so many processes died that they may be given up.
    deadly: frozenset[int]
    #: Whether what has no room to wait becomes a dead letter.
    overflows: bool


class ModelEntity:
    """One entity in the model. ``troubled``: a command failed; ``queue``: offsets that wait at the end."""

    __slots__ = ("data", "journal", "queue", "state", "troubled")

    def __init__(self, hosted: HostedEntity) -> None:
        self.state, self.data = hosted.behaviour.initial(), hosted.behaviour.initial_data
        self.journal: list[int] = []
        self.troubled = False
        self.queue: list[int] = []


class Model:
    """One shard, handled by the book. Raises Violation from ``run``; afterwards ``lives`` are what must be there."""

    def __init__(self, hosted: HostedEntity, directory: Directory, system: str, seen: Seen) -> None:
        self._hosted, self._directory, self._system, self._seen = hosted, directory, system, seen
        self._prefix = f"{hosted.codec.commands}/{seen.partition}/"
        self._dead_letters = topics.dead_letters_topic(system)
        self.lives: dict[str, ModelEntity] = {}
        self.dead = 0

    def run(self) -> None:
        """Handle every command below the committed offset."""
        seen = self._seen
        for record in seen.commands:
            if record.offset >= seen.next:
                if record.offset in seen.outputs:
                    raise self._wrong("nothing comes of what is not consumed", record.offset, "has outputs")
                continue
            self._handle(record)

    def _handle(self, record: Record) -> None:
        delivery = self._hosted.codec.decode(record)
        got = self._seen.outputs.get(record.offset, _NO_RECORDS)
        if isinstance(delivery, Undecodable):
            self._check_dead(delivery, delivery.value, delivery.key, got, None)
            return
        if is_control(delivery):
            if len(got) > (delivery.sender is not None):
                raise self._wrong("a control record makes nothing", record.offset, f"made {len(got)} records")
            return
        raw_key = delivery.key.encode()
        if partition_of(raw_key, self._hosted.partitions) != self._seen.partition:
            self._check_dead(delivery, delivery.value, raw_key, got, frozenset({"WrongPartition"}))
            return
        life = self.lives.get(delivery.key)
        if life is None:
            life = self.lives[delivery.key] = ModelEntity(self._hosted)
        self._live(life, delivery, raw_key, got)

    def _live(self, life: ModelEntity, delivery: Envelope, raw_key: bytes, got: Mapping[int, Record]) -> None:
        """Handle one command of an entity; hold what the log says of it against what it may say."""
        waits = delivery.offset in self._seen.stash
        if waits and not got and (life.queue or life.troubled or self._fails(life, delivery)):
            life.troubled = True
            life.queue.append(delivery.offset)
            return
        is_dead = 0 in got and got[0].topic == self._dead_letters
        error = (got[0].header(ERROR_TYPE) or b"").decode() if is_dead else ""
        if life.queue and not (is_dead and (delivery.sender is not None or error == "NoRoom")):
            raise self._wrong(
                "later commands wait behind a failed one", delivery.offset, f"{life.queue[0]} still waits"
            )
        if is_dead:
            allowed = {"Parked", "Dropped"} if life.troubled else set[str]()
            if delivery.offset in self._seen.deadly:
                allowed.add("Quarantined")
            if not life.queue and (errors := self._errors(life, delivery)):
                life.troubled = True
                allowed |= {*errors, "Dropped"}  # It may have been parked, and dropped by an operator.
            if self._seen.overflows and life.troubled:
                allowed.add("NoRoom")
            self._check_dead(delivery, delivery.value, raw_key, got, frozenset(allowed))
            return
        if waits:
            raise self._wrong("nothing waits that was handled", delivery.offset, f"waits and made {len(got)} records")
        life.troubled = life.troubled or delivery.offset in self._seen.raised
        decision = self._applied(life, delivery, got)
        if decision.rejected:
            return
        life.state, life.data = decision.state, decision.data
        life.journal += [delivery.offset] * len(decision.events)

    def _applied(self, life: ModelEntity, delivery: Envelope, got: Mapping[int, Record]) -> Decision:
        """Return the decision that the log shows, at whatever attempt it was made."""
        expected: Decision | Exception | None = None
        attempts = 1
        while attempts <= _ATTEMPTS_MAX:
            outcome = self._decide(life, delivery, attempts)
            if isinstance(outcome, Decision) and _matches(list(self._outputs(delivery, outcome)), got):
                life.troubled = life.troubled or attempts > 1
                return outcome
            expected = expected or outcome
            if isinstance(outcome, Decision) and delivery.offset not in self._seen.raised:
                break
            attempts += 1
        shown = {index: (record.topic, record.key, record.value) for index, record in got.items()}
        if isinstance(expected, Decision):
            wanted: object = list(self._outputs(delivery, expected))
        else:
            wanted = expected
        raise self._wrong("every command has its effects, once", delivery.offset, f"made {shown}, expected {wanted}")

    def _decide(self, life: ModelEntity, delivery: Envelope, attempt: int) -> Decision | Exception:
        try:
            return decide(
                self._hosted.behaviour, life.state, life.data, delivery, self._directory,
                cause=f"{self._prefix}{delivery.offset}", attempt=attempt, bytes_max=1_000_000,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  whatever user code raises
            life.state = self._hosted.behaviour.state_decode(life.data)  # It may have been changed in place.
            return error

    def _fails(self, life: ModelEntity, delivery: Envelope) -> bool:
        return delivery.offset in self._seen.raised or isinstance(self._decide(life, delivery, 1), Exception)

    def _errors(self, life: ModelEntity, delivery: Envelope) -> set[str]:
        """Return the error types that this command's dead letter may name."""
        found = set(_INJECTED) if delivery.offset in self._seen.raised else set[str]()
        for attempt in range(1, _ATTEMPTS_MAX):
            outcome = self._decide(life, delivery, attempt)
            if not isinstance(outcome, Exception):
                break
            found.add(qualified_name(type(outcome)))
        return found

    def _outputs(self, delivery: Envelope, decision: Decision) -> Iterator[ExpectedOutput]:
        codec = self._hosted.codec
        for data in decision.events:
            yield ExpectedOutput(codec.events, delivery.key.encode(), data)
        for output, data in zip(decision.outputs, decision.sent, strict=True):
            match output:
                case Tell(handler, key):
                    name = resolved(handler.owner).name
                    yield ExpectedOutput(topics.commands_topic(self._system, name), key.encode(), data)
                case Publish(topic, _, key):
                    yield ExpectedOutput(topic, None if key is None else key.encode(), data)
                case Reply(to, _):
                    yield _reply(to, data)
        if decision.reply is not None and delivery.sender is not None:
            yield _reply(delivery.sender, decision.reply_data)

    def _check_dead(
        self,
        delivery: Envelope | Undecodable,
        value: bytes | None,
        key: bytes | None,
        got: Mapping[int, Record],
        allowed: frozenset[str] | None,
    ) -> None:
        """Hold a dead letter against its command: the bytes, the error if it is known, and whoever asked is told."""
        expected = [ExpectedOutput(self._dead_letters, key, value)]
        if delivery.sender is not None:
            expected.append(_reply(delivery.sender, None))
        if not _matches(expected, got):
            shown = {index: (record.topic, record.key, record.value) for index, record in got.items()}
            raise self._wrong("a dead letter is complete", delivery.offset, f"made {shown}, expected {expected}")
        error = (got[0].header(ERROR_TYPE) or b"").decode()
        if allowed is not None and error not in allowed:
            raise self._wrong("nothing is given up without a reason", delivery.offset, f"is a dead letter for {error}")
        self.dead += 1

    def _wrong(self, rule: str, offset: int, detail: str) -> Violation:
        return Violation(rule, f"{self._prefix}{offset} {detail}")


def _reply(to: Sender, data: bytes | None) -> ExpectedOutput:
    return ExpectedOutput(to.topic, to.correlation_id.encode() if to.key is None else to.key.encode(), data)


def _matches(expected: list[ExpectedOutput], got: Mapping[int, Record]) -> bool:
    if len(expected) != len(got):
        return False
    for index, output in enumerate(expected):
        record = got.get(index)
        if record is None or record.topic != output.topic or record.key != output.key:
            return False
        if output.value is not None and record.value != output.value:
            return False
    return True

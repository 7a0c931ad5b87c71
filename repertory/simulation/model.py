"""The expected outcome: each entity's commands handled one at a time, in log order, without a fault.

The model reads the commands from the log and decides each again on the state that the earlier commands of its key have
led to. It knows nothing of shards, batches, windows, restores or workers: only handlers, which are pure, and policies.
If the outcome depends on the time of a failure (a key that was parked for a while), every allowed outcome is accepted,
and the model continues with the one that is in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from repertory.actors.collected import Publish, Reply, Send, Tell
from repertory.actors.context import Directory, OutputRefused
from repertory.actors.control import RetryParked
from repertory.actors.entity import resolved
from repertory.actors.headers import ERROR_TYPE
from repertory.actors.message import Envelope, Undecodable, Undelivered
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import RETRY_INDEX
from repertory.actors.shard.decision import Decision, decide, decide_query
from repertory.actors.shard.mailbox import Delivery
from repertory.actors.shard.turn import REASON_CHARS_MAX
from repertory.actors.wire import encode
from repertory.bridge import topics
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record
from repertory.simulation.asked import AskedIds
from repertory.simulation.expected import ExpectedOutput, is_undelivered, matches, reply_to
from repertory.simulation.seen import Seen
from repertory.simulation.swarm import INJECTED
from repertory.simulation.timed import LaterChecks
from repertory.simulation.virtual import Violation
from repertory.supervision.directive import Failure, qualified_name
from repertory.verify.owed import Owed

#: A handler that fails at this many attempts in a row is assumed to fail always.
_ATTEMPTS_MAX = 12
_INJECTED = frozenset(qualified_name(error) for error in (*INJECTED, OutputRefused))
_NO_RECORDS: Mapping[int, Record] = {}


class ModelEntity:
    """One entity in the model. ``troubled``: a command failed. ``queue``: the offsets stashed at the end.

    ``past``: its encoded states since a command failed: a query may have been answered before commands of the stash.
    """

    __slots__ = ("data", "journal", "past", "queue", "state", "troubled")

    def __init__(self, hosted: HostedEntity) -> None:
        self.state, self.data = hosted.behaviour.initial(), hosted.behaviour.initial_data
        self.journal: list[int] = []
        self.past: list[bytes] = []
        self.troubled = False
        self.queue: list[int] = []


class Model:
    """The expected outcome of one shard. ``run`` raises Violation; after it, ``lives`` holds the expected entities."""

    def __init__(self, hosted: HostedEntity, directory: Directory, system: str, seen: Seen) -> None:
        self._hosted, self._directory, self._system, self._seen = hosted, directory, system, seen
        self._prefix = f"{hosted.codec.commands}/{seen.partition}/"
        self._dead_letters = topics.dead_letters_topic(system)
        self.lives: dict[str, ModelEntity] = {}
        self.dead = 0
        self._asked = AskedIds(self._wrong)
        self._owed = Owed()
        self.later = LaterChecks(self._owed, system, self._prefix, self._wrong)

    def run(self) -> None:
        """Handle every command below the committed offset."""
        seen = self._seen
        for record in seen.commands:
            if record.offset >= seen.next:
                # A retry may be carried out before its turn, if the stash is full.
                if seen.outputs.get(record.offset, {}).keys() - {RETRY_INDEX}:
                    raise self._wrong("an unconsumed command has no outputs", record.offset, "has outputs")
                continue
            self._handle(record)

    def _handle(self, record: Record) -> None:
        delivery = self._hosted.codec.decode(record)
        got = self._seen.outputs.get(record.offset, _NO_RECORDS)
        if self._owed.is_stale(delivery) and not got and delivery.offset not in self._seen.stash:
            return
        if isinstance(delivery, Undecodable):
            if (own := self._undecided(delivery, got)) is not None:
                self._check_dead(delivery, delivery.value, delivery.key, own, None)
            return
        if self._hosted.behaviour.is_control(delivery):
            allowed = set() if delivery.sender is None else {0}
            if isinstance(delivery.message, RetryParked) and allowed:
                allowed.add(RETRY_INDEX)
            if not got.keys() <= allowed:
                raise self._wrong("a control record makes its answers", record.offset, f"made {len(got)} records")
            self._owed.controlled(delivery)
            return
        raw_key = delivery.key.encode()
        is_query = type(delivery.message) in self._hosted.behaviour.queries
        if partition_of(raw_key, self._hosted.partitions) != self._seen.partition:
            if (own := got if is_query else self._undecided(delivery, got)) is not None:
                self._check_dead(delivery, delivery.value, raw_key, own, frozenset({"WrongPartition"}))
            return
        life = self.lives.get(delivery.key)
        if life is None:
            life = self.lives[delivery.key] = ModelEntity(self._hosted)
        if is_query:
            self._queried(life, delivery, raw_key, got)
        elif (own := self._undecided(delivery, got)) is not None:
            self._live(life, delivery, raw_key, own)

    def _undecided(self, delivery: Delivery, got: Mapping[int, Record]) -> Mapping[int, Record] | None:
        """Return the outputs of a command that its shard decides; None if it is an ask whose id is known or refused."""
        stashed, refused = delivery.offset in self._seen.stash, delivery.offset in self._seen.refused
        return self._asked.take(delivery, got, stashed=stashed, refused=refused)

    def _queried(self, life: ModelEntity, delivery: Envelope, raw_key: bytes, got: Mapping[int, Record]) -> None:
        """Compare the answer to a query with its state, or with one of those since a command of its key failed."""
        if 0 in got and got[0].topic == self._dead_letters:
            allowed = frozenset({"Quarantined"} if delivery.offset in self._seen.deadly else ())
            self._check_dead(delivery, delivery.value, raw_key, got, allowed)
            return
        if delivery.offset in self._seen.stash:
            raise self._wrong("a query is never stashed", delivery.offset, "is stashed")
        if delivery.sender is None:
            due = [list[ExpectedOutput]()]
        elif delivery.offset in self._seen.raised and is_undelivered(got):
            due = [[reply_to(delivery.sender, None)]]
        else:
            due = [[reply_to(delivery.sender, self._answer(data, delivery))] for data in (life.data, *life.past)]
        if not any(matches(each, got) for each in due):
            shown = {index: (record.topic, record.key, record.value) for index, record in got.items()}
            raise self._wrong("a query is answered from its state", delivery.offset, f"made {shown}, expected {due[0]}")

    def _answer(self, data: bytes, delivery: Envelope) -> bytes:
        """Return the encoded answer to a query on a state."""
        behaviour = self._hosted.behaviour
        try:
            return decide_query(
                behaviour, behaviour.state_decode(data), data, delivery, self._directory,
                cause=f"{self._prefix}{delivery.offset}", attempt=1, bytes_max=self._seen.output_bytes_max,
            ).reply_data  # fmt: skip
        except Exception as error:  # noqa: BLE001  user code may raise anything
            failure = Failure.of(error, "")
            return encode(Undelivered(reason=f"{failure.error_type}: {failure.message[:REASON_CHARS_MAX]}"))

    def _live(self, life: ModelEntity, delivery: Envelope, raw_key: bytes, got: Mapping[int, Record]) -> None:
        """Handle one command of an entity, and compare its outcome in the log with the allowed ones."""
        stashed = delivery.offset in self._seen.stash
        if stashed and not got and (life.queue or life.troubled or self._fails(life, delivery)):
            life.troubled = True
            life.queue.append(delivery.offset)
            return
        is_dead = 0 in got and got[0].topic == self._dead_letters
        error = (got[0].header(ERROR_TYPE) or b"").decode() if is_dead else ""
        if life.queue and not (is_dead and (delivery.sender is not None or error == "NoRoom")):
            raise self._wrong(
                "later commands wait behind a failed one", delivery.offset, f"{life.queue[0]} is still stashed"
            )
        if is_dead:
            allowed = {"Parked", "Dropped", "Revoked"} if life.troubled else set[str]()
            if delivery.offset in self._seen.deadly:
                allowed.add("Quarantined")
            if not life.queue and (errors := self._errors(life, delivery)):
                life.troubled = True
                allowed |= {*errors, "Dropped", "Revoked"}  # It may have been parked, then dropped, or revoked.
            if self._seen.overflows and life.troubled:
                allowed.add("NoRoom")
            self._check_dead(delivery, delivery.value, raw_key, got, frozenset(allowed))
            return
        if stashed:
            raise self._wrong(
                "no handled command is stashed", delivery.offset, f"is stashed, but made {len(got)} records"
            )
        if self._owed.is_stale(delivery):
            raise self._wrong("a timer that was taken back has no effect", delivery.offset, f"made {len(got)} records")
        life.troubled = life.troubled or delivery.offset in self._seen.raised
        decision = self._applied(life, delivery, got)
        self._owed.ended(delivery)
        self._owed.decided(delivery, decision)
        if decision.rejected:
            return
        if decision.stopped:
            self._asked.ended(delivery.key, delivery.offset)
        if life.troubled and decision.data != life.data:
            life.past.append(life.data)
        life.state, life.data = decision.state, decision.data
        life.journal += [delivery.offset] * len(decision.events)

    def _applied(self, life: ModelEntity, delivery: Envelope, got: Mapping[int, Record]) -> Decision:
        """Return the decision that matches the log, at whichever attempt it was made."""
        expected: Decision | Exception | None = None
        attempts = 1
        while attempts <= _ATTEMPTS_MAX:
            outcome = self._decide(life, delivery, attempts)
            if isinstance(outcome, Decision) and matches(list(self._outputs(delivery, outcome)), got):
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
        raise self._wrong("every command has its outputs, once", delivery.offset, f"made {shown}, expected {wanted}")

    def _decide(self, life: ModelEntity, delivery: Envelope, attempt: int) -> Decision | Exception:
        try:
            return decide(
                self._hosted.behaviour, life.state, life.data, delivery, self._directory,
                cause=f"{self._prefix}{delivery.offset}", attempt=attempt, bytes_max=self._seen.output_bytes_max,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  user code may raise anything
            life.state = self._hosted.behaviour.state_decode(life.data)  # The handler may have changed it in place.
            return error

    def _fails(self, life: ModelEntity, delivery: Envelope) -> bool:
        return delivery.offset in self._seen.raised or isinstance(self._decide(life, delivery, 1), Exception)

    def _errors(self, life: ModelEntity, delivery: Envelope) -> set[str]:
        """Return the error types that a dead letter of this command may have."""
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
                case Send(name, key):
                    yield ExpectedOutput(topics.commands_topic(self._system, name), key.encode(), data)
                case Publish(topic, _, key):
                    yield ExpectedOutput(topic, None if key is None else key.encode(), data)
                case Reply(to, _):
                    yield reply_to(to, data)
        if decision.reply is not None and delivery.sender is not None:
            yield reply_to(delivery.sender, decision.reply_data)

    def _check_dead(
        self,
        delivery: Delivery,
        value: bytes | None,
        key: bytes | None,
        got: Mapping[int, Record],
        allowed: frozenset[str] | None,
    ) -> None:
        """Compare a dead letter with its command: the bytes, the error if it is known, and the reply to an ask."""
        expected = [ExpectedOutput(self._dead_letters, key, value)]
        if delivery.sender is not None:
            expected.append(reply_to(delivery.sender, None))
        if not matches(expected, got):
            shown = {index: (record.topic, record.key, record.value) for index, record in got.items()}
            raise self._wrong("a dead letter is complete", delivery.offset, f"made {shown}, expected {expected}")
        error = (got[0].header(ERROR_TYPE) or b"").decode()
        if allowed is not None and error not in allowed:
            raise self._wrong("nothing is given up without a reason", delivery.offset, f"is a dead letter for {error}")
        self._owed.ended(delivery)
        self.dead += 1

    def _wrong(self, rule: str, offset: int, detail: str) -> Violation:
        return Violation(rule, f"{self._prefix}{offset} {detail}")

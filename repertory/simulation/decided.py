"""Decides the commands of one shard again, as the model expects it, one at a time and without a fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from repertory.actors.collected import Publish, Reply, Send, Tell
from repertory.actors.context import Directory, OutputRefused
from repertory.actors.entity import resolved
from repertory.actors.message import Envelope, Rejection, Undelivered
from repertory.actors.shard.decision import Decision, decide, decide_query
from repertory.actors.shard.turn import REASON_CHARS_MAX
from repertory.actors.wire import encode
from repertory.bridge import topics
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record
from repertory.simulation.expected import ExpectedOutput, matches, reply_to
from repertory.simulation.seen import Seen
from repertory.simulation.swarm import INJECTED
from repertory.supervision.directive import Failure, qualified_name

#: A handler that fails at this many attempts in a row is assumed to fail always.
ATTEMPTS_MAX = 12
_INJECTED = frozenset(qualified_name(error) for error in (*INJECTED, OutputRefused))


class ModelEntity:
    """One entity in the model. ``troubled``: a command failed. ``queue``: the offsets stashed at the end.

    ``past``: its encoded states since a command failed: a query may have been answered before commands of the stash.
    ``unplaced``: commands without events that do not fit to the state, and may have been overtaken: they must fit
    later.
    """

    __slots__ = ("data", "journal", "past", "queue", "state", "troubled", "unplaced")

    def __init__(self, hosted: HostedEntity) -> None:
        self.state, self.data = hosted.behaviour.initial(), hosted.behaviour.initial_data
        self.journal: list[int] = []
        self.past: list[bytes] = []
        self.troubled = False
        self.queue: list[int] = []
        self.unplaced: list[tuple[Envelope, Mapping[int, Record]]] = []


class Redecided:
    """Has no state of its own. ``prefix``: of the causes of the shard."""

    def __init__(self, hosted: HostedEntity, directory: Directory, system: str, prefix: str, seen: Seen) -> None:
        self._hosted, self._directory, self._system, self._prefix = hosted, directory, system, prefix
        self._seen = seen

    def answer(self, data: bytes, delivery: Envelope) -> bytes:
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

    def decide(self, life: ModelEntity, delivery: Envelope, attempt: int) -> Decision | Exception:
        """Return what a command leads to on the state of its entity, or what its handler raises."""
        if delivery.offset in self._seen.dropping:
            delivery = msgspec.structs.replace(delivery, drops_start=True)
        try:
            return decide(
                self._hosted.behaviour, life.state, life.data, delivery, self._directory,
                cause=f"{self._prefix}{delivery.offset}", attempt=attempt, bytes_max=self._seen.output_bytes_max,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  user code may raise anything
            life.state = self._hosted.behaviour.state_decode(life.data)  # The handler may have changed it in place.
            return error

    def fails(self, life: ModelEntity, delivery: Envelope) -> bool:
        """Return whether the first attempt may fail."""
        return delivery.offset in self._seen.raised or isinstance(self.decide(life, delivery, 1), Exception)

    def errors(self, life: ModelEntity, delivery: Envelope) -> set[str]:
        """Return the error types that a dead letter of this command may have."""
        found = set(_INJECTED) if delivery.offset in self._seen.raised else set[str]()
        for attempt in range(1, ATTEMPTS_MAX):
            outcome = self.decide(life, delivery, attempt)
            if not isinstance(outcome, Exception):
                break
            found.add(qualified_name(type(outcome)))
        return found

    def matches(self, delivery: Envelope, decision: Decision, got: Mapping[int, Record]) -> bool:
        """Return whether a command has made what a decision says."""
        return matches(list(self.outputs(delivery, decision)), got)

    def outputs(self, delivery: Envelope, decision: Decision) -> Iterator[ExpectedOutput]:
        """Yield the records that a command must have made."""
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
                case Reply(to, value, rejected):
                    yield reply_to(to, data, rejected=rejected or isinstance(value, Rejection))
        if decision.reply is not None and delivery.sender is not None:
            yield reply_to(delivery.sender, decision.reply_data, rejected=decision.rejected)

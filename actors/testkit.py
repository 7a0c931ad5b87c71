"""``TestKit``: runs one command on one entity and returns the outcome. No log, no clock, the kernel of production."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from repertory.actors.collected import Collected, LaterItem, Perform, Reply
from repertory.actors.context import Directory
from repertory.actors.entity import Entity, resolved
from repertory.actors.message import Command, Envelope, Event, Message, Query, Rejection, Sender
from repertory.actors.shard.config import Limits
from repertory.actors.shard.decision import Decision, decide, decide_query
from repertory.actors.shard.timers import Timers
from repertory.actors.timer import FiredTimer
from repertory.actors.wire import DecodeError, MessageDecoder, encode

E = TypeVar("E", bound=Entity)


class CommandOutcome(msgspec.Struct, Generic[E], frozen=True):
    """The outcome of one message: ``events`` in order, the ``reply`` if there was one, the ``state`` after it, and the
    outputs that the context collected (``sent``: tells, asks, publishes and explicit replies; ``later``: timers that
    were scheduled and cancelled, delayed tells, and effects).
    """

    events: Sequence[Message]
    reply: Message | None
    state: E
    sent: Sequence[Collected]
    stopped: bool
    later: Sequence[LaterItem] = ()


class TestKit(Generic[E]):
    """Runs messages on an entity, one after the other, each on the state after the one before.

    Every command and query is asked, so ``reply`` is the answer that an asker would get. The checks are those of a
    shard: the contract, that events and states survive their encoding, their size. ``run`` raises the handler's
    exception and keeps the state as it was. ``publishes`` names the topics that ``Context.publish`` may name, as the
    system declares them: ``publishes=system.publishes``.

    Effects are not run: ``performed`` shows them, and a test runs a result, ``kit.run(Sent(), about="receipt")``.

    Its clock does not move until :meth:`advance` moves it, which runs the commands of the timers that are due.
    """

    __test__ = False  # Not a test class for pytest.

    def __init__(self, entity: E, *, key: str = "key", timestamp_ms: int = 0, publishes: Iterable[str] = ()) -> None:
        given: object = entity
        if not isinstance(given, Entity):
            name = given.__name__ if isinstance(given, type) else "Account"
            raise TypeError(f"TestKit takes an entity, as in TestKit({name}()), not {given!r:.100}")
        self._directory = Directory(lambda _: True, lambda _: 1 << 31, frozenset(publishes).__contains__)
        self._behaviour = resolved(type(entity))
        self._key = key
        self._timestamp_ms = timestamp_ms
        self._offset = 0
        self._timers = Timers(Limits())
        #: The effects that were performed, in order.
        self.performed: list[Perform] = []
        self.state: E = self._restored(encode(entity))
        self._data = encode(self.state)

    def run(
        self,
        message: Command | Query | Event | Rejection,
        *,
        about: str = "",
        attempt: int = 1,
        sender: Sender | None = None,
    ) -> CommandOutcome[E]:
        """Run one command or query, or one reply to an ``ask`` or an effect of this entity (with its ``about``)."""
        if isinstance(message, Command | Query) and sender is None:
            sender = Sender(topic="replies", partition=0, correlation_id=f"{self._offset}")
        return self._run(message, about, attempt, sender)

    def advance(self, seconds: float) -> list[CommandOutcome[E]]:
        """Move the clock on, and run the commands of the timers that are due, each at its time, in their order.

        Nobody asks for them, so they have no ``reply``. If one raises, the clock stays at its time, and its timer is
        settled as by a dead letter. Delayed tells are for other entities, and only shown in ``later``.
        """
        end_ms, outcomes = self._timestamp_ms + round(seconds * 1_000), list[CommandOutcome[E]]()
        while (due_ms := self._timers.next_due_ms()) is not None and due_ms <= end_ms:
            self._timestamp_ms = max(self._timestamp_ms, due_ms)
            found = self._timers.fire(self._timestamp_ms, {})
            if found is None or (timer := found[0].timer) is None:
                continue
            try:
                outcomes.append(self._run(self._behaviour.decoder.decode(found[0].data), "", 1, None, timer))
            except Exception:
                self._timers.settle(self._key, timer, self._timestamp_ms)
                raise
        self._timestamp_ms = end_ms
        return outcomes

    def _run(
        self, message: Message, about: str, attempt: int, sender: Sender | None, timer: FiredTimer | None = None
    ) -> CommandOutcome[E]:
        received, data = self._received(message)
        envelope = Envelope(self._offset, self._key, received, data, (), self._timestamp_ms, sender, about, timer=timer)
        try:
            decision = self._decided(envelope, attempt)
            self._timers.check(self._key, decision.later)
        except Exception:
            self.state = self._restored(self._data)
            raise
        if timer is not None:
            self._timers.settle(self._key, timer, self._timestamp_ms)
        self._timers.apply(self._key, self._offset, decision.later, decision.later_data)
        if decision.stopped:
            self._timers.stop(self._key)
        self.performed += [each for each in decision.later if isinstance(each, Perform)]
        self._offset += 1
        self._data = decision.data
        self.state = self._restored(decision.data)
        reply = decision.reply
        for output in decision.outputs:
            if isinstance(output, Reply) and output.to == sender:
                reply = self._said(output)
        return CommandOutcome(
            tuple(decision.messages),
            reply,
            self.state,
            tuple(decision.outputs),
            decision.stopped,
            tuple(decision.later),
        )

    def _received(self, message: Message) -> tuple[Message, bytes]:
        """Return a message as the entity gets it, and its encoding."""
        behaviour = self._behaviour
        if type(message) not in behaviour.taken:
            raise LookupError(f"{behaviour.entity.__name__} has no handler for {type(message).__name__}")
        data = encode(message)
        try:
            return behaviour.decoder.decode(data), data
        except DecodeError as error:
            name = type(message).__name__
            raise DecodeError(f"{name} cannot be decoded again: {error}; correct its fields") from error

    def _decided(self, envelope: Envelope, attempt: int) -> Decision:
        """Return what the entity decides; it raises what the handler raises."""
        behaviour = self._behaviour
        return (decide_query if type(envelope.message) in behaviour.queries else decide)(
            behaviour, self.state, self._data, envelope, self._directory,
            cause=f"test/0/{envelope.offset}", attempt=attempt, bytes_max=1_000_000,
        )  # fmt: skip

    def _said(self, reply: Reply) -> Message:
        """Return what a reply says; a saga's is encoded."""
        if not isinstance(reply.value, bytes):
            return reply.value
        found: Message = MessageDecoder(self._behaviour.messages.values()).decode(reply.value)
        return found

    def _restored(self, data: bytes) -> E:
        try:
            state = self._behaviour.state_decode(data)
        except msgspec.DecodeError as error:
            raise DecodeError(f"this {self._behaviour.entity.__name__} could not be restored: {error}") from error
        return state  # type: ignore[return-value]  # the decoder was made for E, which Behaviour does not say

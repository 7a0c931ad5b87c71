"""``Context``: the facts that a handler can read beside its command, and the messages that it sends."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec

from repertory.actors.asks import holds
from repertory.actors.collected import Alert, Cancel, Collected, LaterItem, Perform, Publish, Reply, Schedule, Tell
from repertory.actors.effect import Effect, Q
from repertory.actors.entity import Behaviour, Entity, resolved
from repertory.actors.handler import CommandHandler, Handler
from repertory.actors.message import Envelope, Event, Message, Rejection, Sender
from repertory.actors.placement import checked_key
from repertory.actors.timer import DELAY_S_MAX, DUE_MS_MAX, flaw_of_name

C = TypeVar("C")


class ContractViolation(Exception):
    """A handler broke its contract; this is a failure of the entity."""


#: Longest ``about`` and correlation id in bytes of UTF-8: the headers of an ask and of its reply carry them.
TAG_BYTES_MAX = 255


class OutputTooLarge(ContractViolation):
    """A command would produce a record over ``output_bytes_max``. By default the command is dead-lettered."""


class OutputRefused(Exception):
    """The log refuses a record of a command for good. By default the command is dead-lettered.

    Nothing raises it: it is the name of the failure in policies and dead letters. Reasons are a record larger than its
    topic takes, one without a key for a compacted topic, a topic that was deleted or that this user may not write.
    """


class Directory(msgspec.Struct, frozen=True):
    """What a handler can address: the hosted entities by class, topics by name, and those declared to publish to."""

    hosted: Callable[[type], bool]
    partition_count: Callable[[str], int | None]
    publishes: Callable[[str], bool] = lambda _topic: False


class Context:
    """Belongs to one handler call. It collects messages and sends none; all of them are committed, or none is."""

    __slots__ = (
        "_behaviour", "_directory", "_envelope", "_handler", "_ids", "_random", "_sender_read",
        "alerts", "attempt", "bytes_max", "cause", "collected", "evolved", "later", "replied", "stopped",
    )  # fmt: skip

    def __init__(
        self, behaviour: Behaviour, handler: Handler, envelope: Envelope, directory: Directory, cause: str,
        attempt: int, bytes_max: int,
    ) -> None:  # fmt: skip
        self._behaviour, self._handler = behaviour, handler
        self._envelope, self._directory = envelope, directory
        self._random: random.Random | None = None
        self._ids, self._sender_read = 0, False
        #: ``topic/partition/offset`` of the command: the same at every attempt, in every replay.
        self.cause = cause
        #: 1 + the restarts of this entity because of this command.
        self.attempt = attempt
        #: ``output_bytes_max``.
        self.bytes_max = bytes_max
        self.collected: list[Collected] = []
        #: In order: timers that are scheduled and cancelled, delayed messages, effects.
        self.later: list[LaterItem] = []
        #: What is reported to operators once the command is committed.
        self.alerts: list[Alert] = []
        self.replied = self.stopped = False
        #: The state after the events that the handler returns, if it has folded them itself, as a saga does.
        self.evolved: Entity | None = None

    # --- facts ------------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """The entity's key."""
        return self._envelope.key

    @property
    def sender(self) -> Sender | None:
        """The asker, None for a tell. It can be kept in state or events, and answered later."""
        self._sender_read = True
        return self._envelope.sender

    @property
    def about(self) -> str:
        """In a ``@reply`` method: the ``about`` that was passed to ``ask``."""
        return self._envelope.about

    @property
    def timestamp(self) -> datetime:
        """When the command was appended to the log (UTC). It is read from the record, not from a clock."""
        return datetime.fromtimestamp(self._envelope.timestamp_ms / 1000, UTC)

    @property
    def timestamp_ms(self) -> int:
        """The same as milliseconds since the epoch."""
        return self._envelope.timestamp_ms

    @property
    def offset(self) -> int:
        """The offset of the command in its partition."""
        return self._envelope.offset

    @property
    def due_ms(self) -> int | None:
        """When the timer was due (epoch) that sent this command, None if none did. It may be handled much later."""
        timer = self._envelope.timer
        return None if timer is None else timer.due_ms

    @property
    def drops_start(self) -> bool:
        """Whether a saga that has not begun is cancelled with the starts of it that are stashed."""
        return self._envelope.drops_start

    @property
    def random(self) -> random.Random:
        """A generator seeded from the cause: the same draws at every attempt."""
        if self._random is None:
            self._random = random.Random(self.cause)  # noqa: S311  reproducible on purpose
        return self._random

    def new_id(self) -> str:
        """Return an identifier made from the cause: 32 hex digits, the same at every attempt."""
        self._ids += 1
        return blake2b(f"{self.cause}#{self._ids}".encode(), digest_size=16).hexdigest()

    # --- outputs ----------------------------------------------------------------------------------------------

    def tell(self, handler: CommandHandler[Any, C, Any], key: str, message: C, *, after_s: float | None = None) -> None:
        """Send ``message`` to the entity ``key`` of the class that ``handler`` belongs to.

        With ``after_s`` it is sent so many seconds after :attr:`timestamp`. It is a message under way then and no
        timer: it cannot be cancelled, and is sent even if this entity stops.
        """
        told = Tell(self.addressed(handler, message), checked_key(key), self._message(message))
        if after_s is None:
            self.collected.append(told)
        else:
            due_ms = self._envelope.timestamp_ms + _delay_ms("after_s", after_s, least_ms=0)
            self.later.append(msgspec.structs.replace(told, due_ms=due_ms))

    def ask(self, handler: CommandHandler[Any, C, Any], key: str, message: C, *, about: str = "") -> None:
        """Send ``message`` as ``tell`` does; the answer goes to the ``@reply`` method of this entity that takes it.

        ContractViolation if this entity has no ``@reply`` method for a possible answer, ``Undelivered`` included.
        """
        for answer in self.addressed(handler, message).answers:
            if answer not in self._behaviour.handlers:
                raise ContractViolation(
                    f"{self._behaviour.entity.__name__} asks {handler.owner.__name__}.{handler.name}, which may answer "
                    f"{answer.__qualname__}; write a @reply method that takes it"
                )
        self.collected.append(
            Tell(handler, checked_key(key), self._message(message), asked=True, about=checked_about(about))
        )

    def publish(self, topic: str, value: Message | bytes, *, key: str | None = None) -> None:
        """Append to a topic outside the system that ``ActorSystem(publishes=…)`` declares.

        A record with a ``key`` goes to the partition that Java's default partitioner chooses for it, one without to the
        partition that follows from its cause. What the log refuses for good is a failure of the command: OutputRefused.
        """
        if not isinstance(value, Message | bytes):
            raise ContractViolation(f"publish takes a message or bytes, not {type(value).__name__}")
        if not self._directory.publishes(topic):
            raise ContractViolation(
                f"publish to {topic!r}: the system does not declare it; say "
                f"ActorSystem(…, publishes={{{topic!r}: Publishes()}})"
            )
        self.collected.append(Publish(topic, value, None if key is None else checked_key(key)))

    def reply(self, value: Event | Rejection, *, to: Sender | None = None) -> None:
        """Answer the asker (or ``to``, kept from an earlier command); the value that the handler returns is not sent.

        The value must be of a type that the handler's annotation names. Without an asker this does nothing.
        """
        allowed = self._handler.replies
        if type(value) not in allowed:
            raise ContractViolation(
                f"{self._handler!r} replies {type(value).__name__}; its annotation names "
                f"{', '.join(answer.__name__ for answer in allowed)}"
            )
        to = to or self._envelope.sender
        if to is None:
            return
        if to == self._envelope.sender:
            if self.replied:
                raise ContractViolation(f"{self._handler!r} replies twice; an ask has one answer")
            self.replied = True
        else:
            self._check_sender(to)
        self.collected.append(Reply(to, value))

    def schedule(
        self,
        name: str,
        handler: CommandHandler[Any, C, Any],
        message: C,
        *,
        after_s: float | None = None,
        at_ms: int | None = None,
        every_s: float | None = None,
    ) -> None:
        """Have this entity get ``message`` later: a timer. A timer of the same ``name`` is replaced.

        It is due ``after_s`` seconds after :attr:`timestamp`, or ``at_ms`` (epoch), or else after the first period.
        With ``every_s`` it is due again and again, each time so long after the log has the command of the time before;
        times that were missed are one. It is never early by the owner's clock, and at once if it is due in the past, as
        where this command has waited in the stash. A timer that is cancelled or replaced has no effect any more, even
        if it was due and its command is under way. The entity's timers end with its life.

        Raises ContractViolation: the handler is not a ``@command`` of this entity that takes the message, the name has
        not 1 to 255 bytes of UTF-8 without NUL, both times are given or none, or one is not in range.
        """
        _check_timer_name(name)
        if self.addressed(handler, message).owner is not self._behaviour.entity:
            raise ContractViolation(
                f"a timer sends a command to its own entity, {self._behaviour.entity.__name__}, not to {handler!r}; "
                "use tell(…, after_s=…)"
            )
        every_ms = 0 if every_s is None else _delay_ms("every_s", every_s, least_ms=1)
        if (after_s is None) == (at_ms is None) and (at_ms is not None or every_s is None):
            raise ContractViolation(f"timer {name!r}: give after_s or at_ms, or every_s for a recurring one")
        if at_ms is None:
            delay_ms = every_ms if after_s is None else _delay_ms("after_s", after_s, least_ms=0)
            at_ms = self._envelope.timestamp_ms + delay_ms
        elif type(at_ms) is not int or not 0 <= at_ms <= DUE_MS_MAX:
            raise ContractViolation(f"timer {name!r}: at_ms is a time since the epoch in ms, not {at_ms!r:.100}")
        self.later.append(Schedule(name, handler, self._message(message), at_ms, every_ms))

    def cancel(self, name: str) -> None:
        """Cancel this entity's timer of that name, if there is one; its command is never handled after this one."""
        _check_timer_name(name)
        self.later.append(Cancel(name))

    def perform(self, effect: Effect[Q, Any], request: Q, *, about: str = "") -> None:
        """Have the world outside asked once this command is committed; the result goes to ``@reply`` as an answer does.

        The effect is tried until it has a result. If it fails too often, it is parked: an operator has it tried again,
        or drops it, and then the answer is ``Undelivered``. The effects of one key and function run in order. They
        outlive this entity. ContractViolation if this entity has no ``@reply`` for a possible result, that included.
        """
        if not isinstance(effect, Effect):
            raise ContractViolation(f"perform takes an @effect function, not {effect!r:.100}")
        if (flaw := effect.flaw_of_request(request, self._behaviour.handlers)) is not None:
            raise ContractViolation(f"{self._behaviour.entity.__name__} {flaw}")
        self.later.append(Perform(effect, request, checked_about(about)))

    def stop(self) -> None:
        """End this entity's life after this command; the next command begins a new one from the defaults.

        Its timers are cancelled. Raises ContractViolation after the handler if it has scheduled one.
        """
        self.stopped = True

    def keeps_sender(self, kept: object) -> bool:
        """Return whether the result contains the sender: then the entity answers later, and nothing is sent now."""
        return self._sender_read and self._envelope.sender is not None and holds(kept, self._envelope.sender)

    def addressed(self, handler: CommandHandler[Any, C, Any], message: object) -> CommandHandler[Any, C, Any]:
        """Return the handler; ContractViolation if it is no handler, is not hosted, or does not take the message."""
        if not isinstance(handler, CommandHandler):
            raise ContractViolation(f"{handler!r} is not a @command method of an entity, such as Account.deposit")
        if not self._directory.hosted(handler.owner):
            resolved(handler.owner)
            raise ContractViolation(f"{handler.owner.__name__} is not hosted by this system; add system.host(…)")
        if type(message) not in handler.message_types:
            raise ContractViolation(f"{handler!r} does not take {type(message).__name__}")
        return handler

    def _check_sender(self, to: Sender) -> None:
        """Refuse a sender that cannot come from an ask: a reply to it could never be written."""
        count = self._directory.partition_count(to.topic)
        if to.key is not None:
            checked_key(to.key)
        elif to.partition is None or count is None or not 0 <= to.partition < count:
            count = None
        if count is None or max(len(to.correlation_id.encode()), len(to.about.encode())) > TAG_BYTES_MAX:
            raise ContractViolation(f"{self._handler!r} replies to {to!r:.300}, not a valid sender; keep ctx.sender")

    @staticmethod
    def _message(message: object) -> Message:
        assert isinstance(message, Message), message
        return message


def checked_about(about: str) -> str:
    """Return the ``about`` of an ask or an effect; ContractViolation if it does not fit into a header."""
    if len(about.encode()) > TAG_BYTES_MAX:
        raise ContractViolation(f"about has at most {TAG_BYTES_MAX} bytes of UTF-8: {about!r:.100}")
    return about


def _check_timer_name(name: object) -> None:
    if (flaw := flaw_of_name(name)) is not None:
        raise ContractViolation(f"the name of a timer {flaw}: {name!r:.100}")


def _delay_ms(name: str, delay_s: object, *, least_ms: int) -> int:
    """Return a delay in whole milliseconds."""
    is_number = isinstance(delay_s, int | float) and not isinstance(delay_s, bool)
    if not is_number or not least_ms / 1_000 <= delay_s <= DELAY_S_MAX:  # type: ignore[operator]
        raise ContractViolation(f"{name} is a number of seconds from {least_ms / 1_000:g} on, not {delay_s!r:.100}")
    return round(delay_s * 1_000)  # type: ignore[operator]

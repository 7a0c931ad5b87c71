"""What the two clients have in common: a client's connection to the log, and how an ask goes on.

``client`` and ``async_client`` make one each and wait in their own way; neither decides anything about an ask.
"""

from __future__ import annotations

import os
import secrets
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import msgspec

from repertory.actors.control import ABOUT_ASKS
from repertory.actors.handler import CommandHandler, DecidingHandler
from repertory.actors.headers import MESSAGE_ID
from repertory.actors.message import Command, Query
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.query import QueryHandler
from repertory.actors.wire import DecodeError, MessageDecoder, encode
from repertory.bridge import topics
from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.errors import ClientClosed, LogError, OutcomeUnknown, Refused
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output
from repertory.bridge.system.appends import AppendThread
from repertory.bridge.system.ask import Ask, AskTerms, Doubt, answers_of, terms_of
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.bridge.system.log_time import LogTime
from repertory.bridge.system.replies import FollowedReplies, PolledReplies

#: So often an ask begins anew because its id was refused. Once is enough, unless shards differ in what the time is.
_RENEWALS_MAX = 3

#: What an ask waits for: the first of these to be done, for so many seconds at most.
Wait = tuple[Sequence[Future[Any]], float]
Told = tuple[CommandHandler[Any, Any, Any], str, Command]


class ClientCore:
    """One connection of a client. Any thread may use it; their appends follow one another.

    ``drive``: runs the system on the caller's thread for a moment (``Running``). Without it two threads of its own
    append the commands of asks and read the replies; they end when they are not needed.
    """

    def __init__(
        self, system: SystemDefinition, backend: Backend, *, owns_backend: bool, drive: Callable[[], object] | None
    ) -> None:
        self.system = system
        self.appender = backend.appender()
        self.lock = threading.Lock()
        self.log, self._backend = backend, backend if owns_backend else None
        self._closed, self._pid = False, os.getpid()
        self._clock, self._log_time = SystemClock(), LogTime()
        self._decoders: dict[type, MessageDecoder] = {}
        self._drive = drive
        self._polled = PolledReplies(backend.reader, system.name)
        self._replies = FollowedReplies(backend.reader, system.name) if drive is None else self._polled
        self._appends = AppendThread(self.append, f"{system.name} appends")

    # --- commands ---------------------------------------------------------------------------------------------

    def told(self, commands: Iterable[Told]) -> tuple[list[str], list[Output]]:
        """Return the message ids and the records of commands. Raises ValueError and Refused, as ``tell`` does."""
        outputs = [self._output(handler, key, message) for handler, key, message in commands]
        return [_message_id(output) for output in outputs], outputs

    def append(self, outputs: Sequence[Output]) -> None:
        """Append on this thread. Raises ClientClosed, and what ``Appender.append`` does."""
        self._check_process()
        with self.lock:
            if self._closed:
                raise ClientClosed(f"nothing was appended: this client of {self.system.name} is closed")
            try:
                self.appender.append(outputs)
            except OutcomeUnknown as error:
                raise OutcomeUnknown(str(error), _message_id(outputs[0]) if outputs else None) from error

    def submit(self, outputs: Sequence[Output]) -> Future[None]:
        """Append on the client's own thread. Raises ClientClosed in a forked process."""
        self._check_process()
        return self._appends.submit(outputs)

    # --- asks -------------------------------------------------------------------------------------------------

    def ask(
        self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, options: Mapping[str, object]
    ) -> Ask:
        """Return an ask that is not sent yet; :meth:`steps` sends it. Raises ValueError and Refused."""
        terms = terms_of(options, self.system.settings.ask_timeout_max_s, self._new_id())
        return self._new(handler, self._output(handler, key, message), terms, key)

    def query(self, handler: QueryHandler[Any, Any, Any], key: str, message: Query, timeout_s: float) -> Ask:
        """Return a query that is not sent yet, as an ask. It may be repeated without an id: it changes nothing."""
        terms = terms_of({"timeout_s": timeout_s, "repeat": False}, self.system.settings.ask_timeout_max_s, "")
        if not isinstance(handler, QueryHandler):
            raise ValueError(f"{handler!r} is not a @query method of an entity; commands are asked by ask")  # noqa: TRY004
        terms = msgspec.structs.replace(terms, doubt=Doubt("was not answered", "ask again"))
        return self._new(handler, self._addressed(handler, key, message), terms, key)

    def by_id(
        self, handler: CommandHandler[Any, Any, Any], key: str, request: Command, timeout_s: float, doubt: Doubt
    ) -> Ask:
        """Return a request about an ask of this handler's entity, as an ask that is not sent yet."""
        terms = terms_of({"timeout_s": timeout_s, "repeat": False}, self.system.settings.ask_timeout_max_s, "")
        command = self._to(self._hosted(_commanded(handler)), key, encode(request))
        return self._new(handler, command, msgspec.structs.replace(terms, doubt=doubt), key)

    def _new(self, handler: DecidingHandler[Any, Any, Any], command: Output, terms: AskTerms, key: str) -> Ask:
        decoder = self._decoders.get(handler.owner)
        if decoder is None:
            behaviour = self.system.hosted[handler.owner].behaviour
            decoder = self._decoders[handler.owner] = answers_of([*behaviour.messages.values(), *ABOUT_ASKS])
        what = f"{handler.owner.__name__}.{handler.name} of {key!r}"
        return Ask(command, decoder, terms, self._clock.monotonic_s(), what)

    def steps(self, ask: Ask) -> Generator[Wait, None, None]:
        """Send an ask, yield what its caller has to wait for, and send it again where that is due.

        It ends when the answer is there. Raises what ``Client.ask`` does.

        If the client's clock is wrong, its id is refused, and the shard says what the time is. Where the command was
        sent once, there is one record of it, which is not applied and never will be: a shard's horizon does not go
        back, and the time of a record does not change. So it is asked anew, with an id of the right time.
        """
        self._check_process()
        sent = ask
        for renewals in range(_RENEWALS_MAX + 1):
            yield from self._sent(sent)
            if (refusal := sent.id_refused()) is None:
                ask.answer = sent.answer
                return
            self._log_time.learn(refusal.log_ms, self._clock)
            if sent.attempts > 1 or renewals == _RENEWALS_MAX:
                raise sent.refused(refusal)
            sent = sent.renewed(uuid.uuid4().hex, self._new_id())

    def _sent(self, ask: Ask) -> Generator[Wait, None, None]:
        """Send an ask until it has ended."""
        ready = self._replies.open(ask)
        try:
            yield (ready, ask.answer), self._left_s(ask)
            if ready.done():
                ready.result()
            elif not ask.answer.done():
                raise ask.unsent("by then the log had not said where the replies end")
            while not ask.answer.done():
                yield from self._attempt(ask)
        finally:
            self._replies.forget(ask)

    def _attempt(self, ask: Ask) -> Generator[Wait, None, None]:
        """Send an ask once, and wait for its answer until it is to be sent again or its time is over."""
        ask.attempts += 1
        outputs = [ask.output(self._replies.partition)]
        sent = self._appends.submit(outputs) if self._drive is None else _done(self.append, outputs)
        yield (sent, ask.answer), self._left_s(ask)
        if ask.answer.done():
            return
        if not sent.done():  # The time is over. Cancelled, the append is not made.
            raise ask.unsent("the log did not take it") if sent.cancel() and ask.attempts == 1 else ask.unanswered()
        ask.appended(sent.exception(), self._clock.monotonic_s())
        while not ask.answer.done():
            now_s = self._clock.monotonic_s()
            if ask.left_s(now_s) == 0:
                raise ask.unanswered()
            if now_s >= ask.again_s:
                return
            yield (ask.answer,), min(ask.left_s(now_s), ask.again_s - now_s)

    def _new_id(self) -> str:
        return uuid7(self._log_time.now_ms(self._clock), secrets.randbits(74))

    def _left_s(self, ask: Ask) -> float:
        return ask.left_s(self._clock.monotonic_s())

    def drive(self, futures: Sequence[Future[Any]], timeout_s: float) -> None:
        """Run the system on this thread until one of the futures is done, or the time is over."""
        assert self._drive is not None, "only a client of Running drives its system"
        until_s = self._clock.monotonic_s() + timeout_s
        while not any(future.done() for future in futures):
            self._drive()
            with suppress(LogError):  # The answer may be read the next time.
                self._polled.poll()
            if self._clock.monotonic_s() >= until_s:
                return

    @property
    def is_driven(self) -> bool:
        """Whether its callers have to drive the system while they wait."""
        return self._drive is not None

    # --- the end ----------------------------------------------------------------------------------------------

    def fail_asks(self) -> None:
        """End the asks that are open, without waiting. Later ones raise ClientClosed."""
        if self._pid == os.getpid():
            self._appends.close()
            self._replies.fail_all()

    def close(self) -> None:
        """End open asks, and close the connection after the appends of other threads. May be called again."""
        if self._pid != os.getpid():
            return
        self.fail_asks()
        self._replies.close()
        with self.lock:
            if self._closed:
                return
            self._closed = True
            self.appender.close()
            if self._backend is not None:
                self._backend.close()

    def _check_process(self) -> None:
        """Raise ClientClosed in a forked process, before a lock is taken that another thread held at the fork."""
        if self._pid != os.getpid():
            raise ClientClosed(
                f"nothing was appended: this client of {self.system.name} was made in process {self._pid}, and this "
                "process was forked from it; make one here: system.client(URL)"
            )

    def _output(self, handler: CommandHandler[Any, Any, Any], key: str, message: Command) -> Output:
        return self._addressed(_commanded(handler), key, message)

    def _addressed(self, handler: DecidingHandler[Any, Any, Any], key: str, message: Command | Query) -> Output:
        hosted = self._hosted(handler)
        if type(message) not in handler.message_types:
            raise ValueError(f"{handler!r} does not take {type(message).__name__}")
        checked_key(key)
        return self._to(hosted, key, _encoded(message, hosted, self.system.settings.input_bytes_max))

    def _hosted(self, handler: DecidingHandler[Any, Any, Any]) -> EntityDefinition:
        hosted = self.system.hosted.get(handler.owner)
        if hosted is None:
            raise ValueError(f"{self.system.name} hosts no entity with the handler {handler!r}; add system.host(…)")
        return hosted

    def _to(self, hosted: EntityDefinition, key: str, data: bytes) -> Output:
        raw_key = checked_key(key).encode()
        topic = topics.commands_topic(self.system.name, hosted.behaviour.name)
        headers = ((MESSAGE_ID, uuid.uuid4().hex.encode()),)
        return Output(topic, partition_of(raw_key, hosted.partitions), raw_key, data, headers)


def _commanded(handler: CommandHandler[Any, Any, Any]) -> CommandHandler[Any, Any, Any]:
    """Return a handler; ValueError unless it is one of commands."""
    if not isinstance(handler, CommandHandler):
        raise ValueError(f"{handler!r} is not a @command method of an entity, such as Account.deposit")  # noqa: TRY004
    return handler


def _message_id(output: Output) -> str:
    return dict(output.headers)[MESSAGE_ID].decode()


def _done(append: Callable[[Sequence[Output]], None], outputs: Sequence[Output]) -> Future[None]:
    """Append at once, and return the outcome as a future that is done."""
    outcome: Future[None] = Future()
    try:
        append(outputs)
    except Exception as error:  # noqa: BLE001 - who asks for the outcome raises it
        outcome.set_exception(error)
    else:
        outcome.set_result(None)
    return outcome


def uuid7(epoch_ms: int, chance: int) -> str:
    """Return a UUID of version 7 (RFC 9562, 5.7): ``epoch_ms``, then 74 bits of ``chance``."""
    number = (epoch_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (chance >> 62 & 0xFFF) << 64 | 0b10 << 62
    return str(uuid.UUID(int=number | chance & (1 << 62) - 1))


def _encoded(message: Command | Query, hosted: EntityDefinition, bytes_max: int) -> bytes:
    """Encode a command. One that a shard could not decode, or would not, is refused at its sender."""
    name = type(message).__name__
    try:
        data = encode(message)
    except MemoryError:
        raise
    except Exception as error:  # A field may hold anything: what msgspec does not know, a cycle, half a character.
        raise ValueError(f"{name} cannot be encoded: {error}") from error
    if len(data) > bytes_max:
        raise Refused(
            f"nothing was appended: {name} has {len(data):,} bytes, over {bytes_max:,} (input_bytes_max), and "
            f"{hosted.behaviour.name} would not read it"
        )
    try:
        hosted.behaviour.decoder.decode(data)
    except DecodeError as error:
        raise ValueError(f"{name} cannot be decoded again: {error}; correct its fields") from error
    return data

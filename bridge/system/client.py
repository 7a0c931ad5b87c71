"""``Client``: sends commands to a system from outside, only through the log."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from repertory.actors.entity import Entity
from repertory.actors.handler import CommandHandler
from repertory.actors.headers import MESSAGE_ID
from repertory.actors.message import Command
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.wire import DecodeError, encode
from repertory.bridge import topics
from repertory.bridge.log.errors import (
    LogError,
    OutcomeUnknown,
    Refused,
    TopicMismatch,
)
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output
from repertory.bridge.system.definition import EntityDefinition, SystemDefinition
from repertory.bridge.system.view import View

C = TypeVar("C", bound=Command)
E = TypeVar("E", bound=Entity)


class ClientClosed(LogError):
    """The client was closed before the call, or belongs to the process that this one was forked from."""


class Client:
    """Sends commands. Any thread may use it; their calls follow one another. Close it, or use it as a context manager.

    ``system.client(URL)`` makes one in any process. Make one in each process: none survives a fork. Do not call it in a
    signal handler, which may have interrupted a call of the same thread.
    """

    def __init__(self, system: SystemDefinition, backend: Backend, *, owns_backend: bool = False) -> None:
        """``owns_backend``: ``close`` closes the backend too."""
        self._system = system
        self._appender = backend.appender()
        self._backend, self._log = backend if owns_backend else None, backend
        self._lock = threading.Lock()
        self._closed, self._pid = False, os.getpid()

    def tell(self, handler: CommandHandler[Any, C, Any], key: str, message: C) -> str:
        """Append a command durably and return its message id. Waits for the log: on Kafka at most 15 s by default.

        ``handler`` names the entity class: ``client.tell(Account.deposit, "a-1", Deposit(amount=5))``.

        Raises:
            ValueError: the call is wrong. The system does not host the entity, the handler does not take the message,
                the message cannot be encoded or not be decoded again, or the key is invalid.
            Refused: the command was not appended, and the same call would be refused again. The message is larger than
                the log or ``input_bytes_max`` allows, this user may not write to the topic, or (TopicMismatch) the
                topic does not exist.
            LogUnavailable: the command was not appended; the same call may succeed later.
            LogUnusable: the command was not appended; the log is another version's, or damaged.
            ClientClosed: the command was not appended.
            OutcomeUnknown: the command may have been appended; ``message_id`` identifies it.
        """
        return self.tell_all([(handler, key, message)])[0]

    def tell_all(self, commands: Iterable[tuple[CommandHandler[Any, Any, Any], str, Command]]) -> list[str]:
        """Append many commands at once, which is much faster than one by one and keeps their order per key.

        Raises what ``tell`` raises: except for OutcomeUnknown none of the commands was appended. After OutcomeUnknown
        any number of them may have been appended, and its ``message_id`` is that of the first.
        """
        message_ids: list[str] = []
        outputs = []
        for handler, key, message in commands:
            message_ids.append(uuid.uuid4().hex)
            outputs.append(self._output(handler, key, message, message_ids[-1]))
        if self._pid != os.getpid():  # Asked before the lock, which another thread may have held at the fork.
            raise ClientClosed(
                f"nothing was appended: this client of {self._system.name} was made in process {self._pid}, and this "
                "process was forked from it; make one here: system.client(URL)"
            )
        with self._lock:
            if self._closed:
                raise ClientClosed(f"nothing was appended: this client of {self._system.name} is closed")
            try:
                self._appender.append(outputs)
            except OutcomeUnknown as error:
                raise OutcomeUnknown(str(error), message_ids[0] if message_ids else None) from error
        return message_ids

    def _output(self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, message_id: str) -> Output:
        if not isinstance(handler, CommandHandler):
            raise ValueError(f"{handler!r} is not a @command method of an entity, such as Account.deposit")  # noqa: TRY004
        hosted = self._system.hosted.get(handler.owner)
        if hosted is None:
            raise ValueError(f"{self._system.name} hosts no entity with the handler {handler!r}; add system.host(…)")
        if type(message) not in handler.message_types:
            raise ValueError(f"{handler!r} does not take {type(message).__name__}")
        raw_key = checked_key(key).encode()
        data = _encoded(message, hosted, self._system.settings.input_bytes_max)
        topic = topics.commands_topic(self._system.name, hosted.behaviour.name)
        headers = ((MESSAGE_ID, message_id.encode()),)
        return Output(topic, partition_of(raw_key, hosted.partitions), raw_key, data, headers)

    def view(self, entity: type[E]) -> View[E]:
        """Return a local replica of all entities of a class, which follows the log; close it before the client."""
        return View(self._system, entity, self._log)

    def close(self) -> None:
        """Close the connection to the log, after the calls of other threads. Later calls raise ClientClosed."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._appender.close()
            if self._backend is not None:
                self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _encoded(message: Command, hosted: EntityDefinition, bytes_max: int) -> bytes:
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


def check_topics(system: SystemDefinition, backend: Backend) -> None:
    """Raise TopicMismatch unless a log has the commands topics of a system, with its numbers of partitions."""
    found = backend.topics()
    for hosted in system.hosted.values():
        topic = topics.commands_topic(system.name, hosted.behaviour.name)
        count = found.get(topic)
        if count is None:
            raise TopicMismatch(
                f"{backend.url} has no topic {topic}: no node of {system.name} has run on it. Start one first, or "
                "create the topics with: repertory topics MODULE:SYSTEM --log URL --create"
            )
        if count != hosted.partitions:
            raise TopicMismatch(
                f"topic {topic} of {backend.url} has {count} partitions, this code declares {hosted.partitions}: keys "
                "would go to other shards. Use the code of the nodes"
            )

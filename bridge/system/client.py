"""``Client``: sends commands to a system from outside, only through the log."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from repertory.actors.handler import CommandHandler
from repertory.actors.headers import MESSAGE_ID
from repertory.actors.message import Command
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.wire import encode
from repertory.bridge import topics
from repertory.bridge.log.port import Backend, OutcomeUnknown
from repertory.bridge.log.record import Output
from repertory.bridge.system.definition import SystemDefinition

C = TypeVar("C", bound=Command)


class Client:
    """Sends commands. For one thread. Close it, or use it as a context manager."""

    def __init__(self, system: SystemDefinition, backend: Backend) -> None:
        self._system = system
        self._appender = backend.appender()

    def tell(self, handler: CommandHandler[Any, C, Any], key: str, message: C) -> str:
        """Append a command durably and return its message id.

        ``handler`` names the entity class: ``client.tell(Account.deposit, "a-1", Deposit(amount=5))``.

        Raises:
            ValueError: the system does not host the entity, the handler does not take the message, or the key is
                invalid.
            LogUnavailable: the command was not appended.
            OutcomeUnknown: the command may have been appended; ``message_id`` identifies it.
        """
        return self.tell_all([(handler, key, message)])[0]

    def tell_all(self, commands: Iterable[tuple[CommandHandler[Any, Any, Any], str, Command]]) -> list[str]:
        """Append many commands at once, which is much faster than one by one and keeps their order per key.

        Raises what ``tell`` raises. After OutcomeUnknown any number of the commands may have been appended.
        """
        message_ids: list[str] = []
        outputs = []
        for handler, key, message in commands:
            message_ids.append(uuid.uuid4().hex)
            outputs.append(self._output(handler, key, message, message_ids[-1]))
        try:
            self._appender.append(outputs)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(str(error), message_ids[0] if message_ids else None) from error
        return message_ids

    def _output(self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, message_id: str) -> Output:
        hosted = self._system.hosted.get(handler.owner) if isinstance(handler, CommandHandler) else None
        if hosted is None:
            raise ValueError(f"{self._system.name} hosts no entity with the handler {handler!r}")
        if type(message) not in handler.message_types:
            raise ValueError(f"{handler!r} does not take {type(message).__name__}")
        try:
            data = encode(message)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{type(message).__name__} cannot be encoded: {error}") from error
        hosted.behaviour.decoder.decode(data)  # A command that a shard could not decode is refused at its sender.
        raw_key = checked_key(key).encode()
        topic = topics.commands_topic(self._system.name, hosted.behaviour.name)
        headers = ((MESSAGE_ID, message_id.encode()),)
        return Output(topic, partition_of(raw_key, hosted.partitions), raw_key, data, headers)

    def close(self) -> None:
        """Close the connection to the log."""
        self._appender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

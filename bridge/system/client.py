"""``Client``: sends commands to a system from outside, only through the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from repertory.actors.asks import AskId, Position
from repertory.actors.entity import Entity
from repertory.actors.handler import CommandHandler
from repertory.actors.message import Answer, Command, Message, Query, Rejection, Undelivered
from repertory.actors.query import QueryHandler
from repertory.actors.saga.saga import Saga
from repertory.bridge import topics
from repertory.bridge.log.errors import LogError, TopicMismatch
from repertory.bridge.log.port import Backend
from repertory.bridge.system.ask import TIMEOUT_S, Ask, AskOptions, AskResult
from repertory.bridge.system.asking import Asking
from repertory.bridge.system.by_id import Found, RevokeResult, fetching, found, revoked, revoking
from repertory.bridge.system.cancelling import CancelResult, cancelling
from repertory.bridge.system.client_core import ClientCore, Told
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.projected import Projectable
from repertory.bridge.system.view import View
from repertory.bridge.system.waiting import Waiting

C = TypeVar("C", bound=Command)
E = TypeVar("E", bound=Entity)
Q = TypeVar("Q", bound=Query)
A = TypeVar("A", bound=Answer | Rejection)


class Client(Asking):
    """Sends commands. Any thread may use it; their calls follow one another. Close it, or use it as a context manager.

    ``system.client(URL)`` makes one in any process. Make one in each process: none survives a fork. Do not call it in a
    signal handler, which may have interrupted a call of the same thread.
    """

    def __init__(
        self,
        system: SystemDefinition,
        backend: Backend,
        *,
        owns_backend: bool = False,
        drive: Callable[[], object] | None = None,
    ) -> None:
        """``owns_backend``: ``close`` closes the backend too. ``drive``: see ``ClientCore``."""
        self._core = ClientCore(system, backend, owns_backend=owns_backend, drive=drive)

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

    def tell_all(self, commands: Iterable[Told]) -> list[str]:
        """Append many commands at once, which is much faster than one by one and keeps their order per key.

        Raises what ``tell`` raises: except for OutcomeUnknown none of the commands was appended. After OutcomeUnknown
        any number of them may have been appended, and its ``message_id`` is that of the first.
        """
        message_ids, outputs = self._core.told(commands)
        self._core.append(outputs)
        return message_ids

    def _asked(
        self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, options: AskOptions
    ) -> AskResult[Message]:
        return self._wait(self._core.ask(handler, key, message, options))

    def query(
        self, handler: QueryHandler[Any, Q, A], key: str, message: Q, *, timeout_s: float = TIMEOUT_S
    ) -> A | Undelivered:
        """Ask an entity through the log: the answer sees every command before it that is applied.

        ``client.query(Account.status, "a-1", GetStatus())``. Undelivered: the handler raised. Raises what ``ask`` does;
        OutcomeUnknown if no answer came within ``timeout_s``, which means nothing for the entity.
        """
        result = self._wait(self._core.query(handler, key, message, timeout_s))
        return result.value  # type: ignore[return-value]  # decoded as one of the entity's answers

    def answer(
        self,
        handler: CommandHandler[Any, Any, Any],
        key: str,
        id: AskId,  # noqa: A002  named as the option of ask is
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> Found:
        """Return the answer to an ask that was made with this id, without its command.

        It stands in the log behind every command that was appended before, and changes nothing. ``handler``: the one
        that was asked, or any other of its entity. Returns

        - AskResult: the answer, as it was first given; ``again`` is true;
        - StillOpen: the ask waits in the stash, or a handler has kept its sender. It is a value and no error: a shard
          has said so, while OutcomeUnknown means that none has said anything;
        - NotAsked: nothing was applied under this id.

        Raises what ``ask`` does; OutcomeUnknown if no shard has answered in time, or the id is too old to be known.
        """
        ask = fetching(self._core, handler, key, id, timeout_s)
        return found(ask, self._wait(ask))

    def revoke(
        self,
        handler: CommandHandler[Any, Any, Any],
        key: str,
        id: AskId,  # noqa: A002  named as the option of ask is
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> RevokeResult:
        """Revoke the ask that was made with this id, unless a handler has taken it. It can be repeated.

        An ask in the stash, waiting or parked, is removed and becomes a dead letter of the error ``Revoked``. Its asker
        and all others who wait with the same id, in any client, are answered Undelivered, and that is the answer to the
        id from then on. If it had parked its key, the commands behind it go on. Returns

        - Revoked: it is not applied and never will be, by this call or an earlier one;
        - AskResult: it was answered before, and this is the answer;
        - StillOpen: a handler has kept the sender (``kept``), and will answer;
        - NotAsked: nothing was applied under this id. A command that is still on its way to the log will be.

        Raises what ``ask`` does; OutcomeUnknown if no shard has answered in time, or the id is too old to be known.
        """
        ask = revoking(self._core, handler, key, id, timeout_s)
        return revoked(ask, self._wait(ask))

    def cancel(self, saga: type[Saga], key: str, *, reason: str = "", timeout_s: float = TIMEOUT_S) -> CancelResult:
        """Cancel a saga: what it has done is undone, and it answers `Cancelled` with the reason. It can be repeated.

        ``client.cancel(Transfer, "t-1", reason="the customer called")``. With a step under way that cannot be undone,
        the answer comes when that has been answered. Returns

        - Done: it rolls back now; ``client.ask`` of its start waits until that is done. Or it could not begin yet, and
          never does: who has started it is answered Undelivered;
        - TooLate: it is over, rolls back already, or has done what cannot be undone; ``reason`` says which;
        - NoSuchSaga: it was never started, or is forgotten;
        - Undelivered: the request was dropped, and does nothing.

        Raises what ``ask`` does.
        """
        return cast(CancelResult, self._wait(cancelling(self._core, saga, key, reason, timeout_s)).value)

    def _wait(self, ask: Ask) -> AskResult[Message]:
        core = self._core
        with closing(core.steps(ask)) as steps:
            for futures, timeout_s in steps:
                if not core.is_driven:
                    wait(futures, timeout_s, FIRST_COMPLETED)
                    continue
                try:
                    core.drive(futures, timeout_s)
                except LogError as error:  # Of the worker that is driven, which says nothing about the command.
                    raise ask.interrupted(error) from error
        return ask.answer.result()

    def view(self, entity: type[E]) -> View[E]:
        """Return a local replica of all entities of a class, which follows the log; close it before the client."""
        return View(self._core.system, entity, self._core.log)

    def wait(self, projection: type[Projectable], position: Position | None, *, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the tables of a projection hold everything up to a position, as ``ask_result`` returns it.

        Exactly once, a query in SQL then sees what was asked; at least once it takes until the shard is idle.

        Raises:
            TimeoutError: they do not after ``timeout_s``; the text says how far they are.
            ProjectionStopped: the projection has stopped before that; the sentence names the event.
            LookupError: the system does not project it.
            ValueError: there is no position, or it is of an entity that it does not follow.
        """
        core = self._core
        with closing(Waiting(core, projection, position, timeout_s)) as waiting:
            while not waiting.reached():
                if core.is_driven:
                    core.drive((), 0.0)
                else:
                    time.sleep(waiting.pause_s)

    def database(self, projection: type[Projectable]) -> str:
        """Return the URL of the database that holds a projection, for SQLAlchemy: password included."""
        return self._core.system.projections.of(projection).url(self._core.log)

    def close(self) -> None:
        """Close the connection to the log, after the appends of other threads. Later calls raise ClientClosed.

        An ask that waits for its answer in another thread raises OutcomeUnknown at once.
        """
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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

"""``Asking`` and ``AsyncAsking``: the methods that ask, typed by what the asked handler returns.

The answer to a handler is its event (the last of a tuple), its rejection, or Done for None and a new state. The
overloads are ordered by what mypy infers: it reads ``Self | Full`` of a method as ``Full``, so a handler of rejections
alone may be answered Done; and of two events or two rejections beside None it takes the base class.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar, Unpack, overload

from repertory.actors.entity import Entity
from repertory.actors.handler import CommandHandler
from repertory.actors.message import Command, Done, Event, Message, Rejection
from repertory.bridge.system.ask import AskOptions, AskResult, NotApplied

C = TypeVar("C", bound=Command)
M = TypeVar("M", bound=Event | Rejection)
J = TypeVar("J", bound=Rejection)
V = TypeVar("V", bound=Event)
#: A tuple that is not empty, whose last event is the answer.
Last: TypeAlias = tuple[*tuple[Event, ...], V]
#: A tuple of any length, or a rejection.
Several: TypeAlias = tuple[V, ...] | J | Entity | None
#: Whatever a handler returns.
Returned: TypeAlias = Event | Rejection | tuple[Event, ...] | Entity | None


class Asking:
    """Asks, and waits for the answer. Its base for ``Client``."""

    @overload
    def ask(
        self, handler: CommandHandler[Any, C, J | Entity | None], key: str, message: C, **options: Unpack[AskOptions]
    ) -> J | Done | NotApplied: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, M], key: str, message: C, **options: Unpack[AskOptions]
    ) -> M | NotApplied: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, V | J | None], key: str, message: C, **options: Unpack[AskOptions]
    ) -> V | J | Done | NotApplied: ...
    @overload
    def ask(
        self,
        handler: CommandHandler[Any, C, Last[V]],
        key: str,
        message: C,
        **options: Unpack[AskOptions],
    ) -> V | NotApplied: ...
    @overload
    def ask(
        self,
        handler: CommandHandler[Any, C, Several[V, J]],
        key: str,
        message: C,
        **options: Unpack[AskOptions],
    ) -> J | V | Done | NotApplied: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, Returned], key: str, message: C, **options: Unpack[AskOptions]
    ) -> Event | Rejection: ...
    def ask(
        self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, **options: Unpack[AskOptions]
    ) -> Message:
        """Send a command and return its answer. Waits ``timeout_s`` at most: 5 s, unless the caller says otherwise.

        ``client.ask(Account.withdraw, "a-1", Withdraw(amount=5))`` returns what the handler returns (``Done`` for None
        and for a new state), or Undelivered: the command is not applied and never will be.

        The client repeats the command by itself while it does not know the outcome, and it is applied once. To ask
        again later, with another client or after a crash, give the ask an id of its own, and store it before the first
        attempt: ``id=AskId("order-17", made_at=datetime.now(UTC))``. The first answer to an id is its answer for good.
        Another command with that id is answered IdConflict, and an id from the future ClockAhead. ``repeat=False``
        sends the command once, without any id.

        Raises:
            OutcomeUnknown: no answer came in time, or the client was closed. The command may be applied, now or later;
                the message says how to find out, and ``id`` is the id that the caller gave.
            ValueError: the call is wrong; nothing was sent. See ``tell``; or an option is invalid.
            Refused, LogUnavailable, LogUnusable, ClientClosed: nothing was appended, as with ``tell``.
        """
        return self._asked(handler, key, message, options).value

    @overload
    def ask_result(
        self, handler: CommandHandler[Any, C, J | Entity | None], key: str, message: C, **options: Unpack[AskOptions]
    ) -> AskResult[J | Done | NotApplied]: ...
    @overload
    def ask_result(
        self, handler: CommandHandler[Any, C, M], key: str, message: C, **options: Unpack[AskOptions]
    ) -> AskResult[M | NotApplied]: ...
    @overload
    def ask_result(
        self, handler: CommandHandler[Any, C, V | J | None], key: str, message: C, **options: Unpack[AskOptions]
    ) -> AskResult[V | J | Done | NotApplied]: ...
    @overload
    def ask_result(
        self,
        handler: CommandHandler[Any, C, Last[V]],
        key: str,
        message: C,
        **options: Unpack[AskOptions],
    ) -> AskResult[V | NotApplied]: ...
    @overload
    def ask_result(
        self,
        handler: CommandHandler[Any, C, Several[V, J]],
        key: str,
        message: C,
        **options: Unpack[AskOptions],
    ) -> AskResult[J | V | Done | NotApplied]: ...
    @overload
    def ask_result(
        self, handler: CommandHandler[Any, C, Returned], key: str, message: C, **options: Unpack[AskOptions]
    ) -> AskResult[Event | Rejection]: ...
    def ask_result(
        self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, **options: Unpack[AskOptions]
    ) -> AskResult[Message]:
        """Ask as ``ask`` does; return the answer with its position, and whether it had been given before."""
        return self._asked(handler, key, message, options)

    def _asked(
        self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, options: AskOptions
    ) -> AskResult[Message]:
        raise NotImplementedError


class AsyncAsking:
    """The same as coroutines. Its base for ``AsyncClient``."""

    @overload
    async def ask(
        self, handler: CommandHandler[Any, C, J | Entity | None], key: str, message: C, **options: Unpack[AskOptions]
    ) -> J | Done | NotApplied: ...
    @overload
    async def ask(
        self, handler: CommandHandler[Any, C, M], key: str, message: C, **options: Unpack[AskOptions]
    ) -> M | NotApplied: ...
    @overload
    async def ask(
        self, handler: CommandHandler[Any, C, V | J | None], key: str, message: C, **options: Unpack[AskOptions]
    ) -> V | J | Done | NotApplied: ...
    @overload
    async def ask(
        self,
        handler: CommandHandler[Any, C, Last[V]],
        key: str,
        message: C,
        **options: Unpack[AskOptions],
    ) -> V | NotApplied: ...
    @overload
    async def ask(
        self,
        handler: CommandHandler[Any, C, Several[V, J]],
        key: str,
        message: C,
        **options: Unpack[AskOptions],
    ) -> J | V | Done | NotApplied: ...
    @overload
    async def ask(
        self, handler: CommandHandler[Any, C, Returned], key: str, message: C, **options: Unpack[AskOptions]
    ) -> Event | Rejection: ...
    async def ask(
        self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, **options: Unpack[AskOptions]
    ) -> Message:
        """Send a command and return its answer; see ``Client.ask``. A task that is cancelled may have sent it."""
        return (await self._asked(handler, key, message, options)).value

    @overload
    async def ask_result(
        self, handler: CommandHandler[Any, C, J | Entity | None], key: str, message: C, **options: Unpack[AskOptions]
    ) -> AskResult[J | Done | NotApplied]: ...
    @overload
    async def ask_result(
        self, handler: CommandHandler[Any, C, M], key: str, message: C, **options: Unpack[AskOptions]
    ) -> AskResult[M | NotApplied]: ...
    @overload
    async def ask_result(
        self, handler: CommandHandler[Any, C, V | J | None], key: str, message: C, **options: Unpack[AskOptions]
    ) -> AskResult[V | J | Done | NotApplied]: ...
    @overload
    async def ask_result(
        self,
        handler: CommandHandler[Any, C, Last[V]],
        key: str,
        message: C,
        **options: Unpack[AskOptions],
    ) -> AskResult[V | NotApplied]: ...
    @overload
    async def ask_result(
        self,
        handler: CommandHandler[Any, C, Several[V, J]],
        key: str,
        message: C,
        **options: Unpack[AskOptions],
    ) -> AskResult[J | V | Done | NotApplied]: ...
    @overload
    async def ask_result(
        self, handler: CommandHandler[Any, C, Returned], key: str, message: C, **options: Unpack[AskOptions]
    ) -> AskResult[Event | Rejection]: ...
    async def ask_result(
        self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, **options: Unpack[AskOptions]
    ) -> AskResult[Message]:
        """Ask as ``ask`` does; return the answer with its position, and whether it had been given before."""
        return await self._asked(handler, key, message, options)

    async def _asked(
        self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, options: AskOptions
    ) -> AskResult[Message]:
        raise NotImplementedError

"""``Saga``, ``@run`` and ``signal``: a keyed actor whose behaviour is one coroutine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints, overload

import msgspec

from repertory.actors.entity import Entity, EntityMeta
from repertory.actors.handler import CommandHandler, Handler, members, name_of
from repertory.actors.message import Command, DefinitionError, Done, Event, Rejection, Undelivered
from repertory.actors.saga.advice import advise
from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.actors.saga.context import SagaContext
from repertory.actors.saga.messages import AlreadyBegun, Cancelled, NoSuchSaga, TooLate
from repertory.actors.saga.progress import SagaProgress
from repertory.actors.saga.room import SagaLimits

if TYPE_CHECKING:
    from repertory.actors.context import Context

E = TypeVar("E")
C = TypeVar("C", bound=Command)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class RunHandler(CommandHandler[E, C, R_co]):
    """A ``@run`` method. On the class it is the address of the saga's start (``Transfer.transfer``)."""

    kind = "@run"
    shape = "(self, cmd, ctx)"

    def __init__(self, function: Callable[..., Any], version: int) -> None:
        super().__init__(function)
        self.version = version

    def resolve(self, names: Mapping[str, Any]) -> None:
        """Read the annotations; see ``Handler.resolve``."""
        if isinstance(self.function, Handler) or not inspect.isfunction(self.function):
            raise self.refusal("is not a plain method; make it an async def")
        if inspect.isasyncgenfunction(self.function):
            raise self.refusal("yields; a saga awaits its steps, and returns how it ends")
        if not inspect.iscoroutinefunction(self.function):
            raise self.refusal("is not async; a saga awaits its steps, so make it an async def")
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        if len(parameters) != 2 or any(each.kind is not each.POSITIONAL_OR_KEYWORD for each in parameters):
            raise self.refusal(f"must take {self.shape}")
        if type(self.version) is not int or not 1 <= self.version <= 1_000_000:
            raise self.refusal(f"has version={self.version!r:.100}; use a number from 1 on")
        advise(self)
        try:
            hints = get_type_hints(self.function, localns={**names, self.owner.__name__: self.owner})
        except (AttributeError, SyntaxError, TypeError) as error:
            raise self.refusal(f"has an annotation that cannot be read ({error})") from error
        self.message_types = self._message_types(parameters[0].name, hints)
        if hints.get(parameters[1].name) is not SagaContext:
            raise self.refusal(f"takes {parameters[1].name!r} as its second argument, which must be a SagaContext")
        if "return" not in hints:
            raise self.refusal("has no return annotation; add one, it is what the saga may answer")
        self.set_results(tuple(dict.fromkeys(map(self._outcome, members(hints["return"])))))
        if Cancelled not in self.results:
            raise self.refusal("must name Cancelled in its return annotation: every saga can be cancelled")
        self.answers = tuple(dict.fromkeys((*self.results, AlreadyBegun, TooLate, Undelivered)))

    def _outcome(self, member: object) -> type:
        if isinstance(member, type) and issubclass(member, Event | Rejection) and member not in (Event, Rejection):
            return member
        raise self.refusal(
            f"is annotated to return {name_of(member)}; a saga returns Event classes (it is done) and Rejection "
            "classes (what was applied is undone)"
        )


class SignalHandler(CommandHandler[E, C, R_co]):
    """What ``signal(Approve)`` declares. On the class it is an address (``Order.approve``)."""

    kind = "signal"

    def __init__(self, message: type[C]) -> None:
        def waits(_saga: E, _signal: C, _ctx: Context) -> Done:
            raise AssertionError("the behaviour of sagas handles signals")

        super().__init__(waits)
        self._message = message

    def resolve(self, names: Mapping[str, Any]) -> None:  # noqa: ARG002  a signal has no annotations
        """Check the class of the signal."""
        message: object = self._message
        if not isinstance(message, type) or not issubclass(message, Command) or message is Command:
            raise self.refusal(f"takes {name_of(message)}, which is no Command class")
        self.message_types = (message,)
        self.set_results((Done, NoSuchSaga, TooLate))
        self.answers = (*self.results, Undelivered)


@overload
def run(function: Callable[[E, C, SagaContext], Coroutine[Any, Any, R]], /) -> RunHandler[E, C, R]: ...
@overload
def run(*, version: int) -> Callable[[Callable[[E, C, SagaContext], Coroutine[Any, Any, R]]], RunHandler[E, C, R]]: ...
def run(function: Callable[..., Any] | None = None, /, *, version: int = 1) -> Any:
    """Decorate the coroutine method of a `Saga`: ``async def transfer(self, cmd, ctx) -> Transferred | Cancelled``.

    An Event that it returns says that the saga is done. With a Rejection, returned or required, what was applied is
    undone. An exception is a bug: the saga waits, and a mended build goes on. ``version``: running sagas go on with the
    version that they began with, so old methods stay as long as there are such sagas; new ones begin with the highest.
    """
    if function is None:
        return lambda decorated: RunHandler(decorated, version)
    return RunHandler(function, version)


def signal(message: type[C]) -> SignalHandler[Saga, C, Done | NoSuchSaga | TooLate]:
    """Declare a signal of a `Saga`, ``approve = signal(Approve)``: a command that its code waits for, or takes later.

    It is sent by ``tell`` or ``ask``, as any command: ``client.ask(Order.approve, key, Approve(by="eve"))``. An asker
    is answered ``Done`` when the code takes it, ``Undelivered`` if the saga ends before.
    """
    return SignalHandler(message)


class SagaMeta(EntityMeta):
    """Checks a saga class; ``steps_max`` and the other limits may stand in its class statement."""

    behaviour_type = SagaBehaviour

    @classmethod
    def _check_statement(
        cls, class_name: str, bases: tuple[type, ...], namespace: dict[str, Any], options: dict[str, Any]
    ) -> None:
        limits = SagaLimits.checked(class_name, options)
        options.clear()
        if class_name != "Saga":
            fields = [name for name in namespace.get("__annotations__", {}) if not name.startswith("__")]
            if fields:
                raise DefinitionError(
                    f"{class_name}.{fields[0]}: a saga has no fields; what it knows is in the variables of its code."
                )
            for name, value in namespace.items():
                if isinstance(value, Handler) and not isinstance(value, RunHandler | SignalHandler):
                    raise DefinitionError(
                        f"{class_name}.{name} is a {value.kind} method; a saga has @run methods and signals only."
                    )
        super()._check_statement(class_name, bases, namespace, options)
        namespace["__saga_limits__"] = limits


class Saga(Entity, metaclass=SagaMeta):
    """A keyed actor whose behaviour is one coroutine, its ``@run`` method; its state is what is recorded of it.

    ``class Transfer(Saga, steps_max=1000)``: so many steps a run (200), ``signals_max`` that wait (1,000),
    ``answer_bytes_max`` of an answer (65,536), and how long its result is known, ``results_kept_s`` (86,400).
    """

    progress: SagaProgress = msgspec.field(default_factory=SagaProgress)

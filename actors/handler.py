"""``@command``, ``@reply`` and ``@event``: the methods of an entity that the runtime calls, and their contracts.

``@query`` is in ``actors.query``.
"""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Callable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from repertory.actors.message import (
    Answer,
    Command,
    DefinitionError,
    Done,
    Event,
    Message,
    Query,
    Rejection,
    Stopped,
    Undelivered,
)

if TYPE_CHECKING:
    from repertory.actors.context import Context

E = TypeVar("E")
C = TypeVar("C")
Ev = TypeVar("Ev", bound=Event)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")


class NextState:
    """Represents ``Self`` in the results of a handler."""


class ResultKind(enum.Enum):
    """What a handler's result is: an event, a rejection, an answer, the next state of its entity, or nothing."""

    EVENT = enum.auto()
    REJECTION = enum.auto()
    ANSWER = enum.auto()
    STATE = enum.auto()
    NOTHING = enum.auto()


class Handler:
    """One decorated method: chosen by its annotations, addressed as ``Account.deposit``.

    ``owner`` and ``name`` are known when the class exists; :meth:`resolve` reads the annotations, which can name
    classes that are defined later.
    """

    kind = ""
    #: The bases of the messages that it takes, and the parameters that its method may have.
    takes: tuple[type[Message], ...] = ()
    shape = "(self, cmd) or (self, cmd, ctx)"
    parameters_max = 2
    #: Whether its result answers who asked.
    answers_asker = False

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.owner: type = object
        self.name = getattr(function, "__name__", repr(function))
        self.__doc__ = function.__doc__
        self.message_types: tuple[type[Message], ...] = ()
        self.takes_context = False
        self.results: tuple[type, ...] = ()
        self.returns_tuple = False
        #: Whether the tuple may be empty: ``tuple[Deposited, ...]``.
        self.returns_nothing = False
        #: By the type of a result that the annotation allows, alone or within a tuple; a tuple itself has no kind.
        self.result_kinds: Mapping[type, ResultKind] = {}
        #: The answers that this handler can give to an asker, and all answers that an ask of it can bring back.
        self.replies: tuple[type[Message], ...] = ()
        self.answers: tuple[type[Message], ...] = ()

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name

    def __repr__(self) -> str:
        return f"<{self.kind} {self.owner.__name__}.{self.name}>"

    def resolve(self, names: Mapping[str, Any]) -> None:
        """Read the annotations; NameError if one uses a name that does not exist yet, DefinitionError for a mistake."""
        if isinstance(self.function, Handler):
            raise self.refusal("is decorated twice; a method is one of @command, @reply, @event and @query")
        if not inspect.isfunction(self.function):
            raise self.refusal(f"is a {type(self.function).__name__}, not a plain method; make it a plain def")
        if inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise self.refusal("is async; a handler decides at once and does no I/O, so make it a plain def")
        if inspect.isgeneratorfunction(self.function):
            raise self.refusal("is a generator; return a tuple of events instead of yielding them")
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        limit = self.parameters_max
        if not 1 <= len(parameters) <= limit or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters):
            raise self.refusal(f"must take {self.shape}")
        try:
            hints = get_type_hints(self.function, localns={**names, self.owner.__name__: self.owner})
        except (AttributeError, SyntaxError, TypeError) as error:
            raise self.refusal(f"has an annotation that cannot be read ({error})") from error
        self.message_types = self._message_types(parameters[0].name, hints)
        self.takes_context = len(parameters) == limit == 2 and self._is_context(parameters[1].name, hints)
        if "return" not in hints:
            raise self.refusal("has no return annotation; add one, it is the handler's contract")
        results, self.returns_tuple = self._results(hints["return"])
        self.set_results(results)

    def set_results(self, results: tuple[type, ...]) -> None:
        """Note what it may return, and so what an ask of it can bring back."""
        self.results = results
        self.result_kinds = {self.owner if result is NextState else result: _kind_of(result) for result in results}
        replies = [Done if result in (NextState, type(None)) else result for result in self.results]
        self.replies = tuple(dict.fromkeys([*replies, Done] if self.returns_nothing else replies))
        self.answers = tuple(dict.fromkeys((*self.replies, Undelivered)))

    def refusal(self, sentence: str) -> DefinitionError:
        """Return the error for a mistake in this handler."""
        return DefinitionError(f"{self.kind} {self.owner.__name__}.{self.name} {sentence}.")

    def _message_types(self, parameter: str, hints: Mapping[str, Any]) -> tuple[type[Message], ...]:
        wanted = self.takes
        names = " or ".join(f"a {base.__name__}" for base in wanted).replace("a Event", "an Event")
        if parameter not in hints:
            raise self.refusal(f"has no annotation for {parameter!r}; annotate it with {names}")
        found = tuple(members(hints[parameter]))
        for member in found:
            self._check_kind(member, parameter)
            if not (isinstance(member, type) and issubclass(member, wanted)) or member in wanted:
                raise self.refusal(f"takes {name_of(member)} as {parameter!r}, which is not {names} class")
            if issubclass(member, Stopped):
                raise self.refusal(f"takes {name_of(member)}, which only ctx.stop() writes and nothing has to handle")
        if len(found) > 1 and self.kind != "@reply":
            raise self.refusal(f"takes a union as {parameter!r}; write one method for each message")
        return found

    def _check_kind(self, member: object, parameter: str) -> None:
        """Refuse a message that another kind of handler takes; the sentence names the decorator."""
        if isinstance(member, type) and issubclass(member, Query):
            raise self.refusal(f"takes {name_of(member)} as {parameter!r}, which is a Query; make it a @query method")

    def _is_context(self, parameter: str, hints: Mapping[str, Any]) -> bool:
        from repertory.actors.context import Context  # noqa: PLC0415  context names handlers in its own signatures

        if hints.get(parameter) is not Context:
            raise self.refusal(f"takes {parameter!r} as its second argument, which must be annotated Context")
        return True

    def _results(self, annotation: object) -> tuple[tuple[type, ...], bool]:
        found: list[type] = []
        returns_tuple = False
        for member in members(annotation):
            inner = [member]
            if get_origin(member) is tuple:
                returns_tuple = True
                if not get_args(member):
                    raise self.refusal(f"is annotated to return {name_of(member)}; say which events: tuple[Event, ...]")
                self.returns_nothing = self.returns_nothing or Ellipsis in get_args(member)
                inner = [part for arg in get_args(member) if arg is not Ellipsis for part in members(arg)]
            found += [self._result(part, in_tuple=len(inner) > 1 or inner[0] is not member) for part in inner]
        return tuple(dict.fromkeys(found)), returns_tuple

    def _result(self, member: object, *, in_tuple: bool) -> type:
        if member is Self or member is self.owner:
            if not in_tuple:
                return NextState
        elif isinstance(member, type) and not issubclass(member, Stopped):
            if issubclass(member, Event) and member is not Event and self.kind != "@event":
                return member
            if not in_tuple and self.kind != "@event" and (member is type(None) or issubclass(member, Rejection)):
                return member
        if self.kind == "@event":
            raise self.refusal(f"is annotated to return {name_of(member)}; an event handler returns Self")
        if isinstance(member, type) and issubclass(member, Answer):
            raise self.refusal(
                f"is annotated to return {name_of(member)}, an Answer, which only a @query method returns; return an "
                "Event"
            )
        where = "within a tuple, which can only contain events" if in_tuple else ""
        raise self.refusal(
            f"is annotated to return {name_of(member)} {where}".rstrip()
            + "; a handler returns Event classes, a tuple of them, Rejection classes, Self or None"
        )


def _kind_of(result: type) -> ResultKind:
    if result is NextState:
        return ResultKind.STATE
    if result is type(None):
        return ResultKind.NOTHING
    if issubclass(result, Answer):
        return ResultKind.ANSWER
    return ResultKind.REJECTION if issubclass(result, Rejection) else ResultKind.EVENT


def members(annotation: object) -> list[Any]:
    """Return the members of a union, or the annotation alone."""
    if get_origin(annotation) in (Union, types.UnionType):
        return list(get_args(annotation))
    return [type(None) if annotation is None else annotation]


def name_of(annotation: object) -> str:
    """Return how a sentence names an annotation."""
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


class DecidingHandler(Handler, Generic[E, C, R_co]):
    """A method that decides what a message does; its return annotation is its contract."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[..., R_co]: ...
    def __get__(self, instance: object | None, owner: type) -> Self | Callable[..., R_co]:
        """Bind as a method does."""
        return self if instance is None else types.MethodType(self.function, instance)


class CommandHandler(DecidingHandler[E, C, R_co]):
    """A ``@command`` method. On the class it is an address (``Account.deposit``), on an instance a method."""

    kind = "@command"
    takes = (Command,)
    answers_asker = True


class ReplyHandler(DecidingHandler[E, C, R_co]):
    """A ``@reply`` method: takes the answer to an ``ask`` of this entity."""

    kind = "@reply"
    takes = (Event, Rejection)


class EventHandler(Handler, Generic[S, Ev]):
    """An ``@event`` method: returns the next state. Pure and total; a replay runs only these methods."""

    kind = "@event"
    takes = (Event,)
    shape = "(self, evt)"
    parameters_max = 1

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: T, owner: type) -> Callable[[Ev], T]: ...
    def __get__(self, instance: T | None, owner: type) -> Self | Callable[[Ev], T]:
        """Bind as a method does."""
        return self if instance is None else types.MethodType(self.function, instance)


@overload
def command(function: Callable[[E, C], R]) -> CommandHandler[E, C, R]: ...
@overload
def command(function: Callable[[E, C, Context], R]) -> CommandHandler[E, C, R]: ...
def command(function: Callable[..., R]) -> CommandHandler[Any, Any, R]:
    """Decorate the method that handles one Command: ``(self, cmd)`` or ``(self, cmd, ctx)``."""
    return CommandHandler(function)


@overload
def reply(function: Callable[[E, C], R]) -> ReplyHandler[E, C, R]: ...
@overload
def reply(function: Callable[[E, C, Context], R]) -> ReplyHandler[E, C, R]: ...
def reply(function: Callable[..., R]) -> ReplyHandler[Any, Any, R]:
    """Decorate the method that takes an answer (an Event or a Rejection, or a union) to an ``ask`` of this entity."""
    return ReplyHandler(function)


def event(function: Callable[[S, Ev], S]) -> EventHandler[S, Ev]:
    """Decorate the method that evolves the state by one Event: ``(self, evt) -> Self``."""
    return EventHandler(function)

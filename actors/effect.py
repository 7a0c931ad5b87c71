"""``@effect``: an async function that asks the world outside, and what it is given.

An entity performs an effect with ``ctx.perform``: its request is written in the transaction of the command, and the
function runs after that, as often as it takes. Its result comes back to the entity's ``@reply`` method. A function may
run twice for one request, also in two processes: `EffectContext.id` is the same then, for receivers that ask for it.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Coroutine, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, get_type_hints, overload

from repertory.actors.fields import flaw
from repertory.actors.handler import members, name_of
from repertory.actors.message import DefinitionError, Event, Message, Rejection, Request, Stopped, Undelivered
from repertory.actors.wire import MessageDecoder
from repertory.supervision.restart import Backoff

Q = TypeVar("Q", bound=Request)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

#: Longest name of an effect: a header of each result contains it.
_NAME_CHARS_MAX = 200
#: The longest time-out, a day: more is a mistake of units.
TIMEOUT_S_MAX = 86_400.0
#: How long a failed effect waits, unless it says otherwise.
DEFAULT_BACKOFF = Backoff(first_s=1.0, max_s=300.0)
#: Modules that are imported under another name too.
_SCRIPTS = frozenset({"__main__", "__mp_main__"})


class EffectContext(ABC):
    """What an effect is given beside its request: facts of its attempt, and the resources of its worker."""

    @property
    @abstractmethod
    def id(self) -> str:
        """``topic/partition/offset/index`` of the request: the same at each attempt and after each crash."""

    @property
    @abstractmethod
    def epoch(self) -> int:
        """It grows with each owner of the shard, so that a receiver can refuse a former one."""

    @property
    @abstractmethod
    def attempt(self) -> int:
        """1 + the attempts that have failed."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The key of the entity that performs it."""

    @abstractmethod
    def get(self, kind: type[T]) -> T:
        """Return the resource of that type; LookupError if the worker has none."""


class EffectSignature(NamedTuple):
    """What the annotations of an effect say. ``results`` are all types that it may return, ``NoneType`` among them."""

    request: type[Request]
    results: tuple[type, ...]
    takes_context: bool
    decoder: MessageDecoder

    @property
    def answers(self) -> tuple[type[Message], ...]:
        """What an entity that performs it may be answered."""
        return tuple(dict.fromkeys([*(each for each in self.results if issubclass(each, Message)), Undelivered]))


class Effect(Generic[Q, R_co]):
    """A decorated async function. It can be called as the function itself; the runtime finds it by its ``name``."""

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, R_co]],
        frame: FrameType,
        *,
        timeout_s: float,
        attempts: int,
        backoff: Backoff,
        name: str | None,
    ) -> None:
        """``frame``: where it is defined; until its annotations are read, they can use the names there."""
        self.function = function
        self.__name__ = getattr(function, "__name__", repr(function))
        self.__doc__, self.__module__ = function.__doc__, getattr(function, "__module__", "")
        self.name = self.__name__ if name is None else name
        self.timeout_s, self.attempts, self.backoff = timeout_s, attempts, backoff
        self._frame: FrameType | None = frame
        self._signature: EffectSignature | None = None
        self._check()
        with contextlib.suppress(NameError):  # Of a class that is defined later: it is read again when it is performed.
            self._read(frame.f_locals)

    def __repr__(self) -> str:
        return f"<@effect {self.name}>"

    def __call__(self, do: Q, *context: EffectContext) -> Coroutine[Any, Any, R_co]:
        """Call the function, as a test does."""
        return self.function(do, *context)

    @property
    def signature(self) -> EffectSignature:
        """What its annotations say; DefinitionError if one of them cannot be read."""
        if self._signature is None:
            try:
                return self._read({} if self._frame is None else self._frame.f_locals)
            except NameError as error:
                raise self._refusal(
                    f"has an annotation that names {error.name!r}, which does not exist; define or import it"
                ) from error
        return self._signature

    def begin(self, request: bytes, context: EffectContext) -> Coroutine[Any, Any, R_co]:
        """Decode a request and call the function, which does not run yet. DecodeError for any other bytes."""
        signature = self.signature
        do = signature.decoder.decode(request)
        return self.function(do, context) if signature.takes_context else self.function(do)

    def delay_s(self, attempt: int, offset: int, index: int) -> float:
        """Return how long it waits after a failed attempt (from 1); offset and index are those of its request."""
        draw = ((offset * 2_654_435_761 + index * 97_561 + attempt * 40_503) & 0xFFFF) / 0x10000
        return self.backoff.delay_s(attempt, draw)

    def flaw_of_request(self, request: object, taken: Container[type[Message]]) -> str | None:
        """Return why an entity that takes these messages cannot perform a request, None if it can."""
        signature = self.signature
        if type(request) is not signature.request:
            return f"performs {self.name} with {type(request).__name__}, and it takes {signature.request.__qualname__}"
        for answer in signature.answers:
            if answer not in taken:
                return (
                    f"performs {self.name}, which may answer {answer.__qualname__}; write a @reply method that takes it"
                )
        return None

    def flaw_of_result(self, result: object) -> str | None:
        """Return why it cannot have a result, None if it can."""
        if type(result) in self.signature.results:
            return None
        names = ", ".join("None" if each is type(None) else each.__name__ for each in self.signature.results)
        return f"{self.name} returned {type(result).__name__}; its annotation names {names}"

    # --- the definition ---------------------------------------------------------------------------------------

    def _refusal(self, sentence: str) -> DefinitionError:
        return DefinitionError(f"@effect {self.__name__} {sentence}.")

    def _check(self) -> None:
        if isinstance(self.function, Effect):
            raise self._refusal("is decorated twice; drop one of the two")
        if not inspect.iscoroutinefunction(self.function):
            raise self._refusal("is not an async function, and would block the others; make it an async def")
        name, timeout_s = self.name, self.timeout_s
        if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= _NAME_CHARS_MAX:
            raise self._refusal(f"has name={name!r:.100}; use 1 to {_NAME_CHARS_MAX} printable characters")
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= TIMEOUT_S_MAX:
            raise self._refusal(
                f"has timeout_s={timeout_s!r:.100}; give the seconds that one attempt may take, up to "
                f"{TIMEOUT_S_MAX:,.0f}"
            )
        if type(self.attempts) is not int or self.attempts < 1:
            raise self._refusal(f"has attempts={self.attempts!r:.100}; use a number from 1 on")
        if not isinstance(self.backoff, Backoff):
            raise self._refusal(f"has backoff={self.backoff!r:.100}; use a Backoff")

    def _read(self, names: Mapping[str, Any]) -> EffectSignature:
        """Read the annotations; NameError if one uses a name that does not exist yet."""
        parameters = list(inspect.signature(self.function).parameters.values())
        if not 1 <= len(parameters) <= 2 or any(each.kind is not each.POSITIONAL_OR_KEYWORD for each in parameters):
            raise self._refusal("must take (do) or (do, fx): its request, and an EffectContext")
        try:
            hints = get_type_hints(self.function, localns=dict(names))
        except (AttributeError, SyntaxError, TypeError) as error:
            raise self._refusal(f"has an annotation that cannot be read ({error})") from error
        request = hints.get(parameters[0].name)
        if not isinstance(request, type) or not issubclass(request, Request) or request is Request:
            raise self._refusal(
                f"takes {name_of(request)} as {parameters[0].name!r}, which must be annotated with a Request class"
            )
        if reason := flaw(request):
            raise DefinitionError(f"{reason}.")
        if len(parameters) == 2 and hints.get(parameters[1].name) is not EffectContext:
            raise self._refusal(
                f"takes {parameters[1].name!r} as its second argument, which must be annotated EffectContext"
            )
        if "return" not in hints:
            raise self._refusal("has no return annotation; add one, it is what the entity may be answered")
        results = tuple(dict.fromkeys(map(self._result, members(hints["return"]))))
        self._signature = EffectSignature(request, results, len(parameters) == 2, MessageDecoder([request]))
        self._frame = None
        return self._signature

    def _result(self, member: object) -> type:
        if member is type(None):
            return type(None)
        if isinstance(member, type) and issubclass(member, Event | Rejection) and member not in (Event, Rejection):
            if issubclass(member, Stopped):
                raise self._refusal(f"is annotated to return {name_of(member)}, which only ctx.stop() writes")
            if reason := flaw(member):
                raise DefinitionError(f"{reason}.")
            return member
        raise self._refusal(
            f"is annotated to return {name_of(member)}; an effect returns Event classes, Rejection classes or None"
        )


class EffectDecorator(Protocol):
    """What ``@effect(…)`` returns."""

    @overload
    def __call__(self, function: Callable[[Q], Coroutine[Any, Any, R]], /) -> Effect[Q, R]: ...
    @overload
    def __call__(self, function: Callable[[Q, EffectContext], Coroutine[Any, Any, R]], /) -> Effect[Q, R]: ...


#: All effects of this process, by name.
_effects: dict[str, Effect[Any, Any]] = {}


def registered(name: str) -> Effect[Any, Any] | None:
    """Return the effect of a name, None if this build has none."""
    return _effects.get(name)


def _register(made: Effect[Any, Any]) -> None:
    """Make an effect known by its name. A module can define it again, as when it is loaded again."""
    known = _effects.get(made.name)
    modules = {made.__module__} if known is None else {made.__module__, known.__module__}
    if len(modules) > 1 and not modules & _SCRIPTS:
        raise DefinitionError(
            f"@effect {made.__name__} of {made.__module__} has the name {made.name!r}, and so has one of "
            f"{min(modules - {made.__module__})}; give one of them another: @effect(…, name=…)."
        )
    _effects[made.name] = made


if TYPE_CHECKING:

    def effect(
        *, timeout_s: float, attempts: int = 20, backoff: Backoff = DEFAULT_BACKOFF, name: str | None = None
    ) -> EffectDecorator:
        """See below."""
        ...

else:

    def effect(*misplaced, timeout_s=None, attempts=20, backoff=DEFAULT_BACKOFF, name=None):
        """Decorate an async function ``(do)`` or ``(do, fx)`` that asks the world outside; an entity performs it.

        An attempt that raises or takes longer than ``timeout_s`` is tried again after the backoff, ``attempts`` times
        in all; then the effect is parked until an operator acts. ``name``: how the log names it, by default as the
        function is called.
        """
        if misplaced:
            what = getattr(misplaced[0], "__name__", misplaced[0])
            if timeout_s is not None:
                raise DefinitionError(f"@effect takes no {what!r:.100} without a name; write name=… or another option.")
            raise DefinitionError(f"@effect {what!s:.100} has no time-out; write @effect(timeout_s=…).")

        def decorate(function):
            frame = sys._getframe(1)  # noqa: SLF001
            made = Effect(function, frame, timeout_s=timeout_s, attempts=attempts, backoff=backoff, name=name)
            _register(made)
            return made

        return decorate

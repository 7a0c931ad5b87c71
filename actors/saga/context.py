"""``SagaContext``: the steps that a saga's code can await. Its facts are those of `SagaFacts`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from repertory.actors.effect import Effect, Q
from repertory.actors.handler import CommandHandler, Handler
from repertory.actors.message import Done, Event, Rejection, Undelivered
from repertory.actors.saga.facts import SagaFacts, uncatchable
from repertory.actors.saga.messages import TimedOut
from repertory.actors.saga.plans import asked, call_to, performed, signalled, slept
from repertory.actors.saga.step import Call, First, Gather, Open, Pivot, Plan, SagaRefused, SagaStep, Single

if TYPE_CHECKING:
    from repertory.actors.entity import Entity

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
T = TypeVar("T")
Ev = TypeVar("Ev", bound=Event)
J = TypeVar("J", bound=Rejection)
M = TypeVar("M", bound=Event | Rejection)
#: A tuple of events, whose last is the answer, or a rejection.
Several: TypeAlias = tuple[Ev, ...] | J | None


@cache
def _unnamed(run: Handler, handler: Handler) -> type[Rejection] | None:
    """Return a rejection that a handler may answer, and the annotation of a ``@run`` method does not name."""
    rejections = (each for each in handler.answers if issubclass(each, Rejection))
    return next((each for each in rejections if each not in run.results), None)


# One parameter a line would bury what differs.
# fmt: off
class SagaContext(SagaFacts):
    """What the code of a saga is given: it belongs to one run of the code, and sends what that awaits."""

    @overload
    def call(self, receiver: CommandHandler[Any, C, object], key: str, message: C, /) -> Call: ...
    @overload
    def call(self, receiver: Effect[Q, object], request: Q, /) -> Call: ...
    @uncatchable
    def call(self, receiver: Any, *args: Any) -> Call:
        """Return a message for an entity, or a request to an effect, that undoes a step: ``undo=ctx.call(…)``."""
        self.check_is_open()
        call = call_to(self._context, receiver, args)
        if not call.is_effect:
            self._check_receiver(receiver, call.key)
        return call

    @overload
    def ask(
        self, handler: CommandHandler[Any, C, Entity | None], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> Open[Done | Undelivered]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, Entity | None], key: str, message: C, *,
        undo: Call | None, timeout_s: float, about: str = ""
    ) -> Open[Done | Undelivered | TimedOut]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, J | Entity | None], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> Open[J | Done | Undelivered]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, J | Entity | None], key: str, message: C, *,
        undo: Call | None, timeout_s: float, about: str = ""
    ) -> Open[J | Done | Undelivered | TimedOut]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, M], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> Open[M | Undelivered]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, M], key: str, message: C, *,
        undo: Call | None, timeout_s: float, about: str = ""
    ) -> Open[M | Undelivered | TimedOut]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, Ev | J | None], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> Open[Ev | J | Done | Undelivered]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, Ev | J | None], key: str, message: C, *,
        undo: Call | None, timeout_s: float, about: str = ""
    ) -> Open[Ev | J | Done | Undelivered | TimedOut]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, Several[Ev, J]], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> Open[Ev | J | Done | Undelivered]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, Several[Ev, J]], key: str, message: C, *,
        undo: Call | None, timeout_s: float, about: str = ""
    ) -> Open[Ev | J | Done | Undelivered | TimedOut]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, T], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> Open[T | Undelivered]: ...
    @overload
    def ask(
        self, handler: CommandHandler[Any, C, T], key: str, message: C, *,
        undo: Call | None, timeout_s: float, about: str = ""
    ) -> Open[T | Undelivered | TimedOut]: ...
    @uncatchable
    def ask(
        self, handler: Any, key: str, message: Any, *, undo: Call | Pivot | None, timeout_s: float | None = None,
        about: str = ""
    ) -> Open[Any]:
        """Ask another entity; the result is its answer, whatever it is.

        ``undo``: what undoes it (``ctx.call(…)``), None if there is nothing to undo, or PIVOT if it cannot be undone.
        With ``timeout_s`` the result is `TimedOut` if no answer came in time; an answer that comes later never reaches
        this code, and if the message was applied, its undo runs before the saga is over.
        """
        if timeout_s is not None and isinstance(undo, Pivot):
            raise SagaRefused(f"{handler!r}: a pivot takes no timeout_s; the saga must know whether it was applied")
        self._check_receiver(handler, key)
        plan = asked(self._context, "ask", handler, key, message, undo=undo, timeout_s=timeout_s, about=about)
        return Single(self._made(plan))

    @overload
    def require(
        self, handler: CommandHandler[Any, C, Entity | Rejection | None], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> SagaStep[Done]: ...
    @overload
    def require(
        self, handler: CommandHandler[Any, C, tuple[Ev, ...] | Rejection], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> SagaStep[Ev]: ...
    @overload
    def require(
        self, handler: CommandHandler[Any, C, Ev | Rejection], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> SagaStep[Ev]: ...
    @overload
    def require(
        self, handler: CommandHandler[Any, C, Ev | Rejection | None], key: str, message: C, *,
        undo: Call | Pivot | None, about: str = ""
    ) -> SagaStep[Ev | Done]: ...
    @uncatchable
    def require(
        self, handler: Any, key: str, message: Any, *, undo: Call | Pivot | None, about: str = ""
    ) -> SagaStep[Any]:
        """Ask another entity; the result is its event. With a rejection the saga ends, and undoes what was applied.

        SagaRefused if it may reject with what the annotation of the ``@run`` method does not name.
        """
        self._check_receiver(handler, key)
        plan = asked(self._context, "require", handler, key, message, undo=undo, about=about)
        if (unnamed := _unnamed(self._run, handler)) is not None:
            raise SagaRefused(
                f"{self._run!r} requires {handler.owner.__name__}.{handler.name}, which may answer "
                f"{unnamed.__qualname__}; name it in the return annotation, or ask"
            )
        return SagaStep(self._made(plan))

    @uncatchable
    def perform(self, effect: Effect[Q, T], request: Q, *, undo: Call | Pivot | None) -> Open[T | Undelivered]:
        """Ask the world outside; the result is what the effect returns.

        It is never cancelled while it runs: if it loses a race, the saga waits for it before it is over. One that an
        operator drops is `Undelivered`, and may have been done: its undo runs as that of one that was.
        """
        return Single(self._made(performed(effect, request, undo=undo)))

    @uncatchable
    def sleep(self, s: float) -> Open[None]:
        """Wait ``s`` seconds, by the log's time."""
        return Single(self._made(slept(s)))

    @uncatchable
    def signal(self, kind: type[C]) -> Open[C]:
        """Wait for a signal of this saga: a command of a class that it declares, ``approve = signal(Approve)``.

        Signals are kept in order until they are taken; who asked is answered ``Done`` then.
        """
        return Single(self._made(signalled(self._run, kind)))

    @overload
    def gather(self, a: SagaStep[A], b: SagaStep[B], /) -> SagaStep[tuple[A, B]]: ...
    @overload
    def gather(self, a: SagaStep[A], b: SagaStep[B], c: SagaStep[C], /) -> SagaStep[tuple[A, B, C]]: ...
    @overload
    def gather(
        self, a: SagaStep[A], b: SagaStep[B], c: SagaStep[C], d: SagaStep[D], /
    ) -> SagaStep[tuple[A, B, C, D]]: ...
    @overload
    def gather(self, *steps: SagaStep[T]) -> SagaStep[tuple[T, ...]]: ...
    @uncatchable
    def gather(self, *steps: SagaStep[Any]) -> SagaStep[Any]:
        """Send all steps at once, and wait for all; the result is the tuple of their results.

        Where several required ones are rejected, the first of them in the order of the arguments ends the saga. A pivot
        may only be beside steps without an undo: else the order of answers would decide what is undone.
        """
        plans = self._several("gather", steps)
        if (pivot := next((plan for plan in plans if plan.is_pivot), None)) is not None and any(
            plan.undo for plan in plans
        ):
            raise SagaRefused(
                f"gather takes no pivot ({pivot.target} {pivot.key!r}) beside a step with an undo; await it afterwards"
            )
        return Gather(plans)

    @overload
    def first(self, a: Open[A], b: Open[B], /) -> SagaStep[A | B]: ...
    @overload
    def first(self, a: Open[A], b: Open[B], c: Open[C], /) -> SagaStep[A | B | C]: ...
    @overload
    def first(self, a: Open[A], b: Open[B], c: Open[C], d: Open[D], /) -> SagaStep[A | B | C | D]: ...
    @overload
    def first(self, *steps: Open[T]) -> SagaStep[T]: ...
    @uncatchable
    def first(self, *steps: Open[Any]) -> SagaStep[Any]:
        """Send all steps at once, and wait for the first; the result is its result. The others are abandoned.

        A signal that is there already wins before anything is sent. If what was abandoned was applied, its undo runs
        before the saga is over.
        """
        plans = self._several("first", steps)
        for step, plan in zip(steps, plans, strict=True):
            if not isinstance(step, Open):
                raise SagaRefused("first takes no require: its rejection would end the saga; use ask")
            if plan.is_pivot:
                raise SagaRefused(f"first takes no pivot ({plan.target} {plan.key!r}): it could not be undone")
        return First(plans)

    def _check_receiver(self, handler: Any, key: str) -> None:
        if getattr(handler, "owner", None) is self._run.owner and key == self.key:
            raise SagaRefused(f"{self._run!r} asks its own key {key!r}, which waits for the answer; call a function")

    def _several(self, name: str, steps: tuple[SagaStep[Any], ...]) -> tuple[Plan, ...]:
        self.check_is_open()
        if not steps:
            raise SagaRefused(f"{name} takes at least one step")
        for step in steps:
            if not isinstance(step, SagaStep) or isinstance(step, Gather | First):
                raise SagaRefused(f"{name} takes steps, such as ctx.ask(…), not {type(step).__name__}")
        return tuple(plan for step in steps for plan in step.plans)

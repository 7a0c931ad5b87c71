"""``SagaReplay``: runs the code of a saga over its recorded steps, up to the next one that has no answer yet.

No event loop, and no coroutine that outlives a turn: each turn runs the code from its start, and closes it. So that the
code takes the recorded steps is checked at each of them, in each turn. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from repertory.actors.context import ContractViolation
from repertory.actors.handler import Handler
from repertory.actors.message import Event, Message, Rejection
from repertory.actors.saga.context import SagaContext
from repertory.actors.saga.facts import AgainRequested
from repertory.actors.saga.fold import fold
from repertory.actors.saga.progress import RaceWon, RecordedStep, SagaProgress, SignalTaken, StepsOpened, WorkKept
from repertory.actors.saga.step import First, Gather, NonDeterministic, Plan, SagaRefused, SagaStep

#: What asyncio raises where no loop runs, and where it makes a future of None in place of the loop.
_NO_LOOP = (
    "no running event loop",
    "There is no current event loop",
    "'NoneType' object has no attribute 'create_future'",
)


class Suspended:
    """The code waits for a step."""


SUSPENDED = Suspended()


class Required:
    """A required step was rejected: the saga ends with that ``step``'s value."""

    def __init__(self, step: RecordedStep) -> None:
        self.step = step


class SagaReplay:
    """One run of a saga's code. ``events`` are what it adds to the journal, ``progress`` is their fold.

    ``opened`` are the steps that it opens, with their plans; ``lost`` are those that a race has abandoned.
    """

    def __init__(
        self, run: Handler, progress: SagaProgress, now_ms: int, check: Callable[[SagaProgress], None]
    ) -> None:
        """``now_ms``: the time of the command of this turn; ``check`` raises if there is no room for what is opened."""
        self._run, self._now_ms, self._check = run, now_ms, check
        self.progress = progress
        self.events: list[Event] = []
        self.opened: list[tuple[RecordedStep, Plan]] = []
        self.lost: list[RecordedStep] = []
        self._next = progress.first

    def drive(self, saga: object, command: Message, ctx: SagaContext) -> Suspended | Required | AgainRequested | object:
        """Run the code; return what it ends with, or that it waits. Raises what the code raises."""
        code: Coroutine[Any, Any, object] = self._run.function(saga, command, ctx)
        value: object = None
        try:
            while True:
                wanted = code.send(value)
                ctx.check_refusal()
                if not isinstance(wanted, SagaStep):
                    raise SagaRefused(
                        f"{self._run!r} awaits {type(wanted).__name__}, which is no step of a saga; await what ctx "
                        "returns, and ask the world outside by ctx.perform"
                    )
                ctx.claim(wanted)
                self._keep(ctx)
                value = self._await(wanted, ctx)
                if isinstance(value, Suspended | Required):
                    self._check_end()
                    return value
        except StopIteration as stop:
            ctx.check_refusal()
            ctx.check_awaited()
            self._check_end()
            self._keep(ctx)
            ended: object = stop.value
            return ended
        except AgainRequested as again:
            ctx.check_refusal(is_again=True)
            ctx.check_awaited()
            self._check_end()
            self._keep(ctx)
            return again
        except (RuntimeError, AttributeError) as error:
            if not str(error).startswith(_NO_LOOP):
                raise
            raise SagaRefused(
                f"{self._run!r} awaits what needs an event loop, and a saga has none; await what ctx returns, such as "
                "ctx.sleep, and ask the world outside by ctx.perform"
            ) from error
        finally:
            ctx.is_closed = True
            self._close(code)

    def _close(self, code: Coroutine[Any, Any, object]) -> None:
        try:
            code.close()
        except RuntimeError as error:
            raise SagaRefused(
                f"{self._run!r} goes on when it is suspended ({error}); drop its except BaseException and its finally"
            ) from error

    def _check_end(self) -> None:
        """Raise NonDeterministic if the code waits or ends before a step that is recorded."""
        if (step := self.progress.step(self._next)) is not None:
            raise NonDeterministic(
                f"{self._run!r} step {step.n}: recorded {step.kind} {step.target} {step.key!r}, now none"
            )

    def _keep(self, ctx: SagaContext) -> None:
        if ctx.kept:
            ctx.kept = False
            order = max((each.done for each in self._before()), default=0)
            if order > self.progress.kept:
                self._add(WorkKept(order=order))

    def _before(self) -> Iterable[RecordedStep]:
        """Yield the steps that this run of the code has had the results of, and those of former runs."""
        return (each for each in self.progress.steps if each.n < self._next and not each.abandoned)

    def _await(self, wanted: SagaStep[Any], ctx: SagaContext) -> object:
        first, plans = self._next, wanted.plans
        self._next += (count := len(plans))
        recorded = self.progress.some_steps(first, count)
        if not recorded:
            recorded = self._open(wanted, first)
        elif len(recorded) < count:
            raise NonDeterministic(f"step {first + len(recorded)}: recorded nothing beside it, now {count} steps")
        for step, plan in zip(recorded, plans, strict=True):
            if (difference := plan.differs(step)) is not None:
                raise NonDeterministic(f"{self._run!r} {difference}")
        if isinstance(wanted, First):
            return self._first(wanted, recorded, ctx)
        return self._all(wanted, recorded, ctx)

    def _open(self, wanted: SagaStep[Any], first: int) -> Sequence[RecordedStep]:
        """Open new steps, and take the signals that wait for them."""
        waiting = [(each, plan) for plan in wanted.plans if (each := self._signal(plan)) is not None]
        wins = isinstance(wanted, First) and bool(waiting)
        winner = waiting[0][1] if wins else None
        opened = [
            plan.recorded(n, self._now_ms, sent=not wins or plan is winner)
            for n, plan in enumerate(wanted.plans, first)
        ]
        self._add(StepsOpened(steps=tuple(opened)))
        self._check(self.progress)
        for step in opened:
            if step.sent and step.kind == "signal":
                self.take_signal(step.n, step.target)
        self.opened += [(step, plan) for step, plan in zip(opened, wanted.plans, strict=True) if step.sent]
        return self.progress.some_steps(first, len(opened))

    def _signal(self, plan: Plan) -> str | None:
        """Return the name of a signal that waits and a plan is for."""
        if plan.kind != "signal":
            return None
        return next((each.name for each in self.progress.signals if each.name == plan.target), None)

    def take_signal(self, n: int, name: str) -> None:
        """Take the first signal of a name that waits, if one does, as step ``n``."""
        if (found := next((each for each in self.progress.signals if each.name == name), None)) is not None:
            self._add(SignalTaken(number=found.number, n=n, at_ms=self._now_ms))

    def _all(self, wanted: SagaStep[Any], recorded: Sequence[RecordedStep], ctx: SagaContext) -> object:
        for step in recorded:
            if not step.done:
                return SUSPENDED
        for step in recorded:
            if step.rejected and step.kind == "require":
                return Required(step)
        for step in recorded:
            ctx.now_ms = max(ctx.now_ms, step.done_ms)
        if isinstance(wanted, Gather):
            return tuple(plan.decode(step) for step, plan in zip(recorded, wanted.plans, strict=True))
        return wanted.plans[0].decode(recorded[0])

    def _first(self, wanted: SagaStep[Any], recorded: Sequence[RecordedStep], ctx: SagaContext) -> object:
        winner = next((step for step in recorded if step.won), None)
        if winner is None:
            done = sorted((step for step in recorded if step.done), key=lambda step: step.done)
            if not done:
                return SUSPENDED
            winner = done[0]
            over = [step for step in recorded if step.n != winner.n]
            self._add(RaceWon(n=winner.n, over=tuple(step.n for step in over)))
            self.lost += [step for step in over if step.sent and not step.done]
        ctx.now_ms = max(ctx.now_ms, winner.done_ms)
        return wanted.plans[winner.n - recorded[0].n].decode(winner)

    def _add(self, evt: Event) -> None:
        self.events.append(evt)
        self.progress = fold(self.progress, evt)


def checked_result(run: Handler, result: object) -> Event | Rejection:
    """Return what the code of a saga has returned; ContractViolation if its annotation does not name it."""
    if type(result) not in run.result_kinds or not isinstance(result, Event | Rejection):
        names = ", ".join(each.__name__ for each in run.results)
        raise ContractViolation(f"{run!r} returned {type(result).__name__}; its annotation names {names}")
    return result

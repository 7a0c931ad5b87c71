"""What a run of a saga's code can read, and what its driver must know of it. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from hashlib import blake2b
from typing import Any, NoReturn, TypeVar, cast

from repertory.actors.context import Context
from repertory.actors.handler import Handler
from repertory.actors.message import Command, Message
from repertory.actors.saga.progress import SagaProgress
from repertory.actors.saga.step import Plan, SagaRefused, SagaStep, described

F = TypeVar("F", bound=Callable[..., Any])


class AgainRequested(BaseException):
    """``ctx.again`` ends a run with it; no ``except Exception`` of a saga catches it."""

    def __init__(self, command: Message) -> None:
        super().__init__(type(command).__name__)
        self.command = command


def uncatchable(method: F) -> F:
    """Decorate a method for the code of a saga: a rule that it refuses to break ends the turn, also if that is caught.

    A value that it does not take, as a key that is too long, can be caught: it may come from who has started the saga.
    """

    @wraps(method)
    def call(self: SagaFacts, *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except SagaRefused as error:
            self.refusal = self.refusal or error
            raise

    return cast("F", call)


class SagaFacts:
    """Belongs to one run of a saga's code. It reads only what is recorded, so every run reads the same."""

    def __init__(self, context: Context, run: Handler, progress: SagaProgress) -> None:
        self._context, self._run = context, run
        self._cause = f"{progress.cause}#{progress.runs}"
        self._random: random.Random | None = None
        self._ids = 0
        #: The time (epoch) of what was completed last.
        self.now_ms = progress.began_ms
        #: The plans of steps that were made and not awaited.
        self.unawaited: dict[int, Plan] = {}
        #: Whether ``keep`` was called since the last look.
        self.kept = False
        #: What a method of this has refused: the code cannot catch it and go on.
        self.refusal: Exception | None = None
        #: Whether ``again`` was called: what it raises must reach the driver.
        self.has_ended = False
        #: Set when the driver has closed the code: it must do nothing more.
        self.is_closed = False

    @property
    def key(self) -> str:
        """The saga's key."""
        return self._context.key

    @property
    def timestamp(self) -> datetime:
        """When the last awaited step was completed, at first when the saga was started (UTC), by the log's time."""
        return datetime.fromtimestamp(self.now_ms / 1_000, UTC)

    @property
    def random(self) -> random.Random:
        """A generator seeded from the saga: the same draws in every run of its code."""
        if self._random is None:
            self._random = random.Random(self._cause)  # noqa: S311  reproducible on purpose
        return self._random

    def new_id(self) -> str:
        """Return an identifier made from the saga: 32 hex digits, the same in every run of its code."""
        self._ids += 1
        return blake2b(f"{self._cause}#{self._ids}".encode(), digest_size=16).hexdigest()

    @uncatchable
    def keep(self) -> None:
        """Keep what was done so far: a later roll back does not undo it."""
        self.check_is_open()
        self.kept = True

    @uncatchable
    def again(self, command: Command) -> NoReturn:
        """End this run and begin a new one under the same key, ``return ctx.again(cmd)``, with no steps of its own yet.

        What may have to be undone, unread signals and those who wait for the saga's answer move along.
        """
        self.check_is_open()
        if type(command) not in self._run.message_types:
            raise SagaRefused(f"{self._run!r} does not take {type(command).__name__}, so again cannot begin with it")
        self.has_ended = True
        raise AgainRequested(command)

    # --- for the driver ---------------------------------------------------------------------------------------

    def claim(self, step: SagaStep[Any]) -> None:
        """Note that a step is awaited; SagaRefused if it was before, or if another one was made and is not."""
        for plan in step.plans:
            if self.unawaited.pop(id(plan), None) is None:
                raise SagaRefused(f"{self._run!r} awaits a step twice ({described(plan)}); make it anew")
        self.check_awaited()

    def check_awaited(self) -> None:
        """Raise SagaRefused if a step was made and not awaited."""
        if self.unawaited:
            plan = next(iter(self.unawaited.values()))
            raise SagaRefused(
                f"{self._run!r} makes a step that it does not await ({described(plan)}); await it at once, or "
                "in a gather"
            )

    def check_refusal(self, *, is_again: bool = False) -> None:
        """Raise what was refused, or SagaRefused if the code has caught what ``again`` raises, and goes on."""
        if self.refusal is not None:
            raise self.refusal
        if self.has_ended and not is_again:
            raise SagaRefused(f"{self._run!r} catches what ctx.again raises, and goes on; catch Exception at most")

    def check_is_open(self) -> None:
        """Raise SagaRefused if the code has been closed."""
        if self.is_closed:
            raise SagaRefused(f"{self._run!r} goes on after it was suspended for good; drop its finally and with")

    def _made(self, plan: Plan) -> tuple[Plan]:
        self.check_is_open()
        self.unawaited[id(plan)] = plan
        return (plan,)

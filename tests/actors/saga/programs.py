"""A saga that takes the steps that its start lists, and a simple model of what must become of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from repertory import PIVOT, Cancelled, Command, Saga, SagaContext, Undelivered, run, signal
from tests.actors.saga.domain import Approve, Back, Ended, Failed, Letter, Short, Store, Take, post

Kind = Literal[
    "require", "ask", "pivot", "timed", "perform", "sleep", "signal", "gather", "race", "keep", "again", "fail"
]
Undo = Literal["none", "call", "pivot"]
#: Seconds of a time-out and of a sleep.
SECONDS = 10


class Op(msgspec.Struct, frozen=True):
    """One thing that the saga does. ``steps``: of a gather or a race."""

    kind: Kind
    undoes: bool = True
    steps: tuple[Kind, ...] = ()


class Play(Command):
    """Do these things."""

    ops: tuple[Op, ...]


class Played(Saga, steps_max=500):
    """Does what its start lists."""

    approve = signal(Approve)

    @run
    async def played(self, cmd: Play, ctx: SagaContext) -> Ended | Short | Failed | Undelivered | Cancelled:
        """Take one step after the other."""
        for at, op in enumerate(cmd.ops):
            match op.kind:
                case "keep":
                    ctx.keep()
                case "again":
                    return ctx.again(Play(ops=cmd.ops[at + 1 :]))
                case "fail":
                    return Failed()
                case "gather":
                    await ctx.gather(*(_step(ctx, kind, op) for kind in op.steps))
                case "race":
                    await ctx.first(*(_step(ctx, kind, op) for kind in op.steps))
                case _:
                    await _step(ctx, op.kind, op)
        return Ended()


def _step(ctx: SagaContext, kind: Kind, op: Op) -> Any:
    undo = ctx.call(Store.back, "k", Back()) if op.undoes else None
    match kind:
        case "require":
            return ctx.require(Store.take, "k", Take(), undo=undo)
        case "ask":
            return ctx.ask(Store.take, "k", Take(), undo=undo)
        case "pivot":
            return ctx.require(Store.take, "k", Take(), undo=PIVOT)
        case "timed":
            return ctx.ask(Store.take, "k", Take(), undo=undo, timeout_s=SECONDS)
        case "perform":
            return ctx.perform(post, Letter(), undo=undo)
        case "sleep":
            return ctx.sleep(SECONDS)
        case "signal":
            return ctx.signal(Approve)
    raise AssertionError(kind)


class Step:
    """One step of the model. ``place`` in the order of what was completed, 0 until then."""

    def __init__(self, n: int, kind: Kind, *, undoes: bool, due_s: float | None) -> None:
        self.n, self.kind, self.undoes, self.due_s = n, kind, undoes, due_s
        self.place = 0
        self.sent = True
        self.answered = self.applied = self.rejected = self.abandoned = self.undone = False

    @property
    def asks(self) -> bool:
        """Whether somebody answers it."""
        return self.kind not in ("sleep", "signal")

    @property
    def is_unsettled(self) -> bool:
        """Whether its answer is to come."""
        return self.asks and self.sent and not self.answered


class Model:
    """What must become of a saga, written as plainly as can be: it keeps everything and runs nothing again."""

    def __init__(self, ops: tuple[Op, ...]) -> None:
        self.ops, self.at = ops, 0
        self.steps: list[Step] = []
        self.current: list[Step] = []
        self.signals = self.now_s = 0.0
        self.order = self.stands = 0
        self.outcome: str | None = None
        self.cancelling = False
        #: Whether a pivot of this run was applied since the last ``keep``: then only the code knows how to go on.
        self.is_late = False
        self.undoing: Step | None = None
        self._go()

    # --- what happens -----------------------------------------------------------------------------------------

    def answer(self, n: int, *, applied: bool) -> None:
        """Answer a step."""
        step = self.steps[n]
        step.answered, step.applied = True, applied
        if not step.place:
            step.rejected = not applied
            self._complete(step)
        if step.kind == "pivot" and applied:
            self.cancelling = False
        self._next()

    def undone(self) -> None:
        """Have the undo under way applied."""
        assert self.undoing is not None
        self.undoing.undone, self.undoing = True, None
        self._settle()

    def due(self) -> list[int]:
        """Let the time go on until something is due; return what that is."""
        waits = [each for each in self.current if each.due_s is not None and not each.place and not each.abandoned]
        self.now_s = min(each.due_s or 0.0 for each in waits)
        return [each.n for each in waits if each.due_s == self.now_s]

    def expire(self, n: int) -> None:
        """Let the time of a step be over."""
        step = self.steps[n]
        if self.outcome or step.place or step.abandoned:
            return
        step.abandoned = step.asks
        self._complete(step)
        self._next()

    def signal(self) -> None:
        """Have a signal come."""
        self.signals += 1
        waits = [each for each in self.current if each.kind == "signal" and not each.place and not each.abandoned]
        if waits:
            self.signals -= 1
            self._complete(waits[0])
            self._next()

    def cancel(self) -> None:
        """Have somebody cancel it."""
        if not self.is_late:
            self.cancelling = True
            self._next()

    # --- what it shows ----------------------------------------------------------------------------------------

    @property
    def open(self) -> set[int]:
        """The numbers of what it waits for."""
        found = {each.n for each in self.steps if each.is_unsettled}
        if self.outcome is None:
            found |= {each.n for each in self.current if each.sent and not each.place and not each.abandoned}
        return found

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.outcome is not None and self.undoing is None and not any(each.is_unsettled for each in self.steps)

    def left_applied(self) -> set[int]:
        """Return the steps that were applied and not undone."""
        return {each.n for each in self.steps if each.applied and not each.undone}

    # --- how it goes on ---------------------------------------------------------------------------------------

    def _complete(self, step: Step) -> None:
        self.order += 1
        step.place = self.order
        if step.kind == "pivot" and step.applied:
            self.stands = max(self.stands, step.place)
            self.is_late = True

    def _next(self) -> None:
        if self.outcome is not None:
            self._settle()
        elif self.cancelling:
            if not any(each.kind == "pivot" and each.is_unsettled for each in self.steps):
                self._end("Cancelled")
        else:
            self._go()

    def _go(self) -> None:
        """Go on behind each thing that is done."""
        while self.outcome is None:
            if self.current and not self._is_done():
                return
            if self.current:
                self.current = []
                self.at += 1
            if self.outcome is None:
                self._begin()

    def _is_done(self) -> bool:
        """Return whether what was awaited is done; of a race, let the others lose."""
        if self.ops[self.at].kind == "race":
            done = [each for each in self.current if each.place]
            if not done:
                return False
            winner = min(done, key=lambda each: each.place)
            for each in self.current:
                each.abandoned = each.abandoned or each is not winner
            return True
        if not all(each.place for each in self.current):
            return False
        refused = [each for each in self.current if each.kind in ("require", "pivot") and each.rejected]
        if refused:
            self._end("rejected")
        return True

    def _begin(self) -> None:
        if self.at == len(self.ops):
            self._end("Ended")
            return
        op = self.ops[self.at]
        match op.kind:
            case "keep":
                self.stands, self.is_late = self.order, False
                self.at += 1
            case "again":
                self.ops, self.at, self.is_late = self.ops[self.at + 1 :], 0, False
            case "fail":
                self._end("rejected")
            case _:
                kinds = op.steps or (op.kind,)
                self.current = [
                    Step(
                        len(self.steps) + number, kind, undoes=op.undoes and kind != "pivot",
                        due_s=self.now_s + SECONDS if kind in ("timed", "sleep") else None,
                    )
                    for number, kind in enumerate(kinds)
                ]  # fmt: skip
                self.steps += self.current
                self._take_signals(op)

    def _take_signals(self, op: Op) -> None:
        for step in [each for each in self.current if each.kind == "signal"]:
            if not self.signals:
                return
            self.signals -= 1
            self._complete(step)
            if op.kind == "race":
                for each in self.current:
                    each.sent = each is step
                return

    def _end(self, outcome: str) -> None:
        self.outcome = outcome
        self._settle()

    def _settle(self) -> None:
        if any(each.is_unsettled for each in self.steps) or self.undoing is not None:
            return
        for step in reversed(self.steps):
            rolls_back = self.outcome != "Ended" and step.place > self.stands
            if step.undoes and step.applied and not step.undone and (step.abandoned or rolls_back):
                self.undoing = step
                return

"""What a saga's code sees in a new run and behind a race, and what comes too late, too often or in full size."""

from __future__ import annotations

from typing import Any

import pytest

from repertory import (
    Cancelled,
    ContractViolation,
    NonDeterministic,
    Saga,
    SagaContext,
    SagaKit,
    TimedOut,
    Undelivered,
    run,
)
from repertory.actors.saga.inner import StepAnswer, StepDue
from repertory.actors.wire import encode
from tests.actors.saga.domain import Back, Begin, Ended, Note, Refused, Returned, Short, Store, Take, Taken
from tests.actors.saga.sagas import Late, Two
from tests.actors.saga.test_turns import build, moved

Result = Ended | Refused | Undelivered | Cancelled


def test_a_new_run_has_its_own_time_and_its_own_randomness() -> None:
    """No id is made twice: an entity that knows it would take a message for a repetition."""
    seen: list[tuple[str, float, float]] = []

    class Renewed(Saga):
        @run
        async def renewed(self, cmd: Begin, ctx: SagaContext) -> Result:
            facts = ctx.new_id(), ctx.random.random(), ctx.timestamp.timestamp()
            await ctx.sleep(60)
            seen.append(facts)
            return ctx.again(Begin(number=cmd.number - 1)) if cmd.number else Ended()

    kit = SagaKit(Renewed)
    kit.start(Begin(number=1))
    kit.advance(60)
    kit.advance(60)
    assert kit.outcome == Ended()
    first, second = seen[0], seen[-1]
    assert len(set(seen)) == 2
    assert first[:2] != second[:2]
    assert second[2] - first[2] == 60


def test_a_new_run_begins_with_the_newest_version() -> None:
    """The run before it ends with the version that it began with."""

    async def old(self: Any, cmd: Begin, ctx: SagaContext) -> Result:
        await ctx.ask(Store.note, "n", Note(), undo=None)
        return Ended(text="old") if cmd.number else ctx.again(Begin(number=1))

    async def new(self: Any, _cmd: Begin, ctx: SagaContext) -> Result:
        await ctx.ask(Store.take, "a", Take(), undo=None)
        return Ended(text="new")

    kit = SagaKit(build(old))
    kit.start(Begin())
    both = moved(kit, build(old, run(version=2)(new)))
    both.answer(None)
    assert (both.progress.version, both.progress.runs) == (2, 1)
    both.answer(Taken())
    assert both.outcome == Ended(text="new")


def test_the_time_behind_a_race_is_that_of_its_winner() -> None:
    """Not when the race began."""

    class Timed(Saga):
        @run
        async def timed(self, _cmd: Begin, ctx: SagaContext) -> Result:
            began = ctx.timestamp
            await ctx.first(ctx.sleep(60), ctx.sleep(90))
            return Ended(text=str((ctx.timestamp - began).total_seconds()))

    kit = SagaKit(Timed)
    kit.start(Begin())
    kit.advance(60)
    assert kit.outcome == Ended(text="60.0")


class Small(Saga, answer_bytes_max=200):
    """Asks with a time-out, and says what came."""

    @run
    async def small(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Wait a minute."""
        answer = await ctx.ask(Store.back, "a", Back(), undo=None, timeout_s=60)
        if isinstance(answer, TimedOut):
            await ctx.sleep(60)
        return Ended(text=type(answer).__name__)


def test_a_late_answer_may_be_of_any_size() -> None:
    """Nobody reads it, so it parks nothing."""
    kit = SagaKit(Small)
    kit.start(Begin())
    kit.advance(60)
    kit.answer(Refused(reason="x" * 1_000), 0)
    kit.advance(60)
    assert kit.outcome == Ended(text="TimedOut")
    assert kit.is_over


def test_an_answer_may_take_all_that_it_may() -> None:
    """One byte more is refused."""
    reason = "x" * (200 - len(encode(Refused(reason="x" * 100))) + 100)
    kit = SagaKit(Small)
    kit.start(Begin())
    with pytest.raises(ContractViolation, match="takes 201 bytes; answer_bytes_max of Small is 200"):
        kit.answer(Refused(reason=reason + "x"))
    kit.answer(Refused(reason=reason))
    assert kit.outcome == Ended(text="Refused")


def test_only_a_timer_ends_the_time_of_a_step() -> None:
    """The message that it sends says nothing if somebody else does."""
    kit = SagaKit(Small)
    kit.start(Begin())
    assert kit.run(StepDue(step=0)).events == ()
    kit.answer(Returned())
    assert kit.outcome == Ended(text="Returned")


def test_a_saga_that_is_stuck_is_not_undone_by_what_comes_late() -> None:
    """Only an operator ends that."""
    kit = SagaKit(Two)
    kit.start(Begin())
    kit.answer(Taken())
    kit.cancel()
    kit.answer(Undelivered(reason="revoked"))
    (undo,) = kit.open
    assert undo.message == Back()
    kit.answer(Refused())
    assert kit.stuck
    again = StepAnswer(step=f"~{kit.progress.life}/0/1", value=encode(Returned()), rejected=False)
    assert kit._run(again, again.step, 1, None).events == ()
    assert kit.stuck


def test_the_same_start_while_a_saga_rolls_back_is_answered_after_its_undos() -> None:
    """As the first is: what it was told must be over by then."""
    kit = SagaKit(Two)
    kit.start(Begin())
    kit.answer(Taken())
    kit.answer(Short())
    kit.start(Begin())
    assert kit.replies == []
    kit.answer(Returned())
    assert kit.replies == [(Begin(), Short())] * 2


def test_the_same_start_while_a_saga_settles_what_is_open_is_answered_at_once() -> None:
    """It is done: nobody waits for what came to nothing."""
    kit = SagaKit(Late)
    kit.start(Begin())
    kit.advance(60)
    kit.answer(None, 1)
    assert not kit.is_over
    kit.start(Begin())
    assert kit.replies == [(Begin(), Ended(text="TimedOut"))] * 2
    kit.answer(Undelivered(reason="revoked"))
    assert (kit.is_over, len(kit.replies)) == (True, 2)


def test_what_is_sent_again_is_the_amended_undo() -> None:
    """Not the one that was recorded with the step."""
    kit = SagaKit(Two)
    kit.start(Begin())
    kit.answer(Taken())
    kit.answer(Short())
    kit.answer(Refused())
    kit.amend_undo(Back(amount=7))
    kit.answer(Refused())
    kit.retry_undo()
    assert [each.message for each in kit.open] == [Back(amount=7)]


def test_a_sleep_of_no_time_ends() -> None:
    """It is no sleep without an end."""

    class Blinking(Saga):
        @run
        async def blinking(self, _cmd: Begin, ctx: SagaContext) -> Result:
            await ctx.sleep(0)
            return Ended()

    kit = SagaKit(Blinking)
    kit.start(Begin())
    kit.advance(1)
    assert kit.outcome == Ended()


def test_another_about_under_a_running_saga_is_named() -> None:
    """An ask about something else is another step."""

    def asking(about: str) -> Any:
        async def code(self: Any, _cmd: Begin, ctx: SagaContext) -> Result:
            await ctx.ask(Store.take, "a", Take(), undo=None, about=about)
            return Ended()

        return code

    kit = SagaKit(build(asking("one")))
    kit.start(Begin())
    with pytest.raises(NonDeterministic, match=r"step 0: recorded .*about 'one', now .*about 'two'"):
        moved(kit, build(asking("two"))).answer(Taken())

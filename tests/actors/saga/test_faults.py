"""What a saga would get wrong between two messages: pivots, cancels, late and large answers, revoked signals."""

from __future__ import annotations

from typing import Any

import pytest

from repertory import PIVOT, Cancelled, Saga, SagaContext, SagaKit, SagaRefused, TooLate, run, signal
from repertory.actors.control import RevokeAsk
from repertory.actors.message import Done, Sender, Undelivered
from repertory.actors.saga.inner import StepAnswer
from repertory.actors.saga.progress import SagaPhase, SignalRevoked
from repertory.actors.wire import DecodeError, encode
from tests.actors.saga.domain import Approve, Back, Begin, Ended, Returned, Short, Store, Take, Taken

Result = Ended | Short | Undelivered | Cancelled


def _take(ctx: SagaContext, key: str) -> Any:
    return ctx.ask(Store.take, key, Take(), undo=ctx.call(Store.back, key, Back()))


class Raced(Saga):
    """Races, and goes on."""

    @run
    async def raced(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Say whether the first has won."""
        won = await ctx.first(_take(ctx, "a"), _take(ctx, "b"))
        await ctx.ask(Store.take, "c", Take(), undo=None)
        return Ended(text="none" if won is None else type(won).__name__)


def test_the_winner_of_a_race_stays_the_winner() -> None:
    """The loser that is answered later, with a lower number, changes nothing when the code runs again."""
    kit = SagaKit(Raced)
    kit.start(Begin())
    kit.answer(Short(), 1)
    try:
        kit.answer(Taken(), 0)
        kit.answer(Taken(), 2)
    except DecodeError as error:  # Of the loser nothing is kept but that it was applied.
        pytest.fail(f"the loser's answer was read: {error}")
    assert kit.outcome == Ended(text="Short")


def test_a_running_saga_keeps_its_version() -> None:
    """The code of the version that it began with runs, whatever is newer."""

    class Versioned(Saga):
        @run(version=1)
        async def old(self, _cmd: Begin, ctx: SagaContext) -> Result:
            await _take(ctx, "a")
            return Ended(text="old")

        @run(version=2)
        async def new(self, _cmd: Begin, ctx: SagaContext) -> Result:
            await _take(ctx, "a")
            return Ended(text="new")

    kit = SagaKit(Versioned)
    kit.start(Begin())
    kit.state = kit.state.replace(progress=_with_version(kit, 1))
    kit._data = encode(kit.state)
    kit.answer(Taken())
    assert kit.outcome == Ended(text="old")


def _with_version(kit: SagaKit[Any], version: int) -> Any:
    from msgspec.structs import replace  # noqa: PLC0415  only here

    return replace(kit.progress, version=version)


class Beside(Saga):
    """Has a pivot beside what can be undone."""

    @run
    async def beside(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Take both at once."""
        await ctx.gather(_take(ctx, "a"), ctx.ask(Store.take, "p", Take(), undo=PIVOT))
        return Ended()


def test_a_pivot_stands_beside_nothing_that_can_be_undone() -> None:
    """Whether that stood would depend on whose answer came first."""
    with pytest.raises(SagaRefused, match=r"gather takes no pivot \(store 'p'\) beside a step with an undo; await it"):
        SagaKit(Beside).start(Begin())


class Halves(Saga):
    """Gives two halves for good, and knows what to do if one is not taken."""

    @run
    async def halves(self, cmd: Begin, ctx: SagaContext) -> Result:
        """Take, give both halves, and take back what was not given."""
        await _take(ctx, "a")
        halves = [ctx.ask(Store.take, key, Take(), undo=PIVOT) for key in ("left", "right")]
        given = await ctx.gather(*halves)
        if cmd.number:
            ctx.keep()
        if any(isinstance(each, Short) for each in given):
            await ctx.ask(Store.back, "a", Back(), undo=None)
        await ctx.ask(Store.take, "b", Take(), undo=None)
        return Ended()


def test_a_cancel_between_two_pivots_is_too_late() -> None:
    """One of them is applied: only the code knows how to go on, so nothing is rolled back."""
    kit = SagaKit(Halves)
    kit.start(Begin())
    kit.answer(Taken(), 0)
    kit.answer(Taken(), 1)
    assert kit.cancel().reply == TooLate(reason="step 1 (store 'left') was applied, and cannot be undone")
    kit.answer(Short(), 2)
    (back,) = kit.open
    assert (back.key, back.message) == ("a", Back())


@pytest.mark.parametrize("keeps", [0, 1])
def test_keep_behind_a_pivot_lets_it_be_cancelled(keeps: int) -> None:
    """What was kept stands, and what comes behind it is undone."""
    kit = SagaKit(Halves)
    kit.start(Begin(number=keeps))
    for n in range(3):
        kit.answer(Taken(), n)
    outcome = kit.cancel()
    assert isinstance(outcome.reply, Done if keeps else TooLate)


class Brief(Saga, answer_bytes_max=40):
    """Takes small answers only."""

    approve = signal(Approve)

    @run
    async def brief(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Take, and wait."""
        await _take(ctx, "a")
        await ctx.signal(Approve)
        await ctx.sleep(1)
        return Ended()


def test_a_large_answer_holds_up_no_roll_back() -> None:
    """Nobody reads it then: what counts is whether the step was applied."""
    kit = SagaKit(Brief)
    kit.start(Begin())
    kit.cancel()
    large = StepAnswer(step="~0/0", value=encode(Undelivered(reason="x" * 100)), rejected=False)
    kit._run(large, large.step, 1, None)
    assert [each.kind for each in kit.open] == ["undo"]
    kit.answer(Returned())
    assert kit.progress.phase is SagaPhase.OVER


def test_a_signal_that_is_revoked_waits_no_more() -> None:
    """Who has sent it rolls back, and would else wait until this saga ends."""
    kit = SagaKit(Brief)
    kit.start(Begin())
    sender = Sender("parent.commands", key="p", correlation_id="p", about="~5/0")
    kit.run(Approve(by="eve"), sender=sender)
    revoke = RevokeAsk(about="~5/0")
    own = Sender("parent.commands", key="p", correlation_id="p", about="~5/0/revoke")
    assert kit.run(revoke, sender=own).events == (SignalRevoked(number=0),)
    assert kit.run(revoke, sender=own).events == ()
    assert not kit.progress.signals
    kit.answer(Taken())
    assert [each.kind for each in kit.open] == ["signal"]

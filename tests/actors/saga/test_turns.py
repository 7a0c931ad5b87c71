"""What a saga does about one message after the other, by hand."""

from __future__ import annotations

import gc
from types import CoroutineType
from typing import Any

import pytest

from repertory import (
    AlreadyBegun,
    Cancelled,
    Done,
    NonDeterministic,
    NoSuchSaga,
    Saga,
    SagaContext,
    SagaKit,
    SagaRefused,
    Sender,
    TooLate,
    Undelivered,
    run,
    signal,
)
from repertory.actors.collected import Cancel, Send
from repertory.actors.control import RevokeAsk
from repertory.actors.entity import resolved
from repertory.actors.saga.messages import CancelSaga, NotStuck, SkipUndo
from repertory.actors.saga.progress import CancelRefused, RaceWon, SagaPhase, SignalTaken, StepsOpened
from repertory.actors.saga.step import NotInBuild
from repertory.actors.wire import encode
from tests.actors.saga.domain import (
    Approve,
    Back,
    Begin,
    Ended,
    Failed,
    Hurry,
    Letter,
    Note,
    Posted,
    Refused,
    Returned,
    Short,
    Store,
    Take,
    Taken,
)
from tests.actors.saga.sagas import (
    Again,
    Approved,
    Endless,
    Keeping,
    Late,
    Pivoting,
    Posting,
    Racing,
    Several,
    Two,
)


def begun(saga: type[Saga], **fields: Any) -> SagaKit[Any]:
    """Start a saga."""
    kit = SagaKit(saga)
    kit.start(Begin(**fields))
    return kit


def undone(kit: SagaKit[Any]) -> list[str]:
    """Answer all undos, and return the keys in their order."""
    found = []
    while kit.open:
        (undo,) = kit.open
        assert undo.kind == "undo"
        found.append(undo.key)
        kit.answer(Returned())
    assert kit.is_over
    return found


def revoked(outcome: Any) -> list[tuple[str, str]]:
    """Return whose asks a turn revokes."""
    return [(each.key, each.about) for each in outcome.sent if isinstance(each, Send) and b"revoke" in each.message]


# --- steps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_steps_of_a_gather_are_numbered_in_the_order_of_its_arguments(order: tuple[int, ...]) -> None:
    """Whatever the order of their answers: the same numbers, the same bytes, also in another process."""
    kit = begun(Several)
    assert [(each.n, each.key) for each in kit.open] == [(0, "a"), (1, "b"), (2, "c")]
    for n in order:
        assert kit.outcome is None
        kit.answer(Taken(), n)
    other = begun(Several)
    for n in range(3):
        other.answer(Taken(), n)
    assert encode(kit.outcome) == encode(other.outcome)
    if order == (2, 1, 0):
        kit.replay_elsewhere()


def test_of_several_rejections_the_lowest_number_ends_the_saga() -> None:
    """All are waited for, and what was applied is undone, the last first."""
    kit = begun(Several)
    kit.answer(Undelivered(reason="gone"), 2)
    kit.answer(Short(left=1), 1)
    assert kit.outcome is None
    kit.answer(Taken(), 0)
    assert kit.outcome == Short(left=1)
    assert undone(kit) == ["a"]


def test_a_race_is_decided_once() -> None:
    """By the journal, which says so; what comes later changes nothing, and what was applied is undone."""
    kit = begun(Racing)
    outcome = kit.signal(Approve(by="eve"))
    assert [each for each in outcome.events if isinstance(each, RaceWon)] == [RaceWon(n=2, over=(0, 1, 3))]
    assert revoked(outcome) == [("a", "~0/0/revoke")]
    assert Cancel("step:3") in outcome.later
    kit.answer(Taken(), 0)
    kit.answer(Posted(), 1)
    kit.signal(Hurry())
    assert kit.outcome == Ended(text="Approve")
    (undo,) = kit.open
    assert undo.message == Letter(to="sorry")
    kit.answer(Posted())
    assert undone(kit) == ["a"]


def test_a_timer_that_has_won_stays_the_winner() -> None:
    """A signal that comes later is kept, and answered at the end; in another process it is the same."""
    kit = begun(Racing)
    (outcome,) = kit.advance(3_600)
    assert [each.n for each in outcome.events if isinstance(each, RaceWon)] == [3]
    kit.signal(Approve(by="late"))
    kit.signal(Hurry())
    assert kit.outcome == Ended(text="NoneType")
    kit.answer(Undelivered(reason="revoked"), 0)
    kit.answer(Undelivered(reason="dropped"), 1)
    kit.answer(Posted())
    assert kit.replies[-1] == (Approve(by="late"), Undelivered(reason="the saga has ended"))
    kit.replay_elsewhere()


def test_nothing_of_a_suspended_saga_is_left_in_memory() -> None:
    """So no collection of garbage, in whatever thread, runs any of its code."""
    kits = [begun(Two) for _ in range(100)]
    codes = {each.function.__code__ for each in resolved(Two).__dict__["_runs"].values()}
    left = [each for each in gc.get_objects() if isinstance(each, CoroutineType) and each.cr_code in codes]
    assert not left
    assert all(kit.open for kit in kits)


def test_a_signal_that_is_there_wins_before_anything_is_sent() -> None:
    """It is taken, and the others are numbered and not sent."""

    class Ready(Saga):
        approve = signal(Approve)

        @run
        async def ready(self, _cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
            await ctx.sleep(1)
            await ctx.first(ctx.ask(Store.take, "a", Take(), undo=None), ctx.signal(Approve), ctx.sleep(5))
            return Ended()

    kit = begun(Ready)
    kit.signal(Approve())
    (outcome,) = kit.advance(1)
    assert kit.outcome == Ended()
    (opened,) = [each for each in outcome.events if isinstance(each, StepsOpened)]
    assert [(each.n, each.sent) for each in opened.steps] == [(1, False), (2, True), (3, False)]
    assert not [each for each in outcome.sent if each.__class__.__name__ == "Tell"]
    assert kit.is_over


def test_signals_are_kept_in_order_and_answered_when_taken() -> None:
    """Those that nobody takes are answered at the end, and are bounded."""
    kit = begun(Approved)
    for by in ("eve", "ann", "bob"):
        kit.signal(Approve(by=by))
    assert kit.replies == []
    assert kit.signal(Approve(by="dan")).reply == TooLate(reason="3 signals wait already (signals_max)")
    assert len(kit.progress.signals) == 3
    outcome = kit.answer(None)
    assert [each.number for each in outcome.events if isinstance(each, SignalTaken)] == [0, 1]
    assert kit.outcome == Ended(text="eve ann")
    assert kit.replies[1:] == [
        (Approve(by="eve"), Done()),
        (Approve(by="ann"), Done()),
        (Begin(), Ended(text="eve ann")),
        (Approve(by="bob"), Undelivered(reason="the saga has ended")),
    ]
    assert kit.signal(Approve()).reply == TooLate(reason="the saga is over")


def test_a_signal_of_an_unknown_saga() -> None:
    """There is nobody who could take it; nor is there anything to cancel or skip."""
    for message in (Approve(), CancelSaga(), SkipUndo(step=0)):
        assert SagaKit(Approved).run(message).reply == NoSuchSaga()


def test_the_time_is_that_of_the_last_step() -> None:
    """Also of one that timed out."""
    kit = begun(Late)
    kit.advance(60)
    note = kit.open[-1]
    assert note.message == Note(text="1970-01-01T00:01:00+00:00")


# --- what was abandoned, and pivots ---------------------------------------------------------------------------


def test_a_late_answer_that_was_applied_is_undone() -> None:
    """The code had a time-out, and is done: nevertheless it is not over before that."""
    kit = begun(Late)
    (outcome,) = kit.advance(60)
    assert revoked(outcome) == [("a", "~0/0/revoke")]
    kit.answer(None)
    assert (kit.outcome, kit.reply) == (Ended(text="TimedOut"), Ended(text="TimedOut"))
    assert kit.progress.phase is SagaPhase.SETTLING
    other = kit.fork()
    kit.answer(Taken())
    assert undone(kit) == ["a"]
    other.answer(Undelivered(reason="revoked"))
    assert other.is_over


def test_a_late_answer_before_the_end_never_reaches_the_code() -> None:
    """And is undone at the end only."""
    kit = begun(Late)
    kit.advance(60)
    kit.answer(Taken(), 0)
    assert [each.n for each in kit.open] == [1]
    kit.answer(None)
    assert undone(kit) == ["a"]
    assert kit.outcome == Ended(text="TimedOut")


def test_an_answer_in_time_stops_the_clock() -> None:
    """Its timer is cancelled."""
    kit = begun(Late)
    assert Cancel("step:0") in kit.answer(Taken()).later
    assert kit.is_over


def test_an_effect_is_awaited_and_undone() -> None:
    """It is never cancelled: not by a cancel, not by a lost race."""
    kit = begun(Posting)
    outcome = kit.cancel()
    assert not revoked(outcome)
    assert kit.reply is None
    kit.answer(Posted())
    assert kit.open[0].message == Letter(to="sorry")
    kit.answer(None)
    assert (kit.reply, kit.is_over) == (Cancelled(), True)


def test_an_effect_that_an_operator_drops_is_undone() -> None:
    """Nobody knows whether it was done. Its undo, if that is dropped, was not: the saga is stuck."""
    kit = begun(Posting)
    kit.answer(Undelivered(reason="dropped"))
    kit.cancel()
    kit.answer(Undelivered(reason="revoked"))
    (undo,) = kit.open
    assert (undo.kind, undo.message) == ("undo", Letter(to="sorry"))
    kit.answer(Undelivered(reason="dropped"))
    assert kit.stuck == "Undelivered: dropped"


def test_an_effect_that_returns_nothing() -> None:
    """Its result is None."""
    kit = begun(Posting)
    kit.answer(None)
    kit.answer(Taken())
    assert kit.outcome == Ended(text="None")


def test_what_is_done_before_a_pivot_stands() -> None:
    """What is behind it is undone."""
    kit = begun(Pivoting)
    for _ in range(3):
        kit.answer(Taken())
    kit.answer(Short())
    assert undone(kit) == ["b"]


def test_a_rejected_pivot_keeps_nothing() -> None:
    """It was not applied."""
    kit = begun(Pivoting)
    kit.answer(Taken())
    kit.answer(Short())
    assert undone(kit) == ["a"]


def test_a_cancel_with_an_open_pivot() -> None:
    """The pivot is revoked. Was it applied, it is too late, and the saga goes on; else it rolls back."""
    kit = begun(Pivoting)
    kit.answer(Taken())
    outcome = kit.cancel("no")
    assert revoked(outcome) == [("p", "~0/1/revoke")]
    assert not revoked(kit.cancel("please"))
    other = kit.fork()
    outcome = kit.answer(Taken())
    assert CancelRefused() in outcome.events
    late = TooLate(reason="step 1 (store 'p') was applied, and cannot be undone")
    assert kit.replies == [(CancelSaga(reason="no"), late), (CancelSaga(reason="please"), late)]
    assert kit.open[0].key == "b"
    assert not revoked(kit.cancel("again"))
    assert kit.replies[-1] == (CancelSaga(reason="again"), late)
    assert kit.open[0].key == "b"
    other.answer(Undelivered(reason="revoked"))
    assert [reply for _, reply in other.replies] == [Done(), Done()]
    assert other.outcome == Cancelled(reason="please")
    assert undone(other) == ["a"]


def test_keep_forgets_no_undo_of_what_was_abandoned() -> None:
    """What was done before it stands."""
    kit = begun(Keeping)
    kit.advance(10)
    kit.answer(Taken(), 0)
    kit.answer(Taken(), 1)
    kit.answer(Taken(), 2)
    assert kit.outcome == Failed()
    assert undone(kit) == ["b", "late"]


# --- cancel in each gap ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [0, 1])
@pytest.mark.parametrize("late", [Taken(), Undelivered(reason="revoked")])
def test_a_cancel_in_each_gap(applied: int, late: Taken | Undelivered) -> None:
    """What is open is revoked and waited for, and what was applied is undone once."""
    kit = begun(Two)
    for _ in range(applied):
        kit.answer(Taken())
    assert len(revoked(kit.cancel("enough"))) == 1
    assert kit.replies == [(CancelSaga(reason="enough"), Done())]
    assert kit.cancel().reply == TooLate(reason="the saga has its outcome, and settles what is open")
    kit.answer(late)
    assert undone(kit) == ["b", "a"][1 - applied + isinstance(late, Undelivered) :]
    assert kit.reply == Cancelled(reason="enough")
    assert kit.cancel().reply == TooLate(reason="the saga is over")


def test_a_cancel_during_an_undo() -> None:
    """It is too late, and changes nothing."""
    kit = begun(Two)
    kit.answer(Taken())
    kit.answer(Short())
    assert isinstance(kit.cancel().reply, TooLate)
    assert undone(kit) == ["a"]
    assert kit.outcome == Short()


# --- stuck ----------------------------------------------------------------------------------------------------


def stuck() -> SagaKit[Any]:
    """Return a saga with two undos, of which the first is rejected."""
    kit = begun(Two)
    kit.answer(Taken())
    kit.cancel()
    kit.answer(Taken())
    kit.answer(Refused(reason="closed"))
    assert (kit.stuck, kit.open, kit.reply) == ("Refused: closed", (), None)
    return kit


def test_a_rejected_undo_stops_there() -> None:
    """No other undo runs before it; retried, they go on in order."""
    kit = stuck()
    assert kit.retry_undo().reply == Done()
    assert undone(kit) == ["b", "a"]
    assert kit.reply == Cancelled()


def test_a_stuck_undo_is_skipped_or_amended() -> None:
    """Then the others go on."""
    kit = stuck()
    other = kit.fork()
    kit.skip_undo("by hand")
    assert undone(kit) == ["a"]
    other.amend_undo(Back(amount=7))
    assert other.open[0].message == Back(amount=7)
    assert undone(other) == ["b", "a"]


def test_an_answer_to_an_earlier_attempt_counts_no_more() -> None:
    """Nor does one when nothing is stuck; an operator is told so."""
    kit = stuck()
    assert kit.run(SkipUndo(step=0)).reply == NotStuck(reason="the saga is not stuck at step 0: it is stuck at step 1")
    kit.retry_undo()
    from repertory.actors.saga.inner import StepAnswer  # noqa: PLC0415

    old = StepAnswer(step="~0/1/1", value=encode(Returned()), rejected=False)
    assert kit._run(old, old.step, 1, None).events == ()
    assert isinstance(kit.retry_undo().reply, NotStuck)
    assert undone(kit) == ["b", "a"]


# --- starts ---------------------------------------------------------------------------------------------------


def test_the_same_start_joins_and_gets_the_answer() -> None:
    """While it runs, and after its end; another is refused."""
    kit = begun(Two)
    assert kit.start(Begin()).events[0].__class__.__name__ == "StarterJoined"
    assert kit.start(Begin(number=1)).reply == AlreadyBegun()
    kit.answer(Taken())
    kit.answer(Taken())
    assert kit.replies[1:] == [(Begin(), Ended())] * 2
    assert kit.start(Begin()).reply == Ended()
    assert kit.start(Begin(number=1)).reply == AlreadyBegun()


def test_a_result_is_kept_and_then_a_new_life_begins() -> None:
    """An answer to a step of the old one is none to the new one's."""

    class Brief(Saga, results_kept_s=60):
        @run
        async def brief(self, _cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
            await ctx.ask(Store.take, "a", Take(), undo=None)
            return Ended(text=ctx.new_id())

    kit = begun(Brief)
    kit.answer(Taken())
    first = kit.outcome
    kit.advance(59)
    assert kit.start(Begin()).reply == first
    (outcome,) = kit.advance(1)
    assert outcome.stopped
    assert kit.progress.phase is SagaPhase.NEW
    kit.start(Begin())
    from repertory.actors.saga.inner import StepAnswer  # noqa: PLC0415

    old = StepAnswer(step="~0/0", value=encode(Taken()), rejected=False)
    assert kit._run(old, old.step, 1, None).events == ()
    kit.answer(Taken())
    assert kit.outcome != first


def asker(name: str) -> Sender:
    """Return a saga that has started another one."""
    return Sender("parent.commands", key=name, correlation_id=name, about="~5/0")


def test_a_starter_that_revokes_leaves() -> None:
    """The last one cancels the saga. Somebody else who revokes changes nothing."""
    kit = SagaKit(Two)
    for name in ("one", "two"):
        kit.run(Begin(), sender=asker(name))
    kit.run(RevokeAsk(about="~5/0"), sender=asker("three"))
    kit.run(RevokeAsk(about="~5/0"), sender=asker("one"))
    assert [reply for _, reply in kit.replies] == [Undelivered(reason="revoked")]
    assert [each.key for each in kit.progress.starters] == ["two"]
    assert kit.outcome is None
    kit.run(RevokeAsk(about="~6/0"), sender=asker("two"))
    assert kit.outcome is None
    kit.run(RevokeAsk(about="~5/0"), sender=asker("two"))
    kit.answer(Undelivered(reason="revoked"))
    assert [reply for _, reply in kit.replies[1:]] == [Cancelled(reason="revoked by who started it")]


def test_a_starter_that_revokes_a_roll_back_does_not_wait_for_its_undos() -> None:
    """Two sagas that wait for each other would do so for ever. Nobody is answered twice."""
    kit = SagaKit(Two)
    kit.run(Begin(), sender=asker("one"))
    kit.answer(Taken())
    kit.answer(Short(left=2))
    kit.run(RevokeAsk(about="~5/0"), sender=asker("one"))
    assert [reply for _, reply in kit.replies] == [Short(left=2)]
    assert undone(kit) == ["a"]
    assert len(kit.replies) == 1


# --- again ----------------------------------------------------------------------------------------------------


def test_again_loses_nothing() -> None:
    """Undos, unread signals, starters and ids move along; numbers go on."""
    kit = begun(Again, number=2)
    kit.signal(Approve(by="eve"))
    for n in range(3):
        assert [each.n for each in kit.open] == [n]
        kit.start(Begin(number=2))
        kit.answer(Taken())
    assert kit.outcome == Failed()
    assert kit.replies == [(Approve(by="eve"), Done())]
    assert undone(kit) == ["k0", "k1", "k2"]
    assert kit.replies[1:] == [(Begin(number=2), Failed())] * 4


def test_again_keeps_no_more_than_what_may_be_undone() -> None:
    """What stands is forgotten: a saga that keeps its work can begin anew for ever."""
    kit = begun(Endless)
    sizes = set()
    for _ in range(40):
        for _ in range(3):
            kit.answer(Taken())
        sizes.add(len(kit.progress.steps))
    assert sizes == {1}
    assert kit.progress.runs == 40
    kit.cancel()
    kit.answer(Undelivered(reason="revoked"))
    assert undone(kit) == []


def test_a_pivot_of_a_former_run_stands_for_what_was_before_it() -> None:
    """It is forgotten, and what it keeps is not undone."""

    class Turning(Saga):
        @run
        async def turning(self, cmd: Begin, ctx: SagaContext) -> Ended | Failed | Cancelled:
            for key in ("a", "b"):
                await ctx.ask(Store.take, key, Take(), undo=ctx.call(Store.back, key, Back()))
            if cmd.number == 0:
                await ctx.ask(Store.take, "late", Take(), undo=ctx.call(Store.back, "late", Back()), timeout_s=1)
                from repertory import PIVOT  # noqa: PLC0415

                await ctx.ask(Store.take, "p", Take(), undo=PIVOT)
                await ctx.ask(Store.take, "c", Take(), undo=ctx.call(Store.back, "c", Back()))
                return ctx.again(Begin(number=1))
            return Failed()

    kit = begun(Turning)
    kit.answer(Taken())
    kit.answer(Taken())
    kit.advance(1)
    kit.answer(Taken(), 3)
    kit.answer(Taken(), 4)
    assert [each.key for each in kit.progress.steps] == ["late", "c", "a"]
    kit.answer(Taken(), 5)
    kit.answer(Taken(), 6)
    kit.answer(Taken(), 2)
    assert undone(kit) == ["b", "a", "c", "late"]


# --- builds ---------------------------------------------------------------------------------------------------


def moved(kit: SagaKit[Any], saga: type[Saga]) -> SagaKit[Any]:
    """Return a kit of another build of a saga, with what was recorded."""
    made = SagaKit(saga)
    made._data = encode(saga(progress=kit.progress))
    made.state = made._restored(made._data)
    made._offset = kit._offset
    made._sent = dict(kit._sent)
    made._asked = dict(kit._asked)
    return made


def build(code: Any, *more: Any) -> type[Saga]:
    """Return a build of a saga with these runs."""
    names = {f"code{n}": each for n, each in enumerate((run(code), *more))}
    return type(Saga)("Built", (Saga,), {"__module__": __name__, **names})


Outcome = Ended | Short | Undelivered | Cancelled


async def old_code(self: Any, _cmd: Begin, ctx: SagaContext) -> Outcome:
    """Take from a."""
    await ctx.require(Store.take, "a", Take(), undo=ctx.call(Store.back, "a", Back()))
    await ctx.require(Store.take, "b", Take(), undo=None)
    return Ended(text="old")


async def other_key(self: Any, _cmd: Begin, ctx: SagaContext) -> Outcome:
    """Take from z."""
    await ctx.require(Store.take, "z", Take(), undo=None)
    return Ended()


async def other_message(self: Any, _cmd: Begin, ctx: SagaContext) -> Outcome:
    """Take two."""
    await ctx.require(Store.take, "a", Take(amount=2), undo=None)
    return Ended()


async def more_at_once(self: Any, _cmd: Begin, ctx: SagaContext) -> Outcome:
    """Take from a and from c."""
    await ctx.gather(*(ctx.require(Store.take, key, Take(), undo=None) for key in ("a", "c")))
    return Ended()


async def nothing(self: Any, _cmd: Begin, _ctx: SagaContext) -> Outcome:
    """Take nothing."""
    return Ended()


async def failing(self: Any, _cmd: Begin, ctx: SagaContext) -> Outcome:
    """Have a bug."""
    await ctx.require(Store.take, "a", Take(), undo=ctx.call(Store.back, "a", Back()))
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (other_key, "step 0: recorded require store.take 'a', now require store.take 'z'"),
        (other_message, r"step 0: recorded require store.take 'a' of \w{16}, now require store.take 'a' of \w{16}"),
        (more_at_once, "step 1: recorded nothing beside it, now 2 steps"),
        (nothing, "step 0: recorded require store 'a', now none"),
    ],
)
def test_code_that_changed_under_a_running_saga(code: Any, sentence: str) -> None:
    """It is named: the step, what was recorded, what there is now. Nothing else happens."""
    kit = moved(begun(build(old_code)), build(code))
    with pytest.raises(NonDeterministic, match=sentence):
        kit.answer(Taken())
    assert kit.progress.steps[0].done == 0
    mended = moved(kit, build(old_code))
    mended.answer(Taken())
    mended.answer(Taken())
    assert mended.outcome == Ended(text="old")


def test_a_bug_undoes_nothing() -> None:
    """A mended build goes on from that step."""
    kit = moved(begun(build(old_code)), build(failing))
    with pytest.raises(ZeroDivisionError):
        kit.answer(Taken())
    assert kit.applied == []
    mended = moved(kit, build(old_code))
    mended.answer(Taken())
    assert [each.key for each in mended.open] == ["b"]


def test_a_running_saga_goes_on_with_its_version() -> None:
    """A new one begins with the highest; without its version a build can do nothing about it but name it."""

    async def new_code(self: Any, cmd: Begin, ctx: SagaContext) -> Outcome:
        if cmd.number == 0:
            await ctx.sleep(1)
        return Ended(text="new")

    kit = begun(build(old_code))
    both = moved(kit, build(old_code, run(version=2)(new_code)))
    both.answer(Taken())
    both.answer(Taken())
    assert both.outcome == Ended(text="old")
    fresh = begun(build(old_code, run(version=2)(new_code)), number=1)
    assert (fresh.outcome, fresh.progress.version) == (Ended(text="new"), 2)
    alone = type(Saga)("Built", (Saga,), {"__module__": __name__, "code": run(version=2)(new_code)})
    with pytest.raises(
        NonDeterministic, match=r"begun with version 1 of its code, and this build has 2; keep the @run\(ve"
    ):
        moved(kit, alone).answer(Taken())


def test_an_answer_that_no_longer_decodes_waits_for_a_build_that_can() -> None:
    """It is recorded by none that cannot."""
    from repertory.actors.saga.inner import StepAnswer  # noqa: PLC0415

    kit = begun(Two)
    strange = StepAnswer(step="~0/0", value=b"\x81\xa4type\xa6Strang", rejected=False)
    with pytest.raises(NotInBuild, match="unknown type 'Strang'"):
        kit._run(strange, strange.step, 1, None)
    assert kit.progress.steps[0].done == 0
    kit.answer(Taken())
    assert [each.key for each in kit.open] == ["b"]


def test_a_refusal_is_no_turn() -> None:
    """What was recorded before stands."""

    class Twice(Saga):
        @run
        async def twice(self, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
            step = ctx.sleep(1)
            await step
            if cmd.number == 0:
                await step
            return Ended()

    kit = begun(Twice)
    with pytest.raises(SagaRefused, match="awaits a step twice"):
        kit.advance(1)
    assert kit.progress.steps[0].done == 0

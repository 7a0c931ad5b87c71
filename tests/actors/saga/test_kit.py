"""``SagaKit`` and ``explore``: a saga by hand, and in every way there is."""

from __future__ import annotations

from typing import Any

import pytest

from examples.banking.accounts import AccountClosed, Deposit, Deposited, Refund, Refunded, Withdraw, Withdrawn
from repertory import (
    Cancelled,
    Command,
    Done,
    NonDeterministic,
    Saga,
    SagaContext,
    SagaKit,
    TooLate,
    Undelivered,
    run,
)
from repertory.testing.explore import Explored, explore
from tests.actors.domain import Account
from tests.actors.saga.domain import Approve, Begin, Ended, Failed, Hurry, Letter, Posted, Returned, Short, Taken, post
from tests.actors.saga.sagas import Addressed, Approved, Hashed, Late, Pivoting, Posting, Racing, Several, Two
from tests.apps.sagabank import Start, Transfer, Transferred

START = Start(source="a", target="b", amount=5)
WITHDRAWN = Withdrawn(amount=5, transfer="t-1")
DEPOSITED = Deposited(amount=5, transfer="t-1")
REFUNDED = Refunded(amount=5, transfer="t-1")


def test_a_saga_is_answered_by_hand() -> None:
    """It shows what it waits for, with the message, and goes on with what it is answered."""
    kit = SagaKit(Transfer, key="t-1")
    assert kit.start(START).reply is None
    (withdraw,) = kit.open
    assert (withdraw.n, withdraw.kind, withdraw.key) == (0, "require", "a")
    assert withdraw.message == Withdraw(amount=5, transfer="t-1")
    assert (withdraw.due_s, withdraw.is_abandoned) == (None, False)
    kit.answer(WITHDRAWN)
    (deposit,) = kit.open
    assert deposit.message == Deposit(amount=5, transfer="t-1")
    kit.answer(DEPOSITED, deposit)
    assert (kit.open, kit.outcome, kit.reply, kit.is_over) == ((), Transferred(amount=5), Transferred(amount=5), True)
    assert [each.message for each in kit.applied] == [withdraw.message, deposit.message]
    assert kit.start(START).reply == Transferred(amount=5)
    kit.replay_elsewhere()


def test_an_undo_is_shown_and_answered() -> None:
    """A rejection is answered after it; one that is rejected is stuck, and tried again, amended or skipped."""
    kit = SagaKit(Transfer, key="t-1")
    kit.start(START)
    kit.answer(WITHDRAWN)
    kit.answer(AccountClosed())
    (undo,) = kit.open
    assert (undo.n, undo.kind, undo.key, undo.message) == (0, "undo", "a", Refund(amount=5, transfer="t-1"))
    kit.answer(Undelivered(reason="dropped"))
    assert (kit.open, kit.stuck, kit.reply) == ((), "Undelivered: dropped", None)
    assert kit.retry_undo().reply == Done()
    assert kit.open == (undo,)
    kit.answer(Undelivered(reason="dropped"))
    kit.amend_undo(Refund(amount=4, transfer="t-1"))
    assert kit.open[0].message == Refund(amount=4, transfer="t-1")
    other = kit.fork()
    kit.answer(REFUNDED)
    assert (kit.outcome, kit.reply, kit.is_over) == (AccountClosed(), AccountClosed(), True)
    other.answer(Undelivered(reason="dropped"))
    other.skip_undo("paid in cash")
    assert other.is_over
    assert [each.kind for each in other.applied] == ["require"]


def test_time_signals_and_effects() -> None:
    """The clock moves when it is told to; a signal is answered when it is taken."""
    kit = SagaKit(Racing)
    kit.start(Begin())
    ask, effect, approve, sleep = kit.open
    assert (effect.receiver, effect.message, approve.receiver, sleep.due_s) == (post, Letter(), Approve, 3_600)
    other = kit.fork()
    kit.advance(3_599)
    assert kit.open[-1].due_s == 1
    kit.advance(1)
    assert [(each.kind, each.is_abandoned) for each in kit.open] == [
        ("ask", True),
        ("perform", True),
        ("signal", False),
    ]
    kit.signal(Hurry())
    assert kit.outcome == Ended(text="NoneType")
    kit.answer(Posted())
    kit.answer(Undelivered(reason="revoked"), ask)
    assert kit.open[0].message == Letter(to="sorry")
    kit.answer(None)
    assert kit.is_over
    other.signal(Approve(by="eve"))
    assert other.replies == [(Approve(by="eve"), Done())]
    assert not [each for each in other.open if each.kind == "sleep"]


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (
            lambda kit: kit.answer(Ended()),
            "nothing that is open may be answered Ended: require 0 takes Taken, Short, Un",
        ),
        (lambda kit: kit.answer(Taken(), 7), "nothing that is open may be answered Taken: no step waits for an answer"),
        (lambda kit: kit.answer(Taken()), "Taken may answer require 0 and require 1 and require 2; say which"),
    ],
)
def test_an_answer_that_cannot_be(act: Any, sentence: str) -> None:
    """A receiver answers what its annotation names; where several may have it, the test says which."""
    kit = SagaKit(Several)
    kit.start(Begin())
    with pytest.raises(ValueError, match=sentence):
        act(kit)
    assert len(kit.open) == 3


@pytest.mark.parametrize("given", [Saga, Account, Account(), 5])
def test_what_is_no_saga(given: Any) -> None:
    """It takes a class of sagas."""
    with pytest.raises(TypeError, match=r"SagaKit takes a class of sagas, as in SagaKit\(Transfer\), not "):
        SagaKit(given)


_counter = iter(range(1_000_000))


class Counted(Command):
    """Has a number."""


class Counting(Saga):
    """Takes another number in each run of its code."""

    @run
    async def counting(self, _cmd: Counted, ctx: SagaContext) -> Ended | Cancelled:
        """Sleep for a time that nobody knows."""
        await ctx.sleep(5)
        await ctx.sleep(next(_counter))
        return Ended()


def test_what_differs_from_run_to_run_is_named_at_its_first_step() -> None:
    """Each message is decided twice."""
    kit = SagaKit(Counting)
    kit.start(Counted())
    with pytest.raises(
        NonDeterministic, match=r"Counting differs from run to run: step 1: first sleep of .*, then sleep"
    ):
        kit.advance(5)


def test_what_differs_in_another_process_is_named_at_its_first_step() -> None:
    """An address of an object, the order of a set."""
    kit = SagaKit(Addressed)
    with pytest.raises(NonDeterministic, match=r"step 1: first ask store.note 'n' of"):  # noqa: PT012  here, or there
        kit.start(Begin())
        kit.answer(None)
        kit.replay_elsewhere()
    hashed = SagaKit(Hashed)
    hashed.start(Begin())
    with pytest.raises(NonDeterministic, match=r"differs in another process: step 0: first .*'key-\d+'.*, then ask"):
        hashed.replay_elsewhere()


def test_a_class_that_another_process_cannot_import() -> None:
    """It says so, and ``explore`` does without."""

    class Local(Saga):
        """Is nowhere else."""

        @run
        async def local(self, _cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
            """Sleep."""
            await ctx.sleep(1)
            return Ended()

    kit = SagaKit(Local)
    kit.start(Begin())
    with pytest.raises(ValueError, match="Local cannot be imported by another process; define it at the top of a modu"):
        kit.replay_elsewhere()
    assert explore(Local, Begin(), lambda _kit: None) == Explored(runs=2, waiting=0, is_complete=True)


# --- explore --------------------------------------------------------------------------------------------------


def conserved(kit: SagaKit[Transfer]) -> None:
    """Check that no money is lost, and that the saga has an outcome."""
    moved = {"a": 0, "b": 0}
    for step in kit.applied:
        match step.message:
            case Withdraw(amount=amount):
                moved[step.key] -= amount
            case Deposit(amount=amount) | Refund(amount=amount):
                moved[step.key] += amount
    if kit.stuck:
        assert moved == {"a": -5, "b": 0}
    else:
        assert kit.is_over
        assert moved == ({"a": -5, "b": 5} if isinstance(kit.outcome, Transferred) else {"a": 0, "b": 0})


def test_a_transfer_in_every_way() -> None:
    """Money is conserved under each order of answers, each rejection, and a cancel anywhere."""
    found = explore(Transfer, START, conserved, answers=[WITHDRAWN, DEPOSITED, REFUNDED])
    assert found == Explored(runs=16, waiting=0, is_complete=True)


@pytest.mark.parametrize("saga", [Two, Pivoting, Late, Posting, Several, Approved])
def test_each_saga_ends(saga: type[Saga]) -> None:
    """Done, undone, or Stuck with a reason; what was applied before the last pivot stands, all other is undone."""
    ends = set[str]()

    def check(kit: SagaKit[Any]) -> None:
        assert kit.is_over != bool(kit.stuck)
        ends.add(type(kit.outcome).__name__ if kit.is_over else "stuck")
        applied = [each.n for each in kit.applied if each.kind != "undo" and each.key != "n"]
        undone = [each.n for each in kit.applied if each.kind == "undo"]
        assert len(set(undone)) == len(undone)
        assert undone == sorted(undone, reverse=True)
        assert set(undone) <= set(applied)

    signals = [Approve(by="eve"), Approve(by="ann")] if saga is Approved else []
    found = explore(saga, Begin(), check, answers=[Taken(), Posted(), Returned()], signals=signals)
    assert found.is_complete
    assert {"Ended", "Cancelled"} <= ends


def test_explore_says_how_it_came_there() -> None:
    """Whatever is raised has a note with what has led there."""

    def check(kit: SagaKit[Two]) -> None:
        assert not isinstance(kit.outcome, Short)

    with pytest.raises(AssertionError) as raised:
        explore(Two, Begin(), check, answers=[Taken(), Returned()], elsewhere=False)
    (note,) = raised.value.__notes__[-1:]
    said = "start Begin(number=0); answer require 0 Taken(); answer require 1 Short(left=0); answer undo 0 Returned()"
    assert note == f"explore came here by: {said}"


def test_explore_is_bounded() -> None:
    """By runs and turns, and says that it is cut short."""
    found = explore(Several, Begin(), lambda _kit: None, answers=[Taken(), Returned()], runs_max=10, elsewhere=False)
    assert found == Explored(runs=10, waiting=0, is_complete=False)
    cut = explore(Two, Begin(), lambda _kit: None, answers=[Taken(), Returned()], turns_max=2, elsewhere=False)
    assert not cut.is_complete
    waits = explore(Approved, Begin(), lambda _kit: None, cancels=False, elsewhere=False)
    assert waits == Explored(runs=2, waiting=2, is_complete=True)


def test_explore_needs_what_is_applied() -> None:
    """A rejection it makes itself; an event with fields it does not know."""
    with pytest.raises(
        ValueError, match=r"require 0 of <@command Account.withdraw> may be answered Withdrawn; give one"
    ):
        explore(Transfer, START, conserved)


def test_explore_finds_what_differs_elsewhere() -> None:
    """The runs, or some of many, are run again in another process."""
    with pytest.raises(
        NonDeterministic, match=r"Hashed differs in another process: step 0: first ask store.note 'key-"
    ):
        explore(Hashed, Begin(), lambda _kit: None, runs_max=5)


def test_a_cancel_of_a_pivot() -> None:
    """It is answered when the pivot is: too late, or done."""
    kit = SagaKit(Pivoting)
    kit.start(Begin())
    kit.answer(Taken())
    kit.cancel("no more")
    other = kit.fork()
    assert kit.replies == []
    kit.answer(Taken())
    assert isinstance(kit.replies[0][1], TooLate)
    assert kit.outcome is None
    other.answer(Short())
    assert other.replies[0][1] == Done()
    assert other.outcome == Cancelled(reason="no more")
    assert Failed() != other.outcome

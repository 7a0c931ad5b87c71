"""Transfers as sagas, each on the log in memory: every path through one, and where its money is meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from examples.banking.accounts import (
    Account,
    AccountClosed,
    Close,
    Deposit,
    Deposited,
    InsufficientFunds,
    Open,
    Refund,
    Refunded,
    Withdraw,
    Withdrawn,
)
from examples.banking.audit import LEFT, audit
from examples.banking.transfers import StartTransfer, Transfer, Transferred
from repertory import (
    PIVOT,
    ActorSystem,
    AlreadyBegun,
    Cancelled,
    Command,
    Directive,
    Done,
    Message,
    Rejection,
    Running,
    Saga,
    SagaContext,
    SagaKit,
    TimedOut,
    TooLate,
    Undelivered,
    commands_topic,
    restart,
    run,
)
from repertory.actors.control import DropParked
from repertory.actors.entity import resolved
from repertory.actors.saga.messages import RetryUndo
from repertory.actors.wire import DecodeError, MessageDecoder, encode
from repertory.bridge.log.record import Output
from repertory.testing.explore import explore

TIMEOUT_S = 60.0
START = StartTransfer(source="ada", target="bob", amount=30)


Rejected = InsufficientFunds | AccountClosed | TimedOut | Undelivered | Cancelled


class Broken(Exception):
    """What a handler raises that is broken for a while."""


class Impatient(Saga):
    """A transfer that does not wait for its source for more than a minute."""

    @run
    async def transfer(self, cmd: StartTransfer, ctx: SagaContext) -> Transferred | Rejected:
        """As a `Transfer`, with a time-out."""
        refund = ctx.call(Account.refund, cmd.source, Refund(amount=cmd.amount, transfer=ctx.key))
        withdraw = Withdraw(amount=cmd.amount, transfer=ctx.key)
        found = await ctx.ask(Account.withdraw, cmd.source, withdraw, undo=refund, timeout_s=60)
        if isinstance(found, Rejection):
            return found
        await ctx.require(Account.deposit, cmd.target, Deposit(amount=cmd.amount, transfer=ctx.key), undo=PIVOT)
        return Transferred(amount=cmd.amount)


#: A handler that fails parks its key at once.
system = ActorSystem("bank")
system.host(Account, partitions=2, supervise=restart(on={Broken: Directive.STOP}))
system.host(Transfer, partitions=2)
system.host(Impatient, partitions=2)


@pytest.fixture
def running() -> Iterator[Running]:
    """Yield a bank: Ada has 100 cents, Bob has none, Eve's account is closed, with 50 cents."""
    with system.start("memory:") as made:
        for name, cents in (("ada", 100), ("bob", 0), ("eve", 50)):
            made.client.tell(Account.open, name, Open(initial=cents))
        made.client.tell(Account.close, "eve", Close())
        made.settle()
        yield made


def balances(running: Running) -> dict[str, int]:
    """Return what the accounts hold."""
    found = {name: running.state(Account, name) for name in ("ada", "bob", "eve")}
    return {name: account.balance if account else 0 for name, account in found.items()}


def failing(running: Running) -> dict[str, str]:
    """Audit the log; return the checks that fail."""
    return {check.name: check.detail for check in audit(running.reader, system) if not check.ok}


def ask(running: Running, start: StartTransfer, key: str = "t") -> Message:
    """Transfer money; return the answer."""
    found: Message = running.client.ask(Transfer.transfer, key, start, timeout_s=TIMEOUT_S)
    return found


def cancel(running: Running, reason: str) -> Message:
    """Cancel the transfer; return the answer."""
    return running.client.cancel(Transfer, "t", reason=reason, timeout_s=TIMEOUT_S)


def retry_refund(running: Running) -> Message:
    """Have a stuck transfer try its refund again, as ``repertory sagas retry`` does; return the answer."""
    handler: Any = resolved(Transfer).handlers[RetryUndo]
    found: Message = running.client.ask(handler, "t", RetryUndo(step=0), timeout_s=TIMEOUT_S)
    return found


@contextmanager
def broken(message: type[Command]) -> Iterator[None]:
    """While it is entered, accounts cannot handle such a message."""

    def fail(*_: object) -> None:
        raise Broken(message.__name__)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolved(Account).handlers[message], "function", fail)
        yield


def drop_parked(running: Running) -> None:
    """Drop the only command that is parked, as an operator does."""
    (parked,) = running.parked()
    message = encode(DropParked(offset=parked.offset, reason="the account is lost"))
    topic = commands_topic(system.name, parked.entity)
    with closing(running._backend.appender()) as appender:
        appender.append([Output(topic, parked.partition, parked.key.encode(), message)])


def outcome(transfer: Transfer | Impatient | None) -> Message:
    """Return what a transfer has answered."""
    assert transfer is not None
    answers = resolved(type(transfer)).messages.values()
    found: Message = MessageDecoder(dict.fromkeys(answers)).decode(transfer.progress.outcome)
    return found


# --- how a transfer ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "answer", "left"),
    [
        (START, Transferred(amount=30), (70, 30, 50)),
        (StartTransfer(source="ada", target="eve", amount=30), AccountClosed(), (100, 0, 50)),
        (StartTransfer(source="bob", target="ada", amount=30), InsufficientFunds(balance=0), (100, 0, 50)),
        (StartTransfer(source="ada", target="ada", amount=30), Transferred(amount=30), (100, 0, 50)),
        (StartTransfer(source="eve", target="bob", amount=50), Transferred(amount=50), (100, 50, 0)),
        (StartTransfer(source="eve", target="eve", amount=50), AccountClosed(), (100, 0, 50)),
    ],
    ids=["done", "closed target", "poor source", "to itself", "of a closed source", "back to a closed source"],
)  # fmt: skip
def test_a_transfer_is_done_or_undone(
    running: Running, start: StartTransfer, answer: Message, left: tuple[int, int, int]
) -> None:
    """What was withdrawn is deposited, or it is back by the time that the rejection is answered."""
    assert ask(running, start) == answer
    assert tuple(balances(running).values()) == left
    running.settle()
    assert failing(running) == {}


def test_a_transfer_is_made_once(running: Running) -> None:
    """The same start has the same answer, at any time; another one with the same key is refused."""
    running.client.tell_all([(Transfer.transfer, "t", START)] * 3)
    running.settle()
    assert [ask(running, START) for _ in range(2)] == [Transferred(amount=30)] * 2
    assert ask(running, StartTransfer(source="ada", target="bob", amount=31)) == AlreadyBegun()
    assert balances(running)["bob"] == 30
    assert failing(running) == {}


@pytest.mark.parametrize(
    "start",
    [
        StartTransfer(source="", target="a-2", amount=1),
        StartTransfer(source="a-1", target="a\0", amount=1),
        StartTransfer(source="a-1", target="a-2\n", amount=1),
        StartTransfer(source="a-1", target="a" * 65, amount=1),
        StartTransfer(source="a-1", target="a-2", amount=0),
    ],
)
def test_an_invalid_transfer_cannot_be_decoded(start: Command) -> None:
    """A transfer with an invalid account or amount is refused before any money moves."""
    with pytest.raises(DecodeError):
        resolved(Transfer).decoder.decode(encode(start))


# --- cancelled, and crashed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["bob", "eve"])
@pytest.mark.parametrize("turns", range(6))
def test_a_transfer_is_cancelled_at_any_time(running: Running, turns: int, target: str) -> None:
    """After any number of turns of the loop: it is undone, or too late, and the answer says so."""
    running.client.tell(Transfer.transfer, "t", StartTransfer(source="ada", target=target, amount=30))
    for _ in range(turns):
        running.tick()
    said = cancel(running, "a mistake")
    running.settle()
    ended = outcome(running.state(Transfer, "t"))
    if said == Done():
        assert ended == Cancelled(reason="a mistake")
    else:
        assert isinstance(said, TooLate)
        assert ended == (AccountClosed() if target == "eve" else Transferred(amount=30))
    bob = 30 if ended == Transferred(amount=30) else 0
    assert balances(running) == {"ada": 100 - bob, "bob": bob, "eve": 50}
    assert failing(running) == {}


@pytest.mark.parametrize("turns", range(6))
def test_a_crash_after_any_turn_changes_nothing(running: Running, turns: int) -> None:
    """The next owner goes on where the last commit was."""
    running.client.tell(Transfer.transfer, "t", StartTransfer(source="ada", target="eve", amount=30))
    running.client.tell(Transfer.transfer, "u", START)
    for _ in range(turns):
        running.tick()
    running.crash()
    running.settle()
    assert outcome(running.state(Transfer, "t")) == AccountClosed()
    assert outcome(running.state(Transfer, "u")) == Transferred(amount=30)
    assert balances(running) == {"ada": 70, "bob": 30, "eve": 50}
    assert failing(running) == {}


# --- accounts that are in trouble ---------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [Withdraw, Deposit])
def test_a_step_that_an_operator_drops_undoes_the_transfer(running: Running, message: type[Command]) -> None:
    """It was not applied, and never will be; the money waits in the transfer until then."""
    running.client.tell(Transfer.transfer, "t", START)
    with broken(message):
        running.settle()
    if message is Deposit:
        assert balances(running)["ada"] == 70
        assert "the balances are what was paid in" not in failing(running)
    drop_parked(running)
    running.settle()
    ended = outcome(running.state(Transfer, "t"))
    assert isinstance(ended, Undelivered)
    assert "the account is lost" in ended.reason
    assert balances(running) == {"ada": 100, "bob": 0, "eve": 50}
    assert set(failing(running)) == {LEFT}, "of one command: it was dead-lettered"


@pytest.mark.parametrize("message", [Withdraw, Deposit])
def test_a_transfer_that_waits_for_a_parked_account_can_be_cancelled(running: Running, message: type[Command]) -> None:
    """What it waits for is revoked; the money goes back."""
    running.client.tell(Transfer.transfer, "t", START)
    with broken(message):
        running.settle()
    assert cancel(running, "enough") == Done()
    running.settle()
    assert outcome(running.state(Transfer, "t")) == Cancelled(reason="enough")
    assert balances(running) == {"ada": 100, "bob": 0, "eve": 50}
    assert set(failing(running)) == {LEFT}


def test_a_refund_that_is_rejected_waits_for_an_operator(running: Running) -> None:
    """The transfer is stuck, and holds the money; when the refund is tried again, the source has it back."""
    running.client.tell(Transfer.transfer, "t", StartTransfer(source="ada", target="eve", amount=30))
    with broken(Refund):
        running.settle()
    drop_parked(running)
    running.settle()
    transfer = running.state(Transfer, "t")
    assert transfer is not None
    assert "the account is lost" in transfer.progress.stuck
    assert balances(running)["ada"] == 70
    found = failing(running)
    assert set(found) == {LEFT, "every transfer ended exactly once"}
    assert "the transfer never ended, and holds 30 cents" in found["every transfer ended exactly once"]
    assert cancel(running, "") == TooLate(reason="the saga has its outcome, and settles what is open")
    assert retry_refund(running) == Done()
    running.settle()
    assert outcome(running.state(Transfer, "t")) == AccountClosed()
    assert balances(running) == {"ada": 100, "bob": 0, "eve": 50}
    assert set(failing(running)) == {LEFT}


# --- time-outs ----------------------------------------------------------------------------------------------------


def test_a_source_that_does_not_answer_in_time_is_given_up(running: Running) -> None:
    """What was asked of it is revoked, and will not be applied when the account is in order again."""
    running.client.tell(Impatient.transfer, "t", START)
    with broken(Withdraw):
        running.advance(59)
        (saga,) = running.sagas()
        assert saga.progress.phase == "running"
        running.advance(2)
    running.settle()
    assert outcome(running.state(Impatient, "t")) == TimedOut()
    assert running.parked() == []
    assert balances(running) == {"ada": 100, "bob": 0, "eve": 50}
    assert set(failing(running)) == {LEFT}


def test_a_source_that_answers_too_late_gets_its_money_back() -> None:
    """The withdrawal was applied before it could be revoked; only then is the time-out answered."""
    kit = SagaKit(Impatient, key="t")
    kit.start(START)
    kit.advance(61)
    assert kit.reply is None
    kit.answer(Withdrawn(amount=30, transfer="t"))
    (undo,) = kit.open
    assert undo.message == Refund(amount=30, transfer="t")
    kit.answer(Refunded(amount=30, transfer="t"))
    assert (kit.reply, kit.is_over) == (TimedOut(), True)


@pytest.mark.parametrize("saga", [Transfer, Impatient])
def test_no_order_of_events_makes_or_loses_money(saga: type[Transfer | Impatient]) -> None:
    """With every answer, every rejection, every time-out, and a cancel in every gap."""

    def check(kit: SagaKit[Any]) -> None:
        if not kit.is_over:
            return
        moved = [type(step.message) for step in kit.applied]
        done = kit.outcome == Transferred(amount=30)
        assert moved.count(Withdraw) == moved.count(Deposit) + moved.count(Refund), moved
        assert moved.count(Deposit) == done, moved

    answers = [
        Withdrawn(amount=30, transfer="t"),
        Deposited(amount=30, transfer="t"),
        Refunded(amount=30, transfer="t"),
    ]
    found = explore(saga, START, check, answers=answers)
    assert found.is_complete
    assert found.runs > 10

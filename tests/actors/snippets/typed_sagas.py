"""Sagas for type checkers: each line with an ``error`` comment must be an error, and no other line may be.

The comments name mypy's codes. Pyright must find errors on the same lines.
"""

from typing import Self, assert_type

from repertory import (
    PIVOT,
    AlreadyBegun,
    Cancelled,
    ClockAhead,
    Command,
    Done,
    Entity,
    Event,
    IdConflict,
    NoSuchSaga,
    Rejection,
    Request,
    Saga,
    SagaContext,
    SagaKit,
    TimedOut,
    TooLate,
    Undelivered,
    command,
    effect,
    event,
    run,
    signal,
)
from repertory.actors.saga.step import Call, Open
from repertory.bridge.system.client import Client


class Withdraw(Command):
    """Pay out."""

    amount: int


class Withdrawn(Event):
    """Money went out."""


class Deposit(Command):
    """Pay in."""

    amount: int


class Deposited(Event):
    """Money came in."""


class Split(Command):
    """Pay out twice."""


class Close(Command):
    """Say nothing."""


class Fee(Command):
    """Pay for the account, if it costs anything."""


class Sweep(Command):
    """Pay out whatever is there."""


class InsufficientFunds(Rejection):
    """The balance is lower."""


class Account(Entity):
    """Returns what a journaled entity can return."""

    @command
    def withdraw(self, cmd: Withdraw) -> Withdrawn | InsufficientFunds:
        return Withdrawn()

    @command
    def deposit(self, cmd: Deposit) -> Deposited:
        return Deposited()

    @command
    def split(self, cmd: Split) -> tuple[Withdrawn, ...] | InsufficientFunds:
        return (Withdrawn(), Withdrawn())

    @command
    def close(self, cmd: Close) -> None:
        return None

    @command
    def fee(self, cmd: Fee) -> Withdrawn | InsufficientFunds | None:
        return None

    @command
    def sweep(self, cmd: Sweep) -> Withdrawn | Deposited | InsufficientFunds:
        return Withdrawn()

    @event
    def withdrawn(self, evt: Withdrawn) -> Self:
        return self

    @event
    def deposited(self, evt: Deposited) -> Self:
        return self


class Counter(Entity):
    """Returns what a stateful entity can return."""

    count: int = 0

    @command
    def deposit(self, cmd: Deposit) -> Self:
        return self

    @command
    def withdraw(self, cmd: Withdraw) -> Self | InsufficientFunds:
        return self


class Letter(Request):
    """Send it."""


class Sent(Event):
    """It was sent."""


class Bounced(Rejection):
    """Nobody lives there."""


@effect(timeout_s=5)
async def send(do: Letter) -> Sent | Bounced:
    return Sent()


@effect(timeout_s=5)
async def ping(do: Letter) -> None:
    return None


class Start(Command):
    """Move money."""

    source: str
    target: str


class Approve(Command):
    """Agree."""

    by: str


class Transferred(Event):
    """It is done."""


class Transfer(Saga, steps_max=100):
    """Takes every kind of step."""

    approve = signal(Approve)

    @run
    async def transfer(self, cmd: Start, ctx: SagaContext) -> Transferred | InsufficientFunds | Undelivered | Cancelled:
        refund = ctx.call(Account.deposit, cmd.source, Deposit(amount=1))
        assert_type(refund, Call)
        assert_type(ctx.call(send, Letter()), Call)

        required = await ctx.require(Account.withdraw, cmd.source, Withdraw(amount=1), undo=refund)
        assert_type(required, Withdrawn)
        assert_type(await ctx.require(Account.deposit, cmd.target, Deposit(amount=1), undo=PIVOT), Deposited)
        assert_type(await ctx.require(Account.split, "k", Split(), undo=None), Withdrawn)
        assert_type(await ctx.require(Account.close, "k", Close(), undo=None), Done)
        assert_type(await ctx.require(Counter.deposit, "k", Deposit(amount=1), undo=None), Done)
        assert_type(await ctx.require(Counter.withdraw, "k", Withdraw(amount=1), undo=None), Done)

        assert_type(await ctx.require(Account.fee, "k", Fee(), undo=None), Withdrawn | Done)

        asked = await ctx.ask(Account.withdraw, cmd.source, Withdraw(amount=1), undo=refund)
        assert_type(asked, Withdrawn | InsufficientFunds | Undelivered)
        timed = await ctx.ask(Account.withdraw, cmd.source, Withdraw(amount=1), undo=refund, timeout_s=5)
        assert_type(timed, Withdrawn | InsufficientFunds | Undelivered | TimedOut)
        assert_type(await ctx.ask(Account.close, "k", Close(), undo=PIVOT), Done | Undelivered)
        fee = await ctx.ask(Account.fee, "k", Fee(), undo=None, timeout_s=5)
        assert_type(fee, Withdrawn | InsufficientFunds | Done | Undelivered | TimedOut)
        split = await ctx.ask(Account.split, "k", Split(), undo=None)
        assert_type(split, Withdrawn | InsufficientFunds | Done | Undelivered)
        swept = await ctx.ask(Account.sweep, "k", Sweep(), undo=None)
        assert_type(swept, Withdrawn | Deposited | InsufficientFunds | Undelivered)
        taken = await ctx.ask(Counter.withdraw, "k", Withdraw(amount=1), undo=None)
        assert_type(taken, InsufficientFunds | Done | Undelivered)
        assert_type(
            await ctx.ask(Counter.deposit, "k", Deposit(amount=1), undo=None, timeout_s=5),
            Done | Undelivered | TimedOut,
        )

        assert_type(await ctx.perform(send, Letter(), undo=ctx.call(send, Letter())), Sent | Bounced | Undelivered)
        assert_type(await ctx.perform(ping, Letter(), undo=None), Undelivered | None)
        assert_type(ctx.sleep(5), Open[None])
        assert_type(await ctx.signal(Approve), Approve)

        both = await ctx.gather(
            ctx.require(Account.withdraw, "k", Withdraw(amount=1), undo=None),
            ctx.ask(Account.deposit, "k", Deposit(amount=1), undo=None),
        )
        assert_type(both, tuple[Withdrawn, Deposited | Undelivered])
        won = await ctx.first(ctx.signal(Approve), ctx.perform(send, Letter(), undo=None), ctx.sleep(60))
        assert_type(won, Approve | Sent | Bounced | Undelivered | None)
        if ctx.random.random() > 1:
            return ctx.again(cmd)
        return Transferred()

    async def mistakes(self, cmd: Start, ctx: SagaContext) -> None:
        await ctx.require(Account.withdraw, "k", Deposit(amount=1), undo=None)  # error: misc
        await ctx.ask(Account.withdraw, "k", Withdraw(amount=1))  # error: call-overload
        await ctx.ask(Account.withdraw, "k", Withdraw(amount=1), undo=PIVOT, timeout_s=5)  # error: call-overload
        await ctx.ask(Account.withdraw, "k", Withdraw(amount=1), undo=lambda: None)  # error: call-overload
        required = ctx.require(Account.deposit, "k", Deposit(amount=1), undo=None)
        await ctx.first(required, ctx.sleep(1))  # error: call-overload
        _ = (await ctx.require(Account.withdraw, "k", Withdraw(amount=1), undo=None)).reason  # error: attr-defined
        await ctx.perform(send, Approve(by="eve"), undo=None)  # error: misc
        ctx.call(Account.deposit, "k", Withdraw(amount=1))  # error: misc
        await ctx.sleep("a minute")  # error: arg-type
        _ = (await ctx.signal(Approve)).to  # error: attr-defined


def clients(client: Client, kit: SagaKit[Transfer]) -> None:
    not_applied = Undelivered(reason="")
    started = client.ask(Transfer.transfer, "t-1", Start(source="a", target="b"))
    assert_type(started, Transferred | InsufficientFunds | Undelivered | Cancelled | IdConflict | ClockAhead)
    assert not isinstance(not_applied, AlreadyBegun)
    signalled = client.ask(Transfer.approve, "t-1", Approve(by="eve"))
    assert_type(signalled, Done | NoSuchSaga | TooLate | Undelivered | IdConflict | ClockAhead)
    client.tell(Transfer.approve, "t-1", Start(source="a", target="b"))  # error: misc
    assert_type(kit, SagaKit[Transfer])
    SagaKit(Account)  # error: type-var

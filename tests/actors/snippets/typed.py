"""An application for type checkers: each line with an ``error`` comment must be an error, and no other line may be."""

from typing import Any, Self, assert_type

import msgspec

from repertory import (
    ActorSystem,
    Answer,
    AskId,
    AskResult,
    AsyncClient,
    Backoff,
    ClockAhead,
    Command,
    CommandHandler,
    Context,
    Directive,
    Done,
    Effect,
    EffectContext,
    Entity,
    Event,
    IdConflict,
    NotAsked,
    Query,
    QueryHandler,
    Rejection,
    Request,
    Revoked,
    Route,
    SourceRecord,
    StillOpen,
    Undelivered,
    command,
    effect,
    event,
    query,
    restart,
    route,
)
from repertory.actors.context import Context as _Context
from repertory.bridge.system.client import Client


class Deposit(Command):
    """Pay in."""

    amount: int


class Withdraw(Command):
    """Pay out."""

    amount: int


class Deposited(Event):
    """Money came in."""

    amount: int


class Withdrawn(Event):
    """Money went out."""

    amount: int


class InsufficientFunds(Rejection):
    """The balance is lower."""

    balance: int


class Account(Entity):
    """The example of the design's section 2."""

    balance: int = 0

    @command
    def deposit(self, cmd: Deposit) -> Deposited:
        return Deposited(amount=cmd.amount)

    @command
    def withdraw(self, cmd: Withdraw, ctx: Context) -> Withdrawn | InsufficientFunds:
        if cmd.amount > self.balance:
            return InsufficientFunds(balance=self.balance)
        return Withdrawn(amount=cmd.amount)

    @event
    def deposited(self, evt: Deposited) -> Self:
        return self.replace(balance=self.balance + evt.amount)

    @event
    def withdrawn(self, evt: Withdrawn) -> Self:
        return self.replace(balance=self.balance - evt.amount)


system = ActorSystem("bank")
system.host(
    Account,
    partitions=8,
    supervise=restart(
        max_restarts=3, within_s=60, backoff=Backoff(first_s=0.05, max_s=5), on={ValueError: Directive.STOP}
    ),
)

RULES = {ValueError: Directive.STOP, KeyError: Directive.RESUME}
restart(on=RULES)


def positional() -> Deposit:
    return Deposit(5)  # error: call-arg


def misspelt() -> Deposit:
    return Deposit(amont=5)  # error: call-arg


def missing() -> Deposit:
    return Deposit()  # error: call-arg


def wrong_type() -> Deposit:
    return Deposit(amount="5")  # error: arg-type


def assigned(deposit: Deposit, account: Account) -> None:
    deposit.amount = 6  # error: misc
    account.balance = 6  # error: misc


def client_sends(client: Client) -> None:
    client.tell(Account.deposit, "k", Deposit(amount=1))
    client.tell(Account.withdraw, "k", Deposit(amount=1))  # error: misc
    client.tell(Account.withdraw, "k", InsufficientFunds(balance=1))  # error: misc
    client.tell(Account.deposited, "k", Deposit(amount=1))  # error: arg-type
    client.tell(Account.deposit, 5, Deposit(amount=1))  # error: arg-type


class Close(Command):
    """Say nothing."""


class Split(Command):
    """Pay out twice."""


class Refund(Command):
    """Pay back, or refuse."""


class Ledger(Entity):
    """Returns what a journaled entity can return."""

    @command
    def close(self, cmd: Close) -> None:
        return None

    @command
    def deposit(self, cmd: Deposit) -> Deposited | InsufficientFunds | None:
        return None

    @command
    def split(self, cmd: Split) -> tuple[Deposited, Withdrawn]:
        return (Deposited(amount=1), Withdrawn(amount=1))

    @command
    def refund(self, cmd: Refund) -> InsufficientFunds | tuple[Deposited, ...]:
        return ()

    @event
    def deposited(self, evt: Deposited) -> Self:
        return self

    @event
    def withdrawn(self, evt: Withdrawn) -> Self:
        return self


class Counter(Entity):
    """Returns what a stateful entity can return."""

    @command
    def deposit(self, cmd: Deposit) -> Self:
        return self

    @command
    def withdraw(self, cmd: Withdraw) -> Self | InsufficientFunds:
        return self


NotApplied = Undelivered | IdConflict | ClockAhead


def client_asks(client: Client, ask_id: AskId, some: CommandHandler[Any, Any, Any]) -> None:
    assert_type(client.ask(Account.deposit, "k", Deposit(amount=1)), Deposited | NotApplied)
    assert_type(client.ask(Account.withdraw, "k", Withdraw(amount=1)), Withdrawn | InsufficientFunds | NotApplied)
    assert_type(client.ask(Ledger.close, "k", Close()), Done | NotApplied)
    assert_type(client.ask(Ledger.deposit, "k", Deposit(amount=1)), Deposited | InsufficientFunds | Done | NotApplied)
    assert_type(client.ask(Ledger.split, "k", Split()), Withdrawn | NotApplied)
    assert_type(client.ask(Ledger.refund, "k", Refund()), InsufficientFunds | Deposited | Done | NotApplied)
    assert_type(client.ask(Counter.deposit, "k", Deposit(amount=1)), Done | NotApplied)
    assert_type(client.ask(Counter.withdraw, "k", Withdraw(amount=1)), InsufficientFunds | Done | NotApplied)
    result = client.ask_result(Account.deposit, "k", Deposit(amount=1), timeout_s=1, id=ask_id)
    assert_type(result, AskResult[Deposited | NotApplied])
    client.ask(some, "k", Deposit(amount=1), repeat=False)
    client.ask(Account.withdraw, "k", Deposit(amount=1))  # error: misc
    client.ask(Account.deposited, "k", Deposit(amount=1))  # error: call-overload
    client.ask(Account.deposit, "k", Deposit(amount=1), id="order-17")  # error: call-overload
    client.ask(Account.deposit, "k", Deposit(amount=1), timeout=1)  # error: call-overload


async def tasks_ask(client: AsyncClient) -> None:
    assert_type(await client.ask(Account.deposit, "k", Deposit(amount=1)), Deposited | NotApplied)
    assert_type(
        await client.ask_result(Account.withdraw, "k", Withdraw(amount=1)),
        AskResult[Withdrawn | InsufficientFunds | NotApplied],
    )
    assert_type(await client.tell(Account.deposit, "k", Deposit(amount=1)), str)
    await client.ask(Account.withdraw, "k", Deposit(amount=1))  # error: misc


def context_sends(ctx: _Context) -> None:
    ctx.tell(Account.deposit, "k", Deposit(amount=1))
    ctx.ask(Account.withdraw, "k", Withdraw(amount=1), about="debit")
    ctx.tell(Account.withdraw, "k", Deposit(amount=1))  # error: misc
    ctx.ask(Account.withdraw, "k", Deposit(amount=1))  # error: misc
    ctx.reply(Deposit(amount=1))  # error: arg-type
    ctx.publish("topic", 5)  # error: arg-type


def called_as_methods(account: Account) -> None:
    assert_type(account.deposit(Deposit(amount=1)), Deposited)
    assert_type(account.deposited(Deposited(amount=1)), Account)
    assert_type(account.replace(balance=1), Account)
    account.deposited(Withdrawn(amount=1))  # error: arg-type


class Wrong(Entity):
    """Mistakes that a type checker finds before the code runs."""

    count: int = 0

    @event  # error: type-var
    def deposited(self, evt: Deposit) -> Self:
        return self


class GetStatus(Query):
    """Ask what is there."""


class Status(Answer):
    """What is there."""

    balance: int


class Unknown(Rejection):
    """Nothing is there."""


class Shelf(Entity):
    """The example of section 21."""

    balance: int = 0

    @command
    def deposit(self, cmd: Deposit) -> Self:
        return self.replace(balance=self.balance + cmd.amount)

    @query
    def status(self, _ask: GetStatus) -> Status | Unknown:
        return Status(balance=self.balance) if self.balance else Unknown()


def queries(client: Client, shelf: Shelf, ctx: _Context) -> None:
    assert_type(Shelf.status, QueryHandler[Shelf, GetStatus, Status | Unknown])
    assert_type(shelf.status(GetStatus()), Status | Unknown)
    client.tell(Shelf.status, "k", GetStatus())  # error: arg-type
    ctx.ask(Shelf.status, "k", GetStatus())  # error: arg-type


def by_id(client: Client, ask_id: AskId) -> None:
    found = client.answer(Account.deposit, "k", ask_id, timeout_s=1)
    assert_type(found, AskResult[Event | Rejection] | StillOpen | NotAsked)
    assert_type(
        client.revoke(Account.deposit, "k", id=ask_id), Revoked | AskResult[Event | Rejection] | StillOpen | NotAsked
    )
    if isinstance(found, AskResult) and isinstance(found.value, Deposited):
        assert_type(found.value.amount, int)
    client.answer(Account.deposit, "k", "order-17")  # error: arg-type
    client.revoke(Shelf.status, "k", ask_id)  # error: arg-type


async def by_id_in_asyncio(client: AsyncClient, ask_id: AskId) -> None:
    assert_type(await client.answer(Account.deposit, "k", ask_id), AskResult[Event | Rejection] | StillOpen | NotAsked)
    assert_type(
        await client.revoke(Account.deposit, "k", ask_id),
        Revoked | AskResult[Event | Rejection] | StillOpen | NotAsked,
    )


class WrongQueries(Entity):
    """Queries that a type checker refuses before the code runs."""

    @query  # error: type-var
    def takes_a_command(self, _ask: Deposit) -> Status:
        return Status(balance=1)

    @query  # error: type-var
    def returns_an_event(self, _ask: GetStatus) -> Deposited:
        return Deposited(amount=1)

    @query  # error: arg-type
    def has_a_context(self, _ask: GetStatus, ctx: Context) -> Status:
        return Status(balance=ctx.attempt)


class Send(Request):
    """Send a mail."""

    to: str


class Fetch(Request):
    """Fetch something."""


@effect(timeout_s=10)
async def send(do: Send, fx: EffectContext) -> Deposited | None:
    return None if fx.get(str) else Deposited(amount=1)


@effect(timeout_s=10, attempts=3, backoff=Backoff(first_s=1, max_s=300), name="fetch-it")
async def fetch(_do: Fetch) -> Withdrawn:
    return Withdrawn(amount=1)


@effect()  # error: call-arg
async def without_a_time_out(_do: Fetch) -> None: ...


@effect(timeout_s=1)  # error: arg-type
def sync(_do: Fetch) -> None: ...


async def effects(fx: EffectContext, ctx: Context) -> None:
    assert_type(send, Effect[Send, Deposited | None])
    assert_type(fetch, Effect[Fetch, Withdrawn])
    assert_type(await fetch(Fetch()), Withdrawn)
    assert_type(await send(Send(to="ann"), fx), Deposited | None)
    ctx.perform(send, Send(to="ann"), about="mail")
    ctx.perform(fetch, Fetch())
    ctx.perform(send, Fetch())  # error: misc
    ctx.perform(fetch, Deposit(amount=1))  # error: misc


class Paid(msgspec.Struct):
    """A foreign record."""

    account: str
    amount: int


def from_payment(record: SourceRecord) -> list[Route]:
    paid = record.json(Paid)
    assert_type(paid, Paid)
    assert_type(record.json(), object)
    return [
        route(Account.deposit, paid.account, Deposit(amount=paid.amount)),
        route(Account.deposit, paid.account, Withdraw(amount=paid.amount)),  # error: misc
        route(Account.deposit, paid.amount, Deposit(amount=paid.amount)),  # error: arg-type
    ]


def from_anything(record: SourceRecord) -> str:
    return record.place


def sources(system: ActorSystem) -> None:
    system.source("payments", "payments.v1", from_payment)
    system.source("others", "others.v1", lambda record: None if record.value is None else from_payment(record))
    system.source("wrong", "wrong.v1", from_anything)  # error: arg-type

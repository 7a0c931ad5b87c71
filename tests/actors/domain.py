"""Entities for the tests: journaled, stateful, a router, and one with mutable fields."""

from __future__ import annotations

from typing import Self

from repertory import (
    Answer,
    Command,
    Context,
    Done,
    Entity,
    Event,
    Query,
    Rejection,
    Sender,
    Undelivered,
    command,
    event,
    query,
    reply,
)


class Escalating(Exception):
    """Fails the whole shard if the policy escalates it."""


#: The exceptions that ``Trip`` can raise, by name.
ERRORS: dict[str, type[Exception]] = {
    "restart": RuntimeError,
    "resume": KeyError,
    "stop": ValueError,
    "escalate": Escalating,
}


class Deposit(Command):
    """Pay in."""

    amount: int


class Split(Command):
    """Pay in by several events."""

    amounts: tuple[int, ...]


class Withdraw(Command):
    """Pay out."""

    amount: int


class Close(Command):
    """End the life of the entity."""


class Trip(Command):
    """Tell another account, reply, and then raise, ``times`` times."""

    times: int = 1
    error: str = "restart"


class GetBalance(Query):
    """Ask what is there; ``error`` raises instead."""

    error: str = ""


class Balance(Answer):
    """What is there."""

    amount: int


class Deposited(Event):
    """Money came in."""

    amount: int


class Withdrawn(Event):
    """Money went out."""

    amount: int


class InsufficientFunds(Rejection):
    """The balance is lower than the amount."""

    balance: int


class Account(Entity):
    """Journaled."""

    balance: int = 0

    @command
    def deposit(self, cmd: Deposit) -> Deposited:
        return Deposited(amount=cmd.amount)

    @command
    def split(self, cmd: Split) -> tuple[Deposited, ...]:
        return tuple(Deposited(amount=amount) for amount in cmd.amounts)

    @command
    def withdraw(self, cmd: Withdraw) -> Withdrawn | InsufficientFunds:
        if cmd.amount > self.balance:
            return InsufficientFunds(balance=self.balance)
        return Withdrawn(amount=cmd.amount)

    @command
    def trip(self, cmd: Trip, ctx: Context) -> Deposited:
        ctx.tell(Account.deposit, "other", Deposit(amount=1))
        ctx.reply(Deposited(amount=-1))
        if ctx.attempt <= cmd.times:
            raise ERRORS[cmd.error](f"attempt {ctx.attempt} of {ctx.key}")
        return Deposited(amount=ctx.attempt)

    @command
    def close(self, _cmd: Close, ctx: Context) -> None:
        ctx.stop()

    @query
    def look(self, ask: GetBalance) -> Balance | InsufficientFunds:
        if ask.error:
            raise ERRORS[ask.error]("no look")
        return Balance(amount=self.balance) if self.balance >= 0 else InsufficientFunds(balance=self.balance)

    @event
    def deposited(self, evt: Deposited) -> Self:
        return self.replace(balance=self.balance + evt.amount)

    @event
    def withdrawn(self, evt: Withdrawn) -> Self:
        return self.replace(balance=self.balance - evt.amount)


class Pay(Command):
    """Ask an account for money."""

    account: str
    amount: int


class Teller(Entity):
    """Stateful: counts the answers to its asks."""

    asked: int = 0
    paid: int = 0
    refused: int = 0
    lost: int = 0

    @command
    def pay(self, cmd: Pay, ctx: Context) -> Self:
        ctx.ask(Account.withdraw, cmd.account, Withdraw(amount=cmd.amount), about=cmd.account)
        return self.replace(asked=self.asked + 1)

    @command
    def trip(self, cmd: Trip, ctx: Context) -> Self:
        if ctx.attempt <= cmd.times:
            raise ERRORS[cmd.error](f"attempt {ctx.attempt} of {ctx.key}")
        return self.replace(asked=self.asked + 100)

    @command
    def close(self, _cmd: Close, ctx: Context) -> Self:
        ctx.stop()
        return self

    @reply
    def withdrawn(self, evt: Withdrawn) -> Self:
        return self.replace(paid=self.paid + evt.amount)

    @reply
    def refusal(self, answer: InsufficientFunds | Undelivered) -> Self:
        if isinstance(answer, Undelivered):
            return self.replace(lost=self.lost + 1)
        return self.replace(refused=self.refused + 1)


class Router(Entity):
    """Router: forwards each deposit twice."""

    @command
    def deposit(self, cmd: Deposit, ctx: Context) -> None:
        ctx.tell(Account.deposit, f"{ctx.key}-1", cmd)
        ctx.ask(Account.trip, f"{ctx.key}-2", Trip(times=cmd.amount % 3), about="trip")

    @command
    def trip(self, cmd: Trip, ctx: Context) -> None:
        if ctx.attempt <= cmd.times:
            raise ERRORS[cmd.error](f"attempt {ctx.attempt} of {ctx.key}")

    @reply
    def answered(self, _answer: Deposited | Undelivered | Done) -> None:
        return None


class Put(Command):
    """Keep an item."""

    item: str


class Spoil(Command):
    """Change the state in place."""

    how: str = ""


class GetItems(Query):
    """Ask for the items; ``spoil`` changes the state in place."""

    spoil: bool = False


class Items(Answer):
    """The items."""

    items: tuple[str, ...]


class Bag(Entity):
    """Stateful, with fields that can be changed in place."""

    items: list[str] = []  # noqa: RUF012  msgspec copies such defaults
    counts: dict[str, int] = {}  # noqa: RUF012
    seen: set[str] = set()  # noqa: RUF012
    weight: float = 0.0

    @command
    def put(self, cmd: Put) -> Self:
        return self.replace(items=[*self.items, cmd.item])

    @query
    def look(self, ask: GetItems) -> Items:
        if ask.spoil:
            self.items.append("spoilt")
        return Items(items=tuple(self.items))

    @command
    def spoil(self, cmd: Spoil) -> Self:
        match cmd.how:
            case "list":
                self.items.append("x")
            case "dict":
                self.counts["x"] = 1
            case "set":
                self.seen.add("x")
            case "raise":
                self.items.append("x")
                raise RuntimeError("after a change in place")
        return self.replace(weight=1)


class Hold(Command):
    """Answer later."""


class Release(Command):
    """Answer the senders that are kept."""


class Desk(Entity):
    """Stateful: keeps the senders of asked commands, and answers them later."""

    held: tuple[Sender, ...] = ()

    @command
    def hold(self, _cmd: Hold, ctx: Context) -> Self:
        if ctx.sender is None:
            return self
        return self.replace(held=(*self.held, ctx.sender))

    @command
    def release(self, _cmd: Release, ctx: Context) -> Self:
        for sender in self.held:
            ctx.reply(Done(), to=sender)
        return self.replace(held=())

    @command
    def close(self, _cmd: Close, ctx: Context) -> Self:
        ctx.stop()
        return self

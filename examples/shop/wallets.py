"""Wallets: what each customer has paid in and not spent yet, in whole cents."""

from typing import Annotated, Self

from msgspec import Meta

from repertory import Answer, Command, Entity, Event, Query, Rejection, command, event, query

Cents = Annotated[int, Meta(gt=0)]


class TopUp(Command):
    """Pay in."""

    cents: Cents


class Charge(Command):
    """Pay for an order."""

    cents: Cents
    order: str


class ToppedUp(Event):
    """Money was paid in."""

    cents: int


class Charged(Event):
    """An order was paid."""

    cents: int
    order: str


class TooPoor(Rejection):
    """There are only so many cents."""

    cents: int


class Count(Query):
    """Ask what is there."""


class Cash(Answer):
    """What is there."""

    cents: int


class Wallet(Entity):
    """The wallet of one customer, who is its key."""

    cents: int = 0

    @command
    def top_up(self, cmd: TopUp) -> ToppedUp:
        return ToppedUp(cents=cmd.cents)

    @command
    def charge(self, cmd: Charge) -> Charged | TooPoor:
        if cmd.cents > self.cents:
            return TooPoor(cents=self.cents)
        return Charged(cents=cmd.cents, order=cmd.order)

    @query
    def count(self, _ask: Count) -> Cash:
        return Cash(cents=self.cents)

    @event
    def topped_up(self, evt: ToppedUp) -> Self:
        return self.replace(cents=self.cents + evt.cents)

    @event
    def charged(self, evt: Charged) -> Self:
        return self.replace(cents=self.cents - evt.cents)

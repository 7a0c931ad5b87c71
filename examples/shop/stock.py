"""Stock: how many of an item are on the shelf, and how many are set aside for orders that are not paid yet."""

from typing import Annotated, Self

from msgspec import Meta

from repertory import Answer, Command, Entity, Event, Query, Rejection, command, event, query

#: How many of an item: at least one.
Count = Annotated[int, Meta(gt=0)]


class Restock(Command):
    """Put items on the shelf, at a price of so many cents each from now on."""

    count: Count
    price: Annotated[int, Meta(gt=0)]


class Reserve(Command):
    """Set items aside for an order."""

    order: str
    count: Count


class Return(Command):
    """Put items of an order that was not paid back on the shelf."""

    order: str
    count: Count


class Ship(Command):
    """Hand out items that were set aside and are paid."""

    order: str
    count: Count


class Restocked(Event):
    """Items were put on the shelf."""

    count: int
    price: int


class Reserved(Event):
    """Items were set aside; they cost so many cents in all."""

    order: str
    count: int
    cents: int


class Returned(Event):
    """Items are on the shelf again."""

    order: str
    count: int


class Shipped(Event):
    """Items have left the shop."""

    order: str
    count: int


class SoldOut(Rejection):
    """There are only so many."""

    left: int


class LookUp(Query):
    """Ask what is there."""


class OnShelf(Answer):
    """What is there, and the price of one."""

    count: int
    price: int


class Stock(Entity):
    """The stock of one item, which is its key."""

    shelf: int = 0
    aside: int = 0
    shipped: int = 0
    price: int = 0

    @command
    def restock(self, cmd: Restock) -> Restocked:
        return Restocked(count=cmd.count, price=cmd.price)

    @command
    def reserve(self, cmd: Reserve) -> Reserved | SoldOut:
        if cmd.count > self.shelf:
            return SoldOut(left=self.shelf)
        return Reserved(order=cmd.order, count=cmd.count, cents=cmd.count * self.price)

    @command
    def put_back(self, cmd: Return) -> Returned:
        return Returned(order=cmd.order, count=cmd.count)

    @command
    def ship(self, cmd: Ship) -> Shipped:
        return Shipped(order=cmd.order, count=cmd.count)

    @query
    def look_up(self, _ask: LookUp) -> OnShelf:
        return OnShelf(count=self.shelf, price=self.price)

    @event
    def restocked(self, evt: Restocked) -> Self:
        return self.replace(shelf=self.shelf + evt.count, price=evt.price)

    @event
    def reserved(self, evt: Reserved) -> Self:
        return self.replace(shelf=self.shelf - evt.count, aside=self.aside + evt.count)

    @event
    def returned(self, evt: Returned) -> Self:
        return self.replace(shelf=self.shelf + evt.count, aside=self.aside - evt.count)

    @event
    def was_shipped(self, evt: Shipped) -> Self:
        return self.replace(aside=self.aside - evt.count, shipped=self.shipped + evt.count)

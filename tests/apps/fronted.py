"""An application behind the HTTP front: all kinds of fields, answers and failures, and one query."""

from __future__ import annotations

from typing import Annotated, Self

import msgspec

from repertory import ActorSystem, Answer, Command, Entity, Event, Query, Rejection, command, event, query


class Line(msgspec.Struct, frozen=True):
    """A part of an order."""

    item: str
    count: Annotated[int, msgspec.Meta(gt=0)]


class PlaceOrder(Command):
    """Order some things."""

    lines: tuple[Line, ...]
    note: Annotated[str, msgspec.Meta(pattern=r"\A[a-z ]{0,20}\Z")] = ""
    token: bytes = b""


class CancelOrder(Command):
    """Cancel it, for <b>any</b> reason </script>."""


class Break(Command):
    """Fail in the handler."""


class Careful(Command):
    """Refuse itself as it is decoded."""

    secret: str

    def __post_init__(self) -> None:
        raise RuntimeError(f"the secret {self.secret} is in this text")


class GetOrder(Query):
    """Ask how an order is."""

    detailed: bool = False
    since: int | None = None


class FindLines(Query):
    """Ask for lines; takes a list, so it is asked by POST."""

    items: tuple[str, ...]


class OrderPlaced(Event):
    """It was ordered."""

    lines: tuple[Line, ...]


class OrderCancelled(Event):
    """It was cancelled."""


class EmptyOrder(Rejection):
    """An order needs a line."""


class AlreadyPlaced(Rejection):
    """The order was placed before."""

    lines: int


class OrderStatus(Answer):
    """How an order is."""

    lines: int
    detailed: bool
    since: int | None


class WebOrder(Entity):
    """An order."""

    lines: tuple[Line, ...] = ()

    @command
    def place_order(self, cmd: PlaceOrder) -> OrderPlaced | EmptyOrder | AlreadyPlaced:
        if not cmd.lines:
            return EmptyOrder()
        if self.lines:
            return AlreadyPlaced(lines=len(self.lines))
        return OrderPlaced(lines=cmd.lines)

    @command
    def cancel(self, cmd: CancelOrder) -> OrderCancelled:
        return OrderCancelled()

    @command
    def break_it(self, cmd: Break) -> None:
        raise ValueError("it broke")

    @command
    def be_careful(self, cmd: Careful) -> None:
        return None

    @event
    def placed(self, evt: OrderPlaced) -> Self:
        return self.replace(lines=evt.lines)

    @event
    def cancelled(self, _evt: OrderCancelled) -> Self:
        return self.replace(lines=())

    @query
    def status(self, ask: GetOrder) -> OrderStatus:
        return OrderStatus(lines=len(self.lines), detailed=ask.detailed, since=ask.since)

    @query
    def find(self, ask: FindLines) -> OrderStatus:
        count = sum(line.item in ask.items for line in self.lines)
        return OrderStatus(lines=count, detailed=True, since=None)


system = ActorSystem("shop")
system.host(WebOrder, partitions=4)

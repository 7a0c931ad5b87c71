"""An application behind the HTTP front: all kinds of fields, answers and failures, and one query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, get_type_hints

import msgspec

from repertory import ActorSystem, Command, Entity, Event, Message, Rejection, Undelivered, command, event
from repertory.actors.handler import Handler


class QueryStandIn(Handler):
    """What ``@query`` makes on branch ``query``, as far as a gateway looks at it."""

    kind = "@query"

    def resolve(self, names: Mapping[str, Any]) -> None:
        """Read the annotations."""
        hints = get_type_hints(self.function, localns={**names, self.owner.__name__: self.owner})
        self.message_types = (hints["ask"],)
        self.replies = (hints["return"],)
        self.answers = (hints["return"], Undelivered)


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


class GetOrder(Message):
    """Ask how an order is."""

    detailed: bool = False
    since: int | None = None


class FindLines(Message):
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


class OrderStatus(Message):
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

    def _status(self, ask: GetOrder) -> OrderStatus:
        return OrderStatus(lines=len(self.lines), detailed=ask.detailed, since=ask.since)

    def _found(self, ask: FindLines) -> OrderStatus:
        count = sum(line.item in ask.items for line in self.lines)
        return OrderStatus(lines=count, detailed=True, since=None)

    status = QueryStandIn(_status)
    find = QueryStandIn(_found)


system = ActorSystem("shop")
system.host(WebOrder, partitions=4)

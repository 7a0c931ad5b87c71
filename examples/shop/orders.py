"""Orders. Whoever places one is answered at its end, even if the nodes that work on it are replaced meanwhile.

::

    place ── reserve the items ─┬─ sold out ──> REFUSED
                                └─ reserved ── charge ─┬─ charged ── ship the items ──> SHIPPED
                                                       ├─ declined ── put the items back ──> REFUSED
                                                       └─ not paid in time ── refund ── put the items back ──> REFUSED

The stock is asked, and the payment provider by effects; each arrow is a reply in the log. The order keeps who placed it
(``sender``) in its state, so the answer is owed like the rest of the state.

A timer cancels what is not paid in time. A charge may be under way then, so the refund decides: after it nothing can be
charged, and what the charge answers is ignored.
"""

from enum import StrEnum
from typing import Annotated, Self

from msgspec import Meta

from examples.shop.payments import Charge, Charged, Declined, Refund, Refunded, charge, refund
from examples.shop.stock import Count, Reserve, Reserved, Return, Returned, Ship, Shipped, SoldOut, Stock
from repertory import (
    Answer,
    Command,
    Context,
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

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9.-]{1,64}\Z")]


class Stage(StrEnum):
    """The step that an order is at, or how it ended."""

    NEW = "new"
    RESERVING = "reserving"
    CHARGING = "charging"
    REFUNDING = "refunding"
    RETURNING = "returning"
    SHIPPING = "shipping"
    REFUSED = "refused"
    SHIPPED = "shipped"
    STUCK = "stuck"


class Place(Command):
    """Buy some of an item for a customer: once, however often it is asked. It is to be paid within so many seconds."""

    customer: Name
    item: Name
    count: Count
    pay_within_s: Annotated[float, Meta(gt=0, le=86_400)] = 900


class Expire(Command):
    """Cancel the order, unless it is paid."""


class Placed(Event):
    """The items were asked for."""

    customer: str
    item: str
    count: int
    sender: Sender | None


class ItemsReserved(Event):
    """The items are set aside; the provider is asked for the money."""

    cents: int


class Cancelled(Event):
    """Nothing will be bought; what may have been paid is paid back."""

    reason: str


class Unpaid(Event):
    """Nothing was paid; the items go back."""

    reason: str


class Refused(Event):
    """End: nothing was bought."""

    reason: str


class Paid(Event):
    """The money is here; the items are on their way out."""


class Delivered(Event):
    """End: the items were shipped, for so many cents."""

    cents: int


class Stuck(Event):
    """Money was not paid back, or items were not put back or shipped: somebody has to look."""

    reason: str


class NotSold(Rejection):
    """Nothing was bought, and nothing was paid."""

    reason: str


class AlreadyPlaced(Rejection):
    """The order was placed before, under another id."""

    stage: Stage


class GetOrder(Query):
    """Ask where the order is."""


class OrderStatus(Answer):
    """Where the order is, and what it costs."""

    stage: Stage
    cents: int


class Order(Entity):
    """One order; its key is its number."""

    customer: str = ""
    item: str = ""
    count: int = 0
    cents: int = 0
    reason: str = ""
    stage: Stage = Stage.NEW
    sender: Sender | None = None

    @command
    def place(self, cmd: Place, ctx: Context) -> Placed | Delivered | NotSold | AlreadyPlaced:
        """Nothing is answered yet, because the event keeps the sender."""
        if self.stage is not Stage.NEW:
            return AlreadyPlaced(stage=self.stage)
        ctx.ask(Stock.reserve, cmd.item, Reserve(count=cmd.count), about="reserve")
        ctx.schedule("expire", Order.expire, Expire(), after_s=cmd.pay_within_s)
        return Placed(customer=cmd.customer, item=cmd.item, count=cmd.count, sender=ctx.sender)

    @command
    def expire(self, _cmd: Expire, ctx: Context) -> Cancelled | None:
        """The timer of the order, which is cancelled when it is paid."""
        return self._cancelled(ctx, "it was not paid in time")

    @reply
    def reserved(self, evt: Reserved, ctx: Context) -> ItemsReserved | Unpaid:
        if self.reason:  # Cancelled meanwhile.
            return self._unpaid(ctx, self.reason)
        ctx.perform(charge, Charge(order=ctx.key, customer=self.customer, cents=evt.cents), about="charge")
        return ItemsReserved(cents=evt.cents)

    @reply
    def sold_out(self, rejection: SoldOut, ctx: Context) -> Refused | NotSold:
        return self._refused(ctx, f"{rejection.left} of {self.item} are left")

    @reply
    def charged(self, _evt: Charged, ctx: Context) -> Paid | None:
        if self.stage is not Stage.CHARGING:
            return None  # It is paid back.
        ctx.cancel("expire")
        ctx.ask(Stock.ship, self.item, Ship(count=self.count), about="ship")
        return Paid()

    @reply
    def declined(self, rejection: Declined, ctx: Context) -> Unpaid | None:
        return self._unpaid(ctx, rejection.reason) if self.stage is Stage.CHARGING else None

    @reply
    def refunded(self, _evt: Refunded, ctx: Context) -> Unpaid:
        return self._unpaid(ctx, self.reason)

    @reply
    def returned(self, _evt: Returned, ctx: Context) -> Refused | NotSold:
        return self._refused(ctx, self.reason)

    @reply
    def shipped(self, _evt: Shipped, ctx: Context) -> Delivered:
        delivered = Delivered(cents=self.cents)
        if self.sender is not None:
            ctx.reply(delivered, to=self.sender)
        return delivered

    @reply
    def undelivered(self, rejection: Undelivered, ctx: Context) -> Refused | NotSold | Cancelled | Stuck | None:
        """What was asked was not applied and never will be; a charge was given up, and may have been applied."""
        match ctx.about:
            case "reserve":
                return self._refused(ctx, rejection.reason)
            case "charge":
                return self._cancelled(ctx, rejection.reason)
            case _:
                return Stuck(reason=rejection.reason)

    @query
    def status(self, _ask: GetOrder) -> OrderStatus:
        return OrderStatus(stage=self.stage, cents=self.cents)

    def _refused(self, ctx: Context, reason: str) -> Refused:
        ctx.cancel("expire")
        if self.sender is not None:
            ctx.reply(NotSold(reason=reason), to=self.sender)
        return Refused(reason=reason)

    def _cancelled(self, ctx: Context, reason: str) -> Cancelled | None:
        if self.stage is Stage.CHARGING:
            ctx.perform(refund, Refund(order=ctx.key), about="refund")
        return Cancelled(reason=reason) if self.stage in {Stage.RESERVING, Stage.CHARGING} else None

    def _unpaid(self, ctx: Context, reason: str) -> Unpaid:
        ctx.cancel("expire")
        ctx.ask(Stock.put_back, self.item, Return(count=self.count), about="return")
        return Unpaid(reason=reason)

    @event
    def was_placed(self, evt: Placed) -> Self:
        return self.replace(
            customer=evt.customer, item=evt.item, count=evt.count, sender=evt.sender, stage=Stage.RESERVING
        )

    @event
    def items_reserved(self, evt: ItemsReserved) -> Self:
        return self.replace(cents=evt.cents, stage=Stage.CHARGING)

    @event
    def was_cancelled(self, evt: Cancelled) -> Self:
        stage = Stage.REFUNDING if self.stage is Stage.CHARGING else self.stage
        return self.replace(reason=evt.reason, stage=stage)

    @event
    def was_not_paid(self, evt: Unpaid) -> Self:
        return self.replace(reason=evt.reason, stage=Stage.RETURNING)

    @event
    def was_refused(self, evt: Refused) -> Self:
        return self.replace(reason=evt.reason, sender=None, stage=Stage.REFUSED)

    @event
    def was_paid(self, _evt: Paid) -> Self:
        return self.replace(stage=Stage.SHIPPING)

    @event
    def was_delivered(self, _evt: Delivered) -> Self:
        return self.replace(sender=None, stage=Stage.SHIPPED)

    @event
    def is_stuck(self, evt: Stuck) -> Self:
        return self.replace(reason=evt.reason, stage=Stage.STUCK)

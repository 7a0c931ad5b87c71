"""Orders, each a saga. Whoever places one is answered at its end, even if the nodes that work on it are replaced.

::

    place ── reserve the items ─┬─ sold out ──> NotSold
                                └─ reserved ── charge ─┬─ charged ── ship ── the parcel has left ──> Delivered
                                                       ├─ declined ── put the items back ──> NotSold
                                                       └─ not paid in time ── refund, put the items back ──> NotSold

The stock is asked, the payment provider by effects, and the warehouse signals that a parcel has left. What does not end
well is undone, the last step first. A charge may be under way when its time is over: what it did is awaited, and then
paid back. Once the stock has handed out the items, nothing is undone: an order goes on until its parcel has left.
"""

from typing import Annotated

from msgspec import Meta

from examples.shop.payments import Charge, Charged, Refund, charge, refund
from examples.shop.stock import Count, Reserve, Reserved, Return, Ship, SoldOut, Stock
from repertory import (
    PIVOT,
    Cancelled,
    Command,
    Context,
    Entity,
    Event,
    Rejection,
    Saga,
    SagaContext,
    Undelivered,
    command,
    run,
    signal,
)

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9.-]{1,64}\Z")]
#: How long the warehouse takes to pack a parcel.
PACKING_S = 0.1


class Place(Command):
    """Buy some of an item for a customer: once, however often it is asked. It is to be paid within so many seconds."""

    customer: Name
    item: Name
    count: Count
    pay_within_s: Annotated[float, Meta(gt=0, le=86_400)] = 900


class Delivered(Event):
    """The items were paid and have left, for so many cents."""

    cents: int


class NotSold(Rejection):
    """Nothing was bought, and nothing was paid."""

    reason: str


class ParcelLeft(Command):
    """A signal of the warehouse: the parcel of this order has left."""


class Order(Saga):
    """One order; its key is its number."""

    parcel_left = signal(ParcelLeft)

    @run
    async def place(self, cmd: Place, ctx: SagaContext) -> Delivered | NotSold | Undelivered | Cancelled:
        """Reserve, charge and ship the items; give back what was taken if it does not come to that."""
        back = ctx.call(Stock.put_back, cmd.item, Return(order=ctx.key, count=cmd.count))
        reserve = Reserve(order=ctx.key, count=cmd.count)
        match await ctx.ask(Stock.reserve, cmd.item, reserve, undo=back):
            case Reserved(cents=cents):
                pass
            case SoldOut(left=left):
                return NotSold(reason=f"{left} of {cmd.item} are left")
            case Undelivered(reason=reason):
                return NotSold(reason=reason)
        pay = Charge(order=ctx.key, customer=cmd.customer, cents=cents)
        charging = ctx.perform(charge, pay, undo=ctx.call(refund, Refund(order=ctx.key)))
        match await ctx.first(charging, ctx.sleep(cmd.pay_within_s)):
            case Charged():
                pass
            case None:
                return NotSold(reason="it was not paid in time")
            case rejection:
                return NotSold(reason=rejection.reason)
        await ctx.require(Stock.ship, cmd.item, Ship(order=ctx.key, count=cmd.count), undo=PIVOT)
        await ctx.ask(Warehouse.pack, cmd.item, Pack(order=ctx.key), undo=None)
        await ctx.signal(ParcelLeft)
        return Delivered(cents=cents)


class Pack(Command):
    """Pack the parcel of an order."""

    order: str


class Warehouse(Entity):
    """Packs parcels, those of each item at one place."""

    @command
    def pack(self, cmd: Pack, ctx: Context) -> None:
        """Signal that the parcel has left, when it has."""
        ctx.tell(Order.parcel_left, cmd.order, ParcelLeft(), after_s=PACKING_S)

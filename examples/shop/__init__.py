"""A shop: orders, stock and payments, over HTTP. ``repertory serve examples.shop:system --log memory:`` runs it.

An order is a saga. ``examples.shop.front`` has pages beside it, which read tables of the stock's projections.

``python -m examples.shop.provider`` is the payment provider that it asks meanwhile. An order is answered at its end,
which may be several asks, attempts to pay and a crash later. ``examples.shop.books`` checks that every item and every
cent is where the log says it went.
"""

from examples.shop.orders import Order, Warehouse
from examples.shop.payments import lifespan
from examples.shop.projections import Items, Orders
from examples.shop.stock import Stock
from repertory import ActorSystem

system = ActorSystem("shop", lifespan=lifespan)
system.host(Order, partitions=8)
system.host(Stock, partitions=4)
system.host(Warehouse, partitions=4)
system.project(Items, Stock)
system.project(Orders, Stock)

__all__ = ["Items", "Order", "Orders", "Stock", "Warehouse", "system"]

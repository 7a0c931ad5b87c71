"""A shop: orders, stock and payments, over HTTP. ``repertory serve examples.shop:system --log memory:`` runs it.

``python -m examples.shop.provider`` is the payment provider that it asks meanwhile. An order is answered at its end,
which may be several asks, attempts to pay and a crash later. ``examples.shop.books`` checks that every item and every
cent is where the log says it went.
"""

from examples.shop.orders import Order
from examples.shop.payments import lifespan
from examples.shop.stock import Stock
from repertory import ActorSystem

system = ActorSystem("shop", lifespan=lifespan)
system.host(Order, partitions=8)
system.host(Stock, partitions=4)

__all__ = ["Order", "Stock", "system"]

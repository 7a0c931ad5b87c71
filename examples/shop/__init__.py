"""A shop: orders, stock and wallets, over HTTP. ``repertory serve examples.shop:system --log memory:`` runs it.

An order is answered at its end, which may be several asks and a crash later. ``examples.shop.books`` checks that every
item and every cent is where the log says it went.
"""

from examples.shop.orders import Order
from examples.shop.stock import Stock
from examples.shop.wallets import Wallet
from repertory import ActorSystem

system = ActorSystem("shop")
system.host(Order, partitions=8)
system.host(Stock, partitions=4)
system.host(Wallet, partitions=4)

__all__ = ["Order", "Stock", "Wallet", "system"]

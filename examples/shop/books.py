"""The books: whether each item and each cent is where the orders say it went.

The items are counted from the committed events, the cents from the ledger of the payment provider.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from examples.shop.orders import Delivered, Order, Place
from examples.shop.provider import Payment
from examples.shop.stock import Reserved, Restocked, Returned, Shipped, Stock
from repertory import ActorSystem, Entity, Message, events_topic
from repertory.verify import Reader


class OrderHistory(NamedTuple):
    """What was placed, where the order is now, how often it has ended, and what it costs: 0 if it was not delivered."""

    placed: Place
    order: Order
    ends: int = 0
    cents: int = 0

    @property
    def has_items_aside(self) -> bool:
        """Whether items are set aside for the order, from its recorded steps."""
        reserve = self.order.progress.step(0)
        return reserve is not None and reserve.was_applied and not reserve.undone and not self.is_shipped

    @property
    def is_shipped(self) -> bool:
        """Whether its items were handed out, which cannot be undone."""
        return self.cents > 0 or any(step.is_pivot and step.was_applied for step in self.order.progress.steps)


def wrong_books(reader: Reader, system: ActorSystem, payments: Sequence[Payment]) -> list[str]:
    """Return a sentence for each contradiction, none if the books are right. No order may be under way.

    ``payments``: the ledger of the payment provider.
    """
    orders = histories(reader, system)
    sold, costs = Counter[str](), {key: each.cents for key, each in orders.items() if each.cents}
    for key in costs:
        sold[orders[key].placed.item] += orders[key].placed.count
    found = [f"order {key} ended {each.ends} times" for key, each in orders.items() if each.ends != 1]
    return [*found, *_wrong_items(reader, system, sold), *_wrong_payments(payments, costs)]


def histories(reader: Reader, system: ActorSystem) -> dict[str, OrderHistory]:
    """Return all orders by their keys, folded from their journals."""
    behaviour = system.hosted[Order].behaviour
    found: dict[str, OrderHistory] = {}
    for key, event in _events(reader, system, Order):
        if (evolve := behaviour.evolve.get(type(event))) is None:
            continue  # The end of a life: its result was kept long enough.
        history = found.get(key)
        order: Order = evolve(Order() if history is None else history.order, event)
        progress = order.progress
        if history is None:
            placed = behaviour.decoder.decode(progress.command)
            assert isinstance(placed, Place), placed
            history = OrderHistory(placed, order)
        cents = history.cents
        if is_over := progress.phase == "over":
            cents = 0 if progress.is_rejected else msgspec.msgpack.decode(progress.outcome, type=Delivered).cents
        found[key] = history._replace(order=order, ends=history.ends + is_over, cents=cents)
    return found


def _wrong_items(reader: Reader, system: ActorSystem, sold: Counter[str]) -> list[str]:
    found: list[str] = []
    shelf, aside, shipped = Counter[str](), Counter[str](), Counter[str]()
    for item, event in _events(reader, system, Stock):
        match event:
            case Restocked(count=count):
                shelf[item] += count
            case Reserved(count=count):
                shelf[item] -= count
                aside[item] += count
            case Returned(count=count):
                shelf[item] += count
                aside[item] -= count
            case Shipped(count=count):
                aside[item] -= count
                shipped[item] += count
        if min(shelf[item], aside[item]) < 0:
            found.append(f"of {item}, {shelf[item]} are on the shelf and {aside[item]} aside")
    found += [f"{count} of {item} are set aside for no order" for item, count in aside.items() if count]
    return found + [
        f"{shipped[item]} of {item} left the shop, {sold[item]} were sold"
        for item in sorted({*shipped, *sold})
        if shipped[item] != sold[item]
    ]


def _wrong_payments(payments: Sequence[Payment], costs: Mapping[str, int]) -> Iterator[str]:
    """``costs``: the cents of each order that was delivered. The others cost nothing."""
    charges = Counter(payment.order for payment in payments if payment.state == "charged")
    yield from (f"order {order} was paid {times} times" for order, times in charges.items() if times > 1)
    paid = {payment.order: payment.cents if payment.state == "charged" else 0 for payment in payments}
    for order in sorted({*paid, *costs}):
        if paid.get(order, 0) != costs.get(order, 0):
            yield f"{paid.get(order, 0)} cents were paid for order {order}, which costs {costs.get(order, 0)}"


def _events(reader: Reader, system: ActorSystem, entity: type[Entity]) -> Iterator[tuple[str, Message]]:
    """Yield the committed events of an entity, each with its key."""
    name = system.hosted[entity].behaviour.name
    topic, decode = events_topic(system.name, name), system.behaviour(name).journal.decode
    for partition in range(reader.partition_count(topic) or 0):
        for record in reader.read(topic, partition):
            yield (record.key or b"").decode(), decode(record.value or b"")

"""The books: whether each item and each cent is where the orders say it went, from the committed events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from examples.shop.orders import Delivered, Order, Placed, Refused
from examples.shop.stock import Reserved, Restocked, Returned, Shipped, Stock
from examples.shop.wallets import Charged, ToppedUp, Wallet
from repertory import ActorSystem, Entity, Message, events_topic
from repertory.verify import Reader


def wrong_books(reader: Reader, system: ActorSystem) -> list[str]:
    """Return a sentence for each contradiction, none if the books are right. No order may be under way."""
    orders: dict[str, Placed] = {}
    ends: Counter[str] = Counter()
    sold: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for key, event in _events(reader, system, Order):
        if isinstance(event, Placed):
            orders[key] = event
        elif isinstance(event, Refused | Delivered):
            ends[key] += 1
        if isinstance(event, Delivered):
            sold[orders[key].item] += orders[key].count
            spent[orders[key].customer] += event.cents
    found = [f"order {key} ended {ends[key]} times" for key in orders if ends[key] != 1]
    return found + _wrong_items(reader, system, sold) + _wrong_money(reader, system, spent)


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


def _wrong_money(reader: Reader, system: ActorSystem, spent: Counter[str]) -> list[str]:
    found: list[str] = []
    purse, paid, payments = Counter[str](), Counter[str](), Counter[str]()
    for customer, event in _events(reader, system, Wallet):
        match event:
            case ToppedUp(cents=cents):
                purse[customer] += cents
            case Charged(cents=cents, order=order):
                purse[customer] -= cents
                paid[customer] += cents
                payments[order] += 1
        if purse[customer] < 0:
            found.append(f"{customer} has {purse[customer]} cents")
    found += [f"order {order} was paid {times} times" for order, times in payments.items() if times > 1]
    return found + [
        f"{customer} paid {paid[customer]} cents for what costs {spent[customer]}"
        for customer in sorted({*paid, *spent})
        if paid[customer] != spent[customer]
    ]


def _events(reader: Reader, system: ActorSystem, entity: type[Entity]) -> Iterator[tuple[str, Message]]:
    """Yield the committed events of an entity, each with its key."""
    name = system.hosted[entity].behaviour.name
    topic, decode = events_topic(system.name, name), system.behaviour(name).journal.decode
    for partition in range(reader.partition_count(topic) or 0):
        for record in reader.read(topic, partition):
            yield (record.key or b"").decode(), decode(record.value or b"")

"""The shop in the simulator: its workload, and an invariant. See ``repertory simulate``."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from examples.shop.books import histories
from examples.shop.orders import Order, Place
from examples.shop.stock import Restock, Stock
from repertory import Command
from repertory.simulation import Outcome

ITEMS, ORDERS = 3, 40


def commands(random: Random) -> Iterator[tuple[Any, str, Command]]:
    """Yield the commands of one run: orders, some of them in a hurry, for more items than there are."""
    for number in range(ORDERS):
        item = f"item-{random.randrange(ITEMS)}"
        if number % 4 == 0:
            yield Stock.restock, item, Restock(count=random.randint(6, 10), price=10)
        pay_within_s = random.choice((0.05, 1.0, 900.0))
        place = Place(customer="ann", item=item, count=random.randint(1, 3), pay_within_s=pay_within_s)
        yield Order.place, f"o-{number}", place


def invariant(outcome: Outcome) -> None:
    """Raise AssertionError if items are set aside or shipped for no order. Commands that are lost may keep some."""
    if not outcome.lossless:
        return
    orders = histories(outcome.reader, outcome.system).values()
    for item in (f"item-{number}" for number in range(ITEMS)):
        stock = outcome.state(Stock, item) or Stock()
        of_item = [each for each in orders if each.placed.item == item]
        aside = sum(each.placed.count for each in of_item if each.has_items_aside)
        shipped = sum(each.placed.count for each in of_item if each.is_shipped)
        found = stock.aside, stock.shipped
        assert found == (aside, shipped), f"of {item}, {found} are aside and shipped, {aside, shipped} for orders"
        assert stock.shelf >= 0, f"{stock.shelf} of {item} are on the shelf"

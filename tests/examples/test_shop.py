"""The shop: each order ends once, whoever asks how often, and every item and cent is in its books."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from examples.shop import Order, Stock, Wallet, system
from examples.shop.books import wrong_books
from examples.shop.orders import AlreadyPlaced, Delivered, GetOrder, NotSold, OrderStatus, Place, Stage
from examples.shop.stock import LookUp, OnShelf, Reserve, Restock
from examples.shop.wallets import Cash, Charge, Count, TopUp
from repertory import AskId, Rejection, Running
from repertory.verify import verify

TIMEOUT_S = 60.0
PRICE = 200


@pytest.fixture
def shop() -> Iterator[Running]:
    """Yield a shop with three boxes of tea and a customer who can pay two."""
    with system.start("memory:") as running:
        running.client.ask(Stock.restock, "tea", Restock(count=3, price=PRICE), timeout_s=TIMEOUT_S)
        running.client.ask(Wallet.top_up, "ann", TopUp(cents=2 * PRICE), timeout_s=TIMEOUT_S)
        yield running


def place(shop: Running, number: str, count: int, **options: Any) -> object:
    """Place an order of Ann's for tea; return its answer."""
    order = Place(customer="ann", item="tea", count=count)
    try:
        return shop.client.ask(Order.place, number, order, timeout_s=TIMEOUT_S, **options)
    except Rejection as rejection:
        return rejection


def test_an_order_is_answered_at_its_end(shop: Running) -> None:
    """Shipped, sold out, or too dear; what was set aside for nothing is on the shelf again."""
    assert place(shop, "o-1", 1) == Delivered(cents=PRICE)
    assert place(shop, "o-2", 3) == NotSold(reason="2 of tea are left")
    assert place(shop, "o-3", 2) == NotSold(reason=f"{PRICE} cents are there, not {2 * PRICE}")
    client = shop.client
    assert client.query(Stock.look_up, "tea", LookUp(), timeout_s=TIMEOUT_S) == OnShelf(count=2, price=PRICE)
    assert client.query(Wallet.count, "ann", Count(), timeout_s=TIMEOUT_S) == Cash(cents=PRICE)
    assert client.query(Order.status, "o-3", GetOrder(), timeout_s=TIMEOUT_S) == OrderStatus(
        stage=Stage.REFUSED, cents=2 * PRICE
    )
    assert wrong_books(shop.reader, system) == []
    assert verify(shop.reader, system).ok


def test_an_order_is_placed_once(shop: Running) -> None:
    """Again with its id it has the same answer; with another one it is refused."""
    ask_id = AskId("basket-7", datetime.now(UTC))
    first = place(shop, "o-1", 1, id=ask_id)
    assert place(shop, "o-1", 1, id=ask_id) == first == Delivered(cents=PRICE)
    assert place(shop, "o-1", 1) == AlreadyPlaced(stage=Stage.SHIPPED)
    assert wrong_books(shop.reader, system) == []


@pytest.mark.parametrize("seed", range(4))
def test_orders_survive_crashes(shop: Running, seed: int) -> None:
    """Crashes between the turns: every order ends once, and the books are right."""
    random = Random(seed)  # noqa: S311  reproducible on purpose
    orders = [(f"o-{n}", Place(customer="ann", item="tea", count=random.randint(1, 2))) for n in range(8)]
    shop.client.tell_all((Order.place, number, order) for number, order in orders)
    for _ in range(12):
        for _ in range(random.randint(0, 3)):
            shop.tick(0)
        shop.crash()
    shop.settle()
    states = [shop.state(Order, number) for number, _ in orders]
    assert all(state is not None and state.stage in {Stage.SHIPPED, Stage.REFUSED} for state in states)
    assert wrong_books(shop.reader, system) == []
    assert verify(shop.reader, system).ok


def test_the_books_show_what_is_wrong(shop: Running) -> None:
    """Items that are set aside, and money that is taken, for no order."""
    shop.client.ask(Stock.reserve, "tea", Reserve(count=1), timeout_s=TIMEOUT_S)
    shop.client.ask(Wallet.charge, "ann", Charge(cents=5, order="none"), timeout_s=TIMEOUT_S)
    assert wrong_books(shop.reader, system) == [
        "1 of tea are set aside for no order",
        "ann paid 5 cents for what costs 0",
    ]

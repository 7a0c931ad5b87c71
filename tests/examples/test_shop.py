"""The shop: each order ends once, whoever asks how often, and every item and cent is in its books."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from examples.shop import Items, Orders, scenario, system
from examples.shop.books import histories, wrong_books
from examples.shop.front import app, front
from examples.shop.orders import Delivered, NotSold, Order, ParcelLeft, Place
from examples.shop.payments import Charge, Charged, Declined, Refund, Refunded, charge, refund
from examples.shop.provider import Ledger, Payment, Provider, payments
from examples.shop.stock import LookUp, OnShelf, Reserve, Reserved, Restock, Return, Returned, Ship, Shipped, Stock
from repertory import (
    AlreadyBegun,
    AskId,
    Cancelled,
    Done,
    NoSuchSaga,
    Position,
    Running,
    SagaKit,
    TooLate,
    commands_topic,
)
from repertory.actors.control import DropEffect
from repertory.actors.wire import MessageDecoder, encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.gateway import Gateway, ids
from repertory.gateway.driven import DrivenAsker
from repertory.simulation import Outcome, simulate
from repertory.testing.explore import explore
from repertory.verify import verify

TIMEOUT_S = 60.0
PRICE = 200
LATE = "it was not paid in time"


class Till(Provider):
    """A payment provider that declines what costs more than three boxes of tea. A test may set its ``fault``."""

    def __init__(self, file: Path) -> None:
        super().__init__(("127.0.0.1", 0), Ledger(file, 3 * PRICE), lambda _method: "")
        self.file = file
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def payments(self) -> list[Payment]:
        """What is in its ledger."""
        return payments(self.file)


@pytest.fixture
def till(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Till]:
    """Yield a provider that serves the shop."""
    with Till(tmp_path / "ledger.jsonl") as made:
        monkeypatch.setenv("SHOP_PROVIDER", made.url)
        serving = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield made
        made.shutdown()
        serving.join()


@pytest.fixture
def shop(till: Till) -> Iterator[Running]:
    """Yield a shop with six boxes of tea."""
    with system.start("memory:") as running:
        running.client.ask(Stock.restock, "tea", Restock(count=6, price=PRICE), timeout_s=TIMEOUT_S)
        yield running


def place(shop: Running, number: str, count: int, **options: Any) -> object:
    """Place an order of Ann's for tea; return its answer."""
    return shop.client.ask(
        Order.place, number, Place(customer="ann", item="tea", count=count), timeout_s=TIMEOUT_S, **options
    )


def ended(shop: Running, number: str) -> object:
    """Return how an order has ended; None if it is under way."""
    order = shop.state(Order, number)
    assert order is not None
    if order.progress.phase != "over":
        return None
    return MessageDecoder(dict.fromkeys((Delivered, NotSold, Cancelled))).decode(order.progress.outcome)


def on_shelf(shop: Running) -> object:
    """Return how much tea there is."""
    return shop.client.query(Stock.look_up, "tea", LookUp(), timeout_s=TIMEOUT_S)


def test_an_order_is_answered_at_its_end(shop: Running, till: Till) -> None:
    """Shipped, sold out, or declined; what was set aside for nothing is on the shelf again."""
    assert place(shop, "o-1", 1) == Delivered(cents=PRICE)
    assert place(shop, "o-2", 6) == NotSold(reason="5 of tea are left")
    assert place(shop, "o-3", 4) == NotSold(reason="the payment is declined")
    assert on_shelf(shop) == OnShelf(count=5, price=PRICE)
    assert till.payments == [Payment("o-1", "charged", PRICE), Payment("o-3", "declined", 4 * PRICE)]
    assert {timer.name for timer in shop.timers()} == {"result"}, "by which what is over is forgotten"
    assert wrong_books(shop.reader, system, till.payments) == []
    assert verify(shop.reader, system).ok


def test_an_order_is_placed_once(shop: Running, till: Till) -> None:
    """Again it has the same answer, with its id or without one; another order of that number is refused."""
    ask_id = AskId("basket-7", datetime.now(UTC))
    first = place(shop, "o-1", 1, id=ask_id)
    assert place(shop, "o-1", 1, id=ask_id) == first == Delivered(cents=PRICE)
    assert place(shop, "o-1", 1) == first
    assert place(shop, "o-1", 2) == AlreadyBegun()
    assert wrong_books(shop.reader, system, till.payments) == []


def test_only_the_warehouse_s_signal_counts_and_only_once(shop: Running, till: Till) -> None:
    """One for no order is refused, and so is one for an order that is over."""

    def signal() -> object:
        return shop.client.ask(Order.parcel_left, "o-1", ParcelLeft(), timeout_s=TIMEOUT_S)

    assert signal() == NoSuchSaga()
    place(shop, "o-1", 1)
    assert signal() == TooLate(reason="the saga is over")
    assert wrong_books(shop.reader, system, till.payments) == []


@pytest.mark.parametrize("fault", ["busy", "lost"])
def test_an_order_is_charged_once_however_often_it_is_tried(shop: Running, till: Till, fault: str) -> None:
    """A provider that is busy, or charges and does not answer, is asked again, and charges once."""
    faults = [fault] * 4
    till.fault = lambda _: faults.pop() if faults else ""
    shop.client.tell(Order.place, "o-1", Place(customer="ann", item="tea", count=1))
    shop.advance(60)
    assert (ended(shop, "o-1"), faults) == (Delivered(cents=PRICE), [])
    assert till.payments == [Payment("o-1", "charged", PRICE)]


@pytest.mark.parametrize("fault", ["busy", "lost"])
def test_what_is_not_paid_in_time_expires_and_is_never_paid(shop: Running, till: Till, fault: str) -> None:
    """Whether it was charged is unknown until the provider answers; then it is paid back, and the items are back."""
    till.fault = lambda method: fault if method == "PUT" else ""
    shop.client.tell(Order.place, "o-1", Place(customer="ann", item="tea", count=1, pay_within_s=90))
    shop.advance(89)
    order = shop.state(Order, "o-1")
    assert order is not None
    assert order.progress.phase == "running"
    shop.advance(2)
    order = shop.state(Order, "o-1")
    assert order is not None
    assert order.progress.phase == "settling", "its time is over, and nobody knows whether it is charged"
    till.fault = lambda _: ""
    shop.advance(120)
    assert ended(shop, "o-1") == NotSold(reason=LATE)
    assert till.payments[-1] == Payment("o-1", "closed", PRICE)
    assert httpx.put(f"{till.url}/payments/o-1", json={"cents": PRICE}).status_code == httpx.codes.PAYMENT_REQUIRED
    assert on_shelf(shop) == OnShelf(count=6, price=PRICE)
    assert shop.effects() == []
    assert wrong_books(shop.reader, system, till.payments) == []
    assert verify(shop.reader, system).ok


def test_a_provider_that_is_away_for_an_hour_ends_no_order(shop: Running, till: Till) -> None:
    """What it may have charged is unknown until it is back; then the order expires."""
    till.fault = lambda _: "busy"
    shop.client.tell(Order.place, "o-1", Place(customer="ann", item="tea", count=1, pay_within_s=90))
    shop.advance(3_600)
    assert ended(shop, "o-1") is None
    till.fault = lambda _: ""
    shop.advance(120)
    assert ended(shop, "o-1") == NotSold(reason=LATE)
    assert wrong_books(shop.reader, system, till.payments) == []


@pytest.mark.parametrize("late", [False, True])
def test_a_charge_that_an_operator_drops_is_paid_back(shop: Running, till: Till, *, late: bool) -> None:
    """It may have been charged: here it was, and no answer came, before the time was over or after it."""
    till.fault = lambda method: "lost" if method == "PUT" else ""
    shop.client.tell(Order.place, "o-1", Place(customer="ann", item="tea", count=1, pay_within_s=90))
    shop.advance(100 if late else 10)
    (effect,) = shop.effects()
    record = effect.record
    drop = encode(DropEffect(offset=record.offset, index=record.index, reason="the card is stolen"))
    with closing(shop._backend.appender()) as appender:
        appender.append([Output(commands_topic("shop", "order"), effect.partition, b"o-1", drop)])
    shop.advance(10)
    reason = LATE if late else "Dropped: the card is stolen"
    assert str(ended(shop, "o-1")).startswith(str(NotSold(reason=reason))[:-2])
    assert till.payments == [Payment("o-1", "charged", PRICE), Payment("o-1", "closed", PRICE)]
    assert wrong_books(shop.reader, system, till.payments) == []
    assert verify(shop.reader, system).ok


def test_an_order_can_be_cancelled_until_it_is_packed(shop: Running, till: Till) -> None:
    """While it is charged, it is paid back; once it is paid and packed, it is too late."""
    till.fault = lambda _: "busy"
    shop.client.tell(Order.place, "o-1", Place(customer="ann", item="tea", count=1))
    shop.advance(10)
    assert shop.client.cancel(Order, "o-1", reason="found it cheaper", timeout_s=TIMEOUT_S) == Done()
    till.fault = lambda _: ""
    shop.advance(60)
    assert ended(shop, "o-1") == Cancelled(reason="found it cheaper")
    assert till.payments == [Payment("o-1", "charged", PRICE), Payment("o-1", "closed", PRICE)]
    assert place(shop, "o-2", 1) == Delivered(cents=PRICE)
    assert isinstance(shop.client.cancel(Order, "o-2", timeout_s=TIMEOUT_S), TooLate)
    assert wrong_books(shop.reader, system, till.payments) == []


@pytest.mark.parametrize("seed", range(4))
def test_orders_survive_crashes(shop: Running, till: Till, seed: int) -> None:
    """Crashes between the turns, of a shop whose provider fails: every order ends once, and the books are right."""
    random, faults = Random(seed), Random(seed)  # noqa: S311  reproducible on purpose
    till.fault = lambda _: faults.choice(("", "", "busy", "lost"))
    orders = [
        (
            f"o-{n}",
            Place(customer="ann", item="tea", count=random.randint(1, 4), pay_within_s=random.choice((0.1, 900))),
        )
        for n in range(8)
    ]
    shop.client.tell_all((Order.place, number, order) for number, order in orders)
    for _ in range(12):
        for _ in range(random.randint(0, 3)):
            shop.tick(0)
        shop.crash()
    till.fault = lambda _: ""
    shop.advance(900)
    assert all(ended(shop, number) is not None for number, _ in orders)
    assert wrong_books(shop.reader, system, till.payments) == []
    assert verify(shop.reader, system).ok


def test_the_provider_reads_its_ledger_again(till: Till) -> None:
    """What it has decided it still knows after its end, and decides no other way."""
    ledger = till.ledger
    assert [ledger.charge(order, 4 * PRICE).state for order in "ab"] == ["declined"] * 2
    assert (ledger.charge("c", 1).state, ledger.close("c"), ledger.close("d").cents) == (
        "charged", Payment("c", "closed", 1), 0
    )  # fmt: skip
    again = Ledger(till.file, limit_cents=100 * PRICE)
    assert [again.charge(order, 1).state for order in "abcde"] == [
        "declined",
        "declined",
        "closed",
        "closed",
        "charged",
    ]
    assert [again.close(order).state for order in "ac"] == ["declined", "closed"]


# --- one order ------------------------------------------------------------------------------------------------


def test_each_order_is_paid_once_or_not_at_all() -> None:
    """In every order of answers, time-outs, drops and cancels: what is not delivered is back, goods and money."""

    def check(kit: SagaKit[Order]) -> None:
        if not kit.is_over:
            return
        done, moved = isinstance(kit.outcome, Delivered), [type(step.message) for step in kit.applied]
        assert moved.count(Ship) == done, moved
        assert moved.count(Reserve) == moved.count(Return) + done, moved
        assert moved.count(Charge) == moved.count(Refund) + done, moved

    answers = [
        Reserved(order="key", count=1, cents=PRICE), Returned(order="key", count=1), Shipped(order="key", count=1),
        Charged(), Refunded(),
    ]  # fmt: skip
    order = Place(customer="ann", item="tea", count=1)
    found = explore(Order, order, check, answers=answers, signals=[ParcelLeft()])
    assert found.is_complete
    assert found.runs > 100


# --- the front ------------------------------------------------------------------------------------------------


def test_the_pages_are_read_from_tables(till: Till) -> None:
    """What is for sale and where an order is; a buyer whose order is answered finds it there."""
    running = system.start("memory:")
    asker = DrivenAsker(running).start()
    application = front(Gateway(system, client=asker), sa.create_engine(running.client.database(Orders)))

    async def talk() -> None:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=TIMEOUT_S) as client:

            async def ask(path: str, **fields: Any) -> httpx.Response:
                key = {ids.KEY: ids.new_id(time.time(), os.urandom(10)).id}
                return await client.post(path, json=fields, headers=key)

            stocked = await ask("/stock/tea/restock", count=6, price=PRICE)
            placed = await ask("/order/o-1/place", customer="ann", item="tea", count=2)
            refused = await ask("/order/o-2/place", customer="ann", item="tea", count=4)
            assert (placed.status_code, placed.json()) == (200, {"type": "Delivered", "cents": 2 * PRICE})
            assert refused.json()["rejection"] == {"type": "NotSold", "reason": "the payment is declined"}
            position = Position.parse(stocked.headers["Repertory-Position"])
            await asyncio.to_thread(running.client.wait, Items, position, timeout_s=TIMEOUT_S)
            ends = {"o-1": (2, 2 * PRICE, "shipped"), "o-2": (4, 4 * PRICE, "returned")}
            for number, (count, cents, stage) in ends.items():
                row = {"item": "tea", "count": count, "cents": cents, "stage": stage}
                while (found := await client.get(f"/orders/{number}")).json() != row:
                    assert found.status_code in (200, 404), found.text
            assert (await client.get("/items")).json() == [{"item": "tea", "price": PRICE, "shelf": 4}]
            assert (await client.get("/orders/o-3")).status_code == 404

    try:
        asyncio.run(talk())
        assert [payment.state for payment in till.payments] == ["charged", "declined"]
    finally:
        asker.stop()


def test_the_application_finds_its_tables(till: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``app`` is what an ASGI server runs: the log's name is all that it needs. Until there are tables, it says so."""
    log = f"sqlite:{tmp_path / 'shop.db'}"
    monkeypatch.setenv("REPERTORY_LOG", log)
    with closing(connect(log)) as backend:
        system.prepare(backend)
    transport = httpx.ASGITransport(app=app())

    async def get(path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path)

    assert asyncio.run(get("/items")).status_code == 503
    with system.start(log) as running:
        running.client.tell(Stock.restock, "tea", Restock(count=6, price=PRICE))
        running.settle()
    assert asyncio.run(get("/items")).json() == [{"item": "tea", "price": PRICE, "shelf": 6}]
    paths = asyncio.run(get("/openapi.json")).json()["paths"]
    assert {"/order/{key}/place", "/order/{key}/parcel-left", "/stock/{key}/look-up"} <= {*paths}


# --- books ----------------------------------------------------------------------------------------------------


def test_the_books_show_what_is_wrong(shop: Running, till: Till) -> None:
    """Items that are set aside for no order, an order that was paid twice, or not, or although it was refused."""
    place(shop, "o-1", 1)
    place(shop, "o-2", 1)
    place(shop, "o-3", 4)
    shop.client.ask(Stock.reserve, "tea", Reserve(order="none", count=1), timeout_s=TIMEOUT_S)
    paid = Payment("o-1", "charged", PRICE)
    assert wrong_books(shop.reader, system, [paid, paid, Payment("o-3", "charged", 7)]) == [
        "1 of tea are set aside for no order",
        "order o-1 was paid 2 times",
        f"0 cents were paid for order o-2, which costs {PRICE}",
        "7 cents were paid for order o-3, which costs 0",
    ]


@pytest.mark.simulation
def test_no_order_ends_expired_and_paid(tmp_path: Path) -> None:
    """In the simulator, with a ledger: what was shipped is paid, and what was refused is not, whatever goes wrong.

    A charge may be done and not answered, or answered to a worker that is lost. Each run begins with a new ledger, so
    none is run again to minimise it.
    """
    faults = Random(1)  # noqa: S311  reproducible on purpose
    files = iter(range(1_000))
    ledgers: list[Ledger] = []

    def commands(random: Random) -> Iterator[Any]:
        ledgers.append(Ledger(tmp_path / f"{next(files)}.jsonl", limit_cents=25))
        yield from scenario.commands(random)

    def answered(payment: Payment) -> Payment:
        if faults.random() < 0.3:
            raise OSError("no answer")
        return payment

    def charged(do: Charge) -> Charged | Declined:
        is_charged = answered(ledgers[-1].charge(do.order, do.cents)).state == "charged"
        return Charged() if is_charged else Declined(reason="it is declined")

    def refunded(do: Refund) -> Refunded:
        answered(ledgers[-1].close(do.order))
        return Refunded()

    def invariant(outcome: Outcome) -> None:
        scenario.invariant(outcome)
        last = {payment.order: payment.state for payment in ledgers[-1].last.values()}
        for number, order in histories(outcome.reader, outcome.system).items():
            if order.ends:
                is_paid = last.get(number) == "charged"
                assert is_paid == (order.cents > 0), f"{number} costs {order.cents}, paid: {is_paid}"

    simulate(
        system, commands=commands, invariant=invariant, seeds=range(40), twice_every=0, minimise=False,
        effects={charge: charged, refund: refunded},
    )  # fmt: skip


@pytest.mark.simulation
def test_the_shop_runs_clean_in_the_simulator() -> None:
    """Whatever the provider answers, contradictions too: no command fails, and the items are where they belong."""
    simulate(system, commands=scenario.commands, invariant=scenario.invariant, seeds=range(30))

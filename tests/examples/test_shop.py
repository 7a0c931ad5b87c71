"""The shop: each order ends once, whoever asks how often, and every item and cent is in its books."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from examples.shop import Order, Stock, scenario, system
from examples.shop.books import wrong_books
from examples.shop.orders import (
    AlreadyPlaced,
    Cancelled,
    Delivered,
    GetOrder,
    ItemsReserved,
    NotSold,
    OrderStatus,
    Place,
    Stage,
    Stuck,
    Unpaid,
)
from examples.shop.payments import Charge, Charged, Declined, Refund, Refunded, charge, refund
from examples.shop.provider import Ledger, Payment, Provider, payments
from examples.shop.stock import LookUp, OnShelf, Reserve, Reserved, Restock
from repertory import AskId, Rejection, Running, TestKit, Undelivered
from repertory.actors.collected import Perform
from repertory.simulation import Outcome, simulate
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
    order = Place(customer="ann", item="tea", count=count)
    try:
        return shop.client.ask(Order.place, number, order, timeout_s=TIMEOUT_S, **options)
    except Rejection as rejection:
        return rejection


def stage(shop: Running, number: str) -> Stage:
    """Return where an order is."""
    state = shop.state(Order, number)
    assert state is not None
    return state.stage


def test_an_order_is_answered_at_its_end(shop: Running, till: Till) -> None:
    """Shipped, sold out, or declined; what was set aside for nothing is on the shelf again, and no timer is left."""
    assert place(shop, "o-1", 1) == Delivered(cents=PRICE)
    assert place(shop, "o-2", 6) == NotSold(reason="5 of tea are left")
    assert place(shop, "o-3", 4) == NotSold(reason="the payment is declined")
    client = shop.client
    assert client.query(Stock.look_up, "tea", LookUp(), timeout_s=TIMEOUT_S) == OnShelf(count=5, price=PRICE)
    assert client.query(Order.status, "o-3", GetOrder(), timeout_s=TIMEOUT_S) == OrderStatus(
        stage=Stage.REFUSED, cents=4 * PRICE
    )
    assert till.payments == [Payment("o-1", "charged", PRICE), Payment("o-3", "declined", 4 * PRICE)]
    assert shop.timers() == []
    assert wrong_books(shop.reader, system, till.payments) == []
    assert verify(shop.reader, system).ok


def test_an_order_is_placed_once(shop: Running, till: Till) -> None:
    """Again with its id it has the same answer; with another one it is refused."""
    ask_id = AskId("basket-7", datetime.now(UTC))
    first = place(shop, "o-1", 1, id=ask_id)
    assert place(shop, "o-1", 1, id=ask_id) == first == Delivered(cents=PRICE)
    assert place(shop, "o-1", 1) == AlreadyPlaced(stage=Stage.SHIPPED)
    assert wrong_books(shop.reader, system, till.payments) == []


@pytest.mark.parametrize("fault", ["busy", "lost"])
def test_an_order_is_charged_once_however_often_it_is_tried(shop: Running, till: Till, fault: str) -> None:
    """A provider that is busy, or charges and does not answer, is asked again, and charges once."""
    faults = [fault] * 4
    till.fault = lambda _: faults.pop() if faults else ""
    shop.client.tell(Order.place, "o-1", Place(customer="ann", item="tea", count=1))
    shop.advance(60)
    assert (stage(shop, "o-1"), faults) == (Stage.SHIPPED, [])
    assert till.payments == [Payment("o-1", "charged", PRICE)]


@pytest.mark.parametrize(("fault", "charged"), [("busy", 0), ("lost", PRICE)])
def test_what_is_not_paid_in_time_expires_and_is_never_paid(
    shop: Running, till: Till, fault: str, charged: int
) -> None:
    """Whether it was charged is unknown: it is paid back if it was, the items are back, and nobody can charge later."""
    till.fault = lambda method: fault if method == "PUT" else ""
    shop.client.tell(Order.place, "o-1", Place(customer="ann", item="tea", count=1, pay_within_s=90))
    shop.advance(89)
    assert stage(shop, "o-1") is Stage.CHARGING
    shop.advance(2)
    state = shop.state(Order, "o-1")
    assert state is not None
    assert (state.stage, state.reason) == (Stage.REFUSED, LATE)
    assert till.payments[-1] == Payment("o-1", "closed", charged)
    assert wrong_books(shop.reader, system, till.payments) == []
    till.fault = lambda _: ""
    assert httpx.put(f"{till.url}/payments/o-1", json={"cents": PRICE}).status_code == httpx.codes.PAYMENT_REQUIRED
    shop.advance(60)
    assert shop.effects() == []
    assert wrong_books(shop.reader, system, till.payments) == []
    assert verify(shop.reader, system).ok


def test_a_provider_that_is_away_for_an_hour_ends_no_order(shop: Running, till: Till) -> None:
    """What it may have charged is unknown until it is back; then the order expires."""
    till.fault = lambda _: "busy"
    shop.client.tell(Order.place, "o-1", Place(customer="ann", item="tea", count=1, pay_within_s=90))
    shop.advance(3_600)
    assert stage(shop, "o-1") is Stage.REFUNDING
    till.fault = lambda _: ""
    shop.advance(60)
    assert stage(shop, "o-1") is Stage.REFUSED
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
    assert {stage(shop, number) for number, _ in orders} <= {Stage.SHIPPED, Stage.REFUSED}
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


@pytest.fixture
def kit() -> TestKit[Order]:
    """Return an order that is placed, and waits for its items."""
    made = TestKit(Order(), key="o-1")
    made.run(Place(customer="ann", item="tea", count=2, pay_within_s=30))
    return made


def test_an_order_whose_time_is_over_before_it_has_its_items_is_not_charged(kit: TestKit[Order]) -> None:
    """The items are on their way, and go back as they come."""
    assert [each.events for each in kit.advance(30)] == [(Cancelled(reason=LATE),)]
    assert kit.run(Reserved(count=2, cents=9), about="reserve").events == (Unpaid(reason=LATE),)
    assert kit.performed == []
    assert kit.run(Place(customer="ann", item="tea", count=1)).reply == AlreadyPlaced(stage=Stage.RETURNING)


@pytest.mark.parametrize("answer", [Charged(), Declined(reason="no"), Undelivered(reason="dropped")])
def test_what_a_charge_answers_after_the_time_is_ignored(kit: TestKit[Order], answer: Rejection | Charged) -> None:
    """The refund decides, before the charge is answered or after it."""
    assert kit.run(Reserved(count=2, cents=9), about="reserve").events == (ItemsReserved(cents=9),)
    assert [each.events for each in kit.advance(30)] == [(Cancelled(reason=LATE),)]
    assert kit.performed == [
        Perform(charge, Charge(order="o-1", customer="ann", cents=9), "charge"),
        Perform(refund, Refund(order="o-1"), "refund"),
    ]
    assert kit.run(answer, about="charge").events == ()
    assert kit.run(Refunded(), about="refund").events == (Unpaid(reason=LATE),)
    assert kit.run(answer, about="charge").events == ()
    assert kit.state.stage is Stage.RETURNING
    assert len(kit.performed) == 2


def test_a_charge_that_an_operator_drops_is_paid_back(kit: TestKit[Order]) -> None:
    """It may have been charged. A refund that is dropped needs somebody who looks."""
    kit.run(Reserved(count=2, cents=9), about="reserve")
    dropped = Undelivered(reason="the card is stolen")
    assert kit.run(dropped, about="charge").events == (Cancelled(reason=dropped.reason),)
    assert kit.performed[1].request == Refund(order="o-1")
    assert kit.advance(30)[0].events == ()
    assert kit.run(dropped, about="refund").events == (Stuck(reason=dropped.reason),)


def test_a_paid_order_does_not_expire(kit: TestKit[Order]) -> None:
    """Its timer is taken back."""
    kit.run(Reserved(count=2, cents=9), about="reserve")
    kit.run(Charged(), about="charge")
    assert kit.state.stage is Stage.SHIPPING
    assert kit.advance(1_000) == []


# --- books ----------------------------------------------------------------------------------------------------


def test_the_books_show_what_is_wrong(shop: Running, till: Till) -> None:
    """Items that are set aside for no order, an order that was paid twice, or not, or although it was refused."""
    place(shop, "o-1", 1)
    place(shop, "o-2", 1)
    place(shop, "o-3", 4)
    shop.client.ask(Stock.reserve, "tea", Reserve(count=1), timeout_s=TIMEOUT_S)
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
        for number in range(scenario.ORDERS):
            order = outcome.state(Order, f"o-{number}")
            if order is not None and order.stage in {Stage.SHIPPED, Stage.REFUSED}:
                is_paid = last.get(f"o-{number}") == "charged"
                assert is_paid == (order.stage is Stage.SHIPPED), f"o-{number} is {order.stage}, paid: {is_paid}"

    simulate(
        system, commands=commands, invariant=invariant, seeds=range(40), twice_every=0, minimise=False,
        effects={charge: charged, refund: refunded},
    )  # fmt: skip


@pytest.mark.simulation
def test_the_shop_runs_clean_in_the_simulator() -> None:
    """Whatever the provider answers, contradictions too: no command fails, and the items are where they belong."""
    simulate(system, commands=scenario.commands, invariant=scenario.invariant, seeds=range(30))

"""The shop of ``tests.apps.rough_shop`` under load over HTTP: buyers who do not give up, and what they were told.

Its payment provider is a process too, which fails, is killed, and keeps its ledger: the books are compared with that.
"""

from __future__ import annotations

import os
import queue
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter as Multiset
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from examples.shop import Order, Stock
from examples.shop.books import wrong_books
from examples.shop.orders import Delivered, NotSold
from examples.shop.provider import payments
from examples.shop.stock import Restock
from repertory.actors.wire import MessageDecoder
from repertory.bridge.log.errors import LogUnavailable, OutcomeUnknown
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.system.client_core import uuid7
from repertory.bridge.system.committed import entity_state
from repertory.bridge.system.open_effects import open_effects
from tests.support.nodes.trial import Trial

BUYERS = 16
#: So many orders at most are not answered yet.
OPEN_MAX = 120
ITEMS, CUSTOMERS = 12, 20
#: After so many orders there are new items.
SUPPLIED_EVERY = 100
#: An order is to be paid within one of these: many are not, some are.
PAY_WITHIN_S = (1.0, 5.0, 900.0)
#: A payment of more is declined, and so large a share of the requests to the provider fails.
LIMIT_CENTS, FAULTS = 50, 0.3
#: What the gateway gives an order; the buyer then asks again with the same key.
ANSWER_TIMEOUT_S = 3.0
PAUSE_S = 0.2

Told = tuple[int, Any]


class ShopTrial(Trial):
    """Orders are placed through ``repertory serve``, each with its own key and again until it is answered.

    One in four is asked again afterwards: the answer must be the same. ``told`` has the answers by order.
    """

    def __init__(self, app: ModuleType, url: str, host: str = "127.0.0.1") -> None:
        """``host``: where the nodes find the payment provider."""
        super().__init__(app, url)
        self._ledger_folder = tempfile.TemporaryDirectory()
        self._ledger = Path(self._ledger_folder.name) / "ledger.jsonl"
        self._provider_place = host, _free_port(host)
        self._provider: subprocess.Popen[bytes] | None = None
        self._orders: queue.Queue[int] = queue.Queue()
        self._lock = threading.Lock()
        self.told: dict[int, Told] = {}
        self._wrong: list[str] = []
        self._over = threading.Event()
        self._gateway: subprocess.Popen[bytes] | None = None
        self._buyers: list[threading.Thread] = []
        self._address = self._gateway_url = ""
        self._supplied = 0

    def node(self, name: str, workers: int, url: str | None = None) -> NodeHandle:
        """Start a node, and the gateway with the first one."""
        if self._gateway is None:
            os.environ["SHOP_PROVIDER"] = "http://{}:{}".format(*self._provider_place)
            self._begin(url or self.url)
        return super().node(name, workers, url)

    def _begin(self, url: str) -> None:
        """Start the provider, the gateway and the buyers."""
        self._address = f"127.0.0.1:{_free_port('127.0.0.1')}"
        self._gateway_url = url
        self._provider = self._take_payments()
        self._gateway = self._serve()
        for number in range(BUYERS):
            buyer = threading.Thread(target=self._buy, args=(random.Random(number),), daemon=True)  # noqa: S311
            buyer.start()
            self._buyers.append(buyer)

    def _serve(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable, "-m", "repertory", "serve", f"{self.app.__name__}:system", "--log", self._gateway_url,
                "--http", self._address, "--timeout", str(ANSWER_TIMEOUT_S),
            ]
        )  # fmt: skip

    def _take_payments(self) -> subprocess.Popen[bytes]:
        host, port = self._provider_place
        return subprocess.Popen(
            [
                sys.executable, "-m", "examples.shop.provider", "--host", host, "--port", str(port),
                "--ledger", str(self._ledger), "--limit-cents", str(LIMIT_CENTS), "--faults", str(FAULTS),
            ]
        )  # fmt: skip

    def poll(self, timeout_s: float = 0.05) -> None:
        """See ``Trial.poll``; a gateway or a provider that has ended is started again, as it is where one is run."""
        if self._provider is not None and self._provider.poll() is not None:
            self._provider = self._take_payments()
        if self._gateway is not None and self._gateway.poll() is not None:
            self._gateway = self._serve()
        super().poll(timeout_s)

    def kill_provider(self) -> None:
        """Kill the payment provider, with the requests that it has; the next one reads its ledger."""
        if self._provider is not None:
            self._provider.kill()

    def kill_gateway(self) -> None:
        """Kill the gateway, with the requests that it has."""
        if self._gateway is not None:
            self._gateway.kill()

    # --- load -------------------------------------------------------------------------------------------------

    def send(self, count: int) -> None:
        """Supply items, not enough for all orders; leave so many orders to the buyers, or fewer."""
        if self.sent >= self._supplied:
            self._supplied = self.sent + SUPPLIED_EVERY
            try:
                self._client.tell_all(
                    (Stock.restock, f"item-{n}", Restock(count=12, price=10 + n)) for n in range(ITEMS)
                )
            except (OutcomeUnknown, LogUnavailable):
                self.unsure.add(self.sent)  # The books count what came.
        for _ in range(min(count, OPEN_MAX - self._open())):
            self._orders.put(self.sent)
            self.sent += 1

    def _open(self) -> int:
        with self._lock:
            return self.sent - len(self.told)

    def _buy(self, random: random.Random) -> None:
        with httpx.Client(base_url=f"http://{self._address}", timeout=ANSWER_TIMEOUT_S * 2) as client:
            while not self._over.is_set():
                try:
                    number = self._orders.get(timeout=PAUSE_S)
                except queue.Empty:
                    continue
                order = {
                    "customer": f"buyer-{random.randrange(CUSTOMERS)}",
                    "item": f"item-{random.randrange(ITEMS)}",
                    "count": random.randint(1, 3),
                    "pay_within_s": random.choice(PAY_WITHIN_S),
                }
                key = uuid7(time.time_ns() // 1_000_000, secrets.randbits(74))
                told = self._ask(client, number, order, key)
                if told is not None and random.random() < 0.25:
                    again = self._ask(client, number, order, key)
                    if again is not None and again != told:
                        self._wrong.append(f"order {number} was answered {told}, and then {again}")
                if told is not None:
                    with self._lock:
                        self.told[number] = told

    def _ask(self, client: httpx.Client, number: int, order: dict[str, Any], key: str) -> Told | None:
        """Place an order until it is answered; None if the trial is over."""
        while not self._over.is_set():
            try:
                answer = client.post(
                    f"/order/{quote(f'o-{number}')}/place", json=order, headers={"Idempotency-Key": key}
                )
            except httpx.HTTPError:
                self._over.wait(PAUSE_S)
                continue
            if answer.status_code == httpx.codes.OK or answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                return answer.status_code, answer.json()
            self._over.wait(PAUSE_S)
        return None

    # --- checks -----------------------------------------------------------------------------------------------

    def unhandled(self) -> str | None:
        """See ``Trial.unhandled``; an order without its answer is not handled either, nor is an open effect."""
        if (left := super().unhandled()) is not None:
            return left
        if count := self._open():
            return f"{count} orders without an answer"
        try:
            effect = next(open_effects(self.reader, self.app.system), None)
        except LogUnavailable as passing:
            return f"effects: {passing}"
        return None if effect is None else f"effect {effect.effect} {effect.address} of {effect.entity} {effect.key}"

    def ends(self) -> Mapping[str, int]:
        """Return how often an order ended in which way."""
        return Multiset(
            "shipped" if status == httpx.codes.OK else re.sub(r"\d+", "…", body["rejection"]["reason"])
            for status, body in self.told.values()
        )

    def complaints(self) -> list[str]:
        """Check the books, the promises, and that what the buyers were told is so. The nodes must be stopped."""
        found = wrong_books(self.reader, self.app.system, payments(self._ledger)) + self._wrong
        hosted, decode = self.app.system.hosted[Order], MessageDecoder([Delivered, NotSold]).decode
        for number, (status, body) in sorted(self.told.items()):
            state = entity_state(self.reader, self.app.system, hosted, f"o-{number}").state
            ended = None if state is None else decode(state.progress.outcome)
            told = body["rejection"] if status == httpx.codes.CONFLICT else body
            if status not in (httpx.codes.OK, httpx.codes.CONFLICT) or told != msgspec.to_builtins(ended):
                found.append(f"order {number} has ended as {ended}, and its buyer was told {status} {body}")
        broken = [check for check in self.verdict().checks if not check.ok]
        found += [f"verify: {check.name} failed: {'; '.join(map(str, check.offenders))}" for check in broken]
        return found + self.tables.complaints()

    def close(self) -> None:
        """See ``Trial.close``; the gateway, the provider and the buyers end too."""
        self._over.set()
        for buyer in self._buyers:
            buyer.join()
        if self._gateway is not None:
            self._gateway.send_signal(signal.SIGTERM)
            self._gateway.wait()
        super().close()
        if self._provider is not None:
            self._provider.kill()
            self._provider.wait()
        self._ledger_folder.cleanup()


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])

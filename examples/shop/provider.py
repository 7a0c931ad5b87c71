"""A payment provider for the demo and the tests: ``python -m examples.shop.provider --ledger ledger.jsonl``.

``PUT /payments/{order}`` charges once, and answers 200, or 402 if the payment is declined. ``DELETE`` pays back what
was charged, and declines what comes later. The ledger has a line for each decision, and is read again at the start.
``--faults 0.3``: three in ten requests are refused, done so late that nobody waits any more, or done and not answered.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import msgspec

#: Longer than an effect of the shop waits.
SLOW_S = 2.5
FAULTS = ("busy", "slow", "lost")

State = Literal["charged", "declined", "closed"]


class Payment(msgspec.Struct, frozen=True):
    """A line of the ledger: what became of the payment of an order, and how much that moved. The last one counts."""

    order: str
    state: State
    cents: int


class Ledger:
    """All payments. For many threads."""

    def __init__(self, file: Path, limit_cents: int) -> None:
        """``limit_cents``: a payment of more is declined."""
        self._file, self._limit_cents = file, limit_cents
        self._lock = threading.Lock()
        #: What was decided last about each order.
        self.last = {payment.order: payment for payment in payments(file)}

    def charge(self, order: str, cents: int) -> Payment:
        """Charge an order, or decline; return what was decided at first."""
        with self._lock:
            state: State = "charged" if cents <= self._limit_cents else "declined"
            return self.last.get(order) or self._write(Payment(order, state, cents))

    def close(self, order: str) -> Payment:
        """Pay back what was charged for an order, if anything was, and decline all that comes."""
        with self._lock:
            last = self.last.get(order)
            if last is not None and last.state != "charged":
                return last
            return self._write(Payment(order, "closed", last.cents if last else 0))

    def _write(self, payment: Payment) -> Payment:
        with self._file.open("ab") as file:
            file.write(msgspec.json.encode(payment) + b"\n")
        self.last[payment.order] = payment
        return payment


def payments(file: Path) -> list[Payment]:
    """Return the lines of a ledger."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [msgspec.json.decode(line, type=Payment) for line in lines]


class Provider(ThreadingHTTPServer):
    """Answers requests. ``fault`` is asked before each, with its method: one of `FAULTS`, or "" if it goes well."""

    def __init__(self, address: tuple[str, int], ledger: Ledger, fault: Callable[[str], str]) -> None:
        super().__init__(address, PaymentHandler)
        self.ledger, self.fault = ledger, fault


class PaymentHandler(BaseHTTPRequestHandler):
    """One request."""

    server: Provider

    def do_PUT(self) -> None:
        """Charge."""
        paid = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(lambda order: self.server.ledger.charge(order, paid["cents"]), declined=402)

    def do_DELETE(self) -> None:
        """Pay back."""
        self._answer(self.server.ledger.close, declined=200)

    def _answer(self, act: Callable[[str], Payment], declined: int) -> None:
        fault = self.server.fault(self.command)
        if fault == "busy":
            return self.send_error(503)
        if fault == "slow":
            time.sleep(SLOW_S)
        payment = act(unquote(self.path.removeprefix("/payments/")))
        if fault == "lost":
            return None
        body = json.dumps({"reason": f"the payment is {payment.state}"}).encode()
        with suppress(ConnectionError):  # Nobody waits any more.
            self.send_response(200 if payment.state == "charged" else declined)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        return None

    def log_message(self, *_: object) -> None:
        """Write nothing for each request."""


def main() -> None:
    """Serve until somebody ends it."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop.provider")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--ledger", type=Path, default=Path("ledger.jsonl"))
    parser.add_argument("--limit-cents", type=int, default=10_000, help="a payment of more is declined")
    parser.add_argument("--faults", type=float, default=0.0, help="the share of requests that fail")
    options = parser.parse_args()

    def fault(_method: str) -> str:
        return random.choice(FAULTS) if random.random() < options.faults else ""  # noqa: S311

    ledger = Ledger(options.ledger, options.limit_cents)
    with Provider((options.host, options.port), ledger, fault) as provider:
        print(f"payments are taken at http://{options.host}:{provider.server_port}/payments/", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            provider.serve_forever()


if __name__ == "__main__":
    main()

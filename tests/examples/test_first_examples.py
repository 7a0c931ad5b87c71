"""The short examples: each is run as a user runs it, and prints or answers what its text says."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples import front
from repertory.gateway import ids
from tests.repertory.cli.test_cli import COMMAND, environment
from tests.support.paths import ROOT
from tests.support.processes import started
from tests.test_tidy import code_lines

#: For what takes a second on a quiet machine.
TIMEOUT_S = 60.0
LINES_MAX = 60
EXAMPLES = (
    "counter",
    "ask_once",
    "front",
    "expiry",
    "webhook",
    "recurring",
    "projection",
    "source",
    "saga",
    "approval",
)


def printed(name: str, *arguments: str) -> list[str]:
    """Run an example as a program, and return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment({}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_a_screen(name: str) -> None:
    """One file, under 60 lines of code."""
    assert code_lines((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")) < LINES_MAX


def test_the_examples_are_named_in_their_order() -> None:
    """The package's docstring lists them, and each says which one it is."""
    names = re.findall(r"``(\w+)``", (ROOT / "examples" / "__init__.py").read_text(encoding="utf-8"))
    assert names == [*EXAMPLES, "banking", "transfer_by_hand"]
    for number, name in enumerate(EXAMPLES, 1):
        assert f'"""Example {number}, ' in (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.processes
def test_the_counter_counts_on_after_a_crash() -> None:
    """What is not in the log is lost, and the count is not."""
    assert printed("counter") == ["Counter(count=3)", "Counter(count=7)", "None"]


@pytest.mark.processes
def test_an_order_with_an_id_reserves_once() -> None:
    """The second answer is the stored one, another command has a conflict, and query and view show one reservation."""
    assert printed("ask_once") == [
        "Reserved(seats=8) False",
        "Reserved(seats=8) True",
        "IdConflict(reason='the id belongs to another command, of type Reserve')",
        "SoldOut(left=2)",
        "SeatsLeft(left=2)",
        "Concert(left=2)",
    ]


@pytest.mark.processes
def test_an_order_expires_unless_it_is_paid() -> None:
    """A quarter of an hour goes by in no time: one was paid before, the other one cannot be any more."""
    assert printed("expiry") == [
        "Paid()",
        "Order(item='tea', state='paid') Order(item='tea', state='expired')",
        "NotOpen()",
    ]


@pytest.mark.processes
def test_a_webhook_that_is_away_is_called_again() -> None:
    """Until it answers, with the same key each time, and no longer."""
    keys: list[str | None] = []

    class Hook(BaseHTTPRequestHandler):
        """Is not there for the first two calls."""

        def do_POST(self) -> None:
            """Take a notification."""
            self.rfile.read(int(self.headers["content-length"]))
            keys.append(self.headers["Idempotency-Key"])
            self.send_response(503 if len(keys) < 3 else 200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            assert printed("webhook", f"http://127.0.0.1:{server.server_port}/") == ["Order(item='tea', notified=3)"]
        finally:
            server.shutdown()
            serving.join()
    assert keys == [keys[0]] * 3


@pytest.mark.processes
def test_interest_is_paid_every_month() -> None:
    """Six times in half a year, and no more once the account is closed."""
    assert printed("recurring") == ["Savings(balance=10615)", "None []"]


@pytest.mark.processes
def test_a_trip_is_booked_whole_or_not_at_all() -> None:
    """The flight of the second is sold, so its hotel is given back, over a crash in between."""
    assert printed("saga") == ["Planned()", "SoldOut()", "Seller(left=0) Seller(left=1)"]


@pytest.mark.processes
def test_an_expense_is_paid_if_somebody_agrees_in_time() -> None:
    """The signal is answered when the saga takes it; after a week without one the money is given back."""
    assert printed("approval") == ["Done() Budget(left=200)", "NobodyAgreed() Budget(left=600)"]


@pytest.mark.processes
def test_a_request_that_is_sent_twice_draws_one_number(tmp_path: Path) -> None:
    """``repertory serve`` answers the repetition with the first answer, a GET shows one number, and SIGTERM ends it."""
    command = [*COMMAND, "serve", "examples.front:system", "--log", "memory:", "--http", "127.0.0.1:0"]
    with started(command, cwd=tmp_path, env=environment({}), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen = ""
        while (found := re.search(r"desks is served at (http://127\.0\.0\.1:\d+)/docs", seen)) is None:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        key = {ids.KEY: ids.new_id(time.time(), os.urandom(10)).id}
        with httpx.Client(base_url=found[1], timeout=TIMEOUT_S) as client:
            first, second = (client.post("/desk/post-office/draw", json={"name": "Ada"}, headers=key) for _ in "12")
            last = client.get("/desk/post-office/last")
        assert (first.status_code, first.json()) == (200, {"type": "Drawn", "number": 1}), first.text
        assert (second.status_code, second.json()) == (200, first.json()), second.text
        assert [ids.REPLAYED in each.headers for each in (first, second)] == [False, True]
        assert (last.status_code, last.json()) == (200, {"type": "Last", "number": 1}), last.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
        assert "Traceback" not in process.stderr.read()


def test_the_application_describes_what_it_exposes(monkeypatch: pytest.MonkeyPatch) -> None:
    """``app`` is what an ASGI server runs; it connects to its log at the start, so the document needs none."""
    monkeypatch.setenv("REPERTORY_LOG", "sqlite:front.db")
    app: Any = front.app()

    async def document() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return (await client.get("/openapi.json")).json()

    found = asyncio.run(document())["paths"]
    assert {path: [*methods] for path, methods in found.items()} == {
        "/desk/{key}/draw": ["post"],
        "/desk/{key}/last": ["get"],
    }
    assert "422" in found["/desk/{key}/draw"]["post"]["responses"]


@pytest.mark.processes
def test_payments_are_taken_once() -> None:
    """Over a crash; what is no payment is a dead letter, and a test payment is nothing."""
    assert printed("source", "saga", "approval") == [
        "Account(cents=750)",
        "payments.v1/1@1 Object missing required field `account`",
    ]


@pytest.mark.processes
def test_books_are_counted_by_reader() -> None:
    """The table holds what the books said: one of three is back."""
    assert printed("projection") == ["Ann 1", "Bob 1"]

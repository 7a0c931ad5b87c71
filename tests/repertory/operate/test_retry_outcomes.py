"""``parked retry`` and ``dead-letters retry`` say how it ended; the lists say what became of dead letters."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from repertory import ActorSystem, Backoff, Command, Directive, Entity, Event, Rejection, command, event, restart
from repertory.actors.headers import Headers
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.cli.app import app
from repertory.operate.operator import Operator
from repertory.verify import verify
from tests.support.working import working

NOW = {"does": "stop"}


class Pay(Command):
    """Pay a bill, as far as `NOW` says."""


class Paid(Event):
    """A bill was paid."""


class Poor(Rejection):
    """There is no money."""

    missing: int


class Slow(Exception):
    """The bank does not answer now."""


class Purse(Entity):
    """Pays bills."""

    paid: int = 0

    @command
    def pay(self, cmd: Pay) -> Paid | Poor:
        """Do what `NOW` says."""
        match NOW["does"]:
            case "apply":
                return Paid()
            case "reject":
                return Poor(missing=7)
            case "stop":
                raise ValueError("a bug in the handler")
            case "resume":
                raise KeyError("of no use")
        raise Slow("not now")

    @event
    def was_paid(self, _evt: Paid) -> Self:
        """Count."""
        return self.replace(paid=self.paid + 1)


LONG = "k" * 200


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a log that operator and worker can share."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/outcomes.db"
    return str(request.getfixturevalue("kafka_url"))


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[ActorSystem]:
    """Return a system, which is also the target ``outcomes_app:system``."""
    NOW["does"] = "stop"
    found = ActorSystem(f"outcomes-{uuid.uuid4().hex[:8]}")
    policy = restart(
        max_restarts=1,
        backoff=Backoff(first_s=3600, max_s=3600, jitter=0, reset_after_s=7200),
        on={ValueError: Directive.STOP, KeyError: Directive.RESUME},
    )
    found.host(Purse, partitions=2, supervise=policy)
    module = ModuleType("outcomes_app")
    module.system = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "outcomes_app", module)
    yield found
    NOW["does"] = "stop"


@pytest.fixture
def run(url: str) -> Callable[..., Any]:
    """Return what runs the command line on the log."""

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--log", url], env={"COLUMNS": "400"})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return run


def send(system: ActorSystem, url: str, *keys: str) -> None:
    """Send a command to each key, and handle what is there."""
    with system.start(url) as running:
        for key in keys:
            running.client.tell(Purse.pay, key, Pay())
        running.settle(0.0 if NOW["does"] == "wait" else 60.0)


@pytest.mark.parametrize(
    ("now", "says", "code"),
    [
        ("apply", 'was applied: {"type": "Paid"}', 0),
        ("reject", 'was rejected: {"type": "Poor", "missing": 7}', 0),
        ("stop", "is parked again: ValueError: a bug in the handler", 1),
        ("resume", "is a dead letter again: KeyError: 'of no use'", 1),
    ],
)
def test_a_retry_says_how_it_ended(
    system: ActorSystem, url: str, run: Callable[..., Any], now: str, says: str, code: int
) -> None:
    """Of a parked key and of a dead letter alike, and `verify` knows the answers."""
    send(system, url, "a")
    NOW["does"] = "resume"
    send(system, url, "b")
    NOW["does"] = now
    with working(system, url):
        parked = run("parked", "retry", "outcomes_app:system", "purse", "a", "--wait", "60")
        letter = run("dead-letters", "retry", "outcomes_app:system", "0@0", "--wait", "60")
    assert (parked.exit_code, letter.exit_code) == (code, code), parked.output + letter.output
    assert says in parked.output
    assert "command " in parked.output
    assert says in letter.output
    with closing(connect(url)) as backend, closing(backend.reader()) as reader:
        report = verify(reader, system)
        assert report.ok, report.checks


def test_a_retry_that_waits_says_for_what(system: ActorSystem, url: str, run: Callable[..., Any]) -> None:
    """For a node; behind a parked command; for the next attempt."""
    retry = ("parked", "retry", "outcomes_app:system", "purse", "a", "--wait")
    letter = ("dead-letters", "retry", "outcomes_app:system", "0@0", "--wait")
    NOW["does"] = "resume"
    send(system, url, "a")
    NOW["does"] = "stop"
    send(system, url, "a")
    done = run(*letter, "0.5")
    assert done.exit_code == 69
    assert "still waits after 0.5 s: no worker has the shard" in done.output
    assert f"no node of {system.name} is running" in done.output
    with working(system, url):
        # The worker hands over to nobody: what it took is in the log when the next request is answered.
        assert run(*retry, "60").exit_code == 1
        done = run(*letter, "2", "--force")
        assert "it is behind command 1 of its key, which is parked: ValueError: a bug in the handler" in done.output
        NOW["does"] = "wait"
        done = run(*retry, "2")
        assert done.exit_code == 69
        assert "attempt 2 follows after" in done.output
        assert "Slow: not now" in done.output
        assert run(*retry, "2").exit_code == 64  # It is not parked now.


def test_a_drop_without_a_node_says_so(system: ActorSystem, url: str, run: Callable[..., Any]) -> None:
    """The request stays in the log."""
    send(system, url, "a")
    drop = ("parked", "drop", "outcomes_app:system", "purse", "a", "--reason", "a typo", "--wait")
    done = run(*drop, "0.5")
    assert done.exit_code == 69
    assert "no node of" in done.output
    with working(system, url), closing(connect(url)) as backend, closing(Operator(system, backend)) as operator:
        while not list(operator.dead_letters()):
            pass
    assert run(*drop, "0.5").exit_code == 64


def test_a_key_that_was_retried_by_another(system: ActorSystem, url: str) -> None:
    """Two operators saw the same parked command: the second is told that nothing was left to do."""
    send(system, url, "a")
    NOW["does"] = "apply"
    with working(system, url), closing(connect(url)) as backend, closing(Operator(system, backend)) as operator:
        (parked,) = operator.parked()
        assert operator.retry(parked, 60).what == "applied"
        assert operator.retry(parked, 60).what == "ignored"


def test_lists_mark_what_became_of_dead_letters(system: ActorSystem, url: str, run: Callable[..., Any]) -> None:
    """Retried ones and answered ones; an ask without a valid address was answered by nobody."""
    NOW["does"] = "resume"
    asks: tuple[Headers, ...] = (
        (("reply-to", f"{system.name}.replies/1".encode()), ("correlation-id", b"c")),
        (("reply-to", b"nowhere/0"), ("correlation-id", b"c")),
    )
    with system.start(url) as running:
        running.client.tell(Purse.pay, LONG, Pay())
        running.settle()
        with closing(connect(url)) as backend, closing(backend.appender()) as appender:
            topic = f"{system.name}.purse.commands"
            for headers in asks:
                appender.append([Output(topic, partition_of(b"ad", 2), b"ad", encode(Pay()), headers)])
                running.settle()
    NOW["does"] = "apply"
    with working(system, url):
        assert run("dead-letters", "retry", "outcomes_app:system", "0@0", "--wait", "60").exit_code == 0
        again = run("dead-letters", "retry", "outcomes_app:system", "0@0", "--wait", "60")
        assert again.exit_code == 64
        assert "was retried before" in again.output
    shown = json.loads(run("dead-letters", "list", "outcomes_app:system", "--json").output)
    assert [(len(each["retried"]), each["answered"]) for each in shown] == [(1, False), (0, True), (0, False)]
    assert shown[0]["key"] == LONG
    table = columns(run("dead-letters", "list", "outcomes_app:system").output)
    assert table["key"] == f"{LONG[:60]}… ({len(LONG)} characters)".replace(" ", "") + "adad"
    assert (table["retried"], table["answered"]) == ("yes", "yes")


def columns(table: str) -> dict[str, str]:
    """Return the text of each column of a table without white space, however wide the terminal is."""
    head = [cell.strip() for line in table.splitlines() for cell in line.split("┃")[1:-1]]
    cells = [line.split("│")[1:-1] for line in table.splitlines() if "│" in line]
    count = len(cells[0])
    names = ["".join(head[number::count]) for number in range(count)]
    texts = ["".join("".join(column).split()) for column in zip(*cells, strict=True)]
    return dict(zip(names, texts, strict=True))


def test_a_retry_keeps_the_headers_of_the_command(system: ActorSystem, url: str, run: Callable[..., Any]) -> None:
    """All but those that name an asker, whatever the application calls its own."""
    headers: Headers = (
        ("message-id", b"m"), ("traceparent", b"0"), ("cause", b"mine"), ("about", b"debit"), ("correlation-id", b"c"),
        ("error-type", b"own"), ("attempts", b"own"), ("source-topic", b"own"), ("source-cause", b"own"),
        ("source-source-offset", b"own"), ("epoch", b"own"), ("source-mine", b"own"), ("mine", b"\xff"), ("mine", b"2"),
    )  # fmt: skip
    NOW["does"] = "resume"
    send(system, url)
    topic = f"{system.name}.purse.commands"
    with closing(connect(url)) as backend, closing(backend.appender()) as appender:
        key = next(key for key in "abcd" if partition_of(key.encode(), 2) == 0)
        appender.append([Output(topic, 0, key.encode(), encode(Pay()), headers)])
    send(system, url)
    NOW["does"] = "apply"
    with working(system, url):
        assert run("dead-letters", "retry", "outcomes_app:system", "0@0", "--wait", "60").exit_code == 0
    with closing(connect(url)) as backend, closing(backend.reader()) as reader:
        first, second = reader.read(topic, 0)
        assert first.headers == headers
        assert second.headers[: len(headers)] == headers
        assert [name for name, _ in second.headers[len(headers) :]] == ["retry-of", "retry-to"]
        assert verify(reader, system).ok


def test_a_forged_dead_letter_is_not_sent_anywhere_else(system: ActorSystem, url: str, run: Callable[..., Any]) -> None:
    """Only to commands topics of the system: anybody may write a dead letter."""
    send(system, url)
    with closing(connect(url)) as backend, closing(backend.appender()) as appender:
        for source in (b"other.topic", f"{system.name}.purse.events".encode(), b"", b"\xff"):
            headers = (("source-topic", source), ("source-partition", b"0"), ("source-offset", b"0"))
            appender.append([Output(f"{system.name}.dead-letters", 0, b"k", b"v", headers)])
    for offset in range(4):
        done = run("dead-letters", "retry", "outcomes_app:system", f"0@{offset}", "--force", "--wait", "1")
        assert done.exit_code == 64
        assert f"not a commands topic of {system.name}" in done.output

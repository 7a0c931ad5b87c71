"""Queries on every log: a record that asks has one answer, from the last applied state, in both delivery modes."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator

import pytest

from repertory import ActorSystem, Directive, Message, Undelivered, restart
from repertory.actors.placement import partition_of
from repertory.actors.wire import MessageDecoder, encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output, Record
from repertory.bridge.system.running import Running
from repertory.bridge.system.settings import Settings
from repertory.bridge.topics import commands_topic, replies_topic
from repertory.verify import verify
from tests.actors.domain import (
    Account,
    Bag,
    Balance,
    Deposit,
    GetBalance,
    GetItems,
    InsufficientFunds,
    Items,
    Put,
    Trip,
)

POLICY = restart(on={ValueError: Directive.STOP, KeyError: Directive.RESUME})
PARTITIONS = 2
_decode = MessageDecoder([Balance, Items, InsufficientFunds, Undelivered]).decode


class Crash(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def running(url: str, delivery: str) -> Iterator[Running]:
    """Run a system of its own, since Kafka keeps the topics of all tests."""
    system = ActorSystem(f"queries-{uuid.uuid4().hex[:8]}", settings=Settings(delivery=delivery))
    for entity in (Account, Bag):
        system.host(entity, partitions=PARTITIONS, supervise=POLICY)
    with Running(system, connect(url, system.settings)) as running:
        yield running


def ask(running: Running, entity: str, message: Message, key: str, about: str) -> None:
    """Append a record that asks."""
    system, raw_key = running.system.name, key.encode()
    headers = (("reply-to", f"{replies_topic(system)}/1".encode()), ("correlation-id", about.encode()))
    place = commands_topic(system, entity), partition_of(raw_key, PARTITIONS)
    running.client._core.appender.append([Output(*place, raw_key, encode(message), headers)])


def replies(running: Running) -> list[Record]:
    """Return the replies in the log."""
    return list(running.reader.read(replies_topic(running.system.name), 1))


def answers(running: Running) -> dict[str, Message]:
    """Return the answers by correlation id; each must be there once."""
    found: dict[str, Message] = {}
    for record in replies(running):
        about = (record.header("correlation-id") or b"").decode()
        assert about not in found
        found[about] = _decode(record.value or b"")
    return found


def test_an_answer_is_in_the_log_of_replies(running: Running) -> None:
    """Of each kind: from the state, from the initial state, a failure; and what is in the log can be verified."""
    running.client.tell(Account.deposit, "a", Deposit(amount=5))
    ask(running, "account", GetBalance(), "a", "balance")
    running.client.tell(Account.deposit, "a", Deposit(amount=1))
    ask(running, "account", GetBalance(), "nobody", "nobody")
    ask(running, "account", GetBalance(error="stop"), "a", "failed")
    running.client.tell(Bag.put, "b", Put(item="pen"))
    ask(running, "bag", GetItems(), "b", "items")
    ask(running, "bag", GetItems(spoil=True), "b", "spoilt")
    running.settle()
    found = answers(running)
    spoilt, failed = found.pop("spoilt"), found.pop("failed")
    assert found == {
        "balance": Balance(amount=5), "nobody": Balance(amount=0), "items": Items(items=("pen",)),
    }  # fmt: skip
    assert isinstance(failed, Undelivered)
    assert failed.reason == "ValueError: no look"
    assert isinstance(spoilt, Undelivered)
    assert "changed its entity in place" in spoilt.reason
    assert not running.dead_letters()
    assert running.state(Account, "nobody") is None
    report = verify(running.reader, running.system)
    assert report.ok, [check.offenders for check in report.checks if not check.ok]
    # At least once, a turn of queries alone writes nothing that says how far the shard is.
    assert report.fates["answered"] + report.fates.get("not handled yet", 0) == 5
    assert "not handled yet" not in report.fates or running.system.settings.delivery == "at-least-once"


def test_a_parked_key_is_answered_from_its_last_applied_state(running: Running) -> None:
    """Neither the parked command is seen, nor those behind it; the query waits for no operator."""
    running.client.tell(Account.deposit, "a", Deposit(amount=5))
    running.client.tell(Account.trip, "a", Trip(times=9, error="stop"))
    running.client.tell(Account.deposit, "a", Deposit(amount=1))
    running.settle()
    ask(running, "account", GetBalance(), "a", "balance")
    running.settle()
    assert answers(running) == {"balance": Balance(amount=5)}
    (parked,) = running.parked()
    assert parked.behind == 1
    assert verify(running.reader, running.system).ok


def test_after_a_crash_a_query_is_not_answered_again(running: Running, delivery: str) -> None:
    """Exactly once, the shard record says that it was answered. At least once, the same answer may come again."""
    for number in range(3):
        running.client.tell(Account.deposit, "a", Deposit(amount=1))
        ask(running, "account", GetBalance(), "a", f"{number}")
        running.settle()
    ask(running, "account", GetBalance(), "a", "alone")
    running.settle()
    running.crash()
    running.settle()
    found = replies(running)
    distinct = {(record.header("cause"), record.value) for record in found}
    assert len(distinct) == 4
    if delivery == "exactly-once":
        assert len(found) == 4
    assert verify(running.reader, running.system).ok


@pytest.mark.parametrize("kind", ["memory", "sqlite"], indirect=True)  # On Kafka each crash waits for a session.
def test_a_crash_at_any_point_loses_no_answer(running: Running, delivery: str) -> None:
    """The worker dies at the n-th kill point, for each n; each query has the answer of its place in the log."""
    points = 0
    for number in itertools.count():
        running.client.tell(Account.deposit, "a", Deposit(amount=1))
        ask(running, "account", GetBalance(), "a", f"{number}")
        left = number

        def die(_point: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash

        running.on_kill_point = die
        try:
            running.settle()
        except Crash:
            points += 1
            running.on_kill_point = None
            running.crash()
            running.settle()
        else:
            break
    assert points > 3
    expected = {(f"{number}", encode(Balance(amount=number + 1))) for number in range(points + 1)}
    found = [((record.header("correlation-id") or b"").decode(), record.value) for record in replies(running)]
    assert set(found) == expected
    assert delivery == "at-least-once" or len(found) == len(expected)
    assert verify(running.reader, running.system).ok

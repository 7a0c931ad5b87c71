"""Timers and delayed messages on every log, exactly and at least once."""

from __future__ import annotations

import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from repertory import ActorSystem, Entity, Running
from repertory.actors.headers import TIMER
from repertory.actors.wire import encode
from repertory.bridge.log.record import Output
from repertory.operate.operator import Operator
from repertory.verify import verify
from tests.apps import ringing
from tests.apps.ringing import UNLUCKY, Clock, Count, Mended, Remind, Ring, Rung, Set, Unset
from tests.bridge.test_asks_once import during
from tests.support.clocks import Later

HOUR_S = 3_600.0
MANY = 300


@pytest.fixture
def system(delivery: str) -> Iterator[ActorSystem]:
    """Return a system with a name of its own."""
    Mended.yes = False
    yield ringing.made(f"ring-{uuid.uuid4().hex[:12]}", delivery, timers_per_turn_max=20)
    Mended.yes = False


@pytest.fixture
def running(system: ActorSystem, url: str) -> Iterator[Running]:
    with system.start(url) as running:
        yield running


def later(running: Running, seconds: float) -> None:
    """Go on with another worker, whose clock is ahead: on a log that others share, none can be moved."""
    running._clock = Later(running._clock, round(seconds * 1_000))
    running.crash()


def rung(running: Running) -> Counter[tuple[str, str, int]]:
    """Return what rang (key, name, number) and how often; the log must be whole."""
    assert isinstance(running.system, ActorSystem)
    report = verify(running.reader, running.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    decode, found = running.system.behaviour("clock").journal.decode, Counter[tuple[str, str, int]]()
    topic = f"{running.system.name}.clock.events"
    for partition in range(running.reader.partition_count(topic) or 0):
        for record in running.reader.read(topic, partition):
            event = decode(record.value or b"")
            assert isinstance(event, Rung)
            found[(record.key or b"").decode(), event.name, event.number] += 1
    return found


def test_each_timer_fires_once_over_crashes(running: Running) -> None:
    """A worker that dies between any two steps changes nothing; those that were taken back never ring."""
    for number in range(MANY):
        key = f"k{number % 7}"
        running.client.tell(Clock.set, key, Set(name=f"n{number}", after_s=HOUR_S, number=number))
        if number % 3 == 0:
            running.client.tell(Clock.unset, key, Unset(name=f"n{number}"))
    running.settle()
    assert rung(running) == {}
    assert len(running.timers()) == MANY - MANY // 3
    later(running, HOUR_S)
    for ticks in range(6):
        for _ in range(3 * ticks):
            running.tick(0.01)
        running.crash()
    running.settle()
    expected = {(f"k{number % 7}", f"n{number}", number): 1 for number in range(MANY) if number % 3}
    assert rung(running) == expected
    assert running.timers() == []


def test_a_timer_that_is_cancelled_never_rings_though_it_has_fired(running: Running) -> None:
    """The command that cancels stands in front of that of the timer; behind it, it is too late, and harmless."""
    running.client.tell(Clock.set, "a", Set(name="n", after_s=HOUR_S))
    running.settle()
    running.client.tell(Clock.ring, "b", Ring(name="warm up"))
    later(running, HOUR_S)
    before = len(commands(running, TIMER))
    running.client.tell(Clock.unset, "a", Unset(name="n"))
    running.settle()
    assert before == 0
    assert len(commands(running, TIMER)) <= 1
    assert rung(running) == {("b", "warm up", 0): 1}
    running.client.tell(Clock.unset, "a", Unset(name="n"))
    running.client.tell(Clock.set, "a", Set(name="n", after_s=0, number=2))
    running.settle()
    running.client.tell(Clock.unset, "a", Unset(name="n"))
    running.settle()
    assert rung(running) == {("b", "warm up", 0): 1, ("a", "n", 2): 1}


def commands(running: Running, header: str) -> list[Any]:
    """Return the commands with a header."""
    topic = f"{running.system.name}.clock.commands"
    partitions = range(running.reader.partition_count(topic) or 0)
    return [
        record
        for partition in partitions
        for record in running.reader.read(topic, partition)
        if record.header(header) is not None
    ]


def test_a_recurring_timer_survives_restores(running: Running) -> None:
    """Each time it is due again, whoever has the shard; what was missed is one.

    The log's time stands still where its clock is not ours: so the timer is due again at once, by the owner's clock,
    and yet it fires once in a period.
    """
    running.client.tell(Clock.set, "a", Set(name="n", after_s=HOUR_S, every_s=HOUR_S))
    running.settle()
    for times in range(1, 4):
        later(running, HOUR_S * (3 if times == 1 else 1) + 60)
        running.settle()
        assert rung(running) == {("a", "n", 0): times}
    (timer,) = running.timers()
    assert not timer.fired
    running.client.tell(Clock.unset, "a", Unset(name="n"))
    running.settle()
    assert running.timers() == []


def test_a_delayed_message_arrives_once(running: Running) -> None:
    """In either mode: only a transaction sends it, so it has no epoch and is never repeated."""
    for number in range(20):
        running.client.tell(Clock.remind, f"from-{number}", Remind(key=f"to-{number % 3}", after_s=HOUR_S))
    running.settle()
    later(running, HOUR_S)
    for ticks in range(4):
        for _ in range(3 * ticks):
            running.tick(0.01)
        running.crash()
    running.settle()
    assert sum(rung(running).values()) == 20


def test_a_parked_command_of_a_timer_is_retried_or_cancelled_by_an_operator(
    running: Running, system: ActorSystem
) -> None:
    """A retry handles it; after a cancel, its retry drops it, and says so."""
    for key in ("a", "b"):
        running.client.tell(Clock.set, key, Set(name="n", after_s=HOUR_S, number=UNLUCKY))
    running.settle()
    later(running, HOUR_S)
    running.settle()
    assert sorted(each.key for each in running.parked()) == ["a", "b"]
    Mended.yes = True
    with closing(Operator(system, running._backend)) as operator:
        cancelled = operator.find_timer("clock", "b", "n")
        assert cancelled.fired
        during(running, lambda: operator.cancel(cancelled))
        outcomes = {
            each.key: during(running, lambda each=each: operator.retry(each))  # type: ignore[misc]
            for each in list(operator.parked())
        }
        with pytest.raises(LookupError, match="the key 'b' of clock has no timer 'n'; it has none"):
            operator.find_timer("clock", "b", "n")
    assert outcomes["a"].what == "applied"
    assert outcomes["b"].what == "dropped"
    assert rung(running) == {("a", "n", UNLUCKY): 1}
    assert running.timers() == []


def test_a_clients_clock_moves_no_timer(running: Running, system: ActorSystem, url: str, kind: str) -> None:
    """It is due so long after the log has its command, whatever time a client writes on that."""
    if kind == "kafka":
        producer = Producer({"bootstrap.servers": url.removeprefix("kafka://"), "partitioner": "murmur2_random"})
        at_ms = running._clock.epoch_ms() + round(365 * 24 * HOUR_S * 1_000)
        command = encode(Set(name="n", after_s=HOUR_S))
        producer.produce(f"{system.name}.clock.commands", command, b"a", timestamp=at_ms)
        assert producer.flush(60) == 0
    else:
        running.client.tell(Clock.set, "a", Set(name="n", after_s=HOUR_S))
    running.settle()
    (timer,) = running.timers()
    assert timer.due_ms <= running._clock.epoch_ms() + HOUR_S * 1_000
    later(running, HOUR_S)
    running.settle()
    assert rung(running) == {("a", "n", 0): 1}


def test_a_header_of_a_timer_from_outside_rings_nothing(running: Running, system: ActorSystem) -> None:
    """It is dropped, and the timer goes on."""
    running.client.tell(Clock.set, "a", Set(name="n", after_s=HOUR_S))
    running.settle()
    (timer,) = running.timers()
    header = f"{timer.offset}/0/{timer.due_ms}/n".encode()
    with closing(running._backend.appender()) as appender:
        topic = f"{system.name}.clock.commands"
        appender.append([Output(topic, timer.partition, b"a", encode(Ring(name="n")), ((TIMER, header),))])
    running.settle()
    assert rung(running) == {}
    assert len(running.timers()) == 1


# --- virtual time, in memory ----------------------------------------------------------------------------------


def test_a_timer_fires_once_where_its_log_is_restored_from_a_backup(system: ActorSystem, tmp_path: Path) -> None:
    """It was copied before the timer was due; that it has fired in the log that is lost stops nobody."""
    with system.start(f"sqlite:{tmp_path / 'lost.db'}") as running:
        running.client.tell(Clock.set, "a", Set(name="n", after_s=HOUR_S))
        running.settle()
    shutil.copy(tmp_path / "lost.db", tmp_path / "backup.db")
    for name in ("lost", "backup"):
        with system.start(f"sqlite:{tmp_path / name}.db") as running:
            assert len(running.timers()) == 1
            later(running, HOUR_S)
            running.settle()
            assert rung(running) == {("a", "n", 0): 1}
            assert running.timers() == []


def test_time_can_be_advanced_in_memory() -> None:
    """Each timer rings at its time, in their order, those that are set meanwhile included."""
    with ringing.made("ring", "exactly-once").start() as running:
        running.client.tell(Clock.set, "a", Set(name="often", after_s=10, every_s=10))
        running.client.tell(Clock.set, "b", Set(name="once", after_s=25))
        running.client.tell(Clock.remind, "b", Remind(key="c", after_s=59))
        running.advance(60)
        assert rung(running) == {("a", "often", 0): 6, ("b", "once", 0): 1, ("c", "reminder", 0): 1}
        assert running.client.query(Clock.count, "a", Count()).rung == 6
        running.advance(0)
        running.advance(9)
        running.advance(2)
        assert rung(running)["a", "often", 0] == 7


def test_time_is_advanced_in_memory_only(tmp_path: Any) -> None:
    """One sentence, and nothing has happened."""
    with (
        ringing.made("ring", "exactly-once").start(f"sqlite:{tmp_path / 'a.db'}") as running,
        pytest.raises(ValueError, match=re.escape("time can be advanced on memory: only")),
    ):
        running.advance(1)
    with ringing.made("ring", "exactly-once").start() as running:
        for seconds in (-1, float("nan"), 1e12):
            with pytest.raises(ValueError, match="time can be advanced by 0 s or more"):
                running.advance(seconds)
    assert issubclass(Clock, Entity)

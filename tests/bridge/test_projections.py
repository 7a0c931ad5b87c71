"""Projections on every log, exactly and at least once, within one process: the tables hold what the journal holds."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest
import sqlalchemy as sa

from repertory import ActorSystem, Running, Settings
from repertory.bridge.system.committed import current_record, shard_record
from repertory.bridge.system.projected import ProjectionStopped
from repertory.projections import Park, Retry
from tests.apps import projected
from tests.apps.projected import Add, Counter, Leave, Note, Totals

#: The bound of each wait, also on a busy machine.
DEADLINE_S = 60.0


@pytest.fixture
def name() -> str:
    """Return a name of its own for a system."""
    return f"projected-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def running(name: str, delivery: str, url: str, tmp_path: object) -> Iterator[Running]:
    """Run the system."""
    with started(name, delivery, url, tmp_path) as running:
        yield running


@contextmanager
def started(
    name: str, delivery: str, url: str, tmp_path: object, on_error: Retry | Park | None = None
) -> Iterator[Running]:
    """Run a system, whose projections are in a file of the test."""
    system = projected.made(name, delivery, to=f"sqlite:///{tmp_path}/projections.db", on_error=on_error)
    with system.start(url) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_poison() -> Iterator[None]:
    yield
    Totals.poison = frozenset()


def tables(running: Running) -> tuple[dict[str, tuple[int, int]], list[tuple[int, int, str, int]]]:
    """Return the totals by key, and the events, as a reader sees them in the views."""
    engine = sa.create_engine(running.client.database(Totals), poolclass=sa.NullPool)
    with engine.connect() as connection:
        totals = {key: (total, events) for key, total, events in connection.execute(sa.text("SELECT * FROM totals"))}
        seen = connection.execute(sa.text("SELECT shard, seq, key, amount FROM totals_seen ORDER BY 1, 2")).all()
    return totals, [tuple(row) for row in seen]  # type: ignore[misc]


def add_all(running: Running, count: int, keys: int = 7) -> Tally[str]:
    """Add the numbers up to a count, and return the totals."""
    totals: Tally[str] = Tally()
    for number in range(1, count + 1):
        running.client.tell(Counter.add, f"k{number % keys}", Add(amount=number))
        totals[f"k{number % keys}"] += number
    return totals


def until(running: Running, is_so: Callable[[], bool], what: str) -> None:
    """Work until something is so."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s, what
        running.tick(0.01)


def test_the_tables_hold_what_was_decided(running: Running) -> None:
    """``settle`` waits for them; each event is there once, also after a crash, and after one in which none came."""
    totals = add_all(running, 300)
    for _ in range(3):
        for _ in range(7):
            running.tick(0.01)
        running.crash()
    running.settle()
    found, seen = tables(running)
    assert {key: total for key, (total, _) in found.items()} == totals
    assert len(seen) == 300
    running.crash()
    running.settle()
    assert tables(running) == (found, seen)


def test_a_client_finds_its_own_write(running: Running) -> None:
    """By the position of its answer, also of a rejection and of an event without a handler; nothing is seq 0."""
    nothing = running.client.ask_result(Counter.add, "first", Add(amount=0))
    running.client.wait(Totals, nothing.position, timeout_s=DEADLINE_S)
    for number in range(5):
        answer = running.client.ask_result(Counter.add, "k", Add(amount=2))
        running.client.wait(Totals, answer.position, timeout_s=DEADLINE_S)
        assert tables(running)[0]["k"] == (2 * number + 2, number + 1)
    for handler, message in ((Counter.note, Note()), (Counter.leave, Leave())):
        noted = running.client.ask_result(handler, "k", message)
        running.client.wait(Totals, noted.position, timeout_s=DEADLINE_S)
    rejected = running.client.ask_result(Counter.add, "k", Add(amount=0))
    running.client.wait(Totals, rejected.position, timeout_s=DEADLINE_S)
    ahead = msgspec.structs.replace(rejected.position, seq=rejected.position.seq + 1)
    late = r"the projection totals is not at counter/\d/\d+ after 0.05 s: is at counter"
    with pytest.raises(TimeoutError, match=late):
        running.client.wait(Totals, ahead, timeout_s=0.05)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_a_restart_goes_on_where_the_tables_are(name: str, delivery: str, url: str, tmp_path: object) -> None:
    """What was projected is not projected again."""
    with started(name, delivery, url, tmp_path) as running:
        totals = add_all(running, 50)
        running.settle()
    with started(name, delivery, url, tmp_path) as running:
        totals += add_all(running, 50)
        running.settle()
        found, seen = tables(running)
    assert {key: total for key, (total, _) in found.items()} == totals
    assert len(seen) == 100


def test_an_event_that_fails_stops_its_partition_with_its_name(running: Running) -> None:
    """The others go on; a wait behind it raises at once. Mended, the code goes on with the same bytes."""
    Totals.poison = frozenset({5})
    totals = add_all(running, 40)
    running.settle()
    answer = running.client.ask_result(Counter.add, "k5", Add(amount=100))
    with pytest.raises(
        ProjectionStopped, match=r"totals, version 1, has stopped at .*events/\d@\d+: ValueError: 5 is poi"
    ):
        running.client.wait(Totals, answer.position, timeout_s=DEADLINE_S)
    _, seen = tables(running)
    assert 0 < len(seen) < 40
    assert 5 not in {amount for _, _, _, amount in seen}
    retried(running)
    Totals.poison = frozenset()
    running.client.wait(Totals, answer.position, timeout_s=DEADLINE_S)
    running.settle()
    found, _ = tables(running)
    assert {key: total for key, (total, _) in found.items()} == totals + Tally(k5=100)


def retried(running: Running) -> None:
    """Let all partitions that have stopped go on."""
    engine = sa.create_engine(running.client.database(Totals), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE repertory_progress SET failed = NULL, changes = changes + 1"))


def test_a_key_that_fails_is_parked_and_the_others_go_on(name: str, delivery: str, url: str, tmp_path: object) -> None:
    """Its later events wait behind it."""
    Totals.poison = frozenset({5})
    with started(name, delivery, url, tmp_path, Park(keys_max=2, times=0)) as running:
        totals = add_all(running, 40)
        running.settle()
        found, _ = tables(running)
        engine = sa.create_engine(running.client.database(Totals), poolclass=sa.NullPool)
        with engine.connect() as connection:
            parked = connection.execute(sa.text("SELECT key, error FROM repertory_parked ORDER BY seq")).all()
    assert {key: total for key, (total, _) in found.items()} == {k: v for k, v in totals.items() if k != "k5"}
    assert [key for key, _ in parked] == ["k5"] * 6
    assert [error.startswith("ValueError: 5 is poison") for _, error in parked] == [True] + [False] * 5


@pytest.mark.parametrize("followed_by", ["a projection", "nobody"])
def test_a_shard_that_falls_idle_writes_its_record(followed_by: str) -> None:
    """At least once, within 200 ms, and once: up to there it is known which events count. Only if somebody follows."""
    system = ActorSystem("idle", settings=Settings(delivery="at-least-once"))
    system.host(Counter, partitions=1)
    is_projected = followed_by == "a projection"
    if is_projected:
        system.project(Totals, Counter)
    behaviour = system.definition(Counter).behaviour
    with system.start() as running:

        def recorded() -> int:
            return shard_record(running.reader, system, behaviour, 0).seq

        running.advance(1)
        for turn in (1, 2):
            running.client.tell(Counter.add, "a", Add(amount=1))
            running.advance(0.1)
            assert current_record(running.reader, system, behaviour, 0).seq == turn
            assert recorded() == (turn - 1 if is_projected else 0)
            running.advance(0.2)
            assert recorded() == (turn if is_projected else 0)
        _, end = running.reader.bounds("idle.counter.state", 0)
        running.advance(10)
        assert running.reader.bounds("idle.counter.state", 0)[1] == end


def test_a_wait_is_not_misled_by_what_was_aborted(running: Running) -> None:
    """Turns that were given up leave offsets behind, and no events: the position counts events."""

    class Killed(BaseException):
        pass

    def kill(point: str) -> None:
        if point == "handed-over":
            raise Killed

    for number in range(4):
        running.client.tell(Counter.add, "k", Add(amount=1))
        running.on_kill_point = kill
        with pytest.raises(Killed):
            running.settle()
        running.on_kill_point = None
        running.crash()
        answer = running.client.ask_result(Counter.add, "k", Add(amount=1), timeout_s=DEADLINE_S)
        running.client.wait(Totals, answer.position, timeout_s=DEADLINE_S)
        assert tables(running)[0]["k"] == (2 * number + 2, 2 * number + 2)
    running.settle()
    assert tables(running)[0]["k"] == (8, 8)


def test_what_cannot_be_waited_for_is_a_sentence(running: Running) -> None:
    """No position, one of another entity, a projection that is not projected."""
    answer = running.client.ask_result(Counter.note, "k", Note())
    assert answer.position is not None
    with pytest.raises(ValueError, match="is waited for by a Position"):
        running.client.wait(Totals, None)
    with pytest.raises(ValueError, match=r"totals does not project other/0"):
        running.client.wait(Totals, msgspec.structs.replace(answer.position, entity="other", partition=0))

    class Unknown(Totals, version=9):
        pass

    with pytest.raises(LookupError, match=r"the system does not project .*Unknown.*; it projects Totals"):
        running.client.wait(Unknown, answer.position)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_another_process_waits_too(running: Running, url: str) -> None:
    """Of threads and of asyncio; its client finds the same database."""
    answer = running.client.ask_result(Counter.add, "k", Add(amount=1))
    running.settle()

    async def waits() -> None:
        async with system.async_client(url) as client:
            await client.wait(Totals, answer.position, timeout_s=DEADLINE_S)
            assert client.database(Totals) == running.client.database(Totals)

    system = running.system
    assert isinstance(system, ActorSystem)
    asyncio.run(waits())
    with system.client(url) as client:
        client.wait(Totals, answer.position, timeout_s=DEADLINE_S)
    assert tables(running)[0] == {"k": (1, 1)}

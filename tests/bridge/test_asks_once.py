"""An id has at most one effect ever, and equal answers: on each log, in both modes, whatever repeats it and when."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter as Multiset
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Self, TypeVar

import pytest
from confluent_kafka import Producer

from repertory import (
    ActorSystem,
    AskId,
    AskResult,
    AsyncClient,
    Client,
    ClockAhead,
    Command,
    Done,
    Entity,
    IdConflict,
    OutcomeUnknown,
    Running,
    Undelivered,
    command,
)
from repertory.actors.headers import ASK_ID, CAUSE, CORRELATION_ID, EPOCH, REPLY_TO, TURN
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import ANSWER_KEY, AUTO_KEY, Sender
from repertory.actors.wire import encode
from repertory.bridge.changelog_codec import decode_answer
from repertory.bridge.log.connect import connect
from repertory.bridge.log.embedded import compaction
from repertory.bridge.log.errors import IdTooOld
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Output, Record
from repertory.bridge.reports import ShardFailed
from repertory.bridge.system.client_core import uuid7
from repertory.bridge.system.committed import shard_record
from repertory.operate.operator import Operator
from repertory.verify import verify
from tests.apps import paying
from tests.apps.paying import CLUMSY, HOPELESS, UNLUCKY, Hold, Mended, Paid, Pay, Poor, Purse, Release, Released
from tests.support.clocks import Later

MANY = 50
#: The bound of each wait, also on a busy machine, and the time-out of asks that are answered.
DEADLINE_S = 60.0
#: The time-out of asks that cannot be answered.
SHORT_S = 0.3
YEAR = timedelta(days=365)

T = TypeVar("T")


@pytest.fixture
def system(delivery: str) -> Iterator[ActorSystem]:
    """Return a system with a name of its own, of one shard."""
    Mended.yes = False
    yield paying.made(f"once-{uuid.uuid4().hex[:12]}", delivery, partitions=1)
    Mended.yes = False


@pytest.fixture
def running(system: ActorSystem, url: str) -> Iterator[Running]:
    with system.start(url) as running:
        yield running


def own(name: str, made_at: datetime | None = None) -> AskId:
    return AskId(name, made_at or datetime.now(UTC))


def during(running: Running, call: Callable[[], T]) -> T:
    """Work until a call on another thread returns; return or raise what it does."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call)
        until(running, future.done)
        return future.result()


def until(running: Running, is_so: Callable[[], bool]) -> None:
    """Work until something is so."""
    deadline_s = time.monotonic() + 2 * DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        running.tick(0.01)


def ask(
    running: Running, message: Command, ask_id: AskId, key: str = "k", timeout_s: float = DEADLINE_S
) -> AskResult[Any]:
    """Ask with an id."""
    handler: Any = {Pay: Purse.pay, Hold: Purse.hold, Release: Purse.release}[type(message)]
    return running.client.ask_result(handler, key, message, id=ask_id, timeout_s=timeout_s)


def unanswered(running: Running, message: Command, ask_id: AskId, key: str = "k") -> None:
    """Ask with an id that is open: the call gives up, and its address waits."""
    with pytest.raises(OutcomeUnknown, match="no answer came within"):
        ask(running, message, ask_id, key, SHORT_S)
    running.settle()


def journal(running: Running) -> list[Record]:
    """Return the records of the journal."""
    topic = f"{running.system.name}.purse.events"
    partitions = range(running.reader.partition_count(topic) or 0)
    return [record for partition in partitions for record in running.reader.read(topic, partition)]


def effects(running: Running) -> Multiset[int]:
    """Return the numbers of the commands with an effect, and how often each had one; the log must be whole."""
    assert isinstance(running.system, ActorSystem)
    report = verify(running.reader, running.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    return counted(running)


def counted(running: Running) -> Multiset[int]:
    """Return the same of a log that the test has written to."""
    decode = running.system.behaviour("purse").journal.decode
    events = [decode(record.value or b"") for record in journal(running)]
    return Multiset(event.number for event in events if isinstance(event, Paid | Released))


def replies(reader: Reader, system: ActorSystem, correlation_id: str) -> list[Record]:
    """Return the replies to a call."""
    topic = f"{system.name}.replies"
    return [
        record
        for partition in range(reader.partition_count(topic) or 0)
        for record in reader.read(topic, partition)
        if record.header(CORRELATION_ID) == correlation_id.encode()
    ]


def asked(system: ActorSystem, message: Command, ask_id: str, correlation_id: str, key: bytes = b"k") -> Output:
    """Return a command that asks, with whatever id."""
    headers = (
        (REPLY_TO, f"{system.name}.replies/0".encode()),
        (CORRELATION_ID, correlation_id.encode()),
        (ASK_ID, ask_id.encode()),
    )
    return Output(f"{system.name}.purse.commands", 0, key, encode(message), headers)


def append(url: str, running: Running, *outputs: Output) -> None:
    """Append records as anybody may, and handle them."""
    backend = running._backend if url == "memory:" else connect(url)
    with closing(backend.appender()) as appender:
        appender.append(outputs)
    if url != "memory:":
        backend.close()
    running.settle()


def answer_records(running: Running) -> dict[str, bytes]:
    """Return the live answer records of the shard, in both tables."""
    found: dict[str, bytes] = {}
    for record in running.reader.read(f"{running.system.name}.purse.state", 0):
        key = (record.key or b"").decode()
        if key.startswith((ANSWER_KEY, AUTO_KEY)):
            found.pop(key, None)
            if record.value is not None:
                found[key] = record.value
    return found


def waiting_in(running: Running) -> list[Sender]:
    """Return who waits for the answer to an open id: the first askers and those who have joined them."""
    records = [decode_answer(value) for value in answer_records(running).values()]
    return [sender for each in records if each.answer is None for sender in (each.sender, *each.waiting)]


# --- at once --------------------------------------------------------------------------------------------------


def test_fifty_threads_and_fifty_tasks_ask_with_one_id(running: Running) -> None:
    """Through two clients, before the first is committed: one effect, equal answers, and one of them is the first."""
    system, ask_id = running.system, own("order-17")
    assert isinstance(system, ActorSystem)
    options: Any = {"id": ask_id, "timeout_s": DEADLINE_S}

    def in_threads(client: Client) -> list[AskResult[Any]]:
        with ThreadPoolExecutor(MANY) as pool:
            calls = [pool.submit(client.ask_result, Purse.pay, "k", Pay(number=1), **options) for _ in range(MANY)]
            return [call.result() for call in calls]

    async def in_tasks(client: AsyncClient) -> list[AskResult[Any]]:
        try:
            calls = (client.ask_result(Purse.pay, "k", Pay(number=1), **options) for _ in range(MANY))
            return await asyncio.gather(*calls)
        finally:
            await client.close()

    def both() -> list[AskResult[Any]]:
        with ThreadPoolExecutor(2) as pool, Client(system, running._backend) as client:
            threads = pool.submit(in_threads, client)
            tasks = pool.submit(lambda: asyncio.run(in_tasks(AsyncClient(system, running._backend))))
            return threads.result() + tasks.result()

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(both)
        deadline_s = time.monotonic() + DEADLINE_S
        while len(list(running.reader.read(f"{system.name}.purse.commands", 0))) < 2 * MANY:
            assert not asking.done()
            assert time.monotonic() < deadline_s, "not all commands are in the log"
        until(running, asking.done)  # No command is read before all are in the log.
        results = asking.result()
    assert len(results) == 2 * MANY
    assert {result.value for result in results} == {Paid(number=1, count=1)}
    assert len({result.position for result in results}) == 1
    assert [result.again for result in results].count(False) == 1
    assert effects(running) == {1: 1}


@pytest.mark.parametrize("amount", [1, -1])
def test_a_decision_is_its_answer_after_crashes_and_other_decisions(running: Running, amount: int) -> None:
    """The stored answer is given, not one that is decided anew: the entity has gone on meanwhile."""
    ask_id = own("x")
    first = ask(running, Pay(number=1, amount=amount), ask_id)
    assert not first.again
    for number in range(2, 5):
        ask(running, Pay(number=number), own(f"x{number}"))
        running.crash()
        again = ask(running, Pay(number=1, amount=amount), ask_id)
        assert (again.value, again.position, again.again) == (first.value, first.position, True)
    expected = Paid(number=1, count=1) if amount > 0 else Poor(number=1, count=0)
    assert first.value == expected
    assert effects(running) == dict.fromkeys(((1,) if amount > 0 else ()) + (2, 3, 4), 1)


class Crash(Exception):
    """Ends a worker at a kill point."""


@pytest.mark.parametrize("point", ["queued", "decided", "handed-over", "commit-heard"])
def test_a_worker_that_dies_around_a_decision(system: ActorSystem, url: str, point: str) -> None:
    """Whether its turn was committed or not: the repetition is answered as the first, and nothing happens twice."""
    ids = [own(f"x{number}") for number in range(3)]
    found: dict[int, list[AskResult[Any]]] = {number: [] for number in range(3)}
    with system.start(url) as running:
        ask(running, Pay(number=100), own("before"))
        passed = 0

        def die(reached: str) -> None:
            nonlocal passed
            if reached == point:
                passed += 1
                if passed <= 3:
                    raise Crash

        running.on_kill_point = die
        for _ in range(3):
            for number, ask_id in enumerate(ids):
                result = None
                deadline_s = time.monotonic() + DEADLINE_S
                while result is None:
                    assert time.monotonic() < deadline_s
                    try:
                        result = ask(running, Pay(number=number), ask_id)
                    except Crash:
                        running.crash()
                found[number].append(result)
        running.settle()
        assert passed >= 3
        assert effects(running) == {0: 1, 1: 1, 2: 1, 100: 1}
        for results in found.values():
            assert len({result.value for result in results}) == 1


# --- clocks ---------------------------------------------------------------------------------------------------


def test_an_id_from_the_next_year_is_refused(running: Running, url: str) -> None:
    """A caller's or a client's own, by the time of the log. Nothing is applied, and nothing remembered."""
    system, ahead = running.system, datetime.now(UTC) + YEAR
    assert isinstance(system, ActorSystem)
    result = ask(running, Pay(number=1), own("x", ahead))
    assert isinstance(result.value, ClockAhead)
    assert not result.again
    auto = f"auto/{uuid7(round(ahead.timestamp() * 1_000), 1)}"
    append(url, running, asked(system, Pay(number=1), auto, "c1"), asked(system, Pay(number=1), auto, "c2"))
    for call in ("c1", "c2"):
        (reply,) = replies(running.reader, system, call)
        assert b"ClockAhead" in (reply.value or b"")
    assert effects(running) == {}
    # The same id with a sound clock is another matter: it was never decided.
    assert ask(running, Pay(number=1), own("x")).value == Paid(number=1, count=1)


@pytest.mark.kafka
def test_a_producer_with_a_wrong_clock(system: ActorSystem, kafka_url: str) -> None:
    """The time of a record is the log's: a producer that stamps it a year ahead opens no door for its ids."""
    ahead_ms = round((datetime.now(UTC) + YEAR).timestamp() * 1_000)
    now_ms = round(datetime.now(UTC).timestamp() * 1_000)
    with system.start(kafka_url) as running:
        producer = Producer({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
        for number, (ask_id, stamp_ms) in enumerate(
            [(f"{ahead_ms}/x", ahead_ms), (f"{now_ms}/y", ahead_ms), (f"{now_ms}/z", 1_000)]
        ):
            output = asked(system, Pay(number=number), ask_id, f"c{number}")
            producer.produce(
                output.topic, output.value, output.key, 0, timestamp=stamp_ms, headers=list(output.headers)
            )
        assert producer.flush(DEADLINE_S) == 0
        until(running, lambda: len(replies(running.reader, system, "c2")) == 1)
        (first,), (second,) = (replies(running.reader, system, f"c{number}") for number in range(2))
        assert b"ClockAhead" in (first.value or b"")
        assert b"Paid" in (second.value or b"")
        assert effects(running) == {1: 1, 2: 1}


def test_a_client_with_a_fast_clock_shuts_no_other_out(running: Running, url: str) -> None:
    """An id that is ahead, as far as it may, is not forgotten before its own time has come: the horizon is behind."""
    system = running.system
    assert isinstance(system, ActorSystem)
    fast = f"auto/{uuid7(round((datetime.now(UTC) + timedelta(seconds=250)).timestamp() * 1_000), 1)}"
    append(url, running, asked(system, Pay(number=1), fast, "c1"))
    running._clock = Later(running._clock, 200_000)
    running.crash()  # The new worker has the later clock.
    running.client.tell(Purse.pay, "k", Pay(number=2))
    running.client.tell(Purse.pay, "k", Pay(number=3, amount=HOPELESS))  # In a transaction, in either mode.
    running.settle()
    now = f"auto/{uuid7(round((datetime.now(UTC) + timedelta(seconds=200)).timestamp() * 1_000), 2)}"
    append(url, running, asked(system, Pay(number=4), now, "c4"))
    (reply,) = replies(running.reader, system, "c4")
    assert b"Paid" in (reply.value or b""), reply.value


# --- other commands, operators --------------------------------------------------------------------------------


def test_an_id_belongs_to_one_command_of_one_key(running: Running) -> None:
    """Another payload or type with it is a conflict, before and after the decision; another key has its own ids."""
    ask_id = own("x")
    unanswered(running, Pay(number=1, amount=UNLUCKY), ask_id)
    assert isinstance(ask(running, Pay(number=2), ask_id).value, IdConflict)
    assert isinstance(ask(running, Hold(number=1), ask_id).value, IdConflict)
    elsewhere = ask(running, Pay(number=3), ask_id, key="l")
    assert (elsewhere.value, elsewhere.again) == (Paid(number=3, count=1), False)
    running.crash()
    for message in (Pay(number=1, amount=1), Hold(number=1)):
        assert isinstance(ask(running, message, ask_id).value, IdConflict)
    assert isinstance(ask(running, Pay(number=4), ask_id, key="l").value, IdConflict)
    assert effects(running) == {3: 1}


def test_while_the_first_waits_in_its_backoff_another_command_is_a_conflict(delivery: str, url: str) -> None:
    """It does not wait with the first, and is not executed, over a crash; a repetition does wait."""
    Mended.yes, retry_s = False, 3_600.0
    system = paying.made(f"once-{uuid.uuid4().hex[:12]}", delivery, partitions=1, retry_s=retry_s)
    message, ask_id = Pay(number=1, amount=CLUMSY), own("x")
    with system.start(url) as running:
        for waiting in (1, 2):
            with pytest.raises(OutcomeUnknown, match="no answer came within"):
                ask(running, message, ask_id, timeout_s=SHORT_S)
            until(running, lambda waiting=waiting: len(waiting_in(running)) == waiting)  # type: ignore[misc]
            for other in (Pay(number=2), Pay(number=1), Hold(number=1)):
                assert isinstance(ask(running, other, ask_id).value, IdConflict)
            assert running.parked() == [], "it waits for its retry, not for an operator"
            assert effects(running) == {}
            running.crash()
        Mended.yes = True
        running._clock = Later(running._clock, round(retry_s * 1_000))
        running.crash()  # The new worker has the later clock.
        again = ask(running, message, ask_id)
        assert again.value == Paid(number=1, count=1)
        assert isinstance(ask(running, Pay(number=2), ask_id).value, IdConflict)
        assert effects(running) == {1: 1}
    Mended.yes = False


class Stack(Command):
    """Put something on a shelf."""

    number: int


class Shelf(Entity):
    """Another entity than a purse: stateful."""

    numbers: tuple[int, ...] = ()

    @command
    def stack(self, cmd: Stack) -> Self:
        """Remember it."""
        return self.replace(numbers=(*self.numbers, cmd.number))


def test_an_id_belongs_to_one_partition_of_one_entity(delivery: str, url: str) -> None:
    """The same id at the same offset of others is another ask: each is executed, and has its own answer."""
    system = paying.made(f"once-{uuid.uuid4().hex[:12]}", delivery, partitions=2)
    system.host(Shelf, partitions=2)
    numbers = count()
    keys = [next(key for n in numbers if partition_of((key := f"k-{n}").encode(), 2) == each) for each in range(2)]
    ask_id = own("x")

    def ask_all(running: Running) -> list[AskResult[Any]]:
        options: Any = {"id": ask_id, "timeout_s": DEADLINE_S}
        client = running.client
        purses = [client.ask_result(Purse.pay, key, Pay(number=n), **options) for n, key in enumerate(keys)]
        return purses + [client.ask_result(Shelf.stack, key, Stack(number=n), **options) for n, key in enumerate(keys)]

    with system.start(url) as running:
        firsts = ask_all(running)
        assert [first.value for first in firsts] == [Paid(number=0, count=1), Paid(number=1, count=1), Done(), Done()]
        assert not any(first.again for first in firsts)
        for entity in ("purse", "shelf"):
            for partition in range(2):
                (record,) = running.reader.read(f"{system.name}.{entity}.commands", partition)
                assert record.offset == 0
        for _ in range(2):
            again = ask_all(running)
            assert [(each.value, each.position) for each in again] == [(each.value, each.position) for each in firsts]
            assert all(each.again for each in again)
            running.crash()
        assert [running.state(Shelf, key) for key in keys] == [Shelf(numbers=(n,)) for n in range(2)]
        assert effects(running) == {0: 1, 1: 1}


def test_an_operator_retries_what_was_asked(running: Running) -> None:
    """While the key is parked all askers wait, over a crash; the answer goes to all of them, and later ones get it."""
    system, ask_id, behind = running.system, own("x"), own("y")
    assert isinstance(system, ActorSystem)
    unanswered(running, Pay(number=1, amount=UNLUCKY), ask_id)
    unanswered(running, Pay(number=2), behind)
    running.crash()
    unanswered(running, Pay(number=1, amount=UNLUCKY), ask_id)
    assert effects(running) == {}
    with (
        ThreadPoolExecutor(4) as pool,
        Client(system, running._backend) as client,
        closing(Operator(system, running._backend)) as operator,
    ):
        waiting = [
            pool.submit(client.ask_result, Purse.pay, "k", message, id=each, timeout_s=DEADLINE_S)
            for message, each in ((Pay(number=1, amount=UNLUCKY), ask_id), (Pay(number=2), behind)) * 2
        ]
        until(running, lambda: len(waiting_in(running)) >= 4 + 3)
        Mended.yes = True
        outcome = during(running, lambda: operator.retry(operator.find_parked("purse", "k"), wait_s=DEADLINE_S))
        assert outcome.is_handled, outcome
        until(running, lambda: all(call.done() for call in waiting))
        results = [call.result() for call in waiting]
    assert [result.value for result in results] == [Paid(number=1, count=1), Paid(number=2, count=2)] * 2
    assert all(result.again for result in results)
    later = ask(running, Pay(number=1, amount=UNLUCKY), ask_id)
    assert (later.value, later.again) == (Paid(number=1, count=1), True)
    assert effects(running) == {1: 1, 2: 1}


def test_an_operator_drops_what_was_asked(running: Running) -> None:
    """All who wait are told so, and that is the answer to the id for good, though the handler is mended."""
    system, ask_id = running.system, own("x")
    assert isinstance(system, ActorSystem)
    unanswered(running, Pay(number=1, amount=UNLUCKY), ask_id)
    with (
        ThreadPoolExecutor(1) as pool,
        Client(system, running._backend) as client,
        closing(Operator(system, running._backend)) as operator,
    ):
        message = Pay(number=1, amount=UNLUCKY)
        waiting = pool.submit(client.ask_result, Purse.pay, "k", message, id=ask_id, timeout_s=DEADLINE_S)
        until(running, lambda: len(waiting_in(running)) >= 2)
        parked = operator.find_parked("purse", "k")
        during(running, lambda: operator.drop(parked, "of no use", wait_s=DEADLINE_S))
        until(running, waiting.done)
        dropped = waiting.result()
    assert isinstance(dropped.value, Undelivered)
    assert "of no use" in dropped.value.reason
    Mended.yes = True
    running.crash()
    again = ask(running, Pay(number=1, amount=UNLUCKY), ask_id)
    assert (again.value, again.again) == (dropped.value, True)
    assert effects(running) == {}


def test_a_dead_letter_that_is_retried_has_no_id(running: Running) -> None:
    """It was answered with Undelivered: an operator who forces it applies it, and the answer to the id stays."""
    system, ask_id = running.system, own("x")
    assert isinstance(system, ActorSystem)
    message = Pay(number=1, amount=HOPELESS)
    first = ask(running, message, ask_id)
    assert isinstance(first.value, Undelivered)
    Mended.yes = True
    with closing(Operator(system, running._backend)) as operator:
        (letter,) = operator.dead_letters()
        assert ASK_ID in dict(letter.headers)
        with pytest.raises(LookupError, match="was answered with Undelivered"):
            operator.retry_dead_letter(letter)
        outcome = during(running, lambda: operator.retry_dead_letter(letter, force=True, wait_s=DEADLINE_S))
    assert outcome.is_handled, outcome
    retried = list(running.reader.read(f"{system.name}.purse.commands", 0))[-1]
    assert ASK_ID not in dict(retried.headers)
    assert effects(running) == {1: 1}
    again = ask(running, message, ask_id)
    assert (again.value, again.again) == (first.value, True)
    assert effects(running) == {1: 1}


def test_a_kept_sender_is_answered_once(running: Running) -> None:
    """Until then repetitions wait, over a crash; then all have the answer, and so have later ones."""
    system, ask_id = running.system, own("x")
    assert isinstance(system, ActorSystem)
    for _ in range(2):
        unanswered(running, Hold(number=1), ask_id)
        running.crash()
    with ThreadPoolExecutor(2) as pool, Client(system, running._backend) as client:
        options: Any = {"id": ask_id, "timeout_s": DEADLINE_S}
        waiting = [pool.submit(client.ask_result, Purse.hold, "k", Hold(number=1), **options) for _ in range(2)]
        until(running, lambda: len(waiting_in(running)) >= 4)
        running.client.tell(Purse.release, "k", Release())
        until(running, lambda: all(call.done() for call in waiting))
        results = [*(call.result() for call in waiting), ask(running, Hold(number=1), ask_id)]
    assert [(result.value, result.again) for result in results] == [(Released(number=1, count=1), True)] * 3
    assert effects(running) == {1: 1}


# --- what is forgotten ----------------------------------------------------------------------------------------


def test_what_may_be_forgotten_is_refused(delivery: str, url: str) -> None:
    """Under a tight cap: an id is answered as before or is too old, over a crash; never is there a second effect."""
    system = paying.made(f"once-{uuid.uuid4().hex[:12]}", delivery, partitions=1, answers_max=3)
    made_at = datetime.now(UTC)
    ids = {number: own(f"x{number}", made_at + timedelta(milliseconds=number)) for number in (5, 2, 7, 1, 6, 3, 4)}
    with system.start(url) as running:
        unanswered(running, Hold(number=99), own("held", made_at), key="held")
        firsts = {number: ask(running, Pay(number=number), ask_id) for number, ask_id in ids.items()}
        for _ in range(2):
            for number in (1, 2, 3, 4):
                with pytest.raises(IdTooOld, match=r"its id is too old for the shard to remember it: .* forgotten"):
                    ask(running, Pay(number=number), ids[number])
            for number in (5, 6, 7):
                again = ask(running, Pay(number=number), ids[number])
                assert (again.value, again.again) == (firsts[number].value, True)
            with pytest.raises(IdTooOld):
                ask(running, Pay(number=8), own("never asked", ids[4].made_at))
            running.crash()
        assert effects(running) == dict.fromkeys(ids, 1)
        # What is owed is not forgotten, however old it is: who waits gets the answer. Then its turn to go has come.
        with ThreadPoolExecutor(1) as pool, Client(system, running._backend) as client:
            options: Any = {"id": own("held", made_at), "timeout_s": DEADLINE_S}
            waiting = pool.submit(client.ask, Purse.hold, "held", Hold(number=99), **options)
            until(running, lambda: len(waiting_in(running)) >= 2)
            running.client.tell(Purse.release, "held", Release())
            until(running, waiting.done)
            assert waiting.result() == Released(number=99, count=1)
        with pytest.raises(IdTooOld):
            ask(running, Hold(number=99), own("held", made_at), key="held")
        assert effects(running) == dict.fromkeys((*ids, 99), 1)


def test_an_id_that_is_older_than_answers_are_kept_is_refused(delivery: str, url: str) -> None:
    """Once its answer is due to be forgotten: it is never executed a second time. Younger ids are answered."""
    kept_s = 3_600.0
    system = paying.made(f"once-{uuid.uuid4().hex[:12]}", delivery, partitions=1, kept_s=kept_s)
    now = datetime.now(UTC)
    old, young = own("old", now), own("young", now + timedelta(minutes=1))
    with system.start(url) as running:
        first = ask(running, Pay(number=1), old)
        again = ask(running, Pay(number=1), old)
        assert (again.value, again.again) == (first.value, True)
        running._clock = Later(running._clock, round(kept_s * 1_000) + 30_000)
        running.crash()  # The new worker has the later clock.
        second = ask(running, Pay(number=2), young)  # The turn that is due to forget the first.
        for _ in range(2):
            with pytest.raises(IdTooOld):
                ask(running, Pay(number=1), old)
            again = ask(running, Pay(number=2), young)
            assert (again.value, again.again) == (second.value, True)
            running.crash()
        assert effects(running) == {1: 1, 2: 1}


# --- what is written ------------------------------------------------------------------------------------------


def test_turns_with_ids_are_transactions(running: Running, delivery: str) -> None:
    """At least once too: the event of an ask has no place in a turn, its answer stands beside the shard record."""
    system = running.system
    ask(running, Pay(number=1), own("x"))
    running.client.ask(Purse.pay, "k", Pay(number=2), repeat=False)
    running.client.ask(Purse.pay, "k", Pay(number=3))  # With an id that the client makes.
    running.settle()
    first, second, third = journal(running)
    assert TURN not in dict(first.headers)
    assert TURN not in dict(third.headers)
    assert (TURN in dict(second.headers)) == (delivery == "at-least-once")
    record = shard_record(running.reader, system, system.behaviour("purse"), 0)
    assert (record.epoch > 0) == (delivery == "at-least-once")
    assert record.seq == 3
    assert len(answer_records(running)) == 2
    assert {key[: len(ANSWER_KEY)] for key in answer_records(running)} == {
        ANSWER_KEY,
        f"{AUTO_KEY}k\0"[: len(ANSWER_KEY)],
    }
    for each in (first, third):
        assert each.header(EPOCH) is None or delivery == "at-least-once"
        assert each.header(CAUSE) is not None


# --- restores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_restore_from_a_compacted_topic(
    kind: str, system: ActorSystem, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction takes what was superseded, and the answers are those of before."""
    assert kind
    monkeypatch.setattr(compaction, "_DIRTY_MIN", 4)
    monkeypatch.setattr(compaction, "_ROUND_RECORDS", 3)
    ids = [own(f"x{number}") for number in range(20)]
    with system.start(url) as running:
        unanswered(running, Hold(number=99), own("held"), key="held")
        firsts = [ask(running, Pay(number=number), ask_id) for number, ask_id in enumerate(ids)]
        running.settle()
        state = f"{system.name}.purse.state"
        held = len(list(running.reader.read(state, 0)))
        assert held < running.reader.bounds(state, 0)[1], "nothing was compacted"
        running.crash()
        for number, ask_id in enumerate(ids):
            again = ask(running, Pay(number=number), ask_id)
            assert (again.value, again.position, again.again) == (firsts[number].value, firsts[number].position, True)
        assert effects(running) == dict.fromkeys(range(20), 1)


def test_a_changelog_without_one_answer_is_refused(system: ActorSystem, url: str) -> None:
    """The shard does not start: it would apply a command twice. Where the answer is written again, it does."""
    ask_id, failed = own("x"), list[str]()
    with system.start(url) as running:
        first = ask(running, Pay(number=1), ask_id)
        ask(running, Pay(number=2), own("y"))
        running.settle()
        (key,) = (each for each in answer_records(running) if each.endswith("\0x"))
        record = answer_records(running)[key]
        state = f"{system.name}.purse.state"
        with closing(running._backend.appender()) as appender:
            appender.append([Output(state, 0, key.encode(), None)])
            running.report = lambda report: failed.append(report.reason) if isinstance(report, ShardFailed) else None
            running.crash()
            until(running, lambda: bool(failed))
            assert f"{state} does not hold the records that the shard record speaks of" in failed[0]
            appender.append([Output(state, 0, key.encode(), record)])
        running.crash()
        again = ask(running, Pay(number=1), ask_id)
        assert (again.value, again.again) == (first.value, True)
        assert counted(running) == {1: 1, 2: 1}

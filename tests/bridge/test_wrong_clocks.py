"""Clients whose clocks are wrong: an ask without an id of its caller is answered, and applied once, on each log."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from repertory import ActorSystem, AskId, AsyncClient, Client, ClockAhead, OutcomeUnknown, Running
from repertory.actors.headers import ASK_ID, CORRELATION_ID
from repertory.actors.message import Message, TooOld
from repertory.actors.shard.answers import ParsedId
from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import IdTooOld
from repertory.bridge.log.record import Output
from tests.apps import paying
from tests.apps.paying import Mended, Paid, Pay, Purse
from tests.bridge.system.asking import Notebook, Played, Write, Written, made, reply
from tests.bridge.test_asks_once import DEADLINE_S, during, effects

LONG_S = 100.0
YEAR_S = 365 * 86_400


class Wrong(SystemClock):
    """A clock that is set as a test wants it."""

    ahead_s = 0

    def epoch_ms(self) -> int:
        """Return the wrong time of the day."""
        return super().epoch_ms() + self.ahead_s * 1_000


def wrong(client: Client | AsyncClient, ahead_s: int = 0) -> Wrong:
    """Give a client a clock that is ahead, or behind if it is below 0."""
    clock = Wrong()
    clock.ahead_s = ahead_s
    client._core._clock = clock
    return clock


# --- on each log ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["exactly-once", "at-least-once"])
def running(request: pytest.FixtureRequest, url: str) -> Iterator[Running]:
    """Yield a system of one shard that has forgotten the ids of clients up to a moment ago."""
    Mended.yes = False
    system = paying.made(f"wrong-{uuid.uuid4().hex[:12]}", str(request.param), partitions=1, answers_max=1)
    with system.start(url) as running:
        for number in range(3):
            running.client.ask(Purse.pay, "k", Pay(number=number), timeout_s=DEADLINE_S)
        yield running


def commands(running: Running) -> int:
    """Return how many commands there are."""
    return sum(1 for _ in running.reader.read(f"{running.system.name}.purse.commands", 0))


def ask(running: Running, client: Client, number: int) -> None:
    """Ask without an id; the answer is that of a command that was applied once."""
    options: Any = {"timeout_s": DEADLINE_S}
    answer = during(running, lambda: client.ask(Purse.pay, "k", Pay(number=number), **options))
    assert answer == Paid(number=number, count=number + 1)
    assert effects(running) == dict.fromkeys(range(number + 1), 1)


@pytest.mark.parametrize("ahead_s", [-YEAR_S, -150, YEAR_S, 450])
def test_a_new_client_with_a_wrong_clock(running: Running, ahead_s: int) -> None:
    """Its first ask is refused for its id, and asked anew by the time of the log; later ones are sent once."""
    assert isinstance(running.system, ActorSystem)
    with Client(running.system, running._backend) as client:
        clock = wrong(client, ahead_s)
        ask(running, client, 3)
        assert commands(running) == 5
        for number, jump_s in ((4, -2 * YEAR_S), (5, 2 * YEAR_S), (6, 0)):
            clock.ahead_s = jump_s
            ask(running, client, number)
        assert commands(running) == 8


@pytest.mark.parametrize("jump_s", [-YEAR_S, YEAR_S])
def test_a_clock_that_jumps(running: Running, jump_s: int) -> None:
    """Also where it was right before."""
    assert isinstance(running.system, ActorSystem)
    with Client(running.system, running._backend) as client:
        clock = wrong(client)
        ask(running, client, 3)
        clock.ahead_s = jump_s
        ask(running, client, 4)
        assert commands(running) == 6


@pytest.mark.parametrize("ahead_s", [-YEAR_S, YEAR_S])
def test_clients_of_other_kinds(running: Running, ahead_s: int) -> None:
    """That of ``Running``, which drives the system, and the asynchronous one, which the gateway uses."""
    system = running.system
    assert isinstance(system, ActorSystem)

    async def in_tasks() -> list[Any]:
        client = AsyncClient(system, running._backend)
        wrong(client, ahead_s)
        try:
            calls = (
                client.ask(Purse.pay, f"l{number}", Pay(number=number), timeout_s=DEADLINE_S) for number in range(4, 9)
            )
            return await asyncio.gather(*calls)
        finally:
            await client.close()

    wrong(running.client, ahead_s)
    assert running.client.ask(Purse.pay, "k", Pay(number=3), timeout_s=DEADLINE_S) == Paid(number=3, count=4)
    answers = during(running, lambda: asyncio.run(in_tasks()))
    assert answers == [Paid(number=number, count=1) for number in range(4, 9)]
    assert effects(running) == dict.fromkeys(range(9), 1)


def test_ids_of_callers_are_refused_as_they_are(running: Running) -> None:
    """The time of such an id is its caller's, who may have asked with it before."""
    options: Any = {"timeout_s": DEADLINE_S}
    for number in (3, 4):
        running.client.ask(Purse.pay, "k", Pay(number=number), id=AskId(f"x{number}", datetime.now(UTC)), **options)
    count = commands(running)
    with pytest.raises(IdTooOld):
        running.client.ask(Purse.pay, "k", Pay(number=9), id=AskId("y", datetime(2020, 1, 1, tzinfo=UTC)), **options)
    far = running.client.ask(Purse.pay, "k", Pay(number=9), id=AskId("z", datetime(2100, 1, 1, tzinfo=UTC)), **options)
    assert isinstance(far, ClockAhead)
    assert abs(far.log_ms / 1_000 - datetime.now(UTC).timestamp()) < YEAR_S
    assert commands(running) == count + 2


# --- what is certain ------------------------------------------------------------------------------------------

#: What a shard says that the time of the log is.
LOG_MS = 1_700_000_000_000


@contextmanager
def playing() -> Iterator[tuple[Client, Played]]:
    """Yield a client of a log on which no worker runs."""
    system, played = made(), Played(connect("memory:"))
    system.prepare(played.inner)
    with Client(system, played) as client:
        yield client, played
    played.inner.close()


def answering(played: Played, *answers: Message, error: OutcomeUnknown | None = None) -> list[dict[str, bytes]]:
    """Answer one append after another, the last answer for ever; return their headers. ``error``: after the first."""
    left, sent, errors = [*answers], list[dict[str, bytes]](), [error]

    def on_append(outputs: Sequence[Output]) -> tuple[list[Output], OutcomeUnknown | None]:
        sent.append(dict(outputs[0].headers))
        if (failed := errors.pop() if errors else None) is not None:
            return [*outputs], failed
        return [*outputs, reply(outputs[0], left.pop(0) if len(left) > 1 else left[0])], None

    played.on_append = on_append
    return sent


def write(client: Client) -> object:
    """Ask without an id."""
    return client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S)


REFUSALS: list[TooOld | ClockAhead] = [TooOld(log_ms=LOG_MS), ClockAhead(log_ms=LOG_MS)]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_it_is_asked_anew_with_another_id(refusal: TooOld | ClockAhead) -> None:
    """Of the time that the shard has said, and to another address: a second reply to the first is none to it."""
    with playing() as (client, played):
        sent = answering(played, refusal, Written(text="x"))
        assert write(client) == write(client) == Written(text="x")
        first, second, third = (ParsedId.parse(each[ASK_ID].decode()) for each in sent)
        assert len({first.id, second.id, third.id}) == len({each[CORRELATION_ID] for each in sent}) == 3
        assert LOG_MS <= second.made_ms <= third.made_ms < LOG_MS + LONG_S * 1_000


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_was_sent_twice_may_be_applied(refusal: TooOld | ClockAhead) -> None:
    """One of the two may have been, so it is not asked anew. The next ask has the right time."""
    with playing() as (client, played):
        sent = answering(played, refusal, Written(text="x"), error=OutcomeUnknown("broken"))
        with pytest.raises(OutcomeUnknown, match="may be applied"):
            write(client)
        assert write(client) == Written(text="x")
        first, second, third = (ParsedId.parse(each[ASK_ID].decode()) for each in sent)
        assert first == second
        assert LOG_MS <= third.made_ms < LOG_MS + LONG_S * 1_000


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_shard_that_refuses_each_id(refusal: TooOld | ClockAhead) -> None:
    """It is not asked for ever."""
    with playing() as (client, played):
        sent = answering(played, refusal)
        with pytest.raises(OutcomeUnknown):
            write(client)
        assert len(sent) == 4

"""``client.answer`` and ``client.revoke``, on every log: what is done about an ask by its id."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Self

import pytest

from repertory import (
    ActorSystem,
    AskId,
    AskResult,
    AsyncClient,
    Client,
    Command,
    Context,
    Directive,
    Done,
    Entity,
    Event,
    NotAsked,
    OutcomeUnknown,
    Revoked,
    Running,
    Sender,
    Settings,
    StillOpen,
    Undelivered,
    command,
    event,
    restart,
)
from repertory.actors.control import FetchAnswer, Revoke
from repertory.actors.headers import ASK_ID, CORRELATION_ID, MESSAGE_ID, REPLY_TO
from repertory.actors.message import TooOld
from repertory.actors.wire import encode
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.topics import replies_topic
from repertory.verify import verify
from tests.bridge.system.asking import Notebook, Played, Stranger, commands, made, reply, unanswered
from tests.bridge.system.test_ask import in_threads

SHORT_S, LONG_S = 0.3, 100.0
UNDELIVERED = Undelivered(reason="Revoked: by request, before it was applied")


class Enter(Command):
    """Come in; nobody comes in by the name of ``nobody``."""

    name: str


class Entered(Event):
    """Somebody came in."""

    name: str


class Ring(Command):
    """Wait for the door to be opened."""


class Rang(Event):
    """Somebody waits."""

    sender: Sender | None


class Open(Command):
    """Let in who waits."""


class Door(Entity):
    """Parks, answers, and keeps senders."""

    names: tuple[str, ...] = ()
    waits: Sender | None = None

    @command
    def enter(self, cmd: Enter) -> Entered:
        """Come in."""
        if cmd.name == "nobody":
            raise ValueError(cmd.name)
        return Entered(name=cmd.name)

    @command
    def ring(self, _cmd: Ring, ctx: Context) -> Rang:
        """Keep the sender."""
        return Rang(sender=ctx.sender)

    @command
    def open(self, _cmd: Open, ctx: Context) -> Entered | None:
        """Answer it."""
        if self.waits is None:
            return None
        ctx.reply(Entered(name="who rang"), to=self.waits)
        return Entered(name="who rang")

    @event
    def entered(self, evt: Entered) -> Self:
        """Remember."""
        return self.replace(names=(*self.names, evt.name))

    @event
    def rang(self, evt: Rang) -> Self:
        """Remember."""
        return self.replace(waits=evt.sender)


@pytest.fixture
def system() -> ActorSystem:
    """Return a system with a name of its own: the tests share one Kafka."""
    system = ActorSystem(f"by-id-{uuid.uuid4().hex[:12]}", settings=Settings(answers_per_shard_max=3))
    system.host(Door, partitions=2, supervise=restart(on={ValueError: Directive.STOP}))
    return system


@pytest.fixture
def running(system: ActorSystem, url: str) -> Iterator[Running]:
    with system.start(url) as running:
        yield running


@pytest.fixture
def books() -> ActorSystem:
    return made()


@pytest.fixture
def played(books: ActorSystem, backend: Backend) -> Iterator[Played]:
    """Yield a log with the topics of notebooks, on which no worker runs."""
    books.prepare(backend)
    yield Played(backend)
    backend.close()


@pytest.fixture
def client(books: ActorSystem, played: Played) -> Iterator[Client]:
    with Client(books, played) as client:
        yield client


def own(text: str = "order-17", *, year: int = 0) -> AskId:
    now = datetime.now(UTC)
    return AskId(text, made_at=now.replace(year=year, month=1, day=1) if year else now)


def send(client: Client, message: Command, ask_id: AskId, key: str = "k") -> None:
    """Send an ask, and do not wait for its answer."""
    handlers = {Enter: Door.enter, Ring: Door.ring}
    ask = client._core.ask(handlers[type(message)], key, message, {"id": ask_id})
    client._core.append([ask.output(TopicPartition(replies_topic(client._core.system.name), 0))])


def test_an_answer_is_fetched_by_its_id(running: Running) -> None:
    """What was answered, with its position; that it is open, and why; that nothing was applied."""
    client, answered, parked, behind = running.client, own("answered"), own("parked"), own("behind")
    first = client.ask_result(Door.enter, "k", Enter(name="Ann"), id=answered)
    send(client, Enter(name="nobody"), parked)
    send(client, Enter(name="Bob"), behind)
    found = client.answer(Door.enter, "k", answered)
    assert found == AskResult(Entered(name="Ann"), first.position, again=True)
    assert client.answer(Door.open, "k", answered) == found, "any handler names the entity"
    assert client.answer(Door.enter, "k", parked) == StillOpen(state="parked")
    assert client.answer(Door.enter, "k", behind) == StillOpen(state="parked")
    assert client.answer(Door.enter, "k", own("never")) == NotAsked()
    assert client.answer(Door.enter, "l", answered) == NotAsked(), "ids are unique for each key"


def test_a_parked_ask_is_revoked(running: Running) -> None:
    """It is not applied, its key goes on, and its answer is Undelivered; once more does no harm."""
    client, parked, behind = running.client, own("parked"), own("behind")
    send(client, Enter(name="nobody"), parked)
    send(client, Enter(name="Bob"), behind)
    assert client.revoke(Door.enter, "k", parked) == Revoked()
    running.settle()
    assert client.revoke(Door.enter, "k", parked) == Revoked()
    assert client.ask(Door.enter, "k", Enter(name="nobody"), id=parked) == UNDELIVERED
    found = client.answer(Door.enter, "k", parked)
    assert isinstance(found, AskResult)
    assert (found.value, found.again) == (UNDELIVERED, True)
    again = client.answer(Door.enter, "k", behind)
    assert isinstance(again, AskResult)
    assert again.value == Entered(name="Bob")
    assert [letter.error for letter in running.dead_letters()] == ["Revoked"]
    assert running.parked() == []


def test_what_cannot_be_revoked(running: Running) -> None:
    """An answered ask, one that is owed its answer by a kept sender, and one that nobody knows."""
    client, answered, kept = running.client, own("answered"), own("kept")
    client.ask(Door.enter, "k", Enter(name="Ann"), id=answered)
    send(client, Ring(), kept)
    result = client.revoke(Door.enter, "k", answered)
    assert isinstance(result, AskResult)
    assert (result.value, result.again) == (Entered(name="Ann"), True)
    assert client.revoke(Door.ring, "k", kept) == client.answer(Door.ring, "k", kept) == StillOpen(state="kept")
    assert client.revoke(Door.enter, "k", own("never")) == NotAsked()
    client.tell(Door.open, "k", Open())
    owed = client.answer(Door.ring, "k", kept)
    assert isinstance(owed, AskResult)
    assert owed.value == Entered(name="who rang")
    assert running.dead_letters() == []


def test_an_id_that_is_too_old(running: Running) -> None:
    """What the shard may have forgotten may have happened: OutcomeUnknown, with the id."""
    for number in range(5):
        running.client.ask(Door.enter, "k", Enter(name="Ann"), id=own(f"x{number}"))
    old = own("x", year=2020)
    for call in (running.client.answer, running.client.revoke):
        with pytest.raises(OutcomeUnknown, match=r"Door\.enter of 'k' may be applied: its id is too old") as raised:
            call(Door.enter, "k", old)
        assert raised.value.id == old


def test_all_who_wait_are_told(system: ActorSystem, backend: Backend) -> None:
    """An ask with this id in another client is the same ask: a revoke by one answers them all, also in asyncio."""
    ask_id = own()

    async def main() -> list[object]:
        async with AsyncClient(system, backend) as one, AsyncClient(system, backend) as other:
            ask = [
                each.ask(Door.enter, "k", Enter(name="nobody"), id=ask_id, timeout_s=LONG_S) for each in (one, other)
            ]
            tasks = [asyncio.create_task(each) for each in ask]
            while (found := await other.answer(Door.enter, "k", ask_id, timeout_s=LONG_S)) == NotAsked():
                pass
            revoked = await other.revoke(Door.enter, "k", ask_id, timeout_s=LONG_S)
            answers = await asyncio.gather(*tasks)
            return [found, revoked, *answers, await one.ask(Door.enter, "k", Enter(name="Ann"), timeout_s=LONG_S)]

    with Running(system, backend) as running:
        (outcome,) = in_threads(1, lambda _: asyncio.run(main()), lambda: running.tick(0.01))
    assert outcome == [StillOpen(state="parked"), Revoked(), UNDELIVERED, UNDELIVERED, Entered(name="Ann")]


def test_at_least_once(url: str) -> None:
    """Both work as exactly once, and the log is one that ``verify`` passes."""
    system = ActorSystem(f"by-id-{uuid.uuid4().hex[:12]}", settings=Settings(delivery="at-least-once"))
    system.host(Door, partitions=1, supervise=restart(on={ValueError: Directive.STOP}))
    with system.start(url) as running:
        client, parked, behind = running.client, own("parked"), own("behind")
        send(client, Enter(name="nobody"), parked)
        send(client, Enter(name="Bob"), behind)
        assert client.answer(Door.enter, "k", behind) == StillOpen(state="parked")
        assert client.revoke(Door.enter, "k", parked) == Revoked()
        assert client.ask(Door.enter, "k", Enter(name="Ann")) == Entered(name="Ann")
        running.settle()
        assert running.state(Door, "k") == Door(names=("Bob", "Ann"))
        report = verify(running.reader, system)
    assert not [str(offender) for check in report.checks for offender in check.offenders]
    assert report.fates == {"applied": 2, "dead-lettered": 1, "about an ask": 2}


def test_a_request_is_sent_again_and_says_what_is_unknown(client: Client, played: Played, books: ActorSystem) -> None:
    """It may be repeated, so it is, with the same headers and no ask id; at the deadline the error names the id."""
    reader, ask_id = played.inner.reader(), own("a/b")
    for call, words in (
        (client.answer, r"Notebook\.note of 'k' was not asked for its answer: no answer .*; fetch it again"),
        (client.revoke, r"Notebook\.note of 'k' may be revoked, now or later: no answer .*; revoke it again"),
    ):
        raised = unanswered(call, Notebook.note, "k", ask_id, timeout_s=SHORT_S)
        assert re.search(words, str(raised))
        assert raised.id == ask_id
    sent = commands(reader, books)
    reader.close()
    assert {record.value for record in sent} == {
        encode(each(id="a/b", made_at_ms=ask_id.made_at_ms)) for each in (FetchAnswer, Revoke)
    }
    assert all({*dict(record.headers)} == {MESSAGE_ID, CORRELATION_ID, REPLY_TO} for record in sent)
    assert ASK_ID not in dict(sent[0].headers)


@pytest.mark.parametrize("answer", [Done(), Undelivered(reason="unknown message"), Revoked()])
def test_a_shard_that_does_not_know_such_requests(client: Client, played: Played, answer: Any) -> None:
    """Its answer is no answer of the ask's, and is not taken for one."""
    played.on_append = lambda outputs: ([*outputs, reply(outputs[0], answer)], None)
    with pytest.raises(OutcomeUnknown, match="the shard answered"):
        client.answer(Notebook.note, "k", own(), timeout_s=LONG_S)


def test_a_reply_that_the_id_is_too_old(client: Client, played: Played) -> None:
    """At once, whatever the time-out."""
    played.on_append = lambda outputs: ([*outputs, reply(outputs[0], TooOld(reason="evicted"))], None)
    with pytest.raises(OutcomeUnknown, match="too old for the shard to remember it: evicted"):
        client.revoke(Notebook.note, "k", own(), timeout_s=LONG_S)


@pytest.mark.parametrize(
    ("handler", "key", "ask_id", "timeout_s", "words"),
    [
        (Stranger.greet, "k", own(), 5, "hosts no entity with the handler"),
        ("note", "k", own(), 5, "is not a @command method"),
        (Notebook.note, "", own(), 5, "key"),
        (Notebook.note, "k", "order-17", 5, r"id is an AskId\(id, made_at=…\), not str"),
        (Notebook.note, "k", None, 5, r"id is an AskId\(id, made_at=…\), not NoneType"),
        (Notebook.note, "k", own(), 0, "timeout_s is a number of seconds above 0, not 0"),
        (Notebook.note, "k", own(), 121, r"timeout_s=121 is over 120 s"),
    ],
)
def test_a_wrong_call_is_a_value_error(
    client: Client,
    played: Played,
    books: ActorSystem,
    handler: Any,
    key: str,
    ask_id: Any,
    timeout_s: float,
    words: str,
) -> None:
    """As with an ask, a sentence names the mistake, and nothing is sent."""
    for call in (client.answer, client.revoke):
        with pytest.raises(ValueError, match=words):
            call(handler, key, ask_id, timeout_s=timeout_s)
    reader = played.inner.reader()
    assert commands(reader, books) == []
    reader.close()

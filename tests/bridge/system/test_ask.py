"""Asks from outside, on every log: answers of every kind, what is sent and when again, and asks without an answer."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from datetime import UTC, datetime
from typing import Any

import pytest

from repertory import (
    ActorSystem,
    AskId,
    AskResult,
    AsyncClient,
    Client,
    ClientClosed,
    ClockAhead,
    Done,
    IdConflict,
    LogError,
    LogUnavailable,
    Message,
    OutcomeUnknown,
    Position,
    Refused,
    Running,
    TopicMismatch,
    Undelivered,
)
from repertory.actors.headers import AGAIN, ASK_ID, CORRELATION_ID, MESSAGE_ID, POSITION, REPLY_TO
from repertory.actors.message import TooOld
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.log.record import Output
from repertory.bridge.system.appends import AppendThread
from repertory.bridge.system.client_core import uuid7
from repertory.bridge.system.replies import FollowedReplies
from tests.bridge.system.asking import (
    Copy,
    Erase,
    Erased,
    Fail,
    Full,
    Increase,
    Look,
    Meter,
    Notebook,
    NothingThere,
    Played,
    Stranger,
    Write,
    Written,
    commands,
    made,
    reply,
    unanswered,
)
from tests.support.working import working

MANY = 50
#: Time-outs that are waited for, and those that never are: a hanging test is cut with a traceback.
SHORT_S, LONG_S = 0.3, 100.0


@pytest.fixture
def system() -> ActorSystem:
    return made()


@pytest.fixture
def running(system: ActorSystem, url: str) -> Iterator[Running]:
    with system.start(url) as running:
        yield running


@pytest.fixture
def played(system: ActorSystem, backend: Backend) -> Iterator[Played]:
    """Yield a log with the system's topics, on which no worker runs."""
    system.prepare(backend)
    yield Played(backend)
    backend.close()


@pytest.fixture
def reader(played: Played) -> Iterator[Reader]:
    reader = played.inner.reader()
    yield reader
    reader.close()


@pytest.fixture
def client(system: ActorSystem, played: Played) -> Iterator[Client]:
    with Client(system, played) as client:
        yield client


def own(text: str = "order-17") -> AskId:
    return AskId(text, made_at=datetime.now(UTC))


def answering(*answers: Message) -> Callable[[Sequence[Output]], tuple[list[Output], None]]:
    """Return shards that answer within the append: no reply can come sooner."""
    return lambda outputs: ([*outputs, *(reply(outputs[0], answer) for answer in answers)], None)


def in_threads(count: int, act: Callable[[int], object], meanwhile: Callable[[], object]) -> list[object]:
    """Run ``act`` in threads, work until they have ended, and return what each returned or raised."""
    outcomes: list[object] = [None] * count

    def run(number: int) -> None:
        try:
            outcomes[number] = act(number)
        except BaseException as error:  # noqa: BLE001  the test looks at it
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        meanwhile()
    return outcomes


def arrived(reader: Reader, system: ActorSystem, count: int) -> None:
    """Wait until so many commands are in the log."""
    while len(commands(reader, system)) < count:
        pass


# --- answers --------------------------------------------------------------------------------------------------


def test_answers_of_every_kind(running: Running) -> None:
    """An ask returns the event, the last of a tuple, the rejection, Done, or Undelivered, while it drives the loop."""
    ask = running.client.ask
    assert ask(Notebook.erase, "k", Erase()) == NothingThere(key="k")
    assert ask(Notebook.note, "k", Write(text="x")) == Written(text="x")
    assert ask(Notebook.erase, "k", Erase()) == Erased()
    assert ask(Notebook.look, "k", Look()) == Done()
    assert ask(Notebook.copy, "k", Copy(text="x")) == Written(text="X")
    undelivered = ask(Notebook.fail, "k", Fail())
    assert isinstance(undelivered, Undelivered)
    assert "torn" in undelivered.reason
    assert ask(Meter.add, "c", Increase(number=10)) == Done()
    assert ask(Meter.add, "c", Increase(number=1)) == Full()
    assert ask(Notebook.note, "k", Write(text="y"), repeat=False) == Written(text="y")
    assert ask(Notebook.note, "k", Write(text="z"), id=own(), timeout_s=120) == Written(text="z")
    running.settle()
    assert running.state(Notebook, "k") == Notebook(texts=("x", "X", "y", "z"))


def test_a_client_of_its_own(system: ActorSystem, url: str, kind: str) -> None:
    """``system.client(URL)`` and ``system.async_client(URL)`` ask the nodes that run on a log."""
    if kind == "memory":
        with pytest.raises(ValueError, match="memory: is for one process"):
            system.async_client(url)
        return

    async def both() -> list[object]:
        async with system.async_client(url) as client:
            await client.tell(Notebook.note, "k", Write(text="x"))
            return [
                await client.ask(Notebook.erase, "k", Erase()),
                await client.ask_result(Notebook.erase, "k", Erase()),
            ]

    with working(system, url):
        with system.client(url) as client:
            assert client.ask(Notebook.note, "k", Write(text="y")) == Written(text="y")
            assert client.ask_result(Notebook.look, "k", Look()).value == Done()
        value, result = asyncio.run(both())
    assert value == Erased()
    assert isinstance(result, AskResult)
    assert (result.value, result.again) == (Erased(), False)
    assert result.position is not None
    assert result.position.entity == "notebook"


def test_threads_ask_at_once(system: ActorSystem, backend: Backend) -> None:
    """Fifty threads ask through one client, and each gets its own answer."""
    with Running(system, backend) as running, Client(system, backend) as client:
        outcomes = in_threads(
            MANY,
            lambda number: client.ask(Notebook.note, f"k-{number % 7}", Write(text=f"{number}"), timeout_s=LONG_S),
            lambda: running.tick(0.01),
        )
        assert outcomes == [Written(text=f"{number}") for number in range(MANY)]


def test_threads_ask_a_running_at_once(running: Running) -> None:
    """Threads that ask through ``running.client`` drive the loop in turns."""
    outcomes = in_threads(
        8,
        lambda number: [
            running.client.ask(Notebook.note, f"k-{number}", Write(text=f"{number}/{index}"), timeout_s=LONG_S)
            for index in range(5)
        ],
        lambda: None,
    )
    assert outcomes == [[Written(text=f"{number}/{index}") for index in range(5)] for number in range(8)]


def test_tasks_ask_at_once(system: ActorSystem, backend: Backend) -> None:
    """Fifty tasks ask through one client, and each gets its own answer; so do those of a second event loop."""
    with Running(system, backend) as running:
        client = AsyncClient(system, backend)

        async def ask_all(by: int) -> list[Message]:
            return await asyncio.gather(
                *(
                    client.ask(Notebook.note, f"k-{number % 7}", Write(text=f"{by}/{number}"), timeout_s=LONG_S)
                    for number in range(MANY)
                )
            )

        outcomes = in_threads(2, lambda by: asyncio.run(ask_all(by)), lambda: running.tick(0.01))
        assert outcomes == [[Written(text=f"{by}/{number}") for number in range(MANY)] for by in range(2)]
        asyncio.run(client.close())


# --- replies --------------------------------------------------------------------------------------------------


def test_the_end_of_the_replies_is_known_before_the_command_is_sent(client: Client, played: Played) -> None:
    """A reply is found that is in the log before the append of its command has returned.

    If the end were read later, it would be behind the reply: here the log is slow to say where the end is.
    """
    appended, were_early = threading.Event(), list[bool]()

    def on_append(outputs: Sequence[Output]) -> tuple[list[Output], None]:
        appended.set()
        return answering(Written(text="x"))(outputs)

    played.on_append = on_append
    played.on_bounds = lambda: were_early.append(appended.wait(0.2))
    for _ in range(3):
        assert client.ask(Notebook.note, "k", Write(text="x"), repeat=False, timeout_s=LONG_S) == Written(text="x")
    assert were_early == [False]


def test_nothing_is_sent_before_the_log_has_said_where_the_replies_end(
    client: Client, played: Played, reader: Reader, system: ActorSystem
) -> None:
    """Step by step: until then the ask waits for that, and then it is sent, and its answer is found."""
    go_on = threading.Event()
    played.on_bounds = go_on.wait
    played.on_append = answering(Written(text="x"))
    ask = client._core.ask(Notebook.note, "k", Write(text="x"), {"timeout_s": LONG_S})
    steps = client._core.steps(ask)
    try:
        awaited, _ = next(steps)
        assert not any(each.done() for each in awaited), "it would be sent now"
        assert commands(reader, system) == []
    finally:
        go_on.set()
    wait(awaited, return_when=FIRST_COMPLETED)
    for futures, left_s in steps:
        wait(futures, left_s, FIRST_COMPLETED)
    assert ask.answer.result().value == Written(text="x")


def test_a_client_that_is_mostly_idle(system: ActorSystem, played: Played) -> None:
    """Its threads end when there is nothing to do, at whatever moment, and the next ask starts others."""
    played.on_append = answering(Written(text="x"))
    replies = FollowedReplies(played.reader, system.name, idle_s=0.0)
    with Client(system, played) as client:
        client._core._replies = replies
        client._core._appends = AppendThread(client._core.append, "appends", idle_s=0.0)
        for number in range(30):
            assert client.ask(Notebook.note, "k", Write(text=f"{number}"), timeout_s=LONG_S) == Written(text="x")


@pytest.mark.parametrize("answer", [IdConflict(), ClockAhead(), Undelivered(reason="dropped"), Done(), Erased()])
def test_answers_that_are_not_the_handlers_own(client: Client, played: Played, answer: Message) -> None:
    """The table of answers answers too, and a kept sender may be answered by another handler of the entity."""
    played.on_append = answering(answer)
    assert client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S) == answer


def test_the_position_and_the_repetition_of_an_answer(client: Client, played: Played) -> None:
    """``ask_result`` says up to where the shard had come, and whether the answer had been given before."""
    headers = ((AGAIN, b"1"), (POSITION, b"notebook/1/17"))
    played.on_append = lambda outputs: ([*outputs, reply(outputs[0], Written(text="x"), headers=headers)], None)
    result = client.ask_result(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S)
    assert result == AskResult(Written(text="x"), Position("notebook", 1, 17), again=True)
    headers = ((AGAIN, b"0"), (POSITION, b"\xff"))
    assert client.ask_result(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S) == AskResult(Written(text="x"))


def test_what_is_no_reply_is_ignored(client: Client, played: Played) -> None:
    """Replies of other clients on the same partition, and garbage that anybody may write there, answer nothing."""

    def noisy(outputs: Sequence[Output]) -> tuple[list[Output], None]:
        wrong = Written(text="wrong")
        first = reply(outputs[0], wrong)
        return [
            *outputs,
            reply(outputs[0], wrong, to=uuid.uuid4().hex.encode()),
            Output(first.topic, first.partition, None, None),
            Output(first.topic, first.partition, None, first.value, ((CORRELATION_ID, b"\xff"),)),
            reply(outputs[0], b"garbage"),
            reply(outputs[0], b""),
            reply(outputs[0], None),
            reply(outputs[0], Write(text="a command")),
            reply(outputs[0], Written(text="right")),
            reply(outputs[0], wrong),
        ], None

    played.on_append = noisy
    for _ in range(2):
        assert client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S) == Written(text="right")


def test_a_reply_that_cannot_be_read_is_named(client: Client, played: Played) -> None:
    """Where only garbage answers, the error at the deadline says so, if the garbage came before the deadline."""
    played.on_append = lambda outputs: ([*outputs, reply(outputs[0], b"garbage")], None)

    def is_named(timeout_s: float) -> bool:
        raised = unanswered(client.ask, Notebook.note, "k", Write(text="x"), timeout_s=timeout_s)
        return bool(re.search(r"the reply .*replies/\d@\d+ cannot be read", str(raised)))

    assert any(is_named(SHORT_S * 4**step) for step in range(5))


# --- what is sent ---------------------------------------------------------------------------------------------


def test_the_headers_of_an_ask(client: Client, played: Played, reader: Reader, system: ActorSystem) -> None:
    """An ask carries its message id, its own correlation id, the partition of its replies, and its id."""
    played.on_append = answering(Written(text="x"))
    ask_id = own("a/b")
    for options in ({"id": ask_id}, {}, {"repeat": False}):
        client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S, **options)
    first, second, third = (dict(record.headers) for record in commands(reader, system))
    assert set(first) == set(second) == {MESSAGE_ID, CORRELATION_ID, REPLY_TO, ASK_ID}
    assert set(third) == {MESSAGE_ID, CORRELATION_ID, REPLY_TO}
    assert first[ASK_ID] == f"{ask_id.made_at_ms}/a/b".encode()
    made_id = uuid.UUID(second[ASK_ID].decode().removeprefix("auto/"))
    assert (made_id.version, made_id.variant) == (7, uuid.RFC_4122)
    assert len({headers[CORRELATION_ID] for headers in (first, second, third)}) == 3
    assert first[REPLY_TO] == third[REPLY_TO]
    topic, _, partition = first[REPLY_TO].decode().partition("/")
    assert topic == f"{system.name}.replies"
    assert 0 <= int(partition) < 8


def test_a_uuid_of_version_7() -> None:
    """The example of RFC 9562, appendix A.6, and the bits of the time and of chance do not mix."""
    assert uuid7(0x017F22E279B0, 0xCC3 << 62 | 0x18C4DC0C0C07398F) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    assert uuid7((1 << 48) - 1, 0) == "ffffffff-ffff-7000-8000-000000000000"
    assert uuid7(0, (1 << 74) - 1) == "00000000-0000-7fff-bfff-ffffffffffff"


def unknown(played: Played, appends: int) -> list[Sequence[Output]]:
    """Play a log on which so many appends have an unknown outcome, and later ones are answered; return them all."""
    tried: list[Sequence[Output]] = []

    def on_append(outputs: Sequence[Output]) -> tuple[list[Output], LogError | None]:
        tried.append(outputs)
        if len(tried) <= appends:
            return [], OutcomeUnknown("the connection broke")
        return answering(Written(text="x"))(outputs)

    played.on_append = on_append
    return tried


@pytest.mark.parametrize("options", [{}, {"id": AskId("order-17", datetime(2026, 11, 27, tzinfo=UTC))}])
def test_an_append_of_unknown_outcome_is_repeated(client: Client, played: Played, options: dict[str, Any]) -> None:
    """The client sends the same command again, headers included, until it knows the outcome."""
    tried = unknown(played, 3)
    assert client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S, **options) == Written(text="x")
    assert len(tried) == 4
    assert all(outputs == tried[0] for outputs in tried)


def test_without_an_id_nothing_is_repeated(client: Client, played: Played) -> None:
    """With ``repeat=False`` the command is sent once, whatever becomes of it: the caller decides."""
    tried = unknown(played, 1)
    with pytest.raises(OutcomeUnknown, match=r"no answer came within 0\.3 s \(the connection broke\)") as raised:
        client.ask(Notebook.note, "k", Write(text="x"), timeout_s=SHORT_S, repeat=False)
    assert len(tried) == 1
    assert raised.value.id is None
    assert raised.value.message_id == dict(tried[0][0].headers)[MESSAGE_ID].decode()


def test_a_missing_answer_is_asked_for_again(client: Client, played: Played) -> None:
    """Where the reply to a command in the log does not come, the command is sent again within the time-out."""
    tried: list[Sequence[Output]] = []

    def on_append(outputs: Sequence[Output]) -> tuple[list[Output], None]:
        tried.append(outputs)
        return answering(*[Written(text="x")] * (len(tried) - 1))(outputs)

    played.on_append = on_append
    assert client.ask(Notebook.note, "k", Write(text="x"), timeout_s=20.0) == Written(text="x")
    assert tried[0] == tried[1]


@pytest.mark.parametrize("error", [LogUnavailable("out of reach"), Refused("too large"), LogUnavailable("x")])
def test_what_is_not_in_the_log_is_said_at_once(client: Client, played: Played, error: LogError) -> None:
    """Where nothing was appended, the ask raises what ``tell`` raises, and does not wait."""
    played.on_append = lambda _outputs: ([], error)
    with pytest.raises(type(error), match=str(error)):
        client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S)


def test_a_refusal_after_an_unknown_outcome_is_no_refusal(client: Client, played: Played) -> None:
    """The first attempt may be in the log: only its answer, or the deadline, ends the ask."""
    errors: list[LogError] = [OutcomeUnknown("it broke"), LogUnavailable("out of reach"), Refused("too large")]
    played.on_append = lambda _outputs: ([], errors.pop(0))
    with pytest.raises(OutcomeUnknown, match="too large"):
        client.ask(Notebook.note, "k", Write(text="x"), timeout_s=5.0)
    assert errors == []


def test_one_refused_command_of_many_tasks(system: ActorSystem, played: Played) -> None:
    """Commands of several tasks are appended together; one that is refused refuses no other."""

    def on_append(outputs: Sequence[Output]) -> tuple[list[Output], LogError | None]:
        if any(b"bad" in (output.value or b"") for output in outputs):
            return [], Refused("too large")
        return [*outputs, *(reply(output, Written(text="x")) for output in outputs)], None

    async def ask_all() -> list[object]:
        async with AsyncClient(system, played) as client:
            return await asyncio.gather(
                *(
                    client.ask(Notebook.note, "k", Write(text="bad" if number % 10 == 3 else "x"), timeout_s=LONG_S)
                    for number in range(30)
                ),
                return_exceptions=True,
            )

    played.on_append = on_append
    outcomes = asyncio.run(ask_all())
    for number, outcome in enumerate(outcomes):
        if number % 10 == 3:
            assert isinstance(outcome, Refused)
        else:
            assert outcome == Written(text="x")


# --- without an answer ----------------------------------------------------------------------------------------


def test_no_worker_is_running(system: ActorSystem, played: Played, client: Client, reader: Reader) -> None:
    """At the deadline the ask raises OutcomeUnknown with its id; the command is in the log, and a worker applies it."""
    ask_id = own()
    raised = unanswered(client.ask, Notebook.note, "k", Write(text="x"), timeout_s=SHORT_S, id=ask_id)
    assert re.search(r"Notebook\.note of 'k' may be applied.*'order-17'.*at most once", str(raised))
    assert raised.id == ask_id
    raised = unanswered(client.ask, Notebook.look, "k", Look(), timeout_s=SHORT_S)
    assert "read the state before asking again" in str(raised)
    assert raised.id is None
    assert len({dict(record.headers)[MESSAGE_ID] for record in commands(reader, system)}) == 2
    with Running(system, played.inner) as running:
        outcomes = in_threads(
            1,
            lambda _: client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S, id=ask_id),
            lambda: running.tick(0.01),
        )
        assert outcomes == [Written(text="x")]
        state = running.state(Notebook, "k")
        assert state is not None
        assert set(state.texts) == {"x"}


def test_an_append_that_hangs(client: Client, played: Played, reader: Reader, system: ActorSystem) -> None:
    """An ask keeps its time-out while the log hangs. What was not sent by then is not sent later, as the error says."""
    begun, going_on = threading.Event(), threading.Event()

    def on_append(outputs: Sequence[Output]) -> tuple[Sequence[Output], None]:
        begun.set()
        going_on.wait()
        return outputs, None

    played.on_append = on_append
    try:
        with pytest.raises(OutcomeUnknown, match=r"Notebook\.note of 'k' may be applied, now or later"):
            client.ask(Notebook.note, "k", Write(text="first"), timeout_s=SHORT_S)
        assert begun.is_set()
        with pytest.raises(LogUnavailable, match=r"nothing was appended: .* had 0\.3 s, and the log did not take it"):
            client.ask(Notebook.note, "k", Write(text="second"), timeout_s=SHORT_S)
    finally:
        going_on.set()
    client.close()
    (record,) = commands(reader, system)
    assert b"first" in (record.value or b"")


def test_an_id_that_is_too_old(client: Client, played: Played) -> None:
    """What the shard may have forgotten may have happened: OutcomeUnknown at once, and no Rejection."""
    played.on_append = answering(TooOld(reason="evicted"))
    ask_id = own()
    with pytest.raises(OutcomeUnknown, match="its id is too old for the shard to remember it: evicted") as raised:
        client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S, id=ask_id)
    assert raised.value.id == ask_id


def test_a_client_that_is_closed_with_open_asks(system: ActorSystem, played: Played, reader: Reader) -> None:
    """Each open ask raises OutcomeUnknown at once, and each later one ClientClosed; ``close`` may be called again."""
    client = Client(system, played)
    ids = [own(f"order-{number}") for number in range(5)]
    closed = False

    def close() -> None:
        nonlocal closed
        if not closed:
            arrived(reader, system, 5)
            client.close()
            closed = True

    outcomes = in_threads(
        5, lambda number: client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S, id=ids[number]), close
    )
    for outcome, ask_id in zip(outcomes, ids, strict=True):
        assert isinstance(outcome, OutcomeUnknown)
        assert outcome.id == ask_id
        assert "its client was closed" in str(outcome)
    client.close()
    with pytest.raises(ClientClosed, match="is closed"):
        client.ask(Notebook.note, "k", Write(text="x"))


def test_an_async_client_that_is_closed_with_open_asks(system: ActorSystem, played: Played) -> None:
    """The same for tasks."""

    async def main() -> list[object]:
        client = AsyncClient(system, played)
        sent = asyncio.Event()
        loop = asyncio.get_running_loop()
        played.on_append = lambda outputs: (loop.call_soon_threadsafe(sent.set), (outputs, None))[1]
        task = asyncio.create_task(client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S))
        await sent.wait()
        await client.close()
        outcomes = await asyncio.gather(task, client.ask(Notebook.note, "k", Write(text="x")), return_exceptions=True)
        outcomes += await asyncio.gather(client.tell(Notebook.note, "k", Write(text="x")), return_exceptions=True)
        return outcomes

    first, second, third = asyncio.run(main())
    assert isinstance(first, OutcomeUnknown)
    assert isinstance(second, ClientClosed)
    assert isinstance(third, ClientClosed)


def test_a_task_that_is_cancelled(system: ActorSystem, played: Played) -> None:
    """An ask ends with its task, and the client goes on."""

    async def main() -> Message:
        async with AsyncClient(system, played) as client:
            sent = asyncio.Event()
            loop = asyncio.get_running_loop()
            played.on_append = lambda outputs: (loop.call_soon_threadsafe(sent.set), (outputs, None))[1]
            task = asyncio.create_task(client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S))
            await sent.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            played.on_append = answering(Written(text="y"))
            return await client.ask(Notebook.note, "k", Write(text="y"), timeout_s=LONG_S)

    assert asyncio.run(main()) == Written(text="y")


def test_a_running_that_is_closed_with_open_asks(running: Running) -> None:
    """Other threads that drive it while it is closed are not left waiting."""
    seen = threading.Semaphore(0)
    running.report = lambda _report: None

    def ask(number: int) -> Message:
        seen.release()
        while True:
            running.client.ask(Notebook.note, f"k-{number}", Write(text="x"), timeout_s=LONG_S)

    def close() -> None:
        if seen.acquire(blocking=False):
            running.close()

    outcomes = in_threads(3, ask, close)
    assert all(isinstance(outcome, OutcomeUnknown | ClientClosed) for outcome in outcomes), outcomes


def test_a_running_that_is_closed_takes_no_ask(running: Running) -> None:
    """Its client opens nothing again, so the error does not depend on whether it has asked before."""
    running.close()
    for _ in range(2):
        with pytest.raises(ClientClosed):
            running.client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_client_does_not_survive_a_fork(client: Client, played: Played) -> None:
    """In a forked process an ask is ClientClosed at once: the thread that reads replies is not there."""
    played.on_append = answering(Written(text="x"))
    client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            client.ask(Notebook.note, "k", Write(text="child"))
        except ClientClosed as error:
            code = 0 if "system.client(URL)" in str(error) else 2
        finally:
            client.close()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- errors of the caller -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "message", "options", "words"),
    [
        (Stranger.greet, Look(), {}, "hosts no entity with the handler"),
        (Notebook.note, Look(), {}, "does not take Look"),
        ("note", Look(), {}, "is not a @command method"),
        (Notebook.note, Write(text="x"), {"timeout_s": 0}, "timeout_s is a number of seconds above 0, not 0"),
        (Notebook.note, Write(text="x"), {"timeout_s": -1.0}, "above 0, not -1"),
        (Notebook.note, Write(text="x"), {"timeout_s": float("nan")}, "above 0, not nan"),
        (Notebook.note, Write(text="x"), {"timeout_s": float("inf")}, "above 0, not inf"),
        (Notebook.note, Write(text="x"), {"timeout_s": "5"}, "above 0, not '5'"),
        (Notebook.note, Write(text="x"), {"timeout_s": True}, "above 0, not True"),
        (Notebook.note, Write(text="x"), {"timeout_s": 120.5}, r"timeout_s=120.5 is over 120 s \(ask_timeout_max_s\)"),
        (Notebook.note, Write(text="x"), {"id": "order-17"}, r"id is an AskId\(id, made_at=…\), not str"),
        (Notebook.note, Write(text="x"), {"id": own(), "repeat": False}, "repeat=False asks without an id"),
        (Notebook.note, Write(text="x"), {"repeat": 3}, "repeat is True or False, not 3"),
    ],
)
def test_a_wrong_ask_is_a_value_error(
    client: Client, reader: Reader, system: ActorSystem, handler: Any, message: Any, options: Any, words: str
) -> None:
    """What the caller did wrong is a ValueError that names it, and nothing is sent."""
    with pytest.raises(ValueError, match=words):
        client.ask(handler, "k", message, **options)
    assert commands(reader, system) == []


def test_an_option_that_does_not_exist(client: Client) -> None:
    """A misspelt option is a TypeError, as with any function."""
    with pytest.raises(TypeError, match="an ask has no option 'timeout'; it has timeout_s, id and repeat"):
        client.ask(Notebook.note, "k", Write(text="x"), timeout=5)  # type: ignore[call-overload]


def test_a_message_that_no_shard_would_read_is_refused(client: Client, reader: Reader, system: ActorSystem) -> None:
    """As with ``tell``, a command that is too large is not sent."""
    with pytest.raises(Refused, match="over 10,000"):
        client.ask(Notebook.note, "k", Write(text="x" * 10_000))
    assert commands(reader, system) == []


def test_a_log_without_a_replies_topic(system: ActorSystem, backend: Backend) -> None:
    """Without a topic for replies nothing is sent, and the error says how it is created."""
    backend.ensure([spec for spec in system.topic_specs() if not spec.name.endswith(".replies")])
    with Client(system, backend) as client:
        with pytest.raises(
            TopicMismatch, match=r"replies to asks go to .*\.replies/\d.*repertory topics MODULE:SYSTEM"
        ):
            client.ask(Notebook.note, "k", Write(text="x"), timeout_s=LONG_S)
        client.tell(Notebook.note, "k", Write(text="x"))
        reader = backend.reader()
        assert len(commands(reader, system)) == 1
        reader.close()
    backend.close()

"""``Client`` on every log: each error is one of those that ``tell`` documents, and any thread may call it."""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections import Counter as Count
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from repertory import (
    ActorSystem,
    Client,
    ClientClosed,
    Command,
    Entity,
    Event,
    LogUnavailable,
    LogUnusable,
    Refused,
    Running,
    Settings,
    TopicMismatch,
    command,
    event,
)
from repertory.bridge.topics import commands_topic

THREADS, TELLS = 16, 25


class Note(Command):
    """Write something down."""

    text: str
    by: int = 0


class Foreign(Command):
    """A command of no entity."""


class Noted(Event):
    """Something is written down."""

    text: str


class Notebook(Entity):
    """Counts what is written down."""

    texts: tuple[str, ...] = ()

    @command
    def note(self, cmd: Note) -> Noted:
        """Write down."""
        return Noted(text=cmd.text)

    @event
    def noted(self, evt: Noted) -> Self:
        """Keep it."""
        return self.replace(texts=(*self.texts, evt.text))


class Stranger(Entity):
    """Is hosted by no system."""

    @command
    def greet(self, _cmd: Foreign) -> None:
        """Greet."""


def made(settings: Settings | None = None) -> ActorSystem:
    """Return a system with a name of its own: the tests share one Kafka."""
    system = ActorSystem(f"notes-{uuid.uuid4().hex[:12]}", settings=settings or Settings(input_bytes_max=10_000))
    system.host(Notebook, partitions=2)
    return system


@pytest.fixture
def system() -> ActorSystem:
    return made()


@pytest.fixture
def running(system: ActorSystem, url: str) -> Iterator[Running]:
    with system.start(url) as running:
        yield running


@pytest.fixture
def client(running: Running) -> Client:
    return running.client


def commands(running: Running) -> list[bytes]:
    """Return the message ids in the commands topic."""
    topic = commands_topic(running.system.name, "notebook")
    return [
        dict(record.headers)["message-id"] for partition in range(2) for record in running.reader.read(topic, partition)
    ]


# --- errors of the caller -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "key", "message", "words"),
    [
        (Stranger.greet, "k", Foreign(), "hosts no entity with the handler"),
        ("note", "k", Note(text="x"), "'note' is not a @command method of an entity"),
        (None, "k", Note(text="x"), "None is not a @command method of an entity"),
        (Notebook.note, "k", Foreign(), "does not take Foreign"),
        (Notebook.note, "k", "text", "does not take str"),
        (Notebook.note, "k", Note, "does not take"),
        (Notebook.note, "", Note(text="x"), "1 to 255 bytes"),
        (Notebook.note, "k" * 256, Note(text="x"), "1 to 255 bytes"),
        (Notebook.note, "a\0b", Note(text="x"), "no NUL"),
        (Notebook.note, "a\udc80", Note(text="x"), "UTF-8"),
        (Notebook.note, 17, Note(text="x"), "a key is text, not int"),
        (Notebook.note, b"k", Note(text="x"), "a key is text, not bytes"),
        (Notebook.note, None, Note(text="x"), "a key is text, not NoneType"),
        (Notebook.note, "k", Note(text=17), "Note cannot be decoded again: .*text"),  # type: ignore[arg-type]
        (Notebook.note, "k", Note(text=object()), "Note cannot be encoded"),  # type: ignore[arg-type]
        (Notebook.note, "k", Note(text="half \ud83d"), "Note cannot be encoded"),
        (Notebook.note, "k", Note(text="x", by=1 << 70), "Note cannot be encoded"),
    ],
)
def test_a_wrong_call_is_a_value_error(running: Running, handler: Any, key: Any, message: Any, words: str) -> None:
    """What the caller did wrong is a ValueError that names it, on every log, and nothing is appended."""
    with pytest.raises(ValueError, match=words):
        running.client.tell(handler, key, message)
    assert commands(running) == []


def test_a_message_that_contains_itself_is_a_value_error(client: Client) -> None:
    """Encoding ends, whatever a field holds."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Note cannot be encoded"):
        client.tell(Notebook.note, "k", Note(text=loop))  # type: ignore[arg-type]


def test_one_wrong_command_of_many_appends_none(running: Running) -> None:
    """``tell_all`` checks all of them first."""
    with pytest.raises(ValueError, match="no NUL"):
        running.client.tell_all([(Notebook.note, "k", Note(text="x")), (Notebook.note, "\0", Note(text="x"))])
    assert commands(running) == []


def test_a_message_that_no_shard_would_read_is_refused(running: Running) -> None:
    """A value above ``input_bytes_max`` would be dead-lettered undecoded, so it is not appended."""
    with pytest.raises(Refused, match=r"Note has 10,0\d\d bytes, over 10,000 \(input_bytes_max\)"):
        running.client.tell(Notebook.note, "k", Note(text="x" * 10_000))
    assert commands(running) == []


def test_the_state_of_an_entity_that_is_not_hosted(running: Running) -> None:
    """``Running.state`` names the entities that there are, and what is wrong with a key."""
    with pytest.raises(LookupError, match=r"does not host .*Stranger.*; it hosts Notebook"):
        running.state(Stranger, "k")
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        running.state(Notebook, "")


def test_a_closed_client_says_so(system: ActorSystem, url: str) -> None:
    """After ``close``, which may be called twice, a tell is ClientClosed and appends nothing."""
    with system.start(url) as running:
        client = running.client
        client.tell(Notebook.note, "k", Note(text="before"))
        client.close()
        client.close()
        for _ in range(2):
            with pytest.raises(ClientClosed, match="is closed"):
                client.tell(Notebook.note, "k", Note(text="after"))
        assert len(commands(running)) == 1
    with pytest.raises(ClientClosed):
        client.tell(Notebook.note, "k", Note(text="after"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_client_does_not_survive_a_fork(client: Client) -> None:
    """In a forked process a tell is ClientClosed at once: Kafka's threads are not there, and a lock may be held."""
    with client._core.lock:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                client.tell(Notebook.note, "k", Note(text="child"))
            except ClientClosed as error:
                code = 0 if "system.client(URL)" in str(error) else 2
            finally:
                client.close()
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- threads --------------------------------------------------------------------------------------------------


def test_threads_share_a_client(running: Running) -> None:
    """What sixteen threads tell, while the worker works, is in the log exactly as often as it was acknowledged."""
    acknowledged: list[list[str]] = [[] for _ in range(THREADS)]

    def tell(number: int) -> None:
        for index in range(TELLS):
            message = Note(text=f"{number}/{index}")
            acknowledged[number].append(running.client.tell(Notebook.note, f"k-{number}", message))

    threads = [threading.Thread(target=tell, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        running.tick(0.01)
    running.settle()
    told = [message_id.encode() for each in acknowledged for message_id in each]
    assert len(told) == THREADS * TELLS
    assert Count(commands(running)) == Count(told)
    for number in range(THREADS):
        notebook = running.state(Notebook, f"k-{number}")
        assert notebook is not None
        assert notebook.texts == tuple(f"{number}/{index}" for index in range(TELLS))


def test_closing_while_others_tell(system: ActorSystem, url: str) -> None:
    """Each call of another thread succeeds, and is in the log, or raises ClientClosed, and is not. None hangs."""
    with system.start(url) as running:
        client = running.client
        acknowledged: list[list[str]] = [[] for _ in range(THREADS)]
        refused, others = [0] * THREADS, list[BaseException]()
        begun = threading.Semaphore(0)

        def tell(number: int) -> None:
            try:
                while refused[number] < 2:
                    try:
                        acknowledged[number].append(client.tell(Notebook.note, f"k-{number}", Note(text="x")))
                    except ClientClosed:
                        refused[number] += 1
                    begun.release()
            except BaseException as error:  # noqa: BLE001  the test reports it
                others.append(error)

        threads = [threading.Thread(target=tell, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for _ in range(2 * THREADS):
            assert begun.acquire(timeout=60.0)
        client.close()
        for thread in threads:
            thread.join(60.0)
        assert not any(thread.is_alive() for thread in threads)
        assert others == []
        assert Count(commands(running)) == Count(message_id.encode() for each in acknowledged for message_id in each)


# --- a client in any process ----------------------------------------------------------------------------------


def test_a_client_of_its_own(system: ActorSystem, url: str, kind: str) -> None:
    """``system.client(URL)`` sends to the nodes that run on a log, and starts no shard."""
    if kind == "memory":
        with pytest.raises(ValueError, match="memory: is for one process"):
            system.client(url)
        return
    with system.start(url) as running:
        with system.client(url) as client:
            client.tell(Notebook.note, "k", Note(text="hello"))
        with pytest.raises(ClientClosed):
            client.tell(Notebook.note, "k", Note(text="again"))
        running.settle()
        assert running.state(Notebook, "k") == Notebook(texts=("hello",))


def test_a_client_of_a_system_that_never_ran(system: ActorSystem, url: str, kind: str, tmp_path: Path) -> None:
    """Without the system's topics there is no client, and none is created; nor with other numbers of partitions."""
    if kind == "memory":
        return
    with pytest.raises(TopicMismatch, match=r"has no topic .*notebook\.commands.* repertory topics"):
        system.client(url)
    assert list(tmp_path.iterdir()) == []
    with system.start(url):
        other = ActorSystem(system.name)
        other.host(Notebook, partitions=3)
        with pytest.raises(TopicMismatch, match="has 2 partitions, this code declares 3"):
            other.client(url)


def test_a_client_of_a_system_without_entities() -> None:
    """A system that hosts nothing has no client."""
    with pytest.raises(ValueError, match="hosts no entity"):
        ActorSystem("empty").client("sqlite:empty.db")


# --- errors of the log ----------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@pytest.fixture
def sqlite_client(path: Path) -> Iterator[Client]:
    """Yield a client of its own of a system whose log is there."""
    system = made(Settings(lock_timeout_s=0.2))
    with system.start(f"sqlite:{path}"):
        pass
    with system.client(f"sqlite:{path}") as client:
        yield client


def told(client: Client) -> str:
    return client.tell(Notebook.note, "k", Note(text="x" * 5_000))


def test_a_busy_file_is_unavailable(path: Path, sqlite_client: Client) -> None:
    """Another process that holds the file: LogUnavailable, nothing is appended, and the next call may succeed."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogUnavailable, match=r"has been locked by .* nothing was written"):
        told(sqlite_client)
    other.execute("ROLLBACK")
    other.close()
    told(sqlite_client)


def test_a_full_disk_is_unavailable(sqlite_client: Client) -> None:
    """A disk that is full: LogUnavailable, and the next call may succeed."""
    store = sqlite_client._core.appender._store  # type: ignore[attr-defined]
    pages = store.rows("PRAGMA page_count")[0][0]
    store.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LogUnavailable, match="disk is full"):
        sqlite_client.tell_all([(Notebook.note, "k", Note(text="x" * 5_000))] * 3)
    store.rows("PRAGMA max_page_count = 1000000")
    told(sqlite_client)


def test_a_file_that_may_only_be_read_is_unavailable(sqlite_client: Client) -> None:
    """A file that may not be written: LogUnavailable."""
    sqlite_client._core.appender._store.rows("PRAGMA query_only = 1")  # type: ignore[attr-defined]
    with pytest.raises(LogUnavailable, match="cannot be opened for writing"):
        told(sqlite_client)


def test_a_record_that_the_file_cannot_hold_is_refused(sqlite_client: Client) -> None:
    """SQLite's own limit for a row: Refused, and smaller ones are taken."""
    connection = sqlite_client._core.appender._store.connection()  # type: ignore[attr-defined]
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 4_000)
    with pytest.raises(Refused, match="takes no record of that size"):
        told(sqlite_client)
    sqlite_client.tell(Notebook.note, "k", Note(text="x"))


def test_a_log_that_is_not_ours_is_unusable(path: Path, sqlite_client: Client) -> None:
    """Another schema, another application's file or no SQLite file at all: LogUnusable, and nothing in it changes."""
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET schema_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(LogUnusable, match="schema 99"):
        told(sqlite_client)
    path.with_name("notes.db-wal").unlink(missing_ok=True)
    path.with_name("notes.db-shm").unlink(missing_ok=True)
    path.write_bytes(b"no database " * 1_000)
    with pytest.raises(LogUnusable, match="is not an SQLite file"):
        told(sqlite_client)


@pytest.mark.parametrize("name", ["x" * 300, "a/b/c.db", "bad-\udc80/notes.db"])
def test_a_path_that_cannot_be_opened_is_unavailable(tmp_path: Path, name: str) -> None:
    """Whatever the path is, the error is a LogError that names it."""
    with pytest.raises(LogUnavailable, match=r"the log .* cannot be (opened|made)"):
        made().start(f"sqlite:{tmp_path / name}")

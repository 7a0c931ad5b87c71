"""Projectors as processes of a node: killed, stopped within their transaction, without their database."""

from __future__ import annotations

import signal
import time
import uuid
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from repertory import Client, NodeHandle
from repertory.actors.placement import partition_of
from tests.apps.projected import Add, Counter, made
from tests.apps.projecting import DELIVERY, EXITS, NAME, STOPS, TO, Stopping
from tests.support.postgresql import Postgres
from tests.support.processes import send_signal

pytestmark = pytest.mark.processes

#: The bound of each wait, also on a busy machine.
DEADLINE_S = 90.0


class Stage:
    """A node with a worker and projectors, a client, and what was told."""

    def __init__(self, node: NodeHandle, client: Client, sql_url: str) -> None:
        self.node, self.client = node, client
        self.engine = sa.create_engine(sql_url, poolclass=sa.NullPool)
        self.totals: Tally[str] = Tally()
        self.told = 0

    def tell(self, count: int) -> None:
        """Append commands, of which each becomes an event."""
        numbers = range(self.told + 1, self.told + count + 1)
        self.client.tell_all([(Counter.add, f"k{number % 11}", Add(amount=number)) for number in numbers])
        for number in numbers:
            self.totals[f"k{number % 11}"] += number
        self.told += count

    def projected(self) -> int:
        """Return how many events the tables hold, 0 while they cannot be read."""
        try:
            with self.engine.connect() as connection:
                return int(connection.execute(sa.text("SELECT count(*) FROM totals_seen")).scalar_one())
        except sa.exc.DBAPIError:
            return 0

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until something is so, and read the node's reports meanwhile."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not is_so():
            assert time.monotonic() < deadline_s, what
            assert self.node.exit_code is None, "the node has ended"
            self.node.poll(0.02)

    def stopped(self) -> list[tuple[int, str]]:
        """Return the partitions that have stopped, and why; none while the tables cannot be read."""
        try:
            with self.engine.connect() as connection:
                rows = connection.execute(
                    sa.text("SELECT partition, error FROM repertory_progress WHERE failed IS NOT NULL")
                )
                return [(partition, error) for partition, error in rows]
        except sa.exc.DBAPIError:
            return []

    def projectors(self) -> list[int]:
        """Return the pids of the projectors that run."""
        return [pid for name, pid in self.node.workers.items() if name.startswith("projector-")]

    def check(self) -> None:
        """All that was told is in the tables, once."""
        self.until(lambda: self.projected() >= self.told, f"{self.projected()} of {self.told} events are projected")
        with self.engine.connect() as connection:
            found = connection.execute(sa.text("SELECT key, total, events FROM totals")).all()
            failed = connection.execute(sa.text("SELECT * FROM repertory_progress WHERE failed IS NOT NULL")).all()
        assert {key: total for key, total, _ in found} == self.totals
        assert sum(events for _, _, events in found) == self.told == self.projected()
        assert failed == []


@pytest.fixture
def stage(sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Run a node with one worker and two projectors, whose supervisor is too patient to notice one that is stopped."""
    with staged(sql_url, tmp_path, monkeypatch) as stage:
        yield stage


@contextmanager
def staged(
    sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str = "", delivery: str = "exactly-once"
) -> Iterator[Stage]:
    """Run a node, on an SQLite log or on another one."""
    name, session_s = f"projecting-{uuid.uuid4().hex[:12]}", "6" if log else "1"
    log = log or f"sqlite:{tmp_path / 'log.db'}"
    for variable, value in {
        NAME: name, TO: sql_url, DELIVERY: delivery, STOPS: str(tmp_path / "stops"),
        "REPERTORY_PING_TIMEOUT_S": "600", "REPERTORY_SESSION_TIMEOUT_S": session_s,
    }.items():  # fmt: skip
        monkeypatch.setenv(variable, value)
    system = made(name, delivery, to=sql_url, of=Stopping)
    with system.spawn("tests.apps.projecting:system", log=log, workers=1, projectors=2) as node:
        with system.client(log) as client:
            yield Stage(node, client, sql_url)
        for pid in Path(tmp_path).glob("stops.*"):
            send_signal(int(pid.suffix[1:]), signal.SIGCONT)


def test_rows_are_those_of_one_undisturbed_run_over_kills(stage: Stage) -> None:
    """A projector is killed again and again, while events come."""
    for round_ in range(6):
        stage.tell(400)
        stage.until(lambda wanted=400 * round_: stage.projected() > wanted, "nothing is projected")  # type: ignore[misc]
        pids = stage.projectors()
        for pid in pids[: 1 + round_ % 2]:
            send_signal(pid, signal.SIGKILL)
    stage.tell(400)
    stage.check()


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_the_same_on_kafka_with_the_worker_killed_too(
    sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kafka_url: str, delivery: str
) -> None:
    """At least once, owners that were replaced leave records that do not count."""
    with staged(sql_url, tmp_path, monkeypatch, kafka_url, delivery) as stage:
        for round_ in range(4):
            stage.tell(400)
            stage.until(lambda wanted=400 * round_: stage.projected() > wanted, "nothing is projected")  # type: ignore[misc]
            for name in [f"projector-totals-1-{round_ % 2}", *["worker-0"] * (round_ % 2)]:
                if (pid := stage.node.workers.get(name)) is not None:
                    send_signal(pid, signal.SIGKILL)
        stage.tell(400)
        stage.check()


def test_one_that_is_stopped_within_its_transaction_stops_nobody(stage: Stage, tmp_path: Path) -> None:
    """Its database, or its like, ends its transaction; another one goes on; woken up, it changes nothing."""
    stage.tell(50)
    stage.check()
    (tmp_path / "stops").touch()
    stage.tell(500)
    stage.until(lambda: any(tmp_path.glob("stops.*")), "nobody was stopped")
    stage.check()
    (stopped,) = tmp_path.glob("stops.*")
    send_signal(int(stopped.suffix[1:]), signal.SIGCONT)  # On SQLite another projector has killed it.
    stage.tell(100)
    stage.check()


def test_an_event_whose_handler_ends_the_process_stops_its_partition_alone(
    sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each projector that meets it dies; then it is named, and the other partitions have all their events."""
    monkeypatch.setenv(EXITS, "150")
    with staged(sql_url, tmp_path, monkeypatch) as stage:
        stage.tell(300)
        stage.until(lambda: bool(stage.stopped()), "no partition has stopped")
        ((partition, error),) = stage.stopped()
        assert "3 processes in a row ended" in error
        home = partition_of(b"k7", 3)  # 150 % 11
        assert partition == home
        keys = [f"k{number % 11}" for number in range(1, 301)]
        due = sum(partition_of(key.encode(), 3) != home for key in keys)
        due += sum(partition_of(key.encode(), 3) == home for key in keys[:149])
        stage.until(lambda: stage.projected() >= due, "the other partitions wait")
        assert stage.projected() == due


@pytest.mark.parametrize("sql_kind", ["postgresql"])
def test_a_database_that_goes_away_comes_back_to_the_same_rows(stage: Stage, postgres: Postgres) -> None:
    """Events wait in the log meanwhile; no event is blamed, and no projector has to be started."""
    stage.tell(300)
    stage.until(lambda: stage.projected() > 0, "nothing is projected")
    for how in (signal.SIGQUIT, signal.SIGINT):
        postgres.stop(how)
        stage.tell(300)
        for _ in range(5):
            stage.node.poll(0.2)
        postgres.start()
    stage.check()

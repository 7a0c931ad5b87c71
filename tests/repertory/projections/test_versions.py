"""Versions of a projection beside each other: rebuilt while the old one serves, switched to, dropped."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from repertory import ActorSystem
from repertory.bridge.system.projected import ProjectionTrouble, Retry
from repertory.cli.projections import ends_of
from repertory.projections import At, Db, project
from repertory.projections import projector as projectors
from tests.apps.projected import Add, Added, Counter, Totals, made
from tests.repertory.projections.running import act, add_all, rebuilding, rows_of, totals_of, waits_for


class Newer(Totals, name="totals", version=2):
    """Counts in tens."""

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        super().added(evt, at, db)
        db.later(self.put, key=at.key, total=9 * evt.amount, events=0)


@pytest.fixture
def name() -> str:
    """Return a name of its own for a system."""
    return f"versions-{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def _no_poison() -> Iterator[None]:
    yield
    Totals.poison = frozenset()


def both(name: str, sql_url: str, on_error: Retry | None = None) -> ActorSystem:
    """Return the system with both versions."""
    system = made(name, "exactly-once", to=sql_url, on_error=on_error)
    system.project(Newer, Counter, to=sql_url, on_error=on_error or Retry(1))
    return system


def test_a_version_is_rebuilt_and_switched_to_under_load(name: str, sql_url: str, tmp_path: Path) -> None:
    """The old one serves meanwhile. Readers never go back, and never see a version that is behind the other."""
    log, stopping = f"sqlite:{tmp_path / 'log.db'}", threading.Event()
    ready = threading.Event()
    told, seen, failures = [0], [], []  # type: list[int], list[tuple[int, int]], list[BaseException]

    def serve() -> None:
        try:
            with made(name, "exactly-once", to=sql_url).start(log) as running:
                while not stopping.is_set() or told[0] < 400:
                    running.client.tell_all([(Counter.add, f"k{each % 7}", Add(amount=1)) for each in range(20)])
                    told[0] += 20
                    for _ in range(3):
                        running.tick(0.001)
                    if told[0] >= 200:
                        ready.set()
                running.settle()
        except BaseException as error:  # noqa: BLE001 - it is told below
            failures.append(error)
        finally:
            ready.set()

    def look() -> None:
        engine = sa.create_engine(sql_url, poolclass=sa.NullPool)
        while not stopping.is_set():
            with suppress(sa.exc.DBAPIError), engine.connect() as connection:  # A lock that a switch holds.
                total, events = connection.execute(sa.text("SELECT sum(total), sum(events) FROM totals")).one()
                seen.append((int(total or 0), int(events or 0)))

    threads = [threading.Thread(target=serve), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    ready.wait()
    try:
        system, reports = both(name, sql_url), []
        with rebuilding(system, log) as (builder, backend):
            builder.run(ends_of(system, backend), reports.append)
            wrong = r"totals \(version 1\) serves: switch to another version first"
            with rebuilding(system, log, 1) as (old, _), pytest.raises(ValueError, match=wrong):
                old.drop(serving=False)
            assert builder.switch(ends_of(system, backend)) == 1
            with pytest.raises(ValueError, match=r"totals \(version 2\) serves"):
                builder.run({}, reports.append)
        assert reports == sorted(reports)
        assert reports[-1] >= 200
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert [events for _, events in seen] == sorted(events for _, events in seen)
    assert {total // max(events, 1) for total, events in seen} <= {0, 1, 10}
    with both(name, sql_url).start(log) as running:
        running.settle()
    assert sum(totals_of(sql_url).values()) == 10 * told[0]
    assert sum(totals_of(sql_url, "totals_1").values()) == told[0]


def test_a_version_that_was_dropped_is_built_anew(name: str, sql_url: str, tmp_path: Path) -> None:
    """Its projectors notice; its class may stay in the code, and nothing is built until somebody says so."""
    log = f"sqlite:{tmp_path / 'log.db'}"
    system = both(name, sql_url)
    with system.start(log) as running:
        totals = add_all(running, 60)
        running.settle()
        with rebuilding(system, log) as (builder, backend):
            builder.drop(serving=False)
            running.settle()
            totals += add_all(running, 60)
            running.settle()
            assert totals_of(sql_url) == totals
            assert not sa.inspect(sa.create_engine(sql_url, poolclass=sa.NullPool)).has_table("totals_2")
            with pytest.raises(ValueError, match=r"totals \(version 2\) has no tables"):
                builder.drop(serving=False)
            with pytest.raises(ProjectionTrouble, match="it was dropped"):
                builder.switch(ends_of(system, backend))
        with rebuilding(system, log) as (builder, backend):
            builder.run(ends_of(system, backend), lambda _: None)
            builder.switch(ends_of(system, backend))
        running.settle()
    assert totals_of(sql_url) == {key: 10 * total for key, total in totals.items()}
    with rebuilding(system, log) as (builder, _):
        builder.drop(serving=True)
    assert rows_of(sql_url, "SELECT version, state FROM repertory_projections ORDER BY version") == [
        (1, "beside"),
        (2, "dropped"),
    ]


def test_a_version_that_has_stopped_is_not_switched_to(name: str, sql_url: str, tmp_path: Path) -> None:
    """The sentence names its event."""
    log = f"sqlite:{tmp_path / 'log.db'}"
    with made(name, "exactly-once", to=sql_url).start(log) as running:
        add_all(running, 20)
        running.settle()
    Totals.poison = frozenset({5})
    system = both(name, sql_url, Retry(0))
    with rebuilding(system, log) as (builder, backend):
        for attempt in (lambda: builder.run(ends_of(system, backend), lambda _: None), lambda: builder.switch({})):
            with pytest.raises(
                ProjectionTrouble, match=r"totals \(version 2\) has stopped at .*ValueError: 5 is poison"
            ):
                attempt()
    assert rows_of(sql_url, "SELECT version FROM repertory_projections WHERE state = 'serves'") == [(1,)]


class KilledError(Exception):
    """Stands for the end of a process that rebuilds."""


def test_projectors_go_on_with_a_rebuild_that_was_killed(
    name: str, sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without new events: they look at the progress now and then."""
    monkeypatch.setattr(projectors, "_LOOK_S", 0.0)
    log, system = f"sqlite:{tmp_path / 'log.db'}", both(name, sql_url)

    def killed(done: int) -> None:
        if done:
            raise KilledError

    with system.start(log) as running:
        totals = add_all(running, 300)
        running.settle()
        with rebuilding(system, log) as (builder, backend):
            builder.drop(serving=False)
            with pytest.raises(KilledError):
                builder.run(ends_of(system, backend), killed)
        assert 0 < sum(totals_of(sql_url, "totals_2").values()) < 10 * sum(totals.values())
        until_s = time.monotonic() + 60
        while totals_of(sql_url, "totals_2") != {key: 10 * total for key, total in totals.items()}:
            assert time.monotonic() < until_s
            running.tick(0.01)


@pytest.mark.parametrize(
    "what", ["DELETE FROM repertory_progress WHERE partition = 1", "DROP TABLE repertory_progress"]
)
def test_a_progress_that_is_gone_is_named(name: str, sql_url: str, tmp_path: Path, what: str) -> None:
    """Nobody waits for ever, nothing is applied twice, and the way out that is named is one."""
    log, system = f"sqlite:{tmp_path / 'log.db'}", made(name, "exactly-once", to=sql_url)
    with system.start(log) as running:
        totals = add_all(running, 30)
        running.settle()
    act(sql_url, what)
    with system.start(log) as running:
        waits_for(running, r"partitions of totals (version 1) is gone from repertory_progress")
        (status,) = [each.status(running._backend, {}) for each in running.system.projections]
        assert "repertory_progress" in status.trouble
    with rebuilding(system, log, 1) as (builder, _):
        builder.drop(serving=True)
    with rebuilding(system, log, 1) as (builder, backend):
        builder.run(ends_of(system, backend), lambda _: None)
    assert totals_of(sql_url) == totals


def test_nothing_is_said_of_a_version_whose_database_is_away(name: str, tmp_path: Path) -> None:
    """A drop says why it does nothing; that there are no tables nobody knows."""
    path, log = tmp_path / "projections.db", f"sqlite:{tmp_path / 'log.db'}"
    system = made(name, "exactly-once", to=f"sqlite:///{path}")
    with system.start(log) as running:
        add_all(running, 5)
        running.settle()
    path.rename(tmp_path / "away.db")
    with rebuilding(system, log, 1) as (builder, _), pytest.raises(ProjectionTrouble, match=r"\.db does not exist"):
        builder.drop(serving=False)
    (tmp_path / "away.db").rename(path)
    act(f"sqlite:///{path}", "ALTER TABLE repertory_projections RENAME COLUMN state TO condition")
    with (
        rebuilding(system, log, 1) as (builder, _),
        pytest.raises(ProjectionTrouble, match=r"no such column: .*state$"),
    ):
        builder.drop(serving=False)


def test_a_switch_applies_what_the_other_version_has_more(name: str, sql_url: str, tmp_path: Path) -> None:
    """Readers never go back, however far the new version is."""
    log = f"sqlite:{tmp_path / 'log.db'}"
    with made(name, "exactly-once", to=sql_url).start(log) as running:
        totals = add_all(running, 300)
        running.settle()
    with rebuilding(both(name, sql_url), log) as (builder, _):
        assert builder.switch({}) == 1
    assert totals_of(sql_url) == {key: 10 * total for key, total in totals.items()}

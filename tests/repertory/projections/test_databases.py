"""Projections on real databases: two projectors, what operators do, and tables that are not as they should be."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from repertory import Running
from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.connect import connect
from repertory.bridge.system.projected import Park, ProjectionTrouble, Retry
from repertory.projections import At, Db, Projection, insert, project, table
from repertory.projections import database as databases
from repertory.projections import projector as projectors
from repertory.projections.projector import Projector
from repertory.projections.versions import prepare
from tests.apps.projected import Add, Added, Counter, Totals, made
from tests.repertory.projections.running import add_all, bound_of, operating, rows_of, stopped_at, totals_of, waits_for


@pytest.fixture
def name() -> str:
    """Return a name of its own for a system."""
    return f"totals-{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def _no_poison() -> Iterator[None]:
    yield
    Totals.poison = frozenset()


# --- two of them --------------------------------------------------------------------------------------------------


def test_two_projectors_on_one_partition_apply_each_event_once(name: str, sql_url: str, tmp_path: Path) -> None:
    """The compare-and-swap is the first statement: one of the two changes nothing, and no event is blamed."""
    system = made(name, "exactly-once", to=sql_url, on_error=Park(keys_max=100, times=0))
    log = f"sqlite:{tmp_path / 'log.db'}"
    with made(name, "exactly-once", to=sql_url).start(log) as running:
        running._followings.close()
        running._followings._followings.clear()
        totals = add_all(running, 3_000, keys=50)
        running.settle()
    backends = [connect(log) for _ in range(2)]
    projectors = [Projector(bound_of(system), system, backend) for backend in backends]
    for projector in projectors:
        for place in bound_of(system).places():
            projector.own(place)

    def project_all(projector: Projector) -> None:
        while sum(each.row.seq for each in projector.partitions.values() if each.row) < 3_000:
            projector.step(0.01)

    threads = [threading.Thread(target=project_all, args=(projector,)) for projector in projectors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for projector, backend in zip(projectors, backends, strict=True):
        projector.close()
        backend.close()
    assert totals_of(sql_url) == totals
    assert rows_of(sql_url, "SELECT count(*) FROM totals_seen") == [(3_000,)]
    assert rows_of(sql_url, "SELECT count(*) FROM repertory_parked") == [(0,)]


def test_a_database_of_an_older_build_gets_what_it_lacks(name: str, sql_url: str, tmp_path: Path) -> None:
    """Its progress table has no columns for what is tried: they are added, and projecting goes on."""
    system, log = made(name, "exactly-once", to=sql_url), f"sqlite:{tmp_path / 'log.db'}"
    with system.start(log) as running:
        add_all(running, 30)
        running.settle()
    engine = sa.create_engine(sql_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for column in ("trying", "deaths"):
            connection.exec_driver_sql(f"ALTER TABLE repertory_progress DROP COLUMN {column}")
    with system.start(log) as running:
        totals = add_all(running, 30)
        running.settle()
    assert totals_of(sql_url) == {key: 2 * total for key, total in totals.items()}
    assert {*rows_of(sql_url, "SELECT trying, deaths FROM repertory_progress")} == {(-1, 0)}


def test_many_that_start_at_once_make_the_tables_once(name: str, sql_url: str) -> None:
    """One makes them, and the others find them."""
    bound = bound_of(made(name, "exactly-once", to=sql_url))
    failures: list[Exception] = []
    start = threading.Barrier(12)

    def begin() -> None:
        with closing(databases.Database(sa.make_url(sql_url))) as database:
            start.wait()
            for _ in range(100):
                try:
                    prepare(bound, database, {})
                except databases.WorldError:  # A lock that was not got in time.
                    continue
                except Exception as error:  # noqa: BLE001 - it is told below
                    failures.append(error)
                return

    threads = [threading.Thread(target=begin) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert rows_of(sql_url, "SELECT count(*) FROM repertory_progress") == [(3,)]


# --- events that fail ---------------------------------------------------------------------------------------------


def test_a_poison_event_in_a_batch_of_500_is_named_and_skipped(name: str, sql_url: str) -> None:
    """All before it is there, nothing behind it; a skip of any other offset does nothing, that of its own goes on."""
    Totals.poison = frozenset({250})
    system = made(name, "exactly-once", to=sql_url, on_error=Retry(0))
    with system.start() as running, operating(system, running) as operator:
        totals = add_all(running, 500, keys=1)
        running.settle()
        place, failed = stopped_at(sql_url, system)
        assert failed == 249
        assert rows_of(sql_url, "SELECT count(*), max(amount) FROM totals_seen") == [(249, 249)]
        for stale in (failed - 1, failed + 1, 499):
            with pytest.raises(
                LookupError, match=f"offset {stale} of .* is not what totals fails at: it has stopped at"
            ):
                operator.skip(place, stale)
        assert operator.retry(place) == failed
        running.settle()
        assert stopped_at(sql_url, system) == (place, failed)
        assert operator.skip(place, failed) == ""
        running.settle()
        assert totals_of(sql_url) == {"k0": totals["k0"] - 250}
        with pytest.raises(LookupError, match="totals has not stopped at"):
            operator.retry(place)


def test_what_is_parked_is_applied_in_order_once_it_is_mended(name: str, sql_url: str) -> None:
    """The key stays parked while its first event fails; a skip drops the first one only."""
    Totals.poison = frozenset({3, 8})
    system = made(name, "exactly-once", to=sql_url, on_error=Park(keys_max=2, times=0))
    with system.start() as running, operating(system, running) as operator:
        totals = add_all(running, 40, keys=5)
        running.settle()
        pointers = rows_of(sql_url, 'SELECT "partition", "offset" FROM repertory_parked ORDER BY seq')
        place = next(each for each in bound_of(system).places() if each.partition == pointers[0][0])
        with pytest.raises(ProjectionTrouble, match="still fails: ValueError: 3 is poison; the key stays parked"):
            operator.retry_key(place, "k3")
        with pytest.raises(LookupError, match="has not parked the key 'k1'"):
            operator.retry_key(place, "k1")
        with pytest.raises(LookupError, match="Nothing was skipped"):
            operator.skip(place, int(str(pointers[1][1])))
        assert operator.skip(place, int(str(pointers[0][1]))) == "k3"
        Totals.poison = frozenset()
        assert operator.retry_key(place, "k3") == 7
        running.settle()
        assert totals_of(sql_url) == totals - Tally(k3=3)
        running.client.tell(Counter.add, "k3", Add(amount=100))
        running.settle()
        assert totals_of(sql_url)["k3"] == totals["k3"] - 3 + 100


def test_what_is_parked_is_applied_up_to_the_event_that_still_fails(name: str, sql_url: str) -> None:
    """So a skip of that one loses no other."""
    Totals.poison = frozenset({3, 18})
    system = made(name, "exactly-once", to=sql_url, on_error=Park(keys_max=2, times=0))
    with system.start() as running, operating(system, running) as operator:
        totals = add_all(running, 40, keys=5)
        running.settle()
        ((partition, offset),) = rows_of(
            sql_url, 'SELECT "partition", "offset" FROM repertory_parked ORDER BY seq LIMIT 1 OFFSET 3'
        )
        place = next(each for each in bound_of(system).places() if each.partition == partition)
        Totals.poison = frozenset({18})
        for _ in range(2):
            with pytest.raises(ProjectionTrouble, match=f"@{offset} still fails: ValueError: 18 is poison; the key st"):
                operator.retry_key(place, "k3")
            assert totals_of(sql_url)["k3"] == 3 + 8 + 13
        assert operator.skip(place, int(str(offset))) == "k3"
        assert operator.retry_key(place, "k3") == 4
        running.settle()
        assert totals_of(sql_url) == totals - Tally(k3=18)


@pytest.mark.parametrize("sql_kind", ["postgresql"])
def test_a_handler_that_is_too_slow_is_found_and_named(
    name: str, sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends its transaction; the batch is halved, until the one event is alone."""
    monkeypatch.setattr(databases, "IDLE_IN_TRANSACTION_MS", 100)

    class Sleeping(Totals, name="totals"):
        @project
        def added(self, evt: Added, at: At, db: Db) -> None:
            if evt.amount == 7:
                time.sleep(0.3)
            super().added(evt, at, db)

    system = made(name, "exactly-once", to=sql_url, on_error=Retry(0), of=Sleeping)
    with system.start() as running:
        add_all(running, 10, keys=1)
        running.settle()
    assert rows_of(sql_url, "SELECT max(amount), count(*) FROM totals_seen") == [(6, 6)]
    ((error,),) = rows_of(sql_url, "SELECT error FROM repertory_progress WHERE failed IS NOT NULL")
    assert "TooSlow" in str(error)


class LateClock(SystemClock):
    """Goes on by what handlers say that they take."""

    late_s = 0.0

    def monotonic_s(self) -> float:
        """See ``Clock.monotonic_s``."""
        return super().monotonic_s() + self.late_s


def test_batches_of_slow_handlers_are_small(name: str, sql_url: str, tmp_path: Path) -> None:
    """One of a thousand would hold its locks for minutes, and be taken for one that hangs."""
    clock = LateClock()

    class Slow(Totals, name="totals"):
        @project
        def added(self, evt: Added, at: At, db: Db) -> None:
            clock.late_s += 0.25 if evt.amount < 100 else 0.0
            super().added(evt, at, db)

    log, system = f"sqlite:{tmp_path / 'log.db'}", made(name, "exactly-once", to=sql_url, of=Slow)
    with system.start(log) as running:
        running._followings.close()
        running._followings._followings.clear()
        add_all(running, 2_000, keys=1)
        running.settle()
    sizes, applied = [], 0
    with closing(connect(log)) as backend, closing(Projector(bound_of(system), system, backend, clock)) as projector:
        for place in bound_of(system).places():
            projector.own(place)
        while applied < 2_000:
            projector.step()
            now = sum(each.row.seq for each in projector.partitions.values() if each.row)
            if now > applied:
                sizes.append(now - applied)
                applied = now
    assert sizes[0] == 10
    assert max(sizes[1:10]) <= 8
    assert max(sizes) > 100


# --- tables and topics that are not as they should be -------------------------------------------------------------


class Wider(Totals, name="totals"):
    """Another column, and the same version."""

    rows = table(sa.Column("key", sa.String(255), primary_key=True), sa.Column("total", sa.BigInteger))
    put = insert(rows)


def test_other_columns_need_another_version(name: str, sql_url: str) -> None:
    """What was built stays, and the sentence says what to do."""
    with made(name, "exactly-once", to=sql_url).start() as running:
        totals = add_all(running, 10)
        running.settle()
    with made(name, "exactly-once", to=sql_url, of=Wider).start() as running:
        add_all(running, 10)
        waits_for(running, "Wider has other columns, or handles other events, than version 1 of totals was built with")
    assert totals_of(sql_url) == totals


def test_a_table_of_somebody_else_is_left_alone(name: str, sql_url: str) -> None:
    """Nothing is made, and nothing is written into it."""
    with sa.create_engine(sql_url, poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.text("CREATE TABLE totals_1 (x INTEGER)"))
    with made(name, "exactly-once", to=sql_url).start() as running:
        add_all(running, 10)
        waits_for(running, "there is a table totals_1 that totals did not make")
    assert rows_of(sql_url, "SELECT * FROM totals_1") == []


def test_a_projection_belongs_to_one_system(name: str, sql_url: str) -> None:
    """Another one is told so."""
    with made(name, "exactly-once", to=sql_url).start() as running:
        running.settle()
    with made(f"{name}-b", "exactly-once", to=sql_url).start() as running:
        add_all(running, 1)
        waits_for(running, f"is of the system {name}, not of {name}-b")


def test_a_log_of_another_life_is_refused(name: str, sql_url: str) -> None:
    """A log in memory begins anew each time: what was projected of another one is not mixed with it."""
    system = made(name, "exactly-once", to=sql_url)
    with system.start() as running:
        totals = add_all(running, 20)
        running.settle()
    with system.start() as running:
        add_all(running, 20)
        while len(rows_of(sql_url, "SELECT error FROM repertory_progress WHERE failed IS NOT NULL")) < 3:
            running.tick()
    assert totals_of(sql_url) == totals
    failed = rows_of(sql_url, "SELECT error FROM repertory_progress WHERE failed IS NOT NULL")
    assert all("was deleted and created again" in str(error) for (error,) in failed)


@pytest.mark.parametrize("gone", [12, 30])
def test_a_journal_whose_beginning_is_gone_is_refused(name: str, sql_url: str, tmp_path: Path, gone: int) -> None:
    """The sentence names the events that are gone."""
    log = tmp_path / "log.db"
    system = made(name, "exactly-once", to=sql_url)
    with system.start(f"sqlite:{log}") as running:
        running._followings.close()
        running._followings._followings.clear()
        add_all(running, 30, keys=1)
        running.settle()
    with closing(sqlite3.connect(log)) as connection:
        connection.execute("DELETE FROM record WHERE topic LIKE '%.events' AND offset < ?", (gone,))
        connection.commit()
    with system.start(f"sqlite:{log}") as running:
        running.settle()
    ((error,),) = rows_of(sql_url, "SELECT error FROM repertory_progress WHERE failed IS NOT NULL")
    assert f"events 0 to {gone - 1} of" in str(error)
    assert totals_of(sql_url) == {}


def test_a_database_that_is_away_is_waited_for(name: str, tmp_path: Path) -> None:
    """Nothing is lost, the commands go on, and the lag is seen."""
    folder = tmp_path / "later"
    url = f"sqlite:///{folder / 'projections.db'}"
    with made(name, "exactly-once", to=url).start() as running:
        totals = add_all(running, 20)
        waits_for(running, "unable to open database file")
        (status,) = [each.status(running._backend, {}) for each in running.system.projections]
        assert f"{folder / 'projections.db'} does not exist: no projector has run, or in another" in status.trouble
        folder.mkdir()
        running.settle()
        assert totals_of(url) == totals


def test_a_file_that_is_removed_is_made_anew(name: str, tmp_path: Path) -> None:
    """A connection would write into the old one for ever, which nobody can read."""
    path = tmp_path / "projections.db"
    with made(name, "exactly-once", to=f"sqlite:///{path}").start() as running:
        totals = add_all(running, 20)
        running.settle()
        for each in tmp_path.glob("projections.db*"):
            each.unlink()
        totals += add_all(running, 20)
        running.settle()
        assert totals_of(f"sqlite:///{path}") == totals


def with_backup_restored(running: Running, path: Path) -> Tally[str]:
    """Project, back the file up, project more, and put the backup in its place; return the totals of all events."""
    backup = path.with_name("backup.db")
    totals = add_all(running, 20)
    running.settle()
    with closing(sqlite3.connect(path)) as now, closing(sqlite3.connect(backup)) as then:
        now.backup(then)
    totals += add_all(running, 20)
    running.settle()
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    backup.rename(path)
    return totals


def test_a_file_that_is_restored_goes_on_from_where_it_is(name: str, tmp_path: Path) -> None:
    """Another file of that name has another progress, and what is missing in it is applied."""
    path = tmp_path / "projections.db"
    with made(name, "exactly-once", to=f"sqlite:///{path}").start() as running:
        totals = with_backup_restored(running, path)
        totals += add_all(running, 20)
        running.settle()
        assert totals_of(f"sqlite:///{path}") == totals


def test_a_file_that_is_restored_is_noticed_without_any_event(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the backup lacks is applied, also where nothing more happens."""
    monkeypatch.setattr(projectors, "_LOOK_S", 0.0)
    path = tmp_path / "projections.db"
    with made(name, "exactly-once", to=f"sqlite:///{path}").start() as running:
        totals = with_backup_restored(running, path)
        until_s = time.monotonic() + 60
        while totals_of(f"sqlite:///{path}") != totals:
            assert time.monotonic() < until_s
            running.tick(0.01)


def test_a_damaged_file_is_no_fault_of_an_event(tmp_path: Path) -> None:
    """It is said, and waited for."""
    path = tmp_path / "projections.db"
    path.write_bytes(b"nonsense" * 1_000)
    database = databases.Database(sa.make_url(f"sqlite:///{path}"))
    with pytest.raises(databases.WorldError, match="file is not a database"), database.transaction():
        pass
    database.close()


class Nothing(Projection):
    """No handler."""


@pytest.mark.parametrize(
    ("to", "sentence"),
    [
        ("mysql://x/y", "projections are kept in sqlite or postgresql, not in mysql"),
        ("nonsense", "is no URL of a database"),
        ("sqlite://", "names no file"),
        ("postgresql+psycopg2://x/y", "the driver for PostgreSQL is psycopg"),
    ],
)
def test_a_database_that_cannot_be_is_a_sentence(to: str, sentence: str) -> None:
    """At definition, before anything runs."""
    with pytest.raises(ValueError, match=sentence):
        made("bad", "exactly-once", to=to)

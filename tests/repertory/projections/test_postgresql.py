"""PostgreSQL as others run it: rights, standbys, time zones, schemas, and what it cannot store."""

from __future__ import annotations

import uuid
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from repertory import ActorSystem
from repertory.projections import At, Db, Projection, Retry, insert, project, schema, table
from repertory.projections.database import Database, checked_url
from repertory.projections.progress import TooSlow, WorldError
from tests.apps.projected import Added, Counter, Totals, made
from tests.repertory.projections.running import act, add_all, as_somebody, rows_of, totals_of, waits_for


@pytest.fixture
def name() -> str:
    """Return a name of its own for a system."""
    return f"postgres-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def sql_kind() -> str:
    """Return the kind of the database under test."""
    return "postgresql"


def next_of(sql_url: str) -> object:
    """Return the one offset that all progresses have."""
    ((found,),) = rows_of(sql_url, "SELECT DISTINCT next FROM repertory_progress")
    return found


@pytest.mark.parametrize("holds", ["behind an executemany", "within a statement"])
def test_who_is_stopped_within_a_transaction_stops_nobody(sql_url: str, holds: str) -> None:
    """PostgreSQL itself ends no session whose driver has sent a Flush, or half of what makes a statement."""
    stopped, other = Database(checked_url(sql_url)), Database(checked_url(sql_url))
    places, numbers = schema.progress, range(20)
    move = places.update().where(places.c.partition == sa.bindparam("of")).values(next=sa.bindparam("to"))
    with stopped.transaction() as connection:
        schema.make(connection)
        rows = [{"projection": "p", "version": 1, "topic": "t", "topic_id": "", "next": 0, "seq": 0}]
        connection.execute(places.insert(), [{**row, "partition": number} for row in rows for number in numbers])
    tries = 0
    with pytest.raises(WorldError), stopped.transaction() as connection:  # noqa: PT012  it ends within
        connection.execute(move, [{"of": number, "to": 7} for number in numbers])
        if holds == "within a statement":
            driver: Any = connection.connection.driver_connection
            driver.pgconn.enter_pipeline_mode()
            driver.pgconn.send_query_params(b"UPDATE repertory_progress SET next = 8", [])
            driver.pgconn.send_flush_request()
            driver.pgconn.flush()
        while next_of(sql_url) == 0:
            tries += 1
            assert tries < 60
            with suppress(WorldError), other.transaction() as second:
                second.execute(move, [{"of": number, "to": 9} for number in numbers])
    assert tries > 1
    assert next_of(sql_url) == 9
    for each in (stopped, other):
        each.close()


def unstopped(sql_url: str) -> bool:
    """Return whether no partition has stopped."""
    return rows_of(sql_url, "SELECT count(*) FROM repertory_progress WHERE failed IS NOT NULL") == [(0,)]


def test_a_right_that_is_taken_away_is_no_fault_of_an_event(name: str, sql_url: str) -> None:
    """It is waited for, and named; once it is back, the projection goes on by itself."""
    mine = as_somebody(sql_url)
    role = sa.make_url(mine).username
    with made(name, "exactly-once", to=mine, on_error=Retry(0)).start() as running:
        totals = add_all(running, 20)
        running.settle()
        act(sql_url, f"REVOKE ALL ON totals_1 FROM {role}")
        totals += add_all(running, 20)
        waits_for(running, "permission denied for table totals_1")
        assert unstopped(sql_url)
        act(sql_url, f"GRANT ALL ON totals_1 TO {role}")
        running.settle()
    assert totals_of(sql_url) == totals


def test_a_server_that_became_a_standby_is_waited_for(name: str, sql_url: str) -> None:
    """As after a failover: connections are made anew, since the server's name may lead to another one by now."""
    database = sa.make_url(sql_url).database
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with made(name, "exactly-once", to=sql_url, on_error=Retry(0)).start() as running:
        totals = add_all(running, 20)
        running.settle()
        for read_only in ("on", "off"):
            act(
                sql_url,
                "SET default_transaction_read_only = off",
                f'ALTER DATABASE "{database}" SET default_transaction_read_only = {read_only}',
            )
            if read_only == "on":
                act(sql_url, f"SELECT pg_terminate_backend(pid) {others}")
                totals += add_all(running, 20)
                waits_for(running, "read-only transaction")
        running.settle()
        assert unstopped(sql_url)
    assert totals_of(sql_url) == totals


def test_a_statement_that_the_server_ends_is_slow_and_not_wrong(sql_url: str) -> None:
    """``statement_timeout``, or an operator: the batch is tried again before an event is blamed."""
    with closing(Database(sa.make_url(sql_url))) as database:
        slow = "SELECT set_config('statement_timeout', '1', true); SELECT pg_sleep(5)"
        with pytest.raises(TooSlow, match="canceling statement"), database.transaction() as connection:
            connection.exec_driver_sql(slow)
        with pytest.raises(sa.exc.DataError), database.transaction() as connection:
            connection.exec_driver_sql("SELECT 1 / 0")


class Times(Projection):
    """When each event was taken."""

    rows = table(
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("plain", sa.DateTime()),
        sa.Column("zoned", sa.DateTime(timezone=True)),
    )
    put = insert(rows)

    @project
    def added(self, _evt: Added, at: At, db: Db) -> None:
        db.later(self.put, seq=at.seq, plain=at.time, zoned=at.time)


def test_times_are_utc_whatever_the_server_takes_for_local(name: str, sql_url: str) -> None:
    """A column without a zone would have the server's local time."""
    act(sql_url, f"ALTER DATABASE \"{sa.make_url(sql_url).database}\" SET TimeZone = 'Asia/Tokyo'")
    system = ActorSystem(name)
    system.host(Counter, partitions=1)
    system.project(Times, Counter, to=sql_url)
    with system.start() as running:
        add_all(running, 1)
        running.settle()
    ((plain, zoned),) = rows_of(sql_url, "SELECT plain, zoned FROM times")
    assert isinstance(plain, datetime)
    assert plain.replace(tzinfo=UTC) == zoned
    assert abs(datetime.now(UTC) - plain.replace(tzinfo=UTC)) < timedelta(hours=1)


def test_options_of_the_url_hold(name: str, sql_url: str) -> None:
    """The tables are in the schema that its ``search_path`` names, beside our own options."""
    act(sql_url, "CREATE SCHEMA apart")
    url = sa.make_url(sql_url).update_query_dict({"options": "-csearch_path=apart", "application_name": "mine"})
    with made(name, "exactly-once", to=url.render_as_string(hide_password=False)).start() as running:
        totals = add_all(running, 20)
        running.settle()
    assert totals_of(sql_url, "apart.totals") == totals
    with closing(Database(url)) as database, database.transaction() as connection:
        shown = [connection.exec_driver_sql(f"SHOW {each}").scalar_one() for each in ("lock_timeout", "TimeZone")]
        assert shown == ["1s", "UTC"]
        assert connection.exec_driver_sql("SHOW application_name").scalar_one() == "mine"


class Quoting(Totals, name="totals"):
    """Its error has a character that PostgreSQL does not store."""

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        if evt.amount == 3:
            raise ValueError("it is \0 here")
        super().added(evt, at, db)


def test_an_error_that_cannot_be_stored_stops_its_partition_all_the_same(name: str, sql_url: str) -> None:
    """Else the projection would try for ever, and never say why."""
    with made(name, "exactly-once", to=sql_url, on_error=Retry(0), of=Quoting).start() as running:
        add_all(running, 5, keys=1)
        running.settle()
    assert rows_of(sql_url, "SELECT error FROM repertory_progress WHERE failed IS NOT NULL") == [
        (r"ValueError: it is \0 here",)
    ]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://ann:secret@here/bank",
        "postgresql+psycopg://here/bank?user=ann&password=secret",
        "postgresql+psycopg://here/bank?sslpassword=secret",
    ],
)
def test_no_sentence_has_the_password(url: str) -> None:
    """Of a database that does not answer, as of any other; what opens it has it."""
    database = Database(checked_url(url))
    assert "secret" not in database.shown
    assert "secret" in database.url.render_as_string(hide_password=False)


@pytest.mark.parametrize("url", ["postgres//ann:secret@here/bank", "mysql://ann:secret@here/bank"])
def test_no_refusal_of_a_url_has_the_password(url: str) -> None:
    """Also where it cannot be read."""
    with pytest.raises(ValueError, match="here/bank") as caught:
        checked_url(url)
    assert "secret" not in str(caught.value)


class Rewording(Totals, name="totals"):
    """Says in its own words what a database that ends its session says."""

    ends = 0

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        if evt.amount == 3 and Rewording.ends:
            Rewording.ends -= 1
            try:
                db.run(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
            except sa.exc.SQLAlchemyError as error:
                raise ValueError("it cannot be added") from error
        super().added(evt, at, db)


def test_what_a_handler_says_of_the_world_blames_no_event(
    name: str, sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event would be left out, or its partition would stop, because a session was ended."""
    monkeypatch.setattr(Rewording, "ends", 4)
    with made(name, "exactly-once", to=sql_url, on_error=Retry(0), of=Rewording).start() as running:
        totals = add_all(running, 10, keys=1)
        running.settle()
        assert unstopped(sql_url)
        assert totals_of(sql_url) == totals

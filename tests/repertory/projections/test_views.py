"""The views by which readers find the tables: they show one version, are ours, and keep their readers."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from repertory import ActorSystem
from repertory.bridge.system.projected import ProjectionTrouble
from repertory.cli.projections import ends_of
from repertory.projections import At, Db, Projection, project, table, upsert
from tests.apps.projected import Added, Counter, made
from tests.repertory.projections.running import act, add_all, as_somebody, rebuilding, rows_of, totals_of, waits_for


class Lean(Projection, name="totals", version=2):
    """Counts twice, and has one table less than version 1."""

    rows = table(sa.Column("key", sa.String(255), primary_key=True), sa.Column("total", sa.BigInteger, nullable=False))
    put = upsert(rows, by="key", add="total")

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        db.later(self.put, key=at.key, total=2 * evt.amount)


@pytest.fixture
def name() -> str:
    """Return a name of its own for a system."""
    return f"views-{uuid.uuid4().hex[:12]}"


def both(name: str, sql_url: str) -> ActorSystem:
    """Return the system with both versions."""
    system = made(name, "exactly-once", to=sql_url)
    system.project(Lean, Counter, to=sql_url)
    return system


@pytest.mark.parametrize("kind", ["TABLE totals_seen (x INTEGER)", "VIEW totals_seen AS SELECT 7 AS x"])
def test_a_view_of_somebody_else_is_left_alone(name: str, sql_url: str, kind: str) -> None:
    """Nothing is made, and the sentence names it."""
    act(sql_url, f"CREATE {kind}")
    with made(name, "exactly-once", to=sql_url).start() as running:
        add_all(running, 10)
        waits_for(running, "there is a table or view totals_seen that totals did not make")
    assert rows_of(sql_url, "SELECT x FROM totals_seen") == ([(7,)] if kind.startswith("VIEW") else [])


def test_a_table_that_no_later_version_has_is_dropped_with_its_view(name: str, sql_url: str, tmp_path: Path) -> None:
    """Until then readers find it; PostgreSQL would not drop it while its view is there."""
    log, system = f"sqlite:{tmp_path}/log.db", both(name, sql_url)
    with system.start(log) as running:
        totals = add_all(running, 20)
        running.settle()
        with rebuilding(system, log) as (builder, backend):
            builder.switch(ends_of(system, backend))
        assert rows_of(sql_url, "SELECT count(*) FROM totals_seen") == [(20,)]
        with rebuilding(system, log, 1) as (builder, _):
            builder.drop(serving=False)
    there = sa.inspect(sa.create_engine(sql_url, poolclass=sa.NullPool))
    assert there.get_view_names() == ["totals"]
    assert not there.has_table("totals_seen_1")
    assert totals_of(sql_url) == {key: 2 * total for key, total in totals.items()}


@pytest.mark.parametrize("sql_kind", ["postgresql"])
def test_a_switch_keeps_what_was_granted(name: str, sql_url: str, tmp_path: Path) -> None:
    """It makes another view of that name, which its readers may read as before."""
    reader = as_somebody(sql_url)
    log, role = f"sqlite:{tmp_path}/log.db", sa.make_url(reader).username
    system = both(name, sql_url)
    with system.start(log) as running:
        totals = add_all(running, 20)
        running.settle()
        act(sql_url, f"GRANT SELECT ON totals TO {role} WITH GRANT OPTION", "GRANT SELECT ON totals_seen TO PUBLIC")
        assert totals_of(reader) == totals
        with rebuilding(system, log) as (builder, backend):
            builder.switch(ends_of(system, backend))
    assert totals_of(reader) == {key: 2 * total for key, total in totals.items()}
    assert rows_of(reader, "SELECT count(*) FROM totals_seen") == [(20,)]
    act(reader, "GRANT SELECT ON totals TO PUBLIC")


@pytest.mark.parametrize("sql_kind", ["postgresql"])
def test_a_view_that_depends_on_ours_is_named(name: str, sql_url: str, tmp_path: Path) -> None:
    """PostgreSQL drops no view that another one needs: the sentence says so, and nothing has changed."""
    log, system = f"sqlite:{tmp_path}/log.db", both(name, sql_url)
    with system.start(log) as running:
        totals = add_all(running, 20)
        running.settle()
        act(sql_url, "CREATE VIEW richest AS SELECT max(total) FROM totals")
        with (
            rebuilding(system, log) as (builder, backend),
            pytest.raises(ProjectionTrouble, match="cannot drop view totals because other objects depend on it"),
        ):
            builder.switch(ends_of(system, backend))
    assert totals_of(sql_url) == totals

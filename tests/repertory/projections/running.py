"""A projected system in one process, and its tables, for the tests of this folder."""

from __future__ import annotations

import time
import uuid
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import sqlalchemy as sa

from repertory import ActorSystem, NotSettled, Running
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Backend
from repertory.projections.operate import ProjectionOperator
from repertory.projections.progress import ProjectedPlace
from repertory.projections.projection import BoundProjection
from repertory.projections.rebuild import Rebuild
from tests.apps.projected import Add, Counter

#: The bound of each wait, also on a busy machine.
_DEADLINE_S = 60.0


def bound_of(system: ActorSystem, version: int | None = None) -> BoundProjection:
    """Return the projection of totals."""
    bound = system.projections.named("totals", version)
    assert isinstance(bound, BoundProjection)
    return bound


def add_all(running: Running, count: int, keys: int = 7) -> Tally[str]:
    """Add the numbers up to a count, and return the totals."""
    totals: Tally[str] = Tally()
    commands = []
    for number in range(1, count + 1):
        commands.append((Counter.add, f"k{number % keys}", Add(amount=number)))
        totals[f"k{number % keys}"] += number
    running.client.tell_all(commands)
    return totals


def waits_for(running: Running, words: str) -> None:
    """Assert that it does not settle, and comes to say why."""
    deadline_s, said = time.monotonic() + _DEADLINE_S, ""
    while words not in said:
        assert time.monotonic() < deadline_s, said
        with pytest.raises(NotSettled) as caught:
            running.settle(0.2)
        said = str(caught.value)


def totals_of(sql_url: str, table: str = "totals") -> dict[str, int]:
    """Return the totals by key, as a reader sees them."""
    engine = sa.create_engine(sql_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return dict(connection.execute(sa.text(f"SELECT key, total FROM {table}")).all())  # type: ignore[arg-type] # noqa: S608


def rows_of(sql_url: str, sql: str) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    engine = sa.create_engine(sql_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(sql)).all()]


@contextmanager
def operating(system: ActorSystem, running: Running) -> Iterator[ProjectionOperator]:
    """Give an operator of its projection."""
    with closing(ProjectionOperator(bound_of(system), running._backend)) as operator:
        yield operator


def stopped_at(sql_url: str, system: ActorSystem) -> tuple[ProjectedPlace, int]:
    """Return the one place at which a projection has stopped, and the offset."""
    ((partition, failed),) = rows_of(sql_url, "SELECT partition, failed FROM repertory_progress WHERE failed >= 0")
    assert isinstance(partition, int)
    assert isinstance(failed, int)
    return ProjectedPlace("counter", f"{system.name}.counter.events", partition), failed


@contextmanager
def rebuilding(system: ActorSystem, log: str, version: int = 2) -> Iterator[tuple[Rebuild, Backend]]:
    """Give what rebuilds a version, as the command does."""
    with closing(connect(log)) as backend, closing(Rebuild(bound_of(system, version), system, backend)) as builder:
        yield builder, backend


def act(sql_url: str, *statements: str) -> None:
    """Run statements as the user that a URL names, each for itself."""
    with sa.create_engine(sql_url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        for each in statements:
            connection.exec_driver_sql(each)


def as_somebody(sql_url: str) -> str:
    """Return the URL of a role of PostgreSQL without special rights, which may make tables."""
    role = f"role_{uuid.uuid4().hex[:12]}"
    act(sql_url, f"CREATE ROLE {role} LOGIN", f"GRANT CREATE ON SCHEMA public TO {role}")
    return sa.make_url(sql_url).set(username=role).render_as_string(hide_password=False)

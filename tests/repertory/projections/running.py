"""A projected system in one process, and its tables, for the tests of this folder."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import closing, contextmanager

import sqlalchemy as sa

from repertory import ActorSystem, Running
from repertory.projections.operate import ProjectionOperator
from repertory.projections.progress import ProjectedPlace
from repertory.projections.projection import BoundProjection
from tests.apps.projected import Add, Counter


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

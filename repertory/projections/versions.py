"""The versions of a projection in its database: their tables are made, checked and dropped, and views name one of them.

Each of these is one transaction, and one at a time. PostgreSQL and SQLite undo DDL as they undo rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from repertory.bridge.system.projected import ProjectionTrouble
from repertory.projections import schema
from repertory.projections.database import Database, lock_ddl
from repertory.projections.projection import BoundProjection
from repertory.supervision.traceback_text import message_of

_table = schema.projections


def prepare(bound: BoundProjection, database: Database, topic_ids: Mapping[str, str]) -> bool:
    """Make the tables of a version if they are missing, and check them; return False if the version was dropped.

    ``topic_ids``: those of the topics that it reads. Raises ProjectionTrouble, WorldError.
    """
    try:
        with database.transaction() as connection:
            lock_ddl(connection, schema.DDL_LOCK)
            schema.metadata.create_all(connection)
            found = states(connection, bound.name)
            if (mine := found.get(bound.version)) is not None:
                _check(bound, mine)
                return bool(mine.state != schema.DROPPED)
            if other := next((each for each in found.values() if each.system != bound.system), None):
                raise _of_another(bound, other.system)
            _build(connection, bound, found, topic_ids)
            return True
    except sa.exc.SQLAlchemyError as error:
        raise ProjectionTrouble(
            f"the tables of {bound.name}, version {bound.version}, cannot be made in {database.shown}: "
            f"{message_of(error)}"
        ) from error


def states(connection: sa.Connection, name: str) -> dict[int, sa.Row[tuple[object, ...]]]:
    """Return what is known of the versions of a projection."""
    rows = connection.execute(sa.select(_table).where(_table.c.projection == name)).all()
    return {row.version: row for row in rows}


def _check(bound: BoundProjection, mine: sa.Row[tuple[object, ...]]) -> None:
    if mine.system != bound.system:
        raise _of_another(bound, mine.system)
    if mine.digest != bound.digest:
        raise ProjectionTrouble(
            f"{bound.kind.__name__} has other columns, or handles other events, than version {bound.version} of "
            f"{bound.name} was built with: give it version={bound.version + 1}, which is built beside it"
        )


def _of_another(bound: BoundProjection, system: object) -> ProjectionTrouble:
    return ProjectionTrouble(
        f"the projection {bound.name} of this database is of the system {system}, not of {bound.system}: choose "
        "another name= or another database"
    )


def _build(
    connection: sa.Connection,
    bound: BoundProjection,
    found: Mapping[int, sa.Row[tuple[object, ...]]],
    topic_ids: Mapping[str, str],
) -> None:
    """Make the tables, the first progress of each partition, and the views if no other version serves."""
    there = sa.inspect(connection)
    for table in bound.tables:
        if there.has_table(table.name):
            raise ProjectionTrouble(
                f"there is a table {table.name} that {bound.name} did not make: rename or drop it, or give the "
                "projection another name="
            )
    bound.kind.metadata.create_all(connection, checkfirst=False)
    serves = not any(each.state == schema.SERVES for each in found.values())
    connection.execute(
        _table.insert(),
        {
            "projection": bound.name, "version": bound.version, "system": bound.system, "digest": bound.digest,
            "state": schema.SERVES if serves else schema.BESIDE,
        },
    )  # fmt: skip
    rows = [
        {
            "projection": bound.name, "version": bound.version, "topic": place.topic, "partition": place.partition,
            "topic_id": topic_ids.get(place.topic, ""), "next": 0, "seq": 0, "failed": None, "error": "", "changes": 0,
        }
        for place in bound.places()
    ]  # fmt: skip
    connection.execute(schema.progress.insert(), rows)
    if serves:
        make_views(connection, bound)


def make_views(connection: sa.Connection, bound: BoundProjection) -> None:
    """Let readers see the tables of a version under their plain names."""
    drop_views(connection, bound)
    quote = connection.dialect.identifier_preparer.quote
    for attribute, table in bound.kind.tables.items():
        view = quote(bound.kind.view_name(attribute))
        connection.exec_driver_sql(f"CREATE VIEW {view} AS SELECT * FROM {quote(table.name)}")  # noqa: S608  our own names


def drop_views(connection: sa.Connection, bound: BoundProjection) -> None:
    """Take the plain names away."""
    quote = connection.dialect.identifier_preparer.quote
    for attribute in bound.kind.tables:
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {quote(bound.kind.view_name(attribute))}")

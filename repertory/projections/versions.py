"""The versions of a projection in its database: their tables are made, checked and dropped, and views name one of them.

Each of these is one transaction, and one at a time. PostgreSQL and SQLite undo DDL as they undo rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import sqlalchemy as sa

from repertory.bridge.system.projected import ProjectionTrouble
from repertory.projections import schema
from repertory.projections.database import Database, lock_ddl
from repertory.projections.progress import sentence_of
from repertory.projections.projection import BoundProjection

_table = schema.projections
#: What was granted on a view to others than its owner.
_GRANTED = sa.text(
    "SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, "
    "is_grantable FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass(:view) AND grantee <> relowner"
)


def prepare(bound: BoundProjection, database: Database, topic_ids: Mapping[str, str]) -> bool:
    """Make the tables of a version if they are missing, and check them; return False if the version was dropped.

    ``topic_ids``: those of the topics that it reads. Raises ProjectionTrouble, WorldError.
    """
    try:
        with database.transaction() as connection:
            lock_ddl(connection, schema.DDL_LOCK)
            schema.make(connection)
            found = states(connection, bound.name)
            if (mine := found.get(bound.version)) is not None:
                _check(bound, mine)
                if mine.state == schema.DROPPED:
                    return False
                _check_progress(connection, bound)
                return True
            if other := next((each for each in found.values() if each.system != bound.system), None):
                raise _of_another(bound, other.system)
            _build(connection, bound, found, topic_ids)
            return True
    except sa.exc.SQLAlchemyError as error:
        raise ProjectionTrouble(
            f"the tables of {bound.name}, version {bound.version}, cannot be made in {database.shown}: "
            f"{sentence_of(error)}"
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


def _check_progress(connection: sa.Connection, bound: BoundProjection) -> None:
    of, partitions = schema.progress, len(bound.places())
    mine = sa.select(sa.func.count()).where(of.c.projection == bound.name, of.c.version == bound.version)
    if (left := connection.execute(mine).scalar_one()) < partitions:
        raise ProjectionTrouble(progress_gone(bound, partitions - left))


def progress_gone(bound: BoundProjection, partitions: int) -> str:
    """Say that the progress of partitions is missing beside tables that are there."""
    return (
        f"the progress of {partitions} partitions of {bound} is gone from {schema.progress.name}, and without it "
        "nobody knows what its tables hold: restore the database from a backup, or drop this version and rebuild it"
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
            "trying": -1, "deaths": 0,
        }
        for place in bound.places()
    ]  # fmt: skip
    connection.execute(schema.progress.insert(), rows)
    if serves:
        make_views(connection, bound)


def make_views(connection: sa.Connection, bound: BoundProjection) -> None:
    """Let readers see the tables of a version under their plain names, with the rights that they have to these.

    Raises ProjectionTrouble if somebody else has a table or a view of such a name.
    """
    quote = connection.dialect.identifier_preparer.quote
    known = {*states(connection, bound.name), bound.version}
    for attribute, table in bound.kind.tables.items():
        name = bound.kind.view_name(attribute)
        found = _definition(connection, name)
        is_ours = found is not None and any(_names(found, f"{name}_{version}") for version in known)
        if not is_ours and sa.inspect(connection).has_table(name):  # A view is one, too.
            raise ProjectionTrouble(
                f"there is a table or view {name} that {bound.name} did not make: rename or drop it, or give the "
                "projection another name="
            )
        rights = _rights(connection, name)
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {quote(name)}")
        connection.exec_driver_sql(f"CREATE VIEW {quote(name)} AS SELECT * FROM {quote(table.name)}")  # noqa: S608  our own names
        for each in rights:
            connection.exec_driver_sql(each)


def drop_views(connection: sa.Connection, bound: BoundProjection) -> None:
    """Drop the views that show tables of a version: also those of tables that no later version has."""
    quote = connection.dialect.identifier_preparer.quote
    for attribute, table in bound.kind.tables.items():
        name = bound.kind.view_name(attribute)
        if _names(_definition(connection, name) or "", table.name):
            connection.exec_driver_sql(f"DROP VIEW {quote(name)}")


def _definition(connection: sa.Connection, view: str) -> str | None:
    """Return the SQL of a view, None if there is none of that name."""
    there = sa.inspect(connection)
    return there.get_view_definition(view) if view in there.get_view_names() else None


def _names(definition: str, table: str) -> bool:
    return re.search(rf"\b{re.escape(table)}\b", definition) is not None


def _rights(connection: sa.Connection, view: str) -> list[str]:
    """Return the statements that grant again what others may do with a view. SQLite has no such rights."""
    if connection.dialect.name != "postgresql":
        return []
    quoted = connection.dialect.identifier_preparer.quote(view)
    rows = connection.execute(_GRANTED, {"view": quoted}).all()
    return [
        f"GRANT {right} ON {quoted} TO {who}" + (" WITH GRANT OPTION" if may_grant else "")
        for right, who, may_grant in rows
    ]

"""The tables in which projections keep their progress, in the database that holds their rows."""

from __future__ import annotations

import sqlalchemy as sa

#: The number of the lock under which tables are made and dropped: any number, but the same in every version.
DDL_LOCK = 0x5245_5045_5254
_BYTES_MAX = 255

metadata = sa.MetaData()

#: One row for each version of each projection. ``digest``: of its columns and of the events that it handles.
projections = sa.Table(
    "repertory_projections",
    metadata,
    sa.Column("projection", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("system", sa.String(128), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
)

#: The states of a version: readers see it in the views, another version serves, or its tables were dropped.
SERVES, BESIDE, DROPPED = "serves", "beside", "dropped"

#: One row for each partition of each version: see ``progress.ProgressRow``.
progress = sa.Table(
    "repertory_progress",
    metadata,
    sa.Column("projection", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("topic", sa.String(_BYTES_MAX), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("topic_id", sa.String(64), nullable=False),
    sa.Column("next", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=True),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("changes", sa.BigInteger, nullable=False, default=0),
    sa.Column("trying", sa.BigInteger, nullable=False, default=-1),
    sa.Column("deaths", sa.Integer, nullable=False, default=0),
)

#: The events of parked keys, as pointers into the log: what a later build reads there is what was written.
parked = sa.Table(
    "repertory_parked",
    metadata,
    sa.Column("projection", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("topic", sa.String(_BYTES_MAX), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("offset", sa.BigInteger, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
)

#: On SQLite, the supervised processes that project into this file: see ``projections.holder``.
projectors = sa.Table(
    "repertory_projectors",
    metadata,
    sa.Column("pid", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("start", sa.String(128), primary_key=True),
)


def make(connection: sa.Connection) -> None:
    """Make the tables that are missing, and the columns that older builds did not have."""
    if not metadata.tables.keys() <= {*sa.inspect(connection).get_table_names()}:
        metadata.create_all(connection)
    there = {each["name"] for each in sa.inspect(connection).get_columns(progress.name)}
    for column, default in ((progress.c.trying, -1), (progress.c.deaths, 0)):
        if column.name not in there:
            kind = column.type.compile(connection.dialect)
            connection.exec_driver_sql(
                f"ALTER TABLE {progress.name} ADD COLUMN {column.name} {kind} NOT NULL DEFAULT {default}"
            )

"""``SqlProgress``: the progress of one partition in the database, and the transactions that change it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import sqlalchemy as sa

from repertory.projections import schema
from repertory.projections.database import Database
from repertory.projections.db import Db
from repertory.projections.handlers import Handlers
from repertory.projections.progress import PlacedEvent, ProgressRow, ProjectedPlace


@cache
def swap_statement() -> sa.Update:
    """Return the compare-and-swap of a progress. It is compiled once."""
    table, old = schema.progress, sa.bindparam
    return (
        table.update()
        .where(
            table.c.projection == old("name"),
            table.c.version == old("number"),
            table.c.topic == old("of_topic"),
            table.c.partition == old("of_partition"),
            table.c.next == old("old_next"),
            table.c.changes == old("old_changes"),
            table.c.failed.is_(None),
        )
        .values(
            next=old("to_next"), seq=old("to_seq"), failed=old("to_failed"), error=old("to_error"),
            topic_id=old("to_id"), trying=old("to_trying"), deaths=old("to_deaths"), changes=table.c.changes + 1,
        )
    )  # fmt: skip


def _text(error: str) -> str:
    """Return a text that PostgreSQL stores: without NUL, which an error may quote."""
    return error.replace("\0", "\\0")


class SqlTransaction:
    """Implements ``ProgressTransaction``."""

    def __init__(self, connection: sa.Connection, db: Db, owner: SqlProgress) -> None:
        self._connection, self.db, self._owner = connection, db, owner

    def swap(self, row: ProgressRow, to: ProgressRow) -> bool:
        """See ``ProgressTransaction.swap``."""
        owner = self._owner
        values = {
            "name": owner.name, "number": owner.version, "of_topic": owner.place.topic,
            "of_partition": owner.place.partition, "old_next": row.next, "old_changes": row.changes, "to_next": to.next,
            "to_seq": to.seq, "to_failed": None if to.failed < 0 else to.failed, "to_error": _text(to.error),
            "to_id": to.topic_id, "to_trying": to.trying, "to_deaths": to.deaths,
        }  # fmt: skip
        return self._connection.execute(swap_statement(), values).rowcount == 1

    def park(self, event: PlacedEvent, error: str) -> None:
        """See ``ProgressTransaction.park``."""
        owner = self._owner
        self._connection.execute(
            schema.parked.insert(),
            {
                "projection": owner.name, "version": owner.version, "topic": owner.place.topic,
                "partition": owner.place.partition, "offset": event.offset, "seq": event.seq, "key": event.key,
                "error": _text(error),
            },
        )  # fmt: skip

    def apply(self, event: PlacedEvent) -> None:
        """See ``ProgressTransaction.apply``."""
        try:
            self._owner.handlers.handle(event, self.db)
        except Exception as error:
            # A handler may say it in its own words: the event is not to blame for the world.
            if (failed := self.db.failed) is not None and self._owner.database.world_error(failed) is not None:
                raise failed from error
            raise

    def flush(self) -> None:
        """See ``ProgressTransaction.flush``."""
        self.db.flush()


class SqlProgress:
    """Implements ``ProgressStore`` for one partition of one version of a projection."""

    def __init__(
        self,
        database: Database,
        name: str,
        version: int,
        place: ProjectedPlace,
        handlers: Handlers,
        tables: list[sa.Table],
    ) -> None:
        self.database, self.name, self.version, self.place = database, name, version, place
        self.handlers, self._tables = handlers, tables

    def load(self) -> ProgressRow | None:
        """See ``ProgressStore.load``."""
        with self.database.reading() as connection:
            return load(connection, self.name, self.version, self.place)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        """See ``ProgressStore.transaction``."""
        with self.database.transaction() as connection:
            yield self.within(connection)

    def within(self, connection: sa.Connection) -> SqlTransaction:
        """Return what works within a transaction that is open."""
        return SqlTransaction(connection, Db(connection, self._tables), self)


def load(connection: sa.Connection, name: str, version: int, place: ProjectedPlace) -> ProgressRow | None:
    """Read a progress, and what is parked; None if there is none."""
    found = loaded(connection, name, version, place.topic, place.partition)
    return found.get((place.topic, place.partition))


def loaded(
    connection: sa.Connection, name: str, version: int, topic: str | None = None, partition: int | None = None
) -> dict[tuple[str, int], ProgressRow]:
    """Read the progresses of a version, of all partitions or of one, by topic and partition."""
    mine, counts = _load_statements(of_all=topic is None)
    values: dict[str, Any] = {"name": name, "number": version}
    if topic is not None:
        values |= {"of_topic": topic, "of_partition": partition}
    # The progress first: whoever parks or unparks changes it, so a swap from it proves that what follows was true.
    progresses = connection.execute(mine, values).mappings().all()
    parked: dict[tuple[str, int], dict[str, int]] = {}
    for of_topic, of_partition, key, count in connection.execute(counts, values):
        parked.setdefault((of_topic, of_partition), {})[key] = count
    return {
        (row["topic"], row["partition"]): ProgressRow(
            row["next"], row["seq"], -1 if row["failed"] is None else row["failed"], row["error"], row["changes"],
            parked.get((row["topic"], row["partition"]), {}), row["topic_id"], row["trying"], row["deaths"],
        )
        for row in progresses
    }  # fmt: skip


@cache
def _load_statements(*, of_all: bool) -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Return what reads progresses, and what counts the parked events of each key; of all partitions or of one."""
    rows, pointers, old = schema.progress, schema.parked, sa.bindparam
    mine = sa.select(rows).where(rows.c.projection == old("name"), rows.c.version == old("number"))
    counts = (
        sa.select(pointers.c.topic, pointers.c.partition, pointers.c.key, sa.func.count())
        .where(pointers.c.projection == old("name"), pointers.c.version == old("number"))
        .group_by(pointers.c.topic, pointers.c.partition, pointers.c.key)
    )
    if of_all:
        return mine, counts
    return (
        mine.where(rows.c.topic == old("of_topic"), rows.c.partition == old("of_partition")),
        counts.where(pointers.c.topic == old("of_topic"), pointers.c.partition == old("of_partition")),
    )

"""Projections: events a second, beside a bare loop of the database's driver: ``python -m benchmarks.projections``.

``--to postgresql+psycopg://…`` names an empty database; by default it is an SQLite file. ``--events 1000000`` is a long
run. The journal is written before, in the embedded log or in that of ``--log``. The bare loop has the rows in memory,
and sends them by executemany in transactions of the same size: it reads no log and decodes nothing.
"""

from __future__ import annotations

import time
import uuid
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Self

import msgspec
import sqlalchemy as sa
import typer
from rich.console import Console

from repertory import ActorSystem, Command, Entity, Event, command, connect, event
from repertory.actors.headers import CAUSE, SEQ, VERSION
from repertory.actors.shard.changelog import SHARD_KEY, encode_changelog_record, first_shard_record
from repertory.actors.wire import encode
from repertory.bridge import topics
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output
from repertory.projections import At, Db, Projection, project, table, upsert
from repertory.projections.projection import BoundProjection
from repertory.projections.projector import BATCH_EVENTS, Projector

console = Console(highlight=False)

KEYS, _CHUNK = 10_000, 10_000


class Pay(Command):
    """Pay in."""

    amount: int


class Paid(Event):
    """Money was paid in."""

    amount: int


class Purse(Entity):
    """Sums what was paid in."""

    total: int = 0

    @command
    def pay(self, cmd: Pay) -> Paid:
        """Take it."""
        return Paid(amount=cmd.amount)

    @event
    def paid(self, evt: Paid) -> Self:
        """Sum."""
        return self.replace(total=self.total + evt.amount)


class Purses(Projection):
    """The total of each purse."""

    rows = table(
        sa.Column("purse", sa.String(255), primary_key=True), sa.Column("total", sa.BigInteger, nullable=False)
    )
    add = upsert(rows, by="purse", add="total")

    @project
    def paid(self, evt: Paid, at: At, db: Db) -> None:
        """Add."""
        db.later(self.add, purse=at.key, total=evt.amount)


def made(to: str) -> ActorSystem:
    """Return a system with one shard."""
    system = ActorSystem(f"bench-{uuid.uuid4().hex[:8]}")
    system.host(Purse, partitions=1)
    system.project(Purses, Purse, to=to)
    return system


def rows(events: int) -> list[dict[str, object]]:
    """Return the rows of so many events."""
    return [{"purse": f"p-{seq * 7919 % KEYS}", "total": 1} for seq in range(events)]


def write_journal(system: ActorSystem, backend: Backend, events: int) -> None:
    """Write a journal as a shard does, with the shard record that ends it."""
    system.prepare(backend)
    value, topic = encode(Paid(amount=1)), topics.events_topic(system.name, "purse")
    cause = (CAUSE, b"bench/0/0/0")
    with closing(backend.appender()) as appender:
        for first in range(0, events, _CHUNK):
            numbers = range(first, min(first + _CHUNK, events))
            appender.append(
                [
                    Output(topic, 0, b"p-%d" % (seq * 7919 % KEYS), value, (cause, (SEQ, b"%d" % seq), (VERSION, b"1")))
                    for seq in numbers
                ]
            )
        record = msgspec.structs.replace(first_shard_record(), seq=events, changelog=1)
        state = topics.state_topic(system.name, "purse")
        appender.append([Output(state, 0, SHARD_KEY, encode_changelog_record(record), (cause,))])


def projected(system: ActorSystem, backend: Backend, events: int) -> float:
    """Return the seconds that a projector takes for all events."""
    bound = system.projections.of(Purses)
    assert isinstance(bound, BoundProjection)
    with closing(Projector(bound, system, backend)) as projector:
        (place,) = bound.places()
        projector.own(place)
        started_s = time.perf_counter()
        while (row := projector.partitions[place].row) is None or row.seq < events:
            projector.step(0.1)
        return time.perf_counter() - started_s


def bare(to: str, found: list[dict[str, object]]) -> float:
    """Return the seconds that the driver takes for the same statements."""
    engine = sa.create_engine(to)
    mark = ":purse, :total" if engine.dialect.name == "sqlite" else "%(purse)s, %(total)s"
    insert = f"INSERT INTO bare VALUES ({mark}) ON CONFLICT (purse) DO UPDATE SET total = bare.total + excluded.total"  # noqa: S608
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE bare (purse VARCHAR(255) PRIMARY KEY, total BIGINT NOT NULL)")
        connection.commit()
        started_s = time.perf_counter()
        for first in range(0, len(found), BATCH_EVENTS):
            cursor.executemany(insert, found[first : first + BATCH_EVENTS])
            connection.commit()
        return time.perf_counter() - started_s
    finally:
        connection.close()
        engine.dispose()


def measure(events: int, to: str, log: str) -> tuple[float, float]:
    """Return events a second of a projector, and rows a second of the bare loop."""
    system = made(to)
    with closing(connect(log)) as backend:
        write_journal(system, backend, events)
        seconds = projected(system, backend, events)
    with sa.create_engine(to, poolclass=sa.NullPool).connect() as sql:
        total = sql.execute(sa.text("SELECT sum(total) FROM purses")).scalar_one()
    assert total == events, f"{total} of {events} events are in the table"
    return events / seconds, events / bare(to, rows(events))


def main(
    events: Annotated[int, typer.Option(min=1)] = 50_000,
    to: Annotated[str, typer.Option(help="An empty database.")] = "",
    log: Annotated[str, typer.Option(help="The log of the journal.")] = "",
) -> None:
    """Measure, and print."""
    with TemporaryDirectory() as folder:
        to = to or f"sqlite:///{Path(folder) / 'projections.db'}"
        log = log or f"sqlite:{Path(folder) / 'log.db'}"
        ours, theirs = measure(events, to, log)
        kind, of = to.partition(":")[0], log.partition(":")[0]
        console.print(
            f"{kind}, {events:,} events of a {of} log: {ours:,.0f} events/s; bare loop {theirs:,.0f} rows/s",
            soft_wrap=True,
        )


if __name__ == "__main__":
    typer.run(main)

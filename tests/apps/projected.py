"""An application whose events are projected: counters, a total by key, and one row for each event."""

from __future__ import annotations

from typing import Self

import sqlalchemy as sa

from repertory import ActorSystem, Command, Context, Entity, Event, Rejection, Settings, command, event
from repertory.projections import At, Db, Park, Projection, Retry, insert, project, table, upsert


class Add(Command):
    """Add to a counter."""

    amount: int


class Leave(Command):
    """End the life of a counter."""


class Note(Command):
    """An event that nothing handles."""


class Added(Event):
    """The amount was added."""

    amount: int


class Noted(Event):
    """Nothing that is projected."""


class Left(Event):
    """The end of a life."""


class Nothing(Rejection):
    """Zero is not added."""


class Counter(Entity):
    """A total."""

    total: int = 0

    @command
    def add(self, cmd: Add) -> Added | Nothing:
        return Added(amount=cmd.amount) if cmd.amount else Nothing()

    @command
    def note(self, _cmd: Note) -> Noted:
        return Noted()

    @command
    def leave(self, _cmd: Leave, ctx: Context) -> Left:
        ctx.stop()
        return Left()

    @event
    def added(self, evt: Added) -> Self:
        return self.replace(total=self.total + evt.amount)

    @event
    def noted(self, _evt: Noted) -> Self:
        return self

    @event
    def left(self, _evt: Left) -> Self:
        return self


class Totals(Projection):
    """The total of each key, and each event with its place."""

    rows = table(
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
    )
    seen = table(
        sa.Column("shard", sa.Integer, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
    )
    put = upsert(rows, by="key", add=["total", "events"])

    #: No upsert: an event that is applied twice is an error.
    see = insert(seen)

    #: Amounts that no handler takes, until they are mended.
    poison: frozenset[int] = frozenset()

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        if evt.amount in self.poison:
            raise ValueError(f"{evt.amount} is poison")
        db.later(self.put, key=at.key, total=evt.amount, events=1)
        db.later(self.see, shard=at.partition, seq=at.seq, key=at.key, amount=evt.amount)


def made(
    name: str, delivery: str, *, to: str | None = None, on_error: Retry | Park | None = None, of: type[Totals] = Totals
) -> ActorSystem:
    """Return a system of its own."""
    system = ActorSystem(name, settings=Settings(delivery=delivery, snapshot_window_records=200))
    system.host(Counter, partitions=3)
    system.project(of, Counter, to=to, on_error=on_error or Retry(1))
    return system

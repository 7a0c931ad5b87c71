"""Purses and tills, and all that a projection can do with their events: several tables, two entities, two versions."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Self

import sqlalchemy as sa

from repertory import ActorSystem, Command, CommandHandler, Context, Entity, Event, Settings, command, event
from repertory.projections import At, Db, Park, Projection, Retry, delete, insert, project, table, upsert
from repertory.simulation import Outcome


class Put(Command):
    """Pay into a purse."""

    cents: int


class Look(Command):
    """An event that nothing handles."""


class Leave(Command):
    """End the life of a purse."""


class Ring(Command):
    """Ring up at a till, which pays into a purse."""

    purse: str
    cents: int


class Paid(Event):
    """It holds more."""

    cents: int


class Looked(Event):
    """Somebody has looked."""


class Left(Event):
    """Its life has ended."""


class Rung(Event):
    """A till has rung up."""

    cents: int


class Purse(Entity):
    """It holds cents."""

    cents: int = 0

    @command
    def put(self, cmd: Put) -> Paid:
        return Paid(cents=cmd.cents)

    @command
    def look(self, _cmd: Look) -> Looked:
        return Looked()

    @command
    def leave(self, _cmd: Leave, ctx: Context) -> Left:
        ctx.stop()
        return Left()

    @event
    def paid(self, evt: Paid) -> Self:
        return self.replace(cents=self.cents + evt.cents)

    @event
    def looked(self, _evt: Looked) -> Self:
        return self

    @event
    def left(self, _evt: Left) -> Self:
        return self


class Till(Entity):
    """It counts what it has rung up."""

    cents: int = 0

    @command
    def ring(self, cmd: Ring, ctx: Context) -> Rung:
        ctx.tell(Purse.put, cmd.purse, Put(cents=cmd.cents))
        return Rung(cents=cmd.cents)

    @event
    def rung(self, evt: Rung) -> Self:
        return self.replace(cents=self.cents + evt.cents)


class Ledger(Projection, version=2):
    """What each purse holds, one line for each payment, the largest of each purse, and the sum of each till."""

    rows = table(
        sa.Column("purse", sa.String(255), primary_key=True),
        sa.Column("cents", sa.BigInteger, nullable=False),
        sa.Column("payments", sa.BigInteger, nullable=False),
    )
    lines = table(
        sa.Column("shard", sa.Integer, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("purse", sa.String(255), nullable=False),
        sa.Column("cents", sa.BigInteger, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
    )
    largest = table(
        sa.Column("purse", sa.String(255), primary_key=True), sa.Column("cents", sa.BigInteger, nullable=False)
    )
    tills = table(
        sa.Column("till", sa.String(255), primary_key=True), sa.Column("cents", sa.BigInteger, nullable=False)
    )
    add = upsert(rows, by="purse", add=["cents", "payments"])
    clear = delete(rows, by="purse")
    write = insert(lines)  # No upsert: an event that is applied twice is an error.
    put_largest = upsert(largest, by="purse", set="cents")
    add_till = upsert(tills, by="till", add="cents")

    @project
    def paid(self, evt: Paid, at: At, db: Db) -> None:
        db.later(self.add, purse=at.key, cents=evt.cents, payments=1)
        db.later(self.write, shard=at.partition, seq=at.seq, purse=at.key, cents=evt.cents, at=at.time, cause=at.cause)
        largest = sa.select(self.largest.c.cents).where(self.largest.c.purse == at.key)
        if evt.cents > (db.run(largest).scalar() or 0):
            db.run(self.put_largest, purse=at.key, cents=evt.cents)

    @project
    def left(self, _evt: Left, at: At, db: Db) -> None:
        db.later(self.clear, purse=at.key)

    @project
    def rung(self, evt: Rung, at: At, db: Db) -> None:
        db.later(self.add_till, till=at.key, cents=evt.cents)


class OldLedger(Projection, version=1, name="ledger"):
    """What each purse was paid, as before."""

    rows = table(
        sa.Column("purse", sa.String(255), primary_key=True), sa.Column("cents", sa.BigInteger, nullable=False)
    )
    add = upsert(rows, by="purse", add="cents")

    @project
    def paid(self, evt: Paid, at: At, db: Db) -> None:
        db.later(self.add, purse=at.key, cents=evt.cents)


def ledgers(
    kind: type[Projection] = Ledger,
    *others: type[Projection],
    delivery: str = "exactly-once",
    on_error: Retry | Park | None = None,
) -> ActorSystem:
    """Return a system that projects these, ``kind`` from both entities and the others from purses."""
    system = ActorSystem("ledgers", settings=Settings(delivery=delivery))
    system.host(Purse, partitions=3)
    system.host(Till, partitions=2)
    system.project(kind, Purse, Till, on_error=on_error or Retry(1))
    for each in others:
        system.project(each, Purse, on_error=Park(times=1))
    return system


system = ledgers(Ledger, OldLedger)


def commands(random: Random) -> Iterator[tuple[CommandHandler[Any, Any, Any], str, Command]]:
    """Yield the commands of one run."""
    for _ in range(90):
        purse, cents = f"p{random.randrange(6)}", random.randrange(1, 100)
        kind = random.randrange(10)
        if kind < 4:
            yield Purse.put, purse, Put(cents=cents)
        elif kind < 8:
            yield Till.ring, f"t{random.randrange(3)}", Ring(purse=purse, cents=cents)
        elif kind < 9:
            yield Purse.look, purse, Look()
        else:
            yield Purse.leave, purse, Leave()


def invariant(outcome: Outcome) -> None:
    """Raise AssertionError if the tables do not say what the entities do."""
    held = {row["purse"]: row["cents"] for row in outcome.rows(Ledger)}
    for number in range(6):
        purse = outcome.state(Purse, f"p{number}")
        assert held.get(f"p{number}", 0) == (0 if purse is None else purse.cents), f"p{number}"
    for row in outcome.rows(Ledger, "tills"):
        till = outcome.state(Till, row["till"])
        assert till is not None
        assert row["cents"] == till.cents
    paid = sum(row["cents"] for row in outcome.rows(OldLedger))
    assert paid == sum(row["cents"] for row in outcome.rows(Ledger, "lines"))

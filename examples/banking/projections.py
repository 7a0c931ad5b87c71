"""The bank's tables, for queries in SQL: the balance of each account, and what happened to it."""

import sqlalchemy as sa

from examples.banking.accounts import Closed, Deposited, Opened, Refunded, Withdrawn
from repertory.projections import At, Db, Projection, insert, project, table, upsert

Paid = Opened | Deposited | Refunded | Withdrawn


def amount_of(evt: Paid) -> int:
    """Return by how much an event changes the balance of its account."""
    match evt:
        case Opened():
            return evt.initial
        case Withdrawn():
            return -evt.amount
        case _:
            return evt.amount


class Balances(Projection):
    """The balance of each account, in whole cents."""

    rows = table(
        sa.Column("account", sa.String(255), primary_key=True),
        sa.Column("balance", sa.BigInteger, nullable=False),
    )
    add = upsert(rows, by="account", add="balance")

    @project
    def paid(self, evt: Opened | Deposited | Refunded | Withdrawn, at: At, db: Db) -> None:
        db.later(self.add, account=at.key, balance=amount_of(evt))


class Statement(Projection):
    """One line for each event of an account. Lines of one account are in the order of ``seq``."""

    rows = table(
        sa.Column("shard", sa.Integer, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("account", sa.String(255), nullable=False, index=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("what", sa.String(32), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("transfer", sa.String(64), nullable=False),
    )
    write = insert(rows)

    @project
    def paid(self, evt: Opened | Deposited | Refunded | Withdrawn, at: At, db: Db) -> None:
        transfer = "" if isinstance(evt, Opened) else evt.transfer
        self._line(at, db, type(evt).__name__.lower(), amount_of(evt), transfer)

    @project
    def closed(self, _evt: Closed, at: At, db: Db) -> None:
        self._line(at, db, "closed", 0, "")

    def _line(self, at: At, db: Db, what: str, amount: int, transfer: str) -> None:
        db.later(
            self.write, shard=at.partition, seq=at.seq, account=at.key, at=at.time, what=what, amount=amount,
            transfer=transfer,
        )  # fmt: skip

"""Example 7, a library: a projection, and a query in SQL; run it with ``python -m examples.projection``."""

from typing import Self

import sqlalchemy as sa

from repertory import ActorSystem, Command, Entity, Event, Rejection, command, event
from repertory.projections import At, Db, Projection, delete, project, table, upsert


class Lend(Command):
    """Lend it to a reader."""

    to: str


class GiveBack(Command):
    """It is back."""


class Lent(Event):
    """A reader has it."""

    to: str


class GivenBack(Event):
    """Nobody has it."""


class Away(Rejection):
    """Somebody has it."""

    reader: str


class Book(Entity):
    """A book; its key is its title. It knows who has it, and of no other book."""

    reader: str = ""

    @command
    def lend(self, cmd: Lend) -> Lent | Away:
        return Away(reader=self.reader) if self.reader else Lent(to=cmd.to)

    @command
    def give_back(self, _cmd: GiveBack) -> GivenBack:
        return GivenBack()

    @event
    def lent(self, evt: Lent) -> Self:
        return self.replace(reader=evt.to)

    @event
    def given_back(self, _evt: GivenBack) -> Self:
        return self.replace(reader="")


class Loans(Projection):
    """Which books are away, and who has them: a question to all books at once."""

    rows = table(sa.Column("book", sa.String(255), primary_key=True), sa.Column("reader", sa.Text))
    put = upsert(rows, by="book", set="reader")
    take = delete(rows, by="book")

    @project
    def lent(self, evt: Lent, at: At, db: Db) -> None:
        db.later(self.put, book=at.key, reader=evt.to)

    @project
    def given_back(self, _evt: GivenBack, at: At, db: Db) -> None:
        db.later(self.take, book=at.key)


system = ActorSystem("library")
system.host(Book, partitions=2)
system.project(Loans, Book)

if __name__ == "__main__":
    with system.start("memory:") as running:
        client = running.client
        for title, reader in (("Emma", "Ann"), ("Ulysses", "Ann"), ("Dracula", "Bob")):
            client.tell(Book.lend, title, Lend(to=reader))
        answer = client.ask_result(Book.give_back, "Ulysses", GiveBack())
        client.wait(Loans, answer.position)  # Until the table holds this answer, and all before it in its shard.
        running.settle()  # Until all tables hold everything.
        with sa.create_engine(client.database(Loans)).connect() as sql:
            for reader, books in sql.execute(sa.text("SELECT reader, count(*) FROM loans GROUP BY reader ORDER BY 1")):
                print(reader, books)

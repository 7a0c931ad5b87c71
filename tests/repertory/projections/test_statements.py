"""What handlers leave for later becomes the rows that they would be one by one, and nothing is dropped in silence."""

from __future__ import annotations

import uuid
from contextlib import suppress

import pytest
import sqlalchemy as sa

from repertory import ActorSystem, DefinitionError
from repertory.projections import At, Db, Projection, Retry, delete, insert, project, table, upsert
from tests.apps.projected import Add, Added, Counter, Leave, Left
from tests.repertory.projections.running import add_all, rows_of


def projecting(kind: type[Projection], sql_url: str) -> ActorSystem:
    """Return a system of its own whose counters are projected by a class."""
    system = ActorSystem(f"counted-{uuid.uuid4().hex[:12]}")
    system.host(Counter, partitions=1)
    system.project(kind, Counter, to=sql_url, on_error=Retry(0))
    return system


def error_of(sql_url: str) -> str:
    """Return why the only partition has stopped."""
    ((error,),) = rows_of(sql_url, "SELECT error FROM repertory_progress WHERE failed IS NOT NULL")
    return str(error)


class Remarks(Projection):
    """A remark with each odd amount."""

    rows = table(
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("amount", sa.BigInteger),
        sa.Column("remark", sa.String(20)),
    )
    put = insert(rows)

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        more = {"remark": f"odd {evt.amount}"} if evt.amount % 2 else {}
        db.later(self.put, seq=at.seq, amount=evt.amount, **more)


def test_executions_with_other_columns_lose_none(sql_url: str) -> None:
    """SQLAlchemy drops, of many executions at once, what the first one does not have."""
    with projecting(Remarks, sql_url).start() as running:
        add_all(running, 12)
        running.settle()
    rows = rows_of(sql_url, "SELECT amount, remark FROM remarks ORDER BY seq")
    assert rows == [(number, f"odd {number}" if number % 2 else None) for number in range(1, 13)]


class Named(Projection):
    """Rows that begin without a total."""

    rows = table(
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("label", sa.String(20)),
        sa.Column("total", sa.BigInteger),
    )
    name_it, add = upsert(rows, by="key", set="label"), upsert(rows, by="key", add="total")

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        db.later(self.name_it, key=at.key, label=at.key.upper())
        db.later(self.add, key=at.key, total=evt.amount)


def test_null_counts_as_nothing_where_is_added(sql_url: str) -> None:
    """In SQL, NULL and a number are NULL: the total would never come back."""
    with projecting(Named, sql_url).start() as running:
        totals = add_all(running, 20)
        running.settle()
    rows = rows_of(sql_url, "SELECT key, label, total FROM named ORDER BY key")
    assert rows == [(key, key.upper(), total) for key, total in sorted(totals.items())]


class Forgetful(Named, name="named"):
    """Leaves a value out."""

    @project
    def added(self, _evt: Added, at: At, db: Db) -> None:
        db.later(self.add, key=at.key)


class Inventive(Named, name="named"):
    """Gives a value of no column."""

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        db.later(self.add, key=at.key, total=evt.amount, colour="red")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Forgetful, "TypeError: upsert of named_1 needs a value of 'total': without one, it would be made NULL"),
        (Inventive, "TypeError: upsert of named_1 takes no 'colour'; it takes key, label, total"),
    ],
)
def test_values_that_do_not_fit_are_an_error_of_the_event(sql_url: str, kind: type[Projection], words: str) -> None:
    """The database would take them, and make something else of the row."""
    with projecting(kind, sql_url).start() as running:
        add_all(running, 3)
        running.settle()
    assert error_of(sql_url) == words


class Careless(Remarks, name="remarks"):
    """Catches what the database says of a row that is there already."""

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        db.run(self.put, seq=at.seq, amount=evt.amount)
        if evt.amount == 3:
            with suppress(sa.exc.IntegrityError):
                db.run(self.put, seq=at.seq, amount=evt.amount)


def test_an_error_of_the_database_is_not_swallowed(sql_url: str) -> None:
    """PostgreSQL undoes the transaction all the same, and says so of nothing: it would be tried again for ever."""
    with projecting(Careless, sql_url).start() as running:
        add_all(running, 5)
        running.settle()
    assert rows_of(sql_url, "SELECT amount FROM remarks ORDER BY seq") == [(1,), (2,)]
    error = error_of(sql_url)
    assert error.startswith(("IntegrityError: UNIQUE constraint failed", "UniqueViolation: duplicate key value"))
    assert "INSERT" not in error
    assert "\n" not in error


class Families(Projection):
    """Children that refer to their parents."""

    rows = table(sa.Column("key", sa.String(255), primary_key=True))
    children = table(
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("parent", sa.String(255), sa.ForeignKey("families_1.key"), nullable=False),
    )
    meet, bear = upsert(rows, by="key"), insert(children)
    part, leave = delete(children, by="parent"), delete(rows, by="key")

    @project
    def added(self, _evt: Added, at: At, db: Db) -> None:
        db.later(self.bear, seq=at.seq, parent=at.key)
        db.later(self.meet, key=at.key)

    @project
    def left(self, _evt: Left, at: At, db: Db) -> None:
        db.later(self.part, parent=at.key)
        db.later(self.leave, key=at.key)


def test_foreign_keys_are_obeyed(sql_url: str) -> None:
    """Parents come before their children, and go after them."""
    with projecting(Families, sql_url).start() as running:
        for key, last in (("a", [Add(amount=1)]), ("b", [Add(amount=1)]), ("c", []), ("a", [Add(amount=1)])):
            for command in (Add(amount=1), Add(amount=1), Leave(), *last):
                handler = Counter.add if isinstance(command, Add) else Counter.leave
                running.client.tell(handler, key, command)  # type: ignore[arg-type, misc]
        running.settle()
    assert rows_of(sql_url, "SELECT count(*) FROM repertory_progress WHERE failed IS NOT NULL") == [(0,)]
    assert rows_of(sql_url, "SELECT parent, count(*) FROM families_children GROUP BY parent ORDER BY 1") == [
        ("a", 1),
        ("b", 1),
    ]


def test_a_foreign_key_to_an_unknown_table_is_refused(sql_url: str) -> None:
    """With the names that there are."""

    class Lost(Projection):
        rows = table(
            sa.Column("key", sa.String(255), sa.ForeignKey("nowhere.key"), primary_key=True),
        )

        @project
        def added(self, _evt: Added, _at: At, _db: Db) -> None: ...

    with pytest.raises(DefinitionError, match=r"a foreign key to a table that is none of its own \(lost_1\)"):
        projecting(Lost, sql_url)

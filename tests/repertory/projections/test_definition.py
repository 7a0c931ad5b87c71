"""Mistakes in a projection are found where it is defined, each with a sentence; what needs no database loads none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Self

import pytest
import sqlalchemy as sa

from repertory import ActorSystem, Command, DefinitionError, Entity, Event, command
from repertory.bridge.system.projected import Park, Retry
from repertory.projections import At, Db, Projection, delete, insert, project, table, upsert
from tests.apps.projected import Added, Counter, Totals, made
from tests.support.paths import ROOT


class Foreign(Event):
    """An event of nobody."""


class Set(Command):
    """Set a stateful entity."""


class Lamp(Entity):
    """Keeps its state, and no events."""

    is_on: bool = False

    @command
    def set(self, _cmd: Set) -> Self:
        return self.replace(is_on=True)


class Silent(Projection):
    """Handles nothing."""


class Strange(Projection):
    """Handles what no entity says."""

    @project
    def foreign(self, _evt: Foreign, _at: At, _db: Db) -> None: ...


class Twice(Projection):
    """Two methods for one event."""

    @project
    def one(self, _evt: Added, _at: At, _db: Db) -> None: ...

    @project
    def two(self, _evt: Added, _at: At, _db: Db) -> None: ...


class Asynchronous(Projection):
    """Waits."""

    @project  # type: ignore[arg-type, type-var]
    async def added(self, _evt: Added, _at: At, _db: Db) -> None: ...


class Short(Projection):
    """A method without ``db``."""

    @project
    def added(self, _evt: Added, _at: At) -> None: ...


class Untyped(Projection):
    """A method that does not say what it takes."""

    @project
    def added(self, _evt, _at, _db) -> None:  # type: ignore[no-untyped-def]
        ...


class Made(Projection):
    """Wants an argument."""

    def __init__(self, colour: str) -> None:
        self.colour = colour

    @project
    def added(self, _evt: Added, _at: At, _db: Db) -> None: ...


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Made, "Made is made without arguments: .*'colour'; drop its __init__"),
        (Silent, "Silent has no @project method, so it can project nothing"),
        (Strange, "@project Strange.foreign takes Foreign, which is no event of Counter"),
        (Twice, "takes Added, and so does"),
        (Asynchronous, "is not a plain function; it does no I/O but db"),
        (Short, "@project Short.added takes \\(self, evt, at, db\\)"),
        (Untyped, "needs an event as the annotation of '_evt', or a union of them"),
    ],
)
def test_a_mistake_in_the_class_is_a_sentence(kind: type[Projection], sentence: str) -> None:
    """At ``system.project``, before anything runs."""
    system = ActorSystem("wrong")
    system.host(Counter)
    with pytest.raises(DefinitionError, match=sentence):
        system.project(kind, Counter)


def test_entities_without_events_are_not_projected() -> None:
    """Their states are read with a view; and an entity that is not hosted is named."""
    system = ActorSystem("wrong")
    system.host(Lamp)
    with pytest.raises(DefinitionError, match=r"Totals cannot project Lamp, which has no events: .* client\.view"):
        system.project(Totals, Lamp)
    with pytest.raises(LookupError, match="wrong does not host"):
        system.project(Totals, Counter)
    with pytest.raises(ValueError, match="Totals projects no entity"):
        system.project(Totals)


def test_a_version_is_projected_once() -> None:
    """Two of one name and version would share their tables."""
    system = made("twice", "exactly-once")
    with pytest.raises(ValueError, match="Totals and Totals are both version 1 of the projection totals"):
        system.project(Totals, Counter)


_rows = table(sa.Column("key", sa.String(9), primary_key=True), sa.Column("n", sa.Integer))


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: upsert(_rows, by="key", add="x"), "there is no column 'x': the table has key, n"),
        (lambda: upsert(_rows, by="n", add="n"), "no primary key and no unique constraint has these columns"),
        (lambda: upsert(_rows, by="key", add="n", set="n"), "adds to the column 'n' and sets it"),
        (lambda: delete(_rows, by=[]), "delete needs columns"),
        (
            lambda: type("Early", (Projection,), {"rows": _rows, "put": sa.insert(_rows)}),
            "is built before its table has a",
        ),
        (table, r"table\(…\) makes a table of the columns that it is given"),
        (lambda: type("Early", (Projection,), {"tables": _rows}), "Early.tables: no table can be called so"),
        (lambda: type("Ä", (Projection,), {}), "give it a name= of at most 40"),
        (lambda: type("Zero", (Projection,), {}, version=0), "version is 1 to 1,000,000, not 0"),
    ],
)
def test_a_mistake_in_a_table_is_a_sentence(act: Callable[[], object], sentence: str) -> None:
    """Where the statement or the class is made."""
    with pytest.raises(DefinitionError, match=sentence):
        act()


@pytest.mark.parametrize("act", [lambda: Retry(-1), lambda: Park(keys_max=0), lambda: Park(times=5_000)])
def test_a_policy_has_bounds(act: Callable[[], object]) -> None:
    """Each number is checked."""
    with pytest.raises(ValueError, match=r"(Retry|Park) takes"):
        act()


def test_tables_are_named_by_their_attributes() -> None:
    """A version has tables of its own, and a class that derives from another has its own too."""

    class Later(Totals, name="totals", version=7):
        pass

    assert (Totals.rows.name, Totals.seen.name) == ("totals_1", "totals_seen_1")
    assert (Later.rows.name, Later.seen.name, Later.put.table) == ("totals_7", "totals_seen_7", Later.rows)
    assert Totals.put.table is Totals.rows
    assert (Totals.view_name("rows"), Totals.view_name("seen")) == ("totals", "totals_seen")
    assert insert(_rows).table is _rows


def test_what_a_database_knows_by_name_is_named_by_version() -> None:
    """Two versions are beside each other, and their classes are copies: an index of one name would be there already."""

    def rows() -> sa.Table:
        return table(
            sa.Column("key", sa.String(9), primary_key=True),
            sa.Column("n", sa.Integer, index=True),
            sa.Index("by_n", "n"),
            sa.UniqueConstraint("key", "n", name="once"),
        )

    engine = sa.create_engine("sqlite://")
    for version in (1, 2):
        kind = type("Pairs", (Projection,), {"rows": rows()}, version=version)
        assert {each.name for each in kind.rows.indexes} == {f"by_n_{version}", f"ix_pairs_{version}_n"}
        assert {each.name for each in kind.rows.constraints} == {f"once_{version}", None}
        kind.metadata.create_all(engine)


@pytest.mark.processes
def test_what_needs_no_database_loads_none() -> None:
    """Neither ``import repertory`` nor its system loads SQLAlchemy; without it, the sentence names the extra."""
    program = (
        "import sys, repertory; repertory.ActorSystem('x'); assert 'sqlalchemy' not in sys.modules;"
        "sys.modules['sqlalchemy'] = None; sys.path_hooks.clear(); import repertory.projections"
    )
    program = program.replace("sys.path_hooks.clear(); ", "")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ImportError: projections need SQLAlchemy: pip install 'repertory[projections]'" in done.stderr

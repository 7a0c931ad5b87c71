"""``table``, ``insert``, ``upsert``, ``delete``: the tables of a projection, and statements that are built once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from repertory.actors.message import DefinitionError

#: In ``Table.info``: that a table belongs to a projection, whose name it gets when the class exists.
OWN = "repertory"


def table(*columns: sa.Column[Any] | sa.Constraint | sa.Index) -> sa.Table:
    """Return a table of a projection, an attribute of its class; the class gives it its name.

    An attribute ``rows`` becomes the table ``{projection}_{version}``, with the view ``{projection}`` of the version
    that serves; any other attribute becomes ``{projection}_{attribute}_{version}``. Raises DefinitionError.
    """
    if not any(isinstance(each, sa.Column) for each in columns):
        raise DefinitionError("table(…) makes a table of the columns that it is given: give it at least one.")
    return sa.Table("unnamed", sa.MetaData(), *columns, info={OWN: True})


class RowStatement:
    """What ``insert``, ``upsert`` and ``delete`` return. Its parameters are named as the columns of its table."""

    def __init__(
        self,
        into: sa.Table,
        by: tuple[str, ...] = (),
        add: tuple[str, ...] = (),
        replace: tuple[str, ...] = (),
        *,
        deletes: bool = False,
    ) -> None:
        self.table, self.by, self.add, self.replace, self.deletes = into, by, add, replace, deletes
        self._compiled: dict[str, sa.Insert | sa.Delete] = {}
        #: The columns that each execution has to give, and those that it may give.
        self._needed = frozenset((*by, *(name for name in (*add, *replace) if not _has_default(into.c[name]))))
        self._taken = frozenset(by if deletes else into.c.keys())

    def check(self, values: Mapping[str, object]) -> None:
        """Refuse values of which SQL would make something else than the statement says. Raises TypeError."""
        given = values.keys()
        if self._needed <= given <= self._taken:
            return
        what = f"{'delete' if self.deletes else 'upsert' if self.by else 'insert'} of {self.table.name}"
        if unknown := sorted(given - self._taken):
            raise TypeError(f"{what} takes no {unknown[0]!r}; it takes {', '.join(sorted(self._taken))}")
        raise TypeError(f"{what} needs a value of {min(self._needed - given)!r}: without one, it would be made NULL")

    def statement(self, dialect: str) -> sa.Insert | sa.Delete:
        """Return it for a database; the same object each time, so that SQLAlchemy compiles it once."""
        if dialect not in self._compiled:
            self._compiled[dialect] = self._built(dialect)
        return self._compiled[dialect]

    def _built(self, dialect: str) -> sa.Insert | sa.Delete:
        if self.deletes:
            return sa.delete(self.table).where(*(self.table.c[name] == sa.bindparam(name) for name in self.by))
        if not self.by:
            return sa.insert(self.table)
        make = postgresql.insert if dialect == "postgresql" else sqlite.insert
        built = make(self.table)
        mine, new = self.table.c, built.excluded
        changed: dict[str, Any] = {name: sa.func.coalesce(mine[name] + new[name], new[name]) for name in self.add}
        changed.update({name: new[name] for name in self.replace})
        if not changed:
            return built.on_conflict_do_nothing(index_elements=list(self.by))
        return built.on_conflict_do_update(index_elements=list(self.by), set_=changed)

    def on(self, other: sa.Table) -> RowStatement:
        """Return the same for another table of the same columns."""
        return RowStatement(other, self.by, self.add, self.replace, deletes=self.deletes)


def insert(into: sa.Table) -> RowStatement:
    """Return a statement that inserts a row; one with the same key is an error of the event."""
    return RowStatement(into)


def delete(out_of: sa.Table, *, by: str | Sequence[str]) -> RowStatement:
    """Return a statement that deletes the rows with these values of the columns ``by``. Raises DefinitionError."""
    names = _names(by)
    _check_names(out_of, names)
    if not names:
        raise DefinitionError("delete needs columns by which it finds rows.")
    return RowStatement(out_of, names, deletes=True)


def upsert(
    into: sa.Table,
    *,
    by: str | Sequence[str],
    add: str | Sequence[str] = (),
    set: str | Sequence[str] = (),  # noqa: A002  named as SQL has it
) -> RowStatement:
    """Return a statement that inserts a row; where there is one with the same ``by``, it changes that.

    ``by``: the primary key, or columns that are unique together. Of a row that is there, the columns ``add`` are added
    to (NULL counts as nothing), and those of ``set`` are replaced; with neither, it stays as it is. Each execution
    gives a value of all of these. Raises DefinitionError.
    """
    names = _names(by), _names(add), _names(set)
    for group in names:
        _check_names(into, group)
    if not names[0] or not _is_unique(into, frozenset(names[0])):
        raise DefinitionError(
            f"upsert(by={list(names[0])!r}): no primary key and no unique constraint has these columns, so a row is "
            "not found by them; add one to the table."
        )
    if doubled := frozenset(names[1]) & frozenset(names[2]):
        raise DefinitionError(f"upsert adds to the column {min(doubled)!r} and sets it; choose one of the two.")
    return RowStatement(into, *names)


def _check_names(of: sa.Table, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in of.c:
            raise DefinitionError(f"there is no column {name!r}: the table has {', '.join(of.c.keys())}.")


def _has_default(column: sa.Column[Any]) -> bool:
    return column.default is not None or column.server_default is not None


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _is_unique(of: sa.Table, names: frozenset[str]) -> bool:
    unique = [each for each in of.constraints if isinstance(each, sa.UniqueConstraint)]
    sets = [frozenset(column.name for column in each.columns) for each in (of.primary_key, *unique)]
    sets += [frozenset([column.name]) for column in of.columns if column.unique]
    sets += [frozenset(column.name for column in index.columns) for index in of.indexes if index.unique]
    return names in sets


def shape_of(tables: Mapping[str, sa.Table]) -> list[str]:
    """Return one line for each column of the tables, by which a change is noticed."""
    return [
        f"{name}.{column.name} {column.type!r} {column.primary_key} {column.nullable}"
        for name, each in sorted(tables.items())
        for column in each.columns
    ]

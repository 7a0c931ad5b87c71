"""``Db``: what a handler of a projection writes to. Within one transaction, which also holds the progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from repertory.projections.statements import RowStatement

Statement = RowStatement | sa.Executable


class Db:
    """The database of a projection, within the transaction of one batch. Handlers keep no reference to it."""

    def __init__(self, connection: sa.Connection, tables: Sequence[sa.Table]) -> None:
        """``tables``: those of the projection, in the order in which their rows may be written."""
        self._connection, self._dialect = connection, connection.dialect.name
        #: What is to be written: for each table its statements, with the values of their executions, in the order of
        #: the calls; the tables in the order in which they may be written.
        self._rows: dict[sa.Table, list[tuple[RowStatement, list[dict[str, Any]]]]] = {each: [] for each in tables}
        self._others: list[tuple[sa.Executable, list[dict[str, Any]]]] = []
        #: Those that others refer to: their rows go after the rows that refer to them.
        self._referred = {key.column.table for each in tables for key in each.foreign_keys}
        #: What the database has said of a statement: nothing of the batch can be written any more.
        self.failed: sa.exc.SQLAlchemyError | None = None

    def later(self, statement: Statement, /, **values: Any) -> None:
        """Run a statement with these values, together with others of the batch: for statements without a result.

        For each table, inserts, upserts and deletes run in the order of the calls; those of two tables do not depend on
        each other, but for foreign keys, which are obeyed. Any other statement runs after all that were called before
        it, and before all that come after it. Raises TypeError for values that do not fit the statement.
        A statement should be the same object each time: it is then compiled once, and runs once for many values.
        """
        if isinstance(statement, RowStatement):
            statement.check(values)
            if self._others or (statement.deletes and statement.table in self._referred):
                self.flush()
            _add(self._rows.setdefault(statement.table, []), statement, values)
            return
        if any(self._rows.values()):
            self.flush()
        _add(self._others, statement, values)

    def run(self, statement: Statement, /, **values: Any) -> sa.CursorResult[Any]:
        """Run a statement now, after all that were left for later, and return its result, as SQLAlchemy does.

        What it raises undoes the whole batch, also if the handler catches it: PostgreSQL has undone it by then.
        """
        self.flush()
        if isinstance(statement, RowStatement):
            statement.check(values)
            return self._execute(statement.statement(self._dialect), values)
        return self._execute(statement, values)

    def flush(self) -> None:
        """Run what was left for later. The projector does so at the end of a batch.

        Raises what the database does, again if a handler has caught it.
        """
        if self.failed is not None:
            raise self.failed
        for runs in self._rows.values():
            for row_statement, parameters in runs:
                self._execute(row_statement.statement(self._dialect), parameters)
            runs.clear()
        for statement, parameters in self._others:
            self._execute(statement, parameters)
        self._others.clear()

    def _execute(
        self, statement: sa.Executable, parameters: dict[str, Any] | list[dict[str, Any]]
    ) -> sa.CursorResult[Any]:
        try:
            result = self._connection.execute(statement, parameters)
        except sa.exc.SQLAlchemyError as error:
            self.failed = error
            raise
        assert isinstance(result, sa.CursorResult), statement
        return result


def _add(runs: list[tuple[Any, list[dict[str, Any]]]], statement: object, values: dict[str, Any]) -> None:
    """Add an execution to the last run, if that is of the same statement with the same parameters.

    With others it is a run of its own: SQLAlchemy compiles a run for the parameters of its first execution, and drops
    what a later one has beyond these.
    """
    if runs and runs[-1][0] is statement and runs[-1][1][0].keys() == values.keys():
        runs[-1][1].append(values)
    else:
        runs.append((statement, [values]))

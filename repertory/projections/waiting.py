"""How far a projection is: for clients that wait for a position, and for ``repertory status``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from repertory.actors.asks import Position
from repertory.bridge.system.projected import (
    PartitionStatus,
    ProjectionStatus,
    ProjectionStopped,
    ProjectionTrouble,
)
from repertory.projections import schema
from repertory.projections.database import Database
from repertory.projections.progress import ProgressRow, ProjectedPlace, WorldError, sentence_of
from repertory.projections.store import load, loaded
from repertory.projections.versions import progress_gone, states

if TYPE_CHECKING:
    from repertory.projections.projection import BoundProjection


class SqlWaiting:
    """Implements ``Progress``."""

    def __init__(self, bound: BoundProjection, database: Database) -> None:
        self._bound, self._database = bound, database
        self._places = {(place.entity, place.partition): place for place in bound.places()}

    def has(self, position: Position) -> bool:
        """See ``Progress.has``."""
        place, row = self._row(position)
        if position.seq == 0 or (row is not None and row.seq >= position.seq):
            return True
        if row is not None and row.failed >= 0:
            event = f"{place}@{row.failed}"
            raise ProjectionStopped(stopped(self._bound, place, row), event)
        return False

    def describe(self, position: Position) -> str:
        """See ``Progress.describe``."""
        try:
            _, row = self._row(position)
        except ProjectionTrouble as trouble:
            return str(trouble)
        return (
            "has no tables: it has not begun, or was dropped"
            if row is None
            else f"is at {position.entity}/{position.partition}/{row.seq}"
        )

    def _row(self, position: Position) -> tuple[ProjectedPlace, ProgressRow | None]:
        place = self._places.get((position.entity, position.partition))
        if place is None:
            raise ValueError(f"{self._bound.name} does not project {position.entity}/{position.partition}: {position}")
        try:
            with self._database.reading() as connection:
                return place, load(connection, self._bound.name, self._bound.version, place)
        except WorldError as error:
            raise ProjectionTrouble(str(error)) from error
        except sa.exc.SQLAlchemyError:  # There are no tables yet.
            return place, None

    def close(self) -> None:
        """Release the database."""
        self._database.close()


def stopped(bound: BoundProjection, place: ProjectedPlace, row: ProgressRow) -> str:
    """Return the sentence about a partition that has stopped."""
    return (
        f"{bound.name}, version {bound.version}, has stopped at {place}@{row.failed}: {row.error}. "
        "Correct the handler and retry, or skip the event: repertory projections retry|skip"
    )


def status_of(bound: BoundProjection, database: Database, ends: dict[tuple[str, int], int]) -> ProjectionStatus:
    """See ``Projected.status``."""
    try:
        with database.reading() as connection:
            if not sa.inspect(connection).has_table(schema.projections.name):
                return ProjectionStatus(name=bound.name, version=bound.version, state="new")
            mine = states(connection, bound.name).get(bound.version)
            rows = loaded(connection, bound.name, bound.version)
    except (WorldError, sa.exc.SQLAlchemyError) as error:
        trouble = str(error) if isinstance(error, WorldError) else f"{database.shown}: {sentence_of(error)}"
        return ProjectionStatus(name=bound.name, version=bound.version, state="?", trouble=trouble)
    partitions = tuple(
        PartitionStatus(
            entity=place.entity, partition=place.partition, seq=row.seq,
            end=ends.get((place.entity, place.partition), row.seq), failed=None if row.failed < 0 else row.failed,
            error=row.error, parked=dict(row.parked),
        )
        for place in bound.places()
        if (row := rows.get((place.topic, place.partition))) is not None
    )  # fmt: skip
    state = "new" if mine is None else str(mine.state)
    trouble = (
        "" if mine is None or mine.digest == bound.digest else "its columns or handlers changed without a new version"
    )
    missing = len(bound.places()) - len(partitions)
    if mine is not None and mine.state != schema.DROPPED and missing and not trouble:
        trouble = progress_gone(bound, missing)
    return ProjectionStatus(name=bound.name, version=bound.version, state=state, partitions=partitions, trouble=trouble)

"""The tables that the projectors of a trial have written, beside those of one undisturbed run over the same events."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from repertory import ActorSystem
from repertory.actors.asks import Position
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.system.committed import shard_record
from repertory.bridge.system.projected import ProjectionStopped, ProjectionTrouble
from repertory.projections.database import Database
from repertory.projections.projection import BoundProjection
from repertory.projections.projector import Projector

Rows = Counter[tuple[Any, ...]]

#: The limit of an undisturbed run, also on a busy machine.
_DEADLINE_S = 120.0


class ProjectedTables:
    """Those of all projections of a system. ``rows``: how many they had when they were compared."""

    def __init__(self, system: ActorSystem, backend: Backend, reader: Reader) -> None:
        self._system, self._backend, self._reader = system, backend, reader
        self._projections = [each for each in system.projections if isinstance(each, BoundProjection)]
        self.rows = 0

    def behind(self) -> str | None:
        """Return where a projection has not applied all events that count, None if each has."""
        return next(filter(None, map(self._behind, self._projections)), None)

    def _behind(self, bound: BoundProjection) -> str | None:
        with closing(bound.progress(self._backend)) as progress:
            try:
                for place in bound.places():
                    behaviour = self._system.behaviour(place.entity)
                    shard = shard_record(self._reader, self._system, behaviour, place.partition)
                    position = Position(place.entity, place.partition, shard.seq)
                    if not progress.has(position):
                        return f"{bound} to reach {position}: it {progress.describe(position)}"
            except (LogUnavailable, ProjectionStopped, ProjectionTrouble) as trouble:
                return str(trouble)
        return None

    def complaints(self) -> list[str]:
        """Compare the tables with what one projector alone writes to another database. The nodes must be stopped."""
        found = []
        for bound in self._projections:
            with closing(bound.database(self._backend)) as database:
                written = _tables(database, bound)
            wanted = self._undisturbed(bound)
            self.rows += sum(rows.total() for rows in written.values())
            for name, rows in wanted.items():
                too_many, missing = written[name] - rows, rows - written[name]
                if too_many or missing:
                    found.append(f"{name} has {list(too_many)[:5]}, and one undisturbed run {list(missing)[:5]}")
        return found

    def _undisturbed(self, bound: BoundProjection) -> dict[str, Rows]:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/undisturbed.db"
            alone = BoundProjection(bound.kind, bound.system, [*bound.hosted.values()], url, bound.on_error)
            with closing(Projector(alone, self._system, self._backend)) as projector:
                for place in alone.places():
                    projector.own(place)
                end_s = time.monotonic() + _DEADLINE_S
                while (left := self._behind(alone)) is not None:
                    assert time.monotonic() < end_s, f"never: {left}"
                    projector.step(0.1)
                return _tables(projector.database, alone)


def _tables(database: Database, bound: BoundProjection) -> dict[str, Rows]:
    with database.reading() as connection:
        return {
            table.name: Counter(tuple(row) for row in connection.execute(sa.select(table))) for table in bound.tables
        }

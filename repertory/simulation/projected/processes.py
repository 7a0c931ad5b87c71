"""One projection in a run: its database, the processes that race for its partitions, and its operator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress

import msgspec
import sqlalchemy as sa

from repertory.bridge.log.port import Backend
from repertory.bridge.system.projected import ProjectionTrouble
from repertory.bridge.system.system import ActorSystem
from repertory.projections import schema
from repertory.projections.operate import ProjectionOperator
from repertory.projections.progress import PlacedEvent, ProgressRow, ProjectedPlace
from repertory.projections.projection import BoundProjection
from repertory.projections.projector import Projector
from repertory.projections.store import loaded
from repertory.simulation.projected.database import MemoryDatabase, SimulatedDatabase
from repertory.simulation.projected.faults import CAUSED, ProjectionFaults, ProjectorKilled, is_caused
from repertory.simulation.projected.reading import reading
from repertory.simulation.projected.watched import Noted, SimulatedProjection
from repertory.simulation.swarm import Swarm
from repertory.simulation.virtual import VirtualClock

#: So many processes has each projection. Each of them has all of its partitions: the group that would share them
#: spares work, and nothing depends on it.
_PROCESSES = 2


class ProjectionKit(msgspec.Struct, frozen=True):
    """What the projectors of a run share. ``working``: those within a step, the innermost last."""

    system: ActorSystem
    swarm: Swarm
    backend: Backend
    clock: VirtualClock
    faults: ProjectionFaults
    working: list[SimulatedProjector]


class FollowedProjection:
    """One projection. ``noted``: what all of its processes have done."""

    def __init__(self, kit: ProjectionKit, bound: BoundProjection, memory: MemoryDatabase, noted: Noted) -> None:
        self.kit, self.bound, self.memory, self.noted = kit, bound, memory, noted
        self.places = {(place.topic, place.partition): place for place in bound.places()}
        self.processes = [SimulatedProjector(self) for _ in range(_PROCESSES)]
        #: How often one of them was killed.
        self.deaths = 0
        #: The commits at which its operator has not looked begin here.
        self._not_seen = 0

    def behind(self, place: ProjectedPlace, seq: int) -> str | None:
        """Say what is missing of a partition up to the event before ``seq``; None if nothing is, or it has stopped."""
        rows = [process.projector.partitions[place].row for process in self.processes]
        if any(row is not None and row.seq >= seq for row in rows):
            return None
        if any(row is not None and row.failed >= 0 for row in rows) and self.progress()[place].failed >= 0:
            return None
        return f"the projection {self.bound} is behind event {seq - 1} of {place}: {self.processes[0].why(place)}"

    def progress(self) -> dict[ProjectedPlace, ProgressRow]:
        """Return the committed progress of each partition; empty if there is none yet."""
        with self.memory.transaction() as connection:
            if not sa.inspect(connection).has_table(schema.progress.name):
                return {}
            rows = loaded(connection, self.bound.name, self.bound.version)
        return {self.places[where]: row for where, row in rows.items()}

    def retry(self) -> list[str]:
        """Let an operator retry what faults have stopped and parked; return that."""
        commits = self.noted.commits
        is_asked = any(is_caused(commit.why) for commit in commits[self._not_seen :])
        self._not_seen = len(commits)
        retried: list[str] = []
        if not is_asked:
            return retried
        opened = SimulatedDatabase(self.memory)
        projection = SimulatedProjection(self.bound, opened, self.noted)
        with closing(ProjectionOperator(projection, self.kit.backend)) as operator:
            for place, row in self.progress().items():
                self.kit.faults.lift(self.bound.name, place)
                if row.failed >= 0 and is_caused(row.error):
                    operator.retry(place)
                    retried.append(f"{place}@{row.failed}")
                elif row.failed >= 0:
                    continue
                for key in self._parked(opened, place):
                    with suppress(ProjectionTrouble):  # A later event of the key fails by itself.
                        operator.retry_key(place, key)
                    retried.append(f"{place} {key!r}")
        return retried

    def _parked(self, opened: SimulatedDatabase, place: ProjectedPlace) -> list[str]:
        """Return the keys of a partition that a fault has parked."""
        table = schema.parked
        mine = sa.select(table.c.key).where(
            table.c.projection == self.bound.name, table.c.version == self.bound.version, table.c.topic == place.topic,
            table.c.partition == place.partition, sa.or_(*(table.c.error.contains(each) for each in CAUSED)),
        )  # fmt: skip
        with opened.reading() as connection:
            return sorted({*connection.execute(mine).scalars()})

    def close(self) -> None:
        """End its processes."""
        for process in self.processes:
            process.close()


class SimulatedProjector:
    """One process after another of a projection."""

    def __init__(self, of: FollowedProjection) -> None:
        self._of, self._kit = of, of.kit
        #: Until when it is stopped (SIGSTOP).
        self.asleep_until_s = 0.0
        self.start()

    def start(self) -> None:
        """Start a process, which knows nothing but what its database says."""
        of, kit = self._of, self._kit
        self._opened = SimulatedDatabase(of.memory, kit.faults.reached)
        bound = SimulatedProjection(of.bound, self._opened, of.noted, self._handling)
        backend = reading(kit.backend, kit.faults.reached, 2 * kit.swarm.project_events)
        self.projector = Projector(bound, kit.system, backend, kit.clock, lambda *_: None)
        self.projector.batch_events = kit.swarm.project_events
        for place in of.places.values():
            self.projector.own(place)

    def _handling(self, place: ProjectedPlace, event: PlacedEvent) -> None:
        self._kit.faults.handling(self._of.bound.name, place, event)

    def step(self) -> bool:
        """Work once; return whether anything happened. A process that is killed is followed by another."""
        if self._kit.clock.monotonic_s() < self.asleep_until_s:
            return False
        return self._working(self.projector.step)

    def _working(self, act: Callable[[], bool]) -> bool:
        self._kit.working.append(self)
        try:
            return act()
        except ProjectorKilled:
            self._of.deaths += 1
            self.close()
            self.start()
            return True
        finally:
            self._kit.working.pop()

    def move(self) -> None:
        """Give all partitions back and take them again; a process may be killed while it does."""
        if self._kit.clock.monotonic_s() < self.asleep_until_s:
            return
        self._working(self._moves)

    def _moves(self) -> bool:
        for place in self._of.places.values():
            self.projector.disown(place)
            self.projector.own(place)
        return True

    def why(self, place: ProjectedPlace) -> str:
        """Say what keeps it from a partition."""
        said = self.projector.said(str(self.projector.bound)) or self.projector.partitions[place].trouble
        return said or "it finds no more that counts"

    def close(self) -> None:
        """End the process: what it has not committed is undone."""
        self._opened.close()

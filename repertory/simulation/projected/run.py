"""``SimulatedProjections``: the projections of one run, as its cluster drives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from repertory.bridge.system.projected import Projectable
from repertory.projections.projection import BoundProjection
from repertory.simulation.projected.database import MemoryDatabase, check_tables
from repertory.simulation.projected.faults import ProjectionFaults
from repertory.simulation.projected.processes import FollowedProjection, ProjectionKit
from repertory.simulation.projected.rules import check_explained, check_once, check_rows, rows_of
from repertory.simulation.projected.watched import Noted
from repertory.simulation.projecting import Journals, Projecting
from repertory.simulation.unexplained import AllowedError

if TYPE_CHECKING:
    from repertory.simulation.cluster import SimulatedCluster

#: How often a projector works before the workers go on.
_STEPS_MAX = 100
#: How long a projector is stopped.
_ASLEEP_S = (0.3, 3.0, 30.0)


class SimulatedProjections(Projecting):
    """Projections with the same ``to`` share a database, as they do outside."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        faults = ProjectionFaults(cluster.choices, cluster.clock, cluster.probes, self._meanwhile)
        self._kit = ProjectionKit(cluster.system, cluster.swarm, cluster.backend, cluster.clock, faults, [])
        self._memories: dict[str, MemoryDatabase] = {}
        self._followed = [self._follow(each) for each in cluster.system.projections]
        self._processes = [process for each in self._followed for process in each.processes]
        self._turns = self._rests = 0

    def _follow(self, projected: object) -> FollowedProjection:
        assert isinstance(projected, BoundProjection), projected
        check_tables(projected.kind)
        where = "" if projected.to is None else str(projected.to)
        if where not in self._memories:
            self._memories[where] = MemoryDatabase()
        return FollowedProjection(self._kit, projected, self._memories[where], Noted([], self._cluster.probes))

    def turn(self) -> bool:
        """See ``Projecting``."""
        every = self._cluster.swarm.project_every
        self._turns += 1
        if self._turns % every:
            return False
        number = self._turns // every + self._cluster.choices.rarely(1, 100, "projector-order")
        return self._processes[number % len(self._processes)].step()

    def rest(self) -> None:
        """See ``Projecting``."""
        self._rests += 1
        for each in self._followed:
            process = each.processes[self._rests % len(each.processes)]
            for _ in range(_STEPS_MAX):
                if not process.step():
                    break
        self.operate()  # A projector may find only now that earlier ones were killed at an event.

    def _meanwhile(self, at: str) -> None:
        """Between two steps of a projector, let another work; or, while it reads, a worker."""
        cluster, choices, working = self._cluster, self._cluster.choices, self._kit.working
        if len(working) != 1:
            return
        workers = list(cluster.node.workers.values()) if at == "read" else []
        if workers and choices.below(2, "a-worker"):
            cluster.probes["workers went on while a projector read"] += 1
            cluster.node.turn(workers[choices.below(len(workers), "which")])
            return
        others = [process for process in self._processes if process is not working[0]]
        cluster.probes[f"projector met another at {at}"] += 1
        others[choices.below(len(others), "which")].step()

    def inject(self, kind: str, /) -> str | None:
        """See ``Projecting``."""
        choices = self._cluster.choices
        if kind not in ("projector-stopped", "projector-moved"):
            return self._kit.faults.arm(kind)
        number = choices.below(len(self._processes), "projector")
        if kind == "projector-moved":
            self._processes[number].move()
            return f"number {number + 1}"
        seconds = _ASLEEP_S[choices.below(len(_ASLEEP_S), "long")]
        self._processes[number].asleep_until_s = self._cluster.clock.monotonic_s() + seconds
        return f"number {number + 1} for {seconds} s"

    def operate(self) -> str | None:
        """See ``Projecting``."""
        retried = [found for each in self._followed for found in each.retry()]
        self._cluster.probes["operator retried what was projected"] += bool(retried)
        return f"retry {', '.join(retried)}" if retried else None

    def heal(self) -> None:
        """See ``Projecting``."""
        self._kit.faults.heal()
        for process in self._processes:
            process.asleep_until_s = 0.0
        self.operate()

    def left(self) -> str | None:
        """See ``Projecting``."""
        entities = self._cluster.topology.entities
        for worker in self._cluster.node.workers.values():
            for assigned in worker.region:
                where = entities[assigned.place.topic].codec.events, assigned.place.partition
                for each in self._followed:
                    place = each.places.get(where)
                    if place is None or assigned.shard is None:
                        continue
                    if (left := each.behind(place, assigned.shard.record.seq)) is not None:
                        return left
        return None

    # --- the end ----------------------------------------------------------------------------------------------

    def is_complete(self) -> bool:
        """See ``Projecting``."""
        rows = [row for each in self._followed for row in each.progress().values()]
        return not any(row.failed >= 0 or row.parked for row in rows)

    def check(self, journals: Journals) -> None:
        """See ``Projecting``."""
        for each in self._followed:
            check_once(each, journals)
            check_rows(each, journals)

    def check_explained(self, allowed: Iterable[AllowedError]) -> None:
        """See ``Projecting``."""
        for each in self._followed:
            check_explained(each, allowed)

    def rows(self, projection: type[Projectable], attribute: str, /) -> list[dict[str, Any]]:
        """See ``Projecting``."""
        bound = self._cluster.system.projections.of(projection)
        (found,) = (each for each in self._followed if each.bound is bound)
        tables = found.bound.kind.tables
        if attribute not in tables:
            raise LookupError(f"{projection.__name__} has no table {attribute!r}; it has {', '.join(tables)}")
        return rows_of(found, tables[attribute])

    def digest(self) -> bytes:
        """See ``Projecting``."""
        made = [
            (str(commit.place), commit.failed, [event.seq for event in commit.applied], len(commit.parked))
            for each in self._followed
            for commit in each.noted.commits
        ]
        rows = [
            sorted(map(repr, rows_of(each, table)))
            for each in self._followed
            for table in (each.bound.tables if each.noted.commits else ())
        ]
        return repr((made, rows)).encode("utf-8", "backslashreplace")

    def close(self) -> None:
        """See ``Projecting``."""
        for process in self._processes:
            process.close()
        for memory in self._memories.values():
            memory.close()

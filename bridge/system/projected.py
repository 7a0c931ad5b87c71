"""What a system knows of its projections: their names, and the ports through which ``repertory.projections`` runs them.

A projection keeps tables of a database up to date with the events of entities. The runtime imports no database library:
the classes that a system projects bring all of that with them (`Projectable`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from repertory.actors.asks import Position
from repertory.actors.entity import Entity
from repertory.bridge.log.port import Backend

if TYPE_CHECKING:
    from repertory.bridge.system.definition import SystemDefinition

#: Retries are in memory: a projector that restarts begins to count anew.
_RETRIES_MAX, _KEYS_MAX = 1_000, 100_000


class Retry(msgspec.Struct, frozen=True):
    """An event that fails is tried again so often, with increasing delays. Then its partition stops, with its name."""

    times: int = 5

    def __post_init__(self) -> None:
        """Refuse an invalid number."""
        if not isinstance(self.times, int) or not 0 <= self.times <= _RETRIES_MAX:
            raise ValueError(f"Retry takes 0 to {_RETRIES_MAX} times, not {self.times!r:.100}")


class Park(msgspec.Struct, frozen=True):
    """As ``Retry``, but then its key is parked: later events of the key wait behind it, and all others go on.

    At most ``keys_max`` keys of one partition; with one more the partition stops. Totals over several keys lack what is
    parked.
    """

    keys_max: int = 10
    times: int = 5

    def __post_init__(self) -> None:
        """Refuse invalid numbers."""
        if not isinstance(self.keys_max, int) or not 1 <= self.keys_max <= _KEYS_MAX:
            raise ValueError(f"Park takes 1 to {_KEYS_MAX:,} keys, not {self.keys_max!r:.100}")
        Retry(self.times)


OnError = Retry | Park


class ProjectionStopped(Exception):
    """A projection cannot go on with a partition; the sentence names the event, its error, and the remedy.

    ``event``: where it stands in the log, ``topic/partition@offset``.
    """

    def __init__(self, sentence: str, event: str) -> None:
        super().__init__(sentence)
        self.event = event


class ProjectionTrouble(Exception):
    """A projection cannot work at all now; the sentence says why, and what to do."""


class PartitionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a projection is with one partition of an entity's events.

    ``seq`` counts the events that it has taken, of ``end``. ``failed``: the offset at which it has stopped, None while
    it works; ``error`` says why. ``parked``: keys, each with the number of its events that wait.
    """

    entity: str
    partition: int
    seq: int
    end: int
    failed: int | None = None
    error: str = ""
    parked: dict[str, int] = {}

    @property
    def lag(self) -> int:
        """How many events are not applied yet."""
        return max(0, self.end - self.seq)


class ProjectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a projection. ``state``: "serves", "beside" (another version serves), "dropped" or "new".

    ``trouble``: why its database cannot be read; "" if it can.
    """

    name: str
    version: int
    state: str
    partitions: tuple[PartitionStatus, ...] = ()
    trouble: str = ""


class Following(Protocol):
    """A projection that is driven within a process. One thread calls it."""

    def step(self) -> bool:
        """Apply what has been committed; return whether anything happened. Raises nothing but what ends the process."""

    def behind(self, entity: str, partition: int, seq: int) -> str | None:
        """Say what is missing up to the event before ``seq``; None if nothing is, or its partition has stopped."""

    def close(self) -> None:
        """Release the database and the log."""


class Progress(Protocol):
    """How far a projection is, for those who wait. Any thread may call it."""

    def has(self, position: Position) -> bool:
        """Return whether the tables hold all up to a position.

        Raises ProjectionStopped, ProjectionTrouble (it may pass), ValueError for an entity that it does not project.
        """

    def describe(self, position: Position) -> str:
        """Say how far it is."""

    def close(self) -> None:
        """Release the database."""


class Projected(Protocol):
    """One version of a projection, as a system projects it."""

    @property
    def name(self) -> str:
        """Its name, which its versions share."""

    @property
    def version(self) -> int:
        """Its version, from 1."""

    @property
    def entities(self) -> Sequence[type[Entity]]:
        """The entities whose events it follows."""

    @property
    def work(self) -> str:
        """The target of the ``WorkSpec`` of a process that projects it."""

    def on(self, system: SystemDefinition) -> Projected:
        """Return the same projection of the same entities, as another system hosts them."""

    def follow(self, system: SystemDefinition, backend: Backend) -> Following:
        """Make what keeps its tables up to date within this process; nothing is read or written yet."""

    def url(self, backend: Backend) -> str:
        """Return the URL of its database, as SQLAlchemy takes it, password included."""

    def progress(self, backend: Backend) -> Progress:
        """Return how far it is, for those who wait; nothing is read yet. Close it."""

    def status(self, backend: Backend, ends: dict[tuple[str, int], int]) -> ProjectionStatus:
        """Read how far it is. ``ends``: by entity and partition, the seq after the last event."""


class Projections:
    """The projections of a system, by their classes, in the order of ``project``."""

    def __init__(self) -> None:
        self._projected: dict[type[Projectable], Projected] = {}

    def add(self, projection: type[Projectable], projected: Projected) -> None:
        """Add one; ValueError if there is one of that name and version."""
        for other, known in self._projected.items():
            if (known.name, known.version) == (projected.name, projected.version):
                raise ValueError(
                    f"{other.__name__} and {projection.__name__} are both version {known.version} of the projection "
                    f"{known.name}: give one of them another version= or name="
                )
        self._projected[projection] = projected

    def __iter__(self) -> Iterator[Projected]:
        return iter(self._projected.values())

    def carry(self, system: SystemDefinition) -> None:
        """Let another system, which hosts the same entities, project the same."""
        for projection, each in self._projected.items():
            system.projections.add(projection, each.on(system))

    def __len__(self) -> int:
        return len(self._projected)

    def follow(self, entity: type[Entity]) -> bool:
        """Return whether one of them follows an entity."""
        return any(entity in each.entities for each in self)

    def of(self, projection: type[Projectable]) -> Projected:
        """Return a projection by its class; LookupError that lists what is projected."""
        try:
            return self._projected[projection]
        except (KeyError, TypeError):
            names = ", ".join(each.__name__ for each in self._projected) or "nothing"
            raise LookupError(f"the system does not project {projection!r}; it projects {names}") from None

    def named(self, name: str, version: int | None = None) -> Projected:
        """Return a projection by its name, the latest version of it or one; LookupError that lists the others."""
        found = [each for each in self if each.name == name and version in (None, each.version)]
        if not found:
            known = ", ".join(f"{each.name} (version {each.version})" for each in self) or "nothing"
            wanted = name if version is None else f"{name} (version {version})"
            raise LookupError(f"the system does not project {wanted}; it projects {known}")
        return max(found, key=lambda each: each.version)


class Projectable(Protocol):
    """A class that can be projected: ``repertory.projections.Projection``."""

    @classmethod
    def projected(
        cls, system: SystemDefinition, entities: Sequence[type[Entity]], to: str | None, on_error: OnError
    ) -> Projected:
        """Check the class against the entities, and return the projection. Raises DefinitionError, ValueError."""

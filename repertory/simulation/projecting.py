"""What a run does about the projections of its system: nothing, unless it has some (see the package ``projected``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from repertory.bridge.log.record import Record
from repertory.bridge.system.projected import Projectable
from repertory.simulation.unexplained import AllowedError

if TYPE_CHECKING:
    from repertory.simulation.cluster import SimulatedCluster

#: The journal records that count, by topic and partition.
Journals = Mapping[tuple[str, int], Sequence[Record]]


class Projecting:
    """The projections of a run whose system has none."""

    def turn(self) -> bool:
        """Let a projector work, now and then; return whether anything happened."""
        return False

    def rest(self) -> None:
        """Let a projector of each projection work until nothing is left for it to do."""

    def left(self) -> str | None:
        """Describe something that is still to be projected, None if there is nothing."""
        return None

    def inject(self, _kind: str, /) -> str | None:
        """Inject a fault of a kind and return its description, None if that is not possible."""
        return None

    def operate(self) -> str | None:
        """Let an operator retry what a fault has stopped or parked; None if there is nothing."""
        return None

    def heal(self) -> None:
        """End all faults, and let an operator retry what they have stopped or parked."""

    def is_complete(self) -> bool:
        """Return whether all events are in the tables: no partition has stopped, and no key is parked."""
        return True

    def check(self, journals: Journals) -> None:
        """Raise Violation if the tables are not those of one undisturbed run."""

    def check_explained(self, allowed: Iterable[AllowedError]) -> None:
        """Raise Violation if a projection has stopped or parked a key without a fault, and not as allowed."""

    def rows(self, projection: type[Projectable], _attribute: str, /) -> list[dict[str, Any]]:
        """Return the rows of a table. Raises LookupError."""
        raise LookupError(f"this run projects nothing, and so not {projection.__name__}: are projections left out?")

    def digest(self) -> bytes:
        """Return what the projectors did, for the trace."""
        return b""

    def close(self) -> None:
        """Release all databases."""


def projecting(cluster: SimulatedCluster) -> Projecting:
    """Return what a run does about the projections of its system."""
    if not cluster.system.projections:
        return Projecting()
    from repertory.simulation.projected.run import SimulatedProjections  # noqa: PLC0415  it needs SQLAlchemy

    return SimulatedProjections(cluster)

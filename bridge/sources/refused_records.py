"""``RefusedRecords``: finds the record of a foreign topic whose commands the log refuses for good. Pure.

As ``bridge.refusals`` does for commands: what is refused together is tried again with half as many records, until one
is guilty. That becomes a dead letter; if the log refuses this too, its partition stops there.
"""

from __future__ import annotations

from collections.abc import Mapping

from repertory.actors import headers as names
from repertory.actors.context import OutputRefused
from repertory.bridge.log.port import OutputsRefused
from repertory.bridge.log.record import Output
from repertory.bridge.sources.position import DEADLY, SourcePlace, SourceStop
from repertory.supervision.directive import qualified_name

#: Once turns hold so many records again, the search is over.
_SEARCH_MAX = 1_000


class RefusedRecords:
    """Owned by a relay, and kept when it is claimed again."""

    def __init__(self) -> None:
        #: By source and partition, the offsets whose commands are refused, with the reason, and those of records at
        #: which their partition stops: the log refuses even their dead letters, or their function is deadly.
        self._refused: dict[tuple[str, int], dict[int, str]] = {}
        self._stuck: dict[tuple[str, int], dict[int, SourceStop]] = {}
        #: How many records a turn takes while a guilty one is searched for.
        self.records_max: int | None = None

    def refused(self, place: SourcePlace) -> Mapping[int, str]:
        """Return the records whose commands must not be sent again."""
        return self._refused.get((place.name, place.partition), {})

    def stuck(self, place: SourcePlace) -> Mapping[int, SourceStop]:
        """Return the records at which a partition stops."""
        return self._stuck.get((place.name, place.partition), {})

    def deadly(self, place: SourcePlace, offset: int, why: str) -> None:
        """Take a record that must not be decoded again: processes have died at it."""
        self._stuck.setdefault((place.name, place.partition), {})[offset] = SourceStop(DEADLY, why, offset=offset)

    def forget(self, place: SourcePlace) -> None:
        """An operator has the partition tried again: what was refused may have been mended."""
        self._stuck.pop((place.name, place.partition), None)
        self._refused.pop((place.name, place.partition), None)

    def blame(self, event: OutputsRefused, turn_records: int) -> bool:
        """Take a refusal of a turn with so many records; return whether it is about records of a foreign topic."""
        guilty = {origin for output in event.outputs if (origin := _origin(output)) is not None}
        if not guilty:
            return False
        if len({origin[:3] for origin in guilty}) > 1 and turn_records > 1 and not event.all_refused:
            self.records_max = max(1, turn_records // 2)
            return True
        for name, partition, offset, is_letter in guilty:
            if is_letter:
                stop = SourceStop("refused", event.reason, qualified_name(OutputRefused), offset)
                self._stuck.setdefault((name, partition), {})[offset] = stop
            else:
                self._refused.setdefault((name, partition), {})[offset] = event.reason
        return True

    def committed(self, next_offsets: Mapping[SourcePlace, int]) -> None:
        """A turn is committed: what is behind the positions is over, and turns grow again."""
        if self.records_max is not None:
            self.records_max = None if self.records_max > _SEARCH_MAX else 2 * self.records_max
        for place, next_offset in next_offsets.items():
            for at in [at for at in self.refused(place) if at < next_offset]:
                del self._refused[place.name, place.partition][at]
            for at in [at for at in self.stuck(place) if at < next_offset]:
                del self._stuck[place.name, place.partition][at]


def _origin(output: Output) -> tuple[str, int, int, bool] | None:
    """Return the source, partition and offset of the record that an output comes from, and if it is a dead letter."""
    header = names.value(output.headers, names.SOURCE)
    if header is None:
        return None
    name, partition, offset, *index = header.decode().split("/")
    return name, int(partition), int(offset), not index

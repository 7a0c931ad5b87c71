"""Check the commands of sources: each foreign record has its commands once and in order, or a dead letter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from repertory.actors.headers import CAUSE, ERROR_TYPE, RETRY_OF, SOURCE, SOURCE_OFFSET
from repertory.actors.shard.changelog import RECREATED
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Output, Record
from repertory.bridge.sources.position import SourcePlace, SourcePosition
from repertory.bridge.sources.relay import relay
from repertory.bridge.system.committed import accepted_of
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.sourcing import read_positions, routing_of
from repertory.verify.findings import Finding, Place

_COMMAND = re.compile(rb"([a-z0-9-]{1,100})/([0-9]{1,9})/([0-9]{1,18})/([0-9]{1,9})")
_LETTER = re.compile(rb"([a-z0-9-]{1,100})/([0-9]{1,9})/([0-9]{1,18})")
_REFUSED = b"repertory.actors.context.OutputRefused"


class RelayedCommand(NamedTuple):
    """A command of a source, or a dead letter (nth -1), by what it came from."""

    nth: int
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None

    @classmethod
    def of(cls, record: Record | Output, index: int) -> RelayedCommand:
        """Return what is compared of a record."""
        return cls(index, record.topic, record.partition, record.key, record.value)


class RelayedCommands:
    """What sources have appended. Memory: the keys and values of their commands.

    A command that names no source of the log's positions is somebody else's, who may write any header.
    """

    def __init__(self, reader: Reader, system: SystemDefinition, finding: Finding, *, decides: bool) -> None:
        self._reader, self._system, self._finding, self._decides = reader, system, finding, decides
        known = read_positions(reader, system.name).known if system.sources else {}
        self._places: dict[tuple[str, int], SourcePlace] = {(each.name, each.partition): each for each in known}
        self._positions: Mapping[SourcePlace, SourcePosition] = known
        self._found: dict[SourcePlace, dict[int, list[RelayedCommand]]] = {place: {} for place in known}
        #: By place and the partition that its commands went to, the last of them.
        self._last: dict[tuple[SourcePlace, str, int], tuple[int, int]] = {}
        self._refused: set[tuple[SourcePlace, int]] = set()
        #: Records of which an operator had commands made later: if they are dead letters, the code is another now.
        self._retried: set[tuple[SourcePlace, int]] = set()

    def command(self, record: Record) -> None:
        """Take a command, in the order of its partition. An operator's retry of a dead letter is not the source's."""
        found = _parsed(_COMMAND, record)
        if found is None or (place := self._places.get(found[:2])) is None or record.header(CAUSE) is not None:
            return
        offset, index = found[2], found[3]
        if record.header(RETRY_OF) is not None:
            self._retried.add((place, offset))
            return
        self._finding.looked_at += 1
        before = self._last.get((place, record.topic, record.partition), (-1, -1))
        if (offset, index) == before:
            self._finding.wrong(record, f"is command {index} of {place.at(offset)}, which was relayed before")
        elif (offset, index) < before:
            self._finding.wrong(
                record, f"is command {index} of {place.at(offset)}, and comes behind one of {before[0]}"
            )
        self._last[place, record.topic, record.partition] = max(before, (offset, index))
        self._take(place, offset, record, index)

    def letter(self, record: Record) -> bool:
        """Take a dead letter; return whether it is one of a source."""
        found = _parsed(_LETTER, record)
        if found is None or record.header(CAUSE) is not None or record.header(SOURCE_OFFSET) is None:
            return False
        if (place := self._places.get(found[:2])) is None:
            return False
        self._finding.looked_at += 1
        if record.header(ERROR_TYPE) == _REFUSED:
            self._refused.add((place, found[2]))
        self._take(place, found[2], record, -1)
        return True

    def _take(self, place: SourcePlace, offset: int, record: Record, index: int) -> None:
        position = self._positions[place]
        if offset >= position.next:
            self._finding.wrong(record, f"is of {place.at(offset)}, and the position of its source is {position.next}")
        self._found[place].setdefault(offset, []).append(RelayedCommand.of(record, index))

    def accepted(self) -> list[str]:
        """Describe what operators have accepted about sources."""
        return [
            accepted_of(str(place), each, "records") for place, at in self._positions.items() for each in at.accepted
        ]

    # --- the end ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that no record has commands twice, and, where its topic can be read, that it has the right ones."""
        for place, found in self._found.items():
            for offset, made in found.items():
                indices = sorted(each.nth for each in made)
                if indices != [-1] and indices != list(range(len(made))):
                    letters = " (-1 is a dead letter)" if -1 in indices else ""
                    self._wrong(place, offset, f"has the commands {indices}{letters}: some twice, or some missing")
            self._decide(place, found)

    def _decide(self, place: SourcePlace, found: Mapping[int, list[RelayedCommand]]) -> None:
        """Decide again what becomes of each record below the position."""
        position = self._positions[place]
        source = self._system.sources.get(place.name)
        is_same = self._reader.topic_ids([place.topic]).get(place.topic) == position.topic_id
        if not self._decides or source is None or not is_same:
            self._finding.unverifiable += position.next - position.first
            return
        routing, seen = routing_of(self._system), 0
        low = self._reader.bounds(place.topic, place.partition)[0]
        self._finding.unverifiable += max(0, min(low, position.next) - position.first)
        passed = [each for each in position.accepted if each.what != RECREATED]
        for record in self._reader.read(place.topic, place.partition, position.first):
            if record.offset >= position.next:
                break
            seen += 1
            if any(each.first <= record.offset <= each.last for each in passed):
                continue
            again = relay(
                place, source.decode, SourcePosition(record.offset, "", 0), [record], routing,
                refused={}, stuck={}, is_full=lambda each: each.records > 0, handling=lambda _: None, now_ms=0,
            )  # fmt: skip
            is_letter = [each.nth for each in found.get(record.offset, [])] == [-1]
            is_mended = is_letter and (place, record.offset) in self._retried
            if again.position.stopped is not None or is_mended or (place, record.offset) in self._refused:
                self._finding.unverifiable += 1
                continue
            made = [RelayedCommand.of(each, -1 if again.letters else n) for n, each in enumerate(again.outputs)]
            self._compare(place, record.offset, made, found.get(record.offset, []))
        self._finding.looked_at += seen

    def _compare(
        self, place: SourcePlace, offset: int, made: Sequence[RelayedCommand], found: Sequence[RelayedCommand]
    ) -> None:
        if Counter(made) != Counter(found):
            why = "was never relayed" if not found else f"has {_described(found)}, and decoded again {_described(made)}"
            self._wrong(place, offset, why)

    def _wrong(self, place: SourcePlace, offset: int, what: str) -> None:
        self._finding.wrong(Place(place.topic, place.partition, offset), f"(source {place.name}) {what}")


def _described(made: Sequence[RelayedCommand]) -> str:
    if [each.nth for each in made] == [-1]:
        return "a dead letter"
    where = ", ".join(sorted({f"{each.topic}/{each.partition}" for each in made}))
    return f"{len(made)} commands" + (f" in {where}" if made else "")


def _parsed(pattern: re.Pattern[bytes], record: Record) -> tuple[str, int, int, int] | None:
    found = pattern.fullmatch(record.header(SOURCE) or b"")
    if found is None:
        return None
    name, *numbers = found.groups()
    partition, offset, *index = map(int, numbers)
    return name.decode(), partition, offset, index[0] if index else -1

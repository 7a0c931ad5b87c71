"""How far each partition of each source is relayed, from committed records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from repertory.actors.shard.changelog import Accepted
from repertory.bridge import topics
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.follower import Surveyed
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.sources.checks import checked
from repertory.bridge.sources.definition import SourceDefinition
from repertory.bridge.sources.position import Positions, SourcePlace, SourcePosition, SourceStop
from repertory.bridge.system.sourcing import cluster_of, other_log, read_positions

if TYPE_CHECKING:
    from repertory.bridge.system.definition import SystemDefinition


class SourceStatus(msgspec.Struct, frozen=True):
    """One partition of a source.

    ``next``: the first record that is not relayed; None if none ever was. ``lag``: how many offsets of the topic are
    behind that, markers of transactions among them; None if the topic cannot be read. ``dead_letters``: how many
    records up to here became dead letters in a row. ``stopped``: why it is not relayed further, as its relay has
    written it or, if that has not noticed yet, as the topic shows. ``accepted``: what operators have accepted.
    ``unreadable``: why its position, or the topic, cannot be read; "" if it can. ``partition`` is -1 if nothing is
    known of the topic.
    """

    name: str
    topic: str
    partition: int
    next: int | None
    lag: int | None
    dead_letters: int = 0
    stopped: SourceStop | None = None
    accepted: tuple[Accepted, ...] = ()
    unreadable: str = ""

    @property
    def place(self) -> SourcePlace:
        """Its name, topic and partition."""
        return SourcePlace(self.name, self.topic, self.partition)


class OpenSource(NamedTuple):
    """The log that has a source's topic, as an observer opens it."""

    survey: Callable[[], Surveyed | None]
    reader: Reader


class OpenSources(ExitStack):
    """The logs of a system's sources, opened when they are first asked for. A context manager."""

    def __init__(self, system: SystemDefinition, backend: Backend) -> None:
        super().__init__()
        self._system, self._backend = system, backend
        self._opened: dict[str, OpenSource] = {}

    def of(self, source: SourceDefinition) -> OpenSource:
        """Return the log of a source."""
        if source.name not in self._opened:
            backend = self._backend
            if cluster_of(source, backend.url) is not None:
                backend = self.enter_context(closing(other_log(source, self._system)))
            follower = self.enter_context(closing(backend.follower()))
            reader = self.enter_context(closing(backend.reader()))
            self._opened[source.name] = OpenSource(lambda: follower.survey(source.topic), reader)
        return self._opened[source.name]


def source_statuses(reader: Reader, system: SystemDefinition, logs: OpenSources) -> Iterator[SourceStatus]:
    """Yield the status of each partition of each source, in the order of ``source()``.

    A topic that does not exist, or whose log does not answer, hides no other source. A source of which nothing is known
    has one status, of the partition -1.
    """
    if not system.sources:
        return
    positions = read_positions(reader, system.name)
    for source in system.sources.values():
        found, away = None, ""
        try:
            if (found := logs.of(source).survey()) is None:
                away = f"there is no topic {source.topic}, or this user may not see it"
        except LogUnavailable as error:
            away = str(error)
        places = {SourcePlace(source.name, source.topic, number) for number in range(len(found.bounds) if found else 0)}
        places |= {
            each for each in (*positions.known, *positions.unreadable) if each[:2] == (source.name, source.topic)
        }
        for place in sorted(places):
            why = positions.unreadable.get(place) or _lost(reader, system.name, place, positions)
            yield _status(place, positions.known.get(place), found, why, is_reached=found is not None or not away)
        if not places:
            yield SourceStatus(source.name, source.topic, -1, None, None, unreadable=away)


def _lost(reader: Reader, system: str, place: SourcePlace, positions: Positions) -> str:
    """Return that the positions of a place's relay are lost, if they are: it has committed, and there are none."""
    if _has_any(positions, place):
        return ""
    if reader.committed(topics.sources_group(system), topics.sources_topic(system), place.relay) is None:
        return ""
    if _has_any(read_positions(reader, system), place):
        return ""  # It has committed its first ones since they were read.
    where = f"{topics.sources_topic(system)}/{place.relay}"
    return f"its position in {where} is lost: restore that topic from a backup, or give the source another name"


def _has_any(positions: Positions, place: SourcePlace) -> bool:
    return any(each.relay == place.relay for each in (*positions.known, *positions.unreadable))


def _status(
    place: SourcePlace, position: SourcePosition | None, found: Surveyed | None, unreadable: str, *, is_reached: bool
) -> SourceStatus:
    is_there = found is not None and place.partition < len(found.bounds)
    low, end = found.bounds[place.partition] if found is not None and is_there else (0, 0)
    if position is None:
        return SourceStatus(*place, None, end - low if is_there else None, unreadable=unreadable)
    if is_reached:
        position = checked(place, position, found, 0)
    lag = max(0, end - position.next) if is_there else None
    return SourceStatus(*place, position.next, lag, position.dead_letters, position.stopped, position.accepted)


def sources_left(reader: Reader, system: SystemDefinition, logs: OpenSources) -> str | None:
    """Describe records of sources that are still to be relayed; None if there are none. What has stopped stays so."""
    for status in source_statuses(reader, system, logs):
        if status.stopped is not None or status.unreadable or status.lag is None:
            continue
        where = f"{status.topic}/{status.partition} for the source {status.name}"
        if status.next is None:
            return f"the first position of {where}"
        source = logs.of(system.sources[status.name])
        if status.lag and any(True for _ in source.reader.read(status.topic, status.partition, status.next)):
            return f"records of {where} from {status.next} on"
    return None

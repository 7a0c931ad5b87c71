"""Starts the sources of a system: checks their topics, and opens what relays them (``bridge.sources``)."""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from contextlib import closing
from typing import TYPE_CHECKING

from repertory.bridge import topics
from repertory.bridge.log.clock import Clock
from repertory.bridge.log.connect import connect, read_kafka_config
from repertory.bridge.log.errors import LogUnavailable, TopicMismatch
from repertory.bridge.log.port import Backend, Log, Member, Reader, TopicSpec
from repertory.bridge.reports import ReportSink
from repertory.bridge.sources.definition import SourceDefinition
from repertory.bridge.sources.loop import SourceLog, SourceLoop
from repertory.bridge.sources.position import Positions, SourcePlace
from repertory.bridge.sources.relay import RelayLimits, RelayTarget, Routing
from repertory.bridge.sources.topics_seen import TopicsSeen
from repertory.bridge.system.publishes import MEMORY_PARTITIONS

if TYPE_CHECKING:
    from repertory.bridge.system.definition import SystemDefinition

MEMORY = "memory:"


def cluster_of(source: SourceDefinition, url: str) -> str | None:
    """Return the URL of the other log that has a source's topic, None for the system's own log at ``url``.

    On ``memory:`` it is always that: a test needs no other log.
    """
    return None if url in (MEMORY, source.cluster) else source.cluster


def other_log(source: SourceDefinition, system: SystemDefinition) -> Backend:
    """Return the other log of a source. Raises InvalidSetting for a URL or a setting that cannot be one."""
    assert source.cluster is not None, source.name
    return connect(source.cluster, system.settings, read_kafka_config(source.kafka_config))


# --- before the start -----------------------------------------------------------------------------------------


def prepare_sources(backend: Backend, system: SystemDefinition) -> list[str]:
    """Check that the sources' topics exist, and that no source has another topic than before.

    Returns the topics that were created: on ``memory:``, where nobody else can. Raises TopicMismatch. A cluster that
    does not answer now is no reason not to start: its sources wait for it.
    """
    if not system.sources:
        return []
    with closing(backend.reader()) as reader:
        _check_names(system, read_positions(reader, system.name))
    present = backend.topics()
    missing = []
    for source in system.sources.values():
        if cluster_of(source, backend.url) is not None:
            _check_other(source, system)
        elif source.topic not in present:
            if backend.url != MEMORY:
                raise _missing(system, source, backend.url)
            missing.append(source.topic)
    specs = [TopicSpec(topic, MEMORY_PARTITIONS, {}) for topic in dict.fromkeys(missing)]
    return [*backend.ensure(specs)] if specs else []


def _check_other(source: SourceDefinition, system: SystemDefinition) -> None:
    backend = other_log(source, system)
    try:
        if source.topic not in backend.topics():
            raise _missing(system, source, backend.url)
    except LogUnavailable:
        return
    finally:
        backend.close()


def _missing(system: SystemDefinition, source: SourceDefinition, url: str) -> TopicMismatch:
    return TopicMismatch(
        f"the source {source.name} of {system.name} reads {source.topic}, and {url} has no such topic: create it, or "
        "correct the name in system.source(…)"
    )


def _check_names(system: SystemDefinition, positions: Positions) -> None:
    for place in positions.known:
        source = system.sources.get(place.name)
        if source is not None and source.topic != place.topic:
            raise TopicMismatch(
                f"the source {source.name} of {system.name} has read {place.topic}, and the code says {source.topic}: "
                "its name is what its records are known by; give a source of another topic another name"
            )


def read_positions(reader: Reader, system: str) -> Positions:
    """Return the positions of a system's sources, and the open requests about them, as committed."""
    positions, topic = Positions(), topics.sources_topic(system)
    for partition in range(reader.partition_count(topic) or 0):
        for record in reader.read(topic, partition):
            positions.take(record.key, record.value, record.place)
    return positions


# --- the relays -----------------------------------------------------------------------------------------------


def routing_of(system: SystemDefinition) -> Routing:
    """Return what relays need to know of a system."""
    settings = system.settings
    targets = {
        entity: RelayTarget(
            topics.commands_topic(system.name, hosted.behaviour.name),
            hosted.partitions,
            hosted.behaviour.decoder.decode,
        )
        for entity, hosted in system.hosted.items()
    }
    limits = RelayLimits(
        settings.batch_records_max, settings.turn_bytes_max, settings.input_bytes_max, settings.output_bytes_max
    )
    return Routing(targets, topics.dead_letters_topic(system.name), limits)


class SourceRelays:
    """The relays of one process: their membership, their loop, and what they read with. One thread."""

    def __init__(
        self,
        system: SystemDefinition,
        backend: Backend,
        clock: Clock,
        *,
        node: str,
        report: ReportSink = lambda _report: None,
        progress: Callable[[], None] = lambda: None,
        in_flight: MutableSequence[int] | None = None,
        deadly: tuple[SourcePlace, int, str] | None = None,
    ) -> None:
        """``in_flight``, ``deadly``: see ``bridge.node.in_flight_source``."""
        self._system, self._backend = system, backend
        self._others: list[Backend] = []
        member = Member(topics.sources_group(system.name), node, 0)
        self._log: Log = backend.log(member, [topics.sources_topic(system.name)])
        settings = system.settings
        self.loop = SourceLoop(
            self._log,
            list(system.sources.values()),
            {source.name: self._opened(source) for source in system.sources.values()},
            routing_of(system),
            clock,
            turn_max_s=settings.turn_time_max_s,
            poll_timeout_s=settings.poll_timeout_s,
            began=self._began,
            report=report,
            progress=progress,
            in_flight=in_flight,
            deadly=deadly,
        )

    def _opened(self, source: SourceDefinition) -> SourceLog:
        backend, is_local = self._backend, True
        if cluster_of(source, backend.url) is not None:
            backend, is_local = other_log(source, self._system), False
            self._others.append(backend)
        follower = backend.follower()
        return SourceLog(follower, TopicsSeen(follower, is_local=is_local))

    def _began(self, source: SourceDefinition) -> int:
        with closing(self._backend.reader()) as reader:
            known = read_positions(reader, self._system.name).known
        return max(
            (each.partitions for place, each in known.items() if place[:2] == (source.name, source.topic)), default=0
        )

    def close(self) -> None:
        """Leave the group, and close what was opened."""
        self._log.close()
        self._close_readers()

    def abandon(self) -> None:
        """Stop as a killed process does."""
        self._log.abandon()
        self._close_readers()

    def _close_readers(self) -> None:
        self.loop.close()
        while self._others:
            self._others.pop().close()

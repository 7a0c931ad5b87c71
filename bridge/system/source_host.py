"""The process of a node that relays the sources of its system (``bridge.sources``), beside its workers."""

from __future__ import annotations

import msgspec

from repertory.bridge import kill_points, log_lines
from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.connect import connect, read_kafka_config
from repertory.bridge.node import in_flight
from repertory.bridge.node.in_flight_source import SourceDeath
from repertory.bridge.sources.position import SourcePlace
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.sourcing import SourceRelays
from repertory.bridge.system.system import load_system
from repertory.supervision.process.work import Control

#: Its name among the processes of a node.
SOURCES = "sources"

_decode_settings = msgspec.json.Decoder(Settings).decode


class SourceHost:
    """Joins the group of the relays, relays until it is asked to stop, and leaves the group.

    Created and run on the data thread of its process.
    """

    def __init__(self, target: str, log: str, node: str, kafka_config: str | None, settings: str) -> None:
        self._system = load_system(target).configured(_decode_settings(settings))
        self._url, self._node, self._kafka_config = log, node, read_kafka_config(kafka_config)

    def run(self, control: Control) -> None:
        """See ``supervision.process.work.Work``."""
        system, clock = self._system, SystemClock()
        memory = in_flight.source_of_this_node()
        row, died = memory.enter()
        deadly = _deadly(system, died)
        if deadly is not None:
            memory.forget()
        backend = connect(self._url, system.settings, self._kafka_config)
        relays = SourceRelays(
            system, backend, clock, node=self._node, report=control.report, progress=control.progress,
            in_flight=row, deadly=deadly,
        )  # fmt: skip
        control.under_way = relays.loop.under_way
        control.started()
        try:
            while not control.stopping.is_set():
                relays.loop.tick()
            kill_points.reached("stopping")
            relays.loop.drain(clock.monotonic_s() + system.settings.stop_timeout_s / 2)
        finally:
            relays.close()
            backend.close()


def _deadly(system: SystemDefinition, died: SourceDeath | None) -> tuple[SourcePlace, int, str] | None:
    """Return the record at which too many processes have died, and why it must not be decoded again."""
    sources = list(system.sources.values())
    if died is None or died.deaths < system.settings.deaths_max or died.source >= len(sources):
        return None
    source = sources[died.source]
    why = f"{died.deaths} processes in a row died while the source's function had this record"
    return SourcePlace(source.name, source.topic, died.partition), died.offset, why


def source_host(target: str, log: str, node: str, kafka_config: str | None, settings: str) -> SourceHost:
    """Create a source host: the target of its ``WorkSpec``. ``settings``: the node's, as JSON."""
    log_lines.work_as(SOURCES)
    return SourceHost(target, log, node, kafka_config, settings)

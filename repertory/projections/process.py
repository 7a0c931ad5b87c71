"""``ProjectorHost``: one version of a projection, in a supervised process of a node."""

from __future__ import annotations

import logging

import msgspec

from repertory.bridge import log_lines
from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.connect import connect, read_kafka_config
from repertory.bridge.log.port import Assigned, Lost, Member
from repertory.bridge.reports import IncidentReport
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.system import load_system
from repertory.projections.holder import HolderWatch
from repertory.projections.progress import ProjectedPlace
from repertory.projections.projection import BoundProjection
from repertory.projections.projector import Projector
from repertory.supervision.process.work import Control

#: How long it waits for events at most: the latency of a stop request.
_WAIT_S = 0.1

logger = logging.getLogger("repertory")

_decode_settings = msgspec.json.Decoder(Settings).decode


class ProjectorHost:
    """One member of the group that shares the partitions of a projection. It claims none: its database decides.

    Created and run on the data thread of a supervised process. A projector that is killed, or stopped for so long that
    another one has its partitions, changes nothing that it should not: see ``projections.progress``.
    """

    def __init__(
        self,
        target: str,
        log: str,
        node: str,
        slot: int,
        kafka_config: str | None,
        settings: str,
        name: str,
        version: int,
    ) -> None:
        self._system = load_system(target).configured(_decode_settings(settings))
        bound = self._system.projections.named(name, version)
        assert isinstance(bound, BoundProjection), bound
        self._bound, self._url, self._kafka_config = bound, log, read_kafka_config(kafka_config)
        self._member = Member(bound.group, node, slot)

    def run(self, control: Control) -> None:
        """See ``supervision.process.work.Work``."""
        bound, backend = self._bound, connect(self._url, self._system.settings, self._kafka_config)
        topics = {place.topic: place.entity for place in bound.places()}
        log = backend.log(self._member, list(topics))

        def say(where: str, what: str) -> None:
            logger.warning("%s: %s: %s", bound, where, what)
            control.report(
                IncidentReport(where=where, error="Projection", reason=what, outcome="projection", next="tried again")
            )

        projector = Projector(bound, self._system, backend, SystemClock(), say)
        watch = HolderWatch(projector.database)
        control.under_way = lambda: projector.under_way
        control.started()
        try:
            while not control.stopping.is_set():
                control.progress()
                for event in log.poll(0.0):
                    if isinstance(event, Assigned):
                        projector.own(ProjectedPlace(topics[event.shard.topic], *event.shard))
                    elif isinstance(event, Lost):
                        projector.disown(ProjectedPlace(topics[event.shard.topic], *event.shard))
                projector.step(_WAIT_S)
                watch.step()
        finally:
            watch.close()
            projector.close()
            log.close()
            backend.close()


def projector_host(
    target: str, log: str, node: str, slot: int, kafka_config: str | None, settings: str, name: str, version: int
) -> ProjectorHost:
    """Create a projector: the target of its ``WorkSpec``. ``settings``: the node's, as JSON."""
    log_lines.work_as(f"projector-{name}-{version}-{slot}")
    return ProjectorHost(target, log, node, slot, kafka_config, settings, name, version)

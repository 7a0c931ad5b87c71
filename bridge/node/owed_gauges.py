"""``OwedGauges``: what the shards of a node owe to the future, as its workers have reported it last."""

from __future__ import annotations

from collections.abc import Mapping

from repertory.bridge.node.metrics import series_name
from repertory.bridge.reports import EntityOwes, NodeReport
from repertory.supervision.process.reports import NodeStopped, WorkerExited, WorkerKilled, WorkerStarted


class OwedGauges:
    """Owned by the node's status."""

    def __init__(self) -> None:
        #: By worker and entity.
        self._owed: dict[tuple[str, str], EntityOwes] = {}

    def take(self, report: NodeReport) -> None:
        """Take in a report: what a worker owes, or that it is gone and others take its shards over."""
        match report:
            case EntityOwes(entity=entity):
                self._owed[report.worker, entity] = report
            case WorkerExited(worker=gone) | WorkerKilled(worker=gone) | WorkerStarted(worker=gone):
                self._owed = {key: owed for key, owed in self._owed.items() if key[0] != gone}
            case NodeStopped():
                self._owed.clear()

    def series(self, now_ms: int) -> Mapping[str, float]:
        """Return all gauges by name and entity, in Prometheus's notation."""
        found: dict[str, float] = {}
        for entity in sorted({entity for _, entity in self._owed}):
            owed = [each for (_, of), each in self._owed.items() if of == entity]
            due_s = min((each.due_s for each in owed if each.due_s), default=now_ms / 1_000)
            gauges = {
                "timers": sum(each.timers for each in owed),
                "timer_overdue_seconds": round(max(0.0, now_ms / 1_000 - due_s), 3),
                "effects": sum(each.effects for each in owed),
                "effects_running": sum(each.running for each in owed),
                "effects_parked": sum(each.parked for each in owed),
                "effects_not_in_build": sum(each.not_in_build for each in owed),
            }
            found |= {series_name(f"repertory_{name}", entity=entity): value for name, value in gauges.items()}
        return found

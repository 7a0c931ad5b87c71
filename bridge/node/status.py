"""The status of a node, made from its reports: its workers, counters, and last incidents, as one record in the log.

``repertory status`` runs on any machine and reads only the log. So the log must hold all that an operator should see of
a node, even after the node has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import assert_never

import msgspec

from repertory.actors.wire import DecodeError
from repertory.bridge.node.metrics import Metrics
from repertory.bridge.node.owed_gauges import OwedGauges
from repertory.bridge.node.shard_states import ShardStates
from repertory.bridge.reports import (
    EntityOwes,
    IncidentReport,
    NodeReport,
    ShardAborted,
    ShardAssigned,
    ShardFailed,
    ShardFenced,
    ShardHandedOver,
    ShardLost,
    ShardRestored,
    ShardRestoring,
    ShardStalled,
    WorkerDrained,
    WorkerJoined,
)
from repertory.supervision.process.reports import (
    REPORTED_TRACEBACK_BYTES_MAX,
    Escalated,
    NodeStarted,
    NodeStopped,
    NodeStopping,
    WorkerDown,
    WorkerExited,
    WorkerFailed,
    WorkerKilled,
    WorkerRunning,
    WorkerStarted,
    WorkerWaits,
)
from repertory.supervision.traceback_text import bounded

#: Bounds for the incidents that are kept: enough to see what happens, few enough to be written once a second.
INCIDENTS_MAX = 20
TEXT_CHARS_MAX = 300
#: Restarts are counted by the minute, for the number of restarts in the last hour.
MINUTES_KEPT = 60


class NodeIncident(msgspec.Struct, frozen=True):
    """A failure: when (epoch), what, where, and what happens next. ``count``: how often in a row.

    ``traceback``: that of user code, in at most ``REPORTED_TRACEBACK_BYTES_MAX``; "" if there is none.
    """

    at_ms: int
    worker: str
    what: str
    where: str
    next: str
    count: int = 1
    traceback: str = ""


class WorkerStatus(msgspec.Struct, frozen=True):
    """A worker process as its node knows it. ``pid`` is 0 without a process; ``state`` is valid from ``at_ms``."""

    pid: int
    state: str
    at_ms: int
    restarts: int = 0


class NodeStatusRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Node"):
    """The latest status of one node, keyed by its name.

    ``at_ms``: when it was written, at least every ``heartbeat_s`` unless that is 0. With ``pid`` and ``pid_start`` a
    reader on the same machine can check whether the node runs. ``restarts``: worker restarts by the minute (epoch).
    ``metrics``: counters since ``started_ms``, and what is owed (timers, effects), by Prometheus name and labels.
    ``down``: the shards of its workers that serve no commands now, and why.
    """

    node: str
    pid: int
    pid_start: str
    started_ms: int
    at_ms: int
    heartbeat_s: float
    state: str
    workers: Mapping[str, WorkerStatus]
    restarts: Mapping[int, int]
    metrics: Mapping[str, int | float]
    incidents: tuple[NodeIncident, ...]
    down: Mapping[str, str] = {}

    def restarts_since(self, since_ms: int) -> int:
        """Count the restarts of workers since a time, to the minute and for at most an hour before ``at_ms``."""
        return sum(count for minute, count in self.restarts.items() if (minute + 1) * 60_000 > since_ms)


#: Reports of a worker, and reports of a shard, that the record shows.
_OfWorker = WorkerStarted | WorkerRunning | WorkerWaits | WorkerExited | WorkerFailed | WorkerKilled | WorkerDown
_OfShard = IncidentReport | ShardFailed | ShardAborted | ShardFenced | ShardStalled | ShardHandedOver

_decode = msgspec.msgpack.Decoder(NodeStatusRecord).decode


def decode_node(data: bytes) -> NodeStatusRecord:
    """Return a node's record. Raises DecodeError for invalid data."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"{error!s:.1000}") from error


class NodeStatus:
    """Collects a node's reports into its status. Reads no clock: the reports carry the time. Any thread may use it."""

    def __init__(self, node: str, pid: int, pid_start: str, started_ms: int, heartbeat_s: float = 0.0) -> None:
        self._node, self._pid, self._pid_start, self._started_ms = node, pid, pid_start, started_ms
        self.heartbeat_s = heartbeat_s
        self._lock = threading.Lock()
        self._metrics = Metrics()
        self._state = "starting"
        self._workers: dict[str, WorkerStatus] = {}
        self._shards, self._owed = ShardStates(), OwedGauges()
        self._restarts: dict[int, int] = {}
        self._incidents: list[NodeIncident] = []
        #: If the last incident is a handover: how many more handovers it covers, and their longest gap.
        self._handovers = 0, 0.0

    def record(self, now_ms: int) -> NodeStatusRecord:
        """Return the current status."""
        with self._lock:
            return NodeStatusRecord(
                self._node, self._pid, self._pid_start, self._started_ms, now_ms, self.heartbeat_s,
                self._state, dict(self._workers), dict(self._restarts),
                {**self._metrics.series(), **self._owed.series(now_ms)}, tuple(self._incidents), self._shards.shown(),
            )  # fmt: skip

    def take(self, report: NodeReport) -> bool:
        """Take in one report; return whether it changes what a record shows."""
        at_ms = round(report.at_s * 1000)
        with self._lock:
            if report.dropped:
                self._metrics.add("repertory_reports_dropped_total", report.dropped)
            has_changed = self._shards.take(report)
            self._owed.take(report)
            match report:
                case NodeStarted() | NodeStopping() | NodeStopped() | Escalated():
                    self._take_node(report, at_ms)
                    return True
                case WorkerJoined() | WorkerDrained() | EntityOwes() | ShardLost():
                    return has_changed
                case ShardAssigned() | ShardRestoring() | ShardRestored():
                    return has_changed
                case (
                    WorkerStarted() | WorkerRunning() | WorkerWaits() | WorkerExited() | WorkerFailed()
                    | WorkerKilled() | WorkerDown()
                ):  # fmt: skip
                    return self._take_worker(report, at_ms) or has_changed
                case _:
                    return self._take_shard(report, at_ms)

    def end(self, exit_code: int | None) -> None:
        """Record that the report stream has ended: no process of the node is left. It may have been killed."""
        with self._lock:
            if not self._state.startswith(("stopped", "gave up")):
                self._state = f"ended without a final report (exit code {exit_code})"
            self._workers.clear()
            self._shards, self._owed = ShardStates(), OwedGauges()

    # --- the node and its workers -----------------------------------------------------------------------------

    def _take_node(self, report: NodeStarted | NodeStopping | NodeStopped | Escalated, at_ms: int) -> None:
        match report:
            case NodeStarted():
                self._state = "running"
            case NodeStopping():
                self._state = "stopping"
            case NodeStopped(sentence=sentence):
                self._state = f"gave up: {sentence}" if sentence else "stopped"
                self._workers.clear()
            case Escalated(message=message, where=where):
                self._metrics.add("repertory_node_escalations_total")
                self._add_incident(at_ms, "", message, where, "the node gives up")
            case _:
                assert_never(report)

    def _take_worker(self, report: _OfWorker, at_ms: int) -> bool:
        name = report.worker
        known = self._workers.get(name)
        restarts = 0 if known is None else known.restarts
        match report:
            case WorkerStarted(pid=pid):
                if known is not None:
                    restarts += 1
                    self._count_restart(name, at_ms)
                self._workers[name] = WorkerStatus(pid, "starting", at_ms, restarts)
            case WorkerRunning():
                if known is None:
                    return False
                self._workers[name] = WorkerStatus(known.pid, "running", at_ms, restarts)
            case WorkerExited(how=how):
                self._workers[name] = WorkerStatus(0, f"ended with {how}", at_ms, restarts)
            case WorkerKilled(reason=reason):
                self._metrics.add("repertory_worker_kills_total", worker=name, reason=reason)
            case WorkerFailed(error_type=error_type, message=message, where=where, traceback=trace):
                what = f"{error_type}: {message}"
                self._add_incident(at_ms, name, what, where, "its supervisor decides", trace)
            case WorkerWaits(delay_s=delay_s):
                self._complete_incident(name, f"it is started again in {delay_s:.2f} s")
            case WorkerDown():
                self._complete_incident(name, "it stays down")
            case _:
                assert_never(report)
        return True

    def _count_restart(self, worker: str, at_ms: int) -> None:
        self._metrics.add("repertory_worker_restarts_total", worker=worker)
        minute = at_ms // 60_000
        self._restarts[minute] = self._restarts.get(minute, 0) + 1
        for old in [each for each in self._restarts if each <= minute - MINUTES_KEPT]:
            del self._restarts[old]

    def _complete_incident(self, worker: str, then: str) -> None:
        """Add the supervisor's decision to the incident of a worker's failure; it is reported a moment later."""
        for at in range(len(self._incidents) - 1, -1, -1):
            if self._incidents[at].worker == worker and self._incidents[at].where.startswith(worker):
                self._incidents[at] = msgspec.structs.replace(self._incidents[at], next=then)
                return

    # --- shards and entities ----------------------------------------------------------------------------------

    def _take_shard(self, report: _OfShard, at_ms: int) -> bool:
        match report:
            case IncidentReport(where=where, error=error, reason=reason, outcome=outcome):
                self._metrics.add("repertory_incidents_total", entity=where.partition("/")[0], outcome=outcome)
                self._add_incident(at_ms, report.worker, f"{error}: {reason}", where, report.next, report.traceback)
            case ShardFailed(shard=shard, error=error, reason=reason):
                self._metrics.add("repertory_shard_failures_total", shard=shard)
                self._add_incident(at_ms, report.worker, f"{error}: {reason}", shard, report.next, report.traceback)
            case ShardAborted(shard=shard, reason=reason, routine=routine):
                self._metrics.add("repertory_shard_aborts_total", shard=shard)
                if routine:
                    return False
                self._add_incident(at_ms, report.worker, reason, shard, report.next)
            case ShardFenced(shard=shard, reason=reason):
                self._metrics.add("repertory_shard_fencings_total", shard=shard)
                self._add_incident(at_ms, report.worker, f"fenced: {reason}", shard, report.next)
            case ShardStalled(shard=shard, reason=reason):
                self._metrics.add("repertory_shard_stalls_total", shard=shard)
                self._add_incident(at_ms, report.worker, f"takes no commands: {reason}", shard, report.next)
            case ShardHandedOver():
                self._add_handover(report, at_ms)
            case _:
                assert_never(report)
        return True

    def _add_handover(self, report: ShardHandedOver, at_ms: int) -> None:
        """Count a planned handover; those of one node to one worker are one entry, which names the longest gap."""
        worker, gap_s = report.worker, report.gap_s
        self._metrics.add("repertory_handovers_total")
        self._metrics.add("repertory_handover_gap_seconds_total", gap_s)
        what = f"handed over by {report.owner}"
        last, others = self._incidents[-1] if self._incidents else None, 0
        if last is not None and (last.worker, last.what) == (worker, what):
            self._incidents.pop()
            others, gap_s = self._handovers[0] + 1, max(gap_s, self._handovers[1])
        self._handovers = others, gap_s
        where = f"{report.shard} and {others} more" if others else report.shard
        then = f"served again, after a gap of at most {gap_s:.2f} s"
        self._incidents.append(NodeIncident(at_ms, worker, what, where, then))
        del self._incidents[:-INCIDENTS_MAX]

    def _add_incident(self, at_ms: int, worker: str, what: str, where: str, then: str, trace: str = "") -> None:
        """Keep an incident. One equal to the last is counted there, so that a loop of failures displaces no others."""
        what, where, then = (text[:TEXT_CHARS_MAX] for text in (what, where, then))
        incident = NodeIncident(at_ms, worker, what, where, then, 1, bounded(trace, REPORTED_TRACEBACK_BYTES_MAX))
        last = self._incidents[-1] if self._incidents else None
        if last and (last.worker, last.what, last.where) == (worker, incident.what, incident.where):
            trace = incident.traceback or last.traceback
            incident = msgspec.structs.replace(incident, count=last.count + 1, traceback=trace)
            self._incidents.pop()
        self._incidents.append(incident)
        del self._incidents[:-INCIDENTS_MAX]

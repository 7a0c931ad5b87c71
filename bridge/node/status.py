"""What the reports of a node amount to: its workers, counters, and the last incidents, as one record in the log.

``repertory status`` runs anywhere and reads the log alone, so what an operator should see of a node has to be there,
also when the node is not there any more.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import msgspec

from repertory.actors.wire import DecodeError
from repertory.bridge.node.metrics import Metrics

#: What is kept of incidents: enough to see what goes on, little enough to be written once a second.
INCIDENTS_MAX = 20
TEXT_CHARS_MAX = 300
#: For "restarts in the last hour" restarts are counted by the minute.
MINUTES_KEPT = 60
_NUMBER_MAX = 1e12

Report = Mapping[str, str | int | float | bool | None]


class NodeIncident(msgspec.Struct, frozen=True):
    """One thing that failed: when (epoch), what, where, and what happens next. ``count``: so often in a row."""

    at_ms: int
    worker: str
    what: str
    where: str
    next: str
    count: int = 1


class WorkerStatus(msgspec.Struct, frozen=True):
    """A worker process as its node knows it; ``pid`` 0 while there is none. ``state`` is so since ``at_ms``."""

    pid: int
    state: str
    at_ms: int
    restarts: int = 0


class NodeStatusRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Node"):
    """The latest word of one node, keyed by its name.

    ``at_ms``: when it was said; at least each ``heartbeat_s``, unless that is 0. ``pid`` and ``pid_start`` tell a
    reader on the same machine whether the node runs. ``restarts``: of workers, by the minute (epoch).
    ``metrics``: counters since ``started_ms``, by Prometheus name and labels.
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

    def restarts_since(self, since_ms: int) -> int:
        """Count the restarts of workers since a moment; to the minute, and no more than an hour before ``at_ms``."""
        return sum(count for minute, count in self.restarts.items() if (minute + 1) * 60_000 > since_ms)


_decode = msgspec.msgpack.Decoder(NodeStatusRecord).decode


def decode_node(data: bytes) -> NodeStatusRecord:
    """Return a node's record; DecodeError for anything else."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"{error!s:.1000}") from error


class NodeStatus:
    """Takes a node's reports and keeps what matters of them. No clock: time comes with the reports. Any thread."""

    def __init__(self, node: str, pid: int, pid_start: str, started_ms: int, heartbeat_s: float = 0.0) -> None:
        self._node, self._pid, self._pid_start, self._started_ms = node, pid, pid_start, started_ms
        self.heartbeat_s = heartbeat_s
        self._lock = threading.Lock()
        self._metrics = Metrics()
        self._state = "starting"
        self._workers: dict[str, WorkerStatus] = {}
        self._restarts: dict[int, int] = {}
        self._status: list[NodeIncident] = []
        #: If the last incident is a handover: how many more it stands for, and the longest gap of all.
        self._handovers = 0, 0.0

    def record(self, now_ms: int) -> NodeStatusRecord:
        """Return all of it as it stands."""
        with self._lock:
            return NodeStatusRecord(
                self._node, self._pid, self._pid_start, self._started_ms, now_ms, self.heartbeat_s,
                self._state, dict(self._workers), dict(self._restarts), self._metrics.series(), tuple(self._status),
            )  # fmt: skip

    def take(self, report: Report) -> bool:
        """Take in one report; return whether it says anything that a record shows."""
        event, at_ms = str(report["event"]), round(_number(report, "at_s") * 1000)
        with self._lock:
            if dropped := int(_number(report, "dropped")):
                self._metrics.add("repertory_reports_dropped_total", dropped)
            if event.startswith("worker-"):
                return self._worker(event, report, at_ms)
            if event.startswith("node-") or event == "escalated":
                return self._of_node(event, report, at_ms)
            return self._shard(event, report, at_ms)

    def end(self, exit_code: int | None) -> None:
        """The node's stream has ended: no process of it is left. It may have been killed before it said so."""
        with self._lock:
            if not self._state.startswith(("stopped", "gave up")):
                self._state = f"ended without a word (exit code {exit_code})"
            self._workers.clear()

    # --- the node and its workers -----------------------------------------------------------------------------

    def _of_node(self, event: str, report: Report, at_ms: int) -> bool:
        match event:
            case "node-started":
                self._state = "running"
            case "node-stopping":
                self._state = "stopping"
            case "node-stopped":
                sentence = str(report.get("sentence") or "")
                self._state = f"gave up: {sentence}" if sentence else "stopped"
                self._workers.clear()
            case "escalated":
                self._metrics.add("repertory_node_escalations_total")
                self._note(at_ms, "", _field(report, "message"), _field(report, "where"), "the node gives up")
            case _:
                return False
        return True

    def _worker(self, event: str, report: Report, at_ms: int) -> bool:
        name = _field(report, "worker")
        known = self._workers.get(name)
        restarts = 0 if known is None else known.restarts
        match event:
            case "worker-started":
                if known is not None:
                    restarts += 1
                    self._restarted(name, at_ms)
                self._workers[name] = WorkerStatus(int(_number(report, "pid")), "starting", at_ms, restarts)
            case "worker-running" if known is not None:
                self._workers[name] = WorkerStatus(known.pid, "running", at_ms, restarts)
            case "worker-exited":
                state = f"ended with {_field(report, 'how')}"
                self._workers[name] = WorkerStatus(0, state, at_ms, restarts)
            case "worker-killed":
                self._metrics.add("repertory_worker_kills_total", worker=name, reason=_field(report, "reason"))
            case "worker-failed":
                what = f"{_field(report, 'error_type')}: {_field(report, 'message')}"
                self._note(at_ms, name, what, _field(report, "where"), "its supervisor decides")
            case "worker-waits":
                self._decided(name, f"it is started again in {_number(report, 'delay_s'):.2f} s")
            case "worker-down":
                self._decided(name, "it stays down")
            case _:
                return False
        return True

    def _restarted(self, worker: str, at_ms: int) -> None:
        self._metrics.add("repertory_worker_restarts_total", worker=worker)
        minute = at_ms // 60_000
        self._restarts[minute] = self._restarts.get(minute, 0) + 1
        for old in [each for each in self._restarts if each <= minute - MINUTES_KEPT]:
            del self._restarts[old]

    def _decided(self, worker: str, then: str) -> None:
        """Say of a worker's failure what its supervisor made of it: that is known a moment later."""
        for at in range(len(self._status) - 1, -1, -1):
            if self._status[at].worker == worker and self._status[at].where.startswith(worker):
                self._status[at] = msgspec.structs.replace(self._status[at], next=then)
                return

    # --- shards and entities ----------------------------------------------------------------------------------

    def _shard(self, event: str, report: Report, at_ms: int) -> bool:
        worker, shard, then = _field(report, "worker"), _field(report, "shard"), _field(report, "next")
        what = _field(report, "reason")
        match event:
            case "incident":
                entity = _field(report, "where").partition("/")[0]
                outcome = _field(report, "outcome")
                self._metrics.add("repertory_incidents_total", entity=entity, outcome=outcome)
                self._note(at_ms, worker, f"{_field(report, 'error')}: {what}", _field(report, "where"), then)
            case "shard-failed":
                self._metrics.add("repertory_shard_failures_total", shard=shard)
                self._note(at_ms, worker, f"{_field(report, 'error')}: {what}", shard, then)
            case "shard-aborted":
                self._metrics.add("repertory_shard_aborts_total", shard=shard)
                if report.get("routine"):
                    return False
                self._note(at_ms, worker, what, shard, then)
            case "shard-fenced":
                self._metrics.add("repertory_shard_fencings_total", shard=shard)
                self._note(at_ms, worker, f"fenced: {what}", shard, then)
            case "shard-handed-over":
                self._handed_over(report, at_ms, worker, shard)
            case "shard-stalled":
                self._metrics.add("repertory_shard_stalls_total", shard=shard)
                self._note(at_ms, worker, f"takes no commands: {what}", shard, then)
            case _:
                return False
        return True

    def _handed_over(self, report: Report, at_ms: int, worker: str, shard: str) -> None:
        """Count a planned handover; those of one node to one worker are one entry, which names the longest gap."""
        gap_s = float(report.get("gap_s") or 0)
        self._metrics.add("repertory_handovers_total")
        self._metrics.add("repertory_handover_gap_seconds_total", gap_s)
        what = f"handed over by {_field(report, 'owner')}"
        last, others = self._status[-1] if self._status else None, 0
        if last is not None and (last.worker, last.what) == (worker, what):
            self._status.pop()
            others, gap_s = self._handovers[0] + 1, max(gap_s, self._handovers[1])
        self._handovers = others, gap_s
        where = f"{shard} and {others} more" if others else shard
        then = f"served again, after a gap of at most {gap_s:.2f} s"
        self._status.append(NodeIncident(at_ms, worker, what, where, then))
        del self._status[:-INCIDENTS_MAX]

    def _note(self, at_ms: int, worker: str, what: str, where: str, then: str) -> None:
        """Keep an incident; one that is just like the last is counted there, so that a loop drives nothing else out."""
        incident = NodeIncident(at_ms, worker, what[:TEXT_CHARS_MAX], where[:TEXT_CHARS_MAX], then[:TEXT_CHARS_MAX])
        last = self._status[-1] if self._status else None
        if last and (last.worker, last.what, last.where) == (worker, incident.what, incident.where):
            incident = msgspec.structs.replace(incident, count=last.count + 1)
            self._status.pop()
        self._status.append(incident)
        del self._status[:-INCIDENTS_MAX]


def _number(report: Report, name: str) -> float:
    """Return a number of a report, 0 for what is none or beyond all sense: no report may take its reader down."""
    value = report.get(name)
    return float(value) if isinstance(value, int | float) and abs(value) < _NUMBER_MAX else 0.0


def _field(report: Report, name: str) -> str:
    value = report.get(name)
    return "" if value is None else str(value)

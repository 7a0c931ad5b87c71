"""Injects faults: at each step at most one, into the workers, the log, the clock or the clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from repertory.bridge.log.errors import SlotTaken, TopicMismatch
from repertory.bridge.log.port import Member
from repertory.simulation.handler_faults import ALWAYS
from repertory.simulation.operating import operate
from repertory.simulation.swarm import (
    KILL_POINTS,
    PROJECTION_FAULTS,
    InjectedEscalation,
    InjectedRestart,
    InjectedResume,
    InjectedStop,
)
from repertory.simulation.virtual import Violation
from repertory.supervision import Add, Due, Exited, Failed, Failure, Remove, Started

if TYPE_CHECKING:
    from repertory.simulation.cluster import SimulatedCluster
    from repertory.simulation.worker import SimulatedWorker

_RAISED = (InjectedRestart, InjectedResume, InjectedStop, InjectedEscalation)
_WORKERS_MAX = 3
#: Injected more often than the others: what is stashed and parked, and what becomes of it, meets all other faults.
_MORE = (
    "raise", "raise", "operate", "operate", "projector-killed", "projector-killed", "projector-meanwhile",
    "projector-meanwhile", "database-away", "event-fails", "commit-unheard",
)  # fmt: skip


class FaultInjector:
    """Injects faults into one cluster. The swarm configures their kinds and rate; the choices draw each one."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster, self._choices = cluster, cluster.choices
        self._swarm = cluster.swarm
        kinds = self._swarm.kinds
        self._drawn = (*kinds, *(kind for kind in _MORE if kind in kinds))

    def act(self) -> None:
        """Do nothing in most cases, else inject one fault."""
        kinds = self._drawn
        chosen = self._choices.rarely(len(kinds), self._swarm.rate, "fault") if kinds else 0
        if chosen:
            self.do(kinds[chosen - 1])

    def do(self, kind: str) -> None:
        """Inject a fault of one kind, if that is possible now. The choices draw its target and its parameters."""
        workers = list(self._cluster.node.workers.values())
        if not workers:
            return
        worker = workers[self._choices.below(len(workers), "worker")]
        done = self._do(kind, worker)
        if done is not None:
            self._cluster.faults[kind] += 1
            now_s = self._cluster.clock.monotonic_s()
            self._cluster.schedule.append(f"step {self._cluster.step_number} at {now_s:.3f} s: {kind} {done}".rstrip())

    def _do(self, kind: str, worker: SimulatedWorker) -> str | None:
        """Inject a fault and return its description, None if it was not possible."""
        match kind:
            case "kill" | "kill-at" | "nap" | "sleep" | "stuck" | "unavailable":
                return self._to_worker(kind, worker)
            case (
                "abort"
                | "unknown-written"
                | "unknown-lost"
                | "fenced"
                | "slow-commit"
                | "claim-fails"
                | "hold"
                | "refuse"
            ):
                return self._to_log(kind, worker)
            case "abort-reading" | "hide" | "lost" | "said-twice":
                return self._to_shard(kind, worker)
            case "jump" | "suspend":
                return self._to_clock(kind)
            case "join" | "leave" | "node-lost" | "same-slot" | "stale":
                return self._to_node(kind, worker)
            case "raise" | "memory":
                return self._to_handler(kind)
            case "operate":
                return operate(self._cluster, worker)
            case _ if kind in PROJECTION_FAULTS:
                return self._cluster.projections.inject(kind)
            case "garbage":
                self._cluster.clients.garbage(self._choices, self._swarm.settings.input_bytes_max)
                return ""
            case "twice":
                self._cluster.clients.again(self._choices)
                return ""
            case _:
                return self._recount()

    def _to_worker(self, kind: str, worker: SimulatedWorker) -> str:
        cluster, session_s = self._cluster, self._swarm.settings.session_timeout_s
        now_s = cluster.clock.monotonic_s()
        match kind:
            case "kill":
                cluster.node.kill(worker, "simulated")
            case "kill-at":
                return self._to_point(worker)
            case "nap":
                worker.asleep_until_s = now_s + session_s * 0.3
            case "sleep":
                worker.asleep_until_s = now_s + session_s * (1.2, 2.0, 4.0)[self._choices.below(3, "long")]
            case "stuck":
                worker.asleep_until_s, worker.stuck = now_s + self._swarm.settings.progress_timeout_s, True
            case _:
                worker.log.unavailable = True
        return worker.name

    def _to_point(self, worker: SimulatedWorker) -> str:
        """Have a worker killed at a kill point; for a rare point, also cause the situation that leads to it."""
        point = KILL_POINTS[self._choices.below(len(KILL_POINTS), "point")]
        worker.kill_at = (
            point,
            0 if point in ("revoking", "waiting-for-restart", "stopping") else self._choices.below(3, "pass"),
        )
        done = f"{worker.name} {point}"
        if point == "revoking" and worker.log.pending:
            worker.log.lose(worker.log.pending[0].transaction.shard, twice=False)
        elif point == "waiting-for-restart":
            self._cluster.handler_faults.armed.append((InjectedEscalation, 1))
        elif point == "stopping" and len(self._cluster.node.tree.children) > 1:
            self._cluster.node.supervise(Remove(worker.name))
        return done

    def _to_log(self, kind: str, worker: SimulatedWorker) -> str:
        match kind:
            case "slow-commit":
                worker.log.delay_s = (0.05, 0.5, 5.0)[self._choices.below(3, "slow-by")]
            case "refuse":
                self._cluster.refusals.armed += 1
            case "claim-fails":
                worker.log.failing_claims += 1
            case "hold":
                worker.log.held_until_s = self._cluster.clock.monotonic_s() + (0.1, 1.0)[self._choices.below(2, "for")]
            case _:
                worker.log.fates.append(kind)
        return worker.name

    def _to_shard(self, kind: str, worker: SimulatedWorker) -> str | None:
        assigned_shards = list(worker.region)
        if not assigned_shards:
            return None
        assigned = assigned_shards[self._choices.below(len(assigned_shards), "shard")]
        if kind == "abort-reading":
            worker.log.abort(assigned.place, "reading")
        elif kind == "hide":
            worker.log.hide(assigned.place, (0.2, 2.0, 10.0)[self._choices.below(3, "for")])
        else:
            worker.log.lose(assigned.place, twice=kind == "said-twice")
        return f"{worker.name} {assigned.name}"

    def _to_clock(self, kind: str) -> str:
        clock = self._cluster.clock
        if kind == "suspend":
            seconds = self._swarm.settings.session_timeout_s * 1.5
            clock.advance(seconds)
        else:
            seconds = (30.0, -30.0, 3.0)[self._choices.below(3, "jump")]
            clock.skew_ms = int(seconds * 1000)
        return f"{seconds:+g} s"

    def _to_node(self, kind: str, worker: SimulatedWorker) -> str | None:
        node = self._cluster.node
        names = [child.name for child in node.tree.children]
        match kind:
            case "join":
                missing = [f"worker-{slot}" for slot in range(_WORKERS_MAX) if f"worker-{slot}" not in names]
                if not missing:
                    return None
                node.supervise(Add(missing[0]))
                return missing[0]
            case "leave":
                if len(names) < 2:
                    return None
                node.supervise(Remove(worker.name))
                return worker.name
            case "stale":
                return self._stale(worker)
            case "node-lost":
                node.is_fragile = bool(self._choices.below(2, "by-a-command"))
                if not node.is_fragile:
                    node.lose()
                return "by the next command that kills" if node.is_fragile else ""
            case _:
                return self._same_slot(worker)

    def _stale(self, worker: SimulatedWorker) -> str | None:
        """Send events of an earlier incarnation, at both levels of supervision."""
        failure = Failure("Stale", "simulated", "nowhere")
        region = worker.region
        assigned_shards = [assigned for assigned in region if assigned.incarnation > 1]
        now_s = self._cluster.clock.monotonic_s()
        which = self._choices.below(4, "event")
        if assigned_shards:
            assigned = assigned_shards[self._choices.below(len(assigned_shards), "seat")]
            old = assigned.incarnation - 1
            events = (
                Failed(assigned.name, old, failure),
                Exited(assigned.name, old),
                Due(assigned.name, old),
                Started(assigned.name, old),
            )
            region.supervise(events[which], now_s)
        if worker.incarnation > 1:
            old = worker.incarnation - 1
            worker_events = (
                Failed(worker.name, old, failure),
                Exited(worker.name, old),
                Due(worker.name, old),
                Started(worker.name, old),
            )
            self._cluster.node.supervise(worker_events[which])
        return worker.name if assigned_shards or worker.incarnation > 1 else None

    def _same_slot(self, worker: SimulatedWorker) -> str:
        """Start a second worker with a slot that is taken: it is refused, unless the lease has expired."""
        cluster = self._cluster
        slot = int(worker.name.rpartition("-")[2])
        log = cluster.backend.log(Member(cluster.system.name, "node", slot), cluster.system.commands_topics())
        try:
            log.poll(0.0)
        except SlotTaken:
            cluster.probes["slot taken"] += 1
        finally:
            log.abandon()
        return worker.name

    def _to_handler(self, kind: str) -> str:
        if kind == "memory":
            times = (1, 2, ALWAYS, ALWAYS)[self._choices.below(4, "times")]
            commands = (1, 3)[self._choices.below(2, "commands")]
            self._cluster.handler_faults.armed.extend([(MemoryError, times)] * commands)
            return f"{commands} {'always' if times == ALWAYS else f'x{times}'}"
        error = _RAISED[self._choices.below(len(_RAISED), "error")]
        times = (1, 2, 100)[self._choices.below(3, "times")]
        if error is InjectedEscalation:  # A command that always escalates would stop its shard for good.
            times = min(times, 2)
        self._cluster.handler_faults.armed.append((error, times))
        return f"{error.__name__} x{times}"

    def _recount(self) -> str:
        """Start with another number of partitions, which must be refused."""
        cluster = self._cluster
        spec = cluster.system.topic_specs()[-1]
        try:
            cluster.backend.ensure([msgspec.structs.replace(spec, partitions=spec.partitions + 1)])
        except TopicMismatch:
            return spec.name
        raise Violation("a changed partition count is refused", spec.name)

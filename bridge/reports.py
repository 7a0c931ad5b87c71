"""The reports of a worker about its shards, and the union of all reports of a node.

`bridge.worker_log` writes them; counters and ``repertory status`` are computed from them.
"""

from __future__ import annotations

from collections.abc import Callable

from repertory.supervision.process.reports import Count, Seconds, SupervisionReport, WorkerReport


class ShardAssigned(WorkerReport, frozen=True, kw_only=True, tag="shard-assigned"):
    """The group assigned a shard to the worker."""

    shard: str


class ShardRestoring(WorkerReport, frozen=True, kw_only=True, tag="shard-restoring"):
    """A recovery is in progress: ``records`` were read so far, now from ``topic``."""

    shard: str
    topic: str
    records: Count


class ShardRestored(WorkerReport, frozen=True, kw_only=True, tag="shard-restored"):
    """A shard's recovery is complete; it handles commands from now on."""

    shard: str
    records: Count
    seconds: Seconds


class ShardHandedOver(WorkerReport, frozen=True, kw_only=True, tag="shard-handed-over"):
    """A shard is served again, after its previous owner drained it; it was not served for ``gap_s``."""

    shard: str
    owner: str
    gap_s: Seconds


class ShardLost(WorkerReport, frozen=True, kw_only=True, tag="shard-lost"):
    """The group assigned the shard to another worker."""

    shard: str
    reason: str


class ShardFenced(WorkerReport, frozen=True, kw_only=True, tag="shard-fenced"):
    """Another owner of the shard has fenced this one."""

    shard: str
    reason: str
    next: str


class ShardAborted(WorkerReport, frozen=True, kw_only=True, tag="shard-aborted"):
    """A shard's transaction was aborted. ``routine``: as part of a normal rebalance."""

    shard: str
    reason: str
    routine: bool
    next: str


class ShardFailed(WorkerReport, frozen=True, kw_only=True, tag="shard-failed"):
    """A shard failed, and its supervisor has decided what happens next."""

    shard: str
    error: str
    reason: str
    next: str
    traceback: str = ""


class ShardStalled(WorkerReport, frozen=True, kw_only=True, tag="shard-stalled"):
    """A shard's stash is full: it takes no commands."""

    shard: str
    reason: str
    next: str


class IncidentReport(WorkerReport, frozen=True, kw_only=True, tag="incident"):
    """A command failed; see ``actors.shard.turn_result.Incident``."""

    where: str
    error: str
    reason: str
    outcome: str
    next: str
    traceback: str = ""


class EntityOwes(WorkerReport, frozen=True, kw_only=True, tag="entity-owes"):
    """What the shards of one entity in a worker owe; reported when it has changed, at most once a second.

    ``timers`` and ``effects`` are open. ``due_s`` (Unix time): when the oldest timer that is due was due; 0: none is.
    ``running`` effects are under way, ``parked`` ones wait for an operator, and ``not_in_build`` for another build.
    """

    entity: str
    timers: Count = 0
    due_s: Seconds = 0.0
    effects: Count = 0
    running: Count = 0
    parked: Count = 0
    not_in_build: Count = 0


class WorkerJoined(WorkerReport, frozen=True, kw_only=True, tag="worker-joined"):
    """A worker is a member of the group, and has been assigned shards, or none."""


class WorkerDrained(WorkerReport, frozen=True, kw_only=True, tag="worker-drained"):
    """A worker has drained its shards before it stops. ``complete``: all of them, before the deadline."""

    complete: bool
    commits: Count


#: The reports of a worker's loop about its shards and their commands.
ShardReport = (
    ShardAssigned
    | ShardRestoring
    | ShardRestored
    | ShardHandedOver
    | ShardLost
    | ShardFenced
    | ShardAborted
    | ShardFailed
    | ShardStalled
    | IncidentReport
)
#: All reports of the processes of a node.
NodeReport = SupervisionReport | ShardReport | EntityOwes | WorkerJoined | WorkerDrained

#: Receives a loop's reports. It must not block and must not raise.
ReportSink = Callable[[ShardReport], None]

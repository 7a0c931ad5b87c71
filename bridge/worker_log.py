"""``WorkerLog``: a worker's log lines for operators, and its reports.

Each line says what happened, where, and what happens next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from repertory.actors.message import Unknown
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.turn_result import Incident
from repertory.bridge.log_lines import entry
from repertory.bridge.reports import (
    IncidentReport,
    ReportSink,
    ShardAborted,
    ShardAssigned,
    ShardFailed,
    ShardFenced,
    ShardHandedOver,
    ShardLost,
    ShardRestored,
    ShardRestoring,
    ShardStalled,
)
from repertory.bridge.topics import wrong_count
from repertory.supervision import Failure
from repertory.supervision.process.reports import REPORTED_TRACEBACK_BYTES_MAX
from repertory.supervision.traceback_text import bounded

#: How many incidents of one turn are reported with a traceback: a bug may fail every command of a batch.
REPORTED_TRACEBACKS_MAX = 5

logger = logging.getLogger("repertory")


class WorkerLog:
    """Writes the log lines and reports of one loop, which owns it. Never blocks and never raises."""

    def __init__(self, report: ReportSink) -> None:
        self._report = report
        #: The commands topics that were reported to have more partitions than the code declares.
        self._said: set[str] = set()

    def assigned(self, shard: ShardConfig, partition_count: Callable[[str], int | None]) -> None:
        """The group assigned a shard to this worker, or a partition that is no shard: its topic has too many."""
        if shard.id.partition < shard.partitions:
            self._report(ShardAssigned(shard=str(shard.id)))
        elif shard.topic not in self._said:
            self._said.add(shard.topic)
            found = max(partition_count(shard.topic) or 0, shard.id.partition + 1)
            what = wrong_count(shard.topic, found, shard.partitions)
            _write_line(logging.ERROR, "%s", what)
            then = "the shards that the code knows are served as before"
            self._report(
                IncidentReport(where=shard.topic, error="PartitionsAdded", reason=what, outcome="not-read", next=then)
            )

    def restoring(self, shard: str, topic: str, records: int) -> None:
        """A shard's recovery is in progress; ``records`` were read so far, now from ``topic``."""
        self._report(ShardRestoring(shard=shard, topic=topic, records=records))

    def restored(self, shard: str, records: int, seconds: float) -> None:
        """A shard's recovery is complete."""
        self._report(ShardRestored(shard=shard, records=records, seconds=round(seconds, 4)))

    def handed_over(self, shard: str, owner: str, gap_ms: int) -> None:
        """A shard is served again, after its previous owner drained it and left.

        ``gap_ms`` is the time from that owner's last commit until now, by the clocks of two machines. It is negative if
        the clocks differ by more than the gap.
        """
        gap_s = max(0, gap_ms) / 1000
        _write_line(logging.INFO, "shard %s was handed over by %s; it was not served for %.2f s", shard, owner, gap_s)
        self._report(ShardHandedOver(shard=shard, owner=owner, gap_s=gap_s))

    def lost(self, shard: str, reason: str, *, fenced: bool) -> None:
        """A shard is no longer this worker's."""
        if fenced:
            then = "it is dropped here until it is assigned again"
            _write_line(logging.WARNING, "shard %s was fenced (%s); %s", shard, reason, then)
            self._report(ShardFenced(shard=shard, reason=reason, next=then))
        else:
            self._report(ShardLost(shard=shard, reason=reason))

    def aborted(self, shard: str, reason: str, delay_s: float, *, routine: bool) -> None:
        """A shard's transaction was aborted and the shard starts over; this does not count as a failure."""
        level = logging.INFO if routine else logging.WARNING
        then = f"it starts over in {delay_s:.2f} s"
        _write_line(level, "shard %s was aborted (%s); %s", shard, reason, then)
        self._report(ShardAborted(shard=shard, reason=reason, routine=routine, next=then))

    def failed(self, shard: str, failure: Failure, then: str) -> None:
        """A shard failed. ``then`` describes its supervisor's decision.

        The traceback of a handler's failure was logged with its incident.
        """
        trace = "" if "@" in failure.where else failure.traceback
        values = shard, failure.error_type, failure.message, then
        _write_line(logging.ERROR, "shard %s failed: %s: %s; %s", *values, trace=trace)
        report = ShardFailed(
            shard=shard, error=failure.error_type, reason=failure.message, next=then,
            traceback=bounded(failure.traceback, REPORTED_TRACEBACK_BYTES_MAX),
        )  # fmt: skip
        self._report(report)

    def leaves(self, topic: str, unknown: Unknown, where: str) -> None:
        """This worker gives up the shards of a commands topic: a record needs a newer build."""
        field = f" with the field {unknown.field!r}" if unknown.field else ""
        what = f"{where} is a {unknown.name!r}{field}, which this build does not know and another one does"
        then = (
            "this worker takes none of its shards until it restarts: they are left to nodes with that build; deploy it"
        )
        _write_line(logging.ERROR, "%s: %s; %s", topic, what, then)
        self._report(IncidentReport(where=topic, error="NewerBuild", reason=what, outcome="handed-over", next=then))

    def stalled(self, shard: str, reason: str) -> None:
        """A shard's stash is full."""
        then = "its partition is paused; retry or drop parked commands, or cancel the sagas that they are of"
        _write_line(logging.ERROR, "shard %s takes no commands: %s; %s", shard, reason, then)
        self._report(ShardStalled(shard=shard, reason=reason, next=then))

    def incidents(self, found: Sequence[Incident]) -> None:
        """Commands failed; the decisions about them are committed next."""
        for number, incident in enumerate(found):
            values = incident.where, incident.error, incident.reason, incident.next
            trace = "" if incident.is_repeated else incident.traceback
            _write_line(logging.WARNING, "%s: %s: %s; %s", *values, trace=trace)
            reported = incident.traceback if number < REPORTED_TRACEBACKS_MAX else ""
            report = IncidentReport(
                where=incident.where, error=incident.error, reason=incident.reason,
                outcome=incident.outcome, next=incident.next,
                traceback=bounded(reported, REPORTED_TRACEBACK_BYTES_MAX),
            )  # fmt: skip
            self._report(report)


def _write_line(level: int, line: str, *values: object, trace: str = "") -> None:
    if logger.isEnabledFor(level):
        logger.handle(entry(logger, level, line % values, trace))

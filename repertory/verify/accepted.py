"""What operators have accepted about a shard, according to its shard record, against what the log holds."""

from __future__ import annotations

from collections.abc import Collection

from repertory.actors.shard.changelog import LOST, ShardRecord
from repertory.bridge.log.record import TopicPartition
from repertory.verify.findings import Finding, Place


def check_skipped(
    record: ShardRecord, source: TopicPartition, low: int, traces: Collection[int], where: Place, finding: Finding
) -> None:
    """Check that the skipped commands are lost, and were never handled: exactly that gap is accepted.

    ``low`` is the first command that the log holds; ``traces`` are the offsets of commands with outputs, dead letters
    or stash records.
    """
    end = -1
    for accepted in record.accepted:
        if accepted.what != LOST:
            continue
        finding.looked_at += 1
        first, last = accepted.first, accepted.last
        skips = f"skips commands {first} to {last} of {source} as lost"
        if not end < first <= last < record.next:
            finding.wrong(where, f"{skips}, which is not a gap before its next command {record.next}")
        if low <= last:
            finding.wrong(where, f"{skips}, but the log holds command {max(low, first)}")
        if handled := sorted(offset for offset in traces if first <= offset <= last):
            finding.wrong(where, f"{skips}, but command {handled[0]} was handled")
        end = last

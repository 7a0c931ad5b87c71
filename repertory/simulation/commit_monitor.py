"""``CommitMonitor``: what happened in the log of a run, seen from outside all workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from repertory.bridge.log.port import Reader, Transaction
from repertory.bridge.log.record import TopicPartition
from repertory.simulation.virtual import Violation


class CommitMonitor:
    """Who claimed a shard last, and what was committed.

    Raises Violation for a commit of anybody but the last claimer (I10), or one whose offset moves back (I23).
    """

    def __init__(self, reader: Reader, states: Mapping[str, str]) -> None:
        self._reader, self._states = reader, states
        self._claimers: dict[TopicPartition, str] = {}
        self._ends: Counter[TopicPartition] = Counter()
        self._offsets: Counter[TopicPartition] = Counter()
        self.commits = 0
        self.probes: Counter[str] = Counter()

    def claimed(self, worker: str, shard: TopicPartition) -> None:
        """Note that a worker has shut out all others."""
        self._claimers[shard] = worker

    def landed(self, worker: str, transaction: Transaction) -> bool:
        """Tell whether the commit that was just handed over is in the log, and check that it may be."""
        shard = transaction.shard
        end = self._reader.bounds(self._states[shard.topic], shard.partition)[1]
        if end == self._ends[shard]:
            return False
        self._ends[shard] = end
        self.commits += 1
        if self._claimers.get(shard) != worker:
            raise Violation("one writer", f"{worker} committed to {shard}, claimed by {self._claimers.get(shard)}")
        if transaction.next_offset < self._offsets[shard]:
            raise Violation(
                "offsets move on", f"{worker} set {shard} from {self._offsets[shard]} to {transaction.next_offset}"
            )
        self._offsets[shard] = transaction.next_offset
        return True

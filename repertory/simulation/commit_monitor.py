"""``CommitMonitor``: checks the claims and commits of a run from outside the workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from repertory.bridge.log.port import Reader, Transaction
from repertory.bridge.log.record import TopicPartition
from repertory.simulation.virtual import Violation


class CommitMonitor:
    """Tracks the last claimer and the committed offset of each shard.

    Raises Violation for a commit by any worker but the last claimer (I10), and for an offset that moves back (I23).
    """

    def __init__(self, reader: Reader, states: Mapping[str, str]) -> None:
        self._reader, self._states = reader, states
        self._claimers: dict[TopicPartition, str] = {}
        self._ends: Counter[TopicPartition] = Counter()
        self._offsets: Counter[TopicPartition] = Counter()
        self.commits = 0
        self.probes: Counter[str] = Counter()

    def claimed(self, worker: str, shard: TopicPartition) -> None:
        """Record that a worker has claimed a shard and so fenced all others."""
        self._claimers[shard] = worker

    def landed(self, worker: str, transaction: Transaction) -> bool:
        """Return whether the commit that was just sent is in the log, and check that it may be."""
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

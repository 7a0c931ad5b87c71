"""``Redelivery``: in at-least-once mode, detects messages that arrive twice, and ends turns without a transaction.

The kernel's code for that mode is here and in ``seen_causes``; a shard on a log that was only ever written exactly once
has no Redelivery. If it can, the shard ends a turn without a transaction: outputs first, then the journal
(``bridge.nontransactional`` describes the records). A turn that is incomplete in the journal is ignored: its commands
are delivered again, and receivers drop the outputs that are sent again. The number of outputs of such turns is limited,
since a receiver only remembers a limited number.
"""

from __future__ import annotations

import msgspec

from repertory.actors.headers import Headers
from repertory.actors.shard.changelog import ChangelogEntry, ShardRecord
from repertory.actors.shard.config import AT_LEAST_ONCE, ShardConfig
from repertory.actors.shard.seen_causes import SeenCauses, Stamp
from repertory.actors.shard.turn import Turn

#: A turn sends at most 1 / ``_TURN_PART`` of the causes that a receiver remembers. A restore repeats two such amounts
#: (the turns without journal records, and the lost turn), and as much again is reserved for a worker that does not know
#: yet that it was replaced. The rest is for the last command of a turn, whose outputs are not split.
_TURN_PART = 8
#: When a snapshot is due, 1 / ``_AHEAD_PART`` of the window is snapshotted ahead, since it needs a transaction.
#: In exactly-once mode every turn has a transaction anyway.
_AHEAD_PART = 8
#: Readers that follow the shard records (projections) see turns without a transaction after this time, once the shard
#: has nothing to do.
RECORD_AFTER_MS = 200


class Redelivery:
    """Owned by its shard."""

    def __init__(self, config: ShardConfig, next_offset: int, seen: SeenCauses | None) -> None:
        """``seen``: the messages of other shards that a recovery found; None if none were recorded yet."""
        self._limits = config.limits
        self._seen = seen_causes(config) if seen is None else seen
        #: A turn ends after this number of outputs.
        self._outputs_max = max(1, config.limits.seen_causes_max // _TURN_PART)
        self._stamp: Stamp | None = None
        #: Where a restore would continue, and the outputs since: turns without journal records leave no trace.
        self._found, self._loose = next_offset, 0
        self._awaits_record, self._due_ms = config.is_projected, -1

    def due_ms(self) -> int | None:
        """Return when (epoch) a shard record is due, unless another turn writes one; None if nobody waits for it."""
        return None if self._due_ms < 0 else self._due_ms

    def recorded(self) -> None:
        """A shard record is written."""
        self._due_ms = -1

    def repeats(self, headers: Headers) -> bool:
        """Return whether a message is a repetition, which must be dropped."""
        stamp = self._stamp = self._seen.stamp(headers)
        return stamp is not None and self._seen.repeats(stamp)

    def accept(self, outputs: int) -> bool:
        """Remember the message that was checked last; return whether a turn with that many outputs can continue."""
        if self._stamp is not None:
            self._seen.note(self._stamp)
        return outputs < self._outputs_max

    def ahead(self, record: ShardRecord) -> int:
        """Return the number of records of the window that are snapshotted before they are due."""
        return self._limits.snapshot_window_records // _AHEAD_PART if record.nontransactional else 0

    def end_without_transaction(
        self, turn: Turn, record: ShardRecord, next_offset: int, seq: int, now_ms: int
    ) -> ShardRecord | None:
        """End a turn without a transaction: return the shard's progress; None if the turn needs a transaction.

        A turn needs none if deciding its commands again gives the same result, and only a limited number of outputs
        depends on it. A failed command may succeed the next time, and one without room may find some, so these need a
        transaction, and so does the answer to a query whose key has stashed commands: the next time it may see more of
        them. So does what was judged because the log refuses its outputs: without a trace of it, it would be found
        again each time that a later turn is refused, and the search would never come to an end. So does the changelog,
        because it is compacted: without the fence of a transaction, a late record of a former owner would permanently
        replace a newer one. Journal records are never replaced, and a restore knows which of them are valid.
        """
        if not record.nontransactional:
            return None
        if turn.counts.dead_lettered or turn.incidents or turn.changelog or turn.touched or turn.changed:
            return None
        if turn.has_late_answer or turn.refused:
            return None
        if next_offset - record.seen >= self._limits.seen_causes_max:
            return None
        if seq > record.seq:
            self._found, self._loose = next_offset, 0
            if self._awaits_record and self._due_ms < 0:
                self._due_ms = now_ms + RECORD_AFTER_MS
        else:
            self._loose += len(turn.outputs)
            if self._loose > self._outputs_max or next_offset - self._found > self._limits.small_batch_max:
                return None
        return msgspec.structs.replace(record, next=next_offset, seq=seq)

    def write(self, changelog: list[ChangelogEntry], seen: int, next_offset: int) -> int:
        """Prepare a turn with a transaction: add seen records if they are due; return the offset that they cover."""
        self._found, self._loose = next_offset, 0
        self.recorded()
        if next_offset - seen < self._limits.seen_causes_max:
            return seen
        changelog.extend(self._seen.written())
        return next_offset


def seen_causes(config: ShardConfig) -> SeenCauses:
    """Return the memory of a shard that has not received anything yet."""
    counts = config.directory.partition_count
    return SeenCauses(config.limits.seen_causes_max, lambda topic, partition: partition < (counts(topic) or 0))


def next_epoch(config: ShardConfig, record: ShardRecord) -> ShardRecord | None:
    """Return the first record of a new owner, with its own epoch; None if only exactly once was ever used.

    After the first epoch all later owners have one, in either mode: a log that was written at least once can still
    deliver records that an older owner appended or repeated.
    """
    nontransactional = config.limits.delivery == AT_LEAST_ONCE
    if not nontransactional and not record.epoch:
        return None
    seen = record.seen if record.epoch else record.next
    return msgspec.structs.replace(record, epoch=record.epoch + 1, nontransactional=nontransactional, seen=seen)

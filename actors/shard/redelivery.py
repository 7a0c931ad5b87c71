"""``Redelivery``: at least once, what a shard knows of commands that come, or are handled, a second time.

This is the kernel's whole share of that mode; a shard on a log that has only known exactly once has none. Where it can,
such a shard ends a turn without a transaction: outputs first, then the journal (``bridge.nontransactional`` says how
that looks in the log). A turn that is not whole in the journal did not happen: its commands come again, and what they
send again is dropped by its receivers. Not too much may rest on one turn, or a receiver would not remember it.
"""

from __future__ import annotations

import msgspec

from repertory.actors.headers import Headers
from repertory.actors.shard.changelog import ChangelogEntry, ShardRecord
from repertory.actors.shard.config import AT_LEAST_ONCE, ShardConfig
from repertory.actors.shard.seen_causes import SeenCauses, Stamp
from repertory.actors.shard.turn import Turn

#: Part of the causes that a receiver remembers which one turn may send. What a restore repeats is two of these (the
#: turns that the journal does not tell of, and the one that was lost), and as much again is for a worker that does not
#: know yet that it was replaced; the rest is for the last command of a turn, which is not cut.
_TURN_PART = 8
#: This part of the snapshot window is snapshotted ahead whenever a snapshot is due: that takes a transaction. Exactly
#: once there is one in each turn anyhow.
_AHEAD_PART = 8


class Redelivery:
    """Owned by its shard."""

    def __init__(self, config: ShardConfig, next_offset: int, seen: SeenCauses | None) -> None:
        """``seen``: what other shards have sent, as a recovery found it; None if nothing was written down yet."""
        self._limits = config.limits
        self._seen = seen_causes(config) if seen is None else seen
        #: Outputs after which a turn ends.
        self._outputs_max = max(1, config.limits.seen_causes_max // _TURN_PART)
        self._stamp: Stamp | None = None
        #: Where a restore would go on, and the outputs since: a turn that journals nothing leaves no trace of its own.
        self._found, self._loose = next_offset, 0

    def repeats(self, headers: Headers) -> bool:
        """Tell whether a message came before, and is to be dropped."""
        stamp = self._stamp = self._seen.stamp(headers)
        return stamp is not None and self._seen.repeats(stamp)

    def accept(self, outputs: int) -> bool:
        """Remember the message asked about last; tell whether a turn that has sent so much may go on."""
        if self._stamp is not None:
            self._seen.note(self._stamp)
        return outputs < self._outputs_max

    def ahead(self, record: ShardRecord) -> int:
        """Return how many records of the window are snapshotted before they are due."""
        return self._limits.snapshot_window_records // _AHEAD_PART if record.nontransactional else 0

    def end_without_transaction(
        self, turn: Turn, record: ShardRecord, next_offset: int, seq: int
    ) -> ShardRecord | None:
        """End a turn without a transaction: return where the shard is then; None if the turn needs a transaction.

        It can do without if decided again it gives the same, and not too much rests on it. What failed may not fail
        again, what found no room may find some: that takes a transaction, and so does the changelog. It is compacted: a
        late record of a former owner would replace a newer one permanently, but for the fence that only a transaction
        has. In the journal nothing is replaced, and it is known what counts.
        """
        if not record.nontransactional:
            return None
        if turn.counts.dead_lettered or turn.incidents or turn.changelog or turn.touched or turn.changed:
            return None
        if next_offset - record.seen >= self._limits.seen_causes_max:
            return None
        if seq > record.seq:
            self._found, self._loose = next_offset, 0
        else:
            self._loose += len(turn.outputs)
            if self._loose > self._outputs_max or next_offset - self._found > self._limits.batch_records_max:
                return None
        return msgspec.structs.replace(record, next=next_offset, seq=seq)

    def write(self, changelog: list[ChangelogEntry], seen: int, next_offset: int) -> int:
        """Take in that a turn is a transaction: add what was seen, now and then; return up to where it is written."""
        self._found, self._loose = next_offset, 0
        if next_offset - seen < self._limits.seen_causes_max:
            return seen
        changelog.extend(self._seen.written())
        return next_offset


def seen_causes(config: ShardConfig) -> SeenCauses:
    """Return the memory of a shard that has seen nothing yet."""
    counts = config.directory.partition_count
    return SeenCauses(config.limits.seen_causes_max, lambda topic, partition: partition < (counts(topic) or 0))


def next_epoch(config: ShardConfig, record: ShardRecord) -> ShardRecord | None:
    """Return the first record of a new owner, with an epoch of its own; None where only exactly once was ever used.

    Once there is one epoch, all later owners have one, in either mode: a log that was written at least once can still
    bring back what an older owner appended, or repeated.
    """
    nontransactional = config.limits.delivery == AT_LEAST_ONCE
    if not nontransactional and not record.epoch:
        return None
    seen = record.seen if record.epoch else record.next
    return msgspec.structs.replace(record, epoch=record.epoch + 1, nontransactional=nontransactional, seen=seen)

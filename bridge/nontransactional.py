"""Turns without a transaction: what a shard that works at least once writes, and which records of its journal count.

This is the bridge's whole share of that mode: what stands beside the codec (:func:`with_epoch`, :func:`append_of`) and
beside the recovery (:class:`NontransactionalRecovery`). A log that has only known exactly once uses none of it.

**The way of the data.** A turn's outputs are appended first; when all are acknowledged, its journal records; when those
are acknowledged, it is committed. Each journal record carries the ``epoch`` of its owner and ``turn``, its index among
the turn's records and their count; the last one names the next command in ``next``. There is no shard record:
the last one that a transaction wrote, and the turns behind it in the journal, say where the shard is. The group's
offset follows later, only for those who look from outside.

**When a step fails.** Outputs lost or in doubt: the journal has nothing of the turn, so it did not happen; the next
owner decides its commands again, on the same state, hence with the same outputs under the same causes, and their
receivers drop what they had (``actors.shard.seen_causes``). Journal records lost or in doubt: likewise, unless the
whole turn is there; then it happened, with all its outputs. So a turn is an atom for the shard that made it, as a
transaction is, and only what leaves the shard can come twice.

**A worker that was replaced** may still append, whenever it likes. An owner's first act is a transaction with a shard
record of the next ``epoch``, which shuts out the epochs before. Of two journal records with one ``seq`` below that of
the shard record, the higher epoch counts: an owner begins behind all that counts of its predecessors. Behind the shard
record only its own epoch counts, and only whole turns without a gap.

**What remains a transaction.** Turns in which something failed: decided again it may not fail. Turns with changelog
entries: snapshots (an eighth of the window at once, so there are few), commands that enter or leave the stash, states
of stateful entities. Those topics are compacted, and there a late record of a former owner would replace a newer one
permanently; no rule for readers can correct that. Turns that journal nothing leave no trace: after
``batch_records_max`` commands of them there is a transaction too, so that little is repeated.

**Who owns what.** The shard: its epoch, its seq, the causes that it has seen. The journal: which turns happened. The
state topic: the shard record of the last transaction, and the seen records, from which a restore goes on along the
commands topic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from repertory.actors.headers import EPOCH, NEXT, SEQ, TURN
from repertory.actors.shard.changelog import SeenRecord, ShardRecord
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.redelivery import seen_causes
from repertory.actors.wire import DecodeError
from repertory.bridge.log.port import Append
from repertory.bridge.log.record import Output, Record, TopicPartition

_TURN = re.compile(rb"([0-9]{1,9})/([0-9]{1,9})")


# --- beside the codec ---------------------------------------------------------------------------------------------


def with_epoch(outputs: Iterable[Output], dead_letters: str, epoch: int) -> list[Output]:
    """Return outputs with the epoch of the owner that made them; a dead letter keeps the headers of its command."""
    header = (EPOCH, b"%d" % epoch)
    return [
        output if output.topic == dead_letters
        else Output(output.topic, output.partition, output.key, output.value, (*output.headers, header))
        for output in outputs
    ]  # fmt: skip


def append_of(shard: TopicPartition, outputs: Iterable[Output], events: str, next_offset: int) -> Append:
    """Return a turn without a transaction as bytes: its journal says all that a shard record would."""
    journal: list[Output] = []
    others: list[Output] = []
    for output in outputs:
        (journal if output.topic == events else others).append(output)
    return Append(shard, next_offset, others, _with_turn_headers(journal, next_offset))


def _with_turn_headers(journal: list[Output], next_offset: int) -> list[Output]:
    """Return a turn's journal records with their places in it; the last one names the next command."""
    count = len(journal)
    turn = [
        Output(each.topic, each.partition, each.key, each.value, (*each.headers, (TURN, b"%d/%d" % (index, count))))
        for index, each in enumerate(journal)
    ]
    if turn:
        last = turn[-1]
        turn[-1] = msgspec.structs.replace(last, headers=(*last.headers, (NEXT, b"%d" % next_offset)))
    return turn


# --- beside the recovery ------------------------------------------------------------------------------------------


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A journal record, and behind the shard record its place in its turn."""

    record: Record
    epoch: int
    index: int = 0
    count: int = 0
    next_offset: int = -1


class CountingJournal:
    """Finds out which records of a shard's journal count. Used once, by whoever reads the journal from ``from_seq`` on.

    Takes them in offset order; :meth:`settle` says at the end which count. Memory: all that is between.
    """

    def __init__(self, record: ShardRecord, from_seq: int) -> None:
        self._record, self._from_seq = record, from_seq
        self._found: dict[int, Placed] = {}

    def add(self, record: Record) -> None:
        """Take in one record; DecodeError for one that no shard wrote."""
        shard = self._record
        seq, epoch = record.number(SEQ), epoch_of(record)
        if seq < self._from_seq:
            return  # What counts of these may stand before all that is read.
        other = self._found.get(seq)
        if seq < shard.seq:
            if other is None or epoch > other.epoch:
                self._found[seq] = Placed(record, epoch)
        elif shard.nontransactional and epoch == shard.epoch and other is None:
            index, count = _turn_of(record)
            next_offset = record.number(NEXT) if index == count - 1 else -1
            self._found[seq] = Placed(record, epoch, index, count, next_offset)

    def settle(self) -> tuple[list[Record], ShardRecord]:
        """Return the records that count, in seq order, and the shard record as it would be behind them."""
        next_offset, seq = self._record.next, self._record.seq
        while (last := self._turn_from(seq)) is not None:
            next_offset, seq = last.next_offset, seq + last.count
        counted = [self._found[each].record for each in sorted(self._found) if each < seq]
        return counted, msgspec.structs.replace(self._record, next=next_offset, seq=seq)

    def _turn_from(self, first_seq: int) -> Placed | None:
        """Return the last record of the turn that begins at a seq; None if the turn is not whole."""
        placed = self._found.get(first_seq)
        count = 0 if placed is None else placed.count
        for index in range(count):
            placed = self._found.get(first_seq + index)
            if placed is None or (placed.index, placed.count) != (index, count):
                return None
        return placed


class NontransactionalRecovery:
    """What a recovery needs of a log that was written at least once: which journal records count, and what was seen."""

    def __init__(self, config: ShardConfig, record: ShardRecord, seen: Mapping[str, SeenRecord]) -> None:
        """``seen``: the seen records of the state topic, by source."""
        journal = CountingJournal(record, record.tail_start)
        #: Take in one journal record; DecodeError for one that no shard wrote.
        self.add = journal.add
        #: Return the records that count, and the shard record as it would be behind them.
        self.settle = journal.settle
        self.seen = seen_causes(config)
        for source, causes in seen.items():
            self.seen.load(source, causes)

    def see(self, record: Record) -> None:
        """Remember a command that another shard sent."""
        if (stamp := self.seen.stamp(record.headers)) is not None:
            self.seen.note(stamp)


def epoch_of(record: Record) -> int:
    """Return the epoch of the owner that wrote a record; 0 for one that worked exactly once from the beginning."""
    value = record.header(EPOCH)
    return 0 if value is None else record.number(EPOCH)


def _turn_of(record: Record) -> tuple[int, int]:
    found = _TURN.fullmatch(record.header(TURN) or b"")
    if found is None or int(found[1]) >= int(found[2]):
        raise DecodeError(f"its header 'turn' is {record.header(TURN)!r:.100}")
    return int(found[1]), int(found[2])

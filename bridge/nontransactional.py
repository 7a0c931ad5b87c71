"""Nontransactional turns: what a shard writes at least once, and which records of its journal count.

This module is the bridge's whole implementation of that mode: functions for the codec (:func:`with_epoch`,
:func:`append_of`) and a class for the recovery (:class:`NontransactionalRecovery`). A log that has only been used
exactly once needs none of it.

**Order of writes.** A turn's outputs are appended first. Once they are all acknowledged, its journal records are
appended; once those are acknowledged, the turn is committed. Each journal record carries the ``epoch`` of its owner and
``turn``, its index among the turn's records and their count; the last one names the next command in ``next``. There is
no shard record: the shard's position follows from the last shard record that a transaction wrote and the turns after it
in the journal. The group's offset is committed later, only for observers from outside.

**When a step fails.** If outputs are lost or in doubt, the journal has no record of the turn, so the turn did not
happen. The next owner decides its commands again on the same state, hence with the same outputs and the same causes,
and receivers drop the outputs that they already have (``actors.shard.seen_causes``). The same holds if journal records
are lost or in doubt, unless the whole turn is in the journal: then it happened, with all its outputs. So a turn is
atomic for its own shard, as a transaction is, and only what leaves the shard can arrive twice.

**A worker that was replaced** can still append at any time. An owner first commits a transaction with a shard record of
the next ``epoch``, which excludes all earlier epochs. Of two journal records with the same ``seq`` below that of the
shard record, the one with the higher epoch counts: an owner begins after all records of its predecessors that count.
After the shard record only records of its own epoch count, and only whole turns without a gap.

**What remains a transaction.** Turns in which a command failed: decided again, the command may succeed. Turns with
changelog entries: snapshots (an eighth of the window at once, so there are few), commands that enter or leave the
stash, states of stateful entities. Those topics are compacted, and a late record of a former owner would replace a
newer one permanently; no rule for readers can correct that. Turns that journal nothing leave no record of themselves:
after ``careful_records_max`` commands of such turns there is a transaction too, so that few commands are repeated.

**Who owns what.** The shard: its epoch, its seq, and the causes that it has seen. The journal: which turns happened.
The state topic: the shard record of the last transaction, and the seen records, which a recovery brings up to date from
the commands topic.
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


# --- encoding -----------------------------------------------------------------------------------------------------


def with_epoch(outputs: Iterable[Output], dead_letters: str, epoch: int) -> list[Output]:
    """Return the outputs with the epoch of their owner as a header; a dead letter keeps the headers of its command."""
    header = (EPOCH, b"%d" % epoch)
    return [
        output if output.topic == dead_letters
        else Output(output.topic, output.partition, output.key, output.value, (*output.headers, header))
        for output in outputs
    ]  # fmt: skip


def append_of(shard: TopicPartition, outputs: Iterable[Output], events: str, next_offset: int) -> Append:
    """Return the append of a nontransactional turn; its journal records contain all that a shard record would."""
    journal: list[Output] = []
    others: list[Output] = []
    for output in outputs:
        (journal if output.topic == events else others).append(output)
    return Append(shard, next_offset, others, _with_turn_headers(journal, next_offset))


def _with_turn_headers(journal: list[Output], next_offset: int) -> list[Output]:
    """Return a turn's journal records with their index and count; the last one names the next command."""
    count = len(journal)
    turn = [
        Output(each.topic, each.partition, each.key, each.value, (*each.headers, (TURN, b"%d/%d" % (index, count))))
        for index, each in enumerate(journal)
    ]
    if turn:
        last = turn[-1]
        turn[-1] = msgspec.structs.replace(last, headers=(*last.headers, (NEXT, b"%d" % next_offset)))
    return turn


# --- recovery -----------------------------------------------------------------------------------------------------


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A journal record and its epoch; after the shard record also its index and count within its turn."""

    record: Record
    epoch: int
    index: int = 0
    count: int = 0
    next_offset: int = -1


class CountingJournal:
    """Determines which records of a shard's journal count, from ``from_seq`` on. Used once.

    The caller adds the records in offset order; :meth:`settle` then returns those that count. All records that are
    added stay in memory until then.
    """

    def __init__(self, record: ShardRecord, from_seq: int) -> None:
        self._record, self._from_seq = record, from_seq
        self._found: dict[int, Placed] = {}

    def add(self, record: Record) -> None:
        """Add one record; DecodeError for a record that no shard can have written."""
        shard = self._record
        seq, epoch = record.number(SEQ), epoch_of(record)
        if seq < self._from_seq:
            return  # The records that count at these seqs may precede the range that is read.
        other = self._found.get(seq)
        if seq < shard.seq:
            if other is None or epoch > other.epoch:
                self._found[seq] = Placed(record, epoch)
        elif shard.nontransactional and epoch == shard.epoch and other is None:
            index, count = turn_of(record)
            next_offset = record.number(NEXT) if index == count - 1 else -1
            self._found[seq] = Placed(record, epoch, index, count, next_offset)

    def settle(self) -> tuple[list[Record], ShardRecord]:
        """Return the records that count, in seq order, and the shard record brought up to date with them."""
        next_offset, seq = self._record.next, self._record.seq
        while (last := self._turn_from(seq)) is not None:
            next_offset, seq = last.next_offset, seq + last.count
        counted = [self._found[each].record for each in sorted(self._found) if each < seq]
        return counted, msgspec.structs.replace(self._record, next=next_offset, seq=seq)

    def _turn_from(self, first_seq: int) -> Placed | None:
        """Return the last record of the turn that begins at a seq; None if the turn is incomplete."""
        placed = self._found.get(first_seq)
        count = 0 if placed is None else placed.count
        for index in range(count):
            placed = self._found.get(first_seq + index)
            if placed is None or (placed.index, placed.count) != (index, count):
                return None
        return placed


class NontransactionalRecovery:
    """What a recovery needs for a log written at least once: the journal records that count, and the causes seen."""

    def __init__(self, config: ShardConfig, record: ShardRecord, seen: Mapping[str, SeenRecord]) -> None:
        """``seen``: the seen records of the state topic, by source."""
        journal = CountingJournal(record, record.tail_start)
        #: Add one journal record; DecodeError for a record that no shard can have written.
        self.add = journal.add
        #: Return the records that count, and the shard record brought up to date with them.
        self.settle = journal.settle
        self.seen = seen_causes(config)
        for source, causes in seen.items():
            self.seen.load(source, causes)

    def see(self, record: Record) -> None:
        """Note the cause of a command that another shard sent."""
        if (stamp := self.seen.stamp(record.headers)) is not None:
            self.seen.note(stamp)


def epoch_of(record: Record) -> int:
    """Return the epoch of the owner that wrote a record; 0 for a shard that has always been exactly once."""
    value = record.header(EPOCH)
    return 0 if value is None else record.number(EPOCH)


def turn_of(record: Record) -> tuple[int, int]:
    """Return the index of a journal record within its turn, and their count; DecodeError if its header is invalid."""
    found = _TURN.fullmatch(record.header(TURN) or b"")
    if found is None or int(found[1]) >= int(found[2]):
        raise DecodeError(f"its header 'turn' is {record.header(TURN)!r:.100}")
    return int(found[1]), int(found[2])

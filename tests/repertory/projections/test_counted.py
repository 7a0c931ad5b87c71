"""Which records of a journal count, record by record: those that a recovery of the shard takes, and no others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from repertory.actors.headers import EPOCH, NEXT, SEQ, TURN, VERSION
from repertory.actors.shard.changelog import ShardRecord, first_shard_record
from repertory.bridge.log.record import Record
from repertory.bridge.nontransactional import CountingJournal
from repertory.projections.counted import EpochStarts


class Journal:
    """What owners append, one after the other, and what those append that were replaced and do not know it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.shard = first_shard_record()
        self.old: list[tuple[int, int]] = []

    def append(self, epoch: int, seq: int, index: int, count: int) -> None:
        offset = len(self.records)
        headers = [("cause", b"c/0/0/0"), (SEQ, b"%d" % seq), (VERSION, b"1"), (EPOCH, b"%d" % epoch)]
        headers.append((TURN, b"%d/%d" % (index, count)))
        if index == count - 1:
            headers.append((NEXT, b"%d" % seq))
        self.records.append(Record("t", 0, offset, b"k", b"", tuple(headers), 0))

    def write(self, **changes: int) -> None:
        found = {**{name: getattr(self.shard, name) for name in self.shard.__struct_fields__}, **changes}
        self.shard = ShardRecord(**{**found, "nontransactional": True})


#: A turn of so many events, whole or not; a shard record; a new owner; a turn of an owner that was replaced.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), st.integers(1, 4)),
        st.tuples(st.just("record"), st.just(0)),
        st.tuples(st.just("owner"), st.integers(0, 3)),
        st.tuples(st.just("stale"), st.integers(1, 4)),
    ),
    max_size=40,
)


def played(steps: list[tuple[str, int]]) -> tuple[Journal, int]:
    """Return the journal, and the seq of the latest shard record."""
    journal, seq, epoch = Journal(), 0, 1
    journal.write(epoch=epoch)
    stale: tuple[int, int] | None = None
    for what, count in steps:
        if what == "turn":
            for index in range(count):
                journal.append(epoch, seq + index, index, count)
            seq += count
        elif what == "record":
            journal.write(seq=seq)
        elif what == "owner":
            # The last turn of the former owner is torn; from now on it goes on from what it takes for true.
            for index in range(count):
                journal.append(epoch, seq + index, index, count + 1)
            stale = epoch, seq + count
            epoch += 1
            journal.write(epoch=epoch, seq=seq)
        elif stale is not None:
            for index in range(count):
                journal.append(stale[0], stale[1] + index, index, count)
            stale = stale[0], stale[1] + count
    return journal, journal.shard.seq


@given(STEPS, st.integers(0, 1 << 16))
def test_what_counts_is_what_a_recovery_takes(steps: list[tuple[str, int]], cut: int) -> None:
    """Below the latest shard record, whatever a worker appended that was replaced; read in two parts, at any seq."""
    journal, end = played(steps)
    recovery = CountingJournal(journal.shard, 0)
    for record in journal.records:
        recovery.add(record)
    wanted = [record.offset for record in recovery.settle()[0] if record.number(SEQ) < end]
    assert len(wanted) == end
    cut = cut % (end + 1)
    found = counted(journal, 0, 0, end)[:cut]
    begin = found[-1] + 1 if found else 0
    assert found + counted(journal, begin, cut, end) == wanted


def counted(journal: Journal, next_offset: int, next_seq: int, end: int) -> list[int]:
    """Return the offsets of the records that count, as a feed reads them from a progress on."""
    starts = EpochStarts(next_offset)
    rest = journal.records[next_offset:]
    for record in rest:
        starts.see(record)
    return [record.offset for record in rest if record.number(SEQ) >= next_seq and starts.counts(record, end)]

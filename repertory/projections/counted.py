"""Which records of a journal count, as far as that can be known, without keeping the journal in memory. Pure.

At least once, a worker that was replaced may append records that do not count (``bridge.nontransactional``). That is
known only up to a shard record: a record behind the latest one may still be superseded. An owner appends from the seq
on at which it took over, so the first record of each epoch says which records of earlier epochs count: those below it.
"""

from __future__ import annotations

from repertory.actors.headers import SEQ
from repertory.bridge.log.record import Record
from repertory.bridge.nontransactional import epoch_of


class EpochStarts:
    """The first seq of each epoch of one journal, from the records that were seen in offset order."""

    def __init__(self, next_offset: int) -> None:
        #: The next record to be seen.
        self.next_offset = next_offset
        self._starts: dict[int, int] = {}

    def see(self, record: Record) -> None:
        """Note one record; DecodeError for a record that no shard can have written."""
        self._starts.setdefault(epoch_of(record), record.number(SEQ))
        self.next_offset = record.offset + 1

    def counts(self, record: Record, end_seq: int) -> bool:
        """Return whether a record counts. ``end_seq``: that of a shard record; all that lies below it was seen."""
        seq, epoch = record.number(SEQ), epoch_of(record)
        return seq < end_seq and all(seq < start for later, start in self._starts.items() if later > epoch)

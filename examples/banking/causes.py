"""No command has made anything twice: the `cause` of each record that the runtime produced is unique in the log."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise

from bridge.record import Record
from examples.banking.findings import Check, Finding, at


class Causes:
    """Is shown every record, then names those that share a cause. Keeps eight bytes of each: a hash."""

    def __init__(self) -> None:
        self._finding = Finding("no cause twice")
        #: By the shard that the cause names, so that one of them can be sorted at a time.
        self._hashes: dict[bytes, array[int]] = {}
        self._count = 0

    def add(self, record: Record, *, produced: bool = True) -> None:
        """Note a record's cause; what the runtime ``produced`` must have one, a client's command has none."""
        cause = record.header("cause")
        if cause is not None:
            self._count += 1
            self._hashes.setdefault(cause.rsplit(b"/", 2)[0], array("q")).append(hash(cause))
        elif produced:
            self._finding.wrong(record, "has no cause")

    def check(self, again: Iterator[Record]) -> Check:
        """Return the outcome. ``again`` are all records once more: they are only read if some hashes are equal."""
        twice = set[int]()
        for hashes in self._hashes.values():
            twice.update(first for first, second in pairwise(sorted(hashes)) if first == second)
        if twice:
            self._name(twice, again)
        return self._finding.check(f"{self._count:,} records")

    def _name(self, twice: set[int], again: Iterator[Record]) -> None:
        first: dict[bytes, Record] = {}
        for record in again:
            cause = record.header("cause")
            if cause is not None and hash(cause) in twice:
                other = first.setdefault(cause, record)
                if other is not record:
                    self._finding.wrong(record, f"has the cause {cause.decode()} of {at(other)}")

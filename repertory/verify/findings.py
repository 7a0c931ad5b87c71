"""The results of a verification: checks, how many records each examined, and the first offenders of each."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from repertory.bridge.log.record import Record

#: Offenders that a failed check lists; further ones are only counted.
NAMED_MAX = 5


class Place(NamedTuple):
    """The place of a record, or of one that is missing. ``offset`` is -1 if no single record is meant."""

    topic: str
    partition: int
    offset: int = -1
    key: str | None = None


class Offender(msgspec.Struct, frozen=True):
    """One violation and its place. ``offset`` is -1 if no single record is meant."""

    topic: str
    partition: int
    offset: int
    key: str | None
    wrong: str

    def __str__(self) -> str:
        offset = "" if self.offset < 0 else f"@{self.offset}"
        key = "" if self.key is None else f" key {self.key!r}"
        return f"{self.topic}/{self.partition}{offset}{key}: {self.wrong}"


class Check(msgspec.Struct, frozen=True):
    """One promise: whether it holds, and the numbers of records examined, not verifiable, and wrong."""

    name: str
    promise: str
    ok: bool
    looked_at: int
    unverifiable: int
    wrong: int
    offenders: list[Offender]

    @property
    def detail(self) -> str:
        """The promise if it holds, else the listed offenders, one per line."""
        unverifiable = f" ({self.unverifiable:,} could not be verified)" if self.unverifiable else ""
        if self.ok:
            return self.promise + unverifiable
        more = self.wrong - len(self.offenders)
        return "\n".join([*map(str, self.offenders), *([f"and {more:,} more"] if more else [])]) + unverifiable


class Finding:
    """One check in progress. Mutable; owned by the verification."""

    def __init__(self, name: str, promise: str = "") -> None:
        self.name, self.promise = name, promise
        self.looked_at = 0
        self.unverifiable = 0
        self.wrongs = 0
        self._offenders: list[Offender] = []

    def wrong(self, where: Record | Place, sentence: str) -> None:
        """Record an offender; the sentence completes "this record …"."""
        self.wrongs += 1
        if len(self._offenders) < NAMED_MAX:
            key = text(where.key) if isinstance(where, Record) else where.key
            self._offenders.append(Offender(where.topic, where.partition, where.offset, key, sentence))

    def check(self, promise: str = "") -> Check:
        """Return the result. ``promise``, if given, replaces the text of the promise, for example by figures."""
        ok = self.wrongs == 0
        return Check(
            self.name, promise or self.promise, ok, self.looked_at, self.unverifiable, self.wrongs, self._offenders
        )


class Findings:
    """All checks of one verification, in the order in which they are shown."""

    def __init__(self) -> None:
        self.order = Finding("order", "a key's commands are applied in log order")
        self.duplicates = Finding("duplicates", "no two records have the same cause")
        self.completeness = Finding("completeness", "each handled command has exactly one outcome")
        self.atomicity = Finding("atomicity", "all outputs of a command are in the log, or none")
        self.decisions = Finding("decisions", "each command, decided again, produces the same records")
        self.writer = Finding("single writer", "seq, version and changelog numbers have no gap")
        self.states = Finding("states", "each state is the fold of its journal")
        self.shards = Finding("shard records", "they agree with the group, the journal and the commands")
        self.stashed = Finding("stash", "stashed commands are unchanged, and are counted")
        self.later = Finding(
            "later", "each timer, delayed message and effect is open, taken back, or sent or settled once"
        )
        self.dead = Finding("dead letters", "at most one per command, with its original bytes")
        self.replies = Finding("replies", "at most one for each ask")
        self.tells = Finding("tells", "each is an output of a committed command")
        self.sources = Finding(
            "sources", "each record of a source has its commands once and in order, or a dead letter"
        )
        self.restore = Finding("restore", "the next owner of each shard restores these states")

    def checks(self, *, has_sources: bool) -> list[Check]:
        """Return the results of all checks; that of sources only for a system that has some."""
        return [finding.check() for finding in vars(self).values() if has_sources or finding is not self.sources]


def text(key: bytes | None) -> str | None:
    """Return a key as text."""
    return None if key is None else key.decode(errors="backslashreplace")

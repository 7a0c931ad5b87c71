"""What a verification says: checks, how much each looked at, and the first offenders that it names."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from repertory.bridge.log.record import Record

#: Offenders that a failed check names; the others are counted.
NAMED_MAX = 5


class Place(NamedTuple):
    """Where something stands, or should stand. ``offset`` -1: nowhere in particular."""

    topic: str
    partition: int
    offset: int = -1
    key: str | None = None


class Offender(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where. ``offset`` -1: it has no record."""

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
    """One promise: whether it holds, the records looked at, those that cannot be judged, and those that break it."""

    name: str
    promise: str
    ok: bool
    looked_at: int
    unverifiable: int
    wrong: int
    offenders: list[Offender]

    @property
    def detail(self) -> str:
        """What was promised, or what is wrong: each offender that is named on a line of its own."""
        unverifiable = f" ({self.unverifiable:,} could not be judged)" if self.unverifiable else ""
        if self.ok:
            return self.promise + unverifiable
        more = self.wrong - len(self.offenders)
        return "\n".join([*map(str, self.offenders), *([f"and {more:,} more"] if more else [])]) + unverifiable


class Finding:
    """One check while it is made. Mutable; owned by the verification."""

    def __init__(self, name: str, promise: str = "") -> None:
        self.name, self.promise = name, promise
        self.looked_at = 0
        self.unverifiable = 0
        self.wrongs = 0
        self._offenders: list[Offender] = []

    def wrong(self, where: Record | Place, sentence: str) -> None:
        """Note an offender and what is wrong with it."""
        self.wrongs += 1
        if len(self._offenders) < NAMED_MAX:
            key = text(where.key) if isinstance(where, Record) else where.key
            self._offenders.append(Offender(where.topic, where.partition, where.offset, key, sentence))

    def check(self, promise: str = "") -> Check:
        """Return the outcome; ``promise`` may say at the end what was looked at, in figures."""
        said, ok = promise or self.promise, self.wrongs == 0
        return Check(self.name, said, ok, self.looked_at, self.unverifiable, self.wrongs, self._offenders)


class Findings:
    """All checks of one verification, in the order in which they are shown."""

    def __init__(self) -> None:
        self.order = Finding("order", "a key's commands are applied in log order")
        self.duplicates = Finding("duplicates", "no cause stands twice")
        self.completeness = Finding("completeness", "each handled command has one fate")
        self.atomicity = Finding("atomicity", "all outputs of a command are there, or none")
        self.decisions = Finding("decisions", "decided again, each command makes the same")
        self.writer = Finding("single writer", "seq, version and books go on without a gap")
        self.states = Finding("states", "each state is the fold of its journal")
        self.shards = Finding("shard records", "they agree with group, journal and commands")
        self.stashed = Finding("stash", "what waits is as it came, and is counted")
        self.dead = Finding("dead letters", "one per command, its bytes as they were")
        self.replies = Finding("replies", "one at most for whoever asked")
        self.tells = Finding("tells", "each is an output of a committed command")
        self.restore = Finding("restore", "the next owner of each shard gets these states")

    def checks(self) -> list[Check]:
        """Return what all of them say."""
        return [finding.check() for finding in vars(self).values()]


def text(key: bytes | None) -> str | None:
    """Return a key for people."""
    return None if key is None else key.decode(errors="backslashreplace")

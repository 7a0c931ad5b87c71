"""What an audit says: checks, and the offenders that they name."""

from __future__ import annotations

import msgspec

from bridge.record import Record

#: Offenders that a failed check names; the others are counted.
NAMED_MAX = 3


class Check(msgspec.Struct, frozen=True):
    """One thing that must hold: whether it does, and how much was looked at or what was found instead."""

    name: str
    ok: bool
    detail: str


class Finding:
    """One check while it is made: counts what is wrong and keeps the first few of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wrongs = 0
        self._named: list[str] = []

    def wrong(self, where: Record | str, sentence: str) -> None:
        """Note an offender and what is wrong with it."""
        self.wrongs += 1
        if len(self._named) < NAMED_MAX:
            self._named.append(f"{where if isinstance(where, str) else at(where)}: {sentence}")

    def check(self, detail: str) -> Check:
        """Return the outcome; ``detail`` says what was looked at, for the case that all of it is right."""
        if not self.wrongs:
            return Check(self.name, ok=True, detail=detail)
        more = f"; and {self.wrongs - len(self._named)} more" if self.wrongs > len(self._named) else ""
        return Check(self.name, ok=False, detail="; ".join(self._named) + more)


def at(record: Record) -> str:
    """Say where a record stands."""
    key = "no key" if record.key is None else f"key {record.key.decode(errors='backslashreplace')!r}"
    return f"{record.topic}/{record.partition}@{record.offset} {key}"

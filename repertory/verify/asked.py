"""The asks with an id of one shard: each id is decided once. That its answers are equal is checked in ``gather``.

What is answered from the table of answers (``actors.shard.answers``) has indexes of its own. So a command whose only
record is such an answer was not decided: its id was known, or refused. One with an id that was asked before and without
any record waits for the answer to that one, or has got it.
"""

from __future__ import annotations

from typing import NamedTuple

from repertory.actors.headers import ASK_ID
from repertory.actors.shard.answers import ParsedId
from repertory.actors.shard.changelog import AGAIN_INDEX, RETRY_INDEX
from repertory.bridge.log.record import Record
from repertory.verify.again import Subject
from repertory.verify.produced import Made


class Taken(NamedTuple):
    """A command: the outputs that it made itself, and what became of it if it was not decided, else ""."""

    made: list[Made]
    fate: str


class AskedCommands:
    """The ids of one shard, in the order of its commands."""

    def __init__(self, subject: Subject, unknown: set[str]) -> None:
        """``unknown``: gets the keys of commands that may have been decided, and have changed their entities."""
        self._subject, self._finding, self._unknown = subject, subject.findings.duplicates, unknown
        #: Hash of key and id -> the first command with it that was not refused.
        self._first: dict[int, int] = {}

    def take(self, record: Record, made: list[Made], *, kept: bool) -> Taken:
        """Take the next command that the shard has handled; ``kept``: it is stashed, or a dead letter."""
        own = [each for each in made if not AGAIN_INDEX <= each.nth < RETRY_INDEX]
        if not record.headers or (asked := self._subject.gathered.ids.of(record)) is None:
            return Taken(own, "")
        first = self._first.get(asked)
        if own or kept:
            if first is not None:
                self._finding.wrong(record, f"is decided, but command {first} has the same id")
            self._first.setdefault(asked, record.offset)
            return Taken(own, "")
        if first is not None:
            return Taken([], "answered again")
        if made:
            return Taken([], "refused for its id")
        if self._may_be_refused(record):
            return self._unsure(record, "refused for its id")
        self._first[asked] = record.offset
        if self._subject.low > 0:  # The command that it repeats may be among the deleted ones.
            return self._unsure(record, "not decided again")
        return Taken([], "")

    def _unsure(self, record: Record, fate: str) -> Taken:
        self._subject.findings.decisions.unverifiable += 1
        self._unknown.add((record.key or b"").decode(errors="backslashreplace"))
        return Taken([], fate)

    def _may_be_refused(self, record: Record) -> bool:
        """Return whether an id may be too old, or is ahead of the clock, and the log has refused to take the answer."""
        asked, shard = ParsedId.parse(dict(record.headers)[ASK_ID].decode()), self._subject.changelog.shard
        horizon_ms = 0 if shard is None else shard.auto_horizon_ms if asked.is_auto else shard.answers_horizon_ms
        return not record.timestamp_ms + self._subject.ids_ahead_ms >= asked.made_ms > horizon_ms

"""Compare each shard record with itself and with the one before it: what an owner can have written, and when.

A turn, a takeover, an announcement and a handover each change some fields only. Deaths, owners, epochs and adopted
topics begin in a takeover, which writes nothing but the shard record and the effects that it blames for a death. Where
compaction has deleted records in between, two records are not of consecutive transactions, and only what must hold for
any two is checked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from repertory.actors.headers import SEQ
from repertory.actors.shard.changelog import CHANGELOG_INDEX, ShardRecord
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record
from repertory.verify.findings import Findings, Place, text

_NEVER_BACK = ("next", "seq", "tail_start", "tail_offset", "changelog", "epoch", "seen")


_OTHER_DIGEST = "has another digest than the records of the changelog: some are missing, or of another time"


class _Suspicion(NamedTuple):
    """A sentence that is true if no shard record was deleted between two changelog numbers."""

    place: Place
    after: int
    before: int
    sentence: str


class ShardRecords:
    """The shard records of one shard, in order. ``last`` is the latest."""

    def __init__(self, hosted: HostedEntity, findings: Findings) -> None:
        self._hosted, self._finding = hosted, findings.shards
        self.last: ShardRecord | None = None
        self._place = Place("", 0)
        self._suspicions: list[_Suspicion] = []

    def take(self, record: Record, after: ShardRecord, number: int, digest: int, blamed: int) -> None:
        """Check the next shard record; ``number``: its changelog number; ``digest``: of what was read before it.

        ``blamed``: the effects that must run alone, of those that were written since the shard record before it.
        """
        self._finding.looked_at += 1
        before, self.last = self.last, after
        self._place = Place(record.topic, record.partition, record.offset, text(record.key))
        if record.number(SEQ) != after.seq:
            self._wrong(f"has seq {after.seq}, but its header has {record.number(SEQ)}")
        if number != CHANGELOG_INDEX + after.changelog - 1:
            self._wrong(f"counts {after.changelog} changelog records, but is number {number - CHANGELOG_INDEX + 1}")
        if after.digest not in (None, digest):
            self._suspicions.append(_Suspicion(self._place, CHANGELOG_INDEX, number, _OTHER_DIGEST))
        for sentence in _contradictions(after, self._hosted):
            self._wrong(sentence)
        if before is None:
            return
        for name in _NEVER_BACK:
            if getattr(after, name) < getattr(before, name):
                self._wrong(f"goes back in {name}: {getattr(before, name)} to {getattr(after, name)}")
        if lost := before.topic_ids.keys() - after.topic_ids.keys():
            self._wrong(f"has no id of the topic {min(lost)!r}, which the record before it has")
        for sentence in _changes(before, after, blamed):
            first = CHANGELOG_INDEX + before.changelog
            self._suspicions.append(_Suspicion(self._place, first, number, sentence))

    def settle(self, numbers: Sequence[int], stashed: Collection[int], end: int, digest: int) -> None:
        """Check what depends on the whole changelog, whose ``numbers`` are sorted, and its digest.

        ``end``: of the commands.
        """
        for place, first, last, sentence in self._suspicions:
            if bisect_left(numbers, last) - bisect_left(numbers, first) == last - first:
                self._finding.wrong(place, sentence)
        shard = self.last
        if shard is not None and shard.digest not in (None, digest):
            self._wrong(_OTHER_DIGEST)
        if shard is None or shard.nontransactional:
            return
        for name, offset in (("suspect", shard.suspect), ("guarded", shard.guarded)):
            if offset >= 0 and offset not in stashed and not shard.next <= offset < end:
                self._finding.wrong(
                    self._place, f"names the command {offset} in {name}, which is neither stashed nor to come"
                )
        if shard.ahead and shard.ahead[-1] >= end:
            self._wrong(f"has handled command {shard.ahead[-1]}, but the commands end at {end}")

    def _wrong(self, sentence: str) -> None:
        self._finding.wrong(self._place, sentence)


def _contradictions(shard: ShardRecord, hosted: HostedEntity) -> Iterator[str]:
    """Yield what no shard record says, whatever came before it."""
    if shard.tail_start > shard.seq:
        yield f"has tail_start {shard.tail_start} behind its seq {shard.seq}"
    if not hosted.behaviour.journaled and (shard.tail_start, shard.tail_offset) != (shard.seq, 0):
        yield f"has a tail from seq {shard.tail_start} at {shard.tail_offset} on, but the entity has no journal"
    if (shard.suspect < 0) != (shard.deaths == 0):
        yield f"counts {shard.deaths} deaths of the suspect {shard.suspect}"
    if shard.closed and (not shard.owner or shard.guarded >= 0):
        yield f"is closed by the owner {shard.owner!r:.100}, with the announced command {shard.guarded}"
    if shard.guarded_below and shard.guarded_below <= shard.next:
        yield f"guards commands below {shard.guarded_below}, but {shard.next} is next"
    if shard.guarded >= max(shard.next, shard.guarded_below):
        yield f"announces the command {shard.guarded}, but guards those below {shard.guarded_below} only"
    if shard.nontransactional and not shard.epoch:
        yield "is nontransactional without an epoch"
    if shard.seen > (shard.next if shard.epoch else 0):
        yield f"has seen the commands below {shard.seen}, with next {shard.next} and epoch {shard.epoch}"
    if shard.ahead != tuple(sorted({*shard.ahead})) or any(each < shard.next for each in shard.ahead):
        yield f"has handled {shard.ahead!r:.100} before their turn, with next {shard.next}"
    if strange := shard.topic_ids.keys() - hosted.codec.topics.keys():
        yield f"has the id of a topic {min(strange)!r}, which the entity does not have"
    if shard.topic_ids and (missing := hosted.codec.topics.keys() - shard.topic_ids.keys()):
        yield f"has no id of the topic {min(missing)!r}"


def _changes(before: ShardRecord, after: ShardRecord, blamed: int) -> Iterator[str]:
    """Yield the changes that no owner makes between two consecutive records."""
    is_next = after.changelog == before.changelog + 1 + blamed
    stands_still = is_next and (after.next, after.seq) == (before.next, before.seq)
    is_alone = stands_still or (is_next and before.nontransactional)  # Turns of the journal may lie in between.
    takes_over = is_alone and not after.closed and after.guarded < 0
    if not takes_over:
        yield from _not_of_a_turn(before, after)
    if after.closed and not is_alone:
        yield "closes the shard together with a turn"
    if before.closed and after.owner and not takes_over:
        yield f"is of the owner {after.owner!r:.100}, who has not taken the closed shard over"
    if before.suspect >= 0 and stands_still and (after.suspect < 0 or after.deaths < before.deaths == after.deaths):
        yield f"forgets the suspect {before.suspect} without a turn"
    if lost := [each for each in before.ahead if not after.has_handled(each)]:
        yield f"forgets that command {lost[0]} was handled before its turn"
    if after.epoch not in (before.epoch, before.epoch + takes_over):
        yield f"changes the epoch from {before.epoch} to {after.epoch}"
    if after.epoch == before.epoch and after.nontransactional != before.nontransactional:
        yield "changes its mode within an epoch"


def _not_of_a_turn(before: ShardRecord, after: ShardRecord) -> Iterator[str]:
    """Yield the changes that only a takeover makes."""
    deaths = (after.suspect, after.deaths)
    if deaths not in ((before.suspect, before.deaths), (-1, 0)):
        yield f"counts {after.deaths} deaths of the suspect {after.suspect}, but is no takeover"
    if after.owner not in (before.owner, ""):
        yield f"changes the owner from {before.owner!r:.100} to {after.owner!r:.100}, but is no takeover"
    if after.guarded_below not in (before.guarded_below, 0) and after.owner == before.owner:
        yield f"guards commands below {after.guarded_below}, before it {before.guarded_below}"
    if after.owner == before.owner and not after.guarded_below and before.guarded_below > after.next:
        yield f"guards no commands, but those below {before.guarded_below} were guarded"
    changed = [role for role, found in before.topic_ids.items() if after.topic_ids.get(role, found) != found]
    if changed:
        yield f"changes the id of the topic {changed[0]!r}, but is no takeover"

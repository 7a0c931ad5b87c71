"""``AnswerTable``: what a shard has answered to asks with an id, so that it decides each of them once.

The first decision about an id is its answer, whatever it was: an event, ``Done``, a rejection, ``Undelivered``. Until
it is made the id is *open*, and repetitions wait for the same answer: its command is stashed, or the id is *kept*,
since the handler has kept the sender. What is kept at the end of the key's life is decided there: nobody is left who
would answer. Answers are records of the changelog. Ids that a client makes by itself have a table of their own: nobody
repeats them later, and they must not push out those of callers.

It refuses rather than forgets. Answers are kept for a time, and so many of them; beyond that the one with the lowest
own time goes first, and the *horizon* is the highest own time that ever went. An id from before the horizon that is in
no table may have been decided, and is answered ``TooOld``.

Pure: the log's time of a command, and the owner's time of a turn, come from outside.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import msgspec

from repertory.actors.asks import AUTO, ID_BYTES_MAX
from repertory.actors.message import (
    ClockAhead,
    Envelope,
    IdConflict,
    Message,
    Sender,
    TooOld,
)
from repertory.actors.shard.changelog import (
    ANSWER_KEY,
    AUTO_KEY,
    AnswerRecord,
    ChangelogEntry,
    answer_entry,
)
from repertory.actors.shard.config import Limits
from repertory.actors.shard.identity import digest_in, is_same, key_in, name_in
from repertory.actors.shard.mailbox import Delivery

#: How many may wait for the answer to one id.
WAITING_MAX = 1_000
#: A turn evicts so many answers more than it adds: what is due is gone soon, and no turn becomes large by it.
EVICTED_PER_TURN = 100
#: A UUID of version 7, which begins with its time (RFC 9562).
_UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_OWN = re.compile(r"([0-9]{1,15})/([^\0]{1,255})", re.DOTALL)

_FORGOTTEN = "answers from so long ago are forgotten: the command may have been applied"


class ParsedId(NamedTuple):
    """The id of an ask, from its header: its own time (epoch), and whether the client made it by itself."""

    id: str
    made_ms: int
    is_auto: bool

    @classmethod
    def parse(cls, header: str) -> ParsedId:
        """Return the id in a header; ValueError if there is none."""
        if header.startswith(AUTO):
            name = header.removeprefix(AUTO)
            if (found := _UUID7.fullmatch(name)) is None:
                raise ValueError(f"{header!r:.300} is not a UUID of version 7")
            return cls(name, int(found[1] + found[2], 16), is_auto=True)
        if (found := _OWN.fullmatch(header)) is None or len(found[2].encode()) > ID_BYTES_MAX:
            raise ValueError(f"{header!r:.300} is not the id of an ask: made_at_ms/id")
        return cls(found[2], int(found[1]), is_auto=False)


class StoredAnswer(NamedTuple):
    """An ask whose id was decided: its answer, and the seq that it named."""

    answer: bytes
    seq: int


class Joined(NamedTuple):
    """An ask whose id is open: its asker waits for the answer to it; None if it waits already."""

    entry: ChangelogEntry | None


class AnswerTable:
    """Owned by the recovery, then by the shard."""

    def __init__(self, limits: Limits, own_horizon_ms: int = 0, auto_horizon_ms: int = 0) -> None:
        self._ahead_ms = round(limits.ids_ahead_max_s * 1_000)
        self._tables = {
            False: _Table(
                ANSWER_KEY, own_horizon_ms, round(limits.answers_kept_s * 1_000), limits.answers_per_shard_max
            ),
            True: _Table(
                AUTO_KEY, auto_horizon_ms, round(limits.ask_timeout_max_s * 1_000), limits.answers_per_shard_max
            ),
        }

    @property
    def own_horizon_ms(self) -> int:
        """The horizon of the ids that callers gave."""
        return self._tables[False].horizon_ms

    @property
    def auto_horizon_ms(self) -> int:
        """The horizon of the ids that clients made."""
        return self._tables[True].horizon_ms

    @property
    def evicted(self) -> int:
        """How many answers of callers' ids went before their time, since there were too many."""
        return self._tables[False].evicted

    def __len__(self) -> int:
        return sum(len(table.records) for table in self._tables.values())

    def load(self, records: Mapping[str, AnswerRecord], stashed: Collection[Sender]) -> None:
        """Load the records of the changelog, by their keys there. ``stashed``: who asked what is in the stash."""
        for key, record in records.items():
            table = self._tables[key.startswith(AUTO_KEY)]
            table.put(key, record)
            if record.answer is None and record.sender not in stashed:
                table.keep(key)

    # --- one command ------------------------------------------------------------------------------------------

    def ask(self, delivery: Delivery, sender: Sender) -> StoredAnswer | Joined | Message | None:
        """Return what becomes of an asked command with an id: its answer, a refusal, or None if it is to be decided.

        Called when the command is taken; its own time is compared with the log's (``delivery.timestamp_ms``).
        """
        if (entity_key := key_in(delivery)) is None:
            return None
        ask = ParsedId.parse(sender.ask)
        table = self._tables[ask.is_auto]
        key = table.key(entity_key, ask)
        known = table.records.get(key)
        if known is None:
            if ask.made_ms > delivery.timestamp_ms + self._ahead_ms:
                ahead_s = (ask.made_ms - delivery.timestamp_ms) / 1_000
                reason = f"the id was made {ahead_s:.0f} s in the future, by the time of the log"
                return ClockAhead(reason=reason, log_ms=delivery.timestamp_ms)
            if ask.made_ms <= table.horizon_ms:
                return TooOld(reason=_FORGOTTEN, log_ms=max(delivery.timestamp_ms, table.horizon_ms + 1))
            return None
        if not is_same(known, delivery):
            kind = f", of type {known.name}" if known.name else ""
            return IdConflict(reason=f"the id belongs to another command{kind}")
        if known.answer is not None:
            return StoredAnswer(known.answer, known.seq)
        if sender in (known.sender, *known.waiting) or len(known.waiting) >= WAITING_MAX:
            return Joined(None)
        return Joined(table.write(key, msgspec.structs.replace(known, waiting=(*known.waiting, sender))))

    def find(self, key: str, ask_id: str, made_ms: int) -> AnswerRecord | TooOld | None:
        """Return what is known of a caller's id, None if nothing was applied under it. It changes nothing."""
        table = self._tables[False]
        known = table.records.get(table.key(key, ParsedId(ask_id, made_ms, is_auto=False)))
        return TooOld(reason=_FORGOTTEN) if known is None and made_ms <= table.horizon_ms else known

    def open(self, envelope: Envelope, sender: Sender) -> ChangelogEntry | None:
        """Note that a command with an id is undecided; None if that is known."""
        ask = ParsedId.parse(sender.ask)
        table = self._tables[ask.is_auto]
        key = table.key(envelope.key, ask)
        if key in table.records:
            return None
        return table.write(key, _asked(envelope, ask, sender))

    def keep(self, envelope: Envelope, sender: Sender) -> ChangelogEntry | None:
        """Note that the handler of a command with an id has kept its sender; None if nothing is to be written."""
        entry = self.open(envelope, sender)
        ask = ParsedId.parse(sender.ask)
        table = self._tables[ask.is_auto]
        table.keep(table.key(envelope.key, ask))
        return entry

    def kept_of(self, key: str) -> list[Sender]:
        """Return who asked first for each id of a key that is kept, in the order of the ids' own times."""
        found = [(table.records[place], place) for table in self._tables.values() for place in table.kept.get(key, ())]
        return [record.sender for record, _ in sorted(found, key=lambda each: (each[0].made_ms, each[1]))]

    def decide(
        self, key: str, sender: Sender, answer: bytes, seq: int, now_ms: int, delivery: Delivery | None
    ) -> tuple[tuple[Sender, ...], ChangelogEntry] | None:
        """Note the answer to an id; return who waits for it as well. None if it has an answer, or nobody knows it.

        ``delivery``: the asked command itself, None where the answer comes later, to a sender that was kept.
        """
        ask = ParsedId.parse(sender.ask)
        table = self._tables[ask.is_auto]
        place = table.key(key, ask)
        known = table.records.get(place)
        if known is None:
            if delivery is None:
                return None
            known = _asked(delivery, ask, sender)
        if known.answer is not None:
            return None
        waiting = tuple(each for each in (known.sender, *known.waiting) if each != sender)
        decided = msgspec.structs.replace(known, answer=answer, seq=seq, answered_ms=now_ms, waiting=())
        return waiting, table.write(place, decided)

    # --- the end of a turn ------------------------------------------------------------------------------------

    def evict(self, now_ms: int, added: int) -> Iterator[ChangelogEntry]:
        """Forget what is due, and what is too much; ``added``: answers of this turn."""
        for table in self._tables.values():
            yield from table.evict(now_ms, added + EVICTED_PER_TURN)


def _asked(delivery: Delivery, ask: ParsedId, sender: Sender) -> AnswerRecord:
    return AnswerRecord(digest_in(delivery), name_in(delivery), ask.made_ms, sender)


class _Table:
    """The answers to one kind of ids, by their keys in the changelog."""

    def __init__(self, prefix: str, horizon_ms: int, kept_ms: int, answers_max: int) -> None:
        self.horizon_ms, self.evicted = horizon_ms, 0
        self.records: dict[str, AnswerRecord] = {}
        #: What is kept, by the entity's key.
        self.kept: dict[str, set[str]] = {}
        self._prefix, self._kept_ms, self._answers_max = prefix, kept_ms, answers_max
        #: Answered ids by their own time; what is open is not among them.
        self._by_time: list[tuple[int, str]] = []

    def key(self, entity_key: str, ask: ParsedId) -> str:
        return f"{self._prefix}{entity_key}\0{ask.id}"

    def put(self, key: str, record: AnswerRecord) -> None:
        self.records[key] = record
        if record.answer is not None:
            heapq.heappush(self._by_time, (record.made_ms, key))
            if self.kept:
                self._let_go(key)

    def keep(self, key: str) -> None:
        self.kept.setdefault(self._entity_key(key), set()).add(key)

    def _let_go(self, key: str) -> None:
        entity_key = self._entity_key(key)
        if key in (kept := self.kept.get(entity_key, set())):
            kept.remove(key)
            if not kept:
                del self.kept[entity_key]

    def _entity_key(self, key: str) -> str:
        return key[len(self._prefix) :].partition("\0")[0]

    def write(self, key: str, record: AnswerRecord) -> ChangelogEntry:
        self.put(key, record)
        return answer_entry(key, record)

    def evict(self, now_ms: int, evicted_max: int) -> Iterator[ChangelogEntry]:
        heap = self._by_time
        for _ in range(evicted_max):
            if not heap:
                return
            made_ms, key = heap[0]
            # An id that was made ahead of time would take the horizon there, and shut out whoever asks until then.
            is_due = max(self.records[key].answered_ms, made_ms) + self._kept_ms <= now_ms
            if not is_due and len(heap) <= self._answers_max:
                return
            heapq.heappop(heap)
            del self.records[key]
            self.evicted += not is_due
            self.horizon_ms = max(self.horizon_ms, made_ms)
            yield answer_entry(key, None)

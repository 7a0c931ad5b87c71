"""The changelog of a shard: the records of its state topic, beside the journal.

They hold what the shard owes: the states of its entities, its progress, and the commands that wait. They are written in
the transaction of their turn, and a restore begins with them. The topic is compacted: the last record of a key counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from repertory.actors.headers import Headers
from repertory.actors.message import RetryRequest, Sender

#: Index of the first changelog record of a shard. It only increases, so it never equals the index of a command's
#: output, even if a command is retried in a later transaction.
CHANGELOG_INDEX = 1 << 32

#: Index of the answer to the operator who retried a command; no command has so many outputs. The offset of its cause is
#: that of the request, so a command that is retried twice answers with two causes.
RETRY_INDEX = CHANGELOG_INDEX - 1

#: Index of the first answer that is given again: to a repeated ask, or to others who wait for the answer to one id.
AGAIN_INDEX = 1 << 31


#: A count or an offset, where `Offset` also allows -1 for none. Numbers are checked as they are read: a number that no
#: shard can have written must stop the restore, and not overflow in a later turn.
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Offset = Annotated[int, msgspec.Meta(ge=-1, le=1 << 62)]


#: The largest digest of a changelog: msgspec checks no larger bound.
DIGEST_MAX = (1 << 63) - 1


class ShardId(msgspec.Struct, frozen=True, order=True):
    """One partition of one entity's commands."""

    entity: str
    partition: int

    def __str__(self) -> str:
        return f"{self.entity}/{self.partition}"


class Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator has accepted about a shard, because nothing else lets it go on: who, when and why.

    ``what`` is one of `ACCEPTED`. ``first`` and ``last``: the commands that retention took before they were handled;
    -1 where topics were created again.
    """

    what: str
    reason: str
    who: str = ""
    at_ms: Count = 0
    first: Offset = -1
    last: Offset = -1


#: What can be accepted: topics that were created again, and commands that are lost.
RECREATED, LOST = ACCEPTED = ("recreated-topics", "lost-commands")


class ShardRecord(
    msgspec.Struct, frozen=True, tag_field="type", tag="Shard", forbid_unknown_fields=True, omit_defaults=True
):
    """The progress of a shard, written in each of its transactions. It is authoritative; the group's offset mirrors it.

    ``next``: first command that is not consumed. ``seq``: of the next journal or state record. ``tail_start``: all
    journal records below this seq are in snapshots. ``tail_offset``: at or below the journal offset of the record with
    that seq. ``changelog``: number of changelog records written so far.

    ``suspect``: offset of the command during which ``deaths`` processes in a row died; -1 if there is none.

    ``owner``: the run of a node that wrote the record, and that knows which commands its processes were handling;
    ``closed``: that owner has left, and no command is under way. ``guarded``: offset of the announced command, which is
    handled next and alone (-1: none); ``guarded_below``: all commands below this offset are handled alone. See
    ``actors.shard.crash_guard``.

    ``epoch`` numbers the owners from the first that worked at least once, 0 before; ``nontransactional``: turns of this
    owner can follow in the journal behind this record (``bridge.nontransactional``). The messages of other shards below
    the command ``seen`` are in the seen records.

    ``topic_ids``: the log's id of each topic of the shard, by its role (``commands``, ``events``, ``state``). A topic
    that was deleted and created again has the same name and other records, and another id.

    ``accepted``: what operators have accepted, oldest first; ``verify`` and ``status`` show it.

    ``digest``: the sum over all other live records of the changelog (``actors.shard.changelog_digest``), by which a
    restore proves that it has read all of them; None in a record of a version that wrote none.

    ``answers_horizon_ms``: the highest own time of an id of a caller whose answer was forgotten; ``auto_horizon_ms``:
    the same of ids that clients made (``actors.shard.answers``). ``ahead``: the commands from ``next`` on that were
    handled before their turn, sorted (``actors.shard.ahead``).
    """

    next: Count
    seq: Count
    tail_start: Count
    tail_offset: Count
    changelog: Count
    suspect: Offset = -1
    deaths: Count = 0
    owner: str = ""
    closed: bool = False
    guarded: Offset = -1
    guarded_below: Count = 0
    epoch: Count = 0
    nontransactional: bool = False
    seen: Count = 0
    topic_ids: dict[str, str] = {}
    accepted: tuple[Accepted, ...] = ()
    digest: Annotated[int, msgspec.Meta(ge=0, le=DIGEST_MAX)] | None = None
    answers_horizon_ms: Count = 0
    auto_horizon_ms: Count = 0
    ahead: tuple[Count, ...] = ()

    def has_handled(self, offset: int) -> bool:
        """Return whether a command was handled."""
        return offset < self.next or offset in self.ahead


def first_shard_record(next_offset: int = 0) -> ShardRecord:
    """Return the record of a shard that has committed nothing; ``next_offset``: its first command."""
    return ShardRecord(next=next_offset, seq=0, tail_start=0, tail_offset=0, changelog=0, digest=0)


class StateRecord(msgspec.Struct, frozen=True, tag_field="type", tag="State", forbid_unknown_fields=True):
    """The latest record of one entity: a snapshot, the end of its life, or neither; and its stashed commands.

    ``snapshot`` is the encoded state, as bytes within bytes: msgspec cannot decode an optional ``Raw``.
    ``restarts_ms`` (epoch) are the restarts of the key that were still within the window of its restart budget.
    """

    snapshot: bytes | None = None
    ended: bool = False
    stashed: Count = 0
    stashed_first: Offset = -1
    restarts_ms: tuple[Count, ...] = ()


class StashedRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Stashed", forbid_unknown_fields=True):
    """A command that is kept until it can be applied. The key of the record ends with its offset, which orders them.

    ``attempt`` is the next one (1 + restarts so far); ``due_ms`` (epoch) is when it can run, 0 for a command behind the
    first of its key; ``delay_ms``: how long after its failure that was, which bounds the wait if the clock is set back.
    ``parked``: only an operator retries it. ``error``, ``reason`` and ``traceback`` are those of its last failure;
    ``retry`` is the last retry of an operator.
    """

    key: str
    value: bytes
    headers: Headers
    timestamp_ms: int
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)] = 1
    due_ms: Count = 0
    delay_ms: Count = 0
    parked: bool = False
    error: str = ""
    reason: str = ""
    traceback: str = ""
    retry: RetryRequest | None = None


class SeenRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Seen", forbid_unknown_fields=True):
    """The messages of one source partition that a shard remembers; see ``actors.shard.seen_causes``.

    ``epoch`` is the highest epoch of the source's owners; ``causes`` are the offset and index of each message, oldest
    first, with offsets relative to ``base``.
    """

    epoch: Count
    base: Count
    causes: tuple[Count, ...]


class AnswerRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Answer", forbid_unknown_fields=True):
    """The answer to an ask with an id, or that there is none yet; see ``actors.shard.answers``.

    ``digest`` and ``name``: of the command that the id belongs to. ``made_ms``: the id's own time. ``sender`` asked
    first; ``waiting`` are others who get the answer too, as long as there is none. ``seq`` is the one that the answer
    named, -1 for none; ``answered_ms``: when it was given, by the owner's clock.
    """

    digest: bytes
    name: str
    made_ms: Count
    sender: Sender
    waiting: tuple[Sender, ...] = ()
    answer: bytes | None = None
    seq: Offset = -1
    answered_ms: Count = 0


class TimerRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Timer", forbid_unknown_fields=True, gc=False):
    """A timer of one entity; the key of the record holds that of the entity, and its name. See ``actors.shard.timers``.

    ``value`` is its command, ``due_ms`` (epoch) when it is due, ``every_ms`` the period of a recurring one (0: once).
    ``offset`` and ``index`` are those of its cause: the command that scheduled it, and the position among what that
    command scheduled. ``fired``: its command is in the log, and has no final fate yet. ``last_ms``: when a recurring
    one fired last, by its owner's clock.
    """

    value: bytes
    due_ms: Count
    offset: Count
    index: Count
    every_ms: Count = 0
    fired: bool = False
    last_ms: Count = 0

    @property
    def when_ms(self) -> int:
        """When it fires (epoch): a recurring one a period after it fired last, at least.

        Else one whose owner's clock is ahead of the log's would be due again and again.
        """
        return max(self.due_ms, self.last_ms + self.every_ms) if self.every_ms else self.due_ms


class TellRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Tell", forbid_unknown_fields=True, gc=False):
    """A delayed message to the entity ``key`` of the kind ``entity``; the other fields are those of a timer."""

    entity: str
    key: str
    value: bytes
    due_ms: Count
    offset: Count
    index: Count

    @property
    def fired(self) -> bool:
        """False: a message that is sent has no record."""
        return False

    @property
    def when_ms(self) -> int:
        """When it is sent (epoch)."""
        return self.due_ms


#: The error of an effect that its owner's build cannot run; no exception has such a name.
NOT_IN_BUILD = "NotInThisBuild"


class EffectRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Effect", forbid_unknown_fields=True, gc=False):
    """An effect that is not settled: what the entity ``key`` has asked the world. See ``actors.shard.effects``.

    ``request`` is for the effect of the name ``effect``, ``about`` is repeated to the ``@reply`` method; ``offset`` and
    ``index`` are those of its cause. ``attempt`` is the next one, from 1, and ``due_ms`` (epoch) when it may begin.
    ``parked``: only an operator lets it go on. ``error``, ``reason`` and ``traceback`` are those of its last failure.
    ``alone``: processes have died while it and others ran, so it is tried with no other; ``deaths``: how many in a row
    while it was the only one. One whose owner's build cannot run it has the ``error`` `NOT_IN_BUILD`, until one can.
    """

    effect: str
    key: str
    request: bytes
    offset: Count
    index: Count
    about: str = ""
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)] = 1
    due_ms: Count = 0
    parked: bool = False
    error: str = ""
    reason: str = ""
    traceback: str = ""
    deaths: Count = 0
    alone: bool = False

    @property
    def not_in_build(self) -> bool:
        """Whether it waits for an owner whose build can run it."""
        return self.error == NOT_IN_BUILD and not self.parked


class ChangelogEntry(msgspec.Struct, frozen=True, gc=False):
    """One record that a turn writes: its key, and its encoded value; None deletes the record.

    ``version`` and ``seq`` are those of an entity's state, -1 for any other record. ``offset``: the command that made
    it; -1 if none did.
    """

    key: str
    value: bytes | None
    version: int = -1
    seq: int = -1
    offset: int = -1


#: Keys of the records that are no state begin with NUL, which no entity key contains.
SHARD_KEY, STASH_KEY, SEEN_KEY = b"\0shard", b"\0stash/", b"\0seen/"
_STASH, _SEEN = STASH_KEY.decode(), SEEN_KEY.decode()
#: Of the answers to ids that callers gave, and to those that clients made; the entity's key, NUL and the id follow.
ANSWER_KEY, AUTO_KEY = "\0answer/", "\0auto/"

#: Of a timer, its entity's key, NUL and its name follow; of a delayed message, its cause.
TIMER_KEY, TELL_KEY = "\0timer/", "\0tell/"
#: Of an effect, its cause.
EFFECT_KEY = "\0effect/"

ChangelogRecord = (
    ShardRecord | StateRecord | StashedRecord | SeenRecord | AnswerRecord | TimerRecord | TellRecord | EffectRecord
)

encode_changelog_record: Callable[[ChangelogRecord], bytes] = msgspec.msgpack.Encoder().encode


def state_entry(key: str, record: StateRecord | None, version: int, seq: int, offset: int = -1) -> ChangelogEntry:
    """Return the entry of an entity's state; ``offset``: the command that changed it, -1 if none did."""
    return ChangelogEntry(key, None if record is None else encode_changelog_record(record), version, seq, offset)


def stash_entry(offset: int, record: StashedRecord | None) -> ChangelogEntry:
    """Return the entry of the stashed command at ``offset``; None once it is applied, rejected or dead-lettered."""
    value = None if record is None else encode_changelog_record(record)
    return ChangelogEntry(f"{_STASH}{offset}", value, offset=offset)


def seen_entry(source: str, record: SeenRecord) -> ChangelogEntry:
    """Return the entry of what a shard has seen of a source partition, named ``topic/partition``."""
    return ChangelogEntry(_SEEN + source, encode_changelog_record(record))


def answer_entry(key: str, record: AnswerRecord | None) -> ChangelogEntry:
    """Return the entry of the answer to an id, by its whole key; None once it is forgotten."""
    return ChangelogEntry(key, None if record is None else encode_changelog_record(record))


def timer_key(key: str, name: str) -> str:
    """Return the key of the record of an entity's timer."""
    return f"{TIMER_KEY}{key}\0{name}"


def timer_of(place: str) -> tuple[str, str]:
    """Return the key of the entity and the name of the timer, of which ``place`` is the key of the record."""
    key, _, name = place.removeprefix(TIMER_KEY).partition("\0")
    return key, name


def tell_key(offset: int, index: int) -> str:
    """Return the key of the record of a delayed message, by its cause."""
    return f"{TELL_KEY}{offset}/{index}"


def owed_entry(place: str, record: TimerRecord | TellRecord | None) -> ChangelogEntry:
    """Return the entry of a timer or a delayed message, by its whole key; None once nothing is owed."""
    return ChangelogEntry(place, None if record is None else encode_changelog_record(record))


def effect_key(offset: int, index: int) -> str:
    """Return the key of the record of an effect, by its cause."""
    return f"{EFFECT_KEY}{offset}/{index}"


def effect_entry(place: str, record: EffectRecord | None) -> ChangelogEntry:
    """Return the entry of an effect, by its whole key; None once it is settled."""
    return ChangelogEntry(place, None if record is None else encode_changelog_record(record))

"""What a shard wants to be true after a turn: values that the codec writes as one transaction.

Every output says which command made it: ``offset`` in the shard's commands partition, and ``index``, its place
among that command's outputs. Together they are the ``cause`` header, unique over all that a system writes.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from repertory.actors.message import Headers, Sender

#: Index of the first record that a shard writes for its own books. Counted on for ever, it never meets the index
#: of a command's output, also when a command is tried again in a later transaction.
CHANGELOG_INDEX = 1 << 32


#: What counts, or names a place, and what may also be -1 for none. Checked as it is read: a number that no shard can
#: have written must stop a restore, not overflow in a turn after it.
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Offset = Annotated[int, msgspec.Meta(ge=-1, le=1 << 62)]


class ShardId(msgspec.Struct, frozen=True, order=True):
    """One partition of one entity's commands."""

    entity: str
    partition: int

    def __str__(self) -> str:
        return f"{self.entity}/{self.partition}"


class ShardRecord(
    msgspec.Struct, frozen=True, tag_field="type", tag="Shard", forbid_unknown_fields=True, omit_defaults=True
):
    """Where a shard stands; written in each of its transactions. It is the truth, the group's offset mirrors it.

    ``next``: first command not consumed. ``seq``: of the next journal or state record. ``tail_start``: each
    journal record below this seq is in a snapshot. ``tail_offset``: at or below the journal offset of the
    record with that seq. ``books``: records written for the shard's own books so far.

    ``suspect``: offset of the command within which ``deaths`` processes in a row have died; -1 if there is none.

    ``owner``: the run of a node that wrote it, which knows what its processes were handling; ``closed``: nothing is
    under way, it has left. ``marked``: offset of the command that is handled next, alone (-1: none); ``alone_below``:
    so are all below this offset. See ``actors.shard.crash_guard``.
    ``epoch`` numbers the owners from the first that worked at least once, 0 before; ``plain``: this owner's turns may
    stand in the journal behind this record (``bridge.nontransactional``). The messages that other shards sent below the
    command ``seen`` are in the seen records.
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


class StateRecord(msgspec.Struct, frozen=True, tag_field="type", tag="State", forbid_unknown_fields=True):
    """The latest word on one entity: a snapshot, the end of its life, or neither; and what waits behind it.

    ``snapshot`` is the encoded state, as bytes within bytes: msgspec cannot decode an optional ``Raw``.
    ``restarts_ms`` (epoch) is what the key has spent of its restart budget, as far as that was not past its window.
    """

    snapshot: bytes | None = None
    ended: bool = False
    stashed: Count = 0
    stashed_first: Offset = -1
    restarts_ms: tuple[Count, ...] = ()


class StashedRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Stashed", forbid_unknown_fields=True):
    """A command that is kept until it can be applied, in the order of the offsets that key these records.

    ``attempt`` is the next one (1 + restarts so far); ``due_ms`` (epoch) is when it may run, 0 for a command
    behind the first of its key. ``parked``: only an operator retries it.
    """

    key: str
    value: bytes
    headers: Headers
    timestamp_ms: int
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)] = 1
    due_ms: Count = 0
    parked: bool = False
    error: str = ""
    reason: str = ""


class SeenRecord(msgspec.Struct, frozen=True, tag_field="type", tag="Seen", forbid_unknown_fields=True):
    """What one source partition has sent to a shard, as far as the shard remembers; see ``actors.shard.seen_causes``.

    ``epoch`` is the highest of the source's owners; ``causes`` are offset and index of each message, the oldest first,
    offsets counted from ``base``.
    """

    epoch: Count
    base: Count
    causes: tuple[Count, ...]


class Journaled(msgspec.Struct, frozen=True, gc=False):
    """An event of one entity: its ``version``-th, the shard's ``seq``-th."""

    key: str
    data: bytes
    version: int
    seq: int
    offset: int
    index: int


class StateWritten(msgspec.Struct, frozen=True, gc=False):
    """The state record of one entity; None is a tombstone."""

    key: str
    record: StateRecord | None
    version: int
    seq: int


class Told(msgspec.Struct, frozen=True, gc=False):
    """A message to another entity. ``reply_key``: whom its answer goes to, an entity of this shard."""

    entity: str
    key: str
    data: bytes
    offset: int
    index: int
    reply_key: str | None = None
    about: str = ""


class Published(msgspec.Struct, frozen=True, gc=False):
    """A record for a topic outside the system's own."""

    topic: str
    key: str | None
    data: bytes
    offset: int
    index: int


class Replied(msgspec.Struct, frozen=True, gc=False):
    """An answer to whoever asked."""

    to: Sender
    data: bytes
    offset: int
    index: int


class DeadLettered(msgspec.Struct, frozen=True, gc=False):
    """A command that is not applied and, unless an operator retries it, never will be; its bytes are kept."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    error: str
    reason: str
    attempts: int
    offset: int
    index: int


class StashedWritten(msgspec.Struct, frozen=True, gc=False):
    """The waiting record of the command at ``offset``; None once it is applied, rejected or dead-lettered."""

    offset: int
    record: StashedRecord | None


class SeenWritten(msgspec.Struct, frozen=True, gc=False):
    """The seen record of one source partition, named ``topic/partition``."""

    source: str
    record: SeenRecord


TurnOutput = Journaled | Told | Published | Replied | DeadLettered
ChangelogEntry = StateWritten | StashedWritten | SeenWritten


class Incident(msgspec.Struct, frozen=True):
    """Something that an operator should see: one log line, what and where and what happens next.

    ``outcome`` is what happens next in a word, for counters: restarted, parked, dead-lettered, no-room, escalated,
    died, quarantined.
    """

    where: str
    error: str
    reason: str
    next: str
    outcome: str
    traceback: str = ""


class Counts(msgspec.Struct):
    """What a turn did with commands, by outcome. Mutable while the turn runs."""

    applied: int = 0
    rejected: int = 0
    dead_lettered: int = 0
    restarted: int = 0
    parked: int = 0
    journaled: int = 0
    repeated: int = 0

    def add(self, other: Counts) -> None:
        """Add another turn's counts."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class TurnResult(msgspec.Struct, frozen=True):
    """One turn of a shard: what its commands made, and then its own ``books`` (state and waiting records).

    ``anchor`` is the offset of the last command handled: the cause of the books. ``first_seq`` is the seq of the
    first journal or state record among them. A ``plain`` turn has no books: it can do without a transaction.
    """

    shard: ShardId
    outputs: list[TurnOutput]
    changelog: list[ChangelogEntry]
    record: ShardRecord
    anchor: int
    first_seq: int
    counts: Counts
    incidents: list[Incident]
    nontransactional: bool = False

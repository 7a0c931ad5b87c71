"""The changelog of a shard: the records of its state and stash topics, beside the journal.

They are written in the transaction of the turn that made them, and are what a restore begins with. Numbers are checked
as they are read: one that no shard can have written must stop a restore, not overflow in a turn after it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from repertory.actors.headers import Headers

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


def first_shard_record(next_offset: int = 0) -> ShardRecord:
    """Return the record of a shard that has committed nothing; ``next_offset``: its first command."""
    return ShardRecord(next=next_offset, seq=0, tail_start=0, tail_offset=0, changelog=0)


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


class StateWritten(msgspec.Struct, frozen=True, gc=False):
    """The state record of one entity; None is a tombstone."""

    key: str
    record: StateRecord | None
    version: int
    seq: int


class StashedWritten(msgspec.Struct, frozen=True, gc=False):
    """The waiting record of the command at ``offset``; None once it is applied, rejected or dead-lettered."""

    offset: int
    record: StashedRecord | None


class SeenWritten(msgspec.Struct, frozen=True, gc=False):
    """The seen record of one source partition, named ``topic/partition``."""

    source: str
    record: SeenRecord


ChangelogEntry = StateWritten | StashedWritten | SeenWritten

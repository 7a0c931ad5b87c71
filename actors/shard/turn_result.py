"""``TurnResult``: the result of a turn, as values that the codec writes in one transaction.

Every output names the command that made it: its ``offset`` in the shard's commands partition, and ``index``, the
position among that command's outputs. Together they are the ``cause`` header, which is unique within a system.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from repertory.actors.headers import Headers
from repertory.actors.message import Sender
from repertory.actors.shard.changelog import ChangelogEntry, ShardId, ShardRecord
from repertory.actors.timer import FiredTimer


class Journaled(msgspec.Struct, frozen=True, gc=False):
    """An event of one entity: its ``version``-th, the shard's ``seq``-th."""

    key: str
    data: bytes
    version: int
    seq: int
    offset: int
    index: int


class Told(msgspec.Struct, frozen=True, gc=False):
    """A message to another entity. ``reply_key``: the entity of this shard that receives the answer."""

    entity: str
    key: str
    data: bytes
    offset: int
    index: int
    reply_key: str | None = None
    about: str = ""


class Published(msgspec.Struct, frozen=True, gc=False):
    """A record for a topic outside the system."""

    topic: str
    key: str | None
    data: bytes
    offset: int
    index: int


class Replied(msgspec.Struct, frozen=True, gc=False):
    """An answer to an asker. ``seq``: of the journal after its command; -1: that of the turn's shard record.

    ``again``: the answer was given before, to another command with the same id. ``rejected``: it says that nothing was
    applied.
    """

    to: Sender
    data: bytes
    offset: int
    index: int
    seq: int = -1
    again: bool = False
    rejected: bool = False


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
    traceback: str = ""


class Fired(msgspec.Struct, frozen=True, gc=False):
    """A command that a timer sends to its own entity ``key`` (``entity`` None), or a delayed message to another one.

    Or the result of an effect, ``effect`` being its name, to its own entity.

    ``offset`` and ``index``: the cause of what scheduled it. Its own cause is that of a changelog record.
    ``place``: the key of its record. ``refused``: why the log refuses it; it becomes a dead letter instead.
    """

    entity: str | None
    key: str
    data: bytes
    offset: int
    index: int
    place: str
    timer: FiredTimer | None = None
    refused: str = ""
    effect: str = ""
    about: str = ""
    rejected: bool = False


TurnOutput = Journaled | Told | Published | Replied | DeadLettered


class Incident(msgspec.Struct, frozen=True):
    """An event for the operator's log, one line: where, what happened, and what happens next.

    ``outcome`` is a short name of what happens next, for counters: restarted, parked, dead-lettered, no-room,
    escalated, died, quarantined, unclean-takeover, unanswered; of an effect that failed: retried, parked; of one that
    this build cannot run: waits; of a saga whose undo was rejected: stuck.
    ``is_repeated``: an earlier attempt of the command failed with the same traceback.
    """

    where: str
    error: str
    reason: str
    next: str
    outcome: str
    traceback: str = ""
    is_repeated: bool = False


class Counts(msgspec.Struct):
    """The number of commands of a turn by outcome, and of its journal records. Mutable while the turn runs."""

    applied: int = 0
    rejected: int = 0
    dead_lettered: int = 0
    restarted: int = 0
    parked: int = 0
    journaled: int = 0
    repeated: int = 0
    #: Queries, whatever their answer.
    answered: int = 0
    #: Commands of timers that were cancelled or replaced since they sent them, dropped.
    stale: int = 0
    #: Timers and delayed messages that were due, and sent their commands.
    fired: int = 0

    def add(self, other: Counts) -> None:
        """Add another turn's counts."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class TurnResult(msgspec.Struct, frozen=True):
    """One turn of a shard: the outputs of its commands, and its changelog entries (states, stashed commands, causes).

    ``anchor`` is the offset of the last command handled: the cause of the changelog entries. ``first_seq`` is the seq
    of the first journal record. A ``nontransactional`` turn has no changelog entries. ``handled`` is the number of its
    commands; ``refused`` are those that were judged because the log refuses their outputs. ``fired``: what was due.
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
    handled: int = 0
    refused: tuple[int | str, ...] = ()
    fired: Sequence[Fired] = ()

"""An assigned shard as a state machine: what the log may do with it next, as data, and the values that go with it.

Pure: time arrives as an argument, and the claim is only held, never called. ``log`` does what follows from a change
of phase. Before: the group assigns the shard (``group``). After: the group revokes it, and the log drops the object.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from repertory.bridge.log.record import Record, TopicPartition

#: If the last proof of membership (or the assignment) is older, the membership is proved again before a claim.
PROOF_TTL_S = 1.0
#: How many records of a paused shard are kept here before librdkafka is paused. A pause makes librdkafka discard what
#: it fetched ahead, so a shard whose mailbox is full now and then would fetch each record several times.
FETCHED_AHEAD_RECORDS_MAX = 8_000


class KafkaPhase(enum.Enum):
    """Where an assigned shard is."""

    ASSIGNED = "assigned"
    """Ours, and there is no claim: none was asked for yet, or the last one ended."""
    PROVING = "proving"
    """A claim was asked for. It starts once the group has confirmed the membership."""
    CLAIMING = "claiming"
    """The claim fences earlier owners."""
    CLAIMED = "claimed"
    """The claim holds; ``begin`` was not called yet."""
    REPLAYING = "replaying"
    """The claim reads a range for the owner."""
    COMMITTING_EARLY = "committing, not begun"
    """The claim commits or appends, and ``begin`` was not called yet."""
    FLOWING = "flowing"
    """Fetched records go to the owner."""
    COMMITTING = "committing"
    """As FLOWING, and the claim commits or appends."""
    FENCED = "fenced"
    """The claim was fenced. The shard is assigned again once the group has confirmed the membership."""


class KafkaChange(enum.Enum):
    """What can happen to an assigned shard: the columns of `PHASE_TABLE`."""

    AWAIT_PROOF = "claim asked for, proof is stale"
    START = "claim started"
    CLAIMED = "claimed"
    REPLAY = "replay asked for"
    REPLAYED = "replay complete"
    BEGIN = "begin"
    COMMIT = "commit or append asked for"
    COMMITTED = "committed"
    FENCE = "claim fenced"
    REASSIGN = "proved after a fence"
    ABORT = "claim aborted"
    DROP = "claim dropped by the owner, a revoke or the end"


_P = KafkaPhase
AWAITING_PROOF: Final = (_P.PROVING, _P.FENCED)
"""The group has to confirm the membership before anything happens."""
FLOWING: Final = (_P.FLOWING, _P.COMMITTING)
"""Fetched records go to the owner."""
BUSY: Final = (_P.CLAIMING, _P.REPLAYING, _P.COMMITTING_EARLY, _P.COMMITTING)
"""The claim works, and will report an outcome."""
WITH_CLAIM: Final = (*BUSY, _P.CLAIMED, _P.FLOWING)
"""There is a claim."""

PHASE_TABLE: Final[Mapping[KafkaChange, Mapping[KafkaPhase, KafkaPhase]]] = {
    KafkaChange.AWAIT_PROOF: {_P.ASSIGNED: _P.PROVING},
    KafkaChange.START: dict.fromkeys((_P.ASSIGNED, _P.PROVING), _P.CLAIMING),
    KafkaChange.CLAIMED: {_P.CLAIMING: _P.CLAIMED},
    KafkaChange.REPLAY: {_P.CLAIMED: _P.REPLAYING},
    KafkaChange.REPLAYED: {_P.REPLAYING: _P.CLAIMED},
    KafkaChange.BEGIN: {_P.CLAIMED: _P.FLOWING, _P.COMMITTING_EARLY: _P.COMMITTING},
    KafkaChange.COMMIT: {_P.CLAIMED: _P.COMMITTING_EARLY, _P.FLOWING: _P.COMMITTING},
    KafkaChange.COMMITTED: {_P.COMMITTING_EARLY: _P.CLAIMED, _P.COMMITTING: _P.FLOWING},
    KafkaChange.FENCE: dict.fromkeys(BUSY, _P.FENCED),
    KafkaChange.REASSIGN: {_P.FENCED: _P.ASSIGNED},
    # Also while the claim is idle: the lease is over, or the offset to fetch from is gone.
    KafkaChange.ABORT: dict.fromkeys(WITH_CLAIM, _P.ASSIGNED),
    KafkaChange.DROP: dict.fromkeys(_P, _P.ASSIGNED),
}
"""Every change of phase: change → phase → next phase. Where there is no entry, the change is a bug and raises."""


class GroupOffset:
    """The group's offset of a shard that has written without a transaction during its claim: at least once.

    A transaction carries the offset; here it has to follow by a commit of its own. ``next_offset`` is the first that
    is not consumed, as last committed; -1: nothing was committed yet.
    """

    __slots__ = ("is_behind", "next_offset")

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self.is_behind = False

    @property
    def is_due(self) -> bool:
        """Whether the group has to be given ``next_offset``."""
        return self.is_behind and self.next_offset >= 0


class _InFlight(NamedTuple):
    """What is under way: its next offset, when it was sent (None for an append), and whether it is a turn."""

    next_offset: int
    sent_s: float | None
    is_turn: bool


ClaimT = TypeVar("ClaimT")


class KafkaShard(Generic[ClaimT]):
    """One assigned shard. Owned by the log's thread. An illegal change is a bug of ours and raises AssertionError.

    ::

        ASSIGNED ──await proof──> PROVING           FENCED ──reassign──> ASSIGNED
            │                        │                ^
            └────────start───────────┤                └─fence── CLAIMING, REPLAYING, COMMITTING_EARLY, COMMITTING
                                     v
                                 CLAIMING
                                     │ claimed
                                     v
        REPLAYING <────replay──── CLAIMED ────commit────> COMMITTING_EARLY
            └─────────replayed──────>│<──────committed─────────┘ │
                                     │ begin                     │ begin
                                     v                           v
                                  FLOWING ────commit────> COMMITTING
                                     ^────────committed───────┘

        every phase with a claim ──abort──> ASSIGNED          every phase ──drop──> ASSIGNED

    Beside the phase there are facts that change independently of it: whether the owner wants records (``is_paused``),
    whether librdkafka fetches them (``is_fetching``, which the log keeps), and what the group's offset needs.
    """

    __slots__ = (
        "_asked_s",
        "_committed_offset",
        "_failed_offset",
        "_fetched_ahead",
        "_in_flight",
        "_proved_s",
        "claim",
        "group_offset",
        "is_fetching",
        "is_paused",
        "next_offset",
        "phase",
        "topics",
        "where",
    )

    def __init__(self, where: TopicPartition, proved_s: float) -> None:
        self.where = where
        self.phase = KafkaPhase.ASSIGNED
        #: There is one in the phases of ``WITH_CLAIM``, and in no other.
        self.claim: ClaimT | None = None
        #: What the owner restores from: the claim asks for the ends of these.
        self.topics: Sequence[str] = ()
        self._proved_s = proved_s  # when the membership was last known to be good
        self._asked_s = math.inf  # only a proof that was asked for later counts
        #: The first offset that was not handed over.
        self.next_offset = 0
        #: The owner wants no records now.
        self.is_paused = False
        #: librdkafka fetches the partition.
        self.is_fetching = False
        self._fetched_ahead: list[Record] = []  # while paused
        self._in_flight: _InFlight | None = None
        self._committed_offset = -1  # the next offset as last committed since the assignment; -1: none was
        self._failed_offset = -1  # the next offset of a commit that failed and was not made up for; -1: none
        #: None unless this claim has written without a transaction.
        self.group_offset: GroupOffset | None = None

    def _change(self, change: KafkaChange) -> None:
        after = PHASE_TABLE[change].get(self.phase)
        if after is None:
            raise AssertionError(f"{self.where}: illegal in phase {self.phase.value!r}: {change.value}")
        self.phase = after

    @property
    def is_awaiting_proof(self) -> bool:
        """Whether the membership has to be proved before anything happens."""
        return self.phase in AWAITING_PROOF

    @property
    def is_busy(self) -> bool:
        """Whether the claim works and will report an outcome."""
        return self.phase in BUSY

    @property
    def is_flowing(self) -> bool:
        """Whether fetched records go to the owner."""
        return self.phase in FLOWING

    # --- proof of membership ----------------------------------------------------------------------------------

    def is_proved(self, now_s: float) -> bool:
        """Return whether the membership was proved so recently that a claim may start."""
        return now_s - self._proved_s < PROOF_TTL_S

    def forget_proof(self) -> None:
        """The membership is in doubt: the next claim asks for a proof."""
        self._proved_s = -math.inf

    def await_proof(self, now_s: float) -> None:
        """A claim was asked for, and starts after a proof that is asked for from now on."""
        self._change(KafkaChange.AWAIT_PROOF)
        self._asked_s = now_s

    def prove(self, asked_s: float) -> bool:
        """Take a proof that was asked for at ``asked_s``; return whether this shard was waiting for it."""
        if not self.is_awaiting_proof or self._asked_s > asked_s:
            return False
        self._proved_s = asked_s
        return True

    def reassign(self) -> None:
        """The shard was fenced, and it is still ours."""
        self._change(KafkaChange.REASSIGN)

    # --- the claim --------------------------------------------------------------------------------------------

    def start(self, claim: ClaimT) -> None:
        """The claim's thread begins to work."""
        self._change(KafkaChange.START)
        self.claim = claim

    def claimed(self) -> None:
        """The claim has fenced earlier owners."""
        self._change(KafkaChange.CLAIMED)

    def replay(self) -> None:
        """The owner asks for a range."""
        self._change(KafkaChange.REPLAY)

    def replayed(self) -> None:
        """The range was read to its end."""
        self._change(KafkaChange.REPLAYED)

    def begin(self, next_offset: int) -> None:
        """Records go to the owner from here on, from ``next_offset``."""
        self._change(KafkaChange.BEGIN)
        self.next_offset = next_offset

    def abort(self) -> ClaimT | None:
        """The claim failed. Return the claim, to be cancelled."""
        if self._in_flight is not None:
            self._failed_offset = max(self._failed_offset, self._in_flight.next_offset)
        return self._end(KafkaChange.ABORT)

    def fence(self, now_s: float) -> ClaimT | None:
        """A later owner fenced the claim, or seems to have. Return the claim, to be cancelled."""
        self._asked_s = now_s
        return self._end(KafkaChange.FENCE)

    def drop(self) -> ClaimT | None:
        """End whatever there is. Return the claim, if there was one, to be cancelled. Idempotent."""
        return self._end(KafkaChange.DROP)

    def _end(self, change: KafkaChange) -> ClaimT | None:
        self._change(change)
        claim, self.claim = self.claim, None
        self.is_paused = False
        self._fetched_ahead = []
        self._in_flight = None
        self.group_offset = None
        return claim

    # --- records ----------------------------------------------------------------------------------------------

    def take(self, records: list[Record]) -> list[Record]:
        """Take fetched records; return those that the owner gets now. Ignore those from before a seek."""
        if not self.is_flowing:
            return []
        if records and records[0].offset < self.next_offset:
            records = [record for record in records if record.offset >= self.next_offset]
        if records:
            self.next_offset = records[-1].offset + 1
        if not self.is_paused:
            return records
        self._fetched_ahead += records
        return []

    @property
    def is_overfull(self) -> bool:
        """Whether so much was fetched for a paused shard that librdkafka must be paused too."""
        return len(self._fetched_ahead) >= FETCHED_AHEAD_RECORDS_MAX

    def pause(self) -> None:
        """The owner wants no records now. Idempotent, in every phase."""
        self.is_paused = True

    def resume(self) -> list[Record]:
        """The owner wants records again: return those that were fetched meanwhile. Idempotent, in every phase."""
        self.is_paused = False
        records, self._fetched_ahead = self._fetched_ahead, []
        return records

    # --- commits ----------------------------------------------------------------------------------------------

    @property
    def has_failed_commit(self) -> bool:
        """Whether a commit failed, and no later one went as far: the reason may be a record of its turn."""
        return self._failed_offset >= 0

    def commit(self, next_offset: int, sent_s: float, *, is_turn: bool = True) -> None:
        """A transaction is sent; ``is_turn``: it has more than the shard's own record."""
        self._change(KafkaChange.COMMIT)
        self._in_flight = _InFlight(next_offset, sent_s, is_turn)

    def append(self, next_offset: int) -> None:
        """An append without a transaction is sent: the group's offset must follow by itself."""
        self._change(KafkaChange.COMMIT)
        self._in_flight = _InFlight(next_offset, None, is_turn=True)
        self.group_offset = self.group_offset or GroupOffset(self._committed_offset)

    def committed(self) -> float | None:
        """What was sent happened. Return when it was sent if that is evidence of membership; None for an append."""
        self._change(KafkaChange.COMMITTED)
        assert self._in_flight is not None
        (self._committed_offset, sent_s, is_turn), self._in_flight = self._in_flight, None
        if is_turn and self._committed_offset >= self._failed_offset:
            self._failed_offset = -1
        if self.group_offset is not None:
            self.group_offset.next_offset = self._committed_offset
            self.group_offset.is_behind = True
        return sent_s

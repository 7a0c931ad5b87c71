"""``AssignedShard``: one partition that the group assigned to this worker, and its phase.

::

                 ┌───────────────────────── abort ──────────────────────────┐
                 ▼                                                          │
            ┌─────────┐ claim  ┌──────────┐ claimed ┌────────────┐ recovered ┌─────────┐ send   ┌────────────┐
     start  │ ABORTED ├───────▶│ CLAIMING ├────────▶│ RECOVERING ├──────────▶│ RUNNING ├───────▶│ COMMITTING │
       │    └─────────┘        └──────────┘         └────────────┘           └─────────┘◀───────┴────────────┘
       ▼                            ▲                                                  committed
    ┌─────────┐        claim        │
    │ STOPPED ├─────────────────────┘          stop: from every phase back to STOPPED
    └─────────┘

Before all phases the group assigns the shard; after all of them the group revokes it or another owner fences it, and
the region forgets it. A shard that is ABORTED claims again by itself after a backoff; an abort is not a failure. A
shard that is STOPPED stays so until its supervisor starts it. Both phases drop all state in memory, and recovery reads
it from the log.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.shard import Shard
from repertory.actors.shard.turn_result import TurnResult
from repertory.bridge import owed_points
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.port import Claimed, OutputsRefused
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.recovery import Recovery
from repertory.bridge.refusals import Refusals
from repertory.supervision import Backoff, Failure

#: The delay before a shard is claimed again after an abort. An abort never counts as a restart: a log that is out of
#: reach for too long raises LogUnavailable.
RECLAIM_BACKOFF = Backoff(first_s=0.02, factor=2.0, max_s=2.0)

#: How often the progress of a recovery is reported.
RECOVERY_REPORT_S = 1.0


class ShardPhase(enum.Enum):
    """The phases of an assigned shard."""

    STOPPED = "stopped"
    """Not started yet, or stopped by its supervisor."""
    ABORTED = "aborted"
    """Is claimed again after a backoff."""
    CLAIMING = "claiming"
    """Earlier owners are being fenced."""
    RECOVERING = "recovering"
    """Its committed state is being read."""
    RUNNING = "running"
    """Ready to decide its next turn."""
    COMMITTING = "committing"
    """Decides nothing until its latest turn is committed."""


class ShardChange(enum.Enum):
    """What can happen to an assigned shard."""

    CLAIM = "claim"
    CLAIMED = "claimed"
    RECOVERED = "recovered"
    SEND = "send"
    COMMITTED = "committed"
    ABORT = "abort"
    STOP = "stop"


_P = ShardPhase
SHARD_PHASE_TABLE: Final[Mapping[ShardChange, Mapping[ShardPhase, ShardPhase]]] = {
    ShardChange.CLAIM: {_P.STOPPED: _P.CLAIMING, _P.ABORTED: _P.CLAIMING},
    ShardChange.CLAIMED: {_P.CLAIMING: _P.RECOVERING},
    ShardChange.RECOVERED: {_P.RECOVERING: _P.RUNNING},
    ShardChange.SEND: {_P.RUNNING: _P.COMMITTING},
    ShardChange.COMMITTED: {_P.COMMITTING: _P.RUNNING},
    ShardChange.ABORT: dict.fromkeys((_P.CLAIMING, _P.RECOVERING, _P.RUNNING, _P.COMMITTING), _P.ABORTED),
    ShardChange.STOP: dict.fromkeys(_P, _P.STOPPED),
}
"""Every change of phase: change → phase → next phase. A change that is not in the table is a bug and raises."""

#: In these phases a shard is on its way, and has decided nothing.
UNFINISHED: Final = (_P.CLAIMING, _P.RECOVERING)

#: In these phases nothing is in memory, and answers to earlier requests are ignored.
DOWN: Final = (_P.STOPPED, _P.ABORTED)


class AssignedShard:
    """One assigned shard. Mutable; owned by the region, used on the loop's thread, changed only by its methods."""

    def __init__(self, place: TopicPartition, config: ShardConfig, hosted: HostedEntity) -> None:
        self.place = place
        self.config = config
        self.hosted = hosted
        #: The shard's name in the supervision tree and in log lines.
        self.name = str(config.id)
        self.incarnation = 0
        #: Kept over claims: what the log refuses for good.
        self.refusals = Refusals(hosted.codec)
        self._aborts = 0
        #: Since or from when the shard is to be claimed: it was started, or the backoff after an abort is over.
        self.claim_due_s: float | None = None
        self.claimed_s = 0.0
        self._reported_s = 0.0
        self._doubts = 0
        self._is_paused = False
        self._phase = ShardPhase.STOPPED
        self._recovery: Recovery | None = None
        self._shard: Shard | None = None
        self._result: TurnResult | None = None

    @property
    def phase(self) -> ShardPhase:
        """The current phase."""
        return self._phase

    @property
    def shard(self) -> Shard | None:
        """The shard that handles commands, while the phase is RUNNING or COMMITTING."""
        return self._shard

    @property
    def recovery(self) -> Recovery:
        """The recovery that reads the committed state, while the shard is RECOVERING."""
        assert self._recovery is not None, f"{self.name} is {self._phase.value}"
        return self._recovery

    # --- claim and recovery -----------------------------------------------------------------------------------

    def await_claim(self, now_s: float, incarnation: int) -> None:
        """The supervisor has started the shard: it is claimed in turn (``ShardRegion.claimable``)."""
        self.incarnation = incarnation
        self.claim_due_s = now_s

    def claim(self, now_s: float) -> None:
        """Begin to fence earlier owners."""
        self._change(ShardChange.CLAIM)
        self.claim_due_s = None
        self.claimed_s = self._reported_s = now_s

    def begin_recovery(self, claimed: Claimed) -> Recovery:
        """Begin to read the committed state, once earlier owners are fenced."""
        self._change(ShardChange.CLAIMED)
        self._recovery = Recovery(self.config, self.hosted.codec, claimed)
        return self._recovery

    def is_report_due(self, now_s: float) -> bool:
        """Return whether the recovery's progress was last reported that long ago; if so, the interval starts again."""
        if now_s < self._reported_s + RECOVERY_REPORT_S:
            return False
        self._reported_s = now_s
        return True

    def doubt(self) -> int:
        """Count one more consecutive recovery that found a contradiction, and return the count."""
        self._doubts += 1
        return self._doubts

    def start(self, shard: Shard) -> None:
        """Begin to handle commands, once the committed state is read."""
        self._change(ShardChange.RECOVERED)
        self._recovery, self._shard = None, shard
        self._doubts = 0

    # --- turns ------------------------------------------------------------------------------------------------

    def must_pause(self, shards: int) -> bool:
        """Return whether the partition has to be paused now: its mailbox is full, as one of so many ``shards``."""
        if self._is_paused or self._shard is None or not self._shard.mailbox.is_full(shards):
            return False
        self._is_paused = True
        return True

    def must_resume(self, shards: int) -> bool:
        """Return whether a paused partition has to be resumed now, because the mailbox has room again."""
        if not self._is_paused or self._shard is None or not self._shard.mailbox.is_drained(shards):
            return False
        self._is_paused = False
        return True

    def send(self, result: TurnResult) -> None:
        """Record the turn whose commit is in flight."""
        self._change(ShardChange.SEND)
        self._result = result
        owed_points.reach(result, is_committed=False)

    def committed(self) -> TurnResult:
        """Return the turn whose commit was in flight, now committed."""
        self._change(ShardChange.COMMITTED)
        result, self._result = self._result, None
        assert result is not None, self.name
        owed_points.reach(result, is_committed=True)
        self._aborts = 0
        self.refusals.committed(result)
        return result

    def refused(self, event: OutputsRefused) -> Failure | None:
        """Search the guilty command of the turn that was in flight; return a failure if the shard has to stop."""
        assert self._result is not None, self.name
        self._aborts = 0  # Each refusal brings the search forward.
        return self.refusals.blame(event, self._result, self.name)

    # --- abort and stop ---------------------------------------------------------------------------------------

    def abort(self, now_s: float, *, routine: bool) -> float:
        """Drop all state and schedule the next claim; return its delay in seconds, 0 after a first routine abort."""
        self._change(ShardChange.ABORT)
        self._drop()
        self._aborts += 1
        delay_s = 0.0 if routine and self._aborts == 1 else RECLAIM_BACKOFF.delay_s(self._aborts, 0.0)
        self.claim_due_s = now_s + delay_s
        return delay_s

    def stop(self) -> None:
        """Drop all state; the supervisor decides about the next start."""
        self._change(ShardChange.STOP)
        self._drop()

    def _drop(self) -> None:
        self._recovery = self._shard = self._result = self.claim_due_s = None
        self._is_paused = False

    def _change(self, change: ShardChange) -> None:
        after = SHARD_PHASE_TABLE[change].get(self._phase)
        assert after is not None, f"{self.name} cannot {change.value} while it is {self._phase.value}"
        self._phase = after

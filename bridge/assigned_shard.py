"""``AssignedShard``: one partition that the group gave to this worker, and the phase that it is in.

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

A shard that is ABORTED claims again by itself, after a backoff: nobody is to blame. One that is STOPPED waits for its
supervisor. In both all that was in memory is dropped: the log has the truth.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.shard import Shard
from repertory.actors.shard.turn_result import TurnResult
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.port import Claimed
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.recovery import Recovery
from repertory.supervision import Backoff

#: How soon a shard is claimed again after an abort. Never counted as a restart: a log that is out of reach for too
#: long says so itself (LogUnavailable).
RECLAIM_BACKOFF = Backoff(first_s=0.02, factor=2.0, max_s=2.0)


class ShardPhase(enum.Enum):
    """Where an assigned shard is."""

    STOPPED = "stopped"
    """Not started yet, or stopped by its supervisor."""
    ABORTED = "aborted"
    """Waits until it is claimed again."""
    CLAIMING = "claiming"
    """Earlier owners are being shut out."""
    RECOVERING = "recovering"
    """Its committed state is being read."""
    RUNNING = "running"
    """Decides the next turn."""
    COMMITTING = "committing"
    """Decides nothing until its last turn is committed."""


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
"""Every change of phase: change → phase → next phase. What is not in it is a bug, and raises."""

#: In these phases there is nothing in memory, and nothing that was asked of the log is still wanted.
DOWN: Final = (_P.STOPPED, _P.ABORTED)


class AssignedShard:
    """One assigned shard. Mutable; owned by the region, on the thread of the loop.

    It changes by its methods alone.
    """

    def __init__(self, place: TopicPartition, config: ShardConfig, hosted: HostedEntity) -> None:
        self.place = place
        self.config = config
        self.hosted = hosted
        #: The shard's name in its supervision tree and in log lines.
        self.name = str(config.id)
        self.incarnation = 0
        #: Consecutive aborts, which are nobody's fault; and when it is claimed again after the last of them.
        self._aborts = 0
        self.reclaim_s: float | None = None
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
        """Where it is."""
        return self._phase

    @property
    def shard(self) -> Shard | None:
        """The shard that handles commands, while it is RUNNING or COMMITTING."""
        return self._shard

    @property
    def recovery(self) -> Recovery:
        """What reads the committed state, while it is RECOVERING."""
        assert self._recovery is not None, f"{self.name} is {self._phase.value}"
        return self._recovery

    # --- the way up -------------------------------------------------------------------------------------------

    def claim(self, now_s: float, incarnation: int | None = None) -> None:
        """Begin to shut out earlier owners; ``incarnation`` is that of a new start."""
        self._change(ShardChange.CLAIM)
        self.incarnation = self.incarnation if incarnation is None else incarnation
        self.reclaim_s = None
        self.claimed_s = self._reported_s = now_s

    def begin_recovery(self, claimed: Claimed) -> Recovery:
        """Earlier owners are shut out: begin to read."""
        self._change(ShardChange.CLAIMED)
        self._recovery = Recovery(self.config, self.hosted.codec, claimed)
        return self._recovery

    def is_report_due(self, now_s: float, interval_s: float) -> bool:
        """Tell whether so much time is over since the progress of the recovery was reported; begin anew if it is."""
        if now_s < self._reported_s + interval_s:
            return False
        self._reported_s = now_s
        return True

    def doubt(self) -> int:
        """Count one more recovery in a row that met a contradiction, and return how many there were."""
        self._doubts += 1
        return self._doubts

    def start(self, shard: Shard) -> None:
        """The committed state is read: begin to handle commands."""
        self._change(ShardChange.RECOVERED)
        self._recovery, self._shard = None, shard
        self._doubts = 0

    # --- turns ------------------------------------------------------------------------------------------------

    def must_pause(self) -> bool:
        """Tell whether the partition has to be paused now, because the mailbox is full."""
        if self._is_paused or self._shard is None or not self._shard.mailbox.full:
            return False
        self._is_paused = True
        return True

    def must_resume(self) -> bool:
        """Tell whether a paused partition has to be resumed now, because there is room again."""
        if not self._is_paused or self._shard is None or not self._shard.mailbox.drained:
            return False
        self._is_paused = False
        return True

    def send(self, result: TurnResult) -> None:
        """A turn is on its way to the log."""
        self._change(ShardChange.SEND)
        self._result = result

    def committed(self) -> TurnResult:
        """The turn on its way is committed: return it."""
        self._change(ShardChange.COMMITTED)
        result, self._result = self._result, None
        assert result is not None, self.name
        self._aborts = 0
        return result

    # --- the way down -----------------------------------------------------------------------------------------

    def abort(self, now_s: float, *, routine: bool) -> float:
        """Drop everything, and claim again later; return in how many seconds, 0 after a first abort that is routine."""
        self._change(ShardChange.ABORT)
        self._drop()
        self._aborts += 1
        delay_s = 0.0 if routine and self._aborts == 1 else RECLAIM_BACKOFF.delay_s(self._aborts, 0.0)
        self.reclaim_s = now_s + delay_s
        return delay_s

    def stop(self) -> None:
        """Drop everything, and wait for the supervisor."""
        self._change(ShardChange.STOP)
        self._drop()

    def _drop(self) -> None:
        self._recovery = self._shard = self._result = self.reclaim_s = None
        self._is_paused = False

    def _change(self, change: ShardChange) -> None:
        after = SHARD_PHASE_TABLE[change].get(self._phase)
        assert after is not None, f"{self.name} cannot {change.value} while it is {self._phase.value}"
        self._phase = after

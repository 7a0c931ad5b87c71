"""One partition of a source in the relay that has it: its position, its records that wait, and its phase. Pure.

::

    UNKNOWN ──survey finds its place──> READING ──the function raises, the topic is gone …──> STOPPED
       ^                                   │                                                      │
       └──────the log lost its place───────┘<───────────────────backoff is over───────────────────┘

Before, its relay has claimed the position; when the relay is lost or starts over, the partition is dropped with it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

import msgspec

from repertory.actors.shard.turn_result import Incident
from repertory.bridge.log.follower import Surveyed
from repertory.bridge.log.record import Record
from repertory.bridge.sources import checks
from repertory.bridge.sources.definition import SourceDefinition
from repertory.bridge.sources.position import DEADLY, SourcePlace, SourcePosition, SourceRequest, SourceStop
from repertory.bridge.sources.relay import Relayed
from repertory.supervision import Backoff

#: After how long a partition that stopped is tried again.
RETRY_BACKOFF = Backoff(first_s=1.0, factor=2.0, max_s=60.0)

#: The outcome of its incident.
STOPPED = "source-stopped"


class SourcePhase(enum.Enum):
    """Where a partition of a source is."""

    UNKNOWN = "unknown"
    """Its topic is to be surveyed."""
    READING = "reading"
    """Its records are followed from its position on."""
    STOPPED = "stopped"
    """Nothing is read of it until its backoff is over, or an operator asks."""


class SourcePartition:
    """Owned by its relay. ``position`` may be ahead of what is committed; whatever fails then drops it."""

    def __init__(self, source: SourceDefinition, place: SourcePlace, position: SourcePosition | None) -> None:
        self.source, self.place, self.position = source, place, position
        self.phase = SourcePhase.UNKNOWN
        #: Whether its records are fetched from the position on; the loop sees to that.
        self.is_followed = False
        #: Whether the position has to be written although no record was relayed.
        self.is_dirty = False
        #: Records that wait to be relayed, from the position on, and their size.
        self.pending: Sequence[Record] = ()
        self.pending_bytes = 0
        #: Why the log gave it up, until its topic is surveyed.
        self._lost = ""
        self.retry_at_ms = 0
        self._failures = 0
        self._told: SourceStop | None = None if position is None else position.stopped

    # --- the topic --------------------------------------------------------------------------------------------

    def surveyed(self, found: Surveyed | None, began: Callable[[], int], now_ms: int) -> None:
        """Take what there is of its topic: read on from the position, or stop."""
        before = self.position
        if before is None:
            if found is None or self.place.partition >= len(found.bounds):
                return
            self._move(checks.first_position(self.source, self.place, found, began))
        elif self.phase is SourcePhase.UNKNOWN or checks.is_another(self.place, before, found):
            why, self._lost = self._lost, ""
            self._move(checks.checked(self.place, before, found, now_ms, why))
        self._settle(now_ms)

    def unreachable(self, why: str, now_ms: int) -> None:
        """Take that the log of its topic does not answer. What was fetched is relayed all the same."""
        if self.position is not None and self.phase is SourcePhase.UNKNOWN:
            self._move(checks.unreachable(self.position, why, now_ms))
            self._settle(now_ms)

    def asked(self, request: SourceRequest, found: Surveyed | None) -> bool:
        """Do what an operator asks for; return whether that fits."""
        after = None if self.position is None else checks.asked(self.place, self.position, found, request)
        if after is None:
            return False
        self._move(after)
        self._failures = 0
        self.survey_again()
        return True

    def _move(self, position: SourcePosition) -> None:
        self.is_dirty = self.is_dirty or position != self.position
        self.position = position

    def _settle(self, now_ms: int) -> None:
        """Follow what the topic's check has found: of a stop that is a record's, the record is tried again."""
        assert self.position is not None
        stopped = self.position.stopped
        if stopped is not None and (stopped.what in checks.OF_THE_TOPIC or stopped.what == DEADLY):
            if self.phase is not SourcePhase.STOPPED:
                self._stop(now_ms)
        elif self.phase is SourcePhase.UNKNOWN:
            self.phase = SourcePhase.READING

    # --- records ----------------------------------------------------------------------------------------------

    def fetched(self, records: Sequence[Record]) -> None:
        """Take records of the topic that come behind those that wait."""
        if self.phase is SourcePhase.READING and self.position is not None:
            first = self.pending[-1].offset + 1 if self.pending else self.position.next
            self._wait([*self.pending, *(record for record in records if record.offset >= first)])

    def _wait(self, records: Sequence[Record]) -> None:
        self.pending = records
        self.pending_bytes = sum(len(record.value or b"") for record in records)

    def _leave(self, phase: SourcePhase) -> None:
        """Read no more: what waits is dropped, so the records have to be followed anew, from the position on."""
        self.phase, self.is_followed = phase, False
        self._wait(())

    def unfollowed(self, why: str) -> None:
        """The log does not have the place, or does not give it: its topic is surveyed, which may tell more."""
        self._lost = why
        self.survey_again()

    def survey_again(self) -> None:
        """Have its topic surveyed, and what waits fetched anew."""
        self._leave(SourcePhase.UNKNOWN)

    def relayed(self, found: Relayed, now_ms: int) -> bool:
        """Take what became of records that waited; return whether the position has to be written."""
        before = self.position
        assert before is not None
        self._wait(self.pending[found.records :])
        after = found.position
        if after.stopped is not None and after.stopped.is_like(before.stopped):
            after = msgspec.structs.replace(after, stopped=before.stopped)
        self.position = after
        if after.stopped is not None:
            self._stop(now_ms)
        elif found.records:
            self._failures = 0
        return after != before

    def _stop(self, now_ms: int) -> None:
        self._failures += 1
        self._leave(SourcePhase.STOPPED)
        self.retry_at_ms = now_ms + round(RETRY_BACKOFF.delay_s(self._failures, 0.0) * 1_000)

    def news(self) -> list[Incident]:
        """Return what an operator has to know and was not told yet: that it has stopped, or goes on."""
        told, self._told = self._told, None if self.position is None else self.position.stopped
        now = self._told
        if now is None or now.is_like(told):
            return []
        then = "this partition stops, and is tried again after a while; the others go on"
        return [Incident(self.place.at(now.offset), now.error or now.what, now.reason, then, STOPPED, now.traceback)]

    def due(self, now_ms: int) -> None:
        """Try again if the backoff is over."""
        if self.phase is SourcePhase.STOPPED and now_ms >= self.retry_at_ms:
            self.phase = SourcePhase.UNKNOWN

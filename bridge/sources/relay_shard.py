"""A relay: one partition of ``{system}.sources``, and the partitions of sources whose positions are in it.

It lives as a shard does: the group assigns it, the log fences earlier owners, its positions are replayed, and then each
turn is one transaction: commands and dead letters, the positions behind their records, and the requests that are done.
Whatever fails drops all of it, and the next claim reads from the log what happened. Pure: time arrives as an argument.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from repertory.actors.shard.turn_result import Incident
from repertory.bridge.assigned_shard import RECLAIM_BACKOFF
from repertory.bridge.log.follower import Surveyed
from repertory.bridge.log.port import OutputsRefused, Transaction
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.sources.definition import SourceDefinition
from repertory.bridge.sources.partition import SourcePartition, SourcePhase
from repertory.bridge.sources.position import Positions, SourcePlace, SourceRequest, encode_source
from repertory.bridge.sources.refused_records import RefusedRecords
from repertory.bridge.sources.relay import Relayed, Routing, relay
from repertory.supervision import Failure


class RelayPhase(enum.Enum):
    """Where a relay is. Each change of phase is one method of `RelayShard`."""

    ABORTED = "aborted"
    """Is claimed once its backoff is over."""
    CLAIMING = "claiming"
    """Earlier owners are being fenced."""
    REPLAYING = "replaying"
    """Its positions are being read."""
    RUNNING = "running"
    """Ready to decide its next turn."""
    COMMITTING = "committing"
    """Decides nothing until its latest turn is committed."""


_P = RelayPhase
_NEXT: Final[Mapping[RelayPhase, tuple[RelayPhase, ...]]] = {
    _P.ABORTED: (_P.CLAIMING,),
    _P.CLAIMING: (_P.REPLAYING, _P.ABORTED),
    _P.REPLAYING: (_P.RUNNING, _P.ABORTED),
    _P.RUNNING: (_P.COMMITTING, _P.ABORTED),
    _P.COMMITTING: (_P.RUNNING, _P.ABORTED),
}


class PositionsLost(Exception):
    """The topic of the positions has none, and the group has an offset: to begin anew would relay all again."""


class RelayShard:
    """Owned by the loop, used on its thread. ``place``: its partition of ``{system}.sources``."""

    def __init__(self, place: TopicPartition, sources: Sequence[SourceDefinition], now_s: float) -> None:
        self.place, self._sources = place, sources
        self.phase = RelayPhase.ABORTED
        self.claim_due_s: float | None = now_s
        self.partitions: dict[SourcePlace, SourcePartition] = {}
        self._positions = Positions()
        #: The first record of its own partition that was not read.
        self._next_offset = 0
        self._aborts = 0
        #: How many records of the foreign topics the turn under way has relayed.
        self._turn_records = 0
        #: Kept over claims: what the log refuses for good.
        self._refusals = RefusedRecords()
        #: The requests that the turn under way, or the next one, has done.
        self._done: dict[SourcePlace, SourceRequest] = {}

    @property
    def name(self) -> str:
        """Its name in log lines."""
        return f"sources/{self.place.partition}"

    def _change(self, phase: RelayPhase) -> None:
        assert phase in _NEXT[self.phase], f"{self.name} cannot be {phase.value} after {self.phase.value}"
        self.phase = phase

    # --- claim and replay -------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Begin to fence earlier owners."""
        self._change(RelayPhase.CLAIMING)
        self.claim_due_s = None

    def replay(self, start: int) -> None:
        """Begin to read the positions, from ``start`` on, once earlier owners are fenced."""
        self._change(RelayPhase.REPLAYING)
        self._positions, self._next_offset = Positions(), start

    def replayed(self, records: Sequence[Record]) -> None:
        """Take records of its partition, in order."""
        for record in records:
            self._next_offset = record.offset + 1
            self._positions.take(record.key, record.value, record.place)

    def run(self, committed: int | None) -> int:
        """Begin to relay; return the offset from which requests are read. ``committed``: the group's offset.

        Raises PositionsLost.
        """
        if committed is not None and not (self._positions.known or self._positions.unreadable):
            raise PositionsLost(
                f"{self.place} has no positions, and its group has committed there before: the sources would be "
                "relayed again from the beginning; restore that topic from a backup, or give the sources other names"
            )
        self._change(RelayPhase.RUNNING)
        for place, position in self._positions.known.items():
            source = next((each for each in self._sources if (each.name, each.topic) == place[:2]), None)
            if source is not None and place.relay == self.place.partition:
                self.partitions[place] = SourcePartition(source, place, position)
        return self._next_offset

    def requested(self, records: Sequence[Record]) -> None:
        """Take records that came to its partition since: requests of operators, and its own positions."""
        self._next_offset = records[-1].offset + 1
        for record in records:
            self._positions.take(record.key, record.value, record.place)
        for place in self._positions.requests.keys() - self._done.keys():
            if (partition := self.partitions.get(place)) is not None:
                partition.survey_again()

    # --- the topics of the sources ----------------------------------------------------------------------------

    def is_unknown(self, source: SourceDefinition) -> bool:
        """Return whether the topic of a source has to be surveyed now."""
        return any(each.phase is SourcePhase.UNKNOWN for each in self.of(source))

    def surveyed(self, source: SourceDefinition, found: Surveyed | None, began: Callable[[], int], now_ms: int) -> None:
        """Take what there is of a source's topic: its partitions that this relay has are read on, or stop."""
        for number in range(0 if found is None else len(found.bounds)):
            place = SourcePlace(source.name, source.topic, number)
            is_new = place not in self.partitions and place not in self._positions.unreadable
            if is_new and place.relay == self.place.partition:
                self.partitions[place] = SourcePartition(source, place, None)
        for partition in self.of(source):
            request = self._positions.requests.get(partition.place)
            if request is not None and partition.place not in self._done and partition.position is not None:
                if partition.asked(request, found):
                    self._refusals.forget(partition.place)
                self._done[partition.place] = request
            partition.surveyed(found, began, now_ms)

    def unreachable(self, source: SourceDefinition, why: str, now_ms: int) -> None:
        """Take that the log of a source's topic does not answer."""
        for partition in self.of(source):
            partition.unreachable(why, now_ms)

    def of(self, source: SourceDefinition) -> list[SourcePartition]:
        """Return the partitions of a source that it has."""
        return [each for each in self.partitions.values() if each.source is source]

    def due(self, now_ms: int) -> None:
        """Try the partitions again whose backoff is over."""
        for partition in self.partitions.values():
            partition.due(now_ms)

    # --- turns ------------------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Return whether there is something to write."""
        if self.phase is not RelayPhase.RUNNING:
            return False
        return bool(self._done) or any(each.is_dirty or each.pending for each in self.partitions.values())

    def decide(
        self,
        routing: Routing,
        time_is_up: Callable[[], bool],
        handling: Callable[[SourcePlace, int], object],
        now_ms: int,
    ) -> tuple[Transaction | None, list[Incident]]:
        """Relay records that wait, of each partition in turn; return the transaction, None if nothing is to be written.

        It moves the positions on, and changes the phase to COMMITTING if there is a transaction. What an operator asks
        for is a transaction of its own: the log might refuse records that came with it, and it would be done again.
        """
        limits, taken = routing.limits, [0, 0]
        records_max = self._refusals.records_max or limits.records_max

        def is_full(relayed: Relayed) -> bool:
            records, size_bytes = taken[0] + relayed.records, taken[1] + relayed.size_bytes
            return records >= records_max or (records > 0 and (size_bytes >= limits.bytes_max or time_is_up()))

        outputs: list[Output] = []
        incidents: list[Incident] = []
        for place, partition in self._in_turn():
            if partition.position is not None and partition.phase is SourcePhase.READING and not self._done:
                found = relay(
                    place, partition.source.decode, partition.position, partition.pending, routing,
                    refused=self._refusals.refused(place), stuck=self._refusals.stuck(place),
                    is_full=is_full, handling=partial(handling, place), now_ms=now_ms,
                )  # fmt: skip
                taken = [taken[0] + found.records, taken[1] + found.size_bytes]
                outputs += found.outputs
                partition.is_dirty = partition.relayed(found, now_ms) or partition.is_dirty
                incidents += [_dead_letter(place, nth, *letter) for nth, letter in enumerate(found.letters)]
            if partition.is_dirty and partition.position is not None:
                partition.is_dirty = False
                outputs.append(Output(*self.place, place.key, encode_source(partition.position)))
                incidents += partition.news()
        outputs += [Output(*self.place, place.request_key, None) for place in self._done]
        if not outputs:
            return None, incidents
        self._change(RelayPhase.COMMITTING)
        self._turn_records = taken[0]
        return Transaction(self.place, self._next_offset, outputs), incidents

    def _in_turn(self) -> Iterator[tuple[SourcePlace, SourcePartition]]:
        """Yield the partitions, beginning with another one each time: one with a backlog may fill a transaction."""
        places = list(self.partitions)
        for place in places:
            yield place, self.partitions[place]
        if places:
            self.partitions[places[0]] = self.partitions.pop(places[0])

    def committed(self) -> None:
        """The turn is in the log."""
        self._change(RelayPhase.RUNNING)
        self._aborts = 0
        for place, request in self._done.items():
            if self._positions.requests.get(place) is request:  # A later one is not done.
                del self._positions.requests[place]
        self._done.clear()
        known = {place: each.position.next for place, each in self.partitions.items() if each.position is not None}
        self._refusals.committed(known)

    def refuse(self, place: SourcePlace, offset: int, why: str) -> None:
        """Have a partition stop at a record without a try: processes have died at it."""
        self._refusals.deadly(place, offset, why)

    def refused(self, event: OutputsRefused) -> bool:
        """Take a refusal of the turn under way; return whether a record of a foreign topic is guilty of it."""
        is_found = self._refusals.blame(event, self._turn_records)
        if is_found:
            self._aborts = 0  # Each refusal brings the search forward.
        return is_found

    def abort(self, now_s: float, *, routine: bool) -> float:
        """Drop everything, and schedule the next claim; return its delay in seconds."""
        self._change(RelayPhase.ABORTED)
        self.partitions.clear()
        self._done.clear()
        self._aborts += 1
        delay_s = 0.0 if routine and self._aborts == 1 else RECLAIM_BACKOFF.delay_s(self._aborts, 0.0)
        self.claim_due_s = now_s + delay_s
        return delay_s


def _dead_letter(place: SourcePlace, nth: int, offset: int, failure: Failure) -> Incident:
    """Return the incident of a dead letter; of those of one turn, the first alone is logged with its traceback."""
    then = "the record is a dead letter, and the source goes on"
    error, trace = failure.error_type, failure.traceback
    return Incident(place.at(offset), error, failure.message, then, "dead-lettered", trace, is_repeated=nth > 0)

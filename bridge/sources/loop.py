"""The loop of a system's sources: from records of foreign topics to committed commands.

Each partition of ``{system}.sources`` that the group assigns is a relay (``relay_shard``); it is claimed and its
positions are replayed before anything is read of the topics. One thread calls it; nothing blocks but the polls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence, Sequence
from functools import partial
from typing import assert_never

import msgspec

from repertory.bridge import kill_points
from repertory.bridge.interruption import WholeTicks
from repertory.bridge.log import port
from repertory.bridge.log.clock import Clock, elapsed
from repertory.bridge.log.errors import LogError
from repertory.bridge.log.follower import Followed, Follower
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.reports import ReportSink
from repertory.bridge.sources.definition import SourceDefinition
from repertory.bridge.sources.partition import SourcePartition, SourcePhase
from repertory.bridge.sources.position import SourcePlace
from repertory.bridge.sources.relay import Routing
from repertory.bridge.sources.relay_shard import PositionsLost, RelayPhase, RelayShard
from repertory.bridge.sources.topics_seen import TopicsSeen
from repertory.bridge.topics import RELAYS
from repertory.bridge.worker_log import WorkerLog

_BUSY = (RelayPhase.CLAIMING, RelayPhase.REPLAYING, RelayPhase.COMMITTING)
#: See ``bridge.node.in_flight_source``.
_SOURCE, _PARTITION, _RECORD = 0, 1, 2
#: In these phases a relay knows its positions.
_AT_WORK = (RelayPhase.RUNNING, RelayPhase.COMMITTING)
_Answer = port.Claimed | port.Replayed | port.Fetched | port.Committed | port.Aborted | port.OutputsRefused


class SourceLog(msgspec.Struct, frozen=True):
    """The log that a source reads, the system's own or another cluster's: a follower of its own."""

    follower: Follower
    topics: TopicsSeen


class SourceLoop:
    """The relays of one process. Follow ``tick``: polls, events, surveys, turns."""

    def __init__(
        self,
        log: port.Log,
        sources: Sequence[SourceDefinition],
        logs: Mapping[str, SourceLog],
        routing: Routing,
        clock: Clock,
        *,
        turn_max_s: float,
        poll_timeout_s: float,
        began: Callable[[SourceDefinition], int],
        report: ReportSink = lambda _report: None,
        progress: Callable[[], None] = lambda: None,
        in_flight: MutableSequence[int] | None = None,
        deadly: tuple[SourcePlace, int, str] | None = None,
    ) -> None:
        """``logs``: by the name of the source. ``began``: see ``checks.first_position``; it reads the log.

        ``in_flight``: memory for the record that is decoded (the number of its source, its partition, its offset and
        1). ``deadly``: a record that must not be decoded, and why.
        """
        self._log, self._sources, self._logs, self._routing, self._clock = log, sources, logs, routing, clock
        self._turn_max_s, self._poll_timeout_s, self._began = turn_max_s, poll_timeout_s, began
        self._worker_log, self._progress = WorkerLog(report), progress
        self._relays: dict[TopicPartition, RelayShard] = {}
        self._claimed: dict[TopicPartition, port.Claimed] = {}
        self._in_flight = [0, 0, 0] if in_flight is None else in_flight
        self._numbers = {source.name: number for number, source in enumerate(sources)}
        self._deadly = deadly
        self.ticks = WholeTicks()

    def tick(self, timeout_s: float | None = None) -> bool:
        """Relay what can be relayed; return whether anything happened. If nothing can be, wait ``timeout_s`` at most.

        What leaves it as an exception ends the loop: later calls raise LoopInterrupted.
        """
        with self.ticks:
            limit_s = self._poll_timeout_s if timeout_s is None else timeout_s
            is_busy = any(relay.phase in _BUSY for relay in self._relays.values())
            events = self._log.poll(limit_s if is_busy or not self._relays else 0.0)
            self._progress()
            for event in events:
                self._on(event)
            self._claim_some()
            found = self._survey()
            found = self._fetch(0.0 if is_busy or events or found else limit_s) or found
            kill_points.reached("relay-fetched")
            turns = [self._turn(relay) for relay in list(self._relays.values())]
            return bool(events) or found or any(turns)

    # --- the log of the system --------------------------------------------------------------------------------

    def _on(self, event: port.LogEvent) -> None:
        if isinstance(event, port.Assigned):
            if event.shard.partition < RELAYS:
                now_s = self._clock.monotonic_s()
                self._relays[event.shard] = RelayShard(event.shard, self._sources, now_s)
                if self._deadly is not None and self._deadly[0].relay == event.shard.partition:
                    self._relays[event.shard].refuse(*self._deadly)
                    self._deadly = None  # An operator may have it tried again.
        elif (relay := self._relays.get(event.shard)) is None:
            return
        elif isinstance(event, port.Fenced | port.Lost):
            self._worker_log.lost(relay.name, event.reason, fenced=isinstance(event, port.Fenced))
            self._drop(self._relays.pop(event.shard))
        elif relay.phase is not RelayPhase.ABORTED:  # Else it answers a request from before the abort.
            self._on_relay(relay, event)

    def _on_relay(self, relay: RelayShard, event: _Answer) -> None:
        match event:
            case port.Claimed():
                kill_points.reached("relay-claimed")
                self._claimed[event.shard] = event
                relay.replay(event.start_offset)
                end = event.ends[event.shard.topic]
                self._log.replay(event.shard, event.shard.topic, event.start_offset, end)
            case port.Replayed(_, _, records, complete):
                relay.replayed(records)
                if complete:
                    self._run(relay, self._claimed.pop(event.shard))
            case port.Fetched(_, records):
                relay.requested(records)
            case port.Committed():
                kill_points.reached("relay-committed")
                relay.committed()
            case port.Aborted(_, reason, routine):
                self._abort(relay, reason, routine=routine)
            case port.OutputsRefused():
                self._abort(relay, event.reason, routine=relay.refused(event))
            case _:
                assert_never(event)

    def _claim_some(self) -> None:
        now_s = self._clock.monotonic_s()
        for relay in self._relays.values():
            if relay.claim_due_s is not None and relay.claim_due_s <= now_s:
                relay.claim()
                kill_points.reached("relay-claiming")
                self._log.claim(relay.place, (relay.place.topic,))

    def _run(self, relay: RelayShard, claimed: port.Claimed) -> None:
        kill_points.reached("relay-restored")
        try:
            self._log.begin(relay.place, relay.run(claimed.committed))
        except PositionsLost as error:
            self._abort(relay, str(error), routine=False)

    def _abort(self, relay: RelayShard, reason: str, *, routine: bool) -> None:
        """Drop a relay's state and claim again; what it has committed is read then."""
        self._drop(relay)
        delay_s = relay.abort(self._clock.monotonic_s(), routine=routine)
        self._log.pause(relay.place)
        self._worker_log.aborted(relay.name, reason, delay_s, routine=routine)

    def _drop(self, relay: RelayShard) -> None:
        for partition in relay.partitions.values():
            self._forget(partition)

    # --- the topics of the sources ----------------------------------------------------------------------------

    def _survey(self) -> bool:
        """Ask for the topics that are to be surveyed, and take the answers; return whether there were any."""
        relays = [relay for relay in self._relays.values() if relay.phase in _AT_WORK]
        now_s, now_ms, happened = self._clock.monotonic_s(), self._clock.epoch_ms(), False
        for relay in relays:
            relay.due(now_ms)
        for source in self._sources:
            topics = self._logs[source.name].topics
            if relays:
                topics.ask(source.topic, now_s, at_once=any(relay.is_unknown(source) for relay in relays))
            for found in topics.answers():
                happened = True
                for relay in relays:
                    if isinstance(found, LogError):
                        relay.unreachable(source, str(found), now_ms)
                    else:
                        relay.surveyed(source, found, partial(self._began, source), now_ms)
        for relay in relays:
            self._align(relay)
        return happened

    def _align(self, relay: RelayShard) -> None:
        """Follow the partitions of a relay that are read, each from its position on, and no others."""
        for partition in relay.partitions.values():
            if partition.phase is not SourcePhase.READING:
                self._forget(partition)
            elif not partition.is_followed and partition.position is not None:
                partition.is_followed = True
                self._logs[partition.source.name].follower.follow(_of(partition), partition.position.next)

    def _forget(self, partition: SourcePartition) -> None:
        partition.is_followed = False
        self._logs[partition.source.name].follower.forget(_of(partition))

    def _fetch(self, timeout_s: float) -> bool:
        """Take new records of each source, unless so many wait that a transaction is full."""
        happened, most, most_bytes = False, self._routing.limits.records_max, self._routing.limits.bytes_max
        for source in self._sources:
            partitions = {
                _of(partition): partition
                for relay in self._relays.values() if relay.phase in _AT_WORK
                for partition in relay.of(source)
            }  # fmt: skip
            waiting = sum(len(partition.pending) for partition in partitions.values())
            waiting_bytes = sum(partition.pending_bytes for partition in partitions.values())
            if waiting >= most or waiting_bytes >= most_bytes or not partitions:
                continue
            wait_s = 0.0 if waiting or happened else timeout_s / len(self._sources)
            for event in self._logs[source.name].follower.poll(wait_s, most):
                happened = True
                if (found := partitions.get(event.place)) is None:
                    continue
                if isinstance(event, Followed):
                    found.fetched(event.records)
                else:
                    found.unfollowed(event.reason)
        return happened

    # --- turns ------------------------------------------------------------------------------------------------

    def _turn(self, relay: RelayShard) -> bool:
        """Decide a turn of a relay that is ready, and send its commit; the sources' functions run here."""
        if not relay.is_ready():
            return False
        time_is_up = elapsed(self._clock, self._turn_max_s)
        transaction, incidents = relay.decide(self._routing, time_is_up, self._handles, self._clock.epoch_ms())
        self._in_flight[_RECORD] = 0
        self._worker_log.incidents(incidents)
        kill_points.reached("relay-decided")
        if transaction is None:
            return False
        self._log.commit(transaction)
        kill_points.reached("relay-sent")
        return True

    def _handles(self, place: SourcePlace, offset: int) -> None:
        self._progress()
        self._in_flight[_SOURCE], self._in_flight[_PARTITION] = self._numbers[place.name], place.partition
        self._in_flight[_RECORD] = offset + 1

    def under_way(self) -> str:
        """Return the record in a source's function now, or ""; may be called on any thread."""
        source, partition, record = self._in_flight[:3]
        found = self._sources[source]
        return SourcePlace(found.name, found.topic, partition).at(record - 1) if record else ""

    # --- for those who run it ---------------------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """Return when the next partition that stopped is tried again (epoch); None if none has stopped."""
        due = [
            partition.retry_at_ms
            for relay in self._relays.values()
            for partition in relay.partitions.values()
            if partition.phase is SourcePhase.STOPPED
        ]
        return min(due, default=None)

    def drain(self, deadline_s: float) -> None:
        """Finish the commits under way, until a time of the clock at most."""
        while any(relay.phase is RelayPhase.COMMITTING for relay in self._relays.values()):
            if self._clock.monotonic_s() >= deadline_s:
                return
            for event in self._log.poll(self._poll_timeout_s):
                self._on(event)

    def close(self) -> None:
        """Close what the sources are read with; the log is its owner's."""
        for log in self._logs.values():
            log.topics.close()
            log.follower.close()


def _of(partition: SourcePartition) -> TopicPartition:
    return TopicPartition(partition.place.topic, partition.place.partition)

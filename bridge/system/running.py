"""``Running``: a system with one worker in this process, driven by its caller: for tests, notebooks, simulations."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from repertory.actors.message import Envelope
from repertory.actors.shard.changelog import Accepted, ShardId
from repertory.actors.timer import DELAY_S_MAX
from repertory.bridge import kill_points, log_lines
from repertory.bridge.assigned_shard import AssignedShard, ShardPhase
from repertory.bridge.log.clock import Clock, MovableClock, SystemClock
from repertory.bridge.log.port import (
    Backend,
    Log,
    Member,
    Reader,
)
from repertory.bridge.loop import ShardLoop
from repertory.bridge.reports import ReportSink, ShardReport
from repertory.bridge.system.client import Client
from repertory.bridge.system.followings import Followings
from repertory.bridge.system.running_reads import RunningReads
from repertory.bridge.system.source_status import OpenSources, sources_left
from repertory.bridge.system.sourcing import SourceRelays

if TYPE_CHECKING:
    from repertory.bridge.system.definition import SystemDefinition

#: The pause after a tick in which nothing happened, where the log is in memory and a tick waits for nothing.
_IDLE_TICK_S = 1e-3

#: How long ``advance`` works at most, on the machine's clock.
_ADVANCE_TIMEOUT_S = 60.0

logger = logging.getLogger("repertory")


class NotSettled(TimeoutError):
    """Commands or commits were left when the timeout passed; the message names one."""


class Running(RunningReads):
    """One worker on the caller's thread. ``client`` sends commands, :meth:`settle` works until none is left.

    ``client.ask`` works until the answer is there. Several threads may ask, and take turns; the other methods are for
    one thread.

    :meth:`crash` drops everything that is not in the log, as SIGKILL does, and starts a new worker. Where an exception
    leaves the worker within its work (Ctrl-C, an error of a report subscriber), the next call does the same: nothing
    is lost, and a notebook's cell may be run again.
    """

    def __init__(
        self,
        system: SystemDefinition,
        backend: Backend,
        clock: Clock | None = None,
        *,
        accepts: Mapping[ShardId, Accepted] | None = None,
    ) -> None:
        """``accepts``: what an operator accepts about shards; see ``bridge.system.accept``."""
        self.system = system
        self._backend = backend
        self._accepts = accepts or {}
        self._clock = clock or SystemClock()
        self._is_closed = False
        #: One thread works at a time: an ask works on the thread of its caller.
        self._ticking = threading.RLock()
        self._lives = 0
        #: Called at each kill point (``bridge.kill_points``) that this worker reaches; a test may raise there.
        self.on_kill_point: Callable[[str], None] | None = None
        #: The run of a node that is recorded in shard records (``actors.shard.crash_guard``). Empty: the next owner
        #: guards no command.
        self.owner = ""
        #: Called with each report of the loop, like ``supervision.process.work.Control.report`` in a worker process.
        self.report: ReportSink = lambda _report: None
        try:
            system.prepare(backend)
            system.announce(backend)
            self._catalogue = system.catalogue(backend)
            self.reader: Reader = backend.reader()
            self._source_logs = OpenSources(system, backend)
            self.client = Client(system, backend, drive=self._drive)
            self._log, self.loop = self._start()
            self._followings = Followings(system, backend)
        except BaseException:
            backend.close()
            raise

    def _start(self) -> tuple[Log, ShardLoop]:
        self._lives += 1
        member = Member(self.system.name, socket.gethostname(), 0)
        log = self._backend.log(member, self.system.commands_topics())
        topology = msgspec.structs.replace(self.system.topology(log.partition_count), accepts=self._accepts)
        self._effects = self.system.effects(lambda: log.is_sure)
        self._relays = self._start_relays(member.node)
        loop = ShardLoop(
            log,
            self.system.region(topology, seed=self._lives, in_flight=[0, 0, 0], owner=self.owner),
            self._clock,
            poll_timeout_s=self.system.settings.poll_timeout_s,
            turn_max_s=self.system.settings.turn_time_max_s,
            turns_max_s=self.system.settings.turns_max_s,
            report=self._report,
            newer=self._catalogue.known,
            effects=self._effects,
        )
        return log, loop

    def _start_relays(self, node: str) -> SourceRelays | None:
        """Relay the sources too, unless there are none, or the shards only recover for an operator."""
        if not self.system.sources or self._accepts:
            return None
        return SourceRelays(self.system, self._backend, self._clock, node=node, report=self._report)

    def _reached(self, point: str, _later_s: float) -> None:
        if self.on_kill_point is not None:
            self.on_kill_point(point)

    def _report(self, report: ShardReport) -> None:
        self.report(report)

    def tick(self, timeout_s: float = 0.0) -> bool:
        """Run one tick of the loop; return whether anything happened."""
        with self._ticking:
            if self._is_closed:
                raise RuntimeError(f"this worker of {self.system.name} was closed: start another one")
            if self.loop.ticks.is_interrupted or (self._relays and self._relays.loop.ticks.is_interrupted):
                self.crash()
            if self.on_kill_point is None:
                return self._tick(timeout_s)
            with kill_points.observed_by(self._reached):
                return self._tick(timeout_s)

    def _tick(self, timeout_s: float) -> bool:
        """Relay, then handle commands: those that were relayed just now too; then project what was committed."""
        is_busy = self._relays is not None and self._relays.loop.tick(0.0)
        is_busy = self.loop.tick(0.0 if is_busy else timeout_s) or is_busy
        return self._followings.step() or is_busy

    def _drive(self) -> None:
        """Run one tick for an ask of ``client``, which waits for its answer."""
        with self._ticking:
            if not self._is_closed and not self.tick(self.system.settings.poll_timeout_s):
                time.sleep(_IDLE_TICK_S)

    def run_forever(self) -> None:
        """Work until SIGTERM or Ctrl-C. Log lines of this thread name the command that is in a handler."""
        stopping, started_s, is_ready = threading.Event(), self._clock.monotonic_s(), False
        log_lines.follow(self.system.name, self._handled)
        before = {
            number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            while not stopping.is_set():
                if not self.tick(self.system.settings.poll_timeout_s):
                    stopping.wait(self.system.settings.poll_timeout_s)
                if not is_ready and self._has_recovered_all():
                    is_ready, seconds = True, self._clock.monotonic_s() - started_s
                    count = len(self.loop.region)
                    logger.info("%s is ready: %d shards in this process, %.1f s", self.system.name, count, seconds)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def settle(self, timeout_s: float = 60.0) -> None:
        """Work until no command is left: none unread, none in a mailbox, none stashed until a restart, no timer due.

        Projections are up to date then, except where they have stopped. Parked keys stay parked. Raises
        NotSettled after ``timeout_s``.
        """
        deadline_s = self._clock.monotonic_s() + timeout_s
        while (left := self._left()) is not None:
            if self._clock.monotonic_s() > deadline_s:
                raise NotSettled(f"{self.system.name} has not settled after {timeout_s} s: {left}")
            while self.tick(self.system.settings.poll_timeout_s) and self._clock.monotonic_s() <= deadline_s:
                pass
            self._let_effects_run()

    def _left(self) -> str | None:
        """Describe something that is still to be done."""
        left = None if self._relays is None else sources_left(self.reader, self.system, self._source_logs)
        return left or self._followings.left(self.reader, self.loop.region, self._clock.epoch_ms())

    def advance(self, seconds: float) -> None:
        """Let time pass, on ``memory:`` only: the calendar moves on, and whatever is due by then is done in its order.

        It stops at each time at which something is due: a timer, a delayed message, the retry of a failed command or of
        an effect. Effects take the time that they take.
        Raises ValueError on another log, whose clock is that of others too, or for a negative time; NotSettled if what
        is due does not come to an end within a minute.
        """
        clock = self._clock
        if not isinstance(clock, MovableClock):
            raise ValueError("time can be advanced on memory: only; on another log wait until it has passed")  # noqa: TRY004
        if not 0 <= seconds <= DELAY_S_MAX:
            raise ValueError(f"time can be advanced by 0 s or more, not by {seconds!r:.100}")
        deadline_s, end_ms = clock.monotonic_s() + _ADVANCE_TIMEOUT_S, clock.epoch_ms() + round(seconds * 1_000)
        clock.freeze()
        try:
            while True:
                while self.tick() or self._let_effects_run():
                    if clock.monotonic_s() > deadline_s:
                        raise NotSettled(f"{self.system.name} still works after {_ADVANCE_TIMEOUT_S:g} s")
                of_sources = None if self._relays is None else self._relays.loop.next_due_ms()
                due_ms = min(filter(None, [*map(_next_due_ms, self.loop.region), of_sources]), default=end_ms)
                clock.freeze(min(due_ms, end_ms))
                if due_ms >= end_ms and not self.tick():
                    return
        finally:
            clock.resume()

    def _let_effects_run(self) -> bool:
        """Leave the processor to effects that run, for a moment; return whether there are any."""
        if self._effects.is_running:
            time.sleep(_IDLE_TICK_S)
        return self._effects.is_running

    def has_recovered(self, shard: ShardId) -> bool:
        """Return whether a shard is recovered here, and no commit of it is in flight."""
        assigned = self.loop.region.named(str(shard))
        return assigned is not None and assigned.phase is ShardPhase.RUNNING

    def _handled(self) -> tuple[ShardId, Envelope] | None:
        return self.loop.region.handled()

    def _has_recovered_all(self) -> bool:
        shards = (
            ShardId(hosted.behaviour.name, partition)
            for hosted in self.system.hosted.values()
            for partition in range(hosted.partitions)
        )
        return all(map(self.has_recovered, shards))

    def crash(self) -> None:
        """Drop everything in the worker's memory without leaving the group, and start a new worker."""
        with self._ticking:
            self.loop.ticks.is_interrupted = True  # If Ctrl-C comes below, the next tick begins here.
            self._effects.close()
            if self._relays is not None:
                self._relays.abandon()
            self._log.abandon()
            self._log, self.loop = self._start()

    def close(self) -> None:
        """Finish the commits in flight, leave the group and close the log. May be called again after Ctrl-C."""
        with self._ticking:
            is_first, self._is_closed = not self._is_closed, True
            if is_first and not self.loop.ticks.is_interrupted:
                self.loop.drain(self._clock.monotonic_s() + self.system.settings.stop_timeout_s)
            if self._relays is not None:
                self._relays.loop.drain(self._clock.monotonic_s() + self.system.settings.stop_timeout_s)
                self._relays.close()
            self._effects.close()
            self._log.close()
            self._catalogue.close()
            self._followings.close()
            self.client.close()
        if self._producer is not None:
            self._producer.close()
        self._source_logs.close()
        self.reader.close()
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _next_due_ms(assigned: AssignedShard) -> int | None:
    if (shard := assigned.shard) is None:
        return None
    return min((each for each in (shard.next_due_ms(), shard.effects.next_due_ms()) if each is not None), default=None)

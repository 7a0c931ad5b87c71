"""The bank while it is tested: in worker processes that are killed, or in this process, where a kill is simulated."""

from __future__ import annotations

import os
import signal
import time
from random import Random
from types import TracebackType
from typing import Protocol, Self

from examples.banking.watch import Watch, Watcher
from repertory import ActorSystem, Client, NodeReport, ShardLost, ShardRestored, WorkerStarted, connect
from repertory.verify import Reader

#: The most kill points that are passed before a simulated kill: a few turns of a loop with all its shards.
_POINTS_MAX = 60
_WAIT_S = 0.02
#: The prefix of the shards of transfers in reports. The watch sees the commits of these shards.
_TRANSFERS = "transfer/"


class BankDown(Exception):
    """The bank stopped by itself; the message has its exit code."""


class RunningBank(Protocol):
    """The bank, running on a log."""

    client: Client
    reader: Reader
    watch: Watch
    restarts: int
    replayed: int

    def work(self) -> None:
        """Let the bank work for a moment and update the watch. Raises BankDown if the bank has stopped."""

    def kill(self) -> bool:
        """Kill a worker without warning; return False if none is alive at the moment."""

    def rest(self) -> None:
        """Let the bank finish its work in progress, and stop it. The reader stays open."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Killed(BaseException):
    """Interrupts a turn of the loop. It is a BaseException, so that the loop does not handle it as a failure."""


class BankInProcess:
    """The bank in this process, on ``memory:``. A kill drops the state of the loop at a random kill point."""

    def __init__(self, system: ActorSystem, run: str, random: Random) -> None:
        self._running = system.start("memory:")
        self._running.report = self._take
        self.client, self.reader = self._running.client, self._running.reader
        self._random = random
        self._points_left = 0
        self.watch = Watch(system, run, self.reader)
        self.restarts = self.replayed = 0

    def work(self) -> None:
        """Run one turn of the loop."""
        self._running.tick()
        self.watch.look(self.reader, 0.0)

    def kill(self) -> bool:
        """Work until a random kill point, crash there, and start again."""
        self._points_left = self._random.randint(1, _POINTS_MAX)
        self._running.on_kill_point = self._pass
        try:
            while True:
                self._running.tick()
        except Killed:
            killed_s = time.monotonic()
        self._running.on_kill_point = None
        self.watch.look(self.reader, 0.0)
        self.watch.struck(self.reader, dict.fromkeys(self.watch.partitions, killed_s))
        self._running.crash()
        self.restarts += 1
        return True

    def rest(self) -> None:
        """Work until all commands are handled."""
        self._running.settle()

    def _pass(self, _point: str) -> None:
        self._points_left -= 1
        if self._points_left <= 0:
            raise Killed

    def _take(self, report: NodeReport) -> None:
        if isinstance(report, ShardRestored) and self.restarts:
            self.replayed += report.records

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()


class BankInWorkers:
    """The bank in supervised worker processes. A kill sends SIGKILL to one of them."""

    def __init__(self, system: ActorSystem, target: str, run: str, log: str, workers: int, random: Random) -> None:
        self._random = random
        self._first_starts = workers
        self._owners: dict[str, str] = {}
        self.restarts = self.replayed = 0
        self._backend = connect(log)
        system.prepare(self._backend)
        self.client, self.reader = Client(system, self._backend), self._backend.reader()
        self.watch = Watch(system, run, self.reader)
        self._node = system.spawn(target, log=log, workers=workers)
        self._watcher = Watcher(self.watch, log)

    def work(self) -> None:
        """Process the reports of the node."""
        for report in self._node.poll(_WAIT_S):
            self._take(report)
        self._watcher.check()
        if self._node.exit_code is not None:
            raise BankDown(
                f"the workers' node ended by itself with exit code {self._node.exit_code}; its log lines show why"
            )

    def kill(self) -> bool:
        """Kill one of the live workers. There is none while the last one restarts."""
        if not self._node.workers:
            return False
        worker = self._random.choice(sorted(self._node.workers))
        os.kill(self._node.workers.pop(worker), signal.SIGKILL)
        killed_s = time.monotonic()
        lost = [shard for shard, owner in self._owners.items() if owner == worker]
        for shard in lost:
            del self._owners[shard]
        partitions = [int(shard.removeprefix(_TRANSFERS)) for shard in lost if shard.startswith(_TRANSFERS)]
        self.watch.struck(self.reader, dict.fromkeys(partitions, killed_s))
        return True

    def rest(self) -> None:
        """Stop the workers gracefully, as an operator does."""
        exit_code = self._node.stop()
        if exit_code:
            raise BankDown(f"the workers' node stopped with exit code {exit_code}; its log lines show why")

    def _take(self, report: NodeReport) -> None:
        match report:
            case WorkerStarted():
                self._first_starts -= 1
                self.restarts += self._first_starts < 0
            case ShardRestored(worker=worker, shard=shard, records=records):
                self._owners[shard] = worker
                self.replayed += records if self.restarts else 0
            case ShardLost(shard=shard):
                self._owners.pop(shard, None)
            case _:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._watcher:
            self._node.stop()
        self.client.close()
        self.reader.close()
        self._backend.close()

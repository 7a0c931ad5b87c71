"""A simulated node: workers that are a log's member and a loop each, under the supervisor that real nodes have."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import assert_never

import msgspec

from actors.context import Directory
from bridge.embedded_backend import EmbeddedBackend
from bridge.log import LogUnavailable, Member, SlotTaken
from bridge.loop import ShardLoop
from bridge.process import worker_policy
from bridge.region import Escalated, Role, ShardRegion
from bridge.simulation.faulty_log import FaultyLog, Ledger, Pending
from bridge.simulation.swarm import Swarm
from bridge.simulation.virtual import Violation, VirtualClock
from bridge.simulation.watch import Watch
from bridge.system import ActorSystem
from supervision import (
    Add,
    Command,
    Due,
    Escalate,
    Event,
    Exited,
    Failed,
    Failure,
    Start,
    Started,
    Stop,
    Tree,
    TreePhase,
    WakeAfter,
    step,
)

logger = logging.getLogger("understudy.simulation")

#: A node that gave up is started again by whoever runs it, after this.
_NODE_RESTART_S = 1.0


class Killed(BaseException):
    """A worker dies here. No handler's and no loop's ``except`` is meant for it."""


class Kit(msgspec.Struct, frozen=True):
    """What each worker of a run is made from."""

    system: ActorSystem
    swarm: Swarm
    backend: EmbeddedBackend
    clock: VirtualClock
    ledger: Ledger
    roles: dict[str, Role]
    directory: Directory
    report: Callable[..., None]
    probes: Counter[str]


class WatchedRegion(ShardRegion):
    """A region whose supervision is checked at every step."""

    def __init__(self, kit: Kit, tree: Tree) -> None:
        super().__init__(kit.roles, tree, kit.directory, kit.system.limits())
        self._watch = Watch("shards", kit.probes)

    def supervise(self, event: Event, now_s: float) -> None:
        """See ``ShardRegion``."""
        before = self.tree
        super().supervise(event, now_s)
        self._watch.saw(before, event, self.tree, step(before, event, now_s)[1], now_s)


class Worker:
    """One incarnation of a worker process."""

    def __init__(self, kit: Kit, name: str, incarnation: int) -> None:
        self.name, self.incarnation, self._kit = name, incarnation, kit
        slot = int(name.rpartition("-")[2])
        member = Member(kit.system.name, "node", slot)
        inner = kit.backend.log(member, kit.system.commands_topics())
        swarm = kit.swarm
        self.log = FaultyLog(
            inner, f"{name}#{incarnation}", kit.clock, kit.ledger, piece=swarm.piece, events=swarm.events
        )
        self.region = WatchedRegion(kit, Tree(swarm.shards, swarm.strategies[0], slot))
        self.loop = ShardLoop(
            self.log,
            self.region,
            kit.clock,
            poll_timeout_s=0.05,
            report=kit.report,
            fault_point=self.fault_point,
        )
        #: Stopped (SIGSTOP) until then; killed then instead, if ``stuck``.
        self.asleep_until_s = 0.0
        self.stuck = False
        #: The point at which it is killed, and how often it passes there before.
        self.kill_at: tuple[str, int] | None = None

    def fault_point(self, point: str) -> None:
        """Die here, if that was armed."""
        if self.kill_at is None or self.kill_at[0] != point:
            return
        if self.kill_at[1]:
            self.kill_at = point, self.kill_at[1] - 1
            return
        self._kit.probes[f"killed at {point}"] += 1
        raise Killed(point)

    def next_s(self, now_s: float) -> float | None:
        """Return when this worker has something to do by itself."""
        patience_s = self.region.patience_s(now_s, self._kit.clock.epoch_ms)
        instants = [self.log.next_s(), None if patience_s is None else now_s + patience_s]
        return min((each for each in instants if each is not None), default=None)


class Node:
    """Its workers, under ``supervision.machine`` as the Guardian runs it; see ``supervision.process``."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self.workers: dict[str, Worker] = {}
        #: Commits of dead workers that are still on their way.
        self.orphans: list[tuple[Pending, Worker]] = []
        self._due: dict[Due, float] = {}
        self._queue: deque[Event] = deque()
        self.tree = Tree(worker_policy(kit.swarm.workers_policy), kit.swarm.strategies[1])
        self._watch = Watch("workers", kit.probes)
        self._restart_s: float | None = None
        self.turning: Worker | None = None

    def begin(self, names: list[str]) -> None:
        """Start, with these workers."""
        for name in names:
            self.supervise(Add(name))

    # --- supervision ------------------------------------------------------------------------------------------

    def supervise(self, event: Event) -> None:
        """Hand one event to the machine and carry out its commands, before any event that these bring about."""
        self._queue.append(event)
        if len(self._queue) > 1:
            return
        while self._queue:
            now_s, before = self._kit.clock.monotonic_s(), self.tree
            self.tree, commands = step(before, self._queue[0], now_s)
            self._watch.saw(before, self._queue[0], self.tree, commands, now_s)
            for command in commands:
                self._carry_out(command, now_s)
            self._queue.popleft()

    def _carry_out(self, command: Command, now_s: float) -> None:
        match command:
            case Start(child, incarnation):
                if old := self.workers.get(child):
                    self._end(old)
                self.workers[child] = Worker(self._kit, child, incarnation)
                self._queue.append(Started(child, incarnation))
            case Stop(child, incarnation):
                worker = self.workers.get(child)
                if worker is not None and worker.incarnation == incarnation:
                    self._stop(worker)
                self._queue.append(Exited(child, incarnation))
            case WakeAfter(child, incarnation, delay_s):
                self._due[Due(child, incarnation)] = now_s + delay_s
            case Escalate(failure):
                logger.debug("the node gives up: %s", failure.message)
                self._restart_s = now_s + _NODE_RESTART_S
            case _:
                assert_never(command)

    def _stop(self, worker: Worker) -> None:
        """Let a worker drain and leave; one that does not answer is killed."""
        clock = self._kit.clock
        try:
            if worker.asleep_until_s <= clock.monotonic_s():
                drained = worker.loop.drain(clock.monotonic_s() + self._kit.swarm.settings.stop_timeout_s)
                self._kit.probes["drained" if drained else "not drained in time"] += 1
                del self.workers[worker.name]
                worker.log.close()
                return
        except (Killed, Escalated, LogUnavailable, SlotTaken):
            pass
        self._end(worker)

    def _end(self, worker: Worker) -> None:
        """End a worker as SIGKILL does; what it has sent is on its way."""
        self.workers.pop(worker.name, None)
        self.orphans += [(pending, worker) for pending in worker.log.pending]
        worker.log.abandon()

    def fail(self, worker: Worker, failure: Failure) -> None:
        """End a worker, and tell the supervisor why and that it is gone."""
        self._end(worker)
        self.supervise(Failed(worker.name, worker.incarnation, failure))
        self.supervise(Exited(worker.name, worker.incarnation))

    def kill(self, worker: Worker, why: str) -> None:
        """Kill a worker."""
        self.fail(worker, Failure("Killed", why, f"{worker.name}#{worker.incarnation}"))

    # --- turns ------------------------------------------------------------------------------------------------

    def attend(self) -> bool:
        """Do what is due at the node: restarts, late commits, sleepers that are killed. Tell whether something was."""
        now_s = self._kit.clock.monotonic_s()
        due = [event for event, at_s in self._due.items() if at_s <= now_s]
        for event in due:
            del self._due[event]
            self.supervise(event)
        arrived = [orphan for orphan in self.orphans if orphan[0].due_s <= now_s]
        self.orphans = [orphan for orphan in self.orphans if orphan[0].due_s > now_s]
        for pending, worker in arrived:
            worker.log.arrive(pending)
        for worker in list(self.workers.values()):
            if worker.stuck and worker.asleep_until_s <= now_s:
                self._kit.probes["killed for no progress"] += 1
                self.kill(worker, "no progress")
        if self._restart_s is not None and self._restart_s <= now_s and self.tree.phase is not TreePhase.ESCALATING:
            self._restart()
        return bool(due or arrived)

    def _restart(self) -> None:
        """Start the whole node again, as an operator or systemd does."""
        self._kit.probes["node started again"] += 1
        for worker in list(self.workers.values()):
            self._end(worker)
        self._restart_s = None
        names = [child.name for child in self.tree.children]
        self._due.clear()
        self.tree = Tree(self.tree.policy, self.tree.strategy)
        self._watch = Watch("workers", self._kit.probes)
        self.begin(names)

    def turn(self, worker: Worker) -> bool:
        """Let a worker do one turn of its loop; tell whether it did anything."""
        if worker.asleep_until_s > self._kit.clock.monotonic_s():
            return False
        where = f"{worker.name}#{worker.incarnation}"
        self.turning = worker
        try:
            return worker.loop.tick(0.0)
        except Killed as point:
            failure = Failure("Killed", f"killed at {point}", where)
        except Escalated as error:
            failure = Failure.of(error, where)
            self._kit.probes["worker escalated"] += 1
        except (LogUnavailable, SlotTaken, MemoryError) as error:
            failure = Failure.of(error, where)
            self._kit.probes[f"worker ended by {type(error).__name__}"] += 1
        except Violation:
            raise
        except Exception as error:
            trace = Failure.of(error, where).traceback
            raise Violation("the runtime does not fail by itself", f"{where}: {trace}") from error
        finally:
            self.turning = None
        self.fail(worker, failure)
        return True

    def next_s(self) -> float | None:
        """Return when something happens here by itself."""
        now_s = self._kit.clock.monotonic_s()
        instants = [*self._due.values(), *(pending.due_s for pending, _ in self.orphans)]
        if self._restart_s is not None:
            instants.append(self._restart_s)
        for worker in self.workers.values():
            at_s = worker.next_s(now_s)
            if worker.asleep_until_s > now_s:
                at_s = worker.asleep_until_s
            if at_s is not None:
                instants.append(at_s)
        return min(instants, default=None)

"""A simulated node: workers under the same supervision as in a real node."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from typing import assert_never

from repertory.actors.shard.crash_guard import COMMAND
from repertory.bridge import kill_points
from repertory.bridge.log.errors import LogUnavailable, SlotTaken
from repertory.bridge.region import RegionEscalated
from repertory.bridge.worker import worker_policy
from repertory.simulation.pending import Pending
from repertory.simulation.virtual import Violation
from repertory.simulation.watch import SupervisionMonitor
from repertory.simulation.worker import Killed, Kit, SimulatedWorker
from repertory.supervision import (
    Add,
    Due,
    Escalate,
    Exited,
    Failed,
    Failure,
    Start,
    Started,
    Stop,
    Tree,
    TreeCommand,
    TreeEvent,
    TreePhase,
    WakeAfter,
    step,
)

logger = logging.getLogger("repertory.simulation")

#: Frames of the traceback of an error in the runtime itself.
_FRAMES_MAX = 50
#: The delay after which a node that gave up is started again, as systemd or an operator does.
_NODE_RESTART_S = 1.0


class SimulatedNode:
    """Workers under ``supervision.machine``, run as the Guardian runs it; see ``supervision.process.guardian``."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self.workers: dict[str, SimulatedWorker] = {}
        #: Commits in flight of workers that are dead.
        self.orphans: list[tuple[Pending, SimulatedWorker]] = []
        self._due: dict[Due, float] = {}
        self._queue: deque[TreeEvent] = deque()
        self.tree = Tree(worker_policy(kit.swarm.workers_policy), kit.swarm.strategies[1])
        self._monitor = SupervisionMonitor("workers", kit.probes)
        self._restart_s: float | None = None
        self._run = 1
        #: Whether the whole node dies with the next worker that dies in a handler.
        self.is_fragile = False
        self.turning: SimulatedWorker | None = None

    def begin(self, names: list[str]) -> None:
        """Start these workers."""
        for name in names:
            self.supervise(Add(name))

    # --- supervision ------------------------------------------------------------------------------------------

    def supervise(self, event: TreeEvent) -> None:
        """Pass one event to the machine and execute its commands; events that these cause are processed afterwards."""
        self._queue.append(event)
        if len(self._queue) > 1:
            return
        while self._queue:
            now_s, before = self._kit.clock.monotonic_s(), self.tree
            self.tree, commands = step(before, self._queue[0], now_s)
            self._monitor.saw(before, self._queue[0], self.tree, commands, now_s)
            for command in commands:
                self._carry_out(command, now_s)
            self._queue.popleft()

    def _carry_out(self, command: TreeCommand, now_s: float) -> None:
        match command:
            case Start(child, incarnation):
                if old := self.workers.get(child):
                    self._end(old)
                self.workers[child] = SimulatedWorker(self._kit, child, incarnation)
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

    def _stop(self, worker: SimulatedWorker) -> None:
        """Drain and stop a worker; kill it if it does not respond."""
        clock = self._kit.clock
        before, self.turning = self.turning, worker
        try:
            if worker.asleep_until_s <= clock.monotonic_s():
                kill_points.reached("stopping")
                drained = worker.loop.drain(clock.monotonic_s() + self._kit.swarm.settings.stop_timeout_s)
                self._kit.probes["drained" if drained else "not drained in time"] += 1
                del self.workers[worker.name]
                worker.effects.abandon()
                worker.log.close()
                return
        except (Killed, RegionEscalated, LogUnavailable, SlotTaken):
            pass
        finally:
            self.turning = before
        self._end(worker)

    def _end(self, worker: SimulatedWorker) -> None:
        """End a worker as SIGKILL does, once. Its commits in flight may still arrive."""
        if worker.ended:
            return
        worker.ended, worker.kill_at = True, None
        self.workers.pop(worker.name, None)
        self.orphans += [(pending, worker) for pending in worker.log.pending]
        if worker.in_flight[COMMAND]:
            self._kit.dead.append(worker.in_flight)
        worker.effects.abandon()
        worker.log.abandon()

    def fail(self, worker: SimulatedWorker, failure: Failure) -> None:
        """End a worker, and report its failure and its exit to the supervisor."""
        self._end(worker)
        self.supervise(Failed(worker.name, worker.incarnation, self.tree.policy.of_one_gone(failure)))
        self.supervise(Exited(worker.name, worker.incarnation))

    @property
    def owner(self) -> str:
        """The name of this run of the node; a restarted node has another name."""
        return f"node/{self._run}"

    def kill(self, worker: SimulatedWorker, why: str) -> None:
        """Kill a worker."""
        self.fail(worker, Failure("Killed", why, f"{worker.name}#{worker.incarnation}"))

    def lose(self) -> None:
        """End all workers at once and lose their announced commands: the next node does not know that they died."""
        for worker in list(self.workers.values()):
            self._end(worker)
        self._kit.dead.clear()
        self._due.clear()
        self._restart_s = self._kit.clock.monotonic_s() + _NODE_RESTART_S

    # --- turns ------------------------------------------------------------------------------------------------

    def attend(self) -> bool:
        """Do what is due: restarts, late commits, kills of stuck workers. Return whether a restart or commit was."""
        now_s = self._kit.clock.monotonic_s()
        due = [event for event, at_s in self._due.items() if at_s <= now_s] if self._due else ()
        for event in due:
            del self._due[event]
            self.supervise(event)
        arrived = [orphan for orphan in self.orphans if orphan[0].due_s <= now_s] if self.orphans else ()
        if arrived:
            self.orphans = [orphan for orphan in self.orphans if orphan[0].due_s > now_s]
            for pending, worker in arrived:
                worker.log.arrive(pending)
        for worker in list(self.workers.values()):
            if worker.stuck and worker.asleep_until_s <= now_s and not worker.ended:
                self._kit.probes["killed for no progress"] += 1
                self.kill(worker, "no progress")
        if self._restart_s is not None and self._restart_s <= now_s and self.tree.phase is not TreePhase.ESCALATING:
            self._restart()
        return bool(due or arrived)

    def _restart(self) -> None:
        """Start the whole node again, as systemd or an operator does."""
        self._kit.probes["node started again"] += 1
        for worker in list(self.workers.values()):
            self._end(worker)
        self._restart_s = None
        self._run += 1
        self._kit.dead.clear()
        names = [child.name for child in self.tree.children]
        self._due.clear()
        self.tree = Tree(self.tree.policy, self.tree.strategy)
        self._monitor = SupervisionMonitor("workers", self._kit.probes)
        self.begin(names)

    def turn(self, worker: SimulatedWorker) -> bool:
        """Run one turn of a worker's loop; return whether it did anything."""
        if worker.asleep_until_s > self._kit.clock.monotonic_s():
            return False
        where = f"{worker.name}#{worker.incarnation}"
        self.turning = worker
        try:
            return worker.tick()
        except Killed as point:
            failure = Failure("Killed", f"killed at {point}", where)
        except RegionEscalated as error:
            failure = Failure.of(error, where)
            self._kit.probes["worker escalated"] += 1
        except (LogUnavailable, SlotTaken, MemoryError) as error:
            failure = Failure.of(error, where)
            self._kit.probes[f"worker ended by {type(error).__name__}"] += 1
        except Violation:
            raise
        except Exception as error:
            trace = "".join(traceback.format_exception(error, limit=_FRAMES_MAX))
            raise Violation("the runtime does not fail by itself", f"{where}: {trace}") from error
        finally:
            self.turning = None
        if self.is_fragile and worker.in_flight[COMMAND]:
            self._kit.probes["a command took its node down"] += 1
            self.lose()
        else:
            self.fail(worker, failure)
        return True

    def next_s(self) -> float | None:
        """Return the time of the next event that needs no caller, None if there is none."""
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

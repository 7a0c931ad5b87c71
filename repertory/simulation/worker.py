"""A simulated worker: a member of the log's group and a loop, as in one process of a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from repertory.actors.shard.crash_guard import COMMAND, SHARD
from repertory.bridge.hosted_entity import Topology
from repertory.bridge.log.port import Member
from repertory.bridge.loop import ShardLoop
from repertory.bridge.node.in_flight import PID
from repertory.bridge.region import ShardRegion
from repertory.bridge.reports import ReportSink
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.commit_monitor import CommitMonitor
from repertory.simulation.faulty_log import FaultyLog
from repertory.simulation.killable import KillableBackend
from repertory.simulation.output_refusals import OutputRefusals
from repertory.simulation.swarm import Swarm
from repertory.simulation.virtual import VirtualClock
from repertory.simulation.watch import SupervisionMonitor
from repertory.simulation.world import SimulatedEffects, World
from repertory.supervision import Tree, TreeCommand, TreeEvent


class Killed(BaseException):
    """A worker dies here. It is a BaseException, so that no handler and no loop catches it."""


class Kit(msgspec.Struct, frozen=True):
    """The parts that the workers of a run share."""

    system: ActorSystem
    swarm: Swarm
    backend: KillableBackend
    clock: VirtualClock
    monitor: CommitMonitor
    topology: Topology
    report: ReportSink
    probes: Counter[str]
    #: The commands that dead workers were handling, see ``bridge.node.in_flight``. Lost with their node.
    dead: list[list[int]]
    #: The name of the node's run in shard records.
    owner: Callable[[], str]
    refusals: OutputRefusals
    world: World

    def deaths(self, shard: int) -> list[tuple[int, int]]:
        """See ``bridge.node.in_flight``."""
        found = []
        for in_flight in self.dead:
            if in_flight[SHARD] == shard and in_flight[COMMAND]:
                found.append((in_flight[COMMAND] - 1, in_flight[PID]))
                in_flight[COMMAND] = 0
        self.dead[:] = [in_flight for in_flight in self.dead if in_flight[COMMAND]]
        return found


class WatchedRegion(ShardRegion):
    """A region whose supervision is checked at every step."""

    def __init__(self, kit: Kit, tree: Tree, in_flight: list[int]) -> None:
        super().__init__(kit.topology, tree, in_flight, kit.owner())
        self._monitor = SupervisionMonitor("shards", kit.probes)

    def supervise(self, event: TreeEvent, now_s: float) -> tuple[TreeCommand, ...]:
        """See ``ShardRegion``."""
        before = self.tree
        commands = super().supervise(event, now_s)
        self._monitor.saw(before, event, self.tree, commands, now_s)
        return commands


class SimulatedWorker:
    """One incarnation of a worker process."""

    def __init__(self, kit: Kit, name: str, incarnation: int) -> None:
        self.name, self.incarnation, self._kit = name, incarnation, kit
        slot = int(name.rpartition("-")[2])
        member = Member(kit.system.name, "node", slot)
        inner = kit.backend.log_of(member, kit.system.commands_topics())
        swarm = kit.swarm
        self.log = FaultyLog(
            inner, kit.backend.appender(), f"{name}#{incarnation}", kit.clock, kit.monitor, kit.refusals,
            piece=swarm.piece, events=swarm.events, markers=swarm.markers,
        )  # fmt: skip
        self.in_flight = [incarnation, 0, 0]
        self.region = WatchedRegion(kit, Tree(swarm.shards, swarm.strategies[0], slot), self.in_flight)
        self.loop = ShardLoop(
            self.log,
            self.region,
            kit.clock,
            poll_timeout_s=0.05,
            report=kit.report,
            deaths=kit.deaths,
        )
        self.effects = SimulatedEffects(kit.world)
        #: The time until which the worker is stopped (SIGSTOP). If ``stuck``, it is killed then instead of continued.
        self.asleep_until_s = 0.0
        self.stuck = self.ended = False
        #: The point at which it is killed, and how often it passes that point before.
        self.kill_at: tuple[str, int] | None = None

    def tick(self) -> bool:
        """Run one turn of the loop, and what effects do meanwhile; return whether anything happened."""
        is_busy = self.loop.tick(0.0)
        return self.effects.step(self.region) or is_busy

    def reached(self, point: str) -> None:
        """Die at a kill point, if a kill is armed there."""
        if self.kill_at is None or self.kill_at[0] != point:
            return
        if self.kill_at[1]:
            self.kill_at = point, self.kill_at[1] - 1
            return
        self._kit.probes[f"killed at {point}"] += 1
        raise Killed(point)

    def next_s(self, now_s: float) -> float | None:
        """Return the time of the worker's next event that needs no caller, None if there is none."""
        next_due_in_s = self.region.next_due_in_s(now_s, self._kit.clock.epoch_ms)
        due_s = None if next_due_in_s is None else now_s + next_due_in_s
        instants = [self.log.next_s(), due_s, self.effects.next_s(self.region, now_s)]
        return min((each for each in instants if each is not None), default=None)

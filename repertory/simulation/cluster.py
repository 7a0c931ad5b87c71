"""One simulated run: a node of workers on an embedded log, clients, injected faults, and a clock, in one thread.

A run has two phases. In the first, commands are sent and faults are injected. Then all faults end, and within a limit
of virtual time all commands must be handled, all shards must run, and only commands of parked keys may be stashed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import MappingProxyType

import msgspec

from repertory.actors.shard.config import AT_LEAST_ONCE
from repertory.bridge import kill_points, topics
from repertory.bridge.assigned_shard import DOWN
from repertory.bridge.log.record import Record
from repertory.bridge.loop import DOUBT
from repertory.bridge.reports import IncidentReport, ShardAborted, ShardFailed, ShardReport
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.choices import Choices, Source
from repertory.simulation.clients import ClientCommand, Clients
from repertory.simulation.commit_monitor import CommitMonitor
from repertory.simulation.handler_faults import HandlerFaults
from repertory.simulation.killable import KillableBackend
from repertory.simulation.left import left_of
from repertory.simulation.node import SimulatedNode
from repertory.simulation.output_refusals import OutputRefusals
from repertory.simulation.projecting import projecting
from repertory.simulation.swarm import Swarm, draw, simulated
from repertory.simulation.virtual import Violation, VirtualClock
from repertory.simulation.worker import Killed, Kit, SimulatedWorker
from repertory.simulation.world import Fakes, World
from repertory.supervision import ChildPhase

#: The limits of the second phase, as virtual time and as turns.
LIVENESS_S, LIVENESS_TURNS = 300.0, 6_000
#: The first phase ends when nothing is left to do, or after this many steps.
STEPS_MAX = 400

#: Phases of a supervised shard in which it must do nothing.
_DOWN = (ChildPhase.WAITING, ChildPhase.READY, ChildPhase.STOPPED)
_encode = msgspec.msgpack.Encoder().encode


class SimulatedCluster:
    """All parts of one run. Used once."""

    def __init__(
        self,
        system: ActorSystem,
        commands: Iterable[ClientCommand],
        source: Source,
        kinds: tuple[str, ...],
        *,
        ids: bool = False,
        effects: Fakes = MappingProxyType({}),
        projections: bool = True,
    ) -> None:
        """``ids``: see `Clients`; ``effects``: see `World`; ``projections``: whether there are any."""
        self.choices = Choices(source)
        projects = projections and len(system.projections) > 0
        self.swarm: Swarm = draw(self.choices, system.settings, kinds, projects=projects)
        self.system = simulated(system, self.swarm, projects=projects)
        self.clock = VirtualClock()
        self.backend = KillableBackend("memory:", self.swarm.settings, clock=self.clock)
        self.system.prepare(self.backend)
        self.reader = self.backend.reader()
        self.probes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.schedule: list[str] = []
        self.step_number = 0
        self.handler_faults = HandlerFaults(steady=self.swarm.settings.delivery == AT_LEAST_ONCE)
        #: The topology of the model. The workers have another one, whose handlers can be made to fail.
        self.topology = self.system.topology(self.reader.partition_count)
        states = {topic: hosted.codec.state for topic, hosted in self.topology.entities.items()}
        self.monitor = CommitMonitor(self.reader, states)
        self.monitor.probes = self.probes
        self.clients = Clients(self.system, self.backend.appender(), commands, ids=ids)
        name = self.system.name
        self.refusals = OutputRefusals(topics.dead_letters_topic(name), topics.replies_topic(name))
        self.world = World(self.choices, self.clock, effects, self.swarm.settings.effects_running_max)
        kit = Kit(
            self.system, self.swarm, self.backend, self.clock, self.monitor,
            self.system.topology(self.reader.partition_count, hook=self._before_handler),
            self._reported, self.probes, [], lambda: self.node.owner, self.refusals, self.world,
        )  # fmt: skip
        self.node = SimulatedNode(kit)
        self._kit = kit
        self.projections = projecting(self)
        self._turn = self._idle = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._listening = ExitStack()
        self._listening.enter_context(kill_points.observed_by(self._reached))
        self.node.begin([f"worker-{slot}" for slot in range(self.swarm.workers)])

    # --- callbacks --------------------------------------------------------------------------------------------

    def _reached(self, point: str, _later_s: float) -> None:
        """The worker whose turn it is has reached a kill point."""
        if (worker := self.node.turning) is not None:
            worker.reached(point)

    def _before_handler(self, cause: str, attempt: int) -> None:
        try:
            kill_points.reached("handling")
            self.handler_faults.strike(cause, attempt)
        except (Killed, MemoryError):
            self.handler_faults.deaths[cause] += 1
            raise

    def _reported(self, report: ShardReport) -> None:
        """Process a report of a loop: count it as a probe; an inconsistent log is a violation."""
        self.probes[report.event] += 1
        match report:
            case IncidentReport(error=error, where=where, reason=reason):
                self._incident(error, where, reason)
            case ShardFailed(error=error, reason=reason) if error.endswith("Inconsistent"):
                raise Violation("what is committed can be restored", reason)
            case ShardAborted(reason=reason) if reason.endswith(DOUBT):
                raise Violation("what is committed can be restored", reason)
            case _:
                pass

    def _incident(self, error: str, where: str, reason: str) -> None:
        """Count a death of an earlier node in a handler. If that node still runs, it is a violation."""
        self.probes["unclean takeover"] += error == "UncleanTakeover"
        if error == "ProcessDied" and reason.startswith("node "):
            self.probes["death of a node counted"] += 1
            if reason.startswith(f"node {self.node.owner} "):
                raise Violation("no command is blamed for a live node", f"{where}: {reason}, but that node runs")
            shard, _, offset = where.rpartition("@")
            entity, _, partition = shard.rpartition("/")
            self.handler_faults.deaths[f"{topics.commands_topic(self.system.name, entity)}/{partition}/{offset}"] += 1

    # --- phases -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run both phases. Raises Violation."""
        from repertory.simulation.fault_injector import FaultInjector  # noqa: PLC0415  it imports this module for its types

        injector = FaultInjector(self)
        while self.step_number < STEPS_MAX:
            self.begin_step()
            injector.act()
            self.clients.send(self.swarm.burst)
            if not self.turn_one() and self.clients.done and self.left() is None:
                break
        self.heal()
        self.settle()

    def begin_step(self) -> None:
        """Begin a step; its number identifies the choices made in it."""
        self.step_number += 1
        self.choices.begin(self.step_number)

    def turn_one(self) -> bool:
        """Run one worker's turn and advance the clock; return whether a worker may still have something to do."""
        workers = list(self.node.workers.values())
        busy = self.node.attend()
        if workers:
            self._turn += 1
            worker = workers[(self._turn + self.choices.rarely(2, 100, "order")) % len(workers)]
            if worker.name in self.node.workers:
                if self.swarm.slow_commits and self.choices.rarely(1, self.swarm.slow_commits, "slow"):
                    worker.log.delay_s = (0.01, 0.2, 2.0)[self.choices.below(3, "slow-by")]
                busy = self.node.turn(worker) or busy
                self._check_turn(worker)
        busy = self.projections.turn() or busy
        self._digest.update(f"{self.clock.monotonic_s():.6f}|{self.monitor.commits}|{busy}\n".encode())
        self.clock.advance(self.swarm.step_s)
        self._idle = 0 if busy else self._idle + 1
        if self._idle < len(workers):
            return True
        self._idle = 0
        self._skip()
        return False

    def _skip(self) -> None:
        """Advance the clock to the next event, but less than the length of a lease."""
        now_s, next_s = self.clock.monotonic_s(), self.node.next_s()
        limit_s = self.swarm.settings.session_timeout_s / 5
        wait_s = limit_s if next_s is None else min(max(next_s - now_s, 0.0), limit_s)
        self.clock.advance(wait_s)

    def heal(self) -> None:
        """End all faults."""
        self.handler_faults.lift()
        self.node.is_fragile, self.world.is_calm = False, True
        self.clock.skew_ms = 0
        self.projections.heal()
        for worker in self.node.workers.values():
            worker.log.heal()
            worker.kill_at = None
            if not worker.stuck:
                worker.asleep_until_s = 0.0

    def settle(self) -> None:
        """Work until all is done. Raises Violation if a limit is reached first."""
        deadline_s = self.clock.monotonic_s() + LIVENESS_S
        left: str | None = "the workers were busy all the time"
        for _ in range(LIVENESS_TURNS):
            self.clients.send(1_000_000)
            busy = self.node.attend()
            for worker in list(self.node.workers.values()):
                if worker.name in self.node.workers:
                    worker.kill_at = None
                    busy = self.node.turn(worker) or busy
                    self._check_turn(worker)
            self.clock.advance(0.001)
            if busy:
                continue
            self.projections.rest()
            left = self.left()
            if left is None:
                return
            if self.clock.monotonic_s() > deadline_s:
                break
            self._skip()
        raise Violation("everything is handled once the faults are over", left or "the workers never came to rest")

    # --- invariants -------------------------------------------------------------------------------------------

    def _check_turn(self, worker: SimulatedWorker) -> None:
        """Check that a shard that its supervisor delays or has stopped is down (I12)."""
        for child in worker.region.tree.children:
            if child.phase in _DOWN and (assigned := worker.region.named(child.name)) and assigned.phase not in DOWN:
                raise Violation(
                    "a stopped shard stays down",
                    f"{worker.name}: {assigned.name} is {assigned.phase.value}, {child.phase.value}",
                )
        if self.swarm.piece:
            self._check_bounds(worker)

    def _check_bounds(self, worker: SimulatedWorker) -> None:
        """Check that no mailbox holds more than its bound plus the records of one fetch (I19)."""
        limit = self.swarm.settings.mailbox_records_max + self.swarm.piece
        for assigned in worker.region:
            if assigned.shard is not None and len(assigned.shard.mailbox) > limit:
                raise Violation(
                    "mailboxes are bounded", f"{assigned.name} holds {len(assigned.shard.mailbox)} of {limit}"
                )

    def left(self) -> str | None:
        """Return a description of something that is still to be done, None if there is nothing."""
        return left_of(self) or self.projections.left()

    def trace(self, topics_read: Iterable[Sequence[Record]], violation: str | None) -> str:
        """Return a digest of the run and of what is wrong with it: the same for the same seed in every process."""
        digest = self._digest.copy()
        digest.update(repr(violation).encode("utf-8", "backslashreplace"))
        digest.update(repr(list(self.choices.tape.items())).encode())
        digest.update(self.projections.digest())
        for records in topics_read:
            digest.update(_encode(records))
        return digest.hexdigest()

    def close(self) -> None:
        """Release all resources."""
        self._listening.close()
        self.projections.close()
        for worker in self.node.workers.values():
            worker.log.abandon()
        self.backend.close()

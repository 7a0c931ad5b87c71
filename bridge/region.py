"""``ShardRegion``: the shards of one worker, under one supervision tree. Messages do not pass through it."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, MutableSequence

from repertory.actors import evolution
from repertory.actors.message import Envelope
from repertory.actors.shard.changelog import ShardId
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.crash_guard import COMMAND, SHARD
from repertory.bridge import kill_points
from repertory.bridge.assigned_shard import AssignedShard, ShardPhase
from repertory.bridge.hosted_entity import Topology
from repertory.bridge.log.record import TopicPartition
from repertory.supervision import (
    Add,
    Due,
    Escalate,
    Failure,
    Remove,
    Start,
    Stop,
    Tree,
    TreeCommand,
    TreeEvent,
    TreePhase,
    WakeAfter,
    step,
)


class RegionEscalated(Exception):
    """The shards of this worker failed too often, or cannot continue: the worker's supervisor decides."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.where}: {failure.error_type}: {failure.message}")
        self.failure = failure


class ShardRegion:
    """The assigned shards of one worker, in start order. Owned by the loop."""

    def __init__(
        self, topology: Topology, tree: Tree, in_flight: MutableSequence[int] | None = None, owner: str = ""
    ) -> None:
        """``in_flight`` and ``owner``: see `Topology.shard_config`. The tree's seed decides the order of claims."""
        self._topology = topology
        self._order = {topic: index for index, topic in enumerate(topology.entities)}
        self._in_flight, self._owner = in_flight, owner
        self._tree = tree
        self._assigned: dict[TopicPartition, AssignedShard] = {}
        self._names: dict[str, AssignedShard] = {}
        #: (due_s, child, incarnation) of scheduled restarts; there are few, so a list is enough.
        self._timers: list[tuple[float, str, int]] = []
        #: Commands of the tree that are not carried out yet. An event of one shard can cause commands for its siblings.
        self._commands: deque[Start | Stop | Escalate] = deque()

    def __iter__(self) -> Iterator[AssignedShard]:
        return iter(self._assigned.values())

    def __len__(self) -> int:
        return len(self._assigned)

    @property
    def tree(self) -> Tree:
        """The current supervision tree."""
        return self._tree

    def assigned(self, place: TopicPartition) -> AssignedShard | None:
        """Return the assigned shard of a partition."""
        return self._assigned.get(place)

    def named(self, name: str) -> AssignedShard | None:
        """Return the assigned shard that is a child of the tree."""
        return self._names.get(name)

    def under_way(self) -> str:
        """Return the command in a handler now, as ``account/3@17 key 'a-1'``, or the upcaster that runs, or "".

        May be called on any thread.
        """
        if (found := self.handled()) is None:
            return evolution.running() and f"upcaster {evolution.running()}"
        return f"{found[0]}@{found[1].offset} key {found[1].key!r:.100}"

    def handled(self) -> tuple[ShardId, Envelope] | None:
        """Return the command in a handler now, and its shard; may be called on any thread."""
        if self._in_flight is None or not self._in_flight[COMMAND]:
            return None
        for assigned in tuple(self._assigned.values()):
            shard = assigned.shard
            if shard is None or assigned.config.number != self._in_flight[SHARD]:
                continue
            if (command := shard.handling) is not None:
                return assigned.config.id, command
        return None

    def add(self, place: TopicPartition, now_s: float) -> ShardConfig:
        """Add a shard and return its configuration; siblings are in the order of ``host()``, then of partition.

        A partition that was added to the topic is no shard, since the code places no key there, and is not added.
        """
        self.forget(place, now_s)
        config = self._topology.shard_config(*place, self._in_flight, self._owner)
        if place.partition >= config.partitions:
            return config
        assigned = AssignedShard(place, config, self._topology.entities[place.topic])
        later = min((p for p in self._assigned if self._rank(p) > self._rank(place)), key=self._rank, default=None)
        before = None if later is None else self._assigned[later].name
        self._assigned[place] = self._names[assigned.name] = assigned
        self.supervise(Add(assigned.name, before), now_s)
        return config

    def forget(self, place: TopicPartition, now_s: float) -> None:
        """Remove a shard that is no longer assigned to this worker, with all its state."""
        assigned = self._assigned.pop(place, None)
        if assigned is not None:
            del self._names[assigned.name]
            self.supervise(Remove(assigned.name, gone=True), now_s)

    def supervise(self, event: TreeEvent, now_s: float) -> tuple[TreeCommand, ...]:
        """Feed the tree one event; the region keeps the timers, the loop carries out all other commands in order.

        Returns all commands of the tree, for observers.
        """
        self._tree, commands = step(self._tree, event, now_s)
        for command in commands:
            if isinstance(command, WakeAfter):
                self._timers.append((now_s + command.delay_s, command.child, command.incarnation))
            else:
                self._commands.append(command)
        if any(isinstance(command, WakeAfter) for command in commands):
            kill_points.reached("waiting-for-restart")
        return commands

    def next_command(self) -> Start | Stop | None:
        """Take the next command to carry out, or None; RegionEscalated if the tree escalates."""
        command = self._commands.popleft() if self._commands else None
        if isinstance(command, Escalate):
            raise RegionEscalated(command.failure)
        return command

    def due(self, now_s: float) -> None:
        """Fire the timers that are due."""
        for timer in [timer for timer in self._timers if timer[0] <= now_s]:
            self._timers.remove(timer)
            self.supervise(Due(timer[1], timer[2]), now_s)

    def claimable(self, now_s: float) -> list[AssignedShard]:
        """Return the shards to claim now, in an order of this worker's life.

        In a fixed order the last shards would be ready last in every life, and rarely served by a worker that is
        killed again and again while it restores its shards.
        """
        due = [a for a in self._assigned.values() if a.claim_due_s is not None and a.claim_due_s <= now_s]
        return sorted(due, key=lambda assigned: zlib.crc32(f"{self._tree.seed}/{assigned.name}".encode()))

    def describe_decision(self, name: str, now_s: float) -> str:
        """Describe the tree's decision about a shard that failed."""
        if self._tree.phase is not TreePhase.RUNNING:
            return "its worker stops, and the node decides about the worker"
        due_s = [due_s for due_s, child, _ in self._timers if child == name]
        return f"it restarts in {max(due_s) - now_s:.2f} s" if due_s else "it stays stopped, its siblings continue"

    def next_due_in_s(self, now_s: float, epoch_ms: Callable[[], int]) -> float | None:
        """Return in how many seconds the next timer is due (0: there is work now); None if there is none."""
        instants = [due_s - now_s for due_s, _, _ in self._timers]
        now_ms = None
        for assigned in self._assigned.values():
            if assigned.claim_due_s is not None:
                instants.append(assigned.claim_due_s - now_s)
            if assigned.phase is not ShardPhase.RUNNING or (shard := assigned.shard) is None:
                continue
            if len(shard.mailbox) and shard.stalled is None:
                return 0.0
            due_ms = shard.next_due_ms()
            if due_ms is not None:
                now_ms = epoch_ms() if now_ms is None else now_ms
                instants.append((due_ms - now_ms) / 1000)
        return None if not instants else max(0.0, min(instants))

    def _rank(self, place: TopicPartition) -> tuple[int, int]:
        return self._order[place.topic], place.partition

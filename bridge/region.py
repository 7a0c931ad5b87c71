"""``ShardRegion``: the shards of one worker and where each of them stands. No message passes through here."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableSequence

import msgspec

from repertory.actors.context import Directory
from repertory.actors.entity import Behaviour
from repertory.actors.shard.config import Limits, ShardConfig
from repertory.actors.shard.shard import COMMAND, SHARD, Shard
from repertory.actors.shard.turn_result import ShardId, TurnResult
from repertory.bridge import kill_points
from repertory.bridge.codec import Codec
from repertory.bridge.log.port import Claimed
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.recovery import Recovery
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
from repertory.supervision.policy import Policy


class HostedEntity(msgspec.Struct, frozen=True):
    """One hosted entity as its shards play it."""

    behaviour: Behaviour
    codec: Codec
    policy: Policy
    partitions: int
    #: The number of its first shard within the system.
    first_number: int

    def config(
        self,
        partition: int,
        directory: Directory,
        limits: Limits,
        in_flight: MutableSequence[int] | None = None,
        owner: str = "",
    ) -> ShardConfig:
        """Return what the shard of one partition is given to play."""
        return ShardConfig(
            ShardId(self.behaviour.name, partition), self.codec.commands, self.partitions, self.behaviour, self.policy,
            directory, limits, self.first_number + partition, [0, 0, 0] if in_flight is None else in_flight, owner,
        )  # fmt: skip


class ShardPhase(enum.Enum):
    """Where an assigned shard is."""

    DOWN = "down"
    """Not started, waiting for its supervisor, or stopped by it."""
    CLAIMING = "claiming"
    RESTORING = "restoring"
    RUNNING = "running"


class AssignedShard:
    """One assigned shard. Mutable; owned by the region.

    ``in_flight`` are the Effects whose commit has not been answered: while they are there, the shard decides nothing.
    """

    def __init__(self, place: TopicPartition, config: ShardConfig, hosted: HostedEntity) -> None:
        self.place = place
        self.config = config
        self.hosted = hosted
        self.phase = ShardPhase.DOWN
        self.incarnation = 0
        self.recovery: Recovery | None = None
        self.shard: Shard | None = None
        self.in_flight: TurnResult | None = None
        self.paused = False
        self.claimed_s = self.told_s = 0.0
        #: Consecutive aborts that were nobody's fault, and when the next claim is due because of them.
        self.aborts = 0
        self.reclaim_s: float | None = None
        #: Consecutive restores that met a contradiction.
        self.doubts = 0

    @property
    def name(self) -> str:
        """The shard's name in its supervision tree and in log lines."""
        return str(self.config.id)

    def drop(self, phase: ShardPhase) -> None:
        """Forget all that is in memory; the log has the truth."""
        self.phase = phase
        self.recovery = self.shard = self.in_flight = self.reclaim_s = None
        self.paused = False

    def restore(self, claimed: Claimed) -> Recovery:
        """Begin to restore."""
        self.phase = ShardPhase.RESTORING
        self.recovery = Recovery(self.config, self.hosted.codec, claimed)
        return self.recovery


class Escalated(Exception):
    """The shards of this worker failed too often, or said that they cannot go on: the worker's supervisor decides."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.where}: {failure.error_type}: {failure.message}")
        self.failure = failure


class ShardRegion:
    """The seats of one worker, in start order, under one supervision tree. Owned by the loop."""

    def __init__(
        self,
        hosted_entities: Mapping[str, HostedEntity],
        tree: Tree,
        directory: Directory,
        limits: Limits,
        in_flight: MutableSequence[int] | None = None,
        owner: str = "",
    ) -> None:
        self._hosted_entities = dict(hosted_entities)
        self._order = {topic: index for index, topic in enumerate(self._hosted_entities)}
        self._directory = directory
        self._limits = limits
        self._in_flight, self._owner = in_flight, owner
        self._tree = tree
        self._assigned: dict[TopicPartition, AssignedShard] = {}
        self._names: dict[str, AssignedShard] = {}
        #: (due_s, child, incarnation) of restarts to come; few, so a list is enough.
        self._timers: list[tuple[float, str, int]] = []
        #: What the tree wants done. An event can bring commands for others than the shard that it is about.
        self._commands: deque[Start | Stop | Escalate] = deque()

    def __iter__(self) -> Iterator[AssignedShard]:
        return iter(self._assigned.values())

    def __len__(self) -> int:
        return len(self._assigned)

    @property
    def tree(self) -> Tree:
        """The supervision tree as it stands."""
        return self._tree

    def assigned(self, place: TopicPartition) -> AssignedShard | None:
        """Return an assigned shard's seat."""
        return self._assigned.get(place)

    def named(self, name: str) -> AssignedShard | None:
        """Return the seat of a child of the tree."""
        return self._names.get(name)

    def under_way(self) -> str:
        """Return which command a handler has now, as ``account/3@17 key 'a-1'``; "" if none. Any thread may ask."""
        if self._in_flight is None or not self._in_flight[COMMAND]:
            return ""
        for assigned in tuple(self._assigned.values()):
            shard = assigned.shard
            if (
                shard is not None
                and shard.config.number == self._in_flight[SHARD]
                and (command := shard.handling) is not None
            ):
                return f"{assigned.name}@{command.offset} key {command.key!r:.100}"
        return ""

    def add(self, place: TopicPartition, now_s: float) -> None:
        """Take in a shard; siblings stand in the order of ``host()``, then by partition."""
        self.forget(place, now_s)
        hosted = self._hosted_entities[place.topic]
        assigned = AssignedShard(
            place, hosted.config(place.partition, self._directory, self._limits, self._in_flight, self._owner), hosted
        )
        later = min((p for p in self._assigned if self._rank(p) > self._rank(place)), key=self._rank, default=None)
        self._assigned[place] = self._names[assigned.name] = assigned
        self.supervise(Add(assigned.name, None if later is None else self._assigned[later].name), now_s)

    def forget(self, place: TopicPartition, now_s: float) -> None:
        """Drop a shard that is no longer ours, with all that it held."""
        assigned = self._assigned.pop(place, None)
        if assigned is not None:
            del self._names[assigned.name]
            self.supervise(Remove(assigned.name, gone=True), now_s)

    def supervise(self, event: TreeEvent, now_s: float) -> tuple[TreeCommand, ...]:
        """Feed the tree one event; timers are kept here, all other commands are the loop's to carry out in order.

        Returns what the tree wants done, for whoever watches.
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
        """Take the next command to carry out, None if there is none; Escalated when the tree has given up."""
        command = self._commands.popleft() if self._commands else None
        if isinstance(command, Escalate):
            raise Escalated(command.failure)
        return command

    def due(self, now_s: float) -> None:
        """Fire the timers whose time has come."""
        for timer in [timer for timer in self._timers if timer[0] <= now_s]:
            self._timers.remove(timer)
            self.supervise(Due(timer[1], timer[2]), now_s)

    def describe_decision(self, name: str, now_s: float) -> str:
        """Say what the tree has decided about a shard that failed."""
        if self._tree.phase is not TreePhase.RUNNING:
            return "its worker goes down, and the node decides"
        due_s = [due_s for due_s, child, _ in self._timers if child == name]
        return f"it is restored in {max(due_s) - now_s:.2f} s" if due_s else "it stays stopped, its siblings go on"

    def next_due_in_s(self, now_s: float, epoch_ms: Callable[[], int]) -> float | None:
        """Return how long nothing will happen by itself (0: something is to be done now); None for never."""
        instants = [due_s - now_s for due_s, _, _ in self._timers]
        now_ms = None
        for assigned in self._assigned.values():
            if assigned.reclaim_s is not None:
                instants.append(assigned.reclaim_s - now_s)
            shard = assigned.shard
            if shard is None or assigned.in_flight is not None or assigned.phase is not ShardPhase.RUNNING:
                continue
            if len(shard.mailbox) and shard.stalled is None:
                return 0.0
            due_ms = shard.stash.next_due_ms()
            if due_ms is not None:
                now_ms = epoch_ms() if now_ms is None else now_ms
                instants.append((due_ms - now_ms) / 1000)
        return None if not instants else max(0.0, min(instants))

    def _rank(self, place: TopicPartition) -> tuple[int, int]:
        return self._order[place.topic], place.partition

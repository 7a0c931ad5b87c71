"""``ActorSystem``: where an application begins. Names its entities, and starts them on a log."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from typing import TYPE_CHECKING

import msgspec

from repertory.actors.context import Directory, OutputTooLarge
from repertory.actors.entity import Behaviour, Entity, resolved
from repertory.actors.shard.config import Limits
from repertory.actors.wire import by_wire_name
from repertory.bridge import topics
from repertory.bridge.codec import Codec
from repertory.bridge.hooked import Hook, hooked
from repertory.bridge.log.connect import connect, read_kafka_config
from repertory.bridge.log.port import Backend, TopicSpec
from repertory.bridge.region import HostedEntity, ShardRegion
from repertory.bridge.system.settings import Settings
from repertory.supervision import Backoff, Directive, Policy, Strategy, Tree, restart

if TYPE_CHECKING:
    from repertory.bridge.node.handle import NodeHandle
    from repertory.bridge.system.running import Running

logger = logging.getLogger("repertory")

#: Kafka allows 249 characters for a topic; the longest suffix of ours takes 13, entity names need room too.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NAME_CHARS_MAX = 100

#: Kafka's default limit on partitions of one topic that a cluster of modest size is asked for at once.
PARTITIONS_MAX = 10_000


DEFAULTS = Settings()

#: Set in the environment of a node, where the application is imported and not run.
IN_A_NODE = "REPERTORY_IN_A_NODE"


class Hosted(msgspec.Struct, frozen=True):
    """One entity class as a system hosts it."""

    behaviour: Behaviour
    partitions: int
    policy: Policy


class PartitionCounts:
    """Partition counts by topic: asked for with every message that is sent, so kept once known."""

    def __init__(self, ask: Callable[[str], int | None], specs: Sequence[TopicSpec]) -> None:
        self._ask = ask
        self._known = {spec.name: spec.partitions for spec in specs}

    def __call__(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if there is no such topic (yet)."""
        count = self._known.get(topic) or self._ask(topic)
        if count is not None:
            self._known[topic] = count
        return count


class ActorSystem:
    """A named set of entities. Configure it at import time; ``run`` or ``start`` it once, or not at all.

    ``shards`` and ``workers`` are the supervision of the two levels above the entities: how often a shard (a worker
    process) may fail before its worker (the node) gives up. ``topic_config`` is configuration for commands topics.
    """

    def __init__(
        self,
        name: str,
        *,
        settings: Settings = DEFAULTS,
        shards: Policy | None = None,
        shard_strategy: Strategy = Strategy.ONE_FOR_ONE,
        workers: Policy | None = None,
        worker_strategy: Strategy = Strategy.ONE_FOR_ONE,
        topic_config: Mapping[str, str] | None = None,
    ) -> None:
        if not _NAME.fullmatch(name) or len(name) > _NAME_CHARS_MAX:
            raise ValueError(
                f"a system's name has 1 to {_NAME_CHARS_MAX} lower-case letters, digits and dashes, not {name!r}"
            )
        self.name = name
        self.settings = settings
        self.shards = shards or restart(max_restarts=10, within_s=60, backoff=Backoff(first_s=0.05, max_s=5))
        self.shard_strategy = shard_strategy
        self.workers = workers or restart(max_restarts=20, within_s=60, backoff=Backoff(first_s=0.02, max_s=5))
        self.worker_strategy = worker_strategy
        self._topic_config = dict(topic_config or {})
        self._hosted: dict[type[Entity], Hosted] = {}

    def __repr__(self) -> str:
        return f"ActorSystem({self.name!r})"

    @property
    def hosted(self) -> Mapping[type[Entity], Hosted]:
        """The entities by class, in the order of ``host``."""
        return self._hosted

    def host(self, entity: type[Entity], *, partitions: int = 8, supervise: Policy | None = None) -> None:
        """Host an entity class on ``partitions`` shards, its failures judged by ``supervise`` (``restart(…)``).

        The number of partitions is for good: it decides where a key lives. DefinitionError for a mistake in the class,
        ValueError for one in the arguments.
        """
        behaviour = resolved(entity)
        if any(hosted.behaviour.name == behaviour.name for hosted in self._hosted.values()):
            raise ValueError(
                f"{self.name} already hosts an entity called {behaviour.name!r}; name one of them otherwise"
            )
        if not isinstance(partitions, int) or not 1 <= partitions <= PARTITIONS_MAX:
            raise ValueError(
                f"{entity.__name__}: partitions is a number from 1 to {PARTITIONS_MAX}, not {partitions!r}"
            )
        policy = supervise or restart()
        # What is too large once is too large again: unless the policy says otherwise it becomes a dead letter at once.
        rules: dict[type[BaseException], Directive] = {OutputTooLarge: Directive.RESUME, **policy.on}
        policy = msgspec.structs.replace(policy, on=rules)
        self._check_wire_names(behaviour)
        self._hosted[entity] = Hosted(behaviour, partitions, policy)

    def _check_wire_names(self, behaviour: Behaviour) -> None:
        """Refuse two classes with one wire name: each would be read where the other was meant."""
        known = [message for hosted in self._hosted.values() for message in hosted.behaviour.messages.values()]
        by_wire_name([*known, *behaviour.messages.values()])

    # --- what the rest of the bridge needs --------------------------------------------------------------------

    def behaviour(self, entity: str) -> Behaviour:
        """Return a hosted entity by its topics' name; LookupError with the names there are."""
        for hosted in self._hosted.values():
            if entity in (hosted.behaviour.name, hosted.behaviour.entity.__name__):
                return hosted.behaviour
        names = ", ".join(hosted.behaviour.name for hosted in self._hosted.values())
        raise LookupError(f"{self.name} hosts no entity {entity!r}; it hosts {names or 'none'}")

    def topic_specs(self) -> list[TopicSpec]:
        """Return all topics that the system needs."""
        hosted = [(h.behaviour.name, h.partitions, h.behaviour.journaled) for h in self._hosted.values()]
        return topics.topic_specs(self.name, hosted, self._topic_config)

    def incidents_spec(self) -> TopicSpec:
        """Return the topic for what operators see of the nodes; the system does without if it may not be made."""
        return topics.incidents_spec(self.name)

    def commands_topics(self) -> list[str]:
        """Return the commands topics, in the order of ``host``."""
        return [topics.commands_topic(self.name, hosted.behaviour.name) for hosted in self._hosted.values()]

    def limits(self) -> Limits:
        """Return the bounds of each shard."""
        names = Limits.__struct_fields__
        return Limits(**{name: getattr(self.settings, name) for name in names})

    def hosted_entities(self, partition_count: Callable[[str], int | None]) -> dict[str, HostedEntity]:
        """Return what the shards of each commands topic play."""
        found, number = {}, 0
        for hosted in self._hosted.values():
            codec = Codec(self.name, hosted.behaviour, partition_count, input_bytes_max=self.settings.input_bytes_max)
            found[codec.commands] = HostedEntity(hosted.behaviour, codec, hosted.policy, hosted.partitions, number)
            number += hosted.partitions
        return found

    def region(
        self,
        partition_count: Callable[[str], int | None],
        *,
        seed: int = 0,
        in_flight: MutableSequence[int] | None = None,
        owner: str = "",
        hook: Hook | None = None,
    ) -> ShardRegion:
        """Return an empty region for one worker of this system.

        ``mark``: where it notes its command under way; ``owner``: the run of a node whose memory that is; ``hook``:
        what a test has called within each handler.
        """
        counts = PartitionCounts(partition_count, self.topic_specs())
        directory = Directory(hosted=self._hosted.__contains__, partition_count=counts)
        tree = Tree(self.shards, self.shard_strategy, seed)
        hosted_entities = self.hosted_entities(counts)
        if hook is not None:
            hosted_entities = {topic: hooked(hosted, hook) for topic, hosted in hosted_entities.items()}
        return ShardRegion(hosted_entities, tree, directory, self.limits(), in_flight, owner)

    def check(self) -> None:
        """Raise ValueError if there is nothing to run."""
        if not self._hosted:
            raise ValueError(f"the system {self.name} hosts nothing; call system.host(…) first")

    def prepare(self, backend: Backend) -> Sequence[str]:
        """Make missing topics and check the others; return what was made. See ``Backend.ensure`` for the errors."""
        self.check()
        return backend.ensure(self.topic_specs())

    # --- running ----------------------------------------------------------------------------------------------

    def start(self, log: str = "memory:", *, kafka_config: Mapping[str, str] | None = None) -> Running:
        """Run in this process, without worker processes: for tests, notebooks, simulations. A context manager.

        Nothing happens on its own: ``running.settle()`` works until all is done.
        """
        from repertory.bridge.system.running import Running  # noqa: PLC0415  running names this class in its signatures

        return Running(self, connect(log, self.settings, kafka_config or {}))

    def spawn(
        self,
        target: str | None = None,
        *,
        log: str,
        workers: int = 1,
        node: str | None = None,
        kafka_config: str | None = None,
    ) -> NodeHandle:
        """Start a node of supervised worker processes and return its handle; the log is checked first.

        ``target`` (``module:system``) is where the workers import this system from; found out if not given.
        ``node`` is this machine's name within the group, ``kafka_config`` a properties file of librdkafka settings.

        Raises:
            LogError: the log cannot be used; the sentence says why.
            TargetError: ``target`` was not given, and the workers could not import the system.
            ValueError: ``workers`` is below 1, or the log cannot be shared by processes.
        """
        from repertory.bridge.node.handle import NodeHandle  # noqa: PLC0415  the simulator and tests do without processes
        from repertory.bridge.node.publisher import HEARTBEAT_S, Publisher  # noqa: PLC0415
        from repertory.bridge.system.target import target_of  # noqa: PLC0415

        if os.environ.get(IN_A_NODE):
            raise ValueError(
                f"the module of the system {self.name} starts it while a worker imports it; "
                'start it under: if __name__ == "__main__":'
            )
        if workers < 1:
            raise ValueError(f"workers is 1 or more, not {workers}")
        if log == "memory:":
            raise ValueError("memory: lives in one process and cannot be shared by workers; use sqlite:PATH or start()")
        target = target or target_of(self)
        config = read_kafka_config(kafka_config)
        backend = connect(log, self.settings, config)
        try:
            self.prepare(backend)
        finally:
            backend.close()
        # All who read a file are on its machine, and ask the kernel whether a node lives.
        heartbeat_s = 0.0 if log.startswith("sqlite:") else HEARTBEAT_S
        return NodeHandle(
            target,
            log,
            workers=workers,
            stop_timeout_s=self.settings.stop_timeout_s,
            node=node,
            kafka_config=kafka_config,
            publish=lambda incidents: Publisher(
                incidents,
                lambda: connect(log, self.settings, config),
                self.incidents_spec(),
                heartbeat_s=heartbeat_s,
            ),
        )

    def run(
        self,
        target: str | None = None,
        *,
        log: str = "memory:",
        workers: int = 1,
        node: str | None = None,
        kafka_config: str | None = None,
    ) -> int:
        """Run until SIGTERM or Ctrl-C, supervised, and return the exit code. See ``spawn`` for arguments and errors.

        On ``memory:`` it runs in this process, with a warning: nobody else can reach it, and nothing outlives it.
        """
        if log == "memory:" and workers == 1:
            logger.warning("memory: keeps everything in this process; it is gone at exit, and no other can reach it")
            with self.start(log) as running:
                running.run_forever()
            return 0
        return self.spawn(target, log=log, workers=workers, node=node, kafka_config=kafka_config).wait()

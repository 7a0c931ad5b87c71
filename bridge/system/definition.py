"""``SystemDefinition``: a system's entities, policies and topics, apart from how it is run."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from typing import Self

from repertory.actors.context import Directory
from repertory.actors.entity import Behaviour, Entity, resolved
from repertory.actors.evolution import History
from repertory.actors.shard.config import Limits
from repertory.actors.source import DecodeRecord
from repertory.actors.wire import by_wire_name
from repertory.bridge import topics
from repertory.bridge.codec import Codec
from repertory.bridge.effect_runner import EffectRunner, Marks
from repertory.bridge.effect_thread import Lifespan
from repertory.bridge.hooked import Hook, hooked
from repertory.bridge.hosted_entity import HostedEntity, Topology
from repertory.bridge.log.compacted import is_compacted
from repertory.bridge.log.port import Backend, TopicSpec
from repertory.bridge.region import ShardRegion
from repertory.bridge.schemas import Catalogue, Schema, announce, schemas_of
from repertory.bridge.sources.definition import EARLIEST, SourceDefinition, checked_source
from repertory.bridge.system.configuration import configuration
from repertory.bridge.system.hosting import EntityDefinition, check_sagas, with_defaults
from repertory.bridge.system.projected import OnError, Projectable, Projections, Retry
from repertory.bridge.system.publishes import PARTITIONS_MAX, Publishes, checked_publishes, prepare_published
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.sourcing import prepare_sources
from repertory.supervision import Backoff, Policy, Strategy, Tree, restart

#: Kafka allows 249 characters for a topic name: the longest suffix takes 13, and the entity's name needs room too.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NAME_CHARS_MAX = 100

DEFAULTS = Settings()


class _PartitionCounts:
    """Partition counts by topic: those of the system's own topics never change, the log knows those of others."""

    def __init__(self, ask: Callable[[str], int | None], specs: Sequence[TopicSpec]) -> None:
        self._ask = ask
        self._own = {spec.name: spec.partitions for spec in specs}

    def __call__(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if the topic does not exist (yet)."""
        return self._own.get(topic) or self._ask(topic)


class SystemDefinition:
    """A named set of entities. Users create an ``ActorSystem``, which can also be run.

    ``shards`` and ``workers`` are the policies of the two levels above the entities: how often a shard (a worker
    process) may fail before its worker (the node) gives up. ``topic_config`` is configuration for the commands topics.
    ``settings`` are those of the code; a deployment may override them (``configured``).
    ``publishes`` declares the topics outside the system that ``Context.publish`` may name. ``lifespan`` makes an async
    context manager, which each worker enters once before its first effect; what it yields (nothing, one resource, or a
    tuple of them) is what ``EffectContext.get`` returns.
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
        publishes: Mapping[str, Publishes] | None = None,
        lifespan: Lifespan | None = None,
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
        if is_compacted(self._topic_config):
            raise ValueError(
                f"{name}: a commands topic cannot be compacted: of each key's commands only the last would be handled; "
                "topic_config may limit their retention"
            )
        if strange := topics.LOG_TIME.keys() & self._topic_config.keys():
            raise ValueError(
                f"{name}: topic_config cannot set {min(strange)}: commands carry the time of the log, whatever the "
                "clocks of clients say"
            )
        #: The topics outside the system that its handlers publish to, by name.
        self.publishes = checked_publishes(name, publishes or {})
        self.lifespan = lifespan
        self._hosted: dict[type[Entity], EntityDefinition] = {}
        self._sources: dict[str, SourceDefinition] = {}
        #: What is projected, by its classes.
        self.projections = Projections()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def hosted(self) -> Mapping[type[Entity], EntityDefinition]:
        """The entities by class, in the order of ``host``."""
        return self._hosted

    def host(self, entity: type[Entity], *, partitions: int = 8, supervise: Policy | None = None) -> None:
        """Host an entity class on ``partitions`` shards; ``supervise`` (``restart(…)``) is the policy for its failures.

        The number of partitions can never change: it determines the partition of each key. Raises DefinitionError for a
        mistake in the class, ValueError for invalid arguments.
        """
        behaviour = resolved(entity)
        if any(hosted.behaviour.name == behaviour.name for hosted in self._hosted.values()):
            raise ValueError(f"{self.name} already hosts an entity named {behaviour.name!r}; rename one of the two")
        if not isinstance(partitions, int) or not 1 <= partitions <= PARTITIONS_MAX:
            raise ValueError(
                f"{entity.__name__}: partitions must be a number from 1 to {PARTITIONS_MAX}, not {partitions!r}"
            )
        policy = with_defaults(supervise or restart())
        self._check_wire_names(behaviour)
        self._hosted[entity] = EntityDefinition(behaviour, partitions, policy)

    @property
    def sources(self) -> Mapping[str, SourceDefinition]:
        """The sources by name."""
        return self._sources

    def source(
        self,
        name: str,
        topic: str,
        decode: DecodeRecord,
        *,
        cluster: str | None = None,
        from_: str = EARLIEST,
        kafka_config: str | None = None,
    ) -> None:
        """Relay the records of a foreign topic to entities, exactly once: ``decode`` makes commands of each of them.

        ``decode`` takes a `SourceRecord` and returns what `route` returns: a list of them, one, or None for a record
        that means nothing here. It decides from the record alone. A ValueError of it makes the record a dead letter;
        any other exception stops the record's partition, which is tried again after a while.

        ``name`` is the source's identity: under it, its positions are kept. A source that is removed and added again
        goes on where it was; with another name it begins anew. ``from_``: where a source begins that was never
        relayed, "earliest" or "latest". ``cluster``: the URL of the log that has the topic, by default the system's
        own; ``kafka_config``: a properties file with the librdkafka settings for that cluster. On ``memory:`` and
        ``sqlite:`` the topic is always one of the same log.

        Raises ValueError for what cannot be a source.
        """
        found = SourceDefinition(name, topic, decode, cluster, from_, kafka_config)
        self._sources[name] = checked_source(self.name, found, self._sources)

    def project(
        self, projection: type[Projectable], *entities: type[Entity], to: str | None = None, on_error: OnError = Retry()
    ) -> None:
        """Keep the tables of a projection up to date with the events of journaled entities, which are hosted already.

        ``to`` is the URL of its database: ``sqlite:///PATH`` or ``postgresql+psycopg://…``. By default that is the file
        ``{system}.projections.db``: beside a ``sqlite:`` log, else in the working directory; on ``memory:`` one that
        ends with the log. ``on_error``: what becomes of an event that fails, ``Retry(…)`` or ``Park(…)``.

        Raises DefinitionError for a mistake in the class, LookupError for an entity that is not hosted, ValueError.
        """
        self.projections.add(projection, projection.projected(self, entities, to, on_error))

    def _check_wire_names(self, behaviour: Behaviour) -> None:
        """Refuse two classes with the same wire name, now or earlier: records of one would be decoded as the other."""
        known = [message for hosted in self._hosted.values() for message in hosted.behaviour.messages.values()]
        by_wire_name([*known, *behaviour.messages.values()])
        History([*known, *behaviour.messages.values()])

    def configured(self, settings: Settings | None = None) -> Self:
        """Return this system with the settings of its deployment, or with those given; this one stays as it is.

        Raises InvalidSetting; see ``bridge.system.configuration``.
        """
        system = copy.copy(self)
        system.settings = configuration(self.settings).settings if settings is None else settings
        return system

    # --- for the rest of the bridge ---------------------------------------------------------------------------

    def behaviour(self, entity: str) -> Behaviour:
        """Return a hosted entity by its name in topics or its class name; LookupError that lists the hosted names."""
        for hosted in self._hosted.values():
            if entity in (hosted.behaviour.name, hosted.behaviour.entity.__name__):
                return hosted.behaviour
        names = ", ".join(hosted.behaviour.name for hosted in self._hosted.values())
        raise LookupError(f"{self.name} hosts no entity {entity!r}; it hosts {names or 'no entities'}")

    def definition(self, entity: type[Entity]) -> EntityDefinition:
        """Return how an entity class is hosted; LookupError that lists the hosted classes."""
        try:
            return self._hosted[entity]
        except (KeyError, TypeError):
            names = ", ".join(hosted.__name__ for hosted in self._hosted)
            raise LookupError(f"{self.name} does not host {entity!r}; it hosts {names or 'no entities'}") from None

    def topic_specs(self) -> list[TopicSpec]:
        """Return all topics that the system needs."""
        hosted = [(h.behaviour.name, h.partitions, h.behaviour.journaled) for h in self._hosted.values()]
        of_sources = topics.source_specs(self.name) if self._sources else []
        return [*topics.topic_specs(self.name, hosted, self._topic_config), *of_sources]

    def incidents_spec(self) -> TopicSpec:
        """Return the topic for the status of nodes; the system runs without it if it cannot be created."""
        return topics.incidents_spec(self.name)

    def commands_topics(self) -> list[str]:
        """Return the commands topics, in the order of ``host``."""
        return [topics.commands_topic(self.name, hosted.behaviour.name) for hosted in self._hosted.values()]

    def limits(self) -> Limits:
        """Return the limits of each shard."""
        names = Limits.__struct_fields__
        return Limits(**{name: getattr(self.settings, name) for name in names})

    def topology(self, partition_count: Callable[[str], int | None], *, hook: Hook | None = None) -> Topology:
        """Return the entities as shards need them; ``partition_count`` is that of their log.

        ``hook``: is called before each handler, for tests.
        """
        counts = _PartitionCounts(partition_count, self.topic_specs())
        entities, number = {}, 0
        for hosted in self._hosted.values():
            codec = Codec(self.name, hosted.behaviour, counts, input_bytes_max=self.settings.input_bytes_max)
            is_projected = self.projections.follow(hosted.behaviour.entity)
            entity = HostedEntity(hosted.behaviour, codec, hosted.policy, hosted.partitions, number, is_projected)
            entities[codec.commands] = entity if hook is None else hooked(entity, hook)
            number += hosted.partitions
        directory = Directory(self._hosted.__contains__, counts, self.publishes.__contains__)
        return Topology(entities, directory, self.limits())

    def region(
        self, topology: Topology, *, seed: int = 0, in_flight: MutableSequence[int] | None = None, owner: str = ""
    ) -> ShardRegion:
        """Return an empty region for one worker of this system.

        ``in_flight`` and ``owner``: see ``Topology.shard_config``.
        """
        return ShardRegion(topology, Tree(self.shards, self.shard_strategy, seed), in_flight, owner)

    def effects(self, is_sure: Callable[[], bool], marks: Marks | None = None) -> EffectRunner:
        """Return what runs the effects of one worker; see `EffectRunner`."""
        return EffectRunner(
            running_max=self.settings.effects_running_max, lifespan=self.lifespan, marks=marks, is_sure=is_sure,
            blocked_max_s=self.settings.progress_timeout_s,
        )  # fmt: skip

    def check(self) -> None:
        """Raise ValueError if no entity is hosted, DefinitionError if upcasters leave out a version of a message."""
        if not self._hosted:
            raise ValueError(f"the system {self.name} hosts no entity; call system.host(…) first")
        check_sagas(self.name, self._hosted.values(), self.settings.delivery)
        for hosted in self._hosted.values():
            History([*hosted.behaviour.messages.values(), hosted.behaviour.entity]).check()

    def prepare(self, backend: Backend) -> Sequence[str]:
        """Create missing topics and check the others; return those created.

        See ``Backend.ensure`` and ``prepare_published`` for the errors.
        """
        self.check()
        made = [*backend.ensure(self.topic_specs()), *prepare_published(backend, self.name, self.publishes)]
        return [*made, *prepare_sources(backend, self)]

    def schemas(self) -> dict[bytes, Schema]:
        """Return the messages and states that this build knows, by the keys of their records in the catalogue."""
        return schemas_of(hosted.behaviour for hosted in self._hosted.values())

    def catalogue(self, backend: Backend) -> Catalogue:
        """Return the catalogue of what the builds know that have run on a log."""
        return Catalogue(backend.reader, topics.schemas_topic(self.name))

    def announce(self, backend: Backend) -> None:
        """Write to the catalogue what this build knows, before a node of it joins. Raises LogError."""
        announce(backend, topics.schemas_topic(self.name), self.schemas())

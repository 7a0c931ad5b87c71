"""Requests to the cluster about topics, offsets and the group. Thread-safe, as librdkafka's clients are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from confluent_kafka import Consumer, ConsumerGroupState, IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not re-exported
    AdminClient,
    ConfigResource,
    ConsumerGroupDescription,
    OffsetSpec,
    ResourceType,
    TopicDescription,
)
from confluent_kafka.admin import MemberDescription as KafkaMember  # type: ignore[attr-defined]  # not re-exported
from confluent_kafka.cimpl import NewTopic

from repertory.bridge.log.errors import LogUnavailable, TopicMismatch
from repertory.bridge.log.kafka.config import KafkaConfig, logger
from repertory.bridge.log.kafka.messages import (
    STALE_METADATA,
    TIMED_OUT,
    TRANSIENT,
    UNKNOWN_TOPIC,
    close_bounded,
    create_client,
    describe,
    error_of,
)
from repertory.bridge.log.port import Member, MemberDescription, TopicSpec
from repertory.bridge.log.record import TopicPartition

T = TypeVar("T")

#: Timeout of one request; callers repeat it within their own deadline.
REQUEST_TIMEOUT_S = 5.0
#: Timeout of requests that librdkafka does not repeat itself; the caller repeats them.
COORDINATOR_WAIT_S = 2.0
#: Pause before a request is repeated while the cluster moves leaders or coordinators.
RETRY_WAIT_S = 0.02
#: How long the answer "there is no such topic" is cached.
ABSENCE_TTL_S = 1.0
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_NO_OFFSET = -1001  # librdkafka's RD_KAFKA_OFFSET_INVALID: the group never committed
_INTERNAL_TOPICS = frozenset({"__consumer_offsets", "__transaction_state", "__cluster_metadata"})


class Slot(NamedTuple):
    """A slot as the group describes it: the member that holds it, and the topics assigned to that member.

    ``all_assigned`` are the partitions that the group has assigned to any member; ``members`` are all of them.
    ``is_steady`` if no rebalance is under way.
    """

    holder: str | None
    assigned: frozenset[str] | None
    all_assigned: frozenset[TopicPartition] = frozenset()
    members: tuple[MemberDescription, ...] = ()
    is_steady: bool = True


#: Who says when a record was written.
_CLOCK = "message.timestamp.type"


class Admin:
    """One admin client, with the requests that this package makes."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._lines = config.lines()
        self._counts: dict[str, int] = {}
        self._absent: dict[str, float] = {}
        self._doubted: set[str] = set()
        #: By group: the consumer that asks for the group's offsets, and never joins it.
        self._group_clients: dict[str, Consumer] = {}
        self._group_clients_lock = threading.Lock()
        # librdkafka checks all settings in the first client that is created, so this one validates them for all.
        self._client = create_client(AdminClient, config.admin(self._lines))

    def serve(self) -> None:
        """Deliver queued log lines and errors, which would otherwise accumulate."""
        self._client.poll(0)
        for client in list(self._group_clients.values()):
            client.poll(0)

    def last_error(self) -> str:
        """Return the last connection error that librdkafka logged."""
        return self._lines.last

    def close(self) -> None:
        """Release the clients; make no request after this. A request under way keeps its client until it ends.

        Idempotent.
        """
        if not hasattr(self, "_client"):
            return
        holder: list[object] = [self._client, *self._group_clients.values()]
        del self._client
        self._group_clients.clear()
        close_bounded(holder.clear, "admin client")

    # --- topics -----------------------------------------------------------------------------------------------

    def topics(self) -> dict[str, int]:
        """Return the number of partitions of every topic but Kafka's internal ones.

        Raises:
            LogUnavailable: no broker answered within ``connect_timeout_s``.
        """
        timeout_s = self._config.settings.connect_timeout_s
        try:
            found = self._client.list_topics(timeout=timeout_s).topics
        except KafkaException as failure:
            raise self._unavailable(failure, timeout_s) from None
        counts = {name: len(topic.partitions) for name, topic in found.items() if topic.error is None}
        for name in _INTERNAL_TOPICS:
            counts.pop(name, None)
        self._counts.update(counts)
        return counts

    def _unavailable(self, failure: KafkaException, timeout_s: float) -> LogUnavailable:
        self._client.poll(0.1)
        why = self.last_error() or describe(error_of(failure))
        return LogUnavailable(
            f"no Kafka broker of {self._config.brokers} answered within {timeout_s:g} s; the last error: {why}"
        )

    def partition_count(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if there is no such topic. Cached; makes at most one request."""
        count = self._counts.get(topic)
        now_s = time.monotonic()
        if count is not None or self._absent.get(topic, 0.0) > now_s:
            return count
        try:
            future = self._client.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)[topic]
            found = _result(future)
        except KafkaException as failure:
            if error_of(failure).code() in TRANSIENT:
                raise self._unavailable(failure, REQUEST_TIMEOUT_S) from None
            self._absent[topic] = now_s + ABSENCE_TTL_S
            return None
        self._counts[topic] = len(found.partitions)
        return self._counts[topic]

    def saw(self, shard: TopicPartition) -> None:
        """Forget a cached number of partitions that is too small for a partition that exists."""
        if self._counts.get(shard.topic, shard.partition + 1) <= shard.partition:
            self._counts.pop(shard.topic, None)

    def forget(self, *topics: str) -> None:
        """Ask for the partition counts of topics again when they are needed next."""
        for topic in topics:
            self._counts.pop(topic, None)
            self._absent.pop(topic, None)

    def doubt(self, topics: Iterable[str]) -> None:
        """Have the partition counts of topics renewed by the next claim: a commit of records for them failed."""
        self._doubted.update(topics)

    def renew_doubted(self) -> None:
        """Ask for the partition counts that are in doubt; KafkaException if the cluster does not answer."""
        doubted = set(self._doubted)
        self.renew(doubted, self.describe_topics(doubted) if doubted else {})
        self._doubted -= doubted

    def cached_outside(self, system: str) -> set[str]:
        """Return the topics outside a system whose partition counts are cached."""
        return {topic for topic in list(self._counts) if not topic.startswith(f"{system}.")}

    def renew(self, topics: Iterable[str], answers: Mapping[str, Future[TopicDescription]]) -> None:
        """Renew partition counts of topics outside the system from the answers of ``describe_topics``.

        Raises KafkaException for an answer that does not say whether there is such a topic.
        """
        for topic in topics:
            found = _existing(answers[topic])
            if found is None:
                self._counts.pop(topic, None)
                continue
            count = len(found.partitions)
            before, self._counts[topic] = self._counts.get(topic, count), count
            if before != count:
                logger.warning(
                    "topic %s has %d partitions, it had %d: what is published to it is placed by the new number",
                    topic, count, before,
                )  # fmt: skip

    def batch_bytes_max(self, topic: str) -> int:
        """Return the most bytes that a topic takes at once, its ``max.message.bytes``; KafkaException if unknown."""
        return int(self._setting(topic, "max.message.bytes"))

    def _setting(self, topic: str, name: str) -> str:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        future = self._client.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)[resource]
        return str(_result(future)[name].value)

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        """Return the ids of those of the topics that exist; KafkaException if the cluster does not answer."""
        found = {topic: _existing(future) for topic, future in self.describe_topics(topics).items()}
        return {topic: str(each.topic_id) for topic, each in found.items() if each is not None}

    def described(self, topic: str) -> tuple[str, int] | None:
        """Return a topic's id and its number of partitions, None if it does not exist. Not cached.

        Raises KafkaException if the cluster does not answer.
        """
        found = self._retry(lambda: _existing(self.describe_topics([topic])[topic]))
        return None if found is None else (str(found.topic_id), len(found.partitions))

    def all_bounds(self, topic: str, partitions: int) -> list[tuple[int, int]]:
        """Return for each partition its first offset and its last stable one; KafkaException without an answer."""
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        lows = self._offsets(places, _EARLIEST, IsolationLevel.READ_UNCOMMITTED)
        ends = self._offsets(places, _LATEST, IsolationLevel.READ_COMMITTED)
        return [(lows[place], ends[place]) for place in places]

    def describe_topics(self, topics: Iterable[str]) -> dict[str, Future[TopicDescription]]:
        """Ask for the descriptions of topics, and do not wait."""
        return self._client.describe_topics(TopicCollection([*topics]), request_timeout=REQUEST_TIMEOUT_S)

    def require(self, shard: TopicPartition, doing: str) -> None:
        """Raise TopicMismatch if a partition does not exist: librdkafka would wait, or raise one of many errors."""
        count = self.partition_count(shard.topic)
        if not 0 <= shard.partition < (count or 0):
            what = f"it has {count} partitions" if count else "there is no such topic, or this user may not see it"
            raise TopicMismatch(f"{doing}: there is no partition {shard} ({what})")

    def ensure(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Create the missing topics and check the others; see ``Backend.ensure``."""
        missing = self._missing(specs, self.topics())
        self._check_clocks(spec for spec in specs if spec not in missing)
        if not missing:
            return []
        created = self._create(missing)
        deadline_s = time.monotonic() + self._config.settings.connect_timeout_s
        while self._missing(specs, self.topics()):
            if time.monotonic() > deadline_s:
                names = ", ".join(spec.name for spec in missing)
                raise LogUnavailable(f"topics {names} were created, but the brokers do not list them yet")
            time.sleep(RETRY_WAIT_S)
        # Another created these meanwhile, or the broker that listed the topics did not know them yet.
        self._check_clocks(spec for spec in missing if spec.name not in created)
        # A new partition's leader may not be ready when it is listed. Wait for it, or the first append would fail.
        with suppress(KafkaException):
            self.ends(TopicPartition(spec.name, p) for spec in missing for p in range(spec.partitions))
        return created

    def _check_clocks(self, specs: Iterable[TopicSpec]) -> None:
        """Raise TopicMismatch for a topic that takes the time of a record from its producer and should not."""
        for topic in [spec.name for spec in specs if _CLOCK in spec.config]:
            try:
                # A broker that does not know a new topic yet will.
                found = self._retry(partial(self._setting, topic, _CLOCK), UNKNOWN_TOPIC)
            except KafkaException as failure:
                if error_of(failure).code() in TRANSIENT:
                    raise self._unavailable(failure, self._config.settings.connect_timeout_s) from None
                logger.warning("%s of topic %s is not known: %s", _CLOCK, topic, describe(error_of(failure)))
                continue
            if found != "LogAppendTime":
                raise TopicMismatch(
                    f"topic {topic} has {_CLOCK}={found}: the clocks of clients would decide when things are due. "
                    f"Alter it: kafka-configs.sh --bootstrap-server {self._config.brokers} --alter "
                    f"--entity-type topics --entity-name {topic} --add-config {_CLOCK}=LogAppendTime"
                )

    @staticmethod
    def _missing(specs: Sequence[TopicSpec], present: Mapping[str, int]) -> list[TopicSpec]:
        """Return the missing topics; raise TopicMismatch for one with another number of partitions."""
        for spec in specs:
            count = present.get(spec.name, spec.partitions)
            if count != spec.partitions:
                raise TopicMismatch(
                    f"topic {spec.name} has {count} partitions, the code declares {spec.partitions}: keys would move "
                    "to other shards. Change the code back, or migrate to a topic of another name"
                )
        return [spec for spec in specs if spec.name not in present]

    def _create(self, specs: Sequence[TopicSpec]) -> list[str]:
        replicas = self._config.settings.replication_factor
        new = [NewTopic(s.name, s.partitions, replicas, config=dict(s.config)) for s in specs]
        futures = self._client.create_topics(new, request_timeout=2 * REQUEST_TIMEOUT_S)
        created, refused, why = [], [], ""
        for spec in specs:
            try:
                _result(futures[spec.name])
                created.append(spec.name)
            except KafkaException as failure:
                error = error_of(failure)
                if error.code() in TRANSIENT:
                    raise self._unavailable(failure, REQUEST_TIMEOUT_S) from None
                if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker created it first
                    refused.append(spec)
                    why = describe(error)
        if refused:
            wanted = "; ".join(_describe_spec(spec) for spec in refused)
            raise TopicMismatch(f"{len(refused)} topics are missing and cannot be created: {why}. Create: {wanted}")
        return created

    # --- offsets ----------------------------------------------------------------------------------------------

    # All of these repeat a request that fails with a transient error, for `connect_timeout_s`; then they raise the
    # last error. They wait in the same way for an offset that a transaction holds pending.

    def low(self, shard: TopicPartition) -> int:
        """Return the first offset that the partition still has."""
        return self._offsets([shard], _EARLIEST, IsolationLevel.READ_UNCOMMITTED)[shard]

    def stable_end(self, shard: TopicPartition) -> int:
        """Return the last stable offset: every transaction below it is complete."""
        return self._offsets([shard], _LATEST, IsolationLevel.READ_COMMITTED)[shard]

    def ends(self, shards: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the high watermarks, which count uncommitted records too."""
        return self._offsets(list(shards), _LATEST, IsolationLevel.READ_UNCOMMITTED)

    def _offsets(
        self, shards: Sequence[TopicPartition], spec: OffsetSpec, level: IsolationLevel
    ) -> dict[TopicPartition, int]:
        asked = {KafkaPartition(shard.topic, shard.partition): spec for shard in shards}

        def ask() -> dict[TopicPartition, int]:
            futures = self._client.list_offsets(asked, isolation_level=level, request_timeout=REQUEST_TIMEOUT_S)
            return {TopicPartition(p.topic, p.partition): _result(f).offset for p, f in futures.items()}

        return self._retry(ask)

    def committed(self, group: str, shard: TopicPartition) -> int | None:
        """Return a group's next offset, None if it never committed one.

        A consumer makes the request, not the admin client, whose requests to coordinators
        (``list_consumer_group_offsets``) hang permanently, or abort or crash the process, when a connection breaks
        (librdkafka 2.16.1: #5397, #5456, #5511, and a null group in ``rd_kafka_handle_OffsetFetch`` at
        NOT_COORDINATOR). With 30 cut connections a minute the consumer answered each time within 0.7 s.
        """
        client = self._group_client(group)

        def ask() -> int | None:
            (answer,) = client.committed([KafkaPartition(shard.topic, shard.partition)], timeout=REQUEST_TIMEOUT_S)
            if answer.error is not None:
                raise KafkaException(answer.error)
            return None if answer.offset == _NO_OFFSET else int(answer.offset)

        return self._retry(ask)

    def is_pending(self, group: str, shard: TopicPartition) -> bool:
        """Return whether an offset that :meth:`committed` could not read is held pending by an open transaction.

        If so, the coordinator answers a read-uncommitted client immediately, with the offset before it.
        """
        client = create_client(Consumer, self._config.uncommitted(self._config.lines(), group))
        try:
            (answer,) = client.committed([KafkaPartition(shard.topic, shard.partition)], timeout=REQUEST_TIMEOUT_S)
        except KafkaException:
            return False
        finally:
            close_bounded(client.close, "consumer that asks for offsets")
        return answer.error is None

    def no_member_metadata(self, group: str) -> object:
        """Return group metadata without a member: a transaction may commit offsets with it, as an operator may."""
        return self._group_client(group).consumer_group_metadata()

    def _group_client(self, group: str) -> Consumer:
        with self._group_clients_lock:
            if group not in self._group_clients:
                self._group_clients[group] = create_client(Consumer, self._config.asker(self._config.lines(), group))
            return self._group_clients[group]

    def _retry(self, ask: Callable[[], T], also: Set[int] = frozenset()) -> T:
        deadline_s = time.monotonic() + self._config.settings.connect_timeout_s
        while True:
            try:
                return ask()
            except KafkaException as failure:
                code = error_of(failure).code()
                if (code not in TRANSIENT and code not in also) or time.monotonic() > deadline_s:
                    raise
                if code in STALE_METADATA:
                    # After a broker's restart librdkafka 2.16.1 repeats its requests with the old epoch indefinitely.
                    with suppress(KafkaException):
                        self._client.list_topics(timeout=COORDINATOR_WAIT_S)
                time.sleep(RETRY_WAIT_S)

    # --- the group --------------------------------------------------------------------------------------------

    def cluster(self) -> str:
        """Return the cluster's id. A cluster can be reached under many addresses, and has one id."""
        return self._retry(
            lambda: str(_result(self._client.describe_cluster(request_timeout=COORDINATOR_WAIT_S)).cluster_id)
        )

    def members(self, group: str) -> list[MemberDescription]:
        """Describe the members of a group."""
        found = self._group(group)
        return [_description(member) for member in found.members] if found is not None else []

    def slot(self, member: Member) -> Slot:
        """Describe a slot of a group."""
        found = self._group(member.group)
        if found is None:
            return Slot(None, None)
        members = tuple(map(_description, found.members))
        all_assigned = frozenset(place for each in members for place in each.shards)
        is_steady = found.state == ConsumerGroupState.STABLE
        for other, described in zip(found.members, members, strict=True):
            if described.instance_id == member.instance_id:
                topics = frozenset(place.topic for place in described.shards)
                return Slot(other.member_id, topics, all_assigned, members, is_steady)
        return Slot(None, None, members=members)

    def _group(self, group: str) -> ConsumerGroupDescription | None:
        """Return the description of a group; None if there is no such group.

        The admin client may abort the process while the coordinator does not answer (see :meth:`committed`), so a
        consumer asks first. The first claim needs that consumer anyway.
        """
        self.committed(group, TopicPartition(f"{group}.control", 0))
        return self._retry(lambda: self._described(group))

    def _described(self, name: str) -> ConsumerGroupDescription | None:
        """Ask with a new client: one whose connection broke may never find a coordinator again (see ``committed``).

        The first request about any group makes the cluster create its offsets topic. librdkafka does not repeat the
        request while it waits, so the timeout is short, and the caller repeats it.
        """
        holder = [create_client(AdminClient, self._config.admin(self._lines))]
        try:
            futures = holder[0].describe_consumer_groups([name], request_timeout=COORDINATOR_WAIT_S)
            future: Future[ConsumerGroupDescription] = futures[name]
            return _result(future)
        except KafkaException as failure:
            if error_of(failure).code() == KafkaError.GROUP_ID_NOT_FOUND:
                return None
            raise
        finally:
            close_bounded(holder.clear, "admin client")

    def ping(self) -> Future[object]:
        """Send a request whose answer does not matter; the future succeeds when a broker answers."""
        return self._client.describe_cluster(request_timeout=REQUEST_TIMEOUT_S)


def _result(future: Future[T]) -> T:
    """Wait for an answer. librdkafka ends a request at its timeout; the longer bound here guards against its bugs."""
    try:
        return future.result(timeout=3 * REQUEST_TIMEOUT_S)
    except FutureTimeoutError:
        raise KafkaException(KafkaError(TIMED_OUT)) from None


def _existing(future: Future[TopicDescription]) -> TopicDescription | None:
    """Wait for the description of a topic; None if there is no such topic."""
    try:
        return _result(future)
    except KafkaException as failure:
        if error_of(failure).code() not in UNKNOWN_TOPIC:
            raise
        return None


def _description(member: KafkaMember) -> MemberDescription:
    places = member.assignment.topic_partitions if member.assignment else ()
    shards = tuple(TopicPartition(place.topic, place.partition) for place in places)
    return MemberDescription(member.group_instance_id or "", member.client_id, member.host.removeprefix("/"), shards)


def _describe_spec(spec: TopicSpec) -> str:
    config = ",".join(f"{name}={value}" for name, value in sorted(spec.config.items()))
    return f"{spec.name} with {spec.partitions} partitions" + (f" and {config}" if config else "")

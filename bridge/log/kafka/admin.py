"""Questions to the cluster: topics, offsets, the group. Thread-safe, as librdkafka's clients are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import NamedTuple, TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription, OffsetSpec  # type: ignore[attr-defined]  # not re-exported
from confluent_kafka.cimpl import NewTopic

from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.messages import PASSING, STALE, TIMED_OUT, bounded, describe, error_of, made
from repertory.bridge.log.port import LogUnavailable, Member, TopicMismatch, TopicSpec
from repertory.bridge.log.record import TopicPartition

T = TypeVar("T")

#: Broker's answer time for one question; callers repeat within their own deadline.
REQUEST_TIMEOUT_S = 5.0
COORDINATOR_WAIT_S = 2.0
#: Between two questions to a cluster that is moving things about.
RETRY_WAIT_S = 0.02
#: How long "there is no such topic" is believed.
ABSENCE_TTL_S = 1.0
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_NO_OFFSET = -1001  # librdkafka's RD_KAFKA_OFFSET_INVALID: the group never committed
_INTERNAL_TOPICS = frozenset({"__consumer_offsets", "__transaction_state", "__cluster_metadata"})


class Slot(NamedTuple):
    """What the group knows of a slot: who holds it, and the topics assigned to it.

    ``shared`` are all partitions that the group has given to somebody.
    """

    holder: str | None
    assigned: frozenset[str] | None
    shared: frozenset[TopicPartition] = frozenset()


class Admin:
    """One admin client with the questions that this package asks."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._lines = config.lines()
        self._counts: dict[str, int] = {}
        self._absent: dict[str, float] = {}
        #: By group: what asks for its offsets. These consumers never join it.
        self._askers: dict[str, Consumer] = {}
        self._asking = threading.Lock()
        # Every key is checked by whichever client is made first, so this speaks for all of them.
        self._client = made(AdminClient, config.admin(self._lines))

    def serve(self) -> None:
        """Hand over waiting log lines and errors; without it they would pile up."""
        self._client.poll(0)
        for asker in list(self._askers.values()):
            asker.poll(0)

    def last_error(self) -> str:
        """Return what librdkafka said last of its connections."""
        return self._lines.last

    def close(self) -> None:
        """Release the clients; nothing may be asked any more. A question under way keeps its client until it ends."""
        holder: list[object] = [self._client, *self._askers.values()]
        del self._client
        self._askers.clear()
        bounded(holder.clear, "admin client")

    # --- topics -----------------------------------------------------------------------------------------------

    def topics(self) -> dict[str, int]:
        """Return every topic's number of partitions, Kafka's own topics apart.

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
        """Return a topic's number of partitions, None if there is none. Cached; asks the cluster at most once."""
        count = self._counts.get(topic)
        now_s = time.monotonic()
        if count is not None or self._absent.get(topic, 0.0) > now_s:
            return count
        try:
            future = self._client.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)[topic]
            found = _result(future)
        except KafkaException as failure:
            if error_of(failure).code() in PASSING:
                raise self._unavailable(failure, REQUEST_TIMEOUT_S) from None
            self._absent[topic] = now_s + ABSENCE_TTL_S
            return None
        self._counts[topic] = len(found.partitions)
        return self._counts[topic]

    def require(self, shard: TopicPartition, doing: str) -> None:
        """Raise TopicMismatch for a partition that does not exist: librdkafka says as much in many ways, or waits."""
        count = self.partition_count(shard.topic)
        if not 0 <= shard.partition < (count or 0):
            what = f"it has {count} partitions" if count else "there is no such topic"
            raise TopicMismatch(f"{doing}: there is no partition {shard} ({what})")

    def ensure(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Make what is missing and compare the rest; see ``Backend.ensure``."""
        missing = self._compared(specs, self.topics())
        if not missing:
            return []
        made = self._create(missing)
        deadline_s = time.monotonic() + self._config.settings.connect_timeout_s
        while self._compared(specs, self.topics()):
            if time.monotonic() > deadline_s:
                names = ", ".join(spec.name for spec in missing)
                raise LogUnavailable(f"topics {names} were made, but the brokers do not show them yet")
            time.sleep(RETRY_WAIT_S)
        # Leaders that are named may not serve yet, and a first append would meet that.
        with suppress(KafkaException):
            self.ends(TopicPartition(spec.name, p) for spec in missing for p in range(spec.partitions))
        return made

    @staticmethod
    def _compared(specs: Sequence[TopicSpec], present: Mapping[str, int]) -> list[TopicSpec]:
        """Return the missing ones; raise for a different number of partitions."""
        for spec in specs:
            count = present.get(spec.name, spec.partitions)
            if count != spec.partitions:
                raise TopicMismatch(
                    f"topic {spec.name} has {count} partitions, the code says {spec.partitions}: keys would land on "
                    "other shards. Change the code back, or migrate to a topic of another name"
                )
        return [spec for spec in specs if spec.name not in present]

    def _create(self, specs: Sequence[TopicSpec]) -> list[str]:
        replicas = self._config.settings.replication_factor
        new = [NewTopic(s.name, s.partitions, replicas, config=dict(s.config)) for s in specs]
        futures = self._client.create_topics(new, request_timeout=2 * REQUEST_TIMEOUT_S)
        made, refused, why = [], [], ""
        for spec in specs:
            try:
                _result(futures[spec.name])
                made.append(spec.name)
            except KafkaException as failure:
                error = error_of(failure)
                if error.code() in PASSING:
                    raise self._unavailable(failure, REQUEST_TIMEOUT_S) from None
                if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker was quicker
                    refused.append(spec)
                    why = describe(error)
        if refused:
            wanted = "; ".join(_as_wanted(spec) for spec in refused)
            raise TopicMismatch(f"{len(refused)} topics are missing and may not be made: {why}. Make: {wanted}")
        return made

    # --- offsets ----------------------------------------------------------------------------------------------

    # All of these ask again while the cluster is moving things about, for `connect_timeout_s`; then they raise what
    # it said. An offset that a transaction holds pending is waited for in the same way.

    def low(self, shard: TopicPartition) -> int:
        """Return the first offset still held."""
        return self._offsets([shard], _EARLIEST, IsolationLevel.READ_UNCOMMITTED)[shard]

    def stable_end(self, shard: TopicPartition) -> int:
        """Return the last stable offset: below it every transaction is decided."""
        return self._offsets([shard], _LATEST, IsolationLevel.READ_COMMITTED)[shard]

    def ends(self, shards: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the high watermarks: they count what is not (yet) committed."""
        return self._offsets(list(shards), _LATEST, IsolationLevel.READ_UNCOMMITTED)

    def _offsets(
        self, shards: Sequence[TopicPartition], spec: OffsetSpec, level: IsolationLevel
    ) -> dict[TopicPartition, int]:
        asked = {KafkaPartition(shard.topic, shard.partition): spec for shard in shards}

        def ask() -> dict[TopicPartition, int]:
            futures = self._client.list_offsets(asked, isolation_level=level, request_timeout=REQUEST_TIMEOUT_S)
            return {TopicPartition(p.topic, p.partition): _result(f).offset for p, f in futures.items()}

        return self._patiently(ask)

    def committed(self, group: str, shard: TopicPartition) -> int | None:
        """Return a group's next offset, None if it never committed one.

        Asked by a consumer, not by the admin client: its questions to coordinators (``list_consumer_group_offsets``)
        hang for good, abort or crash the process when a connection breaks (librdkafka 2.16.1: #5397, #5456, #5511,
        and a null group in ``rd_kafka_handle_OffsetFetch`` at NOT_COORDINATOR); under 30 cut connections a minute
        this way answered each time within 0.7 s.
        """
        asker = self._asker(group)

        def ask() -> int | None:
            (answer,) = asker.committed([KafkaPartition(shard.topic, shard.partition)], timeout=REQUEST_TIMEOUT_S)
            if answer.error is not None:
                raise KafkaException(answer.error)
            return None if answer.offset == _NO_OFFSET else int(answer.offset)

        return self._patiently(ask)

    def is_pending(self, group: str, shard: TopicPartition) -> bool:
        """Tell whether an offset that :meth:`committed` waited for in vain is held by an open transaction.

        Then the coordinator gives the one before it at once to whoever does not mind.
        """
        asker = made(Consumer, self._config.uncommitted(self._config.lines(), group))
        try:
            (answer,) = asker.committed([KafkaPartition(shard.topic, shard.partition)], timeout=REQUEST_TIMEOUT_S)
        except KafkaException:
            return False
        finally:
            bounded(asker.close, "asker")
        return answer.error is None

    def nobody(self, group: str) -> object:
        """Return the metadata of no member of a group: with it a transaction may move offsets as an operator does."""
        return self._asker(group).consumer_group_metadata()

    def _asker(self, group: str) -> Consumer:
        with self._asking:
            if group not in self._askers:
                self._askers[group] = made(Consumer, self._config.asker(self._config.lines(), group))
            return self._askers[group]

    def _patiently(self, ask: Callable[[], T]) -> T:
        deadline_s = time.monotonic() + self._config.settings.connect_timeout_s
        while True:
            try:
                return ask()
            except KafkaException as failure:
                code = error_of(failure).code()
                if code not in PASSING or time.monotonic() > deadline_s:
                    raise
                if code in STALE:  # after a broker's restart librdkafka 2.16.1 asks with its old epoch for ever
                    with suppress(KafkaException):
                        self._client.list_topics(timeout=COORDINATOR_WAIT_S)
                time.sleep(RETRY_WAIT_S)

    # --- the group --------------------------------------------------------------------------------------------

    def cluster(self) -> str:
        """Return what tells the cluster from every other; each answers to many names."""
        return self._patiently(
            lambda: str(_result(self._client.describe_cluster(request_timeout=COORDINATOR_WAIT_S)).cluster_id)
        )

    def slot(self, member: Member) -> Slot:
        """Tell how a slot stands in its group.

        Where the coordinator does not answer the admin client may abort the process (see :meth:`committed`), so
        another client asks first. It will be needed for the first claim anyway.
        """
        self.committed(member.group, TopicPartition(f"{member.group}.control", 0))
        group = self._patiently(lambda: self._described(member.group))
        members = group.members if group is not None else ()
        given = {m.group_instance_id: m.assignment.topic_partitions if m.assignment else [] for m in members}
        shared = frozenset(TopicPartition(p.topic, p.partition) for each in given.values() for p in each)
        for other in members:
            if other.group_instance_id == member.instance_id:
                topics = frozenset(p.topic for p in given[member.instance_id])
                return Slot(other.member_id, topics, shared)
        return Slot(None, None)

    def _described(self, name: str) -> ConsumerGroupDescription | None:
        """Ask with a client of its own: one whose connection broke may never find a coordinator again (as above).

        The first question about any group makes the cluster create its offsets topic, and librdkafka waits the
        whole time without asking again: a short wait, and the caller asks.
        """
        holder = [made(AdminClient, self._config.admin(self._lines))]
        try:
            futures = holder[0].describe_consumer_groups([name], request_timeout=COORDINATOR_WAIT_S)
            future: Future[ConsumerGroupDescription] = futures[name]
            return _result(future)
        except KafkaException as failure:
            if error_of(failure).code() == KafkaError.GROUP_ID_NOT_FOUND:
                return None
            raise
        finally:
            bounded(holder.clear, "admin client")

    def answers(self) -> Future[object]:
        """Ask for a sign of life; the future succeeds when a broker answers."""
        return self._client.describe_cluster(request_timeout=REQUEST_TIMEOUT_S)


def _result(future: Future[T]) -> T:
    """Wait for an answer; librdkafka ends every request at its timeout, the second bound is for its bugs."""
    try:
        return future.result(timeout=3 * REQUEST_TIMEOUT_S)
    except FutureTimeoutError:
        raise KafkaException(KafkaError(TIMED_OUT)) from None


def _as_wanted(spec: TopicSpec) -> str:
    config = ",".join(f"{name}={value}" for name, value in sorted(spec.config.items()))
    return f"{spec.name} with {spec.partitions} partitions" + (f" and {config}" if config else "")

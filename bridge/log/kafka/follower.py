"""Kafka's ``Follower``: one consumer that joins no group, and follows many partitions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.follower import Followed, Surveyed, Unfollowed
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import KafkaConfig, logger
from repertory.bridge.log.kafka.messages import (
    PARTITION_EOF,
    TRANSIENT,
    close_bounded,
    create_client,
    describe,
    error_of,
    records_of,
    runs,
)
from repertory.bridge.log.record import TopicPartition

#: Timeout of a request that only wakes a broker's thread (``GroupMember.fetch_from``); its answer does not matter.
WAKE_WAIT_S = 0.01
#: Records that one poll takes: ``consume`` refuses more than a million.
_POLLED_MAX = 100_000


class KafkaFollower:
    """Implements ``Follower``. The consumer is created when the first partition is followed."""

    def __init__(self, config: KafkaConfig, admin: Admin) -> None:
        self._config, self._admin = config, admin
        self._consumer: Consumer | None = None
        self._followed: set[TopicPartition] = set()

    def survey(self, topic: str) -> Surveyed | None:
        """See ``Follower.survey``."""
        try:
            found = self._admin.described(topic)
            if found is None:
                return None
            topic_id, count = found
            return Surveyed(topic_id, self._admin.all_bounds(topic, count))
        except KafkaException as failure:
            raise LogUnavailable(
                f"{topic} on kafka://{self._config.brokers} cannot be asked for: {describe(error_of(failure))}"
            ) from None

    def follow(self, place: TopicPartition, next_offset: int) -> None:
        """See ``Follower.follow``. What was fetched of it before is discarded by librdkafka."""
        if self._consumer is None:
            self._consumer = create_client(Consumer, self._config.reader(self._config.lines()))
        self.forget(place)
        target = KafkaPartition(place.topic, place.partition, next_offset)
        self._consumer.incremental_assign([target])
        self._followed.add(place)
        with suppress(KafkaException):
            self._consumer.get_watermark_offsets(target, timeout=WAKE_WAIT_S)

    def forget(self, place: TopicPartition) -> None:
        """See ``Follower.forget``."""
        if place in self._followed and self._consumer is not None:
            self._followed.discard(place)
            self._consumer.incremental_unassign([KafkaPartition(place.topic, place.partition)])

    def poll(self, timeout_s: float, records_max: int) -> Sequence[Followed | Unfollowed]:
        """See ``Follower.poll``. Waits for one message, then takes those that are ready."""
        if self._consumer is None:
            return ()
        message = self._consumer.poll(timeout_s)
        if message is None:
            return ()
        messages = [message, *self._consumer.consume(max(1, min(records_max - 1, _POLLED_MAX)), 0.0)]
        found: list[Followed | Unfollowed] = []
        for place, run in runs(messages):
            if place not in self._followed:
                continue
            if records := records_of(run, place):
                found.append(Followed(place, records))
            if len(records) < len(run) and (reason := self._lost(run)) is not None:
                self.forget(place)
                found.append(Unfollowed(place, reason))
        return found

    def _lost(self, run: Sequence[Message]) -> str | None:
        """Return why a partition cannot be followed from its place, None if its errors pass by themselves."""
        for message in run:
            error = message.error()
            if error is None or error.code() == PARTITION_EOF:
                continue
            if error.code() not in TRANSIENT and not error.retriable():
                return describe(error)
            logger.info("following %s: %s", message.topic(), describe(error))
        return None

    def close(self) -> None:
        """See ``Follower.close``."""
        consumer, self._consumer = self._consumer, None
        self._followed.clear()
        if consumer is not None:
            close_bounded(consumer.close, "follower")

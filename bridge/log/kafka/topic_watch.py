"""Notices that a topic was deleted and created again while a worker runs.

No error need tell of it: a consumer that does not fetch in between continues at the same offset of the new topic, and
skips what is below (seen on Kafka 4.3.1 with librdkafka 2.16.1). So the ids that the claims found are compared with
those of the cluster now and then; a shard whose topics changed is claimed again, and its recovery says what to do.

The same answers renew the partition counts that the admin client has cached. A topic outside the system may grow, or be
created anew with fewer partitions; for up to the interval, workers then place a key in different partitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress

from confluent_kafka import KafkaException
from confluent_kafka.admin import TopicDescription  # type: ignore[attr-defined]  # not re-exported

from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.record import TopicPartition

#: How often the ids are compared. One request, whatever the number of topics.
INTERVAL_S = 5.0


class TopicWatch:
    """Compares ids without waiting for the answer. One thread."""

    def __init__(self, admin: Admin, system: str) -> None:
        self._admin, self._system = admin, system
        self._known: dict[TopicPartition, Mapping[str, str]] = {}
        self._asked: dict[str, Future[TopicDescription]] = {}
        self._due_s = 0.0

    def claimed(self, shard: TopicPartition, ids: Mapping[str, str]) -> None:
        """Watch the topics of a shard from now on."""
        self._known[shard] = ids

    def forget(self, shard: TopicPartition) -> None:
        """Watch the topics of a shard no more."""
        self._known.pop(shard, None)

    def recreated(self, now_s: float) -> dict[TopicPartition, str]:
        """Return the shards of which a topic was created again, with its name; they are watched no more."""
        found: dict[TopicPartition, str] = {}
        if self._asked and all(future.done() for future in self._asked.values()):
            asked, self._asked = self._asked, {}
            ids = {topic: _id(future) for topic, future in asked.items()}
            outside = self._admin.cached_outside(self._system) & asked.keys()
            with suppress(KafkaException):  # The next answers tell.
                self._admin.renew(outside, asked)
            for shard, known in self._known.items():
                changed = [topic for topic in known if ids.get(topic) not in (None, known[topic])]
                if changed:
                    found[shard] = changed[0]
            for shard in found:
                self.forget(shard)
        if self._known and not self._asked and now_s >= self._due_s:
            self._due_s = now_s + INTERVAL_S
            topics = {topic for ids in self._known.values() for topic in ids}
            self._asked = self._admin.describe_topics(topics | self._admin.cached_outside(self._system))
        return found


def _id(future: Future[TopicDescription]) -> str | None:
    """Return the id of a topic; None if it does not exist, or the cluster did not answer."""
    try:
        return str(future.result(0).topic_id)
    except KafkaException:
        return None

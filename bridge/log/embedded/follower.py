"""The embedded log's ``Follower``: committed records of many partitions as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from repertory.bridge.log.embedded import schema
from repertory.bridge.log.embedded.store import Store
from repertory.bridge.log.follower import Followed, Surveyed, Unfollowed
from repertory.bridge.log.record import TopicPartition

#: How often a waiting poll looks for new commits.
_WAKE_MIN_S, _WAKE_MAX_S = 0.2e-3, 5e-3
_OFFSET_MAX = (1 << 63) - 1


class EmbeddedFollower:
    """Implements ``Follower``. One thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next: dict[TopicPartition, int] = {}
        #: The ids of the topics when they were first followed, or surveyed last.
        self._ids: dict[str, str] = {}
        #: The version of the log at which there was nothing more.
        self._idle: tuple[int, int] | None = None

    def survey(self, topic: str) -> Surveyed | None:
        """See ``Follower.survey``."""
        count = self._store.partition_count(topic)
        if count is None:
            return None
        bounds = [self._bounds(TopicPartition(topic, partition)) for partition in range(count)]
        found = self._ids[topic] = self._store.topic_ids([topic]).get(topic, "")
        return Surveyed(found, bounds)

    def _bounds(self, place: TopicPartition) -> tuple[int, int]:
        """Return the bounds of a partition. What compaction took is not missing, as on Kafka."""
        low, end = self._store.bounds(*place)
        if low and self._store.rows(schema.HAS_COMPACTION) and self._store.rows(schema.COMPACTION_OF, place):
            return 0, end
        return low, end

    def follow(self, place: TopicPartition, next_offset: int) -> None:
        """See ``Follower.follow``."""
        self._next[place], self._idle = next_offset, None
        if place.topic not in self._ids:
            self._ids[place.topic] = self._store.topic_ids([place.topic]).get(place.topic, "")

    def forget(self, place: TopicPartition) -> None:
        """See ``Follower.forget``."""
        self._next.pop(place, None)

    def poll(self, timeout_s: float, records_max: int) -> Sequence[Followed | Unfollowed]:
        """See ``Follower.poll``. In memory it returns at once, since nothing can come while it waits."""
        deadline_s, pause_s = time.monotonic() + timeout_s, _WAKE_MIN_S
        while True:
            version = self._store.version()
            found = [] if version == self._idle else [*self._some(records_max)]
            if not found:
                self._idle = version
            left_s = deadline_s - time.monotonic()
            if found or left_s <= 0 or not self._store.path:
                return found
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _WAKE_MAX_S)

    def _some(self, records_max: int) -> Iterator[Followed | Unfollowed]:
        """Yield the next batch of each partition; the one that came first waits for the others the next time."""
        left, ids = records_max, self._store.topic_ids(self._ids)
        for place in list(self._next):
            if left <= 0:
                return
            if ids.get(place.topic) != self._ids[place.topic]:
                del self._next[place]
                yield Unfollowed(place, f"{place.topic} was deleted or created again")
                continue
            records = self._store.records(*place, self._next[place], _OFFSET_MAX)[:records_max]
            if records:
                left -= len(records)
                del self._next[place]  # To the end.
                self._next[place] = records[-1].offset + 1
                yield Followed(place, records)

    def close(self) -> None:
        """See ``Follower.close``."""
        self._next.clear()
        self._store.release()

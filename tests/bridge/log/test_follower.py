"""The follower of every log: committed records of many partitions, from where it is told, and what a topic is."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from repertory.bridge.log.connect import connect
from repertory.bridge.log.follower import Followed, Follower, Unfollowed
from repertory.bridge.log.port import Appender, Backend, TopicSpec
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.system.settings import Settings

DEADLINE_S = 30.0


class Following:
    """A topic of two partitions, an appender, and a follower with what it has found."""

    def __init__(self, backend: Backend, follower: Follower, appender: Appender, topic: str) -> None:
        self.backend, self.follower, self.appender, self.topic = backend, follower, appender, topic
        self.records: dict[int, list[Record]] = {0: [], 1: []}
        self.lost: list[TopicPartition] = []

    def place(self, partition: int) -> TopicPartition:
        """Return a partition."""
        return TopicPartition(self.topic, partition)

    def append(self, partition: int, *values: bytes) -> None:
        """Append records."""
        self.appender.append([Output(self.topic, partition, b"k", value, (("h", b"1"),)) for value in values])

    def poll(self, records_max: int = 1_000) -> int:
        """Poll once, and return how many records came."""
        count = 0
        for event in self.follower.poll(0.05, records_max):
            if isinstance(event, Unfollowed):
                self.lost.append(event.place)
            else:
                assert isinstance(event, Followed)
                self.records[event.place.partition] += event.records
                count += len(event.records)
        return count

    def until(self, partition: int, count: int) -> list[bytes | None]:
        """Poll until so many records of a partition have come, and return their values."""
        deadline_s = time.monotonic() + DEADLINE_S
        while len(self.records[partition]) < count:
            assert time.monotonic() < deadline_s
            self.poll()
        return [record.value for record in self.records[partition]]


@pytest.fixture
def following(url: str) -> Iterator[Following]:
    """Return a follower of a new topic."""
    topic = f"followed-{uuid4().hex[:8]}"
    with closing(connect(url)) as backend:
        backend.ensure([TopicSpec(topic, 2, {})])
        with closing(backend.follower()) as follower, closing(backend.appender()) as appender:
            yield Following(backend, follower, appender, topic)


def test_records_come_from_the_offset_on(following: Following) -> None:
    """Of each partition in order, with all that they have; later ones as they come."""
    following.append(0, b"a", b"b", b"c")
    following.append(1, b"x")
    following.follower.follow(following.place(0), 1)
    following.follower.follow(following.place(1), 0)
    assert following.until(0, 2) == [b"b", b"c"]
    assert following.until(1, 1) == [b"x"]
    following.append(0, b"d")
    assert following.until(0, 3) == [b"b", b"c", b"d"]
    record = following.records[0][0]
    assert (record.offset, record.key, record.headers) == (1, b"k", (("h", b"1"),))
    assert record.timestamp_ms > 0


def test_what_is_forgotten_does_not_come(following: Following) -> None:
    """And what is followed again comes from where it is said to, once."""
    following.follower.follow(following.place(0), 0)
    following.follower.follow(following.place(1), 0)
    following.append(0, b"a", b"b")
    following.until(0, 2)
    following.follower.forget(following.place(0))
    following.follower.forget(following.place(0))
    following.append(0, b"c")
    following.append(1, b"x")
    following.until(1, 1)
    assert len(following.records[0]) == 2
    following.follower.follow(following.place(0), 1)
    assert following.until(0, 4) == [b"a", b"b", b"b", b"c"]
    following.follower.follow(following.place(0), 0)
    assert following.until(0, 7)[4:] == [b"a", b"b", b"c"]


def test_a_poll_is_bounded(following: Following) -> None:
    """A large backlog comes in pieces, and the other partition is not starved by it."""
    following.append(0, *(b"%d" % number for number in range(3_000)))
    following.append(1, b"x")
    for partition in range(2):
        following.follower.follow(following.place(partition), 0)
    deadline_s = time.monotonic() + DEADLINE_S
    while len(following.records[0]) < 3_000 or not following.records[1]:
        assert following.poll(100) <= 300
        assert time.monotonic() < deadline_s
    assert [record.value for record in following.records[0]] == [b"%d" % number for number in range(3_000)]


def test_a_survey_says_what_there_is(following: Following) -> None:
    """The topic's id and the bounds of each partition; nothing of a topic that does not exist."""
    following.append(1, b"x", b"y")
    found = following.follower.survey(following.topic)
    assert found is not None
    assert [*found.bounds] == [(0, 0), (0, 2)]
    with closing(following.backend.reader()) as reader:
        assert reader.topic_ids([following.topic]) == {following.topic: found.topic_id}
    assert following.follower.survey(f"no-{following.topic}") is None


@pytest.mark.kafka
def test_what_compaction_took_is_not_missing(tmp_path: Path) -> None:
    """The embedded log: as on Kafka, a compacted topic begins where it began; retention alone moves that."""
    path = tmp_path / "log.db"
    with closing(connect(f"sqlite:{path}")) as backend, closing(backend.follower()) as follower:
        compacted = TopicSpec("compacted", 1, {"cleanup.policy": "compact"})
        backend.ensure([compacted, TopicSpec("kept", 1, {})])
        with closing(backend.appender()) as appender:
            for topic in ("compacted", "kept"):
                appender.append([Output(topic, 0, b"k", b"v")] * 5)
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("DELETE FROM record WHERE offset < 3")
        for topic, low in (("compacted", 0), ("kept", 3)):
            found = follower.survey(topic)
            assert found is not None
            assert found.bounds == [(low, 5)]


def test_on_kafka_only_committed_records_come(kafka_url: str) -> None:
    """Aborted ones and markers take offsets, and are not delivered."""
    topic = f"followed-{uuid4().hex[:8]}"
    with closing(connect(kafka_url)) as backend, closing(backend.follower()) as follower:
        backend.ensure([TopicSpec(topic, 2, {})])
        following = Following(backend, follower, backend.appender(), topic)
        producer = Producer({"bootstrap.servers": kafka_url.removeprefix("kafka://"), "transactional.id": topic})
        producer.init_transactions()
        follower.follow(following.place(0), 0)
        for value, commits in ((b"a", True), (b"b", False), (b"c", True)):
            producer.begin_transaction()
            producer.produce(topic, value, partition=0)
            producer.flush()
            (producer.commit_transaction if commits else producer.abort_transaction)()
        assert following.until(0, 2) == [b"a", b"c"]
        assert [record.offset for record in following.records[0]] == [0, 4]


@pytest.mark.kafka
def test_on_kafka_a_place_that_is_gone_is_followed_no_more(kafka_url: str) -> None:
    """An offset beyond the end, or a topic that is deleted while it is followed: the owner surveys it."""
    topic = f"followed-{uuid4().hex[:8]}"
    with closing(connect(kafka_url, Settings())) as backend, closing(backend.follower()) as follower:
        backend.ensure([TopicSpec(topic, 2, {})])
        following = Following(backend, follower, backend.appender(), topic)
        follower.follow(following.place(1), 7)
        deadline_s = time.monotonic() + DEADLINE_S
        while not following.lost:
            following.poll()
            assert time.monotonic() < deadline_s
        assert following.lost == [following.place(1)]
        follower.follow(following.place(0), 0)
        following.append(0, b"a")
        following.until(0, 1)
        admin = AdminClient({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
        admin.delete_topics([topic])[topic].result()
        while follower.survey(topic) is not None:
            assert time.monotonic() < deadline_s
        following.poll()

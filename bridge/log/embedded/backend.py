"""The embedded log's other ports, for anyone: reader, appender, and the backend that a URL names."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from repertory.bridge.log.clock import Clock, SystemClock
from repertory.bridge.log.compacted import is_compacted
from repertory.bridge.log.embedded import schema
from repertory.bridge.log.embedded.compaction import Compactor
from repertory.bridge.log.embedded.follower import EmbeddedFollower
from repertory.bridge.log.embedded.log import EmbeddedLog, lives
from repertory.bridge.log.embedded.store import Store, exists, grouped
from repertory.bridge.log.errors import TopicMismatch
from repertory.bridge.log.port import (
    Log,
    Member,
    MemberDescription,
    TopicSpec,
)
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.system.settings import Settings
from repertory.supervision.process.proc import writer_pid

#: How often a waiting reader looks for new commits.
_WAKE_MIN_S, _WAKE_MAX_S = 0.2e-3, 5e-3
_OFFSET_MAX = (1 << 63) - 1


class EmbeddedReader:
    """Committed records of the embedded log. One thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def partition_count(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if there is no such topic."""
        return self._store.partition_count(topic)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset still held and the end; TopicMismatch if there is no such partition."""
        return self._store.bounds(topic, partition)

    def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
        """Yield the records from an offset up to the end as it is at the call, in bounded memory.

        Nothing is held between two batches, so a slow reader keeps no writer from reusing the WAL.
        """
        _, end = self._store.bounds(topic, partition)
        return self._read(topic, partition, from_offset, end)

    def _read(self, topic: str, partition: int, next_offset: int, end: int) -> Iterator[Record]:
        while records := self._store.records(topic, partition, next_offset, end):
            yield from records
            next_offset = records[-1].offset + 1

    def follow(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """Yield records of several partitions as they come; in memory only those that are there."""
        for partition in positions:
            self._store.bounds(topic, partition)
        return self._follow(topic, dict(positions), timeout_s)

    def _follow(self, topic: str, positions: dict[int, int], timeout_s: float) -> Iterator[Record]:
        deadline_s, pause_s = time.monotonic() + timeout_s, _WAKE_MIN_S
        seen: tuple[int, int] | None = None
        while True:
            version, found = self._store.version(), False
            for partition in positions if version != seen else ():
                if records := self._store.records(topic, partition, positions[partition], _OFFSET_MAX):
                    positions[partition] = records[-1].offset + 1
                    found = True
                    yield from records
            if found:
                deadline_s, pause_s = time.monotonic() + timeout_s, _WAKE_MIN_S
                continue
            seen = version
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not self._store.path:
                return
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _WAKE_MAX_S)

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        """Return the ids of those of the topics that exist."""
        return self._store.topic_ids(topics)

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """Return the next offset that a group committed, None if it never did."""
        for (next_offset,) in self._store.rows(schema.COMMITTED, (group, topic, partition)):
            return int(next_offset)
        return None

    def close(self) -> None:
        """Release the file."""
        self._store.release()


class EmbeddedAppender:
    """Appends to the embedded log from outside a shard. One thread."""

    def __init__(self, store: Store) -> None:
        self._store, self._compactor = store, Compactor(store)

    def append(self, outputs: Sequence[Output]) -> Sequence[int]:
        """Append all of it durably or nothing, and return the offsets, in order."""
        self._compactor.step()
        groups = grouped(outputs)
        with self._store.write(appends=True) as connection:
            next_offsets = self._store.append(connection, groups)
        self._compactor.wrote(next_offsets)
        offsets = []
        for output in outputs:
            partition = TopicPartition(output.topic, output.partition)
            offsets.append(next_offsets[partition])
            next_offsets[partition] += 1
        return offsets

    def close(self) -> None:
        """Release the file."""
        self._store.release()


class EmbeddedBackend:
    """The door to one embedded log. Opens nothing by itself, so it may be made before a fork and used after it.

    ``path`` "" means memory: everything that is opened here then shares one store, in one thread. The clock measures
    leases and dates records.
    """

    def __init__(self, url: str, settings: Settings, *, path: str = "", clock: Clock | None = None) -> None:
        self.url = url
        self._path = str(Path(path).absolute()) if path else ""
        self._settings, self._clock = settings, clock or SystemClock()
        self._memory = Store("", settings, self._clock)

    def _store(self) -> Store:
        """Return the connection of one port: its own to a file, the common one in memory."""
        return Store(self._path, self._settings, self._clock) if self._path else self._memory

    def writer_pid(self) -> int | None:
        """Return the process that holds the write lock now: who to kill when ``lock_timeout_s`` has passed."""
        return writer_pid(self._path) if self._path else None

    def topics(self) -> Mapping[str, int]:
        """Return every topic with its number of partitions. A file that is not there has none, and is not made."""
        if self._path and not exists(self._path):
            return {}
        store = self._store()
        try:
            return dict(store.rows("SELECT topic, count(*) FROM partition GROUP BY topic"))
        finally:
            store.release()

    def ensure(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
        """Make the missing topics, unless one of the others has another partition count: then nothing is made."""
        store = self._store()
        try:
            with store.write() as connection:
                made = [spec for spec in specs if _is_missing(store, spec)]
                ((changes,),) = connection.execute("SELECT membership FROM meta").fetchall()
                for number, spec in enumerate(made):
                    rows = [(spec.name, partition) for partition in range(spec.partitions)]
                    connection.executemany("INSERT INTO partition VALUES (?, ?, 0)", rows)
                    # No topic ever had this id, and in a simulated run it is the same each time.
                    topic_id = f"{store.clock.epoch_ms():x}-{changes}-{number}"
                    connection.execute("INSERT OR REPLACE INTO topic VALUES (?, ?)", (spec.name, topic_id))
                connection.execute(schema.COMPACTION)
                for spec in specs:
                    if is_compacted(spec.config):
                        rows = [(spec.name, partition) for partition in range(spec.partitions)]
                        connection.executemany(schema.COMPACT, rows)
                if made:
                    connection.execute(schema.CHANGED)
        finally:
            store.release()
        return [spec.name for spec in made]

    def members(self, group: str) -> Sequence[MemberDescription]:
        """Return the members whose processes run; nobody but systems of ours can be one."""
        if self._path and not exists(self._path):
            return []
        store = self._store()
        try:
            rows = store.rows(schema.MEMBER_SHARDS, (group,))
        finally:
            store.release()
        found: dict[str, MemberDescription] = {}
        for owner, node, slot, pid, start, topic, partition in rows:
            if not lives(owner, pid, start):
                continue
            before = found.get(owner) or MemberDescription(
                Member(group, node, slot).instance_id, f"process {pid}", "this machine", ()
            )
            shards = before.shards if topic is None else (*before.shards, TopicPartition(topic, partition))
            found[owner] = msgspec.structs.replace(before, shards=shards)
        return list(found.values())

    def log(self, member: Member, subscriptions: Sequence[str]) -> EmbeddedLog:
        """Return a member that joins its group at the first poll."""
        return EmbeddedLog(self._store(), member, subscriptions)

    def abandon(self, log: Log) -> None:
        """Stop a log as SIGKILL stops its process: nothing is handed back, and the others see a dead member."""
        assert isinstance(log, EmbeddedLog)
        log.abandon()

    def reader(self) -> EmbeddedReader:
        """Return a reader."""
        return EmbeddedReader(self._store())

    def appender(self) -> EmbeddedAppender:
        """Return an appender."""
        return EmbeddedAppender(self._store())

    def follower(self) -> EmbeddedFollower:
        """Return a follower."""
        return EmbeddedFollower(self._store())

    def close(self) -> None:
        """Release what is held: the store in memory is gone."""
        self._memory.close()


def _is_missing(store: Store, spec: TopicSpec) -> bool:
    """Tell whether a topic has to be made; TopicMismatch if it is there with another number of partitions."""
    count = store.partition_count(spec.name)
    if count not in (None, spec.partitions):
        raise TopicMismatch(
            f"topic {spec.name} of {store} has {count} partitions, the system declares {spec.partitions}: "
            "the keys would land on other shards; declare what is there, or choose another system name"
        )
    return count is None

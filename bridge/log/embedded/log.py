"""The embedded log's ``Log``: membership, leases and fences in the tables of one file, committed by its workers.

Non-obvious, and relied upon:

- A worker is a member until somebody *evicts* it in a transaction of the file, which a lease that ran out or a dead
  process allows and nothing else does. So a slow worker whom nobody replaced has lost nothing.
- Taking a shard raises its epoch; the first statement of a commit asks for the epoch that its worker claimed. That
  alone decides who may write: leases, pids and shares only decide who should.
- A lease is measured on the machine's monotonic clock, which all its processes share; a member of an earlier boot
  is known by its ``pid_start``.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence

import msgspec

from repertory.bridge.log.embedded import schema
from repertory.bridge.log.embedded.compaction import Compactor
from repertory.bridge.log.embedded.store import Connection, Store, grouped
from repertory.bridge.log.errors import (
    LogUnavailable,
    OutcomeUnknown,
    Refused,
    SlotTaken,
    TopicMismatch,
)
from repertory.bridge.log.port import (
    Aborted,
    Append,
    Assigned,
    Claimed,
    Committed,
    Fenced,
    Fetched,
    LogEvent,
    Lost,
    Member,
    OutputsRefused,
    Replayed,
    Transaction,
)
from repertory.bridge.log.record import TopicPartition
from repertory.supervision.process.proc import is_alive, is_stopped, pid_start

#: Replayed records of one poll over all shards, so shards that are ready do not wait long for those that restore.
_REPLAY_RECORDS_MAX = 4_000
#: How often a waiting poll looks for the commits of others.
_WAKE_MIN_S, _WAKE_MAX_S = 0.2e-3, 5e-3
#: How often a worker looks for dead members. A slot that its supervisor restarts at once is back before that, and
#: its shards have not moved.
_LOOK_S = 0.5

#: Owners that live in this process. Its pid cannot tell: a log that was closed or abandoned is as dead as a process.
_living: set[str] = set()


def lives(owner: str, pid: int, start: str) -> bool:
    """Tell whether an owner still runs, by what it wrote down about itself.

    Of an owner with our own pid we know it, also when that pid was another process's in an earlier boot.
    """
    return owner in _living if pid == os.getpid() else is_alive(pid, start)


class _Replay(msgspec.Struct):
    """A replay under way."""

    topic: str
    next_offset: int
    to_offset: int


class _Shard(msgspec.Struct):
    """What a log knows of a shard that it owns. ``epoch`` is None until it is claimed, ``position`` until begun."""

    epoch: int | None = None
    position: int | None = None
    paused: bool = False
    replay: _Replay | None = None
    #: The ids of its topics when it was claimed.
    ids: dict[str, str] = {}


class EmbeddedLog:
    """One worker's member of a group. Commits happen within :meth:`commit`, and their outcome is told by ``poll``."""

    def __init__(self, store: Store, member: Member, subscriptions: Sequence[str]) -> None:
        self._store, self._member, self._subscriptions = store, member, tuple(subscriptions)
        self._compactor = Compactor(store)
        self._lease_s = store.settings.session_timeout_s
        self._busy_s = store.settings.busy_s
        self._owner = uuid.uuid4().hex
        self._joined = self._closed = False
        self._shards: dict[TopicPartition, _Shard] = {}
        self._claims: dict[TopicPartition, Sequence[str]] = {}
        self._events: list[LogEvent] = []
        self._ends: dict[tuple[str, int], int] = {}
        self._counts: dict[str, int | None] = {}
        self._version: tuple[int, int] | None = None
        self._membership: int | None = None
        self._look_at_s = self._renew_at_s = 0.0

    @property
    def is_member(self) -> bool:
        """See ``Log.is_member``."""
        return self._joined

    @property
    def is_sure(self) -> bool:
        """See ``Log.is_sure``."""
        renewed_s = self._renew_at_s - self._lease_s / 3
        return self._joined and self._store.clock.monotonic_s() - renewed_s <= self._lease_s / 2

    def poll(self, timeout_s: float) -> Sequence[LogEvent]:
        """Return what has happened since the last call; in memory at once, since nothing can come while we wait."""
        assert not self._closed, "a closed log is not polled"
        deadline_s, pause_s = time.monotonic() + timeout_s, _WAKE_MIN_S
        while True:
            self._attend()
            self._claim_all()
            self._compactor.step()
            events = [*self._events, *self._replay_some(), *self._fetch_some()]
            self._events.clear()
            left_s = deadline_s - time.monotonic()
            if events or left_s <= 0 or not self._store.path:
                return events
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _WAKE_MAX_S)

    def claim(self, shard: TopicPartition, topics: Sequence[str]) -> None:
        """Ask for a shard; the next poll claims all that were asked for in one transaction."""
        self._events = [event for event in self._events if event.shard != shard]
        if shard not in self._shards:
            self._fence(shard)
            return
        try:
            for topic in topics:
                self._store.bounds(topic, shard.partition)
        except TopicMismatch as missing:
            self._abort(shard, str(missing))
        else:
            self._shards[shard] = _Shard()
            self._claims[shard] = tuple(topics)

    def replay(self, shard: TopicPartition, topic: str, from_offset: int, to_offset: int) -> None:
        """Ask for committed records; each poll reads a bounded batch of them."""
        if state := self._shards.get(shard):
            assert state.replay is None, f"{shard} replays one topic at a time"
            state.replay = _Replay(topic, from_offset, to_offset)

    def begin(self, shard: TopicPartition, next_offset: int) -> None:
        """Let commands flow."""
        if state := self._shards.get(shard):
            state.position = next_offset

    def pause(self, shard: TopicPartition) -> None:
        """Fetch no more for now."""
        if state := self._shards.get(shard):
            state.paused = True

    def resume(self, shard: TopicPartition) -> None:
        """Undo ``pause``."""
        if state := self._shards.get(shard):
            state.paused = False

    def commit(self, transaction: Transaction) -> None:
        """Do all of it or nothing, now; the next poll says which.

        Raises:
            LogUnavailable: the file cannot be written; nothing was written.
        """
        shard, state = transaction.shard, self._shards.get(transaction.shard)
        if state is None or state.epoch is None:
            self._fence(shard)
            return
        groups = grouped(transaction.records)
        now_s = self._store.clock.monotonic_s()
        fence = (transaction.next_offset, self._member.group, *shard, state.epoch)
        try:
            with self._store.write(appends=True) as connection:
                is_ours = connection.execute(schema.FENCE, fence).rowcount > 0
                if is_ours:
                    offsets = self._store.append(connection, groups)
                if is_ours and now_s >= self._renew_at_s:
                    self._renew(connection, now_s)
        except OutcomeUnknown as error:
            self._abort(shard, str(error))
            return
        except TopicMismatch as error:
            self._refuse_missing(transaction, str(error))
            return
        except Refused as error:
            self._start_over(OutputsRefused(shard, transaction.records, str(error), all_refused=False))
            return
        if not is_ours:
            self._fence(shard)
            return
        self._compactor.wrote(offsets)
        first_offsets: dict[str, int] = {}
        for (topic, _), offset in offsets.items():
            first_offsets.setdefault(topic, offset)
        self._events.append(Committed(shard, first_offsets))

    def append(self, append: Append) -> None:
        """Do all of it, now. One file is one transaction anyhow: its lock and its sync are what takes time."""
        self.commit(Transaction(append.shard, append.next_offset, [*append.outputs, *append.journal]))

    def withdraw(self, topics: Sequence[str]) -> None:
        """Want these topics no more; the next poll gives up the shards of them that are ours."""
        self._subscriptions = tuple(topic for topic in self._subscriptions if topic not in topics)
        self._version, self._renew_at_s = None, 0.0

    def partition_count(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if there is no such topic. Read again once topics were made."""
        if topic not in self._counts:
            self._counts[topic] = self._store.partition_count(topic)
        return self._counts[topic]

    def close(self) -> None:
        """Hand the shards back and leave."""
        if self._closed:
            return
        # A file that cannot be written now must not keep a worker from leaving: its lease ends by itself.
        with contextlib.suppress(LogUnavailable):
            if self._joined:
                with self._store.write() as connection:
                    connection.execute("DELETE FROM member WHERE owner = ?", (self._owner,))
                    self._free_ownerless(connection)
                    connection.execute(schema.CHANGED)
        self.abandon()

    def abandon(self) -> None:
        """Stop as a killed process does: nothing is handed back, and the others see a dead member."""
        self._closed = True
        _living.discard(self._owner)
        self._store.release()

    # --- membership ---

    def _attend(self) -> None:
        """Take part in the group: join, renew the lease, notice what has changed and who has died."""
        now_s = self._store.clock.monotonic_s()
        version, changed = self._store.version(), False
        if version != self._version:
            self._version = version
            rows = self._store.rows(schema.news(len(self._subscriptions)), self._subscriptions)
            changed = rows[0][0] != self._membership
            self._ends = {(topic, partition): end for _, topic, partition, end in rows}
        if changed:
            self._check_topics()
        if changed or now_s >= self._renew_at_s or (now_s >= self._look_at_s and self._someone_left(now_s)):
            self._rebalance(now_s)

    def _check_topics(self) -> None:
        """Abort the shards whose topics were deleted and created again; the recovery that follows refuses them."""
        self._counts.clear()
        ids = self._store.topic_ids({topic for state in self._shards.values() for topic in state.ids})
        for shard, state in list(self._shards.items()):
            recreated = [topic for topic, known in state.ids.items() if ids.get(topic, known) != known]
            if recreated:
                self._abort(shard, f"{shard}: {recreated[0]} was deleted and created again")

    def _someone_left(self, now_s: float) -> bool:
        """Tell whether another member's lease ran out or its process died."""
        self._look_at_s = now_s + _LOOK_S
        return bool(self._departed(now_s))

    def _departed(self, now_s: float) -> list[str]:
        """Return the owners that may be evicted."""
        rows = self._store.rows(schema.OTHERS, (self._member.group, self._owner))
        return [
            owner
            for owner, pid, start, until_ms in rows
            if not lives(owner, pid, start) or (until_ms <= now_s * 1000 and not self._is_busy(pid, until_ms, now_s))
        ]

    def _is_busy(self, pid: int, until_ms: int, now_s: float) -> bool:
        """Tell whether another process whose lease ran out may have a handler that takes longer than the lease.

        It does, if it runs, until its supervisor would have killed it. One that is stopped (SIGSTOP) does nothing. On
        Kafka this is what the client's own thread says, with ``max.poll.interval.ms``.
        """
        return pid != os.getpid() and now_s - until_ms / 1000 < self._busy_s and not is_stopped(pid)

    def _rebalance(self, now_s: float) -> None:
        """Evict who is gone, give up what is beyond our share, take what is free of it, and renew the lease."""
        with self._store.write() as connection:
            departed = [(owner,) for owner in self._departed(now_s)]
            connection.executemany("DELETE FROM member WHERE owner = ?", departed)
            entered = self._enter(connection, now_s)
            wanted = msgspec.json.encode(self._subscriptions).decode()
            changed = connection.execute(schema.SUBSCRIBE, (wanted, self._owner, wanted)).rowcount > 0
            self._free_ownerless(connection)
            mine, gave_up = self._share(connection)
            self._renew(connection, now_s)
            if departed or entered or gave_up or changed:
                connection.execute(schema.CHANGED)
            (self._membership,) = connection.execute("SELECT membership FROM meta").fetchone()
        if entered:
            self._lose(list(self._shards), "the lease ran out and another member noticed")
        left = [shard for shard in self._shards if shard.topic not in self._subscriptions]
        self._lose(left, "this worker has withdrawn from its topic")
        self._lose([shard for shard in self._shards if shard not in mine], "another member has it in its share")
        for shard in mine:
            if shard not in self._shards:
                self._shards[shard] = _Shard()
                self._events.append(Assigned(shard))
        self._joined = True

    def _enter(self, connection: Connection, now_s: float) -> bool:
        """Write down our membership, and return whether it was not there."""
        member = self._member
        slot = (member.group, member.node, member.slot)
        row = connection.execute(schema.OCCUPANT, slot).fetchone()
        if row and row[0] == self._owner:
            return False
        if row:  # Who is gone was deleted before.
            raise SlotTaken.by(f"the live process {row[1]}", member)
        _living.add(self._owner)
        pid = os.getpid()
        subscriptions = msgspec.json.encode(self._subscriptions).decode()
        identity = (self._owner, pid, pid_start(pid), self._lease_until_ms(now_s), subscriptions)
        connection.execute("INSERT INTO member VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*slot, *identity))
        return True

    def _share(self, connection: Connection) -> tuple[list[TopicPartition], bool]:
        """Move towards our share, and return what is ours now and whether something was given up.

        A shard that another member has beyond its own share is taken later, when that member has let it go.
        """
        group = self._member.group
        connection.execute(schema.make_shards(len(self._subscriptions)), (group, *self._subscriptions))
        rows = connection.execute(schema.OWNERS, (group,)).fetchall()
        owners = {TopicPartition(topic, partition): owner for topic, partition, owner in rows}
        members = {
            owner: msgspec.json.decode(subscriptions, type=list[str])
            for owner, subscriptions in connection.execute(schema.MEMBERS, (group,)).fetchall()
        }
        allotted = schema.allot(members, owners)
        mine, gave_up = [], False
        for shard, owner in owners.items():
            if allotted.get(shard) == self._owner:
                if owner is None:
                    connection.execute(schema.TAKE, (self._owner, group, *shard))
                if owner in (None, self._owner):
                    mine.append(shard)
            elif owner == self._owner:
                connection.execute(schema.GIVE_UP, (group, *shard))
                gave_up = True
        return mine, gave_up

    def _renew(self, connection: Connection, now_s: float) -> None:
        """Renew the lease, within a transaction."""
        until_ms = self._lease_until_ms(now_s)
        connection.execute("UPDATE member SET lease_until_ms = ? WHERE owner = ?", (until_ms, self._owner))
        self._renew_at_s = now_s + self._lease_s / 3

    def _free_ownerless(self, connection: Connection) -> None:
        """Set free the shards whose owner is no member."""
        connection.execute(schema.FREE_OWNERLESS, (self._member.group, self._member.group))

    def _lease_until_ms(self, now_s: float) -> int:
        return int((now_s + self._lease_s) * 1000)

    def _lose(self, shards: Sequence[TopicPartition], reason: str) -> None:
        """Forget shards and say so."""
        for shard in shards:
            self._forget(shard)
            self._events.append(Lost(shard, reason))

    def _abort(self, shard: TopicPartition, reason: str) -> None:
        self._start_over(Aborted(shard, reason, routine=False))

    def _start_over(self, event: Aborted | OutputsRefused) -> None:
        """Have a shard claimed again."""
        self._shards[event.shard] = _Shard()
        self._claims.pop(event.shard, None)
        self._events.append(event)

    def _refuse_missing(self, transaction: Transaction, reason: str) -> None:
        """Refuse the records for topics of others that do not exist; another missing partition is no record's fault."""
        self._counts.clear()
        own = f"{self._member.system}."
        missing = [
            output for output in transaction.records
            if not output.topic.startswith(own) and self.partition_count(output.topic) is None
        ]  # fmt: skip
        if missing:
            self._start_over(OutputsRefused(transaction.shard, missing, reason, all_refused=True))
        else:
            self._abort(transaction.shard, reason)

    def _fence(self, shard: TopicPartition) -> None:
        """Forget a shard that a later owner claimed; whether it is still ours is seen at the next poll."""
        self._forget(shard)
        self._events.append(Fenced(shard, f"{shard} has another owner: nothing was written"))
        self._renew_at_s = 0.0

    def _forget(self, shard: TopicPartition) -> None:
        self._shards.pop(shard, None)
        self._claims.pop(shard, None)

    # --- reading ---

    def _claim_all(self) -> None:
        """Claim what was asked for, in one transaction: the epoch and what was committed under the earlier ones."""
        if not self._claims:
            return
        group = self._member.group
        answers: list[Claimed | TopicPartition] = []
        with self._store.write() as connection:
            for shard, topics in self._claims.items():
                rows = connection.execute(schema.CLAIM, (group, *shard, self._owner)).fetchall()
                if rows:
                    ((epoch, committed),) = rows
                    self._shards[shard] = _Shard(epoch=epoch)
                    ends = {topic: self._store.bounds(topic, shard.partition)[1] for topic in topics}
                    ids = self._shards[shard].ids = self._store.topic_ids((shard.topic, *topics))
                    answers.append(Claimed(shard, committed, *self._store.bounds(*shard), ends, ids))
                else:
                    answers.append(shard)
        self._claims.clear()
        for answer in answers:
            if isinstance(answer, Claimed):
                self._events.append(answer)
            else:
                self._fence(answer)

    def _replay_some(self) -> Iterator[Replayed]:
        """Read the next batch of the replays under way, those of the first shards first, up to a bound."""
        left = _REPLAY_RECORDS_MAX
        for shard, state in self._shards.items():
            if (replay := state.replay) is None or left <= 0:
                continue
            records = self._store.records(replay.topic, shard.partition, replay.next_offset, replay.to_offset)
            left -= len(records)
            if records:
                replay.next_offset = records[-1].offset + 1
            if complete := not records or replay.next_offset >= replay.to_offset:
                state.replay = None
            yield Replayed(shard, replay.topic, records, complete)

    def _fetch_some(self) -> Iterator[Fetched]:
        """Read the next batch of every shard that has begun and is not paused."""
        for shard, state in self._shards.items():
            end = self._ends.get(shard, 0)
            if state.position is not None and not state.paused and state.position < end:
                records = self._store.records(*shard, state.position, end)
                if records:
                    state.position = records[-1].offset + 1
                    yield Fetched(shard, records)

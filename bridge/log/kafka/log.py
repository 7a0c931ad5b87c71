"""A worker's shards: turns what happens to its membership, its claims and its fetches into the events of ``poll``.

Callbacks and threads change only the ``KafkaShard`` values (whose phases are a table, in ``shard``), the inbox of the
claims, and the list of events that the current ``poll`` returns. Nothing is kept between the callbacks of a rebalance,
which may come alone, together, or with empty lists. A revoke is treated as a loss: librdkafka can drop the mark that
distinguishes them (its PR #5604).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence

from confluent_kafka import Message

from repertory.bridge import kill_points
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.claim import Claim, Inbox
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.group import GroupMember
from repertory.bridge.log.kafka.lease import Lease
from repertory.bridge.log.kafka.messages import OUT_OF_RANGE, describe, records_of, runs
from repertory.bridge.log.kafka.shard import KafkaPhase, KafkaShard
from repertory.bridge.log.kafka.topic_watch import TopicWatch
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
from repertory.bridge.log.record import Record, TopicPartition

#: While a claim, a replay, a commit or a proof is under way, the poll checks for its outcome this often.
BUSY_WAIT_S = 0.001
#: Otherwise the poll wakes up at least this often, for what is due by time.
IDLE_WAIT_S = 0.25
#: A revoke waits this long for the commits of its shards. The next owner's claim decides those that are not done.
REVOKE_WAIT_S = 1.0
#: A worker whose lease has expired waits this long for a proof before it ends its claims.
CONFIRM_WAIT_S = 1.0
#: How often the group's offsets of shards without transactions are committed. A commit costs as much as a turn.
GROUP_OFFSETS_S = 0.1
#: How long ``close`` waits, after the commits, for the claims' threads to destroy their clients.
WIND_DOWN_S = 2.0


class KafkaLog:
    """Implements ``Log``, whose docstrings say what each method guarantees. One thread."""

    def __init__(self, config: KafkaConfig, admin: Admin, member: Member, subscriptions: Sequence[str]) -> None:
        self._config = config
        self._admin = admin
        self._member = member
        self._subscriptions = tuple(subscriptions)
        self._group: GroupMember | None = None
        self._lease = Lease(config.settings.session_timeout_s)
        self._shards: dict[TopicPartition, KafkaShard[Claim]] = {}
        self._events: list[LogEvent] = []
        self._polled_s = 0.0
        self._inbox: Inbox = deque()
        self._topic_watch = TopicWatch(admin, member.system)
        self._group_offsets_due_s = 0.0
        self._ended: list[Claim] = []

    # --- poll -------------------------------------------------------------------------------------------------

    @property
    def is_member(self) -> bool:
        """See ``Log.is_member``."""
        return self._group is not None and self._group.has_joined

    @property
    def is_sure(self) -> bool:
        """See ``Log.is_sure``."""
        return self.is_member and not self._lease.is_half_over()

    def poll(self, timeout_s: float) -> Sequence[LogEvent]:
        """See ``Log.poll``. The first call joins the group."""
        if self._group is None:
            self._group = GroupMember(self._config, self._admin, self._member, self._subscriptions, self)
        group = self._group
        now_s = time.monotonic()
        deadline_s = now_s + timeout_s
        while True:
            self._drain()
            shards = self._shards.values()
            is_awaiting_proof = any(shard.is_awaiting_proof for shard in shards)
            if is_awaiting_proof or (shards and self._lease.is_due()):
                group.prove()
            self._commit_group_offsets(group, now_s)
            self._check_topics(now_s)
            is_busy = is_awaiting_proof or any(shard.is_busy for shard in shards)
            wait_s = BUSY_WAIT_S if is_busy else IDLE_WAIT_S
            wait_s = 0.0 if self._events else min(wait_s, max(0.0, deadline_s - now_s))
            flowing = sum(shard.is_flowing for shard in shards)
            self._polled_s = self._lease.now_s()
            messages = group.poll(wait_s, self._config.settings.batch_records_max * max(1, flowing))
            if messages:
                self._take(messages)
            self._drain()
            self._abort_stuck_claims()
            self._check_lease(group)
            now_s = time.monotonic()
            if self._events or now_s >= deadline_s:
                events, self._events = self._events, []
                return events

    def _take(self, messages: list[Message]) -> None:
        """Group fetched messages by shard; discard those of shards that have not begun."""
        fetched: dict[TopicPartition, list[Record]] = {}
        for where, run in runs(messages):
            records = records_of(run, where)
            if len(records) != len(run):
                self._on_errors(where, run)
            shard = self._shards.get(where)
            if shard is None or not shard.is_flowing:
                fetched.pop(where, None)  # Its claim may have ended at an error behind its first records.
                continue
            records = shard.take(records)
            if shard.is_overfull:
                self._stop_fetching(shard)
            if records and where in fetched:
                fetched[where] += records
            elif records:
                fetched[where] = records
        self._events += [Fetched(where, records) for where, records in fetched.items()]

    def _on_errors(self, where: TopicPartition, run: Sequence[Message]) -> None:
        assert self._group is not None
        for message in run:
            error = message.error()
            if error is None:
                continue
            if error.code() not in OUT_OF_RANGE:
                self._group.handle_error(error)
                continue
            shard = self._shards.get(where)
            if shard is not None and shard.is_flowing:
                reason = f"{where}: offset {shard.next_offset}, the next to fetch, is out of range: {describe(error)}"
                self._abort(shard, Aborted(where, reason, routine=False))

    def _drain(self) -> None:
        """Take the outcomes of claims; ignore those of claims that have ended."""
        while self._inbox:
            claim, event = self._inbox.popleft()
            if isinstance(event, BaseException):
                raise event
            shard = self._shards.get(claim.shard)
            if shard is None or shard.claim is not claim:
                continue
            if isinstance(event, Aborted | OutputsRefused):
                self._abort(shard, event)
            else:
                self._take_outcome(shard, claim, event)
                self._events.append(event)

    def _abort(self, shard: KafkaShard[Claim], aborted: Aborted | OutputsRefused) -> None:
        """End a shard's claim, and report that in place of what the claim did and the owner has not heard of."""
        self._wind_down(shard, shard.abort())
        if isinstance(aborted, Aborted) and aborted.routine:  # the shard may have been assigned to another worker
            shard.forget_proof()
        self._void_events(shard.where)
        self._events.append(aborted)

    def _take_outcome(self, shard: KafkaShard[Claim], claim: Claim, event: LogEvent) -> None:
        match event:
            case Claimed(ids=ids):
                shard.claimed()
                self._topic_watch.claimed(claim.shard, ids)
            case Replayed(records=records, complete=complete):
                if complete:
                    shard.replayed()
                if records:
                    claim.ack_batch()
            case Committed():
                if (sent_s := shard.committed()) is not None:
                    self._lease.renew(sent_s)
            case Fenced():
                self._wind_down(shard, shard.fence(self._lease.now_s()))
            case _:
                raise AssertionError(f"{claim.shard}: a claim does not report {event}")

    def _has_claims(self) -> bool:
        return any(shard.claim is not None for shard in self._shards.values())

    def _check_lease(self, group: GroupMember) -> None:
        """After a session without evidence of membership, wait for a proof; without one, end every claim.

        After a batch that took long the group confirms the membership within milliseconds. After the process was
        stopped, or the machine slept, the group may have assigned the shards to others.
        """
        deadline_s = time.monotonic() + CONFIRM_WAIT_S
        while (is_expired := self._lease.is_expired() and self._has_claims()) and time.monotonic() < deadline_s:
            group.prove()
            if messages := group.poll(BUSY_WAIT_S, self._config.settings.batch_records_max):
                self._take(messages)
        if not is_expired:
            return
        for where, shard in self._shards.items():
            shard.forget_proof()
            if shard.claim is not None:
                reason = (
                    f"{where}: the group has not confirmed the membership for longer than a session; the shard is "
                    "claimed again once it does"
                )
                self._abort(shard, Aborted(where, reason, routine=True))

    def _check_topics(self, now_s: float) -> None:
        """Abort the claims of shards whose topics were created again; the recovery that follows refuses them."""
        for where, topic in self._topic_watch.recreated(now_s).items():
            shard = self._shards.get(where)
            if shard is not None and shard.claim is not None:
                reason = f"{where}: {topic} was deleted and created again"
                self._abort(shard, Aborted(where, reason, routine=False))

    # --- called by the owner ----------------------------------------------------------------------------------

    def claim(self, shard: TopicPartition, topics: Sequence[str]) -> None:
        """See ``Log.claim``. The membership is proved first, unless a recent proof is at hand."""
        mine = self._shards.get(shard)
        if mine is None:
            return  # The next poll reports Lost.
        self._wind_down(mine, mine.drop())
        self._void_events(shard)
        mine.topics = topics
        now_s = self._lease.now_s()
        if mine.is_proved(now_s):
            self._start(mine)
        else:
            mine.await_proof(now_s)

    def _abort_stuck_claims(self) -> None:
        """Abort claims whose call into librdkafka does not return; the next claim decides what was under way."""
        now_s = time.monotonic()
        for where, shard in self._shards.items():
            if shard.claim is not None and shard.claim.is_stuck(now_s):
                reason = f"{where}: unknown outcome of a commit, the next claim decides it: librdkafka does not return"
                self._abort(shard, Aborted(where, reason, routine=False))

    def _start(self, shard: KafkaShard[Claim]) -> None:
        claim = Claim(self._config, self._admin, self._member, shard.where, self._inbox, self._lease)
        shard.start(claim)
        claim.start(shard.topics)

    def replay(self, shard: TopicPartition, topic: str, from_offset: int, to_offset: int) -> None:
        """See ``Log.replay``."""
        mine = self._shards.get(shard)
        if mine is not None and mine.claim is not None:
            mine.replay()
            mine.claim.replay(topic, from_offset, to_offset)

    def begin(self, shard: TopicPartition, next_offset: int) -> None:
        """See ``Log.begin``."""
        mine = self._shards.get(shard)
        if mine is None or mine.claim is None:
            return
        mine.begin(next_offset)
        mine.claim.end_replays()
        self._start_fetching(mine)

    def pause(self, shard: TopicPartition) -> None:
        """See ``Log.pause``. Records that still arrive are kept; beyond a bound librdkafka is paused too."""
        mine = self._shards.get(shard)
        if mine is not None:
            mine.pause()

    def resume(self, shard: TopicPartition) -> None:
        """See ``Log.resume``."""
        mine = self._shards.get(shard)
        if mine is None or not mine.is_paused:
            return
        if records := mine.resume():
            self._events.append(Fetched(shard, records))
        self._start_fetching(mine)

    def commit(self, transaction: Transaction) -> None:
        """See ``Log.commit``.

        The group metadata is read for each transaction: with cached metadata 41 of 1,751 commits were refused during
        a rebalance, with fresh metadata 0 (measured).
        """
        mine = self._shards.get(transaction.shard)
        if mine is None or mine.claim is None or self._group is None:
            return
        mine.commit(transaction.next_offset, self._lease.now_s(), is_turn=len(transaction.records) > 1)
        mine.claim.commit(transaction, self._group.metadata(), reports_all=mine.has_failed_commit)

    def append(self, append: Append) -> None:
        """See ``Log.append``."""
        mine = self._shards.get(append.shard)
        if mine is None or mine.claim is None:
            return
        mine.append(append.next_offset)
        mine.claim.append(append)

    def _commit_group_offsets(self, group: GroupMember, now_s: float) -> None:
        """Commit the group's offsets of what was written without a transaction, for observers of the group.

        Also after a later transaction of the shard: an earlier commit of this kind may arrive after it. Commits under
        way are not waited for: under load there is always one.
        """
        if now_s < self._group_offsets_due_s:
            return
        offsets = {where: shard.group_offset for where, shard in self._shards.items() if shard.group_offset is not None}
        due = {where: offset for where, offset in offsets.items() if offset.is_due}
        if due:
            self._group_offsets_due_s = now_s + GROUP_OFFSETS_S
            group.commit_group_offsets({where: offset.next_offset for where, offset in due.items()})
            for offset in due.values():
                offset.is_behind = False

    def withdraw(self, topics: Sequence[str]) -> None:
        """See ``Log.withdraw``. The group gives the shards to others in a rebalance, which the next poll asks for."""
        self._subscriptions = tuple(topic for topic in self._subscriptions if topic not in topics)
        if self._group is not None:
            self._group.withdraw(topics)

    def partition_count(self, topic: str) -> int | None:
        """See ``Log.partition_count``."""
        return self._admin.partition_count(topic)

    def close(self) -> None:
        """See ``Log.close``. Commits under way get a quarter of ``stop_timeout_s``."""
        deadline_s = time.monotonic() + self._config.settings.stop_timeout_s / 4
        self._await_commits(self._shards.values(), deadline_s)
        self._drain()
        if self._group is not None:
            self._commit_group_offsets(self._group, math.inf)
        for shard in self._shards.values():
            self._wind_down(shard, shard.drop())
        self._shards.clear()
        if self._group is not None:
            self._group.leave()
        deadline_s = time.monotonic() + WIND_DOWN_S
        for claim in self._ended:
            claim.join(deadline_s - time.monotonic())

    def abandon(self) -> None:
        """See ``Log.abandon``. A commit that was sent may still happen, as after a kill."""
        for shard in self._shards.values():
            if shard.claim is not None:
                shard.claim.cancel()
        self._shards.clear()
        if self._group is not None:
            self._group.abandon()

    # --- called by the group ----------------------------------------------------------------------------------

    def assigned(self, shards: Sequence[TopicPartition]) -> None:
        """See ``Listener``. An assignment that waited while the process slept is no proof of membership."""
        now_s = self._lease.now_s()
        fresh = now_s - self._polled_s < self._lease.fresh_s
        if fresh:
            self._lease.renew(now_s)
        for where in shards:
            self._admin.saw(where)
            self._shards[where] = KafkaShard(where, now_s if fresh else -math.inf)
            self._events.append(Assigned(where))

    def revoked(self, shards: Sequence[TopicPartition], reason: str, *, lost: bool) -> None:
        """See ``Listener``. Commits under way get ``REVOKE_WAIT_S`` to finish, unless the shards are lost."""
        leaving = {where: self._shards[where] for where in shards if where in self._shards}
        if leaving:
            kill_points.reached("revoking")
        if not lost:
            self._await_commits(leaving.values(), time.monotonic() + REVOKE_WAIT_S)
            self._drain()
        for where, shard in leaving.items():
            self._wind_down(shard, shard.drop())
            del self._shards[where]
            self._events.append(Lost(where, reason))
        if leaving:
            kill_points.reached("revoked")

    def proved(self, asked_s: float) -> None:
        """See ``Listener``. A proof that waited while the process slept is stale and ignored."""
        if self._lease.now_s() - asked_s > self._lease.fresh_s:
            return
        self._lease.renew(asked_s)
        for where, shard in self._shards.items():
            if not shard.prove(asked_s):
                continue
            if shard.phase is KafkaPhase.FENCED:
                shard.reassign()
                self._events.append(Assigned(where))
            else:
                self._start(shard)

    def group_offsets_refused(self, shards: Sequence[TopicPartition]) -> None:
        """See ``Listener``."""
        for where in shards:
            if (shard := self._shards.get(where)) is not None and shard.group_offset is not None:
                shard.group_offset.is_behind = True

    # --- claims and fetches -----------------------------------------------------------------------------------

    @staticmethod
    def _await_commits(shards: Iterable[KafkaShard[Claim]], deadline_s: float) -> None:
        for shard in shards:
            if shard.claim is not None:
                shard.claim.settled.wait(max(0.0, deadline_s - time.monotonic()))

    def _wind_down(self, shard: KafkaShard[Claim], claim: Claim | None) -> None:
        """Cancel a claim that has ended, if there was one; its events are ignored, and its thread ends by itself."""
        if claim is not None:
            claim.cancel()
            self._topic_watch.forget(shard.where)
            self._ended = [ended for ended in self._ended if not ended.join(0.0)]
            self._ended.append(claim)
        self._stop_fetching(shard)

    def _void_events(self, where: TopicPartition) -> None:
        """Discard events of a claim that has ended and were not delivered yet."""
        self._events = [event for event in self._events if event.shard != where or isinstance(event, Lost)]

    def _stop_fetching(self, shard: KafkaShard[Claim]) -> None:
        if shard.is_fetching and self._group is not None:
            self._group.stop_fetching(shard.where)
        shard.is_fetching = False

    def _start_fetching(self, shard: KafkaShard[Claim]) -> None:
        if shard.is_flowing and not shard.is_fetching and self._group is not None:
            self._group.fetch_from(shard.where, shard.next_offset)
            shard.is_fetching = True

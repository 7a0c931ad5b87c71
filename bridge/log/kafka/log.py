"""A worker's shards: what its membership, its claims and its fetches come to, as events of one ``poll``.

What callbacks and threads change is in ``_Shard`` values, in the inbox of the claims, and in the list of events that
the same ``poll`` returns; nothing is kept between a rebalance's callbacks (one, the other or both may come, also with
empty lists). Every revoke is treated as a loss: librdkafka can drop the mark that tells them apart (its PR #5604).
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
from repertory.bridge.log.port import (
    Aborted,
    Append,
    Assigned,
    Committed,
    Fenced,
    Fetched,
    LogEvent,
    Lost,
    Member,
    Replayed,
    Transaction,
)
from repertory.bridge.log.record import Record, TopicPartition

#: While a claim, a replay, a commit or a proof is under way its outcome is looked for this often.
BUSY_WAIT_S = 0.001
#: Otherwise the poll looks up at least this often, for what is due by time.
IDLE_WAIT_S = 0.25
#: A revoke waits this long for the commits of its shards, then leaves them to the next owner's claim.
REVOKE_WAIT_S = 1.0
#: A membership proved (or an assignment received) longer ago is proved again before a claim.
PROOF_TTL_S = 1.0
#: So long a worker whose lease is over waits for a proof before it gives its shards up.
CONFIRM_S = 1.0
#: Records of a paused shard that are kept here. Pausing in librdkafka throws away what it fetched ahead, so that is
#: done only beyond this: a shard whose mailbox is full now and then would fetch each record several times.
FETCHED_AHEAD_RECORDS_MAX = 8_000
#: Without transactions the group's offsets follow this often; a commit of them costs as much as a turn.
GROUP_OFFSETS_S = 0.1
#: After the commits: for the claims' threads to destroy their clients.
WIND_DOWN_S = 2.0


class _Shard:
    """An assigned shard. Owned by the log's thread."""

    __slots__ = (
        "asked_s",
        "busy",
        "claim",
        "fenced",
        "fetched_ahead",
        "flowing",
        "group_offset_committed",
        "held",
        "is_nontransactional",
        "next_offset",
        "offset_committed",
        "offset_in_flight",
        "proved_s",
        "sent_s",
        "stopped",
        "topics",
    )

    def __init__(self, proved_s: float) -> None:
        self.claim: Claim | None = None
        self.busy = False  # an outcome is awaited
        self.flowing = False  # between begin and whatever ends the claim
        self.held = False  # the owner wants no records now
        self.stopped = True  # librdkafka fetches none
        self.fetched_ahead: list[Record] = []  # fetched while held
        self.next_offset = 0  # the first not handed over
        self.proved_s = proved_s  # when the membership was last known to be good
        self.sent_s: float | None = None  # when the commit under way was sent; an append shows nothing of the group
        self.asked_s: float | None = None  # waits for a proof since
        self.fenced = False  # is Assigned again once it is proved
        self.is_nontransactional = False  # has written without a transaction: the group's offset must follow by itself
        self.group_offset_committed = True  # it has
        self.offset_in_flight = 0  # the next offset, once what is under way is committed
        self.offset_committed = -1  # the same as it is now; -1: nothing was committed yet
        self.topics: Sequence[str] = ()  # is claimed for these once it is proved


class KafkaLog:
    """Implements ``Log``; its docstrings say what each method promises. One thread."""

    def __init__(self, config: KafkaConfig, admin: Admin, member: Member, subscriptions: Sequence[str]) -> None:
        self._config = config
        self._admin = admin
        self._member = member
        self._subscriptions = tuple(subscriptions)
        self._group: GroupMember | None = None
        self._lease = Lease(config.settings.session_timeout_s)
        self._shards: dict[TopicPartition, _Shard] = {}
        self._events: list[LogEvent] = []
        self._polled_s = 0.0
        self._inbox: Inbox = deque()
        self._group_offsets_due_s = 0.0
        self._ended: list[Claim] = []

    # --- poll -------------------------------------------------------------------------------------------------

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
            if any(shard.asked_s is not None for shard in shards) or (shards and self._lease.due()):
                group.prove()
            self._commit_group_offsets(group, now_s)
            wait_s = BUSY_WAIT_S if any(shard.busy or shard.asked_s for shard in shards) else IDLE_WAIT_S
            wait_s = 0.0 if self._events else min(wait_s, max(0.0, deadline_s - now_s))
            flowing = sum(shard.flowing for shard in shards)
            self._polled_s = self._lease.now_s()
            messages = group.poll(wait_s, self._config.settings.batch_records_max * max(1, flowing))
            if messages:
                self._take(messages)
            self._drain()
            self._leave_stuck()
            self._mind_the_lease(group)
            now_s = time.monotonic()
            if self._events or now_s >= deadline_s:
                events, self._events = self._events, []
                return events

    def _take(self, messages: list[Message]) -> None:
        """Sort fetched messages by shard; those of shards that have not begun are dropped."""
        fetched: dict[TopicPartition, list[Record]] = {}
        for where, run in runs(messages):
            records = records_of(run, where)
            if len(records) != len(run):
                self._on_errors(where, run)
            shard = self._shards.get(where)
            if shard is None or not shard.flowing:
                continue
            if records and records[0].offset < shard.next_offset:  # fetched before a seek
                records = [record for record in records if record.offset >= shard.next_offset]
            if not records:
                continue
            shard.next_offset = records[-1].offset + 1
            if shard.held:
                shard.fetched_ahead += records
                if len(shard.fetched_ahead) >= FETCHED_AHEAD_RECORDS_MAX:
                    self._pause_fetch(where, shard)
            elif where in fetched:
                fetched[where] += records
            else:
                fetched[where] = records
        self._events += [Fetched(where, records) for where, records in fetched.items()]

    def _on_errors(self, where: TopicPartition, run: Sequence[Message]) -> None:
        assert self._group is not None
        for message in run:
            error = message.error()
            if error is None:
                continue
            if error.code() not in OUT_OF_RANGE:
                self._group.failed(error)
                continue
            shard = self._shards.get(where)
            if shard is not None and shard.flowing:
                reason = f"{where}: offset {shard.next_offset}, the next to be read, is not held: {describe(error)}"
                self._drop_claim(where, shard)
                self._events.append(Aborted(where, reason, routine=False))

    def _drain(self) -> None:
        """Take the outcomes of claims; those of claims that have ended are dropped."""
        while self._inbox:
            claim, event = self._inbox.popleft()
            if isinstance(event, BaseException):
                raise event
            shard = self._shards.get(claim.shard)
            if shard is None or shard.claim is not claim:
                continue
            match event:
                case Replayed(records=records, complete=complete):
                    shard.busy = not complete
                    if records:
                        claim.ack_batch()
                case Fenced():
                    self._drop_claim(claim.shard, shard)
                    shard.fenced, shard.asked_s = True, self._lease.now_s()
                case Aborted(routine=routine):
                    self._drop_claim(claim.shard, shard)
                    if routine:  # the membership is in doubt
                        shard.proved_s = -math.inf
                case Committed():
                    shard.busy = False
                    shard.group_offset_committed, shard.offset_committed = (
                        not shard.is_nontransactional,
                        shard.offset_in_flight,
                    )
                    if shard.sent_s is not None:
                        self._lease.show(shard.sent_s)
                case _:
                    shard.busy = False
            self._events.append(event)

    def _claims(self) -> bool:
        return any(shard.claim is not None for shard in self._shards.values())

    def _mind_the_lease(self, group: GroupMember) -> None:
        """Without a sign of membership for a session, do nothing before there is one; without an answer give all up.

        A batch that took long is confirmed within milliseconds. A process that was stopped, or a machine that slept,
        is told here that the group has gone on without it.
        """
        deadline_s = time.monotonic() + CONFIRM_S
        while (over := self._lease.over() and self._claims()) and time.monotonic() < deadline_s:
            group.prove()
            if messages := group.poll(BUSY_WAIT_S, self._config.settings.batch_records_max):
                self._take(messages)
        if not over:
            return
        for where, shard in self._shards.items():
            shard.proved_s = -math.inf
            if shard.claim is not None:
                self._drop_claim(where, shard)
                self._events = [event for event in self._events if event.shard != where or isinstance(event, Lost)]
                reason = (
                    f"{where}: no sign of membership for longer than a session; it goes on once the group gives one"
                )
                self._events.append(Aborted(where, reason, routine=True))

    # --- what the owner asks ----------------------------------------------------------------------------------

    def claim(self, shard: TopicPartition, topics: Sequence[str]) -> None:
        """See ``Log.claim``. The membership is proved first unless it is known to be good."""
        mine = self._shards.get(shard)
        if mine is None:
            return  # Lost, as the next poll says
        self._drop_claim(shard, mine)
        self._events = [event for event in self._events if event.shard != shard or isinstance(event, Lost)]
        mine.topics = topics
        mine.fenced = False
        now_s = self._lease.now_s()
        if now_s - mine.proved_s < PROOF_TTL_S:
            self._start(shard, mine)
        else:
            mine.asked_s = now_s

    def _leave_stuck(self) -> None:
        """End claims whose call into librdkafka never returns: the next claim decides what they had under way."""
        now_s = time.monotonic()
        for where, shard in self._shards.items():
            if shard.claim is not None and shard.claim.stuck(now_s):
                self._drop_claim(where, shard)
                reason = f"{where}: unknown outcome of a commit, the next claim decides it: librdkafka does not return"
                self._events.append(Aborted(where, reason, routine=False))

    def _start(self, where: TopicPartition, shard: _Shard) -> None:
        shard.busy = True
        shard.claim = Claim(self._config, self._admin, self._member.group, where, self._inbox, self._lease)
        shard.claim.start(shard.topics)

    def replay(self, shard: TopicPartition, topic: str, from_offset: int, to_offset: int) -> None:
        """See ``Log.replay``."""
        mine = self._shards.get(shard)
        if mine is not None and mine.claim is not None:
            mine.busy = True
            mine.claim.replay(topic, from_offset, to_offset)

    def begin(self, shard: TopicPartition, next_offset: int) -> None:
        """See ``Log.begin``."""
        mine = self._shards.get(shard)
        if mine is None or mine.claim is None:
            return
        mine.claim.end_replays()
        mine.next_offset = next_offset
        mine.flowing = True
        self._resume_fetch(shard, mine)

    def pause(self, shard: TopicPartition) -> None:
        """See ``Log.pause``. Records that still come in are kept, up to a bound."""
        mine = self._shards.get(shard)
        if mine is not None:
            mine.held = True

    def resume(self, shard: TopicPartition) -> None:
        """See ``Log.resume``."""
        mine = self._shards.get(shard)
        if mine is None or not mine.held:
            return
        mine.held = False
        if mine.fetched_ahead:
            self._events.append(Fetched(shard, mine.fetched_ahead))
            mine.fetched_ahead = []
        self._resume_fetch(shard, mine)

    def commit(self, transaction: Transaction) -> None:
        """See ``Log.commit``.

        The group metadata is read here, for this transaction alone: with a kept one 41 of 1,751 commits were
        refused during a rebalance, with fresh ones none (measured).
        """
        mine = self._shards.get(transaction.shard)
        if mine is None or mine.claim is None or self._group is None:
            return
        mine.busy = True
        mine.sent_s = self._lease.now_s()
        mine.offset_in_flight = transaction.next_offset
        mine.claim.commit(transaction, self._group.metadata())

    def append(self, append: Append) -> None:
        """See ``Log.append``."""
        mine = self._shards.get(append.shard)
        if mine is None or mine.claim is None:
            return
        mine.busy = mine.is_nontransactional = True
        mine.sent_s = None
        mine.offset_in_flight = append.next_offset
        mine.claim.append(append)

    def _commit_group_offsets(self, group: GroupMember, now_s: float) -> None:
        """Let the group's offsets follow what was committed without a transaction, for all who look from outside.

        Also behind a transaction that follows: an earlier one of these may arrive after it. What is under way is not
        waited for: under load there always is something.
        """
        if now_s < self._group_offsets_due_s:
            return
        due = {
            where: shard
            for where, shard in self._shards.items()
            if not shard.group_offset_committed and shard.offset_committed >= 0
        }
        if due:
            self._group_offsets_due_s = now_s + GROUP_OFFSETS_S
            group.commit_group_offsets({where: shard.offset_committed for where, shard in due.items()})
            for shard in due.values():
                shard.group_offset_committed = True

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
        for where, shard in self._shards.items():
            self._drop_claim(where, shard)
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

    # --- what the group tells ---------------------------------------------------------------------------------

    def assigned(self, shards: Sequence[TopicPartition]) -> None:
        """See ``Listener``. One that waited while the process slept proves nothing."""
        now_s = self._lease.now_s()
        fresh = now_s - self._polled_s < self._lease.fresh_s
        if fresh:
            self._lease.show(now_s)
        for where in shards:
            self._shards[where] = _Shard(now_s if fresh else -math.inf)
            self._events.append(Assigned(where))

    def revoked(self, shards: Sequence[TopicPartition], reason: str, *, lost: bool) -> None:
        """See ``Listener``. A commit under way may finish first, within bounds."""
        leaving = {where: self._shards[where] for where in shards if where in self._shards}
        if leaving:
            kill_points.reached("revoking")
        if not lost:
            self._await_commits(leaving.values(), time.monotonic() + REVOKE_WAIT_S)
            self._drain()
        for where, shard in leaving.items():
            self._drop_claim(where, shard)
            del self._shards[where]
            self._events.append(Lost(where, reason))
        if leaving:
            kill_points.reached("revoked")

    def proved(self, asked_s: float) -> None:
        """See ``Listener``. A proof that waited while the process slept is none."""
        if self._lease.now_s() - asked_s > self._lease.fresh_s:
            return
        self._lease.show(asked_s)
        for where, shard in self._shards.items():
            if shard.asked_s is None or shard.asked_s > asked_s:
                continue
            shard.asked_s, shard.proved_s = None, asked_s
            if shard.fenced:
                shard.fenced = False
                self._events.append(Assigned(where))
            else:
                self._start(where, shard)

    def group_offsets_refused(self, shards: Sequence[TopicPartition]) -> None:
        """See ``Listener``."""
        for where in shards:
            if (shard := self._shards.get(where)) is not None:
                shard.group_offset_committed = not shard.is_nontransactional

    # --- a shard's states -------------------------------------------------------------------------------------

    @staticmethod
    def _await_commits(shards: Iterable[_Shard], deadline_s: float) -> None:
        for shard in shards:
            if shard.claim is not None:
                shard.claim.settled.wait(max(0.0, deadline_s - time.monotonic()))

    def _drop_claim(self, where: TopicPartition, shard: _Shard) -> None:
        """End the claim, if there is one: no event of it comes any more, its thread winds down by itself."""
        if shard.claim is not None:
            shard.claim.cancel()
            self._ended = [claim for claim in self._ended if not claim.join(0.0)]
            self._ended.append(shard.claim)
            shard.claim = None
        shard.busy = shard.flowing = shard.held = shard.fenced = shard.is_nontransactional = False
        shard.group_offset_committed = True
        shard.asked_s = None
        shard.fetched_ahead = []
        self._pause_fetch(where, shard)

    def _pause_fetch(self, where: TopicPartition, shard: _Shard) -> None:
        if not shard.stopped and self._group is not None:
            self._group.stop(where)
        shard.stopped = True

    def _resume_fetch(self, where: TopicPartition, shard: _Shard) -> None:
        if shard.stopped and shard.flowing and self._group is not None:
            self._group.flow(where, shard.next_offset)
            shard.stopped = False

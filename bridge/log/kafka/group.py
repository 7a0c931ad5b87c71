"""A worker's membership of the group: joining under its slot's name, proof of membership, positions, leaving.

The classic protocol, cooperative, with static members: the successor of a killed worker takes its slot over within a
second, and shards that do not move continue during a rebalance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from repertory.bridge.log.errors import LogError, LogUnavailable, SlotTaken
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.callbacks import Callbacks
from repertory.bridge.log.kafka.config import Config, KafkaConfig, logger
from repertory.bridge.log.kafka.group_watch import GroupWatch
from repertory.bridge.log.kafka.hidden import GRACE_S, HiddenWatch
from repertory.bridge.log.kafka.lease import boottime_s
from repertory.bridge.log.kafka.messages import (
    ALL_BROKERS_DOWN,
    FATAL,
    UNAUTHORIZED,
    close_bounded,
    create_client,
    describe,
    error_of,
)
from repertory.bridge.log.kafka.slot import SlotLock
from repertory.bridge.log.port import Member, TopicSpec
from repertory.bridge.log.record import TopicPartition

#: Pause before a proof of membership that was refused is asked for again.
PROOF_RETRY_S = 0.1
#: A proof that was not answered within this time is asked for again.
PROOF_TIMEOUT_S = 5.0
#: How often log lines are delivered and, while all brokers are down, a broker is pinged.
TICK_S = 1.0
#: Records that one poll takes: a fraction of a second's work. ``consume`` refuses more than a million.
_POLLED_MAX = 100_000
#: How long partitions are not given up because offset commits are not answered.
ANSWERS_WAIT_S = 1.0
#: A planned handover that takes longer is left to the session timeout.
HANDOVER_TIMEOUT_S = 3.0
#: How long each poll of a leaving worker waits.
LEAVING_POLL_S = 0.01
#: A member that still holds the slot after this many sessions is a live worker: it sends heartbeats.
HOLDER_SESSIONS_MAX = 2.0
#: For how many sessions there must have been no rebalance, within which the group asks nobody for heartbeats.
HOLDER_STEADY_SESSIONS = 1.5
#: How often the group is asked who holds the slot.
HOLDER_POLL_S = 0.2
#: Timeout of the metadata request before the subscription changes.
METADATA_WAIT_S = 1.0
#: Timeout of a request that only wakes a broker's thread; its answer does not matter.
WAKE_WAIT_S = 0.01


class Listener(Protocol):
    """Gets what happens to the shards; called within :meth:`GroupMember.poll`."""

    def assigned(self, shards: Sequence[TopicPartition]) -> None:
        """The shards are ours. They are paused, and nothing of them has been read."""

    def revoked(self, shards: Sequence[TopicPartition], reason: str, *, lost: bool) -> None:
        """The shards are given up when this returns, or were already (``lost``)."""

    def proved(self, asked_s: float) -> None:
        """The group confirmed our membership at some time after ``asked_s`` (of :func:`boottime_s`)."""

    def group_offsets_refused(self, shards: Sequence[TopicPartition]) -> None:
        """The group refused the offsets of these shards."""


class Nobody(Listener):
    """Hears nothing: whose log was abandoned."""

    def assigned(self, shards: Sequence[TopicPartition]) -> None:
        """See :class:`Listener`."""

    def revoked(self, shards: Sequence[TopicPartition], reason: str, *, lost: bool) -> None:
        """See :class:`Listener`."""

    def proved(self, asked_s: float) -> None:
        """See :class:`Listener`."""

    def group_offsets_refused(self, shards: Sequence[TopicPartition]) -> None:
        """See :class:`Listener`."""


class GroupMember:
    """One consumer in the group. One thread; callbacks come within its own calls of ``poll`` and ``leave``."""

    def __init__(
        self, config: KafkaConfig, admin: Admin, member: Member, subscriptions: Sequence[str], listener: Listener
    ) -> None:
        self._admin = admin
        self._member = member
        self._subscriptions = frozenset(subscriptions)
        #: Those that are still wanted.
        self._wanted = set(subscriptions)
        self._listener = listener
        self._limit_s = config.settings.unavailable_timeout_s
        self._session_s = config.settings.session_timeout_s
        self._control = f"{member.group}.control"
        self._failure: LogError | None = None
        self._proof_asked_s: float | None = None  # when the proof under way was asked for
        self._unanswered = 0  # the plain offset commits whose answers have not been polled yet
        self._proof_retry_s = 0.0
        self._down_since_s: float | None = None
        self._ping: Future[object] | None = None
        self._tick_due_s = 0.0
        self._assignments = 0
        self._is_closed = False
        self._callbacks = Callbacks()
        #: librdkafka's error after another member took our place in the group.
        self._fenced_by: str | None = None
        self._brokers = config.brokers
        self._hidden_watch = HiddenWatch(config.settings.transaction_timeout_s + GRACE_S)
        self._lines = config.lines()
        self._group_watch = GroupWatch(admin, member.group, self._subscriptions)
        self._slot_lock = self._lock_slot()
        try:
            #: The broker would assign us what the predecessor had last, without a rebalance.
            self._must_resubscribe = self._needs_rebalance()
            if admin.partition_count(self._control) is None:
                admin.ensure([TopicSpec(self._control, 1, {})])
            identity = (member.group, member.instance_id, f"repertory-{member.node}-{member.slot}")
            callbacks: Config = {
                "error_cb": self._callbacks.kept(self.handle_error),
                "on_commit": self._callbacks.kept(self._on_commit),
                "stats_cb": self._callbacks.kept(self._on_statistics),
            }
            self._consumer = create_client(Consumer, config.member(self._lines, *identity) | callbacks)
            self._subscribe([*subscriptions] or [self._control])
        except BaseException:  # KeyboardInterrupt too: the process may live on, and take the slot again.
            self._slot_lock.close()
            raise

    def _lock_slot(self) -> SlotLock:
        """Take the slot. A worker on another machine does not see the lock; the older of the two gets a fatal error."""
        try:
            lock = SlotLock(self._admin.cluster(), self._member)
        except KafkaException as failure:
            raise self._unavailable(failure) from None
        if (pid := lock.other_pid()) is not None:
            lock.close()
            raise self._slot_taken(f"process {pid} of this machine")
        return lock

    def _unavailable(self, failure: KafkaException) -> LogUnavailable:
        return LogUnavailable(
            f"the group {self._member.group} cannot be asked for its members: {describe(error_of(failure))}"
        )

    def _needs_rebalance(self) -> bool:
        """Return whether the group still has the slot's previous worker as a member, and has to rebalance.

        It has to if that worker has no shards, or was killed while it gave some back: no other member then asks the
        group to assign them.
        """
        try:
            slot = self._admin.slot(self._member)
        except KafkaException as failure:
            raise self._unavailable(failure) from None
        self._group_watch.check(slot.members)
        if slot.assigned is None:
            return False
        shards = sum(self._admin.partition_count(topic) or 0 for topic in self._subscriptions)
        assigned = sum(shard.topic in self._subscriptions for shard in slot.all_assigned)
        return not slot.assigned & self._subscriptions or assigned < shards

    def _slot_taken(self, by: str) -> SlotTaken:
        return SlotTaken.by(by, self._member)

    def _fencing_error(self, why: str) -> LogError:
        """Return the error for a member that lost its slot to a live worker, or to a join request that came late.

        A late request is one of our own, repeated over another connection, or the last one of our killed predecessor.
        The group takes it for a worker, but it sends no heartbeats, so the group frees the slot after a session.
        During a rebalance it needs none: it keeps every member that asked to join, and that proves nothing.
        """
        holder, unsteady_s = None, -math.inf
        asked_s = time.monotonic()
        deadline_s = asked_s + HOLDER_SESSIONS_MAX * self._session_s
        while asked_s < deadline_s:
            try:
                slot = self._admin.slot(self._member)
            except KafkaException as failure:
                return self._unavailable(failure)
            answered_s = time.monotonic()
            if answered_s > asked_s + self._session_s / 2:  # a coordinator that was down restarts all sessions
                deadline_s = answered_s + HOLDER_SESSIONS_MAX * self._session_s
            if (pid := self._slot_lock.other_pid()) is not None:
                return self._slot_taken(f"process {pid} of this machine, which joined later ({why})")
            if slot.holder is None or holder not in (None, slot.holder):
                return self._shut_out(why)
            holder = slot.holder
            if not slot.is_steady:
                unsteady_s = answered_s
            time.sleep(HOLDER_POLL_S)
            asked_s = time.monotonic()
        if asked_s < unsteady_s + HOLDER_STEADY_SESSIONS * self._session_s:
            return self._shut_out(why)
        return self._slot_taken(f"another worker, which joined later ({why})")

    def _shut_out(self, why: str) -> LogUnavailable:
        return LogUnavailable(f"{self._member.instance_id} was shut out by a request to join that came late ({why})")

    def _subscribe(self, topics: list[str]) -> None:
        on_assign, on_revoke, on_lost = map(self._callbacks.kept, (self._on_assign, self._on_revoke, self._on_lost))
        self._consumer.subscribe(topics, on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost)

    def _resubscribe(self, topics: list[str]) -> None:
        """Change the subscription, which makes the group rebalance.

        A returning static member gets its predecessor's assignment back unchecked (KIP-345: the broker compares the
        protocol's name, not the subscription), so a worker whose predecessor was killed without shards, or while it
        gave some back, asks for a rebalance here.
        Without cached metadata of the topic, librdkafka 2.16.1 gives everything up and does not join again.
        """
        try:
            self._consumer.list_topics(self._control, timeout=METADATA_WAIT_S)
        except KafkaException as failure:
            logger.warning("%s: %s", self._control, describe(error_of(failure)))
        self._subscribe(topics)

    # --- poll -------------------------------------------------------------------------------------------------

    def poll(self, wait_s: float, records_max: int) -> list[Message]:
        """Run the callbacks and return what was fetched, errors included; wait up to ``wait_s`` if there is nothing.

        ``consume(n, t)`` would wait the whole ``t`` for all ``n`` messages in 2.16.1. Waiting for one message and
        then taking those that are ready gives both low latency and batches.

        Raises:
            LogUnavailable: no broker has answered for ``unavailable_timeout_s``, or an authorization is missing.
            SlotTaken: another worker joined under our name.
        """
        now_s = time.monotonic()
        if now_s >= self._tick_due_s:
            self._tick(now_s)
        if self._must_resubscribe and self._assignments:
            self._must_resubscribe = False
            self._resubscribe([*self._wanted, self._control])
        message = self._polled(wait_s)
        messages = [] if message is None else [message, *self._consumer.consume(min(records_max - 1, _POLLED_MAX), 0.0)]
        if self._fenced_by is not None:
            self._failure = self._fencing_error(self._fenced_by)
        if self._failure is not None:
            raise self._failure
        return messages

    def withdraw(self, topics: Collection[str]) -> None:
        """Want these topics no more: the next poll changes the subscription, and the group takes their shards away."""
        self._wanted.difference_update(topics)
        self._must_resubscribe = True

    @property
    def has_joined(self) -> bool:
        """Whether the group has assigned shards to this member, or none."""
        return self._assignments > 0

    def _polled(self, wait_s: float) -> Message | None:
        """Poll the consumer, and raise what its callbacks raised."""
        return self._callbacks.poll(self._consumer.poll, wait_s)

    def metadata(self) -> object:
        """Return the current group metadata, for one transaction. Never cache it."""
        return self._consumer.consumer_group_metadata()

    def handle_error(self, error: KafkaError) -> None:
        """React to an error of the whole client. One that ends the membership is raised by the next ``poll``."""
        code = error.code()
        if code == ALL_BROKERS_DOWN:
            self._down_since_s = self._down_since_s or time.monotonic()
        elif code in (FATAL, KafkaError.FENCED_INSTANCE_ID):  # its `.fatal()` is False in 2.16.1
            self._fenced_by = describe(error)
        elif code in UNAUTHORIZED:
            self._failure = LogUnavailable(f"Kafka refuses this worker: {describe(error)}")
        else:
            logger.warning("consumer of %s: %s", self._member.instance_id, describe(error))

    def _tick(self, now_s: float) -> None:
        """Deliver log lines. While all brokers are down, ping one: librdkafka does not report a recovery."""
        self._tick_due_s = now_s + TICK_S
        self._admin.serve()
        self._group_watch.tick(now_s)
        if self._down_since_s is None:
            return
        if self._ping is None:
            self._ping = self._admin.ping()
        elif self._ping.done():
            if self._ping.exception() is None:
                self._down_since_s = None
            self._ping = None
        if self._down_since_s is not None and now_s - self._down_since_s > self._limit_s:
            self._failure = LogUnavailable(
                f"no Kafka broker has answered for {now_s - self._down_since_s:.0f} s: {self._admin.last_error()}"
            )

    def _on_statistics(self, statistics: str) -> None:
        for hidden in self._hidden_watch.observe(statistics, time.monotonic()):
            logger.warning(
                "%s: a transaction has hidden offsets %d to %d for %.0f s, and this shard waits for it; to find its "
                "producer: kafka-transactions.sh --bootstrap-server %s describe-producers --topic %s --partition %d",
                hidden.where,
                hidden.first,
                hidden.end - 1,
                hidden.seconds,
                self._brokers,
                hidden.where.topic,
                hidden.where.partition,
            )

    # --- the group's callbacks --------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        """Assign with an explicit offset (librdkafka's own position is never used), and pause immediately."""
        self._assignments += 1
        consumer.incremental_assign([KafkaPartition(p.topic, p.partition, 0) for p in partitions])
        if partitions:
            consumer.pause(partitions)
        self._listener.assigned(self._shards_of(partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        self._group_watch.revoked(time.monotonic())
        self._listener.revoked(self._shards_of(partitions), "the group assigned it to another worker", lost=False)
        self._give_up(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        self._listener.revoked(self._shards_of(partitions), "the worker is no longer a member of the group", lost=True)
        self._give_up(consumer, partitions)

    def _give_up(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        """Give partitions up, after the answers to our plain offset commits: none may arrive meanwhile.

        One that says that our slot was taken, after all partitions were unassigned and before that is complete, sends
        librdkafka 2.16.0 into an endless recursion of ``rd_kafka_cgrp_assignment_done`` and
        ``rd_kafka_rebalance_op_incr``, which ends the process. The coordinator answers in order, so its answer to
        another request comes after them; a commit that waits for its own answer would wait for minutes in an outage.
        """
        if self._unanswered:
            with suppress(KafkaException):
                consumer.committed([KafkaPartition(self._control, 0)], timeout=ANSWERS_WAIT_S)
        _unassign(consumer, partitions)

    def _shards_of(self, partitions: list[KafkaPartition]) -> list[TopicPartition]:
        """Leave out the control topic, to which a worker subscribes to make the group rebalance."""
        return [TopicPartition(p.topic, p.partition) for p in partitions if p.topic in self._subscriptions]

    # --- proof of membership ----------------------------------------------------------------------------------

    def prove(self) -> None:
        """Ask the coordinator whether we are a member, unless that is under way. ``proved`` is called if we are.

        The coordinator checks member and generation of a plain offset commit, here on a scratch partition. It checks
        nothing in `init_transactions`, with which a worker that slept past its session would fence the rightful
        owner. If we are not a member nothing is called: librdkafka gets that answer too, and the shards are lost.
        """
        now_s = boottime_s()
        if (
            self._proof_asked_s is not None and now_s - self._proof_asked_s < PROOF_TIMEOUT_S
        ) or now_s < self._proof_retry_s:
            return
        try:
            self._commit([KafkaPartition(self._control, 0, 0)])
            self._proof_asked_s = now_s
        except KafkaException as failure:
            self._unproved(error_of(failure))

    def commit_group_offsets(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets that only observers read; ``group_offsets_refused`` is called if the group refuses them.

        The group accepts them from its members only.
        """
        targets = [KafkaPartition(*where, offset) for where, offset in offsets.items()]
        try:
            self._commit(targets)
        except KafkaException as failure:
            self._group_offsets_refused(error_of(failure), targets)

    def _commit(self, offsets: list[KafkaPartition]) -> None:
        self._consumer.commit(offsets=offsets, asynchronous=True)
        self._unanswered += 1

    def _group_offsets_refused(self, refusal: KafkaError, partitions: Sequence[KafkaPartition]) -> None:
        logger.info("offsets of %s are not committed: %s", self._member.instance_id, describe(refusal))
        self._listener.group_offsets_refused([TopicPartition(p.topic, p.partition) for p in partitions])

    def _on_commit(self, error: KafkaError | None, partitions: list[KafkaPartition]) -> None:
        self._unanswered -= 1
        if any(p.topic != self._control for p in partitions):
            refusal = error or next((p.error for p in partitions if p.error is not None), None)
            if refusal is not None:
                self._group_offsets_refused(refusal, partitions)
            return
        asked_s, self._proof_asked_s = self._proof_asked_s, None
        refusal = error or next((p.error for p in partitions if p.error is not None), None)
        if refusal is not None:
            self._unproved(refusal)
        elif asked_s is not None:
            self._listener.proved(asked_s)

    def _unproved(self, refusal: KafkaError) -> None:
        self._proof_retry_s = boottime_s() + PROOF_RETRY_S
        logger.info("membership of %s is not proved: %s", self._member.instance_id, describe(refusal))

    # --- positions --------------------------------------------------------------------------------------------

    def fetch_from(self, shard: TopicPartition, next_offset: int) -> None:
        """Fetch from ``next_offset`` on, and discard what was fetched ahead. Resume first, then seek, in this order.

        A broker's thread in librdkafka that has nothing to fetch sleeps for a second, and a resume does not wake it
        (measured: 87,000 records a second with these sleeps, 190,000 to 268,000 without). A change of the
        partition's state wakes it. A seek makes such a change unless it is to offset 0; then a request wakes it.
        """
        target = KafkaPartition(shard.topic, shard.partition, next_offset)
        self._consumer.resume([target])
        try:
            self._consumer.seek(target)
        except KafkaException:
            # After an offset error librdkafka has stopped the partition and refuses to seek: assign it again.
            _unassign(self._consumer, [target])
            self._consumer.incremental_assign([target])
        if next_offset == 0:
            with suppress(KafkaException):
                self._consumer.get_watermark_offsets(target, timeout=WAKE_WAIT_S)

    def stop_fetching(self, shard: TopicPartition) -> None:
        """Fetch no more of a shard; librdkafka discards what it fetched ahead."""
        self._consumer.pause([KafkaPartition(shard.topic, shard.partition)])

    # --- leaving ----------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave the group, which assigns the shards to others at once.

        A static member that only closes does not leave: its shards stay idle until its session ends, and so does each
        rebalance meanwhile, which waits for it. Unsubscribing makes librdkafka 2.16.1 send the request to leave all
        the same, once nothing is assigned; ``close`` waits until it is answered. Before the first assignment the
        consumer does not know yet that it is a member, and would send nothing: so that is awaited. Idempotent, also
        after Ctrl-C.
        """
        if not self._is_closed:
            self._unsubscribe(time.monotonic() + HANDOVER_TIMEOUT_S)
            self._is_closed = True
            close_bounded(self._consumer.close, "consumer")
            self._group_watch.close()
        self._slot_lock.close()

    def _unsubscribe(self, deadline_s: float) -> None:
        while self._is_well() and not self._assignments and time.monotonic() < deadline_s:
            self._polled(LEAVING_POLL_S)
        if self._is_well():
            self._consumer.unsubscribe()
            while self._consumer.assignment() and self._is_well() and time.monotonic() < deadline_s:
                self._polled(LEAVING_POLL_S)

    def _is_well(self) -> bool:
        """Return whether the group can be left in order: no other member took our place, and a broker answers."""
        return self._failure is None and self._fenced_by is None and self._down_since_s is None

    def abandon(self) -> None:
        """Stop without leaving the group, as a killed process does: the slot is held until its session ends.

        A static member that closes does not leave, and nothing is committed. The destructor alone would do the same,
        but it runs no callbacks: where a rebalance waits for one it never returns, and its thread takes a whole core
        (2.16.1, in every second crash right after a join; compare its issue #4527). Idempotent, also after Ctrl-C.
        """
        self._slot_lock.close()
        if self._is_closed:
            return
        self._is_closed, self._listener = True, Nobody()
        close_bounded(self._consumer.close, "consumer")


def _unassign(consumer: Consumer, partitions: list[KafkaPartition]) -> None:
    """Give partitions up in one call: librdkafka takes the rebalance for complete after the first one."""
    try:
        consumer.incremental_unassign(partitions)
    except KafkaException:
        # A revoke can name partitions that are not assigned (confluent-kafka-python #1551): unassign the others.
        assigned = {(p.topic, p.partition) for p in consumer.assignment()}
        consumer.incremental_unassign([p for p in partitions if (p.topic, p.partition) in assigned])

"""A worker's membership of the group: joining under its slot's name, proving it, positions, leaving.

The classic protocol, cooperative, with static members: a killed slot's successor takes over within a second, and
shards that stay where they are go on during a rebalance.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import KafkaConfig, logger
from repertory.bridge.log.kafka.hidden import GRACE_S, HiddenWatch
from repertory.bridge.log.kafka.lease import boottime_s
from repertory.bridge.log.kafka.messages import ALL_BROKERS_DOWN, FATAL, FORBIDDEN, bounded, describe, error_of, made
from repertory.bridge.log.kafka.slot import SlotLock
from repertory.bridge.log.port import LogError, LogUnavailable, Member, SlotTaken, TopicSpec
from repertory.bridge.log.record import TopicPartition

PROOF_RETRY_S = 0.1
PROOF_TIMEOUT_S = 5.0
#: Log lines are served and a sign of life is asked for this often.
TICK_S = 1.0
#: A planned handover that takes longer is left to the session timeout.
HANDOVER_TIMEOUT_S = 3.0
#: A slot that is still held after so many sessions is held by a worker that lives.
GHOST_SESSIONS = 2.0
GHOST_LOOK_S = 0.2
METADATA_WAIT_S = 1.0
WAKE_WAIT_S = 0.01


class Listener(Protocol):
    """What happens to the shards; called within :meth:`GroupMember.poll`."""

    def assigned(self, shards: Sequence[TopicPartition]) -> None:
        """They are ours, paused, and nothing of them has been read."""

    def revoked(self, shards: Sequence[TopicPartition], reason: str, *, lost: bool) -> None:
        """They are given up when this returns, or ``lost`` already."""

    def proved(self, asked_s: float) -> None:
        """The group took us for a member at some time after ``asked_s`` (of :func:`boottime_s`)."""

    def group_offsets_refused(self, shards: Sequence[TopicPartition]) -> None:
        """The group did not take the offsets of these shards."""


class GroupMember:
    """One consumer in the group. One thread; callbacks come within its own calls of ``poll`` and ``leave``."""

    def __init__(
        self, config: KafkaConfig, admin: Admin, member: Member, subscriptions: Sequence[str], listener: Listener
    ) -> None:
        self._admin = admin
        self._member = member
        self._subscriptions = frozenset(subscriptions)
        self._listener = listener
        self._limit_s = config.settings.unavailable_timeout_s
        self._session_s = config.settings.session_timeout_s
        self._control = f"{member.group}.control"
        self._failure: LogError | None = None
        self._asked_s: float | None = None  # a proof is under way since
        self._ask_again_s = 0.0
        self._down_since_s: float | None = None
        self._sign_of_life: Future[object] | None = None
        self._tick_due_s = 0.0
        self._assignments = 0
        #: What librdkafka said when another took our place in the group.
        self._fenced_by: str | None = None
        self._brokers = config.brokers
        self._hidden = HiddenWatch(config.settings.transaction_timeout_s + GRACE_S)
        self._lines = config.lines()
        self._slot_lock = self._lock_slot()
        try:
            #: The broker would give us what the predecessor had when it went, and leave all else as it is.
            self._returning = self._must_share_anew()
            if admin.partition_count(self._control) is None:
                admin.ensure([TopicSpec(self._control, 1, {})])
            identity = (member.group, member.instance_id, f"repertory-{member.node}-{member.slot}")
            callbacks = {"error_cb": self._on_error, "on_commit": self._on_commit, "stats_cb": self._on_statistics}
            self._consumer = made(Consumer, config.member(self._lines, *identity) | callbacks)
        except BaseException:
            self._slot_lock.close()
            raise
        self._subscribe(list(subscriptions))

    def _lock_slot(self) -> SlotLock:
        """Take the slot. On other machines nobody sees that; then the older of two owners gets a fatal error."""
        try:
            mark = SlotLock(self._admin.cluster(), self._member)
        except KafkaException as failure:
            raise self._unasked(failure) from None
        if (pid := mark.other_pid()) is not None:
            mark.close()
            raise self._slot_taken(f"process {pid} of this machine")
        return mark

    def _unasked(self, failure: KafkaException) -> LogUnavailable:
        return LogUnavailable(
            f"the group {self._member.group} cannot be asked for its members: {describe(error_of(failure))}"
        )

    def _must_share_anew(self) -> bool:
        """Tell whether the group still holds the slot of a predecessor, and has to share anew.

        That one has no shards, or it was killed when it gave some back, and nobody asks the group to give them to
        others.
        """
        try:
            slot = self._admin.slot(self._member)
        except KafkaException as failure:
            raise self._unasked(failure) from None
        if slot.assigned is None:
            return False
        shards = sum(self._admin.partition_count(topic) or 0 for topic in self._subscriptions)
        shared = sum(shard.topic in self._subscriptions for shard in slot.shared)
        return not slot.assigned & self._subscriptions or shared < shards

    def _slot_taken(self, by: str) -> SlotTaken:
        return SlotTaken(
            f"slot {self._member.slot} of node {self._member.node} in group {self._member.group} is taken by {by}: "
            "stop the other worker, or start this one with another --node or slot"
        )

    def _replaced(self, why: str) -> LogError:
        """Tell by whom: another worker that lives, or a late request to join, of which nobody reads the answer.

        Such a request is one of our own, repeated over another connection, or the last of our killed predecessor. To
        the group it looks like a worker; but it sends no heartbeats, so the slot is given up after a session.
        """
        holder = None
        asked_s = time.monotonic()
        deadline_s = asked_s + GHOST_SESSIONS * self._session_s
        while asked_s < deadline_s:
            try:
                slot = self._admin.slot(self._member)
            except KafkaException as failure:
                return self._unasked(failure)
            answered_s = time.monotonic()
            if answered_s > asked_s + self._session_s / 2:  # a coordinator that was away has begun sessions anew
                deadline_s = answered_s + GHOST_SESSIONS * self._session_s
            if (pid := self._slot_lock.other_pid()) is not None:
                return self._slot_taken(f"process {pid} of this machine, which joined later ({why})")
            if slot.holder is None or holder not in (None, slot.holder):
                return LogUnavailable(
                    f"{self._member.instance_id} was shut out by a request to join that came late ({why})"
                )
            holder = slot.holder
            time.sleep(GHOST_LOOK_S)
            asked_s = time.monotonic()
        return self._slot_taken(f"another worker, which joined later ({why})")

    def _subscribe(self, topics: list[str]) -> None:
        self._consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def _subscribe_anew(self, topics: list[str]) -> None:
        """Change the subscription, which makes the group share anew.

        A returning static member gets its predecessor's assignment back unseen (KIP-345: the broker compares the
        protocol's name, not the subscription), so one that left in order must ask for a rebalance in this way.
        Without the topic's metadata at hand librdkafka 2.16.1 gives all up and then forgets to join again.
        """
        try:
            self._consumer.list_topics(self._control, timeout=METADATA_WAIT_S)
        except KafkaException as failure:
            logger.warning("%s: %s", self._control, describe(error_of(failure)))
        self._subscribe(topics)

    # --- poll -------------------------------------------------------------------------------------------------

    def poll(self, wait_s: float, records_max: int) -> list[Message]:
        """Serve the callbacks and return what was fetched, errors included; wait if there is nothing.

        ``consume(n, t)`` would wait the whole ``t`` for all ``n`` messages in 2.16.1; waiting for one and taking
        the others gives latency and batches.

        Raises:
            LogUnavailable: no broker has answered for ``unavailable_timeout_s``, or a right is missing.
            SlotTaken: another worker joined under our name.
        """
        now_s = time.monotonic()
        if now_s >= self._tick_due_s:
            self._tick(now_s)
        if self._returning and self._assignments:
            self._returning = False
            self._subscribe_anew([*self._subscriptions, self._control])
        message = self._consumer.poll(wait_s)
        messages = [] if message is None else [message, *self._consumer.consume(records_max - 1, 0.0)]
        if self._fenced_by is not None:
            self._failure = self._replaced(self._fenced_by)
        if self._failure is not None:
            raise self._failure
        return messages

    def metadata(self) -> object:
        """Return the group metadata as it is now, for one transaction. Never kept."""
        return self._consumer.consumer_group_metadata()

    def failed(self, error: KafkaError) -> None:
        """Look at an error of the client as a whole; some end the membership, which the poll then raises."""
        code = error.code()
        if code == ALL_BROKERS_DOWN:
            self._down_since_s = self._down_since_s or time.monotonic()
        elif code in (FATAL, KafkaError.FENCED_INSTANCE_ID):  # its `.fatal()` is False in 2.16.1
            self._fenced_by = describe(error)
        elif code in FORBIDDEN:
            self._failure = LogUnavailable(f"Kafka refuses this worker: {describe(error)}")
        else:
            logger.warning("consumer of %s: %s", self._member.instance_id, describe(error))

    def _on_error(self, error: KafkaError) -> None:
        self.failed(error)

    def _tick(self, now_s: float) -> None:
        """Serve log lines; while all brokers are down, ask for a sign of life: librdkafka tells no recovery."""
        self._tick_due_s = now_s + TICK_S
        self._admin.serve()
        if self._down_since_s is None:
            return
        if self._sign_of_life is None:
            self._sign_of_life = self._admin.answers()
        elif self._sign_of_life.done():
            if self._sign_of_life.exception() is None:
                self._down_since_s = None
            self._sign_of_life = None
        if self._down_since_s is not None and now_s - self._down_since_s > self._limit_s:
            self._failure = LogUnavailable(
                f"no Kafka broker has answered for {now_s - self._down_since_s:.0f} s: {self._admin.last_error()}"
            )

    def _on_statistics(self, statistics: str) -> None:
        for hidden in self._hidden.look(statistics, time.monotonic()):
            logger.warning(
                "%s: a transaction hides offsets %d to %d since %.0f s, and this shard waits; the producer is found by "
                "kafka-transactions.sh --bootstrap-server %s describe-producers --topic %s --partition %d",
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
        """Take them with an explicit offset (librdkafka's own position is never used) and paused at once."""
        self._assignments += 1
        consumer.incremental_assign([KafkaPartition(p.topic, p.partition, 0) for p in partitions])
        if partitions:
            consumer.pause(partitions)
        self._listener.assigned(self._ours(partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        self._listener.revoked(self._ours(partitions), "the group gave it to another worker", lost=False)
        _unassign(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        self._listener.revoked(self._ours(partitions), "the membership of the group is gone", lost=True)
        _unassign(consumer, partitions)

    def _ours(self, partitions: list[KafkaPartition]) -> list[TopicPartition]:
        """Leave out the control topic, which only a leaving worker is given."""
        return [TopicPartition(p.topic, p.partition) for p in partitions if p.topic in self._subscriptions]

    # --- proof of membership ----------------------------------------------------------------------------------

    def prove(self) -> None:
        """Ask the coordinator whether we are a member, unless that is under way: ``proved`` tells a yes.

        A plain offset commit on a scratch partition is checked against member and generation; `init_transactions`
        is checked against nothing, and a worker that slept past its session would fence the rightful owner with
        it. A no needs no answer here: librdkafka hears it too, and the shards are lost.
        """
        now_s = boottime_s()
        if (self._asked_s is not None and now_s - self._asked_s < PROOF_TIMEOUT_S) or now_s < self._ask_again_s:
            return
        try:
            self._consumer.commit(offsets=[KafkaPartition(self._control, 0, 0)], asynchronous=True)
            self._asked_s = now_s
        except KafkaException as failure:
            self._unproved(error_of(failure))

    def commit_group_offsets(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets by which nobody steers; ``unmirrored`` tells a no. Members alone may, and only now."""
        targets = [KafkaPartition(*where, offset) for where, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=targets, asynchronous=True)
        except KafkaException as failure:
            self._group_offsets_refused(error_of(failure), targets)

    def _group_offsets_refused(self, refusal: KafkaError, partitions: Sequence[KafkaPartition]) -> None:
        logger.info("offsets of %s are not committed: %s", self._member.instance_id, describe(refusal))
        self._listener.group_offsets_refused([TopicPartition(p.topic, p.partition) for p in partitions])

    def _on_commit(self, error: KafkaError | None, partitions: list[KafkaPartition]) -> None:
        if any(p.topic != self._control for p in partitions):
            refusal = error or next((p.error for p in partitions if p.error is not None), None)
            if refusal is not None:
                self._group_offsets_refused(refusal, partitions)
            return
        asked_s, self._asked_s = self._asked_s, None
        refusal = error or next((p.error for p in partitions if p.error is not None), None)
        if refusal is not None:
            self._unproved(refusal)
        elif asked_s is not None:
            self._listener.proved(asked_s)

    def _unproved(self, refusal: KafkaError) -> None:
        self._ask_again_s = boottime_s() + PROOF_RETRY_S
        logger.info("membership of %s is not proved: %s", self._member.instance_id, describe(refusal))

    # --- positions --------------------------------------------------------------------------------------------

    def flow(self, shard: TopicPartition, next_offset: int) -> None:
        """Fetch from ``next_offset`` on; what was fetched ahead is void. Resume first, then seek, in this order.

        A broker's thread in librdkafka that has nothing to fetch sleeps for a second, and a resume does not wake it
        (measured: 87,000 records a second with these sleeps, 190,000 to 268,000 without). A change of the
        partition's state does, which a seek makes unless it is to offset 0; there a question to the broker does.
        """
        target = KafkaPartition(shard.topic, shard.partition, next_offset)
        self._consumer.resume([target])
        try:
            self._consumer.seek(target)
        except KafkaException:
            # After an offset error librdkafka has stopped the partition and refuses to seek: take it anew.
            _unassign(self._consumer, [target])
            self._consumer.incremental_assign([target])
        if next_offset == 0:
            with suppress(KafkaException):
                self._consumer.get_watermark_offsets(target, timeout=WAKE_WAIT_S)

    def stop(self, shard: TopicPartition) -> None:
        """Fetch nothing of a shard; librdkafka throws away what it fetched ahead."""
        self._consumer.pause([KafkaPartition(shard.topic, shard.partition)])

    # --- leaving ----------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Hand the shards over, then go. A static member that only closes leaves them idle for its session.

        Subscribing to a topic without shards makes the group give them to others; the next assignment that we
        receive tells that it has.
        """
        if self._failure is None and self._fenced_by is None and self._down_since_s is None and self._assignments:
            seen = self._assignments
            self._subscribe_anew([self._control])
            deadline_s = time.monotonic() + HANDOVER_TIMEOUT_S
            while self._assignments == seen and self._failure is None and time.monotonic() < deadline_s:
                self._consumer.poll(0.05)
        bounded(self._consumer.close, "consumer")
        self._slot_lock.close()

    def abandon(self) -> None:
        """Fall silent: no farewell to the group, which finds the slot dead when its session ends or is taken over.

        librdkafka's destructor neither commits nor leaves. But where a rebalance waits for its callback, which nobody
        serves any more, it spins for ever (2.16.1, seen in every second crash right after a join; compare its issue
        #4527): an assignment of nothing is the answer that it waits for.
        """
        self._slot_lock.close()
        with suppress(KafkaException):
            self._consumer.incremental_assign([])
        holder = [self._consumer]
        del self._consumer
        bounded(holder.clear, "consumer")


def _unassign(consumer: Consumer, partitions: list[KafkaPartition]) -> None:
    """Give partitions up, in one call: after the first of several librdkafka holds the rebalance for finished."""
    try:
        consumer.incremental_unassign(partitions)
    except KafkaException:
        # A revoke can name partitions that are not assigned (confluent-kafka-python #1551): the others must go.
        assigned = {(p.topic, p.partition) for p in consumer.assignment()}
        consumer.incremental_unassign([p for p in partitions if (p.topic, p.partition) in assigned])

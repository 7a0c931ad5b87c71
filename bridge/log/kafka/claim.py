"""One shard's ownership: a thread with a transactional producer, from ``claim`` to its first failure.

Every outcome of a commit but ``Committed`` ends the claim: its thread discards the producer, and the next claim's
``init_transactions`` decides what the broker had not decided yet. That takes 55 to 105 ms and is rare. It is the only
remedy for librdkafka's silent repetition of EndTxn (confluentinc/librdkafka #5423, KAFKA-17754): a copy that arrives
late would commit half of the *next* transaction of the same producer.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from repertory.bridge import kill_points
from repertory.bridge.log.errors import LogError, TopicMismatch
from repertory.bridge.log.kafka import hanging
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.appender import KafkaAppender
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.delivery import DeliveryReports
from repertory.bridge.log.kafka.lease import Lease
from repertory.bridge.log.kafka.messages import (
    FENCED,
    NOT_A_MEMBER,
    STATE,
    TIMED_OUT,
    TRANSIENT,
    create_client,
    describe,
    error_of,
)
from repertory.bridge.log.kafka.ranges import RangeReader
from repertory.bridge.log.kafka.sending import Sending, no_partition, partition_count
from repertory.bridge.log.port import (
    Aborted,
    Append,
    Claimed,
    Committed,
    Fenced,
    LogEvent,
    Member,
    OutputsRefused,
    Replayed,
    Transaction,
)
from repertory.bridge.log.record import TopicPartition

T = TypeVar("T")

#: Each call into librdkafka waits this long at most and is then repeated, so that a cancelled claim ends.
SLICE_S = 2.0
#: A call that has not returned this long after the end of its slice never will: `send_offsets_to_transaction` can
#: ignore its timeout (librdkafka 2.16.1, #5456). Its thread and producer are abandoned; the next claim fences them.
STUCK_AFTER_S = 3.0
#: Pause before a request is repeated while the cluster moves leaders or coordinators.
RETRY_WAIT_S = 0.02
#: Replayed batches that may wait for the owner's poll; no more are read ahead.
REPLAY_BATCHES_MAX = 8
#: A kill point after the commit request waits this long: the request was sent, the answer has not arrived.
ANSWER_LOST_S = 0.001
#: What a broker counts of a batch beside what librdkafka counts for ``batch.size``: less than this.
BATCH_OVERHEAD_BYTES = 200
#: How often an idle producer is polled, which delivers its log lines.
IDLE_POLL_S = 1.0

#: Where a claim's thread puts its outcomes. An exception is a bug of ours, which the poll raises.
Inbox = deque[tuple["Claim", LogEvent | BaseException]]


class _CancelledError(Exception):
    """The claim was cancelled."""


class Claim:
    """The owner's methods return at once; the outcomes are appended to ``inbox``. One job at a time."""

    def __init__(
        self,
        config: KafkaConfig,
        admin: Admin,
        member: Member,
        shard: TopicPartition,
        inbox: Inbox,
        lease: Lease,
    ) -> None:
        self.shard = shard
        #: Set while no commit is under way. A revoke waits for it, for a bounded time.
        self.settled = threading.Event()
        self.settled.set()
        self._config = config
        self._admin = admin
        self._group, self._system = member.group, member.system
        self._inbox = inbox
        self._lease = lease
        self._lines = config.lines()
        self._producer: Producer | None = None
        self._appender: KafkaAppender | None = None
        self._transactional_id = ""
        self._reader: RangeReader | None = None
        self._jobs: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self._batch_room = threading.Semaphore(REPLAY_BATCHES_MAX)
        self._cancelled = threading.Event()
        #: The slice of a commit's calls. A commit that needs a second slice has an unknown outcome, so the slice is
        #: long enough for brokers that are slow but answer within the transaction's timeout.
        self._commit_slice_s = max(SLICE_S, config.settings.transaction_timeout_s / 2)
        self._returns_by_s = math.inf
        # A daemon thread: a broker that never answers must not keep the worker from exiting.
        self._thread = threading.Thread(target=self._run, name=f"claim {shard}", daemon=True)
        self._thread.start()

    # --- called by the log's thread ---------------------------------------------------------------------------

    def start(self, topics: Sequence[str]) -> None:
        """Fence earlier owners and read the shard's offsets; reports ``Claimed``."""
        self._jobs.put(partial(self._claim, topics))

    def replay(self, topic: str, start: int, end: int) -> None:
        """Read a range; reports ``Replayed`` until complete. Acknowledge each batch with :meth:`ack_batch`."""
        self._jobs.put(partial(self._replay, TopicPartition(topic, self.shard.partition), start, end))

    def ack_batch(self) -> None:
        """One replayed batch has reached the owner; another may be read."""
        self._batch_room.release()

    def end_replays(self) -> None:
        """Close the consumer that only replays need."""
        self._jobs.put(self._close_reader)

    def commit(self, transaction: Transaction, membership: object, *, reports_all: bool) -> None:
        """Commit the transaction. ``membership`` is the consumer's group metadata, read for this commit.

        ``reports_all``: ask for a delivery report of each record, as a commit failed and nobody knows why.
        """
        self.settled.clear()
        self._jobs.put(partial(self._commit, transaction, membership, reports_all=reports_all))

    def append(self, append: Append) -> None:
        """Append without a transaction: first the outputs, then, once those are acknowledged, the journal."""
        self.settled.clear()
        self._jobs.put(partial(self._append, append))

    def cancel(self) -> None:
        """End the claim: the current job stops at its next slice, and the log ignores its outcome."""
        self._cancelled.set()
        self._jobs.put(None)

    def is_stuck(self, now_s: float) -> bool:
        """Return whether a call into librdkafka is still under way long after its timeout."""
        return now_s > self._returns_by_s

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; return whether it has ended."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    # --- the claim's thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (job := self._next_job()) is not None and job():
                pass
        except _CancelledError:
            pass
        except Exception as bug:  # noqa: BLE001 - a thread's bug must reach the worker
            self._inbox.append((self, bug))
        finally:
            self.settled.set()
            self._close_reader()
            kill_points.reached("discarding-producer")
            self._appender = None
            self._producer = None  # destroys it here, off the poll's thread, without flushing

    def _next_job(self) -> Callable[[], bool] | None:
        while True:
            try:
                return self._jobs.get(timeout=IDLE_POLL_S)
            except Empty:
                if self._producer is not None:
                    self._producer.poll(0)

    def _emit(self, event: LogEvent) -> None:
        self._inbox.append((self, event))

    def _claim(self, topics: Sequence[str]) -> bool:
        deadline_s = time.monotonic() + self._config.settings.unavailable_timeout_s
        name = self.shard.topic.removesuffix(".commands")
        if not name.startswith(f"{self._group}."):
            name = f"{self._group}.{name}"
        self._transactional_id = f"{name}.{self.shard.partition}"
        config = self._config.shard(self._lines, self._transactional_id)
        producer = self._producer = create_client(Producer, config)
        try:
            # librdkafka looks for the coordinator immediately. While its first connection changes from the bootstrap
            # address to the broker's own it finds none, and looks again only after half a second. After two metadata
            # requests the connection is there: 0.06 to 0.14 s instead of 0.5 for a third of all claims (measured).
            for _ in range(2):
                self._retry(lambda: producer.list_topics(self.shard.topic, SLICE_S), deadline_s)
            # Completes or aborts a predecessor's open transaction and bumps the epoch, which fences the predecessor.
            self._retry(lambda: self._fence(producer), deadline_s)
            claimed = self._retry(lambda: self._survey(topics), deadline_s)
        except KafkaException as failure:
            return self._fail(error_of(failure), "claiming the shard")
        self._emit(claimed)
        return True

    def _fence(self, producer: Producer) -> None:
        """Initialise the transactional id. Kafka checks no membership here, so a worker that slept must not do it."""
        if self._lease.is_expired():
            self._emit(
                Aborted(
                    self.shard, f"{self.shard}: the group did not confirm the membership during the claim", routine=True
                )
            )
            raise _CancelledError
        producer.init_transactions(SLICE_S)

    def _survey(self, topics: Sequence[str]) -> Claimed:
        """Ask for the group's offset and the ends. Waits while an open transaction holds the offset pending.

        The ends count uncommitted records: the markers of a committed transaction are written a little after its
        acknowledgement, and a replay that ended at the last stable offset would miss it (KAFKA-10167).
        """
        self._admin.renew_doubted()
        committed = self._committed(topics)
        start_offset = self._admin.low(self.shard)
        places = [TopicPartition(topic, self.shard.partition) for topic in topics]
        ends = self._admin.ends({self.shard, *places})
        by_topic = {place.topic: ends[place] for place in places}
        ids = self._admin.topic_ids(tuple(dict.fromkeys((self.shard.topic, *topics))))  # A relay restores from its own.
        return Claimed(self.shard, committed, start_offset, ends[self.shard], by_topic, ids)

    def _committed(self, topics: Sequence[str]) -> int | None:
        """Ask for the group's offset. One that is still pending after the id was initialised hangs: end that first."""
        try:
            return self._admin.committed(self._group, self.shard)
        except KafkaException as failure:
            if error_of(failure).code() != TIMED_OUT or not self._admin.is_pending(self._group, self.shard):
                raise
        assert self._producer is not None
        found = hanging.Hanging(self._group, self.shard, self._transactional_id, topics)
        try:
            hanging.mend(found, self._producer, self._admin, self._config)
        except (hanging.NotMendedError, KafkaException) as why:
            reason = describe(error_of(why)) if isinstance(why, KafkaException) else str(why)
            raise KafkaException(
                KafkaError(STATE, f"a transaction of {self._transactional_id} hangs and could not be ended: {reason}")
            ) from None
        return self._admin.committed(self._group, self.shard)

    def _retry(self, ask: Callable[[], T], deadline_s: float) -> T:
        """Repeat a request while it fails with a transient error, until the deadline."""
        while True:
            if self._cancelled.is_set():
                raise _CancelledError
            try:
                return ask()
            except KafkaException as failure:
                error = error_of(failure)
                is_transient = error.retriable() or (error.code() in TRANSIENT and not error.fatal())
                if not is_transient or time.monotonic() > deadline_s:
                    raise
                assert self._producer is not None
                self._producer.poll(RETRY_WAIT_S)

    def _replay(self, where: TopicPartition, start: int, end: int) -> bool:
        if start >= end:
            self._emit(Replayed(self.shard, where.topic, (), complete=True))
            return True
        try:
            if self._reader is None:
                self._reader = RangeReader(self._config, self._admin.low)
            for records in self._reader.read(where, start, end):
                if records:
                    self._wait_for_room()
                    self._emit(Replayed(self.shard, where.topic, records, complete=False))
                elif self._cancelled.is_set():
                    raise _CancelledError
            self._reader.stop()
        except KafkaException as failure:
            return self._fail(error_of(failure), f"replaying {where} from {start} to {end}")
        self._emit(Replayed(self.shard, where.topic, (), complete=True))
        return True

    def _wait_for_room(self) -> None:
        while not self._batch_room.acquire(timeout=0.1):
            if self._cancelled.is_set():
                raise _CancelledError

    def _close_reader(self) -> bool:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        return True

    # --- transactions -----------------------------------------------------------------------------------------

    def _commit(self, transaction: Transaction, membership: object, *, reports_all: bool) -> bool:
        producer = self._producer
        assert producer is not None, "commit before Claimed"
        started_s = time.monotonic()
        deadline_s = started_s + self._config.settings.transaction_timeout_s
        shard = transaction.shard
        offsets = [KafkaPartition(shard.topic, shard.partition, transaction.next_offset)]
        reports = DeliveryReports(self._system, reports_all=reports_all)
        sending = Sending(producer, self._admin, reports, self._lines, self._cancelled, deadline_s)
        try:
            producer.begin_transaction()
            kill_points.reached("begun")
            sending.queue(transaction.records)
            kill_points.reached("produced")
            slice_s = self._commit_slice_s
            # Records have sequence numbers. A late copy of what follows would count for the *next* transaction: the
            # offset would be set back, or only half of it would be committed.
            producer.poll(0)
            self._lines.answer_lost = False
            self._sliced(lambda: producer.send_offsets_to_transaction(offsets, membership, slice_s), deadline_s)
            kill_points.reached("offset-sent")
            sending.await_reports()
            kill_points.reached("commit-asked", ANSWER_LOST_S)
            self._sliced(lambda: producer.commit_transaction(slice_s), deadline_s)
        except KafkaException as failure:
            sending.take_unauthorized(transaction.records)
            return self._fail_commit(error_of(failure), transaction, reports)
        except LogError as failure:
            error = KafkaError(TIMED_OUT, f"{failure}", txn_requires_abort=True)
            return self._fail_commit(error, transaction, reports)
        kill_points.reached("committed")
        producer.poll(0)  # the log line of a broken connection is in this queue before the commit returns
        took_s = time.monotonic() - started_s
        if took_s >= slice_s:
            return self._outcome_unknown(f"the commit took {took_s:.1f} s")
        if self._lines.answer_lost:
            return self._outcome_unknown(self._lines.last)
        if len(reports.firsts) < len({output.topic for output in transaction.records}):
            # The first acknowledgement was lost; the broker answers the retry without an offset.
            return self._outcome_unknown("the broker did not report the offsets of the records")
        self._report(Committed(shard, reports.firsts))
        return True

    def _fail_commit(self, error: KafkaError, transaction: Transaction, reports: DeliveryReports) -> bool:
        """End the claim after a failed commit: name the records that were refused for good, if there are any."""
        assert self._producer is not None
        self._admin.doubt({each.topic for each in transaction.records if reports.is_outside(each.topic)})
        if error.code() not in FENCED and (refused := reports.event(self.shard, transaction.records)) is not None:
            self._abort()
            self._report(self._named(refused, reports))
            return False
        return self._fail(error, f"committing up to offset {transaction.next_offset}")

    # --- without a transaction --------------------------------------------------------------------------------

    def _append(self, append: Append) -> bool:
        """Append outputs, then the journal. After an unknown outcome the next claim reads the journal to decide it."""
        appender = self._appender = self._appender or KafkaAppender(self._config, self._admin, gapless=True)
        firsts: dict[str, int] = {}
        try:
            for point, outputs in (("appending", append.outputs), ("appending-journal", append.journal)):
                kill_points.reached(point)
                if self._cancelled.is_set():
                    raise _CancelledError
                if self._lease.is_expired():  # Nothing else stops a worker that slept from writing.
                    text = f"{self.shard}: the group has not confirmed the membership for a session; the append stops"
                    self._report(Aborted(self.shard, text, routine=True))
                    return False
                for topic in {output.topic for output in outputs}:
                    partition_count(self._admin, topic, self._cancelled)  # One that is new may be unknown for a moment.
                if outputs is append.journal:
                    kill_points.reached("journal-sent", ANSWER_LOST_S)
                offsets = appender.append(outputs) if outputs else ()
                for output, offset in zip(outputs, offsets, strict=True):
                    firsts.setdefault(output.topic, offset)
        except LogError as failure:
            return self._fail_append(failure, append, appender)
        if -1 in firsts.values():
            return self._outcome_unknown("the broker did not report the offsets of the records")
        kill_points.reached("appended")
        self._report(Committed(self.shard, firsts))
        return True

    def _fail_append(self, failure: LogError, append: Append, appender: KafkaAppender) -> bool:
        """End the claim after a failed append: name the records that were refused for good, if there are any."""
        reports, outputs = DeliveryReports(self._system, reports_all=True), [*append.outputs, *append.journal]
        self._admin.doubt({output.topic for output in outputs if reports.is_outside(output.topic)})
        for output, error in appender.errors:
            reports.report(output, error)
        for output in outputs if isinstance(failure, TopicMismatch) else ():
            if self._admin.partition_count(output.topic) is None:
                reports.refuse(output, no_partition(output.topic, output.partition))
        if (refused := reports.event(self.shard, outputs)) is None:
            return self._outcome_unknown(f"{failure}")
        self._report(self._named(refused, reports))
        return False

    def _named(self, refused: OutputsRefused, reports: DeliveryReports) -> OutputsRefused | Aborted:
        """Return the refusal, or an abort if later batches are smaller: those are refused only for a record's sake."""
        topic = reports.too_large_for
        if refused.all_refused or topic is None:
            return refused
        try:
            limit_bytes = self._admin.batch_bytes_max(topic)
        except (KafkaException, LookupError, ValueError):
            return refused
        batch_bytes = max(1, limit_bytes - BATCH_OVERHEAD_BYTES)
        if batch_bytes >= self._config.batch_bytes_max:
            return refused
        self._config.batch_bytes_max = batch_bytes
        text = f"{refused.reason}; from now on batches have at most the {limit_bytes:,} bytes that the topic takes"
        return Aborted(self.shard, text, routine=True)

    def _sliced(self, call: Callable[[], None], deadline_s: float) -> None:
        """Repeat a call until it succeeds, fails or is too late. librdkafka requires the same arguments each time."""
        while True:
            self._returns_by_s = time.monotonic() + self._commit_slice_s + STUCK_AFTER_S
            try:
                call()
            except KafkaException as failure:
                if not error_of(failure).retriable() or time.monotonic() > deadline_s or self._cancelled.is_set():
                    raise
            else:
                return
            finally:
                self._returns_by_s = math.inf

    def _fail(self, error: KafkaError, doing: str) -> bool:
        """End the claim and report what the owner must do. ``research/reliability.md`` 1b: error → action."""
        code, text = error.code(), f"{self.shard}: {doing} failed: {describe(error)}"
        if code in FENCED:
            self._report(Fenced(self.shard, text))
        elif error.txn_requires_abort():
            self._abort()
            self._report(Aborted(self.shard, text, routine=code in NOT_A_MEMBER))
        elif error.retriable():
            self._outcome_unknown(text)
        else:
            self._report(Aborted(self.shard, text, routine=False))
        return False

    def _abort(self) -> None:
        """Abort the transaction, which unblocks readers, if that is quick; otherwise the next claim aborts it."""
        assert self._producer is not None
        with suppress(KafkaException):
            self._producer.abort_transaction(SLICE_S)

    def _outcome_unknown(self, why: str) -> bool:
        text = f"{self.shard}: unknown outcome of a commit, the next claim decides it: {why}"
        self._report(Aborted(self.shard, text, routine=False))
        return False

    def _report(self, event: LogEvent) -> None:
        """Report the outcome, then let a waiting revoke continue."""
        self._emit(event)
        self.settled.set()

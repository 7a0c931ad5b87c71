"""One shard's ownership: a thread with a transactional producer, from ``claim`` to its first failure.

Nothing outlives a failure: whatever is not a plain ``Committed`` ends the claim, its producer is thrown away on its
own thread, and the next claim's ``init_transactions`` decides what the broker had not decided yet. That is dear
(55 to 105 ms) and rare, and it is the only answer to librdkafka's silent repetition of EndTxn (confluentinc/librdkafka
#5423, KAFKA-17754): a copy that arrives late would commit half of the *next* transaction of the same producer.
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

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from repertory.bridge import kill_points
from repertory.bridge.log.kafka import hanging
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.appender import KafkaAppender
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.lease import Lease
from repertory.bridge.log.kafka.messages import FENCED, NO_MEMBER, PASSING, STATE, TIMED_OUT, describe, error_of, made
from repertory.bridge.log.kafka.ranges import RangeReader
from repertory.bridge.log.port import (
    Aborted,
    Append,
    Claimed,
    Committed,
    Fenced,
    LogError,
    LogEvent,
    Replayed,
    Transaction,
)
from repertory.bridge.log.record import Output, TopicPartition

T = TypeVar("T")

#: librdkafka is asked in slices of this length, so that a claim that is no longer wanted ends.
SLICE_S = 2.0
#: A call that has not returned so long after its slice never will: `send_offsets_to_transaction` knows no time-out
#: (librdkafka 2.16.1, #5456). Its thread and its producer are left behind, and the next claim fences them.
STUCK_S = 3.0
#: Between two attempts that a moving cluster refused.
RETRY_WAIT_S = 0.02
#: Replayed batches that wait for the poll; more are not read ahead.
REPLAY_BATCHES_MAX = 8
#: A worker that is to die after it asked for a commit lives so much longer: the request is out, the answer is not in.
ANSWER_LOST_S = 0.001
#: An idle producer's log lines are served this often.
IDLE_POLL_S = 1.0

#: Where a claim's outcomes go; what is no event is a bug of ours, for the poll to raise.
Inbox = deque[tuple["Claim", LogEvent | BaseException]]


class _VoidedError(Exception):
    """The claim is no longer wanted."""


class Claim:
    """The owner's methods return at once; ``inbox`` gets the outcomes. One job at a time."""

    def __init__(
        self, config: KafkaConfig, admin: Admin, group: str, shard: TopicPartition, inbox: Inbox, lease: Lease
    ) -> None:
        self.shard = shard
        #: Set while no commit is under way: a revoke waits for it, within bounds.
        self.settled = threading.Event()
        self.settled.set()
        self._config = config
        self._admin = admin
        self._group = group
        self._inbox = inbox
        self._lease = lease
        self._lines = config.lines()
        self._producer: Producer | None = None
        self._appender: KafkaAppender | None = None
        self._id = ""
        self._reader: RangeReader | None = None
        self._jobs: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self._room = threading.Semaphore(REPLAY_BATCHES_MAX)
        self._void = threading.Event()
        #: A commit's calls get slices of this length. One that needs a second slice is not trusted; on brokers that
        #: are slow, but within the transaction's timeout, that must stay the exception.
        self._commit_slice_s = max(SLICE_S, config.settings.transaction_timeout_s / 2)
        self._returns_by_s = math.inf
        # A daemon: a broker that never answers must not keep a worker from exiting.
        self._thread = threading.Thread(target=self._run, name=f"claim {shard}", daemon=True)
        self._thread.start()

    # --- called by the log's thread ---------------------------------------------------------------------------

    def start(self, topics: Sequence[str]) -> None:
        """Shut out earlier owners and survey the shard: ``Claimed``."""
        self._jobs.put(partial(self._claim, topics))

    def replay(self, topic: str, start: int, end: int) -> None:
        """Read a range: ``Replayed`` until complete. Each batch must be acknowledged by :meth:`took`."""
        self._jobs.put(partial(self._replay, TopicPartition(topic, self.shard.partition), start, end))

    def ack_batch(self) -> None:
        """One replayed batch has reached the owner: there is room for another."""
        self._room.release()

    def end_replays(self) -> None:
        """Release what only replays need."""
        self._jobs.put(self._close_reader)

    def commit(self, transaction: Transaction, membership: object) -> None:
        """Do the transaction as ``membership`` (the consumer's group metadata, read just now)."""
        self.settled.clear()
        self._jobs.put(partial(self._commit, transaction, membership))

    def append(self, append: Append) -> None:
        """Do without a transaction: outputs first, acknowledged, then the journal."""
        self.settled.clear()
        self._jobs.put(partial(self._append, append))

    def cancel(self) -> None:
        """Give up: what is under way ends at its next slice, nothing is reported any more."""
        self._void.set()
        self._jobs.put(None)

    def stuck(self, now_s: float) -> bool:
        """Tell whether a call that librdkafka was to return from long ago is still under way."""
        return now_s > self._returns_by_s

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; tells whether it ended."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    # --- the claim's thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (job := self._next_job()) is not None and job():
                pass
        except _VoidedError:
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
        self._id = f"{name}.{self.shard.partition}"
        config = self._config.shard(self._lines, self._id)
        producer = self._producer = made(Producer, config)
        try:
            # librdkafka looks for the coordinator at once; while its first connection changes from the bootstrap
            # address to the broker's own it finds none, and looks again only after half a second. Two questions
            # later there is one: 0.06 to 0.14 s instead of 0.5 for a third of all claims (measured).
            for _ in range(2):
                self._retry(lambda: producer.list_topics(self.shard.topic, SLICE_S), deadline_s)
            # Completes or aborts what a predecessor left open, and bumps the epoch: from here on it is fenced.
            self._retry(lambda: self._fence(producer), deadline_s)
            claimed = self._retry(lambda: self._survey(topics), deadline_s)
        except KafkaException as failure:
            return self._failed(error_of(failure), "claiming the shard")
        self._emit(claimed)
        return True

    def _fence(self, producer: Producer) -> None:
        """Initialise the transactional id. No member of the group is checked there: one that slept must not."""
        if self._lease.over():
            self._emit(Aborted(self.shard, f"{self.shard}: no sign of membership while it was claimed", routine=True))
            raise _VoidedError
        producer.init_transactions(SLICE_S)

    def _survey(self, topics: Sequence[str]) -> Claimed:
        """Ask for the group's offset and the ends. While a transaction holds the offset pending it is not given.

        The ends count uncommitted records: the markers of a committed transaction land a little after its
        acknowledgement, and a replay that ended at the last stable offset would miss it (KAFKA-10167).
        """
        committed = self._committed(topics)
        start_offset = self._admin.low(self.shard)
        places = [TopicPartition(topic, self.shard.partition) for topic in topics]
        ends = self._admin.ends({self.shard, *places})
        by_topic = {place.topic: ends[place] for place in places}
        return Claimed(self.shard, committed, start_offset, ends[self.shard], by_topic)

    def _committed(self, topics: Sequence[str]) -> int | None:
        """Ask for the group's offset. Still pending after the id was initialised, it would be so for ever: end that."""
        try:
            return self._admin.committed(self._group, self.shard)
        except KafkaException as failure:
            if error_of(failure).code() != TIMED_OUT or not self._admin.is_pending(self._group, self.shard):
                raise
        assert self._producer is not None
        held = hanging.Hanging(self._group, self.shard, self._id, topics)
        try:
            hanging.mend(held, self._producer, self._admin, self._config)
        except (hanging.NotMendedError, KafkaException) as why:
            said = describe(error_of(why)) if isinstance(why, KafkaException) else str(why)
            raise KafkaException(
                KafkaError(STATE, f"a transaction of {self._id} hangs and could not be ended: {said}")
            ) from None
        return self._admin.committed(self._group, self.shard)

    def _retry(self, ask: Callable[[], T], deadline_s: float) -> T:
        """Repeat a question that a moving cluster does not answer yet."""
        while True:
            if self._void.is_set():
                raise _VoidedError
            try:
                return ask()
            except KafkaException as failure:
                error = error_of(failure)
                passing = error.retriable() or (error.code() in PASSING and not error.fatal())
                if not passing or time.monotonic() > deadline_s:
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
                elif self._void.is_set():
                    raise _VoidedError
            self._reader.rest()
        except KafkaException as failure:
            return self._failed(error_of(failure), f"replaying {where} from {start} to {end}")
        self._emit(Replayed(self.shard, where.topic, (), complete=True))
        return True

    def _wait_for_room(self) -> None:
        while not self._room.acquire(timeout=0.1):
            if self._void.is_set():
                raise _VoidedError

    def _close_reader(self) -> bool:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        return True

    # --- transactions -----------------------------------------------------------------------------------------

    def _commit(self, transaction: Transaction, membership: object) -> bool:
        producer = self._producer
        assert producer is not None, "commit before Claimed"
        producer.poll(0)
        self._lines.coordinator_lost = False  # what broke before this transaction carried nothing of it
        started_s = time.monotonic()
        deadline_s = started_s + self._config.settings.transaction_timeout_s
        shard = transaction.shard
        offsets = [KafkaPartition(shard.topic, shard.partition, transaction.next_offset)]
        try:
            producer.begin_transaction()
            kill_points.reached("begun")
            firsts = self._produce(producer, transaction.records, deadline_s)
            kill_points.reached("produced")
            slice_s = self._commit_slice_s
            self._sliced(lambda: producer.send_offsets_to_transaction(offsets, membership, slice_s), deadline_s)
            kill_points.reached("offset-sent")
            kill_points.reached("commit-asked", ANSWER_LOST_S)
            self._sliced(lambda: producer.commit_transaction(slice_s), deadline_s)
        except KafkaException as failure:
            return self._failed(error_of(failure), f"committing up to offset {transaction.next_offset}")
        kill_points.reached("committed")
        producer.poll(0)  # log lines of a broken connection are in this queue before the commit returns
        took_s = time.monotonic() - started_s
        if took_s >= slice_s:
            return self._unknown(f"the commit took {took_s:.1f} s")
        if self._lines.coordinator_lost:
            return self._unknown(self._lines.last)
        if len(firsts) < len({output.topic for output in transaction.records}):
            # The first answer got lost; asked again, the broker only knew that it has the records.
            return self._unknown("the broker did not tell where the records stand")
        self._answer(Committed(shard, firsts))
        return True

    def _produce(self, producer: Producer, outputs: Sequence[Output], deadline_s: float) -> dict[str, int]:
        """Queue all outputs; the result fills with each topic's first offset once they are delivered.

        Only those have a delivery callback (1 µs each): a failed delivery of any other makes the transaction
        abortable in librdkafka, so the commit tells.
        """
        firsts: dict[str, int] = {}

        def note(error: KafkaError | None, message: Message) -> None:
            topic, offset = message.topic(), message.offset()
            if error is None and topic is not None and offset is not None:
                firsts[topic] = offset

        counts: dict[str, int] = {}
        produce = producer.produce
        for output in outputs:
            topic, headers = output.topic, output.headers
            callback = None
            if topic not in counts:
                if counts:
                    kill_points.reached("producing")
                if point := kill_points.PRODUCING.get(topic.rpartition(".")[2]):
                    kill_points.reached(point)
                counts[topic] = self._admin.partition_count(topic) or 0
                callback = note
            if not 0 <= output.partition < counts[topic]:
                # librdkafka would wait for a topic for half a minute, and choose a partition where it is told -1.
                raise KafkaException(_no_partition(topic, output.partition))
            while True:
                try:
                    produce(
                        topic,
                        output.value,
                        output.key,
                        output.partition,
                        callback,
                        None,
                        0,
                        list(headers) if headers else None,
                    )
                    break
                except BufferError:
                    producer.poll(0.01)  # wait for room
                    if time.monotonic() > deadline_s or self._void.is_set():
                        raise KafkaException(
                            KafkaError(TIMED_OUT, "the queue to the brokers stays full", txn_requires_abort=True)
                        ) from None
        return firsts

    # --- without a transaction --------------------------------------------------------------------------------

    def _append(self, append: Append) -> bool:
        """Append outputs, then the journal; whatever is in doubt, the journal tells the next claim."""
        appender = self._appender = self._appender or KafkaAppender(self._config, self._admin, gapless=True)
        firsts: dict[str, int] = {}
        try:
            for point, outputs in (("appending", append.outputs), ("appending-journal", append.journal)):
                kill_points.reached(point)
                if self._void.is_set():
                    raise _VoidedError
                if self._lease.over():  # Nothing else keeps a sleeper from writing on.
                    text = f"{self.shard}: no sign of membership for a session; nothing more is appended"
                    self._answer(Aborted(self.shard, text, routine=True))
                    return False
                if outputs is append.journal:
                    kill_points.reached("journal-sent", ANSWER_LOST_S)
                offsets = appender.append(outputs) if outputs else ()
                for output, offset in zip(outputs, offsets, strict=True):
                    firsts.setdefault(output.topic, offset)
        except LogError as failure:
            return self._unknown(f"{failure}")
        if -1 in firsts.values():
            return self._unknown("the broker did not tell where the records stand")
        kill_points.reached("appended")
        self._answer(Committed(self.shard, firsts))
        return True

    def _sliced(self, call: Callable[[], None], deadline_s: float) -> None:
        """Call until it is done, refused or too late. Again with the same arguments is what librdkafka asks for."""
        while True:
            self._returns_by_s = time.monotonic() + self._commit_slice_s + STUCK_S
            try:
                call()
            except KafkaException as failure:
                if not error_of(failure).retriable() or time.monotonic() > deadline_s or self._void.is_set():
                    raise
            else:
                return
            finally:
                self._returns_by_s = math.inf

    def _failed(self, error: KafkaError, doing: str) -> bool:
        """End the claim: say what the owner must do. Table: ``research/reliability.md`` 1b, error → action."""
        code, text = error.code(), f"{self.shard}: {doing} failed: {describe(error)}"
        if code in FENCED:
            self._answer(Fenced(self.shard, text))
        elif error.txn_requires_abort():
            self._abort()
            self._answer(Aborted(self.shard, text, routine=code in NO_MEMBER))
        elif error.retriable():
            self._unknown(text)
        else:
            self._answer(Aborted(self.shard, text, routine=False))
        return False

    def _abort(self) -> None:
        """Let go of what the transaction hides, if that can be had quickly; else the next claim does it."""
        assert self._producer is not None
        with suppress(KafkaException):
            self._producer.abort_transaction(SLICE_S)

    def _unknown(self, why: str) -> bool:
        text = f"{self.shard}: unknown outcome of a commit, the next claim decides it: {why}"
        self._answer(Aborted(self.shard, text, routine=False))
        return False

    def _answer(self, event: LogEvent) -> None:
        """Say the outcome, then let a waiting revoke go on."""
        self._emit(event)
        self.settled.set()


def _no_partition(topic: str, partition: int) -> KafkaError:
    text = f"there is no partition {topic}/{partition}"
    return KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, text, txn_requires_abort=True)

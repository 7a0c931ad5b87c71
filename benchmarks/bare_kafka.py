"""The ledger job as a bare confluent-kafka loop: the upper limit that the client and the broker set.

One consumer, one transactional producer per partition, overlapping commits, batches of 1,000, and the same settings as
the runtime. Balances are kept in a dict and lost at exit: no restore, no supervision, no fencing by partition.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid

import msgspec
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from benchmarks import job
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import TopicSpec

_LATENCY = {"retry.backoff.ms": 1, "retry.backoff.max.ms": 5, "linger.ms": 0}


class Shard:
    """One partition: its balances, its producer, and the thread that commits."""

    def __init__(self, brokers: str, name: str, partition: int) -> None:
        self.balances: dict[bytes, int] = {}
        self.busy = False
        self.pending: list[Message] = []
        self.tasks: queue.SimpleQueue[tuple[list[tuple[bytes, bytes]], int, object] | None] = queue.SimpleQueue()
        self._commands, self._events, self._partition = f"{name}.account.commands", f"{name}.account.events", partition
        self._producer = Producer({"bootstrap.servers": brokers, "transactional.id": f"{name}.{partition}", **_LATENCY})
        self._producer.init_transactions(30)
        self.committed = 0
        self.thread = threading.Thread(target=self._commit_all)
        self.thread.start()

    def decide(self, group: object) -> None:
        """Handle a batch and pass it to the thread that commits."""
        batch, self.pending = self.pending[: job.BATCH], self.pending[job.BATCH :]
        decode, encode, balances = _decode, _encode, self.balances
        events = []
        for message in batch:
            key = message.key() or b""
            deposit = decode(message.value() or b"")
            balances[key] = balances.get(key, 0) + deposit.amount
            events.append((key, encode(job.Deposited(amount=deposit.amount))))
        self.busy = True
        self.tasks.put((events, (batch[-1].offset() or 0) + 1, group))

    def _commit_all(self) -> None:
        producer, topic, partition = self._producer, self._events, self._partition
        while (task := self.tasks.get()) is not None:
            events, next_offset, group = task
            producer.begin_transaction()
            for key, value in events:
                producer.produce(topic, value, key, partition)
            producer.send_offsets_to_transaction([TopicPartition(self._commands, partition, next_offset)], group, 30)
            producer.commit_transaction(30)
            self.committed += len(events)
            self.busy = False


_decode = msgspec.msgpack.Decoder(job.Deposit).decode
_encode = msgspec.msgpack.Encoder().encode


def bare_kafka(url: str, count: int) -> float:
    """Run the job; return the seconds to the last commit, from the moment that the loop is ready and the topic full."""
    name = f"bare-{uuid.uuid4().hex[:8]}"
    backend = connect(url)
    topic = f"{name}.account.commands"
    backend.ensure([TopicSpec(t, job.PARTITIONS, {}) for t in (topic, f"{name}.account.events")])
    brokers = url.removeprefix("kafka://")
    shards = [Shard(brokers, name, partition) for partition in range(job.PARTITIONS)]
    consumer = Consumer(
        {
            "bootstrap.servers": brokers, "group.id": name, "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "fetch.wait.max.ms": 10,
        }
    )  # fmt: skip
    consumer.subscribe([topic])
    while not consumer.assignment():
        consumer.poll(0.05)
    job.preload(backend, topic, count)
    backend.close()
    begin_s = time.perf_counter()
    while sum(shard.committed for shard in shards) < count:
        busy = any(shard.busy for shard in shards)
        first = consumer.poll(0.0005 if busy else 0.05)
        messages = ([first] if first else []) + (consumer.consume(job.BATCH, 0) if first else [])
        for message in messages:
            assert message.error() is None, message.error()
            shards[message.partition() or 0].pending.append(message)
        for shard in shards:
            if shard.pending and not shard.busy:
                shard.decide(consumer.consumer_group_metadata())
    seconds = time.perf_counter() - begin_s
    for shard in shards:
        shard.tasks.put(None)
        shard.thread.join()
    consumer.close()
    return seconds

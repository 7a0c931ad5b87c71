"""The ledger job as a bare confluent-kafka loop, the limit that client and broker set: ``python -m benchmarks.bare``.

One consumer, one transactional producer and one committing thread for each partition, commits that overlap with the
next batch, the batches, the settings and the three headers of the runtime. Balances are kept in a dict and are lost at
exit: no restore, no supervision, no fencing by partition, nothing about bad input. Runs until SIGTERM.
"""

from __future__ import annotations

import queue
import signal
import threading
from typing import Annotated, Any

import msgspec
import typer
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from benchmarks import job
from repertory.actors.headers import CAUSE, CORRELATION_ID, REPLY_TO, SEQ, VERSION
from repertory.bridge.system.settings import Settings
from repertory.bridge.worker import calm_the_collector

_SETTINGS = {"retry.backoff.ms": 1, "retry.backoff.max.ms": 5, "linger.ms": 0}
_TIMEOUT_S = 30
_BATCH = Settings().batch_records_max
#: Records that wait for a shard, beyond which none are fetched.
_WAITING_MAX = Settings().mailbox_records_max

Balances = dict[bytes, tuple[int, int]]


class BareShard:
    """One partition: its balances with their versions, its producer, and the thread that commits."""

    def __init__(self, brokers: str, name: str, partition: int, freed: threading.Event) -> None:
        self._freed = freed
        self.balances: Balances = {}
        self.busy = False
        self.pending: list[Message] = []
        self._tasks: queue.SimpleQueue[tuple[list[Any], int, object] | None] = queue.SimpleQueue()
        self._commands, self._events, self._partition = job.commands_of(name), job.events_of(name), partition
        self._producer = Producer(
            {"bootstrap.servers": brokers, "transactional.id": f"{name}.{partition}", **_SETTINGS}
        )
        self._producer.init_transactions(_TIMEOUT_S)
        self._seq = 0
        self._thread = threading.Thread(target=self._commit_all)
        self._thread.start()

    def decide(self, group: object) -> None:
        """Handle a batch and pass it to the thread that commits."""
        batch, self.pending = self.pending[:_BATCH], self.pending[_BATCH:]
        decode, encode, balances, seq = _decode, _encode, self.balances, self._seq
        topic, partition, source = self._events, self._partition, f"{self._commands}/{self._partition}/".encode()
        records: list[Any] = []
        for message in batch:
            key = message.key() or b""
            deposit = decode(message.value() or b"")
            balance, version = balances.get(key, (0, 0))
            balances[key] = balance + deposit.amount, version + 1
            cause = b"%b%d/" % (source, message.offset() or 0)
            value = encode(job.Deposited(amount=deposit.amount))
            headers = [(CAUSE, cause + b"0"), (SEQ, b"%d" % seq), (VERSION, b"%d" % version)]
            records.append((topic, value, key, partition, headers))
            seq += 1
            if (asked := message.headers()) is not None:
                records.append(_reply(dict(asked), cause, value))
        self._seq, self.busy = seq, True
        self._tasks.put((records, (batch[-1].offset() or 0) + 1, group))

    def end(self) -> None:
        """Commit what was decided, and end the thread."""
        self._tasks.put(None)
        self._thread.join()

    def _commit_all(self) -> None:
        producer, topic, partition = self._producer, self._commands, self._partition
        while (task := self._tasks.get()) is not None:
            records, next_offset, group = task
            producer.begin_transaction()
            produce = producer.produce
            for to, value, key, place, headers in records:
                produce(to, value, key, place, headers=headers)
            producer.send_offsets_to_transaction([TopicPartition(topic, partition, next_offset)], group, _TIMEOUT_S)
            producer.commit_transaction(_TIMEOUT_S)
            self.busy = False
            self._freed.set()


_decode = msgspec.msgpack.Decoder(job.Deposit).decode
_encode = msgspec.msgpack.Encoder().encode


def _reply(asked: dict[str, Any], cause: bytes, value: bytes) -> Any:
    topic, _, partition = asked[REPLY_TO].decode().rpartition("/")
    correlation = asked[CORRELATION_ID]
    return topic, value, correlation, int(partition), [(CAUSE, cause + b"1"), (CORRELATION_ID, correlation)]


def main(brokers: Annotated[str, typer.Argument()], name: Annotated[str, typer.Argument()]) -> None:
    """Handle the commands of the system ``name`` until SIGTERM."""
    calm_the_collector()  # As a worker process does.
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    freed = threading.Event()
    shards: dict[int, BareShard] = {}
    consumer = Consumer(
        {
            "bootstrap.servers": brokers, "group.id": name, "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "fetch.wait.max.ms": 100,
        }
    )  # fmt: skip

    def assigned(_consumer: Consumer, partitions: list[TopicPartition]) -> None:
        shards.update({each.partition: BareShard(brokers, name, each.partition, freed) for each in partitions})

    def revoked(_consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            shards.pop(each.partition).end()

    consumer.subscribe([job.commands_of(name)], on_assign=assigned, on_revoke=revoked)
    while not stopping.is_set():
        if sum(len(shard.pending) for shard in shards.values()) > _WAITING_MAX:
            freed.wait(0.05)
            messages = []
        else:
            waits = any(shard.busy for shard in shards.values())
            first = consumer.poll(0.0005 if waits else 0.05)
            messages = [first, *consumer.consume(_BATCH, 0)] if first else []
        freed.clear()
        for message in messages:
            assert message.error() is None, message.error()
            shards[message.partition() or 0].pending.append(message)
        for shard in shards.values():
            if shard.pending and not shard.busy:
                shard.decide(consumer.consumer_group_metadata())
    for shard in shards.values():
        shard.end()
    consumer.close()


if __name__ == "__main__":
    typer.run(main)

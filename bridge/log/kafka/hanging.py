"""Hanging transactions: complete for their coordinator, open indefinitely for some of their partitions.

Kafka 4.1 to 4.3 take a partition that has no leader at the moment for a deleted one, and drop the markers that would
end a transaction there (``KRaftMetadataCache.getPartitionLeaderEndpoint``; KIP-664 describes what hangs then). A broker
that is its own controller does so after a kill, for every partition without another replica. The offset stays pending
and the records stay hidden; worse, the *next* commit of the same transactional id there would make aborted records
visible.

So a claim whose offset is still pending after it initialised its id reads the coordinator's decision
(``__transaction_state``), and its own producer ends the transaction before anything else:

- aborted: it writes to each of the partitions and to the offset, and aborts that; the markers end both;
- committed, and all its records are visible: it commits the pending offset;
- committed, and none of its records is visible: it aborts the whole. No reader has seen it, so its commands are
  handled again;
- committed, and only some of its records are visible: only an operator can repair that. The claim fails with a
  message that says so, and is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import KafkaConfig, logger
from repertory.bridge.log.kafka.messages import PARTITION_EOF, create_client
from repertory.bridge.log.record import TopicPartition

OFFSETS_TOPIC = "__consumer_offsets"
STATE_TOPIC = "__transaction_state"
#: Without a record for this long, a read of an internal topic fails.
READ_TIMEOUT_S = 10.0
#: How long one fetch waits for records.
WAIT_S = 0.1
BATCH_RECORDS = 1_000
#: How often it is checked whether a transaction's records are visible.
VISIBILITY_POLL_S = 0.5
#: The key of records that are written only to be aborted: compacted topics refuse a record without a key.
PLACEHOLDER = b"hanging-transaction"
#: Kafka's ``TransactionState``; the other states are not read.
_PREPARE_COMMIT, _PREPARE_ABORT = 2, 3
_FLEXIBLE_STATE = 1
_OFFSET_KEYS = (0, 1)


class NotMendedError(Exception):
    """The transaction could not be ended and was left as it is; the message says why."""


class TransactionOutcome(NamedTuple):
    """The coordinator's decision on an id's last transaction: its partitions, its begin and the decision (Unix ms)."""

    committed: bool
    partitions: frozenset[TopicPartition]
    decided_ms: int
    began_ms: int


class Hanging(NamedTuple):
    """The shard whose transaction hangs, its id, and the topics whose partitions only this shard writes to."""

    group: str
    shard: TopicPartition
    transactional_id: str
    own_topics: Collection[str]


def mend(hanging: Hanging, producer: Producer, admin: Admin, config: KafkaConfig) -> None:
    """End the transaction with the id's own initialised producer. Raises NotMendedError or KafkaException."""
    decided = _outcome(config, hanging.transactional_id)
    offset, written_ms = _pending_offset(config, hanging.group, hanging.shard)
    places = sorted(where for where in decided.partitions if where.topic != OFFSETS_TOPIC)
    commit = decided.committed
    if commit:
        if not decided.began_ms <= written_ms <= decided.decided_ms:
            raise NotMendedError("the pending offset is not that of the last transaction")
        commit = _is_readable(hanging, places, admin, config.settings.transaction_timeout_s)
    logger.warning(
        "%s: Kafka keeps a transaction of %s open on some partitions after its end; it is %s now as a whole",
        hanging.shard,
        hanging.transactional_id,
        "committed" if commit else "aborted",
    )
    timeout_s = config.settings.transaction_timeout_s
    producer.begin_transaction()
    if not commit:
        for where in places:
            producer.produce(where.topic, None, PLACEHOLDER, where.partition)
        if producer.flush(timeout_s):
            raise NotMendedError(f"its partitions cannot be written to within {timeout_s:g} s")
    offsets = [KafkaPartition(hanging.shard.topic, hanging.shard.partition, offset)]
    producer.send_offsets_to_transaction(offsets, admin.no_member_metadata(hanging.group), timeout_s)
    (producer.commit_transaction if commit else producer.abort_transaction)(timeout_s)


def _is_readable(hanging: Hanging, places: Collection[TopicPartition], admin: Admin, timeout_s: float) -> bool:
    """Return whether all records of a committed transaction can be read. Raises NotMendedError if only some can.

    Records may be hidden by open transactions of others, so it waits for as long as those may stay open.
    """
    ends = admin.ends(places)
    deadline_s = time.monotonic() + timeout_s + VISIBILITY_POLL_S
    while hidden := {where for where in places if admin.stable_end(where) < ends[where]}:
        if time.monotonic() > deadline_s:
            break
        time.sleep(VISIBILITY_POLL_S)
    if hidden and (len(hidden) < len(places) or not any(where.topic in hanging.own_topics for where in hidden)):
        raise NotMendedError(f"it was committed, and {', '.join(map(str, sorted(hidden)))} cannot be read to the end")
    return not hidden


def _outcome(config: KafkaConfig, transactional_id: str) -> TransactionOutcome:
    """Read the coordinator's last decision."""
    found = None
    for message in _read(config, STATE_TOPIC, transactional_id):
        key, value = message.key(), message.value()
        if isinstance(key, bytes) and isinstance(value, bytes) and _Fields(key).transactional_id() == transactional_id:
            found = _Fields(value).outcome() or found
    if found is None:
        raise NotMendedError(f"{STATE_TOPIC} has no decision on {transactional_id}")
    return found


def _pending_offset(config: KafkaConfig, group: str, shard: TopicPartition) -> tuple[int, int]:
    """Read the last offset that a group has for a shard, committed or not, and when it was written (Unix ms)."""
    found = None
    for message in _read(config, OFFSETS_TOPIC, group):
        key, value = message.key(), message.value()
        if isinstance(key, bytes) and isinstance(value, bytes) and _Fields(key).group_and_shard() == (group, shard):
            found = _Fields(value).offset(), message.timestamp()[1]
    if found is None:
        raise NotMendedError(f"{OFFSETS_TOPIC} has no offset of {group} for {shard}")
    return found


def _read(config: KafkaConfig, topic: str, name: str) -> Iterator[Message]:
    """Yield all records, also uncommitted ones, of the partition of an internal topic that belongs to a name."""
    consumer = create_client(Consumer, config.uncommitted(config.lines()))
    try:
        known = consumer.list_topics(topic, READ_TIMEOUT_S).topics[topic]
        if known.error is not None:
            raise NotMendedError(f"{topic} cannot be read: {known.error.str()}")
        where = KafkaPartition(topic, _abs_hash(name) % len(known.partitions))
        where.offset, _ = consumer.get_watermark_offsets(where, READ_TIMEOUT_S)
        consumer.assign([where])
        quiet_at_s = time.monotonic() + READ_TIMEOUT_S
        while time.monotonic() < quiet_at_s:
            for message in consumer.consume(BATCH_RECORDS, WAIT_S):
                error = message.error()
                if error is None:
                    quiet_at_s = time.monotonic() + READ_TIMEOUT_S
                    yield message
                elif error.code() == PARTITION_EOF:
                    return
                elif not error.retriable():
                    raise NotMendedError(f"{topic} cannot be read: {error.str()}")
        raise NotMendedError(f"{topic} could not be read to its end: no record arrived for {READ_TIMEOUT_S:g} s")
    finally:
        consumer.close()


def _abs_hash(name: str) -> int:
    """Hash a name as Kafka's ``Utils.abs(name.hashCode())`` does, to find its partition in an internal topic."""
    hashed = 0
    units = name.encode("utf-16-be")
    for at in range(0, len(units), 2):
        hashed = (31 * hashed + int.from_bytes(units[at : at + 2])) & 0xFFFFFFFF
    signed = hashed - (hashed >> 31 << 32)
    return abs(signed) if signed != -(1 << 31) else 0


class _Fields:
    """Reads records of Kafka's internal topics, field by field (``TransactionLogKey.json`` and similar).

    A record that is too short raises NotMendedError. One of an unknown version gives None, or raises NotMendedError
    where it is needed.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._version = self._number(2)

    def transactional_id(self) -> str | None:
        """Return the transactional id of a record of ``__transaction_state``, None for an unknown version."""
        return self._text() if self._version == 0 else None

    def outcome(self) -> TransactionOutcome | None:
        """Return the decision in a record of ``__transaction_state``, None if it holds none."""
        if self._version > _FLEXIBLE_STATE:
            raise NotMendedError(f"{STATE_TOPIC} has records of version {self._version}")
        flexible = self._version == _FLEXIBLE_STATE
        self._at += 8 + 2 + 4  # producer id, epoch, timeout; the flexible version's later fields are tagged, at its end
        status = self._number(1)
        if status not in (_PREPARE_COMMIT, _PREPARE_ABORT):
            return None
        partitions = set()
        for _ in range(self._length(flexible=flexible)):
            topic = self._compact_text() if flexible else self._text()
            count = self._length(flexible=flexible)
            partitions |= {TopicPartition(topic, self._number(4)) for _ in range(count)}
            if flexible:
                self._tags()
        decided_ms, began_ms = self._number(8), self._number(8)
        return TransactionOutcome(status == _PREPARE_COMMIT, frozenset(partitions), decided_ms, began_ms)

    def group_and_shard(self) -> tuple[str, TopicPartition] | None:
        """Return group and partition of a record of ``__consumer_offsets``, None if it holds no offset."""
        if self._version not in _OFFSET_KEYS:
            return None
        return self._text(), TopicPartition(self._text(), self._number(4))

    def offset(self) -> int:
        """Return the offset in a record of ``__consumer_offsets``: the first field in every version."""
        return self._number(8)

    def _number(self, size: int) -> int:
        piece = self._piece(size)
        return int.from_bytes(piece, signed=True)

    def _piece(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise NotMendedError("a record of an internal topic of Kafka is too short")
        self._at += size
        return piece

    def _text(self) -> str:
        return self._piece(self._number(2)).decode(errors="replace")

    def _compact_text(self) -> str:
        return self._piece(self._varint() - 1).decode(errors="replace")

    def _length(self, *, flexible: bool) -> int:
        return max(0, self._varint() - 1 if flexible else self._number(4))

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._piece(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def _tags(self) -> None:
        for _ in range(self._varint()):
            self._varint()
            self._piece(self._varint())

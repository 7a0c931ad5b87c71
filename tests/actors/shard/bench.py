"""A test bench for one shard: its topics are lists, its commits are appends, and tests can lose turns and memory."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from repertory import Backoff, Entity, Message, restart
from repertory.actors.context import Directory
from repertory.actors.entity import resolved
from repertory.actors.headers import Headers
from repertory.actors.shard.changelog import SHARD_KEY, ShardId, ShardRecord, StateRecord
from repertory.actors.shard.config import Limits, ShardConfig
from repertory.actors.shard.shard import Shard
from repertory.actors.shard.turn_result import TurnResult
from repertory.actors.wire import encode
from repertory.bridge.changelog_codec import decode_shard, decode_state
from repertory.bridge.codec import Codec
from repertory.bridge.log.port import Claimed, Replayed, Transaction
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.recovery import Recovery
from repertory.bridge.topics import replies_topic
from repertory.supervision.policy import Policy

SYSTEM = "t"
TIMESTAMP_MS = 1_700_000_000_000
#: A failed command is retried after exactly this time.
BACKOFF_MS = 100
POLICY = restart(backoff=Backoff(first_s=BACKOFF_MS / 1000, factor=1, jitter=0))
REPLY_TO: Headers = (("reply-to", b"t.replies/0"), ("correlation-id", b"c"))
NO_LIMIT_BYTES = 1 << 20


class Bench:
    """The log of one shard, and the running shard. ``now_ms`` is its clock; only the test changes it.

    ``extra_partitions`` are the partition counts of topics outside the system.
    """

    def __init__(
        self,
        entity: type[Entity],
        *,
        policy: Policy = POLICY,
        limits: Limits = Limits(),  # noqa: B008  frozen
        partitions: int = 1,
        partition: int = 0,
        others: Iterable[type[Entity]] = (),
        extra_partitions: dict[str, int] | None = None,
        owner: str = "",
    ) -> None:
        self.behaviour = resolved(entity)
        hosted = {entity, *others}
        self._counts = dict(extra_partitions or {})
        self._counts[replies_topic(SYSTEM)] = 8
        for each in hosted:
            self._counts[f"{SYSTEM}.{resolved(each).name}.commands"] = partitions
        self.codec = Codec(SYSTEM, self.behaviour, self._counts.get, input_bytes_max=1_048_588)
        directory = Directory(hosted.__contains__, self._counts.get, (extra_partitions or {}).__contains__)
        name = ShardId(self.behaviour.name, partition)
        self.config = ShardConfig(
            name, self.codec.commands, partitions, self.behaviour, policy, directory, limits, owner=owner
        )
        self.place = TopicPartition(self.codec.commands, partition)
        #: Records by topic, of all partitions.
        self.topics: defaultdict[str, list[Record]] = defaultdict(list)
        self.ends: defaultdict[str, int] = defaultdict(int)
        self.committed: int | None = None
        self.transactions: list[Transaction] = []
        self.low = 0
        self.now_ms = TIMESTAMP_MS
        self._position = 0
        self.shard = self.restored()

    # --- the log ----------------------------------------------------------------------------------------------

    def append(self, output: Output) -> int:
        """Append one record and return its offset."""
        offset = self.ends[output.topic]
        self.ends[output.topic] += 1
        self.topics[output.topic].append(
            Record(
                output.topic, output.partition, offset, output.key, output.value, output.headers, self.now_ms + offset
            )
        )
        return offset

    def tell(self, message: Message | bytes | None, key: str | bytes | None = "k", headers: Headers = ()) -> int:
        """Append a command (or raw bytes) to the shard's partition; return its offset."""
        data = message if isinstance(message, bytes | None) else encode(message)
        raw_key = key.encode() if isinstance(key, str) else key
        return self.append(Output(self.codec.commands, self.config.id.partition, raw_key, data, headers))

    def ask(self, message: Message, key: str = "k", *, correlation_id: str = "c") -> int:
        """Append an asked command; its answer goes to the first partition of the replies topic."""
        headers = (("reply-to", b"t.replies/0"), ("correlation-id", correlation_id.encode()))
        return self.tell(message, key, headers)

    def commit(self, result: TurnResult) -> None:
        """Commit a turn, and report it to the shard."""
        transaction = self.codec.encode(result)
        self.transactions.append(transaction)
        journal_offset = self.ends[self.codec.events]
        has_journaled = any(output.topic == self.codec.events for output in transaction.records)
        for output in transaction.records:
            self.append(output)
        for topic in {output.topic for output in transaction.records}:
            self.ends[topic] += 1  # The offset of Kafka's transaction marker.
        self.committed = transaction.next_offset
        self.shard.committed(result.first_seq, journal_offset if has_journaled else None)

    def compact(self, topic: str, *, drop: Callable[[Record], bool] = lambda _: True) -> None:
        """Keep the last record of each key, except the tombstones for which ``drop`` returns True."""
        records = self.topics[topic]
        last = {record.key: record.offset for record in records}
        self.topics[topic] = [
            record
            for record in records
            if last[record.key] == record.offset and (record.value is not None or not drop(record))
        ]

    # --- the shard --------------------------------------------------------------------------------------------

    def restored(self, *, batch: int = 1_000, refused: Mapping[int, str] = MappingProxyType({})) -> Shard:
        """Restore a shard from the log; Inconsistent if the log contradicts itself. ``refused``: see `Shard`."""
        codec = self.codec
        ends = {topic: self.ends[topic] for topic in codec.restored_topics}
        claimed = Claimed(self.place, self.committed, self.low, self.ends[codec.commands], ends)
        recovery = Recovery(self.config, codec, claimed)
        while (wanted := recovery.wanted) is not None:
            found = [
                record
                for record in self.topics[wanted.topic]
                if wanted.from_offset <= record.offset < wanted.to_offset
                and record.partition == self.config.id.partition
            ]
            batches = [found[at : at + batch] for at in range(0, len(found), batch)] or [[]]
            for number, records in enumerate(batches, 1):
                recovery.feed(Replayed(self.place, wanted.topic, records, complete=number == len(batches)))
        return Shard(self.config, recovery.recovered(), refused)

    def crash(self, *, batch: int = 1_000) -> None:
        """Lose the memory of the shard, and restore it."""
        self.shard = self.restored(batch=batch)
        self._position = self.shard.record.next

    def take_over(self, owner: str, deaths: Iterable[tuple[int, int]] = ()) -> TurnResult | None:
        """Restore the shard for ``owner``, whose memory has ``deaths``; return its takeover result, committed."""
        self.config = msgspec.structs.replace(self.config, owner=owner)
        self.crash()
        takeover_result = self.shard.takeover_result(deaths)
        if takeover_result is not None:
            self.commit(takeover_result)
        return takeover_result

    def fetch(self, records: int = 1_000_000) -> None:
        """Put the next commands into the mailbox until it is full."""
        for record in self.topics[self.codec.commands]:
            if record.offset >= self._position and records > 0 and not self.shard.mailbox.is_full():
                self.shard.offer([self.codec.decode(record)])
                self._position = record.offset + 1
                records -= 1

    def turn(self) -> TurnResult | None:
        """Decide a batch and commit it."""
        result = self.shard.decide(self.now_ms)
        if result is not None:
            self.commit(result)
        return result

    def lose_turn(self, *, batch: int = 1_000) -> None:
        """Decide a batch, lose it before the commit, and restore."""
        self.shard.decide(self.now_ms)
        self.crash(batch=batch)

    def run(self, turns: int = 1_000_000) -> Bench:
        """Fetch and decide until no command is ready now."""
        for _ in range(turns):
            self.fetch()
            if self.turn() is None:
                break
        return self

    def settle(self) -> Bench:
        """Run, and advance the clock to each retry, until no command is due without an operator."""
        self.run()
        while self.shard.failure is None and (due_ms := self.shard.stash.next_due_ms()) is not None:
            self.now_ms = max(self.now_ms, due_ms)
            self.run()
        return self

    # --- what a reader sees -----------------------------------------------------------------------------------

    def values(self, topic: str) -> list[Any]:
        """Return the values of a topic, each as a plain map."""
        return [msgspec.msgpack.decode(r.value) if r.value is not None else None for r in self.topics[topic]]

    @property
    def journal(self) -> list[Any]:
        """The events as plain maps, in order."""
        return self.values(self.codec.events)

    @property
    def replies(self) -> list[Any]:
        """The answers to clients."""
        return self.values("t.replies")

    @property
    def dead_letters(self) -> list[Record]:
        """The dead letters."""
        return self.topics["t.dead-letters"]

    def errors(self) -> list[str]:
        """Return the error types of the dead letters."""
        return [(record.header("error-type") or b"").decode() for record in self.dead_letters]

    @property
    def states(self) -> dict[str, StateRecord]:
        """The latest state record of each key."""
        found: dict[str, StateRecord] = {}
        for record in self.topics[self.codec.state]:
            key = (record.key or b"").decode()
            if key.startswith("\0"):
                continue
            if record.value is None:
                found.pop(key, None)
            else:
                found[key] = decode_state(record.value)
        return found

    @property
    def record(self) -> ShardRecord:
        """The latest shard record."""
        records = [record for record in self.topics[self.codec.state] if record.key == SHARD_KEY]
        return decode_shard(records[-1].value or b"")

    @property
    def outputs(self) -> Iterable[Record]:
        """Every record except the commands."""
        topics = [records for topic, records in self.topics.items() if topic != self.codec.commands]
        return itertools.chain.from_iterable(topics)

    def causes(self) -> list[bytes]:
        """Return the causes of all records that the shard wrote."""
        return [record.header("cause") or b"" for record in self.outputs]

"""The port: the interface of a log. Implemented by ``embedded/`` (SQLite) and ``kafka/``.

A :class:`Log` is one worker's view of the shards that it owns. A method that requests something slow returns at once,
and a :data:`LogEvent` from :meth:`Log.poll` answers it, so the loop never waits for one shard while another has work.
One thread calls a ``Log``; the log may use threads of its own.

The life of a shard as events (methods that the owner calls are in brackets)::

    Assigned ─(claim)─> Claimed ─(replay)*─> Replayed … Replayed(complete) ─(begin)─> Fetched …
                                       └─(commit | append)─> Committed | Aborted | OutputsRefused | Fenced
    Aborted, OutputsRefused: drop all state, then (claim) again     Fenced: drop all state, wait for Assigned
    Lost:    drop all state; the shard has no further events until it is Assigned again

After ``claim``, ``Lost``, ``Aborted``, ``OutputsRefused`` or ``Fenced`` no event of the time before it is delivered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from repertory.bridge.log.follower import Follower
from repertory.bridge.log.record import Output, Record, TopicPartition

# --- events ---------------------------------------------------------------------------------------------------


class Assigned(msgspec.Struct, frozen=True):
    """The group assigned this shard to the worker. Nothing of it has been read. The owner answers with ``claim``."""

    shard: TopicPartition


class Lost(msgspec.Struct, frozen=True):
    """The worker no longer owns the shard (revoked, or the membership is lost). Requests in progress are void."""

    shard: TopicPartition
    reason: str


class Claimed(msgspec.Struct, frozen=True):
    """From now on no earlier owner can write for this shard, and all that they committed is visible.

    ``committed`` is the group's next offset (None: never committed); ``start_offset`` and ``end_offset`` are the first
    offset that the commands partition still holds, and its end; ``ends`` gives for each topic named in ``claim`` the
    end of the shard's partition, including records that are not (yet) committed. A replay up to there is complete.
    ``ids`` gives the id of the commands topic and of each topic named; a topic that is created again has another id.
    """

    shard: TopicPartition
    committed: int | None
    start_offset: int
    end_offset: int
    ends: Mapping[str, int]
    ids: Mapping[str, str] = {}


class Replayed(msgspec.Struct, frozen=True):
    """Committed records that ``replay`` requested, in offset order; ``complete`` with the last of them."""

    shard: TopicPartition
    topic: str
    records: Sequence[Record]
    complete: bool


class Fetched(msgspec.Struct, frozen=True):
    """Committed records of the commands partition, in offset order, contiguous with those before."""

    shard: TopicPartition
    records: Sequence[Record]


class Committed(msgspec.Struct, frozen=True):
    """The shard's transaction or append is committed. ``first_offsets``: per topic, the offset of its first record."""

    shard: TopicPartition
    first_offsets: Mapping[str, int]


class Aborted(msgspec.Struct, frozen=True):
    """A claim, replay, fetch or commit in progress failed, or its outcome is unknown.

    The owner drops all state of the shard and claims again: the claim decides an unknown outcome. ``routine``: a normal
    consequence of a rebalance, not counted as a failure.
    """

    shard: TopicPartition
    reason: str
    routine: bool


class OutputsRefused(msgspec.Struct, frozen=True):
    """As ``Aborted``, because the log refuses at least one of ``outputs`` each time; the owner must not send it again.

    Unless ``all_refused``, a broker refused them together, and some may be innocent: the owner finds the guilty one by
    sending fewer. After an ``append``, other outputs may have been written.
    """

    shard: TopicPartition
    outputs: Sequence[Output]
    reason: str
    all_refused: bool


class Fenced(msgspec.Struct, frozen=True):
    """A later owner claimed the shard, or a coordinator's timeout had the same effect.

    The owner drops all state and waits. The log proves its membership by itself, and sends ``Assigned`` again if the
    shard still belongs to this worker.
    """

    shard: TopicPartition
    reason: str


#: Events of a shard that was assigned before.
ShardEvent = Lost | Claimed | Replayed | Fetched | Committed | Aborted | OutputsRefused | Fenced
LogEvent = Assigned | ShardEvent


class Transaction(msgspec.Struct, frozen=True):
    """What one shard commits atomically: ``records`` to append, and its next input offset, 0 or more.

    Records for a missing topic outside the group's own (``{group}.…``) are refused; those for another missing partition
    abort it. Above ``Settings.output_bytes_max`` each log has its own limit for the size of a record.
    """

    shard: TopicPartition
    next_offset: int
    records: Sequence[Output]


class Append(msgspec.Struct, frozen=True):
    """What one shard appends without a transaction: ``outputs``, and once those are acknowledged ``journal``.

    If an output is lost, all later outputs to the same partition are lost too; the same holds for the journal. So a
    crash leaves a part of the outputs and nothing of the journal, or all outputs and a part of the journal. Readers of
    the journal can tell which (``bridge.nontransactional``). The log commits the group's offset later by itself, and
    nothing depends on it.
    """

    shard: TopicPartition
    next_offset: int
    outputs: Sequence[Output]
    journal: Sequence[Output]


# --- the protocols --------------------------------------------------------------------------------------------


class Log(Protocol):
    """One worker's membership in the group that shares the shards.

    A request for a shard that the worker no longer owns is void: it has no answer, or ``Fenced``.
    """

    @property
    def is_member(self) -> bool:
        """Whether the worker has joined the group, and the group has assigned shards to it, or none."""

    @property
    def is_sure(self) -> bool:
        """Whether the group has confirmed the membership within half a session.

        Without that, others may soon have the shards, and nothing should begin that no transaction protects.
        """

    def poll(self, timeout_s: float) -> Sequence[LogEvent]:
        """Return the events since the last call; wait up to ``timeout_s`` if there are none.

        Returns early only with an event. Never blocks because of a single shard.

        Raises:
            LogUnavailable: the log has been out of reach for longer than the configured limit.
            SlotTaken: a live worker with the same node and slot exists. Do not restart.
        """

    def claim(self, shard: TopicPartition, topics: Sequence[str]) -> None:
        """Fence every earlier owner of an assigned shard. Answered by ``Claimed`` (or ``Aborted``, ``Fenced``).

        ``topics`` are those from which the owner restores the shard, always at partition ``shard.partition``. A topic
        that does not exist aborts the claim.
        """

    def replay(self, shard: TopicPartition, topic: str, from_offset: int, to_offset: int) -> None:
        """Read committed records of ``topic`` at the shard's partition, from one offset up to another.

        Answered by ``Replayed`` events. ``topic`` was named in ``claim`` and ``to_offset`` comes from ``Claimed.ends``.
        While an open transaction of another producer hides records below it, the replay waits, and the log reports
        that. One replay at a time.
        """

    def begin(self, shard: TopicPartition, next_offset: int) -> None:
        """Fetch commands from ``next_offset`` on. Called once per claim, after the replays."""

    def pause(self, shard: TopicPartition) -> None:
        """Fetch no more commands for now. Commands already fetched may still arrive. Idempotent."""

    def resume(self, shard: TopicPartition) -> None:
        """Undo ``pause``. Idempotent."""

    def commit(self, transaction: Transaction) -> None:
        """Commit atomically. Answered by ``Committed``, ``Aborted``, ``OutputsRefused`` or ``Fenced``. One at a time.

        Raises:
            LogUnavailable: the log cannot be written; nothing happened.
        """

    def append(self, append: Append) -> None:
        """Append in order, instead of a ``commit``, which has the same answers.

        Earlier owners need not be fenced: a log may still write an append after a later owner's claim.
        """

    def withdraw(self, topics: Sequence[str]) -> None:
        """Take no shards of these commands topics any more, and give back those that this worker has.

        Each of them is ``Lost``; the other members of the group that want the topic get it. For good: who wants the
        topics again joins anew.
        """

    def partition_count(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if it does not exist. Cached; renewed now and then by the log."""

    def close(self) -> None:
        """Finish or abort requests in progress within the configured time, give the shards back, leave the group."""

    def abandon(self) -> None:
        """Stop like a killed process, as far as a running process can: nothing is finished or given back.

        For tests and simulations, which then start another log for the same member.
        """


class Reader(Protocol):
    """Reads committed records, without a group and without ownership.

    ``bounds``, ``read`` and ``follow`` raise TopicMismatch, at the call, for a partition that does not exist.
    """

    def partition_count(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if the topic does not exist."""

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        """Return the ids of those of the topics that exist. One that is deleted and created again has another id."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset still held and the end of the committed records (no open transaction below it).

        The end may lag a little behind ``Committed``. ``read`` does not: it waits for records committed before it.
        """

    def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
        """Yield the committed records from an offset up to the end at the time of the call, then stop."""

    def follow(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """Yield committed records of several partitions from the given offsets on, as they are committed.

        Stops after ``timeout_s`` without a record; the records of a partition are in offset order.
        """

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """Return the next offset that a group committed, None if it never did."""

    def close(self) -> None:
        """Release all resources."""


class Appender(Protocol):
    """Appends records from outside a shard (clients). For one thread."""

    def append(self, outputs: Sequence[Output]) -> Sequence[int]:
        """Append durably and return the offsets, in order.

        Raises:
            Refused: the log takes none of the records, now or later (TopicMismatch: one of the partitions does not
                exist); nothing was appended.
            LogUnavailable: nothing was appended; a repetition may succeed.
            LogUnusable: nothing was appended.
            OutcomeUnknown: some or all records may have been appended.
        """

    def close(self) -> None:
        """Release all resources."""


class TopicSpec(msgspec.Struct, frozen=True):
    """A topic that the system needs. ``config`` is Kafka's (``cleanup.policy`` and so on)."""

    name: str
    partitions: int
    config: Mapping[str, str]


class Member(msgspec.Struct, frozen=True):
    """The identity of a worker: ``{node}/{slot}`` is its static membership within the group."""

    group: str
    node: str
    slot: int

    @property
    def system(self) -> str:
        """The system: its workers' group has its name, its other groups have names such as ``{system}.sources``."""
        return self.group.partition(".")[0]

    @property
    def instance_id(self) -> str:
        """The name by which the group recognises this slot across restarts."""
        return f"{self.group}/{self.node}/{self.slot}"


class MemberDescription(msgspec.Struct, frozen=True):
    """A member of a group as the log sees it, whatever application it is.

    ``instance_id``: that of `Member`, "" if it has none; ``client`` and ``host`` say where it runs; ``shards``: the
    partitions that the group has assigned to it.
    """

    instance_id: str
    client: str
    host: str
    shards: tuple[TopicPartition, ...]


class Backend(Protocol):
    """A log that a URL names; opens its ports."""

    url: str

    def topics(self) -> Mapping[str, int]:
        """Return every topic with its number of partitions; LogUnavailable within 10 s if it cannot be reached."""

    def ensure(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
        """Create the missing topics, check the partition counts of the others, and return the names of those created.

        The names are distinct and valid in Kafka. If one topic is refused, none is created.

        Raises:
            TopicMismatch: a count differs, or a topic is missing and cannot be created. The message names the topic.
        """

    def members(self, group: str) -> Sequence[MemberDescription]:
        """Return the members of a group that count as alive; a dead one may count for a session.

        Raises LogUnavailable if the log cannot be asked.
        """

    def log(self, member: Member, subscriptions: Sequence[str]) -> Log:
        """Join the group as ``member`` and share the partitions of the named commands topics."""

    def reader(self) -> Reader:
        """Open a reader."""

    def appender(self) -> Appender:
        """Open an appender."""

    def follower(self) -> Follower:
        """Open a follower."""

    def close(self) -> None:
        """Release all resources."""

"""The port: what the runtime asks of a log. Implemented by ``embedded.py`` (SQLite) and ``kafka/``.

A :class:`Log` is one worker's view of the shards that it owns. Everything that takes time is asked for by a
method that returns at once and answered by a :data:`LogEvent` from :meth:`Log.poll`, so the loop that calls it
never waits for one shard while another has work. One thread calls a ``Log``; it may use threads of its own.

The life of a shard, as events (methods that the owner calls are in brackets)::

    Assigned ─(claim)─> Claimed ─(replay)*─> Replayed … Replayed(complete) ─(begin)─> Fetched …
                                                           └─(commit | append)─> Committed | Aborted | Fenced
    Aborted: drop all state, then (claim) again        Fenced: drop all state, wait for Assigned
    Lost:    drop all state; nothing of this shard comes any more until it is Assigned again

After ``claim``, ``Lost``, ``Aborted`` or ``Fenced`` no event that belongs to the time before it is delivered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from repertory.bridge.log.record import Output, Record, TopicPartition

# --- errors: one class per reaction ---------------------------------------------------------------------------
#
#   LogError
#   ├── LogUnavailable      the log cannot be reached or used now: the worker exits, its supervisor retries
#   ├── SlotTaken           another live worker has this node and slot: exit, never restart
#   ├── InvalidSetting      a setting that is unknown or would break a promise: refuse to start
#   ├── TopicMismatch       a topic or partition is missing, cannot be made, or has another count: refuse
#   └── OutcomeUnknown      an append may or may not have happened: the caller decides


class LogError(Exception):
    """A log's refusal or failure; the message is one sentence that names what, where and the mend."""


class LogUnavailable(LogError):
    """The log cannot be reached or used now."""


class SlotTaken(LogError):
    """Another live worker has this node and slot."""


class InvalidSetting(LogError):
    """A setting that is unknown, or that would break a promise."""


class TopicMismatch(LogError):
    """A topic or partition is missing and cannot be made, or a topic has another number of partitions than the code."""


class OutcomeUnknown(LogError):
    """An append may or may not have happened."""

    def __init__(self, message: str, message_id: str | None = None) -> None:
        super().__init__(message)
        self.message_id = message_id


# --- events ---------------------------------------------------------------------------------------------------


class Assigned(msgspec.Struct, frozen=True):
    """The group gave this shard to us. Nothing of it has been read. The owner answers with ``claim``."""

    shard: TopicPartition


class Lost(msgspec.Struct, frozen=True):
    """The shard is no longer ours (revoked, or the membership is gone). What was under way is void."""

    shard: TopicPartition
    reason: str


class Claimed(msgspec.Struct, frozen=True):
    """From here on no predecessor can write for this shard, and all that it committed is visible.

    ``committed`` is the group's next offset (None: never committed); ``low`` and ``high`` are the first offset
    still held and the end of the commands partition; ``ends`` gives for each topic named in ``claim`` the end
    of the shard's partition, counting records that are not (yet) committed. A replay up to there is complete.
    """

    shard: TopicPartition
    committed: int | None
    start_offset: int
    end_offset: int
    ends: Mapping[str, int]


class Replayed(msgspec.Struct, frozen=True):
    """Committed records asked for by ``replay``, in offset order; ``complete`` with the last of them."""

    shard: TopicPartition
    topic: str
    records: Sequence[Record]
    complete: bool


class Fetched(msgspec.Struct, frozen=True):
    """Committed records of the commands partition, in offset order, contiguous with the ones before."""

    shard: TopicPartition
    records: Sequence[Record]


class Committed(msgspec.Struct, frozen=True):
    """The shard's transaction happened. ``first_offsets``: per topic, the offset of its first record."""

    shard: TopicPartition
    first_offsets: Mapping[str, int]


class Aborted(msgspec.Struct, frozen=True):
    """What was under way (claim, replay, fetch or commit) failed, or its outcome is unknown.

    The owner drops all state of the shard and claims again: the claim decides an unknown outcome.
    ``routine``: an ordinary consequence of a rebalance, not to be counted as a failure.
    """

    shard: TopicPartition
    reason: str
    routine: bool


class Fenced(msgspec.Struct, frozen=True):
    """A later owner claimed the shard, or a coordinator's timeout looked like it.

    The owner drops all state and waits. The log proves its membership by itself, and says ``Assigned`` again
    if the shard is still ours.
    """

    shard: TopicPartition
    reason: str


#: What concerns a shard that was assigned before.
ShardEvent = Lost | Claimed | Replayed | Fetched | Committed | Aborted | Fenced
LogEvent = Assigned | ShardEvent


class Transaction(msgspec.Struct, frozen=True):
    """What one shard wants to be true, all or nothing: ``records`` appended and its next input offset, 0 or more.

    Records for a partition that does not exist abort it. How large a record may be is the log's own affair, from
    ``Settings.output_bytes_max`` on.
    """

    shard: TopicPartition
    next_offset: int
    records: Sequence[Output]


class Append(msgspec.Struct, frozen=True):
    """What one shard wants to be true without a transaction: ``outputs``, and once those are acknowledged ``journal``.

    Of outputs to one partition those behind a lost one are lost too, and so of the journal: a crash leaves a part of
    the outputs and nothing of the journal, or all of the outputs and a part of the journal. Who reads the journal can
    tell (``bridge.nontransactional``). The group's offset follows by itself, and nothing rests on it.
    """

    shard: TopicPartition
    next_offset: int
    outputs: Sequence[Output]
    journal: Sequence[Output]


# --- the protocols --------------------------------------------------------------------------------------------


class Log(Protocol):
    """One worker's member of the group that shares the shards.

    What is asked of a shard that is not ours any more is void: nothing, or ``Fenced``, may answer it.
    """

    def poll(self, timeout_s: float) -> Sequence[LogEvent]:
        """Return what has happened since the last call; wait up to ``timeout_s`` if nothing has.

        Returns early only with an event. Never blocks for the sake of one shard.

        Raises:
            LogUnavailable: the log has been out of reach for longer than the configured limit.
            SlotTaken: a live worker with the same node and slot exists. Do not restart.
        """

    def claim(self, shard: TopicPartition, topics: Sequence[str]) -> None:
        """Shut out every earlier owner of an assigned shard, then say ``Claimed`` (or ``Aborted``, ``Fenced``).

        ``topics`` are those that the owner restores from, always at partition ``shard.partition``. One that does not
        exist aborts the claim.
        """

    def replay(self, shard: TopicPartition, topic: str, from_offset: int, to_offset: int) -> None:
        """Read committed records of ``topic`` at the shard's partition, from one offset up to another.

        Answered by ``Replayed`` events. ``topic`` was named in ``claim`` and ``to_offset`` comes from
        ``Claimed.ends``; while a foreign open transaction hides records below it the replay waits, and the log
        reports that. One replay at a time.
        """

    def begin(self, shard: TopicPartition, next_offset: int) -> None:
        """Let commands flow from ``next_offset`` on. Called once per claim, after the replays."""

    def pause(self, shard: TopicPartition) -> None:
        """Fetch no more for now. What was already fetched may still arrive. Idempotent."""

    def resume(self, shard: TopicPartition) -> None:
        """Undo ``pause``. Idempotent."""

    def commit(self, transaction: Transaction) -> None:
        """Do all of it or nothing, then say ``Committed``, ``Aborted`` or ``Fenced``. One at a time per shard.

        Raises:
            LogUnavailable: the log cannot be written; nothing happened.
        """

    def append(self, append: Append) -> None:
        """Do all of it in its order, then say ``Committed``, ``Aborted`` or ``Fenced``. Instead of a ``commit``.

        Earlier owners need not be shut out: a log may write what was asked for after a later claim.
        """

    def partition_count(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if there is no such topic. Cached; may ask the log once."""

    def close(self) -> None:
        """Finish or abort what is under way within the configured time, hand the shards back, and leave."""

    def abandon(self) -> None:
        """Stop as a killed process does, as far as a process that lives on can: nothing is finished or handed back.

        For tests and simulations, which start another log for the same member next.
        """


class Reader(Protocol):
    """Committed records, for anyone: no group, no ownership.

    ``bounds``, ``read`` and ``follow`` raise TopicMismatch, at the call, for a partition that does not exist.
    """

    def partition_count(self, topic: str) -> int | None:
        """Return a topic's number of partitions, None if there is no such topic."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset still held and the end of what is committed (no open transaction below it).

        The end may come a little after ``Committed``; ``read`` does not, it waits for what was committed before.
        """

    def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
        """Yield the committed records from an offset up to the end as it is at the call, then stop."""

    def follow(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """Yield committed records of several partitions from the given offsets on, as they come.

        Stops after ``timeout_s`` without one; offset order holds within a partition.
        """

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """Return the next offset that a group committed, None if it never did."""

    def close(self) -> None:
        """Release what it holds."""


class Appender(Protocol):
    """Appends from outside a shard (clients). One thread."""

    def append(self, outputs: Sequence[Output]) -> Sequence[int]:
        """Append durably and return the offsets, in order.

        Raises:
            TopicMismatch: one of the partitions does not exist; nothing was appended.
            LogUnavailable: nothing was appended.
            OutcomeUnknown: some or all may have been appended.
        """

    def close(self) -> None:
        """Release what it holds."""


class TopicSpec(msgspec.Struct, frozen=True):
    """A topic as the system needs it. ``config`` is Kafka's (``cleanup.policy`` and so on)."""

    name: str
    partitions: int
    config: Mapping[str, str]


class Member(msgspec.Struct, frozen=True):
    """Who a worker is: ``{node}/{slot}`` is its static identity within the group."""

    group: str
    node: str
    slot: int

    @property
    def instance_id(self) -> str:
        """The name under which the group knows this slot across restarts."""
        return f"{self.group}/{self.node}/{self.slot}"


class Backend(Protocol):
    """A log that a URL names: the door to its ports."""

    url: str

    def topics(self) -> Mapping[str, int]:
        """Return every topic with its number of partitions; LogUnavailable within 10 s if it cannot be reached."""

    def ensure(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
        """Make the missing topics, check the partition counts of the others, and return what was made.

        The names differ, and are such as Kafka takes. If one topic is refused, nothing is made.

        Raises:
            TopicMismatch: a count differs, or a topic is missing and may not be made. The sentence names it.
        """

    def log(self, member: Member, subscriptions: Sequence[str]) -> Log:
        """Join the group as ``member`` and share the partitions of the named commands topics."""

    def reader(self) -> Reader:
        """Open a reader."""

    def appender(self) -> Appender:
        """Open an appender."""

    def close(self) -> None:
        """Release what it holds."""

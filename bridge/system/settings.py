"""Every setting of the runtime, with unit, default and reason; the README's table is generated from this class."""

from __future__ import annotations

import msgspec

from repertory.actors.shard.config import AT_LEAST_ONCE, EXACTLY_ONCE

DELIVERIES = (EXACTLY_ONCE, AT_LEAST_ONCE)
#: In a seen record each cause takes at most 14 bytes, and Kafka's default limit for a record is a million bytes.
_SEEN_CAUSES_LIMIT = 50_000
#: A worker polls so often per session, however slow its handlers are: it proves its membership, and sees stop requests.
_POLLS_A_SESSION = 6


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Cannot change after the start. Times are in seconds (``_s``), sizes in bytes; other numbers count records."""

    #: Or "at-least-once": lower latency, but outputs of a shard may arrive twice; see "At least once". Change it only
    #: while no worker runs.
    delivery: str = "exactly-once"
    #: At least once, how many messages of each source partition a shard remembers by their cause, to drop those that
    #: arrive again (0.1 kB each). Eight times what one turn sends; at most 50,000, which fit in one record of the log.
    seen_causes_max: int = 10_000
    #: Commands that one transaction of a shard handles at most. Throughput levels off at 1,000 (measured). Slow
    #: handlers make it fewer: all shards of a worker together decide for a sixth of a session, then the worker polls.
    batch_records_max: int = 1_000
    #: Bytes after which a turn takes no further command: the outputs of its commands, and the states that they leave.
    #: A transaction has to be sent within ``transaction_timeout_s``.
    turn_bytes_max: int = 16_000_000
    #: Decoded commands in a shard's mailbox at which its partition is paused; it is resumed at half of them.
    mailbox_records_max: int = 4_000
    #: The same in bytes, as they were sent; records that are fetched together may exceed it.
    mailbox_bytes_max: int = 64_000_000
    #: How long an idle worker waits for records: the latency of a stop request.
    poll_timeout_s: float = 0.05
    #: Journal records after which an entity's unsnapshotted events force a snapshot: this bounds every recovery.
    snapshot_window_records: int = 20_000
    #: Stashed commands of one key at which the partition is paused.
    stash_per_key_max: int = 1_000
    #: Stashed commands of one shard at which the partition is paused.
    stash_per_shard_max: int = 10_000
    #: What happens to a command beyond those limits: True makes it a dead letter, False pauses the partition.
    dead_letter_overflow: bool = False
    #: Consecutive process deaths while one command is handled, after which the command becomes a dead letter.
    deaths_max: int = 3
    #: Largest key + value + headers that an entity may produce. Kafka's default topic limit is 1,048,588.
    output_bytes_max: int = 1_000_000
    #: Largest value that is decoded; a larger one is dead-lettered without being decoded.
    input_bytes_max: int = 1_048_588
    #: Deepest nesting that is decoded: deeper values would exhaust the stack (100,000 levels do).
    depth_max: int = 32
    #: A worker that sends no heartbeat for this long loses its shards; a handler may take longer. Kafka's
    #: ``session.timeout.ms``.
    session_timeout_s: float = 6.0
    #: An abandoned transaction hides later records for at most this long. Kafka's ``transaction.timeout.ms``.
    transaction_timeout_s: float = 10.0
    #: A worker whose log cannot be reached for this long exits, and its supervisor starts another.
    unavailable_timeout_s: float = 30.0
    #: How long a log may take for its first answer at start, before the error "cannot be reached".
    connect_timeout_s: float = 8.0
    #: How long a writer of the embedded log waits for another before it names the holder and gives up.
    lock_timeout_s: float = 10.0
    #: After SIGTERM a worker drains, commits and leaves within this time; then commits in flight are aborted.
    stop_timeout_s: float = 10.0
    #: A worker that answers no ping for this long is killed (SIGKILL) and restarted.
    ping_timeout_s: float = 15.0
    #: A handler that takes longer is considered hung: its stack is logged, its worker is killed and restarted, and this
    #: counts as a death of its command (``deaths_max``). A worker whose loop makes no progress for this long is killed
    #: and restarted, too.
    progress_timeout_s: float = 60.0
    #: Replication factor of topics that the runtime creates; -1 is the broker's default.
    replication_factor: int = -1

    @property
    def turns_max_s(self) -> float:
        """How long a worker's shards together may decide before the worker polls; one handler may take longer."""
        return self.session_timeout_s / _POLLS_A_SESSION

    @property
    def busy_s(self) -> float:
        """How long a worker can go without a poll: until its supervisor has killed it for a handler that hangs."""
        return self.progress_timeout_s + self.ping_timeout_s

    def __post_init__(self) -> None:
        """Refuse invalid limits and times."""
        if self.delivery not in DELIVERIES:
            raise ValueError(
                f"Settings: delivery must be {' or '.join(map(repr, DELIVERIES))}, not {self.delivery!r:.100}"
            )
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in ("delivery", "dead_letter_overflow") or (name == "replication_factor" and value == -1):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"Settings: {name} must be a number above 0, not {value!r}")
        if self.seen_causes_max > _SEEN_CAUSES_LIMIT:
            raise ValueError(
                f"Settings: seen_causes_max must be at most {_SEEN_CAUSES_LIMIT}, not {self.seen_causes_max}"
            )

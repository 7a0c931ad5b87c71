"""Every knob of the runtime, with unit, default and reason; the README's table is made from this class."""

from __future__ import annotations

import msgspec

from repertory.actors.shard.config import AT_LEAST_ONCE, EXACTLY_ONCE

DELIVERIES = (EXACTLY_ONCE, AT_LEAST_ONCE)
#: Their record takes 14 bytes each at worst, and Kafka's default limit of a record is a million.
_SEEN_CAUSES_LIMIT = 50_000
#: A worker polls so often in a session however slow its handlers are: to prove its membership, and to hear of a stop.
_POLLS_A_SESSION = 6


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Frozen at start. Times in seconds (``_s``), sizes in bytes, counts of records."""

    #: Or "at-least-once": lower latency, and what leaves a shard may come twice; see "At least once". Change it only
    #: while nothing runs.
    delivery: str = "exactly-once"
    #: At least once, how many messages of each source partition a shard remembers by their cause, to drop those that
    #: come again (0.1 kB each). Eight times what one turn sends; at most 50,000, which are one record of the log.
    seen_causes_max: int = 10_000
    #: Records that one transaction of a shard handles at most. 1,000 is where throughput levels off (measured). Fewer
    #: where handlers are slow: all shards of a worker together decide for a sixth of a session, then it polls again.
    batch_records_max: int = 1_000
    #: Bytes after which a turn takes no other command: what its commands write, and the states that they leave. A
    #: transaction has to be sent within ``transaction_timeout_s``.
    turn_bytes_max: int = 16_000_000
    #: Decoded commands that a shard holds before its partition is paused; resumed at half of it.
    mailbox_records_max: int = 4_000
    #: The same in bytes, as they were sent; what was fetched at once may be beyond it.
    mailbox_bytes_max: int = 64_000_000
    #: How long a worker waits for records when it has nothing to do: the latency of a stop request.
    poll_timeout_s: float = 0.05
    #: Journal records after which an entity's unsnapshotted events force a snapshot: bounds every restore.
    snapshot_window_records: int = 20_000
    #: Commands of one waiting or parked key that are kept before the partition pauses.
    stash_per_key_max: int = 1_000
    #: Commands that wait in one shard before the partition pauses.
    stash_per_shard_max: int = 10_000
    #: What comes when those bounds are reached: True makes it a dead letter, False pauses the partition.
    dead_letter_overflow: bool = False
    #: Processes in a row that may die while they handle one command; then it is a dead letter.
    deaths_max: int = 3
    #: Largest key + value + headers that an entity may produce. Kafka's default topic limit is 1,048,588.
    output_bytes_max: int = 1_000_000
    #: Largest value that is decoded at all; a larger one is dead-lettered unread.
    input_bytes_max: int = 1_048_588
    #: Nesting that is decoded at most: deeper bytes would exhaust the stack (100,000 levels do).
    depth_max: int = 32
    #: Without a sign of life for this long a worker's shards move; a handler may take longer. Kafka's
    #: ``session.timeout.ms``.
    session_timeout_s: float = 6.0
    #: An abandoned transaction hides later records for this long at most. Kafka's ``transaction.timeout.ms``.
    transaction_timeout_s: float = 10.0
    #: A worker whose log is out of reach for this long exits, and its supervisor starts another.
    unavailable_timeout_s: float = 30.0
    #: First answer of a log at start, before "cannot be reached".
    connect_timeout_s: float = 8.0
    #: How long a writer of the embedded log waits for another before it names the holder and gives up.
    lock_timeout_s: float = 10.0
    #: Drain, commit and leave within this time after SIGTERM; then what is under way is aborted.
    stop_timeout_s: float = 10.0
    #: A worker that answers no ping for this long is killed (SIGKILL) and restarted.
    ping_timeout_s: float = 15.0
    #: A handler that takes longer hangs: its stack is logged, its worker killed and restarted, and its command is one
    #: that kills (``deaths_max``). A worker whose loop makes no progress for this long is killed and restarted, too.
    progress_timeout_s: float = 60.0
    #: Replication of topics that the runtime makes; -1 leaves it to the broker's default.
    replication_factor: int = -1

    @property
    def turns_max_s(self) -> float:
        """How long a worker's shards together may decide before it polls again; one handler may take longer."""
        return self.session_timeout_s / _POLLS_A_SESSION

    @property
    def busy_s(self) -> float:
        """How long a worker may go without a poll: as one handler may take, until its supervisor has killed it."""
        return self.progress_timeout_s + self.ping_timeout_s

    def __post_init__(self) -> None:
        """Refuse bounds and times that are none."""
        if self.delivery not in DELIVERIES:
            raise ValueError(f"Settings: delivery is {' or '.join(map(repr, DELIVERIES))}, not {self.delivery!r:.100}")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in ("delivery", "dead_letter_overflow") or (name == "replication_factor" and value == -1):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"Settings: {name} is a number above 0, not {value!r}")
        if self.seen_causes_max > _SEEN_CAUSES_LIMIT:
            raise ValueError(f"Settings: seen_causes_max is at most {_SEEN_CAUSES_LIMIT}, not {self.seen_causes_max}")

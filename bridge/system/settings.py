"""Every setting of the runtime, with unit, default and reason; the README's table is generated from this class."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from repertory.actors.shard.config import AT_LEAST_ONCE, EXACTLY_ONCE

DELIVERIES = (EXACTLY_ONCE, AT_LEAST_ONCE)
#: In a seen record each cause takes at most 14 bytes, and Kafka's default limit for a record is a million bytes.
_SEEN_CAUSES_LIMIT = 50_000
#: Longer times would be a mistake of unit: milliseconds instead of seconds.
_TIME_MAX_S = 86_400
#: A worker polls so often per session, however slow its handlers are: it proves its membership, and sees stop requests.
_POLLS_A_SESSION = 6


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Cannot change after the start. Times are in seconds (``_s``), sizes in bytes; other numbers count records."""

    #: "exactly-once", or "at-least-once": lower latency, but outputs of a shard may arrive twice. See "At least once".
    #: Change it only while no worker runs.
    delivery: str = "exactly-once"
    #: At least once, how many messages of each source partition a shard remembers by their cause, to drop those that
    #: arrive again (0.1 kB each). Eight times what one turn sends; at most 50,000, which fit in one record of the log.
    seen_causes_max: int = 10_000
    #: Commands that one transaction of a shard handles at most. Only a backlog makes it so many: with 1,000, each takes
    #: five times the broker's work (measured). Slow handlers make it fewer: a turn ends after ``turn_time_max_s``, and
    #: all shards of a worker together decide for a sixth of a session, then the worker polls.
    batch_records_max: int = 30_000
    #: After a node went down, each of the next so many commands of its shards is handled in a transaction of its own,
    #: since it may have been the cause; then batches are no larger until all that was under way is handled.
    careful_records_max: int = 1_000
    #: How long a shard decides at most before it commits, so that answers do not wait for a batch of slow handlers; one
    #: handler may take longer. An idle shard commits at once, and what comes while a commit is under way is one batch.
    turn_time_max_s: float = 0.1
    #: Bytes after which a turn takes no further command: the outputs of its commands, and the states that they leave.
    #: A transaction has to be sent within ``transaction_timeout_s``.
    turn_bytes_max: int = 16_000_000
    #: Decoded commands that wait in a worker: each shard has an equal share, at which its partition is paused, and
    #: resumed at half of it. A small one takes 0.6 kB.
    mailbox_records_max: int = 200_000
    #: Bytes of a shard's waiting commands, as they were sent, at which its partition is paused as well; records that
    #: are fetched together may exceed it.
    mailbox_bytes_max: int = 64_000_000
    #: How long an idle worker waits for records: the latency of a stop request.
    poll_timeout_s: float = 0.05
    #: Journal records after which an entity's unsnapshotted events force a snapshot: this bounds every recovery. With
    #: more entities than half of them, a shard takes two for each entity: else nearly every command would write one.
    snapshot_window_records: int = 20_000
    #: Bytes of journal records beyond which many entities make this window no longer.
    snapshot_window_bytes_max: int = 256_000_000
    #: Stashed commands of one key at which the partition is paused.
    stash_per_key_max: int = 1_000
    #: Stashed commands of one shard at which the partition is paused.
    stash_per_shard_max: int = 10_000
    #: What happens to a command beyond the limits of the stash: true makes it a dead letter, false pauses the
    #: partition.
    dead_letter_overflow: bool = False
    #: Consecutive process deaths while one command is handled, after which the command becomes a dead letter.
    deaths_max: int = 3
    #: Largest key + value + headers that an entity may produce. Kafka's default topic limit is 1,048,588.
    output_bytes_max: int = 1_000_000
    #: Largest value that is decoded; a larger one is dead-lettered without being decoded.
    input_bytes_max: int = 1_048_588
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
    #: and restarted, too, and so is one in which an effect blocks the event loop with a sync call.
    progress_timeout_s: float = 60.0
    #: The longest ``timeout_s`` of an ask from outside. Shards keep the answers to asks without an id of their caller
    #: for this long, so that the client can ask again by itself.
    ask_timeout_max_s: float = 120.0
    #: How long a shard keeps the answer to an ask with an id, at least, unless it has too many.
    answers_kept_s: float = 86_400.0
    #: Answers of one shard; beyond that the one whose id was made first goes, and ids from before it are refused.
    answers_per_shard_max: int = 100_000
    #: An id that was made so far in the future, by the time of the log, is refused.
    ids_ahead_max_s: float = 300.0
    #: Timers of one key; one more is a failure of the handler.
    timers_per_key_max: int = 1_000
    #: Timers and delayed messages of one shard, which are in the memory of its worker; one more is a failure.
    timers_per_shard_max: int = 1_000_000
    #: How many that are due one turn sends, and how many effects it settles. Commands are handled between two turns.
    timers_per_turn_max: int = 100
    #: Effects that one worker runs at a time.
    effects_running_max: int = 100
    #: Effects of one shard that are not settled, which are in the memory of its worker; one more is a failure.
    effects_per_shard_max: int = 100_000
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
        """Refuse invalid values."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not FIELDS[name].allows(value):
                raise ValueError(f"Settings: {name} must be {FIELDS[name].allowed}, not {value!r:.100}")


class SettingField(NamedTuple):
    """What a setting may be. ``low`` and ``high`` bound a number; a time is above 0 and at most ``high``."""

    name: str
    kind: type
    low: int = 1
    high: int | None = None

    @property
    def allowed(self) -> str:
        """The values that it may have, in words, with their unit."""
        if self.kind is str:
            return " or ".join(f'"{delivery}"' for delivery in DELIVERIES)
        if self.kind is bool:
            return "true or false"
        if self.kind is float:
            return f"a number of seconds above 0, at most {self.high:,}"
        what = "a whole number of bytes" if "_bytes_" in self.name else "a whole number"
        default = "-1 (the broker's default) or " if self.name == "replication_factor" else ""
        return f"{default}{what} from {self.low}" + (" on" if self.high is None else f" to {self.high:,}")

    def allows(self, value: object) -> bool:
        """Return whether it may have a value."""
        if self.kind is str:
            return value in DELIVERIES
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if not isinstance(value, int | float if self.kind is float else int):
            return False
        if self.name == "replication_factor" and value == -1:
            return True
        return (0 if self.kind is float else self.low - 1) < value <= (math.inf if self.high is None else self.high)


_HIGH = {"seen_causes_max": _SEEN_CAUSES_LIMIT, "replication_factor": 32_767}


def _field(field: msgspec.structs.FieldInfo) -> SettingField:
    return SettingField(field.name, field.type, high=_TIME_MAX_S if field.type is float else _HIGH.get(field.name))


#: Every setting by its name, in the order of the class.
FIELDS: Mapping[str, SettingField] = {field.name: _field(field) for field in msgspec.structs.fields(Settings)}


def meanings() -> Mapping[str, str]:
    """Return what each setting means, from the comments above; empty where the source is not installed."""
    try:
        source = inspect.getsource(Settings)
    except OSError:
        return {}
    found = re.findall(r"((?:    #: .*\n)+)    (\w+): \w+ = ", source)
    return {name: " ".join(re.findall(r"#: (.*)", comment)) for comment, name in found}

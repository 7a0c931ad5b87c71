"""``ReadChangelog``: what a recovery has read of a shard's state topic, decoded and not checked yet."""

from __future__ import annotations

from collections.abc import Iterable

from repertory.actors.shard.changelog import (
    SEEN_KEY,
    SHARD_KEY,
    STASH_KEY,
    AnswerRecord,
    EffectRecord,
    SeenRecord,
    ShardRecord,
    StashedRecord,
    StateRecord,
    TellRecord,
    TimerRecord,
)
from repertory.actors.shard.changelog_digest import ChangelogDigest
from repertory.bridge import changelog_codec as wire
from repertory.bridge.journal import entity_key
from repertory.bridge.log.record import Record


class ReadChangelog:
    """Owned by its recovery, which adds all records and then takes the last one of each key."""

    def __init__(self) -> None:
        #: The last record of each key: what it superseded is not decoded.
        self.latest: dict[bytes | None, Record] = {}
        #: The state records by key, each with its version and seq.
        self.states: dict[str, tuple[StateRecord, int, int]] = {}
        self.seen: dict[str, SeenRecord] = {}
        self.stashed: dict[int, StashedRecord] = {}
        self.answers: dict[str, AnswerRecord] = {}
        self.owed: dict[str, TimerRecord | TellRecord] = {}
        self.effects: dict[str, EffectRecord] = {}
        self.digest = ChangelogDigest()
        #: The shard record, and when (epoch) it was written.
        self.record: ShardRecord | None = None
        self.recorded_ms = 0

    def add(self, records: Iterable[Record]) -> None:
        """Add the next records of the topic."""
        self.latest.update({record.key: record for record in records})

    def take(self, record: Record) -> None:
        """Decode a record; DecodeError if that is not possible."""
        if record.key == SHARD_KEY:
            self.record, self.recorded_ms = wire.decode_shard(record.value or b""), record.timestamp_ms
            return
        if record.key is not None and record.value is not None and record.key.startswith(b"\0"):
            key = record.key.decode("utf-8", "surrogateescape")
            self.digest.write(key, record.value)
            if record.key.startswith(SEEN_KEY):
                source = key.removeprefix(SEEN_KEY.decode())
                self.seen[source] = wire.decode_seen(record.value)
            elif wire.is_answer(record.key):
                self.answers[key] = wire.decode_answer(record.value)
            elif wire.is_owed(record.key):
                self.owed[key] = wire.decode_owed(key, record.value)
            elif wire.is_effect(record.key):
                self.effects[key] = wire.decode_effect(record.value)
            else:
                self.stashed[wire.stashed_offset(record)] = wire.decode_stashed(record.value)
        elif record.key is None or not (
            record.key.startswith(STASH_KEY)
            or wire.is_answer(record.key)
            or wire.is_owed(record.key)
            or wire.is_effect(record.key)
        ):
            key = entity_key(record)
            if record.value is not None:
                seq, version = record.position
                self.digest.write(key, record.value, seq)
                self.states[key] = (wire.decode_state(record.value), version, seq)

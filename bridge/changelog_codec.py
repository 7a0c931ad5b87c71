"""Decodes the records of a shard's changelog, its state topic, and tells their kinds by their keys."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from repertory.actors.shard.changelog import (
    ANSWER_KEY,
    AUTO_KEY,
    EFFECT_KEY,
    STASH_KEY,
    TELL_KEY,
    TIMER_KEY,
    AnswerRecord,
    ChangelogRecord,
    EffectRecord,
    SeenRecord,
    ShardRecord,
    StashedRecord,
    StateRecord,
    TellRecord,
    TimerRecord,
)
from repertory.actors.wire import DecodeError
from repertory.bridge.log.record import Record

#: Digits of the largest offset.
_OFFSET_DIGITS_MAX = 19

#: One decoder for all types: a decoder of a single type would accept records without a ``type`` field.
_decode_changelog_record = msgspec.msgpack.Decoder(
    ShardRecord | StateRecord | StashedRecord | SeenRecord | AnswerRecord | TimerRecord | TellRecord | EffectRecord
).decode

T = TypeVar("T", bound=ChangelogRecord)


def decode_shard(data: bytes) -> ShardRecord:
    """Decode a shard record; DecodeError for anything else."""
    return _changelog_record(ShardRecord, data)


def decode_state(data: bytes) -> StateRecord:
    """Decode a state record; DecodeError for anything else."""
    return _changelog_record(StateRecord, data)


def decode_stashed(data: bytes) -> StashedRecord:
    """Decode a stashed record; DecodeError for anything else."""
    return _changelog_record(StashedRecord, data)


def decode_seen(data: bytes) -> SeenRecord:
    """Decode a seen record; DecodeError for anything else."""
    seen = _changelog_record(SeenRecord, data)
    if len(seen.causes) % 2:
        raise DecodeError("its causes are not pairs of offset and index: their count is odd")
    return seen


def decode_answer(data: bytes) -> AnswerRecord:
    """Decode the record of an answer; DecodeError for anything else."""
    return _changelog_record(AnswerRecord, data)


def decode_owed(key: str, data: bytes) -> TimerRecord | TellRecord:
    """Decode the record of a timer or a delayed message, as its key says; DecodeError for anything else."""
    if key.startswith(TIMER_KEY):
        return _changelog_record(TimerRecord, data)
    return _changelog_record(TellRecord, data)


def decode_effect(data: bytes) -> EffectRecord:
    """Decode the record of an effect; DecodeError for anything else."""
    return _changelog_record(EffectRecord, data)


def is_effect(key: bytes) -> bool:
    """Return whether a key of a state topic is that of an effect."""
    return key.startswith(EFFECT_KEY.encode())


def is_owed(key: bytes) -> bool:
    """Return whether a key of a state topic is that of a timer or a delayed message."""
    return key.startswith((TIMER_KEY.encode(), TELL_KEY.encode()))


def is_answer(key: bytes) -> bool:
    """Return whether a key of a state topic is that of an answer."""
    return key.startswith((ANSWER_KEY.encode(), AUTO_KEY.encode()))


def is_stashed(record: Record) -> bool:
    """Return whether a record of a state topic is that of a stashed command, or its tombstone."""
    return record.key is not None and record.key.startswith(STASH_KEY)


def stashed_offset(record: Record) -> int:
    """Return the offset of the command in a stashed record, from the record's key; DecodeError if it has none."""
    prefix, _, offset = (record.key or b"").partition(b"/")
    if prefix + b"/" != STASH_KEY or not offset.isdigit() or len(offset) > _OFFSET_DIGITS_MAX:
        raise DecodeError(f"its key {record.key!r:.100} does not end with an offset")
    return int(offset)


def _changelog_record(kind: type[T], data: bytes) -> T:
    try:
        found = _decode_changelog_record(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"{error!s:.1000}") from error
    if not isinstance(found, kind):
        raise DecodeError(f"it is a {type(found).__name__}, not a {kind.__name__}")
    return found

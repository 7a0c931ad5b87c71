"""Bytes to meaning and back, for one entity's shards: Record -> Envelope, Effects -> Transaction.

Whatever the bytes are, decoding gives a letter: what cannot be decoded is an ``Undecodable``, which the shard
turns into a dead letter at its place in the order. Nothing raises out of here into the loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from repertory.actors.context import TAG_BYTES_MAX
from repertory.actors.entity import Behaviour
from repertory.actors.headers import Headers
from repertory.actors.message import Envelope, Sender, Undecodable
from repertory.actors.placement import checked_key, key_of, partition_of
from repertory.actors.shard.changelog import (
    CHANGELOG_INDEX,
    ChangelogEntry,
    SeenRecord,
    SeenWritten,
    ShardRecord,
    StashedRecord,
    StashedWritten,
    StateRecord,
)
from repertory.actors.shard.turn_result import DeadLettered, Journaled, Published, Replied, Told, TurnResult
from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.log.port import Append, Transaction
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.nontransactional import append_of, with_epoch

#: Longest error message in a header of a dead letter.
_REASON_CHARS_MAX = 1_000

#: Digits of the largest offset.
_OFFSET_DIGITS_MAX = 19

#: One decoder for all: alone, each would do without its ``type`` field.
_decode_changelog_record = msgspec.msgpack.Decoder(ShardRecord | StateRecord | StashedRecord | SeenRecord).decode


class Codec:
    """Owns both arrows for one entity of a system. Stateless but for its tables."""

    def __init__(
        self, system: str, behaviour: Behaviour, partition_count: Callable[[str], int | None], *, input_bytes_max: int
    ) -> None:
        self._system = system
        self._behaviour = behaviour
        self._partition_count = partition_count
        self._decode_message = behaviour.decoder.decode
        self._input_bytes_max = input_bytes_max
        self.commands = topics.commands_topic(system, behaviour.name)
        self.events = topics.events_topic(system, behaviour.name)
        self.state = topics.state_topic(system, behaviour.name)
        self.stash = topics.stash_topic(system, behaviour.name)
        self._replies = topics.replies_topic(system)
        self._dead_letters = topics.dead_letters_topic(system)

    @property
    def restored_topics(self) -> tuple[str, ...]:
        """The topics from which a shard is restored, in that order."""
        return (self.state, self.stash, self.events) if self._behaviour.journaled else (self.state, self.stash)

    # --- Record -> Envelope -----------------------------------------------------------------------------------

    def decode(self, record: Record) -> Envelope | Undecodable:
        """Return the letter that a record of the commands topic is."""
        sender, about, value = None, "", record.value
        try:
            if record.headers:
                sender, about = self._addresses(record.headers)
            if record.key is None:
                raise DecodeError("a command needs a key: that of its entity")
            if value is None:
                raise DecodeError("a command needs a value; this one is null")
            if len(value) > self._input_bytes_max:
                raise DecodeError(f"{len(value)} bytes, over input_bytes_max")
            key = key_of(record.key)
            message = self._decode_message(value)
        except ValueError as error:  # DecodeError, UnicodeDecodeError, a key that is none
            name = "DecodeError" if isinstance(error, UnicodeDecodeError) else type(error).__name__
            return Undecodable(
                record.offset, record.key, value, record.headers, record.timestamp_ms, name, str(error), sender
            )
        return Envelope(record.offset, key, message, value, record.headers, record.timestamp_ms, sender, about)

    def stashed_envelope(self, offset: int, record: StashedRecord) -> Envelope | Undecodable:
        """Return the letter of a command that waits, as it was when it came."""
        source = Record(
            self.commands, -1, offset, record.key.encode(), record.value, record.headers, record.timestamp_ms
        )
        return self.decode(source)

    def _addresses(self, headers: Headers) -> tuple[Sender | None, str]:
        """Return who asked, and what an answer is about; DecodeError for a ``reply-to`` that may not be used."""
        found = {name: value for name, value in headers if name in _ADDRESS_HEADERS}
        if not found:
            return None, ""
        for name in ("about", "correlation-id"):
            if len(found.get(name, b"")) > TAG_BYTES_MAX:
                raise DecodeError(f"header {name!r} has {len(found[name])} bytes, over {TAG_BYTES_MAX}")
        about = found.get("about", b"").decode()
        reply_to = found.get("reply-to")
        if reply_to is None:
            return None, about
        topic, _, partition = reply_to.decode().partition("/")
        correlation_id = found.get("correlation-id", b"").decode()
        if partition:
            count = self._partition_count(topic) if topic == self._replies else None
            if count is None or not _PARTITION.fullmatch(partition) or int(partition) >= count:
                raise DecodeError(f"reply-to {reply_to!r:.200} is no partition of {self._replies}")
            return Sender(topic, int(partition), None, correlation_id, about), about
        entity = topic.removeprefix(f"{self._system}.").removesuffix(".commands")
        is_ours = _ENTITY.fullmatch(entity) and topic == topics.commands_topic(self._system, entity)
        if not is_ours or self._partition_count(topic) is None:
            raise DecodeError(f"reply-to {reply_to!r:.200} is no commands topic of the system {self._system}")
        key = checked_key(found.get("reply-key", b"").decode())
        return Sender(topic, None, key, correlation_id, about), about

    # --- Effects -> Transaction -------------------------------------------------------------------------------

    def encode(self, result: TurnResult) -> Transaction:
        """Return a shard's turn as bytes: all of it, the shard record last."""
        partition = result.shard.partition
        prefix = f"{self.commands}/{partition}/"
        records = self._outputs(result, prefix)
        if result.record.epoch:  # At least once.
            records = with_epoch(records, self._dead_letters, result.record.epoch)
        last = CHANGELOG_INDEX + result.record.changelog - 1
        for index, entry in enumerate(result.changelog, last - len(result.changelog)):
            records.append(self._book(entry, partition, _cause(prefix, result.anchor, index)))
        cause = _cause(prefix, result.anchor, last)
        seq = ("seq", b"%d" % result.record.seq)
        records.append(
            Output(self.state, partition, topics.SHARD_KEY, encode_changelog_record(result.record), (cause, seq))
        )
        return Transaction(TopicPartition(self.commands, partition), result.record.next, records)

    def encode_nontransactional(self, result: TurnResult) -> Append:
        """Return a turn without a transaction as bytes: see ``bridge.nontransactional``."""
        partition, record = result.shard.partition, result.record
        assert result.nontransactional and not result.changelog, result.shard
        outputs = self._outputs(result, f"{self.commands}/{partition}/")
        shard = TopicPartition(self.commands, partition)
        return append_of(shard, with_epoch(outputs, self._dead_letters, record.epoch), self.events, record.next)

    def _outputs(self, result: TurnResult, prefix: str) -> list[Output]:
        """Return what the commands of a turn made."""
        partition = result.shard.partition
        records = []
        for output in result.outputs:
            cause = ("cause", f"{prefix}{output.offset}/{output.index}".encode())
            if isinstance(output, Journaled):
                headers = (cause, ("seq", b"%d" % output.seq), ("version", b"%d" % output.version))
                records.append(Output(self.events, partition, output.key.encode(), output.data, headers))
            else:
                records.append(self._output(output, partition, cause))
        return records

    def _output(self, output: Told | Published | Replied | DeadLettered, partition: int, cause: Header) -> Output:
        match output:
            case Told():
                return self._told(output, cause)
            case Published():
                key = None if output.key is None else output.key.encode()
                return Output(output.topic, self._placed(output.topic, key), key, output.data, (cause,))
            case Replied():
                return self._replied(output.to, output.data, cause)
            case DeadLettered():
                return self._dead_letter(output, partition, cause)

    def _told(self, output: Told, cause: Header) -> Output:
        topic = topics.commands_topic(self._system, output.entity)
        headers: Headers = (cause,)
        if output.reply_key is not None:
            headers = (
                cause,
                ("message-id", cause[1]),
                ("correlation-id", cause[1]),
                ("reply-to", self.commands.encode()),
                ("reply-key", output.reply_key.encode()),
            )
            if output.about:
                headers = (*headers, ("about", output.about.encode()))
        key = output.key.encode()
        return Output(topic, self._placed(topic, key), key, output.data, headers)

    def _replied(self, to: Sender, data: bytes, cause: Header) -> Output:
        headers: Headers = (cause, ("correlation-id", to.correlation_id.encode()))
        if to.about:
            headers = (*headers, ("about", to.about.encode()))
        if to.key is None:
            return Output(to.topic, to.partition or 0, to.correlation_id.encode(), data, headers)
        key = to.key.encode()
        return Output(to.topic, self._placed(to.topic, key), key, data, headers)

    def _dead_letter(self, output: DeadLettered, partition: int, cause: Header) -> Output:
        own = (
            cause,
            ("error-type", output.error.encode()),
            ("error-message", output.reason[:_REASON_CHARS_MAX].encode("utf-8", "backslashreplace")),
            ("attempts", b"%d" % output.attempts),
            ("source-topic", self.commands.encode()),
            ("source-partition", b"%d" % partition),
            ("source-offset", b"%d" % output.offset),
        )
        names = {"epoch", *(name for name, _ in own)}  # The epoch is of whoever made the command, as its cause is.
        kept = tuple((f"source-{name}" if name in names else name, value) for name, value in output.headers)
        return Output(self._dead_letters, 0, output.key, output.value, (*kept, *own))

    def _book(self, entry: ChangelogEntry, partition: int, cause: Header) -> Output:
        if isinstance(entry, SeenWritten):
            key = topics.SEEN_KEY + entry.source.encode()
            return Output(self.state, partition, key, encode_changelog_record(entry.record), (cause,))
        if isinstance(entry, StashedWritten):
            value = None if entry.record is None else encode_changelog_record(entry.record)
            return Output(self.stash, partition, b"%d" % entry.offset, value, (cause,))
        value = None if entry.record is None else encode_changelog_record(entry.record)
        headers = (cause, ("seq", b"%d" % entry.seq), ("version", b"%d" % entry.version))
        return Output(self.state, partition, entry.key.encode(), value, headers)

    def _placed(self, topic: str, key: bytes | None) -> int:
        count = self._partition_count(topic)
        assert count is not None, f"{topic} vanished while the system runs"
        return 0 if key is None else partition_of(key, count)


T = TypeVar("T")

#: What a `reply-to` may hold; the log is asked about no other names.
_PARTITION = re.compile(r"[0-9]{1,9}", re.ASCII)
_ENTITY = re.compile(r"[a-z0-9-]{1,100}")

Header = tuple[str, bytes]

_ADDRESS_HEADERS = frozenset({"reply-to", "reply-key", "correlation-id", "about"})

ChangelogRecord = ShardRecord | StateRecord | StashedRecord | SeenRecord

encode_changelog_record: Callable[[ChangelogRecord], bytes] = msgspec.msgpack.Encoder().encode


def _cause(prefix: str, offset: int, index: int) -> Header:
    return ("cause", f"{prefix}{offset}/{index}".encode())


def decode_shard(data: bytes) -> ShardRecord:
    """Return a shard record; DecodeError for anything else."""
    return _changelog_record(ShardRecord, data)


def decode_state(data: bytes) -> StateRecord:
    """Return a state record; DecodeError for anything else."""
    return _changelog_record(StateRecord, data)


def decode_stashed(data: bytes) -> StashedRecord:
    """Return a waiting record; DecodeError for anything else."""
    return _changelog_record(StashedRecord, data)


def decode_seen(data: bytes) -> SeenRecord:
    """Return a seen record; DecodeError for anything else."""
    seen = _changelog_record(SeenRecord, data)
    if len(seen.causes) % 2:
        raise DecodeError("its causes are no pairs")
    return seen


def stashed_offset(record: Record) -> int:
    """Return the offset of the command that a waiting record keeps: its key. DecodeError if that is none."""
    if record.key is None or not record.key.isdigit() or len(record.key) > _OFFSET_DIGITS_MAX:
        raise DecodeError(f"its key {record.key!r:.100} is no offset")
    return int(record.key)


def _changelog_record(kind: type[T], data: bytes) -> T:
    try:
        found = _decode_changelog_record(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"{error!s:.{_REASON_CHARS_MAX}}") from error
    if not isinstance(found, kind):
        raise DecodeError(f"it is a {type(found).__name__}, not a {kind.__name__}")
    return found

"""Encodes and decodes the records of one entity's shards: Record -> Envelope, TurnResult -> Transaction.

Decoding accepts any bytes: a command that cannot be decoded becomes an ``Undecodable``, which the shard turns into a
dead letter, in order with the other commands. No exception leaves `Codec.decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from repertory.actors import headers as names
from repertory.actors.context import OutputRefused
from repertory.actors.entity import Behaviour
from repertory.actors.headers import ABOUT, CAUSE, CORRELATION_ID, REPLY_KEY, REPLY_TO, SEQ, VERSION, Header, Headers
from repertory.actors.message import Envelope, Undecodable
from repertory.actors.placement import key_of, partition_of, spread
from repertory.actors.saga.inner import STEP_MARK
from repertory.actors.shard.changelog import (
    CHANGELOG_INDEX,
    SHARD_KEY,
    ChangelogEntry,
    StashedRecord,
    encode_changelog_record,
)
from repertory.actors.shard.turn_result import DeadLettered, Fired, Journaled, Published, Replied, Told, TurnResult
from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.addresses import Addresses
from repertory.bridge.log.port import Append, Transaction
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.nontransactional import append_of, with_epoch
from repertory.supervision.directive import qualified_name
from repertory.supervision.traceback_text import user_traceback

#: An error message in a header of a dead letter is cut to this length.
_REASON_CHARS_MAX = 1_000


class Codec:
    """Decodes commands and encodes turn results for one entity of a system. It has no mutable state."""

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
        self.dead_letters = topics.dead_letters_topic(system)
        self._addresses = Addresses(system, partition_count)

    @property
    def topics(self) -> Mapping[str, str]:
        """The topics that hold a shard of the entity, by their role."""
        own = {"commands": self.commands, "events": self.events, "state": self.state}
        return own if self._behaviour.journaled else {role: own[role] for role in own if role != "events"}

    @property
    def restored_topics(self) -> tuple[str, ...]:
        """The topics from which a shard is restored, in the order in which they are read."""
        return (self.state, self.events) if self._behaviour.journaled else (self.state,)

    # --- Record -> Envelope -----------------------------------------------------------------------------------

    def decode(self, record: Record) -> Envelope | Undecodable:
        """Decode a record of the commands topic; never raises."""
        sender, about, retry, timer, value, is_rejected = None, "", None, None, record.value, False
        is_retried = False
        try:
            if record.headers and (found := self._addresses.of(record)):
                retry = self._addresses.retry(found, record.offset)
                timer = self._addresses.timer(found)
                sender, about = self._addresses.sender(found)
                # A dead letter that is retried may have been asked by a saga; it is no answer to this one.
                is_rejected, is_retried = names.REJECTED in found, names.RETRY_OF in found
            if record.key is None:
                raise DecodeError("a command needs a key: that of its entity")
            key = key_of(record.key)
            if value is None:
                raise DecodeError("a command needs a value; this one is null")
            if (
                about
                and sender is None
                and not is_retried
                and (answer := self._behaviour.answer(about, value, rejected=is_rejected)) is not None
            ):
                return Envelope(
                    record.offset, key, answer, value, record.headers, record.timestamp_ms, None, about, retry, timer
                )
            if len(value) > self._input_bytes_max:
                raise DecodeError(f"{len(value)} bytes, over input_bytes_max")
            message = self._decode_message(value)
        except ValueError as error:  # DecodeError, UnicodeDecodeError, an invalid key
            name = "DecodeError" if isinstance(error, UnicodeDecodeError) else type(error).__name__
            return Undecodable(
                record.offset, record.key, value, record.headers, record.timestamp_ms, name, str(error), sender,
                user_traceback(error), retry, error.unknown if isinstance(error, DecodeError) else None,
                timer,
            )  # fmt: skip
        return Envelope(
            record.offset, key, message, value, record.headers, record.timestamp_ms, sender, about, retry, timer
        )

    def stashed_envelope(self, offset: int, record: StashedRecord) -> Envelope | Undecodable:
        """Return a stashed command exactly as it was first decoded."""
        source = Record(
            self.commands, -1, offset, record.key.encode(), record.value, record.headers, record.timestamp_ms
        )
        return msgspec.structs.replace(self.decode(source), retry=record.retry)

    # --- TurnResult -> Transaction ----------------------------------------------------------------------------

    def encode(self, result: TurnResult) -> Transaction:
        """Encode a turn result as one transaction; the shard record is its last record."""
        partition = result.shard.partition
        prefix = f"{self.commands}/{partition}/"
        records = self._outputs(result, prefix)
        if result.record.epoch:  # At least once.
            records = with_epoch(records, self.dead_letters, result.record.epoch)
        last = CHANGELOG_INDEX + result.record.changelog - 1
        for index, fired in enumerate(result.fired, first_fired(result)):
            records.append(self._fired(fired, prefix, _cause(prefix, result.anchor, index)))
        for index, entry in enumerate(result.changelog, last - len(result.changelog)):
            records.append(self._changelog_output(entry, partition, _cause(prefix, result.anchor, index)))
        cause = _cause(prefix, result.anchor, last)
        seq = (SEQ, b"%d" % result.record.seq)
        records.append(Output(self.state, partition, SHARD_KEY, encode_changelog_record(result.record), (cause, seq)))
        return Transaction(TopicPartition(self.commands, partition), result.record.next, records)

    def encode_nontransactional(self, result: TurnResult) -> Append:
        """Encode the result of a nontransactional turn; see ``bridge.nontransactional``."""
        partition, record = result.shard.partition, result.record
        assert result.nontransactional and not result.changelog, result.shard
        outputs = self._outputs(result, f"{self.commands}/{partition}/")
        shard = TopicPartition(self.commands, partition)
        return append_of(shard, with_epoch(outputs, self.dead_letters, record.epoch), self.events, record.next)

    def _outputs(self, result: TurnResult, prefix: str) -> list[Output]:
        """Return the outputs of a turn's commands."""
        partition, events, head = result.shard.partition, self.events, prefix.encode()
        records = []
        for output in result.outputs:
            cause = (CAUSE, b"%b%d/%d" % (head, output.offset, output.index))
            if isinstance(output, Journaled):
                headers = (cause, (SEQ, b"%d" % output.seq), (VERSION, b"%d" % output.version))
                records.append(Output(events, partition, output.key.encode(), output.data, headers))
            else:
                records.append(self._output(output, partition, cause, result.record.seq))
        return records

    def _output(
        self, output: Told | Published | Replied | DeadLettered, partition: int, cause: Header, seq: int
    ) -> Output:
        match output:
            case Told():
                return self._told(output, cause)
            case Published():
                key = None if output.key is None else output.key.encode()
                partition = (
                    self._placed(output.topic, cause[1], spread) if key is None else self._placed(output.topic, key)
                )
                return Output(output.topic, partition, key, output.data, (cause,))
            case Replied():
                return self._replied(output, partition, cause, seq)
            case DeadLettered():
                return self._dead_letter(output, partition, cause)

    def _told(self, output: Told, cause: Header) -> Output:
        topic = topics.commands_topic(self._system, output.entity)
        headers: Headers = (cause,)
        if output.reply_key is not None:
            headers = (
                cause,
                (names.MESSAGE_ID, cause[1]),
                (CORRELATION_ID, cause[1]),
                (REPLY_TO, self.commands.encode()),
                (REPLY_KEY, output.reply_key.encode()),
            )
            if output.about:
                headers = (*headers, (ABOUT, output.about.encode()))
        key = output.key.encode()
        return Output(topic, self._placed(topic, key), key, output.data, headers)

    def _fired(self, fired: Fired, prefix: str, cause: Header) -> Output:
        """Encode what was due. Only transactions write it, so it never comes twice and has no epoch."""
        because = (names.BECAUSE, f"{prefix}{fired.offset}/{fired.index}".encode())
        headers: Headers = (cause, because)
        if fired.timer is not None:
            headers = (cause, because, (names.TIMER, fired.timer.header()))
        if fired.effect:
            headers = (cause, because, (names.EFFECT, fired.effect.encode()))
            if fired.about:
                headers = (*headers, (ABOUT, fired.about.encode()))
            headers = (*headers, *_rejected(fired.about, rejected=fired.rejected))
        topic = self.commands if fired.entity is None else topics.commands_topic(self._system, fired.entity)
        key = fired.key.encode()
        if not fired.refused:
            return Output(topic, self._placed(topic, key), key, fired.data, headers)
        own = self._failure(cause, qualified_name(OutputRefused), fired.refused, 1)
        place = ((names.SOURCE_TOPIC, topic.encode()), (names.SOURCE_PARTITION, b"%d" % self._placed(topic, key)))
        return Output(self.dead_letters, 0, key, fired.data, (*headers[1:], *own, *place))

    def _replied(self, output: Replied, partition: int, cause: Header, seq: int) -> Output:
        """Encode an answer. A client is told the position too; ``seq`` is that of the turn."""
        to = output.to
        headers: Headers = (cause, (CORRELATION_ID, to.correlation_id.encode()))
        if to.about:
            headers = (*headers, (ABOUT, to.about.encode()))
        if to.key is None:
            if output.again:
                headers = (*headers, (names.AGAIN, b"1"))
            position = f"{self._behaviour.name}/{partition}/{seq if output.seq < 0 else output.seq}"
            headers = (*headers, (names.POSITION, position.encode()))
            return Output(to.topic, to.partition or 0, to.correlation_id.encode(), output.data, headers)
        key, headers = to.key.encode(), (*headers, *_rejected(to.about, rejected=output.rejected))
        return Output(to.topic, self._placed(to.topic, key), key, output.data, headers)

    def _dead_letter(self, output: DeadLettered, partition: int, cause: Header) -> Output:
        own: Headers = (
            *self._failure(cause, output.error, output.reason, output.attempts),
            (names.SOURCE_TOPIC, self.commands.encode()),
            (names.SOURCE_PARTITION, b"%d" % partition),
            (names.SOURCE_OFFSET, b"%d" % output.offset),
        )
        if output.traceback:
            own = (*own, (names.ERROR_TRACEBACK, output.traceback.encode()))
        kept = tuple((names.kept(name), value) for name, value in output.headers if name != names.RETRY_TO)
        return Output(self.dead_letters, 0, output.key, output.value, (*kept, *own))

    @staticmethod
    def _failure(cause: Header, error: str, reason: str, attempts: int) -> Headers:
        return (
            cause,
            (names.ERROR_TYPE, error.encode()),
            (names.ERROR_MESSAGE, reason[:_REASON_CHARS_MAX].encode("utf-8", "backslashreplace")),
            (names.ATTEMPTS, b"%d" % attempts),
        )

    def _changelog_output(self, entry: ChangelogEntry, partition: int, cause: Header) -> Output:
        headers: Headers = (cause,)
        if entry.version >= 0:
            headers = (cause, (SEQ, b"%d" % entry.seq), (VERSION, b"%d" % entry.version))
        return Output(self.state, partition, entry.key.encode(), entry.value, headers)

    def _placed(self, topic: str, key: bytes, place: Callable[[bytes, int], int] = partition_of) -> int:
        count = self._partition_count(topic)
        return 0 if count is None else place(key, count)  # The log refuses what is for a topic that is gone.


def _rejected(about: str, *, rejected: bool) -> Headers:
    """Return the header of an answer to a saga's step: whatever build reads it knows that nothing was applied."""
    return ((names.REJECTED, b"1"),) if rejected and about.startswith(STEP_MARK) else ()


def first_fired(result: TurnResult) -> int:
    """Return the index in the cause of the first of what was due; those of the changelog entries follow."""
    return CHANGELOG_INDEX + result.record.changelog - 1 - len(result.changelog) - len(result.fired)


def _cause(prefix: str, offset: int, index: int) -> Header:
    return (CAUSE, f"{prefix}{offset}/{index}".encode())

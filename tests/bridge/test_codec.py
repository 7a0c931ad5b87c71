"""The codec: any bytes decode to a delivery; turn results encode to the records of design section 7."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repertory import Command, Entity, Event, Message, Sender, command
from repertory.actors.control import CONTROL
from repertory.actors.entity import resolved
from repertory.actors.headers import Headers
from repertory.actors.message import Envelope, Undecodable, wire_name
from repertory.actors.placement import checked_key, murmur2, partition_of
from repertory.actors.shard.changelog import (
    CHANGELOG_INDEX,
    ShardId,
    ShardRecord,
    StashedRecord,
    StateRecord,
    encode_changelog_record,
    stash_entry,
    state_entry,
)
from repertory.actors.shard.turn_result import Counts, DeadLettered, Journaled, Published, Replied, Told, TurnResult
from repertory.actors.wire import DecodeError, MessageDecoder, check_depth, encode
from repertory.bridge.changelog_codec import decode_shard, decode_stashed, decode_state
from repertory.bridge.codec import Codec
from repertory.bridge.log.port import Transaction
from repertory.bridge.log.record import Record, TopicPartition
from tests.actors.domain import Account, Deposit, Deposited, Put, Split, Teller, Trip, Withdraw

COUNTS = {"bank.account.commands": 4, "bank.teller.commands": 2, "bank.replies": 8, "outside": 3}
codec = Codec("bank", resolved(Account), COUNTS.get, input_bytes_max=2_000)
decoder = resolved(Account).decoder

integers = st.integers(-(2**63), 2**64 - 1)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Deposit, amount=integers),
    st.builds(Withdraw, amount=integers),
    st.builds(Split, amounts=st.lists(integers, max_size=4).map(tuple)),
    st.builds(Trip, times=integers, error=st.text(max_size=10)),
)
keys = st.text(min_size=1, max_size=60).filter(lambda key: "\0" not in key and len(key.encode()) < 256)


def command_record(value: bytes | None, key: bytes | None = b"k", headers: Headers = ()) -> Record:
    return Record("bank.account.commands", 1, 7, key, value, headers, 5)


# --- messages -------------------------------------------------------------------------------------------------


@given(messages)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    """An encoded message decodes to an equal value."""
    assert decoder.decode(encode(message)) == message


@given(messages)
def test_another_implementation_reads_what_we_write(message: Message) -> None:
    """The ``msgpack`` package sees one map: the wire name in ``type``, and the fields."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    assert msgpack.unpackb(encode(message)) == {"type": type(message).__name__, **plain}


@given(messages, st.randoms(), st.dictionaries(st.text(max_size=5).map("x".__add__), st.integers(0, 9), max_size=3))
def test_we_read_what_another_implementation_writes(message: Message, chance: Any, more: dict[str, int]) -> None:
    """Fields may be in any order, and additional fields of a newer sender are ignored."""
    items = [*msgpack.unpackb(encode(message)).items(), *more.items()]
    chance.shuffle(items)
    assert decoder.decode(msgpack.packb(dict(items))) == message


@pytest.mark.parametrize("value", [{"type": "Deposit", "amount": 1}, [1, 2], "text", {}])
def test_json_is_called_by_its_name(value: object) -> None:
    """A producer of another language that sends JSON reads what is wrong, and not what its bytes mean by chance."""
    data = json.dumps(value).encode()
    with pytest.raises(DecodeError, match=r"it is JSON, not MessagePack \(\d+ bytes\)"):
        decoder.decode(data)


def is_message_or_refused(data: bytes) -> Message | None:
    try:
        found = decoder.decode(data)
    except DecodeError as error:
        sentence = str(error).encode()
    else:
        assert type(found) in resolved(Account).handlers
        return found  # type: ignore[no-any-return]
    assert 0 < len(sentence) <= 1_100
    return None


def nested(head: bytes, depth: int) -> bytes:
    return b"\x82\xa4type\xa7Deposit\xa6amount" + head * depth + b"\x01"


BOMBS = [
    nested(b"\x91", 100_000),
    nested(b"\x81\xa1x", 100_000),
    nested(b"\xdc\x00\x01", 5_000),
    nested(b"\xdd\x00\x00\x00\x01", 5_000),
    nested(b"\xdf\x00\x00\x00\x01\xa1x", 5_000),
    b"\x91" * 100_000,
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff\xa1x",
    b"\x82\xa4type\xa7Deposit\xa6amount\xdb\xff\xff\xff\xff",
    b"\x82\xa4type\xa7Deposit\xa6amount\xc6\xff\xff\xff\xff\x00",
    b"\x82\xa4type\xa7Deposit\xa6amount\xc9\xff\xff\xff\xff\x05",
    b"\x82\xa4type\xa7Deposit\xa6amount\xd4\x05\x00",
    b"\x82\xa4type\xa7Deposit\xa6amount\xd6\xff\x00\x00\x00\x00",
    b"\x82\xa4type\xa7Deposit\xa6amount\xcb" + struct.pack(">d", float("nan")),
    b"\x82\xa4type\xa7Deposit\xa6amount\xcb" + struct.pack(">d", float("inf")),
    b"\x82\xa4type\xa7Deposit\xa6amount\xcb" + struct.pack(">d", 1e300),
    b"\x82\xa4type\xa2\xff\xfe\xa6amount\x01",
    b"\x82\xa4type\xa7Deposit\xa6\xff\xff\xff\xff\xff\xff\x01",
    b"\x81\xa6amount\x01",
    b"\x82\xa4type\xc0\xa6amount\x01",
    b"\x82\xa4type\x05\xa6amount\x01",
    b"\x82\xa4type\xa6\0never\xa5never\x01",
    b"\x81\xa4type\xa6\0never",
    b"\x82\xa4type\xa8Withdraw\xa4type\xa7Deposit",
    b"\x82\x01\x02\xc0\xc0",
    b"\x80", b"\xc1", b"\xc0", b"", b"\x01", b"\xa7Deposit",
    encode(Deposit(amount=1)) + b"\x00",
    encode(Put(item="x")),
    b"\x81\xa4type\xda\xff\xff" + b"n" * 65_535,
]  # fmt: skip


@pytest.mark.parametrize("data", BOMBS, ids=lambda data: data[:24].hex() or "nothing")
def test_hostile_bytes_are_a_decode_error(data: bytes) -> None:
    """Depth bombs, lengths beyond the end, ext types, bad UTF-8, NaN, foreign and unregistered types: all refused."""
    assert is_message_or_refused(data) is None


def test_a_repeated_field_is_the_last_one_and_breaks_nothing() -> None:
    """Duplicate keys in a map give a message of the registered types."""
    data = b"\x83\xa4type\xa7Deposit\xa6amount\x01\xa6amount\x02"
    assert is_message_or_refused(data) == Deposit(amount=2)


@pytest.mark.parametrize(
    ("amount", "fits"), [(2**64 - 1, True), (-(2**63), True), (2**64, False), (-(2**63) - 1, False)]
)
def test_integers_have_64_bits(amount: int, fits: bool) -> None:  # noqa: FBT001  a column of the table
    """Integers that MessagePack can represent come back; others are refused at the sender."""
    if fits:
        assert is_message_or_refused(encode(Deposit(amount=amount))) == Deposit(amount=amount)
    else:
        with pytest.raises(OverflowError):
            encode(Deposit(amount=amount))


@given(st.binary(max_size=300))
@settings(max_examples=500)
def test_arbitrary_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    """A decoder raises nothing but DecodeError."""
    is_message_or_refused(data)


@given(
    messages, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 3)
)
@settings(max_examples=1_000)
def test_a_damaged_message_is_a_message_or_a_decode_error(
    message: Message, damage: list[tuple[int, int]], cut: int
) -> None:
    """Bit flips and truncation of valid bytes give a message of the registered types, or DecodeError."""
    data = bytearray(encode(message))
    for position, value in damage:
        data[position % len(data)] = value
    is_message_or_refused(bytes(data[: len(data) - cut]))


plain_values = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=30,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0) if value else 0
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0) if value else 0
    return 0


@given(plain_values, st.integers(0, 45))
def test_depth_is_measured_exactly(value: object, wrapped: int) -> None:
    """Bytes are refused if and only if they nest deeper than the limit, whatever their strings contain."""
    for _ in range(wrapped):
        value = [value]
    data = msgpack.packb(value)
    if depth_of(value) > 32:
        with pytest.raises(DecodeError, match="nested deeper than 32"):
            check_depth(data)
    else:
        check_depth(data)


@given(st.binary(max_size=400), st.integers(0, 40))
def test_depth_of_any_bytes_is_bounded_before_they_are_decoded(data: bytes, depth_max: int) -> None:
    """Bytes that pass the check never raise RecursionError in the decoder; the check raises nothing but DecodeError."""
    try:
        check_depth(data, depth_max)
    except DecodeError:
        return
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, TypeError, ValueError):
        msgspec.msgpack.decode(data)


class Raises(Command):
    """A command whose constructor fails."""

    how: int = 0

    def __post_init__(self) -> None:
        """Raise an error that no decoder expects."""
        if self.how == 1:
            raise KeyError("x" * 5_000)
        if self.how == 2:
            raise Unprintable
        if self.how == 3:
            raise ValueError("\udc80")


class Unprintable(Exception):
    """An error that cannot be converted to text."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("how", [1, 2, 3])
def test_a_constructor_that_raises_is_a_decode_error(how: int) -> None:
    """User code in ``__post_init__`` may raise any error with any text."""
    with pytest.raises(DecodeError) as refused:
        MessageDecoder([Raises]).decode(msgpack.packb({"type": "Raises", "how": how}))
    assert len(str(refused.value).encode()) < 1_100


def test_a_single_registered_type_still_has_to_be_named() -> None:
    """A missing ``type`` is an error even if only one type is registered."""
    with pytest.raises(DecodeError):
        MessageDecoder([Deposit]).decode(msgpack.packb({"amount": 1}))


# --- deliveries -----------------------------------------------------------------------------------------------


@given(st.none() | st.binary(max_size=300), st.none() | st.binary(max_size=300),
       st.lists(st.tuples(st.sampled_from(["reply-to", "reply-key", "correlation-id", "about", "cause", "x"]),
                          st.binary(max_size=300) | st.sampled_from([b"bank.replies/0", b"bank.account.commands"])),
                max_size=5))  # fmt: skip
def test_any_record_is_a_delivery(value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes]]) -> None:
    """``decode`` never raises: it returns an Envelope, or an Undecodable that keeps every byte."""
    delivery = codec.decode(command_record(value, key, tuple(headers)))
    assert isinstance(delivery, Envelope | Undecodable)
    assert (delivery.offset, delivery.value, delivery.headers, delivery.timestamp_ms) == (7, value, tuple(headers), 5)
    if isinstance(delivery, Undecodable):
        assert delivery.key == key
        assert delivery.error
        assert delivery.reason


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, b"", "needs a key"),
        (b"k", None, "needs a value"),
        (b"", b"", "1 to 255 bytes"),
        (b"k" * 256, b"", "1 to 255 bytes"),
        (b"\0shard", b"", "no NUL"),
        (b"\xff", b"", "utf-8"),
        (b"k", b"x" * 2_001, "over input_bytes_max"),
        (b"k", b"", "truncated"),
    ],
)
def test_an_invalid_command_is_undecodable(key: bytes | None, value: bytes | None, reason: str) -> None:
    """A key has 1 to 255 bytes of UTF-8 without NUL, a value has a bounded size; other commands get a reason."""
    delivery = codec.decode(command_record(value, key, (("reply-to", b"bank.replies/3"), ("correlation-id", b"c"))))
    assert isinstance(delivery, Undecodable)
    assert reason in delivery.reason
    assert delivery.sender == Sender(topic="bank.replies", partition=3, correlation_id="c"), "the asker gets no reply"


@pytest.mark.parametrize(
    ("reply_to", "reply_key", "sender"),
    [
        (b"bank.replies/0", None, Sender(topic="bank.replies", partition=0, correlation_id="c", about="a")),
        (b"bank.replies/7", b"x", Sender(topic="bank.replies", partition=7, correlation_id="c", about="a")),
        (b"bank.teller.commands", b"t-1",
         Sender(topic="bank.teller.commands", key="t-1", correlation_id="c", about="a")),
        (b"bank.replies/8", None, None),
        (b"bank.replies/-1", None, None),
        (b"bank.replies/+1", None, None),
        (b"bank.replies/1_0", None, None),
        (b"bank.replies/" + "\u0661".encode(), None, None),
        (b"bank.replies/" + b"9" * 5_000, None, None),
        (b"bank.replies/", None, None),
        (b"bank.replies", b"x", None),
        (b"bank.account.events/0", None, None),
        (b"bank.account.events", b"x", None),
        (b"bank.teller.commands/0", b"x", None),
        (b"bank.teller.commands", None, None),
        (b"bank.teller.commands", b"\0", None),
        (b"bank.teller.commands", b"k" * 256, None),
        (b"bank.nobody.commands", b"x", None),
        (b"other.teller.commands", b"x", None),
        (b"bank..commands", b"x", None),
        (b"\xff", b"x", None),
    ],
)  # fmt: skip
def test_a_reply_goes_to_replies_or_to_an_entity_of_the_system(
    reply_to: bytes, reply_key: bytes | None, sender: Sender | None
) -> None:
    """``reply-to`` names a partition of the replies topic, or a commands topic with a key; else it is a dead letter."""
    headers: Headers = (("reply-to", reply_to), ("correlation-id", b"c"), ("about", b"a"))
    if reply_key is not None:
        headers = (*headers, ("reply-key", reply_key))
    delivery = codec.decode(command_record(encode(Deposit(amount=1)), headers=headers))
    assert delivery.sender == sender
    assert isinstance(delivery, Undecodable if sender is None else Envelope)


@pytest.mark.parametrize("name", ["correlation-id", "about"])
def test_headers_that_come_back_in_a_reply_are_bounded(name: str) -> None:
    """A reply contains the correlation id twice: without a limit the record could be too large for any log."""
    headers = (("reply-to", b"bank.replies/0"), (name, b"x" * 256))
    delivery = codec.decode(command_record(encode(Deposit(amount=1)), headers=headers))
    assert isinstance(delivery, Undecodable)
    assert "over 255" in delivery.reason


def test_the_log_is_not_asked_about_foreign_topics() -> None:
    """Only names that a topic of this system could have are looked up."""
    asked: list[str] = []

    def count(topic: str) -> int | None:
        asked.append(topic)
        return COUNTS.get(topic)

    recording = Codec("bank", resolved(Account), count, input_bytes_max=2_000)
    for topic in (b"bank.a/b.commands", b"bank.\0.commands", "bank.é.commands".encode(), b"bank." + b"x" * 999, b"x"):
        delivery = recording.decode(command_record(b"", headers=(("reply-to", topic), ("reply-key", b"k"))))
        assert isinstance(delivery, Undecodable)
    assert asked == []


@given(messages, keys)
def test_a_stashed_command_decodes_as_it_did_at_first(message: Message, key: str) -> None:
    """From its stashed record a command comes back with message, key, sender and timestamp."""
    headers = (("reply-to", b"bank.replies/1"), ("correlation-id", b"c"), ("about", b"x"))
    delivery = codec.decode(command_record(encode(message), key.encode(), headers))
    assert isinstance(delivery, Envelope)
    record = StashedRecord(key=key, value=delivery.value, headers=delivery.headers, timestamp_ms=5)
    assert codec.stashed_envelope(7, decode_stashed(encode_changelog_record(record))) == delivery


# --- changelog records ----------------------------------------------------------------------------------------

small = st.integers(0, 2**40)
shard_records = st.builds(ShardRecord, next=small, seq=small, tail_start=small, tail_offset=small, changelog=small)
state_records = st.builds(
    StateRecord, snapshot=st.none() | st.binary(max_size=30), ended=st.booleans(), stashed=small,
    restarts_ms=st.lists(small, max_size=3).map(tuple),
)  # fmt: skip
stashed_records = st.builds(
    StashedRecord,
    key=keys, value=st.binary(max_size=30),
    headers=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5))).map(tuple),
    timestamp_ms=small, attempt=small.map((1).__add__), due_ms=small,
    parked=st.booleans(), error=st.text(max_size=5), reason=st.text(max_size=5),
)  # fmt: skip


@given(shard_records, state_records, stashed_records)
def test_changelog_records_come_back_as_they_were(
    shard: ShardRecord, state: StateRecord, stashed: StashedRecord
) -> None:
    """Shard, state and stashed records decode to equal values."""
    assert decode_shard(encode_changelog_record(shard)) == shard
    assert decode_state(encode_changelog_record(state)) == state
    assert decode_stashed(encode_changelog_record(stashed)) == stashed


@given(st.binary(max_size=100))
@example(b"\x91" * 100_000)
@example(encode_changelog_record(StateRecord())[:-1])
@example(msgpack.packb({"type": "State", "more": 1}))
def test_an_invalid_changelog_record_is_a_decode_error(data: bytes) -> None:
    """A record of a state or stash topic decodes, or is a DecodeError; unknown fields are refused."""
    for decode in (decode_shard, decode_state, decode_stashed):
        with pytest.raises(DecodeError):
            decode(data)


# --- transactions ---------------------------------------------------------------------------------------------


def encoded(*outputs: Any, changelog: Any = (), anchor: int = 9) -> Transaction:
    record = ShardRecord(next=10, seq=6, tail_start=4, tail_offset=3, changelog=20 + len(changelog) + 1)
    return codec.encode(
        TurnResult(ShardId("account", 2), list(outputs), list(changelog), record, anchor, 5, Counts(), [])
    )


def test_the_headers_are_those_of_the_design() -> None:
    """Each kind of record has its topic, partition, key, value and headers (design, section 7)."""
    client = Sender(topic="bank.replies", partition=5, correlation_id="c", about="x")
    entity = Sender(topic="bank.teller.commands", key="t-1", correlation_id="m", about="y")
    data = encode(Deposited(amount=1))
    transaction = encoded(
        Journaled("k", data, 3, 5, 9, 0),
        Told("teller", "t-2", data, 9, 1),
        Told("teller", "t-2", data, 9, 2, "k", "debit"),
        Published("outside", "p", data, 9, 3),
        Published("outside", None, data, 9, 4),
        Replied(client, data, 9, 5),
        Replied(entity, data, 9, 6),
        DeadLettered(b"raw", b"?", (("cause", b"c"), ("x", b"1")), "Broken", "it broke", 2, 8, 0),
        changelog=[
            state_entry("k", StateRecord(snapshot=b"\x80"), 3, 5),
            state_entry("gone", None, 0, 4),
            stash_entry(8, StashedRecord(key="w", value=b"", headers=(), timestamp_ms=1)),
            stash_entry(7, None),
        ],
    )
    assert (transaction.shard, transaction.next_offset) == (TopicPartition("bank.account.commands", 2), 10)
    here = "bank.account.commands/2/"

    def cause(offset: int, index: int) -> tuple[str, bytes]:
        return ("cause", f"{here}{offset}/{index}".encode())

    teller = partition_of(b"t-2", 2)
    asked = cause(9, 2)
    found = [(r.topic, r.partition, r.key, r.headers) for r in transaction.records]
    assert found == [
        ("bank.account.events", 2, b"k", (cause(9, 0), ("seq", b"5"), ("version", b"3"))),
        ("bank.teller.commands", teller, b"t-2", (cause(9, 1),)),
        ("bank.teller.commands", teller, b"t-2", (
            asked, ("message-id", asked[1]), ("correlation-id", asked[1]),
            ("reply-to", b"bank.account.commands"), ("reply-key", b"k"), ("about", b"debit"))),
        ("outside", partition_of(b"p", 3), b"p", (cause(9, 3),)),
        ("outside", partition_of(f"{here}9/4".encode(), 3), None, (cause(9, 4),)),
        ("bank.replies", 5, b"c",
         (cause(9, 5), ("correlation-id", b"c"), ("about", b"x"), ("position", b"account/2/6"))),
        ("bank.teller.commands", partition_of(b"t-1", 2), b"t-1",
         (cause(9, 6), ("correlation-id", b"m"), ("about", b"y"))),
        ("bank.dead-letters", 0, b"raw", (
            ("source-cause", b"c"), ("x", b"1"), cause(8, 0), ("error-type", b"Broken"), ("error-message", b"it broke"),
            ("attempts", b"2"), ("source-topic", b"bank.account.commands"), ("source-partition", b"2"),
            ("source-offset", b"8"))),
        ("bank.account.state", 2, b"k", (cause(9, CHANGELOG_INDEX + 20), ("seq", b"5"), ("version", b"3"))),
        ("bank.account.state", 2, b"gone", (cause(9, CHANGELOG_INDEX + 21), ("seq", b"4"), ("version", b"0"))),
        ("bank.account.state", 2, b"\0stash/8", (cause(9, CHANGELOG_INDEX + 22),)),
        ("bank.account.state", 2, b"\0stash/7", (cause(9, CHANGELOG_INDEX + 23),)),
        ("bank.account.state", 2, b"\0shard", (cause(9, CHANGELOG_INDEX + 24), ("seq", b"6"))),
    ]  # fmt: skip
    assert [r.value is None for r in transaction.records].count(True) == 2


@given(keys, st.text(max_size=20))
def test_an_ask_and_its_answer_find_their_way(key: str, about: str) -> None:
    """An ask arrives with the address of the asker, and the answer returns to its key with what it is about."""
    (asked, _) = encoded(Told("teller", "t", encode(Deposited(amount=1)), 9, 0, key, about)).records
    teller = Codec("bank", resolved(Teller), COUNTS.get, input_bytes_max=2_000)
    delivery = teller.decode(Record(asked.topic, asked.partition, 3, asked.key, asked.value, asked.headers, 1))
    assert delivery.sender is not None
    (answer, _) = encoded(Replied(delivery.sender, encode(Deposit(amount=1)), 9, 1)).records
    assert (answer.topic, answer.key, answer.partition) == (
        "bank.account.commands", key.encode(), partition_of(key.encode(), 4),
    )  # fmt: skip
    back = codec.decode(Record(answer.topic, answer.partition, 4, answer.key, answer.value, answer.headers, 1))
    assert isinstance(back, Envelope)
    assert (back.about, back.sender) == (about, None)


@given(st.text(max_size=2_000), st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=9)), max_size=4))
def test_any_failure_makes_a_dead_letter(reason: str, headers: list[tuple[str, bytes]]) -> None:
    """A dead letter holds the raw bytes and all headers of the command, none mistaken for headers of the runtime."""
    (delivery, _) = encoded(DeadLettered(None, None, tuple(headers), "E", reason, 1, 8, 0)).records
    assert (delivery.key, delivery.value) == (None, None)
    assert len(delivery.headers) == len(headers) + 7
    assert [value for _, value in delivery.headers[: len(headers)]] == [value for _, value in headers]


# --- placement ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_are_placed_as_java_places_them(key: bytes, signed: int) -> None:
    """The golden vectors of Kafka's own ``UtilsTest.testMurmur2``."""
    (found,) = struct.unpack(">i", struct.pack(">I", murmur2(key)))
    assert found == signed
    assert partition_of(key, 7) == (signed & 0x7FFFFFFF) % 7


@given(st.text(max_size=300))
def test_a_key_has_1_to_255_bytes_and_no_nul(key: str) -> None:
    """``checked_key`` returns a valid key, and raises ValueError for any other."""
    if "\0" not in key and 1 <= len(key.encode()) <= 255:
        assert checked_key(key) == key
    else:
        with pytest.raises(ValueError, match="a key has 1 to 255 bytes"):
            checked_key(key)


class Renamed(Event, name="renamed-event"):
    """Has a wire name that differs from its class name."""


class Plain(Entity):
    """Takes one command."""

    @command
    def put(self, cmd: Put) -> None:
        return None


def test_the_type_field_holds_the_wire_name() -> None:
    """``name=`` overrides the class name; only registered types are built from a record."""
    assert msgpack.unpackb(encode(Renamed())) == {"type": "renamed-event"}
    assert set(resolved(Plain).decoder.types) - {wire_name(message) for message in CONTROL} == {"Put"}

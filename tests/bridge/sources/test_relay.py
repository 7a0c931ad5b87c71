"""From records of a foreign topic to commands and dead letters, and from a position and a topic to where it is read."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from repertory import Route, SourceRecord, route
from repertory.actors.headers import ERROR_TYPE, SOURCE, SOURCE_OFFSET, SOURCE_TOPIC
from repertory.actors.source import DecodeRecord
from repertory.bridge.log.follower import Surveyed
from repertory.bridge.log.record import Record
from repertory.bridge.sources import checks
from repertory.bridge.sources.definition import SourceDefinition
from repertory.bridge.sources.position import (
    ADOPT,
    RETRY,
    SKIP,
    SKIP_LOST,
    Positions,
    SourcePlace,
    SourcePosition,
    SourceRequest,
    SourceStop,
    encode_source,
)
from repertory.bridge.sources.relay import DEAD_LETTERS_MAX, Relayed, Routing, relay
from repertory.bridge.system.sourcing import routing_of
from repertory.bridge.topics import RELAYS
from tests.apps import fed
from tests.apps.fed import Book, Note

SYSTEM = fed.made("fed")
ROUTING = routing_of(SYSTEM)
PLACE = SourcePlace("lines", fed.TOPIC, 3)
SOURCE_OF = SYSTEM.sources["lines"]
START = SourcePosition(0, "id", 4)


def records(*values: bytes | None, first: int = 0) -> list[Record]:
    """Return records of the topic with these values."""
    return [
        Record(fed.TOPIC, 3, first + number, b"key", value, (("trace", b"7"),), 1_000)
        for number, value in enumerate(values)
    ]


def relayed(
    given: Sequence[Record],
    position: SourcePosition = START,
    *,
    decode: DecodeRecord = SOURCE_OF.decode,
    routing: Routing = ROUTING,
    most: int = 1_000_000,
    refused: dict[int, str] | None = None,
    stuck: dict[int, SourceStop] | None = None,
) -> Relayed:
    """Relay records, ``most`` at a time."""
    return relay(
        PLACE, decode, position, given, routing,
        refused=refused or {}, stuck=stuck or {},
        is_full=lambda found: found.records >= most, handling=lambda _: None, now_ms=5,
    )  # fmt: skip


def headers_of(found: Relayed) -> list[bytes | None]:
    """Return the header ``source`` of each output."""
    return [dict(output.headers).get(SOURCE) for output in found.outputs]


def test_each_command_names_its_record_and_its_index() -> None:
    """A command has the header ``source``, no cause, and goes to the partition of its key."""
    found = relayed(records(fed.line("ab"), fed.line("a")))
    assert headers_of(found) == [b"lines/3/0/0", b"lines/3/0/1", b"lines/3/1/0"]
    assert {output.topic for output in found.outputs} == {"fed.book.commands"}
    assert all(len(output.headers) == 1 for output in found.outputs)
    assert (found.position.next, found.position.stopped, found.records) == (2, None, 2)


def test_a_record_without_commands_is_passed() -> None:
    """None and an empty list mean that the record means nothing here."""
    found = relayed(records(fed.line("a", "none"), fed.line("")))
    assert (found.outputs, found.position.next) == ([], 2)


def test_a_value_error_makes_a_dead_letter_with_its_bytes() -> None:
    """ValueError and DecodeError: the record's key, bytes and headers are kept, and the source goes on."""
    found = relayed(records(fed.line("a", "value"), b"\xff no json", None, fed.line("a")))
    letters = found.outputs[:3]
    assert [letter.value for letter in letters] == [fed.line("a", "value"), b"\xff no json", None]
    assert all(letter.topic == "fed.dead-letters" and letter.key == b"key" for letter in letters)
    own = [dict(letter.headers) for letter in letters]
    assert [each[ERROR_TYPE] for each in own] == [
        b"ValueError",
        b"msgspec.DecodeError",
        b"repertory.actors.wire.DecodeError",
    ]
    assert own[1]["trace"] == b"7"
    assert (own[1][SOURCE_TOPIC], own[1][SOURCE_OFFSET], own[1][SOURCE]) == (fed.TOPIC.encode(), b"1", b"lines/3/1")
    assert headers_of(found)[3] == b"lines/3/3/0"
    assert (found.position.next, found.position.dead_letters) == (4, 0)


def test_json_that_is_nested_too_deeply_makes_a_dead_letter() -> None:
    """The record is wrong, and not the function: anybody could stop a partition with it."""
    deep = b'{"keys": ["a"], "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"

    def from_any(record: SourceRecord) -> Route:
        record.json()
        raise AssertionError(record)

    found = relayed(records(deep), decode=from_any)
    ((_, failure),) = found.letters
    assert (failure.message, found.position.next) == ("the value is nested too deeply", 1)


def test_a_function_that_runs_out_of_an_iterator_is_named_by_its_own_error() -> None:
    """StopIteration, as Python says of it anywhere else."""

    def first_of_none(_record: SourceRecord) -> Route:
        return next(iter(()))

    stopped = relayed(records(b""), decode=first_of_none).position.stopped
    assert stopped is not None
    assert (stopped.what, stopped.error) == ("failed", "StopIteration")


def test_a_command_that_no_shard_takes_makes_a_dead_letter() -> None:
    """Too large, or what its own class does not decode: its shard would find out, and the record be forgotten."""
    limits = msgspec.structs.replace(ROUTING.limits, command_bytes_max=200)
    large = Note(partition=0, offset=0, index=0, text="x" * 300)
    wrong = Note(partition="x", offset=0, index=0)  # type: ignore[arg-type]

    def from_name(record: SourceRecord) -> Route:
        return route(Book.note, "a", large if record.value == b"large" else wrong)

    routing = msgspec.structs.replace(ROUTING, limits=limits)
    found = relayed(records(b"large", b"wrong"), decode=from_name, routing=routing)
    first, second = [failure.message for _, failure in found.letters]
    assert "over input_bytes_max" in first
    assert "cannot be decoded again" in second


def test_no_memory_is_no_fault_of_a_record() -> None:
    """The process ends, and is started again: it must not answer for a record that it had no room for."""

    def without_memory(_record: SourceRecord) -> Route:
        raise MemoryError

    with pytest.raises(MemoryError):
        relayed(records(b""), decode=without_memory)


def test_the_last_header_of_a_name_counts() -> None:
    """So does ``lastHeader`` of Kafka's client. Without a header of that name the value is None."""
    record = SourceRecord("t", 0, 0, None, None, (("a", b"1"), ("b", b"2"), ("a", b"3")), 0)
    assert (record.header("a"), record.header("c")) == (b"3", None)


@pytest.mark.parametrize("how", ["boom", "stranger", "odd"])
def test_any_other_error_stops_before_its_record(how: str) -> None:
    """It says nothing about the record: nothing of it is sent, and nothing behind it."""
    found = relayed(records(fed.line("a"), fed.line("b", how), fed.line("c")))
    assert headers_of(found) == [b"lines/3/0/0"]
    stopped = found.position.stopped
    assert stopped is not None
    assert (found.position.next, stopped.what, stopped.offset, stopped.since_ms) == (1, "failed", 1, 5)


@pytest.mark.parametrize("key", ["", "k" * 256, "a\0b"], ids=["empty", "long", "nul"])
def test_an_invalid_key_makes_a_dead_letter(key: str) -> None:
    """A key comes from the record, so it is the record that is wrong."""
    found = relayed(records(fed.line([key])))
    assert (len(found.letters), found.position.next) == (1, 1)


def test_a_hundred_dead_letters_in_a_row_stop_the_partition() -> None:
    """The next one that would be one is none; the count is kept over transactions, and one good record ends it."""
    bad = fed.line("a", "value")
    first = relayed(records(*[bad] * 60))
    assert (first.position.dead_letters, first.position.stopped) == (60, None)
    then = relayed(records(*[bad] * 60, first=60), first.position)
    stopped = then.position.stopped
    assert stopped is not None
    assert (then.position.next, stopped.what, stopped.offset) == (DEAD_LETTERS_MAX, "dead-letters", DEAD_LETTERS_MAX)
    assert "100 records in a row" in stopped.reason
    again = relayed(records(*[bad] * 20, first=100), then.position)
    assert (again.records, again.outputs) == (0, [])
    good = relayed(records(fed.line("a"), bad, first=100), then.position)
    assert (good.position.next, good.position.dead_letters, good.position.stopped) == (102, 1, None)


def test_a_turn_that_takes_nothing_keeps_the_stop() -> None:
    """Only a record that was relayed ends a stop."""
    stopped = SourcePosition(0, "id", 4, stopped=SourceStop("failed", "why", offset=0))
    assert relayed(records(fed.line("a")), stopped, most=0).position == stopped


def test_what_the_log_refuses_becomes_a_dead_letter_and_then_stops() -> None:
    """Commands that are refused for good make their record a dead letter; a refused dead letter stops the partition."""
    given = records(fed.line("a"), fed.line("b"), fed.line("c"))
    found = relayed(given, refused={1: "too large"})
    assert headers_of(found) == [b"lines/3/0/0", b"lines/3/1", b"lines/3/2/0"]
    assert dict(found.outputs[1].headers)[ERROR_TYPE] == b"repertory.actors.context.OutputRefused"
    stuck = relayed(given, refused={1: "too large"}, stuck={1: SourceStop("refused", "too large again", offset=1)})
    assert stuck.position.stopped is not None
    assert (stuck.position.next, stuck.position.stopped.what) == (1, "refused")


# --- positions ------------------------------------------------------------------------------------------------


def test_positions_are_spread_over_the_relays() -> None:
    """The partitions of one source are spread evenly, and each is always at the same relay."""
    places = [SourcePlace("lines", "t", partition) for partition in range(3 * RELAYS)]
    assert all([place.relay for place in places].count(relay) == 3 for relay in range(RELAYS))


def test_the_last_record_of_a_key_counts() -> None:
    """Positions and requests are folded; a tombstone removes, what cannot be read is named, other keys are ignored."""
    positions = Positions()
    positions.take(PLACE.key, encode_source(START), "t/0@0")
    positions.take(PLACE.key, encode_source(msgspec.structs.replace(START, next=9)), "t/0@1")
    positions.take(PLACE.request_key, encode_source(SourceRequest(RETRY)), "t/0@2")
    positions.take(b"foreign", b"x", "t/0@3")
    positions.take(None, b"x", "t/0@4")
    assert positions.known == {PLACE: msgspec.structs.replace(START, next=9)}
    assert positions.requests == {PLACE: SourceRequest(RETRY)}
    positions.take(PLACE.request_key, None, "t/0@5")
    positions.take(PLACE.key, b"\xc1", "t/0@6")
    assert (positions.known, positions.requests) == ({}, {})
    assert "t/0@6 cannot be read" in positions.unreadable[PLACE]


@pytest.mark.parametrize(
    ("from_", "began", "expected"),
    [("earliest", 0, 5), ("latest", 0, 9), ("latest", 4, 9), ("latest", 3, 5), ("earliest", 3, 5)],
)
def test_where_a_partition_begins(from_: str, began: int, expected: int) -> None:
    """From the beginning or from the end; a partition that was added later always from its beginning."""
    source = SourceDefinition("lines", fed.TOPIC, fed.from_line, None, from_)
    found = checks.first_position(source, PLACE, Surveyed("id", [(5, 9)] * 4), lambda: began)
    assert (found.next, found.topic_id) == (expected, "id")


@pytest.mark.parametrize(
    ("found", "what", "words"),
    [
        (None, "gone", "there is no topic fed-lines"),
        (Surveyed("id", [(0, 9)] * 2), "gone", "fed-lines has 2 partitions now"),
        (Surveyed("other", [(0, 9)] * 4), "recreated", "sources adopt … lines --partition 3"),
        (Surveyed("id", [(0, 3)] * 4), "tail-lost", "ends at 3 where 4 is next"),
        (Surveyed("id", [(7, 9)] * 4), "lost", "records 4 to 6 of fed-lines/3 were taken by retention"),
    ],
)
def test_a_topic_that_is_not_as_it_was_stops_the_partition(found: Surveyed | None, what: str, words: str) -> None:
    """Nothing is guessed: the stop says what is wrong and what can be done, and is cleared when all is well again."""
    position = SourcePosition(4, "id", 4)
    after = checks.checked(PLACE, position, found, 77)
    assert after.stopped is not None
    assert (after.next, after.stopped.what, after.stopped.since_ms) == (4, what, 77)
    assert words in after.stopped.reason
    assert checks.checked(PLACE, after, found, 99) is after
    assert checks.checked(PLACE, after, Surveyed("id", [(0, 9)] * 4), 99) == position


def test_a_stop_at_a_record_outlives_a_look_at_the_topic() -> None:
    """Only the record that failed can end it."""
    stopped = SourcePosition(4, "id", 4, stopped=SourceStop("failed", "why", offset=4))
    assert checks.checked(PLACE, stopped, Surveyed("id", [(0, 9)] * 4), 99) is stopped


@pytest.mark.parametrize(
    ("request_", "bounds", "topic_id", "expected"),
    [
        (SourceRequest(RETRY), (0, 9), "id", SourcePosition(4, "id", 4)),
        (SourceRequest(SKIP, offset=4), (0, 9), "id", 5),
        (SourceRequest(SKIP, offset=5), (0, 9), "id", None),
        (SourceRequest(SKIP_LOST), (7, 9), "id", 7),
        (SourceRequest(SKIP_LOST), (0, 9), "id", None),
        (SourceRequest(SKIP_LOST), (7, 9), "other", None),
        (SourceRequest(ADOPT), (0, 9), "other", 4),
        (SourceRequest(ADOPT), (0, 3), "other", None),
        (SourceRequest(ADOPT), (0, 9), "id", None),
        (SourceRequest("nonsense"), (0, 9), "id", None),
    ],
)
def test_what_operators_ask_for(
    request_: SourceRequest, bounds: tuple[int, int], topic_id: str, expected: SourcePosition | int | None
) -> None:
    """Only what fits is done, and what is accepted is kept: a skip of another record than the failing one is not."""
    position = SourcePosition(4, "id", 4, dead_letters=100, stopped=SourceStop("dead-letters", "why", offset=4))
    after = checks.asked(PLACE, position, Surveyed(topic_id, [bounds] * 4), request_)
    if isinstance(expected, int):
        assert after is not None
        assert (after.next, after.stopped, after.topic_id, len(after.accepted)) == (expected, None, topic_id, 1)
    else:
        assert after == expected


def test_all_added_partitions_begin_at_their_beginning() -> None:
    """Also those that another relay finds later: what the topic had at first is kept in the positions of added ones."""
    latest = msgspec.structs.replace(SOURCE_OF, from_="latest")
    found = checks.first_position(latest, PLACE, Surveyed("id", [(5, 9)] * 6), lambda: 2)
    assert (found.next, found.partitions) == (5, 2)

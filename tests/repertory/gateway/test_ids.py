"""Idempotency keys: as they are written, their times, and that what a gateway makes it reads again."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.actors.asks import AskId
from repertory.gateway import ids

TIME = "2026-01-31T12:00:00.250Z"
MADE_AT = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
#: The example of RFC 9562, A.6.
UUID7 = "017F22E2-79B0-7CC3-98C4-DC0C0C07398F"


@pytest.mark.parametrize("key", ["order-17", '"order-17"', " order-17 "])
def test_a_key_is_the_same_in_quotes_and_without(key: str) -> None:
    """The draft writes a quoted string, and most clients do not."""
    assert ids.ask_id([key], [TIME]) == AskId("order-17", MADE_AT)


@pytest.mark.parametrize("key", [UUID7, f'"{UUID7}"'])
def test_a_uuid7_says_its_time(key: str) -> None:
    """The first 48 bits are milliseconds since 1970."""
    assert ids.ask_id([key], []) == AskId(UUID7, datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC))


def test_a_time_that_is_given_comes_before_that_of_the_key() -> None:
    """An offset is part of it."""
    assert ids.ask_id([UUID7], ["2026-01-31T14:00:00.25+02:00"]) == AskId(UUID7, MADE_AT)


@pytest.mark.parametrize(
    "key",
    [
        str(uuid.UUID(int=0)),
        "{" + UUID7 + "}",
        UUID7.replace("-", ""),
        f"urn:uuid:{UUID7}",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
    ],
)
def test_other_uuids_have_no_time(key: str) -> None:
    """Nor what Python would read as a UUID."""
    with pytest.raises(ids.BadKeyError, match=ids.MADE_AT):
        ids.ask_id([key], [])


@pytest.mark.parametrize(("keys", "times"), [(["a", "b"], [TIME]), (["a"], [TIME, TIME])])
def test_a_header_is_given_once(keys: list[str], times: list[str]) -> None:
    """Which of two keys would be meant?"""
    with pytest.raises(ids.BadKeyError, match="2 times"):
        ids.ask_id(keys, times)


@pytest.mark.parametrize("time", ["1969-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_out_of_range_is_refused(time: str) -> None:
    """Before 1970 there was no log, and beyond its calendar Python has no time."""
    with pytest.raises(ids.BadKeyError, match=ids.MADE_AT):
        ids.ask_id(["order-17"], [time])


def test_no_key_is_none() -> None:
    """Whether that may be is the endpoint's question."""
    assert ids.ask_id([], []) is None


@given(st.floats(0, 4e9), st.binary(min_size=10, max_size=10))
def test_what_is_made_is_a_uuid7_of_its_time(now_s: float, random: bytes) -> None:
    """Version and variant are set, whatever the random bytes are."""
    made = ids.new_id(now_s, random)
    assert (uuid.UUID(made.id).version, uuid.UUID(made.id).variant) == (7, uuid.RFC_4122)
    assert abs(made.made_at - (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=now_s))) < timedelta(milliseconds=2)
    assert ids.ask_id([made.id], []) == made


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255))
def test_what_is_written_is_read_again(key: str) -> None:
    """Any printable key, with quotes and backslashes in it, comes back from the headers of an answer."""
    headers = ids.written(AskId(key, MADE_AT))
    assert ids.ask_id([headers[ids.KEY]], [headers[ids.MADE_AT]]) == AskId(key, MADE_AT)


@given(st.text(), st.text())
def test_any_text_is_an_id_or_a_sentence(key: str, made_at: str) -> None:
    """Nothing else is raised, whatever a client sends."""
    for times in ([], [made_at]):
        try:
            found = ids.ask_id([key], times)
        except ids.BadKeyError:
            continue
        assert found is not None
        assert found.made_at.tzinfo is not None

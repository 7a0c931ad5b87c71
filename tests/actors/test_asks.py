"""The values of an ask: ids that are refused with a sentence, and positions that have an order within one shard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from repertory import AskId, Command, DefinitionError, Entity, Position, Rejection, command

NOW = datetime(2026, 11, 27, 3, 0, 0, 123_999, UTC)


@pytest.mark.parametrize("text", ["x", "x" * 255, "ü" * 127, "a/b c", "order-17"])
def test_an_id(text: str) -> None:
    """An id of 1 to 255 bytes is taken, and its header begins with its time, rounded down."""
    ask_id = AskId(text, made_at=NOW)
    assert ask_id.header == f"{ask_id.made_at_ms}/{text}".encode()
    assert datetime.fromtimestamp(ask_id.made_at_ms / 1000, UTC) == NOW.replace(microsecond=123_000)


def test_the_time_of_an_id_is_that_of_its_zone() -> None:
    """The same moment in another zone gives the same header."""
    there = NOW.astimezone(timezone(timedelta(hours=-8)))
    assert AskId("x", there).header == AskId("x", NOW).header


@pytest.mark.parametrize(
    ("text", "made_at", "words"),
    [
        ("", NOW, "is empty"),
        ("x" * 256, NOW, "has 256 bytes of UTF-8, over 255"),
        ("ü" * 128, NOW, "has 256 bytes"),
        ("a\0b", NOW, "contains no NUL"),
        ("half \ud83d", NOW, "is UTF-8"),
        (17, NOW, "is text, not int"),
        (b"x", NOW, "is text, not bytes"),
        (None, NOW, "is text, not NoneType"),
        ("x", NOW.replace(tzinfo=None), r"made_at needs a time zone, as in datetime\.now\(UTC\)"),
        ("x", 1_700_000_000, "made_at is the datetime of the first attempt, not int"),
        ("x", datetime(1969, 12, 31, tzinfo=UTC), "before 1970"),
    ],
)
def test_a_wrong_id_is_a_value_error(text: Any, made_at: Any, words: str) -> None:
    """Each mistake has its own sentence."""
    with pytest.raises(ValueError, match=words):
        AskId(text, made_at=made_at)


def test_a_position_survives_as_text() -> None:
    """``parse`` undoes ``str``."""
    position = Position("account", 3, 17)
    assert str(position) == "account/3/17"
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text", ["", "account/3", "account/3/x", "a/b/3/17", "account/-1/17", "Account/3/17", "a/3/17\n"]
)
def test_other_text_is_no_position(text: str) -> None:
    """What is not a position is a ValueError that shows it."""
    with pytest.raises(ValueError, match="is not a position: entity/partition/seq"):
        Position.parse(text)


def test_positions_of_one_shard_have_an_order() -> None:
    """They are ordered by ``seq``; those of two shards have no order."""
    first, second = Position("account", 3, 9), Position("account", 3, 10)
    assert first < second
    assert first <= second
    assert second > first
    assert second >= first
    assert max(second, first) == second
    assert not first < Position("account", 3, 9)
    for other in (Position("account", 4, 10), Position("order", 3, 10)):
        with pytest.raises(TypeError, match="are compared within one shard"):
            assert first < other


@pytest.mark.parametrize("name", ["IdConflict", "ClockAhead", "TooOld"])
def test_no_class_of_an_application_has_the_name_of_an_answer(name: str) -> None:
    """The runtime answers by these names: a class with one of them is refused where its entity is defined."""

    class Ask(Command):
        """Ask."""

    class Mine(Rejection, name=name):
        """Has a wire name of the runtime."""

    with pytest.raises(DefinitionError, match=f"have the same wire name, '{name}'"):

        class Answering(Entity):
            """Answers."""

            @command
            def ask(self, _cmd: Ask) -> Mine:
                return Mine()

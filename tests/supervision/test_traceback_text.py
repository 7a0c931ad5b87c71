"""The text of an exception: user code first, the same in each process, bounded, and never an error of its own."""

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repertory import TestKit
from repertory.supervision.traceback_text import (
    MESSAGE_CHARS_MAX,
    TRACEBACK_BYTES_MAX,
    bounded,
    message_of,
    traceback_of,
    user_traceback,
)
from tests.actors.domain import Account, Trip


def caught(function: Callable[[], object]) -> BaseException:
    """Return what a function raises, with its traceback."""
    try:
        function()
    except BaseException as error:  # noqa: BLE001  that is the point
        return error
    raise AssertionError("it did not raise")


def descend(depth: int) -> None:
    """Fail after so many calls of itself."""
    if depth:
        descend(depth - 1)
    else:
        raise ValueError("the bottom")


class SilentError(Exception):
    """Fails when it is shown, in each way."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no text either")


def test_frames_of_the_framework_are_left_out_before_user_code() -> None:
    """The first frame is that of user code; the frames between two of user code are one line."""
    text = traceback_of(caught(lambda: TestKit(Account()).run(Trip())))
    assert "[4 frames of repertory]" in text
    files = re.findall(r'File "(.*?)"', text)
    assert files == ["tests/supervision/test_traceback_text.py"] * 2 + ["tests/actors/domain.py"]


def test_frames_of_the_framework_behind_user_code_are_counted() -> None:
    """Where user code calls the framework, one line stands for the frames in it."""

    def broken() -> None:
        importlib.import_module("repertory.actors.wire").MessageDecoder([1])

    text = traceback_of(caught(broken))
    assert "frames of repertory]\n" in text, text
    assert 'File "repertory' not in text


def test_only_the_framework_failed() -> None:
    """Without user code all frames are shown: this is a bug of ours, and its report needs them."""
    decode = importlib.import_module("repertory.bridge.changelog_codec").decode_shard
    error = caught(lambda: decode(b"\xc1"))
    assert error.__traceback__ is not None
    error = error.with_traceback(error.__traceback__.tb_next)
    assert 'File "repertory/bridge/changelog_codec.py"' in traceback_of(error)


def test_a_file_is_named_as_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's library outside the working directory is named below the folder that it is imported from."""
    (tmp_path / "pricing").mkdir()
    (tmp_path / "pricing" / "__init__.py").write_text("from pricing.rates import rate\n")
    (tmp_path / "pricing" / "rates.py").write_text("def rate(day):\n    return {}[day]\n")
    monkeypatch.syspath_prepend(tmp_path)
    rate = importlib.import_module("pricing").rate
    text = traceback_of(caught(lambda: rate("monday")))
    assert '  File "pricing/rates.py", line 2, in rate\n    return {}[day]\n' in text
    assert str(tmp_path) not in text
    for name in ("pricing", "pricing.rates"):
        del sys.modules[name]


def test_a_syntax_error_is_named_below_the_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a syntax error has no frame; it is named like those that have one."""
    (tmp_path / "halfdone.py").write_text("def rate(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    error = caught(lambda: importlib.import_module("halfdone"))
    text = traceback_of(error)
    assert '  File "halfdone.py", line 1\n    def rate(:\n' in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_a_deep_recursion_is_short(depth: int) -> None:
    """Frames that repeat are counted. A thousand calls do not fit into a stack, and neither does the text of them."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 2_000))
    try:
        error = caught(lambda: descend(depth))
    finally:
        sys.setrecursionlimit(limit)
    text = traceback_of(error)
    assert "more times]" in text
    assert len(text.encode()) < TRACEBACK_BYTES_MAX // 2
    assert text.splitlines()[-1].startswith(("ValueError: the bottom", "RecursionError: "))


def test_an_exception_that_cannot_be_shown_is_named() -> None:
    """Describing an exception never fails, whatever its ``__str__`` and ``__repr__`` do."""

    def fail() -> None:
        raise SilentError

    assert message_of(caught(fail)) == "<its __str__ failed with RuntimeError>"
    assert "SilentError" in traceback_of(caught(fail))


def test_an_exception_group_has_all_its_members() -> None:
    """Each member of a group has its own frames, and so has the exception that was handled meanwhile."""

    def fail() -> None:
        try:
            descend(0)
        except ValueError as first:
            raise ExceptionGroup("many", [first, caught(lambda: json.loads("{"))]) from KeyError("cause")  # type: ignore[list-item]

    text = traceback_of(caught(fail))
    for part in (
        "many (2 sub-exceptions)",
        "ValueError: the bottom",
        "JSONDecodeError",
        "KeyError: 'cause'",
        "descend",
    ):
        assert part in text, text


def test_chained_exceptions_are_part_of_it() -> None:
    """The cause comes first, then what was made of it."""

    def fail() -> None:
        try:
            descend(1)
        except ValueError as error:
            raise RuntimeError("no price") from error

    text = traceback_of(caught(fail), "@command Shop.charge handled it")
    assert text.index("ValueError: the bottom") < text.index("The above exception was the direct cause")
    assert text.endswith("RuntimeError: no price\nwhile @command Shop.charge handled it\n")


def test_a_chain_that_leads_back_to_itself_ends() -> None:
    """User code can chain exceptions in a circle."""
    first, second = caught(lambda: descend(0)), caught(lambda: descend(1))
    first.__context__, second.__context__ = second, first
    assert "the bottom" in traceback_of(first)
    assert "the bottom" in user_traceback(first)


def test_no_address_and_no_local_variable_is_part_of_it() -> None:
    """The text is the same in each process, and holds no value that the code does not name."""

    def fail() -> None:
        password = "hunter" + "2"
        raise KeyError(object(), len(password))

    text = traceback_of(caught(fail))
    assert "<object object at 0x…>" in text
    assert "hunter2" not in text
    assert message_of(KeyError(object())) == "<object object at 0x…>"
    assert message_of(OSError("no device at 0x40")) == "no device at 0x40"


def test_a_message_that_quotes_a_record_does_not_displace_the_frames() -> None:
    """A long line keeps both ends, and the frames around it stay."""

    def fail() -> None:
        raise ValueError("x" * 100_000 + "END")

    text = traceback_of(caught(fail))
    assert "in fail\n" in text
    assert text.endswith("END\n")
    assert len(message_of(ValueError("x" * 100_000))) == MESSAGE_CHARS_MAX


def test_a_refusal_of_the_framework_has_no_traceback_of_user_code() -> None:
    """A sentence of ours says all by itself, unless user code is the cause."""
    decode = importlib.import_module("repertory.bridge.changelog_codec").decode_shard
    ours = caught(lambda: decode(b"\xc1"))
    assert ours.__traceback__ is not None
    ours = ours.with_traceback(ours.__traceback__.tb_next.tb_next)  # type: ignore[union-attr]
    assert user_traceback(ours) == ""
    ours.__cause__ = caught(lambda: descend(0))
    assert "the bottom" in user_traceback(ours)


@pytest.mark.parametrize("size", [20, 21, 22, 23, 24])
def test_a_text_is_cut_between_characters(size: int) -> None:
    """The bound is one of bytes; what is left is valid text."""
    assert len(bounded("ä" * 100, size).encode()) <= size
    assert bounded("ä", 20) == "ä"

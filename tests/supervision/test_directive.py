"""A failure as data: it crosses processes whole, and describing it never fails itself."""

import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.supervision import Directive, Failure
from repertory.supervision.traceback_text import TRACEBACK_BYTES_MAX


class BrokenError(ValueError):
    """A user's exception."""


class UnprintableError(Exception):
    """An exception that fails when it is shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def fail(error: Exception) -> None:
    raise error


def raised(error: Exception) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is, it is what we raised
        fail(error)
    return caught.value


def test_failure_names_type_message_place_and_line() -> None:
    """A failure says what was raised, why, for whom, and in which line of code."""
    failure = Failure.of(raised(BrokenError("no funds")), "account/3@120 key a-1")
    assert failure.error_type == f"{__name__}.BrokenError"
    assert failure.bases == ("ValueError", "Exception", "BaseException")
    assert (failure.message, failure.where) == ("no funds", "account/3@120 key a-1")
    assert "raise error" in failure.traceback
    assert failure.directive is None


@pytest.mark.parametrize("directive", [None, *Directive])
def test_failure_crosses_processes(directive: Directive | None) -> None:
    """A failure is the same after pickle (Thespian) and after MessagePack (records)."""
    failure = msgspec.structs.replace(Failure.of(raised(BrokenError("x")), "here"), directive=directive)
    assert pickle.loads(pickle.dumps(failure)) == failure  # noqa: S301 - our own bytes
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(failure), type=Failure) == failure


@given(st.text(st.characters(), max_size=20), st.integers(1, 2_000))
def test_failure_is_bounded_and_encodable(text: str, times: int) -> None:
    """Whatever the message is, a failure stays within its bounds and every string of it is valid UTF-8."""
    failure = Failure.of(raised(BrokenError(text * times)), "here")
    assert len(failure.message) <= 1_000
    assert len(failure.traceback.encode()) <= TRACEBACK_BYTES_MAX
    msgspec.msgpack.encode(failure)


def test_lone_surrogates_are_escaped() -> None:
    """Text that UTF-8 cannot hold is escaped, not refused and not dropped."""
    assert Failure.of(BrokenError("a\ud800b"), "here").message == "a\\ud800b"


def test_long_traceback_keeps_both_ends() -> None:
    """A long traceback shows where the call came from and where it broke; the middle is marked as cut."""
    failure = Failure.of(raised(BrokenError("x\n" * 20_000 + "END")), "here")
    assert failure.traceback.startswith("Traceback (most recent call last)")
    assert "\n[...]\n" in failure.traceback
    assert failure.traceback.endswith("END\n")
    assert len(failure.traceback.encode()) == TRACEBACK_BYTES_MAX


def test_an_error_that_reports_a_failure_has_its_traceback() -> None:
    """What escalates was described where it failed: the frames of the report say nothing to an operator."""
    inner = Failure.of(raised(BrokenError("no funds")), "account/3@120 key a-1")
    outer = raised(RuntimeError("account/3 failed"))
    outer.failure = inner  # type: ignore[attr-defined]
    assert Failure.of(outer, "worker-0#1").traceback == inner.traceback
    outer.failure = "mine"  # type: ignore[attr-defined]
    assert "account/3 failed" in Failure.of(outer, "worker-0#1").traceback


def test_describing_never_raises() -> None:
    """An exception whose own text fails is described all the same."""
    failure = Failure.of(raised(UnprintableError()), "here")
    assert failure.error_type.endswith("UnprintableError")
    assert "failed" in failure.message


def test_failure_of_an_error_that_was_never_raised_has_no_frames() -> None:
    """A failure can be made from an error that was not raised."""
    assert Failure.of(ValueError("x"), "here").traceback == "ValueError: x\n"

"""What user code logs and prints when it decides again is dropped and counted; all else is heard."""

from __future__ import annotations

import contextlib
import dis
import itertools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from repertory.bridge import silence
from repertory.bridge.silence import silenced

shop = logging.getLogger("shop.till")
ours = logging.getLogger("repertory.kafka")


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_lines_of_the_application_are_dropped_and_counted(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log lines and printed lines, each once; afterwards all is as it was."""
    with silenced() as quiet:
        shop.info("charging")
        print("charging\ntwice")  # noqa: T201
        ours.warning("a transaction hides records")
    assert quiet.lines == 3
    shop.info("heard")
    print("heard")  # noqa: T201
    assert [record.getMessage() for record in caplog.records] == ["a transaction hides records", "heard"]
    assert capsys.readouterr().out == "heard\n"


def test_other_threads_are_heard(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the thread that decides again is silent."""

    def speak() -> None:
        shop.info("in the background")
        print("in the background")  # noqa: T201

    with silenced() as quiet:
        thread = threading.Thread(target=speak)
        thread.start()
        thread.join()
    assert quiet.lines == 0
    assert [record.getMessage() for record in caplog.records] == ["in the background"]
    assert capsys.readouterr().out == "in the background\n"


def test_functions_of_the_caller_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    """A callback within the silence is not what is decided again; after it, the silence goes on."""
    with silenced() as quiet:
        assert quiet.outside(lambda word: shop.info(word) or len(word))("checked") == 7
        with pytest.raises(ZeroDivisionError):
            quiet.outside(lambda: 1 // 0)()
        shop.info("charging")
    assert [record.getMessage() for record in caplog.records] == ["checked"]
    assert quiet.lines == 1


def test_a_silence_within_a_silence_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """A recovery within a verification counts there, and ends no silence but its own."""
    with silenced() as outer:
        with silenced() as inner:
            shop.info("one")
        shop.info("two")
        with pytest.raises(ValueError, match="gone"), silenced():
            raise ValueError("gone")
        shop.info("three")
    assert inner is outer
    assert outer.lines == 3
    assert not caplog.records


def test_silences_of_threads_end_in_any_order(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two workers recover in one process, and the first to begin ends first: nobody is silent afterwards."""
    began, end = threading.Event(), threading.Event()

    def recover() -> None:
        with silenced():
            shop.info("charging in the background")
            began.set()
            end.wait()
            shop.info("charging in the background")
            print("charging")  # noqa: T201

    stdout = sys.stdout
    thread = threading.Thread(target=recover)
    with silenced():
        thread.start()
        began.wait()
        shop.info("charging")
    shop.info("heard")
    end.set()
    thread.join()
    print("heard too")  # noqa: T201
    assert [record.getMessage() for record in caplog.records] == ["heard"]
    assert capsys.readouterr().out == "heard too\n"
    assert sys.stdout is stdout


#: After these instructions Python looks for signals (``CHECK_EVAL_BREAKER`` in ceval.c); ``with lock`` relies on it.
LOOKS_FOR_SIGNALS = {"RESUME", "CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "YIELD_VALUE"}


def test_ctrl_c_at_any_moment_leaves_nobody_silent(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while the silence begins or ends; what is printed afterwards is heard, and the next silence ends."""

    def check() -> None:
        with silenced():
            shop.info("charging")
            print("charging")  # noqa: T201

    stdout, traced_before = sys.stdout, sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # CPython 3.12 traces opcodes if a frame asked for it *before* settrace.
    for nth in itertools.count(1):
        moments = itertools.count(1)
        previous: dict[FrameType, str] = {}

        def interrupt(
            frame: FrameType,
            event: str,
            _argument: object,
            nth: int = nth,
            passed: Iterator[int] = moments,
            previous: dict[FrameType, str] = previous,
        ) -> Callable[..., Any] | None:
            if frame.f_code.co_filename not in (silence.__file__, contextlib.__file__):
                return None
            frame.f_trace_opcodes = True
            if event == "exception":  # The call did not return: Python does not look for signals after it.
                previous.pop(frame, None)
            if event == "opcode":
                before = previous.get(frame)
                previous[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
                if before in LOOKS_FOR_SIGNALS and next(passed) == nth:
                    raise KeyboardInterrupt
            return interrupt

        sys.settrace(interrupt)
        try:
            check()
            is_left = False
        except KeyboardInterrupt as stopped:
            is_left, kept = True, stopped  # A notebook keeps the last exception, and with it the frames.
        finally:
            sys.settrace(traced_before)
        shop.info("heard")
        print("heard too")  # noqa: T201
        assert [record.getMessage() for record in caplog.records] == ["heard"], nth
        assert capsys.readouterr().out == "heard too\n", nth
        caplog.clear()
        with silenced():
            shop.info("charging")
        assert sys.stdout is stdout, nth
        if not is_left:
            break
    assert nth > 20
    assert kept

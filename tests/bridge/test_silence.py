"""What user code logs and prints when it decides again is dropped and counted; all else is heard."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

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

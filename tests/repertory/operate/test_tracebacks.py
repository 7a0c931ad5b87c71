"""Operators see where user code failed: in the log, with parked keys and with dead letters."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from repertory import Command, Running
from repertory.actors.control import DropParked, RetryParked
from repertory.actors.headers import ERROR_TRACEBACK
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output, Record
from repertory.bridge.reports import ShardFailed, ShardReport
from repertory.cli.app import app
from repertory.operate.operator import Operator
from repertory.supervision.traceback_text import TRACEBACK_BYTES_MAX
from repertory.verify import verify
from tests.apps import talking
from tests.apps.talking import Charge, Fail, Till

TARGET = "tests.apps.talking:system"

#: What each failure must show: the line that failed, and the last line of the error.
FAILURES = {
    "escape": ("in refuse", "ValueError: "),
    "deep": ("Previous line repeated", "ValueError: the bottom"),
    "silent": ("raise SilentError", "tests.apps.talking.SilentError: "),
    "group": ("raise ExceptionGroup", "    | KeyError: 'second'"),
    "syntax": ('File "talking_syntax.py", line 1', "SyntaxError: "),
    "library": ('File "talking_library.py", line 2, in rate', "LookupError: no rate for monday"),
    "encode": ("repertory/actors/shard/decision.py", "TypeError: Encoding objects of type object is unsupported"),
    "evolve": ('raise TypeError("it is spoiled")', "TypeError: it is spoiled"),
    "invariant": ("in charged", "ValueError: 2000 is more than a till can hold"),
    "chain": ("in refuse", "LookupError: no price"),
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Give a log in a file, which the command line can read as well."""
    return f"sqlite:{tmp_path / 'till.db'}"


@pytest.fixture
def _library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a library of the user's outside the working directory."""
    (tmp_path / "talking_library.py").write_text("def rate(day):\n    raise LookupError(f'no rate for {day}')\n")
    (tmp_path / "talking_syntax.py").write_text("def rate(:\n")
    monkeypatch.syspath_prepend(tmp_path)


def fail(url: str, *commands: Command, key: str = "t-1") -> None:
    """Run commands of one key on a log."""
    with talking.system.start(url) as running:
        for each in commands:
            running.client.tell(Till.charge if isinstance(each, Charge) else Till.fail, key, each)
        running.settle()


def append(running: Running, *outputs: Output) -> None:
    """Append records as anybody may."""
    with closing(running._backend.appender()) as appender:
        appender.append(outputs)


def shown(*arguments: str) -> dict[str, object]:
    """Run a command that prints JSON, and return that; no character of it acts on a terminal."""
    done = CliRunner().invoke(app, [*arguments])
    assert done.exit_code == 0, done.output
    assert all(character.isprintable() or character == "\n" for character in done.stdout), done.stdout
    found: dict[str, object] = json.loads(done.stdout)
    return found


def lines_of(shown: dict[str, object]) -> str:
    """Return the traceback that was shown, as text."""
    lines = shown["traceback"]
    assert isinstance(lines, list)
    return "\n".join(lines)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("how", FAILURES)
def test_a_failed_command_shows_where_user_code_failed(url: str, how: str) -> None:
    """Parked or dead-lettered, the command has the traceback of its last failure, whatever failed in which way."""
    fail(url, Fail(how=how))
    with (
        closing(connect(url, talking.system.settings)) as backend,
        closing(Operator(talking.system, backend)) as operator,
    ):
        letters = [letter.address for letter in operator.dead_letters()]
    if letters:
        found = shown("dead-letters", "show", TARGET, letters[0], "--log", url)
    else:
        found = shown("parked", "show", TARGET, "till", "t-1", "--log", url)
    text = lines_of(found)
    line, error = FAILURES[how]
    assert line in text
    assert f"\n{error}" in text
    assert text.endswith("\nwhile @command Till.fail handled it")
    assert len(text.encode()) <= TRACEBACK_BYTES_MAX
    assert how == "encode" or 'File "repertory' not in text


def test_the_first_failure_of_a_command_is_logged_with_its_traceback(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each attempt is a line; where it failed is logged once, and no control character leaves the log."""
    with caplog.at_level(logging.INFO):
        fail(url, Fail(how="escape"))
    ours = [record for record in caplog.records if record.name == "repertory" and "key 't-1'" in record.getMessage()]
    assert [record.exc_text is not None for record in ours] == [True, False]
    text = logging.Formatter().format(ours[0])
    assert "    refuse()" in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "\nFAKE" not in ours[0].getMessage()


def test_a_retried_command_that_fails_again_is_logged_anew(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """After an operator's retry the failure is a first one again: the code may be another."""
    fail(url, Fail(how="escape"))
    caplog.clear()
    with talking.system.start(url) as running, closing(Operator(talking.system, running._backend)) as operator:
        parked = operator.find_parked("till", "t-1")
        message = encode(RetryParked(offset=parked.offset))
        topic = "talking.till.commands"
        append(running, Output(topic, parked.partition, b"t-1", message))
        running.settle()
    ours = [record for record in caplog.records if record.name == "repertory" and "key 't-1'" in record.getMessage()]
    assert [record.exc_text is not None for record in ours] == [True, False]


def test_a_dropped_command_keeps_its_traceback(url: str) -> None:
    """The dead letter of a parked command says where it failed: whoever looks at it later needs that as much."""
    fail(url, Fail(how="escape"))
    with talking.system.start(url) as running, closing(Operator(talking.system, running._backend)) as operator:
        parked = operator.find_parked("till", "t-1")
        message = encode(DropParked(offset=parked.offset, reason="never"))
        append(running, Output("talking.till.commands", parked.partition, b"t-1", message))
        running.settle()
        (letter,) = operator.dead_letters()
    assert letter.error == "Dropped"
    assert letter.traceback == parked.traceback
    assert "in refuse" in letter.traceback


def test_a_command_that_user_code_does_not_decode_says_where(url: str) -> None:
    """A ``__post_init__`` is user code too; other bytes that are no command need no traceback."""
    data = encode(talking.Odd(number=2)).replace(b"\x02", b"\x03")
    with talking.system.start(url) as running, closing(Operator(talking.system, running._backend)) as operator:
        append(running, *(Output("talking.till.commands", 0, b"t-1", value) for value in (data, b"\xc1")))
        running.settle()
        first, second = operator.dead_letters()
    assert "3 is odd" in first.reason
    assert 'raise ValueError(f"{self.number} is odd")' in first.traceback
    assert second.traceback == ""
    assert ERROR_TRACEBACK not in [name for name, _ in second.record.headers]


def test_verify_does_not_compare_tracebacks(url: str) -> None:
    """A log is healthy after its code has moved by a line, and also if it was written without tracebacks."""
    fail(url, Charge(amount=1), Fail(how="library"), Fail(how="escape"))

    class Moved:
        """A reader of the log as another build would have written it."""

        def __init__(self, reader: object, traceback: bytes | None) -> None:
            self._reader, self._traceback = reader, traceback

        def __getattr__(self, name: str) -> object:
            return getattr(self._reader, name)

        def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
            for record in self._reader.read(topic, partition, from_offset):  # type: ignore[attr-defined]
                headers = [header for header in record.headers if header[0] != ERROR_TRACEBACK]
                if self._traceback is not None and len(headers) < len(record.headers):
                    headers.append((ERROR_TRACEBACK, self._traceback))
                yield msgspec.structs.replace(record, headers=tuple(headers))

    with closing(connect(url, talking.system.settings)) as backend, closing(backend.reader()) as reader:
        for traceback in (b"Traceback: line 99", None):
            report = verify(Moved(reader, traceback), talking.system)  # type: ignore[arg-type]
            assert report.ok, [check for check in report.checks if not check.ok]


def test_a_shard_that_user_code_cannot_recover_says_where(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ``@event`` method that fails on the journal stops the shard, and the log has its traceback."""
    fail(url, Charge(amount=1))
    behaviour = talking.system.behaviour("till")

    def broken(_state: object, _evt: object) -> object:
        raise ZeroDivisionError("the new code")

    monkeypatch.setitem(behaviour.evolve, talking.Charged, broken)
    with talking.system.start(url) as running:
        failures: list[ShardReport] = []
        running.report = failures.append
        while not any(isinstance(report, ShardFailed) for report in failures):
            running.tick(0.05)
    failed = [record for record in caplog.records if "shard till/" in record.getMessage() and record.exc_text]
    assert failed
    assert 'ZeroDivisionError("the new code")' in (failed[0].exc_text or "")
